//! What the tasks of a database and of its replicas tell each other.

use std::{path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use evertide_ltx::{LtxName, Txid};
use evertide_storage::ByteStream;
use tokio::sync::{mpsc, oneshot};

use super::stop::StopTime;
use crate::{
    Error, ReplicationOptions,
    capture::{Capture, Tail},
    state::{Staged, Tip},
    verify::{Content as DatabaseContent, Record},
};

/// What is captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Captured {
    /// The newest transaction; zero before the first snapshot.
    pub(crate) txid: Txid,
    /// When it was captured.
    pub(crate) created: Option<SystemTime>,
    /// The checksum of the database then, once it is known.
    pub(crate) record: Option<Record>,
    /// What the database was when all of it was read last, if that was since the start.
    pub(crate) begun: Option<DatabaseContent>,
    /// The files that lead to it, oldest first.
    pub(crate) staged: Arc<[Staged]>,
    /// Where they are.
    pub(crate) dir: PathBuf,
}

impl Captured {
    /// What is captured now.
    pub(crate) fn of(capture: &Capture) -> Self {
        let txid = capture
            .position()
            .map_or(Txid::ZERO, |position| position.txid);
        // Without a position that covers it a file may still be written anew, with more in it.
        let covered = |staged: &&Staged| staged.name.max <= txid;
        let files = capture.state.stage.files().iter();
        Self {
            txid,
            created: capture.stats.captured,
            record: capture.position().and_then(Record::of),
            begun: capture.begun,
            staged: files.filter(covered).copied().collect(),
            dir: capture.state.stage.dir().to_owned(),
        }
    }
}

/// What the task of a database is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Capture now.
    Sync {
        reply: oneshot::Sender<Result<Txid, Error>>,
    },
    /// The database, or what changed in it, read at once.
    Image(ImageRequest),
    /// Whether the newest object of the replica at this place is of the history captured here.
    CompareTail {
        location: String,
        tail: Tail,
        reply: oneshot::Sender<bool>,
    },
    /// Have the checksum of the database known as it is now, which takes reading all of it.
    WantChecksum,
    /// It is known who writes to a replica, or that this cannot be asked now.
    Looked,
    /// A replica has more than before.
    Arrived(Tip),
    /// A replica has compacted more than before.
    Compacted,
    /// Other settings.
    Update {
        options: ReplicationOptions,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Capture, upload, and end.
    Stop {
        time: StopTime,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// What a replica asks to be read.
#[derive(Debug)]
pub(crate) struct ImageRequest {
    /// The newest transaction on the replica; the file is to end above it.
    pub(crate) above: Txid,
    pub(crate) content: Content,
    pub(crate) reply: oneshot::Sender<Snapshot>,
}

/// What a file for a replica is to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Every page.
    Everything,
    /// The pages that changed since the newest transaction of the replica, or everything where those
    /// are not known, or nearly all.
    Changes,
}

/// A database, or what changed in it, on its way to a replica.
pub(crate) struct Snapshot {
    /// It begins with the first transaction if it has every page.
    pub(crate) name: LtxName,
    pub(crate) created: SystemTime,
    pub(crate) stream: ByteStream,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Asks for a file that ends above a transaction; `None` when the database's task has ended.
pub(crate) async fn request_snapshot(
    commands: &mpsc::UnboundedSender<Command>,
    above: Txid,
    content: Content,
) -> Option<Snapshot> {
    loop {
        let (reply, answer) = oneshot::channel();
        let request = ImageRequest {
            above,
            content,
            reply,
        };
        commands.send(Command::Image(request)).ok()?;
        if let Ok(snapshot) = answer.await {
            return Some(snapshot);
        }
        // The database could not be read just then; its task says why and tries again.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Whether the newest object of the replica at this place is of the history captured here.
pub(crate) async fn tail_matches(
    commands: &mpsc::UnboundedSender<Command>,
    location: String,
    tail: Tail,
) -> bool {
    let (reply, answer) = oneshot::channel();
    let command = Command::CompareTail {
        location,
        tail,
        reply,
    };
    if commands.send(command).is_err() {
        return false;
    }
    answer.await.unwrap_or(false)
}
