//! Both formats at one address: whichever was written last, or was there at the time that is wanted.

use std::{fs, path::Path, process::Command, time::Duration};

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
    let mut statement = connection
        .prepare("SELECT n, content FROM t ORDER BY rowid")
        .unwrap();
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
    let mut command = litestream_command();
    command
        .arg("replicate")
        .arg(db)
        .arg(evertide_testkit::replica_url(replica));
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut litestream = command.spawn().unwrap();
    write(db, rows);
    std::thread::sleep(Duration::from_millis(1500));
    let id = litestream.id().to_string();
    let told = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(told.success());
    litestream.wait().unwrap();
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
