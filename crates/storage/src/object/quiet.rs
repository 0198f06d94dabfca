//! Sources of credentials that do not show what they have.

use std::fmt;

use reqsign_core::{Context, ProvideCredential, Result};

/// The same source. A chain of them logs one that fails with everything that its `Debug` shows.
pub(super) struct Quiet<P>(pub(super) P);

impl<P> fmt::Debug for Quiet<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings")
    }
}

impl<P: ProvideCredential> ProvideCredential for Quiet<P> {
    type Credential = P::Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<P::Credential>> {
        self.0.provide_credential(context).await
    }
}
