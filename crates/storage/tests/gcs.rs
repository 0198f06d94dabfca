//! Replicas in Google Cloud Storage, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::sync::{Arc, OnceLock};

use evertide_ltx::Level;
use evertide_storage::{
    Destination, GcsOptions, OsDisk, Precondition, ReplicaClient, Secret, SmallKey,
    conformance::Replicas,
};
use evertide_testkit::GcsServer;

evertide_storage::conformance!(Buckets::new());

/// Replicas below a folder of a test's own, in one bucket.
struct Buckets {
    server: Arc<GcsServer>,
    folder: String,
    full: OnceLock<GcsServer>,
}

impl Buckets {
    fn new() -> Self {
        let server = GcsServer::shared();
        let folder = format!("{:016x}", fastrand::u64(..));
        Self {
            server,
            folder,
            full: OnceLock::new(),
        }
    }
}

impl Replicas for Buckets {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(options(&self.server, &format!("{}/{path}", self.folder)))
    }

    fn full(&self) -> Option<Arc<dyn ReplicaClient>> {
        let server = self.full.get_or_init(GcsServer::start_full);
        Some(connect(options(server, "")))
    }
}

fn options(server: &GcsServer, path: &str) -> GcsOptions {
    let mut options = GcsOptions::new(GcsServer::BUCKET, path);
    options.endpoint = Some(server.endpoint());
    options
}

fn connect(options: GcsOptions) -> Arc<dyn ReplicaClient> {
    Destination::Gcs(options).connect(Arc::new(OsDisk)).unwrap()
}

#[tokio::test]
async fn a_missing_bucket_is_no_empty_replica() {
    let server = GcsServer::shared();
    let mut missing = options(&server, "x");
    missing.bucket = "nowhere".into();
    let missing = connect(missing);
    let listed = missing.list(Level::L0, None).await.unwrap_err();
    let key = SmallKey::new("lease").unwrap();
    let put = missing
        .put_small(&key, "x".into(), Precondition::None)
        .await;
    for error in [listed, put.unwrap_err()] {
        assert!(error.to_string().contains("create the bucket"), "{error}");
    }
}

#[test]
fn credentials_that_are_no_key_file_are_refused_and_not_shown() {
    for wrong in [
        "hunter2",
        "{\"type\": \"hunter2\"}",
        "{\"type\": {\"hunter2\": 1}}",
    ] {
        let mut options = GcsOptions::new("bucket", "x");
        options.credentials = Some(Secret::new(wrong));
        let text = format!("{options:?}");
        let error = Destination::Gcs(options)
            .connect(Arc::new(OsDisk))
            .unwrap_err();
        assert!(error.to_string().contains("key file"), "{error}");
        assert!(
            !format!("{text} {error} {error:?}").contains("hunter2"),
            "{error:?}"
        );
    }
}
