//! Replicas in object stores of NATS JetStream, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::{
    Destination, Error, NatsOptions, OsDisk, Precondition, ReplicaClient, Secret, SmallKey,
    bytes_stream, collect,
    conformance::{Gauge, Pieces, Replicas},
};
use evertide_testkit::{NatsServer, Road, WireProxy, wait_until};

evertide_storage::conformance!(Bucket::new());

/// Replicas in a bucket of a test's own.
struct Bucket {
    server: Arc<NatsServer>,
    name: String,
}

impl Bucket {
    fn new() -> Self {
        Self::on(NatsServer::shared())
    }

    fn on(server: Arc<NatsServer>) -> Self {
        let name = format!("{:016x}", fastrand::u64(..));
        server.create_bucket(&name);
        Self { server, name }
    }

    fn options(&self, path: &str) -> NatsOptions {
        let mut options = NatsOptions::new(&self.server.address(), &self.name, path).unwrap();
        options.username = Some(NatsServer::USER.into());
        options.password = Some(Secret::new(NatsServer::PASSWORD));
        options
    }

    fn ask(&self, what: &str, content: &str) -> String {
        let subject = format!("$JS.API.STREAM.{what}.OBJ_{}", self.name);
        self.server.request(&subject, content)
    }

    /// The subjects of this kind that have messages: chunks (`C`) or names (`M`).
    fn subjects(&self, kind: &str) -> Vec<String> {
        let info = self.ask("INFO", "{\"subjects_filter\":\">\"}");
        let (_, state) = info.split_once("\"state\"").unwrap();
        let start = format!("$O.{}.{kind}.", self.name);
        let subjects = state.split('"').filter(|part| part.starts_with(&start));
        subjects.map(str::to_owned).collect()
    }

    /// How many objects have chunks, and names, by their subjects.
    fn messages(&self) -> [usize; 2] {
        ["C", "M"].map(|kind| self.subjects(kind).len())
    }
}

impl Replicas for Bucket {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        connect(self.options(path))
    }
}

fn connect(options: NatsOptions) -> Arc<dyn ReplicaClient> {
    Destination::Nats(options)
        .connect(Arc::new(OsDisk))
        .unwrap()
}

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

async fn put(client: &Arc<dyn ReplicaClient>, txid: u64, content: Bytes) -> Result<(), Error> {
    let body = bytes_stream(content);
    let put = client.put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
    put.await.map(drop)
}

/// What a client says when it is to list a replica.
async fn refusal(options: NatsOptions) -> String {
    let client = connect(options.clone());
    let error = client.list(Level::L0, None).await.unwrap_err();
    format!("{error} {error:?} {client:?} {options:?}")
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_bucket_are_named_and_no_secret_is_shown() {
    const SECRET: &str = "planted-hunter2";
    let bucket = Bucket::new();
    let secret = || Some(Secret::new(SECRET));
    let right = bucket.options("");
    let mut wrong = right.clone();
    wrong.password = secret();
    let mut token = right.clone();
    (token.username, token.token) = (None, secret());
    let mut no_jwt = right.clone();
    (no_jwt.jwt, no_jwt.seed) = (secret(), secret());
    let mut no_file = right.clone();
    no_file.credentials_path = Some("/nowhere.creds".into());
    let mut nobody_there = wrong.clone();
    nobody_there.host = "127.0.0.1:1".into();
    let mut no_bucket = right.clone();
    no_bucket.bucket = "another".into();
    let mut tls = right.clone();
    tls.tls = true;
    for (options, said) in [
        (wrong, "check user and password"),
        (token, "check user and password"),
        (no_jwt, "the credentials cannot be read"),
        (no_file, "the credentials cannot be read"),
        (nobody_there, "check the server's name"),
        (no_bucket, "nats object add"),
        (tls, "whether it wants TLS"),
    ] {
        let refused = refusal(options).await;
        assert!(refused.contains(said), "{said}: {refused}");
        assert!(!refused.contains(SECRET), "{refused}");
    }
}

/// Other clients leave a message for each object that was ever deleted, and list them all each time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_replaced_or_refused_leaves_nothing_behind() {
    let bucket = Bucket::new();
    let client = bucket.open("one");
    let long: Bytes = vec![7; 300_000].into();
    for txid in 1..=3 {
        put(&client, txid, long.clone()).await.unwrap();
    }
    assert!(put(&client, 3, long).await.unwrap_err().is_already_exists());
    client.delete(Level::L0, &[name(1), name(2)]).await.unwrap();
    let key = SmallKey::new("lease").unwrap();
    for content in ["one", "two", "three"] {
        let put = client.put_small(&key, content.into(), Precondition::None);
        put.await.unwrap();
    }
    // Refused content goes a moment later.
    wait_until(Duration::from_secs(30), "it is tidy", || {
        bucket.messages() == [2, 2]
    });
    client.delete_small(&key).await.unwrap();
    assert_eq!(bucket.messages(), [1, 1]);
}

/// The server is silent when an upload is given up. Nobody waits for as long as that takes.
#[tokio::test]
async fn what_could_not_be_purged_is_when_the_server_is_back() {
    let bucket = Bucket::new();
    let proxy = WireProxy::start(bucket.server.address().parse().unwrap()).unwrap();
    let mut options = bucket.options("one");
    options.host = proxy.address().to_string();
    let client = connect(options);
    let few = Pieces {
        count: 4,
        size: 100_000,
    };
    let body = few.stalling(&Gauge::default());
    let mut given_up = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
    while bucket.messages() != [1, 0] {
        let ended = tokio::time::timeout(Duration::from_millis(10), &mut given_up);
        assert!(ended.await.is_err(), "the body never ended");
    }
    proxy.set_road(Road::Silent);
    drop(given_up);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_eq!(bucket.messages(), [1, 0], "it was purged");
    proxy.set_road(Road::Open);
    while let Err(error) = put(&client, 2, "x".into()).await {
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
    }
    assert_eq!(bucket.messages(), [1, 1]);
}

/// What is to be purged is another subject by the time the server hears of it.
#[tokio::test]
async fn a_server_that_says_it_deleted_and_did_not_is_found_out() {
    let bucket = Bucket::new();
    let misheard = ["\"filter\":\"$O.", "\"filter\":\"$X."];
    let server = bucket.server.address().parse().unwrap();
    let proxy = WireProxy::start_mishearing(server, misheard).unwrap();
    let mut options = bucket.options("one");
    options.host = proxy.address().to_string();
    let client = connect(options);
    put(&client, 1, "x".into()).await.unwrap();
    let key = SmallKey::new("lease").unwrap();
    let stored = client.put_small(&key, "x".into(), Precondition::Absent);
    stored.await.unwrap();
    let of_a_file = client.delete(Level::L0, &[name(1)]).await.unwrap_err();
    let of_a_lease = client.delete_small(&key).await.unwrap_err();
    for (error, object) in [(of_a_file, "0000000000000001"), (of_a_lease, "lease")] {
        assert!(matches!(error, Error::NotDeleted { .. }), "{error:?}");
        assert!(error.to_string().contains(object), "{error}");
    }
}

/// The message that another client leaves of an object that it deleted is no object.
#[tokio::test]
async fn an_object_that_another_client_deleted_can_be_stored_again() {
    let bucket = Bucket::new();
    let client = bucket.open("");
    put(&client, 1, "one".into()).await.unwrap();
    client.delete(Level::L0, &[name(1)]).await.unwrap();
    // In URL-safe base 64: `ltx/0/0000000000000001-0000000000000001.ltx`.
    let subject = "bHR4LzAvMDAwMDAwMDAwMDAwMDAwMS0wMDAwMDAwMDAwMDAwMDAxLmx0eA==";
    let said = format!(
        "{{\"name\":\"ltx/0/{}\",\"bucket\":\"{1}\",\"nuid\":\"x\",\"size\":0,\
         \"mtime\":\"0001-01-01T00:00:00Z\",\"chunks\":0,\"deleted\":true}}",
        name(1),
        bucket.name
    );
    let stored = bucket
        .server
        .request(&format!("$O.{}.M.{subject}", bucket.name), &said);
    assert!(stored.contains("\"seq\""), "{stored}");
    assert_eq!(client.list(Level::L0, None).await.unwrap(), []);
    let missing = client.get(Level::L0, name(1), None).await;
    assert!(missing.err().unwrap().is_not_found());
    put(&client, 1, "two".into()).await.unwrap();
    assert_eq!(bucket.messages(), [1, 1]);
    let body = client.get(Level::L0, name(1), None).await.unwrap();
    assert_eq!(collect(body, 10).await.unwrap(), "two");
}

#[tokio::test]
async fn an_object_that_is_not_what_is_said_of_it_is_not_read() {
    let bucket = Bucket::new();
    let client = bucket.open("");
    put(&client, 1, "one".into()).await.unwrap();
    let stored = bucket.server.request(&bucket.subjects("C")[0], "two");
    assert!(stored.contains("\"seq\""), "{stored}");
    let error = client.get(Level::L0, name(1), None).await.err().unwrap();
    assert!(error.to_string().contains("not what is said"), "{error}");

    client.delete(Level::L0, &[name(1)]).await.unwrap();
    put(&client, 1, vec![7; 300_000].into()).await.unwrap();
    let all_but_one = format!("{{\"filter\":\"{}\",\"keep\":2}}", bucket.subjects("C")[0]);
    let purged = bucket.ask("PURGE", &all_but_one);
    assert!(purged.contains("\"purged\":1"), "{purged}");
    let error = client.get(Level::L0, name(1), None).await.err().unwrap();
    assert!(
        error.to_string().contains("part of an object is missing"),
        "{error}"
    );
}

/// The engine's runtime ends when nothing is replicated any more, and another one begins with the next restore.
#[test]
fn a_client_outlives_the_runtime_that_it_has_connected_on() {
    let bucket = Bucket::new();
    let client = bucket.open("one");
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    first.block_on(put(&client, 1, "x".into())).unwrap();
    // Nobody drives it any more, and yet it has not ended.
    let second = runtime();
    second.block_on(put(&client, 2, "x".into())).unwrap();
    drop(first);
    let listed = second.block_on(client.list(Level::L0, None)).unwrap();
    assert_eq!(listed.len(), 2);
}

/// A file of many chunks.
#[tokio::test]
async fn a_read_that_is_given_up_and_the_end_of_a_long_file_are_no_trouble() {
    let bucket = Bucket::new();
    let client = bucket.open("one");
    let pieces = Pieces {
        count: 200,
        size: 100_000,
    };
    let body = pieces.body(&Gauge::default());
    let stored = client.put(Level::L0, name(1), SystemTime::UNIX_EPOCH, body);
    assert_eq!(stored.await.unwrap().size, 20_000_000);
    drop(client.get(Level::L0, name(1), None).await.unwrap());
    let range = Some(19_999_999..20_000_000);
    let body = client.get(Level::L0, name(1), range).await.unwrap();
    assert_eq!(collect(body, 1).await.unwrap().len(), 1);
    let body = client.get(Level::L0, name(1), None).await.unwrap();
    assert_eq!(collect(body, usize::MAX).await.unwrap().len(), 20_000_000);
}
