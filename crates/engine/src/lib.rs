//! Continuous backup of SQLite databases from inside the application that owns them.

mod capture;
mod database;
mod error;
mod options;
mod replica;
mod replication;
mod restore;
mod runtime;
mod state;
mod status;
mod wal;
mod watch;

pub use self::{
    error::Error,
    options::{
        CONFIG_SCOPE, Durability, RECOMMENDED_PRAGMAS, ReplicaOptions, ReplicationOptions,
        recommended_pragmas,
    },
    replication::{Replication, ReplicationBuilder},
    restore::{
        ExistingOutput, IntegrityCheck, RestoreError, RestoreOptions, RestorePlan, RestoreProgress,
        RestoreReport, RestoreStage, RestoreTarget, restore, restore_plan,
    },
    status::{DatabaseState, DatabaseStatus, ReplicaStatus},
};
