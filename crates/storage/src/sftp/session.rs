//! A connection to a server: who it is, who we are, and what it can do.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{Either, select};
use russh::{
    Preferred,
    client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{
        self, Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey,
        PublicKeyOrCertificate,
    },
};
use russh_sftp::client::{Config, RawSftpSession};
use tokio::{sync::watch, time::timeout};
use zeroize::Zeroizing;

use super::{SftpOptions, failure::Failure};
use crate::{Secret, connected::Connection};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A request that takes longer is given up, and the connection with it.
const REQUEST_TIMEOUT_SECONDS: u64 = 60;
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What every server takes in one request (draft-ietf-secsh-filexfer-02, section 3).
const LEAST_PIECE: u64 = 32 << 10;

/// A connection.
pub(super) struct Session {
    pub(super) sftp: RawSftpSession,
    ssh: Handle<Gatekeeper>,
    /// It syncs files on request.
    pub(super) syncs: bool,
    /// It renames over what is there.
    pub(super) replaces: bool,
    /// It makes hard links.
    pub(super) links: bool,
    /// Bytes that it takes or gives in one request.
    pub(super) piece: u32,
    /// Its other end goes with the connection.
    alive: watch::Receiver<()>,
}

impl Connection for Session {
    type Options = SftpOptions;
    type Failure = Failure;

    async fn open(options: &SftpOptions) -> Result<Self, Failure> {
        match timeout(CONNECT_TIMEOUT, Self::opened(options)).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::Silent(CONNECT_TIMEOUT)),
        }
    }

    fn is_of_use(&self) -> bool {
        !self.ssh.is_closed()
    }

    fn is_broken(failure: &Failure) -> bool {
        failure.is_broken()
    }
}

impl Session {
    /// What this comes to, or an error as soon as the connection has ended: what is asked for at that moment may
    /// never be answered.
    pub(super) async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut alive = self.alive.clone();
        match select(pin!(work), pin!(alive.changed())).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(Failure::Ended),
        }
    }

    async fn opened(options: &SftpOptions) -> Result<Self, Failure> {
        let known = known_keys(options)?;
        let (host, port) = options.address();
        let mut algorithms: Vec<Algorithm> = known.iter().map(PublicKey::algorithm).collect();
        algorithms.dedup();
        // Others would be refused, and it may have several.
        let preferred = Preferred {
            key: Cow::Owned(algorithms),
            ..Preferred::default()
        };
        let config = client::Config {
            preferred,
            keepalive_interval: Some(KEEPALIVE),
            nodelay: true,
            ..client::Config::default()
        };
        let refused = Arc::new(Mutex::new(None));
        let (connection, alive) = watch::channel(());
        let gatekeeper = Gatekeeper {
            known,
            refused: refused.clone(),
            _connection: connection,
        };
        let connected = client::connect(Arc::new(config), (host, port), gatekeeper).await;
        let refused = refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut ssh = match (connected, refused) {
            (_, Some(fingerprint)) => return Err(Failure::AnotherHost(fingerprint)),
            (Err(error), None) => return Err(error.into()),
            (Ok(ssh), None) => ssh,
        };
        authenticate(&mut ssh, options).await?;
        let channel = ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let config = Config {
            request_timeout_secs: REQUEST_TIMEOUT_SECONDS,
            ..Config::default()
        };
        let sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = sftp.init().await?;
        let has = |name: &str| version.extensions.contains_key(name);
        let piece = match has("limits@openssh.com") {
            true => {
                let limits = sftp.limits().await?;
                // Zero means no limit.
                let given = [limits.max_read_len, limits.max_write_len];
                given.into_iter().filter(|len| *len > 0).min()
            }
            false => None,
        };
        Ok(Self {
            syncs: has("fsync@openssh.com"),
            replaces: has("posix-rename@openssh.com"),
            links: has("hardlink@openssh.com"),
            piece: u32::try_from(piece.unwrap_or(LEAST_PIECE).min(LEAST_PIECE)).unwrap_or(1 << 10),
            sftp,
            ssh,
            alive,
        })
    }
}

/// Lets in only the server that is meant.
struct Gatekeeper {
    known: Vec<PublicKey>,
    /// The fingerprint of a key that was not.
    refused: Arc<Mutex<Option<String>>>,
    /// Dropped with the connection.
    _connection: watch::Sender<()>,
}

impl client::Handler for Gatekeeper {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let (key, fingerprint) = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                (Some(key), key.fingerprint(HashAlg::Sha256).to_string())
            }
            // None is asked for.
            PublicKeyOrCertificate::Certificate(_) => (None, "a certificate".to_owned()),
        };
        // Comments tell nothing apart.
        let is_known = |key: &PublicKey| self.known.iter().any(|k| k.key_data() == key.key_data());
        let known = key.is_some_and(is_known);
        if !known {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
        }
        Ok(known)
    }
}

/// The keys that the server may have.
fn known_keys(options: &SftpOptions) -> Result<Vec<PublicKey>, Failure> {
    let keys = match &options.host_key {
        Some(key) => {
            let key = PublicKey::from_openssh(key.trim());
            vec![key.map_err(|error| Failure::BadHostKey(error.to_string()))?]
        }
        None => {
            let (host, port) = options.address();
            let default = || home(Path::new("known_hosts"));
            let file = options.known_hosts.clone().or_else(default);
            let file = file.ok_or(Failure::UnknownHost)?;
            let found = keys::known_hosts::known_host_keys_path(host, port, file);
            let found = found.map_err(|error| Failure::BadHostKey(error.to_string()))?;
            found.into_iter().map(|(_, key)| key).collect()
        }
    };
    let usable: Vec<_> = keys
        .into_iter()
        .filter(|key| {
            matches!(
                key.algorithm(),
                Algorithm::Ed25519 | Algorithm::Ecdsa { .. }
            )
        })
        .collect();
    match usable.is_empty() {
        true => Err(Failure::UnknownHost),
        false => Ok(usable),
    }
}

/// A file of the user's, where there is a home.
fn home(name: &Path) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".ssh").join(name))
}

async fn authenticate(ssh: &mut Handle<Gatekeeper>, options: &SftpOptions) -> Result<(), Failure> {
    let user = options.user.as_deref().ok_or(Failure::NoUser)?;
    let key = private_key(options).await?;
    let mut tried = false;
    if let Some(key) = key {
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        if ssh.authenticate_publickey(user, key).await?.success() {
            return Ok(());
        }
        tried = true;
    }
    if let Some(password) = &options.password {
        let answer = ssh.authenticate_password(user, password.expose()).await?;
        if matches!(answer, AuthResult::Success) || asked(ssh, user, password).await? {
            return Ok(());
        }
        tried = true;
    }
    Err(match tried {
        true => Failure::NotLetIn,
        false => Failure::NoCredentials,
    })
}

/// Gives the password to a server that asks for it in its own words.
async fn asked(
    ssh: &mut Handle<Gatekeeper>,
    user: &str,
    password: &Secret,
) -> Result<bool, Failure> {
    let mut answer = ssh
        .authenticate_keyboard_interactive_start(user, None::<String>)
        .await?;
    // Who asks more often wants something else.
    for _ in 0..3 {
        match answer {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answers = prompts.iter().map(|_| password.expose().to_owned());
                let answers = answers.collect();
                answer = ssh
                    .authenticate_keyboard_interactive_respond(answers)
                    .await?;
            }
        }
    }
    Ok(false)
}

/// A key as it stands in a file, also where only what is between the first line and the last was given, in
/// one line.
fn in_lines(key: &Secret) -> Zeroizing<String> {
    const LINE: usize = 70;
    let key = key.expose().trim();
    if key.starts_with("-----") || !key.is_ascii() {
        return Zeroizing::new(key.to_owned());
    }
    let mut lines = Zeroizing::new(String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
    for line in key.as_bytes().chunks(LINE) {
        lines.extend(line.iter().copied().map(char::from));
        lines.push('\n');
    }
    lines.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    lines
}

/// The user's key: given, in the file that is given, or in one of the usual places.
async fn private_key(options: &SftpOptions) -> Result<Option<PrivateKey>, Failure> {
    let passphrase = options.key_passphrase.clone();
    let passphrase = passphrase.as_ref().map(Secret::expose);
    let bad = |error: keys::Error| Failure::BadKey(error.to_string());
    if let Some(key) = &options.private_key {
        return keys::decode_secret_key(&in_lines(key), passphrase)
            .map(Some)
            .map_err(bad);
    }
    if let Some(path) = &options.key_path {
        return keys::load_secret_key(path, passphrase)
            .map(Some)
            .map_err(bad);
    }
    if options.password.is_some() {
        return Ok(None);
    }
    let usual = ["id_ed25519", "id_ecdsa"].into_iter();
    let found = usual
        .filter_map(|name| home(Path::new(name)))
        .find(|path| path.is_file());
    match found {
        Some(path) => keys::load_secret_key(path, passphrase)
            .map(Some)
            .map_err(bad),
        None => Ok(None),
    }
}
