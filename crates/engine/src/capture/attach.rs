//! Deciding how capture continues, when a database is opened.

use std::sync::Arc;

use evertide_ltx::PageSize;

use super::{Capture, CaptureError, attached::Attached};
use crate::{
    Error,
    state::{Position, boot},
    wal::{
        Cursor, WalFile, beside,
        descriptors::{self, FileId},
        protocol::{Refusal, Resume, ResumeFacts, resume},
    },
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
    inode: u64,
    /// Whether the WAL goes on where the position is.
    resume: Resume,
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
    let reason = match facts.resume {
        _ if position.inode != facts.inode => "the database file was replaced",
        Resume::Here => return Start::Resume,
        Resume::AfterReset => return Start::ResumeAfterReset,
        Resume::Refused(Refusal::Restarted) => {
            "the WAL was restarted or removed while nobody watched"
        }
        Resume::Refused(Refusal::Empty) => {
            "the WAL was empty, which does not prove that nothing was missed"
        }
        Resume::Refused(Refusal::FrameGone) => {
            "the WAL does not contain the last captured frame any more"
        }
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
        self.refuse_foreign_wal()?;
        let Some(attached) = Attached::open(&self.path, self.disk.as_ref())? else {
            return Ok(AttachOutcome::Missing);
        };
        let index = attached.read_index()?;
        let position = self.state.position.as_ref();
        let boot = boot();
        let resume = match position {
            Some(position) => {
                let cursor = Cursor {
                    frames: position.frames,
                    checksum: position.checksum,
                };
                let facts = attached.wal.resume_facts(cursor, position.salts, &index);
                resume(&ResumeFacts {
                    rebooted: boot == 0 || boot != position.boot,
                    ..facts.map_err(attached.wal_failed())?
                })
            }
            None => Resume::Refused(Refusal::Empty),
        };
        let start = plan_start(&StartFacts {
            position,
            table: self.state.table.is_some(),
            page_size: index.page_size,
            inode: attached.id.inode,
            resume,
        });
        let (id, wal_inode) = (attached.id, attached.wal_inode);
        self.attached = Some(attached);
        // As long as nothing has taken its place, what comes there next must not get the number of its inode.
        for files in self.former.drain(..).filter(|[former, _]| *former != id) {
            descriptors::let_go(files);
        }
        match start {
            Start::Resume => {
                if let Some(position) = &mut self.state.position {
                    // The next capture saves it.
                    (position.boot, position.wal_inode) = (boot, wal_inode);
                }
                Ok(AttachOutcome::Resumed)
            }
            Start::ResumeAfterReset => {
                if let Some(position) = self.state.position {
                    self.state.save(Position {
                        salts: index.salts,
                        frames: 0,
                        wal_inode,
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

    /// A database was put in the place of another one, whose WAL is still there. Whoever opens it, we included, has
    /// that WAL played into it.
    fn refuse_foreign_wal(&self) -> Result<(), Error> {
        let (path, wal_path) = (&self.path, beside(&self.path, "-wal"));
        let failed = |source| Error::Io {
            path: self.path.clone(),
            action: "look at",
            source,
        };
        let ids = (FileId::of(path), FileId::of(&wal_path));
        let (Some(database), Some(wal)) = (ids.0.map_err(failed)?, ids.1.map_err(failed)?) else {
            return Ok(());
        };
        let Some(position) = &self.state.position else {
            return Ok(());
        };
        if database.inode == position.inode || wal.inode != position.wal_inode {
            return Ok(());
        }
        let header = WalFile::open(self.disk.as_ref(), &wal_path).and_then(|wal| wal.header());
        if header.map_err(failed)?.map(|header| header.salts) != Some(position.salts) {
            return Ok(());
        }
        Err(Error::Unsupported {
            path: path.clone(),
            reason: format!(
                "another file was put in its place, and {wal} still has the last changes of the former one: SQLite \
                 plays them into whatever is there when it is opened. Stop the application, delete {shm} and {wal}, \
                 and put the file there again if anybody has opened it since; it is tried again",
                wal = wal_path.display(),
                shm = beside(path, "-shm").display()
            ),
        })
    }

    /// Lets go of the database. The WAL stays as it is.
    pub(crate) fn detach(&mut self) {
        self.images.clear();
        if let Some(attached) = self.attached.take() {
            self.former.push([attached.id, attached.shm_id]);
        }
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
        capture::{Due, scene::Scene},
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
            wal_inode: 8,
            table: Some(TableSums::default()),
            boot: 9,
            tips: Tips::default(),
        }
    }

    /// The three rows of the resume matrix, and what leads to each.
    #[test]
    fn a_restart_uploads_no_more_than_can_be_proven_to_be_needed() {
        type Change = fn(&mut Option<Position>, &mut StartFacts<'static>);
        const RESTARTED: Resume = Resume::Refused(Refusal::Restarted);
        let cases: [(Change, &str); 9] = [
            (|_, _| {}, "resume"),
            (|_, f| f.table = false, "resume"), // the table is rebuilt beside
            (|_, f| f.resume = Resume::AfterReset, "resume"),
            (|_, f| f.resume = RESTARTED, "rebase"),
            // An empty WAL, then and now: the application may have come and gone in between.
            (|_, f| f.resume = Resume::Refused(Refusal::Empty), "rebase"),
            (
                |_, f| f.resume = Resume::Refused(Refusal::FrameGone),
                "rebase",
            ),
            (
                |_, f| (f.resume, f.inode) = (Resume::AfterReset, 8),
                "rebase",
            ),
            (|_, f| (f.resume, f.table) = (RESTARTED, false), "snapshot"),
            (|p, _| *p = None, "snapshot"),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let (mut position, mut facts) = (Some(position()), facts());
            change(&mut position, &mut facts);
            let start = plan_start(&StartFacts {
                position: position.as_ref(),
                ..facts
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
        let start = plan_start(&StartFacts {
            position: Some(&position()),
            page_size: PageSize::new(8_192).unwrap(),
            ..facts()
        });
        assert!(matches!(start, Start::Snapshot(_)));
    }

    /// A power cut may take a captured frame that was not synced and leave the last one: what is
    /// committed in its place, backfilled and reset over is not captured.
    #[test]
    fn a_reset_is_followed_only_as_long_as_the_machine_runs() {
        for (rebooted, expected) in [(0, "resumed"), (1, "snapshot")] {
            let mut scene = Scene::new();
            let (conn, capture) = (&scene.conn, &mut scene.capture);
            let run = |sql| conn.execute_batch(sql).unwrap();
            run("INSERT INTO t VALUES (zeroblob(50000))");
            capture.step(Due::Now).unwrap();
            capture.detach();
            run("PRAGMA wal_checkpoint; INSERT INTO t VALUES (1)");
            capture.state.position.as_mut().unwrap().boot ^= rebooted;
            let found = match capture.attach().unwrap() {
                AttachOutcome::Resumed => "resumed",
                AttachOutcome::NeedsSnapshot { .. } => "snapshot", // there is no page table
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected);
        }
    }

    fn facts() -> StartFacts<'static> {
        StartFacts {
            position: None,
            table: true,
            page_size: PageSize::new(4_096).unwrap(),
            inode: 7,
            resume: Resume::Here,
        }
    }
}
