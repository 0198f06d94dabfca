//! New identities.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use age::{secrecy::ExposeSecret, x25519};
use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::{AgeKeyFile, KeyFileError};

impl AgeKeyFile {
    /// Makes a new identity and writes it to the file, mode 0600, as `age-keygen` does. Returns
    /// its public key. Returns when the file is on the disk.
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
        write_new(self.path(), text.as_bytes()).map_err(|source| match source.kind() {
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory(path));
    drop(file);
    if written.is_err() {
        #[expect(
            clippy::disallowed_methods,
            reason = "an unfinished key file, made just now"
        )]
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Makes the new name itself survive a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match OpenOptions::new().read(true).open(parent) {
        Ok(directory) => directory.sync_all(),
        // A directory one may write to but not list. The file itself is on the disk.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}
