//! S3 and what speaks like it.

use std::{fmt, sync::Arc, time::Duration};

use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_layer_retry::RetryLayer;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::{Dialect, ObjectClient};
use crate::{Error, Secret};

/// What a path in a URL may not have as it is.
const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');
const IN_QUERY: &AsciiSet = &IN_PATH.add(b'&').add(b'+');
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Where the region matters to nobody, as with most servers that only speak like S3.
const DEFAULT_REGION: &str = "us-east-1";

/// A replica in a bucket.
///
/// Without an access key, credentials are looked for as AWS's own tools do: environment, profile, web
/// identity, container and instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct S3Options {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The replica's root in the bucket; empty for the bucket itself.
    pub path: String,
    /// URL of the server; Amazon's where none is given. Without a scheme it is `https`.
    pub endpoint: Option<String>,
    /// The region of the bucket. Without one: that of the environment, else `us-east-1`.
    pub region: Option<String>,
    /// The access key's identity.
    pub access_key_id: Option<Secret>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is named in the path of requests, not in the host name. Without a choice: where
    /// an endpoint is given.
    pub force_path_style: Option<bool>,
    /// Whether objects are created on condition that they do not exist (`If-None-Match`), which keeps
    /// a second writer from destroying the history of the first. Yes, unless the server is known to
    /// ignore or refuse that.
    pub conditional_writes: bool,
}

impl S3Options {
    /// A replica at this path of a bucket; slashes at its ends mean nothing.
    pub fn new(bucket: impl Into<String>, path: &str) -> Self {
        Self {
            bucket: bucket.into(),
            path: path.trim_matches('/').to_owned(),
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            force_path_style: None,
            conditional_writes: true,
        }
    }

    /// Reads `bucket/path?endpoint=…&region=…&forcePathStyle=…`, the part of a URL after `s3://`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "`s3://bucket/path?endpoint=https://host&region=name&forcePathStyle=true`";
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(format!("it has no bucket; expected {EXPECTED}"));
        }
        if bucket.contains(['@', ':']) {
            return Err(format!(
                "credentials do not belong into a URL: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or use the encrypted settings; expected {EXPECTED}"
            ));
        }
        let mut options = Self::new(bucket, &decoded(path)?);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match key {
                "endpoint" => options.endpoint = Some(value).filter(|value| !value.is_empty()),
                "region" => options.region = Some(value).filter(|value| !value.is_empty()),
                "forcePathStyle" | "force-path-style" => {
                    options.force_path_style = Some(flag(key, &value)?);
                }
                "conditionalWrites" => options.conditional_writes = flag(key, &value)?,
                _ => return Err(format!("unknown parameter `{key}`; expected {EXPECTED}")),
            }
        }
        Ok(options)
    }

    fn operator(&self) -> Result<Operator, opendal::Error> {
        let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = self.region.clone();
        let region = region
            .or_else(|| environment("AWS_REGION"))
            .or_else(|| environment("AWS_DEFAULT_REGION"));
        let mut builder = services::S3::default()
            .bucket(&self.bucket)
            .root(&format!("/{}", self.path))
            .region(region.as_deref().unwrap_or(DEFAULT_REGION));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        // A bucket with dots has no certificate as a host name.
        let by_path = self.endpoint.is_some() || self.bucket.contains('.');
        if !self.force_path_style.unwrap_or(by_path) {
            builder = builder.enable_virtual_host_style();
        }
        if let (Some(id), Some(key)) = (&self.access_key_id, &self.secret_access_key) {
            builder = builder
                .access_key_id(id.expose())
                .secret_access_key(key.expose())
                .disable_config_load()
                .disable_ec2_metadata();
        }
        let context = OperationContext::new().with_http_transport(transport()?);
        // For the moment: a connection that has died meanwhile, a server that is busy. What lasts longer
        // is for the caller, who knows what else there is to do.
        let retry = RetryLayer::new().with_max_times(3).with_jitter();
        Ok(Operator::new(builder)?.with_context(context).layer(retry))
    }

    pub(crate) fn connect(&self) -> Result<Arc<ObjectClient>, Error> {
        let location = self.to_string();
        let operator = self.operator().map_err(|source| Error::Store {
            location: location.clone(),
            action: "use",
            object: "the bucket".into(),
            hint: super::hint(&source),
            source: Box::new(source),
        })?;
        Ok(Arc::new(ObjectClient {
            operator,
            location,
            dialect: Dialect {
                level: |level| format!("{:04x}/", level.get()),
                timestamp: "litestream-timestamp",
                conditional_create: self.conditional_writes,
                compare_and_set: self.conditional_writes,
            },
        }))
    }
}

/// Connections with a TLS of our own: a library has no say in the one of the process.
fn transport() -> Result<HttpTransporter, opendal::Error> {
    let failed = |what: &'static str| {
        move |error: Box<dyn std::error::Error + Send + Sync>| {
            opendal::Error::new(opendal::ErrorKind::ConfigInvalid, what)
                .set_source(std::io::Error::other(error))
        }
    };
    let mut roots = rustls::RootCertStore::empty();
    // The system's; SSL_CERT_FILE and SSL_CERT_DIR are heeded. Those it cannot read are left out.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed("cannot set up TLS")(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(|error| failed("cannot set up HTTP")(error.into()))?;
    Ok(HttpTransporter::new(
        opendal_http_transport_reqwest::ReqwestTransport::new(client),
    ))
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    let parsed = value.parse();
    parsed.map_err(|_| format!("`{key}` is `{value}`; expected `true` or `false`"))
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded
        .map_err(|_| "its escapes are not UTF-8".to_owned())?
        .into_owned())
}

impl fmt::Display for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.path.is_empty() {
            write!(f, "/{}", utf8_percent_encode(&self.path, IN_PATH))?;
        }
        let path_style = self.force_path_style.map(|choice| choice.to_string());
        let conditional = (!self.conditional_writes).then_some("false");
        let parameters = [
            ("endpoint", self.endpoint.as_deref()),
            ("region", self.region.as_deref()),
            ("forcePathStyle", path_style.as_deref()),
            ("conditionalWrites", conditional),
        ];
        let given = parameters
            .iter()
            .filter_map(|(key, value)| Some((key, (*value)?)));
        for (number, (key, value)) in given.enumerate() {
            let separator = if number == 0 { '?' } else { '&' };
            write!(
                f,
                "{separator}{key}={}",
                utf8_percent_encode(value, IN_QUERY)
            )?;
        }
        Ok(())
    }
}
