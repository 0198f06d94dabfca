//! A power cut while files of Litestream 0.3 are restored.

use std::{fs, sync::Arc};

use evertide::{RestoreOptions, RestoreTarget};
use evertide_storage::RecordingDisk;

use crate::{
    damage::copied,
    scene::{connect, restore},
};

#[tokio::test]
async fn after_a_power_cut_there_is_all_that_litestream_0_3_had_or_nothing() {
    let (dir, _) = copied();
    let (replica, expected) = (dir.path().join("replica"), dir.path().join("expected.db"));
    restore(&replica, &expected, RestoreTarget::Latest)
        .await
        .unwrap();
    let expected = fs::read(expected).unwrap();
    let folder = dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    let disk = Arc::new(RecordingDisk::new(&folder).unwrap());
    let mut options = RestoreOptions::new(connect(&replica), folder.join("app.db"));
    options.disk = disk.clone();
    evertide::restore(options).await.unwrap();
    let done = disk.operations();
    let (mut whole, mut absent) = (0, 0);
    for point in disk.crash_points(20) {
        let after = tempfile::tempdir().unwrap();
        disk.replay(point, after.path()).unwrap();
        match fs::read(after.path().join("app.db")) {
            Ok(content) => {
                assert!(content == expected, "{point:?}: {:#?}", disk.describe());
                whole += 1;
            }
            // Once it is reported it stays.
            Err(_) => {
                assert!(point.operations < done, "{point:?}: it is gone");
                absent += 1;
            }
        }
    }
    assert!(whole > 0 && absent > 0, "{whole} whole, {absent} absent");
}
