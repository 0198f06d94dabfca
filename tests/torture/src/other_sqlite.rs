//! A writer with another SQLite than the one that is bundled: an older one, on most machines.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evertide_testkit::ChildProcess;

/// The writer's process; killed when dropped.
#[derive(Debug)]
pub(crate) struct OtherSqlite {
    child: ChildProcess,
    output: tempfile::NamedTempFile,
}

impl OtherSqlite {
    pub(crate) fn start(database: &Path, seed: u64) -> Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("python3");
        command
            .args(["-c", include_str!("other_sqlite.py")])
            .arg(database)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(output.reopen()?);
        let child = ChildProcess::spawn(&mut command).context("starting python3")?;
        Ok(Self { child, output })
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        Ok(())
    }

    /// Stops it in order; the version of its SQLite, and how many transactions it committed.
    pub(crate) fn stop(mut self, deadline: Duration) -> Result<(String, u64)> {
        drop(self.child.take_stdin());
        let status = self.child.wait(deadline)?;
        ensure!(
            status.success(),
            "the writer with another SQLite ended with {status}; see above"
        );
        let mut text = String::new();
        self.output.as_file_mut().read_to_string(&mut text)?;
        let (version, committed) = text.trim().split_once('\n').context("no report")?;
        Ok((version.to_owned(), committed.parse()?))
    }
}
