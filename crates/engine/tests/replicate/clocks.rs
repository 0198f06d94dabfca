//! Clocks that are set while a database is replicated.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{Destination, RestoreOptions, RestoreTarget, restore};
use evertide_storage::{ManualClock, OsDisk};
use evertide_testkit::{litestream_command, replica_url};
use humantime::format_rfc3339_micros;
use rusqlite::Connection;

use crate::{DEADLINE, Scene, durable, insert};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn rows(db: &Path) -> i64 {
    let conn = Connection::open(db).unwrap();
    let count = "SELECT count(*) FROM t";
    conn.query_row(count, [], |row| row.get(0)).unwrap()
}

/// How many rows Evertide restores of a time.
async fn rows_at(scene: &Scene, time: SystemTime) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("restored.db");
    let client = Destination::file(&scene.replica).unwrap();
    let mut options = RestoreOptions::new(client.connect(Arc::new(OsDisk)).unwrap(), &output);
    options.target = RestoreTarget::Timestamp(time);
    restore(options).await.unwrap();
    rows(&output)
}

/// How many rows the official Litestream restores of a time.
fn rows_at_by_litestream(scene: &Scene, time: SystemTime) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("restored.db");
    let time = format_rfc3339_micros(time).to_string();
    let mut litestream = litestream_command();
    litestream
        .args(["restore", "-timestamp", &time, "-o"])
        .arg(&output);
    let ended = litestream
        .arg(replica_url(&scene.replica))
        .output()
        .unwrap();
    assert!(ended.status.success(), "{time}: {ended:?}");
    rows(&output)
}

/// A restore to a point in time goes by the times of the files.
#[tokio::test]
async fn a_clock_that_stepped_back_between_two_starts_does_not_mix_up_the_times_of_files() {
    let (scene, conn) = Scene::with_rows(10);
    let minutes =
        |minutes: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + minutes * 60);
    for minute in [5, 1, 2, 6] {
        let clock = Arc::new(ManualClock::new(minutes(minute)));
        let backup = scene.builder().clock(clock).build().unwrap();
        backup.start().await.unwrap();
        insert(&conn, 1);
        durable(&backup).await;
        backup.stop(DEADLINE).await.unwrap();
    }
    let mut times: Vec<_> = scene
        .objects()
        .iter()
        .map(|(level, name, _)| {
            let file = scene.replica.join("ltx").join(level).join(name);
            let newest = name.split('-').next_back().unwrap().to_owned();
            (newest, file.metadata().unwrap().modified().unwrap())
        })
        .collect();
    times.sort();
    assert!(times.is_sorted_by_key(|(_, time)| *time), "{times:?}");
    assert_eq!(times.last().unwrap().1, minutes(6));
}

/// Everything that goes by time would wait until the clock has caught up.
#[tokio::test]
async fn one_moment_of_a_clock_that_is_ahead_holds_up_nothing_once_it_is_right() {
    let (scene, conn) = Scene::with_rows(10);
    // All of it is in the past of those who restore, too, but for that moment.
    let start = SystemTime::now() - 10 * DAY;
    let clock = Arc::new(ManualClock::new(start));
    let backup = scene.builder().clock(clock.clone()).build().unwrap();
    backup.start().await.unwrap();
    durable(&backup).await;
    clock.set(start + 3_650 * DAY);
    insert(&conn, 1);
    durable(&backup).await;
    let right = |hour: u32| start + hour * HOUR;
    for hour in 1..=48 {
        clock.set(right(hour));
        insert(&conn, 1);
        durable(&backup).await;
        if hour == 1 {
            assert_eq!(
                rows_at(&scene, right(1)).await,
                12,
                "nothing is compacted yet"
            );
        }
    }
    let files = |level: &str| {
        let folder = scene.replica.join("ltx").join(level);
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    let maintained = async {
        // Beside the first snapshot.
        while files("9") < 2 || files("1") < 40 || files("0") > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, maintained).await.is_err() {
        panic!("it is never maintained: {:#?}", scene.objects());
    }
    for hour in [2, 24, 25, 47, 48] {
        let expected = 11 + i64::from(hour);
        assert_eq!(rows_at(&scene, right(hour)).await, expected, "hour {hour}");
    }
    // To Litestream a file of exactly that time is too new.
    let after = right(47) + Duration::from_millis(1);
    assert_eq!(rows_at_by_litestream(&scene, after), 11 + 47);
    backup.stop(DEADLINE).await.unwrap();
    scene.assert_restores();
}
