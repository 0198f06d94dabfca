//! Killed at any moment, the store has whole versions only.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use evertide_vault::{AgeKeyFile, SecureConfigStore};

use crate::{FOLDER, Place, read, save};

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
