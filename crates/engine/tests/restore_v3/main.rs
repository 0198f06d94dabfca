//! Restoring replicas that the real Litestream 0.3.13 wrote, page for page.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod damage;
mod formats;
mod golden;
mod large;
mod live;
mod parallel;
mod power;
mod scene;
mod verify;
