//! How requests are made, for each provider and with each setting.

use std::iter;

use evertide_ltx::{Level, LtxName, Txid};

use super::*;
use crate::{OsDisk, ReplicaClient};

#[tokio::test]
async fn each_providers_requests_are_what_it_wants() {
    // Where an object is, what it is signed for, and how two of them are deleted.
    let cases = [
        (
            "https://id.r2.cloudflarestorage.com",
            "https://id.r2.cloudflarestorage.com/bucket/app/x.ltx",
            "auto",
            &["POST md5"][..],
        ),
        (
            "https://s3.us-west-004.backblazeb2.com",
            "https://s3.us-west-004.backblazeb2.com/bucket/app/x.ltx",
            "us-west-004",
            &["POST md5"],
        ),
        (
            "https://t3.storage.dev",
            "https://bucket.t3.storage.dev/app/x.ltx",
            "auto",
            &["POST"],
        ),
        (
            "https://fsn1.your-objectstorage.com",
            "https://fsn1.your-objectstorage.com/bucket/app/x.ltx",
            "fsn1",
            &["POST md5"],
        ),
        (
            "https://nyc3.digitaloceanspaces.com",
            "https://bucket.nyc3.digitaloceanspaces.com/app/x.ltx",
            "nyc3",
            &["POST md5"],
        ),
        (
            "https://s3.fr-par.scw.cloud",
            "https://s3.fr-par.scw.cloud/bucket/app/x.ltx",
            "fr-par",
            &["POST md5"],
        ),
        (
            "https://ref.supabase.co/storage/v1/s3",
            "https://ref.supabase.co/storage/v1/s3/bucket/app/x.ltx",
            "eu-9",
            &["POST md5"],
        ),
        (
            "https://ns.compat.objectstorage.us-ashburn-1.oraclecloud.com",
            "https://ns.compat.objectstorage.us-ashburn-1.oraclecloud.com/bucket/app/x.ltx",
            "us-ashburn-1",
            &["POST md5"],
        ),
        (
            "https://s3.filebase.com",
            "https://s3.filebase.com/bucket/app/x.ltx",
            "eu-9",
            &["POST md5"],
        ),
        (
            "https://storage.googleapis.com",
            "https://storage.googleapis.com/bucket/app/x.ltx",
            "auto",
            &["DELETE", "DELETE"],
        ),
        (
            "http://127.0.0.1:9000",
            "http://127.0.0.1:9000/bucket/app/x.ltx",
            "eu-9",
            &["POST md5"],
        ),
    ];
    assert_eq!(cases.len(), provider::PROVIDERS.len());
    for (endpoint, url, region, deletions) in cases {
        let provider = Provider::of(endpoint);
        let server = Server::default();
        // A region of the environment is that of Amazon, not of a provider whose own is known.
        let environment = nowhere(&[("AWS_REGION", "eu-9")]);
        let client = server.client(&options(Some(endpoint)), environment);
        put(&client, "x.ltx", b"content").await;
        let keys = vec!["x.ltx".to_owned(), "y.ltx".to_owned()];
        client.delete_keys(keys).await.unwrap();
        let seen = server.seen();
        let put = &seen[0];
        assert_eq!((&put.method, put.url.as_str()), (&Method::PUT, url));
        assert_eq!(put.signed(), ("AKID", region), "{endpoint}");
        let condition = provider.conditional_writes.then_some("*");
        assert_eq!(put.header("if-none-match"), condition, "{endpoint}");
        // Nothing is sent in chunks that are signed one by one, which most of them refuse.
        assert_eq!(put.header("content-encoding"), None);
        assert_eq!(put.header("content-length"), Some("7"));
        let digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
        assert_eq!(put.header("x-amz-content-sha256"), Some(digest));
        // Google changes it on its way.
        assert!(
            !put.header("authorization")
                .unwrap()
                .contains("accept-encoding")
        );
        let consistent = put.header("x-tigris-consistent");
        let expected = (endpoint == "https://t3.storage.dev").then_some("true");
        assert_eq!(consistent, expected, "{endpoint}");
        let deleted = seen[1..].iter().map(|seen| {
            let md5 = seen.header("content-md5").map_or("", |_| " md5");
            format!("{}{md5}", seen.method)
        });
        assert_eq!(deleted.collect::<Vec<_>>(), deletions, "{endpoint}");
    }
}

#[tokio::test]
async fn what_the_user_says_counts_more_than_what_is_known_about_a_provider() {
    let mut options = options(Some("https://t3.storage.dev"));
    options.region = Some("eu-1".into());
    options.force_path_style = Some(true);
    options.conditional_writes = Some(false);
    options.sign_payload = Some(false);
    options.content_md5 = Some(true);
    let server = Server::default();
    let client = server.client(&options, nowhere(&[("AWS_REGION", "eu-2")]));
    put(&client, "x.ltx", b"content").await;
    client
        .delete_keys(vec!["x".into(), "y".into()])
        .await
        .unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].url, "https://t3.storage.dev/bucket/app/x.ltx");
    assert_eq!(seen[0].signed(), ("AKID", "eu-1"));
    assert_eq!(seen[0].header("if-none-match"), None);
    let unsigned = Some("UNSIGNED-PAYLOAD");
    assert_eq!(seen[0].header("x-amz-content-sha256"), unsigned);
    assert!(seen[1].header("content-md5").is_some());
}

/// Amazon has no certificate for a host name that has more dots than it knows of.
#[tokio::test]
async fn a_bucket_with_a_dot_in_its_name_is_named_in_the_path() {
    // Whatever a provider wants for others.
    let cases = [
        (
            None,
            "https://s3.us-east-1.amazonaws.com/my.bucket/app/x.ltx",
        ),
        (
            Some("https://t3.storage.dev"),
            "https://t3.storage.dev/my.bucket/app/x.ltx",
        ),
    ];
    for (endpoint, url) in cases {
        let mut options = options(endpoint);
        options.bucket = "my.bucket".into();
        let server = Server::default();
        put(&server.client(&options, nowhere(&[])), "x.ltx", b"content").await;
        assert_eq!(server.seen()[0].url, url);
    }
}

#[tokio::test]
async fn the_endpoint_of_the_environment_is_taken_where_none_is_given_nor_a_key_of_ours() {
    const ENDPOINTS: [(&str, &str); 2] = [
        ("AWS_ENDPOINT_URL", "https://all.example.com"),
        ("AWS_ENDPOINT_URL_S3", "https://s3.example.com"),
    ];
    const KEY: [(&str, &str); 2] = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let without_key = S3Options::new("bucket", "app");
    let mut with_endpoint = without_key.clone();
    with_endpoint.endpoint = Some("https://given.example.com".into());
    let cases = [
        (
            &without_key,
            &ENDPOINTS[..],
            "https://s3.example.com/bucket/",
        ),
        (
            &without_key,
            &ENDPOINTS[..1],
            "https://all.example.com/bucket/",
        ),
        (
            &without_key,
            &[("AWS_ENDPOINT_URL_S3", "")],
            "https://bucket.s3.us-east-1.",
        ),
        (
            &with_endpoint,
            &ENDPOINTS,
            "https://given.example.com/bucket/",
        ),
        (&options(None), &ENDPOINTS, "https://bucket.s3.us-east-1."),
    ];
    for (options, endpoints, url) in cases {
        let server = Server::default();
        let environment = nowhere(&[endpoints, &KEY].concat());
        put(&server.client(options, environment), "x.ltx", b"content").await;
        let seen = &server.seen()[0].url;
        assert!(seen.starts_with(url), "{seen} does not start with {url}");
    }
}

#[tokio::test]
async fn a_batch_is_no_larger_than_the_provider_takes() {
    let server = Server::default();
    let r2 = options(Some("https://id.r2.cloudflarestorage.com"));
    let client = server.client(&r2, nowhere(&[]));
    let keys = (0..1500).map(|n| format!("{n}.ltx")).collect();
    client.delete_keys(keys).await.unwrap();
    let requests = server.requests.lock().unwrap();
    let count = |request: &Request<Buffer>| {
        let body = request.body().to_bytes();
        String::from_utf8(body.to_vec())
            .unwrap()
            .matches("<Key>")
            .count()
    };
    assert_eq!(
        requests.iter().map(count).collect::<Vec<_>>(),
        [700, 700, 100]
    );
}

fn names(count: u64) -> Vec<LtxName> {
    let txids = (1..=count).map(Txid::new);
    txids.map(|txid| LtxName::new(txid, txid)).collect()
}

#[tokio::test]
async fn a_store_that_says_it_deleted_and_did_not_is_found_out() {
    let deleted = || ok("<DeleteResult></DeleteResult>");
    let refused = "<DeleteResult><Error><Key>app/0000/0000000000000001-0000000000000001.ltx</Key>\
                   <Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>";
    // What is answered, how many are to be deleted, how many looked for, how many gone, and what is said.
    let cases = [
        (deleted(), 2, 2, 2, Ok(())),
        (deleted(), 2, 2, 1, Err("0000000000000002")),
        (deleted(), 501, 16, 16, Ok(())),
        (deleted(), 501, 16, 0, Err("0000000000000001")),
        (deleted(), 501, 16, 15, Err("00000000000001f5")),
        (ok(refused), 2, 0, 0, Err("AccessDenied")),
    ];
    for (answer, count, looks, gone, expected) in cases {
        let gone = iter::repeat_with(|| (404, Vec::new(), String::new())).take(gone);
        let server = Server::answering(iter::once(answer).chain(gone));
        let client = server.client(&options(None), nowhere(&[]));
        let result = client.delete(Level::L0, &names(count)).await;
        match expected {
            Ok(()) => result.unwrap(),
            Err(expected) => {
                let error = result.unwrap_err();
                let is_lie = matches!(error, crate::Error::NotDeleted { .. });
                assert_eq!(is_lie, looks > 0, "{error}");
                let text = format!("{error} {error:?}");
                assert!(text.contains(expected), "{text}");
            }
        }
        let seen = server.seen();
        assert_eq!(seen[0].method, Method::POST);
        assert_eq!(seen.len(), 1 + looks, "{count}");
        assert!(seen[1..].iter().all(|seen| seen.method == Method::HEAD));
    }
}

#[tokio::test]
async fn many_files_are_looked_for_in_a_listing() {
    let last = "app/0000/00000000000001f5-00000000000001f5.ltx";
    let server = Server::answering([ok(format!(
        "<ListBucketResult><Contents><Key>{last}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
         <Size>7</Size></Contents><IsTruncated>false</IsTruncated></ListBucketResult>"
    ))]);
    let client = server.client(&options(None), nowhere(&[]));
    let found = client.find(Level::L0, &names(501)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name, found[0].size), (names(501)[500], 7));
    let seen = server.seen();
    assert!(seen.len() == 1 && seen[0].method == Method::GET);
}

#[tokio::test]
async fn the_region_is_learned_from_amazon_once() {
    let wrong = || {
        let region = vec![("x-amz-bucket-region", "eu-central-1".to_owned())];
        (
            301,
            region,
            "<Error><Code>PermanentRedirect</Code></Error>".to_owned(),
        )
    };
    let server = Server::answering([wrong()]);
    let client = server.client(&options(None), nowhere(&[]));
    put(&client, "x.ltx", b"content").await;
    put(&client, "y.ltx", b"content").await;
    let seen = server.seen();
    let requests = seen.iter().map(|seen| (seen.url.as_str(), seen.signed().1));
    let expected = [
        (
            "https://bucket.s3.us-east-1.amazonaws.com/app/x.ltx",
            "us-east-1",
        ),
        (
            "https://bucket.s3.eu-central-1.amazonaws.com/app/x.ltx",
            "eu-central-1",
        ),
        (
            "https://bucket.s3.eu-central-1.amazonaws.com/app/y.ltx",
            "eu-central-1",
        ),
    ];
    assert_eq!(requests.collect::<Vec<_>>(), expected);
    // Nor need the region of this machine be that of the bucket.
    let server = Server::answering([wrong()]);
    let client = server.client(&options(None), nowhere(&[("AWS_REGION", "us-west-2")]));
    put(&client, "x.ltx", b"content").await;
    let seen = server.seen();
    let regions = seen.iter().map(|seen| seen.signed().1);
    assert_eq!(regions.collect::<Vec<_>>(), ["us-west-2", "eu-central-1"]);
    // A region that was given is not another one, and an answer that no host can be made of is none.
    let strange = (
        400,
        vec![("x-amz-bucket-region", "x.example.com".to_owned())],
        String::new(),
    );
    for (region, answer) in [(Some("us-west-2"), wrong()), (None, strange)] {
        let mut options = options(None);
        options.region = region.map(str::to_owned);
        let server = Server::answering([answer]);
        let client = server.client(&options, nowhere(&[]));
        let listed = client.operator.stat("x.ltx").await;
        assert!(listed.is_err());
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // a file of the test's own
async fn storage_class_and_keys_to_encrypt_with_are_sent_where_they_belong() {
    let mut ours = options(None);
    ours.storage_class = Some("STANDARD_IA".into());
    ours.sse_customer_key = Some(Secret::new(KEY));
    let server = Server::default();
    let client = server.client(&ours, nowhere(&[]));
    put(&client, "x.ltx", b"content").await;
    client
        .operator
        .write("evertide/lease", "lease")
        .await
        .unwrap();
    client.operator.stat("x.ltx").await.unwrap();
    let seen = server.seen();
    let class = |seen: &Seen| seen.header("x-amz-storage-class").map(str::to_owned);
    // A lease is replaced each minute, and would be paid for a month each time.
    assert_eq!(class(&seen[0]).as_deref(), Some("STANDARD_IA"));
    assert_eq!(class(&seen[1]), None);
    for seen in &seen {
        assert_eq!(seen.customer_key(), WITH_KEY);
    }
    // The same key in a file.
    let dir = evertide_testkit::memory_dir();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    ours.sse_customer_key = None;
    ours.sse_customer_key_path = Some(path.clone());
    let server = Server::default();
    let read = customer_key::read(&ours, &OsDisk).unwrap();
    let client = server.client(&read, nowhere(&[]));
    put(&client, "x.ltx", b"content").await;
    let header = "x-amz-server-side-encryption-customer-key";
    assert_eq!(server.seen()[0].header(header), Some(KEY));
    std::fs::write(&path, "c2hvcnQ=").unwrap();
    let error = ours.connect(&OsDisk).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("32 bytes") && !text.contains("c2hvcnQ="),
        "{text}"
    );
    let mut managed = options(None);
    managed.sse_kms_key_id = Some("alias/backup".into());
    let server = Server::default();
    let client = server.client(&managed, nowhere(&[]));
    put(&client, "x.ltx", b"content").await;
    let seen = server.seen();
    let header = |name: &str| seen[0].header(&format!("x-amz-server-side-encryption{name}"));
    assert_eq!(header(""), Some("aws:kms"));
    assert_eq!(header("-aws-kms-key-id"), Some("alias/backup"));
}

#[test]
fn options_that_cannot_work_are_refused_with_the_reason() {
    type Change = fn(&mut S3Options);
    let cases: [(Change, &str); 12] = [
        (
            |o| o.bucket = "b--use1-az4--x-s3".into(),
            "directory buckets",
        ),
        (|o| o.part_size = Some(1 << 20), "5 MiB"),
        (|o| o.concurrency = Some(0), "1 to 64"),
        (|o| o.storage_class = Some("GLACIER".into()), "GLACIER_IR"),
        (
            |o| o.sse_customer_key = Some(Secret::new("short")),
            "32 bytes",
        ),
        (
            |o| o.sse_customer_key = Some(Secret::new("c2hvcnQ=")),
            "32 bytes",
        ),
        (
            |o| {
                o.sse_customer_key = Some(Secret::new(KEY));
                o.endpoint = Some("http://minio.example.com:9000".into());
            },
            "https",
        ),
        (
            |o| {
                o.sse_customer_key = Some(Secret::new(KEY));
                o.sse_kms_key_id = Some("alias/backup".into());
            },
            "exclude each other",
        ),
        (
            |o| {
                o.sse_customer_key = Some(Secret::new(KEY));
                o.sse_customer_key_path = Some("/a/key".into());
            },
            "exclude each other",
        ),
        (
            |o| o.sse_customer_key_path = Some("/not/there".into()),
            "/not/there",
        ),
        (|o| o.skip_verify = Some(true), "set an endpoint"),
        (
            |o| {
                o.sse_customer_key = Some(Secret::new(KEY));
                o.endpoint = Some("https://minio.example.com:9000".into());
                o.skip_verify = Some(true);
            },
            "leave skip_verify out",
        ),
    ];
    for (change, expected) in cases {
        let mut options = options(None);
        change(&mut options);
        let error = options.connect(&OsDisk).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains(KEY) && !text.contains("c2hvcnQ="), "{text}");
    }
    for near in [
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "http://localhost",
        "http://10.1.2.3",
    ] {
        let mut options = options(Some(near));
        options.sse_customer_key = Some(Secret::new(KEY));
        options.skip_verify = Some(true);
        assert_eq!(options.check(Some(near)), Ok(()), "{near}");
    }
}

#[test]
fn a_request_without_a_body_is_signed_with_the_digest_of_nothing() {
    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let digest = signing::digest(Payload::Signed, &Buffer::new()).unwrap();
    assert_eq!(digest, NOTHING);
}
