//! Replicas that Litestream 0.3 wrote: a snapshot of the database, and segments of its WAL.
//!
//! [`plan`] decides which files it takes, [`unpack`] decompresses them, [`wal`] verifies frames,
//! [`pending`] holds a transaction until it commits, and [`apply`] writes what did. [`check`] reads all files and writes nothing.

mod apply;
mod check;
#[cfg(test)]
mod fuzz;
mod pending;
mod plan;
mod unpack;
mod wal;

use std::sync::Arc;

use evertide_storage::{ReplicaClient, V3Object};
use tokio::sync::{mpsc, oneshot};

/// For those who read a replica without restoring it.
pub(crate) use self::check::{Flaw, FlawKind, check};
pub(super) use self::plan::{Obstacle, plan};
use super::{
    CHUNKS, IntegrityCheck, RestoreError, RestorePlan,
    apply::{Applied, complete},
    fetch::{Message, Stopped, Trouble, send, send_all},
    output::Output,
    progress::Meter,
};

/// What a restore needs to know.
pub(super) struct Restore {
    pub(super) client: Arc<dyn ReplicaClient>,
    pub(super) output: Arc<Output>,
    pub(super) integrity_check: IntegrityCheck,
    pub(super) parallelism: usize,
    pub(super) meter: Meter,
}

impl Restore {
    /// Restores the files of a plan.
    pub(super) async fn run(self, plan: &RestorePlan) -> Result<Applied, RestoreError> {
        let (sender, files) = mpsc::channel(CHUNKS);
        let (report, applied) = oneshot::channel();
        let location = self.client.location();
        let (output, how, meter) = (self.output, self.integrity_check, self.meter);
        std::thread::Builder::new()
            .name("evertide-restore".into())
            .spawn(move || {
                let done = write(&output, &location, how, meter, files);
                if done.is_err() {
                    output.cancel();
                }
                drop(report.send(done));
            })
            .map_err(RestoreError::Start)?;
        let fetched = fetch(&self.client, self.parallelism, sender, plan.v3_files()).await;
        // The sender is gone now, so the thread ends in any case.
        let applied = applied.await.expect("the thread of the restore panicked");
        match fetched {
            Err(Stopped::Failed(error)) => Err(error),
            Ok(()) | Err(Stopped::Receiver) => applied,
        }
    }
}

async fn fetch(
    client: &Arc<dyn ReplicaClient>,
    parallelism: usize,
    sender: mpsc::Sender<Message<V3Object>>,
    files: &[V3Object],
) -> Result<(), Stopped> {
    match send_all(client, parallelism, &sender, files, &mut 0).await {
        Ok(()) => send(&sender, Message::Finish).await,
        Err(Trouble::Stopped(stopped)) => Err(stopped),
        Err(Trouble::Gone(gone)) => Err(Stopped::Failed(RestoreError::Vanished {
            location: client.location(),
            file: gone.key.to_string(),
        })),
    }
}

/// Writes, checks and names the database.
fn write(
    output: &Arc<Output>,
    location: &str,
    how: IntegrityCheck,
    meter: Meter,
    mut files: mpsc::Receiver<Message<V3Object>>,
) -> Result<Applied, RestoreError> {
    let file = output.create()?;
    let database = apply::Database::new(&*file, output, location.to_owned(), meter);
    let applied = database.apply_all(&mut files)?;
    complete(output, file, how, applied)
}
