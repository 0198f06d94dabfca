//! SQLite's own opinion about a restored database.

use std::{fmt::Write, os::unix::ffi::OsStrExt, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{IntegrityCheck, RestoreError, output::Output};

/// How many problems are asked for; the first few say it.
const PROBLEMS: u32 = 10;

/// Checks the temporary file of a restore.
///
/// It is opened as immutable: SQLite then takes no locks and makes no `-wal` or `-shm` beside it.
pub(super) fn check(output: &Output, how: IntegrityCheck) -> Result<(), RestoreError> {
    let pragma = match how {
        IntegrityCheck::None => return Ok(()),
        IntegrityCheck::Quick => "quick_check",
        IntegrityCheck::Full => "integrity_check",
    };
    let uri = immutable_uri(&output.temporary()?);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(uri, flags).map_err(RestoreError::Check)?;
    output.interruptible(database.get_interrupt_handle())?;
    let problems = run(&database, pragma);
    output.check_wanted()?;
    match problems {
        Ok(problems) if problems.is_empty() => Ok(()),
        Ok(problems) => Err(RestoreError::Corrupt { problems }),
        Err(error) => Err(RestoreError::Check(error)),
    }
}

fn run(database: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = database.prepare(&format!("PRAGMA {pragma}({PROBLEMS})"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut problems = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    problems.retain(|problem| problem != "ok");
    Ok(problems)
}

/// A URI that opens a file as it is, whatever characters its path has.
fn immutable_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    if path.is_relative() {
        uri.push_str("./");
    }
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => {
                let _ = write!(uri, "%{byte:02x}");
            }
        }
    }
    uri.push_str("?immutable=1&mode=ro");
    uri
}
