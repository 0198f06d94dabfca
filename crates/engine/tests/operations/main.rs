//! Random operations against the engine and a plain model: whatever an application and its
//! administrator do, one after the other, a restore gives what the model has.
//!
//! An input is a list of operations, two bytes each, so that the mutations of the fuzzer and inputs
//! kept for regression are lists of operations, too.
#![allow(clippy::disallowed_methods, reason = "tests look at files as they are")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod operation;
mod scene;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use evertide_testkit::Fuzz;

use operation::{Operation, kinds};
use scene::{Reached, Scene};

/// Operations of one input; more cost time, and find no more than another input does.
const MOST: usize = 60;

/// Lists to begin with: nothing in particular, and those that are likely to hurt.
fn corpus() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut lists: Vec<Vec<u8>> = (0..4)
        .map(|_| (0..2 * MOST).map(|_| random.u8(..)).collect())
        .collect();
    lists.push(kinds().flat_map(|kind| [0, 9, kind, 77, 1, 5]).collect());
    lists
}

fn run(runtime: &tokio::runtime::Runtime, list: &[Operation]) -> Reached {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut scene = Scene::new();
            for operation in list {
                scene.perform(*operation).await;
            }
            scene.finish().await
        })
    }));
    outcome.unwrap_or_else(|panic| {
        eprintln!("after these operations: {list:?}");
        resume_unwind(panic)
    })
}

#[test]
fn no_run_of_operations_makes_a_restore_differ_from_a_plain_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut reached = Reached::default();
    let report = Fuzz::target("operations")
        .corpus(corpus())
        .corpus_of(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/corpus/operations"
        ))
        .inputs(16)
        .run(|input| {
            let pairs = input.bytes.chunks_exact(2).take(MOST);
            let list: Vec<_> = pairs.map(|pair| Operation::new(pair[0], pair[1])).collect();
            let run = run(&runtime, &list);
            reached.rebases += run.rebases;
            reached.rotations += run.rotations;
            run.outcome()
        });
    report.assert_reached(&[], 3);
    // Without these it would be about a WAL that only grows.
    assert!(reached.rebases > 0 && reached.rotations > 0, "{reached:?}");
}
