//! Key files: whose they are, what is in them, and that none is ever overwritten.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use evertide_testkit::error_with_causes;
use evertide_vault::{AgeKeyFile, Error, KeyFileError, LineFound, SecureConfigStore};

use crate::{Place, read, save};

#[test]
fn a_key_file_others_can_reach_is_refused_with_the_command_that_mends_it() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    let path = place.key().path().to_owned();
    for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = store.latest("litestream").unwrap_err();
        let Error::KeyFile(KeyFileError::OpenToOthers { mode: found, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(found, mode);
        assert!(
            error
                .to_string()
                .contains(&format!("`chmod 600 {}`", path.display())),
            "{error}"
        );
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(read(&store, 0), "text");
    }
}

#[test]
fn running_the_command_of_the_message_mends_a_path_with_a_space_and_a_quote() {
    let place = Place::new();
    let key = AgeKeyFile::new(place.path("the app's key"));
    key.generate().unwrap();
    fs::set_permissions(key.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let message = key.public_keys().unwrap_err().to_string();
    let command = message.split('`').nth(1).unwrap();
    assert!(
        std::process::Command::new("sh")
            .args(["-c", command])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(key.public_keys().unwrap().len(), 1);
}

#[test]
fn the_key_file_is_read_at_each_use() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    let text = fs::read(place.key().path()).unwrap();
    fs::remove_file(place.key().path()).unwrap();
    let error = store.latest("litestream").unwrap_err();
    assert!(
        matches!(error, Error::KeyFile(KeyFileError::Missing { .. })),
        "{error}"
    );
    place.key_file("age.key", text);
    assert_eq!(read(&store, 0), "text");
}

#[test]
fn a_file_edited_on_windows_with_comments_and_several_identities_is_read() {
    let place = Place::new();
    let store = place.store();
    save(&store, "text");
    let other = place.stranger();
    let secret = |key: &AgeKeyFile| {
        let text = fs::read_to_string(key.path()).unwrap();
        text.lines()
            .find(|line| line.starts_with("AGE-SECRET-KEY-1"))
            .unwrap()
            .to_owned()
    };
    let text = format!(
        "# the new key\r\n{}\r\n\r\n  \r\n# the old key\r\n{}\r\n#end",
        secret(other.key()),
        secret(&place.key())
    );
    let both = place.key_file("both.key", text);
    let expected = [other.key(), &place.key()]
        .map(|key| key.public_keys().unwrap())
        .concat();
    assert_eq!(both.public_keys().unwrap(), expected);

    // The second decrypts; the first is encrypted to.
    let store = SecureConfigStore::open(place.database(), both).unwrap();
    assert_eq!(read(&store, 0), "text");
    save(&store, "for the first");
    assert_eq!(read(&other, 0), "for the first");
    assert!(matches!(
        place.store().latest("litestream"),
        Err(Error::WrongKey { .. })
    ));
}

#[test]
fn a_file_that_is_no_key_file_is_named_without_its_content() {
    let place = Place::new();
    let cases = [
        ("AGE-SECRET-KEY-1SECRETSECRET", LineFound::DamagedIdentity),
        (
            "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgp",
            LineFound::PublicKey,
        ),
        ("password = SECRETSECRET", LineFound::Unknown),
    ];
    for (text, expected) in cases {
        let key = place.key_file("bad.key", format!("# comment\n{text}\n"));
        let error = key.public_keys().unwrap_err();
        assert!(
            matches!(error, KeyFileError::BadLine { line: 2, found, .. } if found == expected),
            "{error}"
        );
        assert!(
            !error_with_causes(&error).contains("SECRETSECRET"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("SECRETSECRET"), "{error:?}");
    }
    let empty = place.key_file("empty.key", "# created: once\n");
    assert!(matches!(
        empty.public_keys(),
        Err(KeyFileError::NoIdentity { .. })
    ));
    let binary = place.key_file("binary.key", [0xff, 0xfe, 0, 1]);
    assert!(matches!(
        binary.public_keys(),
        Err(KeyFileError::BadLine { line: 1, .. })
    ));
    let large = place.key_file("large.key", vec![b'#'; 70_000]);
    assert!(matches!(
        large.public_keys(),
        Err(KeyFileError::TooLarge { size: 70_000, .. })
    ));
    let folder = AgeKeyFile::new(place.dir.path());
    assert!(matches!(
        folder.public_keys(),
        Err(KeyFileError::NotAFile { .. })
    ));
}

#[test]
fn a_pipe_in_place_of_the_key_file_does_not_hang() {
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(
        AgeKeyFile::new(pipe).public_keys(),
        Err(KeyFileError::NotAFile { .. })
    ));
}

#[test]
fn the_database_given_as_the_key_file_is_never_opened() {
    let place = Place::new();
    let link = place.path("link");
    symlink(place.database(), &link).unwrap();
    for path in [place.database(), link] {
        let result = SecureConfigStore::open(place.database(), AgeKeyFile::new(path));
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::KeyFile(KeyFileError::IsTheDatabase { .. })),
            "{error}"
        );
    }
    // Nor is the WAL of a database that is opened through a link.
    let connection = place.connect();
    connection
        .execute("INSERT INTO notes VALUES ('')", [])
        .unwrap();
    let key = AgeKeyFile::new(place.path("app.db-wal"));
    let error = SecureConfigStore::open(place.path("link"), key).unwrap_err();
    assert!(
        matches!(error, Error::KeyFile(KeyFileError::IsTheDatabase { .. })),
        "{error}"
    );
}

#[test]
fn a_new_key_is_private_and_never_overwrites() {
    let place = Place::new();
    let key = AgeKeyFile::new(place.path("fresh.key"));
    let public_key = key.generate().unwrap();
    assert_eq!(
        key.public_keys().unwrap(),
        std::slice::from_ref(&public_key)
    );
    assert_eq!(
        fs::metadata(key.path()).unwrap().permissions().mode() & 0o7777,
        0o600
    );

    let text = fs::read_to_string(key.path()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("# created: 20") && lines[0].ends_with('Z'),
        "{}",
        lines[0]
    );
    assert_eq!(lines[1], format!("# public key: {public_key}"));
    assert!(lines[2].starts_with("AGE-SECRET-KEY-1"));
    assert_eq!(lines.len(), 3);

    let error = key.generate().unwrap_err();
    assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
    // A link to a file that is not there (yet) is not followed either.
    let dangling = place.path("dangling");
    symlink(place.path("elsewhere"), &dangling).unwrap();
    assert!(matches!(
        AgeKeyFile::new(dangling).generate(),
        Err(KeyFileError::Exists { .. })
    ));
    assert!(!place.path("elsewhere").exists());
    assert_eq!(fs::read_to_string(key.path()).unwrap(), text);

    let nowhere = AgeKeyFile::new(place.path("no/such/folder/key"));
    assert!(matches!(
        nowhere.generate(),
        Err(KeyFileError::Write { .. })
    ));
}

#[test]
fn what_a_killed_process_left_of_a_key_goes_with_the_next_one_and_nothing_else_does() {
    let place = Place::new();
    let left = |name: &str| {
        place.key_file(name, "AGE-SECRET-");
        place.path(name)
    };
    let stale = left(".fresh.key.writing-0123456789abcdef");
    let running = left(".fresh.key.writing-00000000deadbeef");
    let others = [
        left(".fresh.key.writing-0123456789abcde"),
        left(".fresh.key.writing-0123456789ABCDEF"),
        left(".fresh.key.writing-0123456789abcdefa"),
        left(".other.key.writing-0123456789abcdef"),
        left("fresh.key.writing-0123456789abcdef"),
    ];
    let lock = fs::File::open(&running).unwrap();
    lock.lock().unwrap();
    let key = AgeKeyFile::new(place.path("fresh.key"));
    key.generate().unwrap();
    assert!(!stale.exists() && running.exists());
    // Also where there is a key by now. A process that another test starts may just have the same open file.
    lock.unlock().unwrap();
    key.generate().unwrap_err();
    assert!(!running.exists());
    for path in others {
        assert!(path.exists(), "{path:?}");
    }
}

#[test]
fn a_key_may_have_the_longest_name_that_a_file_can_have() {
    let place = Place::new();
    let key = AgeKeyFile::new(place.path(&"k".repeat(255)));
    key.generate().unwrap();
    assert_eq!(key.public_keys().unwrap().len(), 1);
}
