//! Where a replica is, as the user says it: Litestream's replica URLs.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, LazyLock},
};

use crate::{Disk, Error, FileClient, ReplicaClient};

/// Where a replica is.
///
/// [`Display`](fmt::Display) and [`Debug`] never show credentials.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Destination {
    /// A directory.
    File(FileOptions),
    /// A bucket of S3, or of what speaks like it.
    #[cfg(feature = "s3")]
    S3(crate::S3Options),
    /// A container of Azure Blob Storage.
    #[cfg(feature = "azure")]
    Azure(crate::AzureOptions),
    /// A bucket of Google Cloud Storage.
    #[cfg(feature = "gcs")]
    Gcs(crate::GcsOptions),
    /// A bucket of Alibaba Cloud OSS.
    #[cfg(feature = "oss")]
    Oss(crate::OssOptions),
    /// A WebDAV share.
    #[cfg(feature = "webdav")]
    Webdav(crate::WebdavOptions),
    /// A server with SSH.
    #[cfg(feature = "sftp")]
    Sftp(crate::SftpOptions),
    /// An object store of NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(crate::NatsOptions),
}

/// A replica in a directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FileOptions {
    /// The directory, which need not exist yet; its LTX files are in `<path>/ltx/<level>/`.
    pub path: PathBuf,
}

/// Schemes of Litestream's that this build has no client for.
const UNSUPPORTED: &[&str] = &[
    #[cfg(not(feature = "s3"))]
    "s3",
    #[cfg(not(feature = "gcs"))]
    "gs",
    #[cfg(not(feature = "azure"))]
    "abs",
    #[cfg(not(feature = "sftp"))]
    "sftp",
    #[cfg(not(feature = "webdav"))]
    "webdav",
    #[cfg(not(feature = "webdav"))]
    "webdavs",
    #[cfg(not(feature = "nats"))]
    "nats",
    #[cfg(not(feature = "oss"))]
    "oss",
];

/// What this build has clients for, each with an example.
const CLIENTS: &[(&str, &str)] = &[
    ("file", "`file:///path` or `/path`"),
    #[cfg(feature = "s3")]
    ("s3", "`s3://bucket/path`"),
    #[cfg(feature = "gcs")]
    ("gs", "`gs://bucket/path`"),
    #[cfg(feature = "azure")]
    ("abs", "`abs://account@container/path`"),
    #[cfg(feature = "oss")]
    ("oss", "`oss://bucket/path`"),
    #[cfg(feature = "webdav")]
    ("webdav", "`webdav://user@host/path`"),
    #[cfg(feature = "webdav")]
    ("webdavs", "`webdavs://user@host/path`"),
    #[cfg(feature = "sftp")]
    ("sftp", "`sftp://user@host/path`"),
    #[cfg(feature = "nats")]
    ("nats", "`nats://user@host/bucket`"),
];

/// The same for error messages.
static SUPPORTED: LazyLock<String> = LazyLock::new(|| {
    let clients = CLIENTS.iter();
    let shown: Vec<_> = clients
        .map(|(name, url)| format!("{name} ({url})"))
        .collect();
    shown.join(", ")
});

impl Destination {
    /// The directory at this path. A relative path starts at the working directory.
    ///
    /// # Errors
    ///
    /// [`Error::BadUrl`] for an empty path, the root of the file system, or when there is no working
    /// directory.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        // Lexically only: neither symbolic links nor the disk are asked.
        let absolute = std::path::absolute(path).map_err(|error: io::Error| Error::BadUrl {
            url: path.display().to_string(),
            reason: if path.as_os_str().is_empty() {
                "it is empty; expected `file:///path` or a path".to_owned()
            } else {
                format!("the working directory is unknown ({error}); use an absolute path")
            },
        })?;
        let path: PathBuf = absolute.components().collect();
        if path.parent().is_none() {
            return Err(Error::BadUrl {
                url: path.display().to_string(),
                reason: "it is the root of the file system; expected a directory below it, \
                         as in `file:///path`"
                    .to_owned(),
            });
        }
        Ok(Self::File(FileOptions { path }))
    }

    /// Reads a replica URL or the path of a directory.
    ///
    /// The path of a `file:` URL is taken as it is written: `%20` is three characters, as it is for
    /// Litestream, and not a space. (Litestream also turns a space, or a letter that is not ASCII,
    /// into such an escape, and so writes beside the directory that was meant. Evertide does not; a
    /// replica it wrote that way is found at `…/my%20app`, or by its plain path.)
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for schemes that Litestream has and this build has not,
    /// [`Error::BadUrl`] for all other mistakes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = split_scheme(text) else {
            return Self::file(text);
        };
        if let Some(error) = unsupported(&scheme, text, UNSUPPORTED) {
            return Err(error);
        }
        let parsed: Option<Result<Self, String>> = match (scheme.as_str(), rest.strip_prefix("//"))
        {
            #[cfg(feature = "s3")]
            ("s3", Some(rest)) => Some(crate::S3Options::parse(rest).map(Self::S3)),
            #[cfg(feature = "gcs")]
            ("gs", Some(rest)) => Some(crate::GcsOptions::parse(rest).map(Self::Gcs)),
            #[cfg(feature = "azure")]
            ("abs", Some(rest)) => Some(crate::AzureOptions::parse(rest).map(Self::Azure)),
            #[cfg(feature = "oss")]
            ("oss", Some(rest)) => Some(crate::OssOptions::parse(rest).map(Self::Oss)),
            #[cfg(feature = "webdav")]
            ("webdav" | "webdavs", Some(rest)) => {
                let options = crate::WebdavOptions::parse(rest, scheme == "webdavs");
                Some(options.map(Self::Webdav))
            }
            #[cfg(feature = "sftp")]
            ("sftp", Some(rest)) => Some(crate::SftpOptions::parse(rest).map(Self::Sftp)),
            #[cfg(feature = "nats")]
            ("nats", Some(rest)) => Some(crate::NatsOptions::parse(rest).map(Self::Nats)),
            _ => None,
        };
        if let Some(parsed) = parsed {
            return parsed.map_err(|reason| Error::BadUrl {
                url: redacted(text),
                reason,
            });
        }
        let mut clients = CLIENTS.iter().filter(|(name, _)| *name != "file");
        if let Some((_, example)) = clients.find(|(name, _)| *name == scheme) {
            return Err(Error::BadUrl {
                url: redacted(text),
                reason: format!("expected two slashes, as in {example}"),
            });
        }
        if scheme != "file" {
            let reason = format!("unknown scheme `{scheme}`; expected {}", *SUPPORTED);
            return Err(Error::BadUrl {
                url: redacted(text),
                reason,
            });
        }
        let bad = |reason: &str| Error::BadUrl {
            url: text.to_owned(),
            reason: reason.to_owned(),
        };
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path == "/" {
            return Err(bad("it has no path; expected `file:///path`"));
        }
        if !path.starts_with('/') {
            return Err(bad(
                "a file URL has no host; expected three slashes, as in `file:///path`, \
                 or a plain path",
            ));
        }
        if path.contains('?') {
            return Err(bad(
                "a file replica takes no parameters; where the `?` belongs to the path, \
                 write the path without `file://`",
            ));
        }
        Self::file(path)
    }

    /// A client for the replica. Nothing is opened or created before it is used.
    ///
    /// # Errors
    ///
    /// Where the options cannot work.
    pub fn connect(&self, disk: Arc<dyn Disk>) -> Result<Arc<dyn ReplicaClient>, Error> {
        match self {
            Self::File(options) => Ok(Arc::new(FileClient::new(options.clone(), disk))),
            #[cfg(feature = "s3")]
            Self::S3(options) => Ok(options.connect(&*disk)?),
            #[cfg(feature = "gcs")]
            Self::Gcs(options) => Ok(options.connect()?),
            #[cfg(feature = "azure")]
            Self::Azure(options) => Ok(options.connect()?),
            #[cfg(feature = "oss")]
            Self::Oss(options) => Ok(options.connect()?),
            #[cfg(feature = "webdav")]
            Self::Webdav(options) => Ok(options.connect()?),
            #[cfg(feature = "sftp")]
            Self::Sftp(options) => Ok(options.connect()),
            #[cfg(feature = "nats")]
            Self::Nats(options) => Ok(options.connect()),
        }
    }

    /// Whose servers a bucket is taken to be on, by its endpoint, and what follows from that; `None` where no
    /// guess is made.
    pub fn taken_for(&self) -> Option<String> {
        match self {
            #[cfg(feature = "s3")]
            Self::S3(options) => Some(options.taken_for()),
            _ => None,
        }
    }

    /// As [`Destination::connect`], for the replica of this database: what is created in a
    /// directory gets the permissions and owner of the database and its directory.
    ///
    /// # Errors
    ///
    /// Where the options cannot work.
    pub fn connect_for(
        &self,
        database: &Path,
        disk: Arc<dyn Disk>,
    ) -> Result<Arc<dyn ReplicaClient>, Error> {
        match self {
            Self::File(options) => Ok(Arc::new(FileClient::for_database(
                options.clone(),
                database,
                disk,
            ))),
            #[allow(unreachable_patterns)] // where there is no other
            _ => self.connect(disk),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(options) => options.fmt(f),
            #[cfg(feature = "s3")]
            Self::S3(options) => options.fmt(f),
            #[cfg(feature = "gcs")]
            Self::Gcs(options) => options.fmt(f),
            #[cfg(feature = "azure")]
            Self::Azure(options) => options.fmt(f),
            #[cfg(feature = "oss")]
            Self::Oss(options) => options.fmt(f),
            #[cfg(feature = "webdav")]
            Self::Webdav(options) => options.fmt(f),
            #[cfg(feature = "sftp")]
            Self::Sftp(options) => options.fmt(f),
            #[cfg(feature = "nats")]
            Self::Nats(options) => options.fmt(f),
        }
    }
}

impl fmt::Display for FileOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        // Such a path has no URL.
        let scheme = if path.contains('?') { "" } else { "file://" };
        write!(f, "{scheme}{path}")
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// What is wrong with a scheme that is one of these, for which there is no client.
fn unsupported(scheme: &str, url: &str, without: &[&'static str]) -> Option<Error> {
    let known = without.iter().find(|known| **known == scheme)?;
    Some(Error::Unsupported {
        scheme: known,
        url: redacted(url),
        supported: &SUPPORTED,
    })
}

/// Splits `s3://bucket` at the colon, and `None` for what is a path: without `://`, and not one of
/// our schemes.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let scheme = scheme.to_ascii_lowercase();
    let has_client = CLIENTS.iter().any(|(name, _)| *name == scheme);
    let known = has_client || UNSUPPORTED.contains(&scheme.as_str());
    (valid && (known || rest.starts_with("//"))).then_some((scheme, rest))
}

/// A URL without user, password and parameters, which may hold keys.
fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = split_scheme(text) else {
        return "…".to_owned();
    };
    let rest = rest.trim_start_matches('/');
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // A password may hold a slash that was not escaped: everything up to the last `@` goes.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{rest}")
}

#[cfg(test)]
mod tests {
    use super::unsupported;

    #[test]
    fn a_scheme_without_a_client_is_named_with_those_that_have_one() {
        let url = "oss://id:hunter2@bucket/path";
        assert!(unsupported("s3", url, &["gs", "oss"]).is_none());
        let said = unsupported("oss", url, &["gs", "oss"]).unwrap().to_string();
        for part in ["no support for oss ", "oss://bucket/path", "file:///path"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}
