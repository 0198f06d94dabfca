//! `evertide ltx`

use evertide_storage::LtxObject;
use serde::Serialize;

use super::source::{Source, sources};
use crate::{args::LtxArgs, output};

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
    let sources = sources(&args.source)?;
    let listings = super::block_on(async {
        let mut listings = Vec::new();
        for Source { name, client, .. } in sources {
            let mut objects = Vec::new();
            for level in args.level.iter() {
                objects.extend(client.list_dated(level, None).await?);
            }
            listings.push((name.unwrap_or_else(|| client.location()), objects));
        }
        Ok(listings)
    })?;
    let files = listings
        .iter()
        .flat_map(|(name, objects)| objects.iter().map(move |object| File::new(name, object)));
    if args.json {
        return output::json(&files.collect::<Vec<_>>());
    }
    let several = listings.len() > 1;
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
