//! Which files become the next snapshot, and when. Pure.

use std::time::SystemTime;

use evertide_ltx::{Level, Txid};
use evertide_storage::{Capabilities, LtxObject};

use super::{
    compact::{MOST_SOURCES, Next, Windows, captured},
    files::{Files, chain, end_of},
};

/// Plans the next snapshot: of the state at the end of the last window that is over, if anything
/// changed since the newest one. It is made from the files that a restore of that state takes.
///
/// A chain too long to be read side by side gives a snapshot on the way there, from which the next
/// one goes on.
pub(super) fn plan_snapshot(
    files: &Files,
    windows: Windows,
    now: SystemTime,
) -> Next<Vec<LtxObject>> {
    let last = files.reached(Level::SNAPSHOT);
    let mut since: Vec<&LtxObject> = files.all().filter(|file| file.name.max > last).collect();
    since.sort_by_key(|file| file.name.max);
    let over = windows.start(now);
    let (mut closed, mut open) = (Txid::ZERO, None);
    for (file, time) in since.iter().zip(captured(&since)) {
        match time < over {
            true => closed = file.name.max,
            false => open = open.or(Some(windows.end(time))),
        }
    }
    if closed > last {
        let mut sources = chain(files.all().filter(|file| file.name.max <= closed));
        sources.truncate(MOST_SOURCES);
        if end_of(&sources) > last {
            return Next::Now(sources.into_iter().cloned().collect());
        }
    }
    open.map_or(Next::Never, Next::At)
}

/// Where the pages of a snapshot come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The files on the replica that lead to it, merged. Needs no lock on the database, and is of the end
    /// of a window.
    Replica,
    /// The database, as it is now. Takes its locks for the time of the upload, and reads nothing from
    /// the replica.
    Database,
}

/// As many bytes, 4 MiB, are read from a service without asking whether there is another way.
const SMALL: u64 = 4_194_304;

/// Chooses the cheaper origin. Reading from a service costs time, and with most of them money; reading
/// from a file system is as cheap as reading the database.
pub(super) fn origin(to_be_read: u64, store: Capabilities, database_at_hand: bool) -> Origin {
    match database_at_hand && !store.local && to_be_read > SMALL {
        true => Origin::Database,
        false => Origin::Replica,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::files::tests::{file, random, reachable, time},
        *,
    };

    fn plan(files: &[LtxObject], now: u64) -> Next<Vec<(u8, u64)>> {
        let files: Files = files.iter().cloned().collect();
        let windows = Windows::new(Duration::from_secs(100));
        match plan_snapshot(&files, windows, time(now)) {
            Next::Now(sources) => {
                let name = |file: &LtxObject| (file.level.get(), file.name.max.get());
                Next::Now(sources.iter().map(name).collect())
            }
            Next::At(time) => Next::At(time),
            Next::Never => Next::Never,
        }
    }

    #[test]
    fn a_snapshot_is_made_of_what_changed_in_windows_that_are_over() {
        let mut files = vec![file(9, 1, 1, 110)];
        assert_eq!(plan(&files, 9_000), Next::Never);
        files.push(file(0, 2, 2, 120));
        files.push(file(1, 2, 4, 199));
        files.push(file(0, 5, 5, 200));
        assert_eq!(plan(&files, 199), Next::At(time(200)));
        assert_eq!(plan(&files, 200), Next::Now(vec![(9, 1), (1, 4)]));
        files.push(file(9, 1, 4, 199));
        assert_eq!(plan(&files, 299), Next::At(time(300)));
        assert_eq!(plan(&files, 300), Next::Now(vec![(9, 4), (0, 5)]));
        files.push(file(9, 1, 5, 200));
        assert_eq!(plan(&files, 9_000), Next::Never);
    }

    #[test]
    fn a_large_snapshot_of_a_service_is_read_from_the_database_if_there_is_one() {
        let (mut local, service) = (Capabilities::default(), Capabilities::default());
        local.local = true;
        let large = SMALL + 1;
        assert_eq!(origin(large, service, true), Origin::Database);
        assert_eq!(origin(SMALL, service, true), Origin::Replica);
        assert_eq!(origin(large, local, true), Origin::Replica);
        assert_eq!(origin(large, service, false), Origin::Replica);
    }

    #[test]
    fn without_any_snapshot_one_is_made_of_whatever_starts_at_the_first_transaction() {
        let files = [file(0, 1, 1, 10), file(0, 2, 2, 20)];
        assert_eq!(plan(&files, 100), Next::Now(vec![(0, 1), (0, 2)]));
        assert_eq!(plan(&files[1..], 100), Next::Never);
    }

    #[test]
    fn behind_a_gap_no_snapshot_is_made() {
        let files = [file(9, 1, 1, 10), file(0, 2, 2, 20), file(0, 4, 4, 20)];
        assert_eq!(plan(&files, 100), Next::Now(vec![(9, 1), (0, 2)]));
        let files = [file(9, 1, 2, 10), file(0, 4, 4, 20)];
        assert_eq!(plan(&files, 100), Next::Never);
    }

    #[test]
    fn a_snapshot_reaches_what_could_be_restored_then_and_nothing_newer() {
        let mut random = random();
        let windows = Windows::new(Duration::from_secs(100));
        let mut made = 0;
        for _ in 0..3_000 {
            let (mut txid, mut second) = (0, 1_000);
            let mut files = Files::default();
            for _ in 0..random.usize(1..15) {
                let min = txid + 1 + u64::from(random.u8(..20) == 0);
                txid = min + random.u64(..2);
                second += random.u64(..60);
                let snapshot = min == 1 || random.u8(..8) == 0;
                let (level, min) = if snapshot {
                    (9, 1)
                } else {
                    (random.u8(..3), min)
                };
                files.add(file(level, min, txid, second));
            }
            let now = 1_000 + random.u64(..900);
            let over = files
                .all()
                .filter(|file| file.created < time(now / 100 * 100));
            let wanted = reachable(over).last().copied().unwrap_or_default();
            match plan_snapshot(&files, windows, time(now)) {
                Next::Now(sources) => {
                    made += 1;
                    assert_eq!(sources.last().unwrap().name.max, wanted, "{files:?} {now}");
                    assert!(wanted > files.reached(Level::SNAPSHOT));
                    assert!(sources[0].name.is_snapshot());
                    for pair in sources.windows(2) {
                        assert!(pair[1].name.extends(pair[0].name.max));
                    }
                }
                Next::At(at) => assert!(at > time(now) && wanted <= files.reached(Level::SNAPSHOT)),
                Next::Never => assert!(wanted <= files.reached(Level::SNAPSHOT)),
            }
        }
        assert!(made > 500, "{made}");
    }
}
