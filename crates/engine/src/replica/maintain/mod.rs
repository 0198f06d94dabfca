//! Keeping the files of a replica as they should be: levels, snapshots, retention.

mod damage;
mod delete;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{Clock, Disk, Error as StoreError, LtxObject, OsDisk, ReplicaClient};
use futures_util::future::try_join_all;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use self::damage::Damaged;
use super::{
    agenda::{Rules, Task, plan},
    body::store,
    compact::Next,
    files::Files,
    merge::{Merger, Source},
    retain::plan_retention,
    snapshot::{Origin, origin},
    succession::check_room,
};
use crate::{
    Error, ReplicaOptions,
    database::{Captured, Command, Content, Snapshot, request_snapshot},
};

/// How long the database is waited for that a snapshot is to be read from.
const PATIENCE: Duration = Duration::from_secs(60);

/// What maintenance has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Maintained {
    /// Files of levels 1 to 8 stored.
    pub compactions: u64,
    /// Snapshots stored.
    pub snapshots: u64,
    /// Files deleted.
    pub deleted: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Bytes read from the replica for that.
    pub read: u64,
}

/// Keeps the levels, snapshots and retention of one replica.
///
/// A running [`Replication`](crate::Replication) does this by itself. Use it directly for a replica
/// that nobody replicates to any more, but whose retention should go on.
///
/// What it does, and when, depends only on the files that are there, their times and the settings,
/// so it may be interrupted at any moment and goes on where it was.
pub struct Maintenance {
    merger: Merger,
    rules: Rules,
    clock: Arc<dyn Clock>,
    /// `None` until it was asked, and after an error that leaves it open.
    files: Option<Files>,
    retention_due: Option<SystemTime>,
    last_check: Option<SystemTime>,
    done: Maintained,
    /// Files of level 1 that are known to be whole, with their sizes, until what they were made of is deleted.
    stored: BTreeMap<LtxName, u64>,
    /// Snapshots that are known to end as they should, with their sizes.
    snapshots: BTreeMap<LtxName, u64>,
    damaged: Damaged,
    local: Option<Local>,
    /// What is being done, or was last.
    work: Work,
    /// What did not work, until it has.
    failing: BTreeSet<Work>,
    /// Whether what can be mended is, of what is known to be damaged.
    mended: bool,
}

/// A kind of work, to tell whether that which has failed works again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Work {
    List,
    Mend,
    Merge(Level),
    DeleteLevel0,
    Retention,
}

impl Work {
    fn of(task: &Task) -> Self {
        match task {
            Task::Merge(level, _) => Self::Merge(*level),
            Task::DeleteLevel0(_) => Self::DeleteLevel0,
            Task::Retention => Self::Retention,
        }
    }
}

/// Up to which transaction captured files are of no use to a replica once it has them: all of them if
/// it is read as cheaply as they are, or has no levels.
pub(crate) fn merged_at_start(client: &dyn ReplicaClient, options: &ReplicaOptions) -> Txid {
    match client.capabilities().local || options.levels.is_empty() {
        true => Txid::MAX,
        false => Txid::ZERO,
    }
}

/// From which transaction on level 0 is of the history that the newest file is of: each file proves the one
/// before, which it continues. What a snapshot starts over with has no file there.
fn proven_from(objects: &[LtxObject]) -> Txid {
    let newest = objects.iter().map(|object| object.name.max).max();
    let mut from = newest.unwrap_or_default().next();
    let level_0 = objects.iter().filter(|object| object.level == Level::L0);
    let mut level_0: Vec<LtxName> = level_0.map(|object| object.name).collect();
    level_0.sort_unstable();
    for name in level_0.into_iter().rev() {
        if name.max.next() != from {
            break;
        }
        from = name.min;
    }
    from
}

/// The database that is replicated.
struct Local {
    captured: watch::Receiver<Captured>,
    /// From which transaction on what the replica has in level 0 is known to be from here. Files of another
    /// history may be there before, and have the same transactions.
    from: Option<Txid>,
    /// Where to ask for a snapshot.
    commands: mpsc::UnboundedSender<Command>,
}

impl fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintenance")
            .field("replica", &self.merger.replica)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Maintenance {
    /// For the replica that this client reaches, with the intervals of these options. Their
    /// destination is not looked at.
    pub fn new(
        client: Arc<dyn ReplicaClient>,
        options: &ReplicaOptions,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            merger: Merger {
                client,
                disk: Arc::new(OsDisk),
                replica: options.name.clone(),
                read: Arc::default(),
            },
            rules: Rules::new(options),
            clock,
            files: None,
            retention_due: None,
            last_check: None,
            done: Maintained::default(),
            stored: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            damaged: Damaged::default(),
            local: None,
            work: Work::List,
            failing: BTreeSet::new(),
            mended: false,
        }
    }

    /// Has it read captured files from local disk where they still are, and snapshots from the database
    /// where that is cheaper.
    pub(super) fn with_local(
        mut self,
        disk: Arc<dyn Disk>,
        captured: watch::Receiver<Captured>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        self.merger.disk = disk;
        self.local = Some(Local {
            captured,
            from: None,
            commands,
        });
        self
    }

    /// What has been done so far.
    pub fn done(&self) -> Maintained {
        Maintained {
            read: self.merger.read.load(Ordering::Relaxed),
            ..self.done
        }
    }

    /// Does everything that is due now, retention once; when something will be due next, if nothing arrives until
    /// then. With `None` there is nothing left to do, and no request is made again.
    ///
    /// A file that is found damaged is made again of others, where they hold the same. Where not, plans are made
    /// without it, which is no error here: it is logged as one, and [`Self::damaged`] has it.
    ///
    /// Works in any tokio runtime.
    ///
    /// # Errors
    ///
    /// Where the replica cannot be read or written, or a file that was deleted is still there. Nothing is lost
    /// then: try again later.
    pub async fn run(&mut self) -> Result<Option<SystemTime>, Error> {
        self.run_telling(|_| ()).await
    }

    /// Does the same, and tells each time when something is done.
    pub(super) async fn run_telling(
        &mut self,
        mut tell: impl FnMut(&Self) + Send,
    ) -> Result<Option<SystemTime>, Error> {
        let result = self.run_due(&mut tell).await;
        match result {
            Ok(_) => self.failing.clear(),
            Err(_) => {
                self.files = None;
                self.failing.insert(self.work);
            }
        }
        result
    }

    /// Whether something has not worked, and nothing has shown that it does.
    pub(super) fn is_failing(&self) -> bool {
        !self.failing.is_empty()
    }

    /// Whether it is known what is wrong: else it may be what was wrong before.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_failing() && self.mended && self.files.is_some()
    }

    /// Files that turned out to be damaged, as long as they are there, or what is to take their place is not.
    pub fn damaged(&self) -> impl Iterator<Item = &LtxObject> {
        self.damaged.files()
    }

    /// A file was stored by somebody else: what is known is brought up to date without a request.
    pub fn arrived(&mut self, object: LtxObject) {
        self.expire_later(&object);
        if let Some(local) = &mut self.local {
            match object.level {
                Level::L0 => _ = local.from.get_or_insert(object.name.min),
                // A snapshot may follow what somebody else stored, of whatever transactions.
                _ => local.from = Some(object.name.max.next()),
            }
        }
        if let Some(files) = &mut self.files {
            files.add(object);
        }
    }

    /// These are all the files there are, where that is known, and the newest of them is of the history
    /// captured here.
    pub(super) fn listed(&mut self, objects: Option<Vec<LtxObject>>) {
        if let Some(local) = &mut self.local {
            local.from = objects.as_deref().map(proven_from);
        }
        match objects {
            Some(objects) => {
                let mut files = objects.into_iter().collect();
                self.damaged.set_aside(&mut files);
                self.know(files);
            }
            None => self.files = None,
        }
    }

    /// The newest transaction that level 1 has, zero where that is not known.
    pub(super) fn merged(&self) -> Txid {
        let level_1 = self.rules.levels.first().and(Level::new(1));
        let known = self.files.as_ref().zip(level_1);
        known.map_or(Txid::ZERO, |(files, level_1)| files.reached(level_1))
    }

    /// The newest transaction, as far as it is known.
    pub(super) fn newest(&self) -> Txid {
        let newest = self.files.as_ref().map(Files::newest);
        newest.map_or(Txid::ZERO, |newest| newest.max(self.damaged.reach()))
    }

    /// When a file that just arrived gives something to do at the earliest.
    pub(super) fn due_with(&self, object: &LtxObject) -> SystemTime {
        let compaction = self.rules.levels.first();
        let windows = compaction.unwrap_or(&self.rules.snapshots);
        windows.end(object.created)
    }

    /// When something will be due: at once where that is not known.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        let now = self.clock.now();
        let Some(files) = &self.files else {
            return Some(now);
        };
        let planned = match plan(files, &self.rules, self.retention_due, now) {
            Next::Now(_) => Some(now),
            Next::At(time) => Some(time),
            Next::Never => None,
        };
        self.or_damaged(planned)
    }

    /// Then, or when damaged files are to be read again.
    fn or_damaged(&self, planned: Option<SystemTime>) -> Option<SystemTime> {
        planned.into_iter().chain(self.damaged_due()).min()
    }

    async fn run_due(
        &mut self,
        tell: &mut (impl FnMut(&Self) + Send),
    ) -> Result<Option<SystemTime>, Error> {
        // What cannot be mended is tried again only when there is another listing.
        self.mended = false;
        let mut retained = false;
        if self
            .damaged_due()
            .is_some_and(|due| due <= self.clock.now())
        {
            self.files = None;
        }
        loop {
            if self.files.is_none() {
                self.work = Work::List;
                let files = self.list_all().await?;
                self.know(files);
                self.mended = false;
            }
            if !self.mended {
                self.work = Work::Mend;
                if self.mend().await? {
                    self.is_done(tell);
                    continue;
                }
                self.mended = true;
            }
            let Some(files) = &self.files else { continue };
            let next = plan(files, &self.rules, self.retention_due, self.clock.now());
            if let Next::Now(task) = &next {
                self.work = Work::of(task);
            }
            match next {
                Next::Now(Task::Merge(level, sources)) => self.merge(level, sources).await?,
                Next::Now(Task::DeleteLevel0(old)) => self.delete_level_0(&old).await?,
                // It may be due again at once, and whoever waits is to hear of what was done.
                Next::Now(Task::Retention) if retained => return Ok(Some(self.clock.now())),
                Next::Now(Task::Retention) => retained = self.enforce_retention().await?,
                Next::At(time) => return Ok(self.or_damaged(Some(time))),
                Next::Never => return Ok(self.or_damaged(None)),
            }
            self.is_done(tell);
        }
    }

    /// What was being done has worked, and with it the listing that it was planned from.
    fn is_done(&mut self, tell: &mut impl FnMut(&Self)) {
        self.failing.remove(&Work::List);
        self.failing.remove(&self.work);
        tell(self);
    }

    /// Takes a full listing for what is there.
    fn know(&mut self, mut files: Files) {
        let now = self.clock.now();
        self.retention_due = self.rules.retention.as_ref().and_then(|keep| {
            let plan = plan_retention(&files, keep, now);
            match plan.delete.is_empty() {
                true => plan.next,
                false => Some(now),
            }
        });
        files.forget_settled(self.rules.top());
        self.files = Some(files);
    }

    /// All files but those that are damaged.
    async fn list_all(&mut self) -> Result<Files, Error> {
        let client = &self.merger.client;
        let levels = try_join_all(Level::all().map(|level| client.list(level, None))).await;
        let levels = levels.map_err(|source| self.failed(source))?;
        check_room(levels.iter().flatten(), &**client, &self.merger.replica)?;
        let mut files = levels.into_iter().flatten().collect();
        self.damaged.set_aside(&mut files);
        self.read_again(&mut files).await;
        Ok(files)
    }

    async fn merge(&mut self, level: Level, sources: Vec<LtxObject>) -> Result<(), Error> {
        let count = sources.len();
        let read_before = self.done().read;
        let source = |object| Source {
            copies: self.copies_of(&object),
            object,
        };
        let sources: Vec<Source> = sources.into_iter().map(source).collect();
        let image = self.image(level, &sources).await;
        // Where somebody else has stored more than was captured here it would have to be made again at once.
        let newest = sources.iter().map(|source| source.object.name.max).max();
        let image = image.filter(|image| Some(image.name.max) >= newest);
        let origin = match image {
            Some(_) => Origin::Database,
            None => Origin::Replica,
        };
        let stored = match image {
            Some(snapshot) => self.put_image(level, snapshot).await,
            None => match self.merge_files(&sources, level).await {
                Err(failure @ Error::Ltx { .. }) => {
                    return self.go_on_without(sources, failure).await;
                }
                done => done,
            },
        };
        let object = match stored {
            Ok(object) => object,
            Err(Error::Replica { source, .. }) if source.is_already_exists() => {
                return self.recognise(level, source).await;
            }
            Err(error) => return Err(error),
        };
        tracing::debug!(
            replica = self.merger.replica, %level, file = %object.name, files = count,
            bytes = object.size, ?origin, downloaded = self.done().read - read_before, "compacted"
        );
        self.stored_file(object);
        Ok(())
    }

    async fn merge_files(&self, sources: &[Source], level: Level) -> Result<LtxObject, Error> {
        let with_copies = self.merger.merge(sources.to_vec(), level).await;
        match with_copies {
            Err(Error::Ltx { path, source })
                if sources.iter().any(|source| !source.copies.is_empty()) =>
            {
                tracing::warn!(
                    replica = self.merger.replica, path = %path.display(), error = %source,
                    "captured files cannot be merged, or what follows them; reading the replica's"
                );
                let stored = sources.iter().map(|source| source.object.clone().into());
                self.merger.merge(stored.collect(), level).await
            }
            done => done,
        }
    }

    async fn put_image(&self, level: Level, image: Snapshot) -> Result<LtxObject, Error> {
        let Snapshot {
            name,
            created,
            stream,
        } = image;
        let stored = store(&*self.merger.client, level, name, created, stream).await;
        stored.map_err(|source| self.failed(source))
    }

    /// A file was stored here.
    fn stored_file(&mut self, object: LtxObject) {
        self.done.bytes += object.size;
        match object.level {
            Level::SNAPSHOT => {
                self.done.snapshots += 1;
                self.snapshots.insert(object.name, object.size);
            }
            _ => self.done.compactions += 1,
        }
        if Some(object.level) == Level::new(1) {
            self.stored.insert(object.name, object.size);
        }
        self.expire_later(&object);
        if let Some(files) = &mut self.files {
            files.add(object);
            files.forget_settled(self.rules.top());
        }
    }

    /// The database as it is now, where that is a better source of the next snapshot than the replica.
    async fn image(&self, level: Level, sources: &[Source]) -> Option<Snapshot> {
        let remote = sources.iter().filter(|source| source.copies.is_empty());
        let to_be_read = remote.map(|source| source.object.size).sum();
        let store = self.merger.client.capabilities();
        match origin(to_be_read, store, level == Level::SNAPSHOT) {
            Origin::Replica => None,
            Origin::Database => self.image_now().await,
        }
    }

    /// The database as it is now, where there is one.
    async fn image_now(&self) -> Option<Snapshot> {
        let local = self.local.as_ref()?;
        let image = request_snapshot(&local.commands, Txid::ZERO, Content::Everything);
        // A database that is not there just now is none that can be waited for.
        timeout(PATIENCE, image).await.ok().flatten()
    }

    /// A file that is new, or that makes others superfluous, gives retention something to do: when it is
    /// old itself, or when that is which was spared before as the newest of level 0.
    fn expire_later(&mut self, object: &LtxObject) {
        let Some(keep) = &self.rules.retention else {
            return;
        };
        let newest = self
            .files
            .as_ref()
            .and_then(|f| f.at(Level::L0).next_back());
        let spared = newest.filter(|_| object.level == Level::L0);
        let oldest = spared.map_or(object.created, |file| file.created.min(object.created));
        let next_check = self
            .last_check
            .and_then(|last| last.checked_add(self.rules.check_interval));
        let due = oldest.checked_add(keep.everything).max(next_check);
        self.retention_due = self.retention_due.into_iter().chain(due).min();
    }

    /// The object is there already: an answer of the store was lost, or a process died before it
    /// came. What is listed now leads on from it.
    async fn recognise(&mut self, level: Level, source: StoreError) -> Result<(), Error> {
        let before = self.files.as_ref().map(|files| files.reached(level));
        let files = self.list_all().await?;
        if Some(files.reached(level)) == before {
            return Err(self.failed(source));
        }
        self.know(files);
        Ok(())
    }

    /// The captured files that an object of level 0 was made of, if this process uploaded it and
    /// they are still there.
    fn copies_of(&self, object: &LtxObject) -> Vec<std::path::PathBuf> {
        let Some(local) = &self.local else {
            return Vec::new();
        };
        let ours = local.from.is_some_and(|from| from <= object.name.min);
        if object.level != Level::L0 || !ours {
            return Vec::new();
        }
        let captured = local.captured.borrow();
        let within = |name: LtxName| object.name.min <= name.min && name.max <= object.name.max;
        let names: Vec<LtxName> = captured
            .staged
            .iter()
            .map(|staged| staged.name)
            .filter(|name| within(*name))
            .collect();
        let ends = (names.first().map(|n| n.min), names.last().map(|n| n.max));
        if ends != (Some(object.name.min), Some(object.name.max)) {
            return Vec::new();
        }
        let path = |name: LtxName| captured.dir.join(name.to_string());
        names.into_iter().map(path).collect()
    }

    fn failed(&self, source: StoreError) -> Error {
        Error::Replica {
            name: self.merger.replica.clone(),
            source,
        }
    }
}
