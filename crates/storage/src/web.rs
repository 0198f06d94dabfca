//! Connections to stores that speak HTTP.

use std::{error::Error, sync::Arc, time::Duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections for requests that are answered soon.
pub(crate) fn client() -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    Ok(builder()?.read_timeout(READ_TIMEOUT).build()?)
}

/// Connections with a TLS of our own: a library has no say in the one of the process.
pub(crate) fn builder() -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
    let mut roots = rustls::RootCertStore::empty();
    // The system's; SSL_CERT_FILE and SSL_CERT_DIR are heeded. Those it cannot read are left out.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT))
}
