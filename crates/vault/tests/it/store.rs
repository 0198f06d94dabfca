//! Versions, and each error where it belongs.

use evertide_vault::{AgeKeyFile, ConfigFormat, Error, MAX_CONTENT, SecureConfigStore};
use rusqlite::Connection;

use crate::{Place, read, save};

#[test]
fn a_save_becomes_generation_0_and_the_others_move_back() {
    let place = Place::new();
    let store = place.store();
    save(&store, "one");
    save(&store, "two");
    let saved = store
        .save(
            "litestream",
            b"three",
            &ConfigFormat::Yaml,
            Some("the third"),
        )
        .unwrap();

    assert_eq!((saved.info.generation, saved.versions), (0, 3));
    assert_eq!(saved.info.description.as_deref(), Some("the third"));
    assert_eq!(
        [0, 1, 2].map(|generation| read(&store, generation)),
        ["three", "two", "one"]
    );

    let history = store.history("litestream").unwrap();
    assert_eq!(history[0], saved.info);
    assert_eq!(
        history.iter().map(|info| info.id).collect::<Vec<_>>(),
        [3, 2, 1]
    );
    assert_eq!(
        history
            .iter()
            .map(|info| info.generation)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(history[0].format, ConfigFormat::Yaml);
    assert!(history.iter().all(|info| info.stored_bytes > 100));
}

#[test]
fn scopes_do_not_see_each_other() {
    let place = Place::new();
    let store = place.store();
    save(&store, "ours");
    store
        .save("application", b"theirs", &ConfigFormat::Toml, None)
        .unwrap();
    assert_eq!(store.scopes().unwrap(), ["application", "litestream"]);
    assert_eq!(read(&store, 0), "ours");
    assert!(matches!(
        store.get("application", 1),
        Err(Error::NoSuchGeneration {
            generation: 1,
            versions: 1,
            ..
        })
    ));
}

#[test]
fn the_row_saved_last_is_the_newest_even_after_the_clock_stepped_back() {
    let place = Place::new();
    let store = place.store();
    save(&store, "long before");
    save(&store, "before");
    let connection = place.connect();
    connection
        .execute(
            "UPDATE app_config SET created_at = '2999-01-01T00:00:00Z' WHERE id = 2",
            [],
        )
        .unwrap();
    let saved = save(&store, "after");
    assert_eq!(saved.info.created_at, "2999-01-01T00:00:00Z");
    assert_eq!(
        [0, 1, 2].map(|generation| read(&store, generation)),
        ["after", "before", "long before"]
    );
}

#[test]
fn a_rollback_inserts_a_copy_and_changes_no_row() {
    let place = Place::new();
    let store = place.store();
    store
        .save("litestream", b"one", &ConfigFormat::Yaml, None)
        .unwrap();
    save(&store, "two");
    let before = store.history("litestream").unwrap();

    let saved = store.rollback("litestream", 1).unwrap();
    assert_eq!(saved.versions, 3);
    assert_eq!(saved.info.format, ConfigFormat::Yaml);
    assert_eq!(
        [0, 1, 2].map(|generation| read(&store, generation)),
        ["one", "two", "one"]
    );
    let after = store.history("litestream").unwrap();
    let ids = |infos: &[evertide_vault::ConfigInfo]| {
        infos
            .iter()
            .map(|info| (info.id, info.created_at.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&after)[1..], ids(&before));

    let error = store.rollback("litestream", 0).unwrap_err();
    assert!(matches!(error, Error::RollbackToNewest { .. }), "{error}");
    let error = store.rollback("litestream", 3).unwrap_err();
    assert!(
        matches!(error, Error::NoSuchGeneration { versions: 3, .. }),
        "{error}"
    );
    assert_eq!(store.history("litestream").unwrap().len(), 3);
}

#[test]
fn after_a_rekey_the_new_key_alone_reads_the_newest_of_every_scope() {
    let place = Place::new();
    let store = place.store();
    save(&store, "one");
    save(&store, "two");
    store
        .save("application", b"app", &ConfigFormat::Toml, None)
        .unwrap();

    let new = AgeKeyFile::new(place.path("new.key"));
    new.generate().unwrap();
    let text = |key: &AgeKeyFile| std::fs::read_to_string(key.path()).unwrap();
    let both = place.key_file("both.key", text(&new) + &text(&place.key()));
    let store = SecureConfigStore::open(place.database(), both).unwrap();
    let saved = store.rekey().unwrap();
    assert_eq!(saved.len(), 2);

    let store = SecureConfigStore::open(place.database(), new).unwrap();
    assert_eq!(read(&store, 0), "two");
    assert_eq!(
        store.latest("application").unwrap().content.as_bytes(),
        b"app"
    );
    assert!(matches!(
        store.get("litestream", 1),
        Err(Error::WrongKey { .. })
    ));
}

#[test]
fn a_rekey_that_cannot_read_one_scope_stores_nothing_of_any() {
    let place = Place::new();
    let store = place.store();
    save(&store, "ours"); // "litestream" sorts before "zebra", so it is done first
    place
        .stranger()
        .save("zebra", b"theirs", &ConfigFormat::Toml, None)
        .unwrap();
    let error = store.rekey().unwrap_err();
    assert!(
        matches!(&error, Error::WrongKey { what, .. } if what.contains("zebra")),
        "{error}"
    );
    assert_eq!(store.history("litestream").unwrap().len(), 1);
    assert_eq!(store.history("zebra").unwrap().len(), 1);
}

#[test]
fn no_call_creates_a_database_where_there_was_none() {
    let place = Place::new();
    let missing = place.path("missing.db");
    let error = SecureConfigStore::open(&missing, place.key()).unwrap_err();
    assert!(matches!(error, Error::DatabaseMissing { .. }), "{error}");

    // It may also go missing after it was opened.
    let store = place.store();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("app.db{suffix}")));
    }
    let errors = [
        store.latest("litestream").unwrap_err(),
        store.scopes().unwrap_err(),
        store.history("litestream").unwrap_err(),
        store
            .save("litestream", b"text", &ConfigFormat::Toml, None)
            .unwrap_err(),
        store.rollback("litestream", 1).unwrap_err(),
        store.rekey().unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::DatabaseMissing { .. }), "{error}");
    }
    assert!(!missing.exists() && !place.database().exists());
}

#[test]
fn reading_creates_no_table_and_says_that_there_is_none() {
    let place = Place::new();
    let store = place.store();
    let errors = [
        store.latest("litestream").unwrap_err(),
        store.scopes().unwrap_err(),
        store.history("litestream").unwrap_err(),
        store.rollback("litestream", 1).unwrap_err(),
        store.rekey().unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::NoTable { .. }), "{error}");
        assert!(error.to_string().contains("insert-config"), "{error}");
    }
    let tables: i64 = place
        .connect()
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn another_programs_app_config_table_is_neither_read_nor_written() {
    let place = Place::new();
    place
        .connect()
        .execute_batch("CREATE TABLE app_config (key TEXT, value TEXT)")
        .unwrap();
    let store = place.store();
    let errors = [
        store.latest("litestream").unwrap_err(),
        store
            .save("litestream", b"text", &ConfigFormat::Toml, None)
            .unwrap_err(),
        SecureConfigStore::create(place.database(), place.key()).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, Error::ForeignTable { missing: "id", .. }),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_scope_is_answered_with_the_known_ones() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    for error in [
        store.latest("litestraem").unwrap_err(),
        store.history("litestraem").unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoSuchScope { .. }), "{error}");
        assert!(error.to_string().contains("stored: litestream"), "{error}");
    }
    let error = store.get("litestream", 1).unwrap_err();
    assert!(
        matches!(error, Error::NoSuchGeneration { versions: 1, .. }),
        "{error}"
    );
}

#[test]
fn nothing_is_stored_of_what_is_empty_or_far_too_large() {
    let place = Place::new();
    let store = place.store();
    let toml = ConfigFormat::Toml;
    let large = vec![b'#'; MAX_CONTENT as usize + 1];
    let no_format = ConfigFormat::Other(String::new());
    let save = |scope, content: &[u8], format| store.save(scope, content, format, None);
    assert!(matches!(
        save("litestream", b"", &toml),
        Err(Error::EmptyContent { .. })
    ));
    assert!(matches!(
        save("litestream", b" \n\t", &toml),
        Err(Error::EmptyContent { .. })
    ));
    assert!(matches!(save(" ", b"text", &toml), Err(Error::EmptyScope)));
    assert!(matches!(
        save("litestream", b"text", &no_format),
        Err(Error::EmptyFormat)
    ));
    assert!(matches!(
        save("litestream", &large, &toml),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(store.scopes(), Err(Error::NoTable { .. })));
}

#[test]
fn a_configuration_of_many_age_chunks_comes_back_whole() {
    let place = Place::new();
    let store = place.store();
    // The size of one chunk, which is its own case in the format, and of several.
    for size in [64 * 1024, 200_001] {
        let content = vec![b'#'; size];
        store
            .save("litestream", &content, &ConfigFormat::Toml, None)
            .unwrap();
        assert!(store.latest("litestream").unwrap().content.as_bytes() == content);
    }
}

#[test]
fn what_cannot_be_decrypted_says_why() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    let connection = place.connect();
    let replace = |content: &[u8]| {
        connection
            .execute("UPDATE app_config SET content = ?1", [content])
            .unwrap();
        store.latest("litestream").unwrap_err()
    };
    let sql = "SELECT content FROM app_config";
    let good: Vec<u8> = connection.query_row(sql, [], |row| row.get(0)).unwrap();

    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(replace(&flipped), Error::Damaged { .. }));
    assert!(matches!(
        replace(&good[..good.len() - 1]),
        Error::Damaged { .. }
    ));
    assert!(matches!(replace(&good[..40]), Error::Damaged { .. }));
    assert!(matches!(
        replace(b"monitor_interval = '1s'"),
        Error::NotAnAgeFile { .. }
    ));
    assert!(matches!(
        replace(b"age-encryption.org/v7\n-> X\n"),
        Error::NotAnAgeFile { .. }
    ));
    assert!(matches!(replace(b""), Error::EmptyContent { .. }));
    let empty = store.key().encrypt(b"").unwrap();
    assert!(matches!(replace(&empty), Error::EmptyContent { .. }));
    // Text where bytes belong, as `UPDATE … SET content = 'text'` leaves it.
    connection
        .execute("UPDATE app_config SET content = 'text'", [])
        .unwrap();
    assert!(matches!(
        store.latest("litestream"),
        Err(Error::NotAnAgeFile { .. })
    ));

    connection
        .execute("UPDATE app_config SET content = ?1", [good])
        .unwrap();
    let error = place.stranger().latest("litestream").unwrap_err();
    assert!(matches!(error, Error::WrongKey { .. }));
    assert!(error.to_string().contains("stranger.key"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named_so() {
    let place = Place::new();
    std::fs::write(
        place.path("text.db"),
        "not a database, but long enough to be read as one?",
    )
    .unwrap();
    for path in [place.path("text.db"), place.dir.path().to_owned()] {
        let error = SecureConfigStore::open(&path, place.key())
            .and_then(|store| store.latest("litestream"))
            .unwrap_err();
        assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    }
}

#[test]
fn saving_leaves_the_journal_mode_as_it_was() {
    for mode in ["wal", "delete", "truncate"] {
        let place = Place::new();
        let get = |connection: &Connection| -> String {
            connection
                .query_row("PRAGMA journal_mode", [], |row| row.get(0))
                .unwrap()
        };
        place
            .connect()
            .pragma_update(None, "journal_mode", mode)
            .unwrap();
        let before = get(&place.connect());
        save(&place.store(), "text");
        assert_eq!(get(&place.connect()), before);
        assert_eq!(read(&place.store(), 0), "text");
    }
}

#[test]
fn a_wal_left_by_a_crash_is_not_checkpointed_away_by_reading_or_saving() {
    let place = Place::new();
    // A crash: copies of the files of a database whose connection is still open.
    let connection = place.connect();
    connection
        .execute("INSERT INTO notes VALUES ('not checkpointed')", [])
        .unwrap();
    let crashed = place.path("crashed.db");
    std::fs::copy(place.database(), &crashed).unwrap();
    std::fs::copy(place.path("app.db-wal"), place.path("crashed.db-wal")).unwrap();
    let size = || std::fs::metadata(place.path("crashed.db-wal")).map_or(0, |file| file.len());
    let before = size();
    assert!(before > 0);

    let store = SecureConfigStore::open(&crashed, place.key()).unwrap();
    assert!(matches!(
        store.latest("litestream"),
        Err(Error::NoTable { .. })
    ));
    assert_eq!(size(), before);
    save(&store, "text");
    assert!(size() > before);
    assert_eq!(read(&store, 0), "text");
}

#[test]
fn a_database_found_closed_is_left_closed() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    assert_eq!(read(&store, 0), "text");
    // A configuration in a WAL would be lost by whoever copies the one file to a server.
    assert!(!place.path("app.db-wal").exists());
}

#[test]
fn create_makes_database_and_table_and_keeps_what_is_there() {
    let place = Place::new();
    let path = place.path("new.db");
    let store = SecureConfigStore::create(&path, place.key()).unwrap();
    assert_eq!(store.scopes().unwrap(), Vec::<String>::new());
    assert!(matches!(
        store.latest("litestream"),
        Err(Error::NoSuchScope { .. })
    ));
    save(&store, "text");
    let store = SecureConfigStore::create(&path, place.key()).unwrap();
    assert_eq!(read(&store, 0), "text");
}

#[test]
fn a_database_that_cannot_be_written_to_is_read_and_named() {
    let place = Place::new();
    save(&place.store(), "text");
    // To SQLite, a format to write that it does not know makes a database read-only.
    let mut bytes = std::fs::read(place.database()).unwrap();
    bytes[18] = 3;
    std::fs::write(place.database(), bytes).unwrap();
    assert_eq!(read(&place.store(), 0), "text");
    let error = place
        .store()
        .save("litestream", b"text", &ConfigFormat::Toml, None)
        .unwrap_err();
    assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
}
