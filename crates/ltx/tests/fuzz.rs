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

use std::{fs, path::Path};

use evertide_ltx::{Decoder, LtxName, Tracking, Txid, merge};
use evertide_testkit::{Fuzz, variant};

use common::{size, snapshot};
use fuzzing::{any_bytes_are_refused_or_understood, any_two_files_are_refused_or_merged, repair};

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

#[test]
fn no_bytes_make_a_reader_panic_or_misread() {
    let report = Fuzz::target("ltx")
        .corpus(corpus())
        .repair(repair)
        .inputs(8_000)
        .run(|input| {
            any_bytes_are_refused_or_understood(input.bytes);
            match Decoder::new(input.bytes).and_then(Decoder::finish) {
                Ok(_) => "decoded".to_owned(),
                Err(error) => variant(&error),
            }
        });
    let decoded = report.count("decoded");
    let tenth = report.inputs() / 10;
    assert!(
        (tenth..report.inputs() - tenth).contains(&decoded),
        "{report:?}"
    );
    report.assert_reached(&["decoded"], 6);
}

#[test]
fn no_two_files_make_a_merge_panic_or_write_nonsense() {
    Fuzz::target("merge")
        .corpus(corpus())
        .repair(repair)
        .run(|input| {
            any_two_files_are_refused_or_merged(input.bytes, input.other);
            match merge([input.bytes, input.other], Vec::new()) {
                Ok(_) => "merged".to_owned(),
                Err(error) => variant(&error),
            }
        })
        .assert_reached(&["merged"], 4);
}

#[test]
fn no_text_is_taken_for_the_name_of_another_file() {
    Fuzz::target("names")
        .corpus([
            "0000000000000001-0000000000000001.ltx",
            "00000000000000a1-ffffffffffffffff.ltx",
            "00000000000000A1",
        ])
        .words(&["ltx", ".", "-", "0000", "ffff", "+", "\u{661}"])
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".to_owned();
            };
            match (text.parse::<LtxName>(), text.parse::<Txid>()) {
                (Ok(name), _) => {
                    assert_eq!(name.to_string(), text);
                    assert!(name.min <= name.max);
                    "a name".to_owned()
                }
                (_, Ok(txid)) => {
                    assert_eq!(txid.to_string(), text.to_ascii_lowercase());
                    "a transaction".to_owned()
                }
                (Err(error), _) => variant(&error),
            }
        })
        .assert_reached(&["a name", "a transaction", "no text"], 4);
}
