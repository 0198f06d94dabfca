//! Files that turn out to be damaged: they are made again of what holds the same, and where nothing does, all else
//! goes on without them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Error as LtxError, Level, LtxName, Txid};
use evertide_storage::LtxObject;
use humantime::format_duration;

use super::{
    super::{files::Files, files::chain_from, merge::Source},
    Maintenance,
};
use crate::Error;

/// Time between two reads of a file that is damaged, at least: somebody may have put it back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files that cannot be used.
#[derive(Debug, Default)]
pub(super) struct Damaged(BTreeMap<(Level, LtxName), Damage>);

#[derive(Debug)]
struct Damage {
    object: LtxObject,
    flaw: String,
    /// When that was found last.
    read: SystemTime,
    /// It was deleted, for what is to take its place, and that is not there yet.
    owed: bool,
}

impl Damaged {
    pub(super) fn note(&mut self, object: LtxObject, flaw: &LtxError, read: SystemTime) {
        let (key, flaw) = ((object.level, object.name), flaw.to_string());
        let damage = Damage {
            object,
            flaw,
            read,
            owed: false,
        };
        self.0.insert(key, damage);
    }

    /// A file was deleted, so that it can be made again.
    fn owe(&mut self, object: &LtxObject, now: SystemTime) {
        let key = (object.level, object.name);
        let damage = self.0.entry(key).or_insert_with(|| Damage {
            object: object.clone(),
            flaw: "it is gone".to_owned(),
            read: now,
            owed: true,
        });
        damage.owed = true;
    }

    /// A file is there again, as it should be.
    fn made(&mut self, object: &LtxObject) {
        self.0.remove(&(object.level, object.name));
    }

    /// Those that are gone, and that nothing is made of again, matter no more when restores get past them.
    fn forget_before(&mut self, reached: Txid) {
        self.0
            .retain(|_, damage| !damage.owed || damage.object.name.max > reached);
    }

    /// Takes a full listing: leaves them out of it, and forgets those that somebody deleted, or that are others now.
    pub(super) fn set_aside(&mut self, listing: &mut Files) {
        self.0.retain(|(level, name), damage| {
            let Some(listed) = listing.remove(*level, *name) else {
                return damage.owed;
            };
            let is_same = !damage.owed
                && (listed.size, listed.created) == (damage.object.size, damage.object.created);
            if !is_same {
                listing.add(listed);
            }
            is_same
        });
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &LtxObject> {
        self.0.values().map(|damage| &damage.object)
    }

    /// The newest transaction that one of them holds, zero without any.
    pub(super) fn reach(&self) -> Txid {
        let ends = self.files().map(|object| object.name.max);
        ends.max().unwrap_or_default()
    }

    /// When one of them was read last, that is the longest ago.
    fn oldest_read(&self) -> Option<SystemTime> {
        self.0.values().map(|damage| damage.read).min()
    }
}

/// The files that together hold what this one should: those of lower levels, or for a snapshot whatever leads
/// there. Merged they get its name.
fn instead(files: &Files, damaged: &LtxObject) -> Option<Vec<LtxObject>> {
    let LtxName { min, max } = damaged.name;
    let lower = |file: &&LtxObject| file.level < damaged.level || damaged.level == Level::SNAPSHOT;
    let mut within: Vec<&LtxObject> = files
        .all()
        .filter(lower)
        .filter(|file| min <= file.name.min && file.name.max <= max)
        .collect();
    within.sort_by_key(|file| file.name);
    let chain = chain_from(min.previous(), within.into_iter());
    let whole = chain.last().is_some_and(|last| last.name.max == max);
    whole.then(|| chain.into_iter().cloned().collect())
}

impl Maintenance {
    /// What is wrong with the replica and cannot be mended here, for its status.
    pub(in crate::replica) fn complaint(&self) -> Option<String> {
        let Damage { object, flaw, .. } = self.damaged.0.values().next()?;
        let others = match self.damaged.0.len() - 1 {
            0 => String::new(),
            others => format!("; so are {others} others"),
        };
        Some(format!(
            "{}: {} of level {} is damaged ({flaw}), and there is nothing to make it of again. All else goes on \
             without it. `evertide verify` says which states cannot be restored; put the file back from a copy, \
             or delete it, and that is noticed within {}{others}",
            self.merger.client.location(),
            object.name,
            object.level,
            format_duration(self.between_reads())
        ))
    }

    /// Time between two reads of a file that is damaged.
    fn between_reads(&self) -> Duration {
        self.rules.check_interval.max(PATIENCE)
    }

    /// When files that are damaged are to be read again.
    pub(super) fn damaged_due(&self) -> Option<SystemTime> {
        self.damaged
            .oldest_read()?
            .checked_add(self.between_reads())
    }

    /// Reads those again that were found damaged long ago, and takes back into a listing what is whole.
    pub(super) async fn read_again(&mut self, listing: &mut Files) {
        let now = self.clock.now();
        let due = self.damaged.0.values().filter(|damage| {
            let due = damage.read.checked_add(self.between_reads());
            due.is_none_or(|due| due <= now) || damage.read > now
        });
        let due: Vec<LtxObject> = due.map(|damage| damage.object.clone()).collect();
        for object in due {
            if self.is_mended(&object).await {
                listing.add(object);
            }
        }
    }

    /// Whether a file that was damaged is whole again.
    pub(super) async fn is_mended(&mut self, object: &LtxObject) -> bool {
        match self.merger.verify(object).await {
            Ok(()) => {
                tracing::info!(
                    replica = self.merger.replica, level = %object.level, file = %object.name,
                    "a file of the replica that was damaged is whole again"
                );
                self.damaged.made(object);
                true
            }
            Err(flaw) => {
                let was_read = !matches!(flaw, LtxError::Io(_));
                let damage = self.damaged.0.get_mut(&(object.level, object.name));
                if let Some(damage) = damage {
                    damage.read = self.clock.now();
                    if was_read {
                        damage.flaw = flaw.to_string();
                    }
                }
                false
            }
        }
    }

    /// After these could not be merged: finds out which of them are damaged, and has the next plan made without
    /// those. Where none is, the failure was another one.
    pub(super) async fn go_on_without(
        &mut self,
        sources: Vec<Source>,
        failure: Error,
    ) -> Result<(), Error> {
        let mut found = false;
        for source in sources
            .into_iter()
            .filter(|source| source.copies.is_empty())
        {
            found |= matches!(self.is_whole(&source.object).await, Ok(false));
        }
        match found {
            true => Ok(()),
            false => Err(failure),
        }
    }

    /// Reads a file to its end. One that is damaged is set aside.
    pub(super) async fn is_whole(&mut self, object: &LtxObject) -> Result<bool, Error> {
        let read = self.merger.verify(object).await;
        self.judge(object, read)
    }

    /// What follows from how a file was read: it is as it should be, or damaged and set aside, or it could not be
    /// read, and may be either.
    pub(super) fn judge(
        &mut self,
        object: &LtxObject,
        read: Result<(), LtxError>,
    ) -> Result<bool, Error> {
        match read {
            Ok(()) => Ok(true),
            Err(failure @ LtxError::Io(_)) => Err(self.merger.flawed(object, failure)),
            Err(flaw) => {
                self.set_aside(object.clone(), &flaw);
                Ok(false)
            }
        }
    }

    /// Has plans made without a file from now on.
    fn set_aside(&mut self, object: LtxObject, flaw: &LtxError) {
        tracing::error!(
            replica = self.merger.replica, level = %object.level, file = %object.name, error = %flaw,
            "a file of the replica is damaged"
        );
        self.damaged.note(object, flaw, self.clock.now());
        // What was forgotten as settled may hold the same.
        self.files = None;
    }

    /// Mends what can be mended; whether anything has changed by that.
    pub(super) async fn mend(&mut self) -> Result<bool, Error> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let found = self.damaged.files().find_map(|object| {
            let sources = instead(files, object)?;
            Some((object.clone(), sources))
        });
        if let Some((object, sources)) = found {
            return self.replace(object, sources).await.map(|()| true);
        }
        let reached = files.reached(Level::SNAPSHOT);
        self.damaged.forget_before(reached);
        let lost = self.damaged.reach() > reached;
        Ok(lost && self.start_over().await?)
    }

    /// Makes a file again that was lost, where others hold the same.
    pub(super) async fn make_again(&mut self, lost: LtxObject) -> Result<(), Error> {
        let files = self.files.as_ref();
        match files.and_then(|files| instead(files, &lost)) {
            Some(sources) => self.replace(lost, sources).await,
            None => Ok(()),
        }
    }

    /// Makes a damaged file again of others. They are read to their ends before it is deleted, which has to come
    /// first: nothing is ever replaced.
    async fn replace(&mut self, object: LtxObject, sources: Vec<LtxObject>) -> Result<(), Error> {
        for source in &sources {
            if !self.is_whole(source).await? {
                return Ok(());
            }
        }
        self.delete(object.level, std::slice::from_ref(&object))
            .await?;
        self.damaged.owe(&object, self.clock.now());
        // Of what was read just now, and nothing else.
        let sources = sources.into_iter().map(Source::from).collect();
        let made = self.merger.merge(sources, object.level).await?;
        self.damaged.made(&made);
        tracing::info!(
            replica = self.merger.replica, level = %made.level, file = %made.name,
            "a damaged or lost file was made again of others"
        );
        self.stored_file(made);
        Ok(())
    }

    /// Stores a snapshot of the database as it is now, where there is one: without it no restore would get past
    /// what is damaged. Whoever has not captured so much begins above it ([`Self::newest`]).
    async fn start_over(&mut self) -> Result<bool, Error> {
        let Some(snapshot) = self.image_now().await else {
            return Ok(false);
        };
        let name = snapshot.name;
        if name.max < self.damaged.reach() {
            return Ok(false);
        }
        let same = self
            .damaged
            .files()
            .find(|damaged| (damaged.level, damaged.name) == (Level::SNAPSHOT, name));
        if let Some(damaged) = same.cloned() {
            // Nothing is ever replaced.
            self.delete(Level::SNAPSHOT, std::slice::from_ref(&damaged))
                .await?;
            self.damaged.owe(&damaged, self.clock.now());
        }
        let made = self.put_image(Level::SNAPSHOT, snapshot).await?;
        self.damaged.made(&made);
        tracing::info!(
            replica = self.merger.replica, file = %made.name,
            "a snapshot of the database takes the place of what is damaged"
        );
        self.stored_file(made);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evertide_storage::{Destination, ManualClock, MemoryClient, ReplicaClient, bytes_stream};

    use super::{
        super::super::files::tests::{file, random, reachable, time},
        *,
    };
    use crate::ReplicaOptions;

    fn names(files: &[(u8, u64, u64)], damaged: (u8, u64, u64)) -> Option<Vec<(u8, u64, u64)>> {
        let object = |of: &(u8, u64, u64)| file(of.0, of.1, of.2, 0);
        let files: Files = files.iter().map(object).collect();
        let name = |file: &LtxObject| (file.level.get(), file.name.min.get(), file.name.max.get());
        let found = instead(&files, &object(&damaged));
        found.map(|files| files.iter().map(name).collect())
    }

    fn maintenance(client: &Arc<MemoryClient>, second: u64) -> Maintenance {
        let options = ReplicaOptions::new("it", Destination::file("/nowhere").unwrap());
        let clock = Arc::new(ManualClock::new(time(second)));
        Maintenance::new(client.clone(), &options, clock)
    }

    #[test]
    fn a_damaged_file_is_made_again_only_of_files_that_hold_all_of_it_and_nothing_else() {
        let level_0 = [(0, 2, 3), (0, 4, 4), (0, 5, 6)];
        let made = |files: &[_]| Some(files.to_vec());
        assert_eq!(names(&level_0, (1, 2, 4)), made(&level_0[..2]));
        assert_eq!(names(&level_0, (2, 4, 6)), made(&level_0[1..]));
        // Something is missing at its beginning, in its middle, at its end.
        for (files, damaged) in [
            (&level_0[..], (1, 1, 4)),
            (&[(0, 2, 3), (0, 5, 6)], (1, 2, 6)),
            (&level_0, (1, 2, 5)),
            (&level_0, (1, 2, 7)),
            (&[(1, 2, 4), (2, 2, 4)], (1, 2, 4)), // not of its own level, nor of a higher one
        ] {
            assert_eq!(names(files, damaged), None, "{damaged:?}");
        }
        // A snapshot is made of the one before, and what leads on from there.
        let years = [(9, 1, 2), (1, 2, 4), (0, 5, 5), (0, 6, 6)];
        assert_eq!(names(&years, (9, 1, 5)), made(&years[..3]));
        assert_eq!(names(&years[1..], (9, 1, 5)), None);
    }

    #[test]
    fn what_is_owed_is_remembered_while_restores_do_not_get_past_it() {
        let mut damaged = Damaged::default();
        let [owed, found] = [file(9, 1, 3, 0), file(1, 2, 2, 0)];
        damaged.owe(&owed, time(1));
        damaged.note(found.clone(), &LtxError::BadIndex, time(1));
        let mut listing: Files = [found.clone()].into_iter().collect();
        damaged.set_aside(&mut listing);
        assert_eq!(damaged.reach(), owed.name.max);
        damaged.forget_before(Txid::new(2));
        assert_eq!(damaged.reach(), owed.name.max);
        damaged.forget_before(owed.name.max);
        // What is there and damaged is known however far restores get.
        assert_eq!(damaged.files().collect::<Vec<_>>(), [&found]);
    }

    #[test]
    fn a_file_that_was_put_back_or_replaced_is_one_of_the_listing_again() {
        let damaged_file = file(1, 2, 3, 0);
        let mut another = damaged_file.clone();
        another.size += 1;
        for (owed, listed, is_left_out) in [
            (false, &damaged_file, true),
            (false, &another, false),
            (true, &damaged_file, false),
        ] {
            let mut damaged = Damaged::default();
            damaged.note(damaged_file.clone(), &LtxError::BadIndex, time(1));
            if owed {
                damaged.owe(&damaged_file, time(2));
            }
            let mut listing: Files = [listed.clone()].into_iter().collect();
            damaged.set_aside(&mut listing);
            assert_eq!(listing.all().count() == 0, is_left_out, "{owed} {listed:?}");
            assert_eq!(damaged.files().count() == 1, is_left_out);
        }
    }

    #[test]
    fn the_file_that_was_read_the_longest_ago_says_when_damaged_ones_are_read_again() {
        let mut maintenance = maintenance(&Arc::new(MemoryClient::new("replica")), 100);
        assert_eq!(maintenance.damaged_due(), None);
        for (txid, read) in [(2, 90), (3, 70), (4, 80)] {
            let object = file(1, txid, txid, 0);
            maintenance
                .damaged
                .note(object, &LtxError::BadIndex, time(read));
        }
        let due = time(70) + maintenance.between_reads();
        assert_eq!(maintenance.damaged_due(), Some(due));
    }

    #[test]
    fn one_damaged_file_is_named_and_the_others_are_counted() {
        let mut maintenance = maintenance(&Arc::new(MemoryClient::new("replica")), 100);
        assert_eq!(maintenance.complaint(), None);
        for (txid, others) in [
            (2, None),
            (3, Some("so are 1 others")),
            (4, Some("so are 2 others")),
        ] {
            let object = file(1, txid, txid, 0);
            maintenance
                .damaged
                .note(object, &LtxError::BadIndex, time(90));
            let complaint = maintenance.complaint().unwrap();
            assert!(complaint.contains(&file(1, 2, 2, 0).name.to_string()));
            match others {
                Some(others) => assert!(complaint.ends_with(others), "{complaint}"),
                None => assert!(!complaint.contains("others"), "{complaint}"),
            }
        }
    }

    #[tokio::test]
    async fn damaged_files_are_read_again_when_it_is_time_and_what_is_wrong_is_what_was_read() {
        let client = Arc::new(MemoryClient::new("replica"));
        let mut maintenance = maintenance(&client, 1_000_000);
        let (now, between) = (time(1_000_000), maintenance.between_reads());
        let second = Duration::from_secs(1);
        let cases = [
            (2, now - between, true),
            (3, now - between + second, false),
            (4, now + second, true), // by a clock that was ahead
        ];
        // Of the others nothing can be read.
        let (there, body) = (file(1, 4, 4, 0), bytes_stream("no file".into()));
        let put = client.put(there.level, there.name, there.created, body);
        let there = put.await.unwrap();
        for (txid, read, _) in cases {
            let mut object = file(1, txid, txid, 0);
            object.size = there.size;
            maintenance.damaged.note(object, &LtxError::BadIndex, read);
        }
        maintenance.read_again(&mut Files::default()).await;
        for (damage, (txid, read, is_due)) in maintenance.damaged.0.values().zip(cases) {
            assert_eq!(damage.read, if is_due { now } else { read }, "{txid}");
            let unchanged = damage.flaw == LtxError::BadIndex.to_string();
            assert_eq!(unchanged, txid != 4, "{txid}: {}", damage.flaw);
        }
    }

    #[tokio::test]
    async fn nothing_damaged_is_deleted_before_what_it_is_made_of_was_read() {
        let client = Arc::new(MemoryClient::new("replica"));
        let damaged = file(1, 2, 3, 0);
        let body = bytes_stream("no file".into());
        let put = client.put(damaged.level, damaged.name, time(0), body);
        put.await.unwrap();
        let mut maintenance = maintenance(&client, 100);
        maintenance
            .damaged
            .note(damaged.clone(), &LtxError::BadIndex, time(100));
        // Two that were there when it was looked, and are not any more.
        let gone = [file(0, 2, 2, 0), file(0, 3, 3, 0)];
        maintenance.files = Some(gone.into_iter().collect());
        assert!(maintenance.mend().await.is_err());
        assert_eq!(client.list(damaged.level, None).await.unwrap().len(), 1);
    }

    #[test]
    fn whatever_a_damaged_file_is_made_of_leads_where_it_did() {
        let mut random = random();
        let mut made = 0;
        for _ in 0..5_000 {
            let files: Files = (0..random.usize(1..9))
                .map(|_| {
                    let min = random.u64(1..8);
                    file(random.u8(..4), min, min + random.u64(..4), 0)
                })
                .collect();
            let min = random.u64(1..8);
            let damaged = file(random.u8(1..5), min, min + random.u64(..6), 0);
            // Brute force: the transactions that can be reached from the one before, as if that were a snapshot.
            let start = file(9, 1, min - 1, 0);
            let within = files.all().filter(|file| {
                file.level < damaged.level
                    && damaged.name.min <= file.name.min
                    && file.name.max <= damaged.name.max
            });
            let possible = match min {
                1 => reachable(within).contains(&damaged.name.max),
                _ => reachable(within.chain([&start])).contains(&damaged.name.max),
            };
            let found = instead(&files, &damaged);
            assert_eq!(found.is_some(), possible, "{files:?} {damaged:?}");
            made += u32::from(possible);
            for pair in found.unwrap_or_default().windows(2) {
                assert!(pair[1].name.extends(pair[0].name.max));
            }
        }
        assert!(made > 200, "{made}");
    }
}
