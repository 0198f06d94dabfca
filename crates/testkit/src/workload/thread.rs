//! A writer as a thread of this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::writer::{Writer, WriterError, WriterOptions, WriterReport};

/// A request to stop, shared by clones.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every holder of a clone to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A writer in a thread of this process; stopped and joined when dropped.
#[derive(Debug)]
pub struct WriterThread {
    stop: Stop,
    thread: Option<JoinHandle<Result<WriterReport, WriterError>>>,
}

impl WriterThread {
    /// Opens the database and starts to write.
    ///
    /// # Errors
    ///
    /// When the database cannot be opened.
    pub fn start(path: impl AsRef<Path>, options: WriterOptions) -> Result<Self, WriterError> {
        let path: PathBuf = path.as_ref().to_path_buf();
        let mut writer = Writer::open(path, options)?;
        let stop = Stop::new();
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || writer.run_until(&theirs).cloned());
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Lets the current operation finish, and returns what was done.
    ///
    /// # Errors
    ///
    /// When an operation failed, with the first error.
    ///
    /// # Panics
    ///
    /// When the writer panicked.
    pub fn stop(mut self) -> Result<WriterReport, WriterError> {
        self.stop.request();
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("a writer does not panic")
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
