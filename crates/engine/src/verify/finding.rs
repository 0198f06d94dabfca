//! What verification has to say about a replica.

use std::fmt;

use evertide_ltx::Txid;
use evertide_storage::LtxObject;

use super::plan::{Gap, Impact};

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Something cannot be restored, or not as it should be: the replica is not sound.
    Problem,
    /// Nothing is lost, but somebody may want to know.
    Note,
}

/// What kind of thing was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum FindingKind {
    /// There is nothing to restore from.
    NoBackup,
    /// Files are missing in the middle of the history.
    Gap,
    /// A file is damaged.
    Damaged,
    /// A file contradicts its name, its level, or the files before it.
    Misplaced,
    /// A file cannot be read.
    Unreadable,
    /// Two files of one level hold the same transaction.
    Overlap,
    /// Files that hold the same transactions have another content.
    Disagreement,
    /// The files together do not make a whole database.
    Incomplete,
    /// The database is not the one whose checksum was recorded.
    Checksum,
    /// A restore failed, or gave another database than the files hold.
    Restore,
    /// Files were deleted faster than they could be read.
    Vanished,
    /// Something lies there that is not part of the replica.
    Foreign,
    /// An object is being written, or was when a process ended.
    Temporary,
    /// Files that no restore can use.
    Unused,
    /// The recorded checksums, the lease or the last proof cannot be read.
    Record,
    /// Files have another time than the one they were made at.
    Time,
}

impl FindingKind {
    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::Foreign | Self::Temporary | Self::Unused | Self::Record | Self::Time => {
                Severity::Note
            }
            _ => Severity::Problem,
        }
    }

    /// In one lower-case word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoBackup => "no_backup",
            Self::Gap => "gap",
            Self::Damaged => "damaged",
            Self::Misplaced => "misplaced",
            Self::Unreadable => "unreadable",
            Self::Overlap => "overlap",
            Self::Disagreement => "disagreement",
            Self::Incomplete => "incomplete",
            Self::Checksum => "checksum",
            Self::Restore => "restore",
            Self::Vanished => "vanished",
            Self::Foreign => "foreign",
            Self::Temporary => "temporary",
            Self::Unused => "unused",
            Self::Record => "record",
            Self::Time => "time",
        }
    }
}

/// Something that verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The object it is about, or the replica.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What that means for restores, and what to do.
    pub meaning: String,
}

impl Finding {
    pub(super) fn new(
        kind: FindingKind,
        object: impl Into<String>,
        problem: impl Into<String>,
        meaning: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            object: object.into(),
            problem: problem.into(),
            meaning: meaning.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.problem, self.meaning)
    }
}

/// How findings call a file.
pub(super) fn label(file: &LtxObject) -> String {
    format!("{} on level {}", file.name, file.level)
}

/// A gap, as a finding.
pub(super) fn of_gap(gap: &Gap) -> Finding {
    let first = gap.have.next();
    let missing = match gap.next.min.previous() {
        last if last == first => format!("transaction {first} is missing before it"),
        last => format!("transactions {first} to {last} are missing before it"),
    };
    let meaning = match gap.resumes {
        Some(name) => format!(
            "no state after transaction {} and before {} can be restored; from there on {name} leads \
             on",
            gap.have, name.max
        ),
        None => format!(
            "nothing after transaction {0} can be restored (the files go on to {1}); restore with \
             `--txid {0}` to have the state before the gap",
            gap.have, gap.last
        ),
    };
    let object = format!("{} on level {}", gap.next, gap.level);
    Finding::new(FindingKind::Gap, object, missing, meaning)
}

/// Two files of one level that hold the same transaction, as a finding.
pub(super) fn of_overlap(before: &LtxObject, file: &LtxObject) -> Finding {
    Finding::new(
        FindingKind::Overlap,
        label(file),
        format!("{} holds some of its transactions too", before.name),
        "one writer never does that: two may have written here, and a restore would mix their \
         databases. Start a new replica, and let one process write to it",
    )
}

/// What the loss of a file means, in words.
pub(super) fn meaning(impact: &Impact, used_by_newest: bool) -> String {
    match impact {
        Impact::Covered => {
            let until = if used_by_newest {
                "; until then a restore of the newest state fails on it"
            } else {
                ""
            };
            format!("other files hold its transactions, so nothing is lost: delete it{until}")
        }
        Impact::Lost {
            first,
            last,
            states,
            newest,
        } => {
            let lost = if states == &1 {
                format!("the state after transaction {first} cannot be restored")
            } else {
                format!("the {states} states from transaction {first} to {last} cannot be restored")
            };
            format!("{lost}; {}", what_is_left(*newest, *first))
        }
    }
}

fn what_is_left(newest: Option<Txid>, first_lost: Txid) -> String {
    match newest {
        None => "nothing else can either".into(),
        Some(newest) if newest < first_lost => {
            format!("the newest one that can is that of transaction {newest}")
        }
        Some(newest) => format!("others can, up to transaction {newest}"),
    }
}
