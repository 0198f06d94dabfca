//! Whichever operation on files fails, alone or with all that follow, a save, a new key for what is stored, and the making
//! of a key come about or not at all, and nothing of before is lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use evertide_testkit::{Action, Traced, wait_to_be_traced};
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
use nix::errno::Errno;

use crate::{FOLDER, Place, WHAT, read, save, text};

/// What is done while something fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// Version 3 is saved.
    Save,
    /// What is newest is encrypted to another key, of `new.key`, which has the old one below.
    Rekey,
    /// A key is made, in `made.key`.
    MakeKey,
}

/// How long the disk fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lasts {
    /// For one operation.
    Once,
    /// For all that the process does from then on; the one that looks at what it left has a sound disk.
    ForEver,
}

/// A second scope beside `litestream`, so that a new key is for more than one row.
const OTHER: &str = "other";

#[test]
#[ignore = "the process that the tests below start"]
fn child_that_works() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    let what = std::env::var(WHAT).unwrap();
    let open = |key: &str| {
        SecureConfigStore::open(folder.join("app.db"), AgeKeyFile::new(folder.join(key)))
    };
    wait_to_be_traced();
    let done = match what.as_str() {
        "Save" => open("age.key").and_then(|store| {
            let saved = store.save("litestream", text(3).as_bytes(), &ConfigFormat::Toml, None);
            saved.map(drop)
        }),
        "Rekey" => open("new.key").and_then(|store| store.rekey().map(drop)),
        _ => {
            let made = AgeKeyFile::new(folder.join("made.key")).generate();
            made.map(drop).map_err(Into::into)
        }
    };
    match done {
        Ok(()) => eprintln!("done"),
        Err(_) => eprintln!("refused"),
    }
}

/// Two versions in one scope and one in another, and the key files. With a WAL, which the store leaves as it is, or
/// without, so that the store is the one to checkpoint and delete it.
fn template(with_wal: bool) -> Place {
    let (template, place) = (Place::new(), Place::new());
    let application = place.connect();
    application
        .execute_batch("INSERT INTO notes VALUES ('open')")
        .unwrap();
    let store = place.store();
    for version in [1, 2] {
        save(&store, &text(version));
    }
    store
        .save(OTHER, b"other", &ConfigFormat::Toml, None)
        .unwrap();
    let old = fs::read_to_string(place.key().path()).unwrap();
    AgeKeyFile::new(place.path("one.key")).generate().unwrap();
    let one = fs::read_to_string(place.path("one.key")).unwrap();
    place.key_file("new.key", format!("{one}{old}"));
    if !with_wal {
        drop(application);
        copy(&place, &template);
        return template;
    }
    copy(&place, &template);
    drop(application);
    assert!(template.path("app.db-wal").exists());
    template
}

/// Copies everything but the wal-index, by another process: a descriptor closed here would drop locks.
fn copy(from: &Place, to: &Place) {
    for entry in fs::read_dir(from.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_str().unwrap().ends_with("-shm") {
            let mut copy = Command::new("cp");
            copy.arg("-p").arg(&path).arg(to.dir.path());
            assert!(copy.status().unwrap().success());
        }
    }
}

/// Does the work with the `nth` of the operations that this error is for failing; whether there was one.
fn fails_at(template: &Place, work: Work, (errno, lasts): (Errno, Lasts), nth: usize) -> bool {
    let place = Place::new();
    copy(template, &place);
    let what = format!("{work:?}");
    let environment = [
        (FOLDER, place.dir.path().as_os_str()),
        (WHAT, what.as_ref()),
    ];
    let mut traced = Traced::start("faults::child_that_works", &environment);
    let (mut seen, mut undeleted) = (0, false);
    let (calls, report) = traced.until_a_report(|call| {
        let fails = match (call.action, lasts) {
            (Action::Write, _) => true,
            (Action::Open | Action::Sync | Action::Name, _) => errno == Errno::EIO,
            // SQLite keeps a lock for good that it could not let go of, and waits for one that it cannot get.
            (Action::Unlock | Action::UnlockOpenFile, _) | (Action::Lock, Lasts::ForEver) => false,
            // What else it reads, its own standard input is among it, is not on the disk.
            _ => errno == Errno::EIO && call.path.starts_with(place.dir.path()),
        };
        seen += usize::from(fails);
        let now = match lasts {
            Lasts::Once => seen == nth,
            Lasts::ForEver => seen >= nth,
        };
        undeleted |= fails && now && call.action == Action::Delete;
        (fails && now).then_some(errno)
    });
    traced.finish();
    let case = format!("{work:?}, {errno} {lasts:?} at {nth} of {seen}, after {calls:?}");
    let done = match report.as_deref() {
        Some("done") => true,
        Some("refused") => false,
        _ => panic!("{case}: {report:?}"),
    };
    assert!(done || seen >= nth, "{case}");
    match work {
        Work::Save => check_save(&place, done, &case),
        Work::Rekey => check_rekey(&place, done, &case),
        Work::MakeKey => {
            let key = place.path("made.key");
            // What could not be deleted is by whoever makes the next one, unless it is whole.
            let again = undeleted.then(|| AgeKeyFile::new(&key).generate());
            check_key(&key, done || again.is_some(), &case);
        }
    }
    check_database(&place, &case);
    seen >= nth
}

/// The former versions are there; the new one is, whole, if that was said, and else whole or not at all.
fn check_save(place: &Place, done: bool, case: &str) {
    let store = place.store();
    let versions = store.history("litestream").unwrap().len();
    assert!(
        versions == 3 || !done && versions == 2,
        "{case}: {versions}"
    );
    for generation in 0..versions {
        let found = read(&store, generation as u32);
        assert_eq!(found, text(versions - generation), "{case}");
    }
}

/// Every scope has its newest version for the new key, or none has.
fn check_rekey(place: &Place, done: bool, case: &str) {
    let with = |key: &str| {
        SecureConfigStore::open(place.database(), AgeKeyFile::new(place.path(key))).unwrap()
    };
    let (both, new) = (with("new.key"), with("one.key"));
    let versions = |scope| both.history(scope).unwrap().len() as u32;
    let more = versions("litestream") - 2;
    assert_eq!(more, versions(OTHER) - 1, "{case}");
    assert!(more == 1 || !done && more == 0, "{case}: {more}");
    for generation in 0..more + 2 {
        let version = 2 - generation.saturating_sub(more) as usize;
        assert_eq!(read(&both, generation), text(version), "{case}");
    }
    for scope in ["litestream", OTHER] {
        assert_eq!(new.latest(scope).is_ok(), more == 1, "{case}");
    }
}

/// There is a whole key, or no file, and no other one that begins like it.
fn check_key(path: &Path, done: bool, case: &str) {
    let names = names_of(path);
    assert_eq!(names, vec!["made.key"; usize::from(done)], "{case}");
    if done {
        let keys = AgeKeyFile::new(path).public_keys().map(|keys| keys.len());
        assert!(matches!(keys, Ok(1)), "{case}: {keys:?}");
    }
}

/// The files beside it with its name in theirs.
fn names_of(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    names.filter(|found| found.contains(name)).collect()
}

/// It is sound, and takes another version.
fn check_database(place: &Place, case: &str) {
    let store = place.store();
    save(&store, &text(9));
    assert_eq!(read(&store, 0), text(9), "{case}");
    let check: String = place
        .connect()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok", "{case}");
}

/// Fails each operation, once and with all that follow; how many times that was, up to runs in which none failed.
fn whichever_fails(with_wal: bool, work: Work) -> usize {
    let template = template(with_wal);
    let mut total = 0;
    for errno in [Errno::EIO, Errno::ENOSPC] {
        for lasts in [Lasts::Once, Lasts::ForEver] {
            let nth = (1..).find(|nth| !fails_at(&template, work, (errno, lasts), *nth));
            total += nth.unwrap() - 1;
        }
    }
    eprintln!("{work:?}: {total} times an operation failed");
    total
}

#[test]
fn whichever_operation_fails_a_save_is_whole_or_absent_and_loses_nothing() {
    thread::scope(|scope| {
        for with_wal in [false, true] {
            scope.spawn(move || assert!(whichever_fails(with_wal, Work::Save) > 200));
        }
    });
}

#[test]
fn whichever_operation_fails_all_scopes_get_the_new_key_or_none() {
    assert!(whichever_fails(true, Work::Rekey) > 200);
}

#[test]
fn whichever_operation_fails_no_half_key_file_is_left() {
    assert!(whichever_fails(false, Work::MakeKey) >= 14);
}

/// Makes a key where the first ways to give it its name fail like this, and somebody else may be faster.
fn name_a_key(errors: &[Errno], somebody_else: Option<&[u8]>) {
    let case = format!("{errors:?} {somebody_else:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.key");
    let environment = [(FOLDER, dir.path().as_os_str()), (WHAT, "MakeKey".as_ref())];
    let mut traced = Traced::start("faults::child_that_works", &environment);
    let mut named = 0;
    let (_, report) = traced.until_a_report(|call| {
        if call.action != Action::Name {
            return None;
        }
        if let Some(text) = somebody_else {
            fs::write(&path, text).unwrap();
        }
        named += 1;
        errors.get(named - 1).copied()
    });
    traced.finish();
    assert_eq!(named, (errors.len() + 1).min(2), "{case}");
    match somebody_else {
        None => {
            assert_eq!(report.as_deref(), Some("done"), "{case}");
            check_key(&path, true, &case);
        }
        Some(text) => {
            assert_eq!(report.as_deref(), Some("refused"), "{case}");
            assert_eq!(fs::read(&path).unwrap(), text, "{case}");
            assert_eq!(names_of(&path), ["made.key"], "{case}");
        }
    }
}

#[test]
fn a_key_gets_its_name_on_every_file_system_and_never_that_of_one_made_meanwhile() {
    // One without renames that never replace, and one without hard links, either.
    for errors in [
        &[][..],
        &[Errno::EINVAL],
        &[Errno::ENOSYS, Errno::EPERM],
        &[Errno::EINVAL, Errno::EOPNOTSUPP],
    ] {
        name_a_key(errors, None);
        name_a_key(errors, Some(b"another"));
    }
}
