//! Replicas in Google Cloud Storage, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Destination, GcsOptions, OsDisk, Precondition, ReplicaClient, Secret, SmallKey, bytes_stream,
    conformance::{Gauge, Pieces, Replicas},
};
use evertide_testkit::{FaultProxy, GcsServer, QuotingServer, planted_secret, wait_until};

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

    /// What becomes of them is seen from the requests, below.
    fn heeds_conditions_in_parts(&self) -> bool {
        false
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

/// The server takes no notice of conditions on long uploads, so what it is asked is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_any_length_is_created_on_condition_and_given_up_where_it_does_not_come_about() {
    let server = GcsServer::shared();
    let address = server.endpoint().replace("http://", "");
    let proxy = FaultProxy::start(address.parse().unwrap(), 1).unwrap();
    let mut options = options(&server, &format!("{:016x}", fastrand::u64(..)));
    options.endpoint = Some(format!("http://{}", proxy.address()));
    let client = connect(options);
    let name = |txid| LtxName::new(Txid::new(txid), Txid::new(txid));
    let long = Pieces {
        count: 120,
        size: 100_000,
    };
    let put = |txid, body| client.put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
    let asked = || -> Vec<String> {
        let answered = proxy.take_answered().into_iter();
        let asked = answered.map(|one| format!("{} {}", one.method, one.uri));
        asked.collect()
    };
    let begins = |asked: &str, kind: &str| {
        let kind = format!("uploadType={kind}");
        asked.starts_with("POST") && asked.contains(&kind) && asked.contains("ifGenerationMatch=0")
    };

    put(1, bytes_stream("short".into())).await.unwrap();
    let short = asked();
    assert!(
        short.len() == 1 && begins(&short[0], "multipart"),
        "{short:?}"
    );

    put(2, long.body(&Gauge::default())).await.unwrap();
    let all = asked();
    let (first, rest) = all.split_first().unwrap();
    assert!(begins(first, "resumable"), "{first:?}");
    // One piece of 8 MiB, and what is left.
    assert_eq!(rest.len(), 2, "{rest:?}");
    assert!(
        rest.iter().all(|asked| asked.starts_with("PUT")),
        "{rest:?}"
    );

    // Long enough for a piece to have been sent before it fails.
    let longer = Pieces { count: 240, ..long };
    let failing = longer.failing(std::io::ErrorKind::ConnectionReset);
    put(3, failing).await.unwrap_err();
    wait_until(Duration::from_secs(30), "the upload is given up", || {
        asked().iter().any(|asked| asked.starts_with("DELETE"))
    });
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

/// Whose key is refused, by who gives tokens for it or by the store itself, has no empty replica.
#[tokio::test]
#[allow(clippy::disallowed_methods)] // a file of its own
async fn credentials_that_are_refused_are_named_and_not_shown() {
    let server = QuotingServer::start();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "hunter2-token").unwrap();
    let key = format!(
        r#"{{"type": "external_account", "audience": "it",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "{}", "credential_source": {{"file": "{}"}}}}"#,
        server.url(),
        token.display()
    );
    let mut unsigned = GcsOptions::new("bucket", "x");
    unsigned.endpoint = Some(server.url());
    let mut signed = unsigned.clone();
    signed.credentials = Some(Secret::new(key));
    for options in [unsigned, signed] {
        let client = connect(options);
        let listed = client.list(Level::L0, None).await.unwrap_err();
        let name = LtxName::new(Txid::new(1), Txid::new(1));
        let body = bytes_stream(Bytes::from_static(b"x"));
        let put = client.put(Level::L0, name, SystemTime::UNIX_EPOCH, body);
        for error in [listed, put.await.unwrap_err()] {
            let text = format!("{error} {error:?}");
            assert!(error.to_string().contains("check the access key"), "{text}");
            assert_eq!(planted_secret(&text), None);
        }
    }
}
