//! `evertide ltx`

use anyhow::bail;
use evertide_storage::{Error as StoreError, LtxObject};
use serde::Serialize;

use super::source::{Source, sources};
use crate::{
    args::{Levels, LtxArgs},
    failure::described,
    logs, output,
};

/// A file, as `--json` shows it. Litestream's names, and the replica.
#[derive(Serialize)]
struct File<'a> {
    replica: &'a str,
    level: u8,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

impl<'a> File<'a> {
    fn new(replica: &'a str, object: &LtxObject) -> Self {
        Self {
            replica,
            level: object.level.get(),
            min_txid: object.name.min.to_string(),
            max_txid: object.name.max.to_string(),
            size: object.size,
            timestamp: output::time(object.created),
        }
    }
}

pub(crate) fn ltx(args: &LtxArgs) -> anyhow::Result<()> {
    logs::start_quiet();
    let sources = sources(&args.source)?;
    let listings = super::block_on(list(args, sources))?;
    print(args, &listings)?;
    match listings.asked - listings.listed.len() {
        0 => Ok(()),
        failed => bail!("{failed} of {} replicas cannot be listed", listings.asked),
    }
}

struct Listings {
    /// How many replicas were to be listed.
    asked: usize,
    /// Those that could be, by name.
    listed: Vec<(String, Vec<LtxObject>)>,
}

/// Lists all of them. Of several, one that cannot be listed does not keep the others from it.
async fn list(args: &LtxArgs, sources: Vec<Source>) -> anyhow::Result<Listings> {
    let asked = sources.len();
    let mut listed = Vec::new();
    for source in sources {
        let objects = match list_one(args, &source).await {
            Err(error) if asked > 1 => {
                let why = described(&error);
                output::complain(&format!("evertide: replica {}: {why}", source.label()));
                continue;
            }
            other => other?,
        };
        if objects.is_empty() {
            say_empty(args, &source);
        }
        let Source { name, client, .. } = source;
        listed.push((name.unwrap_or_else(|| client.location()), objects));
    }
    Ok(Listings { asked, listed })
}

async fn list_one(args: &LtxArgs, source: &Source) -> Result<Vec<LtxObject>, StoreError> {
    let mut objects = Vec::new();
    for level in args.level.iter() {
        objects.extend(source.client.list_dated(level, None).await?);
    }
    Ok(objects)
}

/// Nothing is what a mistyped address has, too.
fn say_empty(args: &LtxArgs, source: &Source) {
    let which = match args.level {
        Levels::All => "no LTX files; check the address (Litestream 0.3 wrote others)".to_owned(),
        Levels::One(level) => format!("no files of level {level}"),
    };
    output::complain(&format!("evertide: {} has {which}", source.label()));
}

fn print(args: &LtxArgs, listings: &Listings) -> anyhow::Result<()> {
    let files = listings
        .listed
        .iter()
        .flat_map(|(name, objects)| objects.iter().map(move |object| File::new(name, object)));
    if args.json {
        return output::json(&files.collect::<Vec<_>>());
    }
    let several = listings.asked > 1;
    let mut table = if several {
        output::table(
            [
                "REPLICA", "LEVEL", "MIN TXID", "MAX TXID", "SIZE", "CREATED",
            ],
            &[1, 4],
        )
    } else {
        output::table(
            ["LEVEL", "MIN TXID", "MAX TXID", "SIZE", "CREATED"],
            &[0, 3],
        )
    };
    for file in files {
        let size = file.size.to_string();
        let level = file.level.to_string();
        let row = [
            &level,
            &file.min_txid,
            &file.max_txid,
            &size,
            &file.timestamp,
        ];
        if several {
            table.add_row([file.replica].into_iter().chain(row.map(String::as_str)));
        } else {
            table.add_row(row);
        }
    }
    output::print_table(&table)
}
