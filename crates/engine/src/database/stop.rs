//! The orderly end of a database's task.

use std::time::Duration;

use evertide_ltx::Txid;
use tokio::time::Instant;

use super::{Database, Looked, Wake, images::ImageJob};
use crate::{DatabaseState, DatabaseStatus, Error, ReplicaStatus, capture::Due};

/// How long a stop waits for the page table of an image that replicas have already.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);

impl Database {
    /// Captures what is committed, uploads it, and ends the replicas' tasks.
    pub(super) async fn stop(&mut self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        self.stopping.cancel();
        let mut goal = self.capture_all().await;
        let mut status = self.status.subscribe();
        let complete = |status: &DatabaseStatus, txid| {
            let mut replicas = status.replicas.iter();
            replicas.all(|replica| replica.txid >= txid || replica.refused)
        };
        loop {
            if goal.is_some_and(|txid| complete(&status.borrow_and_update(), txid)) {
                break;
            }
            // Snapshots that replicas ask for are still served.
            let wake = tokio::select! {
                _ = status.changed() => continue,
                () = tokio::time::sleep_until(end) => break,
                wake = self.wait() => wake,
            };
            match wake {
                Wake::Command(Some(command)) => self.command(command).await,
                Wake::ImageDone(result) => self.finish_image(*result).await,
                Wake::Pending(permit) => self.start_image(permit).await,
                Wake::Command(None) => break,
                Wake::Notice | Wake::Time | Wake::Tick if goal.is_none() => {
                    goal = self.capture_all().await;
                }
                // What is committed from now on is for the next start.
                Wake::Notice | Wake::Time | Wake::Tick => self.schedule.next_look = None,
            }
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
        let behind: Vec<String> = behind.map(|replica| shortfall(replica, deadline)).collect();
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

/// What a replica has, and why it has no more.
fn shortfall(replica: &ReplicaStatus, deadline: Duration) -> String {
    let ReplicaStatus { name, txid, .. } = replica;
    match replica.error.as_ref().filter(|_| replica.refused) {
        Some(refusal) => format!("it was refused to write to replica `{name}` ({refusal})"),
        None => format!("replica `{name}` has {txid} after {deadline:?}"),
    }
}
