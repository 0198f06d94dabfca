//! `evertide insert-config`

use anyhow::bail;
use evertide::{CONFIG_SCOPE, ReplicationOptions};
use evertide_server::settings::parse_stored;
use evertide_vault::{AgeKeyFile, ConfigFormat, SecureConfigStore};

use crate::{
    args::{InsertConfigArgs, SettingsFormat},
    failure::usage,
    output,
    settings::{mistakes, read_file},
};

pub(crate) fn insert_config(args: &InsertConfigArgs) -> anyhow::Result<()> {
    if args.scope.trim().is_empty() {
        return Err(usage(
            "--scope is empty: expected a name, such as litestream",
        ));
    }
    let format = format(args)?;
    let content = read_file(&args.file)?;
    if content.trim_ascii().is_empty() {
        bail!("{} is empty: expected settings", args.file.display());
    }
    // Other scopes are other programs' settings; only they know what is right.
    let replication = if args.scope == CONFIG_SCOPE {
        let parsed = parse_stored(&content, &format, &args.stored.db);
        Some(parsed.map_err(|errors| mistakes(&args.file.display().to_string(), &errors))?)
    } else {
        None
    };
    let key = AgeKeyFile::new(&args.stored.age_key);
    // Before anything is created: a key that cannot be used is found out here.
    let public_keys = key.public_keys()?;
    let store = SecureConfigStore::create(&args.stored.db, key)?;
    let saved = store.save(&args.scope, &content, &format, args.desc.as_deref())?;
    output::line(format!(
        "stored {} as generation 0 of scope {} in {}: {}, {} encrypted to {}; {} so far",
        args.file.display(),
        args.scope,
        args.stored.db.display(),
        format,
        output::bytes(saved.info.stored_bytes),
        public_keys.first().map_or("the key", String::as_str),
        output::count(saved.versions.into(), "version")
    ))?;
    match replication {
        Some(ReplicationOptions { replicas, .. }) => {
            for replica in replicas {
                output::line(format!(
                    "  replica {}: {}",
                    replica.name, replica.destination
                ))?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

fn format(args: &InsertConfigArgs) -> anyhow::Result<ConfigFormat> {
    match args.format {
        Some(SettingsFormat::Toml) => Ok(ConfigFormat::Toml),
        Some(SettingsFormat::Yaml) => Ok(ConfigFormat::Yaml),
        None => match ConfigFormat::of_file(&args.file) {
            None => Ok(ConfigFormat::Toml),
            Some(known @ (ConfigFormat::Toml | ConfigFormat::Yaml)) => Ok(known),
            Some(other) => Err(usage(format!(
                "`{other}`, the extension of {}, is no format of settings: say --format toml or \
                 --format yaml",
                args.file.display()
            ))),
        },
    }
}
