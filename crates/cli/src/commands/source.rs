//! Finds the replica that the arguments mean.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use evertide_storage::{Destination, Error, OsDisk, ReplicaClient};

use crate::{
    args::{SourceArgs, SourceFrom},
    failure::usage,
    settings::{self, Database},
};

/// A replica to read from.
pub(super) struct Source {
    /// Its name in the settings.
    pub(super) name: Option<String>,
    /// The database it is the replica of, where that is known.
    pub(super) database: Option<PathBuf>,
    pub(super) destination: Destination,
    pub(super) client: Arc<dyn ReplicaClient>,
}

impl Source {
    /// How messages call it.
    pub(super) fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.client.location()),
            None => self.client.location(),
        }
    }
}

/// All replicas that the arguments mean, at least one.
pub(super) fn sources(args: &SourceArgs) -> anyhow::Result<Vec<Source>> {
    match args.resolve()? {
        SourceFrom::Url(url) => {
            let destination = destination(url)?;
            Ok(vec![Source {
                name: None,
                database: None,
                client: destination.connect(Arc::new(OsDisk))?,
                destination,
            }])
        }
        SourceFrom::Settings {
            settings,
            database,
            replica,
        } => {
            let all = settings::load_for(settings, database.map(Path::new))?;
            let databases = choose_database(all, database)?;
            let sources = connect(databases)?;
            choose_replica(sources, replica)
        }
    }
}

/// The databases with this path, or all.
fn choose_database(databases: Vec<Database>, path: Option<&str>) -> anyhow::Result<Vec<Database>> {
    let Some(path) = path else {
        return Ok(databases);
    };
    let wanted = comparable(Path::new(path));
    let known: Vec<_> = databases
        .iter()
        .filter_map(|database| database.path.clone())
        .collect();
    let is_it = |database: &Database| {
        // Settings that name no database are for whichever it is.
        database
            .path
            .as_deref()
            .is_none_or(|path| comparable(path) == wanted)
    };
    let chosen: Vec<_> = databases.into_iter().filter(is_it).collect();
    if chosen.is_empty() {
        let known: Vec<_> = known
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(usage(format!(
            "the settings have no database {path}: expected one of {}",
            known.join(", ")
        )));
    }
    Ok(chosen)
}

fn connect(databases: Vec<Database>) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for Database { path, replication } in databases {
        for replica in replication.replicas {
            sources.push(Source {
                client: replica.destination.connect(Arc::new(OsDisk))?,
                destination: replica.destination,
                name: Some(replica.name),
                database: path.clone(),
            });
        }
    }
    Ok(sources)
}

/// The replicas with this name, or all.
fn choose_replica(sources: Vec<Source>, name: Option<&str>) -> anyhow::Result<Vec<Source>> {
    let Some(name) = name else { return Ok(sources) };
    let known: Vec<_> = sources
        .iter()
        .filter_map(|source| source.name.clone())
        .collect();
    let chosen: Vec<_> = sources
        .into_iter()
        .filter(|source| source.name.as_deref() == Some(name))
        .collect();
    if chosen.is_empty() {
        return Err(usage(format!(
            "the settings have no replica {name}: expected one of {}",
            known.join(", ")
        )));
    }
    Ok(chosen)
}

/// Reads a replica URL. What is wrong with it is wrong usage.
pub(super) fn destination(url: &str) -> anyhow::Result<Destination> {
    Destination::parse(url).map_err(|error| match error {
        Error::BadUrl { .. } | Error::Unsupported { .. } => usage(error.to_string()),
        other => other.into(),
    })
}

/// The same for two ways to write one path.
pub(super) fn comparable(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.canonicalize().unwrap_or(absolute)
}
