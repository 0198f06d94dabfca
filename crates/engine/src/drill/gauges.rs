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
