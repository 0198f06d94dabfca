//! When a lease is renewed, what comes of a renewal that fails, and of letting go.

use super::*;

/// A store that loses answers when it is told to.
fn forgetful(compare_and_set: bool) -> (Arc<Odd>, Arc<CountingClient>) {
    let odd = Odd::new(compare_and_set);
    let store = Arc::new(CountingClient::new(odd.clone()));
    (odd, store)
}

/// What arrives in pieces, ten seconds apart.
fn slow(writer: &Writer, pieces: u64) -> ByteStream {
    let clock = Arc::clone(&writer.clock);
    let pieces = stream::iter(0..pieces).then(move |_| {
        let clock = Arc::clone(&clock);
        async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            clock.advance(Duration::from_secs(10));
            Ok("piece".into())
        }
    });
    pieces.boxed()
}

async fn record(store: &CountingClient) -> LeaseRecord {
    let found = store.get_small(&SmallKey::lease()).await.unwrap().unwrap();
    LeaseRecord::decode(&found.content).unwrap()
}

#[tokio::test]
async fn a_lease_counts_until_a_quarter_of_it_is_left_and_says_what_became_of_it() {
    let writer = Writer::new(&store(), "11");
    writer.claim().await.unwrap();
    assert_lost(writer.lease.check(), "ended");
    writer.put(1).await.unwrap();
    pass(&[&writer], 90);
    writer.lease.check().unwrap();
    pass(&[&writer], 1);
    assert_lost(writer.lease.check(), "it could not be renewed in time");
    pass(&[&writer], 29);
    assert_lost(writer.lease.check(), "it has ended");
}

#[tokio::test]
async fn a_lease_that_had_ended_counts_as_taken_again_and_a_renewal_does_not() {
    let writer = Writer::new(&store(), "11");
    writer.claim().await.unwrap();
    assert_eq!(writer.lease.takings(), 0);
    for (txid, pause, takings) in [(1, 0, 1), (2, 61, 1), (3, 1_000, 2), (4, 61, 2)] {
        pass(&[&writer], pause);
        writer.put(txid).await.unwrap();
        assert_eq!(writer.lease.takings(), takings, "{txid}");
    }
}

#[tokio::test]
async fn a_lease_says_since_when_and_only_another_owner_makes_a_new_generation() {
    let store = store();
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    let first = record(&store).await;
    pass(&[&writer], 61);
    writer.put(2).await.unwrap();
    let renewed = LeaseRecord {
        renewed: first.renewed + Duration::from_secs(61),
        ..first.clone()
    };
    assert_eq!(record(&store).await, renewed);
    let after = writer.restarted(&store, None);
    after.claim().await.unwrap();
    after.put(3).await.unwrap();
    let last = record(&store).await;
    assert_eq!((last.generation, last.since), (1, renewed.renewed));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_once_does_not_break_off_a_large_object() {
    let (odd, store) = forgetful(true);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    odd.lose_answers(1);
    writer.put_body(2, slow(&writer, 30)).await.unwrap();
    assert_eq!(odd.answers_to_lose(), 0);
    assert_eq!(stored(&store).await, [name(1), name(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_sent_is_given_up_with_the_lease_where_the_store_does_not_answer() {
    let (odd, store) = forgetful(true);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    odd.lose_answers(u64::MAX);
    let error = writer.put_body(2, slow(&writer, 30)).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    let passed = writer.clock.uptime();
    assert!(passed < LASTS, "{passed:?}");
    assert_eq!(stored(&store).await, [name(1)]);
}

#[tokio::test]
async fn a_lost_answer_to_a_renewal_costs_no_wait_where_a_store_sees_to_it() {
    let (odd, store) = forgetful(true);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    pass(&[&writer], 61);
    odd.lose_answers(1);
    assert!(writer.put(2).await.is_err());
    pass(&[&writer], 1_000);
    writer.put(2).await.unwrap();
}

#[tokio::test]
async fn who_cannot_let_go_is_told() {
    let (odd, store) = forgetful(true);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    odd.lose_answers(1);
    let error = writer.lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn a_renewal_that_fails_lets_nobody_forget_what_may_still_arrive() {
    let (odd, store) = forgetful(true);
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.claim().await.unwrap();
    first.put(1).await.unwrap();
    let endless = first.put_body(2, stream::pending().boxed());
    assert!(endless.now_or_never().is_none());
    pass(&[&first], 61);
    odd.lose_answers(1);
    assert!(first.put(3).await.is_err());
    first.put(3).await.unwrap();
    first.lease.release().await.unwrap();
    let taken = second.claim().await.unwrap();
    assert!(matches!(taken, Taken::FromAnother(_)), "{taken:?}");
}
