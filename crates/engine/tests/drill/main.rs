//! Drills beside a running replication: what they publish, and what they are in the way of.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod found;
mod metrics;
mod scene;
mod schedule;
mod turns;
