//! Looks for every confirmed order in a restored database.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, bail, ensure};
use rusqlite::{Connection, OpenFlags};

use super::traffic::Confirmed;

/// What is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) durable: usize,
    pub(super) others: usize,
    pub(super) others_missing: usize,
}

/// Checks that a database is sound and has every order that was confirmed as replicated.
pub(super) fn verify(database: &Path, confirmed: &Confirmed) -> anyhow::Result<Found> {
    let orders = orders(database)?;
    let is_there = |(id, item): &&(i64, String)| orders.get(id) == Some(item);
    let missing: Vec<_> = confirmed
        .durable
        .iter()
        .filter(|order| !is_there(order))
        .collect();
    if let Some((id, item)) = missing.first() {
        bail!(
            "{} of {} orders that were confirmed as replicated are lost, first number {id} \
             ({item}); this must never \
             happen, please report it",
            missing.len(),
            confirmed.durable.len()
        );
    }
    let (there, gone): (Vec<_>, Vec<_>) = confirmed.others.iter().partition(is_there);
    // What is restored is a moment of the database's history: nothing is missing in the middle of
    // it.
    let newest = there.iter().map(|(id, _)| *id).max();
    let gap = gone
        .iter()
        .map(|(id, _)| *id)
        .min()
        .filter(|id| Some(*id) < newest);
    if let Some(id) = gap {
        bail!(
            "order {id} is lost, and younger ones are not; this must never happen, please \
         report it"
        );
    }
    Ok(Found {
        durable: confirmed.durable.len(),
        others: there.len(),
        others_missing: gone.len(),
    })
}

/// Checks that two databases hold the same orders.
pub(super) fn same_orders(one: &Path, other: &Path) -> anyhow::Result<()> {
    let (ours, theirs) = (orders(one)?, orders(other)?);
    ensure!(
        ours == theirs,
        "{} and {} hold different orders, {} and {}; this must never happen, please report it",
        one.display(),
        other.display(),
        ours.len(),
        theirs.len()
    );
    Ok(())
}

fn orders(path: &Path) -> anyhow::Result<HashMap<i64, String>> {
    let read = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(path, flags)?;
        let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut statement = database.prepare("SELECT id, item FROM orders")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok::<_, rusqlite::Error>((sound, rows.collect::<Result<_, _>>()?))
    };
    let (sound, orders) = read().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(sound == "ok", "{} is corrupt: {sound}", path.display());
    Ok(orders)
}
