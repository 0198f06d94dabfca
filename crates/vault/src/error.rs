//! What can go wrong, and what to do about it.

use std::{io, path::PathBuf};

/// Why a configuration could not be read or stored. Nothing was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file is missing, open to others, or holds no usable identity.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),

    /// No file is at the path of the database.
    #[error(
        "no database at {}: check the path; a database that is yet to be created is made by `evertide insert-config`, or by the application",
        path.display()
    )]
    DatabaseMissing {
        /// Where the database was expected.
        path: PathBuf,
    },
    /// The file is not a SQLite database.
    #[error("{} is not a SQLite database (or is encrypted): check the path", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// Another connection kept the database locked for longer than [`crate::BUSY_TIMEOUT`].
    #[error(
        "{} stayed locked by another connection for 5 seconds: \
         try again when its transaction has ended",
        path.display()
    )]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The database, or its directory, cannot be written to.
    #[error(
        "{} cannot be written to: run as the user who owns the database and its directory",
        path.display()
    )]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },
    /// Another failure of SQLite.
    #[error("could not {action} {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What was being done, as in "could not … the database".
        action: &'static str,
        /// SQLite's own words.
        source: rusqlite::Error,
    },

    /// The database has no table `app_config`.
    #[error(
        "{} has no table `app_config`: no configuration was ever stored in it; \
         store one with `evertide insert-config`",
        path.display()
    )]
    NoTable {
        /// The database.
        path: PathBuf,
    },
    /// The database has a table `app_config` of somebody else's.
    #[error(
        "the table `app_config` of {} is not a configuration store: it has no column `{missing}`; \
         keep the configuration in another database",
        path.display()
    )]
    ForeignTable {
        /// The database.
        path: PathBuf,
        /// The first column that is not there.
        missing: &'static str,
    },
    /// Nothing is stored for the scope.
    #[error(
        "no configuration is stored for scope `{scope}` ({})",
        stored_scopes(known)
    )]
    NoSuchScope {
        /// The scope asked for.
        scope: String,
        /// The scopes that exist.
        known: Vec<String>,
    },
    /// The scope has fewer versions.
    #[error(
        "scope `{scope}` has no generation {generation}: it has {versions}, \
         from 0 (the newest) to {}", versions.saturating_sub(1)
    )]
    NoSuchGeneration {
        /// The scope asked for.
        scope: String,
        /// The generation asked for.
        generation: u32,
        /// How many the scope has.
        versions: u32,
    },
    /// A rollback to the newest version, which is where it is already.
    #[error(
        "generation 0 of scope `{scope}` is the newest, so there is nothing to roll back to: \
         give 1 for the one before"
    )]
    RollbackToNewest {
        /// The scope asked for.
        scope: String,
    },

    /// A scope without a name.
    #[error("the scope is empty: name what the configuration is for, for example `litestream`")]
    EmptyScope,
    /// A format without a name.
    #[error("the format is empty: say `toml` or `yaml`")]
    EmptyFormat,
    /// Nothing to store, or nothing stored.
    #[error("the configuration of scope `{scope}` is empty: give it some content")]
    EmptyContent {
        /// Its scope.
        scope: String,
    },
    /// More than [`crate::MAX_CONTENT`].
    #[error(
        "the configuration of scope `{scope}` has {size} bytes: at most {} are accepted",
        crate::MAX_CONTENT
    )]
    TooLarge {
        /// Its scope.
        scope: String,
        /// Its size in bytes.
        size: u64,
    },

    /// No identity of the key file opens it.
    #[error(
        "no identity in {} opens {what}: it was encrypted to another key; \
         use that key file, or add its identity as a further line of this one",
        key_file.display()
    )]
    WrongKey {
        /// What could not be opened.
        what: String,
        /// The key file used.
        key_file: PathBuf,
    },
    /// Encrypted with a passphrase instead of a key.
    #[error("{what} is encrypted with a passphrase: encrypt it to the public key of {} instead",
        key_file.display())]
    Passphrase {
        /// What could not be opened.
        what: String,
        /// The key file used.
        key_file: PathBuf,
    },
    /// Not the bytes of an age file.
    #[error(
        "{what} is not a binary age file: it was stored by something else, as plain or armored \
         text; store it again with `evertide insert-config`"
    )]
    NotAnAgeFile {
        /// What could not be opened.
        what: String,
    },
    /// An age file whose bytes have changed since it was written.
    #[error(
        "{what} is damaged: its bytes are not those that were encrypted; \
         roll back to another generation, or store it again"
    )]
    Damaged {
        /// What could not be opened.
        what: String,
    },
    /// Encrypting failed.
    #[error("could not encrypt")]
    Encrypt(#[source] age::EncryptError),
}

/// Why a key file cannot be used. Never quotes what is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// No such file.
    #[error("no key file at {}: check the path, or make one with `evertide keygen -o {}`",
        path.display(), shell_quoted(path))]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A directory, a device, a pipe.
    #[error("{} is not a regular file: give the path of an age identity file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// The database was given as the key file.
    #[error("{} is the database, not a key file: are the two paths swapped?", path.display())]
    IsTheDatabase {
        /// What was given.
        path: PathBuf,
    },
    /// Group or others have some access.
    #[error(
        "key file {} is open to other users (mode {mode:04o}): run `chmod 600 {}`, \
         and make a new key if somebody may have read it",
        path.display(), shell_quoted(path)
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too large to be a key file.
    #[error("{} has {size} bytes, too many for a key file: check the path", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// No identity in it.
    #[error(
        "key file {} holds no identity: a line that starts with `AGE-SECRET-KEY-1` is expected, \
         as age-keygen writes it",
        path.display()
    )]
    NoIdentity {
        /// The file.
        path: PathBuf,
    },
    /// A line that is neither an identity nor a comment.
    #[error("line {line} of key file {} is {found}: \
         only X25519 identities (`AGE-SECRET-KEY-1…`) and comments are expected", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What it seems to be.
        found: LineFound,
    },
    /// A new key was to be written over a file.
    #[error("{} exists already: a key file is never overwritten; choose another path",
        path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("could not read key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("could not write key file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a line of a key file that is not an X25519 identity seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineFound {
    /// `age1…`, the public half.
    PublicKey,
    /// An identity of a plugin.
    Plugin,
    /// An OpenSSH key.
    SshKey,
    /// An identity file that is itself encrypted.
    EncryptedIdentity,
    /// `AGE-SECRET-KEY-1…`, but mistyped or cut short.
    DamagedIdentity,
    /// A post-quantum identity.
    PostQuantum,
    /// Anything else.
    Unknown,
}

impl std::fmt::Display for LineFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PublicKey => "a public key, which cannot decrypt",
            Self::Plugin => "an identity of an age plugin, which is not supported",
            Self::SshKey => "an SSH key, which is not supported",
            Self::EncryptedIdentity => "encrypted, and there is nobody to ask for a passphrase",
            Self::DamagedIdentity => "a damaged identity (cut short, or a character changed)",
            Self::PostQuantum => "a post-quantum identity, which is not supported",
            Self::Unknown => "not an age identity",
        })
    }
}

/// The path as a shell takes it, for commands in messages.
fn shell_quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn stored_scopes(known: &[String]) -> String {
    if known.is_empty() {
        "the table is empty; store one with `evertide insert-config`".to_owned()
    } else {
        format!(
            "stored: {}; store one with `evertide insert-config`",
            known.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chmod_command_survives_a_space_and_a_quote_in_the_path() {
        assert_eq!(
            shell_quoted("/etc/app/age.key".as_ref()),
            "/etc/app/age.key"
        );
        assert_eq!(shell_quoted("/my keys/k".as_ref()), "'/my keys/k'");
        assert_eq!(shell_quoted("a'b".as_ref()), r"'a'\''b'");
    }
}
