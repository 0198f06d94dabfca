//! Connections that leave no trace.
//!
//! Every access goes through SQLite, in the process of an application that may have the same
//! database open: files of the database are looked at (`stat`) but never opened by hand, because
//! closing a descriptor of theirs would drop the application's locks.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use crate::{Error, KeyFileError};

/// How long another connection's write is waited for.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read. Nothing is created.
    Read,
    /// To write to a database that exists.
    Write,
    /// To write; a missing database is created.
    Create,
}

/// Opens the database at `path`.
pub(crate) fn open(path: &Path, access: Access) -> Result<Connection, Error> {
    if access != Access::Create {
        check_exists(path)?;
    }
    let leave_wal = wal_in_use(path);
    // Also to read, the database is opened for writing: the connection that comes first after a
    // crash has to recover, which a read-only one cannot.
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if access == Access::Create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let fail = |error| database_error(path, "open", error);
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    // What was reported as stored survives a power cut, however this SQLite was built. With a
    // rollback journal less than EXTRA does not make it durable that the journal is gone, and one
    // that comes back is rolled back.
    connection
        .pragma_update(None, "synchronous", "EXTRA")
        .map_err(fail)?;
    // Checkpoints are the application's business, or the backup's. Found with content, the WAL
    // also stays as it is when this happens to be the last connection to close: a backup that
    // starts later resumes from it.
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .map_err(fail)?;
    if leave_wal {
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(fail)?;
    }
    if access == Access::Read {
        connection
            .pragma_update(None, "query_only", true)
            .map_err(fail)?;
    }
    Ok(connection)
}

/// Fails where there is no database at `path`.
pub(crate) fn check_exists(path: &Path) -> Result<(), Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(Error::NotADatabase {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::ReadOnly {
            path: path.to_owned(),
        }),
        Err(_) => Err(Error::DatabaseMissing {
            path: path.to_owned(),
        }),
    }
}

/// Fails where `key_file` is a file of the database: reading it would open and close it by hand.
pub(crate) fn check_is_no_key_file(path: &Path, key_file: &Path) -> Result<(), KeyFileError> {
    let Ok(key) = std::fs::metadata(key_file) else {
        return Ok(()); // missing: reading it will say so
    };
    let same = |suffix| std::fs::metadata(beside(path, suffix)).is_ok_and(|f| same_file(&f, &key));
    if ["", "-wal", "-shm", "-journal"].into_iter().any(same) {
        return Err(KeyFileError::IsTheDatabase {
            path: key_file.to_owned(),
        });
    }
    Ok(())
}

#[cfg(unix)]
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(_: &Metadata, _: &Metadata) -> bool {
    false // no locks that closing a descriptor would drop
}

fn wal_in_use(path: &Path) -> bool {
    std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0)
}

/// The file that SQLite keeps beside the database, which is where a symbolic link leads.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = real.into_os_string();
    name.push(suffix);
    name.into()
}

/// SQLite's error as ours.
pub(crate) fn database_error(path: &Path, action: &'static str, error: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path },
        Some(ErrorCode::NotADatabase) => Error::NotADatabase { path },
        Some(ErrorCode::ReadOnly) => Error::ReadOnly { path },
        _ => Error::Database {
            path,
            action,
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_synced_before_it_is_reported_in_every_way_to_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        for access in [Access::Create, Access::Write, Access::Read] {
            let connection = open(&path, access).unwrap();
            let found = connection.pragma_query_value(None, "synchronous", |row| row.get(0));
            assert_eq!(found, Ok(3), "EXTRA, {access:?}");
        }
    }
}
