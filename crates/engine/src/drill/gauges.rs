//! The last proof as metrics, for whoever watches its age.

use std::time::SystemTime;

use crate::{DrillProof, replica::milliseconds};

/// Publishes what was proven last; zeros where nothing was, which is a very old proof.
pub(super) fn publish(database: &str, replica: &str, proof: Option<&DrillProof>) {
    let labels = [
        ("database", database.to_owned()),
        ("replica", replica.to_owned()),
    ];
    let seconds = |time: SystemTime| milliseconds(time) as f64 / 1e3;
    let [txid, captured, at] = proof.map_or([0.0; 3], |proof| {
        [
            proof.txid.get() as f64, // exact up to 2^53
            seconds(proof.captured),
            seconds(proof.at),
        ]
    });
    metrics::gauge!("evertide_proven_txid", &labels).set(txid);
    metrics::gauge!("evertide_proven_captured_timestamp_seconds", &labels).set(captured);
    metrics::gauge!("evertide_proven_timestamp_seconds", &labels).set(at);
}

#[cfg(test)]
mod tests {
    use evertide_testkit::Metrics;

    use super::super::{
        Failed,
        tests::{drill, snapshot},
    };
    use crate::DrillFailureKind;

    #[tokio::test]
    async fn drills_are_counted_by_how_they_end() {
        let metrics = Metrics::default();
        let _here = metrics::set_default_local_recorder(&metrics);
        let (client, ..) = snapshot().await;
        let directory = tempfile::tempdir().unwrap();
        let mut drill = drill(&client, directory.path());
        let Ok(proof) = drill.drill().await else {
            panic!("nothing is wrong with it");
        };
        let told = || {
            ["evertide_drills_total", "evertide_drill_failures_total"]
                .map(|name| metrics.counter(name, &[]))
        };
        assert_eq!(told(), [None, None]);
        drill.proved(proof).await;
        assert_eq!(told(), [Some(1), None]);
        for failures in 1..3 {
            drill.failed(Failed {
                kind: DrillFailureKind::Unsound,
                problem: "it is damaged".to_owned(),
            });
            assert_eq!(told(), [Some(1), Some(failures)]);
        }
    }
}
