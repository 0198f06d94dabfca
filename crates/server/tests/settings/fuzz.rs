//! Whatever a configuration or a duration consists of.

use std::fmt::Debug;

use evertide_server::{
    blueprint,
    settings::{
        format_duration, parse_databases_toml, parse_duration, parse_litestream_yaml, parse_toml,
    },
};
use evertide_testkit::{Fuzz, variant};

use super::random::{assert_sound, read};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/settings");

const WORDS: &[&str] = &[
    "\n",
    "[[replicas]]",
    "[[databases]]",
    "pattern",
    "watch",
    "password",
    "token",
    "=",
    ": ",
    "- ",
    "'",
    "\"",
    "'''",
    "#",
    "&r",
    "*r",
    "<<",
    "|",
    "~",
    "!!",
    "---",
    "\t",
    "$A",
    "${A}",
    "path",
    "name",
    "type",
    "file",
    "s3",
    "abs",
    "gs",
    "nats",
    "oss",
    "sftp",
    "webdav",
    "file_path",
    "retention",
    "sync_interval",
    "url",
    "1s",
    "7d",
    "0",
    "true",
    "null",
    "1e9",
    "{",
    "}",
    "[",
    "]",
    "\u{feff}",
    "\0",
    "é",
    "<replace>",
];

/// The planted secrets of the corpus.
const SECRETS: [&str; 3] = ["planted-key", "planted-id", "cGxhbnRlZA=="];
/// The keys that have them there.
const KEYS: [&str; 24] = [
    "access-key-id",
    "secret-access-key",
    "s3_access_key_id",
    "s3_secret_access_key",
    "abs_account_key",
    "abs_sas_token",
    "account-key",
    "gs_credentials",
    "jwt",
    "nats_jwt",
    "nats_password",
    "nats_seed",
    "nats_token",
    "oss_access_key",
    "oss_security_token",
    "password",
    "sas-token",
    "seed",
    "sftp_key_passphrase",
    "sftp_password",
    "sftp_private_key",
    "token",
    "webdav-password",
    "webdav_password",
];

/// Whether each of them is the value of a key for one, where it must never be seen. A path may be anything.
fn secrets_are_in_their_place(text: &str) -> bool {
    let mut before = 0;
    text.lines().all(|line| {
        let begins_within_quotes = before % 2 == 1;
        before += line.matches(['"', '\'']).count();
        let key = line.trim_start_matches([' ', '-']);
        let is_in_its_place = !begins_within_quotes && KEYS.iter().any(|k| key.starts_with(k));
        is_in_its_place || !SECRETS.iter().any(|secret| line.contains(secret))
    })
}

/// No settings show a secret.
fn assert_hidden(text: &str, settings: &impl Debug) {
    let shown = format!("{settings:?}");
    if secrets_are_in_their_place(text) {
        for secret in SECRETS {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

/// What was wrong first, in one word. No message shows a secret that is the value of its key.
fn outcome<T>(result: Result<T, evertide_server::settings::SettingsErrors>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(errors) => variant(&errors.mistakes()[0].mistake),
    }
}

#[test]
fn every_configuration_of_the_corpus_means_something() {
    for entry in std::fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mistakes = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => {
                let several = parse_databases_toml(&text);
                parse_toml(&text).err().filter(|_| several.is_err())
            }
            _ => parse_litestream_yaml(&text).err(),
        };
        let mistakes = mistakes.map(|mistakes| mistakes.to_string());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(mistakes.is_none(), "{name}: {mistakes:?}");
        let in_their_place = name != "misplaced.yml";
        assert_eq!(secrets_are_in_their_place(&text), in_their_place, "{name}");
    }
}

#[test]
fn no_toml_makes_settings_that_are_not_sound() {
    Fuzz::target("toml")
        .corpus([blueprint()])
        .corpus_of(CORPUS)
        .words(WORDS)
        .inputs(1_500)
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            read(text);
            let (alone, several) = (parse_toml(text), parse_databases_toml(text));
            if let Ok(options) = &alone {
                assert_sound(options);
                assert_hidden(text, options);
            }
            match alone {
                Ok(_) => "accepted alone".into(),
                Err(_) => outcome(several),
            }
        })
        .assert_reached(&["accepted alone", "accepted", "Syntax", "UnknownKey"], 8);
}

#[test]
fn no_yaml_makes_settings_that_are_not_sound() {
    Fuzz::target("yaml")
        .corpus_of(CORPUS)
        .words(WORDS)
        .inputs(1_500)
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            let parsed = parse_litestream_yaml(text);
            for database in parsed.iter().flatten() {
                assert_sound(&database.replication);
                assert_hidden(text, database);
            }
            outcome(parsed)
        })
        .assert_reached(&["accepted", "Syntax", "UnknownKey"], 6);
}

#[test]
fn no_duration_is_printed_as_another() {
    let corpus = [
        "1h30m",
        "0",
        "1.5h",
        "300ms",
        "7d",
        "2w",
        "12µs",
        "9223372036854775807ns",
        "0.18446744073709551616h",
    ];
    Fuzz::target("durations")
        .corpus(corpus)
        .words(&[
            "ns",
            "us",
            "µs",
            "ms",
            "s",
            "m",
            "h",
            "d",
            "w",
            ".",
            "-",
            "+",
            "999999999",
            " ",
        ])
        .inputs(8_000)
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            match parse_duration(text) {
                Ok(duration) => {
                    assert!(duration.as_nanos() <= i64::MAX as u128);
                    assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
                    "a duration".to_owned()
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    variant(&error)
                }
            }
        })
        .assert_reached(
            &["a duration", "NoUnit", "UnknownUnit", "Negative", "TooLong"],
            7,
        );
}
