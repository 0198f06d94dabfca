//! An application that uses diesel 2.2, with its backup in the same process.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, ExpressionMethods, QueryDsl, RunQueryDsl, SqliteConnection};
use evertide::{
    Durability, ReplicaOptions, Replication, RestoreOptions, recommended_pragmas, restore,
};
use evertide_storage::{Destination, OsDisk};
use evertide_testkit::{assert_same_database, restore_with_litestream, temp_dir};

diesel::table! {
    notes (id) {
        id -> Integer,
        text -> Text,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = temp_dir();
    let (database, replica) = (dir.path().join("app.db"), dir.path().join("replica"));
    let mut connection = SqliteConnection::establish(&database.to_string_lossy())?;
    connection.batch_execute("PRAGMA journal_mode = WAL")?;
    connection.batch_execute(&recommended_pragmas())?;
    connection.batch_execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL)")?;

    let backup = Replication::builder(&database)
        .replica(ReplicaOptions::new("local", Destination::file(&replica)?))
        .build()?;
    backup.start().await?;

    for number in 0..400 {
        diesel::insert_into(notes::table)
            .values(notes::text.eq(format!("note {number}")))
            .execute(&mut connection)?;
    }
    let durable = backup.wait_durable(Durability::All).await?;
    let count: i64 = notes::table.count().get_result(&mut connection)?;
    println!("diesel 2.2: {count} rows are on the replica at transaction {durable}");
    assert_eq!(count, 400);

    // Without a stop: what wait_durable said is on the replica can be restored from it.
    check(&database, &replica, &dir.path().join("durable.db")).await?;
    diesel::delete(notes::table.filter(notes::id.lt(100))).execute(&mut connection)?;
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
