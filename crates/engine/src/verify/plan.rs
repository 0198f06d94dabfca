//! What the listing of a replica tells by itself: which states can be restored, what is missing
//! between them, and what the loss of some files means. Pure.

use std::{cmp::Reverse, collections::BTreeSet};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;

/// The order in which files are read: by last transaction, and of those that end with the same one
/// the finest first. Applying whatever leads on, in this order, passes through every state that can
/// be restored, by the finest files there are.
pub(super) fn reading_order(files: &mut [LtxObject]) {
    files.sort_by_key(|file| (file.name.max, Reverse(file.name.min), file.level));
}

/// The states that can be restored from these files, which are in reading order, when the state
/// after `from` is there already. Zero means nothing is.
pub(super) fn states<'a>(
    files: impl IntoIterator<Item = &'a LtxObject>,
    from: Txid,
) -> BTreeSet<Txid> {
    let mut position = from;
    let mut states = BTreeSet::new();
    for file in files {
        if file.name.extends(position) {
            position = file.name.max;
            states.insert(position);
        }
    }
    states
}

/// Transactions between which nothing can be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    /// The last state before it.
    pub(super) have: Txid,
    /// The first file behind it.
    pub(super) next: LtxName,
    /// The level of that file.
    pub(super) level: Level,
    /// The last transaction that nothing leads to.
    pub(super) last: Txid,
    /// The snapshot from which states can be restored again.
    pub(super) resumes: Option<LtxName>,
}

/// The gaps of a history, and how many files lie before its first snapshot and are of no use. The newest
/// file of level 0 is none of them: by it a history is recognised. The files are in reading order.
pub(super) fn gaps(files: &[LtxObject]) -> (Vec<Gap>, usize) {
    let (mut gaps, mut before) = (Vec::<Gap>::new(), Vec::<&LtxObject>::new());
    let (mut position, mut open) = (Txid::ZERO, None::<Gap>);
    let level_0 = files.iter().filter(|file| file.level == Level::L0);
    let level_0 = level_0.map(|file| file.name);
    let (first, newest) = (level_0.clone().min(), level_0.max_by_key(|name| name.max));
    for file in files {
        let name = file.name;
        if name.min.previous() <= position {
            // Nothing is lost in front of a snapshot of the first state behind the gap. The newest file of
            // level 0 stays when those before it go, which are compacted with it.
            let left = |gap: &Gap| gap.level == Level::L0 && Some(gap.next) == first;
            let harmless =
                |gap: &Gap| gap.next.max == name.max && (name.is_snapshot() || left(gap));
            if let Some(mut gap) = open.take().filter(|gap| !harmless(gap)) {
                gap.resumes = Some(name);
                gaps.push(gap);
            }
            position = position.max(name.max);
        } else if position == Txid::ZERO {
            before.push(file);
        } else {
            let gap = open.get_or_insert(Gap {
                have: position,
                next: name,
                level: file.level,
                last: name.max,
                resumes: None,
            });
            gap.last = name.max;
        }
    }
    gaps.extend(open);
    if position > Txid::ZERO {
        before.retain(|file| file.level != Level::L0 || Some(file.name) != newest);
    }
    (gaps, before.len())
}

/// Pairs of files of one level that hold the same transactions. Snapshots all do, and are left out.
pub(super) fn overlaps(files: &[LtxObject]) -> Vec<(&LtxObject, &LtxObject)> {
    let mut overlaps = Vec::new();
    for level in Level::all().filter(|level| *level != Level::SNAPSHOT) {
        let mut on_level: Vec<_> = files.iter().filter(|file| file.level == level).collect();
        on_level.sort_by_key(|file| file.name);
        let mut furthest: Option<&LtxObject> = None;
        for file in on_level {
            match furthest {
                Some(before) if file.name.min <= before.name.max => overlaps.push((before, file)),
                _ => {}
            }
            if furthest.is_none_or(|before| before.name.max < file.name.max) {
                furthest = Some(file);
            }
        }
    }
    overlaps
}

/// What the loss of a file means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Impact {
    /// Everything can be restored without it.
    Covered,
    /// Some states cannot.
    Lost {
        /// The first of them.
        first: Txid,
        /// The last of them.
        last: Txid,
        /// How many, as far as files tell.
        states: usize,
        /// The newest state that can still be restored.
        newest: Option<Txid>,
    },
}

/// What it means that these files cannot be used: for each of them, in the same order. The files are
/// in reading order.
pub(super) fn impacts(files: &[LtxObject], broken: &[LtxObject]) -> Vec<Impact> {
    let is_good = |file: &&LtxObject| !broken.contains(file);
    let good = states(files.iter().filter(is_good), Txid::ZERO);
    let all = states(files, Txid::ZERO);
    let impact = |broken: &LtxObject| {
        // What the file leads to, itself included.
        let behind = files.iter().filter(|file| !file.name.is_snapshot());
        let mut lost = states(behind, broken.name.max);
        lost.insert(broken.name.max);
        lost.retain(|state| all.contains(state) && !good.contains(state));
        match (lost.first(), lost.last()) {
            (Some(first), Some(last)) => Impact::Lost {
                first: *first,
                last: *last,
                states: lost.len(),
                newest: good.last().copied(),
            },
            _ => Impact::Covered,
        }
    };
    broken.iter().map(impact).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A file: level, first and last transaction.
    type Row = (u8, u64, u64);

    fn files(rows: &[Row]) -> Vec<LtxObject> {
        let object = |(level, min, max): &Row| LtxObject {
            level: Level::new(*level).expect("a level"),
            name: LtxName::new(Txid::new(*min), Txid::new(*max)),
            size: 100,
            created: SystemTime::UNIX_EPOCH,
        };
        let mut files: Vec<_> = rows.iter().map(object).collect();
        reading_order(&mut files);
        files
    }

    fn lost(rows: &[Row], broken: &[Row]) -> Vec<Option<(u64, u64, usize, u64)>> {
        let impacts = impacts(&files(rows), &files(broken));
        let row = |impact| match impact {
            Impact::Covered => None,
            Impact::Lost {
                first,
                last,
                states,
                newest,
            } => Some((first.get(), last.get(), states, newest.map_or(0, Txid::get))),
        };
        impacts.into_iter().map(row).collect()
    }

    #[test]
    fn a_gap_is_found_with_what_lies_in_it_and_where_history_resumes() {
        let found = |rows: &[Row]| {
            let (gaps, useless) = gaps(&files(rows));
            let row = |gap: &Gap| {
                let resumes = gap.resumes.map_or(0, |name| name.max.get());
                (gap.have.get(), gap.next.min.get(), gap.last.get(), resumes)
            };
            (gaps.iter().map(row).collect::<Vec<_>>(), useless)
        };
        assert_eq!(found(&[(9, 1, 2), (0, 3, 3), (0, 4, 4)]), (vec![], 0));
        let rows = [(9, 1, 2), (0, 4, 4), (0, 5, 5)];
        assert_eq!(found(&rows), (vec![(2, 4, 5, 0)], 0));
        let rows = [(9, 1, 2), (0, 4, 4), (0, 5, 5), (9, 1, 6), (0, 8, 8)];
        assert_eq!(found(&rows), (vec![(2, 4, 5, 6), (6, 8, 8, 0)], 0));
        // A coarser file covers what finer ones lack.
        let rows = [(9, 1, 2), (1, 3, 4), (0, 5, 5)];
        assert_eq!(found(&rows), (vec![], 0));
        // File 4 was the newest one of level 0 when file 3 went.
        let rows = [(9, 1, 2), (0, 4, 4), (1, 3, 4), (0, 5, 5)];
        assert_eq!(found(&rows), (vec![], 0));
        // Those of level 0 go from the oldest on, and those of a window together.
        let rows = [(9, 1, 1), (0, 2, 2), (0, 4, 4), (1, 2, 4)];
        assert_eq!(found(&rows), (vec![(2, 4, 4, 4)], 0));
        let rows = [(9, 1, 2), (0, 4, 4), (0, 5, 5), (1, 3, 5)];
        assert_eq!(found(&rows), (vec![(2, 4, 5, 5)], 0));
        assert_eq!(found(&[(0, 3, 3), (1, 3, 4), (9, 1, 9)]), (vec![], 1));
        // The newest file of level 0 stays when all of a replica is older than retention.
        assert_eq!(found(&[(0, 3, 3), (0, 4, 4), (9, 1, 9)]), (vec![], 1));
        assert_eq!(found(&[(0, 9, 9), (9, 1, 9)]), (vec![], 0));
        // Without any snapshot nothing is of use.
        assert_eq!(found(&[(0, 3, 3), (0, 4, 4)]), (vec![], 2));
        // Retention leaves the newest file of level 0, and snapshots of days.
        assert_eq!(found(&[(9, 1, 2), (0, 9, 9), (9, 1, 9)]), (vec![], 0));
        // A history that starts over above another one has no gap.
        assert_eq!(found(&[(9, 1, 2), (0, 3, 3), (9, 1, 9)]), (vec![], 0));
    }

    #[test]
    fn files_of_one_level_that_share_a_transaction_are_found() {
        let pairs = |rows: &[Row]| {
            let files = files(rows);
            let pair = |(a, b): &(&LtxObject, &LtxObject)| (a.name.max.get(), b.name.min.get());
            overlaps(&files).iter().map(pair).collect::<Vec<_>>()
        };
        assert_eq!(pairs(&[(9, 1, 4), (9, 1, 8), (0, 8, 8), (1, 5, 8)]), []);
        assert_eq!(pairs(&[(0, 2, 4), (0, 5, 6)]), []);
        assert_eq!(pairs(&[(0, 2, 4), (0, 4, 6)]), [(4, 4)]);
        assert_eq!(pairs(&[(0, 2, 4), (0, 5, 8), (0, 7, 9)]), [(8, 7)]);
        assert_eq!(pairs(&[(1, 2, 9), (1, 3, 3), (1, 5, 6)]), [(9, 3), (9, 5)]);
    }

    #[test]
    fn the_loss_of_a_file_costs_what_no_other_file_leads_to() {
        let rows = [
            (9, 1, 2),
            (0, 3, 3),
            (0, 4, 4),
            (1, 3, 4),
            (0, 5, 5),
            (9, 1, 5),
        ];
        assert_eq!(lost(&rows, &[(1, 3, 4)]), [None]);
        assert_eq!(lost(&rows, &[(0, 4, 4)]), [None]);
        assert_eq!(lost(&rows, &[(0, 3, 3)]), [Some((3, 3, 1, 5))]);
        assert_eq!(lost(&rows, &[(9, 1, 5)]), [None]);
        assert_eq!(lost(&rows, &[(9, 1, 2)]), [Some((2, 4, 3, 5))]);
        let both = lost(&rows, &[(0, 4, 4), (1, 3, 4)]);
        assert_eq!(both, [Some((4, 4, 1, 5)), Some((4, 4, 1, 5))]);
        let rows = [(9, 1, 2), (0, 3, 3), (0, 4, 4), (0, 5, 5)];
        assert_eq!(lost(&rows, &[(0, 4, 4)]), [Some((4, 5, 2, 3))]);
        assert_eq!(lost(&rows, &[(9, 1, 2)]), [Some((2, 5, 4, 0))]);
    }

    /// All states, by trying everything until nothing is added.
    fn brute_force(files: &[LtxObject]) -> BTreeSet<Txid> {
        let mut reached = BTreeSet::from([Txid::ZERO]);
        loop {
            let before = reached.len();
            for file in files {
                let from = file.name.min.previous()..file.name.max;
                if reached.range(from).next().is_some() {
                    reached.insert(file.name.max);
                }
            }
            if reached.len() == before {
                reached.remove(&Txid::ZERO);
                return reached;
            }
        }
    }

    #[test]
    fn no_state_that_can_be_restored_is_overlooked_nor_one_invented() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        let (mut with_gap, mut with_loss) = (0, 0);
        for _ in 0..20_000 {
            let row = |random: &mut fastrand::Rng| {
                let min = random.u64(1..12);
                let min = if random.u8(..4) == 0 { 1 } else { min };
                (random.u8(..=9), min, min + random.u64(..5))
            };
            // A replica has one object of a name on a level.
            let rows: BTreeSet<Row> = (0..random.usize(1..9)).map(|_| row(&mut random)).collect();
            let rows: Vec<Row> = rows.into_iter().collect();
            let all = files(&rows);
            let reached = brute_force(&all);
            assert_eq!(states(&all, Txid::ZERO), reached, "{rows:?}");
            let (gaps, _) = gaps(&all);
            with_gap += usize::from(!gaps.is_empty());
            for gap in gaps {
                let inside = reached.range(gap.have.next()..gap.last);
                assert_eq!(inside.count(), 0, "{rows:?} {gap:?}");
                assert!(gap.next.min > gap.have.next());
            }
            let (broken, good): (Vec<_>, Vec<_>) =
                all.iter().cloned().partition(|_| random.u8(..4) == 0);
            let kept = brute_force(&good);
            let lost: BTreeSet<_> = reached.difference(&kept).copied().collect();
            let mut named = BTreeSet::new();
            for impact in impacts(&all, &broken) {
                if let Impact::Lost { first, last, .. } = impact {
                    with_loss += 1;
                    assert!(lost.contains(&first) && lost.contains(&last), "{rows:?}");
                    named.extend(lost.range(first..=last));
                }
            }
            assert_eq!(named, lost, "{rows:?} without {broken:?}");
        }
        assert!(with_gap > 100 && with_loss > 100, "{with_gap} {with_loss}");
    }
}
