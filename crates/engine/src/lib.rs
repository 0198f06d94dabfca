//! Continuous backup of SQLite databases from inside the application that owns them.

mod capture;
mod error;
mod options;
mod state;
mod status;
mod wal;

pub use self::{
    error::Error,
    options::{
        CONFIG_SCOPE, Durability, RECOMMENDED_PRAGMAS, ReplicaOptions, ReplicationOptions,
        recommended_pragmas,
    },
    status::{DatabaseState, DatabaseStatus, ReplicaStatus},
};
