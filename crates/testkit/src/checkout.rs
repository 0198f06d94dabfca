//! Where things are: the checkout, its cache, its programs; and small things every test needs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The root of the checkout this crate was compiled in.
pub fn checkout_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("crates/testkit is two folders below the root")
        .to_path_buf()
}

/// The folder for downloaded programs: `.cache` of the checkout, which git ignores.
pub fn cache_dir() -> PathBuf {
    checkout_root().join(".cache")
}

/// A temporary folder that is deleted when dropped.
///
/// # Panics
///
/// When the folder cannot be created.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("evertide-")
        .tempdir()
        .expect("creating a temporary folder")
}

/// The same in memory, where the system has such a place: for tests of what is in files and not of what becomes of
/// them, which are many and would wait for the disk.
///
/// # Panics
///
/// When the folder cannot be created.
pub fn memory_dir() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    let in_memory = builder.prefix("evertide-").tempdir_in("/dev/shm");
    in_memory.unwrap_or_else(|_| temp_dir())
}

/// A TCP port of the loopback interface that nobody listened on a moment ago.
///
/// # Panics
///
/// When no port can be bound.
pub fn free_port() -> u16 {
    // Below the range that the system draws from for every outgoing connection: a port of that
    // range may be somebody else's before the caller has bound it. No two calls of a process get
    // the same one, since the first caller may not have bound it yet.
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static LAST: LazyLock<Mutex<u16>> = LazyLock::new(|| Mutex::new(fastrand::u16(PORTS)));
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in PORTS {
        *last = if *last + 1 < PORTS.end {
            *last + 1
        } else {
            PORTS.start
        };
        if TcpListener::bind(("127.0.0.1", *last)).is_ok() {
            return *last;
        }
    }
    panic!(
        "no free loopback port from {} to {}",
        PORTS.start,
        PORTS.end - 1
    );
}

/// Polls until `condition` holds.
///
/// # Panics
///
/// When it does not within `deadline`; `what` says what was waited for.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(
            Instant::now() < end,
            "waited {deadline:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Builds a program of this workspace, as `cargo build -p package --bin name`, and returns its path.
///
/// Cargo decides whether it is fresh; that takes a fraction of a second and cannot go stale, which
/// taking whatever lies beside the test's own executable could. Built once for each process, under
/// a lock between processes. The profile is the one this crate was compiled with. With
/// `EVERTIDE_BIN_DIR` set, the program is taken from there and nothing is built.
///
/// # Panics
///
/// When the program does not build.
pub fn workspace_program(package: &str, name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(dir) = std::env::var_os("EVERTIDE_BIN_DIR") {
        let path = PathBuf::from(dir).join(name);
        assert!(
            path.is_file(),
            "{} is missing; EVERTIDE_BIN_DIR says it is there",
            path.display()
        );
        return path;
    }
    let mut built = BUILT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let _lock = lock("build");
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout_root()).args([
        "build",
        "--quiet",
        "--package",
        package,
        "--bin",
        name,
        "--profile",
        profile,
    ]);
    let output = command.output().expect("running cargo");
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = target_dir()
        .join(if profile == "dev" { "debug" } else { "release" })
        .join(name);
    assert!(
        path.is_file(),
        "{command:?} succeeded, yet {} is missing",
        path.display()
    );
    built.insert(name.to_owned(), path.clone());
    path
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => checkout_root().join(dir),
        None => checkout_root().join("target"),
    }
}

/// An exclusive lock between processes, released when the file is dropped.
pub(crate) fn lock(name: &str) -> File {
    let dir = cache_dir();
    fs::create_dir_all(&dir).expect("creating the cache folder");
    let file = File::create(dir.join(format!("{name}.lock"))).expect("creating a lock file");
    file.lock().expect("locking a file of the cache folder");
    file
}
