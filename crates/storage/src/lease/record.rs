//! What the lease object holds, as text that people can read, too.
//!
//! ```text
//! evertide lease 1
//! crc 8a6f2b1c00d3e4f5
//! lineage 5f0c6f8e21d14c0ba6c7a1a3fd0e8f11
//! generation 3
//! owner 9be8a7f0c3ad4f5d8d8c1e22b7a6e455
//! session 0d1fa2c3b4d5968778695a4b3c2d1e0f
//! boot 5c1f0e9d8b7a6655
//! home 77ab01c2d3e4f506
//! found 000000000000002a
//! begins 0cf1a6c000000000
//! host db1
//! process 4711 (evertide)
//! since 2026-11-28T17:25:09.000Z
//! renewed 2026-11-28T17:31:02.120Z
//! lasts_ms 120000
//! state held
//! ```
//!
//! The second line has the CRC-64 of those after it; a lease that an earlier version wrote begins with its
//! lineage, or says nothing of transactions. A line with another name is for a later version, and passed over.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
    str::FromStr,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Checksum, Pgno, Txid};
use humantime::{format_rfc3339_millis, format_rfc3339_seconds, parse_rfc3339};

const TITLE: &str = "evertide lease 1";
/// Bytes that a lease has at most.
const MOST: usize = 16 << 10;
/// Characters that are kept of the name of a host or a process.
const MOST_OF_A_NAME: usize = 120;

/// A random identity: of a writer, or of a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(u128);

impl Identity {
    /// One that nobody else has: from the random numbers of the operating system, with which the standard
    /// library keys its hashes. Machines that are started alike would guess alike from their clocks.
    pub fn random() -> Self {
        let keys = RandomState::new();
        let half = |which: u8| u128::from(keys.hash_one(which));
        Self((half(0) << 64) | half(1))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an identity has 32 hexadecimal digits")]
pub struct NotAnIdentity;

impl FromStr for Identity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok());
        number.flatten().map(Self).ok_or(NotAnIdentity)
    }
}

/// Who writes, or wants to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The same for two processes only where both work with one local state, one after the other.
    pub id: Identity,
    /// A checksum of the start of the machine. Of two processes with one `id` and one of these the
    /// first has ended when the second begins.
    pub boot: u64,
    /// A checksum of where the database is: machine and path.
    pub home: u64,
    /// The name of the machine.
    pub host: String,
    /// The process, such as `4711 (evertide)`.
    pub process: String,
}

/// What a lease object holds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LeaseRecord {
    /// The history that the replica is of.
    pub lineage: Identity,
    /// Grows by one whenever another owner takes the lease.
    pub generation: u64,
    /// Who has it, or had it last.
    pub owner: Owner,
    /// Tells apart leases that one owner takes one after the other.
    pub(super) session: Identity,
    /// Since when.
    pub since: SystemTime,
    /// When it was renewed last, by the owner's clock.
    pub renewed: SystemTime,
    /// How long it lasts from then on.
    pub duration: Duration,
    /// Whether its owner still has it.
    pub state: LeaseState,
    /// Which transactions its owner found, and uses; `None` where an earlier version wrote it.
    pub range: Option<TxidRange>,
}

/// Of which transactions the owner of a lease writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxidRange {
    /// The newest one that the replica had when it took the lease, zero where it was empty.
    pub found: Txid,
    /// The first one that it stores; or of a later [epoch](Self::EPOCH) that it has come to since.
    pub begins: Txid,
}

impl TxidRange {
    /// Transactions of one owner, at most: the next one begins at a multiple of it, unless this one has let go in order.
    pub const EPOCH: u64 = 1 << 32;

    /// Which of these a transaction belongs to.
    pub fn epoch(txid: Txid) -> u64 {
        txid.get() / Self::EPOCH
    }

    /// Whether the owner was to store a snapshot above what it found, and the replica, of which this is the newest
    /// transaction, does not have it.
    pub fn owes_its_first(self, newest: Txid) -> bool {
        Self::epoch(self.begins) > Self::epoch(self.found) && newest < self.begins
    }
}

/// What the owner of a lease did last with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LeaseState {
    /// It may write until the lease ends.
    Held,
    /// It let go in order: everything that it was going to write has arrived.
    Released,
    /// It let go, and does not know whether all that it sent has arrived, or still will.
    Abandoned,
}

impl LeaseState {
    const ALL: [Self; 3] = [Self::Held, Self::Released, Self::Abandoned];

    fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
            Self::Abandoned => "abandoned",
        }
    }
}

impl LeaseRecord {
    /// A lease that this owner has just taken, as the first one.
    pub fn new(lineage: Identity, owner: Owner, now: SystemTime, duration: Duration) -> Self {
        Self {
            lineage,
            generation: 1,
            owner,
            session: Identity::random(),
            since: now,
            renewed: now,
            duration,
            state: LeaseState::Held,
            range: None,
        }
    }

    pub(super) fn encode(&self) -> String {
        let Owner { id, boot, home, .. } = &self.owner;
        let [host, process] = [&self.owner.host, &self.owner.process].map(|name| one_line(name));
        let (lineage, generation, session) = (self.lineage, self.generation, self.session);
        let [since, renewed] = [self.since, self.renewed].map(format_rfc3339_millis);
        let lasts = self.duration.as_millis();
        let state = self.state.name();
        let range = self
            .range
            .map(|TxidRange { found, begins }| format!("found {found}\nbegins {begins}\n"));
        let range = range.unwrap_or_default();
        let body = format!(
            "lineage {lineage}\ngeneration {generation}\nowner {id}\nsession {session}\n\
             boot {boot:016x}\nhome {home:016x}\n{range}host {host}\nprocess {process}\nsince {since}\nrenewed {renewed}\n\
             lasts_ms {lasts}\nstate {state}\n"
        );
        format!("{TITLE}\ncrc {}\n{body}", crc(&body))
    }

    /// Tells this record from every other one.
    pub(super) fn seal(&self) -> u64 {
        crc(&self.encode()).get()
    }

    /// Reads what `encode` wrote; `None` where it is damaged, or of another version.
    pub fn decode(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content.get(..MOST).unwrap_or(content)).ok()?;
        let body = unsealed(text.strip_prefix(TITLE)?.strip_prefix('\n')?)?;
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        for line in body.strip_suffix('\n')?.split('\n') {
            let (name, value) = line.split_once(' ')?;
            if fields.insert(name, value).is_some() {
                return None;
            }
        }
        let field = |name: &str| fields.get(name).copied();
        Some(Self {
            lineage: field("lineage")?.parse().ok()?,
            generation: field("generation")?.parse().ok()?,
            owner: Owner {
                id: field("owner")?.parse().ok()?,
                boot: u64::from_str_radix(field("boot")?, 16).ok()?,
                home: u64::from_str_radix(field("home")?, 16).ok()?,
                host: one_line(field("host")?),
                process: one_line(field("process")?),
            },
            session: field("session")?.parse().ok()?,
            since: parse_rfc3339(field("since")?).ok()?,
            renewed: parse_rfc3339(field("renewed")?).ok()?,
            duration: Duration::from_millis(field("lasts_ms")?.parse().ok()?),
            state: {
                let name = field("state")?;
                let mut states = LeaseState::ALL.into_iter();
                states.find(|state| state.name() == name)?
            },
            range: match (field("found"), field("begins")) {
                (Some(found), Some(begins)) => Some(TxidRange {
                    found: found.parse().ok()?,
                    begins: begins.parse().ok()?,
                }),
                _ => None,
            },
        })
    }
}

impl fmt::Display for LeaseRecord {
    /// Names who has the lease.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { host, process, .. } = &self.owner;
        let since = format_rfc3339_seconds(self.since);
        write!(f, "process {process} on {host}, since {since}")
    }
}

/// The lines below the first two, or below the first where there is no CRC; `None` where that contradicts them.
fn unsealed(text: &str) -> Option<&str> {
    if text.starts_with("lineage ") {
        return Some(text);
    }
    let (sum, body) = text.strip_prefix("crc ")?.split_once('\n')?;
    (sum == crc(body).to_string()).then_some(body)
}

fn crc(body: &str) -> Checksum {
    Checksum::page(Pgno::FIRST, body.as_bytes())
}

/// A name as it can be stored and shown.
fn one_line(name: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let name: String = name.chars().take(MOST_OF_A_NAME).map(plain).collect();
    match name.trim() {
        "" => "?".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;

    pub(in crate::lease) fn record(owner: u128) -> LeaseRecord {
        let time = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        LeaseRecord {
            lineage: Identity(7),
            generation: 3,
            owner: Owner {
                id: Identity(owner),
                boot: 5,
                home: 9,
                host: "db1".to_owned(),
                process: "4711 (evertide)".to_owned(),
            },
            session: Identity(11),
            since: time(1_000),
            renewed: time(2_000),
            duration: Duration::from_secs(120),
            state: LeaseState::Held,
            range: Some(TxidRange {
                found: Txid::new(0x2a),
                begins: Txid::MAX,
            }),
        }
    }

    #[test]
    fn a_lease_survives_writing_and_reading_and_names_its_owner() {
        for state in LeaseState::ALL {
            let record = LeaseRecord { state, ..record(1) };
            let text = record.encode();
            assert_eq!(LeaseRecord::decode(text.as_bytes()).as_ref(), Some(&record));
            let (_, body) = text.split_once("lineage").unwrap();
            let later = format!("lineage{body}colour blue\n");
            let later = format!("{TITLE}\ncrc {}\n{later}", crc(&later));
            assert_eq!(LeaseRecord::decode(later.as_bytes()), Some(record.clone()));
            for cut in 0..text.len() {
                assert_eq!(LeaseRecord::decode(&text.as_bytes()[..cut]), None, "{cut}");
            }
            let shown = record.to_string();
            assert_eq!(
                shown,
                "process 4711 (evertide) on db1, since 1970-01-01T00:16:40Z"
            );
        }
    }

    #[test]
    fn no_flipped_bit_of_a_lease_goes_unnoticed() {
        let good = record(1).encode().into_bytes();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(LeaseRecord::decode(&bad), None, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_lease_of_an_earlier_version_has_no_crc_and_is_read() {
        let old = "evertide lease 1\nlineage 00000000000000000000000000000007\ngeneration 3\n\
                   owner 00000000000000000000000000000001\nsession 0000000000000000000000000000000b\n\
                   boot 0000000000000005\nhome 0000000000000009\nhost db1\nprocess 4711 (evertide)\n\
                   since 1970-01-01T00:16:40.000Z\nrenewed 1970-01-01T00:33:20.000Z\nlasts_ms 120000\nstate held\n";
        let expected = LeaseRecord {
            range: None,
            ..record(1)
        };
        assert_eq!(LeaseRecord::decode(old.as_bytes()), Some(expected));
    }

    #[test]
    fn no_name_of_a_host_or_process_makes_a_line_of_its_own() {
        let mut record = record(1);
        for name in ["a\nstate released", "\u{7}", "", " ", &"ü".repeat(1_000)] {
            record.owner.host = name.to_owned();
            record.owner.process = name.to_owned();
            let read = LeaseRecord::decode(record.encode().as_bytes()).unwrap();
            assert_eq!(read.state, LeaseState::Held, "{name:?}");
            assert!(!read.to_string().contains(char::is_control), "{name:?}");
            assert_eq!(read.encode(), record.encode(), "{name:?}");
        }
    }

    #[test]
    fn no_two_identities_are_alike_and_none_has_a_half_that_is_empty() {
        let many: Vec<_> = (0..100).map(|_| Identity::random()).collect();
        let halves: HashSet<u64> = many
            .iter()
            .flat_map(|Identity(bits)| [(bits >> 64) as u64, *bits as u64])
            .collect();
        assert_eq!(halves.len(), 200);
        assert!(!halves.contains(&0));
    }

    #[test]
    fn an_identity_is_read_from_its_digits_and_from_nothing_else() {
        let good = "5f0c6f8e21d14c0ba6c7a1a3fd0e8f11";
        assert_eq!(good.parse::<Identity>().unwrap().to_string(), good);
        let signed = format!("+{}", &good[1..]);
        for bad in [
            "",
            "7",
            &good[1..],
            &format!("0{good}"),
            &signed,
            &good.replace('c', "x"),
        ] {
            assert_eq!(bad.parse::<Identity>(), Err(NotAnIdentity), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_owed_above_what_was_found_until_it_is_stored() {
        let epoch = |number: u64| Txid::new(number * TxidRange::EPOCH);
        let next = |txid: Txid| Txid::new(txid.get() + 1);
        let cases = [
            (
                "it goes on where the last one ended",
                Txid::ZERO,
                Txid::FIRST,
                Txid::ZERO,
                false,
            ),
            (
                "in the same epoch",
                next(epoch(2)),
                next(next(epoch(2))),
                epoch(2),
                false,
            ),
            (
                "nothing is stored since",
                next(epoch(1)),
                epoch(2),
                next(epoch(1)),
                true,
            ),
            (
                "something that came late",
                next(epoch(1)),
                epoch(2),
                Txid::new(epoch(2).get() - 1),
                true,
            ),
            ("it is stored", epoch(1), epoch(2), epoch(2), false),
            ("and more", epoch(1), epoch(2), next(epoch(2)), false),
            (
                "what was found is above",
                epoch(3),
                epoch(2),
                epoch(1),
                false,
            ),
        ];
        for (what, found, begins, newest, owes) in cases {
            let range = TxidRange { found, begins };
            assert_eq!(range.owes_its_first(newest), owes, "{what}");
        }
    }
}
