//! What replication of a database is doing, as plain data.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use evertide_storage::Requests;

use crate::Maintained;

/// What replication of one database is doing.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct DatabaseStatus {
    /// The database.
    pub path: PathBuf,
    /// In short.
    pub state: DatabaseState,
    /// The newest captured transaction; zero before the first.
    pub txid: Txid,
    /// When it was captured.
    pub captured: Option<SystemTime>,
    /// Size of the database in pages.
    pub pages: u32,
    /// Size of a page in bytes, 0 while unknown.
    pub page_size: u32,
    /// Frames in the WAL when it was last looked at.
    pub wal_frames: u32,
    /// How often the WAL started over since the start.
    pub rotations: u64,
    /// How often continuity could not be proven and the difference was uploaded instead.
    pub rebases: u64,
    /// Why the last time.
    pub last_rebase: Option<String>,
    /// How often writers were held to let the WAL start over. Who does not wait for a lock can be told
    /// "busy" once each time.
    pub write_holds: u64,
    /// The longest time writers were held to let the WAL start over.
    pub longest_write_hold: Duration,
    /// The most frames that were copied while writers were held, to the database or to be uploaded.
    pub most_frames_in_write_hold: u32,
    /// How often checkpoints of the application were held off for a moment, since it writes fast and
    /// would run one in each commit. With `wal_autocheckpoint = 0` it is never needed.
    pub brakes: u64,
    /// What is wrong with capture, while something is.
    pub error: Option<String>,
    /// Since when.
    pub failing_since: Option<SystemTime>,
    /// Each replica, in the order of the settings.
    pub replicas: Vec<ReplicaStatus>,
}

impl DatabaseStatus {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: DatabaseState::Stopped,
            txid: Txid::ZERO,
            captured: None,
            pages: 0,
            page_size: 0,
            wal_frames: 0,
            rotations: 0,
            rebases: 0,
            last_rebase: None,
            write_holds: 0,
            longest_write_hold: Duration::ZERO,
            most_frames_in_write_hold: 0,
            brakes: 0,
            error: None,
            failing_since: None,
            replicas: Vec::new(),
        }
    }
}

/// The state of a replicated database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DatabaseState {
    /// Not started, or stopped.
    Stopped,
    /// There is no database at the path yet, or no longer.
    Waiting,
    /// Every commit is captured.
    Running,
    /// Capture does not work; `error` says why. It is tried again.
    Failing,
}

/// What one replica of a database is doing.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ReplicaStatus {
    /// Its name in the settings.
    pub name: String,
    /// Where it is, without secrets.
    pub location: String,
    /// The newest transaction it has; zero before the first.
    pub txid: Txid,
    /// When that arrived there.
    pub synced: Option<SystemTime>,
    /// From capture to arrival, of the last upload.
    pub lag: Option<Duration>,
    /// Objects put since the start.
    pub uploads: u64,
    /// Bytes put since the start.
    pub uploaded_bytes: u64,
    /// Whole databases among them.
    pub snapshots: u64,
    /// Files among them with the pages that changed while the replica was away for so long that what
    /// was captured for it could not be kept.
    pub catch_ups: u64,
    /// Requests made there since the start; none is made while there is nothing to do. They are no news
    /// for those who wait for the status to change.
    pub requests: Requests,
    /// What compaction, snapshots at intervals and retention have done since the start.
    pub maintained: Maintained,
    /// What is wrong with those, while something is. Uploads go on.
    pub maintenance_error: Option<String>,
    /// Since when.
    pub maintenance_failing_since: Option<SystemTime>,
    /// Whether it can be restored, as far as drills have tried.
    pub drill: DrillStatus,
    /// What is wrong, while something is.
    pub error: Option<String>,
    /// Since when.
    pub failing_since: Option<SystemTime>,
    /// Whether `error` is that it may not be written to: by somebody else's lease or history.
    pub(crate) refused: bool,
    /// Up to which transaction no compaction will want captured files from local disk.
    pub(crate) merged: Txid,
}

impl ReplicaStatus {
    pub(crate) fn new(name: String, location: String, merged: Txid) -> Self {
        Self {
            name,
            location,
            merged,
            txid: Txid::ZERO,
            synced: None,
            lag: None,
            uploads: 0,
            uploaded_bytes: 0,
            snapshots: 0,
            catch_ups: 0,
            requests: Requests::default(),
            maintained: Maintained::default(),
            maintenance_error: None,
            maintenance_failing_since: None,
            drill: DrillStatus::default(),
            error: None,
            failing_since: None,
            refused: false,
        }
    }
}

/// What drills have found out about a replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DrillStatus {
    /// The state that the last drill with a good end has restored, this start or before; `None` where
    /// there was none.
    pub proven: Option<DrillProof>,
    /// What is wrong, while the last drill has come to no good end.
    pub failure: Option<DrillFailure>,
    /// Whether one is under way.
    pub running: bool,
    /// Drills with a good end since the start.
    pub proofs: u64,
    /// Drills without one since the start.
    pub failures: u64,
}

/// A state that was restored, in which SQLite found nothing wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DrillProof {
    /// Its transaction.
    pub txid: Txid,
    /// When that was captured.
    pub captured: SystemTime,
    /// When it was proven.
    pub at: SystemTime,
    /// The size of the database, in bytes.
    pub database_bytes: u64,
    /// Its checksum, as read back from disk.
    pub database_checksum: u64,
    /// Whether that was compared with the one recorded at capture. There is none for what was captured
    /// by somebody else, or just before a crash.
    pub compared: bool,
}

/// A drill that came to no good end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DrillFailure {
    /// What it means.
    pub kind: DrillFailureKind,
    /// What is wrong, and what to do.
    pub problem: String,
    /// When the last drill failed.
    pub at: SystemTime,
    /// Since when drills fail.
    pub since: SystemTime,
}

/// What a failed drill means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DrillFailureKind {
    /// The newest state cannot be restored from the replica, or is not what was captured.
    Unsound,
    /// It could not be tried to the end: the replica cannot be reached, there is no room, or the like.
    Unfinished,
    /// It was given up when it had taken as long as it may: the store does not answer or is slow, or
    /// the database is large.
    Overdue,
}
