//! An application that uses rusqlite 0.32, with its backup in the same process.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evertide::{
    Durability, ReplicaOptions, Replication, RestoreOptions, recommended_pragmas, restore,
};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{assert_same_database, restore_with_litestream, temp_dir};
use rusqlite::Connection;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = temp_dir();
    let (database, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let connection = Connection::open(&database)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.execute_batch(&recommended_pragmas())?;
    connection.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)")?;

    let backup = Replication::builder(&database)
        .replica(ReplicaOptions::new("local", Destination::file(&replica)?))
        .build()?;
    backup.start().await?;

    for number in 0..400 {
        let text = format!("note {number}");
        connection.execute("INSERT INTO notes(text) VALUES (?1)", [text])?;
    }
    let durable = backup.wait_durable(Durability::All).await?;
    let count: i64 = connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
    println!("rusqlite 0.32: {count} rows are on the replica at transaction {durable}");
    assert_eq!(count, 400);

    // Without a stop: what wait_durable said is on the replica can be restored from it.
    check(&database, &replica, &dir.path().join("durable.db")).await?;
    connection.execute("DELETE FROM notes WHERE id % 3 = 0", [])?;
    backup.stop(Duration::from_secs(30)).await?;
    check(&database, &replica, &dir.path().join("stopped.db")).await?;
    Ok(())
}

/// Restores with our own library and with the official program, and compares both.
async fn check(database: &Path, replica: &Path, output: &Path) -> Result<(), Box<dyn Error>> {
    let client = Destination::file(replica)?.connect(Arc::new(OsDisk))?;
    restore(RestoreOptions::new(client, output)).await?;
    assert_same_database(database, output);
    let official = output.with_extension("official.db");
    restore_with_litestream(replica, &official);
    assert_same_database(database, &official);
    Ok(())
}
