//! An application that uses sqlx 0.8, with its backup in the same process.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evertide::{
    Durability, RECOMMENDED_PRAGMAS, ReplicaOptions, Replication, RestoreOptions, restore,
};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{assert_same_database, restore_with_litestream, temp_dir};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = temp_dir();
    let (database, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let mut options = SqliteConnectOptions::new()
        .filename(&database)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    for (name, value) in RECOMMENDED_PRAGMAS {
        options = options.pragma(name, value);
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await?;
    sqlx::query("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)")
        .execute(&pool)
        .await?;

    let backup = Replication::builder(&database)
        .replica(ReplicaOptions::new("local", Destination::file(&replica)?))
        .build()?;
    backup.start().await?;

    // Several connections of the pool write at once.
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for number in 0..100 {
                sqlx::query("INSERT INTO notes(text) VALUES (?)")
                    .bind(format!("note {number} of task {task}"))
                    .execute(&pool)
                    .await?;
            }
            Ok::<_, sqlx::Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let durable = backup.wait_durable(Durability::All).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&pool)
        .await?;
    println!("sqlx 0.8: {count} rows are on the replica at transaction {durable}");
    assert_eq!(count, 400);

    // Without a stop: what wait_durable said is on the replica can be restored from it.
    check(&database, &replica, &dir.path().join("durable.db")).await?;
    sqlx::query("DELETE FROM notes WHERE id % 3 = 0")
        .execute(&pool)
        .await?;
    backup.stop(Duration::from_secs(30)).await?;
    check(&database, &replica, &dir.path().join("stopped.db")).await?;
    pool.close().await;
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
