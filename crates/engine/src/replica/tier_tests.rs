//! Tiers of retention against a model that tries everything.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, Txid};
use evertide_storage::LtxObject;

use super::{
    files::{
        Files,
        tests::{file, random, reachable, time},
    },
    points::Keep,
    retain::{plan_retention, tests::any_replica},
};
use crate::{
    RestoreTarget, RetentionTier,
    restore::{Obstacle, plan},
};

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn keep(everything: u64, tiers: &[(u64, u64)]) -> Keep {
    let tier = |(every, keep): &(u64, u64)| {
        RetentionTier::new(Duration::from_secs(*every), Duration::from_secs(*keep))
    };
    let tiers: Vec<_> = tiers.iter().map(tier).collect();
    Keep::new(Duration::from_secs(everything), &tiers)
}

/// As settings allow them: growing in age and in coarseness.
fn any_keep(random: &mut fastrand::Rng) -> Keep {
    let everything = random.u64(1..60);
    let (mut every, mut until) = (0, everything);
    let tiers: Vec<_> = (0..random.usize(0..4))
        .map(|_| {
            every += random.u64(1..25);
            until = every.max(until + 1) + random.u64(..80);
            (every, until)
        })
        .collect();
    let keep = keep(everything, &tiers);
    let mistakes = RetentionTier::mistakes(Some(keep.everything), &keep.tiers);
    assert_eq!(mistakes, []);
    keep
}

/// The state right before a second, or at the end of it.
fn state(files: &Files, before: u64) -> Txid {
    let then = files.all().filter(|file| file.created < time(before));
    reachable(then).last().copied().unwrap_or_default()
}

/// The seconds before which the states are promised: ends of windows, one after the other, and that at
/// which everything is kept begins.
fn promised(keep: &Keep, now: u64) -> BTreeSet<u64> {
    let beginning = now.saturating_sub(keep.everything.as_secs());
    let of_tier = |tier: &RetentionTier| {
        let (every, first) = (
            tier.every.as_secs(),
            now.saturating_sub(tier.keep.as_secs()),
        );
        let first = first / every * every;
        (first..=beginning).step_by(every as usize)
    };
    // What is captured in a second is stamped with its beginning.
    let points = keep.tiers.iter().flat_map(of_tier);
    points.chain([beginning + 1]).collect()
}

fn without(files: &Files, delete: &[LtxObject]) -> Files {
    let mut left = files.clone();
    delete
        .iter()
        .for_each(|gone| _ = left.remove(gone.level, gone.name));
    left
}

#[test]
fn a_day_of_everything_a_week_of_hours_and_a_month_of_days_take_the_files_of_hours_and_days() {
    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * HOUR;
    let keep = keep(DAY, &[(HOUR, 7 * DAY), (DAY, 30 * DAY)]);
    let (mut files, mut txid) = (Files::default(), 1);
    files.add(file(9, 1, 1, 0));
    for window in 1..=60 * DAY / 300 {
        let end = window * 300;
        txid += 1;
        files.add(file(2, txid, txid, end - 1));
        if end % HOUR == 0 {
            files.add(file(3, txid - 11, txid, end - 1));
        }
        if end % DAY == 0 {
            files.add(file(9, 1, txid, end - 1));
        }
    }
    let now = 60 * DAY;
    let plan = plan_retention(&files, &keep, time(now));
    let left = without(&files, &plan.delete);
    let on = |level, from: u64, to: u64| {
        let level = Level::new(level).unwrap();
        let within = |file: &&LtxObject| (time(from)..time(to)).contains(&file.created);
        left.at(level).filter(within).count()
    };
    let day = |ago: u64| now - ago * DAY;
    // One snapshot for each day, and the one that was current when the month began.
    assert_eq!(on(9, 0, day(30)), 1);
    assert_eq!(on(9, day(30), day(7)), 23);
    // Of older days than a week there is nothing else; of the others the hours, by what starts
    // at the snapshot of the day.
    assert_eq!(on(3, 0, day(7)) + on(2, 0, day(7)), 0);
    assert_eq!(
        on(3, day(7), day(1)),
        6 * 23,
        "the snapshot is of the last hour"
    );
    assert_eq!(on(2, day(7), day(1)), 0);
    assert_eq!(on(2, day(1), now), 288);
    assert_eq!(plan.next, Some(time(now + 299)));
}

#[test]
fn every_promised_point_restores_as_before_and_nothing_is_left_that_no_promise_needs() {
    let mut random = random();
    let (mut deleted, mut kept) = (0, 0);
    for _ in 0..1_500 {
        let before = any_replica(&mut random);
        let (keep, now) = (any_keep(&mut random), 1_000 + random.u64(..400));
        let delete = plan_retention(&before, &keep, time(now)).delete;
        deleted += delete.len();
        let after = without(&before, &delete);
        let promises = promised(&keep, now);
        for at in &promises {
            assert_eq!(
                state(&before, *at),
                state(&after, *at),
                "{at} {now} {keep:?} {before:?}"
            );
        }
        let beginning = now - keep.everything.as_secs();
        for at in beginning + 1..now + 30 {
            assert_eq!(
                state(&before, at),
                state(&after, at),
                "{at} {now} {keep:?} {before:?}"
            );
        }
        // Whatever time is asked for in between, there is a state, and no gap.
        for at in 990..now {
            let newest = promises
                .range(..=at)
                .next_back()
                .map(|at| state(&before, *at));
            let planned = |files: &Files| {
                let files: Vec<_> = files.all().cloned().collect();
                plan(&files, RestoreTarget::Timestamp(time(at - 1)))
            };
            match (planned(&after), planned(&before), newest) {
                (Ok(plan), _, newest) => assert!(Some(plan.txid()) >= newest),
                (Err(_), Err(_), _) | (Err(Obstacle::NoSnapshot { .. }), _, None) => {}
                (Err(Obstacle::NoSnapshot { .. }), _, Some(Txid::ZERO)) => {}
                (Err(error), Ok(_), _) => panic!("{error:?} at {at} {now} {keep:?} {before:?}"),
            }
        }
        // The newest file of level 0 stays, whether or not anything leads to a state by it.
        let (newest, base) = (after.reached(Level::L0), state(&before, beginning + 1));
        let stays = |file: &&LtxObject| file.level == Level::L0 && file.name.max == newest;
        let old = after.all().filter(|file| file.name.max <= base);
        for file in old.filter(|file| !stays(file)) {
            let less = without(&after, std::slice::from_ref(file));
            let mut promises = promises.iter();
            let lost = promises.any(|at| state(&less, *at) != state(&before, *at));
            assert!(lost, "{file:?} {now} {keep:?} {before:?}");
            kept += 1;
        }
    }
    assert!(
        deleted > 500 && kept > 1_000,
        "{deleted} deleted, {kept} kept"
    );
}

#[test]
fn looks_at_any_times_keep_what_a_single_one_at_the_end_would() {
    let mut random = random();
    let mut looks = 0;
    for _ in 0..1_500 {
        let all = any_replica(&mut random);
        let keep = any_keep(&mut random);
        let mut arriving: Vec<LtxObject> = all.all().cloned().collect();
        arriving.sort_by_key(|file| file.created);
        let mut left = Files::default();
        let mut now = 1_000;
        let mut arriving = arriving.into_iter().peekable();
        while arriving.peek().is_some() || random.u8(..4) > 0 {
            now += random.u64(..40);
            while let Some(file) = arriving.next_if(|file| file.created <= time(now)) {
                left.add(file);
            }
            let delete = plan_retention(&left, &keep, time(now)).delete;
            left = without(&left, &delete);
            looks += 1;
        }
        for at in promised(&keep, now) {
            assert_eq!(
                state(&all, at),
                state(&left, at),
                "{at} {now} {keep:?} {all:?}"
            );
        }
        let once = without(&all, &plan_retention(&all, &keep, time(now)).delete);
        let count = |files: &Files| files.all().count();
        assert!(count(&left) <= count(&all) && count(&once) <= count(&all));
    }
    assert!(looks > 3_000, "{looks}");
}

#[test]
fn the_next_look_comes_when_there_is_something_to_delete_and_an_idle_replica_comes_to_rest() {
    let mut random = random();
    let mut waited = 0;
    for _ in 0..60 {
        let mut files = any_replica(&mut random);
        let keep = any_keep(&mut random);
        let mut now = 1_000 + random.u64(..400);
        loop {
            let plan = plan_retention(&files, &keep, time(now));
            files = without(&files, &plan.delete);
            let next = plan.next.map_or(3_000, seconds);
            assert!(next > now, "{now} {keep:?} {files:?}");
            for between in now..next {
                let plan = plan_retention(&files, &keep, time(between));
                assert_eq!(plan.delete, [], "{between} {now} {keep:?} {files:?}");
            }
            if plan.next.is_none() {
                break;
            }
            (now, waited) = (next, waited + 1);
        }
    }
    assert!(waited > 60, "{waited}");
}
