//! Real programs, databases and writers for the tests of Evertide.
//!
//! Nothing here is a mock but the server that answers as Alibaba's OSS is documented to, for want of a real one: the official Litestream binaries are installed into the checkout's
//! `.cache` folder on first use, writers are threads or processes that use SQLite as applications
//! do, and two databases are compared row for row and page for page.
//!
//! ```no_run
//! use evertide_testkit::{Writer, WriterOptions, assert_same_database, restore_with_litestream};
//!
//! let dir = evertide_testkit::temp_dir();
//! let source = dir.path().join("app.db");
//! let mut writer = Writer::open(&source, WriterOptions::seeded(7)).expect("a new database");
//! writer.run_steps(100).expect("no error but SQLITE_BUSY");
//! // … replicate into dir/replica …
//! let restored = dir.path().join("restored.db");
//! restore_with_litestream(dir.path().join("replica"), &restored);
//! assert_same_database(&source, &restored);
//! ```
//!
//! What cannot run is a failure that names the command which would mend it; nothing is skipped.

// The product's rule that files go through the `Disk` of evertide-storage exists so that tests can
// fail and tear them. This crate is the tests.
#![allow(clippy::disallowed_methods)]

mod checkout;
mod compare;
mod errors;
mod fuzz;
mod metrics;
#[cfg(feature = "oss")]
mod oss;
mod planted;
mod process;
mod programs;
mod proxy;
mod serve;
mod small_disk;
mod traced;
mod workload;

pub use checkout::{
    cache_dir, checkout_root, free_port, memory_dir, temp_dir, wait_until, workspace_program,
};
pub use compare::{CompareError, Comparison, Difference, assert_same_database, compare_databases};
pub use errors::error_with_causes;
pub use fuzz::{Fuzz, FuzzReport, Input, mutate, phrase, seed, variant};
pub use metrics::Metrics;
#[cfg(feature = "oss")]
pub use oss::OssServer;
pub use planted::{QuotingServer, planted_secret};
pub use process::{
    ChildProcess, another_process_can_truncate, another_process_can_write,
    another_process_finds_a_lock_of, another_process_finds_it_open, another_process_finds_locked,
    another_process_finds_locks_of, has_posix_lock,
};
pub use programs::{
    Authority, AzureServer, GcsServer, GoogleHosts, InstallError, NatsServer, RestoreError, S3Kind,
    S3Server, SftpKind, SftpServer, StsServer, WebdavKind, WebdavServer, age, age_keygen,
    install_age, install_azurite, install_fake_gcs, install_faketime, install_litestream,
    install_litestream_v3, install_ministack, install_nats, install_openssh, install_rclone,
    install_wsgidav, litestream, litestream_command, litestream_v3, litestream_v3_command,
    replica_url, restore_with_litestream, try_restore_with_litestream, with_clock,
};
pub use proxy::{Answered, Fault, FaultProxy, Road, Way, Weather, WireProxy};
pub use small_disk::{Filler, with_small_disk};
pub use tempfile::TempDir;
pub use traced::{Action, Call, Change, Traced, wait_to_be_traced};
pub use workload::{
    AutoVacuum, Checkpoint, DatabaseOptions, Operation, Stop, Writer, WriterError, WriterOptions,
    WriterProcess, WriterReport, WriterThread, create_database, entries_ever, run_writer_process,
    sqlite_version,
};
