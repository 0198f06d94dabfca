//! A server that speaks the JSON API of Google Cloud Storage, on loopback.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::install_fake_gcs;
use super::server::{Server, shared};

/// A server with one bucket, stopped when dropped. It honours conditions on uploads in one request,
/// not on resumable ones, and checks no credentials.
#[derive(Debug)]
pub struct GcsServer(Server);

impl GcsServer {
    /// The bucket that is there.
    pub const BUCKET: &'static str = "replicas";

    /// Starts a server with an empty bucket on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot be installed, or does not start: nothing that needs it is skipped.
    pub fn start() -> Self {
        Self::with(|bucket| fs::create_dir(bucket).expect("a folder is a bucket"))
    }

    /// Starts a server whose bucket has a replica at its root: LTX files 1 to 5,000 of one byte on level 0.
    /// (Given them one by one, it would take half a minute.)
    ///
    /// # Panics
    ///
    /// As [`GcsServer::start`].
    pub fn start_full() -> Self {
        Self::with(|bucket| {
            let level = bucket.join("ltx/0");
            fs::create_dir_all(&level).expect("a folder for objects");
            for n in 1..=5_000 {
                let object = level.join(format!("{n:016x}-{n:016x}.ltx"));
                fs::write(object, "x").expect("a file is an object");
            }
        })
    }

    fn with(fill: impl FnOnce(&Path)) -> Self {
        let program = install_fake_gcs().unwrap_or_else(|error| panic!("{error}"));
        Self(Server::start("fake-gcs-server", |port, data| {
            fill(&data.join(Self::BUCKET));
            let mut command = Command::new(program);
            command
                .args([
                    "-scheme",
                    "http",
                    "-host",
                    "127.0.0.1",
                    "-backend",
                    "memory",
                ])
                .args([
                    "-log-level",
                    "warn",
                    "-port",
                    &port.to_string(),
                    "-public-host",
                ])
                .arg(format!("127.0.0.1:{port}"))
                .arg("-data")
                .arg(data);
            command
        }))
    }

    /// The server that other tests of the process use at the moment, or a new one.
    ///
    /// # Panics
    ///
    /// As [`GcsServer::start`].
    pub fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<GcsServer>> = Mutex::new(Weak::new());
        shared(&RUNNING, Self::start)
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        self.0.url()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// The environment in which programs find it.
    pub fn environment(&self) -> [(&'static str, String); 1] {
        [(
            "STORAGE_EMULATOR_HOST",
            format!("127.0.0.1:{}", self.0.port()),
        )]
    }
}
