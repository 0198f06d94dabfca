//! The command of `--exec`, as a daemon: started when replication runs, ended before it stops.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evertide_server::{Daemon, DaemonError, ServerHandle, async_trait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
};

/// How much later than the program we may hear of a signal that both get.
const MOMENT: Duration = Duration::from_millis(250);

/// A program that runs while databases are replicated.
#[derive(Debug)]
pub(super) struct Program {
    words: Vec<String>,
    server: ServerHandle,
    /// Its process ID while it runs.
    running: Arc<Mutex<Option<Pid>>>,
    ended: watch::Sender<Option<Ended>>,
}

/// How the program ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// By itself.
    With(ExitStatus),
    /// Because it was asked to, or everything was.
    Asked,
    /// Nobody knows.
    Lost(String),
}

impl Program {
    /// The program of this command line, with quotes as a shell reads them. No shell runs: signals
    /// reach the program itself.
    pub(super) fn new(command: &str, server: ServerHandle) -> Option<Self> {
        let words = shlex::split(command).filter(|words| !words.is_empty())?;
        let (ended, _) = watch::channel(None);
        Some(Self {
            words,
            server,
            running: Arc::default(),
            ended,
        })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *lock(&self.running) {
            // It may have ended meanwhile.
            let _ = kill(pid, signal);
        }
    }
}

fn lock(running: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the program, and then ends everything.
async fn watch(
    mut child: Child,
    running: Arc<Mutex<Option<Pid>>>,
    ended: watch::Sender<Option<Ended>>,
    server: ServerHandle,
) {
    let status = child.wait().await;
    // Its process ID may be another one's from here on.
    *lock(&running) = None;
    let how = match status {
        Ok(status) if status.success() => Ended::With(status),
        Ok(_) if is_going_down(&server).await => Ended::Asked,
        Ok(status) => Ended::With(status),
        Err(error) => Ended::Lost(error.to_string()),
    };
    ended.send_replace(Some(how));
    server.shut_down();
}

/// Whether everything is to end. A terminal tells the program when it tells us, and it may be faster.
async fn is_going_down(server: &ServerHandle) -> bool {
    let told = tokio::time::timeout(MOMENT, server.shutting_down());
    told.await.is_ok()
}

#[async_trait]
impl Daemon for Program {
    fn name(&self) -> &str {
        "the command of --exec"
    }

    async fn start(&self) -> Result<(), DaemonError> {
        let mut command = Command::new(self.name());
        command
            .args(self.words.iter().skip(1))
            .stdin(Stdio::inherit());
        let child = command
            .spawn()
            .map_err(|error| format!("cannot run `{}`: {error}", self.name()))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw);
        *lock(&self.running) = pid;
        tracing::info!(
            command = self.name(),
            pid = pid.map_or(0, Pid::as_raw),
            "running"
        );
        tokio::spawn(watch(
            child,
            self.running.clone(),
            self.ended.clone(),
            self.server.clone(),
        ));
        Ok(())
    }

    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
        let mut ended = self.ended.subscribe();
        let patience = deadline.mul_f32(0.9);
        if ended.borrow().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let waited = tokio::time::timeout(patience, ended.wait_for(Option::is_some)).await;
        if waited.is_ok() {
            return Ok(());
        }
        // It would go on writing while nobody replicates.
        self.signal(Signal::SIGKILL);
        let name = self.name();
        Err(format!("`{name}` did not end within {patience:?} of SIGTERM and was killed").into())
    }
}
