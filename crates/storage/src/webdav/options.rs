//! Where a WebDAV share is.

use std::{fmt, sync::Arc};

use super::{WebdavClient, share::Share};
use crate::{Error, Secret, url::Hosted};

/// The password where the settings have none.
const PASSWORD: &str = "WEBDAV_PASSWORD";

/// A replica on a WebDAV share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct WebdavOptions {
    /// Whether the connection is encrypted (`https`).
    pub tls: bool,
    /// The server, with a port where it is not the usual one.
    pub host: String,
    /// The replica's root on the server; it is made when it is missing.
    pub path: String,
    /// Who to be there; nobody in particular where it is `None`.
    pub username: Option<String>,
    /// The password. Without one: that of the variable `WEBDAV_PASSWORD`.
    pub password: Option<Secret>,
}

impl WebdavOptions {
    /// A replica at this path below the `http` or `https` URL of a share; slashes at the path's ends mean
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::BadUrl`] for what is no such URL.
    pub fn new(url: &str, path: &str) -> Result<Self, Error> {
        const EXPECTED: &str = "`https://host/folder`";
        let read = || {
            let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
            let tls = match scheme.to_ascii_lowercase().as_str() {
                "https" => true,
                "http" => false,
                _ => return Err(format!("expected {EXPECTED}")),
            };
            let mut options = Self::read(rest, tls, EXPECTED)?;
            let whole = format!("{}/{}", options.path, path.trim_matches('/'));
            options.path = whole.trim_matches('/').to_owned();
            Ok(options)
        };
        read().map_err(|reason| Error::BadUrl {
            url: "…".to_owned(), // it may hold a password
            reason,
        })
    }

    /// Reads `user@host:port/path`, the part of a URL after `webdav://` or `webdavs://`.
    pub(crate) fn parse(rest: &str, tls: bool) -> Result<Self, String> {
        Self::read(rest, tls, "`webdavs://user@host/path`")
    }

    fn read(rest: &str, tls: bool, expected: &str) -> Result<Self, String> {
        let (place, query) = Hosted::parse(rest, &format!("set {PASSWORD}"), expected)?;
        if !query.is_empty() {
            return Err(format!("it takes no parameters; expected {expected}"));
        }
        Ok(Self {
            tls,
            host: place.host,
            path: place.path,
            username: place.user,
            password: None,
        })
    }

    pub(crate) fn connect(&self) -> Result<Arc<WebdavClient>, Error> {
        let scheme = if self.tls { "https" } else { "http" };
        let password = || {
            let of_environment = std::env::var(PASSWORD).ok().map(Secret::new);
            self.password.clone().or(of_environment)
        };
        let user = self.username.clone().map(|name| (name, password()));
        let share = Share::new(&format!("{scheme}://{}", self.host), &self.path, user);
        let share = share.map_err(|source| Error::Store {
            location: self.to_string(),
            action: "use",
            object: "the settings".into(),
            source,
            hint: "",
        })?;
        Ok(Arc::new(WebdavClient::new(self.to_string(), share)))
    }
}

impl fmt::Display for WebdavOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "webdavs://" } else { "webdav://" })?;
        Hosted::write(f, self.username.as_deref(), &self.host, &self.path)
    }
}
