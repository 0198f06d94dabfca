//! WebDAV shares, on loopback.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::server::{Server, python_script, shared};
use super::{install_rclone, install_wsgidav};

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WebdavKind {
    /// Wants a password, keeps the times that it is given, ignores conditions.
    Rclone,
    /// Wants no password, dates files itself, honours conditions.
    Wsgidav,
}

/// A server with an empty share, stopped when dropped.
#[derive(Debug)]
pub struct WebdavServer(Server);

impl WebdavServer {
    /// The only user of a server that knows users.
    pub const USER: &'static str = "backup";
    /// Its password.
    pub const PASSWORD: &'static str = "SECRETSECRETSECRET";

    /// Starts a server on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start(kind: WebdavKind) -> Self {
        Self(match kind {
            WebdavKind::Rclone => Server::start("rclone", |port, share| {
                let program = install_rclone().unwrap_or_else(|error| panic!("{error}"));
                let mut command = Command::new(program);
                command
                    .args(["serve", "webdav", "--config", "/dev/null", "--addr"])
                    .arg(format!("127.0.0.1:{port}"))
                    .args(["--user", Self::USER, "--pass", Self::PASSWORD])
                    .arg(share);
                command
            }),
            WebdavKind::Wsgidav => Server::start("wsgidav", |port, share| {
                let mut command = python_script(install_wsgidav);
                command
                    .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                    .args(["--auth", "anonymous", "--root"])
                    .arg(share);
                command
            }),
        })
    }

    /// The server of this kind that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`WebdavServer::start`].
    pub fn shared(kind: WebdavKind) -> Arc<Self> {
        static RCLONE: Mutex<Weak<WebdavServer>> = Mutex::new(Weak::new());
        static WSGIDAV: Mutex<Weak<WebdavServer>> = Mutex::new(Weak::new());
        let place = match kind {
            WebdavKind::Rclone => &RCLONE,
            WebdavKind::Wsgidav => &WSGIDAV,
        };
        shared(place, || Self::start(kind))
    }

    /// The URL of its share.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Its address, with the port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0.port())
    }

    /// The folder that is shared.
    pub fn folder(&self) -> PathBuf {
        self.0.data()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.0.log()
    }
}
