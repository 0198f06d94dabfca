//! Whatever the object of recorded checksums holds.

use evertide_ltx::{Checksum, Txid};
use evertide_testkit::Fuzz;

use super::records::{Record, decode, encode, seal_again};

fn record(txid: u64) -> Record {
    Record {
        txid: Txid::new(txid),
        timestamp_ms: 1_700_000_000_000 + txid as i64,
        pages: 3,
        checksum: Checksum::new((1 << 63) | txid),
    }
}

#[test]
fn no_bytes_are_taken_for_records_that_cannot_be_written_again() {
    let objects: Vec<_> = (0..3)
        .map(|count| encode(&(1..=count).map(record).collect::<Vec<_>>()))
        .collect();
    Fuzz::target("records")
        .corpus(objects)
        .words(&[
            " ms ",
            " pages ",
            " checksum ",
            "\n",
            "-",
            "evertide checksums 1\n",
        ])
        .repair(seal_again)
        .run(|input| match decode(input.bytes) {
            Some(records) => {
                assert_eq!(decode(&encode(&records)), Some(records.clone()));
                format!("{} records", records.len().min(3))
            }
            None => "refused".to_owned(),
        })
        .assert_reached(&["refused", "0 records", "1 records", "2 records"], 4);
}
