//! The N-th read of a file fails in a drill, for every N until one is clean: the replica is never accused.

use std::{collections::BTreeMap, path::Path};

use evertide_ltx::{Encoder, Header, Level, PageSize, Pgno};
use evertide_storage::{
    Fault, FaultClient, MemoryClient, OsDisk, ReadFault, bytes_stream, failing_runs,
};
use futures_util::future::join_all;
use rusqlite::Connection;

use super::{tests::drill, *};

/// Runs at a time: they wait more than they work.
const AT_ONCE: usize = 6;

/// The pages of the database at this path, which nobody has open.
fn pages(path: &Path) -> BTreeMap<u32, Vec<u8>> {
    let file = OsDisk.open_read(path).unwrap();
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    let pages = content.chunks(4_096).map(<[u8]>::to_vec);
    (1..).zip(pages).collect()
}

/// A replica with a snapshot of a real database and what three commits changed.
async fn replica() -> Arc<MemoryClient> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let client = Arc::new(MemoryClient::new("drill"));
    let mut before = BTreeMap::new();
    for txid in 1..=4 {
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS t (a); INSERT INTO t VALUES (randomblob(9000))",
        )
        .unwrap();
        drop(conn);
        let now = pages(&path);
        let (size, txid) = (PageSize::new(4_096).unwrap(), Txid::new(txid));
        let header = Header::new(size, now.len() as u32, txid, txid);
        let name = header.name();
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        for (number, page) in &now {
            if before.get(number) != Some(page) {
                let pgno = Pgno::new(*number).unwrap();
                encoder.encode_page(pgno, page).unwrap();
            }
        }
        let level = if before.is_empty() {
            Level::SNAPSHOT
        } else {
            Level::L0
        };
        let body = bytes_stream(encoder.finish().unwrap().0.into());
        let put = client.put(level, name, SystemTime::UNIX_EPOCH, body);
        put.await.unwrap();
        before = now;
    }
    client
}

/// Whether a drill came to the N-th read.
async fn read_fails(replica: &Arc<MemoryClient>, n: u64, how: ReadFault, lasts: Fault) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let client = Arc::new(FaultClient::new(replica.clone()));
    client.fail_read_at(n, how, lasts);
    let drill = drill(&client, directory.path());
    let first = drill.drill().await;
    let tripped = client.tripped();
    match first {
        Ok(_) => assert!(lasts == Fault::Once || !tripped, "{n} {how:?}"),
        Err(Failed { kind, problem }) => {
            assert_eq!(lasts, Fault::Forever, "{n} {how:?}: {problem}");
            assert_eq!(kind, DrillFailureKind::Unfinished, "{n} {how:?}: {problem}");
            assert!(client.is_named_in(&problem), "{n} {how:?}: {problem}");
            client.heal();
            let again = drill.drill().await.map_err(|failed| failed.problem);
            assert_eq!(again.unwrap().txid, Txid::new(4));
        }
    }
    assert_eq!(OsDisk.read_dir(directory.path()).unwrap(), []);
    tripped
}

#[tokio::test]
async fn whichever_read_fails_a_drill_accuses_no_replica_and_proves_it_once_the_store_works() {
    let replica = replica().await;
    let runs = ReadFault::each().map(|(how, lasts)| {
        let replica = &replica;
        failing_runs(AT_ONCE, move |n| read_fails(replica, n, how, lasts))
    });
    assert_eq!(join_all(runs).await, [4; 6], "one for each file");
}

/// Whether a drill came to the N-th request.
async fn refused(replica: &Arc<MemoryClient>, n: u64, lasts: Fault) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let client = Arc::new(FaultClient::new(replica.clone()));
    client.refuse_request_at(n, lasts);
    let drill = drill(&client, directory.path());
    let first = drill.drill().await;
    let tripped = client.tripped();
    if let Err(Failed { kind, problem }) = first {
        assert!(tripped, "{n}: {problem}");
        assert_eq!(kind, DrillFailureKind::Unfinished, "{n}: {problem}");
        assert!(client.is_named_in(&problem), "{n}: {problem}");
        client.heal();
        let again = drill.drill().await.map_err(|failed| failed.problem);
        assert_eq!(again.unwrap().txid, Txid::new(4));
    } else {
        assert!(lasts == Fault::Once || !tripped, "{n}");
    }
    assert_eq!(OsDisk.read_dir(directory.path()).unwrap(), []);
    tripped
}

#[tokio::test]
async fn whichever_request_is_refused_a_drill_accuses_no_replica_and_proves_it_once_the_store_works()
 {
    let replica = replica().await;
    for lasts in [Fault::Once, Fault::Forever] {
        let requests = failing_runs(AT_ONCE, |n| refused(&replica, n, lasts)).await;
        assert!(
            requests > 4 + 2,
            "only {requests}, of which 4 are for files"
        );
    }
}
