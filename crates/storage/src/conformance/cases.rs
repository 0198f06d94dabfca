//! The cases. Each panics where a client breaks its promise.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::future::join_all;

use super::{Gauge, Pieces, Replicas};
use crate::{
    ByteStream, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject, Version,
    bytes_stream, collect,
};

pub(super) type Client = Arc<dyn ReplicaClient>;

pub(super) const L0: Level = Level::L0;

pub(super) fn name(min: u64, max: u64) -> LtxName {
    LtxName::new(Txid::new(min), Txid::new(max))
}

pub(super) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn key(text: &str) -> SmallKey {
    SmallKey::new(text).expect("a key")
}

pub(super) async fn put(client: &Client, name: LtxName, content: &[u8]) -> LtxObject {
    let body = bytes_stream(Bytes::copy_from_slice(content));
    client
        .put(L0, name, time(name.max.get()), body)
        .await
        .expect("put")
}

pub(super) async fn content(client: &Client, name: LtxName) -> Bytes {
    read(client.get(L0, name, None).await.expect("get")).await
}

async fn read(body: ByteStream) -> Bytes {
    collect(body, usize::MAX).await.expect("the whole body")
}

async fn small(client: &Client, key: &SmallKey) -> Option<Bytes> {
    let object = client.get_small(key).await.expect("get");
    object.map(|object| object.content)
}

async fn names(client: &Client) -> Vec<LtxName> {
    let objects = client.list(L0, None).await.expect("list");
    objects.into_iter().map(|object| object.name).collect()
}

/// Those of these files of one transaction each that are found, with their sizes.
async fn found(client: &Client, txids: &[u64]) -> Vec<(u64, u64)> {
    let names: Vec<_> = txids.iter().map(|txid| name(*txid, *txid)).collect();
    let found = client.find(L0, &names).await.expect("found");
    let found = found.iter();
    found
        .map(|object| (object.name.min.get(), object.size))
        .collect()
}

pub(super) async fn assert_absent(client: &Client, name: LtxName) {
    assert_eq!(names(client).await, []);
    let error = client
        .get(L0, name, None)
        .await
        .err()
        .expect("no such object");
    assert!(error.is_not_found(), "{error}");
}

/// Content comes back byte for byte, whether it is nothing, one piece or many.
pub async fn an_object_reads_back_as_it_was_put(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let many = Pieces {
        count: 7,
        size: 300_000,
    };
    let empty = put(&client, name(1, 1), b"").await;
    let small = put(&client, name(2, 2), b"one page").await;
    let large = client
        .put(L0, name(3, 9), time(9), many.body(&Gauge::default()))
        .await;
    let large = large.expect("put");
    assert_eq!(content(&client, name(1, 1)).await, "");
    assert_eq!(content(&client, name(2, 2)).await, "one page");
    assert!(
        content(&client, name(3, 9)).await == many.content(),
        "2 MB differ"
    );
    assert_eq!((empty.size, small.size, large.size), (0, 8, 2_100_000));
    assert_eq!(
        client.list_dated(L0, None).await.expect("list"),
        [empty, small, large]
    );
}

/// A ranged read gives neither more nor less, and says so where the object is shorter.
pub async fn a_range_gives_those_bytes_and_no_others(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let pieces = Pieces {
        count: 40,
        size: 50_000,
    };
    let whole = pieces.content();
    let body = pieces.body(&Gauge::default());
    client
        .put(L0, name(1, 1), time(0), body)
        .await
        .expect("put");
    let size = whole.len();
    let cases = [
        (0, 0),
        (0, 1),
        (0, size),
        (size - 1, size),
        (size, size),
        (99, 100_001),
        (700_000, size - 3),
    ];
    for (start, end) in cases {
        let body = client
            .get(L0, name(1, 1), Some(start as u64..end as u64))
            .await
            .expect("get");
        let expected = whole.get(start..end).expect("in range");
        assert!(read(body).await == expected, "range {start}..{end}");
    }
    for (start, end) in [
        (0, size as u64 + 1),
        (size as u64 + 1, size as u64 + 2),
        (0, u64::MAX),
    ] {
        let error = client
            .get(L0, name(1, 1), Some(start..end))
            .await
            .err()
            .expect("too far");
        assert!(
            matches!(error, Error::OutOfRange { .. }),
            "{start}..{end}: {error:?}"
        );
    }
}

/// Reading what is not there, or listing a replica that does not exist, is no surprise and creates
/// nothing.
pub async fn a_missing_object_is_not_found(replicas: &impl Replicas) {
    let client = replicas.open("one");
    for level in Level::all() {
        assert_eq!(client.list(level, None).await.expect("list"), []);
    }
    for range in [None, Some(0..1)] {
        let error = client
            .get(L0, name(1, 1), range)
            .await
            .err()
            .expect("not there");
        assert!(error.is_not_found(), "{error:?}");
        assert!(error.to_string().contains(&client.location()), "{error}");
        assert!(
            error
                .to_string()
                .contains("0000000000000001-0000000000000001.ltx"),
            "{error}"
        );
    }
    client
        .delete(L0, &[name(1, 1)])
        .await
        .expect("nothing to delete is fine");
}

/// Listings are complete beyond the page size of every store, and in order.
pub async fn five_thousand_objects_are_listed_in_order(replicas: &impl Replicas) {
    const COUNT: u64 = 5_000;
    let full = replicas.full();
    // A thousand and more in one call, where a call is cheap.
    let deleted = if full.is_some() { 150 } else { 1_100 };
    let client = match full {
        Some(client) => client,
        None => {
            let client = replicas.open("one");
            // Not in the order of the names, and several at a time.
            let mut order: Vec<u64> = (1..=COUNT).collect();
            order.sort_by_key(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for chunk in order.chunks(50) {
                join_all(chunk.iter().map(|n| put(&client, name(*n, *n), b"x"))).await;
            }
            client
        }
    };
    let expected: Vec<_> = (1..=COUNT).map(|n| name(n, n)).collect();
    assert!(
        names(&client).await == expected,
        "listing is not complete and in order"
    );
    let tail = client.list(L0, Some(Txid::new(4_990))).await.expect("list");
    let tail: Vec<_> = tail.into_iter().map(|object| object.name).collect();
    assert_eq!(
        tail,
        (4_991..=COUNT).map(|n| name(n, n)).collect::<Vec<_>>()
    );
    assert_eq!(
        client.list(L0, Some(Txid::new(COUNT))).await.expect("list"),
        []
    );
    let (gone, left) = expected.split_at(deleted);
    client.delete(L0, gone).await.expect("delete");
    assert!(names(&client).await == left);
}

/// One level never shows another one's files, nor one replica another one's.
pub async fn levels_and_replicas_do_not_mix(replicas: &impl Replicas) {
    let (one, other) = (replicas.open("one"), replicas.open("other"));
    for level in Level::all() {
        let n = u64::from(level.get()) + 1;
        let body = bytes_stream(level.to_string().into());
        one.put(level, name(1, n), time(n), body)
            .await
            .expect("put");
    }
    for level in Level::all() {
        let n = u64::from(level.get()) + 1;
        let listed = one.list_dated(level, None).await.expect("list");
        let expected = LtxObject {
            level,
            name: name(1, n),
            size: 1,
            created: time(n),
        };
        assert_eq!(listed, [expected]);
        let body = one.get(level, name(1, n), None).await.expect("get");
        assert_eq!(read(body).await, level.to_string());
        assert_eq!(other.list(level, None).await.expect("list"), []);
    }
    one.delete(Level::SNAPSHOT, &[name(1, 10)])
        .await
        .expect("delete");
    assert_eq!(one.list(Level::SNAPSHOT, None).await.expect("list"), []);
    assert_eq!(names(&one).await, [name(1, 1)]);
}

/// What was deleted is gone, what was not is not, and a name can be used again.
pub async fn a_deleted_object_is_gone(replicas: &impl Replicas) {
    let client = replicas.open("one");
    for n in 1..=4 {
        put(&client, name(n, n), b"content").await;
    }
    assert_eq!(found(&client, &[4, 77, 1]).await, [(1, 7), (4, 7)]);
    // One of them is not there.
    client
        .delete(L0, &[name(2, 2), name(77, 77), name(4, 4)])
        .await
        .expect("delete");
    assert_eq!(names(&client).await, [name(1, 1), name(3, 3)]);
    assert_eq!(found(&client, &[1, 2, 3, 4]).await, [(1, 7), (3, 7)]);
    assert_eq!(found(&client, &[2, 4]).await, []);
    assert_eq!(found(&client, &[]).await, []);
    let error = client
        .get(L0, name(2, 2), None)
        .await
        .err()
        .expect("deleted");
    assert!(error.is_not_found(), "{error:?}");
    client.delete(L0, &[]).await.expect("nothing to do");
    put(&client, name(2, 2), b"again").await;
    assert_eq!(content(&client, name(2, 2)).await, "again");
}

/// A restore to a point in time finds what it needs: times survive to the millisecond, or as the store
/// has them, whatever order they are in.
pub async fn the_time_of_creation_is_kept(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let times = [
        SystemTime::UNIX_EPOCH,
        time(0) + Duration::from_millis(123),
        time(9_999_999),
        time(1),
        // Of a long one, which some stores are given in another way.
        time(2) + Duration::from_millis(456),
    ];
    let long = Pieces {
        count: 120,
        size: 100_000,
    };
    for (n, created) in (1..).zip(times) {
        let body = match n {
            5 => long.body(&Gauge::default()),
            _ => bytes_stream("x".into()),
        };
        let object = client
            .put(L0, name(n, n), created, body)
            .await
            .expect("put");
        assert_eq!(object.created, created);
    }
    let listed = client.list_dated(L0, None).await.expect("list");
    let listed: Vec<_> = listed.into_iter().map(|object| object.created).collect();
    let unit = replicas.resolution().as_millis();
    let kept = times.map(|time| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        let kept = since.as_millis() / unit * unit;
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(kept).expect("small"))
    });
    assert_eq!(listed, kept);
}

/// Spaces, other alphabets, percent signs and the like in a replica's path are taken as they are.
pub async fn odd_paths_are_ordinary_paths(replicas: &impl Replicas) {
    let paths = [
        "with space",
        "with%20space",
        "100%",
        "büro/日本語/🦀",
        "a+b&c=d#e",
        "dots.and..more",
        "'quoted' \"twice\"",
        "-dash",
        "a/deep/path/of/many/parts",
    ];
    for (n, path) in (1..).zip(paths) {
        put(&replicas.open(path), name(n, n), path.as_bytes()).await;
    }
    for (n, path) in (1..).zip(paths) {
        let client = replicas.open(path);
        assert_eq!(names(&client).await, [name(n, n)], "{path}");
        assert_eq!(content(&client, name(n, n)).await, path);
    }
}

/// Small objects are created, replaced, listed and deleted, and never show up among LTX files.
pub async fn small_objects_are_stored_apart(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let (lease, sum) = (key("lease.json"), key("sums/0001"));
    assert_eq!(client.list_small().await.expect("list"), []);
    assert_eq!(small(&client, &lease).await, None);
    client
        .put_small(&lease, "one".into(), Precondition::Absent)
        .await
        .expect("put");
    client
        .put_small(&sum, "sum".into(), Precondition::None)
        .await
        .expect("put");
    if client.capabilities().conditional_create {
        let put = client
            .put_small(&lease, "two".into(), Precondition::Absent)
            .await;
        let error = put.expect_err("it is there");
        assert!(error.is_already_exists(), "{error:?}");
        assert_eq!(small(&client, &lease).await, Some("one".into()));
    }
    client
        .put_small(&lease, "three".into(), Precondition::None)
        .await
        .expect("replace");
    assert_eq!(small(&client, &lease).await, Some("three".into()));
    assert_eq!(
        client.list_small().await.expect("list"),
        [lease.clone(), sum.clone()]
    );
    for level in Level::all() {
        assert_eq!(client.list(level, None).await.expect("list"), []);
    }
    client.delete_small(&lease).await.expect("delete");
    client.delete_small(&lease).await.expect("gone already");
    assert_eq!(client.list_small().await.expect("list"), [sum]);
}

/// Nobody's memory is taken for what somebody else put among the small objects.
pub async fn what_is_too_long_for_a_small_object_is_not_read(replicas: &impl Replicas) {
    if !replicas.nest() {
        return;
    }
    let longest = SmallObject::LONGEST;
    let (client, foreign) = (replicas.open("one"), replicas.open("one/evertide"));
    for (txid, size) in [(1, longest), (2, longest + 1)] {
        put(&foreign, name(txid, txid), &vec![7; size]).await;
    }
    let keys = client.list_small().await.expect("list");
    let [whole, long] = &*keys else {
        panic!("two objects: {keys:?}");
    };
    let read = small(&client, whole).await.expect("there");
    assert!(read == vec![7; longest], "1 MiB differs");
    let error = client.get_small(long).await.expect_err("it is too long");
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    assert!(error.to_string().contains(long.as_str()), "{error}");
    // Nor is it taken for what was to be replaced.
    let over = Precondition::Unchanged(Version::new("another"));
    let replaced = client.put_small(long, "new".into(), over).await;
    assert!(replaced.is_err(), "{replaced:?}");
    let kept = content(&foreign, name(2, 2)).await;
    assert_eq!(kept.len(), longest + 1);
    client.delete_small(long).await.expect("delete");
    let left = client.list_small().await.expect("list");
    assert_eq!(left.iter().collect::<Vec<_>>(), [whole]);
}

/// What was read, or what storing it gave, is replaced; anything else is not, nor is what is gone
/// brought back.
pub async fn an_object_that_somebody_changed_is_not_replaced(replicas: &impl Replicas) {
    let (client, other) = (replicas.open("one"), replicas.open("one"));
    let lease = key("lease");
    let put = async |client: &Client, content: &'static str, precondition| {
        client.put_small(&lease, content.into(), precondition).await
    };
    let first = put(&client, "one", Precondition::Absent)
        .await
        .expect("put");
    let read = other.get_small(&lease).await.expect("get").expect("there");
    assert_eq!((read.content, &read.version), ("one".into(), &first));
    let second = put(&other, "two", Precondition::Unchanged(read.version)).await;
    let second = second.expect("unchanged");
    assert_ne!(first, second);
    let refused = async |expected: &crate::Version, still: Option<&'static str>| {
        let put = put(&client, "late", Precondition::Unchanged(expected.clone())).await;
        let error = put.expect_err("somebody changed it");
        assert!(matches!(error, Error::Changed { .. }), "{error:?}");
        assert!(error.is_conflict() && error.to_string().contains("evertide/lease"));
        assert_eq!(small(&client, &lease).await, still.map(Bytes::from));
    };
    refused(&first, Some("two")).await;
    let third = put(&client, "three", Precondition::Unchanged(second.clone())).await;
    let third = third.expect("unchanged");
    refused(&second, Some("three")).await;
    other.delete_small(&lease).await.expect("delete");
    refused(&third, None).await;
    put(&other, "another", Precondition::Absent)
        .await
        .expect("put");
    refused(&third, Some("another")).await;
    put(&other, "again", Precondition::None).await.expect("put");
    refused(&third, Some("again")).await;
}

/// A counter that many raise at the same time ends at the number of those that were told they did.
pub async fn many_who_count_at_the_same_time_lose_nothing(replicas: &impl Replicas) {
    const EACH: u64 = 10;
    const COUNTERS: u64 = 8;
    if !replicas.open("one").capabilities().compare_and_set {
        return;
    }
    let counter = key("counter");
    let count = async |client: Client| {
        let mut counted = 0;
        while counted < EACH {
            let found = client.get_small(&counter).await.expect("get");
            let (value, precondition) = match found {
                None => (0, Precondition::Absent),
                Some(found) => {
                    let text = std::str::from_utf8(&found.content).expect("text");
                    let value: u64 = text.parse().expect("a number");
                    (value, Precondition::Unchanged(found.version))
                }
            };
            let next = (value + 1).to_string().into();
            match client.put_small(&counter, next, precondition).await {
                Ok(_) => counted += 1,
                Err(error) => assert!(error.is_conflict(), "{error:?}"),
            }
        }
    };
    join_all((0..COUNTERS).map(|_| count(replicas.open("one")))).await;
    let total = small(&replicas.open("one"), &counter).await.expect("there");
    assert_eq!(total, (EACH * COUNTERS).to_string());
}
