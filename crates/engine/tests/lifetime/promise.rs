//! What a replica promises to hold after everything that happened to it, and what it must not hold any
//! more: worked out from what was uploaded and from the settings alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use evertide::ReplicaOptions;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;

use crate::model::since_epoch;

/// Files that are merged into one at most.
const MOST_SOURCES: usize = 256;

/// A file that was uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Uploaded {
    pub(crate) name: LtxName,
    pub(crate) created: SystemTime,
    /// The latest time that the clock had shown by then.
    arrived: SystemTime,
}

/// All files of a replica.
pub(crate) type Listing = BTreeMap<(Level, LtxName), LtxObject>;

/// What was uploaded, and how long it is to be kept.
#[derive(Debug)]
pub(crate) struct Promise {
    options: ReplicaOptions,
    /// By transaction.
    uploads: Vec<Uploaded>,
    /// When the files of all levels were stored.
    made: BTreeMap<(Level, LtxName), SystemTime>,
    /// What the clock shows.
    now: SystemTime,
    /// The latest time that it ever showed.
    latest: SystemTime,
}

impl Promise {
    pub(crate) fn new(options: ReplicaOptions, now: SystemTime) -> Self {
        Self {
            options,
            uploads: Vec::new(),
            made: BTreeMap::new(),
            now,
            latest: now,
        }
    }

    pub(crate) fn set_clock(&mut self, now: SystemTime) {
        self.now = now;
        self.latest = self.latest.max(now);
    }

    /// A file was uploaded, to level 0 or, if it is a snapshot, to that of snapshots. One whose upload seemed to fail
    /// is told again when it is known, which is when it arrived for whoever keeps the replica.
    pub(crate) fn uploaded(&mut self, object: &LtxObject) {
        self.uploads.pop_if(|upload| upload.name == object.name);
        self.uploads.push(Uploaded {
            name: object.name,
            created: object.created,
            arrived: self.latest,
        });
    }

    /// A file is new on the replica.
    pub(crate) fn made(&mut self, file: &LtxObject) {
        self.made.insert((file.level, file.name), self.latest);
    }

    /// States from here on are retained, and the one that was current then.
    pub(crate) fn horizon(&self) -> SystemTime {
        self.before(self.latest, self.options.retention)
    }

    fn before(&self, time: SystemTime, retention: Option<Duration>) -> SystemTime {
        let horizon = retention.and_then(|retention| time.checked_sub(retention));
        horizon.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The uploads after which the state of the database is retained, by transaction: while level 0 has
    /// them for sure each of them, later the last one of each window of level 1.
    pub(crate) fn points(&self) -> Vec<&Uploaded> {
        let horizon = self.horizon();
        let young = self
            .uploads
            .partition_point(|upload| upload.created <= horizon);
        let base = (0..young).rev().find(|at| self.is_kept(*at));
        base.into_iter()
            .chain((young..self.uploads.len()).filter(|at| self.is_kept(*at)))
            .map(|at| &self.uploads[at])
            .collect()
    }

    fn is_kept(&self, at: usize) -> bool {
        let (upload, width) = (&self.uploads[at], self.options.levels[0]);
        let Some(next) = self.uploads.get(at + 1) else {
            return true;
        };
        upload.created + self.options.level_0_retention > self.latest
            || upload.name.is_snapshot()
            || next.name.is_snapshot()
            || window(next.created, width) != window(upload.created, width)
    }

    /// Every retained state can be restored, to the transaction.
    pub(crate) fn assert_kept(&self, listing: &Listing) {
        let (points, horizon) = (self.points(), self.horizon());
        // What was current at the horizon is asked for then: one that was captured just then may have taken its place.
        let times = points.iter().map(|point| point.created.max(horizon));
        for (point, (txid, gap)) in points.iter().zip(reached_at(listing, times)) {
            let now = self.now;
            let left = format!("at {now:?}, when what is left leads to {txid}");
            assert!(txid >= point.name.max, "{point:?} is lost {left}");
            assert!(!gap, "there is a gap before {point:?} {left}");
            // Not more than the database had been through by then.
            let until = |upload: &Uploaded| upload.name.max <= txid;
            let at = self.uploads.partition_point(until).checked_sub(1);
            let restored = &self.uploads[at.expect("an upload")];
            let then = point.created..=point.created.max(horizon);
            assert!(then.contains(&restored.created), "{txid} for {point:?}");
        }
    }

    /// Nothing is on the replica that is not needed, when maintenance has just done all that is due.
    pub(crate) fn assert_nothing_left(&self, listing: &Listing) {
        self.assert_level_0_short(listing);
        let levels: Vec<Level> = Level::all().collect();
        for (width, pair) in self.options.levels.iter().zip(levels.windows(2)) {
            self.assert_compacted(listing, pair[0], pair[1], *width);
            self.assert_one_per_window(listing, pair[1], *width);
        }
        self.assert_one_per_window(listing, Level::SNAPSHOT, self.options.snapshot_interval);
        // A look for old files that was made by a clock ahead of time delays the next one.
        if self.now == self.latest {
            self.assert_old_files_lead_to_the_horizon(listing);
            self.assert_bounded(listing);
        }
    }

    /// Level 0 has nothing that is compacted and older than twice its retention, but the newest file. What
    /// the other one has to delete there is looked at with the rest of that.
    fn assert_level_0_short(&self, listing: &Listing) {
        let (files, grace) = (of_level(listing, Level::L0), self.options.level_0_retention);
        let (newest, horizon) = (files.last().map(|file| file.name), self.horizon());
        for file in &files {
            let old = file.created + 2 * grace <= self.now && file.created > horizon;
            assert!(
                !old || Some(file.name) == newest,
                "{} of level 0 is left at {:?}",
                file.name,
                self.now
            );
        }
    }

    /// A window that is over has its file.
    fn assert_compacted(&self, listing: &Listing, from: Level, to: Level, width: Duration) {
        let (merged, horizon) = (of_level(listing, to), self.horizon());
        for file in of_level(listing, from) {
            let over = window_end(file.created, width) <= self.now;
            if !over || file.created <= horizon {
                continue;
            }
            let at = merged.partition_point(|merged| merged.name.min <= file.name.min);
            let holds = at
                .checked_sub(1)
                .is_some_and(|at| file.name.max <= merged[at].name.max);
            assert!(
                holds,
                "{} of level {from} is not compacted at {:?}",
                file.name, self.now
            );
        }
    }

    /// A level has one file for each window, and one more for each upload that came too late for it, began
    /// a history or was one too many for a merge.
    fn assert_one_per_window(&self, listing: &Listing, level: Level, width: Duration) {
        let (mut files, horizon) = (BTreeMap::<u128, usize>::new(), self.horizon());
        for file in of_level(listing, level) {
            if file.created > horizon {
                *files.entry(window(file.created, width)).or_default() += 1;
            }
        }
        for (at, count) in files.into_iter().filter(|(_, count)| *count > 1) {
            let within = |upload: &&Uploaded| window(upload.created, width) == at;
            let within: Vec<_> = self.uploads.iter().filter(within).collect();
            let special = within.iter().filter(|upload| upload.splits(width)).count();
            let most = 1 + special + within.len() / MOST_SOURCES;
            assert!(
                count <= most,
                "{count} files of level {level} in one window, {most} at most"
            );
        }
    }

    /// Of files that only lead to states older than retention there are those that lead to its beginning,
    /// and none of them is superfluous.
    fn assert_old_files_lead_to_the_horizon(&self, listing: &Listing) {
        let checked = self.now.checked_sub(self.options.retention_check_interval);
        let (Some(_), Some(checked)) = (self.options.retention, checked) else {
            return;
        };
        let horizon = self.before(checked, self.options.retention);
        let (reached, _) = reached_at(listing, [horizon])[0];
        // What was made or came late may leave others over until the next look.
        let late = |file: &&LtxObject| self.made[&(file.level, file.name)] > checked;
        if listing
            .values()
            .filter(late)
            .any(|file| file.name.max <= reached)
        {
            return;
        }
        // The newest file of level 0 stays, and is looked at again when another one has come.
        let spared = |file: &LtxObject| {
            let next = self
                .uploads
                .iter()
                .find(|upload| upload.name.max > file.name.max && !upload.name.is_snapshot());
            file.level == Level::L0 && next.is_none_or(|next| next.arrived > checked)
        };
        let old = listing.values().filter(|file| file.name.max <= reached);
        let mut old: Vec<_> = old.filter(|file| !spared(file)).collect();
        old.sort_by_key(|file| file.name.max);
        let mut position = Txid::ZERO;
        for (at, file) in old.iter().enumerate() {
            let needed = file.name.extends(position)
                && file.name.is_snapshot() == (at == 0)
                // The next one does not do without it.
                && old.get(at + 1).is_none_or(|next| !next.name.extends(position));
            assert!(needed, "{file:?} is left at {:?}", self.now);
            position = file.name.max;
        }
    }

    /// The number of objects has a bound that does not depend on how long the replica has lived.
    ///
    /// What is kept was created within retention and the interval of its checks, and in a time cut into
    /// windows lie as many of them as fit in, and two that it cuts. To the beginning of that time lead one
    /// snapshot, and from there on of each level what fits into one window of the next. Level 0 has one
    /// file for each sync within twice its retention, and its newest one.
    fn assert_bounded(&self, listing: &Listing) {
        let Some(retention) = self.options.retention else {
            return;
        };
        let kept = retention + self.options.retention_check_interval;
        let fit = |time: Duration, width: Duration| time.as_nanos().div_ceil(width.as_nanos()) + 1;
        let widths = self.options.levels.iter();
        let widths: Vec<_> = widths.chain([&self.options.snapshot_interval]).collect();
        let windows: u128 = widths.iter().map(|width| fit(kept, **width)).sum();
        let base: u128 = widths.windows(2).map(|pair| fit(*pair[1], *pair[0])).sum();
        let level_0 = fit(
            2 * self.options.level_0_retention,
            self.options.sync_interval,
        );
        // Whatever was not as usual may have made one more file on each level, for good as long as it
        // is kept.
        let since = self.before(self.now, Some(2 * kept + self.options.snapshot_interval));
        let first = self
            .uploads
            .partition_point(|upload| upload.created <= since);
        let special = |upload: &&Uploaded| upload.splits(*widths[0]);
        let special = self.uploads[first..].iter().filter(special).count() * (widths.len() + 1);
        let most = windows + base + level_0 + 2 + special as u128;
        let found = listing.len() as u128;
        assert!(found <= most, "{found} objects, {most} at most");
    }
}

impl Uploaded {
    /// Whether a window of this width may have become one file more because of this one.
    fn splits(&self, width: Duration) -> bool {
        self.name.is_snapshot() || window_end(self.created, width) <= self.arrived
    }
}

fn window(time: SystemTime, width: Duration) -> u128 {
    since_epoch(time).as_nanos() / width.as_nanos()
}

fn window_end(time: SystemTime, width: Duration) -> SystemTime {
    let end = (window(time, width) + 1) * width.as_nanos();
    SystemTime::UNIX_EPOCH + Duration::from_nanos(end as u64)
}

fn of_level(listing: &Listing, level: Level) -> Vec<&LtxObject> {
    let [first, last] = [Txid::ZERO, Txid::MAX].map(|end| (level, LtxName::new(end, end)));
    listing
        .range(first..=last)
        .map(|(_, object)| object)
        .collect()
}

/// Which transaction can be restored at each of these times, which ascend, and whether there are files
/// behind a gap: by taking whatever file fits, again and again.
pub(crate) fn reached_at(
    listing: &Listing,
    times: impl IntoIterator<Item = SystemTime>,
) -> Vec<(Txid, bool)> {
    let mut files: Vec<&LtxObject> = listing.values().collect();
    files.sort_by_key(|file| file.created);
    let (mut files, mut waiting) = (files.into_iter().peekable(), BTreeSet::new());
    let mut reached = Txid::ZERO;
    let at = |time| {
        while let Some(file) = files.next_if(|file| file.created <= time) {
            waiting.insert(file.name);
        }
        while let Some(name) = waiting.first().copied()
            && name.min.previous() <= reached
        {
            waiting.remove(&name);
            reached = reached.max(name.max);
        }
        (reached, !waiting.is_empty())
    };
    times.into_iter().map(at).collect()
}
