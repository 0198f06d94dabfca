//! The cases of what is created: that nothing is replaced, nothing torn, and nothing left of what was given up, whatever
//! its size.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};

use super::{
    Gauge, Pieces, Replicas,
    cases::{Client, L0, assert_absent, content, name, put, time},
};
use crate::{ByteStream, Error, bytes_stream};

/// What every store has a longer way for than for what is small: parts, blocks, a session. Some begin it with the second
/// part.
const LONG: Pieces = Pieces {
    count: 160,
    size: 100_000,
};
/// What goes in one request, in many pieces.
const SHORT: Pieces = Pieces {
    count: 30,
    size: 100_000,
};

/// A second writer on one path cannot destroy the first one's history.
pub async fn an_existing_object_is_never_replaced(replicas: &impl Replicas) {
    let client = replicas.open("one");
    if !client.capabilities().conditional_create {
        return;
    }
    let other = Pieces {
        count: LONG.count + 1,
        ..LONG
    };
    let put_long = client.put(L0, name(2, 2), time(2), LONG.body(&Gauge::default()));
    put_long.await.expect("put");
    put(&client, name(1, 1), b"first").await;
    let first = [
        (name(1, 1), Bytes::from("first")),
        (name(2, 2), LONG.content().into()),
    ];
    for (name, expected) in first {
        let mut others = vec![bytes_stream("second".into())];
        if replicas.heeds_conditions_in_parts() {
            others.push(other.body(&Gauge::default()));
        }
        for body in others {
            let put = client.put(L0, name, time(5), body).await;
            let error = put.expect_err("refused");
            assert!(error.is_already_exists(), "{error:?}");
            assert!(
                content(&client, name).await == expected,
                "{name} was replaced"
            );
        }
    }
    let listed = client.list_dated(L0, None).await.expect("list");
    let created: Vec<_> = listed.iter().map(|object| object.created).collect();
    assert_eq!(created, [time(1), time(2)]);
    assert_nothing_unfinished(replicas).await;
}

/// Of many who create one object at the same time exactly one is told that it did.
pub async fn of_two_creators_one_wins(replicas: &impl Replicas) {
    let clients: Vec<_> = (0..8).map(|_| replicas.open("one")).collect();
    if !clients[0].capabilities().conditional_create {
        return;
    }
    let small = |n| bytes_stream(vec![n; 1000].into());
    for round in 1..=20 {
        one_wins(&clients, round, small).await;
    }
    if replicas.heeds_conditions_in_parts() {
        let long = |n| -> ByteStream {
            let piece = Bytes::from(vec![n; LONG.size]);
            Box::pin(stream::iter(
                (0..LONG.count).map(move |_| Ok(piece.clone())),
            ))
        };
        one_wins(&clients[..3], 21, long).await;
        assert_nothing_unfinished(replicas).await;
    }
}

/// Each client creates the object of this round, with a content of one repeated byte of its own.
async fn one_wins(clients: &[Client], round: u64, body: impl Fn(u8) -> ByteStream) {
    let name = name(round, round);
    let creators = (0..)
        .zip(clients)
        .map(async |(n, client)| (n, client.put(L0, name, time(0), body(n)).await));
    let done = join_all(creators).await;
    let (won, lost): (Vec<_>, Vec<_>) = done.into_iter().partition(|(_, put)| put.is_ok());
    let [(winner, Ok(object))] = won.as_slice() else {
        panic!("{} winners", won.len())
    };
    for (n, put) in lost {
        let error = put.expect_err("lost");
        assert!(error.is_already_exists(), "creator {n}: {error:?}");
    }
    let stored = content(&clients[0], name).await;
    assert_eq!(stored.len() as u64, object.size);
    assert!(
        stored.iter().all(|byte| byte == winner),
        "the winner's content is not what is stored"
    );
}

/// A snapshot larger than memory can be stored and read: 200 MB pass in a few chunks.
pub async fn a_large_body_is_streamed_in_bounded_memory(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let pieces = Pieces {
        count: 200,
        size: 1_000_000,
    };
    let gauge = Gauge::default();
    let object = client
        .put(L0, name(1, 1), time(0), pieces.body(&gauge))
        .await
        .expect("put");
    assert_eq!((object.size, gauge.made()), (200_000_000, 200));
    assert!(
        gauge.most() <= 32,
        "{} chunks of 1 MB in memory at once",
        gauge.most()
    );
    let mut body = client.get(L0, name(1, 1), None).await.expect("get");
    let mut size = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.expect("chunk");
        for byte in [chunk.first(), chunk.last()] {
            assert!(byte.is_some(), "an empty chunk");
        }
        let expected = u8::try_from(size / 1_000_000 % 251).expect("small");
        assert_eq!(chunk.first(), Some(&expected), "at {size}");
        size += chunk.len();
    }
    assert_eq!(size, 200_000_000);
}

/// Dropped after any number of polls, a put leaves the object absent or whole, and the next one
/// works.
pub async fn a_put_dropped_at_any_point_leaves_nothing_torn(replicas: &impl Replicas) {
    let mut polls = 0;
    while !is_done_after(replicas, SHORT, polls).await {
        polls += 1;
    }
    // Each of these moves many bytes, so fewer of them.
    let mut polls = 1;
    while !is_done_after(replicas, LONG, polls).await {
        polls *= 4;
    }
}

/// Drops a put after so many polls, and puts the same again. Whether the first one had come to its end.
async fn is_done_after(replicas: &impl Replicas, pieces: Pieces, polls: usize) -> bool {
    let size = (pieces.count * pieces.size) as u64;
    let client = replicas.open(&format!("{size} dropped after {polls}"));
    let put = client.put(L0, name(1, 1), time(0), pieces.body(&Gauge::default()));
    let completed = poll_times(put, polls).await.map(|put| put.expect("put"));
    for object in client.list(L0, None).await.expect("list") {
        assert_eq!(object.size, size, "torn when dropped after {polls} polls");
    }
    let again = client.put(L0, name(1, 1), time(0), pieces.body(&Gauge::default()));
    let heeded = client.capabilities().conditional_create
        && (pieces.count == SHORT.count || replicas.heeds_conditions_in_parts());
    match again.await {
        Ok(_) => assert!(completed.is_none() || !heeded, "a stored object vanished"),
        Err(error) => assert!(error.is_already_exists(), "{error:?}"),
    }
    let stored = content(&client, name(1, 1)).await;
    assert!(stored == pieces.content(), "torn");
    completed.is_some()
}

/// Polls a future at most so many times, then drops it.
async fn poll_times<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// A put that is given up in the middle of a long body leaves no trace of an object.
pub async fn a_put_that_waits_for_its_body_and_is_dropped_leaves_nothing(replicas: &impl Replicas) {
    let few = Pieces {
        count: 2,
        size: 1_000,
    };
    for pieces in [few, SHORT, LONG] {
        let client = replicas.open("one");
        let gauge = Gauge::default();
        let mut put = client.put(L0, name(1, 1), time(0), pieces.stalling(&gauge));
        while gauge.made() < pieces.count {
            if let Ok(put) = tokio::time::timeout(Duration::from_millis(1), &mut put).await {
                panic!("the body never ended, and yet: {put:?}");
            }
        }
        drop(put);
        assert_absent(&client, name(1, 1)).await;
        put_and_delete(&client, pieces).await;
    }
    assert_nothing_unfinished(replicas).await;
}

/// An error of the body, at the start or far in, leaves no trace of an object and is told from one
/// of the store.
pub async fn a_body_that_fails_leaves_nothing(replicas: &impl Replicas) {
    let client = replicas.open("one");
    for count in [0, 1, SHORT.count, LONG.count] {
        let pieces = Pieces { count, ..LONG };
        let body = pieces.failing(io::ErrorKind::ConnectionReset);
        let error = client
            .put(L0, name(1, 1), time(0), body)
            .await
            .expect_err("failed");
        let Error::Body { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
        assert_absent(&client, name(1, 1)).await;
        put_and_delete(&client, pieces).await;
    }
    assert_nothing_unfinished(replicas).await;
}

/// What is given up is tidied up a moment later.
async fn assert_nothing_unfinished(replicas: &impl Replicas) {
    const TRIES: u32 = 600;
    for _ in 0..TRIES {
        if replicas.unfinished() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "{} uploads were neither finished nor given up",
        replicas.unfinished()
    );
}

/// Puts again what was given up, as those do who try it again.
async fn put_and_delete(client: &Client, pieces: Pieces) {
    let put = client.put(L0, name(1, 1), time(1), pieces.body(&Gauge::default()));
    put.await.expect("put");
    assert!(
        content(client, name(1, 1)).await == pieces.content(),
        "it is another content"
    );
    client.delete(L0, &[name(1, 1)]).await.expect("delete");
}
