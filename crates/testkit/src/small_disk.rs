//! File systems that are small, and full.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

const BLOCK: usize = 4_096;

/// Runs a program, in the folder that the command is given, with a file system of this size (`64m`) on its folder
/// `small`, which has to be there and which nobody else sees.
pub fn with_small_disk(size: &str, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size={size} none small && exec \"$0\" \"$@\""
        ))
        .arg(program);
    command
}

/// A file that takes all the room there is, until it is dropped.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// Fills the file system of a folder but for so many blocks of 4 KiB.
    ///
    /// # Panics
    ///
    /// When there is not so much room.
    pub fn new(dir: &Path, but: u64) -> Self {
        let path = dir.join("filler");
        let mut file = File::create(&path).expect("a file");
        let mut blocks = 0;
        while file.write_all(&[1; BLOCK]).is_ok() {
            blocks += 1;
        }
        assert!(blocks > but, "only {blocks} blocks were free");
        file.set_len((blocks - but) * BLOCK as u64)
            .expect("a shorter file");
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("nobody else removes it");
    }
}
