//! The real `age` and `age-keygen`, both ways.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use evertide_testkit::{age, age_keygen};
use evertide_vault::{AgeKeyFile, ConfigFormat, Error, SecureConfigStore};

use crate::{Place, read};

/// Runs a command with this input and returns its output.
fn run(mut program: Command, args: &[&str], input: &[u8]) -> Vec<u8> {
    program.args(args);
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program:?}: {}: {messages}",
        output.status
    );
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stored(place: &Place) -> Vec<u8> {
    let sql = "SELECT content FROM app_config ORDER BY id DESC LIMIT 1";
    place
        .connect()
        .query_row(sql, [], |row| row.get(0))
        .unwrap()
}

fn store_raw(place: &Place, content: &[u8]) {
    SecureConfigStore::create(place.database(), place.key()).unwrap();
    let sql = "INSERT INTO app_config (scope, content) VALUES ('litestream', ?1)";
    place.connect().execute(sql, [content]).unwrap();
}

/// A key made by `age-keygen`.
fn key_of_age_keygen(place: &Place, name: &str) -> AgeKeyFile {
    let key = AgeKeyFile::new(place.path(name));
    run(age_keygen(), &["-o", text(key.path())], b"");
    key
}

#[test]
fn age_decrypts_what_the_store_saved() {
    let place = Place::new();
    for size in [1, 1_000, 64 * 1024, 100_000] {
        let content = vec![b'x'; size];
        place
            .store()
            .save("litestream", &content, &ConfigFormat::Toml, None)
            .unwrap();
        let plain = run(
            age(),
            &["-d", "-i", text(place.key().path())],
            &stored(&place),
        );
        assert!(plain == content, "{size} bytes");
    }
}

#[test]
fn the_store_reads_what_age_encrypted() {
    let place = Place::new();
    let public_key = place.key().public_keys().unwrap().remove(0);
    for size in [1, 1_000, 64 * 1024, 100_000] {
        let content = "x".repeat(size);
        store_raw(
            &place,
            &run(age(), &["-r", &public_key], content.as_bytes()),
        );
        assert!(read(&place.store(), 0) == content, "{size} bytes");
    }
}

#[test]
fn the_store_reads_what_age_encrypted_to_several_keys() {
    let place = Place::new();
    let other = key_of_age_keygen(&place, "other.key");
    let keys = [
        other.public_keys().unwrap().remove(0),
        place.key().public_keys().unwrap().remove(0),
    ];
    store_raw(
        &place,
        &run(age(), &["-r", &keys[0], "-r", &keys[1]], b"shared"),
    );
    assert_eq!(read(&place.store(), 0), "shared");
}

#[test]
fn the_armored_form_is_refused_with_a_reason() {
    let place = Place::new();
    let public_key = place.key().public_keys().unwrap().remove(0);
    store_raw(&place, &run(age(), &["-a", "-r", &public_key], b"armored"));
    let error = place.store().latest("litestream").unwrap_err();
    assert!(matches!(error, Error::NotAnAgeFile { .. }), "{error}");
    assert!(error.to_string().contains("armored"), "{error}");
}

#[test]
fn a_key_file_of_age_keygen_opens_its_store_and_only_that() {
    let place = Place::new();
    let key = key_of_age_keygen(&place, "theirs.key");
    let listed = run(age_keygen(), &["-y", text(key.path())], b"");
    assert_eq!(
        key.public_keys().unwrap().join("\n") + "\n",
        String::from_utf8(listed).unwrap()
    );

    let store = SecureConfigStore::open(place.database(), key).unwrap();
    store
        .save("litestream", b"theirs", &ConfigFormat::Toml, None)
        .unwrap();
    assert_eq!(read(&store, 0), "theirs");
    assert!(matches!(
        place.store().latest("litestream"),
        Err(Error::WrongKey { .. })
    ));
}

#[test]
fn age_keygen_reads_a_key_file_of_ours() {
    let place = Place::new();
    let listed = run(age_keygen(), &["-y", text(place.key().path())], b"");
    let ours = place.key().public_keys().unwrap().remove(0);
    assert_eq!(String::from_utf8(listed).unwrap().trim(), ours);
}

#[test]
fn a_passphrase_is_not_taken_for_a_wrong_key() {
    // `age -p` insists on a terminal, so this file is a golden one:
    // `age -p` 1.1.1, passphrase "passphrase", content "text".
    let encrypted = include_bytes!("passphrase.age");
    let place = Place::new();
    store_raw(&place, encrypted);
    let error = place.store().latest("litestream").unwrap_err();
    assert!(matches!(error, Error::Passphrase { .. }), "{error}");
}
