//! Any bytes are refused or understood, as they are and with an end that fits.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/ltx/tests/fuzzing/mod.rs"]
mod fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::any_bytes_are_refused_or_understood(bytes);
    let mut repaired = bytes.to_vec();
    fuzzing::repair(&mut repaired);
    fuzzing::any_bytes_are_refused_or_understood(&repaired);
});
