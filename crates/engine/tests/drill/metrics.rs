//! What those who watch the metrics see of drills.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};

use crate::scene::{Scene, durable, stop, until};

/// Keeps gauges, by name and labels.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<Key, Arc<AtomicU64>>>>);

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut kept = self.0.lock().unwrap();
        Gauge::from_arc(Arc::clone(kept.entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// One for the process: other tests have other databases.
static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    let kept = Kept::default();
    set_global_recorder(kept.clone()).unwrap();
    kept
});

fn gauge(name: &str, scene: &Scene) -> Option<f64> {
    let database = scene.db.display().to_string();
    let labels = [("database", database), ("replica", "local".to_owned())];
    let labels: Vec<metrics::Label> = labels.iter().map(Into::into).collect();
    let key = Key::from_parts(name.to_owned(), labels);
    let kept = KEPT.0.lock().unwrap();
    kept.get(&key)
        .map(|bits| f64::from_bits(bits.load(Ordering::Relaxed)))
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
