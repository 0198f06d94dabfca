//! Years in the lives of replicas.

use std::time::Duration;

use evertide::ReplicaOptions;
use evertide_storage::Destination;
use fastrand::Rng;

use crate::{
    life::Life,
    schedule::{DAY, HOUR, MINUTE, SECOND},
};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The default settings, and a week of retention.
pub(crate) fn default_options() -> ReplicaOptions {
    let mut options = ReplicaOptions::new("local", Destination::file("/not/looked/at").unwrap());
    options.retention = Some(7 * DAY);
    options
}

/// Other settings.
fn any_options(random: &mut Rng) -> ReplicaOptions {
    let mut options = default_options();
    let levels: [&[Duration]; 4] = [
        &[30 * SECOND, 5 * MINUTE, HOUR],
        &[MINUTE],
        &[10 * SECOND, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR],
        &[2 * MINUTE, 3 * HOUR],
    ];
    options.levels = levels[random.usize(..levels.len())].to_vec();
    options.level_0_retention = [2 * MINUTE, 5 * MINUTE, HOUR][random.usize(..3)];
    options.snapshot_interval = [6 * HOUR, DAY, 3 * DAY][random.usize(..3)];
    options.retention = Some([12 * HOUR, 3 * DAY, 14 * DAY][random.usize(..3)]);
    options.retention_check_interval = [10 * MINUTE, HOUR, 5 * HOUR][random.usize(..3)];
    options
}

/// How many years in all, from the environment variable `EVERTIDE_YEARS`.
fn years() -> u64 {
    let given = std::env::var("EVERTIDE_YEARS").ok();
    given.map_or(2, |years| years.parse().expect("a number of years"))
}

/// Lives a year, with enough of everything that happens in one.
async fn live_a_year(seed: u64, options: ReplicaOptions) {
    eprintln!("a year of seed {seed}: {options:?}");
    let mut life = Life::new(seed, options);
    life.live(YEAR).await;
    life.fall_asleep().await;
    life.restart();
    eprintln!("{:?}", life.tally);
    let tally = life.tally;
    let enough = [
        (tally.uploads, 2_000),
        (tally.compactions, 2_000),
        (tally.snapshots, 50),
        (tally.deleted, 2_000),
        (tally.failed_runs, 20),
        (tally.restarts + tally.deaths, 50),
        (tally.deaths, 5),
        (tally.lies, 3),
        (tally.jumps, 20),
        (tally.rebases, 5),
        (tally.idle_looks, 50),
        (tally.plans, 100),
        (tally.restores, 500),
    ];
    assert!(enough.iter().all(|(found, least)| found >= least));
}

#[tokio::test(start_paused = true)]
async fn in_a_year_of_everything_no_retained_state_is_lost_and_nothing_superfluous_is_left() {
    live_a_year(evertide_testkit::seed(), default_options()).await;
}

#[tokio::test(start_paused = true)]
async fn in_years_of_other_settings_no_retained_state_is_lost_and_nothing_superfluous_is_left() {
    let mut random = Rng::with_seed(evertide_testkit::seed());
    for _ in 1..years() {
        let options = any_options(&mut random);
        live_a_year(random.u64(..), options).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_kept_by_other_rules_than_promised_fails_the_test_above() {
    type Change = fn(&mut ReplicaOptions);
    let cases: [(Change, &str); 6] = [
        (|rules| rules.retention = Some(6 * DAY), "is lost"),
        (|rules| rules.retention = Some(8 * DAY), "is left"),
        (|rules| rules.levels[0] = 5 * MINUTE, "is not compacted"),
        (|rules| rules.levels[0] = 5 * SECOND, "in one window"),
        (|rules| rules.level_0_retention = 31 * SECOND, "is lost"),
        (|rules| rules.level_0_retention = HOUR, "of level 0 is left"),
    ];
    let seed = evertide_testkit::seed();
    for (change, said) in cases {
        let mut rules = default_options();
        change(&mut rules);
        let living = async move {
            let mut life = Life::kept_by(seed, default_options(), rules);
            life.live(60 * DAY).await;
        };
        let panic = tokio::spawn(living).await.expect_err(said).into_panic();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(said), "{said}: {text}");
    }
}
