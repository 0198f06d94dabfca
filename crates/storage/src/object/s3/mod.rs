//! S3 and what speaks like it.

mod credentials;
mod customer_key;
mod provider;
mod signing;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, sync::Arc};

use opendal::{ErrorKind, HttpTransporter, Operator, services};
use reqsign_core::{Env, OsEnv, hash::base64_decode};

use self::{
    credentials::Credentials,
    provider::Provider,
    signing::{Payload, Region, Signing},
};
use super::{Dialect, ObjectClient, VersionBy, connection, parts};
use crate::{Disk, Error, Secret, tls::Certificates, url};

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
    /// The region of the bucket. Without one: that of the endpoint, where it is a known provider's; else that
    /// of the environment, else `us-east-1`, unless Amazon names another one when it is asked for the bucket.
    pub region: Option<String>,
    /// The profile of Amazon's own configuration files that has the access key.
    pub profile: Option<String>,
    /// The access key's identity.
    pub access_key_id: Option<Secret>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is named in the path of requests, not in the host name. Without a choice: where
    /// an endpoint is given, unless its provider is known to want the other.
    pub force_path_style: Option<bool>,
    /// Whether objects are created on condition that they do not exist (`If-None-Match`), which keeps
    /// a second writer from destroying the history of the first. Without a choice: yes, unless the
    /// provider is known to refuse that.
    pub conditional_writes: Option<bool>,
    /// Whether the bodies of requests are signed, so that one damaged on its way is refused. Without a
    /// choice: yes.
    pub sign_payload: Option<bool>,
    /// Whether requests that delete many objects have a `Content-MD5`. Without a choice: yes, unless the
    /// provider is known to do without.
    pub content_md5: Option<bool>,
    /// The class in which files of levels are stored, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// Bytes in a part of an upload, from 5 MiB to 5 GiB; what is smaller goes in one request. Without a choice: 7 MiB.
    pub part_size: Option<u64>,
    /// Parts of one upload under way at a time, each in memory. Without a choice: one.
    pub concurrency: Option<usize>,
    /// A key of 256 bits, in Base64, that the server encrypts with and forgets.
    pub sse_customer_key: Option<Secret>,
    /// A file with such a key, read when the replica is opened.
    pub sse_customer_key_path: Option<PathBuf>,
    /// The key of Amazon's key management that the server encrypts with: its identity, ARN or alias.
    pub sse_kms_key_id: Option<String>,
    /// Whether whoever answers is taken for the server, whatever its certificate. Dangerous: whoever is on the way
    /// can read, replace and delete what is stored. Not with Amazon. Without a choice: no.
    pub skip_verify: Option<bool>,
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
            profile: None,
            force_path_style: None,
            conditional_writes: None,
            sign_payload: None,
            content_md5: None,
            storage_class: None,
            part_size: None,
            concurrency: None,
            sse_customer_key: None,
            sse_customer_key_path: None,
            sse_kms_key_id: None,
            skip_verify: None,
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
        let mut options = Self::new(bucket, &url::decoded(path)?);
        for parameter in url::parameters(query) {
            let (key, value) = parameter?;
            if value.is_empty() {
                continue;
            }
            match key {
                "endpoint" => options.endpoint = Some(value),
                "region" => options.region = Some(value),
                "profile" => options.profile = Some(value),
                "forcePathStyle" | "force-path-style" => {
                    options.force_path_style = Some(url::flag(key, &value)?);
                }
                "conditionalWrites" => options.conditional_writes = Some(url::flag(key, &value)?),
                "signPayload" | "sign-payload" => {
                    options.sign_payload = Some(url::flag(key, &value)?);
                }
                "requireContentMD5" | "require-content-md5" => {
                    options.content_md5 = Some(url::flag(key, &value)?);
                }
                "storageClass" | "storage-class" => options.storage_class = Some(value),
                "partSize" | "part-size" => options.part_size = Some(url::number(key, &value)?),
                "concurrency" => options.concurrency = Some(url::number(key, &value)?),
                "sseKmsKeyId" | "sse-kms-key-id" => options.sse_kms_key_id = Some(value),
                "sseCustomerKeyPath" | "sse-customer-key-path" => {
                    options.sse_customer_key_path = Some(value.into());
                }
                "skipVerify" | "skip-verify" => options.skip_verify = Some(url::flag(key, &value)?),
                _ => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    /// Where requests go and what is known about who answers them, as `endpoint` and the environment say.
    fn server(&self, environment: &impl Env) -> (Option<String>, &'static Provider) {
        // An access key of ours says that the environment is about something else.
        let elsewhere = match self.access_key_id {
            None => ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].as_slice(),
            Some(_) => &[],
        };
        let mut elsewhere = elsewhere.iter();
        let endpoint = self.endpoint.clone().or_else(|| {
            elsewhere.find_map(|name| environment.var(name).filter(|value| !value.is_empty()))
        });
        let known = endpoint.as_deref().map(Provider::of);
        (endpoint, known.unwrap_or(&provider::UNKNOWN))
    }

    fn region(&self, server: (Option<&str>, &Provider), environment: &impl Env) -> Region {
        let (endpoint, provider) = server;
        let variable = |name| environment.var(name).filter(|value| !value.is_empty());
        let given = self.region.clone();
        if let Some(region) = given.or_else(|| provider.region(endpoint?)) {
            return Region::given(region);
        }
        // That of the machine need not be that of the bucket.
        let guess = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let guess = guess.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        match endpoint {
            Some(_) => Region::given(guess),
            None => Region::guessed(guess),
        }
    }

    fn by_path(&self, endpoint: Option<&str>, provider: &Provider) -> bool {
        // A bucket with dots has no certificate as a host name.
        let by_path = (endpoint.is_some() && provider.path_style) || self.bucket.contains('.');
        self.force_path_style.unwrap_or(by_path)
    }

    /// What of these options cannot work.
    fn check(&self, endpoint: Option<&str>) -> Result<(), &'static str> {
        if self.bucket.ends_with("--x-s3") {
            return Err("directory buckets are listed in no order: use one for general purposes");
        }
        parts::check(self.part_size, self.concurrency)?;
        if matches!(
            self.storage_class.as_deref(),
            Some("GLACIER" | "DEEP_ARCHIVE")
        ) {
            return Err("nothing in this storage class can be read at once: use GLACIER_IR");
        }
        customer_key::check(self, endpoint)?;
        match (self.skip_verify, endpoint) {
            (Some(true), None) => Err("skip_verify is for servers of your own: set an endpoint"),
            _ => Ok(()),
        }
    }

    /// The store, with what `environment` says, through `store`, which signs nothing. Credentials are asked for through
    /// `plain`.
    fn operator(
        &self,
        environment: impl Env,
        plain: HttpTransporter,
        store: HttpTransporter,
    ) -> Result<Operator, opendal::Error> {
        let (endpoint, provider) = self.server(&environment);
        let endpoint = endpoint.as_deref();
        self.check(endpoint)
            .map_err(|wrong| opendal::Error::new(ErrorKind::ConfigInvalid, wrong))?;
        let region = self.region((endpoint, provider), &environment);
        let first = region.first().to_owned();
        // Signed by us, below.
        let mut builder = services::S3::default()
            .bucket(&self.bucket)
            .root(&format!("/{}", self.path))
            .region(&first)
            .disable_config_load()
            .skip_signature();
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint(endpoint);
        }
        if !self.by_path(endpoint, provider) {
            builder = builder.enable_virtual_host_style();
        }
        if let Some(class) = &self.storage_class {
            builder = builder.default_storage_class(class);
        }
        if let Some(key) = &self.sse_kms_key_id {
            builder = builder.server_side_encryption_with_customer_managed_kms_key(key);
        }
        let key = self.sse_customer_key.as_ref();
        if let Some(key) = key.and_then(|key| base64_decode(key.expose()).ok()) {
            builder = builder.server_side_encryption_with_customer_key("AES256", &key);
        }
        let credentials = Credentials::new(self, environment, plain, &first);
        let signing = Signing {
            transport: store,
            credentials,
            region,
            payload: match self.sign_payload {
                Some(false) => Payload::Unsigned,
                _ => Payload::Signed,
            },
            content_md5: self.content_md5.unwrap_or(provider.content_md5),
            headers: provider.headers,
        };
        connection::operator(builder, HttpTransporter::new(signing))
    }

    pub(crate) fn connect(&self, disk: &dyn Disk) -> Result<Arc<ObjectClient>, Error> {
        let options = customer_key::read(self, disk)?;
        let location = self.to_string();
        let certificates = match options.skip_verify {
            Some(true) => {
                tracing::warn!(
                    location,
                    "certificates are not checked (`skip_verify`): whoever is on the way to this server can read, \
                     replace and delete what is stored; use SSL_CERT_FILE instead"
                );
                Certificates::Believed
            }
            _ => Certificates::Checked,
        };
        let (_, provider) = options.server(&OsEnv);
        let operator = connection::transport().and_then(|plain| {
            let store = connection::transport_to(certificates)?;
            options.operator(OsEnv, plain, store)
        });
        let mut client = ObjectClient::connect(location, options.dialect(provider), operator)?;
        client.secrets.extend(options.sse_customer_key);
        Ok(Arc::new(client))
    }

    fn dialect(&self, provider: &Provider) -> Dialect {
        let conditional = self
            .conditional_writes
            .unwrap_or(provider.conditional_writes);
        Dialect {
            level: |level| format!("{:04x}/", level.get()),
            timestamp: "litestream-timestamp",
            conditional_create: conditional,
            compare_and_set: conditional,
            version: VersionBy::ETag,
            missing_bucket: "NoSuchBucket",
            deletion: provider.deletion,
            page: None,
            part: Some(self.part_size.unwrap_or(parts::SIZE) as usize),
            parts_at_a_time: self.concurrency.unwrap_or(1),
        }
    }

    /// Which provider the endpoint is taken for, and what follows from that, for whom it surprises.
    pub(crate) fn taken_for(&self) -> String {
        let (endpoint, provider) = self.server(&OsEnv);
        let endpoint = endpoint.as_deref();
        let name = match endpoint {
            None => "Amazon S3",
            Some(_) => provider.name,
        };
        let region = self.region((endpoint, provider), &OsEnv);
        let place = match self.by_path(endpoint, provider) {
            true => "path",
            false => "host name",
        };
        let unless = match region.is_guess() {
            true => " unless Amazon names another",
            false => "",
        };
        let region = region.first();
        format!("{name}: region {region}{unless}, bucket in the {place}")
    }
}

impl fmt::Display for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.path.is_empty() {
            f.write_str("/")?;
            url::write_path(f, &self.path)?;
        }
        let flag = |choice: Option<bool>| choice.map(|choice| choice.to_string());
        let path_style = flag(self.force_path_style);
        let conditional = flag(self.conditional_writes);
        let (sign, md5) = (flag(self.sign_payload), flag(self.content_md5));
        let part_size = self.part_size.map(|size| size.to_string());
        let concurrency = self.concurrency.map(|parts| parts.to_string());
        let key_path = self.sse_customer_key_path.as_ref();
        let key_path = key_path.map(|path| path.display().to_string());
        let skip_verify = flag(self.skip_verify);
        let parameters = [
            ("endpoint", self.endpoint.as_deref()),
            ("region", self.region.as_deref()),
            ("profile", self.profile.as_deref()),
            ("forcePathStyle", path_style.as_deref()),
            ("conditionalWrites", conditional.as_deref()),
            ("signPayload", sign.as_deref()),
            ("requireContentMD5", md5.as_deref()),
            ("storageClass", self.storage_class.as_deref()),
            ("partSize", part_size.as_deref()),
            ("concurrency", concurrency.as_deref()),
            ("sseKmsKeyId", self.sse_kms_key_id.as_deref()),
            ("sseCustomerKeyPath", key_path.as_deref()),
            ("skipVerify", skip_verify.as_deref()),
        ];
        url::write_parameters(f, &parameters)
    }
}
