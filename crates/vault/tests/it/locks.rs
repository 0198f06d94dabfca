//! Inside the application's process: its locks survive whatever the store does.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

use evertide_testkit::{
    another_process_can_truncate, another_process_can_write, another_process_finds_it_open,
    another_process_finds_locks_of,
};
use evertide_vault::{AgeKeyFile, Error, KeyFileError, SecureConfigStore};
use rusqlite::Connection;

use crate::{Place, read, save};

/// Of SQLite: the first byte that whoever has the database open has locked in it.
const SHARED_FIRST: u32 = 0x4000_0002;
/// Of the wal-index: the lock of whoever writes, and those of readers.
const WRITER: u32 = 120;
const READERS: std::ops::Range<u32> = 123..128;

/// The locks of the application, which another process has to find as long as the application does not let go.
struct Locks {
    database: PathBuf,
    index: PathBuf,
    held: Vec<Lock>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lock {
    /// That of whoever has the database open, in the file itself.
    Database,
    Index(u32),
}

impl Locks {
    /// Those that this process has now: that of the database, that of a reader, and that of the writer if there is one.
    fn of(place: &Place, writes: bool) -> Self {
        let mut locks = Self {
            database: place.database(),
            index: place.path("app.db-shm"),
            held: Vec::new(),
        };
        let mut all = vec![Lock::Database, Lock::Index(WRITER)];
        all.extend(READERS.map(Lock::Index));
        locks.held = locks.found(&all);
        let has = |lock| locks.held.contains(&lock);
        assert!(has(Lock::Database), "{:?}", locks.held);
        assert_eq!(has(Lock::Index(WRITER)), writes, "{:?}", locks.held);
        let readers = READERS.filter(|reader| has(Lock::Index(*reader))).count();
        assert!(readers > 0, "{:?}", locks.held);
        locks
    }

    /// Those of these that this process has.
    fn found(&self, locks: &[Lock]) -> Vec<Lock> {
        let place = |lock: &Lock| match lock {
            Lock::Database => (self.database.as_path(), SHARED_FIRST),
            Lock::Index(byte) => (self.index.as_path(), *byte),
        };
        let places: Vec<(&Path, u32)> = locks.iter().map(place).collect();
        let owners = another_process_finds_locks_of(&places);
        let own = Some(std::process::id().cast_signed());
        let all = locks.iter().zip(owners);
        all.filter(|(_, owner)| *owner == own)
            .map(|(lock, _)| *lock)
            .collect()
    }

    fn check(&self, after: &str) {
        assert_eq!(self.found(&self.held), self.held, "after {after}");
    }
}

/// A call of the store.
type Call = Box<dyn Fn() -> Result<(), Error> + Send>;

/// A database with two versions and some files beside it, and the application with a reader in it.
struct Scene {
    place: Place,
    application: Connection,
    reader: Connection,
    store: SecureConfigStore,
    stranger: SecureConfigStore,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        // As a key file is: nothing but what it is keeps it from being read as one.
        fs::set_permissions(place.database(), fs::Permissions::from_mode(0o600)).unwrap();
        let store = place.store();
        save(&store, "one");
        save(&store, "two");
        let stranger = place.stranger();
        let (application, reader) = (place.connect(), place.connect());
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM notes")
            .unwrap();
        Self {
            place,
            application,
            reader,
            store,
            stranger,
        }
    }

    fn open(&self, database: &str, key: &str) -> Result<SecureConfigStore, Error> {
        let (database, key) = (self.place.path(database), self.place.path(key));
        SecureConfigStore::open(database, AgeKeyFile::new(key))
    }

    /// Every call that reads, and every one that is refused whatever the application does.
    fn read_and_be_refused(&self, locks: &Locks) {
        let (store, stranger) = (&self.store, &self.stranger);
        locks.check("nothing");
        assert_eq!(store.latest("litestream").unwrap().info.generation, 0);
        locks.check("the latest");
        assert_eq!(read(&self.place.store(), 1), "one");
        locks.check("one of before");
        assert_eq!(store.scopes().unwrap(), ["litestream"]);
        locks.check("the scopes");
        assert_eq!(store.history("litestream").unwrap().len(), 2);
        locks.check("the history");

        assert!(matches!(
            stranger.get("litestream", 0),
            Err(Error::WrongKey { .. })
        ));
        locks.check("a wrong key");
        assert!(store.get("litestream", 7).is_err() && store.history("other").is_err());
        locks.check("one that is not there");
        let without = self.open("app.db", "no.key").unwrap();
        assert!(without.get("litestream", 0).is_err() && without.rekey().is_err());
        locks.check("no key");
        assert!(self.open("no.db", "age.key").is_err());
        locks.check("no database");
        for name in ["app.db", "app.db-wal", "app.db-shm"] {
            for refused in [
                self.open("app.db", name).map(drop),
                SecureConfigStore::create(
                    self.place.database(),
                    AgeKeyFile::new(self.place.path(name)),
                )
                .map(drop),
            ] {
                let is_said = matches!(
                    refused,
                    Err(Error::KeyFile(KeyFileError::IsTheDatabase { .. }))
                );
                assert!(is_said, "{name}: {refused:?}");
            }
            let refused = AgeKeyFile::new(self.place.path(name)).generate();
            assert!(matches!(refused, Err(KeyFileError::Exists { .. })));
            locks.check(&format!("{name} as the key file"));
        }
        assert!(store.save("", b"three", &Default::default(), None).is_err());
        assert!(store.rollback("litestream", 0).is_err());
        locks.check("what is not even tried");
    }

    /// Every call that writes, each with its name.
    fn writing(&self) -> [(&'static str, Call); 5] {
        let clone = || self.store.clone();
        let (saves, rolls, rekeys, rekeys_one) = (clone(), clone(), clone(), clone());
        let (database, key) = (self.place.database(), self.place.key());
        [
            (
                "a save",
                Box::new(move || {
                    let saved = saves.save("litestream", b"three", &Default::default(), None);
                    saved.map(drop)
                }),
            ),
            (
                "a rollback",
                Box::new(move || rolls.rollback("litestream", 1).map(drop)),
            ),
            ("a new key", Box::new(move || rekeys.rekey().map(drop))),
            (
                "a new key of a scope",
                Box::new(move || rekeys_one.rekey_scope("litestream").map(drop)),
            ),
            (
                "making what is there",
                Box::new(move || SecureConfigStore::create(&database, key.clone()).map(drop)),
            ),
        ]
    }
}

#[test]
fn the_applications_locks_survive_every_call_also_one_that_fails() {
    let scene = Scene::new();
    let database = scene.place.database();
    assert!(another_process_can_write(&database));
    let application = &scene.application;
    application
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO notes VALUES ('open');")
        .unwrap();
    let locks = Locks::of(&scene.place, true);
    scene.read_and_be_refused(&locks);
    // All at once: each waits for five seconds.
    let busy = scene
        .writing()
        .map(|(name, call)| (name, thread::spawn(call)));
    for (name, call) in busy {
        let result = call.join().unwrap();
        assert!(
            matches!(result, Err(Error::Busy { .. })),
            "{name}: {result:?}"
        );
    }
    locks.check("writing that waited in vain");
    assert!(!another_process_can_write(&database));
    application.execute_batch("COMMIT").unwrap();

    // The reader stays while the store writes.
    let locks = Locks::of(&scene.place, false);
    scene.read_and_be_refused(&locks);
    for (name, call) in scene.writing() {
        call().unwrap_or_else(|error| panic!("{name}: {error}"));
        locks.check(name);
    }
    assert!(scene.stranger.rekey().is_err() && scene.stranger.rollback("litestream", 1).is_err());
    locks.check("writing with a wrong key");
    assert!(!another_process_can_truncate(&database));

    // That this test can fail: descriptors closed by hand do drop the locks.
    drop(fs::File::open(scene.place.path("app.db-shm")).unwrap());
    assert_eq!(locks.found(&locks.held), [Lock::Database]);
    assert!(another_process_can_truncate(&database));
    drop(fs::File::open(&database).unwrap());
    assert!(!another_process_finds_it_open(&database));
    drop(scene.reader);
}

#[test]
fn a_save_waits_for_the_applications_transaction() {
    let place = Place::new();
    let application = place.connect();
    application
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO notes VALUES ('open');")
        .unwrap();
    let store = place.store();
    let saver = thread::spawn(move || save(&store, "text"));
    thread::sleep(std::time::Duration::from_millis(200));
    assert!(!saver.is_finished());
    application.execute_batch("COMMIT").unwrap();
    assert_eq!(saver.join().unwrap().versions, 1);
}
