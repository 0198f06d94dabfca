//! Writers that use SQLite as applications do, and worse.
//!
//! One [`Writer`] is one connection that performs operations drawn from a seed: rows of growing
//! sizes, updates, deletes, huge transactions and their rollback, VACUUM, tables dropped and
//! created, long readers, reconnects, checkpoints of all four kinds and auto-checkpoint on and off.
//! Alone, the same seed and number of steps give the same rows. Run it in place, as a thread
//! ([`WriterThread`]) or as a process of its own ([`WriterProcess`]).

mod create;
mod operation;
mod process;
mod thread;
mod writer;

pub use create::{AutoVacuum, DatabaseOptions, create_database, entries_ever, sqlite_version};
pub use operation::{Checkpoint, Operation};
pub use process::{WriterProcess, run_writer_process};
pub use thread::{Stop, WriterThread};
pub use writer::{Writer, WriterError, WriterOptions, WriterReport};
