//! The server as an embedding program sees it.

#![allow(clippy::disallowed_methods, reason = "a test may touch its own files")]
#![allow(
    clippy::unwrap_used,
    reason = "a test helper has nobody to return an error to"
)]

mod backup;
mod fleet;
mod lifecycle;
mod reload;
mod secrets;
mod signals;
mod support;
