//! Several databases as one daemon: those that settings list, and those that come to directories.

mod change;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use evertide::{Replication, ReplicationBuilder, ReplicationOptions};
use tokio::{
    sync::Mutex,
    task::{JoinHandle, JoinSet},
};

use self::watch::Found;
use crate::{
    Daemon, DaemonError, Reloaded,
    settings::{DatabaseSettings, FleetSettings},
};

/// How long a database that is no longer wanted may take to finish its uploads.
const REMOVAL: Duration = Duration::from_secs(10);
/// How long databases may take to let go of their replicas where nobody wants to wait for uploads.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Reads the settings again.
type Source = dyn Fn() -> Result<FleetSettings, DaemonError> + Send + Sync;

/// Replicates databases, and takes over changed settings. Databases that come to a watched directory
/// are replicated from then on, and those that vanish are stopped in order, all without a restart. One
/// of those that cannot be replicated is tried again, and keeps no other from it.
///
/// ```no_run
/// use evertide_server::{FleetDaemon, Server, settings};
/// use evertide_vault::ConfigFormat;
///
/// # async fn run(router: axum::Router) -> Result<(), evertide_server::DaemonError> {
/// let read = || {
///     let content = std::fs::read("tenants.toml")?;
///     Ok(settings::parse_fleet_file(&content, &ConfigFormat::Toml)?)
/// };
/// let fleet = FleetDaemon::new(read()?)?.reloading(read);
/// Server::new(router).add_daemon(fleet).run().await?;
/// # Ok(())
/// # }
/// ```
pub struct FleetDaemon {
    shared: Arc<Shared>,
    source: Option<Arc<Source>>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for FleetDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetDaemon")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    fleet: Mutex<Fleet>,
    /// A replica failed, and nobody wants to wait for it.
    given_up: AtomicBool,
}

#[derive(Debug)]
struct Fleet {
    settings: FleetSettings,
    members: BTreeMap<PathBuf, Replication>,
    /// Databases of watched directories, or added by a reload, that could not be started.
    refused: HashMap<PathBuf, Refused>,
    /// Other settings that databases could not be given.
    unsettled: BTreeMap<PathBuf, Unsettled>,
    /// Databases of watched directories that go on on replicas that another one has written.
    taking_over: BTreeSet<PathBuf>,
    /// The ends of those that vanished.
    leaving: JoinSet<Result<(), String>>,
}

/// A database that could not be started.
#[derive(Debug)]
struct Refused {
    why: String,
    /// It never ran, and says so to whoever asks.
    member: Option<Replication>,
}

/// Settings of a database that runs with others, as these could not be given to it.
#[derive(Debug)]
struct Unsettled {
    wanted: ReplicationOptions,
    why: String,
}

impl FleetDaemon {
    /// The daemon of these settings. Nothing is started yet.
    ///
    /// # Errors
    ///
    /// [`evertide::Error`], when a database cannot be replicated like that.
    pub fn new(settings: FleetSettings) -> Result<Self, evertide::Error> {
        Self::built_by(build, settings, BTreeSet::new())
    }

    /// As [`FleetDaemon::new`], and the databases that there are now go on on replicas that another
    /// database has written; see [`evertide::ReplicationBuilder::take_over`].
    ///
    /// # Errors
    ///
    /// As [`FleetDaemon::new`].
    pub fn taking_over(settings: FleetSettings) -> Result<Self, evertide::Error> {
        let watched = watch::look_now(&settings.watched).databases.into_iter();
        let watched = watched.map(|database| database.path).collect();
        let build = |database: &_| builder(database).take_over().build();
        Self::built_by(build, settings, watched)
    }

    fn built_by(
        build: impl Fn(&DatabaseSettings) -> Result<Replication, evertide::Error>,
        settings: FleetSettings,
        taking_over: BTreeSet<PathBuf>,
    ) -> Result<Self, evertide::Error> {
        let mut members = BTreeMap::new();
        for database in &settings.databases {
            members.insert(database.path.clone(), build(database)?);
        }
        let fleet = Fleet {
            settings,
            members,
            refused: HashMap::new(),
            unsettled: BTreeMap::new(),
            taking_over,
            leaving: JoinSet::new(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                fleet: Mutex::new(fleet),
                given_up: AtomicBool::new(false),
            }),
            source: None,
            watching: Mutex::new(None),
        })
    }

    /// Reads the settings like this at each reload.
    #[must_use]
    pub fn reloading(
        mut self,
        source: impl Fn() -> Result<FleetSettings, DaemonError> + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Stopping waits for replicas no longer than it takes to let go of them, from now on.
    pub fn give_up(&self) {
        self.shared.given_up.store(true, Ordering::Relaxed);
    }

    /// Handles of all databases: those of watched directories once the daemon has started. One of those that
    /// could not be started is not running.
    pub async fn members(&self) -> Vec<Replication> {
        self.shared.members().await
    }

    /// Watches the directories of the settings, and no others, and tries again what was refused.
    async fn watch(&self) -> Result<(), DaemonError> {
        let mut watching = self.watching.lock().await;
        if let Some(before) = watching.take() {
            before.abort();
            // Whatever it was doing to the fleet, it does no more.
            let _ = before.await;
        }
        let fleet = self.shared.fleet.lock().await;
        if !fleet.settings.watched.is_empty() || !fleet.is_settled() {
            let task = watch::run(Arc::clone(&self.shared), &fleet.settings)?;
            *watching = Some(tokio::spawn(task));
        }
        Ok(())
    }

    async fn unwatch(&self) {
        if let Some(watching) = self.watching.lock().await.take() {
            watching.abort();
            let _ = watching.await;
        }
    }
}

impl Shared {
    async fn members(&self) -> Vec<Replication> {
        let fleet = self.fleet.lock().await;
        let refused = fleet.refused.values().filter_map(|one| one.member.as_ref());
        fleet.members.values().chain(refused).cloned().collect()
    }

    /// Starts what came to watched directories, and what was refused, and stops what vanished. Returns whether
    /// all that is there is replicated.
    async fn follow(&self, found: &Found) -> bool {
        let mut fleet = self.fleet.lock().await;
        while fleet.leaving.try_join_next().is_some() {}
        let there: BTreeSet<&Path> = found.databases.iter().map(|one| &*one.path).collect();
        let may_be_there = |path: &Path| there.contains(path) || found.is_unknown(path);
        for path in fleet.vanished(may_be_there) {
            fleet.unsettled.remove(&path);
            let Some(member) = fleet.members.remove(&path) else {
                continue;
            };
            tracing::info!(database = %path.display(), "the database is gone; replication ends");
            fleet.leaving.spawn(async move {
                let stopped = stop(&member, REMOVAL).await;
                if let Err(error) = &stopped {
                    tracing::warn!(database = %path.display(), error, "ended too soon");
                }
                stopped
            });
        }
        fleet.try_again().await;
        let Fleet {
            settings, refused, ..
        } = &mut *fleet;
        refused.retain(|path, _| may_be_there(path) || lists(settings, path));
        let mut starting = JoinSet::new();
        for database in fleet.new_of(found) {
            let built = match fleet.taking_over.contains(&database.path) {
                true => builder(&database).take_over().build(),
                false => build(&database),
            };
            match built {
                Ok(member) => {
                    starting.spawn(async move { (member.start().await, member) });
                }
                Err(error) => fleet.refuse(database.path, &error, None),
            }
        }
        while let Some(started) = starting.join_next().await {
            match started {
                Ok((Ok(()), member)) => fleet.started(member),
                Ok((Err(error), member)) => {
                    fleet.refuse(member.path().to_owned(), &error, Some(member));
                }
                Err(_) => {} // cancelled or panicked: it is tried again with the next look
            }
        }
        fleet.is_settled()
    }
}

impl Fleet {
    /// What is wanted and does not run, each once.
    fn new_of(&self, found: &Found) -> Vec<DatabaseSettings> {
        let wanted = self.settings.databases.iter().chain(&found.databases);
        let mut new = BTreeMap::new();
        for database in wanted.filter(|one| !self.members.contains_key(&one.path)) {
            new.entry(&database.path).or_insert(database);
        }
        new.into_values().cloned().collect()
    }

    /// Members of watched directories whose files are not there any more.
    fn vanished(&self, may_be_there: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let members = self.members.keys();
        members
            .filter(|path| !may_be_there(path) && !lists(&self.settings, path))
            .filter(|path| matches!(path.try_exists(), Ok(false)))
            .cloned()
            .collect()
    }

    /// Whether all that is wanted is as it is wanted.
    fn is_settled(&self) -> bool {
        self.refused.is_empty() && self.unsettled.is_empty()
    }

    fn started(&mut self, member: Replication) {
        say_replicating(&member);
        let path = member.path().to_owned();
        self.refused.remove(&path);
        self.taking_over.remove(&path);
        self.members.insert(path, member);
    }

    /// It is tried again with every look, and said once.
    fn refuse(&mut self, path: PathBuf, error: &evertide::Error, member: Option<Replication>) {
        let why = error.to_string();
        if self
            .refused
            .get(&path)
            .is_none_or(|before| before.why != why)
        {
            tracing::error!(
                database = %path.display(), error = why,
                "cannot replicate the database; trying again"
            );
        }
        self.refused.insert(path, Refused { why, member });
    }

    async fn apply(&mut self, settings: FleetSettings) -> Result<Reloaded, DaemonError> {
        let mut wanted: BTreeMap<PathBuf, ReplicationOptions> = BTreeMap::new();
        let mut databases = settings.databases.clone();
        let found = watch::look_now(&settings.watched);
        databases.extend_from_slice(&found.databases);
        let mut new = Vec::new();
        let mut changed = Vec::new();
        // Everything is checked before anything is changed.
        for database in databases {
            if wanted.contains_key(&database.path) {
                continue;
            }
            match self.members.get(&database.path) {
                Some(member) if member.options() == database.replication => {}
                Some(_) => {
                    build(&database)?;
                    changed.push((database.path.clone(), database.replication.clone()));
                }
                None => new.push(build(&database)?),
            }
            wanted.insert(database.path, database.replication);
        }
        let members = self.members.keys();
        let gone: Vec<_> = members
            .filter(|path| !wanted.contains_key(*path) && !found.is_unknown(path))
            .cloned()
            .collect();
        self.refused
            .retain(|path, _| wanted.contains_key(path) || found.is_unknown(path));
        self.settings = settings;

        let mut said = Vec::new();
        let mut failed = Vec::new();
        self.unsettled.clear();
        // They may have what others are to get.
        for path in gone {
            if let Some(member) = self.members.remove(&path) {
                said.push(format!("removed {}", path.display()));
                failed.extend(stop(&member, REMOVAL).await.err());
            }
        }
        let (changed, unchanged) = self.change(changed).await;
        said.extend(changed);
        failed.extend(unchanged);
        for member in new {
            let path = member.path().to_owned();
            match member.start().await {
                Ok(()) => {
                    said.push(format!("added {}", path.display()));
                    self.started(member);
                }
                Err(error) => {
                    failed.push(format!("{}: {error}", path.display()));
                    self.refuse(path, &error, Some(member));
                }
            }
        }
        Ok(match (failed.is_empty(), said.is_empty()) {
            (true, true) => Reloaded::Unchanged,
            (true, false) => Reloaded::Changed(said.join("; ")),
            (false, _) => Reloaded::Partly {
                changed: said.join("; "),
                failed: failed.join("; "),
            },
        })
    }
}

fn lists(settings: &FleetSettings, path: &Path) -> bool {
    let mut databases = settings.databases.iter();
    databases.any(|database| database.path == path)
}

fn build(database: &DatabaseSettings) -> Result<Replication, evertide::Error> {
    builder(database).build()
}

fn builder(database: &DatabaseSettings) -> ReplicationBuilder {
    Replication::builder(&database.path).options(database.replication.clone())
}

fn say_replicating(member: &Replication) {
    let replicas = member.options().replicas;
    let to: Vec<_> = replicas
        .iter()
        .map(|replica| replica.destination.to_string())
        .collect();
    let (database, to) = (member.path().display(), to.join(", "));
    tracing::info!(%database, to, "replicating");
}

/// Stops databases, all at a time; why those failed that did.
async fn stop_all(
    members: Vec<Replication>,
    mut stopping: JoinSet<Result<(), String>>,
    deadline: Duration,
) -> Result<Vec<String>, DaemonError> {
    for member in members {
        stopping.spawn(async move { stop(&member, deadline).await });
    }
    let mut failed = Vec::new();
    while let Some(stopped) = stopping.join_next().await {
        failed.extend(stopped?.err());
    }
    Ok(failed)
}

async fn stop(member: &Replication, deadline: Duration) -> Result<(), String> {
    match member.stop(deadline).await {
        Ok(()) | Err(evertide::Error::NotRunning(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[async_trait]
impl Daemon for FleetDaemon {
    fn name(&self) -> &str {
        "replication"
    }

    async fn start(&self) -> Result<(), DaemonError> {
        let members = self.members().await;
        let mut starting = JoinSet::new();
        for member in &members {
            let member = member.clone();
            starting.spawn(async move { member.start().await });
        }
        let mut failed = Vec::new();
        while let Some(started) = starting.join_next().await {
            failed.extend(started?.err());
        }
        let Some(first) = failed.into_iter().next() else {
            members.iter().for_each(say_replicating);
            // What is in watched directories now is there when this returns.
            let watched = self.shared.fleet.lock().await.settings.watched.clone();
            let found = watch::look(Arc::new(watched)).await;
            self.shared.follow(&found).await;
            return self.watch().await;
        };
        let _ = stop_all(members, JoinSet::new(), LETTING_GO).await;
        Err(first.into())
    }

    async fn stop(&self, deadline: Duration) -> Result<(), DaemonError> {
        self.unwatch().await;
        // Some of the time is ours, so that each database is named rather than all cut off.
        let given_up = self.shared.given_up.load(Ordering::Relaxed);
        let deadline = match given_up {
            true => LETTING_GO.min(deadline),
            false => deadline.mul_f32(0.95),
        };
        let (members, stopping, refused) = {
            let mut fleet = self.shared.fleet.lock().await;
            let members: Vec<Replication> = fleet.members.values().cloned().collect();
            let refused = fleet.refused.iter();
            let listed = refused.filter(|(path, _)| lists(&fleet.settings, path));
            let refused: Vec<_> = listed.map(|(_, refused)| refused.why.clone()).collect();
            (members, std::mem::take(&mut fleet.leaving), refused)
        };
        let mut failed = stop_all(members, stopping, deadline).await?;
        failed.extend(refused);
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; ").into())
        }
    }

    async fn reload(&self) -> Result<Reloaded, DaemonError> {
        let Some(source) = &self.source else {
            return Ok(Reloaded::Unsupported);
        };
        let source = Arc::clone(source);
        let settings = tokio::task::spawn_blocking(move || source()).await??;
        // Nobody else changes the fleet meanwhile.
        self.unwatch().await;
        let applied = self.shared.fleet.lock().await.apply(settings).await;
        self.watch().await?;
        applied
    }
}
