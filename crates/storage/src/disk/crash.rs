//! What a power cut can leave of a record of file operations.
//!
//! The model is POSIX at its least helpful. A write is durable after an fsync of its file; before,
//! each write may be there, missing, or torn into 512-byte sectors of which any are there, whatever
//! came before or after it. A name is durable after an fsync of its directory; before, each
//! creation, renaming and removal may have happened or not, one renaming wholly or not at all. An
//! fsync of a file says nothing about its name.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{Disk, OsDisk};

/// Where the power is cut, and what becomes of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// Operations that happened before.
    pub operations: usize,
    /// What becomes of those that were not synced.
    pub unsynced: Unsynced,
}

/// What becomes of operations that were not synced when the power is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsynced {
    /// None of them happened.
    Dropped,
    /// All of them happened.
    Kept,
    /// Each one happened, or not, or a part of it.
    Mixed {
        /// The same seed makes the same choices.
        seed: u64,
    },
}

/// One file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Node(pub(super) u64);

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    File(Node),
    Directory,
}

/// One operation. Paths are relative to the root of the recording.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        path: PathBuf,
        node: Node,
    },
    CreateDir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        entry: Entry,
    },
    Remove {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    Write {
        node: Node,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    SetLen {
        node: Node,
        len: u64,
    },
    SetModified {
        node: Node,
        time: SystemTime,
    },
    Sync {
        node: Node,
    },
    SyncData {
        node: Node,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { path, node } => write!(f, "create {} as {}", path.display(), node.0),
            Self::CreateDir { path } => write!(f, "mkdir {}", path.display()),
            Self::Rename { from, to, .. } => {
                write!(f, "rename {} to {}", from.display(), to.display())
            }
            Self::Remove { path } => write!(f, "remove {}", path.display()),
            Self::SyncDir { path } => write!(f, "fsync directory `{}`", path.display()),
            Self::Write {
                node,
                offset,
                bytes,
            } => {
                write!(f, "write {} bytes at {offset} to {}", bytes.len(), node.0)
            }
            Self::SetLen { node, len } => write!(f, "set length of {} to {len}", node.0),
            Self::SetModified { node, .. } => write!(f, "set time of {}", node.0),
            Self::Sync { node } => write!(f, "fsync {}", node.0),
            Self::SyncData { node } => write!(f, "fdatasync {}", node.0),
        }
    }
}

/// Content and time of modification.
type File = (Vec<u8>, Option<SystemTime>);

/// The content of a directory tree.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    pub(super) names: BTreeMap<PathBuf, Entry>,
    pub(super) files: HashMap<Node, File>,
}

impl Image {
    /// What is left when these operations happened and then the power went.
    pub(super) fn after_crash(&self, ops: &[Op], unsynced: Unsynced) -> Self {
        let mut image = self.clone();
        let mut dice = Dice::new(unsynced);
        let mut pending: Vec<&Op> = Vec::new();
        for op in ops {
            match op {
                Op::SyncDir { path } => {
                    let durable =
                        |op: &Op| op.directories().is_some_and(|mut d| d.all(|d| d == path));
                    image.settle(&mut pending, durable);
                }
                Op::Sync { node } => image.settle(&mut pending, |op| op.node() == Some(*node)),
                Op::SyncData { node } => image.settle(&mut pending, |op| {
                    op.node() == Some(*node) && !matches!(op, Op::SetModified { .. })
                }),
                Op::Create { node, .. } => {
                    image.files.insert(*node, File::default());
                    pending.push(op);
                }
                _ => pending.push(op),
            }
        }
        for op in pending {
            match dice.fate(op) {
                Fate::Dropped => {}
                Fate::Kept => image.apply(op),
                Fate::Torn => image.apply_torn(op, &mut dice),
            }
        }
        image
    }

    /// Applies, in order, the pending operations that a sync has made durable.
    fn settle(&mut self, pending: &mut Vec<&Op>, durable: impl Fn(&Op) -> bool) {
        pending.retain(|op| {
            let durable = durable(op);
            if durable {
                self.apply(op);
            }
            !durable
        });
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, node } => {
                self.names.insert(path.clone(), Entry::File(*node));
            }
            Op::CreateDir { path } => {
                self.names.insert(path.clone(), Entry::Directory);
            }
            Op::Rename { from, to, entry } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *entry);
            }
            Op::Remove { path } => {
                self.names.remove(path);
            }
            Op::Write {
                node,
                offset,
                bytes,
            } => self.write(*node, *offset, bytes),
            Op::SetLen { node, len } => {
                self.files
                    .entry(*node)
                    .or_default()
                    .0
                    .resize(to_usize(*len), 0);
            }
            Op::SetModified { node, time } => {
                self.files.entry(*node).or_default().1 = Some(*time);
            }
            Op::SyncDir { .. } | Op::Sync { .. } | Op::SyncData { .. } => {}
        }
    }

    fn write(&mut self, node: Node, offset: u64, bytes: &[u8]) {
        let content = &mut self.files.entry(node).or_default().0;
        let (start, end) = (to_usize(offset), to_usize(offset) + bytes.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        if let Some(target) = content.get_mut(start..end) {
            target.copy_from_slice(bytes);
        }
    }

    /// Some sectors of a write.
    fn apply_torn(&mut self, op: &Op, dice: &mut Dice) {
        let Op::Write {
            node,
            offset,
            bytes,
        } = op
        else {
            return self.apply(op);
        };
        let mut at = *offset;
        let mut rest: &[u8] = bytes;
        while !rest.is_empty() {
            let to_boundary = to_usize(SECTOR - at % SECTOR);
            let (sector, after) = rest.split_at(to_boundary.min(rest.len()));
            if dice.toss() {
                self.write(*node, at, sector);
            }
            at += sector.len() as u64;
            rest = after;
        }
    }

    /// Writes the tree to an empty directory. What lies in a directory that was lost is lost with
    /// it.
    pub(super) fn write_to(&self, into: &Path) -> io::Result<()> {
        for (path, entry) in &self.names {
            let lost = path
                .ancestors()
                .skip(1)
                .filter(|parent| !parent.as_os_str().is_empty());
            if lost
                .into_iter()
                .any(|parent| self.names.get(parent) != Some(&Entry::Directory))
            {
                continue;
            }
            match entry {
                Entry::Directory => OsDisk.create_dir(&into.join(path), 0o700)?,
                Entry::File(node) => {
                    let file = OsDisk.create_new(&into.join(path), 0o600)?;
                    let Some((content, modified)) = self.files.get(node) else {
                        continue;
                    };
                    file.write_at(content, 0)?;
                    if let Some(modified) = modified {
                        file.set_modified(*modified)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Op {
    /// The directories in which the operation changes names, `None` when it changes none.
    fn directories(&self) -> Option<impl Iterator<Item = &Path>> {
        let (one, other) = match self {
            Self::Create { path, .. } | Self::CreateDir { path } | Self::Remove { path } => {
                (path, None)
            }
            Self::Rename { from, to, .. } => (to, Some(from)),
            _ => return None,
        };
        Some(
            [Some(one), other]
                .into_iter()
                .flatten()
                .filter_map(|path| path.parent()),
        )
    }

    /// The file whose content or time the operation changes.
    fn node(&self) -> Option<Node> {
        match self {
            Self::Write { node, .. }
            | Self::SetLen { node, .. }
            | Self::SetModified { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// Disks promise to write this many bytes wholly or not at all.
const SECTOR: u64 = 512;

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a recorded file fits in memory")
}

enum Fate {
    Dropped,
    Kept,
    Torn,
}

/// Chooses what happens to what was not synced.
struct Dice {
    unsynced: Unsynced,
    rng: fastrand::Rng,
}

impl Dice {
    fn new(unsynced: Unsynced) -> Self {
        let seed = if let Unsynced::Mixed { seed } = unsynced {
            seed
        } else {
            0
        };
        Self {
            unsynced,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn toss(&mut self) -> bool {
        self.rng.bool()
    }

    fn fate(&mut self, op: &Op) -> Fate {
        match self.unsynced {
            Unsynced::Dropped => Fate::Dropped,
            Unsynced::Kept => Fate::Kept,
            Unsynced::Mixed { .. } if matches!(op, Op::Write { .. }) => match self.rng.u8(0..3) {
                0 => Fate::Dropped,
                1 => Fate::Kept,
                _ => Fate::Torn,
            },
            Unsynced::Mixed { .. } if self.rng.bool() => Fate::Kept,
            Unsynced::Mixed { .. } => Fate::Dropped,
        }
    }
}
