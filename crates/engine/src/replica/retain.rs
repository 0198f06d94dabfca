//! Which files of a replica may be deleted, and when to look again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;

use super::{
    compact::{Next, captured},
    files::{Files, chain_of_sorted, end_of},
    points::Keep,
};

/// What retention comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Retention {
    /// What nobody needs any more.
    pub(super) delete: Vec<LtxObject>,
    /// When there may be more of that, if no file arrives until then.
    pub(super) next: Option<SystemTime>,
}

/// Plans retention: every state that is younger than what is kept whole can be restored afterwards as
/// it can now, so can the one that was current at its beginning, and so can those at the points that
/// the tiers promise.
///
/// The files that lead to those are kept, and everything newer. Whatever else there is leads only to
/// other states, or there by another way.
pub(super) fn plan_retention(files: &Files, keep: &Keep, now: SystemTime) -> Retention {
    let beginning = keep.beginning(now);
    let mut old: Vec<&LtxObject> = files
        .all()
        .filter(|file| file.created <= beginning)
        .collect();
    old.sort_by_key(|file| file.name);
    let points = keep.points(&old, now);
    let times: BTreeSet<SystemTime> = points.iter().flat_map(|of| &of.before).copied().collect();
    let mut promises: BTreeMap<Option<SystemTime>, Promise<'_>> = times
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|before| (before, Promise::of(&old, before)))
        .collect();
    let reached = |before| promises.get(&before).map(Promise::reached);
    let base = reached(None).unwrap_or_default();
    let state = |before| reached(Some(before)).unwrap_or_default();
    let fades = points
        .iter()
        .filter_map(|of| of.next(state, &base, beginning));
    let ages = files.all().map(|file| file.created);
    let ages = ages.filter(|created| *created > beginning).min();
    let next = ages.and_then(|created| created.checked_add(keep.everything));
    let next = fades.chain(next).min();

    let newest = newest_of_level_0(files);
    let stays = |file: &LtxObject| file.level == Level::L0 && file.name.max >= newest;
    let kept = needed(&old, &mut promises, stays);
    let unneeded = |file: &&LtxObject| {
        file.name.max <= base && !stays(file) && !kept.contains(&(file.level, file.name))
    };
    Retention {
        delete: files.all().filter(unneeded).cloned().collect(),
        next,
    }
}

/// A state that can be restored now, and can be afterwards.
struct Promise<'a> {
    /// The files that lead to it.
    chain: Vec<&'a LtxObject>,
}

impl<'a> Promise<'a> {
    /// The state before a time, or the newest one, of files that are sorted by name.
    fn of(sorted: &[&'a LtxObject], before: Option<SystemTime>) -> Self {
        let admitted = |file: &&LtxObject| before.is_none_or(|before| file.created < before);
        let chain = chain_of_sorted(sorted.iter().copied().filter(admitted));
        Self { chain }
    }

    fn reached(&self) -> Txid {
        end_of(&self.chain)
    }
}

/// The files that keep all promises together, beside those that stay anyway, and none that they could
/// do without.
fn needed<'a>(
    old: &[&'a LtxObject],
    promises: &mut BTreeMap<Option<SystemTime>, Promise<'a>>,
    stays: impl Fn(&LtxObject) -> bool,
) -> BTreeSet<(Level, LtxName)> {
    let key = |file: &LtxObject| (file.level, file.name);
    // Which promises lead through a file; of those that took another way meanwhile, too.
    let mut through: BTreeMap<_, BTreeSet<Option<SystemTime>>> = BTreeMap::new();
    for (before, promise) in promises.iter() {
        for file in &promise.chain {
            through.entry(key(file)).or_default().insert(*before);
        }
    }
    let used = |file: &&&LtxObject| stays(file) || through.contains_key(&key(file));
    let mut kept: Vec<&LtxObject> = old.iter().filter(used).copied().collect();
    // What leads to one state may lead to another one as well, as does what stays.
    for candidate in kept.clone() {
        if stays(candidate) {
            continue;
        }
        let others = kept
            .iter()
            .copied()
            .filter(|file| key(file) != key(candidate));
        let others: Vec<_> = others.collect();
        let instead = through.get(&key(candidate)).into_iter().flatten();
        let instead = instead.filter_map(|before| {
            let promise = promises.get(before)?;
            let other = || Promise::of(&others, *before);
            let kept = |other: Promise<'a>| {
                (other.reached() == promise.reached()).then_some((*before, other))
            };
            promise.chain.contains(&candidate).then(|| kept(other()))
        });
        let instead: Option<Vec<_>> = instead.collect();
        for (before, other) in instead.iter().flatten() {
            for file in &other.chain {
                through.entry(key(file)).or_default().insert(*before);
            }
        }
        if let Some(instead) = instead {
            promises.extend(instead);
            kept = others;
        }
    }
    kept.into_iter().map(key).collect()
}

/// Plans which files of level 0 go because level 1 has them: those whose window there has been over for
/// `grace`, which leaves those who follow the replica closely the time to read them. All of a window go
/// together, since a state in it takes those before it, too, and no window goes before an older one that is
/// on level 1. They wait for each other up to `grace` longer, so that one request deletes many.
pub(super) fn plan_level_0(
    files: &Files,
    grace: Duration,
    now: SystemTime,
) -> Next<Vec<LtxObject>> {
    let Some(level_1) = Level::new(1) else {
        return Next::Never;
    };
    let newest = newest_of_level_0(files);
    let compacted = files.at(Level::L0).filter_map(|file| {
        let window = files.covering(level_1, file.name)?;
        (file.name.max < newest).then_some((file, window))
    });
    let compacted: Vec<_> = compacted.collect();
    let key = |file: &LtxObject| (file.name.max, file.level, file.name.min);
    let windows = compacted.iter().map(|(_, window)| *window);
    let known: BTreeMap<_, &LtxObject> = files
        .at(Level::L0)
        .chain(windows)
        .map(|file| (key(file), file))
        .collect();
    let in_order: Vec<&LtxObject> = known.values().copied().collect();
    let times: BTreeMap<_, SystemTime> = known.keys().zip(captured(&in_order)).collect();
    let time = |file: &LtxObject| times.get(&key(file)).copied();
    let old_at = |window: &LtxObject| time(window)?.checked_add(grace);
    let due = |(file, window): &(&LtxObject, &LtxObject)| {
        let patience = time(file)?.checked_add(grace.saturating_mul(2))?;
        Some(patience.max(old_at(window)?))
    };
    let Some(due) = compacted.iter().filter_map(due).min() else {
        return Next::Never;
    };
    if now < due {
        return Next::At(due);
    }
    let old = compacted
        .into_iter()
        .filter(|(_, window)| old_at(window).is_some_and(|old| old <= now));
    Next::Now(old.map(|(file, _)| file.clone()).collect())
}

/// The newest file of level 0 always stays: both Evertide and Litestream recognise their history by
/// it.
fn newest_of_level_0(files: &Files) -> Txid {
    files.reached(Level::L0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::files::tests::{file, random, reachable, time},
        *,
    };

    fn keep(everything: u64) -> Keep {
        Keep::new(Duration::from_secs(everything), &[])
    }

    fn names(files: &[LtxObject]) -> Vec<(u8, u64, u64)> {
        let name = |file: &LtxObject| (file.level.get(), file.name.min.get(), file.name.max.get());
        files.iter().map(name).collect()
    }

    #[test]
    fn what_leads_to_the_beginning_of_retention_stays_and_what_is_older_goes() {
        let files: Files = [
            file(9, 1, 1, 10),
            file(1, 2, 5, 20),
            file(9, 1, 5, 20),
            file(1, 6, 7, 30),
            file(1, 8, 9, 40),
            file(2, 6, 9, 40),
            file(1, 10, 11, 50),
            file(0, 11, 11, 50),
        ]
        .into_iter()
        .collect();
        let at = |now| plan_retention(&files, &keep(10), time(now));
        let deleted = |now| names(&at(now).delete);
        // At the beginning of retention, second 19, the database was as the first snapshot has it.
        assert_eq!(deleted(29), []);
        assert_eq!(deleted(30), [(1, 2, 5), (9, 1, 1)]);
        // The state of second 30 needs the file of level 1, although level 2 has it all.
        assert_eq!(deleted(49), [(1, 2, 5), (9, 1, 1)]);
        assert_eq!(deleted(50), [(1, 2, 5), (1, 6, 7), (1, 8, 9), (9, 1, 1)]);
        assert_eq!(at(30).next, Some(time(40)));
        assert_eq!(at(60).next, None, "an idle database needs no more looks");
    }

    #[test]
    fn a_replica_younger_than_retention_or_without_a_snapshot_loses_nothing() {
        let young: Files = [file(9, 1, 1, 100), file(0, 2, 2, 110)]
            .into_iter()
            .collect();
        let plan = plan_retention(&young, &keep(1_000), time(500));
        assert_eq!(plan.delete, []);
        let lost: Files = [file(0, 2, 2, 1), file(0, 3, 3, 2)].into_iter().collect();
        let plan = plan_retention(&lost, &keep(1), time(500));
        assert_eq!((plan.delete, plan.next), (vec![], None));
    }

    #[test]
    fn level_0_goes_once_it_is_compacted_and_old_and_never_the_newest_file() {
        let grace = Duration::from_secs(300);
        let mut files: Files = [
            file(0, 2, 2, 0),
            file(0, 3, 3, 100),
            file(0, 4, 4, 400),
            file(0, 5, 5, 401),
        ]
        .into_iter()
        .collect();
        assert_eq!(plan_level_0(&files, grace, time(9_000)), Next::Never);
        files.add(file(1, 2, 3, 100));
        assert_eq!(plan_level_0(&files, grace, time(599)), Next::At(time(600)));
        files.add(file(1, 4, 5, 401));
        let deleted = |now| match plan_level_0(&files, grace, time(now)) {
            Next::Now(delete) => names(&delete),
            _ => Vec::new(),
        };
        assert_eq!(deleted(600), [(0, 2, 2), (0, 3, 3)]);
        assert_eq!(deleted(9_000), [(0, 2, 2), (0, 3, 3), (0, 4, 4)]);
    }

    #[test]
    fn no_file_of_level_0_goes_while_a_younger_one_of_its_window_needs_it() {
        let grace = Duration::from_secs(300);
        let files: Files = [
            file(0, 2, 2, 5),
            file(0, 3, 3, 301),
            file(0, 4, 4, 329),
            file(1, 2, 2, 5),
            file(1, 3, 4, 329),
            file(0, 5, 5, 900),
        ]
        .into_iter()
        .collect();
        let deleted = |now| match plan_level_0(&files, grace, time(now)) {
            Next::Now(delete) => names(&delete),
            _ => Vec::new(),
        };
        assert_eq!(deleted(628), [(0, 2, 2)]);
        assert_eq!(deleted(629), [(0, 2, 2), (0, 3, 3), (0, 4, 4)]);
    }

    #[test]
    fn files_of_level_0_go_from_old_to_new_whatever_kind_their_times_are_of() {
        let grace = Duration::from_secs(300);
        // What was there when the process started has the time of its upload in the listing, which came long
        // after its capture; what was stored since has that of its capture. Or a clock was wrong for a while.
        for late in [400, 9_000] {
            let of_one_window = [file(1, 2, 3, 20)];
            let of_two_windows = [file(1, 2, 2, late), file(1, 3, 3, 20)];
            for windows in [&of_one_window[..], &of_two_windows] {
                let level_0 = [file(0, 2, 2, late), file(0, 3, 3, 20), file(0, 4, 4, 900)];
                let files: Files = windows.iter().cloned().chain(level_0).collect();
                let plan = |now| plan_level_0(&files, grace, time(now));
                assert_eq!(plan(619), Next::At(time(620)));
                let Next::Now(delete) = plan(620) else {
                    panic!("nothing is deleted")
                };
                assert_eq!(names(&delete), [(0, 2, 2), (0, 3, 3)]);
            }
        }
    }

    /// A replica as years of syncs, compactions, snapshots and mishaps may leave it.
    pub(in crate::replica) fn any_replica(random: &mut fastrand::Rng) -> Files {
        let (mut txid, mut second) = (0, 1_000);
        let mut files = Files::default();
        let (mut starts, mut merged) = (vec![(1, second)], 0);
        for _ in 0..random.usize(1..20) {
            let min = txid + 1 + u64::from(random.u8(..15) == 0);
            txid = min + random.u64(..2);
            second += random.u64(..20);
            second -= if random.u8(..15) == 0 { 15 } else { 0 };
            match random.u8(..6) {
                0 => files.add(file(9, 1, txid, second)),
                _ => files.add(file(0, min, txid, second)),
            }
            starts.push((min, second));
            for level in 1..3 {
                let from = starts.len().saturating_sub(1 + 2 * usize::from(level));
                if random.u8(..3) == 0 {
                    let latest = starts[from..].iter().map(|(_, at)| *at).max().unwrap();
                    files.add(file(level, starts[from].0, txid, latest));
                    merged += 1;
                }
            }
        }
        // Files of some are gone already.
        let all: Vec<LtxObject> = files.all().cloned().collect();
        for gone in all.iter().filter(|_| random.u8(..8) == 0) {
            files.remove(gone.level, gone.name);
        }
        assert!(merged <= 40);
        files
    }

    #[test]
    fn retention_changes_no_state_that_it_promises_and_leaves_nothing_over() {
        let mut random = random();
        let (mut deleted, mut kept) = (0, 0);
        for _ in 0..1_500 {
            let before = any_replica(&mut random);
            let (retention, now) = (random.u64(..150), 1_000 + random.u64(..400));
            let plan = plan_retention(&before, &keep(retention), time(now));
            let mut after = before.clone();
            for gone in &plan.delete {
                after.remove(gone.level, gone.name);
            }
            deleted += plan.delete.len();
            // Each point in time from the beginning of retention on gives what it gave.
            let state = |files: &Files, at: u64| {
                let then = files.all().filter(|file| file.created <= time(at));
                reachable(then).last().copied().unwrap_or_default()
            };
            let times = before.all().map(|file| file.created);
            let times: BTreeSet<u64> = times
                .map(|time| {
                    time.duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap()
                        .as_secs()
                })
                .chain([now - retention])
                .filter(|at| *at >= now - retention)
                .collect();
            for at in times {
                assert_eq!(state(&before, at), state(&after, at), "{before:?} {plan:?}");
            }
            // Each newer transaction that could be restored exactly can be.
            let base = state(&before, now - retention);
            let newer: BTreeSet<Txid> = before.all().map(|file| file.name.max).collect();
            for txid in newer.range(base..).copied() {
                let exactly = |files: &Files| {
                    let admitted = files.all().filter(|file| file.name.max <= txid);
                    reachable(admitted).contains(&txid)
                };
                assert_eq!(exactly(&before), exactly(&after), "{before:?} {txid}");
            }
            // Nothing older is left that could go as well, but the newest file of level 0.
            let newest = after.at(Level::L0).last().cloned();
            let mut needed = after.clone();
            if let Some(newest) = &newest {
                needed.remove(newest.level, newest.name);
                if state(&needed, now - retention) != base {
                    needed = after.clone();
                }
            }
            for file in needed.all().filter(|file| file.name.max <= base) {
                let mut less = needed.clone();
                less.remove(file.level, file.name);
                assert_ne!(state(&less, now - retention), base, "{file:?} {before:?}");
                kept += 1;
            }
            // Nothing is left for later that the next look would not be made for.
            let later = plan_retention(&after, &keep(retention), time(9_999));
            assert!(later.delete.is_empty() || plan.next.is_some());
        }
        assert!(
            deleted > 500 && kept > 500,
            "{deleted} deleted, {kept} kept"
        );
    }
}
