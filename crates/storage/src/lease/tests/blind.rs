//! In a store that writes over whatever has come since it was looked at.

use super::*;

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_one_of_two_notices_the_other() {
    let store = odd(0, false);
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.claim().await.unwrap();
    second.claim().await.unwrap();
    let (one, two) = tokio::join!(first.put(1), second.put(2));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_who_takes_an_ended_lease_again_looks_whether_it_has_it() {
    let store = odd(0, false);
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.claim().await.unwrap();
    first.put(1).await.unwrap();
    pass(&[&first, &second], 1_000);
    second.claim().await.unwrap();
    // Both look before either writes.
    let (one, two) = join(first.put(2), second.put(3)).await;
    assert_lost(one, "process 22");
    two.unwrap();
    let seen = first.claim().await.unwrap_err();
    assert!(matches!(seen, Error::LeaseHeld { .. }), "{seen}");
}

/// As a process that is stopped between the look of its store and the write.
async fn stopped_while_it_renews(stopped: &Writer, heir: &Writer, away: u64) -> Result<(), Error> {
    stopped.claim().await.unwrap();
    stopped.put(1).await.unwrap();
    pass(&[stopped, heir], 61);
    assert!(heir.claim().await.is_err());
    let mut renewal = Box::pin(stopped.put(2));
    let mut context = Context::from_waker(Waker::noop());
    assert!(renewal.as_mut().poll(&mut context).is_pending());
    pass(&[stopped, heir], away);
    if away >= 126 {
        heir.claim().await.unwrap();
        heir.put(3).await.unwrap();
    }
    renewal.await
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_who_may_have_written_over_another_stops_and_waits() {
    let store = odd(0, false);
    let (late, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    let renewed = stopped_while_it_renews(&late, &heir, 130).await;
    assert_lost(renewed, "somebody else may have taken it meanwhile");
    assert_eq!(stored(&store).await, [name(1), name(3)]);
    // Neither knows of the other: both wait for as long as one who has it could write.
    pass(&[&late, &heir], 61);
    assert_lost(heir.put(4).await, "process 11");
    for writer in [&late, &heir] {
        let seen = writer.claim().await.unwrap_err();
        assert!(matches!(seen, Error::LeaseHeld { .. }), "{seen}");
    }
    pass(&[&late, &heir], 126);
    let taken = late.claim().await.unwrap();
    assert!(matches!(taken, Taken::Displacing(_)), "{taken:?}");
    let taken = heir.claim().await.unwrap();
    assert!(matches!(taken, Taken::FromAnother(_)), "{taken:?}");
    let (one, two) = tokio::join!(late.put(5), heir.put(6));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_renewal_that_arrives_in_time_is_one() {
    let store = odd(0, false);
    let (slow, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    stopped_while_it_renews(&slow, &heir, 20).await.unwrap();
    assert_eq!(stored(&store).await, [name(1), name(2)]);
}

/// Its owner thinks that it was never sent, and it comes when somebody else has the lease.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_renewal_that_was_given_up_gives_no_lease_when_it_arrives()
{
    let store = odd(0, false);
    let (late, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    late.claim().await.unwrap();
    late.put(1).await.unwrap();
    pass(&[&late, &heir], 61);
    assert!(heir.claim().await.is_err());
    let key = SmallKey::lease();
    let before = store.get_small(&key).await.unwrap().unwrap().content;
    pass(&[&late, &heir], 130);
    heir.claim().await.unwrap();
    heir.put(2).await.unwrap();
    let text = String::from_utf8(before.to_vec()).unwrap();
    let renewed = LeaseRecord::decode(text.as_bytes()).unwrap();
    let renewed = LeaseRecord {
        renewed: renewed.renewed + Duration::from_secs(61),
        ..renewed
    };
    let arrives = store.put_small(&key, renewed.encode().into(), Precondition::None);
    arrives.await.unwrap();
    assert_lost(
        late.put(3).await,
        "somebody else may have taken it meanwhile",
    );
    assert_eq!(stored(&store).await, [name(1), name(2)]);
}

/// It is stopped after it has found that nobody ever had the lease.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_who_was_stopped_after_the_first_look_writes_over_nobody() {
    let store = odd(0, false);
    let (stopped, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    stopped.claim().await.unwrap();
    heir.claim().await.unwrap();
    heir.put(1).await.unwrap();
    pass(&[&stopped, &heir], 10);
    assert_lost(stopped.put(2).await, "process 22");
    heir.put(3).await.unwrap();
    assert_eq!(stored(&store).await, [name(1), name(3)]);
}

/// The first record of a process is held up on its way, and comes when somebody else has the lease, and has written.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_first_record_that_was_given_up_gives_no_lease_when_it_arrives()
 {
    let store = odd(1, false);
    let (late, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    late.claim().await.unwrap();
    late.put(1).await.unwrap_err();
    let key = SmallKey::lease();
    let held_up = store.get_small(&key).await.unwrap().unwrap().content;
    store.delete_small(&key).await.unwrap();
    heir.claim().await.unwrap();
    heir.put(2).await.unwrap();
    pass(&[&late, &heir], 50);
    let arrives = store.put_small(&key, held_up, Precondition::None);
    arrives.await.unwrap();
    let seen = late.claim().await.unwrap_err();
    assert!(matches!(seen, Error::LeaseHeld { .. }), "{seen}");
    let nobody_knows_whom = "whoever may have taken its lease from this process";
    assert!(seen.to_string().contains(nobody_knows_whom), "{seen}");
    assert_lost(late.put(3).await, "not ours");
    // The other one hears of it at its next renewal, and both wait.
    pass(&[&late, &heir], 20);
    assert_lost(heir.put(4).await, "process 11");
    assert_eq!(stored(&store).await, [name(2)]);
    pass(&[&late, &heir], 126);
    let taken = late.claim().await.unwrap();
    assert!(matches!(taken, Taken::Displacing(_)), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_an_answer_that_is_lost_costs_no_wait() {
    let store = odd(1, false);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap_err();
    pass(&[&writer], 4);
    let taken = writer.claim().await.unwrap();
    assert!(matches!(taken, Taken::Again(_)), "{taken:?}");
    writer.put(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_restart_goes_on_at_once_with_the_lease_that_is_known() {
    let store = odd(0, false);
    let before = Writer::new(&store, "11");
    before.claim().await.unwrap();
    assert_eq!(known(&before), None, "nothing was stored");
    before.put(1).await.unwrap();
    pass(&[&before], 61);
    before.put(2).await.unwrap();
    let after = before.restarted(&store, known(&before));
    let taken = after.claim().await.unwrap();
    assert!(matches!(taken, Taken::Again(_)), "{taken:?}");
    after.put(3).await.unwrap();
    after.lease.release().await.unwrap();
    let last = after.restarted(&store, known(&after));
    let taken = last.claim().await.unwrap();
    assert!(matches!(taken, Taken::Again(_)), "{taken:?}");
}

/// A record is held up until the process has ended, and comes when somebody else has the lease, and has written.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_restart_waits_where_a_record_came_that_is_not_known() {
    for let_go in [false, true] {
        let store = odd(0, false);
        let (before, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
        before.claim().await.unwrap();
        before.put(1).await.unwrap();
        assert!(heir.claim().await.is_err());
        let known = known(&before);
        pass(&[&before], 61);
        match let_go {
            true => before.lease.release().await.unwrap(),
            false => before.put(2).await.unwrap(),
        }
        let key = SmallKey::lease();
        let held_up = store.get_small(&key).await.unwrap().unwrap().content;
        pass(&[&before], 1_000);
        pass(&[&heir], 1_061);
        heir.claim().await.unwrap();
        heir.put(3).await.unwrap();
        store
            .put_small(&key, held_up, Precondition::None)
            .await
            .unwrap();

        let after = before.restarted(&store, known);
        let seen = after.claim().await.unwrap_err();
        assert!(matches!(seen, Error::LeaseHeld { .. }), "{let_go}: {seen}");
        assert_lost(after.put(4).await, "not ours");
        pass(&[&after, &heir], 61);
        assert_lost(heir.put(4).await, "process 11");
        assert!(
            after.claim().await.is_err(),
            "although it was to end long ago"
        );
        pass(&[&after], 65);
        let taken = after.claim().await.unwrap();
        assert!(matches!(taken, Taken::Displacing(_)), "{taken:?}");
        after.put(5).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_who_looks_again_at_its_own_lease_goes_on() {
    let store = odd(0, false);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    for let_go in [false, true] {
        if let_go {
            writer.lease.release().await.unwrap();
        }
        pass(&[&writer], 1_000);
        let taken = writer.claim().await.unwrap();
        assert!(matches!(taken, Taken::Again(_)), "{let_go}: {taken:?}");
        writer.put(2 + u64::from(let_go)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_write_is_tried_again_at_once_after_a_lost_answer() {
    let store = odd(1, false);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap_err();
    writer.put(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_renewal_that_failed_may_still_arrive_after_letting_go() {
    let odd = Odd::new(false);
    let store = Arc::new(CountingClient::new(odd.clone()));
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.claim().await.unwrap();
    first.put(1).await.unwrap();
    pass(&[&first], 61);
    odd.lose_answers(1);
    first.put(2).await.unwrap_err();
    first.put(2).await.unwrap();
    first.lease.release().await.unwrap();
    let taken = second.claim().await.unwrap();
    assert!(matches!(taken, Taken::FromAnother(_)), "{taken:?}");
}

/// What is stored is all there before the answer to a renewal that was sent meanwhile.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_renewal_that_nobody_waited_for_costs_no_wait_later() {
    let store = odd(0, false);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    let clock = Arc::clone(&writer.clock);
    let body = stream::once(async move {
        clock.advance(Duration::from_secs(61));
        // The renewal is due, is sent, and arrives.
        tokio::time::sleep(LASTS / 20).await;
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        Ok("content".into())
    });
    writer.put_body(2, body.boxed()).await.unwrap();
    pass(&[&writer], 1_000);
    writer.put(3).await.unwrap();
}

/// It has little of its lease left when it renews it, and is stopped until the lease has ended.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_a_renewal_at_the_last_moment_takes_the_lease_from_nobody() {
    let store = odd(0, false);
    let (late, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    late.claim().await.unwrap();
    late.put(1).await.unwrap();
    assert!(heir.claim().await.is_err());
    pass(&[&late, &heir], 119);
    let mut renewal = Box::pin(late.put(2));
    let mut context = Context::from_waker(Waker::noop());
    assert!(renewal.as_mut().poll(&mut context).is_pending());
    pass(&[&late, &heir], 8);
    heir.claim().await.unwrap();
    heir.put(3).await.unwrap();
    pass(&[&late, &heir], 15);
    assert_lost(renewal.await, "somebody else may have taken it meanwhile");
    assert_eq!(stored(&store).await, [name(1), name(3)]);
}

/// It is stopped while it lets go, until somebody else has the lease, and has written.
#[tokio::test(start_paused = true)]
async fn in_a_store_without_conditions_who_let_go_too_late_is_not_known_to_have_been_the_last() {
    let store = odd(0, false);
    let (before, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    before.claim().await.unwrap();
    before.put(1).await.unwrap();
    assert!(heir.claim().await.is_err());
    pass(&[&before, &heir], 119);
    let mut end = Box::pin(before.lease.release());
    let mut context = Context::from_waker(Waker::noop());
    assert!(end.as_mut().poll(&mut context).is_pending());
    pass(&[&before, &heir], 8);
    heir.claim().await.unwrap();
    heir.put(2).await.unwrap();
    end.await.unwrap();
    let after = before.restarted(&store, known(&before));
    let seen = after.claim().await.unwrap_err();
    assert!(matches!(seen, Error::LeaseHeld { .. }), "{seen}");
}
