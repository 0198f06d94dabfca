//! A disk that fails while a change is made.

use std::sync::Arc;

use evertide::{FollowError, RestoreError};
use evertide_storage::{Fault, FaultDisk, OsDisk};

use crate::scene::{Scene, check, follow_until, version};

const ENOSPC: i32 = 28;

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
