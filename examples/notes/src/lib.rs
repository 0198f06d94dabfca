//! Notes: a web application small enough to read, whose SQLite database is backed up from inside it.
//!
//! What a user of Evertide writes is in three places: `main.rs` (load the settings, add the daemon, run),
//! [`Notes::open`] (the recommended pragmas) and the handler that saves a note in `web.rs` (answer only
//! when the commit is on every replica). The rest is an ordinary axum and rusqlite application.

mod notes;
mod page;
mod web;

pub use notes::{Note, Notes};
pub use web::router;
