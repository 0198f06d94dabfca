//! Damage to a replica, to see that the comparison notices.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::replica::{LtxFile, ltx_files};

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The newest files of level 0 are gone: the last commits are lost, and nothing else shows it.
    DropNewest,
    /// A file in the middle of level 0 is gone.
    DropMiddle,
    /// One byte in the middle of a file of level 0 is another.
    FlipByte,
}

/// Damages the replica.
pub(crate) fn plant(fault: Fault, replica: &Path, rng: &mut fastrand::Rng) -> Result<PathBuf> {
    let files = ltx_files(replica)?;
    let (mut files, covering): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| file.level == 0);
    // A snapshot of an empty database and one file more could hide what is damaged.
    let count = files.len();
    anyhow::ensure!(
        count >= 3,
        "{count} files of level 0 are too few to damage one"
    );
    let victims = match fault {
        // The last one may change nothing: an orderly stop leaves one for Litestream to go on from.
        Fault::DropNewest => files.split_off(count - 2),
        Fault::DropMiddle | Fault::FlipByte => {
            vec![files.swap_remove(rng.usize(1..count - 1))]
        }
    };
    // Compaction may have been there already: what is made of the damaged file would hide the damage.
    let hides = |file: &LtxFile| {
        let mut victims = victims.iter();
        victims.any(|victim| file.min <= victim.min && victim.max <= file.max)
    };
    for LtxFile { path, .. } in covering.iter().filter(|file| hides(file)) {
        fs::remove_file(path).with_context(|| format!("deleting {}", path.display()))?;
    }
    for LtxFile { path, .. } in &victims {
        match fault {
            Fault::DropNewest | Fault::DropMiddle => {
                fs::remove_file(path).with_context(|| format!("deleting {}", path.display()))?;
            }
            Fault::FlipByte => {
                let file = File::options().read(true).write(true).open(path)?;
                let offset = file.metadata()?.len() / 2;
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset)?;
                file.write_all_at(&[byte[0] ^ 0x10], offset)?;
            }
        }
    }
    let first = victims.into_iter().next().context("a file to damage")?;
    Ok(first.path)
}
