//! New files for their owner alone, with a key or credentials in them.
//!
//! Such a file is written as `.NAME.writing-<16 hexadecimal digits>` beside its place, and gets its
//! name when it is whole and on the disk. Its writer holds a lock on it until then, so that whoever
//! writes a file of that name next can tell what a killed one left, and removes it.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

/// Writes a file that must not exist, mode 0600, and returns when it and its name are on the disk.
/// Whatever happens, it is there whole or not at all, and no other file is ever overwritten.
/// (Where the file system has neither renames that never replace nor hard links, a file that is not
/// whole can be left when the power goes.)
///
/// # Errors
///
/// [`ErrorKind::AlreadyExists`] where there is anything at the path; what the operating system says
/// where it cannot be written. Nothing is left behind then.
pub fn write_new_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    sweep(path);
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let temporary = temporary(path);
    let named = create(&temporary).and_then(|file| {
        // Where there are no locks, nobody takes it for left behind, either.
        let _ = file.try_lock();
        let named = fill(&file, bytes).and_then(|()| give_name(&temporary, path));
        if named.is_err() {
            remove(&temporary);
        }
        named
    });
    match named {
        Ok(()) => finish(path, sync_directory(path)),
        // Such a name is too long or not allowed here, or no file can get another one.
        Err(error) if is_no_way(error.kind()) => {
            let file = create(path)?;
            let written = fill(&file, bytes).and_then(|()| sync_directory(path));
            finish(path, written)
        }
        Err(error) => Err(error),
    }
}

fn is_no_way(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidFilename | ErrorKind::PermissionDenied | ErrorKind::Unsupported
    )
}

/// Removes the file that was just made where it may not be on the disk.
fn finish(path: &Path, written: io::Result<()>) -> io::Result<()> {
    if written.is_err() {
        remove(path);
    }
    written
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn fill(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames a file, but never over another one.
fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::{
            errno::Errno,
            fcntl::{AT_FDCWD, RenameFlags, renameat2},
        };
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => return Ok(()),
            // The file system or the kernel cannot; a hard link can do the same.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    std::fs::hard_link(from, to)?;
    // A second name of a key that nobody knows of must not stay.
    #[expect(clippy::disallowed_methods, reason = "a file made just now")]
    let removed = std::fs::remove_file(from);
    finish(to, removed)
}

/// Removes what was written for this path by somebody who was killed.
fn sweep(path: &Path) {
    let prefix = prefix(path);
    let Ok(entries) = std::fs::read_dir(directory(path)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes());
        let is_temporary = rest.is_some_and(|rest| {
            let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            rest.len() == 16 && rest.iter().all(is_digit)
        });
        if is_temporary
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            remove(&entry.path());
        }
    }
}

/// A name beside the path that nothing else has.
fn temporary(path: &Path) -> PathBuf {
    let mut name = prefix(path);
    let random = RandomState::new().hash_one(());
    name.push(format!("{random:016x}"));
    directory(path).join(name)
}

fn prefix(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".writing-");
    name
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn remove(path: &Path) {
    #[expect(clippy::disallowed_methods, reason = "an unfinished file of ours")]
    let _ = std::fs::remove_file(path);
}

/// Makes the new name itself survive a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    match OpenOptions::new().read(true).open(directory(path)) {
        Ok(directory) => match directory.sync_all() {
            // Some network file systems cannot sync a directory: no more can be done.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            other => other,
        },
        // A directory one may write to but not list. The file itself is on the disk.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}
