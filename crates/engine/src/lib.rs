//! Continuous backup of SQLite databases from inside the application that owns them.
//!
//! Every commit is copied out of the write-ahead log as it happens and sent to one or more replicas
//! in the format of Litestream, whose official program restores what this crate wrote and the
//! other way round. The database itself is never written to: no table, no page, no WAL frame.
//!
//! ```
//! use std::time::Duration;
//!
//! use evertide::{
//!     Destination, Durability, ReplicaOptions, Replication, RestoreOptions, restore,
//! };
//! use evertide_storage::OsDisk;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let folder = tempfile::tempdir()?;
//! # let (database, output) = (folder.path().join("app.db"), folder.path().join("restored.db"));
//! // Your application's own connection, with whatever driver it uses.
//! let app = rusqlite::Connection::open(&database)?;
//! app.execute_batch("PRAGMA journal_mode = WAL")?;
//! app.execute_batch(&evertide::recommended_pragmas())?;
//! app.execute_batch("CREATE TABLE notes (text)")?;
//!
//! let destination = Destination::file(folder.path().join("replica"))?;
//! let backup = Replication::builder(&database)
//!     .replica(ReplicaOptions::new("local", destination.clone()))
//!     .build()?;
//! backup.start().await?;
//!
//! app.execute("INSERT INTO notes VALUES ('kept')", [])?;
//! backup.wait_durable(Durability::All).await?; // this commit is on every replica
//! backup.stop(Duration::from_secs(10)).await?;
//!
//! let replica = destination.connect(std::sync::Arc::new(OsDisk))?;
//! restore(RestoreOptions::new(replica, &output)).await?;
//! let restored = rusqlite::Connection::open(&output)?;
//! let text: String = restored.query_row("SELECT text FROM notes", [], |row| row.get(0))?;
//! assert_eq!(text, "kept");
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # In the application's process
//!
//! - One engine thread, and up to eight helper threads while there is work, serve all databases of a
//!   process. Futures can be awaited on any executor; no runtime is needed.
//! - The crate uses `rusqlite` without its feature `bundled`, in a range of versions, so that the SQLite
//!   of the application is used. An application without one adds `rusqlite` with `bundled`.
//! - Never open and close the database file by hand (`std::fs::read`, `File::open`) in a process that
//!   has it open through SQLite: on Unix any close drops all locks of the process. This crate never does.
//!
//! What happens when the database is replaced, deleted, vacuumed, or changed while nobody watched is in
//! `docs/capture.md`; how no frame is ever lost is in `docs/protocol.md`.

mod backoff;
mod capture;
mod database;
mod directories;
mod drill;
mod error;
mod failing;
mod follow;
mod options;
mod replica;
mod replication;
mod restore;
mod runtime;
#[cfg(test)]
mod simulation;
mod state;
mod status;
mod verify;
mod wal;
mod watch;

pub use evertide_ltx::Txid;
pub use evertide_storage::Destination;

pub use self::{
    directories::{DirectoryWatch, is_database},
    error::Error,
    follow::{FollowError, FollowEvent, FollowOptions, FollowReport, follow},
    options::{
        CONFIG_SCOPE, Durability, RECOMMENDED_PRAGMAS, ReplicaOptions, ReplicationOptions,
        RetentionTier, recommended_pragmas,
    },
    replica::{Maintained, Maintenance},
    replication::{Replication, ReplicationBuilder},
    restore::{
        ExistingOutput, IntegrityCheck, RestoreError, RestoreOptions, RestorePlan, RestoreProgress,
        RestoreReport, RestoreStage, RestoreTarget, restore, restore_plan,
    },
    status::{
        DatabaseState, DatabaseStatus, DrillFailure, DrillFailureKind, DrillProof, DrillStatus,
        ReplicaStatus,
    },
    verify::{
        Finding, FindingKind, ProvenRestore, Severity, VerifiedV3, VerifyDepth, VerifyError,
        VerifyOptions, VerifyProgress, VerifyReport, VerifyStage, verify,
    },
};
