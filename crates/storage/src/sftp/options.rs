//! Where a replica on a server with SSH is, and how to get there.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::SftpClient;
use crate::{
    Error, Secret,
    url::{self, Hosted},
};

/// The password where the settings have none.
const PASSWORD: &str = "SFTP_PASSWORD";
const EXPECTED: &str = "`sftp://user@host/path`";

/// A replica on a server with SSH.
///
/// The server has to prove who it is: by the key given here, or else by one of `known_hosts`. The user does so
/// by a key or a password. With neither here, the password is that of the variable `SFTP_PASSWORD`, and the
/// key that of `~/.ssh/id_ed25519` or `~/.ssh/id_ecdsa`, where there is one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct SftpOptions {
    /// The server, with a port where it is not 22.
    pub host: String,
    /// The replica's root: absolute, or below the user's home. It is made when it is missing.
    pub path: String,
    /// Who to be there.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The user's private key, as it stands in a file (OpenSSH's format): Ed25519 or ECDSA.
    pub private_key: Option<Secret>,
    /// A file with the user's private key.
    pub key_path: Option<PathBuf>,
    /// What the private key is encrypted with.
    pub key_passphrase: Option<Secret>,
    /// The server's public key, such as `ssh-ed25519 AAAA…`.
    pub host_key: Option<String>,
    /// The file with the public keys of known servers; `~/.ssh/known_hosts` where there is none here.
    pub known_hosts: Option<PathBuf>,
    /// Whether files get their names by hard links, which keeps a second writer from replacing them, as
    /// OpenSSH's server can. Yes, unless the server is known not to.
    pub conditional_writes: bool,
}

impl SftpOptions {
    /// A replica at this path of a server.
    ///
    /// # Errors
    ///
    /// [`Error::BadUrl`] for what is no server, and for a path that is empty or the root.
    pub fn new(host: &str, path: &str) -> Result<Self, Error> {
        let options = || {
            url::check_host(host)?;
            Self::at(host.to_owned(), path)
        };
        options().map_err(|reason| Error::BadUrl {
            url: "…".to_owned(), // it may hold a password
            reason: reason.to_owned(),
        })
    }

    fn at(host: String, path: &str) -> Result<Self, &'static str> {
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Err("it has no path, or that of the root");
        }
        Ok(Self {
            host,
            path: path.to_owned(),
            user: None,
            password: None,
            private_key: None,
            key_path: None,
            key_passphrase: None,
            host_key: None,
            known_hosts: None,
            conditional_writes: true,
        })
    }

    /// Reads `user@host:port/path?key-path=…`, the part of a URL after `sftp://`. A path that begins with
    /// `/~/` is below the user's home.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let (place, query) = Hosted::parse(rest, &format!("set {PASSWORD}"), EXPECTED)?;
        let path = match place.path.strip_prefix("~/") {
            Some(below_home) => below_home.to_owned(),
            None => format!("/{}", place.path),
        };
        let options = Self::at(place.host, &path);
        let mut options = options.map_err(|wrong| format!("{wrong}; expected {EXPECTED}"))?;
        options.user = place.user;
        for parameter in url::parameters(query) {
            let (key, value) = parameter?;
            let path = || Some(PathBuf::from(&value)).filter(|path| *path != Path::new(""));
            match key {
                "key-path" => options.key_path = path(),
                "known-hosts" => options.known_hosts = path(),
                "host-key" => options.host_key = Some(value).filter(|key| !key.is_empty()),
                "conditionalWrites" => options.conditional_writes = url::flag(key, &value)?,
                _ => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    pub(crate) fn connect(&self) -> Arc<SftpClient> {
        let mut options = self.clone();
        let of_environment = || std::env::var(PASSWORD).ok().map(Secret::new);
        options.password = options.password.or_else(of_environment);
        Arc::new(SftpClient::new(options))
    }

    /// Where it is, without how to get there.
    pub(super) fn place(&self) -> Place<'_> {
        Place(self)
    }

    /// Name and port of the server.
    pub(super) fn address(&self) -> (&str, u16) {
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (self.host.as_str(), None),
        };
        (name.trim_matches(['[', ']']), port.unwrap_or(22))
    }
}

/// Where a replica is, without how to get there.
pub(super) struct Place<'a>(&'a SftpOptions);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        let path = match self.0.path.strip_prefix('/') {
            Some(path) => path.trim_start_matches('/').to_owned(),
            None => format!("~/{}", self.0.path),
        };
        Hosted::write(f, self.0.user.as_deref(), &self.0.host, &path)
    }
}

impl fmt::Display for SftpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place().fmt(f)?;
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let (key_path, known_hosts) = (shown(&self.key_path), shown(&self.known_hosts));
        let conditional = (!self.conditional_writes).then_some("false");
        let parameters = [
            ("key-path", key_path.as_deref()),
            ("known-hosts", known_hosts.as_deref()),
            ("host-key", self.host_key.as_deref()),
            ("conditionalWrites", conditional),
        ];
        url::write_parameters(f, &parameters)
    }
}
