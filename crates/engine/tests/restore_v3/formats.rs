//! Both formats at one address: whichever was written last, or was there at the time that is wanted.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use evertide::{RestoreError, RestoreOptions, RestoreTarget, Txid};
use evertide_testkit::{
    assert_same_database, litestream_command, restore_with_litestream, temp_dir,
};
use rusqlite::Connection;

use crate::scene::{Replicating, connect, files, modified, restore};

fn write(db: &Path, rows: u32) {
    let connection = Connection::open(db).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n, content)")
        .unwrap();
    for row in 0..rows {
        connection
            .execute("INSERT INTO t VALUES (?1, randomblob(3000))", [row])
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a database that nobody has open.
fn keep(db: &Path, name: &str) {
    let connection = Connection::open(db).unwrap();
    let statement = format!("VACUUM INTO '{}'", db.with_file_name(name).display());
    connection.execute_batch(&statement).unwrap();
}

fn rows(db: &Path) -> Vec<(u32, Vec<u8>)> {
    let connection = Connection::open(db).unwrap();
    // The first states have no table yet.
    let Ok(mut statement) = connection.prepare("SELECT n, content FROM t ORDER BY rowid") else {
        return Vec::new();
    };
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn replicate_with_0_3(db: &Path, replica: &Path, rows: u32) {
    let litestream = Replicating::start(db, replica);
    write(db, rows);
    litestream.stop();
}

fn replicate_with_0_5(db: &Path, replica: &Path, rows: u32) {
    let config = db.with_file_name("0.5.yml");
    let settings = format!(
        "snapshot: {{interval: 1s}}\ndbs:\n- path: {}\n  monitor-interval: 30ms\n  replica:\n    url: {}\n    \
         sync-interval: 30ms\n",
        db.display(),
        evertide_testkit::replica_url(replica)
    );
    fs::write(&config, settings).unwrap();
    let mut command = litestream_command();
    command.args(["replicate", "-config"]).arg(&config);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut litestream = command.spawn().unwrap();
    write(db, rows / 2);
    std::thread::sleep(Duration::from_millis(1500));
    write(db, rows - rows / 2);
    std::thread::sleep(Duration::from_millis(1500));
    let id = litestream.id().to_string();
    let told = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(told.success());
    litestream.wait().unwrap();
}

/// Restores as of a time with the official Litestream; `false` where it refuses.
fn restore_with_litestream_at(replica: &Path, output: &Path, time: SystemTime) -> bool {
    let time = humantime::format_rfc3339_nanos(time).to_string();
    let mut command = litestream_command();
    command
        .args(["restore", "-timestamp", &time, "-o"])
        .arg(output);
    let url = evertide_testkit::replica_url(replica);
    command.arg(url).output().unwrap().status.success()
}

/// At the times of files, of the old format, of the new one, and of the old one again, both programs restore the same.
/// Litestream takes to the new one with its first snapshot.
async fn assert_same_at_any_time(replica: &Path, dir: &Path) {
    let times = |folder: &str| {
        let files = files(&replica.join(folder));
        let mut times: Vec<SystemTime> = files.iter().map(|file| modified(file)).collect();
        times.sort();
        times
    };
    let snapshot = times("ltx/9")[0];
    for (folder, is_new) in [("generations", false), ("ltx", true)] {
        let (mut compared, mut number) = (0, 0);
        let times = times(folder);
        let step = times.len().div_ceil(12);
        for time in times.into_iter().step_by(step) {
            number += 1;
            // To Litestream an LTX file of exactly that time is too new; times are whole milliseconds there.
            let time = time + Duration::from_micros(if is_new { 500 } else { 0 });
            let [ours, theirs] =
                ["ours", "theirs"].map(|who| dir.join(format!("{who}-{folder}-{number}.db")));
            let done = restore(replica, &ours, RestoreTarget::Timestamp(time)).await;
            let both = restore_with_litestream_at(replica, &theirs, time) && done.is_ok();
            // Each of them refuses some that the other one does not.
            if !both || (is_new && time < snapshot) {
                continue;
            }
            assert_eq!(done.unwrap().txid > Txid::ZERO, is_new, "at {time:?}");
            let (ours, theirs) = (rows(&ours), rows(&theirs));
            let counts = (ours.len(), theirs.len());
            assert!(ours == theirs, "{counts:?} rows at {time:?}");
            compared += 1;
        }
        assert!(compared > 2, "only {compared} in {folder}");
    }
}

#[tokio::test]
async fn after_an_upgrade_the_newest_state_is_new_and_older_times_are_still_there() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    let (db, replica) = (at("app.db"), at("replica"));
    replicate_with_0_3(&db, &replica, 20);
    keep(&db, "before.db");
    let last_of_v3 = files(&replica)
        .iter()
        .map(|file| modified(file))
        .max()
        .unwrap();
    // Ends in an older history, for which the new one says that it began anew.
    fs::remove_dir_all(at(".app.db-litestream")).unwrap();
    replicate_with_0_5(&db, &replica, 20);
    assert!(replica.join("ltx").is_dir() && replica.join("generations").is_dir());

    let newest = restore(&replica, &at("newest.db"), RestoreTarget::Latest)
        .await
        .unwrap();
    assert!(newest.txid > Txid::ZERO);
    assert_same_database(&db, at("newest.db"));
    restore_with_litestream(&replica, &at("theirs.db"));
    assert_same_database(at("theirs.db"), at("newest.db"));

    let target = RestoreTarget::Timestamp(last_of_v3);
    let older = restore(&replica, &at("older.db"), target).await.unwrap();
    assert_eq!(older.txid, Txid::ZERO);
    assert_eq!(rows(&at("older.db")), rows(&at("before.db")));
    assert!(rows(&at("newest.db")).len() == 40 && rows(&at("older.db")).len() == 20);
    // Back to 0.3: now the old format is the newest.
    replicate_with_0_3(&db, &replica, 5);
    let newest = restore(&replica, &at("back.db"), RestoreTarget::Latest)
        .await
        .unwrap();
    assert_eq!(newest.txid, Txid::ZERO);
    assert_same_database(&db, at("back.db"));
    restore_with_litestream(&replica, &at("their-back.db"));
    assert_eq!(rows(&at("back.db")), rows(&at("their-back.db")));
    assert_same_at_any_time(&replica, dir.path()).await;
}

#[tokio::test]
async fn a_transaction_cannot_be_asked_for_where_there_are_none() {
    let dir = temp_dir();
    let (db, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    replicate_with_0_3(&db, &replica, 3);
    let mut options = RestoreOptions::new(connect(&replica), dir.path().join("out.db"));
    options.target = RestoreTarget::Txid(Txid::new(1));
    let error = evertide::restore(options).await.unwrap_err();
    assert!(
        matches!(error, RestoreError::V3HasNoTxids { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("--timestamp"));
}
