//! A copy that lies elsewhere than its path says: the journal has to be where SQLite looks for it, or nowhere.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use evertide::{Durability, ExistingOutput, FollowError, FollowReport, follow};
use evertide_storage::{Fault, FaultDisk, OsDisk};
use evertide_testkit::wait_until;
use rusqlite::Connection;
use tokio::{sync::Notify, task::JoinHandle};

use crate::scene::{Scene, follow_until, options, read_copy};

const EIO: i32 = 5;

/// A follower of `copy.db`, and the disk that it changes the copy through.
struct Follower {
    task: JoinHandle<Result<FollowReport, FollowError>>,
    disk: Arc<FaultDisk>,
    /// Of the operations of a change, the one that gives the position its name, and the one that removes the journal.
    position: u64,
    removal: u64,
}

impl Follower {
    /// Has it make one change, to see what that takes.
    async fn start(scene: &Scene) -> Self {
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        let ready = Arc::new(Notify::new());
        let tell = Arc::clone(&ready);
        let mut options = scene.options().on_event(move |_| tell.notify_one());
        options.restore.disk = disk.clone();
        let task = tokio::spawn(follow(options, std::future::pending()));
        ready.notified().await;
        disk.fail_at(u64::MAX, Fault::Once, EIO);
        let wanted = change(scene).await;
        let copy = scene.path("copy.db");
        wait_until(Duration::from_secs(20), "the change", || {
            counter(&copy) == wanted
        });
        let log = disk.log();
        let renames = log
            .iter()
            .enumerate()
            .filter(|(_, name)| **name == "rename");
        let [position, journal] = renames.map(|(at, _)| at).collect::<Vec<_>>()[..] else {
            panic!("another order: {log:?}");
        };
        let removed = log[journal..]
            .iter()
            .position(|name| *name == "remove_file");
        Self {
            task,
            disk,
            position: position as u64 + 1,
            removal: (journal + removed.unwrap()) as u64 + 1,
        }
    }

    /// From now on the disk dies when the journal of a change is to go.
    fn keep_the_journal(&self) {
        self.disk.fail_at(self.removal, Fault::Forever, EIO);
    }

    /// Does this in the middle of the next change, right before the lock is asked for.
    fn within(&self, action: impl Fn() + Send + 'static) {
        self.disk.call_at(self.position, move |_| action());
    }

    /// How it ends.
    async fn error(self) -> FollowError {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.unwrap().unwrap().unwrap_err()
    }
}

/// A database and a copy of it, with a table in which each change is of one page.
async fn scene() -> Scene {
    let mut scene = Scene::new(4096).await;
    scene.write_durably(2).await;
    let table = "CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)";
    scene.source.execute_batch(table).unwrap();
    change(&scene).await;
    scene.follow_to_the_end().await.unwrap();
    scene
}

/// Changes the source, and returns what the counter is then.
async fn change(scene: &Scene) -> i64 {
    let add = "UPDATE counter SET n = n + 1";
    scene.source.execute_batch(add).unwrap();
    scene.backup.wait_durable(Durability::All).await.unwrap();
    counter(&scene.path("app.db"))
}

fn counter(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let read = connection.query_row("SELECT n FROM counter", [], |row| row.get(0));
    read.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_cut_short_is_undone_by_whoever_reads_a_copy_that_is_followed_through_a_link() {
    let scene = scene().await;
    let (link, folder) = (scene.path("copy.db"), scene.path("elsewhere"));
    let copy = folder.join("copy.db");
    fs::create_dir(&folder).unwrap();
    fs::rename(&link, &copy).unwrap();
    // What moves along may also stay.
    let position = ".copy.db-evertide-follow";
    fs::copy(scene.path(position), folder.join(position)).unwrap();
    symlink(&copy, &link).unwrap();

    let follower = Follower::start(&scene).await;
    let before = counter(&copy);
    follower.keep_the_journal();
    change(&scene).await;
    let error = follower.error().await;
    assert!(matches!(error, FollowError::Io { .. }), "{error}");
    assert!(!scene.path("copy.db-journal").exists());
    assert!(folder.join("copy.db-journal").exists());
    assert_eq!(counter(&link), before, "the reader has not undone it");
    assert!(!folder.join("copy.db-journal").exists());
    scene.follow_to_the_end().await.unwrap();
    assert!(link.is_symlink());
    scene.assert_current().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_stays_one_when_what_it_leads_to_is_replaced_by_a_copy() {
    let scene = scene().await;
    let (link, other) = (scene.path("linked.db"), scene.path("other.db"));
    fs::write(&other, "no copy").unwrap();
    symlink(&other, &link).unwrap();
    let mut options = options(&scene.path("replica"), &link);
    let refused = follow(options.clone(), std::future::pending()).await;
    assert!(matches!(refused, Err(FollowError::NotACopy(_))));
    options.restore.existing = ExistingOutput::Replace;
    follow_until(options, |_| true).await.unwrap();
    assert!(link.is_symlink());
    assert_eq!(counter(&other), counter(&scene.path("app.db")));
}

/// When another database gets the path.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Moment {
    BeforeAChange,
    BeforeAChangeThatKeepsItsJournal,
    WithinAChange,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_put_in_the_place_of_a_followed_copy_gets_neither_its_journal_nor_its_pages() {
    let scene = scene().await;
    let (copy, other) = (scene.path("copy.db"), scene.path("other.db"));
    let position = scene.path(".copy.db-evertide-follow");
    let precious = "CREATE TABLE precious (x); INSERT INTO precious VALUES (randomblob(900000))";
    for moment in [
        Moment::BeforeAChange,
        Moment::BeforeAChangeThatKeepsItsJournal,
        Moment::WithinAChange,
    ] {
        let connection = Connection::open(&other).unwrap();
        connection.execute_batch(precious).unwrap();
        drop(connection);
        let before = fs::read(&other).unwrap();
        let follower = Follower::start(&scene).await;
        let at_rest = fs::read(&position).unwrap();
        let replace = {
            let (other, copy) = (other.clone(), copy.clone());
            move || fs::rename(&other, &copy).unwrap()
        };
        match moment {
            Moment::BeforeAChange => replace(),
            Moment::BeforeAChangeThatKeepsItsJournal => {
                replace();
                follower.keep_the_journal();
            }
            Moment::WithinAChange => follower.within(replace),
        }
        change(&scene).await;
        let error = follower.error().await;
        assert!(
            matches!(error, FollowError::Changed(_)),
            "{moment:?}: {error}"
        );
        assert!(!scene.path("copy.db-journal").exists(), "{moment:?}");
        // SQLite would play any journal into it.
        let reader = Connection::open(&copy).unwrap();
        reader.execute_batch("SELECT * FROM precious").unwrap();
        drop(reader);
        assert!(read_copy(&copy) == before, "another content: {moment:?}");
        if moment != Moment::WithinAChange {
            assert!(fs::read(&position).unwrap() == at_rest, "{moment:?}");
        }
        let mut again = scene.options();
        again.restore.existing = ExistingOutput::Replace;
        follow_until(again, |_| true).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_moved_away_is_changed_no_more_whether_a_link_leads_there_or_not() {
    let scene = scene().await;
    let (copy, moved) = (scene.path("copy.db"), scene.path("moved.db"));
    for linked in [false, true] {
        let follower = Follower::start(&scene).await;
        fs::rename(&copy, &moved).unwrap();
        if linked {
            symlink(&moved, &copy).unwrap();
        }
        let before = read_copy(&moved);
        change(&scene).await;
        let error = follower.error().await;
        assert!(matches!(error, FollowError::Changed(_)), "{error}");
        assert!(read_copy(&moved) == before, "another content");
        fs::rename(&moved, &copy).unwrap();
        scene.follow_to_the_end().await.unwrap();
        scene.assert_current().await;
    }
}

#[tokio::test]
async fn a_copy_and_all_that_a_follower_writes_beside_it_are_its_owners_alone() {
    let mut scene = Scene::new(4096).await;
    for _ in 0..2 {
        scene.follow_to_the_end().await.unwrap();
        let beside = scene.beside_copy();
        assert!(beside.len() > 1, "{beside:?}");
        for name in beside {
            let found = fs::metadata(scene.path(&name)).unwrap();
            assert_eq!(found.mode() & 0o777, 0o600, "{name}");
        }
        scene.write_durably(3).await;
    }
}
