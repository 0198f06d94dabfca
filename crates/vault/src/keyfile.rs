//! Identity files, as `age-keygen` writes them:
//!
//! ```text
//! # created: 2026-11-22T22:18:08Z
//! # public key: age1al708d2fmmf6cpte0ndycgh96ux22hxg56nh0u2g6ztyscjpr4sqfscd8j
//! AGE-SECRET-KEY-1…
//! ```
//!
//! Lines that start with `#` and blank lines are skipped; every other line is an identity. The
//! first is the one to encrypt to, all of them may decrypt. Together with `private`, this is the
//! one module of the crate that opens files.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Read},
    path::{Path, PathBuf},
};

use age::x25519;
use zeroize::Zeroizing;

use crate::{
    Error, Plaintext, cipher,
    error::{KeyFileError, LineFound},
};

/// Enough for hundreds of identities with comments.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// The path of an age identity file.
///
/// Only the path is kept: the file is read, checked and parsed at each use, and its bytes are
/// zeroized right after. It must be readable by its owner alone.
#[derive(Clone, PartialEq, Eq)]
pub struct AgeKeyFile {
    path: PathBuf,
}

impl AgeKeyFile {
    /// The key file at this path. Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public keys (`age1…`) of its identities, in the order of the file. Contents are
    /// encrypted to the first.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] where the file cannot be used.
    pub fn public_keys(&self) -> Result<Vec<String>, KeyFileError> {
        Ok(self
            .identities()?
            .iter()
            .map(|identity| identity.to_public().to_string())
            .collect())
    }

    /// Encrypts to the public key of the first identity, as a binary age file.
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`] where the file cannot be used.
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        cipher::encrypt(&self.identities()?, plaintext)
    }

    /// Decrypts a binary age file with any of the identities. `what` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKey`], [`Error::NotAnAgeFile`], [`Error::Damaged`], [`Error::Passphrase`];
    /// [`Error::KeyFile`] where the file cannot be used.
    pub fn decrypt(&self, encrypted: &[u8], what: &str) -> Result<Plaintext, Error> {
        cipher::decrypt(&self.identities()?, encrypted, what, &self.path)
    }

    /// Reads the file: at least one identity.
    pub(crate) fn identities(&self) -> Result<Vec<x25519::Identity>, KeyFileError> {
        let bytes = read(&self.path)?;
        parse(&self.path, &bytes)
    }
}

impl fmt::Debug for AgeKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgeKeyFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    // Looked at before it is opened: opening a pipe could wait for ever.
    check(
        path,
        &std::fs::metadata(path).map_err(|source| read_error(path, source))?,
    )?;
    let mut file = OpenOptions::new()
        .read(true)
        .open(path)
        .map_err(|source| read_error(path, source))?;
    // And once more through the descriptor, lest it was exchanged in between.
    check(
        path,
        &file.metadata().map_err(|source| read_error(path, source))?,
    )?;

    // One allocation that never moves, so that no copy of the key is left behind.
    let limit = MAX_KEY_FILE as usize + 1;
    let mut bytes = Zeroizing::new(vec![0; limit]);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(read_error(path, source)),
        }
    }
    if filled == limit {
        return Err(KeyFileError::TooLarge {
            path: path.to_owned(),
            size: filled as u64,
        });
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn check(path: &Path, metadata: &std::fs::Metadata) -> Result<(), KeyFileError> {
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    if metadata.len() > MAX_KEY_FILE {
        return Err(KeyFileError::TooLarge {
            path: path.to_owned(),
            size: metadata.len(),
        });
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::OpenToOthers {
                path: path.to_owned(),
                mode,
            });
        }
    }
    Ok(())
}

fn read_error(path: &Path, source: io::Error) -> KeyFileError {
    match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing {
            path: path.to_owned(),
        },
        _ => KeyFileError::Read {
            path: path.to_owned(),
            source,
        },
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<x25519::Identity>, KeyFileError> {
    let mut identities = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let identity = std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.parse().ok());
        identities.push(identity.ok_or_else(|| KeyFileError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            found: guess(line),
        })?);
    }
    if identities.is_empty() {
        return Err(KeyFileError::NoIdentity {
            path: path.to_owned(),
        });
    }
    Ok(identities)
}

/// What the line seems to be, for a message that does not show it.
fn guess(line: &[u8]) -> LineFound {
    let starts = |prefix: &str| {
        line.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if starts("AGE-SECRET-KEY-1") {
        LineFound::DamagedIdentity
    } else if starts("AGE-SECRET-KEY-PQ-1") {
        LineFound::PostQuantum
    } else if starts("AGE-PLUGIN-") {
        LineFound::Plugin
    } else if starts("age1") {
        LineFound::PublicKey
    } else if starts("-----BEGIN OPENSSH") || starts("-----BEGIN RSA") {
        LineFound::SshKey
    } else if starts("age-encryption.org/") || starts("-----BEGIN AGE") {
        LineFound::EncryptedIdentity
    } else {
        LineFound::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> LineFound {
        match parse(Path::new("k"), text.as_bytes()) {
            Err(KeyFileError::BadLine { line: 2, found, .. }) => found,
            other => panic!(
                "expected a bad second line, got {:?}",
                other.map(|ids| ids.len())
            ),
        }
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_kind() {
        assert_eq!(found("# a\nage1qqqq\n"), LineFound::PublicKey);
        assert_eq!(found("\r\nAGE-PLUGIN-YUBIKEY-1QQ"), LineFound::Plugin);
        assert_eq!(
            found("\n-----BEGIN OPENSSH PRIVATE KEY-----"),
            LineFound::SshKey
        );
        assert_eq!(
            found("\nage-encryption.org/v1"),
            LineFound::EncryptedIdentity
        );
        assert_eq!(found("\nAGE-SECRET-KEY-1QQQQ"), LineFound::DamagedIdentity);
        assert_eq!(found("\nAGE-SECRET-KEY-PQ-1QQQQ"), LineFound::PostQuantum);
        assert_eq!(found("\n\u{fffd}"), LineFound::Unknown);
    }

    #[test]
    fn a_file_of_comments_only_is_no_key_file() {
        let result = parse(Path::new("k"), b"# nothing\n\n  \r\n");
        assert!(matches!(result, Err(KeyFileError::NoIdentity { .. })));
    }
}
