//! Whether two databases are the same: row for row, and page for page except pages on the freelist.
//!
//! Both databases are copied first, with their WAL, and the copies are opened: the originals are
//! neither checkpointed nor changed. Nothing about the header is exempt. In WAL mode the change
//! counters of page 1 are written into the WAL with the commit, so a faithful backup has them.
//!
//! What is exempt, and why:
//! - **leaves of the freelist**: SQLite does not write a page that it frees, so its bytes are
//!   whatever was there. Trunk pages of the freelist are written, and are compared.
//! - **the lock page** (the one at 1 GiB): SQLite never uses it.

mod copy;
mod pages;
mod rows;

use std::fmt;
use std::path::{Path, PathBuf};

use copy::Copied;

/// How many differences of one kind are listed before the rest is counted.
const LISTED: usize = 20;

/// What was compared; a comparison of nothing proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Comparison {
    /// Pages of each database.
    pub pages: u32,
    /// Pages whose bytes were not compared: leaves of the freelist and the lock page.
    pub exempt_pages: u32,
    /// Tables compared row for row, `sqlite_schema` among them.
    pub tables: u32,
    /// Rows compared.
    pub rows: u64,
}

/// What differs between two databases.
#[derive(Debug)]
#[non_exhaustive]
pub struct Difference {
    /// The first database, as it was given.
    pub left: PathBuf,
    /// The second database, as it was given.
    pub right: PathBuf,
    /// One sentence for each difference, the first ones of each kind.
    pub findings: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right) = (self.left.display(), self.right.display());
        write!(f, "the databases differ\n  left:  {left}\n  right: {right}")?;
        for finding in &self.findings {
            write!(f, "\n  - {finding}")?;
        }
        Ok(())
    }
}

/// Why two databases are not the same, or could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// They differ.
    #[error("{0}")]
    Different(Difference),
    /// One of them cannot be copied or read.
    #[error("cannot compare {path}: {reason}")]
    Unreadable {
        /// The database, as it was given.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Compares two databases that nobody writes to at the moment.
///
/// # Panics
///
/// When they differ, with a list of what does, or when one cannot be read.
pub fn assert_same_database(left: impl AsRef<Path>, right: impl AsRef<Path>) -> Comparison {
    match compare_databases(left, right) {
        Ok(comparison) => comparison,
        Err(error) => panic!("{error}"),
    }
}

/// Compares two databases that nobody writes to at the moment.
///
/// # Errors
///
/// When they differ or one cannot be read.
pub fn compare_databases(
    left: impl AsRef<Path>,
    right: impl AsRef<Path>,
) -> Result<Comparison, CompareError> {
    let (left, right) = (Copied::of(left.as_ref())?, Copied::of(right.as_ref())?);
    let mut findings = Findings::default();
    let mut comparison = Comparison::default();
    pages::compare(&left, &right, &mut findings, &mut comparison)?;
    rows::compare(&left, &right, &mut findings, &mut comparison)?;
    if findings.is_empty() {
        return Ok(comparison);
    }
    Err(CompareError::Different(Difference {
        left: left.original,
        right: right.original,
        findings: findings.into_sentences(),
    }))
}

/// Differences, listed up to a limit for each kind and counted beyond it.
#[derive(Default)]
struct Findings(Vec<(&'static str, usize, Vec<String>)>);

impl Findings {
    fn add(&mut self, kind: &'static str, sentence: String) {
        let place = match self.0.iter().position(|(known, ..)| *known == kind) {
            Some(place) => place,
            None => {
                self.0.push((kind, 0, Vec::new()));
                self.0.len() - 1
            }
        };
        let (_, count, listed) = &mut self.0[place];
        *count += 1;
        if listed.len() < LISTED {
            listed.push(sentence);
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn into_sentences(self) -> Vec<String> {
        let mut sentences = Vec::new();
        for (kind, count, listed) in self.0 {
            let more = count - listed.len();
            sentences.extend(listed);
            if more > 0 {
                sentences.push(format!("and {more} more: {kind}"));
            }
        }
        sentences
    }
}
