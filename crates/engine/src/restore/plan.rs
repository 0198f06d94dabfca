//! Which files of a replica make up a database: a decision about a listing, without any access.

use std::time::SystemTime;

use evertide_ltx::{LtxName, Txid};
use evertide_storage::{LtxObject, V3Object};

/// The state of a database that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum RestoreTarget {
    /// The newest state that the replica has.
    #[default]
    Latest,
    /// The state right after this transaction.
    Txid(Txid),
    /// The newest state captured at this time or before.
    Timestamp(SystemTime),
}

impl RestoreTarget {
    /// Whether a file holds nothing that is newer than the target.
    pub(super) fn admits(self, file: &LtxObject) -> bool {
        match self {
            Self::Latest => true,
            Self::Txid(txid) => file.name.max <= txid,
            Self::Timestamp(time) => file.created <= time,
        }
    }
}

/// The files to apply, in order: a snapshot first. Either all are LTX files, or all were written by
/// Litestream 0.3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePlan {
    files: Vec<LtxObject>,
    v3_files: Vec<V3Object>,
    newest: bool,
}

impl RestorePlan {
    pub(super) fn of_v3(v3_files: Vec<V3Object>) -> Self {
        Self {
            files: Vec::new(),
            v3_files,
            newest: false,
        }
    }

    /// Looks whether these files of the replica, those of the plan among them, have anything newer.
    pub(super) fn compared_with(mut self, ltx: &[LtxObject], v3: &[V3Object]) -> Self {
        let (txid, created) = (self.txid(), self.created());
        let later = |time: SystemTime| created.is_none_or(|created| time > created);
        let newer = |file: &LtxObject| match txid {
            Txid::ZERO => later(file.created),
            txid => file.name.max > txid,
        };
        self.newest = !ltx.iter().any(newer) && !v3.iter().any(|file| later(file.created));
        self
    }

    /// The LTX files in the order in which they are applied.
    pub fn files(&self) -> &[LtxObject] {
        &self.files
    }

    /// The files of Litestream 0.3 in the order in which they are applied.
    pub fn v3_files(&self) -> &[V3Object] {
        &self.v3_files
    }

    /// How many files it has.
    pub fn file_count(&self) -> u64 {
        (self.files.len() + self.v3_files.len()) as u64
    }

    /// The transaction whose state they make up; zero for files of Litestream 0.3, which has no
    /// transaction IDs.
    pub fn txid(&self) -> Txid {
        self.files.last().map_or(Txid::ZERO, |file| file.name.max)
    }

    /// When that state was captured.
    pub fn created(&self) -> Option<SystemTime> {
        let v3 = self.v3_files.iter().map(|file| file.created).max();
        self.files.last().map(|file| file.created).or(v3)
    }

    /// Whether the replica has no newer state than this one.
    pub fn is_newest(&self) -> bool {
        self.newest
    }

    /// How many bytes they are together.
    pub fn bytes(&self) -> u64 {
        let v3 = self.v3_files.iter().map(|file| file.size);
        self.files.iter().map(|file| file.size).chain(v3).sum()
    }
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Obstacle {
    /// The replica has no file at all.
    Empty,
    /// No file that the target admits starts at the first transaction.
    NoSnapshot {
        /// The snapshot that reaches least far, if there is any.
        first: Option<LtxObject>,
    },
    /// Files continue behind transactions that no file has.
    Gap {
        have: Txid,
        next: LtxName,
        /// When both were captured, where it was looked at exactly.
        times: Option<(SystemTime, SystemTime)>,
    },
    /// The wanted transaction is not where a file ends.
    NotReached {
        wanted: Txid,
        have: Txid,
        next: Option<LtxName>,
    },
}

/// Plans a restore from the files of all levels, in any order.
///
/// Starts from the snapshot that reaches furthest, of any level, and always adds the file that
/// reaches furthest among those that leave no gap. Reaching furthest is always best: whatever
/// extends a history extends a longer one just as well.
pub(crate) fn plan(listing: &[LtxObject], target: RestoreTarget) -> Result<RestorePlan, Obstacle> {
    if listing.is_empty() {
        return Err(Obstacle::Empty);
    }
    let snapshots = || listing.iter().filter(|file| file.name.is_snapshot());
    let Some(snapshot) = snapshots()
        .filter(|file| target.admits(file))
        .max_by_key(rank)
    else {
        let first = snapshots().min_by_key(|file| file.name.max).cloned();
        return Err(Obstacle::NoSnapshot { first });
    };
    let mut files = vec![snapshot.clone()];
    files.extend(extend(listing, target, snapshot.name.max)?);
    let plan = RestorePlan {
        files,
        v3_files: Vec::new(),
        newest: false,
    };
    Ok(plan.compared_with(listing, &[]))
}

/// Plans how to go on from the state after `position`.
pub(crate) fn extend(
    listing: &[LtxObject],
    target: RestoreTarget,
    mut position: Txid,
) -> Result<Vec<LtxObject>, Obstacle> {
    let mut admitted: Vec<&LtxObject> = listing.iter().filter(|file| target.admits(file)).collect();
    admitted.sort_by_key(|file| file.name);
    let mut rest = admitted.into_iter().peekable();
    let (mut files, mut best) = (Vec::new(), None::<&LtxObject>);
    loop {
        let reachable = |file: &&LtxObject| file.name.min.previous() <= position;
        while let Some(file) = rest.next_if(reachable) {
            best = best.into_iter().chain([file]).max_by_key(rank);
        }
        match best.take_if(|file| file.name.extends(position)) {
            Some(file) => {
                position = file.name.max;
                files.push(file.clone());
            }
            None => break,
        }
    }
    let next = rest.peek().copied();
    end(listing, target, position, next)?;
    Ok(files)
}

/// Whether the history may end at `position`, when `next` is the first admitted file behind it.
fn end(
    listing: &[LtxObject],
    target: RestoreTarget,
    have: Txid,
    next: Option<&LtxObject>,
) -> Result<(), Obstacle> {
    // What the target leaves out is no gap.
    let beyond = listing
        .iter()
        .map(|file| file.name)
        .filter(|name| name.extends(have))
        .min();
    match (next, beyond, target) {
        (Some(next), None, target) => Err(Obstacle::Gap {
            have,
            next: next.name,
            times: times(listing, target, have, next),
        }),
        (_, next, RestoreTarget::Txid(wanted)) if have < wanted => {
            Err(Obstacle::NotReached { wanted, have, next })
        }
        _ => Ok(()),
    }
}

/// When the state before a gap was captured, and the file behind it. Listings are exact where a time is wanted.
fn times(
    listing: &[LtxObject],
    target: RestoreTarget,
    have: Txid,
    next: &LtxObject,
) -> Option<(SystemTime, SystemTime)> {
    let RestoreTarget::Timestamp(_) = target else {
        return None;
    };
    let last = |file: &&LtxObject| file.name.max == have && target.admits(file);
    let last = listing.iter().find(last)?;
    Some((last.created, next.created))
}

/// Further is better; of two that reach equally far the smaller one costs less.
fn rank(file: &&LtxObject) -> (Txid, std::cmp::Reverse<u64>) {
    (file.name.max, std::cmp::Reverse(file.size))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use evertide_ltx::Level;
    use evertide_storage::V3Key;

    use super::*;

    /// A file: level, first and last transaction, and the second in which it was captured.
    type Row = (u8, u64, u64, u64);

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn objects(rows: &[Row]) -> Vec<LtxObject> {
        let object = |(level, min, max, second): &Row| LtxObject {
            level: Level::new(*level).expect("a level"),
            name: LtxName::new(Txid::new(*min), Txid::new(*max)),
            size: 100 + max - min,
            created: time(*second),
        };
        rows.iter().map(object).collect()
    }

    /// A snapshot of Litestream 0.3 of so many bytes.
    fn v3(second: u64) -> V3Object {
        let name = "generations/0000000000000001/snapshots/00000000.snapshot.lz4";
        V3Object {
            key: V3Key::parse(name).unwrap(),
            size: second,
            created: time(second),
        }
    }

    /// The plan as level and transactions of each file.
    fn planned(rows: &[Row], target: RestoreTarget) -> Result<Vec<(u8, u64, u64)>, Obstacle> {
        let plan = plan(&objects(rows), target)?;
        let row = |file: &LtxObject| (file.level.get(), file.name.min.get(), file.name.max.get());
        Ok(plan.files().iter().map(row).collect())
    }

    #[test]
    fn the_newest_state_takes_the_newest_snapshot_and_the_longest_steps() {
        let rows = [
            (9, 1, 1, 1),
            (9, 1, 10, 10),
            (0, 10, 10, 10),
            (0, 11, 11, 11),
            (0, 12, 12, 12),
            (0, 13, 13, 13),
            (1, 8, 12, 12),
            (0, 14, 14, 14),
        ];
        let expected = vec![(9, 1, 10), (1, 8, 12), (0, 13, 13), (0, 14, 14)];
        assert_eq!(planned(&rows, RestoreTarget::Latest), Ok(expected));
    }

    #[test]
    fn any_file_that_starts_at_the_first_transaction_is_a_snapshot() {
        let rows = [(0, 1, 1, 1), (2, 1, 7, 7), (0, 8, 8, 8), (9, 1, 3, 3)];
        let expected = vec![(2, 1, 7), (0, 8, 8)];
        assert_eq!(planned(&rows, RestoreTarget::Latest), Ok(expected));
    }

    #[test]
    fn a_missing_compacted_file_is_made_up_for_by_others() {
        let rows = [
            (9, 1, 2, 2),
            (1, 3, 4, 4),
            (0, 5, 5, 5),
            (0, 6, 6, 6),
            (1, 7, 8, 8),
        ];
        let expected = vec![(9, 1, 2), (1, 3, 4), (0, 5, 5), (0, 6, 6), (1, 7, 8)];
        assert_eq!(planned(&rows, RestoreTarget::Latest), Ok(expected));
    }

    #[test]
    fn a_replica_without_files_is_told_from_one_without_a_snapshot() {
        assert_eq!(planned(&[], RestoreTarget::Latest), Err(Obstacle::Empty));
        let lost = planned(&[(0, 2, 2, 2)], RestoreTarget::Latest);
        assert_eq!(lost, Err(Obstacle::NoSnapshot { first: None }));
        let later = planned(
            &[(9, 1, 5, 5), (9, 1, 7, 7)],
            RestoreTarget::Txid(Txid::new(4)),
        );
        let first = objects(&[(9, 1, 5, 5)]).pop();
        assert_eq!(later, Err(Obstacle::NoSnapshot { first }));
    }

    #[test]
    fn a_gap_with_files_behind_it_is_never_the_end_of_a_restore() {
        let rows = [(9, 1, 2, 2), (0, 3, 3, 3), (0, 5, 5, 5), (0, 6, 6, 6)];
        let next = LtxName::new(Txid::new(5), Txid::new(5));
        let gap = |times| {
            Err(Obstacle::Gap {
                have: Txid::new(3),
                next,
                times,
            })
        };
        assert_eq!(planned(&rows, RestoreTarget::Latest), gap(None));
        assert_eq!(planned(&rows, RestoreTarget::Txid(Txid::new(6))), gap(None));
        let times = Some((time(3), time(5)));
        assert_eq!(
            planned(&rows, RestoreTarget::Timestamp(time(9))),
            gap(times)
        );
        // Before the gap everything can be had.
        let before = Ok(vec![(9, 1, 2), (0, 3, 3)]);
        assert_eq!(planned(&rows, RestoreTarget::Txid(Txid::new(3))), before);
        assert_eq!(planned(&rows, RestoreTarget::Timestamp(time(4))), before);
    }

    #[test]
    fn a_transaction_is_restored_exactly_or_not_at_all() {
        let rows = [(9, 1, 2, 2), (0, 3, 3, 3), (1, 4, 8, 8), (9, 1, 6, 6)];
        let at = |txid| planned(&rows, RestoreTarget::Txid(Txid::new(txid)));
        assert_eq!(at(2), Ok(vec![(9, 1, 2)]));
        assert_eq!(at(3), Ok(vec![(9, 1, 2), (0, 3, 3)]));
        assert_eq!(at(6), Ok(vec![(9, 1, 6)]));
        assert_eq!(at(8), Ok(vec![(9, 1, 6), (1, 4, 8)]));
        let next = Some(LtxName::new(Txid::new(4), Txid::new(8)));
        let (wanted, have) = (Txid::new(7), Txid::new(6));
        assert_eq!(at(7), Err(Obstacle::NotReached { wanted, have, next }));
        let (wanted, have) = (Txid::new(9), Txid::new(8));
        assert_eq!(
            at(9),
            Err(Obstacle::NotReached {
                wanted,
                have,
                next: None
            })
        );
    }

    #[test]
    fn a_point_in_time_uses_every_level_and_nothing_newer() {
        let rows = [
            (9, 1, 2, 10),
            (1, 3, 5, 20),
            (0, 6, 6, 25),
            (1, 6, 9, 30),
            (9, 1, 9, 30),
        ];
        let at = |second| planned(&rows, RestoreTarget::Timestamp(time(second)));
        assert!(matches!(
            at(9),
            Err(Obstacle::NoSnapshot { first: Some(_) })
        ));
        assert_eq!(at(10), Ok(vec![(9, 1, 2)]));
        assert_eq!(at(24), Ok(vec![(9, 1, 2), (1, 3, 5)]));
        assert_eq!(at(29), Ok(vec![(9, 1, 2), (1, 3, 5), (0, 6, 6)]));
        assert_eq!(at(30), Ok(vec![(9, 1, 9)]));
    }

    #[test]
    fn a_plan_knows_whether_the_replica_has_anything_newer() {
        let ltx = objects(&[(9, 1, 2, 10), (0, 3, 3, 20), (1, 3, 3, 25)]);
        let newest = |target| plan(&ltx, target).unwrap().is_newest();
        assert!(newest(RestoreTarget::Latest));
        assert!(newest(RestoreTarget::Txid(Txid::new(3))));
        assert!(!newest(RestoreTarget::Txid(Txid::new(2))));
        assert!(newest(RestoreTarget::Timestamp(time(99))));
        assert!(newest(RestoreTarget::Timestamp(time(20))));
        assert!(!newest(RestoreTarget::Timestamp(time(19))));
        // Beside files of Litestream 0.3.
        let both = |plan: RestorePlan, second| plan.compared_with(&ltx, &[v3(second)]).is_newest();
        assert!(both(plan(&ltx, RestoreTarget::Latest).unwrap(), 5));
        assert!(!both(plan(&ltx, RestoreTarget::Latest).unwrap(), 99));
        assert!(both(RestorePlan::of_v3(vec![v3(30)]), 30));
        assert!(!both(RestorePlan::of_v3(vec![v3(15)]), 15));
    }

    #[test]
    fn a_plan_says_how_many_files_and_bytes_are_read() {
        let ltx = plan(
            &objects(&[(9, 1, 2, 10), (0, 3, 3, 20)]),
            RestoreTarget::Latest,
        )
        .unwrap();
        assert_eq!((ltx.file_count(), ltx.bytes()), (2, 101 + 100));
        assert_eq!(ltx.v3_files(), []);
        let files = vec![v3(10), v3(11), v3(12)];
        let old = RestorePlan::of_v3(files.clone());
        assert_eq!((old.file_count(), old.bytes()), (3, 10 + 11 + 12));
        assert_eq!(old.v3_files(), files);
    }

    #[test]
    fn a_clock_that_stepped_back_ends_a_point_in_time_and_is_no_gap() {
        let rows = [(9, 1, 2, 10), (0, 3, 3, 50), (0, 4, 4, 12)];
        let expected = Ok(vec![(9, 1, 2)]);
        assert_eq!(planned(&rows, RestoreTarget::Timestamp(time(20))), expected);
    }

    /// All transactions that can be reached, by trying everything.
    fn reachable(files: &[LtxObject], target: RestoreTarget) -> BTreeSet<Txid> {
        let files: Vec<_> = files.iter().filter(|file| target.admits(file)).collect();
        let snapshots = files.iter().filter(|file| file.name.is_snapshot());
        let mut reached: BTreeSet<Txid> = snapshots.map(|file| file.name.max).collect();
        loop {
            let before = reached.len();
            for file in &files {
                let from = file.name.min.previous()..file.name.max;
                if reached.range(from).next().is_some() {
                    reached.insert(file.name.max);
                }
            }
            if reached.len() == before {
                return reached;
            }
        }
    }

    #[test]
    fn no_plan_falls_short_of_what_trying_everything_reaches() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        let (mut plans, mut gaps) = (0, 0);
        for _ in 0..20_000 {
            let rows = (0..random.usize(1..9)).map(|_| {
                let min = random.u64(1..12);
                let min = if random.u8(..4) == 0 { 1 } else { min };
                (random.u8(..=9), min, min + random.u64(..5), random.u64(..9))
            });
            let files = objects(&rows.collect::<Vec<Row>>());
            let target = match random.u8(..3) {
                0 => RestoreTarget::Latest,
                1 => RestoreTarget::Txid(Txid::new(random.u64(1..16))),
                _ => RestoreTarget::Timestamp(time(random.u64(..10))),
            };
            let best = reachable(&files, target).last().copied();
            match plan(&files, target) {
                Ok(plan) => {
                    plans += 1;
                    assert_eq!(Some(plan.txid()), best, "{files:?} {target:?}");
                    let names: Vec<LtxName> = plan.files().iter().map(|file| file.name).collect();
                    assert!(names[0].is_snapshot());
                    assert!(names.windows(2).all(|pair| pair[1].extends(pair[0].max)));
                    assert!(plan.files().iter().all(|file| target.admits(file)));
                }
                Err(Obstacle::Gap { have, next, .. }) => {
                    gaps += 1;
                    assert_eq!(Some(have), best);
                    assert!(next.min > have.next());
                    assert!(!files.iter().any(|file| file.name.extends(have)));
                }
                Err(Obstacle::NotReached { wanted, have, .. }) => {
                    assert_eq!(Some(have), best);
                    assert!(have < wanted);
                }
                Err(Obstacle::NoSnapshot { .. }) => assert_eq!(best, None),
                Err(Obstacle::Empty) => panic!("there are files"),
            }
        }
        assert!(plans > 1000 && gaps > 100, "{plans} plans, {gaps} gaps");
    }
}
