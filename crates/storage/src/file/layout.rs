//! Names below the root of a file replica.
//!
//! ```text
//! <root>/ltx/<level>/<min>-<max>.ltx               LTX files, as Litestream names them
//! <root>/ltx/<level>/.<name>.<token>.evertide-tmp  objects being written
//! <root>/evertide/<key>                            small objects of our own
//! <root>/evertide/.lock                            locked by who changes one; empty
//! ```
//!
//! Nothing takes a temporary name for an LTX file: those never start with a dot.

use std::path::{Path, PathBuf};

use evertide_ltx::Level;

use crate::SmallKey;

/// Where nobody takes it for a small object.
pub(super) const LOCK: &str = ".lock";

/// The directory of a level.
pub(super) fn level_dir(root: &Path, level: Level) -> PathBuf {
    root.join("ltx").join(level.to_string())
}

/// The directory of small objects.
pub(super) fn small_dir(root: &Path) -> PathBuf {
    root.join("evertide")
}

/// The file that is locked by who changes a small object.
pub(super) fn lock_path(root: &Path) -> PathBuf {
    small_dir(root).join(LOCK)
}

/// The path of a small object.
pub(super) fn small_path(root: &Path, key: &SmallKey) -> PathBuf {
    small_dir(root).join(key.as_str())
}
