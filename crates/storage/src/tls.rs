//! TLS of our own: a library has no say in the one of the process.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// With the system's certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded. Those that cannot be read are
/// left out.
pub(crate) fn config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
