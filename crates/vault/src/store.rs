//! The store: which row, which key, in one transaction.

use std::path::{Path, PathBuf};

use age::x25519;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{
    AgeKeyFile, ConfigFormat, Error, KeyFileError, Plaintext, cipher,
    connection::{self, Access},
    table::{self, NewRow, Shape},
};

/// The most bytes a configuration may have: 16 MiB.
pub const MAX_CONTENT: u64 = 16 * 1024 * 1024;

/// Encrypting adds a few hundred bytes and 16 for each 64 KiB.
const MAX_STORED: u64 = MAX_CONTENT + MAX_CONTENT / 1024;

/// Versioned, encrypted configuration in a database.
///
/// Holds two paths and nothing else: each call opens its own connection and reads the key file
/// anew, so a clone is as good as the original and nothing has to be closed.
#[derive(Clone, Debug)]
pub struct SecureConfigStore {
    database: PathBuf,
    key: AgeKeyFile,
}

/// What is known of a stored configuration without decrypting it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigInfo {
    /// The row.
    pub id: i64,
    /// What the configuration is for.
    pub scope: String,
    /// 0 for the newest of the scope, 1 for the one before, and so on.
    pub generation: u32,
    /// What kind of text it is.
    pub format: ConfigFormat,
    /// What whoever stored it said of it.
    pub description: Option<String>,
    /// When it was stored: RFC 3339, UTC.
    pub created_at: String,
    /// The size of the encrypted content in bytes.
    pub stored_bytes: u64,
}

/// A configuration that was stored just now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedConfig {
    /// The new row: generation 0 of its scope.
    pub info: ConfigInfo,
    /// How many generations the scope has now.
    pub versions: u32,
}

/// A stored configuration, decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredConfig {
    /// Which one.
    pub info: ConfigInfo,
    /// What it says.
    pub content: Plaintext,
}

impl SecureConfigStore {
    /// The store in the database at `path`, which exists.
    ///
    /// # Errors
    ///
    /// [`Error::DatabaseMissing`] where it does not: nothing is created. [`Error::KeyFile`] where
    /// the key file is the database.
    pub fn open(path: impl Into<PathBuf>, key: AgeKeyFile) -> Result<Self, Error> {
        let store = Self {
            database: path.into(),
            key,
        };
        connection::check_exists(&store.database)?;
        connection::check_is_no_key_file(&store.database, store.key.path())?;
        Ok(store)
    }

    /// The store in the database at `path`, with its table. What is missing of both is created.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignTable`] where the table is another program's, [`Error::Busy`],
    /// [`Error::ReadOnly`], [`Error::NotADatabase`], [`Error::Database`].
    pub fn create(path: impl Into<PathBuf>, key: AgeKeyFile) -> Result<Self, Error> {
        let store = Self {
            database: path.into(),
            key,
        };
        connection::check_is_no_key_file(&store.database, store.key.path())?;
        let mut connection = connection::open(&store.database, Access::Create)?;
        let transaction = store.begin(&mut connection)?;
        store.commit(transaction)?;
        Ok(store)
    }

    /// The database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The key file.
    pub fn key(&self) -> &AgeKeyFile {
        &self.key
    }

    /// The newest configuration of a scope.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub fn latest(&self, scope: &str) -> Result<StoredConfig, Error> {
        self.get(scope, 0)
    }

    /// A configuration of a scope: generation 0 is the newest, 1 the one before, and so on.
    ///
    /// # Errors
    ///
    /// [`Error::NoTable`], [`Error::NoSuchScope`], [`Error::NoSuchGeneration`] where it is not
    /// stored; [`Error::WrongKey`], [`Error::NotAnAgeFile`], [`Error::Damaged`],
    /// [`Error::Passphrase`], [`Error::EmptyContent`] where it cannot be used; [`Error::KeyFile`];
    /// the errors of the database.
    pub fn get(&self, scope: &str, generation: u32) -> Result<StoredConfig, Error> {
        let mut connection = connection::open(&self.database, Access::Read)?;
        // One transaction, so that a save in between does not shift the generations.
        let transaction = self.begin_read(&mut connection)?;
        let identities = self.identities()?;
        self.read(&transaction, scope, generation, &identities)
    }

    /// Encrypts `content` to the first identity of the key file and stores it as the newest
    /// configuration of `scope`. The table is created if it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyScope`], [`Error::EmptyFormat`], [`Error::EmptyContent`],
    /// [`Error::TooLarge`]; [`Error::KeyFile`]; the errors of the database. Nothing is stored.
    pub fn save(
        &self,
        scope: &str,
        content: &[u8],
        format: &ConfigFormat,
        description: Option<&str>,
    ) -> Result<SavedConfig, Error> {
        check_save(scope, content, format)?;
        // Encrypted before the database is locked for writing.
        let encrypted = cipher::encrypt(&self.identities()?, content)?;
        let mut connection = connection::open(&self.database, Access::Write)?;
        let transaction = self.begin(&mut connection)?;
        let format = format.as_str();
        let row = NewRow {
            scope,
            encrypted: &encrypted,
            format,
            description,
        };
        let saved = self.insert(&transaction, &row)?;
        self.commit(transaction)?;
        Ok(saved)
    }

    /// The scopes that have a configuration, in alphabetical order.
    ///
    /// # Errors
    ///
    /// [`Error::NoTable`]; the errors of the database.
    pub fn scopes(&self) -> Result<Vec<String>, Error> {
        let mut connection = connection::open(&self.database, Access::Read)?;
        let transaction = self.begin_read(&mut connection)?;
        self.sql("read", table::scopes(&transaction))
    }

    /// All configurations of a scope, newest first. Needs no key.
    ///
    /// # Errors
    ///
    /// [`Error::NoTable`], [`Error::NoSuchScope`]; the errors of the database.
    pub fn history(&self, scope: &str) -> Result<Vec<ConfigInfo>, Error> {
        let mut connection = connection::open(&self.database, Access::Read)?;
        let transaction = self.begin_read(&mut connection)?;
        let history = self.sql("read", table::history(&transaction, scope))?;
        if history.is_empty() {
            return Err(self.missing(&transaction, scope, 0)?);
        }
        Ok(history)
    }

    /// Stores a copy of an older generation, at least 1, as the newest, encrypted to the first
    /// identity of the key file.
    ///
    /// # Errors
    ///
    /// [`Error::RollbackToNewest`] for generation 0; as [`Self::get`]. Nothing is stored.
    pub fn rollback(&self, scope: &str, generation: u32) -> Result<SavedConfig, Error> {
        if generation == 0 {
            return Err(Error::RollbackToNewest {
                scope: scope.to_owned(),
            });
        }
        let identities = self.identities()?;
        let mut connection = connection::open(&self.database, Access::Write)?;
        let transaction = self.begin_existing(&mut connection)?;
        let old = self.read(&transaction, scope, generation, &identities)?;
        let description = format!(
            "rolled back to row {} of {}",
            old.info.id, old.info.created_at
        );
        let saved = self.insert_again(&transaction, &old, &identities, &description)?;
        self.commit(transaction)?;
        Ok(saved)
    }

    /// Stores the newest configuration of every scope again, encrypted to the first identity of
    /// the key file: to be done after a new key was put there, above the old ones. Older
    /// generations stay as they are, so keep the old identities as long as those matter.
    ///
    /// # Errors
    ///
    /// As [`Self::get`], for the first scope that cannot be decrypted. Nothing is stored then,
    /// of any scope.
    pub fn rekey(&self) -> Result<Vec<SavedConfig>, Error> {
        let identities = self.identities()?;
        let mut connection = connection::open(&self.database, Access::Write)?;
        let transaction = self.begin_existing(&mut connection)?;
        let mut saved = Vec::new();
        for scope in self.sql("read", table::scopes(&transaction))? {
            let newest = self.read(&transaction, &scope, 0, &identities)?;
            saved.push(self.insert_again(&transaction, &newest, &identities, "new key")?);
        }
        self.commit(transaction)?;
        Ok(saved)
    }

    /// As [`Self::rekey`], of one scope.
    ///
    /// # Errors
    ///
    /// As [`Self::get`]. Nothing is stored then.
    pub fn rekey_scope(&self, scope: &str) -> Result<SavedConfig, Error> {
        let identities = self.identities()?;
        let mut connection = connection::open(&self.database, Access::Write)?;
        let transaction = self.begin_existing(&mut connection)?;
        let newest = self.read(&transaction, scope, 0, &identities)?;
        let saved = self.insert_again(&transaction, &newest, &identities, "new key")?;
        self.commit(transaction)?;
        Ok(saved)
    }

    fn identities(&self) -> Result<Vec<x25519::Identity>, KeyFileError> {
        connection::check_is_no_key_file(&self.database, self.key.path())?;
        self.key.identities()
    }

    fn read(
        &self,
        connection: &Connection,
        scope: &str,
        generation: u32,
        identities: &[x25519::Identity],
    ) -> Result<StoredConfig, Error> {
        let Some(info) = self.sql("read", table::find(connection, scope, generation))? else {
            return Err(self.missing(connection, scope, generation)?);
        };
        if info.stored_bytes > MAX_STORED {
            return Err(Error::TooLarge {
                scope: scope.to_owned(),
                size: info.stored_bytes,
            });
        }
        if info.stored_bytes == 0 {
            return Err(Error::EmptyContent {
                scope: scope.to_owned(),
            });
        }
        let encrypted = self.sql("read", table::content(connection, info.id))?;
        let what = format!(
            "generation {generation} of scope `{scope}` (row {})",
            info.id
        );
        let content = cipher::decrypt(identities, &encrypted, &what, self.key.path())?;
        if content.is_empty() {
            return Err(Error::EmptyContent {
                scope: scope.to_owned(),
            });
        }
        Ok(StoredConfig { info, content })
    }

    fn insert_again(
        &self,
        transaction: &Transaction<'_>,
        old: &StoredConfig,
        identities: &[x25519::Identity],
        description: &str,
    ) -> Result<SavedConfig, Error> {
        let encrypted = cipher::encrypt(identities, old.content.as_bytes())?;
        let row = NewRow {
            scope: &old.info.scope,
            encrypted: &encrypted,
            format: old.info.format.as_str(),
            description: Some(description),
        };
        self.insert(transaction, &row)
    }

    fn insert(
        &self,
        transaction: &Transaction<'_>,
        row: &NewRow<'_>,
    ) -> Result<SavedConfig, Error> {
        let id = self.sql("write to", table::insert(transaction, row))?;
        let info = self.sql("read", table::find(transaction, row.scope, 0))?;
        let versions = self.sql("read", table::versions(transaction, row.scope))?;
        match info {
            Some(info) if info.id == id => Ok(SavedConfig { info, versions }),
            // A trigger of the application's has had a hand in it.
            _ => Err(Error::Database {
                path: self.database.clone(),
                action: "make the new row the newest of its scope in",
                source: rusqlite::Error::QueryReturnedNoRows,
            }),
        }
    }

    /// Why there is no such generation.
    fn missing(
        &self,
        connection: &Connection,
        scope: &str,
        generation: u32,
    ) -> Result<Error, Error> {
        let scope = scope.to_owned();
        let versions = self.sql("read", table::versions(connection, &scope))?;
        if versions > 0 {
            return Ok(Error::NoSuchGeneration {
                scope,
                generation,
                versions,
            });
        }
        let known = self.sql("read", table::scopes(connection))?;
        Ok(Error::NoSuchScope { scope, known })
    }

    /// Begins to write, with a table.
    fn begin<'c>(&self, connection: &'c mut Connection) -> Result<Transaction<'c>, Error> {
        let transaction = self.transaction(connection, TransactionBehavior::Immediate)?;
        if let Shape::Foreign { missing } = self.sql("read", table::shape(&transaction))? {
            return Err(Error::ForeignTable {
                path: self.database.clone(),
                missing,
            });
        }
        self.sql(
            "create the table `app_config` in",
            table::create(&transaction),
        )?;
        Ok(transaction)
    }

    /// Begins to write to a table that has to be there.
    fn begin_existing<'c>(&self, connection: &'c mut Connection) -> Result<Transaction<'c>, Error> {
        let transaction = self.transaction(connection, TransactionBehavior::Immediate)?;
        self.check_table(&transaction)?;
        Ok(transaction)
    }

    fn begin_read<'c>(&self, connection: &'c mut Connection) -> Result<Transaction<'c>, Error> {
        let transaction = self.transaction(connection, TransactionBehavior::Deferred)?;
        self.check_table(&transaction)?;
        Ok(transaction)
    }

    fn check_table(&self, connection: &Connection) -> Result<(), Error> {
        let path = || self.database.clone();
        match self.sql("read", table::shape(connection))? {
            Shape::Ours => Ok(()),
            Shape::Missing => Err(Error::NoTable { path: path() }),
            Shape::Foreign { missing } => Err(Error::ForeignTable {
                path: path(),
                missing,
            }),
        }
    }

    fn transaction<'c>(
        &self,
        connection: &'c mut Connection,
        behavior: TransactionBehavior,
    ) -> Result<Transaction<'c>, Error> {
        self.sql("lock", connection.transaction_with_behavior(behavior))
    }

    fn commit(&self, transaction: Transaction<'_>) -> Result<(), Error> {
        self.sql("commit to", transaction.commit())
    }

    fn sql<T>(&self, action: &'static str, result: rusqlite::Result<T>) -> Result<T, Error> {
        result.map_err(|error| connection::database_error(&self.database, action, error))
    }
}

fn check_save(scope: &str, content: &[u8], format: &ConfigFormat) -> Result<(), Error> {
    if scope.trim().is_empty() {
        return Err(Error::EmptyScope);
    }
    if format.as_str().trim().is_empty() {
        return Err(Error::EmptyFormat);
    }
    let size = content.len() as u64;
    if size > MAX_CONTENT {
        return Err(Error::TooLarge {
            scope: scope.to_owned(),
            size,
        });
    }
    if content.trim_ascii().is_empty() {
        return Err(Error::EmptyContent {
            scope: scope.to_owned(),
        });
    }
    Ok(())
}
