//! Sources of credentials that do not show what they have.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use reqsign_core::{Context, Error, ProvideCredential, Result};

/// What a message says at most of why a source gave nothing.
const SAID: usize = 160;

/// The same source. A chain of them logs each that it tries with everything that its `Debug` shows, such as the token
/// it was given, and one that fails with all that was answered. Of this one it knows the name, and that it has nothing.
pub(super) struct Quiet<P> {
    name: &'static str,
    source: P,
    /// What was said last of why it has nothing: requests are many.
    said: Mutex<String>,
}

impl<P> Quiet<P> {
    pub(super) fn new(name: &'static str, source: P) -> Self {
        Self {
            name,
            source,
            said: Mutex::default(),
        }
    }

    /// Says why the source has nothing, once until it is another reason.
    fn say(&self, error: &Error) {
        let why = without_quotes(error);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != why {
            tracing::warn!(source = self.name, error = why, "no credentials from there");
            *said = why;
        }
    }
}

/// What went wrong, without what a server, a file or a process said: that begins after a colon.
fn without_quotes(error: &Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    let own = first.split_once(": ").map_or(first, |(own, _)| own);
    let own: String = own.chars().take(SAID).collect();
    format!("{}: {own}", error.kind())
}

impl<P> fmt::Debug for Quiet<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<P: ProvideCredential> ProvideCredential for Quiet<P> {
    type Credential = P::Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<P::Credential>> {
        match self.source.provide_credential(context).await {
            Ok(found) => Ok(found),
            Err(error) => {
                self.say(&error);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_answered_is_in_no_reason() {
        for (message, expected) in [
            ("instance metadata not found", "instance metadata not found"),
            (
                "STS request failed with 403 Forbidden: <Error>planted",
                "STS request failed with 403 Forbidden",
            ),
            ("first\nplanted", "first"),
            ("IMDS access denied: a: planted", "IMDS access denied"),
        ] {
            let error = Error::config_invalid(message).with_context("planted");
            let expected = format!("invalid configuration: {expected}");
            assert_eq!(without_quotes(&error), expected);
        }
        let long = Error::unexpected("x".repeat(10_000));
        assert!(without_quotes(&long).len() < 200);
    }
}
