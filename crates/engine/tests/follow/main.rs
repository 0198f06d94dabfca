//! Following a replica: real readers see one whole state after the other, whatever happens.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod faults;
mod history;
mod interop;
mod kills;
mod places;
mod readers;
mod reads;
mod refusals;
mod scene;
