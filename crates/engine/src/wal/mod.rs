//! SQLite's write-ahead log as seen from outside: its file, its index, and the two locks that keep
//! it readable. Nothing here writes to the database or to the `-wal` file.

pub(crate) mod descriptors;
mod file;
mod format;
#[cfg(test)]
mod fuzz;
mod index;
mod locks;
pub(crate) mod protocol;

use std::path::{Path, PathBuf};

pub(crate) use self::{
    file::{Cursor, Scan, ScanError, WalFile},
    format::{FRAME_HEADER_LEN, FrameHeader, Salts, WAL_HEADER_LEN, WalChecksum, WalHeader},
    index::{Brake, Guard, IndexError, IndexHeader, Pin, WalIndex, WriteHold},
    locks::{try_lock_file, unlock_file},
};

/// A file beside the database, as SQLite names it.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
