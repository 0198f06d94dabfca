//! Any two files are refused or merged; the first byte says where the second one starts.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/ltx/tests/fuzzing/mod.rs"]
mod fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let Some((share, rest)) = bytes.split_first() else {
        return;
    };
    let (first, second) = rest.split_at(rest.len() * usize::from(*share) / 255);
    let (mut first, mut second) = (first.to_vec(), second.to_vec());
    fuzzing::repair(&mut first);
    fuzzing::repair(&mut second);
    fuzzing::any_two_files_are_refused_or_merged(&first, &second);
});
