//! Names that replicas in directories have, be they on this machine or on a server.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evertide_ltx::{Level, LtxName};

use crate::SmallKey;

const TEMPORARY: &str = ".evertide-tmp";

/// An LTX file's key below the root, for messages.
pub(crate) fn ltx_key(level: Level, name: LtxName) -> String {
    format!("ltx/{level}/{name}")
}

/// A small object's key below the root, for messages.
pub(crate) fn small_key(key: &SmallKey) -> String {
    format!("evertide/{key}")
}

/// Whether this is the name of a file that is being written, or was when its process ended: ours, or
/// Litestream's.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY) || name.ends_with(".tmp")
}

/// Marks the temporary files of one client, so that those of a process that died can be told from
/// those being written.
#[derive(Debug)]
pub(crate) struct Token(u64);

/// Tokens of the clients alive in this process.
static ALIVE: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn alive() -> MutexGuard<'static, BTreeSet<u64>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Token {
    pub(crate) fn new() -> Self {
        let token = fastrand::u64(..);
        alive().insert(token);
        Self(token)
    }

    /// The name under which an object is written before it gets its own. `serial` tells apart those
    /// of one client.
    pub(crate) fn temporary(&self, name: &str, serial: u64) -> String {
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
pub(crate) fn is_leftover(name: &str) -> bool {
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
