//! age, as this crate uses it: X25519, binary files.

use std::{
    io::{Read, Write},
    path::Path,
};

use age::{DecryptError, Decryptor, Encryptor, x25519};
use zeroize::Zeroizing;

use crate::{Error, Plaintext};

/// What every age file starts with, whatever its version.
const MAGIC: &[u8] = b"age-encryption.org/";

/// Encrypts to the first identity.
pub(crate) fn encrypt(identities: &[x25519::Identity], text: &[u8]) -> Result<Vec<u8>, Error> {
    let recipient = identities.first().map(x25519::Identity::to_public);
    let recipients = recipient
        .iter()
        .map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).map_err(Error::Encrypt)?;

    let write = || {
        let mut writer = encryptor.wrap_output(Vec::new())?;
        writer.write_all(text)?;
        writer.finish()
    };
    write().map_err(|error| Error::Encrypt(error.into()))
}

/// Decrypts with any of the identities. `what` and `key_file` are for the error.
pub(crate) fn decrypt(
    identities: &[x25519::Identity],
    encrypted: &[u8],
    what: &str,
    key_file: &Path,
) -> Result<Plaintext, Error> {
    let what = what.to_owned();
    if !encrypted.starts_with(MAGIC) {
        return Err(Error::NotAnAgeFile { what });
    }
    let decryptor = match Decryptor::new_buffered(encrypted) {
        Ok(decryptor) => decryptor,
        Err(DecryptError::UnknownFormat) => return Err(Error::NotAnAgeFile { what }),
        Err(_) => return Err(Error::Damaged { what }),
    };
    let key_file = key_file.to_owned();
    if decryptor.is_scrypt() {
        return Err(Error::Passphrase { what, key_file });
    }
    let identities = identities
        .iter()
        .map(|identity| identity as &dyn age::Identity);
    let reader = match decryptor.decrypt(identities) {
        Ok(reader) => reader,
        Err(DecryptError::NoMatchingKeys) => return Err(Error::WrongKey { what, key_file }),
        Err(_) => return Err(Error::Damaged { what }),
    };
    // The plaintext is shorter than the file around it: with that much room the buffer never
    // moves, and no copy is left behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(encrypted.len()));
    match reader
        .take(encrypted.len() as u64)
        .read_to_end(&mut plaintext)
    {
        Ok(_) => Ok(Plaintext::new(plaintext)),
        Err(_) => Err(Error::Damaged { what }),
    }
}
