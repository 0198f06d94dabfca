//! A disk that fails, or loses power, while a change is made.

use std::{fs, path::Path, sync::Arc};

use evertide::{FollowError, RestoreError};
use evertide_storage::{CrashPoint, Fault, FaultDisk, OsDisk, RecordingDisk, Unsynced};

use crate::scene::{Scene, check, follow_until, options, read_copy, version};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// How many mixtures of what was not synced, beside nothing and all of it.
const MIXTURES: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_at_any_operation_delays_the_copy_and_never_tears_it() {
    let mut scene = Scene::new(1024).await;
    scene.write_durably(1).await;
    scene.follow_to_the_end().await.unwrap();
    let copy = scene.path("copy.db");
    for at in 1.. {
        scene.write_durably(1).await;
        let before = version(&copy);
        let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk)));
        disk.fail_at(at, Fault::Once, ENOSPC);
        let mut options = scene.options();
        options.restore.disk = disk.clone();
        // Whatever failed: the same run goes on by itself, or the next one does.
        match follow_until(options, move |path| version(path) > before).await {
            Ok(_) => {}
            Err(FollowError::Io { .. } | FollowError::Restore(RestoreError::Io { .. })) => {
                assert!(disk.tripped());
            }
            Err(other) => panic!("operation {at}: {other}"),
        }
        check(&copy, before);
        scene.follow_to_the_end().await.unwrap();
        scene.assert_current().await;
        if !disk.tripped() {
            assert!(at > 10, "only {at} operations were tried");
            return;
        }
    }
}

/// What a power cut can leave of pages that were being overwritten: of each what it was or what it became, and the length
/// of either.
fn mixed(before: &[u8], after: &[u8], unsynced: Unsynced) -> Vec<u8> {
    const PAGE: usize = 1024;
    let mut rng = match unsynced {
        Unsynced::Dropped => return before.to_vec(),
        Unsynced::Kept => return after.to_vec(),
        Unsynced::Mixed { seed } => fastrand::Rng::with_seed(seed),
    };
    let longest = before.len().max(after.len());
    let mut left = vec![0; longest];
    for at in (0..longest).step_by(PAGE) {
        let sources = if rng.bool() {
            [before, after]
        } else {
            [after, before]
        };
        // Beyond the end of one it can only be that of the other.
        let source = sources.into_iter().find(|source| source.len() > at);
        left[at..at + PAGE].copy_from_slice(&source.unwrap()[at..at + PAGE]);
    }
    left.truncate(if rng.bool() {
        before.len()
    } else {
        after.len()
    });
    left
}

/// What was recorded until the power went, and the copy before and then.
struct Cut {
    disk: Arc<RecordingDisk>,
    /// The pages of the copy are not written through the recorded disk. They count as unsynced until the journal goes.
    synced: bool,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Cut {
    /// The power is back: whoever reads finds a state of before the change or after it, and a follower goes on.
    async fn judge(&self, scene: &Scene, unsynced: Unsynced, states: [i64; 2]) {
        let left = tempfile::tempdir().unwrap();
        let operations = self.disk.operations();
        let point = CrashPoint {
            operations,
            unsynced,
        };
        self.disk.replay(point, left.path()).unwrap();
        let copy = left.path().join("copy.db");
        let pages = match self.synced {
            true => self.after.clone(),
            false => mixed(&self.before, &self.after, unsynced),
        };
        fs::write(&copy, pages).unwrap();
        let found = check(&copy, states[0]);
        assert!(states.contains(&found), "{found} is none of {states:?}");
        if unsynced == Unsynced::Kept {
            follow_on(scene, &copy).await;
        }
    }
}

/// Follows until the copy has everything.
async fn follow_on(scene: &Scene, copy: &Path) {
    let wanted = version(&scene.path("app.db"));
    let on = options(&scene.path("replica"), copy);
    let followed = follow_until(on, move |path| version(path) == wanted).await;
    followed.unwrap();
    check(copy, wanted);
}

/// The follower's journal is SQLite's, so a copy that lost power is mended by whoever opens it first.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_operation_leaves_a_copy_of_before_the_change_or_after_it() {
    let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
    let mut scene = Scene::new(1024).await;
    scene.write_durably(1).await;
    let folder = scene.path("copies");
    fs::create_dir(&folder).unwrap();
    let copy = folder.join("copy.db");
    follow_on(&scene, &copy).await;
    let mut changed = 0;
    for at in 1.. {
        scene.write_durably(1).await;
        let states = [version(&copy), version(&scene.path("app.db"))];
        let before = read_copy(&copy);
        let recording = Arc::new(RecordingDisk::new(&folder).unwrap());
        let disk = Arc::new(FaultDisk::new(recording.clone()));
        disk.fail_at(at, Fault::Forever, EIO);
        let mut on = options(&scene.path("replica"), &copy);
        on.restore.disk = disk.clone();
        // Ends where it is done, or when the disk is dead for good.
        let dead = Arc::clone(&disk);
        let followed = follow_until(on, move |path| dead.tripped() || version(path) == states[1]);
        let _ = followed.await;
        let gone = |operation: &String| operation == "remove copy.db-journal";
        let cut = Cut {
            synced: recording.describe().iter().any(gone),
            disk: recording,
            before,
            after: read_copy(&copy),
        };
        changed += u32::from(cut.before != cut.after);
        let mixtures = (0..MIXTURES).map(|_| Unsynced::Mixed {
            seed: random.u64(..),
        });
        for unsynced in [Unsynced::Dropped, Unsynced::Kept]
            .into_iter()
            .chain(mixtures)
        {
            cut.judge(&scene, unsynced, states).await;
        }
        follow_on(&scene, &copy).await;
        if !disk.tripped() {
            eprintln!("{at} operations, {changed} power cuts after pages had changed");
            assert!(at > 10 && changed > 1, "{at} operations, {changed}");
            return;
        }
    }
}
