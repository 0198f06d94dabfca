//! Connections to stores that speak HTTP.

use std::{error::Error, time::Duration};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::tls::{self, Certificates};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked for by `Retry-After` and longer is left to the caller, who knows what else there is to do.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long the server asks to be left alone, where it says so in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

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
