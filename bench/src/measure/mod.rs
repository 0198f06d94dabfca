//! One file for each measurement.

mod cost;
mod lag;
mod restore;
mod throughput;

pub(crate) use cost::cost;
pub(crate) use lag::lag;
pub(crate) use restore::restore;
pub(crate) use throughput::throughput;

use std::path::Path;

/// Deletes a database with what lies beside it, and its replica. What is not there needs no deleting.
fn remove(database: &Path, replica: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        std::fs::remove_file(path).ok();
    }
    std::fs::remove_dir_all(replica).ok();
    let (Some(folder), Some(name)) = (database.parent(), database.file_name()) else {
        return;
    };
    for whose in ["litestream", "evertide"] {
        let state = format!(".{}-{whose}", name.to_string_lossy());
        std::fs::remove_dir_all(folder.join(state)).ok();
    }
}
