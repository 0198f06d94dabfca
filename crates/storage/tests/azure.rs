//! Replicas in Azure Blob Storage, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::sync::Arc;

use evertide_ltx::Level;
use evertide_storage::{
    AzureOptions, Destination, OsDisk, ReplicaClient, Secret, conformance::Replicas,
};
use evertide_testkit::AzureServer;

evertide_storage::conformance!(Containers::new());

/// Replicas below a folder of a test's own, in one container.
struct Containers {
    server: Arc<AzureServer>,
    folder: String,
}

impl Containers {
    fn new() -> Self {
        let server = AzureServer::shared();
        let folder = format!("{:016x}", fastrand::u64(..));
        Self { server, folder }
    }
}

impl Replicas for Containers {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(options(&self.server, &format!("{}/{path}", self.folder)))
    }
}

fn options(server: &AzureServer, path: &str) -> AzureOptions {
    let mut options = AzureOptions::new(AzureServer::CONTAINER, path);
    options.account = Some(AzureServer::ACCOUNT.into());
    options.account_key = Some(Secret::new(AzureServer::KEY));
    options.endpoint = Some(server.endpoint());
    options
}

fn connect(options: AzureOptions) -> Arc<dyn ReplicaClient> {
    Destination::Azure(options)
        .connect(Arc::new(OsDisk))
        .unwrap()
}

/// As an application has it that may not see the account's key.
#[tokio::test]
async fn a_token_is_enough() {
    struct Shared(Containers, String);
    impl Replicas for Shared {
        fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
            let mut options = options(&self.0.server, &format!("{}/{path}", self.0.folder));
            options.account_key = None;
            options.sas_token = Some(Secret::new(self.1.as_str()));
            connect(options)
        }
    }
    let token = AzureServer::shared().sas_token();
    let shared = || Shared(Containers::new(), token.clone());
    evertide_storage::conformance::an_object_reads_back_as_it_was_put(&shared()).await;
    evertide_storage::conformance::a_deleted_object_is_gone(&shared()).await;
}

#[tokio::test]
async fn a_missing_container_is_no_empty_replica() {
    let server = AzureServer::shared();
    let mut missing = options(&server, "x");
    missing.container = "nowhere".into();
    let error = connect(missing).list(Level::L0, None).await.unwrap_err();
    assert!(error.to_string().contains("create the bucket"), "{error}");
}

#[tokio::test]
async fn a_wrong_key_or_token_is_refused_and_neither_is_shown() {
    const SECRET: &str = "aHVudGVyMi1odW50ZXIyLWh1bnRlcjI=";
    let server = AzureServer::shared();
    let mut key = options(&server, "x");
    key.account_key = Some(Secret::new(SECRET));
    let mut token = key.clone();
    token.sas_token = Some(Secret::new(format!(
        "?sv=2020-10-02&sr=c&sp=rl&sig={SECRET}"
    )));
    // The URL of a request may be a part of why it failed.
    let mut nobody_there = token.clone();
    nobody_there.endpoint = Some("http://127.0.0.1:1/devstoreaccount1".into());
    for (options, said) in [
        (key, "check the access key"),
        (token, "check the access key"),
        (nobody_there, "127.0.0.1:1"),
    ] {
        let client = connect(options.clone());
        let error = client.list(Level::L0, None).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        let text = format!("{error} {error:?} {client:?} {options:?}");
        for secret in [SECRET, "aHVudGVyMi1odW50ZXIyLWh1bnRlcjI%3D"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
