//! The database that writers share.

use std::path::Path;

use rusqlite::Connection;

/// How the database gives pages back to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoVacuum {
    /// Not unless somebody calls VACUUM.
    #[default]
    None,
    /// At every commit.
    Full,
    /// When `PRAGMA incremental_vacuum` is run.
    Incremental,
}

/// What cannot be changed about a database once it has tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Bytes of a page: a power of two from 512 to 65536.
    pub page_size: u32,
    /// How pages are given back.
    pub auto_vacuum: AutoVacuum,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            page_size: 4096,
            auto_vacuum: AutoVacuum::None,
        }
    }
}

/// Creates a database in WAL mode with the tables that writers use, unless it has them.
///
/// # Errors
///
/// Whatever SQLite reports.
pub fn create_database(path: &Path, options: DatabaseOptions) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    connection.pragma_update(None, "page_size", options.page_size)?;
    let auto_vacuum = match options.auto_vacuum {
        AutoVacuum::None => 0,
        AutoVacuum::Full => 1,
        AutoVacuum::Incremental => 2,
    };
    connection.pragma_update(None, "auto_vacuum", auto_vacuum)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS entries(
             id INTEGER PRIMARY KEY AUTOINCREMENT, writer INTEGER, step INTEGER, tag TEXT, body);
         CREATE INDEX IF NOT EXISTS entries_by_tag ON entries(tag);
         CREATE INDEX IF NOT EXISTS entries_by_step ON entries(writer, step);
         CREATE TABLE IF NOT EXISTS pairs(key TEXT PRIMARY KEY, value BLOB, weight REAL)
             WITHOUT ROWID;
         COMMIT;",
    )?;
    connection.close().map_err(|(_, error)| error)
}

/// How many rows writers have ever committed to the table `entries`, deleted ones included.
///
/// # Errors
///
/// Whatever SQLite reports.
pub fn entries_ever(path: &Path) -> rusqlite::Result<u64> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    // The greatest number AUTOINCREMENT has given out.
    let sql = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries'";
    let count: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// The version of SQLite that everything here is built with.
#[must_use]
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}
