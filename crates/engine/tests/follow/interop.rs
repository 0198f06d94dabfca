//! Replicas of the official Litestream.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use evertide_testkit::{
    AutoVacuum, DatabaseOptions, Writer, WriterOptions, compare_databases, create_database,
    litestream_command,
};
use rusqlite::Connection;

use crate::scene::{follow_until, options};

#[tokio::test(flavor = "multi_thread")]
async fn what_litestream_replicates_and_compacts_is_followed() {
    let seed = evertide_testkit::seed();
    let dir = evertide_testkit::temp_dir();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let kind = DatabaseOptions {
        page_size: 4096,
        auto_vacuum: AutoVacuum::Full,
    };
    create_database(&db, kind).unwrap();
    let config = dir.path().join("litestream.yml");
    let settings = format!(
        "levels:\n  - interval: 1s\n  - interval: 3s\nsnapshot:\n  interval: 2s\ndbs:\n  \
         - path: {}\n    monitor-interval: 50ms\n    replica:\n      path: {}\n      \
         sync-interval: 50ms\n",
        db.display(),
        replica.display(),
    );
    fs::write(&config, settings).unwrap();
    let mut litestream = litestream_command()
        .args(["replicate", "-config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let writing = std::thread::spawn({
        let db = db.clone();
        move || {
            let mut writer = Writer::open(&db, WriterOptions::seeded(seed)).unwrap();
            for _ in 0..20 {
                writer.run_steps(8).unwrap();
                std::thread::sleep(Duration::from_millis(150));
            }
            drop(writer);
            let last = Connection::open(&db).unwrap();
            last.busy_timeout(Duration::from_secs(10)).unwrap();
            last.execute_batch("CREATE TABLE the_end (x)").unwrap();
        }
    });
    while !replica.join("ltx/0").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let copy = dir.path().join("copy.db");
    let ended = |path: &std::path::Path| {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection.prepare("SELECT * FROM the_end").is_ok()
    };
    let followed = follow_until(options(&replica, &copy), ended).await;
    writing.join().unwrap();
    let id = litestream.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    litestream.wait().unwrap();
    let followed = followed.unwrap();
    assert!(followed.report.files > 3, "{:?}", followed.events);
    // A last turn, for what Litestream wrote of its own at the end.
    let begun = std::time::Instant::now();
    let done = follow_until(options(&replica, &copy), move |_| {
        begun.elapsed() > Duration::from_secs(1)
    });
    let done = done.await.unwrap();
    assert!(done.events[0].starts_with("Resumed"), "{:?}", done.events);
    let restored = dir.path().join("restored.db");
    evertide_testkit::restore_with_litestream(&replica, &restored);
    for path in [&copy, &restored] {
        // The header differs in the journal mode and its counters: compare what is made of both.
        let vacuumed = path.with_extension("same");
        let connection = Connection::open(path).unwrap();
        let statement = format!("VACUUM INTO '{}'", vacuumed.display());
        connection.execute_batch(&statement).unwrap();
    }
    compare_databases(copy.with_extension("same"), restored.with_extension("same")).unwrap();
}
