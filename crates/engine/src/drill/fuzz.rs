//! Whatever the object of the last proof holds.

use std::time::{Duration, SystemTime};

use evertide_ltx::Txid;
use evertide_testkit::Fuzz;

use super::proof::{decode, encode};
use crate::{DrillProof, verify::seal_again};

fn proof(txid: u64, compared: bool) -> DrillProof {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + txid);
    DrillProof {
        txid: Txid::new(txid),
        captured: at,
        at: at + Duration::from_secs(600),
        database_bytes: 4_096 * txid,
        database_checksum: (1 << 63) | txid,
        compared,
    }
}

#[test]
fn no_bytes_are_taken_for_a_proof_that_cannot_be_written_again() {
    let objects = [(1, true), (0xa7, false)].map(|(txid, compared)| encode(&proof(txid, compared)));
    Fuzz::target("proofs")
        .corpus(objects)
        .words(&[
            "proven ",
            " captured ",
            " at ",
            " bytes ",
            " checksum ",
            " compared",
            " unrecorded",
            "\n",
            "-",
            "evertide drill 1\n",
        ])
        .repair(seal_again)
        .run(|input| match decode(input.bytes) {
            Some(proof) => {
                assert_eq!(decode(&encode(&proof)), Some(proof));
                match proof.compared {
                    true => "compared".to_owned(),
                    false => "unrecorded".to_owned(),
                }
            }
            None => "refused".to_owned(),
        })
        .assert_reached(&["refused", "compared", "unrecorded"], 3);
}
