//! What must not be seen is not to be seen: in the database file, in `Debug`, in errors.

use std::fs;

use evertide_testkit::error_with_causes;
use evertide_vault::{ConfigFormat, Error};

use crate::{Place, save};

const SECRET: &str = "wJalrXUtnFEMI-planted-secret";

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn no_plaintext_ever_reaches_a_file_of_the_database() {
    for journal_mode in ["wal", "delete", "persist"] {
        let place = Place::new();
        let keeper = place.connect(); // keeps the WAL and its content in place
        keeper
            .pragma_update(None, "journal_mode", journal_mode)
            .unwrap();
        let store = place.store();
        let content = format!("s3_secret_access_key = \"{SECRET}\"");
        let description = Some("planted-description");
        store
            .save(
                "litestream",
                content.as_bytes(),
                &ConfigFormat::Toml,
                description,
            )
            .unwrap();
        save(&store, &content);
        store.rollback("litestream", 1).unwrap();
        store.rekey().unwrap();

        let mut all = Vec::new();
        for entry in fs::read_dir(place.dir.path()).unwrap() {
            all.extend(fs::read(entry.unwrap().path()).unwrap());
        }
        // The description is not encrypted: were it not found, the search would be at fault.
        assert!(contains(&all, "planted-description"));
        assert!(!contains(&all, SECRET), "journal mode {journal_mode}");
        assert!(
            !contains(&all, "s3_secret_access_key"),
            "journal mode {journal_mode}"
        );
        drop(keeper);
    }
}

#[test]
fn debug_shows_neither_plaintext_nor_key() {
    let place = Place::new();
    let store = place.store();
    save(&store, SECRET);
    let config = store.latest("litestream").unwrap();
    assert_eq!(config.content.as_str().unwrap(), SECRET);
    let key = fs::read_to_string(place.key().path()).unwrap();
    let key = key.lines().last().unwrap();

    let shown = format!(
        "{config:?} {:#?} {store:?} {:?}",
        config.content,
        store.key()
    );
    assert!(!shown.contains(SECRET) && !shown.contains(key), "{shown}");
    // Nor as a list of numbers.
    let numbers = SECRET
        .bytes()
        .map(|byte| byte.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    assert!(!shown.contains(&numbers), "{shown}");
    assert!(shown.contains("[redacted], 28 bytes"), "{shown}");
}

#[test]
fn no_error_shows_plaintext_or_key() {
    let place = Place::new();
    let store = place.store();
    save(&store, SECRET);
    let connection = place.connect();
    connection
        .execute("UPDATE app_config SET content = ?1", [SECRET])
        .unwrap();
    let error = store.latest("litestream").unwrap_err();
    assert!(matches!(error, Error::NotAnAgeFile { .. }));
    let shown = format!("{} {error:?}", error_with_causes(&error));
    assert!(!shown.contains("planted"), "{shown}");
}
