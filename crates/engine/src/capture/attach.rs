//! Deciding how capture continues, when a database is opened.

use std::sync::Arc;

use evertide_ltx::PageSize;

use super::{Capture, CaptureError, attached::Attached, connect::beside};
use crate::{
    Error,
    state::Position,
    wal::{Cursor, IndexHeader, Salts, descriptors::FileId},
};

/// How capture continues after attaching.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AttachOutcome {
    /// There is no database at the path, or an empty file.
    Missing,
    /// From where it stopped.
    Resumed,
    /// It could not be proven that nothing was missed, so all pages were compared. So many differed.
    Rebased { reason: String, pages: u64 },
    /// There is nothing to compare with: a full snapshot is needed. Without a reason it is the first.
    NeedsSnapshot { reason: Option<String> },
}

/// What decides how capture continues.
#[derive(Debug)]
struct StartFacts<'a> {
    position: Option<&'a Position>,
    /// The page table is there and adds up to the position's database checksum.
    table: bool,
    page_size: PageSize,
    index: &'a IndexHeader,
    inode: u64,
    /// The last captured frame is still where it was.
    continues: bool,
    /// The WAL was reset once, and everything before that is captured.
    reset_once: bool,
}

/// How to continue.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Start {
    Resume,
    ResumeAfterReset,
    Rebase(String),
    Snapshot(Option<String>),
}

fn plan_start(facts: &StartFacts<'_>) -> Start {
    let Some(position) = facts.position else {
        return Start::Snapshot(None);
    };
    if position.page_size != facts.page_size {
        let (was, is) = (position.page_size, facts.page_size);
        let reason = format!("the page size changed from {was} to {is} bytes");
        return Start::Snapshot(Some(reason));
    }
    let reason = if position.inode != facts.inode {
        "the database file was replaced"
    } else if facts.reset_once {
        return Start::ResumeAfterReset;
    } else if position.salts != facts.index.salts {
        "the WAL was restarted or removed while nobody watched"
    } else if position.salts == Salts::default() {
        // Every WAL without a frame looks like this: it may have been written, checkpointed and
        // deleted since.
        "the WAL was empty, which does not prove that nothing was missed"
    } else if position.frames > facts.index.committed || !facts.continues {
        "the WAL does not contain the last captured frame any more"
    } else {
        return Start::Resume;
    };
    if facts.table {
        Start::Rebase(reason.into())
    } else {
        let reason = format!("{reason}, and the table of page checksums is not usable");
        Start::Snapshot(Some(reason))
    }
}

impl Capture {
    /// Opens the database, takes hold of its WAL and continues from the recorded position. After an
    /// error it is not attached: nothing is captured from where continuity was not proven.
    pub(crate) fn attach(&mut self) -> Result<AttachOutcome, CaptureError> {
        self.detach();
        let outcome = self.open_and_continue();
        if outcome.is_err() {
            self.detach();
        }
        outcome
    }

    fn open_and_continue(&mut self) -> Result<AttachOutcome, CaptureError> {
        let Some(attached) = Attached::open(&self.path, self.disk.as_ref())? else {
            return Ok(AttachOutcome::Missing);
        };
        let index = attached.read_index()?;
        let position = self.state.position.as_ref();
        let (continues, reset_once) = match position {
            Some(position) => {
                let cursor = Cursor {
                    frames: position.frames,
                    checksum: position.checksum,
                };
                let (wal, salts, failed) = (&attached.wal, position.salts, attached.wal_failed());
                let same = salts == index.salts;
                (
                    same && wal
                        .continues(cursor, salts, index.page_size)
                        .map_err(&failed)?,
                    !same
                        && wal
                            .reset_once_since(cursor, salts, &index)
                            .map_err(&failed)?,
                )
            }
            None => (false, false),
        };
        let start = plan_start(&StartFacts {
            position,
            table: self.state.table.is_some(),
            page_size: index.page_size,
            index: &index,
            inode: attached.id.inode,
            continues,
            reset_once,
        });
        self.attached = Some(attached);
        match start {
            Start::Resume => Ok(AttachOutcome::Resumed),
            Start::ResumeAfterReset => {
                if let Some(position) = self.state.position {
                    self.state.save(Position {
                        salts: index.salts,
                        frames: 0,
                        ..position
                    })?;
                }
                Ok(AttachOutcome::Resumed)
            }
            Start::Rebase(reason) => {
                let pages = self.rebase()?;
                if pages > 0 {
                    self.stats.rebases += 1;
                    self.stats.last_rebase = Some(reason.clone());
                }
                Ok(AttachOutcome::Rebased { reason, pages })
            }
            Start::Snapshot(reason) => {
                self.forget_position()?;
                Ok(AttachOutcome::NeedsSnapshot { reason })
            }
        }
    }

    /// Lets go of the database. The WAL stays as it is.
    pub(crate) fn detach(&mut self) {
        self.images.clear();
        self.attached = None;
    }

    /// Whether the files that were attached to are still the ones at their paths.
    pub(crate) fn files_in_place(&self) -> Result<bool, Error> {
        let Some(attached) = &self.attached else {
            return Ok(true);
        };
        let failed = |source| Error::Io {
            path: self.path.clone(),
            action: "look at",
            source,
        };
        Ok(FileId::of(&self.path).map_err(failed)? == Some(attached.id)
            && FileId::of(&beside(&self.path, "-shm")).map_err(failed)? == Some(attached.shm_id))
    }

    /// The history ends here: the next snapshot starts another part of it, above the last TXID.
    fn forget_position(&mut self) -> Result<(), Error> {
        if let Some(position) = self.state.position.take() {
            self.raise_floor(position.txid);
        }
        self.state.table = None;
        let disk = Arc::clone(&self.disk);
        self.state
            .stage
            .clear(disk.as_ref())
            .map_err(self.state.failed("clean"))
    }
}

#[cfg(test)]
mod tests {
    use evertide_ltx::Txid;

    use super::*;
    use crate::{
        state::{TableSums, Tips},
        wal::{Salts, WalChecksum},
    };

    fn position() -> Position {
        Position {
            txid: Txid::new(5),
            timestamp_ms: 8,
            staged_min: Txid::new(5),
            salts: Salts([1; 8]),
            frames: 10,
            checksum: WalChecksum(1, 2),
            page_size: PageSize::new(4_096).unwrap(),
            pages: 3,
            inode: 7,
            table: Some(TableSums::default()),
            tips: Tips::default(),
        }
    }

    fn index() -> IndexHeader {
        IndexHeader {
            page_size: PageSize::new(4_096).unwrap(),
            committed: 12,
            pages: 3,
            checksum: WalChecksum(3, 4),
            salts: Salts([1; 8]),
            backfilled: 0,
        }
    }

    /// The three rows of the resume matrix, and what leads to each.
    #[test]
    fn a_restart_uploads_no_more_than_can_be_proven_to_be_needed() {
        type Change = fn(&mut Option<Position>, &mut IndexHeader, &mut (bool, u64, bool));
        let cases: [(Change, &str); 11] = [
            (|_, _, _| {}, "resume"),
            (|_, i, _| i.committed = 10, "resume"),
            (|_, _, f| f.0 = false, "resume"), // the table is rebuilt beside
            (|_, i, _| i.salts = Salts([2; 8]), "rebase"),
            (|_, i, _| i.committed = 9, "rebase"),
            (|_, _, f| f.2 = false, "rebase"),
            (|_, _, f| f.1 = 8, "rebase"),
            (
                |_, i, f| (i.salts, f.0) = (Salts([2; 8]), false),
                "snapshot",
            ),
            (|p, _, _| *p = None, "snapshot"),
            (|_, i, f| (i.salts, f.2) = (Salts([2; 8]), false), "resume"), // reset once
            (
                |p, i, _| {
                    // An empty WAL, then and now: the application may have come and gone in between.
                    let p = p.as_mut().unwrap();
                    (p.salts, p.frames, i.salts, i.committed) =
                        (Salts::default(), 0, Salts::default(), 0);
                },
                "rebase",
            ),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let (mut p, mut i, mut flags) = (Some(position()), index(), (true, 7, true));
            change(&mut p, &mut i, &mut flags);
            let (table, inode, continues) = flags;
            let start = plan_start(&StartFacts {
                position: p.as_ref(),
                table,
                page_size: i.page_size,
                index: &i,
                inode,
                continues,
                reset_once: number == 9,
            });
            let found = match start {
                Start::Resume | Start::ResumeAfterReset => "resume",
                Start::Rebase(_) => "rebase",
                Start::Snapshot(_) => "snapshot",
            };
            assert_eq!(found, expected, "case {number}");
        }
    }

    #[test]
    fn pages_of_another_size_are_never_compared() {
        let mut i = index();
        i.page_size = PageSize::new(8_192).unwrap();
        let p = position();
        let start = plan_start(&StartFacts {
            position: Some(&p),
            table: true,
            page_size: i.page_size,
            index: &i,
            inode: 7,
            continues: true,
            reset_once: false,
        });
        assert!(matches!(start, Start::Snapshot(_)));
    }
}
