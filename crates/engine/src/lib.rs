//! Continuous backup of SQLite databases from inside the application that owns them.

mod capture;
mod database;
mod error;
mod options;
mod replica;
mod replication;
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
    status::{DatabaseState, DatabaseStatus, ReplicaStatus},
};
