//! How far a verification is.

use std::{fmt, sync::Arc};

/// What a verification is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VerifyStage {
    /// Reading every file of the replica.
    Reading,
    /// Restoring the newest state.
    Restoring,
    /// SQLite checks what was restored.
    Checking,
}

/// How far a verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// What it is doing.
    pub stage: VerifyStage,
    /// Bytes read in this stage.
    pub bytes: u64,
    /// Bytes to be read in this stage.
    pub total_bytes: u64,
}

/// Who is told.
#[derive(Clone)]
pub(super) struct Observer(pub(super) Arc<dyn Fn(&VerifyProgress) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Counts what was read, and tells the observer.
#[derive(Debug)]
pub(super) struct Meter {
    now: VerifyProgress,
    observer: Option<Observer>,
}

impl Meter {
    pub(super) fn new(total_bytes: u64, observer: Option<Observer>) -> Self {
        let now = VerifyProgress {
            stage: VerifyStage::Reading,
            bytes: 0,
            total_bytes,
        };
        Self { now, observer }
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.now.bytes += bytes as u64;
        self.now.total_bytes = self.now.total_bytes.max(self.now.bytes);
        if let Some(Observer(tell)) = &self.observer {
            tell(&self.now);
        }
    }
}
