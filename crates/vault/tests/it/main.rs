//! The store and the key file as an application and an administrator meet them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at files as an outsider would"
)]

mod age_command;
mod crash;
mod cuts;
mod descriptors;
mod faults;
mod full;
mod fuzz;
mod go_framework;
mod key_file;
mod locks;
mod recorded;
mod secrets;
mod store;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use evertide_vault::{AgeKeyFile, ConfigFormat, SavedConfig, SecureConfigStore};
use rusqlite::Connection;
use tempfile::TempDir;

/// Where a process that a test starts finds its files.
const FOLDER: &str = "EVERTIDE_TEST_FOLDER";
/// What it does there.
const WHAT: &str = "EVERTIDE_TEST_WHAT";

/// A folder with a database in WAL mode, as an application leaves it, and a key.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(folder: &Path) -> Self {
        let place = Self {
            dir: tempfile::tempdir_in(folder).unwrap(),
        };
        place
            .connect()
            .execute_batch("PRAGMA journal_mode=wal; CREATE TABLE notes (text TEXT);")
            .unwrap();
        place.key().generate().unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn database(&self) -> PathBuf {
        self.path("app.db")
    }

    fn connect(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    fn key(&self) -> AgeKeyFile {
        AgeKeyFile::new(self.path("age.key"))
    }

    fn store(&self) -> SecureConfigStore {
        SecureConfigStore::open(self.database(), self.key()).unwrap()
    }

    /// A store on the same database with another, new key.
    fn stranger(&self) -> SecureConfigStore {
        let key = AgeKeyFile::new(self.path("stranger.key"));
        key.generate().unwrap();
        SecureConfigStore::open(self.database(), key).unwrap()
    }

    /// A key file with this text, readable by its owner alone.
    fn key_file(&self, name: &str, text: impl AsRef<[u8]>) -> AgeKeyFile {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        AgeKeyFile::new(path)
    }
}

fn save(store: &SecureConfigStore, content: &str) -> SavedConfig {
    store
        .save("litestream", content.as_bytes(), &ConfigFormat::Toml, None)
        .unwrap()
}

/// A version of the configuration that takes more than a page.
fn text(version: usize) -> String {
    format!("version {version} {}", "x".repeat(6_000))
}

fn read(store: &SecureConfigStore, generation: u32) -> String {
    let config = store.get("litestream", generation).unwrap();
    config.content.as_str().unwrap().to_owned()
}
