//! What maintenance deletes: nothing before what takes its place is sure, and then it looks whether it is gone.

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
        let covers = old.iter().filter_map(|f| files.covering(level_1, f.name));
        let after = covers.map(|cover| cover.name.min.previous()).min();
        let listed = self.merger.client.list(level_1, after).await;
        let listed = listed.map_err(|source| self.failed(source))?;
        let there: Files = listed.into_iter().collect();
        let covers = old.iter().map(|file| there.covering(level_1, file.name));
        let Some(covers) = covers.collect::<Option<Vec<_>>>() else {
            tracing::error!(
                replica = self.merger.replica,
                "files of level 1 that were stored are gone; keeping those of level 0"
            );
            let files = self.list_all().await?;
            self.know(files);
            return Ok(());
        };
        let covers: BTreeMap<LtxName, &LtxObject> = covers
            .into_iter()
            .map(|cover| (cover.name, cover))
            .collect();
        for cover in covers.into_values() {
            self.make_sure_of(cover).await?;
        }
        self.delete(Level::L0, old).await?;
        let newest = old.iter().map(|file| file.name.max).max();
        self.stored.retain(|name, _| Some(name.max) > newest);
        Ok(())
    }

    /// Makes sure that a file of level 1 is what was to be stored: it was stored by this process, verified on the
    /// way, and is as long as it was then; or else it is read now, to its end.
    async fn make_sure_of(&mut self, file: &LtxObject) -> Result<(), Error> {
        let flaw = match self.stored.get(&file.name) {
            Some(size) if *size == file.size => return Ok(()),
            Some(size) => {
                let what = format!("{size} bytes were stored, and it has {}", file.size);
                std::io::Error::other(what).into()
            }
            None => match self.merger.verify(file).await {
                Ok(()) => {
                    self.stored.insert(file.name, file.size);
                    return Ok(());
                }
                Err(flaw) => flaw,
            },
        };
        Err(self.merger.flawed(file, flaw))
    }

    pub(super) async fn enforce_retention(&mut self) -> Result<(), Error> {
        let Some(keep) = self.rules.retention.clone() else {
            self.retention_due = None;
            return Ok(());
        };
        let now = self.clock.now();
        let mut files = self.list_all().await?;
        if !keep.tiers.is_empty() {
            self.date(&mut files, keep.beginning(now)).await?;
        }
        let plan = plan_retention(&files, &keep, now);
        self.know(files);
        // Until it has worked it stays due.
        self.retention_due = Some(now);
        for level in Level::all() {
            let of_level = plan.delete.iter().filter(|file| file.level == level);
            let of_level: Vec<LtxObject> = of_level.cloned().collect();
            self.delete(level, &of_level).await?;
        }
        self.last_check = Some(now);
        let earliest = now.checked_add(self.rules.check_interval);
        self.retention_due = plan.next.max(earliest).filter(|_| plan.next.is_some());
        Ok(())
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

    /// Deletes files, and looks whether they are gone.
    async fn delete(&mut self, level: Level, old: &[LtxObject]) -> Result<(), Error> {
        let client = Arc::clone(&self.merger.client);
        for some in old.chunks(DELETED_AT_ONCE) {
            let names: Vec<LtxName> = some.iter().map(|object| object.name).collect();
            let deleted = client.delete(level, &names).await;
            deleted.map_err(|source| self.failed(source))?;
            let after = names.iter().map(|name| name.min.previous()).min();
            let left = client.list(level, after).await;
            let left = left.map_err(|source| self.failed(source))?;
            if let Some(left) = left.iter().find(|left| names.contains(&left.name)) {
                return Err(self.failed(StoreError::NotDeleted {
                    location: client.location(),
                    object: format!("{} of level {level}", left.name),
                }));
            }
            self.done.deleted += names.len() as u64;
            if let Some(files) = &mut self.files {
                names.iter().for_each(|name| files.remove(level, *name));
            }
        }
        Ok(())
    }
}
