//! The last proof: a restore, SQLite's own check of it, and its checksum.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use evertide_ltx::{Checksum, PageSize, Pgno, Txid};
use evertide_storage::{Disk, ReplicaClient};
use rusqlite::ErrorCode;

use super::{
    Finding, FindingKind, VerifyError, VerifyOptions, VerifyProgress, VerifyReport, VerifyStage,
    place::Place, progress::Observer,
};
use crate::{
    IntegrityCheck, RestoreError, RestoreOptions, RestoreProgress, RestoreReport, RestoreStage,
    restore, runtime::blocking,
};

/// Bytes of the restored database that are read at a time, a multiple of every page size.
const PIECE: usize = 1 << 20;

/// What a restore proved.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProvenRestore {
    /// The transaction that was restored. SQLite found nothing wrong with the database.
    pub txid: Txid,
    /// The size of the database, in bytes.
    pub database_bytes: u64,
    /// Its checksum, as read back from disk.
    pub database_checksum: u64,
    /// How long the restore took, with the check.
    pub duration: Duration,
}

/// Restores the newest state to a temporary place, checks it, and removes it. Adds to the report what
/// it found.
pub(super) async fn prove(
    options: &VerifyOptions,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let started = Instant::now();
    let mut newest = Newest::new(
        Arc::clone(&options.replica),
        options.parallelism,
        Arc::clone(&options.disk),
        options.temporary.clone(),
    );
    newest.observer = options.observer.clone();
    let (restored, checksum) = match newest.restore().await {
        Ok(restored) => restored,
        Err(Unrestored::Replica(error)) => return failed(options, report, error),
        Err(Unrestored::Temporary(action, error)) => {
            return Err(VerifyError::temporary(action, &options.temporary)(error));
        }
    };
    if let Some(problem) = difference(report, &restored, checksum) {
        report.findings.insert(0, Finding::new(
            FindingKind::Restore,
            &report.location,
            problem,
            "what is restored is not what the files hold; check the memory and the disks of this \
             machine, and verify again",
        ));
    }
    report.restored = Some(ProvenRestore {
        txid: restored.txid,
        database_bytes: restored.database_bytes,
        database_checksum: checksum.get(),
        duration: started.elapsed(),
    });
    Ok(())
}

/// The newest state of a replica, to be restored for the sake of it.
pub(crate) struct Newest {
    replica: Arc<dyn ReplicaClient>,
    parallelism: usize,
    disk: Arc<dyn Disk>,
    /// Where a place for it is made.
    temporary: PathBuf,
    observer: Option<Observer>,
}

/// Why it could not be restored.
#[derive(Debug)]
pub(crate) enum Unrestored {
    /// The restore failed.
    Replica(RestoreError),
    /// Something that was tried with the temporary files failed.
    Temporary(&'static str, io::Error),
}

impl Newest {
    /// To be restored to a place of its own below `temporary`, with so many requests to the replica at a
    /// time.
    pub(crate) fn new(
        replica: Arc<dyn ReplicaClient>,
        parallelism: usize,
        disk: Arc<dyn Disk>,
        temporary: PathBuf,
    ) -> Self {
        Self {
            replica,
            parallelism,
            disk,
            temporary,
            observer: None,
        }
    }

    /// Restores it, has SQLite check the whole database, reads its checksum back from disk, and removes
    /// it: also when this is dropped before its end.
    pub(crate) async fn restore(self) -> Result<(RestoreReport, Checksum), Unrestored> {
        let (disk, temporary) = (Arc::clone(&self.disk), self.temporary.clone());
        let place = blocking(move || Place::create(disk, &temporary)).await;
        let place = place.map_err(|error| Unrestored::Temporary("make a directory in", error))?;
        let path = place.database();
        let restored = restore(self.options(&path)).await;
        let restored = restored.map_err(Unrestored::Replica)?;
        let (disk, page_size) = (self.disk, restored.page_size);
        let unwanted = SetOnDrop(Arc::default());
        let stop = Arc::clone(&unwanted.0);
        let checksum = blocking(move || checksum_of(&*disk, &path, page_size, &stop)).await;
        let checksum = checksum.map_err(|error| Unrestored::Temporary("read back", error));
        // To remove a large file takes a while.
        blocking(move || drop(place)).await;
        Ok((restored, checksum?))
    }

    fn options(&self, output: &Path) -> RestoreOptions {
        let mut restore = RestoreOptions::new(Arc::clone(&self.replica), output);
        restore.integrity_check = IntegrityCheck::Full;
        restore.parallelism = self.parallelism;
        restore.disk = Arc::clone(&self.disk);
        match self.observer.clone() {
            Some(Observer(tell)) => {
                restore.on_progress(move |progress| tell(&progress_of(progress)))
            }
            None => restore,
        }
    }
}

/// Tells a thread that nobody waits for it any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn progress_of(progress: &RestoreProgress) -> VerifyProgress {
    VerifyProgress {
        stage: match progress.stage {
            RestoreStage::Checking => VerifyStage::Checking,
            _ => VerifyStage::Restoring,
        },
        bytes: progress.bytes,
        total_bytes: progress.total_bytes,
    }
}

/// Tells what is wrong with the replica from what is wrong here.
fn failed(
    options: &VerifyOptions,
    report: &mut VerifyReport,
    error: RestoreError,
) -> Result<(), VerifyError> {
    match error {
        // A damaged file may claim a size that no disk has; then the disk is not to blame.
        RestoreError::Io { action, source, .. } if report.is_sound() => {
            let page_size = report.page_size.map_or(0, PageSize::get);
            return Err(VerifyError::Room {
                path: options.temporary.clone(),
                action,
                source,
                needed: u64::from(report.pages) * u64::from(page_size),
            });
        }
        // SQLite could not look at it, which says nothing about the replica.
        RestoreError::Check(error) if report.is_sound() && !finds_fault(&error) => {
            return Err(VerifyError::Temporary {
                path: options.temporary.clone(),
                action: "check the restored database in",
                source: io::Error::other(error),
            });
        }
        // All files could be read a moment ago: the store, or the way to it, has failed since.
        RestoreError::Replica(error) => return Err(VerifyError::Replica(error)),
        RestoreError::Interrupted { ref location, .. } if report.is_sound() => {
            let (location, reason) = (location.clone(), error.to_string());
            return Err(VerifyError::Unreadable { location, reason });
        }
        RestoreError::Cancelled => return Err(VerifyError::Cancelled),
        RestoreError::Start(error) => return Err(VerifyError::Start(error)),
        // There is a finding that says so.
        RestoreError::NoBackup { .. } => return Ok(()),
        _ => {}
    }
    let meaning = match (&error, report.txid) {
        (RestoreError::Corrupt { .. } | RestoreError::Check(_), _) => {
            "the database may have been so when it was captured: run `PRAGMA integrity_check` on it, \
             and restore an earlier state with `--txid`"
                .to_owned()
        }
        (_, Txid::ZERO) => "nothing can be restored".to_owned(),
        (_, txid) => format!("`restore --txid {txid}` may still do"),
    };
    let problem = format!("a restore of the newest state fails: {error}");
    let found = Finding::new(FindingKind::Restore, &report.location, problem, meaning);
    report.findings.insert(0, found);
    Ok(())
}

/// Whether SQLite says that a database is damaged, as opposed to that it cannot read it.
fn finds_fault(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// Compares with what the files were found to hold, if that is the same state.
fn difference(
    report: &VerifyReport,
    restored: &RestoreReport,
    checksum: Checksum,
) -> Option<String> {
    if restored.txid != report.txid {
        return None;
    }
    let expected = Checksum::new(report.database_checksum?);
    (expected != checksum).then(|| {
        format!(
            "the database restored to transaction {} has the checksum {checksum}, where its files \
             make {expected}",
            restored.txid
        )
    })
}

/// The checksum of a database file: the XOR of those of its pages.
fn checksum_of(
    disk: &dyn Disk,
    path: &Path,
    page_size: PageSize,
    stop: &AtomicBool,
) -> io::Result<Checksum> {
    let file = disk.open_read(path)?;
    let (mut piece, mut offset) = (vec![0; PIECE], 0);
    let (mut number, mut sum) = (0_u32, Checksum::EMPTY);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = file.read_at(&mut piece, offset)?;
        if read == 0 {
            return Ok(sum);
        }
        offset += read as u64;
        for page in piece
            .get(..read)
            .unwrap_or_default()
            .chunks(page_size.len())
        {
            number += 1;
            match Pgno::new(number) {
                Some(pgno) if pgno != page_size.lock_page() => {
                    sum = sum.toggle(Checksum::page(pgno, page));
                }
                _ => {}
            }
        }
    }
}
