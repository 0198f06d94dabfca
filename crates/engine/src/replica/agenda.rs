//! What a replica needs next to stay as it should be. Pure.

use std::time::{Duration, SystemTime};

use evertide_ltx::Level;
use evertide_storage::LtxObject;

use super::{
    compact::{Next, Windows, plan_compaction},
    files::Files,
    points::Keep,
    retain::plan_level_0,
    snapshot::plan_snapshot,
};
use crate::ReplicaOptions;

/// How a replica should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rules {
    /// Of levels 1 and up.
    pub(super) levels: Vec<Windows>,
    pub(super) snapshots: Windows,
    /// How long files of level 0 stay after they are compacted, at least.
    pub(super) grace: Duration,
    pub(super) retention: Option<Keep>,
    /// Between two looks for what retention may delete.
    pub(super) check_interval: Duration,
}

impl Rules {
    pub(super) fn new(options: &ReplicaOptions) -> Self {
        let options = options.clone().bounded();
        let most = usize::from(Level::SNAPSHOT.get()) - 1;
        let levels = options.levels.iter().take(most);
        Self {
            levels: levels.map(|interval| Windows::new(*interval)).collect(),
            snapshots: Windows::new(options.snapshot_interval),
            grace: options.level_0_retention,
            retention: options
                .retention
                .filter(|everything| !everything.is_zero())
                .map(|everything| Keep::new(everything, &options.retention_tiers)),
            check_interval: options.retention_check_interval,
        }
    }

    /// The highest level below that of snapshots.
    pub(super) fn top(&self) -> Level {
        let top = u8::try_from(self.levels.len()).unwrap_or_default();
        Level::new(top).unwrap_or(Level::SNAPSHOT)
    }
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    /// Merge these files into one of this level.
    Merge(Level, Vec<LtxObject>),
    /// Delete these files of level 0.
    DeleteLevel0(Vec<LtxObject>),
    /// List everything, and delete what retention says.
    Retention,
}

/// Decides what is next. Lower levels come first, since higher ones are made of them, and what
/// deletes comes last.
pub(super) fn plan(
    files: &Files,
    rules: &Rules,
    retention_due: Option<SystemTime>,
    now: SystemTime,
) -> Next<Task> {
    let mut next = Soonest::default();
    // Retention leaves the newest file of level 0, and would delete again whatever else is made of it. When it is no
    // longer the newest one, it is compacted.
    let newest = files.at(Level::L0).next_back().map(|file| file.name);
    let superfluous = |file: &LtxObject, level: Level| {
        let keep = rules.retention.as_ref();
        let end = keep.and_then(|keep| file.created.checked_add(keep.everything));
        let mut above = Level::all().filter(|above| *above > level);
        let is_left = file.level == Level::L0 && Some(file.name) == newest;
        end.is_some_and(|end| end <= now)
            && (is_left || above.any(|above| files.covering(above, file.name).is_some()))
    };
    for (windows, level) in rules.levels.iter().zip(Level::all().skip(1)) {
        let below = Level::new(level.get() - 1).unwrap_or(Level::L0);
        let below = files.at(below).filter(|file| !superfluous(file, level));
        let below: Vec<&LtxObject> = below.collect();
        let plan = plan_compaction(&below, files.reached(level), *windows, now);
        if let Some(sources) = next.take(plan) {
            return Next::Now(Task::Merge(level, sources));
        }
    }
    if let Some(sources) = next.take(plan_snapshot(files, rules.snapshots, now)) {
        return Next::Now(Task::Merge(Level::SNAPSHOT, sources));
    }
    // Without levels nothing is known to take the place of level 0, whatever an earlier setting left there.
    if !rules.levels.is_empty()
        && let Some(old) = next.take(plan_level_0(files, rules.grace, now))
    {
        return Next::Now(Task::DeleteLevel0(old));
    }
    let retention = match retention_due {
        Some(due) if due <= now => Next::Now(()),
        Some(due) => Next::At(due),
        None => Next::Never,
    };
    match next.take(retention) {
        Some(()) => Next::Now(Task::Retention),
        None => next.0.map_or(Next::Never, Next::At),
    }
}

/// The soonest of several times.
#[derive(Default)]
struct Soonest(Option<SystemTime>);

impl Soonest {
    /// Passes on what is to be done now, and notes when there may be something otherwise.
    fn take<T>(&mut self, next: Next<T>) -> Option<T> {
        match next {
            Next::Now(task) => return Some(task),
            Next::At(time) => self.0 = Some(self.0.map_or(time, |soonest| soonest.min(time))),
            Next::Never => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use evertide_storage::Destination;

    use super::{
        super::{
            files::tests::{file, time},
            retain::plan_retention,
        },
        *,
    };
    use crate::RetentionTier;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rules(retention: Option<Keep>) -> Rules {
        Rules {
            levels: [30, 300].map(|s| Windows::new(seconds(s))).to_vec(),
            snapshots: Windows::new(seconds(3_600)),
            grace: seconds(300),
            retention,
            check_interval: seconds(60),
        }
    }

    #[test]
    fn a_replica_settles_into_rest_and_each_step_comes_at_its_time() {
        let rules = rules(None);
        let mut files: Files = [file(9, 1, 1, 0), file(0, 2, 2, 10), file(0, 3, 3, 20)]
            .into_iter()
            .collect();
        let (mut now, mut done) = (20, Vec::new());
        loop {
            match plan(&files, &rules, None, time(now)) {
                Next::Now(Task::Merge(level, sources)) => {
                    let (first, last) = (sources[0].clone(), sources[sources.len() - 1].clone());
                    let created = last.created.duration_since(time(0)).unwrap().as_secs();
                    let (min, max) = (first.name.min.get(), last.name.max.get());
                    files.add(file(level.get(), min, max, created));
                    done.push((now, level.get(), min, max));
                }
                Next::Now(Task::DeleteLevel0(old)) => {
                    for old in old {
                        files.remove(old.level, old.name);
                        done.push((now, 0, old.name.min.get(), old.name.max.get()));
                    }
                }
                Next::Now(Task::Retention) => panic!("there is none"),
                Next::At(at) => now = at.duration_since(time(0)).unwrap().as_secs(),
                Next::Never => break,
            }
        }
        let expected = [
            (30, 1, 2, 3),
            (300, 2, 2, 3),
            (610, 0, 2, 2),
            (3_600, 9, 1, 3),
        ];
        assert_eq!(done, expected);
    }

    #[test]
    fn without_levels_nothing_of_level_0_is_to_be_deleted_for_what_is_left_of_level_1() {
        let files: Files = [(9, 1, 1), (1, 2, 3), (0, 2, 2), (0, 3, 3), (0, 4, 4)]
            .map(|(level, min, max)| file(level, min, max, 10))
            .into_iter()
            .collect();
        let mut options = ReplicaOptions::new("it", Destination::file("/nowhere").unwrap());
        let next = plan(&files, &Rules::new(&options), None, time(1_000));
        assert!(
            matches!(&next, Next::Now(Task::Merge(..))),
            "what is new is compacted first: {next:?}"
        );
        options.levels.clear();
        let next = plan(&files, &Rules::new(&options), None, time(1_000));
        assert!(matches!(next, Next::At(_)), "{next:?}");
    }

    #[test]
    fn no_time_is_too_long_for_maintenance() {
        const EVER: Duration = Duration::MAX;
        type Set = fn(&mut ReplicaOptions);
        let sets: [Set; 4] = [
            |options| options.levels = vec![EVER],
            |options| options.snapshot_interval = EVER,
            |options| options.level_0_retention = EVER,
            |options| options.retention_tiers = vec![RetentionTier::new(EVER, EVER)],
        ];
        let files: Files = [(9, 1, 1), (1, 2, 3), (0, 2, 2), (0, 3, 3), (0, 4, 4)]
            .map(|(level, min, max)| file(level, min, max, 10))
            .into_iter()
            .collect();
        for set in sets {
            let mut options = ReplicaOptions::new("it", Destination::file("/nowhere").unwrap());
            options.retention = Some(seconds(50));
            set(&mut options);
            let rules = Rules::new(&options);
            assert_ne!(plan(&files, &rules, None, time(20)), Next::Never);
            let keep = rules.retention.unwrap();
            let deleted = plan_retention(&files, &keep, time(100)).delete;
            assert!(deleted.iter().all(|file| file.level == Level::L0));
        }
    }

    #[test]
    fn a_retention_of_nothing_keeps_for_ever() {
        let mut options = ReplicaOptions::new("it", Destination::file("/nowhere").unwrap());
        for nothing in [None, Some(Duration::ZERO)] {
            options.retention = nothing;
            assert_eq!(Rules::new(&options).retention, None);
        }
        options.retention = Some(Duration::from_secs(1));
        assert!(Rules::new(&options).retention.is_some());
    }

    #[test]
    fn what_retention_deleted_is_not_made_again_of_the_file_it_left() {
        let keep = Keep::new(seconds(7_200), &[]);
        let rules = rules(Some(keep.clone()));
        let mut files: Files = [(0, 2, 10), (1, 2, 10), (2, 2, 10), (9, 1, 10)]
            .map(|(level, min, second)| file(level, min, 2, second))
            .into_iter()
            .collect();
        let deleted = plan_retention(&files, &keep, time(7_210)).delete;
        assert_eq!(deleted.len(), 2);
        for old in deleted {
            files.remove(old.level, old.name);
        }
        assert_eq!(plan(&files, &rules, None, time(7_210)), Next::Never);
        // The same where nothing else has it, until another one has come: then it is compacted however old it is.
        files.remove(Level::SNAPSHOT, file(9, 1, 2, 10).name);
        assert_eq!(plan(&files, &rules, None, time(7_210)), Next::Never);
        files.add(file(0, 3, 3, 7_209));
        let next = plan(&files, &rules, None, time(7_210));
        let merged = [file(0, 2, 2, 10)].to_vec();
        assert_eq!(next, Next::Now(Task::Merge(Level::new(1).unwrap(), merged)));
    }

    #[test]
    fn what_is_too_old_to_be_kept_is_not_compacted_where_a_snapshot_has_it() {
        let rules = rules(Some(Keep::new(seconds(7_200), &[])));
        let files: Files = [(0, 2, 2), (0, 3, 3), (0, 4, 4), (9, 1, 3)]
            .map(|(level, min, max)| file(level, min, max, 10))
            .into_iter()
            .collect();
        let merged = |next| match next {
            Next::Now(Task::Merge(level, sources)) => {
                let first: &LtxObject = &sources[0];
                Some((level.get(), first.name.min.get(), sources.len()))
            }
            _ => None,
        };
        let young = plan(&files, &rules, None, time(7_209));
        assert_eq!(merged(young), Some((1, 2, 3)));
        let old = plan(&files, &rules, None, time(7_210));
        assert_ne!(merged(old).map(|(level, ..)| level), Some(1));
    }

    #[test]
    fn retention_is_looked_after_when_it_is_due_and_not_before() {
        let mut options = ReplicaOptions::new("it", Destination::file("/nowhere").unwrap());
        options.retention = Some(Duration::from_secs(1));
        let rules = Rules::new(&options);
        let files: Files = [file(9, 1, 1, 10)].into_iter().collect();
        let at = |now| plan(&files, &rules, Some(time(50)), time(now));
        assert_eq!(at(49), Next::At(time(50)));
        assert_eq!(at(50), Next::Now(Task::Retention));
        assert_eq!(at(51), Next::Now(Task::Retention));
        let never = plan(&files, &rules, None, time(51));
        assert_eq!(never, Next::Never);
    }
}
