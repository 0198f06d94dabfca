//! Captured LTX files that wait, on local disk, for every replica to have them.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use evertide_ltx::{LtxName, Txid};
use evertide_storage::{Disk, DiskFile};

/// One staged file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Staged {
    /// The transactions in it.
    pub(crate) name: LtxName,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

/// The directory of staged files, oldest first.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: PathBuf,
    files: Vec<Staged>,
}

const TEMPORARY: &str = "next.tmp";

/// What is kept for compaction when every replica has it: bytes, and files.
const AFFORDABLE: (u64, usize) = (64 << 20, 1_000);

impl Stage {
    /// Opens the directory. Files that do not continue each other up to `txid` are of no use to
    /// anybody and are removed: what came before a gap, and what was never part of the position.
    pub(crate) fn open(disk: &dyn Disk, dir: PathBuf, txid: Txid) -> io::Result<Self> {
        disk.create_dir_all(&dir, 0o700)?;
        let mut found = Vec::new();
        for entry in disk.read_dir(&dir)? {
            let path = dir.join(&entry.name);
            match entry
                .name
                .to_str()
                .and_then(|name| name.parse::<LtxName>().ok())
            {
                Some(name) => found.push(Staged {
                    name,
                    bytes: disk.metadata(&path)?.len,
                }),
                None if entry.name == TEMPORARY => disk.remove_file(&path)?,
                None => {}
            }
        }
        let (keep, drop) = contiguous_up_to(found, txid);
        for staged in drop {
            disk.remove_file(&dir.join(staged.name.to_string()))?;
        }
        Ok(Self { dir, files: keep })
    }

    /// The files, oldest first; each begins where the one before ends.
    pub(crate) fn files(&self) -> &[Staged] {
        &self.files
    }

    /// Where the files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a staged file is.
    pub(crate) fn path(&self, name: LtxName) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// Starts the next file. Nothing is staged until [`Stage::commit`].
    pub(crate) fn create(&self, disk: &dyn Disk) -> io::Result<StageWriter> {
        let path = self.dir.join(TEMPORARY);
        match disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = match disk.create_new(&path, 0o600) {
            // Somebody deleted the local state: that costs time, and ends nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_dir_all(&self.dir, 0o700)?;
                disk.create_new(&path, 0o600)?
            }
            created => created?,
        };
        Ok(StageWriter { file, offset: 0 })
    }

    /// Gives the file that [`Stage::create`] started its name. It is not synced: a power cut that
    /// takes it also leaves a position record that no longer matches, and costs time only.
    pub(crate) fn commit(
        &mut self,
        disk: &dyn Disk,
        written: StageWriter,
        name: LtxName,
    ) -> io::Result<()> {
        let bytes = written.offset;
        drop(written);
        disk.rename(&self.dir.join(TEMPORARY), &self.path(name))?;
        // A file that begins where this one does was staged by a capture that failed afterwards: no
        // position covers it.
        self.files.retain(|staged| staged.name.max < name.min);
        self.files.push(Staged { name, bytes });
        Ok(())
    }

    /// Up to which transaction files are not worth their disk any more when every replica has those
    /// up to `had`.
    pub(crate) fn beyond_affordable(&self, had: Txid) -> Txid {
        let (mut bytes, mut count) = (0, 0);
        let mut kept = self.files.iter().rev().filter(|file| file.name.max <= had);
        let surplus = kept.find(|file| {
            (bytes, count) = (bytes + file.bytes, count + 1);
            bytes > AFFORDABLE.0 || count > AFFORDABLE.1
        });
        surplus.map_or(Txid::ZERO, |file| file.name.max)
    }

    /// Removes the files that every replica has, which end at or before `txid`, but never the last
    /// of them: replicas are recognised by it, and the page table may have to be redone from it.
    pub(crate) fn release(&mut self, disk: &dyn Disk, txid: Txid) -> io::Result<()> {
        while let [oldest, next, ..] = *self.files
            && next.name.max <= txid
        {
            remove_if_there(disk, &self.path(oldest.name))?;
            self.files.remove(0);
        }
        Ok(())
    }

    /// Removes the oldest files until at most `bytes` are left; the newest transaction removed.
    pub(crate) fn shrink(&mut self, disk: &dyn Disk, bytes: u64) -> io::Result<Option<Txid>> {
        let mut removed = None;
        while self.files.len() > 1 && self.files.iter().map(|file| file.bytes).sum::<u64>() > bytes
        {
            let Some(oldest) = self.files.first().copied() else {
                break;
            };
            remove_if_there(disk, &self.path(oldest.name))?;
            self.files.remove(0);
            removed = Some(oldest.name.max);
        }
        Ok(removed)
    }

    /// Removes the first `count` files.
    pub(crate) fn remove_oldest(&mut self, disk: &dyn Disk, count: usize) -> io::Result<()> {
        for _ in 0..count.min(self.files.len()) {
            if let Some(oldest) = self.files.first().copied() {
                remove_if_there(disk, &self.path(oldest.name))?;
                self.files.remove(0);
            }
        }
        Ok(())
    }

    /// Removes every file: the history they belong to has ended.
    pub(crate) fn clear(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for file in std::mem::take(&mut self.files) {
            remove_if_there(disk, &self.path(file.name))?;
        }
        Ok(())
    }
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Splits files into the run that ends at `txid` without a gap, and the rest.
fn contiguous_up_to(mut found: Vec<Staged>, txid: Txid) -> (Vec<Staged>, Vec<Staged>) {
    found.sort_by_key(|staged| (staged.name.max, staged.name.min));
    let mut keep = Vec::new();
    let mut drop = Vec::new();
    let mut wanted = txid;
    for staged in found.into_iter().rev() {
        if staged.name.max == wanted && wanted > Txid::ZERO {
            wanted = staged.name.min.previous();
            keep.push(staged);
        } else {
            drop.push(staged);
        }
    }
    keep.reverse();
    (keep, drop)
}

/// Writes one staged file.
#[derive(Debug)]
pub(crate) struct StageWriter {
    file: Box<dyn DiskFile>,
    offset: u64,
}

impl Write for StageWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(min: u64, max: u64) -> Staged {
        Staged {
            name: LtxName {
                min: Txid::new(min),
                max: Txid::new(max),
            },
            bytes: 1,
        }
    }

    #[test]
    fn what_every_replica_has_is_kept_for_compaction_as_long_as_it_is_small() {
        let stage = |sizes: &[u64]| Stage {
            dir: PathBuf::new(),
            files: (1..)
                .zip(sizes)
                .map(|(txid, bytes)| Staged {
                    bytes: *bytes,
                    ..staged(txid, txid)
                })
                .collect(),
        };
        let beyond = |stage: &Stage, had| stage.beyond_affordable(Txid::new(had)).get();
        let large = AFFORDABLE.0 / 2;
        let stage_of_large = stage(&[large, large, large, large, large]);
        assert_eq!(beyond(&stage_of_large, 5), 3);
        assert_eq!(
            beyond(&stage_of_large, 4),
            2,
            "what is not replicated counts not"
        );
        assert_eq!(beyond(&stage_of_large, 2), 0);
        let many = stage(&vec![1; AFFORDABLE.1 + 5]);
        assert_eq!(beyond(&many, AFFORDABLE.1 as u64 + 5), 5);
    }

    #[test]
    fn only_the_run_that_ends_at_the_position_is_kept() {
        type Ranges = &'static [(u64, u64)];
        let cases: [(Ranges, u64, Ranges); 6] = [
            (&[(1, 1), (2, 2), (3, 5)], 5, &[(1, 1), (2, 2), (3, 5)]),
            (&[(1, 1), (3, 5)], 5, &[(3, 5)]),
            (&[(1, 1), (2, 2), (3, 3)], 2, &[(1, 1), (2, 2)]),
            (&[(7, 7)], 5, &[]),
            (&[], 5, &[]),
            (&[(1, 1)], 0, &[]),
        ];
        for (found, txid, expected) in cases {
            let found = found.iter().map(|(min, max)| staged(*min, *max)).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(min, max)| staged(*min, *max))
                .collect();
            let (keep, _) = contiguous_up_to(found, Txid::new(txid));
            assert_eq!(keep, expected);
        }
    }
}
