//! Watching the WAL from outside: its header changes whenever it starts over.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that counts how often the WAL's salts change.
pub(crate) struct WalWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl WalWatch {
    pub(crate) fn start(database: &Path) -> Self {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut last, mut changes) = (None, 0);
            while !theirs.load(Ordering::Relaxed) {
                let salts = salts(Path::new(&wal));
                if salts.is_some() && salts != last {
                    changes += 1;
                    last = salts;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            changes
        });
        Self { stop, thread }
    }

    /// How often they changed.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

/// No lock of SQLite's is on the WAL, so it may be opened and closed by anybody.
fn salts(wal: &Path) -> Option<[u8; 8]> {
    let mut header = [0; 24];
    File::open(wal).ok()?.read_exact(&mut header).ok()?;
    header.get(16..24)?.try_into().ok()
}
