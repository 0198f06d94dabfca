//! Which pages of a growing database have not been written yet.

use std::collections::BTreeMap;

use evertide_ltx::{PageSize, Pgno};

/// Pages that the database has, and no file has given it since it last grew over them.
///
/// Empty all the time, unless a file that makes the database grow lacks pages that it adds. Then
/// another one must bring them, or cut them off, before the end: an older content of theirs has
/// been truncated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    /// Ranges by their first page, with their last one.
    ranges: BTreeMap<u32, u32>,
    /// The size of the database, in pages.
    size: u32,
}

impl Missing {
    /// The size of the database, in pages.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The database gets this size and all its pages, from a snapshot.
    pub(crate) fn replace(&mut self, size: u32) {
        self.size = size;
        self.ranges.clear();
    }

    /// The database gets this size.
    pub(crate) fn resize(&mut self, size: u32, page_size: PageSize) {
        let grown = (self.size + 1..=size).next().map(|first| (first, size));
        self.size = size;
        self.ranges.retain(|first, last| {
            *last = (*last).min(size);
            *first <= size
        });
        self.ranges.extend(grown);
        self.fill(page_size.lock_page());
    }

    /// A page is written.
    pub(crate) fn fill(&mut self, pgno: Pgno) {
        let page = pgno.get();
        let Some((&first, &last)) = self.ranges.range(..=page).next_back() else {
            return;
        };
        if page > last {
            return;
        }
        self.ranges.remove(&first);
        if first < page {
            self.ranges.insert(first, page - 1);
        }
        if page < last {
            self.ranges.insert(page + 1, last);
        }
    }

    /// The first page that is missing.
    pub(crate) fn first(&self) -> Option<Pgno> {
        self.ranges.keys().next().copied().and_then(Pgno::new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_missing_page_is_overlooked_whatever_the_order() {
        let mut random = fastrand::Rng::with_seed(evertide_testkit::seed());
        let page_size = PageSize::new(4096).expect("a page size");
        for _ in 0..500 {
            let (mut missing, mut model) = (Missing::default(), BTreeSet::new());
            for _ in 0..40 {
                let number = random.u32(1..20);
                if random.bool() {
                    model.extend(missing.size() + 1..=number);
                    model.retain(|page| *page <= number);
                    missing.resize(number, page_size);
                } else {
                    model.remove(&number);
                    missing.fill(Pgno::new(number).expect("not zero"));
                }
                assert_eq!(missing.first().map(Pgno::get), model.first().copied());
            }
        }
    }

    #[test]
    fn the_lock_page_is_never_missing() {
        let page_size = PageSize::MAX;
        let lock = page_size.lock_page();
        let mut missing = Missing::default();
        missing.resize(lock.get() + 1, page_size);
        (1..lock.get())
            .filter_map(Pgno::new)
            .for_each(|page| missing.fill(page));
        assert_eq!(missing.first().map(Pgno::get), Some(lock.get() + 1));
    }
}
