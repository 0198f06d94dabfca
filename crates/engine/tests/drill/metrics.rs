//! What those who watch the metrics see of drills.

use std::{sync::LazyLock, time::UNIX_EPOCH};

use evertide_testkit::Metrics;
use metrics::set_global_recorder;

use crate::scene::{Scene, durable, stop, until};

/// One for the process: other tests have other databases.
static KEPT: LazyLock<Metrics> = LazyLock::new(|| {
    let kept = Metrics::default();
    set_global_recorder(kept.clone()).unwrap();
    kept
});

fn gauge(name: &str, scene: &Scene) -> Option<f64> {
    let database = scene.db.display().to_string();
    KEPT.gauge(name, &[("database", &database), ("replica", "local")])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_proof_of_a_replica_is_in_the_metrics() {
    LazyLock::force(&KEPT);
    let scene = Scene::new();
    let backup = scene.start(scene.options()).await;
    durable(&backup).await;
    until(&backup, |drill| drill.proven.is_some()).await;
    stop(&backup).await;
    let proof = backup.status().replicas[0].drill.proven.unwrap();
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap();
    let told = || {
        [
            "evertide_proven_txid",
            "evertide_proven_captured_timestamp_seconds",
            "evertide_proven_timestamp_seconds",
        ]
        .map(|name| gauge(name, &scene).unwrap_or_default())
    };
    let found = told();
    assert_eq!(found[0], proof.txid.get() as f64);
    for (found, expected) in [(found[1], proof.captured), (found[2], proof.at)] {
        let difference = found - seconds(expected).as_secs_f64();
        assert!(difference.abs() < 0.002, "{found} and {expected:?}");
    }
}
