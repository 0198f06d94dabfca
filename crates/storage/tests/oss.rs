//! Replicas in Alibaba Cloud OSS, on a server that answers as its documentation has it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Ability, Destination, OsDisk, OssOptions, ReplicaClient, Secret, SystemClock, Verdict,
    bytes_stream, conformance::Replicas, examine,
};
use evertide_testkit::OssServer;

evertide_storage::conformance!(OssServers(OssServer::start()));

/// A server for each test.
struct OssServers(OssServer);

impl Replicas for OssServers {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(options(&self.0, path))
    }

    fn unfinished(&self) -> usize {
        self.0.uploads()
    }
}

fn options(server: &OssServer, path: &str) -> OssOptions {
    let mut options = OssOptions::new(OssServer::BUCKET, path).unwrap();
    options.region = Some(OssServer::REGION.into());
    options.endpoint = Some(server.endpoint());
    options.access_key_id = Some(Secret::new(OssServer::KEY_ID));
    options.access_key_secret = Some(Secret::new(OssServer::KEY_SECRET));
    options
}

fn connect(options: OssOptions) -> Arc<dyn ReplicaClient> {
    Destination::Oss(options).connect(Arc::new(OsDisk)).unwrap()
}

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

/// OpenDAL says the time only of what it stores in one request.
#[tokio::test]
async fn the_time_of_a_long_file_is_stored_with_it() {
    let server = OssServer::start();
    let client = connect(options(&server, "app"));
    let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    for (txid, size) in [(1, 1_000), (2, 20_000_000)] {
        let body = bytes_stream(vec![7; size].into());
        let put = client.put(Level::L0, name(txid), created, body);
        assert_eq!(put.await.unwrap().size, size as u64);
        let key = format!("app/0000/{}", name(txid));
        let time = server.metadata(&key, "litestream-timestamp");
        assert_eq!(time.as_deref(), Some("2023-11-14T22:13:20.123Z"));
    }
    let asked = server.take_answered().join("\n");
    assert_eq!(asked.matches("PUT partNumber 200").count(), 3, "{asked}");
    let listed = client.list(Level::L0, None).await.unwrap();
    let dated = client.date(listed).await.unwrap();
    assert!(
        dated.iter().all(|object| object.created == created),
        "{dated:?}"
    );
}

#[tokio::test]
async fn parts_have_the_size_that_is_set_and_several_are_sent_at_a_time() {
    let server = OssServer::start();
    let mut options = options(&server, "app");
    (options.part_size, options.concurrency) = (Some(5 << 20), Some(3));
    let client = connect(options);
    server.wait_for_parts(3);
    let content: bytes::Bytes = (0..21 << 20).map(|n: u32| (n >> 8) as u8).collect();
    let body = bytes_stream(content.clone());
    let put = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
    put.await.unwrap();
    let asked = server.take_answered().join("\n");
    assert_eq!(asked.matches("PUT partNumber 200").count(), 5, "{asked}");
    assert_eq!(server.most_parts(), 3);
    let stored = client.get(Level::L0, name(1), None).await.unwrap();
    let stored = evertide_storage::collect(stored, usize::MAX).await;
    assert!(stored.unwrap() == content, "the parts are in another order");
}

#[tokio::test]
async fn a_key_of_sts_is_taken_with_its_token_only_and_none_of_them_is_shown() {
    const SECRET: &str = "planted-hunter2";
    let server = OssServer::start();
    let mut right = options(&server, "app");
    right.access_key_id = Some(Secret::new(OssServer::TEMPORARY_ID));
    right.access_key_secret = Some(Secret::new(OssServer::TEMPORARY_SECRET));
    right.security_token = Some(Secret::new(OssServer::SECURITY_TOKEN));
    let client = connect(right.clone());
    let put = client.put(
        Level::L0,
        name(1),
        SystemTime::UNIX_EPOCH,
        bytes_stream("x".into()),
    );
    put.await.unwrap();
    assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 1);
    client.delete(Level::L0, &[name(1)]).await.unwrap();
    let mut without = right.clone();
    without.security_token = None;
    let mut wrong = right.clone();
    wrong.security_token = Some(Secret::new(SECRET));
    for (options, said) in [
        (without, "InvalidAccessKeyId"),
        (wrong, "InvalidSecurityToken"),
    ] {
        let client = connect(options.clone());
        let error = client.list(Level::L0, None).await.unwrap_err();
        let text = format!("{error} {error:?} {client:?} {options:?}");
        assert!(text.contains(said), "{text}");
        assert!(text.contains("check the access key"), "{text}");
        assert!(
            !text.contains(SECRET) && !text.contains(OssServer::TEMPORARY_SECRET),
            "{text}"
        );
    }
    for (change, said) in [
        (
            (|options: &mut OssOptions| options.access_key_id = None) as fn(&mut OssOptions),
            "without its access key",
        ),
        (|options| options.part_size = Some(1 << 20), "5 MiB"),
        (|options| options.concurrency = Some(0), "1 to 64"),
    ] {
        let mut options = right.clone();
        change(&mut options);
        let error = Destination::Oss(options)
            .connect(Arc::new(OsDisk))
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(said), "{text}");
        assert!(!text.contains(OssServer::SECURITY_TOKEN), "{text}");
    }
}

/// OSS gives 100 where nobody says how many.
#[tokio::test]
async fn a_listing_takes_a_request_for_a_thousand_files() {
    let server = OssServer::start();
    let client = connect(options(&server, "app"));
    for txid in 1..=1_001 {
        let body = bytes_stream("x".into());
        let put = client.put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
        put.await.unwrap();
    }
    server.take_answered();
    assert_eq!(client.list(Level::L0, None).await.unwrap().len(), 1_001);
    assert_eq!(server.take_answered().len(), 2);
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_no_parts() {
    let server = Arc::new(OssServer::start());
    let client = connect(options(&server, "app"));
    let body = bytes_stream(vec![7; 20_000_000].into());
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    let theirs = Arc::clone(&server);
    let broken = futures_util::stream::once(async move {
        while theirs.uploads() == 0 && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(std::io::Error::other("broken"))
    });
    let body = Box::pin(futures_util::StreamExt::chain(body, broken));
    let put = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
    put.await.unwrap_err();
    let begun = server.take_answered().join("\n");
    assert!(begun.contains("POST uploads 200"), "{begun}");
    while server.uploads() > 0 {
        assert!(tokio::time::Instant::now() < patience, "parts are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_is_found_out() {
    for (server, versioned) in [
        (OssServer::start(), false),
        (OssServer::start_versioned(), true),
    ] {
        let destination = Destination::Oss(options(&server, "app"));
        let client = destination.connect(Arc::new(OsDisk)).unwrap();
        let found = examine(&destination, &*client, &OsDisk, &SystemClock).await;
        let of = |wanted| {
            let mut verdicts = found.verdicts.iter();
            verdicts.find(|(ability, _)| *ability == wanted).unwrap()
        };
        let (_, created) = of(Ability::ConditionalCreate);
        assert_eq!(matches!(created, Verdict::Ignored), versioned, "{found:?}");
        let (_, replaced) = of(Ability::CompareAndSet);
        assert!(matches!(replaced, Verdict::NotPromised), "{found:?}");
        assert_eq!(found.works(), !versioned, "{found:?}");
        assert_eq!(server.keys(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_wrong_key_region_or_bucket_is_named_and_no_secret_is_shown() {
    const SECRET: &str = "planted-hunter2";
    let server = OssServer::start();
    let right = options(&server, "app");
    let mut id = right.clone();
    id.access_key_id = Some(Secret::new(SECRET));
    let mut key = right.clone();
    key.access_key_secret = Some(Secret::new(SECRET));
    let mut region = key.clone();
    region.access_key_secret = right.access_key_secret.clone();
    region.region = None;
    let mut bucket = right.clone();
    bucket.bucket = "nowhere".into();
    let mut nobody_there = key.clone();
    nobody_there.endpoint = Some("http://127.0.0.1:1".into());
    let mut no_server = key.clone();
    no_server.endpoint = Some("ftp://host".into());
    for (options, said) in [
        (id, "check the access key"),
        (key, "SignatureDoesNotMatch"),
        (region, "SignatureDoesNotMatch"),
        (bucket, "create the bucket"),
        (nobody_there, "127.0.0.1:1"),
        (no_server, "check the settings"),
    ] {
        let client = Destination::Oss(options.clone()).connect(Arc::new(OsDisk));
        let listed = match &client {
            Ok(client) => Some(client.list(Level::L0, None).await.unwrap_err()),
            Err(_) => None,
        };
        let listed = listed.map(|error| format!("{error} {error:?}"));
        let text = format!("{listed:?} {client:?} {options:?}");
        assert!(text.contains(said), "{said}: {text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}
