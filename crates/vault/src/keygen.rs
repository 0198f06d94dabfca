//! New identities.

use std::io;

use age::{secrecy::ExposeSecret, x25519};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::{AgeKeyFile, KeyFileError, write_new_private};

impl AgeKeyFile {
    /// Makes a new identity and writes it to the file, mode 0600, as `age-keygen` does. Returns
    /// its public key. Returns when the file is on the disk; whatever happens, it is there whole or
    /// not at all, as [`write_new_private`] writes it.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Exists`] where there is such a file: a key is never overwritten, for with
    /// it would go everything encrypted to it. [`KeyFileError::Write`] where it cannot be written;
    /// nothing is left behind then.
    pub fn generate(&self) -> Result<String, KeyFileError> {
        let identity = x25519::Identity::generate();
        let public_key = identity.to_public().to_string();
        let text = file_text(&identity, &public_key, &now());
        write_new_private(self.path(), text.as_bytes()).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists {
                path: self.path().to_owned(),
            },
            _ => KeyFileError::Write {
                path: self.path().to_owned(),
                source,
            },
        })?;
        Ok(public_key)
    }
}

fn file_text(identity: &x25519::Identity, public_key: &str, created: &str) -> Zeroizing<String> {
    let secret = identity.to_string();
    // Room for all of it, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str("# created: ");
    text.push_str(created);
    text.push_str("\n# public key: ");
    text.push_str(public_key);
    text.push('\n');
    text.push_str(secret.expose_secret());
    text.push('\n');
    text
}

/// The time as RFC 3339, by way of SQLite: it is at hand, and knows the calendar.
fn now() -> String {
    Connection::open_in_memory()
        .and_then(|connection| {
            connection.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%SZ','now')", [], |row| {
                row.get(0)
            })
        })
        .unwrap_or_else(|_| "unknown".to_owned())
}
