//! TLS of our own: a library has no say in the one of the process.

use std::{error::Error, io, sync::Arc};

use rustls::{CertificateError, ClientConfig, RootCertStore, crypto::ring};

/// What the user can do about a server that is not trusted.
pub(crate) const UNTRUSTED: &str = "; if the server's certificate is of an authority of your own, set the variable \
                                    SSL_CERT_FILE to a file with the certificates (PEM) of all that are to be trusted";

/// With the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in place of them. Those that
/// cannot be read are left out.
pub(crate) fn config() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Whether a server was refused because nobody who is trusted vouches for it.
pub(crate) fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            let untrusted = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
            return untrusted == *error;
        }
        // It passes over what it holds otherwise.
        let held = error.downcast_ref::<io::Error>();
        next = match held.and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    false
}
