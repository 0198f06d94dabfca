//! TLS of our own: a library has no say in the one of the process.

use std::{error::Error, io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

const UNTRUSTED: &str = "; if the server's certificate is of an authority of your own, set the variable SSL_CERT_FILE \
                         to a file with the certificates (PEM) of all that are to be trusted";
const OUT_OF_DATE: &str = "; set the clock of this machine, or have the server's certificate renewed: by that clock it \
                           is not valid now";

/// Whether a server has to prove who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Certificates {
    /// Somebody who is trusted has to vouch for it.
    Checked,
    /// Whoever answers is believed.
    #[allow(dead_code)] // not every store allows it
    Believed,
}

/// With the system's certificates, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in place of them. Those that
/// cannot be read are left out.
pub(crate) fn config(certificates: Certificates) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match certificates {
        Certificates::Checked => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots)
        }
        Certificates::Believed => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Believing(provider))),
    };
    Ok(builder.with_no_client_auth())
}

/// Believes that every server is the one it says it is.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What the user can do about a server that has not proven who it is.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return match error {
                rustls::Error::InvalidCertificate(refused) => hint_on(refused),
                _ => None,
            };
        }
        // It passes over what it holds otherwise.
        let held = error.downcast_ref::<io::Error>();
        next = match held.and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

fn hint_on(refused: &CertificateError) -> Option<&'static str> {
    match refused {
        CertificateError::UnknownIssuer => Some(UNTRUSTED),
        CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
        | CertificateError::Expired
        | CertificateError::ExpiredContext { .. } => Some(OUT_OF_DATE),
        _ => None,
    }
}
