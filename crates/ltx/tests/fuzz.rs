//! A short mutational run over the golden files; `EVERTIDE_FUZZ_SECONDS` makes it a long one.
//!
//! The folder `fuzz` runs the same properties under libFuzzer.

#![allow(
    clippy::disallowed_methods,
    reason = "test files are no live databases"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod fuzzing;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use evertide_ltx::{Decoder, Tracking};
use fastrand::Rng;

use common::{seed, size, snapshot};
use fuzzing::{any_bytes_are_refused_or_understood, any_two_files_are_refused_or_merged, repair};

/// Enough for a second or two where nothing else is asked for.
const ITERATIONS: u32 = 8000;

/// Golden files small enough to change thousands of times, and some of our own.
fn corpus() -> Vec<Vec<u8>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files = vec![
        snapshot(size(512), 3, Tracking::On),
        snapshot(size(1024), 1, Tracking::Off),
        Vec::new(),
    ];
    for folder in ["512", "4096", "65536", "frames512", "frames65536"] {
        for level in ["0", "1", "2", "9"] {
            let entries = fs::read_dir(golden.join(folder).join("ltx").join(level)).unwrap();
            let read = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap());
            files.extend(read.filter(|file| file.len() < 5000));
        }
    }
    assert!(files.len() > 40, "the golden files are there");
    files
}

/// One small change.
fn mutate(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.usize(..=bytes.len());
    let end = bytes.len().min(at + random.usize(..40));
    match random.u8(..8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => {
            let from = random.usize(..=other.len());
            let piece = &other[from..other.len().min(from + 60)];
            bytes.splice(at..end, piece.iter().copied());
        }
        4 => {
            // Numbers that tip something over, where numbers are.
            let value = random.choice([0_u32, 1, 2, 128, 256, 65536, 1 << 30, 1 << 31]);
            let value = value.unwrap().wrapping_sub(random.u32(..2));
            for (place, byte) in bytes[at..end].iter_mut().zip(value.to_be_bytes()) {
                *place = byte;
            }
        }
        5 if bytes.len() > 100 => bytes[random.usize(..100)] = random.u8(..),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
    }
}

#[test]
fn no_bytes_make_a_reader_panic_or_misread() {
    let random = &mut Rng::with_seed(seed());
    let corpus = corpus();
    let seconds = std::env::var("EVERTIDE_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let start = Instant::now();
    let (mut done, mut decoded) = (0, 0);
    let more = |done| seconds.map_or(done < ITERATIONS, |most| start.elapsed() < most);
    while more(done) {
        let pick = |random: &mut Rng| corpus[random.usize(..corpus.len())].clone();
        let (mut bytes, other) = (pick(random), pick(random));
        for _ in 0..random.u8(..5) {
            mutate(random, &mut bytes, &other);
        }
        if random.u8(..4) > 0 {
            repair(&mut bytes);
        }
        done += 1;
        let tried = catch_unwind(AssertUnwindSafe(|| {
            any_bytes_are_refused_or_understood(&bytes);
            any_two_files_are_refused_or_merged(&bytes, &other);
        }));
        assert!(
            tried.is_ok(),
            "input {done}, {} bytes: {bytes:02x?}",
            bytes.len()
        );
        let good = Decoder::new(bytes.as_slice())
            .and_then(Decoder::finish)
            .is_ok();
        decoded += u32::from(good);
    }
    eprintln!("{done} inputs, {decoded} of them decoded");
    // A run in which nothing gets past the first checks would prove nothing.
    assert!(
        decoded > done / 10 && decoded < done - done / 10,
        "{decoded} of {done} decode"
    );
}
