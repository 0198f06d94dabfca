//! What a drill has to say: whether the restored database is the one that was captured, and the last
//! proof, as it lies beside the replica. Pure.
//!
//! ```text
//! evertide drill 1
//! proven 00000000000000a7 captured 1700000000000 at 1700000600000 bytes 2097152 checksum 9c0d… compared
//! crc 8a6f2b1c00d3e4f5
//! ```
//!
//! The last word is `unrecorded` where no checksum was recorded at capture.

use std::time::{Duration, SystemTime};

use evertide_ltx::{Checksum, Txid};

use crate::{
    DrillProof, RestoreReport,
    replica::milliseconds,
    verify::{Record, sealed, unsealed},
};

const TITLE: &str = "evertide drill 1";

/// Compares what was restored with what was recorded when it was captured. Returns whether there was
/// anything to compare with.
pub(super) fn compare(
    restored: &RestoreReport,
    checksum: Checksum,
    record: Option<Record>,
) -> Result<bool, String> {
    let Some(record) = record else {
        return Ok(false);
    };
    if (record.pages, record.checksum) == (restored.pages, checksum) {
        return Ok(true);
    }
    Err(format!(
        "the database restored to transaction {} has {} pages with the checksum {checksum}, and it was \
         captured with {} pages and the checksum {}",
        restored.txid, restored.pages, record.pages, record.checksum
    ))
}

/// The object that holds a proof.
pub(super) fn encode(proof: &DrillProof) -> Vec<u8> {
    sealed(format!(
        "{TITLE}\nproven {} captured {} at {} bytes {} checksum {} {}\n",
        proof.txid,
        milliseconds(proof.captured),
        milliseconds(proof.at),
        proof.database_bytes,
        Checksum::new(proof.database_checksum),
        match proof.compared {
            true => "compared",
            false => "unrecorded",
        }
    ))
}

/// Reads what `encode` wrote; `None` where it is damaged, or of another version.
pub(super) fn decode(content: &[u8]) -> Option<DrillProof> {
    let line = unsealed(content)?.strip_prefix(TITLE)?.strip_prefix('\n')?;
    let words: Vec<_> = line.strip_suffix('\n')?.split(' ').collect();
    let [
        "proven",
        txid,
        "captured",
        captured,
        "at",
        at,
        "bytes",
        bytes,
        "checksum",
        checksum,
        compared,
    ] = words[..]
    else {
        return None;
    };
    Some(DrillProof {
        txid: txid.parse::<Txid>().ok()?,
        captured: time(captured)?,
        at: time(at)?,
        database_bytes: bytes.parse().ok()?,
        database_checksum: u64::from_str_radix(checksum, 16).ok()?,
        compared: match compared {
            "compared" => true,
            "unrecorded" => false,
            _ => return None,
        },
    })
}

fn time(text: &str) -> Option<SystemTime> {
    let since = Duration::from_millis(text.parse().ok()?);
    let time = SystemTime::UNIX_EPOCH.checked_add(since)?;
    // One that cannot be written again is no time that anything was proven at.
    (milliseconds(time).to_string() == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use evertide_ltx::PageSize;

    use super::*;

    #[test]
    fn a_proof_survives_writing_and_reading_and_no_flipped_bit_does() {
        for compared in [true, false] {
            let proof = DrillProof {
                txid: Txid::new(0xa7),
                captured: time("1700000000123").unwrap(),
                at: time("1700000600456").unwrap(),
                database_bytes: 2_097_152,
                database_checksum: 0x9c0d_3f0a_5b7e_1122,
                compared,
            };
            let content = encode(&proof);
            assert_eq!(decode(&content), Some(proof));
            for at in 0..content.len() {
                for bit in 0..8 {
                    let mut damaged = content.clone();
                    damaged[at] ^= 1 << bit;
                    assert_eq!(decode(&damaged), None, "bit {bit} of byte {at}");
                }
                assert_eq!(decode(&content[..at]), None, "cut off at {at}");
            }
        }
        let last = i64::MAX.to_string();
        assert_eq!(time(&last).map(milliseconds), Some(i64::MAX));
        assert_eq!(time(&(u64::MAX - 7).to_string()), None);
        let foreign = sealed("evertide drill 2\nproven\n".to_owned());
        assert_eq!(decode(&foreign), None);
    }

    #[test]
    fn a_database_of_another_size_or_content_is_not_the_one_that_was_captured() {
        let restored = RestoreReport {
            txid: Txid::new(7),
            created: None,
            timestamp_ms: Some(1),
            files: 1,
            bytes: 1,
            page_size: PageSize::MAX,
            pages: 3,
            database_bytes: 3,
            duration: Duration::ZERO,
        };
        let sum = |low: u64| Checksum::new((1 << 63) | low);
        let record = |pages, checksum| Record {
            txid: Txid::new(7),
            timestamp_ms: 1,
            pages,
            checksum,
        };
        let same = compare(&restored, sum(5), Some(record(3, sum(5))));
        assert_eq!(same, Ok(true));
        assert_eq!(compare(&restored, sum(5), None), Ok(false));
        for other in [record(4, sum(5)), record(3, sum(6))] {
            let problem = compare(&restored, sum(5), Some(other)).unwrap_err();
            assert!(problem.contains("0000000000000007"), "{problem}");
        }
    }
}
