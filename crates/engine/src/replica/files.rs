//! The files of a replica, as far as they are known.

use std::collections::BTreeMap;

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;

/// Files of a replica, by level and name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Files(BTreeMap<(Level, LtxName), LtxObject>);

impl FromIterator<LtxObject> for Files {
    fn from_iter<T: IntoIterator<Item = LtxObject>>(objects: T) -> Self {
        let keyed = objects
            .into_iter()
            .map(|object| ((object.level, object.name), object));
        Self(keyed.collect())
    }
}

impl Files {
    pub(super) fn add(&mut self, object: LtxObject) {
        self.0.insert((object.level, object.name), object);
    }

    pub(super) fn remove(&mut self, level: Level, name: LtxName) -> Option<LtxObject> {
        self.0.remove(&(level, name))
    }

    /// Those of a level, by first transaction, then by last.
    pub(super) fn at(&self, level: Level) -> impl DoubleEndedIterator<Item = &LtxObject> {
        let names = [Txid::ZERO, Txid::MAX].map(|end| (level, LtxName::new(end, end)));
        let [first, last] = names;
        self.0.range(first..=last).map(|(_, object)| object)
    }

    /// A file of this level that holds all of `name`, as far as levels are cut alike.
    pub(super) fn covering(&self, level: Level, name: LtxName) -> Option<&LtxObject> {
        let first = (level, LtxName::new(Txid::ZERO, Txid::ZERO));
        let last = (level, LtxName::new(name.min, Txid::MAX));
        let mut before = self.0.range(first..=last);
        let (_, nearest) = before.next_back()?;
        (name.max <= nearest.name.max).then_some(nearest)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &LtxObject> {
        self.0.values()
    }

    /// The newest transaction of a level, zero without files.
    pub(super) fn reached(&self, level: Level) -> Txid {
        let ends = self.at(level).map(|object| object.name.max);
        ends.max().unwrap_or_default()
    }

    /// The newest transaction of all.
    pub(super) fn newest(&self) -> Txid {
        let ends = self.all().map(|object| object.name.max);
        ends.max().unwrap_or_default()
    }

    /// Leaves out what no compaction and no snapshot will need any more, so that what is kept in
    /// memory does not grow with the age of a replica: below the newest snapshot whatever is
    /// compacted already. The files of level 0 stay, since they are to be deleted soon, and with them
    /// those of level 1 that hold the same; so does the newest file of each level, which says how far
    /// it is.
    pub(super) fn forget_settled(&mut self, top: Level) {
        let snapshot = self.reached(Level::SNAPSHOT);
        let reached: Vec<Txid> = Level::all().map(|level| self.reached(level)).collect();
        let end = |level: usize| reached.get(level).copied().unwrap_or_default();
        let oldest = self.at(Level::L0).next().map(|file| file.name.min);
        self.0.retain(|(level, name), _| {
            let at = usize::from(level.get());
            let compacted = *level >= top || name.max <= end(at + 1);
            let settled = name.max <= snapshot && compacted && name.max < end(at);
            let holds_level_0 = at == 1 && oldest.is_some_and(|oldest| oldest <= name.max);
            *level == Level::L0 || holds_level_0 || !settled
        });
    }
}

/// The files that lead furthest, of those given: the snapshot that reaches furthest, and then always
/// the file that does so without a gap. It is what a restore takes.
pub(super) fn chain<'a>(files: impl Iterator<Item = &'a LtxObject>) -> Vec<&'a LtxObject> {
    let mut sorted: Vec<&LtxObject> = files.collect();
    sorted.sort_by_key(|file| file.name);
    chain_of_sorted(sorted.into_iter())
}

/// As [`chain`], of files that are sorted by name.
pub(super) fn chain_of_sorted<'a>(
    files: impl Iterator<Item = &'a LtxObject>,
) -> Vec<&'a LtxObject> {
    chain_from(Txid::ZERO, files)
}

/// The same from the state after a transaction on.
pub(super) fn chain_from<'a>(
    start: Txid,
    files: impl Iterator<Item = &'a LtxObject>,
) -> Vec<&'a LtxObject> {
    let rank = |file: &&LtxObject| (file.name.max, std::cmp::Reverse(file.size));
    let mut chain: Vec<&LtxObject> = Vec::new();
    let (mut rest, mut best) = (files.peekable(), None::<&LtxObject>);
    loop {
        let position = end_of(&chain).max(start);
        while let Some(file) = rest.next_if(|file| file.name.min.previous() <= position) {
            best = best.into_iter().chain([file]).max_by_key(rank);
        }
        match best.take_if(|file| file.name.extends(position)) {
            Some(file) => chain.push(file),
            None => return chain,
        }
    }
}

/// The transaction that a chain leads to, zero without one.
pub(super) fn end_of(chain: &[&LtxObject]) -> Txid {
    chain.last().map_or(Txid::ZERO, |file| file.name.max)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, SystemTime},
    };

    use super::*;

    pub(in crate::replica) fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// A file: level, first and last transaction, and the second in which it was captured.
    pub(in crate::replica) fn file(level: u8, min: u64, max: u64, second: u64) -> LtxObject {
        LtxObject {
            level: Level::new(level).unwrap(),
            name: LtxName::new(Txid::new(min), Txid::new(max)),
            size: 100 + max - min,
            created: time(second),
        }
    }

    /// All transactions that can be restored exactly, by trying everything.
    pub(in crate::replica) fn reachable<'a>(
        files: impl Iterator<Item = &'a LtxObject>,
    ) -> BTreeSet<Txid> {
        let files: Vec<&LtxObject> = files.collect();
        let mut reached = BTreeSet::from([Txid::ZERO]);
        loop {
            let before = reached.len();
            for file in &files {
                let from = file.name.min.previous()..file.name.max;
                let snapshot = file.name.is_snapshot();
                if snapshot || reached.range(from).any(|txid| *txid > Txid::ZERO) {
                    reached.insert(file.name.max);
                }
            }
            if reached.len() == before {
                reached.remove(&Txid::ZERO);
                return reached;
            }
        }
    }

    pub(in crate::replica) fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(evertide_testkit::seed())
    }

    #[test]
    fn no_chain_falls_short_of_what_trying_everything_reaches() {
        let mut random = random();
        for _ in 0..5_000 {
            let files: Files = (0..random.usize(0..9))
                .map(|_| {
                    let min = if random.u8(..4) == 0 {
                        1
                    } else {
                        random.u64(1..12)
                    };
                    file(random.u8(..=9), min, min + random.u64(..5), 0)
                })
                .collect();
            let chain = chain(files.all());
            let furthest = reachable(files.all()).last().copied();
            assert_eq!(end_of(&chain), furthest.unwrap_or_default(), "{files:?}");
            assert!(chain.first().is_none_or(|file| file.name.is_snapshot()));
            for pair in chain.windows(2) {
                assert!(pair[1].name.extends(pair[0].name.max), "{files:?}");
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_needed_neither_for_compaction_nor_for_snapshots() {
        let mut files: Files = [
            file(0, 9, 9, 9),
            file(0, 10, 10, 10),
            file(1, 2, 4, 4),
            file(1, 5, 6, 6),
            file(1, 7, 8, 8), // not compacted further yet
            file(1, 9, 10, 10),
            file(2, 2, 6, 6),
            file(9, 1, 1, 1),
            file(9, 1, 10, 10),
        ]
        .into_iter()
        .collect();
        files.forget_settled(Level::new(2).unwrap());
        let left = files.all().map(|f| (f.level.get(), f.name.max.get()));
        assert_eq!(
            left.collect::<Vec<_>>(),
            [(0, 9), (0, 10), (1, 8), (1, 10), (2, 6), (9, 10)]
        );
        files.add(file(0, 5, 5, 5));
        files.add(file(1, 5, 6, 6));
        files.forget_settled(Level::new(2).unwrap());
        let covering = files.covering(
            Level::new(1).unwrap(),
            LtxName::new(Txid::new(5), Txid::new(5)),
        );
        assert!(
            covering.is_some(),
            "level 0 is deleted only where level 1 is known to have it"
        );
    }
}
