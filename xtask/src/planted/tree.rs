//! A copy of the checkout, in which faults are planted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Fault;
use crate::cargo::{command, output_of};

/// The copy. It stays in `target/planted`, so that the next run builds less.
pub(super) struct Tree {
    from: PathBuf,
    root: PathBuf,
    /// Keeps another run from planting here at the same time.
    _lock: File,
}

impl Tree {
    /// Copies what git knows or would, as it is now, also where it is not committed.
    pub(super) fn copy(from: &Path) -> Result<Self> {
        let root = from.join("target/planted/tree");
        fs::create_dir_all(&root)?;
        let lock = File::create(from.join("target/planted/lock"))?;
        lock.try_lock()
            .context("another run plants faults in `target/planted`; wait until it has ended")?;
        let tree = Self {
            from: from.to_owned(),
            root,
            _lock: lock,
        };
        let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let names = output_of(command("git").args(list))?;
        let names: BTreeSet<&str> = names
            .lines()
            .filter(|name| from.join(name).is_file())
            .collect();
        for name in &names {
            tree.take(name)?;
        }
        remove_others(&tree.root, &names)?;
        let cache = tree.root.join(".cache");
        if !cache.exists() {
            let programs = fs::canonicalize(from.join(".cache"))
                .context("the programs of others: run `cargo xtask install`")?;
            std::os::unix::fs::symlink(programs, cache)?;
        }
        Ok(tree)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the copy is built.
    pub(super) fn target(&self) -> PathBuf {
        self.from.join("target/planted/build")
    }

    /// Makes a file of the copy the one of the checkout. One that is it already keeps its time, and
    /// nothing is built anew for it.
    fn take(&self, name: &str) -> Result<()> {
        let (from, to) = (self.from.join(name), self.root.join(name));
        let content = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        if fs::read(&to).is_ok_and(|found| found == content) {
            return Ok(());
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&to, content).with_context(|| format!("writing {}", to.display()))
    }

    /// Replaces the one place of a file of the copy, does something, and puts the file back. The checkout
    /// may change meanwhile.
    pub(super) fn with<T>(&self, fault: &Fault, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let path = self.root.join(fault.file);
        let text = fs::read_to_string(&path)?;
        if text.matches(fault.right).count() != 1 {
            bail!(
                "the fault does not apply to {} any more: {:?} is not there once",
                fault.file,
                fault.right
            );
        }
        fs::write(&path, text.replacen(fault.right, fault.wrong, 1))?;
        let done = work();
        fs::write(&path, text)?;
        done
    }
}

/// Removes the files that are not among these names: a module that has moved would be there twice. What is built or
/// installed stays.
fn remove_others(root: &Path, names: &BTreeSet<&str>) -> Result<()> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            let kept = [".cache", "target"]
                .iter()
                .any(|kept| name == Path::new(kept));
            if kept {
                continue;
            } else if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if name.to_str().is_none_or(|name| !names.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_from_the_checkout_goes_from_the_copy_and_nothing_else_does() {
        let root = std::env::temp_dir().join(format!("evertide-tree-{}", std::process::id()));
        let all = [
            "a/mod.rs",
            "a.rs",
            "a/b/gone.rs",
            "target/built",
            ".cache/program",
        ];
        for name in all {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        remove_others(&root, &BTreeSet::from(["a/mod.rs"])).unwrap();
        let left = all.map(|name| root.join(name).exists());
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(left, [true, false, false, true, true]);
    }
}
