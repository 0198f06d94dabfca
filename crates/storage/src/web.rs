//! Connections to stores that speak HTTP.

use std::{error::Error, time::Duration};

use crate::tls::{self, Certificates};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections for requests that are answered soon.
pub(crate) fn client(
    certificates: Certificates,
) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    Ok(builder(certificates)?.read_timeout(READ_TIMEOUT).build()?)
}

pub(crate) fn builder(
    certificates: Certificates,
) -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls::config(certificates)?)
        .connect_timeout(CONNECT_TIMEOUT))
}
