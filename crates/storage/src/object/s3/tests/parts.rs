//! Uploads in parts: that each of their requests says what it must, and how many are under way.

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};

use super::*;
use crate::ReplicaClient;

const NAME: LtxName = LtxName::new(Txid::new(1), Txid::new(1));

/// Stores so many MiB as a file of a level; every request that it took.
async fn put_long(server: &Server, options: &S3Options, mib: usize) -> (ObjectClient, Vec<Seen>) {
    let client = server.client(options, nowhere(&[]));
    let pieces = (0..mib).map(|_| Ok(Bytes::from(vec![0; 1 << 20])));
    let body = Box::pin(futures_util::stream::iter(pieces));
    let created = std::time::SystemTime::UNIX_EPOCH;
    let put = client.put(Level::L0, NAME, created, body);
    assert_eq!(put.await.unwrap().size, (mib as u64) << 20);
    let seen = server.seen();
    (client, seen)
}

/// The request that begins an upload of two parts, those with the parts, and the one that completes it.
fn steps(seen: &[Seen]) -> [&Seen; 4] {
    let [begin, one, two, complete] = seen else {
        panic!("{} requests", seen.len())
    };
    assert!(
        begin.method == Method::POST && begin.url.ends_with("?uploads"),
        "{}",
        begin.url
    );
    for part in [one, two] {
        assert!(
            part.method == Method::PUT && part.url.contains("partNumber="),
            "{}",
            part.url
        );
    }
    assert!(
        complete.method == Method::POST && complete.url.contains("uploadId="),
        "{}",
        complete.url
    );
    [begin, one, two, complete]
}

#[tokio::test]
async fn a_file_in_parts_has_class_time_and_condition_and_each_part_the_key_it_is_encrypted_with() {
    let mut ours = options(None);
    ours.storage_class = Some("STANDARD_IA".into());
    ours.sse_customer_key = Some(Secret::new(KEY));
    let server = Server::default();
    let (client, seen) = put_long(&server, &ours, 12).await;
    let [begin, one, two, complete] = steps(&seen);
    assert_eq!(begin.header("x-amz-storage-class"), Some("STANDARD_IA"));
    assert!(begin.header("x-amz-meta-litestream-timestamp").is_some());
    assert_eq!(complete.header("if-none-match"), Some("*"));
    for part in [one, two] {
        // Amazon refuses it anywhere else.
        assert_eq!(part.header("x-amz-storage-class"), None);
        assert_eq!(part.header("content-encoding"), None);
    }
    for step in [begin, one, two] {
        assert_eq!(step.customer_key(), WITH_KEY, "{}", step.url);
    }
    // Nothing can be read or looked at without it.
    let count = seen.len();
    let _ = client.get(Level::L0, NAME, None).await;
    let _ = client.get(Level::L0, NAME, Some(1..2)).await;
    let _ = client.find(Level::L0, &[NAME]).await;
    let seen = server.seen();
    let after = &seen[count..];
    for method in [Method::GET, Method::HEAD] {
        assert!(after.iter().any(|seen| seen.method == method), "{method}");
    }
    for seen in after {
        assert_eq!(
            seen.customer_key(),
            WITH_KEY,
            "{} {}",
            seen.method,
            seen.url
        );
    }
}

#[tokio::test]
async fn a_managed_key_is_named_where_an_upload_in_parts_begins() {
    let mut managed = options(None);
    managed.sse_kms_key_id = Some("alias/backup".into());
    let (_, seen) = put_long(&Server::default(), &managed, 12).await;
    let [begin, one, two, complete] = steps(&seen);
    let encryption = |seen: &Seen| {
        let header = |name| seen.header(&format!("x-amz-server-side-encryption{name}"));
        [header(""), header("-aws-kms-key-id")].map(|value| value.map(str::to_owned))
    };
    let expected = ["aws:kms", "alias/backup"].map(|value| Some(value.to_owned()));
    assert_eq!(encryption(begin), expected);
    // Amazon refuses it anywhere else.
    for step in [one, two, complete] {
        assert_eq!(encryption(step), [None, None], "{}", step.url);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_have_the_size_that_is_set_and_so_many_are_under_way_at_a_time() {
    for (concurrency, expected) in [(None, 1), (Some(3), 3)] {
        let mut ours = options(None);
        ours.part_size = Some(5 << 20);
        ours.concurrency = concurrency;
        let server = Server {
            thinks: Duration::from_secs(1),
            ..Server::default()
        };
        put_long(&server, &ours, 26).await;
        assert_eq!(server.under_way.lock().unwrap()[1], expected);
        let requests = server.requests.lock().unwrap();
        let parts = requests.iter().filter(|part| part.method() == Method::PUT);
        let mut sizes: Vec<_> = parts.map(|part| part.body().len() >> 20).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 5, 5, 5, 5, 5]);
    }
}
