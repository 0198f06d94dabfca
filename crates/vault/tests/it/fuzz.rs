//! Whatever a key file or a stored configuration holds.

use std::fs;

use evertide_testkit::{Fuzz, variant};
use evertide_vault::{ConfigFormat, Error};

use crate::{Place, save};

const SECRET: &str = "planted-secret";

#[test]
fn no_bytes_in_a_key_file_are_taken_for_a_key_or_shown() {
    let place = Place::new();
    let (key, other) = (place.key(), place.stranger());
    let text = fs::read_to_string(key.path()).unwrap();
    let other = fs::read_to_string(other.key().path()).unwrap();
    let identity = |text: &str| text.lines().last().unwrap().to_owned();
    let known = [identity(&text), identity(&other)];
    let windows = text.replace('\n', "\r\n");
    Fuzz::target("key-files")
        .corpus([
            &text,
            &windows,
            &format!("{text}{other}"),
            "# nothing\n",
            "",
        ])
        .words(&[
            "AGE-SECRET-KEY-1",
            "AGE-PLUGIN-",
            "age1",
            "\n",
            "\r\n",
            "#",
            " ",
            "\0",
            "é",
        ])
        .inputs(2_000)
        .run(|input| {
            let file = place.key_file("fuzzed.key", input.bytes);
            match file.public_keys() {
                Ok(keys) => {
                    // An identity has a checksum: only those that were there can be.
                    let text = String::from_utf8_lossy(input.bytes).to_ascii_uppercase();
                    let lines = text
                        .lines()
                        .map(str::trim)
                        .filter(|line| !line.is_empty() && !line.starts_with('#'));
                    assert_eq!(lines.clone().count(), keys.len());
                    lines.for_each(|line| assert!(known.iter().any(|known| known == line)));
                    format!("{} keys", keys.len().min(3))
                }
                Err(error) => {
                    // Nothing that could be the better part of an identity is shown.
                    let shown = format!("{error} {error:?}");
                    for known in &known {
                        assert!(!shown.contains(&known[16..40]), "{shown}");
                    }
                    variant(&error)
                }
            }
        })
        .assert_reached(&["1 keys", "2 keys", "BadLine", "NoIdentity"], 4);
}

#[test]
fn no_bytes_are_decrypted_to_what_nobody_encrypted() {
    let place = Place::new();
    let (key, stranger) = (place.key(), place.stranger());
    let text = format!("s3_secret_access_key = \"{SECRET}\"\n");
    let long = text.repeat(3_000); // more than a chunk of 64 KiB
    let encrypted = [&text, &long].map(|text| key.encrypt(text.as_bytes()).unwrap());
    let foreign = stranger.key().encrypt(text.as_bytes()).unwrap();
    let passphrase = include_bytes!("passphrase.age").to_vec();
    let [short, long_encrypted] = encrypted.clone();
    Fuzz::target("vault")
        .corpus([short, long_encrypted, foreign, passphrase, Vec::new()])
        .words(&[
            "age-encryption.org/v1\n",
            "-> X25519 ",
            "-> scrypt ",
            "\n---",
            "\n",
        ])
        .inputs(1_000)
        .run(|input| match key.decrypt(input.bytes, "the input") {
            Ok(content) => {
                let content = content.as_bytes();
                assert!(content == text.as_bytes() || content == long.as_bytes());
                "decrypted".to_owned()
            }
            Err(error) => {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(SECRET), "{shown}");
                variant(&error)
            }
        })
        .assert_reached(
            &[
                "decrypted",
                "Damaged",
                "NotAnAgeFile",
                "WrongKey",
                "Passphrase",
            ],
            5,
        );
}

#[test]
fn no_bytes_in_the_table_are_a_configuration_or_harm_the_store() {
    let place = Place::new();
    let store = place.store();
    save(&store, SECRET);
    let connection = place.connect();
    let content: Vec<u8> = connection
        .query_row("SELECT content FROM app_config", [], |row| row.get(0))
        .unwrap();
    Fuzz::target("rows")
        .corpus([content, SECRET.as_bytes().to_vec(), vec![0; 200]])
        .inputs(300)
        .run(|input| {
            let sql = "UPDATE app_config SET content = ?1, format = ?2";
            let format = String::from_utf8_lossy(input.other);
            let format: String = format.chars().take(8).collect();
            connection.execute(sql, (input.bytes, format)).unwrap();
            assert_eq!(store.history("litestream").unwrap().len(), 1);
            match store.latest("litestream") {
                Ok(config) => {
                    assert_eq!(config.content.as_bytes(), SECRET.as_bytes());
                    "decrypted".to_owned()
                }
                Err(error) => {
                    // A version that cannot be read does not keep the next from being stored.
                    let shown = format!("{error} {error:?}");
                    assert!(!shown.contains(SECRET), "{shown}");
                    assert!(!matches!(error, Error::Database { .. }), "{shown}");
                    variant(&error)
                }
            }
        })
        .assert_reached(&["decrypted", "Damaged", "NotAnAgeFile"], 3);
    let saved = store.save("litestream", b"next", &ConfigFormat::Toml, None);
    assert_eq!(saved.unwrap().versions, 2);
}
