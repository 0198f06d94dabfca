//! Who writes with this state, and which history it is of.
//!
//! ```text
//! evertide identity 1
//! owner 9be8a7f0c3ad4f5d8d8c1e22b7a6e455
//! place 2049 131074
//! lineage 5f0c6f8e21d14c0ba6c7a1a3fd0e8f11
//! crc 8a6f2b1c00d3e4f5
//! ```
//!
//! The owner is that of the leases of all replicas: a process that has locked this state knows that the
//! one before it has ended. A copy of the state must not be taken for it, so that the file names its own
//! device and inode, which a copy does not have; then it gets another owner. The lineage is `none` until a
//! replica is written to. Losing the file costs waiting for a lease to end, and the proof that a
//! database elsewhere is the one that a replica has.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use evertide_storage::{Disk, DiskFile, Identity};

use super::{leases::KnownLeases, text_of};
use crate::verify::{sealed, unsealed};

const TITLE: &str = "evertide identity 1";
/// The file is shorter.
const MOST: usize = 1_024;

/// Who writes with a state, and for which history.
#[derive(Debug)]
pub(crate) struct LocalIdentity {
    path: PathBuf,
    pub(crate) owner: Identity,
    lineage: Mutex<Option<Identity>>,
    /// The leases that this owner is known to have had last.
    pub(crate) leases: KnownLeases,
}

/// Device and inode.
type Place = (u64, u64);

impl LocalIdentity {
    /// Reads the identity of a state that is locked, or begins one.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = open_or_create(disk, path)?;
        let found = decode(&text_of::<MOST>(&*file)?);
        let place = place(&*file)?;
        let (owner, lineage) = match found {
            Some(found) if found.place == place => (found.owner, found.lineage),
            Some(copied) => (Identity::random(), copied.lineage),
            None => (Identity::random(), None),
        };
        let identity = Self {
            path: path.to_owned(),
            owner,
            lineage: Mutex::new(lineage),
            leases: KnownLeases::open(disk, &path.with_file_name("leases"))?,
        };
        if found.is_none_or(|found| found.place != place) {
            identity.write(&*file, lineage)?;
            disk.sync_dir(path.parent().unwrap_or(path))?;
        }
        Ok(identity)
    }

    /// The history, once it has a replica.
    pub(crate) fn lineage(&self) -> Option<Identity> {
        *self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history; this one if it has none yet, durably.
    pub(crate) fn lineage_or(&self, disk: &dyn Disk, new: Identity) -> io::Result<Identity> {
        let mut lineage = self.lineage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *lineage {
            return Ok(known);
        }
        // The state may have been deleted while it is in use; it is begun anew with the next start.
        match disk.open_rw(&self.path) {
            Ok(file) => self.write(&*file, Some(new))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        *lineage = Some(new);
        Ok(new)
    }

    /// One write of a few bytes, so that a power cut leaves the file as it was before or after.
    fn write(&self, file: &dyn DiskFile, lineage: Option<Identity>) -> io::Result<()> {
        let content = encode(&Stored {
            owner: self.owner,
            place: place(file)?,
            lineage,
        });
        file.write_at(&content, 0)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()
    }
}

pub(super) fn open_or_create(disk: &dyn Disk, path: &Path) -> io::Result<Box<dyn DiskFile>> {
    match disk.create_new(path, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open_rw(path),
        created => created,
    }
}

fn place(file: &dyn DiskFile) -> io::Result<Place> {
    let found = file.metadata()?;
    Ok((found.dev, found.ino))
}

/// What the file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) owner: Identity,
    pub(super) place: Place,
    pub(super) lineage: Option<Identity>,
}

pub(super) fn encode(stored: &Stored) -> Vec<u8> {
    let (owner, (device, inode)) = (stored.owner, stored.place);
    let lineage = stored.lineage.map(|lineage| lineage.to_string());
    let lineage = lineage.as_deref().unwrap_or("none");
    sealed(format!(
        "{TITLE}\nowner {owner}\nplace {device} {inode}\nlineage {lineage}\n"
    ))
}

/// Reads what `encode` wrote; `None` where it is damaged, or of another version.
pub(super) fn decode(bytes: &[u8]) -> Option<Stored> {
    let mut lines = unsealed(bytes)?.lines();
    let title = lines.next()?;
    let owner = lines.next()?.strip_prefix("owner ")?;
    let (device, inode) = lines.next()?.strip_prefix("place ")?.split_once(' ')?;
    let lineage = lines.next()?.strip_prefix("lineage ")?;
    if title != TITLE || lines.next().is_some() {
        return None;
    }
    Some(Stored {
        owner: owner.parse().ok()?,
        place: (device.parse().ok()?, inode.parse().ok()?),
        lineage: match lineage {
            "none" => None,
            lineage => Some(lineage.parse().ok()?),
        },
    })
}

#[cfg(test)]
mod tests {
    use evertide_storage::OsDisk;

    use super::*;

    fn open(path: &Path) -> LocalIdentity {
        LocalIdentity::open(&OsDisk, path).unwrap()
    }

    #[test]
    fn an_identity_is_that_of_the_state_before_and_a_copy_of_it_is_another_owner() {
        let dir = tempfile::tempdir().unwrap();
        let [path, copy] = ["identity", "copy"].map(|name| dir.path().join(name));
        let first = open(&path);
        assert_eq!(first.lineage(), None);
        let lineage = Identity::random();
        assert_eq!(first.lineage_or(&OsDisk, lineage).unwrap(), lineage);
        let other = first.lineage_or(&OsDisk, Identity::random()).unwrap();
        assert_eq!(other, lineage, "there is one");
        let again = open(&path);
        assert_eq!((again.owner, again.lineage()), (first.owner, Some(lineage)));
        std::process::Command::new("cp")
            .args([&path, &copy])
            .status()
            .unwrap();
        let copied = open(&copy);
        assert_ne!(copied.owner, first.owner);
        assert_eq!(copied.lineage(), Some(lineage));
        assert_eq!(open(&copy).owner, copied.owner);
        assert_eq!(open(&path).owner, first.owner);
    }

    #[test]
    fn no_damaged_identity_is_believed() {
        for lineage in [None, Some(Identity::random())] {
            let stored = Stored {
                owner: Identity::random(),
                place: (1, 2),
                lineage,
            };
            let content = encode(&stored);
            assert_eq!(decode(&content), Some(stored));
            for at in 0..content.len() {
                assert_eq!(decode(&content[..at]), None, "cut off at {at}");
                for bit in 0..8 {
                    let mut damaged = content.clone();
                    damaged[at] ^= 1 << bit;
                    assert_eq!(decode(&damaged), None, "bit {bit} of byte {at}");
                }
            }
        }
    }
}
