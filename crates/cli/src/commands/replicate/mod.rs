//! `evertide replicate`

mod child;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use evertide::{Durability, ReplicaOptions, ReplicaStatus, Replication, ReplicationOptions};
use evertide_server::{
    FleetDaemon, NotRunning, Server, ServerHandle,
    settings::{DatabaseSettings, FleetSettings},
};
use evertide_storage::OsDisk;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

use self::child::{Ended, Program};
use super::source::{Source, destination};
use crate::{
    args::{ReplicateArgs, ReplicateFrom, SettingsFrom},
    failure::usage,
    logs,
    settings::{self, Fleet},
};

/// Docker waits ten seconds before it kills; systemd and Kubernetes wait longer.
const SHUTDOWN: Duration = Duration::from_secs(25);

pub(crate) fn replicate(args: &ReplicateArgs) -> anyhow::Result<()> {
    let origin = Origin::new(args.resolve()?);
    logs::start(args.log);
    let settings = origin.settings()?;
    if args.exec.is_none() {
        allow_all_descriptors();
    }
    super::block_on(run(args, origin, settings))
}

/// Raises the soft limit of open files to the hard one: hundreds of databases take more than most systems give without
/// being asked. A command of `--exec` would inherit it, and some programs cannot live with descriptors beyond 1024.
fn allow_all_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What to replicate, in a form that can be read again.
#[derive(Clone, Debug)]
enum Origin {
    Arguments {
        database: PathBuf,
        urls: Vec<String>,
    },
    Settings {
        from: OwnedSettings,
    },
}

/// As [`SettingsFrom`].
#[derive(Clone, Debug)]
enum OwnedSettings {
    Store {
        key: PathBuf,
        database: PathBuf,
        scope: String,
    },
    File {
        path: PathBuf,
        key: Option<PathBuf>,
        database: Option<PathBuf>,
    },
}

impl Origin {
    fn new(from: ReplicateFrom<'_>) -> Self {
        match from {
            ReplicateFrom::Arguments { database, urls } => Self::Arguments {
                database: database.into(),
                urls: urls.to_vec(),
            },
            ReplicateFrom::Settings { from, database } => {
                let from = match from {
                    SettingsFrom::Store {
                        key,
                        database,
                        scope,
                    } => OwnedSettings::Store {
                        key: key.to_owned(),
                        database: database.to_owned(),
                        scope: scope.to_owned(),
                    },
                    SettingsFrom::File { path, key } => OwnedSettings::File {
                        path: path.to_owned(),
                        key: key.map(Path::to_owned),
                        database: database.map(PathBuf::from),
                    },
                };
                Self::Settings { from }
            }
        }
    }

    /// Reads the settings: each database once.
    fn settings(&self) -> anyhow::Result<FleetSettings> {
        match self {
            Self::Arguments { database, urls } => {
                if database.to_string_lossy().contains("://") {
                    return Err(usage(format!(
                        "{} is a replica URL: expected the path of the database first, then \
                         replicas",
                        database.display()
                    )));
                }
                let mut options = ReplicationOptions::default();
                for url in urls {
                    let destination = destination(url)?;
                    let name = destination.to_string();
                    options
                        .replicas
                        .push(ReplicaOptions::new(name, destination));
                }
                Ok(vec![DatabaseSettings::new(database, options)].into())
            }
            Self::Settings {
                from:
                    OwnedSettings::Store {
                        key,
                        database,
                        scope,
                    },
            } => {
                let from = SettingsFrom::Store {
                    key,
                    database,
                    scope,
                };
                named(settings::load_fleet(from)?, None, database)
            }
            Self::Settings {
                from:
                    OwnedSettings::File {
                        path,
                        key,
                        database,
                    },
            } => {
                let key = key.as_deref();
                let loaded = settings::load_fleet(SettingsFrom::File { path, key })?;
                named(loaded, database.as_deref(), path)
            }
        }
    }
}

/// Gives settings that name no database the one of the command line.
fn named(loaded: Fleet, given: Option<&Path>, place: &Path) -> anyhow::Result<FleetSettings> {
    let place = place.display();
    match (loaded, given) {
        (Fleet::Named(settings), None) => Ok(settings),
        (Fleet::Unnamed(options), Some(given)) => {
            Ok(vec![DatabaseSettings::new(given, options)].into())
        }
        (Fleet::Unnamed(_), None) => Err(usage(format!(
            "the settings in {place} name no database: give its path as the last argument"
        ))),
        (Fleet::Named(_), Some(given)) => Err(usage(format!(
            "the settings in {place} name their databases: leave {} out",
            given.display()
        ))),
    }
}

async fn run(args: &ReplicateArgs, origin: Origin, settings: FleetSettings) -> anyhow::Result<()> {
    let server = Server::without_http()
        .shutdown_deadline(SHUTDOWN)
        .hear_signals()?;
    let handle = server.handle();
    let databases = &settings.databases;
    if args.restore_if_db_not_exists {
        // What is not complete is removed when it is dropped.
        tokio::select! {
            restored = restore_all_missing(databases) => restored?,
            () = handle.shutting_down() => bail!("ended by a signal before every database was restored"),
        }
    }
    if args.once {
        let mut paths = databases.iter().map(|database| &database.path);
        if let Some(missing) = paths.find(|path| !path.exists()) {
            bail!(
                "no database at {}: check the path; --once does not wait for it",
                missing.display()
            );
        }
    }
    let fleet = match args.take_over {
        true => FleetDaemon::taking_over(settings)?,
        false => FleetDaemon::new(settings)?,
    };
    let fleet = Arc::new(match origin {
        Origin::Settings { .. } => fleet.reloading(move || Ok(origin.settings()?)),
        Origin::Arguments { .. } => fleet,
    });
    let server = server.add_daemon(fleet.clone());
    if args.once {
        return run_once(server, handle, fleet).await;
    }
    let Some(command) = &args.exec else {
        return Ok(server.run().await?);
    };
    let Some(program) = Program::new(command, handle) else {
        return Err(usage(format!(
            "`{command}` is not a command: expected a program and its arguments, quoted as for a \
             shell"
        )));
    };
    let ended = program.ended();
    server.add_daemon(program).run().await?;
    let ended = ended.borrow().clone();
    match ended {
        Some(Ended::With(status)) if status.success() => Ok(()),
        Some(Ended::With(status)) => Err(anyhow!("the command of --exec failed: {status}")),
        Some(Ended::Lost(why)) => Err(anyhow!(
            "cannot tell how the command of --exec ended: {why}"
        )),
        Some(Ended::Asked) | None => Ok(()),
    }
}

async fn restore_all_missing(databases: &[DatabaseSettings]) -> anyhow::Result<()> {
    for database in databases {
        restore_missing(&database.path, &database.replication).await?;
    }
    Ok(())
}

/// Restores a database that does not exist, if a replica has it.
async fn restore_missing(path: &Path, options: &ReplicationOptions) -> anyhow::Result<()> {
    if super::exists(path)? {
        return Ok(());
    }
    let mut sources = Vec::new();
    for replica in &options.replicas {
        let destination = replica.destination.clone();
        // One of the command line is called as it is given.
        let name = Some(&replica.name).filter(|name| **name != destination.to_string());
        sources.push(Source {
            name: name.cloned(),
            database: Some(path.to_owned()),
            client: destination.connect(Arc::new(OsDisk))?,
            destination,
        });
    }
    let database = path.display();
    match super::restore::restore_missing(path, sources).await? {
        Some(report) => {
            let (txid, took) = (report.txid, report.duration);
            tracing::info!(%database, %txid, bytes = report.database_bytes, ?took, "restored");
        }
        None => tracing::info!(%database, "no replica has the database; waiting for a new one"),
    }
    Ok(())
}

/// Runs until every replica has everything, or one fails, or a signal comes.
async fn run_once(
    server: Server,
    handle: ServerHandle,
    fleet: Arc<FleetDaemon>,
) -> anyhow::Result<()> {
    let work = tokio::spawn(async move {
        handle.serving().await?;
        let result = tokio::select! {
            result = bring_up_to_date(fleet.members().await) => result,
            () = handle.shutting_down() => {
                Err(anyhow!("ended by a signal before every replica was up to date"))
            }
        };
        if result.is_err() {
            fleet.give_up();
        }
        handle.shut_down();
        result
    });
    let ran = server.run().await;
    match work.await? {
        // It did not start, and `ran` knows why.
        Err(error) if error.is::<NotRunning>() => ran.map_err(anyhow::Error::from).and(Err(error)),
        Err(error) => Err(error),
        Ok(()) => Ok(ran?),
    }
}

async fn bring_up_to_date(members: Vec<Replication>) -> anyhow::Result<()> {
    let mut waiting = JoinSet::new();
    for member in members {
        waiting.spawn(async move {
            let failed = member.wait_for(|status| {
                let failing = |replica: &ReplicaStatus| replica.error.is_some();
                status.error.is_some() || status.replicas.iter().any(failing)
            });
            tokio::select! {
                done = member.wait_durable(Durability::All) => Ok(done.map(drop)?),
                status = failed => {
                    let of_replica = |replica: &ReplicaStatus| {
                        Some(format!("replica {}: {}", replica.name, replica.error.as_ref()?))
                    };
                    let replicas = status.replicas.iter().filter_map(of_replica);
                    let why: Vec<_> = status.error.into_iter().chain(replicas).collect();
                    let path = member.path().display();
                    Err(anyhow!("{path} is not replicated: {}", why.join("; ")))
                }
            }
        });
    }
    while let Some(done) = waiting.join_next().await {
        done??;
    }
    Ok(())
}
