//! A writer with another SQLite than the one that is bundled: an older one, on most machines.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evertide_testkit::{ChildProcess, sqlite_version};

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
    pub(crate) fn kill(mut self, tally: &mut OtherSqliteTally) -> Result<()> {
        self.child.kill()?;
        self.count(tally)
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self, deadline: Duration, tally: &mut OtherSqliteTally) -> Result<()> {
        drop(self.child.take_stdin());
        let status = self.child.wait(deadline)?;
        ensure!(
            status.success(),
            "the writer with another SQLite ended with {status}; see above"
        );
        self.count(tally)
    }

    fn count(mut self, tally: &mut OtherSqliteTally) -> Result<()> {
        let mut text = String::new();
        self.output.as_file_mut().read_to_string(&mut text)?;
        tally.add(&text)
    }
}

/// What was written with another SQLite than the bundled one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherSqliteTally {
    /// Its version; empty where no process came as far as saying it.
    pub version: String,
    /// Transactions committed by all processes, those killed too.
    pub transactions: u64,
    /// The processes.
    pub lives: u32,
}

impl OtherSqliteTally {
    /// Adds what a process printed: its version, and how many it had committed after each.
    fn add(&mut self, printed: &str) -> Result<()> {
        self.lives += 1;
        let mut lines = printed.lines();
        if let Some(version) = lines.next() {
            version.clone_into(&mut self.version);
        }
        if let Some(committed) = lines.next_back() {
            self.transactions += committed.parse::<u64>().context("no count")?;
        }
        Ok(())
    }

    /// A run in which it wrote nothing shows nothing about it, and one with the bundled SQLite nothing about others.
    pub(crate) fn must_have_written(&self) -> Result<()> {
        ensure!(
            self.version != sqlite_version(),
            "the SQLite of Python is {}, as is bundled, so that no other one was tested; a python3 with another one \
             has to come first in PATH",
            self.version
        );
        ensure!(
            self.transactions > 0,
            "the writer with the SQLite of Python ({}) committed no transaction in {} lives, so that only \
             the bundled one ({}) was tested",
            self.version,
            self.lives,
            sqlite_version()
        );
        Ok(())
    }
}

impl fmt::Display for OtherSqliteTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SQLite: {} is bundled, Python has {}; with that {} transactions in {} lives",
            sqlite_version(),
            self.version,
            self.transactions,
            self.lives
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lives: &[&str]) -> OtherSqliteTally {
        let mut tally = OtherSqliteTally::default();
        for printed in lives {
            tally.add(printed).unwrap();
        }
        tally
    }

    #[test]
    fn a_run_in_which_the_other_sqlite_wrote_nothing_does_not_pass() {
        let idle = after(&["", "3.40.1\n", "3.40.1\n0\n"]);
        let said = idle.must_have_written().unwrap_err().to_string();
        assert!(
            said.contains("3.40.1) committed no transaction in 3 lives"),
            "{said}"
        );
        let killed = after(&["3.40.1\n1\n2\n", "3.40.1\n", "3.40.1\n1\n"]);
        killed.must_have_written().unwrap();
        assert_eq!(killed.transactions, 3);
    }

    #[test]
    fn a_run_with_the_bundled_sqlite_alone_does_not_pass_and_both_versions_are_reported() {
        let bundled = sqlite_version();
        let other = after(&["3.7.17\n1\n"]).to_string();
        assert!(
            other.contains(&format!("{bundled} is bundled, Python has 3.7.17")),
            "{other}"
        );
        let same = after(&[&format!("{bundled}\n1\n")]);
        let said = same.must_have_written().unwrap_err().to_string();
        assert!(said.contains("no other one was tested"), "{said}");
    }
}
