//! The case of the lease: two processes that want to write to one replica.

use std::{sync::Arc, time::Duration};

use evertide_ltx::{Level, LtxName, Txid};
use futures_util::future::join_all;

use super::Replicas;
use crate::{
    Error, Identity, Lease, LeasedClient, Owner, ReplicaClient, SystemClock, Taken, TxidRange,
    bytes_stream,
};

const RANGE: TxidRange = TxidRange {
    found: Txid::ZERO,
    begins: Txid::FIRST,
};

/// Of several who want to write at the same moment one may. The others are told so, and one of them may
/// when it has let go.
pub async fn of_several_writers_one_has_the_lease(replicas: &impl Replicas) {
    const WRITERS: u64 = 4;
    if !replicas.open("one").capabilities().compare_and_set {
        return;
    }
    let leases: Vec<_> = (0..WRITERS)
        .map(|number| lease(replicas.open("one"), number))
        .collect();
    for lease in &leases {
        assert_eq!(lease.look().await.expect("free"), Taken::New);
        lease.claim(Identity::random(), &Taken::New, RANGE);
    }
    let write = async |number: u64, lease: &Arc<Lease>| {
        let client = LeasedClient::new(replicas.open("one"), Arc::clone(lease));
        let txid = Txid::new(number + 1);
        let (name, body) = (LtxName::new(txid, txid), bytes_stream("x".into()));
        let put = client
            .put(Level::L0, name, std::time::UNIX_EPOCH, body)
            .await;
        match put {
            Ok(_) => true,
            Err(Error::LeaseLost { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let wrote = join_all(
        (0..)
            .zip(&leases)
            .map(|(number, lease)| write(number, lease)),
    )
    .await;
    assert_eq!(wrote.iter().filter(|wrote| **wrote).count(), 1, "{wrote:?}");
    let objects = replicas.open("one").list(Level::L0, None).await;
    assert_eq!(objects.expect("list").len(), 1);
    let winner = wrote.iter().position(|wrote| *wrote).expect("one");
    for (number, lease) in leases
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != winner)
    {
        let error = lease.look().await.expect_err("it is held");
        assert!(
            matches!(error, Error::LeaseHeld { .. }),
            "{number}: {error}"
        );
    }
    leases[winner].release().await.expect("release");
    let next = &leases[(winner + 1) % leases.len()];
    let taken = next.look().await.expect("free");
    assert!(matches!(taken, Taken::Released(_)), "{taken:?}");
    next.claim(Identity::random(), &taken, RANGE);
    next.ensure().await.expect("taken");
    assert!(leases[winner].look().await.is_err());
}

fn lease(client: Arc<dyn ReplicaClient>, number: u64) -> Arc<Lease> {
    let owner = Owner {
        id: Identity::random(),
        boot: 1,
        home: number,
        host: "host".to_owned(),
        process: number.to_string(),
    };
    let lasts = Duration::from_secs(600);
    Arc::new(Lease::new(client, Arc::new(SystemClock), owner, lasts))
}
