//! Requests to OSS, signed in the fourth version.

use http::{HeaderValue, Method, Request, Response, Uri, header, request::Parts};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqsign_aliyun_oss::{
    AssumeRoleCredentialProvider, AssumeRoleWithOidcCredentialProvider,
    ConfigFileCredentialProvider, Credential, CredentialsFileCredentialProvider,
    CredentialsUriCredentialProvider, EcsRamRoleCredentialProvider, EnvCredentialProvider,
    OssProfileCredentialProvider, RequestSigner, SigningVersion, StaticCredentialProvider,
};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;

use super::{
    super::{connection, quiet::Quiet},
    OssOptions,
};

/// Where keys are looked for.
type Sources = ProvideCredentialChain<Credential>;

const SECURITY_TOKEN: &str = "x-oss-security-token";
/// What OSS knows as user metadata.
const METADATA: &str = "x-oss-meta-";

/// Signs what it sends, and says the time of the last transaction where an upload in parts begins, which OpenDAL
/// does not.
#[derive(Clone)]
pub(super) struct Signed {
    transport: HttpTransporter,
    signer: Signer<Credential>,
    bucket: String,
    timestamp: Option<String>,
}

impl Signed {
    /// With the access key of these options, or what is found.
    pub(super) fn new(transport: HttpTransporter, options: &OssOptions) -> Self {
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_env(OsEnv)
            .with_http_send(transport.clone());
        let provider = match (&options.access_key_id, &options.access_key_secret) {
            (Some(id), Some(secret)) => {
                let key = StaticCredentialProvider::new(id.expose(), secret.expose());
                let key = match &options.security_token {
                    Some(token) => key.with_security_token(token.expose()),
                    None => key,
                };
                Sources::new().push(Quiet::new("the settings", key))
            }
            _ => sources(),
        };
        let signer = RequestSigner::new(&options.bucket)
            .with_region(options.region())
            .with_signing_version(SigningVersion::V4);
        Self {
            transport,
            signer: Signer::new(context, provider, signer),
            bucket: options.bucket.clone(),
            timestamp: None,
        }
    }

    pub(super) fn with_timestamp(&self, timestamp: &str) -> Self {
        Self {
            timestamp: Some(timestamp.to_owned()),
            ..self.clone()
        }
    }

    /// The URL of the bucket itself, as OSS has it where the bucket is named in the path.
    fn with_slash(&self, uri: &Uri) -> Option<Uri> {
        if uri.path().strip_prefix('/') != Some(&self.bucket) {
            return None;
        }
        let query = uri.query().unwrap_or_default();
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = format!("/{}/?{query}", self.bucket).parse().ok();
        Uri::from_parts(parts).ok()
    }

    async fn sign(&self, parts: &mut Parts) -> Result<(), Error> {
        if let Some(host) = parts.uri.authority() {
            // Signed, too: with nothing else to sign OSS is left with an empty list, which no document has.
            let host = HeaderValue::from_str(host.as_str()).map_err(no_header)?;
            parts.headers.insert(header::HOST, host);
        }
        if let Some(uri) = self.with_slash(&parts.uri) {
            parts.uri = uri;
        }
        let signed = self.signer.sign(parts, None).await;
        signed.map_err(|error| no_credentials().set_source(error))?;
        // What sends it says it by itself.
        parts.headers.remove(header::HOST);
        match parts.headers.contains_key(header::AUTHORIZATION) {
            true => Ok(()),
            false => Err(no_credentials()),
        }
    }
}

impl HttpTransport for Signed {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Error> {
        let (mut parts, body) = request.into_parts();
        let begins = parts.method == Method::POST && parts.uri.query() == Some("uploads");
        if let Some(timestamp) = self.timestamp.as_ref().filter(|_| begins) {
            let value = HeaderValue::from_str(timestamp).map_err(no_header)?;
            let name = format!("{METADATA}{}", super::TIMESTAMP);
            let name = header::HeaderName::from_bytes(name.as_bytes()).map_err(no_header)?;
            parts.headers.insert(name, value);
        }
        self.sign(&mut parts).await?;
        let token = parts.headers.get(SECURITY_TOKEN).cloned();
        let request = Request::from_parts(parts, body);
        connection::unquoted(self.transport.fetch(request).await?, token).await
    }
}

/// Where Alibaba's own tools look, in their order.
fn sources() -> Sources {
    let role = AssumeRoleCredentialProvider::new().with_base_provider(kept(Sources::new()));
    let identity = AssumeRoleWithOidcCredentialProvider::new();
    kept(Sources::new().push(Quiet::new("the role to assume", role)))
        .push(Quiet::new(
            "the URI of credentials",
            CredentialsUriCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the machine's metadata service",
            EcsRamRoleCredentialProvider::new(),
        ))
        .push(Quiet::new("the web identity", identity))
}

/// These, and keys that are kept on this machine.
fn kept(sources: Sources) -> Sources {
    sources
        .push(Quiet::new("the environment", EnvCredentialProvider::new()))
        .push(Quiet::new(
            "the profile of OSS",
            OssProfileCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the file of credentials",
            CredentialsFileCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the settings of Alibaba's tools",
            ConfigFileCredentialProvider::new(),
        ))
}

fn no_header(error: impl Into<http::Error>) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        "the endpoint is no part of a request",
    )
    .set_source(error.into())
}

fn no_credentials() -> Error {
    let what =
        "there are no credentials that work: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET";
    Error::new(ErrorKind::PermissionDenied, what)
}
