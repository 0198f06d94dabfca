//! Which lease of ours each replica is known to have, where a store cannot tell it from one that comes late
//! ([`Lease::known`](evertide_storage::Lease::known)).
//!
//! ```text
//! evertide leases 1
//! 77ab01c2d3e4f506 1f0c6f8e21d14c0b
//! crc 8a6f2b1c00d3e4f5
//! ```
//!
//! A line has a checksum of where the replica is, and the seal of the lease. Losing the file costs waiting for a lease to
//! end, and a snapshot.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use evertide_ltx::{Checksum, Pgno};
use evertide_storage::Disk;

use super::{identity::open_or_create, text_of};
use crate::verify::{sealed, unsealed};

const TITLE: &str = "evertide leases 1";
/// Replicas that are remembered.
const MOST: usize = 64;
/// The file is shorter.
const MOST_BYTES: usize = 4_096;

/// By replica.
pub(super) type Seals = BTreeMap<u64, u64>;

/// The leases that replicas are known to have.
#[derive(Debug)]
pub(crate) struct KnownLeases {
    path: PathBuf,
    seals: Mutex<Seals>,
}

impl KnownLeases {
    /// Reads what is known, of a state that is locked: nothing where the file is not there, or damaged.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let seals = match disk.open_rw(path) {
            Ok(file) => decode(&text_of::<MOST_BYTES>(&*file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            seals: Mutex::new(seals.unwrap_or_default()),
        })
    }

    /// The seal of the lease that the replica at this place is known to have.
    pub(crate) fn of(&self, location: &str) -> Option<u64> {
        let seals = self.seals.lock().unwrap_or_else(PoisonError::into_inner);
        seals.get(&replica(location)).copied()
    }

    /// Notes it, durably, unless it is noted already.
    pub(crate) fn note(&self, disk: &dyn Disk, location: &str, seal: u64) -> io::Result<()> {
        let mut seals = self.seals.lock().unwrap_or_else(PoisonError::into_inner);
        let replica = replica(location);
        let mut changed = seals.clone();
        if changed.insert(replica, seal) == Some(seal) {
            return Ok(());
        }
        while changed.len() > MOST
            && let Some(other) = changed.keys().copied().find(|other| *other != replica)
        {
            changed.remove(&other);
        }
        // The state may have been deleted while it is in use; it is begun anew with the next start.
        match open_or_create(disk, &self.path) {
            Ok(file) => {
                let content = encode(&changed);
                // One write of some bytes, which a power cut may tear: then nothing is known.
                file.write_at(&content, 0)?;
                file.set_len(content.len() as u64)?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        *seals = changed;
        Ok(())
    }
}

fn replica(location: &str) -> u64 {
    Checksum::page(Pgno::FIRST, location.as_bytes()).get()
}

pub(super) fn encode(seals: &Seals) -> Vec<u8> {
    let lines = seals
        .iter()
        .map(|(replica, seal)| format!("{replica:016x} {seal:016x}\n"));
    sealed(format!("{TITLE}\n{}", lines.collect::<String>()))
}

/// Reads what `encode` wrote; `None` where it is damaged, or of another version.
pub(super) fn decode(bytes: &[u8]) -> Option<Seals> {
    let mut lines = unsealed(bytes)?.lines();
    let is_ours = lines.next()? == TITLE;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let seals = lines.map(|line| {
        let (replica, seal) = line.split_once(' ')?;
        Some((number(replica)?, number(seal)?))
    });
    seals.collect::<Option<Seals>>().filter(|_| is_ours)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests look at files as they are
mod tests {
    use evertide_storage::{CrashPoint, OsDisk, RecordingDisk};

    use super::*;

    fn open(path: &Path) -> KnownLeases {
        KnownLeases::open(&OsDisk, path).unwrap()
    }

    #[test]
    fn the_lease_of_each_replica_is_known_in_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let leases = open(&path);
        assert_eq!(leases.of("a"), None);
        assert!(!path.exists(), "nobody needs it yet");
        for (location, seal) in [("a", 7), ("b", u64::MAX), ("a", 9)] {
            leases.note(&OsDisk, location, seal).unwrap();
        }
        for leases in [leases, open(&path)] {
            let known = ["a", "b", "c"].map(|location| leases.of(location));
            assert_eq!(known, [Some(9), Some(u64::MAX), None]);
        }
    }

    #[test]
    fn of_many_replicas_the_file_stays_small_and_the_last_one_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let leases = open(&path);
        for n in 0..200 {
            leases.note(&OsDisk, &format!("replica {n}"), n).unwrap();
            assert_eq!(open(&path).of(&format!("replica {n}")), Some(n));
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size <= MOST_BYTES as u64, "{size}");
    }

    #[test]
    fn as_many_as_there_is_room_for_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let leases = open(&path);
        let names: Vec<String> = (0..MOST).map(|n| format!("replica {n}")).collect();
        for (seal, name) in (0..).zip(&names) {
            leases.note(&OsDisk, name, seal).unwrap();
        }
        for (seal, name) in (0..).zip(&names) {
            assert_eq!(open(&path).of(name), Some(seal), "{name}");
        }
    }

    /// Of so many replicas that the file is longer than what a disk writes at once.
    #[test]
    fn after_a_power_cut_each_lease_is_known_as_it_was_noted_or_none_is() {
        let dir = tempfile::tempdir().unwrap();
        let recorded = dir.path().join("recorded");
        std::fs::create_dir(&recorded).unwrap();
        let leases = open(&recorded.join("leases"));
        let replica = |n: u64| format!("replica {n}");
        for n in 0..30 {
            leases.note(&OsDisk, &replica(n), 0).unwrap();
        }
        let disk = RecordingDisk::new(&recorded).unwrap();
        let all = |leases: &KnownLeases| -> Vec<Option<u64>> {
            (0..32).map(|n| leases.of(&replica(n))).collect()
        };
        let mut noted = vec![(0, all(&leases))];
        for (n, seal) in [(29, 1), (0, 2), (30, u64::MAX), (31, 3), (0, 4)] {
            leases.note(&disk, &replica(n), seal).unwrap();
            noted.push((disk.operations(), all(&leases)));
        }
        let nothing = vec![None; 32];
        let (mut kept, mut lost) = (0, 0);
        for (number, point) in (0..).zip(disk.crash_points(20)) {
            let after = dir.path().join(format!("cut-{number}"));
            std::fs::create_dir(&after).unwrap();
            disk.replay(point, &after).unwrap();
            let known = all(&open(&after.join("leases")));
            let last = noted.iter().rposition(|(at, _)| *at <= point.operations);
            let last = last.unwrap();
            let CrashPoint { operations, .. } = point;
            if operations == noted[last].0 {
                assert_eq!(known, noted[last].1, "{point:?}: it was durable");
            }
            let of_then = noted[last..].iter().take(2);
            let was_noted = of_then.into_iter().any(|(_, then)| *then == known);
            assert!(was_noted || known == nothing, "{point:?}: {known:?}");
            *if was_noted { &mut kept } else { &mut lost } += 1;
        }
        assert!(kept > 0 && lost > 0, "{kept} as noted, {lost} lost");
    }

    /// Nothing to be known is another thing: it may come back.
    #[test]
    fn what_cannot_be_read_or_noted_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let leases = open(&path);
        std::fs::create_dir(&path).unwrap();
        KnownLeases::open(&OsDisk, &path).unwrap_err();
        leases.note(&OsDisk, "a", 7).unwrap_err();
        assert_eq!(leases.of("a"), None);
    }

    #[test]
    fn what_is_damaged_is_not_known_and_a_state_that_was_deleted_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state").join("leases");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let leases = open(&path);
        leases.note(&OsDisk, "a", 7).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(open(&path).of("a"), None, "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(open(&path).of("a"), None, "cut at {at}");
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        leases.note(&OsDisk, "a", 8).unwrap();
        assert_eq!(leases.of("a"), Some(8));
        assert!(!path.exists());
    }
}
