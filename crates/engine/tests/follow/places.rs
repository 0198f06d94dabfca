//! A copy that lies elsewhere than its path says: the journal has to be where SQLite looks for it, or nowhere.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use evertide::{Durability, ExistingOutput, FollowError, FollowReport, follow};
use evertide_storage::{Fault, FaultDisk, OsDisk};
use evertide_testkit::wait_until;
use rusqlite::Connection;
use tokio::{sync::Notify, task::JoinHandle};

use crate::scene::{Scene, follow_until, options};

const EIO: i32 = 5;

/// A follower of `copy.db`, and the disk that it changes the copy through.
struct Follower {
    task: JoinHandle<Result<FollowReport, FollowError>>,
    disk: Arc<FaultDisk>,
    /// Of the operations of a change, the one that removes the journal.
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
        let named = log.iter().rposition(|operation| *operation == "rename");
        let removed = log[named.unwrap()..]
            .iter()
            .position(|operation| *operation == "remove_file");
        let removal = (named.unwrap() + removed.unwrap() + 1) as u64;
        Self {
            task,
            disk,
            removal,
        }
    }

    /// From now on the disk dies when the journal of a change is to go.
    fn keep_the_journal(&self) {
        self.disk.fail_at(self.removal, Fault::Forever, EIO);
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
