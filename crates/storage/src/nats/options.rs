//! Where a bucket of NATS is, and how to get there.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_nats::{ConnectOptions, jetstream};
use zeroize::Zeroizing;

use super::{NatsClient, bucket::Bucket, failure::Failure};
use crate::{
    Error, Secret,
    tls::{self, Certificates},
    url::{self, Hosted},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request that takes longer is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The password where the settings have none.
const PASSWORD: &str = "NATS_PASSWORD";
const EXPECTED: &str = "`nats://user@host:4222/bucket`";

/// A replica in an object store of NATS JetStream.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The server, with a port where it is not 4222.
    pub host: String,
    /// The bucket, which must exist.
    pub bucket: String,
    /// The replica's root in the bucket; empty for the bucket itself, which is where Litestream looks.
    pub path: String,
    /// Whether the connection must be encrypted. It is whenever the server wants it.
    pub tls: bool,
    /// Who to be there.
    pub username: Option<String>,
    /// The password. Without one: that of the variable `NATS_PASSWORD`.
    pub password: Option<Secret>,
    /// A token, in place of user and password.
    pub token: Option<Secret>,
    /// A file with the credentials of a user (`.creds`: a JWT and its seed), in place of them.
    pub credentials_path: Option<PathBuf>,
    /// Or the user's JWT.
    pub jwt: Option<Secret>,
    /// And the seed of its key.
    pub seed: Option<Secret>,
}

impl NatsOptions {
    /// A replica at this path of a bucket; slashes at its ends mean nothing.
    ///
    /// # Errors
    ///
    /// [`Error::BadUrl`] for what is no server or no bucket.
    pub fn new(host: &str, bucket: &str, path: &str) -> Result<Self, Error> {
        let options = || {
            url::check_host(host)?;
            Self::at(host.to_owned(), bucket, path)
        };
        options().map_err(|reason| Error::BadUrl {
            url: "…".to_owned(), // it may hold a password
            reason: reason.to_owned(),
        })
    }

    fn at(host: String, bucket: &str, path: &str) -> Result<Self, &'static str> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if bucket.is_empty() {
            return Err("it has no bucket");
        }
        if !bucket.bytes().all(letter) {
            return Err("its bucket has other characters than letters, digits, `-` and `_`");
        }
        Ok(Self {
            host,
            bucket: bucket.to_owned(),
            path: path.trim_matches('/').to_owned(),
            tls: false,
            username: None,
            password: None,
            token: None,
            credentials_path: None,
            jwt: None,
            seed: None,
        })
    }

    /// Reads `user@host:port/bucket/path?creds=…&tls=true`, the part of a URL after `nats://`.
    pub(crate) fn parse(rest: &str) -> Result<Self, String> {
        let (place, query) = Hosted::parse(rest, &format!("set {PASSWORD}"), EXPECTED)?;
        let (bucket, path) = place.path.split_once('/').unwrap_or((&place.path, ""));
        let options = Self::at(place.host, bucket, path);
        let mut options = options.map_err(|wrong| format!("{wrong}; expected {EXPECTED}"))?;
        options.username = place.user;
        for parameter in url::parameters(query) {
            match parameter? {
                ("creds", value) => {
                    let path = Some(PathBuf::from(&value));
                    options.credentials_path = path.filter(|path| *path != Path::new(""));
                }
                ("tls", value) => options.tls = url::flag("tls", &value)?,
                (key, _) => return Err(url::unknown(key, EXPECTED)),
            }
        }
        Ok(options)
    }

    /// What no error may show.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> + Clone {
        let secrets = [&self.password, &self.token, &self.jwt, &self.seed];
        secrets.into_iter().flatten().map(Secret::expose)
    }

    pub(crate) fn connect(&self) -> Arc<NatsClient> {
        let mut options = self.clone();
        let of_environment = || std::env::var(PASSWORD).ok().map(Secret::new);
        options.password = options.password.or_else(of_environment);
        Arc::new(NatsClient::new(options))
    }

    /// Connects to the server, and looks for the bucket.
    pub(super) async fn open(&self) -> Result<Bucket, Failure> {
        let exposed = |secret: &Secret| secret.expose().to_owned();
        let mut connect = ConnectOptions::new()
            .name("evertide")
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .tls_client_config(tls::config(Certificates::Checked).map_err(Failure::request)?)
            .require_tls(self.tls);
        let unreadable = |_| Failure::BadCredentials;
        if let (Some(jwt), Some(seed)) = (&self.jwt, &self.seed) {
            let credentials = credentials(jwt, seed);
            connect = connect.credentials(&credentials).map_err(unreadable)?;
        } else if let Some(path) = &self.credentials_path {
            connect = connect.credentials_file(path).await.map_err(unreadable)?;
        } else if let (Some(user), Some(password)) = (&self.username, &self.password) {
            connect = connect.user_and_password(user.clone(), exposed(password));
        } else if let Some(token) = &self.token {
            connect = connect.token(exposed(token));
        }
        let client = connect.connect(self.host.as_str()).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(REQUEST_TIMEOUT);
        Bucket::find(client, context, &self.bucket).await
    }
}

/// Both as they stand in a file.
fn credentials(jwt: &Secret, seed: &Secret) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt.expose(),
        seed.expose()
    ))
}

impl fmt::Display for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nats://")?;
        let place = match self.path.as_str() {
            "" => self.bucket.clone(),
            path => format!("{}/{path}", self.bucket),
        };
        Hosted::write(f, self.username.as_deref(), &self.host, &place)?;
        let credentials = self
            .credentials_path
            .as_ref()
            .map(|path| path.display().to_string());
        let parameters = [
            ("creds", credentials.as_deref()),
            ("tls", self.tls.then_some("true")),
        ];
        url::write_parameters(f, &parameters)
    }
}
