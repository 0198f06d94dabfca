//! Whatever the object of a lease holds: it is refused, or a lease that can be written again and ends.

use std::time::{Duration, SystemTime};

use evertide_ltx::{Checksum, Pgno};
use evertide_testkit::Fuzz;

use super::{
    LeaseRecord, LeaseState,
    decide::{Verdict, decide},
    record::tests::record,
};

/// How a lease begins that has a checksum; one of an earlier version has none.
const SEALED: &str = "evertide lease 1\ncrc ";

/// Sets the checksum right, where there is one.
fn repair(bytes: &mut Vec<u8>) {
    let text = std::str::from_utf8(bytes).ok();
    let rest = text.and_then(|text| text.strip_prefix(SEALED)?.split_once('\n'));
    if let Some((_, body)) = rest {
        let crc = Checksum::page(Pgno::FIRST, body.as_bytes());
        *bytes = format!("{SEALED}{crc}\n{body}").into_bytes();
    }
}

fn corpus() -> Vec<String> {
    let mut corpus = Vec::new();
    for state in [
        LeaseState::Held,
        LeaseState::Released,
        LeaseState::Abandoned,
    ] {
        let mut lease = record(1);
        lease.state = state;
        let text = lease.encode();
        let body = text.splitn(3, '\n').last().unwrap();
        corpus.push(format!("evertide lease 1\n{body}"));
        corpus.push(text);
    }
    corpus
}

#[test]
fn no_bytes_are_taken_for_a_lease_that_cannot_be_written_again_or_never_ends() {
    let words = [
        "crc ",
        "lineage ",
        "generation ",
        "18446744073709551615",
        "lasts_ms ",
        "renewed ",
        "9999-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00.000Z",
        "state ",
        "released",
        "host ",
        "\u{7}",
        "\n",
        "later than this ",
    ];
    Fuzz::target("lease")
        .corpus(corpus())
        .words(&words)
        .repair(repair)
        .run(|input| {
            let Some(lease) = LeaseRecord::decode(input.bytes) else {
                return "refused".into();
            };
            let text = lease.encode();
            let again = LeaseRecord::decode(text.as_bytes()).unwrap();
            assert_eq!(again.encode(), text);
            assert_eq!(
                (again.lineage, again.generation, &again.owner, again.state),
                (lease.lineage, lease.generation, &lease.owner, lease.state)
            );
            assert!(!lease.to_string().contains(char::is_control), "{lease}");
            // Only bytes with the right checksum, or none at all.
            let mut sealed = input.bytes.to_vec();
            repair(&mut sealed);
            assert_eq!(sealed, input.bytes);
            // Whatever its times say: who watches it for two days may take it, and it is waited for no longer.
            let day = Duration::from_secs(24 * 3_600);
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000);
            match decide(Some(&lease), None, now, Duration::ZERO) {
                Verdict::Held { wait } => assert!(wait <= 2 * day, "{wait:?}"),
                Verdict::Free => {}
            }
            assert_eq!(decide(Some(&lease), None, now, 2 * day), Verdict::Free);
            let is_sealed = text.len() <= input.bytes.len();
            format!(
                "{:?}, {}",
                lease.state,
                if is_sealed { "sealed" } else { "old" }
            )
        })
        .assert_reached(
            &["refused", "Held, sealed", "Released, sealed", "Held, old"],
            6,
        );
}
