//! A server of somebody else's, on loopback.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use super::install::InstallError;
use crate::checkout::{free_port, temp_dir, wait_until};
use crate::process::ChildProcess;

const DATA: &str = "data";

/// A server and its folder, stopped and removed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    process: ChildProcess,
    dir: TempDir,
}

impl Server {
    /// Starts a server on a free port. The command is made from the port and an empty folder.
    ///
    /// # Panics
    ///
    /// When it does not start: nothing that needs it is skipped.
    pub(super) fn start(name: &str, command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let dir = temp_dir();
        let port = free_port();
        let data = dir.path().join(DATA);
        fs::create_dir(&data).expect("a folder for a server");
        let mut command = command(port, &data);
        // What it caches goes with it, too.
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        let log = dir.path().join("server.log");
        let mut process = ChildProcess::spawn_logged(command.current_dir(dir.path()), &log)
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        wait_until(Duration::from_secs(60), &format!("{name} listens"), || {
            let running = process.is_running().expect("the state of a child");
            assert!(running, "{command:?} ended:\n{}", process.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, process, dir }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The folder that the command was made from.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join(DATA)
    }

    pub(super) fn log(&self) -> String {
        self.process.log()
    }
}

/// A script that pip installed, with its packages.
///
/// # Panics
///
/// When it cannot be installed.
pub(super) fn python_script(install: fn() -> Result<PathBuf, InstallError>) -> Command {
    let (mut command, script) = python(install);
    command.arg(script);
    command
}

/// Python with the packages of a script that pip installed, and that script.
///
/// # Panics
///
/// As [`python_script`].
pub(super) fn python(install: fn() -> Result<PathBuf, InstallError>) -> (Command, PathBuf) {
    let script = install().unwrap_or_else(|error| panic!("{error}"));
    let packages = script.parent().and_then(Path::parent).map(Path::to_owned);
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages.unwrap_or_default());
    (command, script)
}

/// The server that other tests of the process use at the moment, or a new one. (A static would never be
/// dropped, and the server run on after the tests.)
pub(super) fn shared<S>(place: &Mutex<Weak<S>>, start: impl FnOnce() -> S) -> Arc<S> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.upgrade().unwrap_or_else(|| {
        let server = Arc::new(start());
        *place = Arc::downgrade(&server);
        server
    })
}
