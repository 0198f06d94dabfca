//! `evertide config`

use anyhow::Context;
use evertide_vault::{AgeKeyFile, ConfigInfo, SavedConfig, SecureConfigStore};
use serde::Serialize;

use crate::{
    args::{ConfigCommand, Scoped, Stored},
    failure::usage,
    output,
};

pub(crate) fn config(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Scopes {
            stored,
            scope,
            json,
        } => scopes(stored, scope.as_deref(), *json),
        ConfigCommand::List { scoped, json } => list(scoped, *json),
        ConfigCommand::Dump { scoped, generation } => dump(scoped, *generation),
        ConfigCommand::Diff {
            scoped,
            generation,
            to,
        } => diff(scoped, *generation, *to),
        ConfigCommand::Rollback { scoped, generation } => rollback(scoped, *generation),
        ConfigCommand::Export {
            scoped,
            generation,
            output,
        } => export(scoped, *generation, output),
        ConfigCommand::Rekey { stored, scope } => rekey(stored, scope.as_deref()),
    }
}

fn store(stored: &Stored) -> anyhow::Result<SecureConfigStore> {
    Ok(SecureConfigStore::open(
        &stored.db,
        AgeKeyFile::new(&stored.age_key),
    )?)
}

/// A version, as `--json` shows it.
#[derive(Serialize)]
struct Version<'a> {
    scope: &'a str,
    generation: u32,
    id: i64,
    created: &'a str,
    format: &'a str,
    description: Option<&'a str>,
    stored_bytes: u64,
}

impl<'a> Version<'a> {
    fn new(info: &'a ConfigInfo) -> Self {
        Self {
            scope: &info.scope,
            generation: info.generation,
            id: info.id,
            created: &info.created_at,
            format: info.format.as_str(),
            description: info.description.as_deref(),
            stored_bytes: info.stored_bytes,
        }
    }
}

fn scopes(stored: &Stored, only: Option<&str>, json: bool) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Scope<'a> {
        scope: &'a str,
        versions: usize,
        newest: Version<'a>,
    }

    let store = store(stored)?;
    let mut histories = Vec::new();
    let mut scopes = store.scopes()?;
    scopes.retain(|scope| only.is_none_or(|only| scope == only));
    for scope in scopes {
        histories.push(store.history(&scope)?);
    }
    let scopes = histories.iter().filter_map(|history| {
        let newest = Version::new(history.first()?);
        Some(Scope {
            scope: newest.scope,
            versions: history.len(),
            newest,
        })
    });
    if json {
        return output::json(&scopes.collect::<Vec<_>>());
    }
    let mut table = output::table(["SCOPE", "VERSIONS", "NEWEST", "DESCRIPTION"], &[1]);
    for Scope {
        scope,
        versions,
        newest,
    } in scopes
    {
        let description = newest.description.unwrap_or_default();
        table.add_row([scope, &versions.to_string(), newest.created, description]);
    }
    output::print_table(&table)
}

fn list(scoped: &Scoped, json: bool) -> anyhow::Result<()> {
    let history = store(&scoped.stored)?.history(&scoped.scope)?;
    let versions = history.iter().map(Version::new);
    if json {
        return output::json(&versions.collect::<Vec<_>>());
    }
    let header = [
        "GENERATION",
        "ID",
        "STORED",
        "FORMAT",
        "SIZE",
        "DESCRIPTION",
    ];
    let mut table = output::table(header, &[0, 1, 4]);
    for version in versions {
        table.add_row([
            &version.generation.to_string(),
            &version.id.to_string(),
            version.created,
            version.format,
            &output::bytes(version.stored_bytes),
            version.description.unwrap_or_default(),
        ]);
    }
    output::print_table(&table)
}

fn dump(scoped: &Scoped, generation: u32) -> anyhow::Result<()> {
    let config = store(&scoped.stored)?.get(&scoped.scope, generation)?;
    output::print(config.content.as_bytes())
}

fn diff(scoped: &Scoped, older: u32, newer: u32) -> anyhow::Result<()> {
    let store = store(&scoped.stored)?;
    let (old, new) = (
        store.get(&scoped.scope, older)?,
        store.get(&scoped.scope, newer)?,
    );
    let text = |config: &evertide_vault::StoredConfig| {
        let name = format!("{} generation {}", scoped.scope, config.info.generation);
        let text = config.content.as_str().map(str::to_owned);
        text.with_context(|| format!("{name} is not text, so it cannot be compared"))
    };
    let label = |config: &evertide_vault::StoredConfig| {
        let ConfigInfo {
            scope,
            generation,
            created_at,
            ..
        } = &config.info;
        format!("{scope} generation {generation}\t{created_at}")
    };
    let (old_text, new_text) = (text(&old)?, text(&new)?);
    let diff = similar::TextDiff::from_lines(&old_text, &new_text);
    output::print(
        diff.unified_diff()
            .header(&label(&old), &label(&new))
            .to_string()
            .as_bytes(),
    )
}

fn rollback(scoped: &Scoped, generation: u32) -> anyhow::Result<()> {
    if generation == 0 {
        return Err(usage(
            "generation 0 is the newest version already; expected the number of an older one, see \
             `config list`",
        ));
    }
    let saved = store(&scoped.stored)?.rollback(&scoped.scope, generation)?;
    output::line(format!(
        "generation {generation} of scope {} is the newest again; {}",
        scoped.scope,
        versions(&saved)
    ))
}

fn versions(saved: &SavedConfig) -> String {
    format!(
        "the scope has {} now",
        output::count(saved.versions.into(), "version")
    )
}

fn export(scoped: &Scoped, generation: u32, path: &std::path::Path) -> anyhow::Result<()> {
    let store = store(&scoped.stored)?;
    let config = store.get(&scoped.scope, generation)?;
    let encrypted = store.key().encrypt(config.content.as_bytes())?;
    super::write_new(path, &encrypted)?;
    output::line(format!(
        "wrote {}: generation {generation} of scope {}, {}, encrypted to the key in {}",
        path.display(),
        scoped.scope,
        config.info.format,
        store.key().path().display()
    ))
}

fn rekey(stored: &Stored, only: Option<&str>) -> anyhow::Result<()> {
    let store = store(stored)?;
    let saved = match only {
        Some(scope) => vec![store.rekey_scope(scope)?],
        None => store.rekey()?,
    };
    let keys = store.key().public_keys()?;
    let key = keys.first().map_or("", String::as_str);
    for config in &saved {
        output::line(format!(
            "{}: encrypted to {key}; {}",
            config.info.scope,
            versions(config)
        ))?;
    }
    Ok(())
}
