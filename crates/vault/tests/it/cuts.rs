//! The power goes, at any operation on files, and what was not synced is there, missing or torn.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use evertide_storage::{CrashPoint, Unsynced};
use evertide_testkit::{Change, seed, wait_to_be_traced};
use evertide_vault::{AgeKeyFile, ConfigFormat, Error, KeyFileError, SecureConfigStore};
use rusqlite::Connection;

use crate::{
    FOLDER, Place, WHAT,
    recorded::{Recording, Syncs, contents, trace},
    text,
};

/// How often each operation is the last one, beside that all or nothing of what was not synced is there.
const MIXTURES: usize = 3;
const SCOPE: &str = "litestream";
const OTHER: &str = "other";

/// What a process does, and reports when it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Save(&'static str),
    Rollback,
    Rekey,
    /// The application's, with this mode.
    Checkpoint(&'static str),
}

/// Who else has the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// An application that keeps the WAL.
    BesideAnApplication,
    /// Nobody: a save is the last to close, and so checkpoints and deletes the WAL.
    Alone,
    /// Nobody, and there is none before. It gets a rollback journal.
    FromNothing,
}

impl Life {
    fn named(name: &str) -> Self {
        let lives = [Self::BesideAnApplication, Self::Alone, Self::FromNothing];
        let found = lives.into_iter().find(|life| format!("{life:?}") == name);
        found.unwrap()
    }

    fn steps(self) -> &'static [Step] {
        use Step::{Checkpoint, Create, Rekey, Rollback, Save};
        match self {
            Self::BesideAnApplication => &[
                Save(SCOPE),
                Save(OTHER),
                Checkpoint("FULL"),
                // The WAL starts over.
                Save(SCOPE),
                Rekey,
                Checkpoint("TRUNCATE"),
                Rollback,
            ],
            Self::Alone => &[Save(SCOPE), Save(OTHER), Rekey, Save(SCOPE)],
            Self::FromNothing => &[Create, Save(SCOPE), Save(OTHER), Rekey, Rollback],
        }
    }

    /// What is stored after each of so many steps, and before the first.
    fn versions(self) -> Vec<Versions> {
        let mut versions = vec![Versions::new()];
        for (index, step) in self.steps().iter().enumerate() {
            let mut next = versions[index].clone();
            match step {
                Step::Save(scope) => next.entry((*scope).into()).or_default().push(text(index)),
                Step::Rollback => {
                    let scope = next.get_mut(SCOPE).unwrap();
                    scope.push(scope[scope.len() - 2].clone());
                }
                Step::Rekey => next
                    .values_mut()
                    .for_each(|scope| scope.push(scope[scope.len() - 1].clone())),
                Step::Create | Step::Checkpoint(_) => {}
            }
            versions.push(next);
        }
        versions
    }
}

/// The versions of each scope, the oldest first.
type Versions = BTreeMap<String, Vec<String>>;

#[test]
#[ignore = "the process that the tests below start"]
fn child_that_lives() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    let life = Life::named(&std::env::var(WHAT).unwrap());
    let database = folder.join("app.db");
    let key = |name| AgeKeyFile::new(folder.join(name));
    let store = |name| SecureConfigStore::open(&database, key(name)).unwrap();
    wait_to_be_traced();
    let application = (life == Life::BesideAnApplication).then(|| {
        let application = Connection::open(&database).unwrap();
        application
            .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO notes VALUES ('open')")
            .unwrap();
        application
    });
    for (index, step) in life.steps().iter().enumerate() {
        match step {
            Step::Create => drop(SecureConfigStore::create(&database, key("age.key")).unwrap()),
            Step::Save(scope) => {
                let content = text(index);
                let saved =
                    store("age.key").save(scope, content.as_bytes(), &ConfigFormat::Toml, None);
                drop(saved.unwrap());
            }
            Step::Rollback => drop(store("new.key").rollback(SCOPE, 1).unwrap()),
            Step::Rekey => drop(store("new.key").rekey().unwrap()),
            Step::Checkpoint(mode) => application
                .as_ref()
                .unwrap()
                .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
                .unwrap(),
        }
        eprintln!("done");
    }
}

/// A life with everything that is needed to cut it short anywhere.
fn record(life: Life, syncs: Syncs) -> Recording {
    let place = Place::new();
    let old = fs::read_to_string(place.key().path()).unwrap();
    AgeKeyFile::new(place.path("one.key")).generate().unwrap();
    let one = fs::read_to_string(place.path("one.key")).unwrap();
    place.key_file("new.key", format!("{one}{old}"));
    if life == Life::FromNothing {
        fs::remove_file(place.database()).unwrap();
    }
    let life = format!("{life:?}");
    trace("cuts::child_that_lives", place.dir.path(), &[(WHAT, &life)]).record(syncs)
}

/// Cuts the power everywhere, and gives what is wrong then, and how many different folders were left.
fn cut_everywhere(
    recording: &Recording,
    mut check: impl FnMut(&Path, usize) -> Result<(), String>,
) -> (Vec<String>, usize) {
    let mut random = fastrand::Rng::with_seed(seed());
    let (mut wrong, mut seen) = (Vec::new(), HashSet::new());
    for operations in 0..=recording.operations() {
        let reported = recording.reports_before(operations);
        let mixtures: Vec<_> = (0..MIXTURES)
            .map(|_| Unsynced::Mixed {
                seed: random.u64(..),
            })
            .collect();
        for unsynced in [vec![Unsynced::Dropped, Unsynced::Kept], mixtures].concat() {
            let point = CrashPoint {
                operations,
                unsynced,
            };
            let left = recording.cut(point);
            let mut hasher = DefaultHasher::new();
            contents(left.path()).hash(&mut hasher);
            if !seen.insert((reported, hasher.finish())) {
                continue;
            }
            if let Err(what) = check(left.path(), reported) {
                wrong.push(format!("{what}: {}", recording.describe(point)));
            }
        }
    }
    (wrong, seen.len())
}

/// All that can be read, whatever key it is encrypted to.
fn versions(folder: &Path) -> Result<Versions, Error> {
    let key = AgeKeyFile::new(folder.join("new.key"));
    let store = match SecureConfigStore::open(folder.join("app.db"), key) {
        Err(Error::DatabaseMissing { .. }) => return Ok(Versions::new()),
        store => store?,
    };
    let scopes = match store.scopes() {
        Err(Error::NoTable { .. }) => return Ok(Versions::new()),
        scopes => scopes?,
    };
    let mut versions = Versions::new();
    for scope in scopes {
        for info in store.history(&scope)?.iter().rev() {
            let config = store.get(&scope, info.generation)?;
            let content = config.content.as_str().unwrap().to_owned();
            versions.entry(scope.clone()).or_default().push(content);
        }
    }
    Ok(versions)
}

/// What was reported is there and whole, and what was under way as well, or not at all; the database is sound, and takes
/// another version.
fn check_store(folder: &Path, reported: usize, states: &[Versions]) -> Result<(), String> {
    let found = versions(folder).map_err(|error| error.to_string())?;
    if !states
        .iter()
        .skip(reported)
        .take(2)
        .any(|state| *state == found)
    {
        let found: Vec<_> = found.values().map(Vec::len).collect();
        return Err(format!("{reported} steps reported and {found:?} versions"));
    }
    let database = folder.join("app.db");
    let key = AgeKeyFile::new(folder.join("new.key"));
    let store = SecureConfigStore::create(&database, key).map_err(|error| error.to_string())?;
    let saved = store.save(SCOPE, b"more", &ConfigFormat::Toml, None);
    let count = saved.map_err(|error| error.to_string())?.versions as usize;
    if count != found.get(SCOPE).map_or(0, Vec::len) + 1 {
        return Err(format!("{count} versions with another one"));
    }
    let integrity: String = Connection::open(database)
        .and_then(|connection| connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .map_err(|error| error.to_string())?;
    match integrity.as_str() {
        "ok" => Ok(()),
        _ => Err(integrity),
    }
}

fn cut_life(life: Life, syncs: Syncs) -> Vec<String> {
    let recording = record(life, syncs);
    let states = life.versions();
    let last = recording.operations();
    assert_eq!(recording.reports_before(last), life.steps().len());
    let check = |folder: &Path, reported| check_store(folder, reported, &states);
    let (wrong, left) = cut_everywhere(&recording, check);
    eprintln!("{life:?}: {last} operations, {left} different folders left");
    assert!(left > last, "few power cuts made a difference");
    wrong
}

#[test]
fn a_power_cut_at_any_operation_beside_an_application_takes_no_version_that_was_reported_and_leaves_no_half_one()
 {
    assert_eq!(cut_life(Life::BesideAnApplication, Syncs::Done), [""; 0]);
}

#[test]
fn a_power_cut_at_any_operation_where_each_save_deletes_the_wal_takes_no_version_that_was_reported()
{
    assert_eq!(cut_life(Life::Alone, Syncs::Done), [""; 0]);
}

#[test]
fn a_power_cut_at_any_operation_of_a_store_made_from_nothing_takes_no_version_that_was_reported() {
    assert_eq!(cut_life(Life::FromNothing, Syncs::Done), [""; 0]);
}

#[test]
fn a_disk_that_only_says_it_synced_fails_the_tests_above() {
    let wrong = cut_life(Life::Alone, Syncs::Ignored);
    assert!(wrong.iter().any(|what| what.contains("steps reported")));
}

#[test]
#[ignore = "the process that the test below starts"]
fn child_that_makes_a_key() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return; // by itself, not a test
    };
    wait_to_be_traced();
    AgeKeyFile::new(folder.join("made.key")).generate().unwrap();
    eprintln!("made");
}

/// There is the whole key, or none, and whoever makes one then gets one, and leaves nothing else.
fn check_key(folder: &Path, reported: usize, whole: &[u8]) -> Result<(), String> {
    let key = AgeKeyFile::new(folder.join("made.key"));
    let found = match fs::read(key.path()) {
        Ok(text) if text == whole => true,
        Ok(text) => return Err(format!("a key file of {} bytes", text.len())),
        Err(_) if reported > 0 => return Err("no key".into()),
        Err(_) => false,
    };
    match key.generate() {
        Err(KeyFileError::Exists { .. }) if found => {}
        Ok(_) if !found => {}
        other => return Err(format!("{other:?}")),
    }
    key.public_keys().map_err(|error| error.to_string())?;
    let names: Vec<_> = contents(folder).into_keys().collect();
    match names == ["made.key"] {
        true => Ok(()),
        false => Err(format!("{names:?}")),
    }
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_whole_key_or_none_and_takes_none_that_was_reported() {
    let dir = tempfile::tempdir().unwrap();
    let made = trace("cuts::child_that_makes_a_key", dir.path(), &[]);
    for change in &made.changes {
        // Before the key is written to it, nobody else can read the file.
        assert!(!matches!(change, Change::Create { mode, .. } if *mode != 0o600));
    }
    let whole = fs::read(dir.path().join("made.key")).unwrap();
    let check = |folder: &Path, reported| check_key(folder, reported, &whole);
    let (wrong, left) = cut_everywhere(&made.record(Syncs::Done), check);
    assert_eq!(wrong, [""; 0]);
    assert!(left >= 4, "{left}");
    let (wrong, _) = cut_everywhere(&made.record(Syncs::Ignored), check);
    assert!(
        wrong.iter().any(|what| what.starts_with("no key")),
        "{wrong:?}"
    );
}
