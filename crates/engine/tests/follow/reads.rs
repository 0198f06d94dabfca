//! The N-th read of a file fails while a replica is followed, for every N until a run is clean, or the N-th operation
//! of a disk and all after it: the copy is whole all the time, and current once the store or the disk is mended.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use evertide::{FollowError, FollowEvent, RestoreError, follow};
use evertide_storage::{Fault, FaultClient, FaultDisk, OsDisk, ReadFault, failing_runs};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::scene::{Scene, check, connect, follow_until, options, version};

const EIO: i32 = 5;
/// Runs at a time: they wait more than they work.
const AT_ONCE: usize = 8;

/// A replica as it was first, and what came later, to be followed again and again.
struct Replica {
    scene: Scene,
    first: PathBuf,
    later: Vec<PathBuf>,
    /// The versions of the database.
    versions: [i64; 2],
}

fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

fn level_0(replica: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(replica.join("ltx/0")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

impl Replica {
    async fn new() -> Self {
        let mut scene = Scene::new(1024).await;
        scene.write_durably(2).await;
        let first = scene.path("first");
        copy_all(&scene.path("replica"), &first);
        let before = version(&scene.path("app.db"));
        scene.write_durably(2).await;
        let mut later = level_0(&scene.path("replica"));
        let known = level_0(&first);
        later.retain(|path| {
            !known
                .iter()
                .any(|known| known.ends_with(path.file_name().unwrap()))
        });
        assert_eq!(later.len(), 2);
        Self {
            versions: [before, version(&scene.path("app.db"))],
            scene,
            first,
            later,
        }
    }

    /// What came later arrives in a replica, in order.
    fn arrive(&self, replica: &Path) {
        for path in &self.later {
            let name = path.file_name().unwrap();
            let temporary = replica.join(name);
            fs::copy(path, &temporary).unwrap();
            fs::rename(temporary, replica.join("ltx/0").join(name)).unwrap();
        }
    }

    /// Follows from the first restore on; whether it came to the N-th read.
    async fn read_fails(&self, n: u64, how: ReadFault, lasts: Fault) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let (replica, copy) = (dir.path().join("replica"), dir.path().join("copy.db"));
        copy_all(&self.first, &replica);
        let client = Arc::new(FaultClient::new(connect(&replica)));
        client.fail_read_at(n, how, lasts);

        let followed = loop {
            match self.follow(client.clone(), &replica, &copy).await {
                Ok(told) => break told,
                // The first restore.
                Err(FollowError::Restore(error @ RestoreError::Interrupted { .. })) => {
                    assert_eq!(lasts, Fault::Forever, "{n} {how:?}: {error}");
                    let text = error.to_string();
                    assert!(client.is_named_in(&text), "{n} {how:?}: {text}");
                    assert!(!copy.exists(), "{n} {how:?}: half of a copy");
                    client.heal();
                }
                Err(error) => panic!("{n} {how:?}: {error}"),
            }
        };
        match followed {
            Some(error) => {
                assert_eq!(lasts, Fault::Forever, "{n} {how:?}: {error}");
                assert!(client.is_named_in(&error), "{n} {how:?}: {error}");
            }
            None => assert_eq!(check(&copy, 0), self.versions[1]),
        }
        client.tripped()
    }

    /// Follows from the first restore on; whether it came to the N-th request.
    async fn refused(&self, n: u64, lasts: Fault) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let (replica, copy) = (dir.path().join("replica"), dir.path().join("copy.db"));
        copy_all(&self.first, &replica);
        let client = Arc::new(FaultClient::new(connect(&replica)));
        client.refuse_request_at(n, lasts);
        loop {
            match self.follow(client.clone(), &replica, &copy).await {
                Ok(_) => break,
                Err(FollowError::Restore(error)) => {
                    assert!(client.tripped(), "{n}: {error}");
                    assert!(client.is_named_in(&error.to_string()), "{n}: {error}");
                    assert!(!copy.exists(), "{n}: half of a copy");
                    client.heal();
                }
                Err(error) => panic!("{n}: {error}"),
            }
        }
        assert_eq!(check(&copy, 0), self.versions[1]);
        client.tripped()
    }

    /// Follows until the copy is current, and mends the store when it was told that something failed; what.
    async fn follow(
        &self,
        client: Arc<FaultClient>,
        replica: &Path,
        copy: &Path,
    ) -> Result<Option<String>, FollowError> {
        let mut on = options(replica, copy);
        on.restore.replica = client.clone();
        let restored = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(Mutex::new(None));
        let (told, tells) = (Arc::clone(&restored), Arc::clone(&failed));
        let on = on.on_event(move |event| match event {
            FollowEvent::Restored(_) => told.store(true, Ordering::SeqCst),
            FollowEvent::Failed { error, .. } => {
                tells.lock().unwrap().get_or_insert(error.to_string());
            }
            _ => {}
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let following = tokio::spawn(follow(on, async {
            let _ = stopped.await;
        }));
        let wait_for = async |done: &dyn Fn() -> bool| {
            while !following.is_finished() && !done() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        wait_for(&|| restored.load(Ordering::SeqCst)).await;
        if !following.is_finished() {
            self.arrive(replica);
            let mended = || {
                let fails = failed.lock().unwrap().is_some();
                if fails {
                    check(copy, self.versions[0]);
                    client.heal();
                }
                fails || version(copy) == self.versions[1]
            };
            wait_for(&mended).await;
            wait_for(&|| version(copy) == self.versions[1]).await;
        }
        let _ = stop.send(());
        following.await.unwrap()?;
        let failed = failed.lock().unwrap().take();
        Ok(failed)
    }

    /// Follows a copy on a disk that is dead from the N-th operation on, and then on the mended one; whether it came to
    /// that operation.
    async fn disk_stays_dead(&self, n: u64, template: &Path) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("copies");
        copy_all(template, &folder);
        let copy = folder.join("copy.db");
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.fail_at(n, Fault::Forever, EIO);
        let mut on = options(&self.scene.path("replica"), &copy);
        on.restore.disk = disk.clone();
        let wanted = self.versions[1];
        let dead = Arc::clone(&disk);
        let done = move |path: &Path| !dead.tripped() && version(path) == wanted;
        let again = on.clone();
        match follow_until(on, done).await {
            // What is removed at the very end may stay.
            Ok(_) => assert_eq!(version(&copy), wanted, "operation {n}"),
            Err(FollowError::Io { path, .. }) => {
                assert!(disk.tripped() && path.starts_with(&folder), "operation {n}");
            }
            Err(other) => panic!("operation {n}: {other}"),
        }
        check(&copy, self.versions[0]);
        disk.heal();
        let followed = follow_until(again, move |path| version(path) == wanted).await;
        followed.unwrap();
        check(&copy, wanted);
        disk.tripped()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_read_fails_a_followed_copy_stays_whole_and_becomes_current_once_the_store_works()
{
    let replica = Replica::new().await;
    let runs = ReadFault::each().map(|(how, lasts)| {
        let replica = &replica;
        failing_runs(AT_ONCE, move |n| replica.read_fails(n, how, lasts))
    });
    for reads in join_all(runs).await {
        assert!(reads > 4, "only {reads} reads");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_request_is_refused_a_followed_copy_stays_whole_and_becomes_current_once_the_store_works()
 {
    let replica = Replica::new().await;
    for lasts in [Fault::Once, Fault::Forever] {
        let requests = failing_runs(AT_ONCE, |n| replica.refused(n, lasts)).await;
        assert!(requests > 8, "only {requests} before the copy is current");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_dead_ends_the_following_with_the_file_and_the_mended_one_goes_on() {
    let replica = Replica::new().await;
    let template = replica.scene.path("copies");
    fs::create_dir(&template).unwrap();
    let begun = options(&replica.first, &template.join("copy.db"));
    let before = replica.versions[0];
    let followed = follow_until(begun, move |path| version(path) == before).await;
    followed.unwrap();
    let run = |n| replica.disk_stays_dead(n, &template);
    let operations = failing_runs(AT_ONCE, run).await;
    assert!(operations > 10, "only {operations} operations");
}
