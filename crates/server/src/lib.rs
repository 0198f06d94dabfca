//! The runtime around an application that backs itself up: daemons from ordered start to orderly stop,
//! beside an axum router, with settings that reload.
//!
//! # Why
//!
//! A backup inside the application is worth something only if the process starts and ends in the right
//! order: the last commit of the last request has to be on the replicas before the process exits, also when
//! a client is slow, a daemon hangs, or somebody presses Ctrl-C twice. That order is this crate:
//!
//! 1. The address is bound, so that a taken one starts nothing. Clients are still refused.
//! 2. The daemons start, one after the other in the order they were added. If one fails, those already
//!    started are stopped in reverse order and [`Server::run`] returns the error that names it.
//! 3. Only now requests are served. SIGHUP (or [`ServerHandle::reload`]) has each daemon reload; one that
//!    refuses goes on as before, and says why.
//! 4. SIGTERM, SIGINT or [`ServerHandle::shut_down`] begin the shutdown. First HTTP is drained: new
//!    connections are refused, idle ones closed, requests in flight finish.
//! 5. Then the daemons stop in reverse order. What they need was added before them, and still runs.
//! 6. All of that has one deadline. What it cuts off is named in [`ServerError::Incomplete`].
//!
//! A second SIGTERM or SIGINT does what it does to a program without handlers: it ends the process at
//! once, and the log says what was left unfinished. This works even when every thread of the runtime is
//! blocked, and is why it is not an error of [`Server::run`]: nothing guarantees that a program that hangs
//! gets to return it.
//!
//! The daemon this is for is [`BackupDaemon`], whose [`settings`] come encrypted from the database itself;
//! the example application `examples/notes` shows it at work. Any other [`Daemon`] runs beside it.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use evertide_server::{Daemon, DaemonError, Server, async_trait};
//!
//! struct Backup;
//!
//! #[async_trait]
//! impl Daemon for Backup {
//!     fn name(&self) -> &str {
//!         "backup"
//!     }
//!     async fn start(&self) -> Result<(), DaemonError> {
//!         Ok(())
//!     }
//!     async fn stop(&self, _deadline: Duration) -> Result<(), DaemonError> {
//!         Ok(()) // whatever the last request committed is there
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evertide_server::ServerError> {
//! let server = Server::new(Router::new().route("/", get(|| async { "hello" })))
//!     .listen(([127, 0, 0, 1], 0)) // without this: 127.0.0.1:8080
//!     .add_daemon(Backup);
//! # let handle = server.handle();
//! # tokio::spawn(async move { handle.serving().await.map(|_| handle.shut_down()) });
//! server.run().await
//! # }
//! ```
//!
//! # What it does not do
//!
//! TLS and HTTP/2 (put a proxy in front), access logs and time limits for requests (they are tower layers
//! of the router). A websocket leaves HTTP when it is upgraded and is not waited for. Work that a handler
//! spawned and did not await is not waited for either: a commit that must be replicated belongs before the
//! response.

mod backup;
mod blueprint;
mod budget;
mod daemon;
mod error;
mod fleet;
mod handle;
mod http;
mod server;
pub mod settings;
mod signals;
mod supervisor;

pub use async_trait::async_trait;
pub use backup::{BackupDaemon, BackupError};
pub use blueprint::blueprint;
pub use daemon::{Daemon, DaemonError, Reloaded};
pub use error::{Cut, DaemonFailure, ServerError};
pub use fleet::FleetDaemon;
pub use handle::{NotRunning, Phase, ServerHandle};
pub use server::Server;
pub use supervisor::{ReloadOutcome, ReloadReport};
