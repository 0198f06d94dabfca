//! The binary, driven as users drive it: exit status, standard output, standard error, files.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // tests, behind the product's back

mod azure;
mod costs;
mod credentials;
mod demo;
mod directories;
mod doctor;
mod down;
mod follow;
mod footprint;
mod gcs;
mod interop;
mod keygen;
mod ltx;
mod many;
mod memory;
mod nats;
mod old_replicas;
mod oss;
mod parallelism;
mod races;
mod replicate;
mod restore;
mod s3;
mod secrets;
mod settings;
mod sftp;
mod signals;
mod storm;
mod support;
mod throttled;
mod usage;
mod verify;
mod watching;
mod webdav;
mod writers;
