//! Credentials, which are never shown.

#[cfg(any(feature = "_object", feature = "nats"))]
use std::error::Error;
use std::{
    fmt,
    hash::{Hash, Hasher},
};

use zeroize::Zeroizing;

/// A credential: never shown, and wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The same error, without these secrets where it shows them: some servers quote what they were asked.
#[cfg(any(feature = "_object", feature = "nats"))]
pub(crate) fn without<'a>(
    source: impl Error + Send + Sync + 'static,
    secrets: impl Iterator<Item = &'a str> + Clone,
) -> Box<dyn Error + Send + Sync> {
    let shown = format!("{source} {source:?}");
    let secrets = secrets.filter(|secret| !secret.is_empty());
    if !secrets.clone().any(|secret| shown.contains(secret)) {
        return Box::new(source);
    }
    let clean = secrets.fold(source.to_string(), |text, secret| text.replace(secret, "…"));
    clean.into()
}
