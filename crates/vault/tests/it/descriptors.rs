//! A process that has no file descriptor left, and then has some again.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use evertide_testkit::{another_process_finds_it_open, error_with_causes};
use evertide_vault::{AgeKeyFile, ConfigFormat, Error, SecureConfigStore};

use crate::{FOLDER, Place, read, text};

/// More than anything here needs.
const ENOUGH: usize = 20;
const DONE: &str = "free descriptors are enough";

/// All descriptors there are, but some.
fn hoard(but: usize) -> Vec<File> {
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() < 10_000, "there is a limit");
    hoard.truncate(hoard.len().saturating_sub(but));
    hoard
}

/// What is wrong, and with which of the files; whether it worked.
fn works<T>(result: Result<T, Error>, files: &[&str]) -> bool {
    let Err(error) = result else { return true };
    let said = error_with_causes(&error);
    assert!(files.iter().any(|file| said.contains(file)), "{said}");
    // The second is what SQLite says.
    let reasons = ["Too many open files", "unable to open database file"];
    assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
    false
}

/// Saves, reads, encrypts to another key and makes a key, with ever more descriptors until all of that works. The
/// application has a connection of its own meanwhile, or none.
fn with_ever_more_descriptors(application_runs: bool) -> usize {
    let place = Place::new();
    let old = fs::read_to_string(place.key().path()).unwrap();
    AgeKeyFile::new(place.path("one.key")).generate().unwrap();
    let one = fs::read_to_string(place.path("one.key")).unwrap();
    let both = place.key_file("both.key", format!("{one}{old}"));
    let both = SecureConfigStore::open(place.database(), both).unwrap();
    let application = application_runs.then(|| place.connect());
    if let Some(application) = &application {
        application
            .execute_batch("INSERT INTO notes VALUES ('open')")
            .unwrap();
    }
    let (store, made) = (place.store(), AgeKeyFile::new(place.path("made.key")));
    // Newest last.
    let mut versions = Vec::new();
    for free in 0..ENOUGH {
        let new = text(free);
        let hoarded = hoard(free);
        let saved = store.save("litestream", new.as_bytes(), &ConfigFormat::Toml, None);
        let read_again = store.latest("litestream");
        let rekeyed = both.rekey();
        let generated = made.generate();
        drop(hoarded);

        let case = format!("{free} descriptors, {saved:?}, {read_again:?}, {rekeyed:?}");
        if saved.is_ok() {
            versions.push(new.clone());
        }
        let newest = versions.last().cloned();
        if let Ok(found) = &read_again {
            assert_eq!(found.content.as_str().ok(), newest.as_deref(), "{case}");
        }
        if rekeyed.is_ok() {
            versions.extend(newest);
        }
        assert_eq!(made.public_keys().is_ok(), generated.is_ok(), "{case}");
        let all = [
            works(saved, &["app.db", "age.key"]),
            versions.is_empty() || works(read_again, &["app.db", "age.key"]),
            versions.is_empty() || works(rekeyed, &["app.db", "both.key"]),
            works(generated.map_err(Error::from), &["made.key"]),
        ];

        // Whoever has descriptors finds all that was saved, and can go on.
        for (generation, version) in versions.iter().rev().enumerate() {
            assert_eq!(&read(&both, generation as u32), version, "{case}");
        }
        let found = both.history("litestream").map_or(0, |found| found.len());
        assert_eq!(found, versions.len(), "{case}");
        let left = fs::read_dir(place.dir.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(
            !left.into_iter().any(|name| name.contains("writing")),
            "{case}"
        );
        if application_runs {
            assert!(another_process_finds_it_open(&place.database()), "{case}");
        }
        if all == [true; 4] {
            return free;
        }
        if made.public_keys().is_ok() {
            fs::remove_file(made.path()).unwrap();
        }
    }
    panic!("it needs more than {ENOUGH} descriptors");
}

#[test]
#[ignore = "the process that the test below starts"]
fn child_without_descriptors() {
    if std::env::var_os(FOLDER).map(PathBuf::from).is_none() {
        return; // by itself, not a test
    }
    for application_runs in [false, true] {
        let free = with_ever_more_descriptors(application_runs);
        assert!(free > 1, "{free}: the limit is not one");
        eprintln!("{free} {DONE}");
    }
}

#[test]
fn a_store_without_descriptors_says_which_file_it_could_not_open_and_goes_on_when_it_has_some() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("descriptors::child_without_descriptors")
        .env(FOLDER, "")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(DONE), "{said}");
}
