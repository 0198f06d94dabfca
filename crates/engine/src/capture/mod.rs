//! Turning commits into LTX files: one [`Capture`] for one database.
//!
//! Everything here blocks, so it runs on a blocking thread. The order of writes is what makes a
//! kill at any moment harmless: the staged file first, then the position that covers it, then
//! the page table, which can be redone from the newest staged file. Uploads come after all that.

mod attach;
mod attached;
mod connect;
mod image;
#[cfg(test)]
mod lives;
mod pace;
#[cfg(test)]
mod scene;
mod segment;
mod table;
mod times;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Header, Txid};
use evertide_storage::{Clock, Disk};

pub(crate) use self::{
    attach::AttachOutcome,
    image::Image,
    table::{DiskReader, Tail, changes_of},
    times::YEAR_2020,
};
use self::{
    attached::Attached,
    pace::{Pace, SMALL_RESIDUE},
};
use crate::{
    Error,
    state::{LocalState, Position},
    verify::Content,
    wal::{
        Cursor, IndexHeader, ScanError, WriteHold, beside,
        descriptors::{self, FileId},
        protocol::{Action, Facts, Tried, next},
    },
};

/// How often backfilling is tried while writers are held, half a millisecond apart.
const CHECKPOINTS_IN_HOLD: u32 = 20;
/// A checkpoint that waits for the brake does so for this long at most.
const LONGEST_BRAKE: Duration = Duration::from_millis(5);
/// How long the write lock is asked for without a pause.
const PATIENCE: Duration = Duration::from_millis(2);

/// When WALs are made to start over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RotationPolicy {
    /// From this many frames on it is tried.
    rotate_at: u32,
    /// From more under a fast writer.
    paced: bool,
}

impl Default for RotationPolicy {
    /// SQLite's own threshold for automatic checkpoints.
    fn default() -> Self {
        Self {
            rotate_at: 1_000,
            paced: true,
        }
    }
}

impl RotationPolicy {
    /// At so many frames, whatever the writers do.
    pub(crate) fn fixed(frames: u32) -> Self {
        Self {
            rotate_at: frames.max(1),
            paced: false,
        }
    }

    fn rotate_at(&self, pace: &Pace, index: &IndexHeader) -> u32 {
        match self.paced {
            true => pace.rotate_at(self.rotate_at, index),
            false => self.rotate_at,
        }
    }

    /// From how many frames on writers may be held while the last frames are backfilled: the fewer
    /// those are, the sooner.
    fn insist_at(&self, rotate_at: u32, index: &IndexHeader) -> u32 {
        let factor = match index.unbackfilled() {
            0..=SMALL_RESIDUE => 1,
            left if left <= self.rotate_at => 4,
            _ => 16,
        };
        self.rotate_at.saturating_mul(factor).max(rotate_at)
    }
}

/// Why capture cannot go on as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    /// It cannot be proven that nothing was missed: attach anew and compare all pages.
    #[error("{0}")]
    Discontinuity(String),
    /// Something failed; it may work later.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Whether a step may capture, or leaves small changes until the sync interval has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Capture whatever is there.
    Now,
    /// Capture only what somebody waits for.
    Later,
    /// Capture, and let even a small WAL be backfilled and start over.
    NowAndCheckpoint,
}

/// What a step left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StepOutcome {
    /// Committed frames were left for later.
    pub(crate) pending: bool,
    /// A transaction was under way, which may be the one that the notice was about.
    pub(crate) writing: bool,
    /// Everything that was committed when the step began is captured.
    pub(crate) complete: bool,
    /// A checkpoint was under way, or a lock could not be had: look again soon.
    pub(crate) busy: bool,
    /// Look again after this time, whether or not something is noticed: the WAL will be so full that
    /// it is wanted to start over, is approached round by round, or somebody may wait for the brake.
    pub(crate) look_in: Option<Duration>,
}

/// Counts for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct CaptureStats {
    pub(crate) wal_frames: u32,
    pub(crate) backfilled: u32,
    pub(crate) rotations: u64,
    pub(crate) rebases: u64,
    pub(crate) last_rebase: Option<String>,
    pub(crate) write_holds: u64,
    pub(crate) longest_write_hold: Duration,
    pub(crate) most_frames_in_write_hold: u32,
    pub(crate) brakes: u64,
    pub(crate) captured: Option<SystemTime>,
}

/// Capture of one database.
#[derive(Debug)]
pub(crate) struct Capture {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    policy: RotationPolicy,
    pub(crate) state: LocalState,
    attached: Option<Attached>,
    /// Database and wal-index of before it was detached.
    former: Vec<[FileId; 2]>,
    /// New transactions get IDs above this.
    floor: Txid,
    /// Transactions of the images being read: staged files after them are still needed.
    images: Vec<Txid>,
    /// How fast the WAL grows, and who checkpoints it.
    pace: Pace,
    /// Of what was captured last, in milliseconds since the epoch.
    last_timestamp: i64,
    /// What the database was when all of it was read last.
    pub(crate) begun: Option<Content>,
    pub(crate) stats: CaptureStats,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.detach();
        self.former.drain(..).for_each(descriptors::let_go);
    }
}

impl Capture {
    /// Capture of the database at `path`, with its local state, not attached yet.
    pub(crate) fn new(
        path: PathBuf,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        policy: RotationPolicy,
    ) -> Result<Self, Error> {
        let state = LocalState::open(disk.as_ref(), &path)?;
        let mut capture = Self {
            path,
            disk,
            clock,
            policy,
            state,
            attached: None,
            former: Vec::new(),
            floor: Txid::ZERO,
            images: Vec::new(),
            pace: Pace::default(),
            last_timestamp: 0,
            begun: None,
            stats: CaptureStats::default(),
        };
        if let Some(position) = capture.state.position {
            capture.last_timestamp = position.timestamp_ms;
        }
        capture.check_staged()?;
        capture.redo_table()?;
        Ok(capture)
    }

    /// Where capture stands; `None` before the first snapshot.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.state.position.as_ref()
    }

    /// The newest transaction, or the one that the first snapshot will be of.
    pub(crate) fn goal(&self) -> Txid {
        self.position()
            .map_or(self.floor.next(), |position| position.txid)
    }

    /// Whether the database is open and its WAL is held.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// Whether every page's checksum is known.
    pub(crate) fn has_table(&self) -> bool {
        self.state.table.is_some()
    }

    /// Makes the next transaction's ID larger than `txid`.
    pub(crate) fn raise_floor(&mut self, txid: Txid) {
        self.floor = self.floor.max(txid);
    }

    /// Removes staged files that every replica has, up to `had`. Those after `merged` are kept for
    /// their compaction, as long as that costs little.
    pub(crate) fn release_staged(&mut self, had: Txid, merged: Txid) -> Result<(), Error> {
        let needed = self.images.iter().copied().min().unwrap_or(Txid::MAX);
        let disk = Arc::clone(&self.disk);
        let stage = &mut self.state.stage;
        let superfluous = had.min(merged.max(stage.beyond_affordable(had)));
        stage
            .release(disk.as_ref(), superfluous.min(needed))
            .map_err(self.state.failed("clean"))
    }

    /// Removes the oldest staged files until at most `bytes` are left. What changed in them stays
    /// known in the page table, if there is one; while it is being made they are needed for it.
    pub(crate) fn shrink_stage(&mut self, bytes: u64) -> Result<Option<Txid>, Error> {
        if !self.images.is_empty() && !self.has_table() {
            return Ok(None);
        }
        let disk = Arc::clone(&self.disk);
        self.state
            .stage
            .shrink(disk.as_ref(), bytes)
            .map_err(self.state.failed("clean"))
    }

    /// Captures and moves the locks as the protocol says, until there is nothing to do.
    pub(crate) fn step(&mut self, due: Due) -> Result<StepOutcome, CaptureError> {
        let wanted = self.attached_mut()?.read_index()?;
        self.pace.look(self.clock.uptime(), &wanted);
        let rotate_at = match due {
            Due::NowAndCheckpoint => 1,
            Due::Now | Due::Later => self.policy.rotate_at(&self.pace, &wanted),
        };
        let mut tried = Tried::Nothing;
        let mut hold: Option<WriteHold> = None;
        let (mut caught_up, mut unfinished) = (false, false);
        let mut nearing = false;
        loop {
            let index = self.follow_generation()?;
            if !self.images.is_empty() {
                // Both locks stay while an image is read; frames are captured all the same.
                let behind = self.captured_frames() < index.committed;
                if behind && due != Due::Later && !caught_up {
                    self.capture_segment(&index)?;
                    caught_up = true;
                    continue;
                }
                break;
            }
            let policy = self.policy;
            let brake = self.pace.brake(policy.rotate_at);
            let hold_again_at = self.pace.hold_again_at(&index);
            let captured = self.captured_frames();
            let attached = self.attached_mut()?;
            let facts = Facts {
                held: attached.held(),
                captured,
                committed: index.committed,
                backfilled: index.backfilled,
                stale_checkpointer: attached.reset_seen,
                due: due != Due::Later,
                caught_up,
                braked: attached.brake.is_some(),
                brake: brake && !attached.checkpoint_holds_writers()?,
                rotate_at,
                insist_at: policy.insist_at(rotate_at, &index).max(hold_again_at),
                tried,
            };
            let action = next(&facts);
            if action != Action::Rest {
                // Before it is done: whoever looks for what a process did last finds it here.
                tracing::trace!(database = %self.path.display(), step = ?action, "capture");
            }
            match action {
                Action::Capture => {
                    self.capture_segment(&index)?;
                    caught_up = true;
                }
                Action::Checkpoint => {
                    let left = self.checkpoint()?;
                    nearing = self.pace.nearing(&index, &left, captured);
                    if nearing {
                        break; // the next step is another round
                    }
                    tried = Tried::Checkpoint;
                }
                Action::Insist => {
                    self.prepare_hold()?;
                    hold = self.hold_writers()?;
                    unfinished |= hold.is_none();
                    tried = Tried::Insisting;
                }
                Action::Rest => break,
                // Without it the application is slower, and nothing else.
                Action::TakeBrake if !self.attached_mut()?.change_lock(action)? => break,
                Action::TakeBrake => self.stats.brakes += 1,
                lock => {
                    unfinished = !self.attached_mut()?.change_lock(lock)?;
                    if unfinished {
                        // A checkpoint may not end for long, and under both locks frames can be captured all the same.
                        let awaits = lock == Action::AwaitCheckpointer;
                        if awaits && captured < index.committed && due != Due::Later {
                            self.capture_segment(&index)?;
                        }
                        break;
                    }
                }
            }
        }
        if let Some(hold) = hold {
            self.release_writers(hold);
        }
        let attached = self.attached_mut()?;
        let braked = attached.brake.as_ref().map(|_| LONGEST_BRAKE);
        let another_round = nearing.then_some(Duration::ZERO);
        // The order matters: a commit that came before the lock was seen free is in the index now.
        let (writing, checkpointing) = attached.is_busy()?;
        let index = attached.read_index()?;
        let pending = self.state.position.is_some_and(|position| {
            index.salts != position.salts || position.frames < index.committed
        });
        self.stats.wal_frames = index.committed;
        self.stats.backfilled = index.backfilled;
        let complete = self.state.position.is_none_or(|position| {
            // Another generation begins only when all of the one before is captured.
            position.salts != wanted.salts || position.frames >= wanted.committed
        });
        Ok(StepOutcome {
            pending,
            writing,
            complete,
            busy: checkpointing || unfinished,
            look_in: [braked, another_round, self.pace.time_until(rotate_at)]
                .into_iter()
                .flatten()
                .min(),
        })
    }

    /// Reads the wal-index and follows it into a new generation, where that is legal.
    fn follow_generation(&mut self) -> Result<IndexHeader, CaptureError> {
        let attached = self.attached_mut()?;
        let index = attached.read_index()?;
        let reset_possible = !attached.pinned_at_read;
        attached.pinned_at_read = attached.pin.is_some();
        let Some(position) = self.state.position.as_mut() else {
            return Ok(index);
        };
        if index.salts != position.salts {
            // The first writer of an empty WAL draws new salts, and needs no reset for it.
            if !reset_possible && position.frames > 0 {
                let what = "the WAL was reset although it was pinned";
                return Err(CaptureError::Discontinuity(what.into()));
            }
            position.salts = index.salts;
            position.frames = 0;
            self.stats.rotations += 1;
            self.attached_mut()?.reset_seen = true;
        } else if index.committed == position.frames
            && position.frames > 0
            && index.checksum != position.checksum
        {
            let what = "the last captured frame is not the last committed one any more";
            return Err(CaptureError::Discontinuity(what.into()));
        } else if index.committed < position.frames {
            let what = format!(
                "the WAL has {} committed frames where {} were captured",
                index.committed, position.frames
            );
            return Err(CaptureError::Discontinuity(what));
        }
        if index.page_size != self.page_size(&index) {
            return Err(CaptureError::Discontinuity("the page size changed".into()));
        }
        Ok(index)
    }

    /// Backfills what can be backfilled without waiting for anybody.
    fn checkpoint(&mut self) -> Result<IndexHeader, CaptureError> {
        let index = self.attached_mut()?.checkpoint()?;
        self.pace.checkpointed(&index);
        Ok(index)
    }

    /// Does what writers need not be held for: what is captured and durable already is not waited for later.
    fn prepare_hold(&mut self) -> Result<(), CaptureError> {
        self.attached_mut()?.sync_database();
        let index = self.follow_generation()?;
        if index.committed.saturating_sub(self.captured_frames()) > SMALL_RESIDUE {
            self.capture_segment(&index)?;
        }
        self.attached_mut()?.sync_wal();
        Ok(())
    }

    /// Holds writers and backfills the rest, unless they cannot be held for now.
    fn hold_writers(&mut self) -> Result<Option<WriteHold>, CaptureError> {
        let attached = self.attached_mut()?;
        let hold = attached.index.hold_writers(PATIENCE);
        let Some(hold) = hold.map_err(attached.shm_failed())? else {
            return Ok(None);
        };
        let before = attached.read_index()?;
        self.stats.write_holds += 1;
        // The application may be in the middle of a checkpoint of its own, which ends by itself.
        let mut after = before;
        for _ in 0..CHECKPOINTS_IN_HOLD {
            after = self.checkpoint()?;
            if after.unbackfilled() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        self.pace.held(&after);
        // What is not captured yet will be before they go on.
        let frames =
            before.unbackfilled() + before.committed.saturating_sub(self.captured_frames());
        self.stats.most_frames_in_write_hold = self.stats.most_frames_in_write_hold.max(frames);
        Ok(Some(hold))
    }

    fn release_writers(&mut self, hold: WriteHold) {
        self.stats.longest_write_hold = self.stats.longest_write_hold.max(hold.since.elapsed());
        drop(hold);
    }

    fn attached_mut(&mut self) -> Result<&mut Attached, Error> {
        self.attached
            .as_mut()
            .ok_or_else(|| Error::NoDatabase(self.path.clone()))
    }

    fn captured_frames(&self) -> u32 {
        // Before the first snapshot there is nothing to continue, so nothing is ever behind.
        self.state
            .position
            .as_ref()
            .map_or(u32::MAX, |position| position.frames)
    }

    fn page_size(&self, index: &IndexHeader) -> evertide_ltx::PageSize {
        self.state
            .position
            .as_ref()
            .map_or(index.page_size, |position| position.page_size)
    }

    fn cursor(&self) -> Cursor {
        self.state
            .position
            .as_ref()
            .map_or_else(Cursor::default, |position| Cursor {
                frames: position.frames,
                checksum: position.checksum,
            })
    }

    /// The transactions of the next file.
    fn next_txids(&self) -> (Txid, Txid) {
        let min = self
            .state
            .position
            .as_ref()
            .map_or(Txid::ZERO, |p| p.txid)
            .next();
        (min, min.max(self.floor.next()))
    }

    /// Milliseconds since the epoch, never less than the time before where that may have been right.
    fn timestamp(&mut self) -> i64 {
        let now = self
            .clock
            .now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let last = self.last_timestamp;
        self.last_timestamp = times::timestamp(last, now.as_millis() as i64);
        if self.last_timestamp < last {
            tracing::warn!(
                database = %self.path.display(), seconds = (last - self.last_timestamp) / 1_000,
                "the clock was set back; what was captured before has a time that was yet to come"
            );
        }
        self.last_timestamp
    }

    fn broken(&self, error: ScanError) -> CaptureError {
        match error {
            ScanError::Broken(what) => CaptureError::Discontinuity(what),
            ScanError::Io(source) => CaptureError::Failed(Error::Io {
                path: beside(&self.path, "-wal"),
                action: "read",
                source,
            }),
        }
    }
}

/// When a file's last transaction was captured, from its header.
pub(crate) fn created(header: &Header) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(header.timestamp_ms.max(0) as u64)
}
