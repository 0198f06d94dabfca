//! Names below the root of a file replica.
//!
//! ```text
//! <root>/ltx/<level>/<min>-<max>.ltx               LTX files, as Litestream names them
//! <root>/ltx/<level>/.<name>.<token>.evertide-tmp  objects being written
//! <root>/evertide/<key>                            small objects of our own
//! <root>/evertide/.lock                            locked by who changes one; empty
//! ```
//!
//! Nothing takes a temporary name for an LTX file: those never start with a dot.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use evertide_ltx::{Level, LtxName};

use crate::SmallKey;

const TEMPORARY: &str = ".evertide-tmp";
/// Where nobody takes it for a small object.
pub(super) const LOCK: &str = ".lock";

/// The directory of a level.
pub(super) fn level_dir(root: &Path, level: Level) -> PathBuf {
    root.join("ltx").join(level.to_string())
}

/// An LTX file's key below the root, for messages.
pub(super) fn ltx_key(level: Level, name: LtxName) -> String {
    format!("ltx/{level}/{name}")
}

/// A small object's key below the root, for messages.
pub(super) fn small_key(key: &SmallKey) -> String {
    format!("evertide/{key}")
}

/// The directory of small objects.
pub(super) fn small_dir(root: &Path) -> PathBuf {
    root.join("evertide")
}

/// The file that is locked by who changes a small object.
pub(super) fn lock_path(root: &Path) -> PathBuf {
    small_dir(root).join(LOCK)
}

/// The path of a small object.
pub(super) fn small_path(root: &Path, key: &SmallKey) -> PathBuf {
    small_dir(root).join(key.as_str())
}

/// Whether this is the name of a file that is being written, or was when its process ended: ours, or
/// Litestream's.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY) || name.ends_with(".tmp")
}

/// Marks the temporary files of one client, so that those of a process that died can be told from
/// those being written.
#[derive(Debug)]
pub(super) struct Token(u64);

/// Tokens of the clients alive in this process.
static ALIVE: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn alive() -> MutexGuard<'static, BTreeSet<u64>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Token {
    pub(super) fn new() -> Self {
        let token = fastrand::u64(..);
        alive().insert(token);
        Self(token)
    }

    /// The name under which an object is written before it gets its own. `serial` tells apart those
    /// of one client.
    pub(super) fn temporary(&self, name: &str, serial: u64) -> String {
        format!(".{name}.{:016x}-{serial}{TEMPORARY}", self.0)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        alive().remove(&self.0);
    }
}

/// Whether a file is what a client left that no longer runs. Clients of other processes look as if
/// they no longer ran, but two processes must not replicate to one place anyway, and the one that
/// is robbed fails and tries again.
pub(super) fn is_leftover(name: &str) -> bool {
    let Some(rest) = name
        .strip_suffix(TEMPORARY)
        .filter(|_| name.starts_with('.'))
    else {
        return false;
    };
    let token = rest
        .rsplit_once('.')
        .and_then(|(_, token)| token.split_once('-'));
    let Some((token, serial)) = token else {
        return false;
    };
    let ours = token.len() == 16 && serial.bytes().all(|b| b.is_ascii_digit());
    match u64::from_str_radix(token, 16) {
        Ok(token) => ours && !alive().contains(&token),
        Err(_) => false,
    }
}
