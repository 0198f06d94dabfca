//! Killed at any moment, the store has whole versions only.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
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

/// What is found where the WAL was left like this: the newest version, all those before it being whole.
fn after_power_cut(place: &Place, database: &Path, wal: &[u8]) -> usize {
    let left = tempfile::tempdir().unwrap();
    let path = left.path().join("app.db");
    fs::copy(database, &path).unwrap();
    fs::write(left.path().join("app.db-wal"), wal).unwrap();
    let store = SecureConfigStore::open(&path, place.key()).unwrap();
    let versions = match store.history("litestream") {
        Ok(history) => history.len(),
        Err(Error::NoTable { .. } | Error::NoSuchScope { .. }) => 0,
        Err(error) => panic!("{error}"),
    };
    for generation in 0..versions {
        assert_eq!(read(&store, generation as u32), text(versions - generation));
    }
    let check: String = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    versions
}

#[test]
fn a_power_cut_while_saving_leaves_every_version_before_and_no_half_one() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let place = Place::new();
    // An application that keeps the WAL as it is.
    let application = place.connect();
    application
        .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO notes VALUES ('open')")
        .unwrap();
    let store = place.store();
    let wal = place.path("app.db-wal");
    let mut ends = vec![fs::read(&wal).unwrap().len()];
    for version in 1..=4 {
        save(&store, &text(version));
        ends.push(fs::read(&wal).unwrap().len());
    }
    let whole = fs::read(&wal).unwrap();
    let database = place.path("copy.db");
    // By another process: a descriptor closed here would drop the application's locks.
    let mut copy = Command::new("cp");
    let copied = copy.args([&place.database(), &database]).status();
    assert!(copied.unwrap().success());

    let mut cuts = 0;
    for (version, range) in ends.windows(2).enumerate() {
        let (start, end) = (range[0], range[1]);
        assert!(end > start + 6_000, "it was written to the WAL");
        // What arrived are the first sectors, or any of them but one at least.
        for cut in (start..end).step_by(SECTOR) {
            assert_eq!(after_power_cut(&place, &database, &whole[..cut]), version);
            cuts += 1;
        }
        for _ in 0..12 {
            let mut torn = whole[..end].to_vec();
            let first = start.next_multiple_of(SECTOR);
            let mut sectors: Vec<usize> = (first..end).step_by(SECTOR).collect();
            random.shuffle(&mut sectors);
            for sector in &sectors[..random.usize(1..=sectors.len())] {
                torn[*sector..end.min(sector + SECTOR)].fill(0);
            }
            // One that holds nothing but zeros anyway is no loss.
            let expected = version + usize::from(torn == whole[..end]);
            assert_eq!(after_power_cut(&place, &database, &torn), expected);
            cuts += 1;
        }
        let found = after_power_cut(&place, &database, &whole[..end]);
        assert_eq!(found, version + 1);
    }
    eprintln!("{cuts} power cuts");
}
