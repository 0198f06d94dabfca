//! Whatever text is given as a replica URL or found as a name on a replica.
#![allow(clippy::unwrap_used)] // a test

use evertide_storage::{Destination, Error, SmallKey, V3Key, V3Part};
use evertide_testkit::{Fuzz, phrase, variant};

const SECRET: &str = "hunter2";

/// Whether the secret stands where only secrets are: before an `@`, behind a `?`.
fn secret_is_in_its_place(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let Some((scheme, rest)) = lower.split_once("://") else {
        return false;
    };
    let host_and_path = rest.split(['?', '#']).next().unwrap();
    let visible = host_and_path
        .rsplit_once('@')
        .map_or(host_and_path, |(_, host)| host);
    scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && scheme != "file"
        && !scheme.contains(SECRET)
        && !visible.contains(SECRET)
        && lower.contains(SECRET)
}

#[test]
fn no_url_panics_means_two_things_or_shows_its_secrets() {
    let corpus = [
        "/srv/replica",
        "/",
        "replica",
        "file:///srv/with space/%20/é",
        "s3://bucket/path?endpoint=http://127.0.0.1:9000&region=eu-1&forcePathStyle=true",
        "s3://AKID:hunter2@bucket/path?secretAccessKey=hunter2",
        "gs://bucket/path",
        "abs://account:hunter2@container/path",
        "sftp://user:hunter2@host:22/path?key-path=/k",
        "webdavs://user:hunter2@host/path",
        "nats://user:hunter2@host:4222/bucket",
        "nats://user@host/bucket/path?creds=/c&tls=true",
        "oss://key:hunter2@bucket/path",
        "oss://bucket.oss-cn-hangzhou-internal.aliyuncs.com/path?region=x&endpoint=http://host:1",
        "oss://bucket.oss-.aliyuncs.com/path",
        "https://user:hunter2@host/path?token=hunter2",
    ];
    let words = [
        "://",
        "?",
        "&",
        "=",
        "%",
        "%2",
        "@",
        ":",
        "/",
        "..",
        "#",
        "hunter2",
        "s3",
        "file",
        "é",
        "forcePathStyle",
        "region=",
        "endpoint=",
        "true",
        "\0",
        " ",
    ];
    Fuzz::target("urls")
        .corpus(corpus)
        .words(&words)
        .inputs(8_000)
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            let parsed = Destination::parse(text);
            if secret_is_in_its_place(text) {
                // What was accepted has no place for a secret but a bucket's parameters, which are
                // all known: nothing is to be seen of it either way.
                let shown = match &parsed {
                    Ok(_) => String::new(),
                    Err(error) => format!("{error} {error:?}").to_ascii_lowercase(),
                };
                assert!(!shown.contains(SECRET), "{shown}");
            }
            match parsed {
                Ok(destination) => {
                    let again = Destination::parse(&destination.to_string());
                    assert_eq!(again.unwrap(), destination, "{destination}");
                    variant(&destination)
                }
                Err(Error::BadUrl { reason, .. }) => phrase(&reason),
                Err(error) => variant(&error),
            }
        })
        .assert_reached(&["File", "S3", "no text", "Oss"], 10);
}

#[test]
fn no_key_is_taken_for_another() {
    let corpus = [
        "generations/0123456789abcdef/snapshots/0000000a.snapshot.lz4",
        "generations/0123456789abcdef/wal/0000000a_00001038.wal.lz4",
        "generations/0123456789abcdef/wal/0000000a_0123456789abcdef.wal.lz4",
        "checksums",
        "lease/holder.json",
        "../x",
    ];
    Fuzz::target("keys")
        .corpus(corpus)
        .words(&[
            "/",
            "..",
            ".",
            "generations",
            "wal",
            "_",
            "ffffffff",
            "A",
            "\0",
        ])
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            if let Some(key) = V3Key::parse(text) {
                assert_eq!(key.as_str(), text);
                let generation = format!("generations/{:016x}/", key.generation());
                assert!(text.starts_with(&generation));
                return match key.part() {
                    V3Part::Snapshot { .. } => "a snapshot".into(),
                    V3Part::Segment { .. } => "a segment".into(),
                };
            }
            match SmallKey::new(text) {
                Some(key) => {
                    // It never leaves its directory, and hides no file.
                    assert_eq!(key.as_str(), text);
                    let hidden = |part: &str| part.is_empty() || part.starts_with('.');
                    assert!(!text.split('/').any(hidden));
                    "a small object".into()
                }
                None => "refused".to_owned(),
            }
        })
        .assert_reached(&["a snapshot", "a segment", "a small object", "refused"], 5);
}
