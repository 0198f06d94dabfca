//! Torture: several processes and an application write to one database in every way SQLite offers,
//! the backup is killed with SIGKILL every few seconds and started again, and at the end the
//! official restore and ours must give the source, row for row and page for page.
//!
//! Everything random is drawn from one seed, which is printed. What the scheduler does is not, so a
//! seed repeats the work and not the interleaving.

// Watches and damages files from outside; no process here has the database open.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

mod backup;
mod fault;
mod other_sqlite;
mod replica;
mod run;
mod tally;
mod verdict;
mod wal;

pub use backup::{Form, Subject};
pub use fault::Fault;
pub use other_sqlite::OtherSqliteTally;
pub use run::{Options, torture};
pub use tally::Tally;
pub use verdict::Verdict;
