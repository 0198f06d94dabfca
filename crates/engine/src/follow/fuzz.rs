//! Whatever the file beside a followed copy holds.

use evertide_ltx::{Checksum, PageSize, Pgno, Txid};
use evertide_testkit::Fuzz;

use super::position::{Position, State};

fn state(txid: u64) -> State {
    State {
        txid: Txid::new(txid),
        pages: 7,
        checksum: Checksum::new((1 << 63) | txid),
    }
}

/// Puts a line with the right checksum at the end.
fn repair(bytes: &mut Vec<u8>) {
    let end = bytes
        .windows(10)
        .rposition(|window| window == b"\nchecksum ");
    bytes.truncate(end.map_or(bytes.len(), |end| end + 1));
    let checksum = Checksum::page(Pgno::FIRST, bytes);
    bytes.extend(format!("checksum {checksum}\n").bytes());
}

#[test]
fn no_bytes_are_taken_for_the_position_of_a_copy_that_cannot_be_written_again() {
    let texts = [None, Some(state(0xa1))].map(|before| {
        let position = Position {
            page_size: PageSize::new(4_096).unwrap(),
            before,
            after: state(0xa2),
        };
        position.to_text()
    });
    Fuzz::target("follow")
        .corpus(texts)
        .words(&["before ", "after ", "page size ", "512", "\n", " ", "+"])
        .repair(repair)
        .run(|input| match Position::parse(input.bytes) {
            Some(position) => {
                assert_eq!(
                    Position::parse(position.to_text().as_bytes()),
                    Some(position)
                );
                match position.before {
                    None => "the first state".into(),
                    Some(_) => "two states".to_owned(),
                }
            }
            None => "refused".to_owned(),
        })
        .assert_reached(&["refused", "the first state", "two states"], 3);
}
