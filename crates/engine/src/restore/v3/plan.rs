//! Which files of a replica that Litestream 0.3 wrote make up a database: a decision about a
//! listing, without any access.

use std::time::SystemTime;

use evertide_storage::{V3Key, V3Object, V3Part};

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::restore) enum Obstacle {
    /// The generation has no snapshot that is old enough, or none at all.
    NoSnapshot {
        generation: u64,
        /// When its first snapshot was taken, if it has any.
        first: Option<SystemTime>,
    },
    /// A segment is missing.
    Gap {
        /// The name it would have.
        missing: String,
        /// The file before it.
        after: Box<V3Object>,
    },
    /// Two files have the same place in the history.
    Twice { file: String, other: String },
}

/// Plans the restore of the newest state, or of the newest one at this time: a snapshot, and the
/// segments of the WAL that follow, in order. `None` where there are no files.
///
/// The newest file names the generation, even where that cannot be restored: an older generation in
/// its place would be an older database, in silence.
pub(in crate::restore) fn plan(
    listing: &[V3Object],
    time: Option<SystemTime>,
) -> Result<Option<Vec<V3Object>>, Obstacle> {
    let admitted = |file: &&V3Object| time.is_none_or(|time| file.created <= time);
    let newest = listing
        .iter()
        .filter(admitted)
        .max_by_key(|file| (file.created, &file.key))
        .or_else(|| listing.iter().min_by_key(|file| (file.created, &file.key)));
    let Some(generation) = newest.map(|file| file.key.generation()) else {
        return Ok(None);
    };
    let of_generation = || {
        listing
            .iter()
            .filter(move |file| file.key.generation() == generation)
    };
    let snapshots = || of_generation().filter(|file| is_snapshot(&file.key));
    let Some(snapshot) = snapshots()
        .filter(admitted)
        .max_by_key(|file| file.key.part())
    else {
        let first = snapshots().map(|file| file.created).min();
        return Err(Obstacle::NoSnapshot { generation, first });
    };
    let index = snapshot.key.part().index();
    let mut segments: Vec<&V3Object> = of_generation()
        .filter(|file| !is_snapshot(&file.key) && file.key.part().index() >= index)
        .collect();
    segments.sort_by_key(|file| file.key.part());
    let mut files = vec![snapshot.clone()];
    for segment in segments.into_iter().take_while(admitted) {
        follows(&files, index, segment)?;
        files.push(segment.clone());
    }
    Ok(Some(files))
}

/// Makes sure that a segment follows the files before it, as far as their names tell.
fn follows(files: &[V3Object], first: u32, segment: &V3Object) -> Result<(), Obstacle> {
    let Some(last) = files.last() else {
        return Ok(());
    };
    let (before, V3Part::Segment { index, offset }) = (last.key.part(), segment.key.part()) else {
        return Ok(());
    };
    let expected = match before {
        V3Part::Snapshot { .. } => first,
        V3Part::Segment {
            index: before,
            offset: start,
        } if index == before => {
            // Where it ends is known only once it was read; `Wal` compares that.
            return if start < offset {
                Ok(())
            } else {
                Err(Obstacle::Twice {
                    file: last.key.to_string(),
                    other: segment.key.to_string(),
                })
            };
        }
        V3Part::Segment { index: before, .. } => before.saturating_add(1),
    };
    if (index, offset) == (expected, 0) {
        return Ok(());
    }
    Err(Obstacle::Gap {
        missing: segment_name(segment.key.generation(), expected, 0),
        after: Box::new(last.clone()),
    })
}

fn is_snapshot(key: &V3Key) -> bool {
    matches!(key.part(), V3Part::Snapshot { .. })
}

/// The name of a segment, as Litestream 0.3.13 writes it.
pub(in crate::restore) fn segment_name(generation: u64, index: u32, offset: u64) -> String {
    format!("generations/{generation:016x}/wal/{index:08x}_{offset:08x}.wal.lz4")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn file(generation: u64, part: V3Part, second: u64) -> V3Object {
        let text = match part {
            V3Part::Snapshot { index } => {
                format!("generations/{generation:016x}/snapshots/{index:08x}.snapshot.lz4")
            }
            V3Part::Segment { index, offset } => segment_name(generation, index, offset),
        };
        V3Object {
            key: V3Key::parse(&text).unwrap(),
            size: 100,
            created: time(second),
        }
    }

    fn snapshot(generation: u64, index: u32, second: u64) -> V3Object {
        file(generation, V3Part::Snapshot { index }, second)
    }

    fn segment(generation: u64, index: u32, offset: u64, second: u64) -> V3Object {
        file(generation, V3Part::Segment { index, offset }, second)
    }

    /// Two generations, the second with two snapshots.
    fn usual() -> Vec<V3Object> {
        vec![
            snapshot(9, 0, 10),
            segment(9, 0, 0, 11),
            segment(9, 1, 0, 12),
            snapshot(5, 0, 20),
            segment(5, 0, 0, 21),
            segment(5, 0, 4152, 22),
            segment(5, 1, 0, 23),
            segment(5, 2, 0, 24),
            snapshot(5, 2, 25),
            segment(5, 2, 0x1_0000_0000, 26),
            segment(5, 3, 0, 27),
        ]
    }

    fn names(listing: &[V3Object], second: Option<u64>) -> Vec<(u64, V3Part)> {
        let files = plan(listing, second.map(time)).unwrap().unwrap();
        let name = |file: &V3Object| (file.key.generation(), file.key.part());
        files.iter().map(name).collect()
    }

    fn parts(generation: u64, index: u32, segments: &[(u32, u64)]) -> Vec<(u64, V3Part)> {
        let segments = segments.iter().map(|(index, offset)| V3Part::Segment {
            index: *index,
            offset: *offset,
        });
        let all = [V3Part::Snapshot { index }].into_iter().chain(segments);
        all.map(|part| (generation, part)).collect()
    }

    #[test]
    fn the_newest_snapshot_of_the_newest_generation_and_all_behind_it_are_taken() {
        let mut listing = usual();
        listing.reverse();
        let expected = parts(5, 2, &[(2, 0), (2, 0x1_0000_0000), (3, 0)]);
        assert_eq!(names(&listing, None), expected);
        assert_eq!(plan(&[], None), Ok(None));
    }

    #[test]
    fn a_time_takes_what_was_there_then_and_nothing_later() {
        for (second, expected) in [
            (10, parts(9, 0, &[])),
            (12, parts(9, 0, &[(0, 0), (1, 0)])),
            (19, parts(9, 0, &[(0, 0), (1, 0)])),
            (20, parts(5, 0, &[])),
            (22, parts(5, 0, &[(0, 0), (0, 4152)])),
            (24, parts(5, 0, &[(0, 0), (0, 4152), (1, 0), (2, 0)])),
            (25, parts(5, 2, &[(2, 0)])),
            (99, parts(5, 2, &[(2, 0), (2, 0x1_0000_0000), (3, 0)])),
        ] {
            assert_eq!(names(&usual(), Some(second)), expected, "at {second}");
        }
        let early = plan(&usual(), Some(time(9)));
        let (generation, first) = (9, Some(time(10)));
        assert_eq!(early, Err(Obstacle::NoSnapshot { generation, first }));
    }

    #[test]
    fn a_segment_that_is_missing_is_named_and_never_skipped() {
        let usual = usual();
        for (lost, missing) in [
            (9, None), // between two of one index: only their content tells
            (7, Some("wal/00000002_00000000.wal.lz4")),
        ] {
            let mut listing = usual.clone();
            listing.remove(lost);
            match (plan(&listing, None), missing) {
                (Ok(_), None) => {}
                (Err(Obstacle::Gap { missing, .. }), Some(name)) => {
                    assert!(missing.ends_with(name), "{missing}");
                }
                other => panic!("{other:?}"),
            }
        }
        // A whole index.
        let listing: Vec<_> = usual
            .iter()
            .filter(|file| file.created != time(23) && file.created != time(25))
            .cloned()
            .collect();
        let Err(Obstacle::Gap { missing, after }) = plan(&listing, None) else {
            panic!("no gap was seen");
        };
        assert!(missing.ends_with("wal/00000001_00000000.wal.lz4"));
        assert_eq!(after.created, time(22));
    }

    #[test]
    fn a_new_generation_without_its_snapshot_is_no_older_database() {
        let mut listing = usual();
        listing.push(segment(7, 0, 0, 30));
        let (generation, first) = (7, None);
        let none = Err(Obstacle::NoSnapshot { generation, first });
        assert_eq!(plan(&listing, None), none);
        assert_eq!(names(&listing, Some(12)), parts(9, 0, &[(0, 0), (1, 0)]));
    }

    #[test]
    fn one_place_in_the_history_is_not_filled_twice() {
        for (offset, text) in [
            (0, "00000003_0000000000000000"),
            (0x1_0000_0000, "00000002_0000000100000000"),
        ] {
            let mut listing = usual();
            let mut twin = segment(5, 3, offset, 28);
            twin.key = V3Key::parse(&format!("generations/{:016x}/wal/{text}.wal.lz4", 5)).unwrap();
            listing.push(twin);
            let planned = plan(&listing, None);
            assert!(
                matches!(planned, Err(Obstacle::Twice { .. })),
                "{planned:?}"
            );
        }
    }
}
