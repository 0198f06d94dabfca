//! How far a restore is.

use std::{fmt, sync::Arc};

use super::plan::RestorePlan;

/// What a restore is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RestoreStage {
    /// Reading files and writing pages.
    Applying,
    /// Making the database durable.
    Syncing,
    /// SQLite checks the database.
    Checking,
}

/// How far a restore is. The totals are those of the plan, and change only where files vanish
/// meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RestoreProgress {
    /// What it is doing.
    pub stage: RestoreStage,
    /// Files applied.
    pub files: u64,
    /// Files of the plan.
    pub total_files: u64,
    /// Bytes of them read.
    pub bytes: u64,
    /// Bytes of the plan.
    pub total_bytes: u64,
    /// Pages written.
    pub pages: u64,
}

/// Who is told.
pub(super) type Observer = Arc<dyn Fn(&RestoreProgress) + Send + Sync>;

/// Counts, and tells the observer.
pub(super) struct Meter {
    now: RestoreProgress,
    /// Bytes of the files before the current one.
    before: u64,
    observer: Option<Observer>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.now).finish()
    }
}

impl Meter {
    pub(super) fn new(plan: &RestorePlan, observer: Option<Observer>) -> Self {
        let now = RestoreProgress {
            stage: RestoreStage::Applying,
            files: 0,
            total_files: plan.file_count(),
            bytes: 0,
            total_bytes: plan.bytes(),
            pages: 0,
        };
        let meter = Self {
            now,
            before: 0,
            observer,
        };
        meter.tell();
        meter
    }

    pub(super) fn now(&self) -> RestoreProgress {
        self.now
    }

    fn tell(&self) {
        if let Some(observer) = &self.observer {
            observer(&self.now);
        }
    }

    /// The current file has been read up to `offset`, and so many more pages are written.
    pub(super) fn advance(&mut self, offset: u64, pages: u64) {
        self.now.bytes = self.before + offset;
        self.now.pages += pages;
        self.tell();
    }

    pub(super) fn file_done(&mut self, size: u64) {
        self.before += size;
        self.now.bytes = self.before;
        self.now.files += 1;
        self.tell();
    }

    pub(super) fn stage(&mut self, stage: RestoreStage) {
        self.now.stage = stage;
        self.tell();
    }
}
