//! Google Cloud Storage.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use opendal::{Buffer, ErrorKind, HttpTransporter, Operator, services};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use reqsign_google::{
    Credential, EnvCredentialProvider, RequestSigner, StaticCredentialProvider,
    VmMetadataCredentialProvider, WellKnownCredentialProvider,
};

use super::{
    Deletion, Dialect, ObjectClient, VersionBy,
    connection::{self, environment},
    once::PutOnce,
    quiet::Quiet,
};
use crate::{Error, Precondition, Secret, url};

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
const GOOGLE: &str = "https://storage.googleapis.com";
/// Everything but what RFC 3986 never has escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const MISSING_BUCKET: &str = "bucket does not exist";
/// What separates the parts of a request. Bodies have a random number added to it.
const BOUNDARY: &str = "evertide-";
/// Tries of one request, with a pause that doubles.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

type Provider = ProvideCredentialChain<Credential>;

/// A replica in a bucket of Google Cloud Storage.
///
/// Without credentials here, they are looked for as Google's own tools do: the file that
/// `GOOGLE_APPLICATION_CREDENTIALS` names, that of `gcloud`, the metadata server of a machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct GcsOptions {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The replica's root in the bucket; empty for the bucket itself.
    pub path: String,
    /// URL of an emulator; without one `STORAGE_EMULATOR_HOST` of the environment, else Google. Requests to
    /// an emulator are signed only where there are credentials here.
    pub endpoint: Option<String>,
    /// The content of a key file, in JSON.
    pub credentials: Option<Secret>,
}

impl GcsOptions {
    /// A replica at this path of a bucket; slashes at its ends mean nothing.
    pub fn new(bucket: impl Into<String>, path: &str) -> Self {
        Self {
            bucket: bucket.into(),
            path: path.trim_matches('/').to_owned(),
            endpoint: None,
            credentials: None,
        }
    }

    /// Reads `bucket/path?endpoint=…`, the part of a URL after `gs://`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        const EXPECTED: &str = "`gs://bucket/path`";
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(format!("it has no bucket; expected {EXPECTED}"));
        }
        if bucket.contains(['@', ':']) {
            return Err(format!(
                "credentials do not belong into a URL: set GOOGLE_APPLICATION_CREDENTIALS, or use the \
                 encrypted settings; expected {EXPECTED}"
            ));
        }
        let mut options = Self::new(bucket, &url::decoded(path)?);
        for parameter in url::parameters(query) {
            match parameter? {
                ("endpoint", value) => {
                    options.endpoint = Some(value).filter(|value| !value.is_empty());
                }
                (key, _) => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    pub(crate) fn connect(&self) -> Result<Arc<ObjectClient>, Error> {
        let dialect = Dialect {
            level: |level| format!("ltx/{level}/"),
            timestamp: "litestream-timestamp",
            conditional_create: true,
            compare_and_set: true,
            version: VersionBy::Generation,
            missing_bucket: MISSING_BUCKET,
            deletion: Deletion::OneByOne,
            page: None,
            part: None,
            parts_at_a_time: 1,
        };
        let connected = self.operator();
        let (operator, once) = match connected {
            Ok((operator, once)) => (Ok(operator), Some(once)),
            Err(error) => (Err(error), None),
        };
        let mut client = ObjectClient::connect(self.to_string(), dialect, operator)?;
        client.once = once.map(|once| Box::new(once) as Box<dyn PutOnce>);
        Ok(Arc::new(client))
    }

    fn operator(&self) -> Result<(Operator, OneRequest), opendal::Error> {
        let emulator = self.endpoint.clone();
        let emulator = emulator.or_else(|| environment("STORAGE_EMULATOR_HOST"));
        let emulator = emulator.map(|host| match host.contains("://") {
            true => host,
            false => format!("http://{host}"),
        });
        let endpoint = emulator.as_deref().unwrap_or(GOOGLE).trim_end_matches('/');
        let parts = self.path.split('/').filter(|part| !part.is_empty());
        let root: Vec<_> = parts.collect();
        let root = root.join("/");
        let mut builder = services::Gcs::default()
            .bucket(&self.bucket)
            .root(&format!("/{root}"))
            .endpoint(endpoint);
        match self.provider(emulator.as_deref())? {
            Some(provider) => {
                builder = builder
                    .credential_provider_chain(provider)
                    .disable_config_load()
                    .disable_vm_metadata();
            }
            None => builder = builder.skip_signature(),
        }
        let transport = connection::transport()?;
        let signer = self.provider(emulator.as_deref())?.map(|provider| {
            let context = Context::new()
                .with_file_read(TokioFileRead)
                .with_env(OsEnv)
                .with_http_send(transport.clone());
            let signer = RequestSigner::new("storage").with_scope(SCOPE);
            Signer::new(context, provider, signer)
        });
        let once = OneRequest {
            transport: transport.clone(),
            url: format!(
                "{endpoint}/upload/storage/v1/b/{}/o?uploadType=multipart&name=",
                utf8_percent_encode(&self.bucket, ESCAPED)
            ),
            root: if root.is_empty() { root } else { root + "/" },
            signer,
        };
        Ok((connection::operator(builder, transport)?, once))
    }

    /// Where credentials come from, `None` where requests are not signed.
    fn provider(&self, emulator: Option<&str>) -> Result<Option<Provider>, opendal::Error> {
        let chain = ProvideCredentialChain::new();
        Ok(match (self.checked_credentials()?, emulator) {
            (Some(key), _) => {
                let key = StaticCredentialProvider::new(key.expose());
                Some(chain.push(Quiet::new("the settings", key.with_scope(SCOPE))))
            }
            (None, None) => Some(sources(chain)),
            (None, Some(_)) => None,
        })
    }

    /// The key, if it looks like one: what reads it quotes in its errors what it cannot read.
    fn checked_credentials(&self) -> Result<Option<&Secret>, opendal::Error> {
        let Some(key) = &self.credentials else {
            return Ok(None);
        };
        const KINDS: [&str; 4] = [
            "service_account",
            "authorized_user",
            "external_account",
            "impersonated_service_account",
        ];
        let parsed: Option<serde_json::Value> = serde_json::from_str(key.expose()).ok();
        let kind = parsed.as_ref().and_then(|key| key.get("type")?.as_str());
        if kind.is_none_or(|kind| !KINDS.contains(&kind)) {
            let what = "the credentials are not the content of a key file: JSON with a `type`, such as \
                        `service_account`";
            return Err(opendal::Error::new(ErrorKind::ConfigInvalid, what));
        }
        Ok(Some(key))
    }
}

/// Where Google's own tools look, in their order.
fn sources(chain: Provider) -> Provider {
    chain
        .push(Quiet::new(
            "the file of GOOGLE_APPLICATION_CREDENTIALS",
            EnvCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the file of gcloud",
            WellKnownCredentialProvider::new(),
        ))
        .push(Quiet::new(
            "the machine's metadata service",
            VmMetadataCredentialProvider::new(),
        ))
}

impl fmt::Display for GcsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gs://{}", self.bucket)?;
        if !self.path.is_empty() {
            f.write_str("/")?;
            url::write_path(f, &self.path)?;
        }
        url::write_parameters(f, &[("endpoint", self.endpoint.as_deref())])
    }
}

/// Stores an object in one request, on condition where wanted. (OpenDAL has conditions on resumable uploads
/// only, which take two.)
struct OneRequest {
    transport: HttpTransporter,
    /// Where objects are stored, up to their name.
    url: String,
    /// What names begin with.
    root: String,
    signer: Option<Signer<Credential>>,
}

#[async_trait]
impl PutOnce for OneRequest {
    async fn put(
        &self,
        key: &str,
        content: Buffer,
        metadata: Option<(&str, &str)>,
        precondition: &Precondition,
    ) -> Result<String, opendal::Error> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            match self
                .try_put(key, content.clone(), metadata, precondition)
                .await
            {
                Err(error) if error.is_temporary() && tries < TRIES => {
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause *= 2;
                    tries += 1;
                }
                done => return done,
            }
        }
    }
}

impl OneRequest {
    async fn try_put(
        &self,
        key: &str,
        content: Buffer,
        metadata: Option<(&str, &str)>,
        precondition: &Precondition,
    ) -> Result<String, opendal::Error> {
        let request = self.request(key, content, metadata, precondition)?;
        let (mut parts, body) = request.into_parts();
        if let Some(signer) = &self.signer {
            let signed = signer.sign(&mut parts, None).await;
            signed.map_err(|error| {
                opendal::Error::new(
                    ErrorKind::PermissionDenied,
                    "there are no credentials that work",
                )
                .set_source(error)
            })?;
            parts.headers.remove(header::HOST);
        }
        let response = self
            .transport
            .send(Request::from_parts(parts, body))
            .await?;
        read_answer(response)
    }

    fn request(
        &self,
        key: &str,
        content: Buffer,
        metadata: Option<(&str, &str)>,
        precondition: &Precondition,
    ) -> Result<Request<Buffer>, opendal::Error> {
        let name = format!("{}{key}", self.root);
        let name = utf8_percent_encode(&name, ESCAPED);
        let condition = match precondition {
            Precondition::None => String::new(),
            Precondition::Absent => "&ifGenerationMatch=0".to_owned(),
            Precondition::Unchanged(version) => {
                let version = String::from_utf8_lossy(version.as_bytes());
                format!(
                    "&ifGenerationMatch={}",
                    utf8_percent_encode(&version, ESCAPED)
                )
            }
        };
        let metadata = match metadata {
            Some((key, value)) => serde_json::json!({"metadata": {key: value}}),
            None => serde_json::json!({}),
        };
        let boundary = format!(
            "{BOUNDARY}{:016x}{:016x}",
            fastrand::u64(..),
            fastrand::u64(..)
        );
        let head = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{metadata}\r\n\
             --{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let pieces = [Bytes::from(head)]
            .into_iter()
            .chain(content)
            .chain([tail.into()]);
        let body: Buffer = pieces.collect::<Vec<Bytes>>().into();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{name}{condition}", self.url))
            .header(
                header::CONTENT_TYPE,
                format!("multipart/related; boundary={boundary}"),
            )
            .header(header::CONTENT_LENGTH, body.len())
            .body(body);
        request.map_err(|error| {
            opendal::Error::new(
                ErrorKind::ConfigInvalid,
                "the endpoint or bucket is no part of a URL",
            )
            .set_source(error)
        })
    }
}

/// The generation of what was stored, or why it was not.
fn read_answer(response: Response<Buffer>) -> Result<String, opendal::Error> {
    let status = response.status();
    let body = response.into_body().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        let generation = answer.get("generation").and_then(serde_json::Value::as_str);
        return generation.map(str::to_owned).ok_or_else(|| {
            opendal::Error::new(
                ErrorKind::Unexpected,
                "the server did not say what it stored",
            )
        });
    }
    let message = answer
        .pointer("/error/message")
        .and_then(serde_json::Value::as_str);
    let message: String = message.unwrap_or_default().chars().take(300).collect();
    // There is nothing else that an upload could miss.
    let message = match status {
        StatusCode::NOT_FOUND => MISSING_BUCKET.to_owned(),
        _ => message,
    };
    let what = format!("the server answered {status}: {message}");
    let (kind, temporary) = match status {
        StatusCode::PRECONDITION_FAILED => (ErrorKind::ConditionNotMatch, false),
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, false),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (ErrorKind::PermissionDenied, false),
        StatusCode::TOO_MANY_REQUESTS => (ErrorKind::RateLimited, true),
        StatusCode::REQUEST_TIMEOUT => (ErrorKind::Unexpected, true),
        status => (ErrorKind::Unexpected, status.is_server_error()),
    };
    let error = opendal::Error::new(kind, what);
    Err(if temporary {
        error.set_temporary()
    } else {
        error
    })
}
