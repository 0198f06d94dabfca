//! S3 and what speaks like it.

use std::{fmt, sync::Arc};

use opendal::{Operator, services};

use super::{
    Deletion, Dialect, ObjectClient, VersionBy,
    connection::{self, environment},
};
use crate::{Error, Secret, url};

/// Where the region matters to nobody, as with most servers that only speak like S3.
const DEFAULT_REGION: &str = "us-east-1";

/// Bytes in a part of an upload; what is smaller goes in one request. With the largest number of
/// parts that S3 allows, 10,000, an object has 68 GiB.
const PART: usize = 7 << 20;

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
        let mut options = Self::new(bucket, &url::decoded(path)?);
        for parameter in url::parameters(query) {
            let (key, value) = parameter?;
            match key {
                "endpoint" => options.endpoint = Some(value).filter(|value| !value.is_empty()),
                "region" => options.region = Some(value).filter(|value| !value.is_empty()),
                "forcePathStyle" | "force-path-style" => {
                    options.force_path_style = Some(url::flag(key, &value)?);
                }
                "conditionalWrites" => options.conditional_writes = url::flag(key, &value)?,
                _ => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    fn operator(&self) -> Result<Operator, opendal::Error> {
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
        connection::operator(builder, connection::transport()?)
    }

    pub(crate) fn connect(&self) -> Result<Arc<ObjectClient>, Error> {
        let dialect = Dialect {
            level: |level| format!("{:04x}/", level.get()),
            timestamp: "litestream-timestamp",
            conditional_create: self.conditional_writes,
            compare_and_set: self.conditional_writes,
            version: VersionBy::ETag,
            missing_bucket: "NoSuchBucket",
            deletion: Deletion::InBatches,
            part: Some(PART),
        };
        ObjectClient::connect(self.to_string(), dialect, self.operator()).map(Arc::new)
    }
}

impl fmt::Display for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.path.is_empty() {
            f.write_str("/")?;
            url::write_path(f, &self.path)?;
        }
        let path_style = self.force_path_style.map(|choice| choice.to_string());
        let conditional = (!self.conditional_writes).then_some("false");
        let parameters = [
            ("endpoint", self.endpoint.as_deref()),
            ("region", self.region.as_deref()),
            ("forcePathStyle", path_style.as_deref()),
            ("conditionalWrites", conditional),
        ];
        url::write_parameters(f, &parameters)
    }
}
