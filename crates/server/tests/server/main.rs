//! The server as an embedding program sees it.

#![allow(
    clippy::unwrap_used,
    reason = "a test helper has nobody to return an error to"
)]

mod lifecycle;
mod reload;
mod signals;
mod support;
