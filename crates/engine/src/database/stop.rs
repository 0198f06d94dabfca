//! The orderly end of a database's task.

use std::{sync::atomic::Ordering, time::Duration};

use evertide_ltx::Txid;
use tokio::time::Instant;

use super::{Database, Looked, RunningReplica, Wake, images::ImageJob};
use crate::{
    DatabaseState, DatabaseStatus, Error,
    capture::{CaptureError, Due},
    error::describe,
};

/// How long a stop waits for the page table of an image that replicas have already.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);

impl Database {
    /// Captures what is committed, uploads it, and ends the replicas' tasks.
    pub(super) async fn stop(&mut self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        self.stopping.cancel();
        let goal = self.capture_all().await;
        let goal = self.deliver(goal, end).await;
        if goal.is_some_and(|txid| is_everywhere(&self.status.borrow(), txid))
            && let Some(last) = self.leave_continuable().await
        {
            self.deliver(Some(last), end).await;
        }
        self.await_table(end).await;
        self.cancel_replicas().await;
        self.give_up_images();
        self.status.send_modify(|status| {
            status.state = DatabaseState::Stopped;
            let replicas = status.replicas.iter_mut();
            replicas.for_each(|replica| replica.drill.running = false);
        });
        self.stopped(deadline, goal)
    }

    /// Waits until every replica has this transaction or it is time to end. Where none could be captured
    /// it is tried again; which one it was.
    async fn deliver(&mut self, mut goal: Option<Txid>, end: Instant) -> Option<Txid> {
        let mut status = self.status.subscribe();
        loop {
            if goal.is_some_and(|txid| is_everywhere(&status.borrow_and_update(), txid)) {
                return goal;
            }
            // Snapshots that replicas ask for are still served.
            let wake = tokio::select! {
                _ = status.changed() => continue,
                () = tokio::time::sleep_until(end) => return goal,
                wake = self.wait() => wake,
            };
            match wake {
                Wake::Command(Some(command)) => self.command(command).await,
                Wake::ImageDone(result) => self.finish_image(*result).await,
                Wake::Pending(permit) => self.start_image(permit).await,
                Wake::Command(None) => return goal,
                Wake::Notice | Wake::Time | Wake::Tick if goal.is_none() => {
                    goal = self.capture_all().await;
                }
                // What is committed from now on is for the next start.
                Wake::Notice | Wake::Time | Wake::Tick => self.schedule.next_look = None,
            }
        }
    }

    /// Where a replica ends with a snapshot, or with several transactions in one file, captures one more
    /// file for it: Litestream would overlook the former and not find the latter, if the replica is
    /// handed over to it now. The transaction that every replica is to have then.
    async fn leave_continuable(&mut self) -> Option<Txid> {
        let continuable = |replica: &RunningReplica| replica.continuable.load(Ordering::Acquire);
        if self.replicas.iter().all(continuable) || !self.is_attached() {
            return None;
        }
        let captured = self.with_capture(|capture| {
            capture.capture_one_transaction()?;
            Ok::<_, CaptureError>(capture.goal())
        });
        match captured.await {
            Ok(goal) => {
                self.publish();
                self.flush.send_modify(|flush| *flush = goal.max(*flush));
                Some(goal)
            }
            Err(error) => {
                let database = self.config.path.display();
                tracing::warn!(
                    %database, error = describe(&error),
                    "Litestream cannot go on with the replicas before evertide was started and stopped again"
                );
                None
            }
        }
    }

    /// A replica may have all of its snapshot a moment before we hear that it was read. Without the
    /// page table that was made with it the next start would upload another one.
    async fn await_table(&mut self, end: Instant) {
        let end = end.min(Instant::now() + TABLE_PATIENCE);
        while self.images.iter().any(ImageJob::will_make_table) {
            match tokio::time::timeout_at(end, ImageJob::finished(&mut self.images)).await {
                Ok(finished) => self.finish_image(finished).await,
                Err(_) => return,
            }
        }
    }

    /// Captures what is committed; the transaction that every replica is to have then, `None` where
    /// that did not work.
    async fn capture_all(&mut self) -> Option<Txid> {
        if self.look(Due::Now).await != Looked::Complete {
            return None;
        }
        let captured = self.status.borrow().txid;
        let goal = match &self.capture {
            Some(capture) if capture.is_attached() => capture.goal(),
            _ => captured,
        };
        self.flush.send_modify(|flush| *flush = goal.max(*flush));
        Some(goal)
    }

    fn stopped(&self, deadline: Duration, goal: Option<Txid>) -> Result<(), Error> {
        let status = self.status.borrow();
        let path = self.config.path.clone();
        let Some(txid) = goal else {
            let reason = status.error.clone();
            let reason = reason.unwrap_or_else(|| "its read locks are all taken".into());
            return Err(Error::Failing { path, reason });
        };
        let behind = status.replicas.iter().filter(|replica| replica.txid < txid);
        let behind: Vec<String> = behind
            .map(|r| format!("replica `{}` has {}", r.name, r.txid))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        Err(Error::StoppedBehind {
            path,
            deadline,
            txid,
            behind,
        })
    }
}

fn is_everywhere(status: &DatabaseStatus, txid: Txid) -> bool {
    status.replicas.iter().all(|replica| replica.txid >= txid)
}
