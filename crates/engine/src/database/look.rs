//! Looking at the database: what is captured, and what is done when that fails.

use std::time::Duration;

use evertide_ltx::Txid;
use humantime::format_rfc3339_seconds;
use tokio::time::Instant;

use super::{Captured, Database, FIRST_RETRY, slow_look};
use crate::{
    DatabaseState, Error, backoff,
    capture::{AttachOutcome, CaptureError, Due},
    error::describe,
    failing::{self, Work},
    watch::FILES,
};

const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What a look came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Looked {
    /// Everything that was committed before is captured, or there is no database.
    Complete,
    /// Somebody was in the way; it is tried again soon.
    Behind,
    /// It failed; the status says why, and it is tried again later.
    Failed,
}

impl Database {
    pub(super) async fn noticed(&mut self) {
        self.schedule.looks = 0;
        if self.notices.take() & FILES != 0 {
            self.check_files().await;
        }
        self.look(self.due()).await;
    }

    /// The slow look, for what no notice told.
    pub(super) async fn tick(&mut self) {
        let since_look = self.schedule.last_look.elapsed();
        // The last look may have been just after the last tick.
        let interval = slow_look(&self.options, self.watch.as_ref()) / 2;
        let checkpoint = self
            .schedule
            .unfinished_since
            .is_some_and(|since| since.elapsed() >= self.options.checkpoint_interval);
        if since_look >= interval || checkpoint {
            self.check_files().await;
            self.look(if checkpoint {
                Due::NowAndCheckpoint
            } else {
                self.due()
            })
            .await;
        }
    }

    /// Whether the sync interval allows a capture now.
    pub(super) fn due(&self) -> Due {
        let interval = self.sync_interval();
        match self.schedule.last_capture {
            Some(last) if last.elapsed() < interval && self.syncs.is_empty() => Due::Later,
            _ => Due::Now,
        }
    }

    pub(super) fn sync_interval(&self) -> Duration {
        let intervals = self
            .replicas
            .iter()
            .map(|replica| replica.options.sync_interval);
        intervals.min().unwrap_or(Duration::from_secs(1))
    }

    /// Looks, and answers those who wait for what was committed before.
    pub(super) async fn look(&mut self, due: Due) -> Looked {
        self.asked = false;
        if !self.syncs.is_empty() {
            // They may have written to another file of this name, of which no notice has told yet.
            self.check_files().await;
        }
        let looked = self.take_step(due).await;
        if looked != Looked::Behind {
            for reply in std::mem::take(&mut self.syncs) {
                let _ = reply.send(self.sync_result());
            }
        }
        looked
    }

    /// Takes a step, and decides when to look again.
    async fn take_step(&mut self, due: Due) -> Looked {
        self.schedule.last_look = Instant::now();
        self.schedule.next_look = None;
        if !self.is_attached() {
            self.watch_again();
            if let Err(error) = self.attach().await {
                return self.failed(&error).await;
            }
            if !self.is_attached() {
                self.schedule.failures = 0;
                return Looked::Complete; // there is no database
            }
        }
        let mut outcome = self.with_capture(move |capture| capture.step(due)).await;
        if let Err(CaptureError::Discontinuity(reason)) = &outcome {
            self.reattach(reason).await;
            if !self.is_attached() {
                return Looked::Failed;
            }
            outcome = self.with_capture(move |capture| capture.step(due)).await;
        }
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(CaptureError::Failed(error)) => return self.failed(&error).await,
            Err(CaptureError::Discontinuity(reason)) => {
                let path = self.config.path.clone();
                return self.failed(&Error::Failing { path, reason }).await;
            }
        };
        self.schedule.failures = 0;
        self.works(DatabaseState::Running);
        self.publish();
        self.limit_stage().await;
        self.schedule.plan(&outcome, due, self.sync_interval());
        match outcome.complete {
            true => Looked::Complete,
            false => Looked::Behind,
        }
    }

    /// Looks whether the database is still the file that was attached to, and attaches to what is there if
    /// it is not.
    pub(super) async fn check_files(&mut self) -> bool {
        let in_place = self.with_capture(|capture| capture.files_in_place()).await;
        match in_place {
            Ok(true) => return true,
            Ok(false) => self.reattach("the database was removed or replaced").await,
            Err(error) => {
                self.failed(&error).await;
            }
        }
        false
    }

    pub(super) async fn reattach(&mut self, reason: &str) {
        tracing::warn!(
            database = %self.config.path.display(), reason,
            "continuity of the capture is not certain; comparing all pages"
        );
        self.give_up_images();
        self.watch_again();
        if let Err(error) = self.attach().await {
            self.failed(&error).await;
        }
    }

    /// Watches the directory that is there now, which may be another one than before.
    fn watch_again(&mut self) {
        // Before the new one is there: it has the same names.
        self.watch = None;
        self.watch = self.engine.watcher.watch(&self.config.path, &self.notices);
        let interval = slow_look(&self.options, self.watch.as_ref());
        self.ticks = self.engine.ticks(interval);
    }

    /// Opens the database and continues.
    pub(super) async fn attach(&mut self) -> Result<(), Error> {
        let outcome = self.with_capture(|capture| capture.attach()).await;
        let path = self.config.path.display();
        let state = match outcome {
            Ok(AttachOutcome::Missing) => {
                tracing::info!(database = %path, "waiting for the database to appear");
                DatabaseState::Waiting
            }
            Ok(AttachOutcome::Resumed) => {
                tracing::info!(database = %path, "continuing where the last capture ended");
                DatabaseState::Running
            }
            Ok(AttachOutcome::Rebased { reason, pages: 0 }) => {
                tracing::info!(database = %path, reason, "compared all pages: nothing was missed");
                DatabaseState::Running
            }
            Ok(AttachOutcome::Rebased { reason, pages }) => {
                metrics::counter!("evertide_rebases_total").increment(1);
                tracing::warn!(
                    database = %path, reason, pages,
                    "re-based: compared all pages, and captured those that differ"
                );
                DatabaseState::Running
            }
            Ok(AttachOutcome::NeedsSnapshot { reason: None }) => {
                tracing::info!(database = %path, "starting with a full snapshot");
                DatabaseState::Running
            }
            Ok(AttachOutcome::NeedsSnapshot {
                reason: Some(reason),
            }) => {
                tracing::warn!(database = %path, reason, "a full snapshot is needed");
                DatabaseState::Running
            }
            Err(CaptureError::Discontinuity(reason)) => {
                let path = self.config.path.clone();
                return Err(Error::Failing { path, reason });
            }
            Err(CaptureError::Failed(error)) => return Err(error),
        };
        // What has failed may fail again in the step that follows.
        if state == DatabaseState::Waiting || self.status.borrow().failing_since.is_none() {
            self.works(state);
        }
        self.publish();
        if state == DatabaseState::Running {
            let known = self.capture.as_ref().is_some_and(|c| c.has_table());
            if !known && self.status.borrow().txid > Txid::ZERO {
                self.pending.want_table();
            }
            self.schedule.next_look = Some(Instant::now());
        }
        Ok(())
    }

    /// Notes that nothing is wrong.
    fn works(&self, state: DatabaseState) {
        let mut since = None;
        self.status.send_if_modified(|status| {
            since = status.failing_since.take();
            let mended = status.error.take().is_some();
            std::mem::replace(&mut status.state, state) != state || mended
        });
        if let Some(since) = since {
            let failed_for = failing::duration(since, self.config.clock.now());
            tracing::info!(database = %self.config.path.display(), %failed_for, "capture works again");
            self.publish_failing();
        }
    }

    /// Notes a failure, lets go of the database, and tries again later.
    pub(super) async fn failed(&mut self, error: &Error) -> Looked {
        self.schedule.failures = self.schedule.failures.saturating_add(1);
        let pause = backoff::pause(FIRST_RETRY, LONGEST_RETRY, self.schedule.failures);
        self.schedule.next_look = Some(Instant::now() + pause);
        let (text, now) = (describe(error), self.config.clock.now());
        let since = self.status.borrow().failing_since.unwrap_or(now);
        tracing::error!(
            database = %self.config.path.display(),
            error = text, since = %format_rfc3339_seconds(since),
            "capture fails"
        );
        metrics::counter!("evertide_capture_failures_total").increment(1);
        self.status.send_modify(|status| {
            status.state = DatabaseState::Failing;
            status.error = Some(text);
            status.failing_since = Some(since);
        });
        self.publish_failing();
        self.give_up_images();
        self.with_capture(|capture| capture.detach()).await;
        Looked::Failed
    }

    /// Has the metrics say since when capture fails.
    pub(super) fn publish_failing(&self) {
        let status = self.status.borrow();
        failing::publish(Work::Capture, &status.path, "", status.failing_since);
    }

    /// Tells replicas and status what is captured.
    pub(super) fn publish(&mut self) {
        let Some(capture) = &self.capture else { return };
        let now = Captured::of(capture);
        let stats = capture.stats.clone();
        let position = capture.position().copied();
        let unfinished = stats.backfilled < stats.wal_frames;
        if !unfinished {
            self.schedule.unfinished_since = None;
        } else {
            self.schedule
                .unfinished_since
                .get_or_insert_with(Instant::now);
        }
        let advanced = self.captured.send_if_modified(|before| {
            let changed = *before != now;
            *before = now.clone();
            changed
        });
        if advanced {
            self.schedule.last_capture = Some(Instant::now());
        }
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.txid = now.txid;
            status.captured = stats.captured;
            status.pages = position.map_or(0, |position| position.pages);
            status.page_size = position.map_or(0, |position| position.page_size.get());
            status.wal_frames = stats.wal_frames;
            status.rotations = stats.rotations;
            status.rebases = stats.rebases;
            status.last_rebase = stats.last_rebase;
            status.write_holds = stats.write_holds;
            status.longest_write_hold = stats.longest_write_hold;
            status.most_frames_in_write_hold = stats.most_frames_in_write_hold;
            status.brakes = stats.brakes;
            *status != before
        });
    }
}
