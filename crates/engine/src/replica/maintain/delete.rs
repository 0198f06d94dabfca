//! What maintenance deletes: nothing before what takes its place is sure.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use evertide_ltx::{Level, LtxName};
use evertide_storage::{Error as StoreError, LtxObject};

use super::{
    super::{files::Files, retain::plan_retention},
    Maintenance,
};
use crate::Error;

/// Files deleted with one request at most.
const DELETED_AT_ONCE: usize = 1_000;

impl Maintenance {
    /// Deletes files of level 0, after another look that those of level 1 are there which hold
    /// them, and are what they should be.
    pub(super) async fn delete_level_0(&mut self, old: &[LtxObject]) -> Result<(), Error> {
        let level_1 = self.rules.levels.first().and(Level::new(1));
        let (Some(files), Some(level_1)) = (&self.files, level_1) else {
            return Ok(());
        };
        let covers = old.iter().map(|file| files.covering(level_1, file.name));
        let covers: BTreeMap<LtxName, LtxObject> = covers
            .flatten()
            .map(|cover| (cover.name, cover.clone()))
            .collect();
        let names: Vec<LtxName> = covers.keys().copied().collect();
        let found = self.merger.client.find(level_1, &names).await;
        let found = found.map_err(|source| self.failed(source))?;
        let is_gone = |cover: &LtxObject| !found.iter().any(|there| there.name == cover.name);
        let gone: Vec<LtxObject> = covers.into_values().filter(is_gone).collect();
        if !gone.is_empty() {
            return self.make_good(gone).await;
        }
        for cover in &found {
            if !self.make_sure_of(cover).await? {
                return Ok(()); // what takes its place is planned first
            }
        }
        self.delete(Level::L0, old).await?;
        let newest = old.iter().map(|file| file.name.max).max();
        self.stored.retain(|name, _| Some(name.max) > newest);
        Ok(())
    }

    /// Files of level 1 that were stored are not there: makes them again of level 0, which stays until then.
    async fn make_good(&mut self, gone: Vec<LtxObject>) -> Result<(), Error> {
        for file in &gone {
            tracing::error!(
                replica = self.merger.replica, level = %file.level, file = %file.name,
                "a file that was stored is gone; keeping what it was made of"
            );
        }
        let files = self.list_all().await?;
        // Of a store that does not know what it has, the same would be asked again and again.
        let listed = |file: &&LtxObject| files.at(file.level).any(|there| there.name == file.name);
        if let Some(file) = gone.iter().find(listed) {
            return Err(self.failed(StoreError::NotFound {
                location: self.merger.client.location(),
                object: format!("{} of level {}, which it lists", file.name, file.level),
            }));
        }
        self.know(files);
        for file in gone {
            self.make_again(file).await?;
        }
        Ok(())
    }

    /// Makes sure that a file of level 1 is what was to be stored: it was stored by this process, verified on the
    /// way, and is as long as it was then; or else it is read now, to its end. `false` where it is damaged.
    async fn make_sure_of(&mut self, file: &LtxObject) -> Result<bool, Error> {
        if self.stored.get(&file.name) == Some(&file.size) {
            return Ok(true);
        }
        let whole = self.is_whole(file).await?;
        if whole {
            self.stored.insert(file.name, file.size);
        }
        Ok(whole)
    }

    /// Makes sure that a snapshot is as long as it was stored, or ends as it should. To read more of it would be to
    /// download the database. `false` where it is damaged.
    async fn ends_well(&mut self, snapshot: &LtxObject) -> Result<bool, Error> {
        if self.snapshots.get(&snapshot.name) == Some(&snapshot.size) {
            return Ok(true);
        }
        let read = self.merger.glance(snapshot).await;
        let whole = self.judge(snapshot, read)?;
        if whole {
            self.snapshots.insert(snapshot.name, snapshot.size);
        }
        Ok(whole)
    }

    /// Deletes what retention says, of everything there is; `false` where that has to be planned again.
    pub(super) async fn enforce_retention(&mut self) -> Result<bool, Error> {
        let Some(keep) = self.rules.retention.clone() else {
            self.retention_due = None;
            return Ok(true);
        };
        let now = self.clock.now();
        let mut files = self.list_all().await?;
        if !keep.tiers.is_empty() {
            self.date(&mut files, keep.beginning(now)).await?;
        }
        let plan = plan_retention(&files, &keep, now);
        for snapshot in take_over(&files, &plan.delete) {
            if !self.ends_well(&snapshot).await? {
                return Ok(false); // without it, others are needed
            }
        }
        // One that is damaged leads nowhere, but who looks for what can be saved of it has that long, and more where
        // nothing else leads to as new a state.
        let (beginning, reached) = (keep.beginning(now), files.reached(Level::SNAPSHOT));
        let useless = self
            .damaged
            .files()
            .filter(|file| file.created <= beginning && file.name.max <= reached);
        let useless: Vec<LtxObject> = useless.cloned().collect();
        for file in &useless {
            if self.is_mended(file).await {
                self.files = None;
                return Ok(false); // it may lead to what is kept
            }
        }
        let delete: Vec<LtxObject> = plan.delete.into_iter().chain(useless).collect();
        self.know(files);
        // Until it has worked it stays due.
        self.retention_due = Some(now);
        for level in Level::all() {
            let of_level = delete.iter().filter(|file| file.level == level);
            let of_level: Vec<LtxObject> = of_level.cloned().collect();
            self.delete(level, &of_level).await?;
        }
        let now = self.clock.now();
        self.last_check = Some(now);
        let earliest = now.checked_add(self.rules.check_interval);
        self.retention_due = plan.next.max(earliest).filter(|_| plan.next.is_some());
        Ok(true)
    }

    /// Makes the times of old files exact. What was just stored by the listing's time was captured before,
    /// so no file that is kept anyway is one of them.
    async fn date(&self, files: &mut Files, before: SystemTime) -> Result<(), Error> {
        let old = files.all().filter(|file| file.created <= before);
        let dated = self.merger.client.date(old.cloned().collect()).await;
        let dated = dated.map_err(|source| self.failed(source))?;
        dated.into_iter().for_each(|file| files.add(file));
        Ok(())
    }

    /// Deletes files. Whether they are gone then is for the client to look.
    pub(super) async fn delete(&mut self, level: Level, old: &[LtxObject]) -> Result<(), Error> {
        let client = Arc::clone(&self.merger.client);
        for some in old.chunks(DELETED_AT_ONCE) {
            let names: Vec<LtxName> = some.iter().map(|object| object.name).collect();
            let deleted = client.delete(level, &names).await;
            deleted.map_err(|source| self.failed(source))?;
            self.done.deleted += names.len() as u64;
            if level == Level::SNAPSHOT {
                self.snapshots.retain(|name, _| !names.contains(name));
            }
            if let Some(files) = &mut self.files {
                names.iter().for_each(|name| _ = files.remove(level, *name));
            }
        }
        Ok(())
    }
}

/// The snapshots that stay and lead to what those that are deleted led to.
fn take_over(files: &Files, delete: &[LtxObject]) -> Vec<LtxObject> {
    let goes = |file: &LtxObject| {
        delete
            .iter()
            .any(|gone| gone.level == file.level && gone.name == file.name)
    };
    let snapshots = |goes_too: bool| {
        let all = files.at(Level::SNAPSHOT);
        all.filter(move |file| goes(file) == goes_too)
    };
    let mut heirs: Vec<&LtxObject> = snapshots(true)
        .filter_map(|gone| snapshots(false).find(|stays| stays.name.max > gone.name.max))
        .collect();
    heirs.dedup();
    heirs.into_iter().cloned().collect()
}
