//! Alibaba Cloud Object Storage Service.

mod signed;

use std::{fmt, net::IpAddr, sync::Arc};

use opendal::{ErrorKind, HttpTransporter, OperationContext, Operator, services};

use self::signed::Signed;
use super::{Deletion, Dialect, ObjectClient, VersionBy, connection, parts};
use crate::{Error, Secret, url};

/// Litestream's, where the settings have none.
const DEFAULT_REGION: &str = "cn-hangzhou";
const DOMAIN: &str = ".aliyuncs.com";
/// What a server's name has in it that is reached within Alibaba's network only.
const INTERNAL: &str = "-internal";
/// Objects in a page of a listing, and deleted at once: the most that OSS takes. It lists 100 where nobody says.
const PAGE: usize = 1_000;
const TIMESTAMP: &str = "litestream-timestamp";
const EXPECTED: &str = "`oss://bucket/path?region=name`";

/// A replica in a bucket of Alibaba Cloud OSS.
///
/// Without an access key, credentials are looked for as Alibaba's own tools do: environment
/// (`OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET`), profile, role of the instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct OssOptions {
    /// The bucket, which must exist, and on which versioning must never have been switched on if objects are to
    /// be created on condition.
    pub bucket: String,
    /// The replica's root in the bucket; empty for the bucket itself.
    pub path: String,
    /// The region of the bucket, such as `eu-central-1`. Without one: that of an endpoint of Alibaba's, else
    /// `cn-hangzhou`.
    pub region: Option<String>,
    /// The server; the region's public one where none is given. Without a scheme it is `https`.
    pub endpoint: Option<String>,
    /// The access key's identity.
    pub access_key_id: Option<Secret>,
    /// The access key.
    pub access_key_secret: Option<Secret>,
    /// What an access key that is good for a while only, of Alibaba's STS, has to be sent with. Nothing renews it: what is
    /// found without a key is renewed.
    pub security_token: Option<Secret>,
    /// Bytes in a part of an upload, from 5 MiB to 5 GiB; what is smaller goes in one request. Without a choice: 7 MiB.
    pub part_size: Option<u64>,
    /// Parts of one upload under way at a time, each in memory. Without a choice: one.
    pub concurrency: Option<usize>,
    /// Whether objects are created on condition that they do not exist (`x-oss-forbid-overwrite`), which keeps
    /// a second writer from destroying the history of the first. Yes, unless the bucket has versions, where
    /// OSS ignores that.
    pub conditional_writes: bool,
}

impl OssOptions {
    /// A replica at this path of a bucket; slashes at its ends mean nothing.
    ///
    /// # Errors
    ///
    /// [`Error::BadUrl`] for what is no name of a bucket.
    pub fn new(bucket: &str, path: &str) -> Result<Self, Error> {
        Self::at(bucket, path).map_err(|reason| Error::BadUrl {
            url: "…".to_owned(), // it may hold a key
            reason: reason.to_owned(),
        })
    }

    fn at(bucket: &str, path: &str) -> Result<Self, &'static str> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if bucket.is_empty() {
            return Err("it has no bucket");
        }
        if !bucket.bytes().all(letter) {
            return Err("its bucket has other characters than lower-case letters, digits and `-`");
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            path: path.trim_matches('/').to_owned(),
            region: None,
            endpoint: None,
            access_key_id: None,
            access_key_secret: None,
            security_token: None,
            part_size: None,
            concurrency: None,
            conditional_writes: true,
        })
    }

    /// Reads `bucket/path?region=…&endpoint=…`, the part of a URL after `oss://`. The bucket may as well be
    /// named as it is in the world: `bucket.oss-cn-hangzhou.aliyuncs.com`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        if host.contains(['@', ':']) {
            return Err(format!(
                "credentials do not belong into a URL: set OSS_ACCESS_KEY_ID and \
                 OSS_ACCESS_KEY_SECRET, or use the encrypted settings; expected {EXPECTED}"
            ));
        }
        let (bucket, server) = match host.split_once('.') {
            Some((bucket, server)) if region_of(server).is_some() => (bucket, Some(server)),
            _ => (host, None),
        };
        let options = Self::at(bucket, &url::decoded(path)?);
        let mut options = options.map_err(|wrong| format!("{wrong}; expected {EXPECTED}"))?;
        options.region = server.and_then(region_of).map(str::to_owned);
        // The public one is the region's.
        let internal = server.filter(|server| server.contains(INTERNAL));
        options.endpoint = internal.map(str::to_owned);
        for parameter in url::parameters(query) {
            let (key, value) = parameter?;
            let value_of = |value: String| Some(value).filter(|value| !value.is_empty());
            match key {
                "region" => options.region = value_of(value).or(options.region),
                "endpoint" => options.endpoint = value_of(value).or(options.endpoint),
                "conditionalWrites" => options.conditional_writes = url::flag(key, &value)?,
                "partSize" | "part-size" => options.part_size = Some(url::number(key, &value)?),
                "concurrency" => options.concurrency = Some(url::number(key, &value)?),
                _ => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    /// The region that requests are signed for.
    fn region(&self) -> &str {
        let of_endpoint = || region_of(without_scheme(self.endpoint.as_deref()?));
        let region = self.region.as_deref().or_else(of_endpoint);
        region.unwrap_or(DEFAULT_REGION)
    }

    /// URL of the server, without the bucket.
    fn server(&self) -> String {
        match &self.endpoint {
            Some(endpoint) if endpoint.contains("://") => endpoint.clone(),
            Some(endpoint) => format!("https://{endpoint}"),
            None => format!("https://oss-{}{DOMAIN}", self.region()),
        }
    }

    fn operator(&self, signed: &Signed) -> Result<Operator, opendal::Error> {
        let server = self.server();
        // An address has no names below it.
        let style = match is_address(&server) {
            true => "path",
            false => "virtual",
        };
        let builder = services::Oss::default()
            .bucket(&self.bucket)
            .root(&format!("/{}", self.path))
            .endpoint(&server)
            .addressing_style(style)
            // OpenDAL has the first version of signatures only, which new buckets take no more.
            .skip_signature();
        connection::operator(builder, HttpTransporter::new(signed.clone()))
    }

    /// What of these options cannot work.
    fn check(&self) -> Result<(), &'static str> {
        if self.security_token.is_some() && self.access_key_id.is_none() {
            return Err("a security token is of no use without its access key");
        }
        parts::check(self.part_size, self.concurrency)
    }

    pub(crate) fn connect(&self) -> Result<Arc<ObjectClient>, Error> {
        let dialect = Dialect {
            level: |level| format!("{:04x}/", level.get()),
            timestamp: TIMESTAMP,
            conditional_create: self.conditional_writes,
            // There is no `If-Match` where something is written.
            compare_and_set: false,
            version: VersionBy::ETag,
            missing_bucket: "NoSuchBucket",
            deletion: Deletion::InBatches(PAGE),
            page: Some(PAGE),
            part: Some(self.part_size.unwrap_or(parts::SIZE) as usize),
            parts_at_a_time: self.concurrency.unwrap_or(1),
        };
        let signed = self
            .check()
            .map_err(|wrong| opendal::Error::new(ErrorKind::ConfigInvalid, wrong))
            .and_then(|()| connection::transport())
            .map(|transport| Signed::new(transport, self));
        let connected = signed.and_then(|signed| Ok((self.operator(&signed)?, signed)));
        let (operator, signed) = match connected {
            Ok((operator, signed)) => (Ok(operator), Some(signed)),
            Err(error) => (Err(error), None),
        };
        let mut client = ObjectClient::connect(self.to_string(), dialect, operator)?;
        let operator = client.operator.clone();
        client.in_parts = signed.map(|signed| {
            Box::new(move |time: &str| {
                let transport = HttpTransporter::new(signed.with_timestamp(time));
                let context = OperationContext::new().with_http_transport(transport);
                operator.clone().with_context(context)
            }) as _
        });
        let secrets = [
            &self.access_key_id,
            &self.access_key_secret,
            &self.security_token,
        ];
        client.secrets = secrets.into_iter().flatten().cloned().collect();
        Ok(Arc::new(client))
    }
}

/// The region of a server of Alibaba's: `oss-cn-hangzhou.aliyuncs.com`, with `-internal` within their network.
fn region_of(server: &str) -> Option<&str> {
    let name = server.strip_suffix(DOMAIN)?.strip_prefix("oss-")?;
    let region = name.strip_suffix(INTERNAL).unwrap_or(name);
    // That of transfer acceleration is none.
    let known = !region.is_empty() && !region.contains('.') && !region.starts_with("accelerate");
    known.then_some(region)
}

fn without_scheme(endpoint: &str) -> &str {
    let (_, host) = endpoint.split_once("://").unwrap_or(("", endpoint));
    host.trim_end_matches('/')
}

/// Whether a server has no name.
fn is_address(server: &str) -> bool {
    let host = without_scheme(server);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

impl fmt::Display for OssOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oss://{}", self.bucket)?;
        if !self.path.is_empty() {
            f.write_str("/")?;
            url::write_path(f, &self.path)?;
        }
        let conditional = (!self.conditional_writes).then_some("false");
        let part_size = self.part_size.map(|size| size.to_string());
        let concurrency = self.concurrency.map(|parts| parts.to_string());
        let parameters = [
            ("region", self.region.as_deref()),
            ("endpoint", self.endpoint.as_deref()),
            ("conditionalWrites", conditional),
            ("partSize", part_size.as_deref()),
            ("concurrency", concurrency.as_deref()),
        ];
        url::write_parameters(f, &parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::OssOptions;

    #[test]
    fn a_bucket_is_looked_for_where_its_url_says() {
        let long = "b.oss-eu-west-1.aliyuncs.com/p";
        let near = "b.oss-eu-west-1-internal.aliyuncs.com/p";
        for (url, region, server) in [
            ("b/p", "cn-hangzhou", "https://oss-cn-hangzhou.aliyuncs.com"),
            ("b?region=x", "x", "https://oss-x.aliyuncs.com"),
            (long, "eu-west-1", "https://oss-eu-west-1.aliyuncs.com"),
            (
                near,
                "eu-west-1",
                "https://oss-eu-west-1-internal.aliyuncs.com",
            ),
            (
                "b?endpoint=oss-x-internal.aliyuncs.com",
                "x",
                "https://oss-x-internal.aliyuncs.com",
            ),
            (
                "b?endpoint=oss-accelerate.aliyuncs.com&region=x",
                "x",
                "https://oss-accelerate.aliyuncs.com",
            ),
            ("b?endpoint=http://h:1", "cn-hangzhou", "http://h:1"),
        ] {
            let options = OssOptions::parse(url).unwrap();
            assert_eq!(
                (options.bucket.as_str(), options.region()),
                ("b", region),
                "{url}"
            );
            assert_eq!(options.server(), server, "{url}");
        }
        for wrong in [
            "",
            "/p",
            "B",
            "b.c",
            "b.oss-accelerate.aliyuncs.com",
            "id:key@b",
        ] {
            OssOptions::parse(wrong).unwrap_err();
        }
    }
}
