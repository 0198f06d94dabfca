//! The application of the demo as a process.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::app::Ready;

/// How long the application may take to start, and to end in order.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running application. Killed when dropped.
#[derive(Debug)]
pub(super) struct Application {
    child: Child,
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
}

impl Application {
    /// Starts it, and waits until it serves.
    pub(super) async fn start(database: &Path, key: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .arg("demo-app")
            .arg("--db")
            .arg(database)
            .arg("--age-key")
            .arg(key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the demo, which then ends the application.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the application")?;
        let pid = child.id().context("the application ended at once")?;
        let out = child
            .stdout
            .take()
            .context("the application has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let line = line.context("the application did not start in time")??;
        let Some(line) = line else {
            bail!("the application ended instead of serving; its messages are above");
        };
        let ready: Ready = serde_json::from_str(&line)?;
        Ok(Self {
            child,
            address: ready.address,
            pid,
        })
    }

    /// Kills it, as a power cut would: it gets no chance to do anything.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .context("cannot kill the application")
    }

    /// Asks it to end, and waits until it has.
    pub(super) async fn terminate(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        kill(pid, Signal::SIGTERM).context("cannot end the application")?;
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.context("the application did not end in time")??;
        if !status.success() {
            bail!("the application ended with {status}; its messages are above");
        }
        Ok(())
    }
}
