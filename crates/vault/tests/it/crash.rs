//! Killed at any moment, the store has whole versions only.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use evertide_vault::{AgeKeyFile, Error, SecureConfigStore};
use rusqlite::Connection;

use crate::{FOLDER, Place, read, save, text};

/// Disks write so many bytes wholly or not at all.
const SECTOR: usize = 512;

#[test]
#[ignore = "run by another test, as another process"]
fn child_that_saves_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        return; // by itself, not a test
    };
    let key = AgeKeyFile::new(folder.join("age.key"));
    let store = SecureConfigStore::open(folder.join("app.db"), key).unwrap();
    for number in 1.. {
        let saved = save(&store, &format!("version {number} {}", "x".repeat(20_000)));
        eprintln!("saved {}", saved.info.id);
    }
}

#[test]
fn a_store_killed_while_saving_keeps_every_version_it_reported_and_no_half_one() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let place = Place::new();
    let mut reported = 0;
    for _ in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("crash::child_that_saves_until_it_is_killed")
            .env(FOLDER, place.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_micros(random.u64(..50_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.map_while(Result::ok).last().unwrap_or(first);
        reported = last.strip_prefix("saved ").unwrap().parse::<u32>().unwrap();

        let store = place.store();
        let versions = store.history("litestream").unwrap().len() as u32;
        assert!(
            reported <= versions && versions <= reported + 1,
            "{reported} {versions}"
        );
        assert!(read(&store, 0).starts_with("version "));
    }
    assert!(reported >= 5);
    for generation in 0..place.store().history("litestream").unwrap().len() as u32 {
        assert!(read(&place.store(), generation).ends_with(&"x".repeat(20_000)));
    }
    let check: String = place
        .connect()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

/// The files of a database.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    fn of(place: &Place) -> Self {
        // By another process: a descriptor closed here would drop the application's locks.
        let database = place.path("copy.db");
        let mut copy = Command::new("cp");
        let copied = copy.args([&place.database(), &database]).status();
        assert!(copied.unwrap().success());
        Self {
            database: fs::read(database).unwrap(),
            wal: fs::read(place.path("app.db-wal")).unwrap(),
        }
    }
}

/// What something did to the files, and the versions that were there before and after it, the newest first.
struct Step {
    before: Files,
    after: Files,
    versions_before: Vec<String>,
    versions: Vec<String>,
}

/// The sectors that differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    let starts = (0..after.len()).step_by(SECTOR);
    let of = |bytes: &[u8], at: usize| {
        let end = (at + SECTOR).min(bytes.len());
        bytes.get(at..end).unwrap_or_default().to_vec()
    };
    starts
        .filter(|&at| of(before, at) != of(after, at))
        .collect()
}

/// The file as it was, with these sectors as they are.
fn torn(before: &[u8], after: &[u8], arrived: &[usize]) -> Vec<u8> {
    let mut file = before.to_vec();
    for &at in arrived {
        let end = (at + SECTOR).min(after.len());
        file.resize(file.len().max(end), 0);
        file[at..end].copy_from_slice(&after[at..end]);
    }
    file
}

/// The versions that are found where the files were left like this, all of them whole.
fn after_power_cut(place: &Place, files: &Files) -> Vec<String> {
    let left = tempfile::tempdir().unwrap();
    let path = left.path().join("app.db");
    fs::write(&path, &files.database).unwrap();
    fs::write(left.path().join("app.db-wal"), &files.wal).unwrap();
    let store = SecureConfigStore::open(&path, AgeKeyFile::new(place.path("new.key"))).unwrap();
    let versions = match store.history("litestream") {
        Ok(history) => history.len(),
        Err(Error::NoTable { .. } | Error::NoSuchScope { .. }) => 0,
        Err(error) => panic!("{error}"),
    };
    let check: String = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    (0..versions as u32)
        .map(|generation| read(&store, generation))
        .collect()
}

/// Saves, a checkpoint after which the WAL starts over, and a new key for what is stored.
fn steps(place: &Place) -> Vec<Step> {
    // An application that keeps the WAL as it is.
    let application = place.connect();
    application
        .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO notes VALUES ('open')")
        .unwrap();
    let old = fs::read_to_string(place.key().path()).unwrap();
    AgeKeyFile::new(place.path("one.key")).generate().unwrap();
    let one = fs::read_to_string(place.path("one.key")).unwrap();
    let both = place.key_file("new.key", format!("{one}{old}"));
    let store = place.store();
    let rekeyed = SecureConfigStore::open(place.database(), both).unwrap();
    let (mut steps, mut versions) = (Vec::new(), Vec::<String>::new());
    for step in ["1", "2", "checkpoint", "3", "rekey", "4"] {
        let (before, versions_before) = (Files::of(place), versions.clone());
        match step {
            "checkpoint" => application
                .query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
                .unwrap(),
            "rekey" => {
                rekeyed.rekey().unwrap();
                versions.insert(0, versions[0].clone());
            }
            version => {
                let text = text(version.parse().unwrap());
                save(&store, &text);
                versions.insert(0, text);
            }
        }
        steps.push(Step {
            before,
            after: Files::of(place),
            versions_before,
            versions: versions.clone(),
        });
    }
    steps
}

#[test]
fn a_power_cut_while_saving_rekeying_or_checkpointing_leaves_every_version_before_and_no_half_one()
{
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let place = Place::new();
    let (mut cuts, mut started_over) = (0, false);
    for step in steps(&place) {
        let Step { before, after, .. } = &step;
        let mut check = |files: &Files| {
            cuts += 1;
            // What is whole by chance, as sectors of nothing but zeros are, is no loss.
            let expected = match files == after {
                true => &step.versions,
                false => &step.versions_before,
            };
            assert!(after_power_cut(&place, files) == *expected, "cut {cuts}");
        };
        check(after);
        if before.database != after.database {
            // All is in the WAL as well.
            assert!(step.versions == step.versions_before && before.wal == after.wal);
            let mut sectors = changed(&before.database, &after.database);
            for _ in 0..24 {
                random.shuffle(&mut sectors);
                let arrived = &sectors[..random.usize(..sectors.len())];
                let database = torn(&before.database, &after.database, arrived);
                let wal = before.wal.clone();
                check(&Files { database, wal });
            }
            continue;
        }
        let sectors = changed(&before.wal, &after.wal);
        assert!(sectors.len() > 12, "it was written to the WAL");
        let mut left = |arrived: &[usize]| {
            let wal = torn(&before.wal, &after.wal, arrived);
            let database = before.database.clone();
            check(&Files { database, wal });
        };
        // What arrived are the first sectors, or any of them but one at least.
        for end in 0..sectors.len() {
            left(&sectors[..end]);
        }
        // The header of a WAL that starts over is synced before what follows.
        let header = usize::from(sectors[0] == 0);
        started_over |= header == 1;
        for _ in 0..12 {
            let (first, mut rest) = (&sectors[..header], sectors[header..].to_vec());
            random.shuffle(&mut rest);
            rest.truncate(random.usize(..rest.len()));
            left(&[first, &rest].concat());
        }
    }
    assert!(started_over);
    eprintln!("{cuts} power cuts");
}
