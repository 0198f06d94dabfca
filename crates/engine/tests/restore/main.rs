//! Restores from file replicas, ours and the official Litestream's.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod damage;
mod faults;
mod interop;
mod outputs;
mod reads;
mod scene;
mod stores;
mod targets;
