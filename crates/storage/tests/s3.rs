//! Replicas in S3, on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::sync::Arc;

use evertide_ltx::Level;
use evertide_storage::{
    Destination, OsDisk, ReplicaClient, S3Options, Secret, conformance::Replicas,
};
use evertide_testkit::{S3Kind, S3Server};

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

impl Buckets {
    fn on(kind: S3Kind) -> Self {
        let server = S3Server::shared(kind);
        let folder = format!("{:016x}", fastrand::u64(..));
        Self { server, folder }
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
