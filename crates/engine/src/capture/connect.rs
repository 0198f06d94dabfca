//! Our own connection to a database.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::Error;

/// Opens an ordinary connection that never checkpoints by itself.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let failed = |action| failed(path, action);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open it"))?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(failed("set a timeout"))?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("configure the connection"))?;
    connection
        .execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 8;")
        .map_err(failed("configure the connection"))?;
    Ok(connection)
}

/// Switches to WAL mode where needed, and makes sure that the wal-index exists.
pub(super) fn enter_wal_mode(connection: &Connection, path: &Path) -> Result<(), Error> {
    let failed = |action| failed(path, action);
    let mode = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    let before = mode("PRAGMA journal_mode").map_err(failed("read its journal mode"))?;
    if before != "wal" {
        let after = mode("PRAGMA journal_mode = WAL").map_err(failed("switch it to WAL mode"))?;
        if after != "wal" {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                reason: format!(
                    "its journal mode stays `{after}`; only WAL mode can be replicated"
                ),
            });
        }
        tracing::warn!(database = %path.display(), before, "switched the database to WAL mode");
    }
    touch(connection, path)?;
    Ok(())
}

/// Reads something, so that SQLite opens or mends the wal-index and keeps its shared lock.
pub(super) fn touch(connection: &Connection, path: &Path) -> Result<(), Error> {
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(drop)
        .map_err(failed(path, "read it"))
}

/// SQLite's error as ours: what could not be done with which database.
pub(super) fn failed(path: &Path, action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Sqlite {
        path,
        action,
        source,
    }
}
