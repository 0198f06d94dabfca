//! What a followed replica has, and how to get there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use evertide_ltx::{Level, Txid};
use evertide_storage::LtxObject;
use tokio::sync::{mpsc, watch};

use super::{
    FollowError, FollowEvent, FollowOptions, FollowReport,
    copy::{Committed, Copy, Found},
    paths::Paths,
    stage::Staged,
};
use crate::{
    RestoreError, RestoreTarget,
    restore::{Feed, Message, Stopped, Trouble, extend, listing, send_all},
    runtime::blocking,
};

/// Chunks between those who read and those who decode.
const CHUNKS: usize = 8;
/// How long the other levels are left alone while nothing is new on level 0, at least.
const FULL_LISTING: Duration = Duration::from_secs(10);
/// The pause between two tries to get a lock: readers get a chance, too.
const PAUSE: Duration = Duration::from_millis(50);
/// How often waiting is reported.
const REPORT: Duration = Duration::from_secs(10);

/// A copy, and what is known of its replica.
pub(super) struct Poll {
    pub(super) options: FollowOptions,
    paths: Paths,
    /// Missing only while it is used elsewhere, and after a failure.
    copy: Option<Copy>,
    txid: Txid,
    stopped: watch::Receiver<bool>,
    files: u64,
    /// When all levels were listed last.
    listed: Option<Instant>,
}

impl Poll {
    pub(super) fn new(
        options: FollowOptions,
        paths: Paths,
        copy: Copy,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            options,
            paths,
            txid: copy.state().txid,
            copy: Some(copy),
            stopped,
            files: 0,
            listed: None,
        }
    }

    pub(super) fn report(&self) -> FollowReport {
        FollowReport {
            txid: Some(self.txid),
            files: self.files,
        }
    }

    /// Opens the copy anew, after a failure that may have left it half changed.
    async fn reopen(&mut self) -> Result<(), FollowError> {
        let paths = self.paths.clone();
        let location = self.options.restore.replica.location();
        let opened = blocking(move || Copy::open(&paths, location)).await?;
        let Found::Copy(copy) = opened else {
            return Err(FollowError::Changed(self.paths.database.clone()));
        };
        self.txid = copy.state().txid;
        self.copy = Some(*copy);
        Ok(())
    }

    /// Applies everything that is there.
    pub(super) async fn catch_up(&mut self) -> Result<(), FollowError> {
        let done = self.apply_all().await;
        if done.is_err() {
            // Compaction or retention may have been faster: look again what there is.
            self.listed = None;
        }
        done
    }

    async fn apply_all(&mut self) -> Result<(), FollowError> {
        if self.copy.is_none() {
            self.reopen().await?;
        }
        let mut stopped = self.stopped.clone();
        loop {
            let files = tokio::select! {
                files = self.plan() => files?,
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            };
            if files.is_empty() {
                return Ok(());
            }
            for file in &files {
                if *self.stopped.borrow() {
                    return Ok(());
                }
                self.apply(file).await?;
            }
        }
    }

    /// The files that lead on. Level 0 alone, as long as it does.
    async fn plan(&mut self) -> Result<Vec<LtxObject>, FollowError> {
        let client = &*self.options.restore.replica;
        let due = self.options.interval.saturating_mul(10).max(FULL_LISTING);
        if self.listed.is_some_and(|listed| listed.elapsed() < due) {
            let level0 = client.list(Level::L0, Some(self.txid)).await;
            let level0 = level0.map_err(RestoreError::from)?;
            if let Ok(files) = extend(&level0, RestoreTarget::Latest, self.txid) {
                return Ok(files);
            }
        }
        let all = listing(client, RestoreTarget::Latest).await?;
        let location = client.location();
        let Some(newest) = all.iter().map(|file| file.name.max).max() else {
            return Err(RestoreError::NoBackup { location }.into());
        };
        if newest < self.txid {
            let have = self.txid;
            return Err(FollowError::OtherHistory {
                location,
                have,
                newest,
            });
        }
        let files = extend(&all, RestoreTarget::Latest, self.txid)
            .map_err(|obstacle| RestoreError::obstacle(location, obstacle))?;
        self.listed = Some(Instant::now());
        Ok(files)
    }

    async fn apply(&mut self, object: &LtxObject) -> Result<(), FollowError> {
        let mut stopped = self.stopped.clone();
        // A store that does not answer must not delay the end; a change that has begun may.
        let staged = tokio::select! {
            staged = self.stage(object) => staged?,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let pages = match staged {
            Some(staged) => {
                let pages = staged.pages;
                if !self.commit(staged).await? {
                    return Ok(()); // told to stop meanwhile
                }
                pages
            }
            None => {
                let object = object.clone();
                self.with_copy(move |copy| copy.advance(&object)).await?;
                0
            }
        };
        self.txid = object.name.max;
        self.files += 1;
        let (txid, created) = (self.txid, object.created);
        tracing::debug!(%txid, pages, "the copy has a new state");
        self.options.tell(&FollowEvent::Applied {
            txid,
            created,
            pages,
        });
        Ok(())
    }

    /// Fetches a file, and has it verified and prepared as it comes.
    async fn stage(&mut self, object: &LtxObject) -> Result<Option<Staged>, FollowError> {
        let (sender, mut files) = mpsc::channel(CHUNKS);
        let client = Arc::clone(&self.options.restore.replica);
        let (parallelism, wanted) = (self.options.restore.parallelism, object.clone());
        let fetch = async {
            let files = std::slice::from_ref(&wanted);
            let fetched = send_all(&client, parallelism, &sender, files, &mut 0).await;
            drop(sender);
            fetched
        };
        let planned = object.clone();
        let staged = self.with_copy(move |copy| {
            // Without a beginning, whoever fetches knows why.
            while !matches!(files.blocking_recv(), Some(Message::Begin(_))) {
                if files.is_closed() && files.is_empty() {
                    return Err(RestoreError::Cancelled.into());
                }
            }
            copy.stage(Feed::new(&mut files), &planned)
        });
        let (fetched, staged) = tokio::join!(fetch, staged);
        match fetched {
            Ok(()) | Err(Trouble::Stopped(Stopped::Receiver)) => staged,
            Err(Trouble::Stopped(Stopped::Failed(error))) => Err(error.into()),
            Err(Trouble::Gone(gone)) => Err(RestoreError::Vanished {
                location: client.location(),
                file: gone.name.to_string(),
            }
            .into()),
        }
    }

    /// Makes a change; `false` where the end came before the readers let it.
    async fn commit(&mut self, staged: Staged) -> Result<bool, FollowError> {
        let (begun, mut reported) = (Instant::now(), Duration::ZERO);
        let mut next = staged;
        loop {
            let staged = next;
            match self.with_copy(move |copy| copy.commit(staged)).await {
                Ok(Committed::Done) => return Ok(true),
                Ok(Committed::Busy(staged)) => next = staged,
                Err(error) => {
                    self.copy = None;
                    return Err(error);
                }
            }
            let waited = begun.elapsed();
            if waited >= reported + REPORT {
                reported = waited;
                tracing::warn!(?waited, "readers keep the copy from being updated");
                self.options
                    .tell(&FollowEvent::WaitingForReaders { waited });
            }
            tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return Ok(false),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Works with the copy on a thread that may block. It goes on where nobody waits any more.
    async fn with_copy<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Copy) -> Result<T, FollowError> + Send + 'static,
    ) -> Result<T, FollowError> {
        let Some(mut copy) = self.copy.take() else {
            return Err(RestoreError::Cancelled.into());
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut copy);
            (copy, done)
        });
        match done.await {
            Ok((copy, done)) => {
                self.copy = Some(copy);
                done
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(RestoreError::Cancelled.into()),
        }
    }
}
