//! The backup under torture, as a process that can be killed.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use evertide_testkit::{ChildProcess, litestream_command, replica_url, workspace_program};

/// Long enough for the last uploads on a slow machine, short enough to notice a hang.
const ORDERLY: Duration = Duration::from_secs(120);

/// Whose backup is tortured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Subject {
    /// The program `evertide`, and an application with the library inside.
    #[default]
    Evertide,
    /// Litestream 0.5.17.
    Litestream,
}

/// How the backup runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// `replicate DB REPLICA` beside the application.
    Beside,
    /// Inside an application that writes with two threads of its own.
    Inside,
}

/// Starts and stops the backup of one database.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) subject: Subject,
    pub(crate) database: PathBuf,
    pub(crate) replica: PathBuf,
    pub(crate) log: PathBuf,
    /// Only this one, instead of one drawn at each start.
    pub(crate) form: Option<Form>,
}

impl Backup {
    /// Draws how it runs next: twice as often beside the application as inside.
    pub(crate) fn draw_form(&self, rng: &mut fastrand::Rng) -> Form {
        match (self.subject, self.form) {
            (Subject::Litestream, _) => Form::Beside,
            (Subject::Evertide, Some(form)) => form,
            (Subject::Evertide, None) if rng.u32(0..3) == 0 => Form::Inside,
            (Subject::Evertide, None) => Form::Beside,
        }
    }

    pub(crate) fn start(&self, form: Form, seed: u64) -> Result<Running> {
        let mut command = match (self.subject, form) {
            (Subject::Litestream, _) => self.with_arguments(litestream_command(), ["replicate"]),
            (Subject::Evertide, Form::Beside) => {
                let mut command = Command::new(evertide());
                command.args(["replicate", "--log-format", "json"]);
                match seed % 3 {
                    0 => command.arg(&self.database).arg(self.url()),
                    _ => command.arg("--config").arg(self.settings(seed)?),
                };
                command
            }
            (Subject::Evertide, Form::Inside) => {
                self.with_arguments(Command::new(application()), [seed.to_string()])
            }
        };
        // The application stops in order when its standard input ends.
        command.stdin(Stdio::piped());
        let child = ChildProcess::spawn_logged(&mut command, &self.log)
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Running { child, form })
    }

    /// Settings that upload more often than the default does, or not.
    fn settings(&self, seed: u64) -> Result<PathBuf> {
        let intervals = ["1ms", "20ms", "100ms", "1s"];
        let interval = intervals[usize::try_from(seed / 3 % 4)?];
        let text = format!(
            "[[databases]]\npath = {:?}\n[[databases.replicas]]\nname = \"file\"\n\
             type = \"file\"\nfile_path = {:?}\nsync_interval = {interval:?}\n",
            self.database, self.replica
        );
        let path = self.log.with_file_name("settings.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Uploads what is committed, and returns when it is there.
    pub(crate) fn catch_up(&self, rng: &mut fastrand::Rng) -> Result<()> {
        if self.draw_form(rng) == Form::Inside {
            // An application that writes until it is stopped, and uploads all of it.
            let mut running = self.start(Form::Inside, rng.u64(..))?;
            std::thread::sleep(Duration::from_millis(rng.u64(0..2000)));
            return running.stop_in_order(self);
        }
        let mut command = match self.subject {
            Subject::Evertide => {
                let arguments = ["replicate", "--once", "--log-format", "json"];
                self.with_arguments(Command::new(evertide()), arguments)
            }
            Subject::Litestream => {
                self.with_arguments(litestream_command(), ["replicate", "-once"])
            }
        };
        let mut child = ChildProcess::spawn_logged(&mut command, &self.log)?;
        let status = child.wait(ORDERLY).context("replicating once")?;
        if !status.success() {
            bail!("{command:?} ended with {status}; its log:\n{}", self.tail());
        }
        Ok(())
    }

    fn with_arguments<const N: usize>(
        &self,
        mut command: Command,
        arguments: [impl AsRef<std::ffi::OsStr>; N],
    ) -> Command {
        command.args(arguments).arg(&self.database).arg(self.url());
        command
    }

    fn url(&self) -> OsString {
        replica_url(&self.replica).into()
    }

    /// The end of the log, for an error.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The path of our own program, built on first use.
pub(crate) fn evertide() -> PathBuf {
    workspace_program("evertide-cli", "evertide")
}

/// The path of the application with the backup inside, built on first use.
fn application() -> PathBuf {
    workspace_program("evertide-torture", "torture-application")
}

/// Builds every program, so that the time for it is not taken from the torture.
pub(crate) fn build_programs() {
    evertide();
    application();
    workspace_program("evertide-testkit", "evertide-writer");
}

/// Restores with our own program.
pub(crate) fn restore(replica: &Path, output: &Path) -> Result<()> {
    let ended = Command::new(evertide())
        .args([
            "restore",
            "--no-progress",
            "--integrity-check",
            "full",
            "-o",
        ])
        .arg(output)
        .arg(replica_url(replica))
        .output()?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        bail!("evertide restore ended with {}:\n{said}", ended.status);
    }
    Ok(())
}

/// A running backup.
#[derive(Debug)]
pub(crate) struct Running {
    child: ChildProcess,
    form: Form,
}

impl Running {
    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&mut self, backup: &Backup) -> Result<()> {
        self.must_run(backup)?;
        self.child.kill()?;
        Ok(())
    }

    /// Asks it to upload the rest and end.
    pub(crate) fn stop_in_order(&mut self, backup: &Backup) -> Result<()> {
        self.must_run(backup)?;
        let ended = match self.form {
            Form::Beside => self.child.terminate(ORDERLY),
            Form::Inside => {
                drop(self.child.take_stdin());
                self.child.wait(ORDERLY)
            }
        };
        let status = ended.with_context(|| format!("{self} was asked to stop"))?;
        if !status.success() {
            bail!(
                "{self}, asked to stop, ended with {status}; its log:\n{}",
                backup.tail()
            );
        }
        Ok(())
    }

    /// A backup that ends by itself is a failure, whatever it uploaded.
    fn must_run(&mut self, backup: &Backup) -> Result<()> {
        if self.child.is_running()? {
            return Ok(());
        }
        bail!("{self} ended by itself; its log:\n{}", backup.tail())
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Beside => f.write_str("the backup beside the application"),
            Form::Inside => f.write_str("the application with the backup inside"),
        }
    }
}
