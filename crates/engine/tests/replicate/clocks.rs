//! Clocks that are set while a database is replicated.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide::{Destination, Maintenance, Replication, RestoreOptions, RestoreTarget, restore};
use evertide_storage::{ManualClock, OsDisk};
use evertide_testkit::{litestream_command, replica_url};
use humantime::format_rfc3339_micros;
use rusqlite::Connection;

use crate::{DEADLINE, Scene, durable, insert, replica_options};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

impl Scene {
    /// The files of a level, and how many hours after a time they were captured.
    fn hours(&self, level: u8, start: SystemTime) -> Vec<u64> {
        let folder = self.replica.join("ltx").join(level.to_string());
        let files = std::fs::read_dir(folder).into_iter().flatten();
        let hour = |time: SystemTime| time.duration_since(start).unwrap().as_secs() / 3_600;
        let time = |file: &std::fs::DirEntry| file.metadata().unwrap().modified().unwrap();
        files.map(|file| hour(time(&file.unwrap()))).collect()
    }
}

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

/// Everything that goes by time would wait until the clock has caught up.
#[tokio::test]
async fn one_moment_of_a_clock_that_is_ahead_holds_up_nothing_once_it_is_right() {
    const HOURS: u32 = 96;
    // As of a machine that starts, before the first commit; and between two of them.
    for moment in [0, 30] {
        let (scene, conn) = Scene::with_rows(10);
        // All of it is in the past of those who restore, too, but for that moment.
        let start = SystemTime::now() - 10 * DAY;
        let right = |hour: u32| start + hour * HOUR;
        let shown = |hour: u32| match hour == moment {
            true => start + 3_650 * DAY,
            false => right(hour),
        };
        let clock = Arc::new(ManualClock::new(shown(0)));
        let mut options = replica_options("local", &scene.replica);
        options.retention = Some(2 * DAY);
        let client = options.destination.connect(Arc::new(OsDisk)).unwrap();
        let kept = options.clone();
        // The replica is maintained here, each hour.
        options.retention = None;
        options.levels.clear();
        options.snapshot_interval = Duration::MAX;
        let backup = Replication::builder(&scene.db).replica(options);
        let backup = backup.clock(clock.clone()).build().unwrap();
        backup.start().await.unwrap();
        durable(&backup).await;
        for hour in 1..=HOURS {
            clock.set(shown(hour));
            insert(&conn, 1);
            durable(&backup).await;
            let client = Arc::clone(&client);
            let mut maintenance = Maintenance::new(client, &kept, clock.clone());
            maintenance.run().await.unwrap();
        }
        let hours: Vec<_> = (0..=9).map(|level| scene.hours(level, start)).collect();
        let all = hours.iter().flatten();
        assert!(all.clone().all(|hour| *hour <= HOURS.into()), "{hours:?}");
        let oldest = u64::from(HOURS) - 48 - 24 - 1;
        assert!(all.clone().all(|hour| *hour >= oldest), "{hours:?}");
        assert!(hours[0].len() <= 3 && hours[1].len() >= 47, "{hours:?}");
        // How many days end in that time depends on the time of day at which it begins.
        assert!((2..=4).contains(&hours[9].len()), "{hours:?}");
        for ago in [0, 1, 20, 40, 48] {
            let hour = HOURS - ago;
            let expected = 10 + i64::from(hour);
            assert_eq!(rows_at(&scene, right(hour)).await, expected, "hour {hour}");
        }
        // To Litestream a file of exactly that time is too new.
        let then = right(HOURS - 1) + Duration::from_millis(1);
        assert_eq!(rows_at_by_litestream(&scene, then), 9 + i64::from(HOURS));
        backup.stop(DEADLINE).await.unwrap();
        scene.assert_restores();
    }
}
