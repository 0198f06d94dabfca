//! The orderly end of a database's task.

use std::{sync::atomic::Ordering, time::Duration};

use evertide_ltx::Txid;
use humantime::format_rfc3339_seconds;
use tokio::time::Instant;

use super::{Database, RunningReplica, Wake, images::ImageJob, look::Looked};
use crate::{
    DatabaseState, DatabaseStatus, Error, ReplicaStatus,
    capture::{CaptureError, Due},
    error::describe,
    failing::{self, Work},
};

/// How long a stop waits for the page table of an image that replicas have already.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);
/// How much of the time is kept for the end of the replicas' tasks at most, and how long they have where
/// nobody waits for them.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a stop may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StopTime {
    /// For what is captured to be uploaded.
    uploads: Duration,
    /// For what follows on each replica, beside whatever the uploads did not take.
    farewell: Duration,
}

impl StopTime {
    /// Where nobody waits: nothing more is uploaded.
    pub(crate) const ABANDONED: Self = Self {
        uploads: Duration::ZERO,
        farewell: FAREWELL,
    };

    /// All of it by this deadline.
    pub(crate) fn within(deadline: Duration) -> Self {
        // More than a clock can express is no limit, and a year is none either.
        const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3_600);
        let deadline = deadline.min(NO_LIMIT);
        let farewell = FAREWELL.min(deadline / 5);
        Self {
            uploads: deadline - farewell,
            farewell,
        }
    }
}

impl Database {
    /// Captures what is committed, uploads it, and ends the replicas' tasks.
    pub(super) async fn stop(&mut self, time: StopTime) -> Result<(), Error> {
        let end = Instant::now() + time.uploads;
        self.stopping.cancel();
        let goal = self.capture_all().await;
        let goal = self.deliver(goal, end).await;
        let delivered = goal.is_some_and(|txid| is_everywhere(&self.status.borrow(), txid));
        // One more file that cannot arrive would only be in the way of letting go of the leases.
        if delivered && Instant::now() < end {
            self.leave_continuable(end).await;
        }
        self.await_table(end).await;
        self.end_replicas(end + time.farewell).await;
        self.give_up_images();
        failing::publish(Work::Capture, &self.status.borrow().path, "", None);
        self.status.send_modify(|status| {
            status.state = DatabaseState::Stopped;
            let replicas = status.replicas.iter_mut();
            replicas.for_each(|replica| replica.drill.running = false);
        });
        self.stopped(time.uploads + time.farewell, goal)
    }

    /// Waits until every replica that may be written to has this transaction or it is time to end. Where
    /// none could be captured it is tried again; which one it was.
    async fn deliver(&mut self, mut goal: Option<Txid>, end: Instant) -> Option<Txid> {
        let mut status = self.status.subscribe();
        loop {
            if goal.is_some_and(|txid| is_everywhere(&status.borrow_and_update(), txid)) {
                return goal;
            }
            // Snapshots that replicas ask for are still served.
            let wake = tokio::select! {
                biased;
                _ = status.changed() => continue,
                () = tokio::time::sleep_until(end) => return goal,
                wake = self.wait() => wake,
            };
            match wake {
                Wake::Command(Some(command)) => self.command(command).await,
                Wake::ImageDone(result) => self.finish_image(*result).await,
                Wake::Pending(permit) => self.start_image(permit).await,
                Wake::Asked => {
                    self.look(Due::Now).await;
                }
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
    /// file for it, and waits until every replica has that: Litestream would overlook the former and not
    /// find the latter, if the replica is handed over to it now.
    async fn leave_continuable(&mut self, end: Instant) {
        let wanting = self
            .replicas
            .iter()
            .any(|replica| self.wants_an_end(replica));
        if !wanting || !self.is_attached() {
            return;
        }
        let captured = self.with_capture(|capture| {
            capture.capture_one_transaction()?;
            Ok::<_, CaptureError>(capture.goal())
        });
        let problem = match captured.await {
            Ok(last) => {
                self.publish();
                self.flush.send_modify(|flush| *flush = last.max(*flush));
                self.deliver(Some(last), end).await;
                if is_everywhere(&self.status.borrow(), last) {
                    return;
                }
                "its last file has not arrived in time".to_owned()
            }
            Err(error) => describe(&error),
        };
        tracing::warn!(
            database = %self.config.path.display(),
            problem,
            "Litestream cannot go on with the replicas before evertide was started and stopped again"
        );
    }

    fn wants_an_end(&self, replica: &RunningReplica) -> bool {
        let status = self.status.borrow();
        let mut refused = status.replicas.iter().filter(|status| status.refused);
        !replica.continuable.load(Ordering::Acquire)
            && !refused.any(|status| status.name == replica.options.name)
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
        // What the files have that are open, and then what others of these names have by now.
        let mut looked = self.look(Due::Now).await;
        if !self.check_files().await {
            looked = self.look(Due::Now).await;
        }
        if looked != Looked::Complete {
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

/// Whether every replica that may be written to has this transaction.
fn is_everywhere(status: &DatabaseStatus, txid: Txid) -> bool {
    let mut replicas = status.replicas.iter();
    replicas.all(|replica| replica.txid >= txid || replica.refused)
}

/// What a replica has, and why it has no more.
fn shortfall(replica: &ReplicaStatus, deadline: Duration) -> String {
    let ReplicaStatus { name, txid, .. } = replica;
    match (&replica.error, replica.failing_since) {
        (Some(refusal), _) if replica.refused => {
            format!("it was refused to write to replica `{name}` ({refusal})")
        }
        (Some(error), Some(since)) => {
            let since = format_rfc3339_seconds(since);
            format!(
                "replica `{name}` has {txid} after {deadline:?}, failing since {since} ({error})"
            )
        }
        _ => format!("replica `{name}` has {txid} after {deadline:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_has_most_of_its_time_for_uploads_and_never_takes_more() {
        for (deadline, farewell) in [(0, 0), (1, 0), (300, 60), (5_000, 1_000), (22_500, 2_000)] {
            let [deadline, farewell] = [deadline, farewell].map(Duration::from_millis);
            let time = StopTime::within(deadline);
            assert_eq!(time.farewell.as_millis(), farewell.as_millis());
            assert_eq!(time.uploads + time.farewell, deadline);
        }
    }
}
