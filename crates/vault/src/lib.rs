//! Versioned, age-encrypted configuration in the application's own SQLite database.
//!
//! Settings with credentials in them belong neither in a file beside the program nor in its
//! environment. This crate keeps them in the table `app_config` of the database the application
//! has anyway, each version one row, encrypted with [age](https://age-encryption.org) to the key
//! in a file that only the application can read. The table is the one of the Go framework
//! `restinpieces`: each reads what the other wrote.
//!
//! ```
//! use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let key = AgeKeyFile::new(dir.path().join("age.key"));
//! let public_key = key.generate()?; // once; age-keygen does the same
//! assert!(public_key.starts_with("age1"));
//!
//! let store = SecureConfigStore::create(dir.path().join("app.db"), key)?;
//! store.save("litestream", b"monitor_interval = \"1s\"", &ConfigFormat::Toml, Some("first"))?;
//!
//! let config = store.latest("litestream")?;
//! assert_eq!(config.content.as_bytes(), b"monitor_interval = \"1s\"");
//! # Ok(())
//! # }
//! ```
//!
//! Three properties matter to an application:
//!
//! - **Its locks are safe.** POSIX locks belong to a process, and closing any descriptor of a
//!   database drops all the locks SQLite holds on it. This crate touches the database through
//!   SQLite only, and refuses a key file that is really the database.
//! - **Nothing is decrypted longer than needed.** The key file is read at each use and its bytes
//!   zeroized, contents come in a buffer that zeroizes itself, and neither appears in `Debug`,
//!   in an error or in the database file.
//! - **No version is ever changed.** A save inserts a row; so do [`rollback`] and [`rekey`].
//!
//! Everything here blocks, for as long as [`BUSY_TIMEOUT`] when another connection writes: call
//! it from a blocking task in asynchronous code.
//!
//! [`rollback`]: SecureConfigStore::rollback
//! [`rekey`]: SecureConfigStore::rekey

mod cipher;
mod connection;
mod error;
mod format;
mod keyfile;
mod keygen;
mod plaintext;
mod private;
mod store;
mod table;

pub use self::{
    connection::BUSY_TIMEOUT,
    error::{Error, KeyFileError, LineFound},
    format::ConfigFormat,
    keyfile::AgeKeyFile,
    plaintext::Plaintext,
    private::write_new_private,
    store::{ConfigInfo, MAX_CONTENT, SavedConfig, SecureConfigStore, StoredConfig},
};
