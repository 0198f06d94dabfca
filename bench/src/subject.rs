//! What is measured: no backup, ours, theirs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use evertide_testkit::{ChildProcess, litestream_command, replica_url, workspace_program};

const DEADLINE: Duration = Duration::from_secs(300);

/// Whose numbers these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// No backup, or `cp` and `fsync` in place of a restore.
    Baseline,
    Evertide,
    Litestream,
}

impl Subject {
    pub(crate) const BACKUPS: [Self; 2] = [Self::Evertide, Self::Litestream];
    pub(crate) const ALL: [Self; 3] = [Self::Baseline, Self::Evertide, Self::Litestream];

    /// Builds or installs the programs, so that no measurement does.
    pub(crate) fn prepare() -> Result<()> {
        for subject in Self::BACKUPS {
            let mut command = subject.program();
            let flag = if subject == Self::Evertide {
                "--version"
            } else {
                "version"
            };
            let output = command
                .arg(flag)
                .output()
                .with_context(|| format!("{command:?}"))?;
            let version = String::from_utf8_lossy(&output.stdout);
            eprintln!("{subject}: {}", version.trim());
        }
        Ok(())
    }

    /// The program without arguments.
    ///
    /// # Panics
    ///
    /// For the baseline, which has none.
    fn program(self) -> Command {
        match self {
            Self::Baseline => unreachable!("the baseline runs no program"),
            Self::Evertide => Command::new(workspace_program("evertide-cli", "evertide")),
            Self::Litestream => litestream_command(),
        }
    }

    /// Starts `replicate` with the defaults, and waits for the first object and a while more.
    pub(crate) fn replicate(self, database: &Path, replica: &Path) -> Result<Option<Backup>> {
        if self == Self::Baseline {
            return Ok(None);
        }
        let log = replica.with_extension("log");
        let mut command = self.program();
        command
            .arg("replicate")
            .arg(database)
            .arg(replica_url(replica));
        let child = ChildProcess::spawn_logged(&mut command, &log)?;
        let level_0 = replica.join("ltx/0");
        evertide_testkit::wait_until(DEADLINE, "the first upload", || {
            replica.join("ltx/9").is_dir() || level_0.is_dir()
        });
        std::fs::create_dir_all(&level_0)?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(Some(Backup {
            child,
            subject: self,
            level_0,
        }))
    }

    /// The command that uploads a database that has no replica yet, and ends when it is there.
    pub(crate) fn replicate_once(self, database: &Path, replica: &Path) -> Command {
        let flag = if self == Self::Evertide {
            "--once"
        } else {
            "-once"
        };
        let mut command = self.program();
        command
            .args(["replicate", flag])
            .arg(database)
            .arg(replica_url(replica));
        command
    }

    /// The command that restores a replica.
    pub(crate) fn restore(self, replica: &Path, output: &Path) -> Command {
        let mut command = self.program();
        command
            .args(["restore", "-o"])
            .arg(output)
            .arg(replica_url(replica));
        command
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Baseline => "baseline",
            Self::Evertide => "evertide",
            Self::Litestream => "litestream",
        })
    }
}

/// A running `replicate`.
#[derive(Debug)]
pub(crate) struct Backup {
    child: ChildProcess,
    subject: Subject,
    /// The folder that an object of a new commit appears in.
    pub(crate) level_0: PathBuf,
}

impl Backup {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in order: the last commits are uploaded.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.child.terminate(DEADLINE)?;
        if !status.success() {
            bail!(
                "{} ended with {status}:\n{}",
                self.subject,
                self.child.log()
            );
        }
        Ok(())
    }
}
