//! The life of a replica: levels, snapshots, retention, and points in time on all of them.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod damaged;
mod drops;
mod engine;
mod forgetful;
mod life;
mod looks;
mod missing;
mod model;
mod moves;
mod promise;
mod reads;
mod schedule;
mod shaky;
mod tiers;
mod year;
