//! Replicas in S3, on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::{
    net::ToSocketAddrs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Destination, OsDisk, ReplicaClient, S3Options, Secret, collect,
    conformance::{Gauge, Pieces, Replicas},
};
use evertide_testkit::{Answered, Fault, FaultProxy, S3Kind, S3Server, Weather};

/// Honours conditions.
mod ministack {
    evertide_storage::conformance!(super::Buckets::on(evertide_testkit::S3Kind::Ministack));
}

/// Checks signatures.
mod rclone {
    evertide_storage::conformance!(super::Buckets::on(evertide_testkit::S3Kind::Rclone));
}

/// Replicas below a folder of a test's own, in one bucket.
struct Buckets {
    server: Arc<S3Server>,
    folder: String,
}

const NAME: LtxName = LtxName::new(Txid::FIRST, Txid::FIRST);
/// What is stored in three parts.
const LONG: Pieces = Pieces {
    count: 160,
    size: 100_000,
};

impl Buckets {
    fn on(kind: S3Kind) -> Self {
        let server = S3Server::shared(kind);
        let folder = format!("{:016x}", fastrand::u64(..));
        Self { server, folder }
    }

    fn by_way_of_a_proxy(&self, path: &str) -> (Arc<dyn ReplicaClient>, FaultProxy) {
        let address = self.server.endpoint().trim_start_matches("http://");
        let address = address.to_socket_addrs().unwrap().next().unwrap();
        let proxy = FaultProxy::start(address, 1).unwrap();
        let path = format!("{}/{path}", self.folder);
        let Destination::S3(mut options) = options(&self.server, &path) else {
            unreachable!()
        };
        options.endpoint = Some(format!("http://{}", proxy.address()));
        let client = Destination::S3(options).connect(Arc::new(OsDisk)).unwrap();
        (client, proxy)
    }
}

impl Replicas for Buckets {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        options(&self.server, &format!("{}/{path}", self.folder))
            .connect(Arc::new(OsDisk))
            .unwrap()
    }

    fn unfinished(&self) -> usize {
        match self.server.kind() {
            // It wants to know who asks.
            S3Kind::Rclone => 0,
            _ => self.server.uploads(&self.folder),
        }
    }
}

fn options(server: &S3Server, path: &str) -> Destination {
    let mut options = S3Options::new(S3Server::BUCKET, path);
    options.endpoint = Some(server.endpoint().to_owned());
    options.region = Some("us-east-1".to_owned());
    options.access_key_id = Some(Secret::new(S3Server::ACCESS_KEY_ID));
    options.secret_access_key = Some(Secret::new(S3Server::SECRET_ACCESS_KEY));
    options.conditional_writes = Some(server.kind() == S3Kind::Ministack);
    Destination::S3(options)
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_not_shown() {
    let server = S3Server::shared(S3Kind::Rclone);
    let Destination::S3(mut wrong) = options(&server, "x") else {
        unreachable!()
    };
    wrong.secret_access_key = Some(Secret::new("not-the-secret"));
    let client = Destination::S3(wrong).connect(Arc::new(OsDisk)).unwrap();
    let error = client.list(Level::L0, None).await.unwrap_err();
    let text = format!("{error} {error:?} {client:?}");
    assert!(
        error.to_string().contains("check the access key"),
        "{error}"
    );
    assert!(!text.contains("not-the-secret"), "{text}");
}

/// Parts are paid for, also where an upload ends in the middle of one.
#[tokio::test]
async fn an_upload_that_is_given_up_while_a_part_is_on_its_way_leaves_no_parts() {
    let replicas = Buckets::on(S3Kind::Ministack);
    let (client, proxy) = replicas.by_way_of_a_proxy("one");
    // The upload is begun, and its first part takes long.
    proxy.set_weather(Weather::After(1, Fault::VerySlow));
    let body = LONG.stalling(&Gauge::default());
    let mut given_up = client.put(Level::L0, NAME, SystemTime::UNIX_EPOCH, body);
    while proxy.faults().is_empty() {
        let ended = tokio::time::timeout(Duration::from_millis(1), &mut given_up);
        assert!(ended.await.is_err(), "the body never ended");
    }
    assert_eq!(replicas.unfinished(), 1);
    drop(given_up);
    for _ in 0..600 {
        if replicas.unfinished() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the upload was not given up");
}

/// The answer that the parts are an object now is lost, and the server has forgotten the upload.
#[tokio::test]
async fn an_upload_whose_last_answer_is_lost_is_found_to_be_done() {
    /// What comes before the last request: the beginning, and three parts.
    const BEFORE: u32 = 4;
    let mut forgotten = 0;
    for kind in [S3Kind::Ministack, S3Kind::Rclone] {
        let replicas = Buckets::on(kind);
        let (client, proxy) = replicas.by_way_of_a_proxy("one");
        proxy.set_weather(Weather::After(BEFORE, Fault::AnswerLost));
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let stored = client.put(Level::L0, NAME, created, LONG.body(&Gauge::default()));
        let stored = stored
            .await
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let answered = proxy.take_answered();
        let ends =
            |answered: &&Answered| answered.uri.contains("uploadId") && answered.method == "POST";
        let ends: Vec<_> = answered
            .iter()
            .filter(ends)
            .map(|ended| ended.status.as_u16())
            .collect();
        assert_eq!(ends.len(), 2, "{kind:?}: {ends:?}");
        forgotten += usize::from(ends == [200, 404]);
        let direct = replicas.open("one");
        assert_eq!(direct.list_dated(Level::L0, None).await.unwrap(), [stored]);
        let read = direct.get(Level::L0, NAME, None).await.unwrap();
        assert!(collect(read, usize::MAX).await.unwrap() == LONG.content());
    }
    assert!(forgotten > 0, "each server knows what it has finished");
}

#[tokio::test]
async fn a_missing_bucket_is_no_empty_replica() {
    for kind in [S3Kind::Ministack, S3Kind::Rclone] {
        let server = S3Server::shared(kind);
        let Destination::S3(mut missing) = options(&server, "x") else {
            unreachable!()
        };
        missing.bucket = "nowhere".into();
        let client = Destination::S3(missing).connect(Arc::new(OsDisk)).unwrap();
        let error = client.list(Level::L0, None).await.unwrap_err();
        assert!(error.to_string().contains("create the bucket"), "{error}");
    }
}
