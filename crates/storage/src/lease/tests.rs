//! Leases of a replica in memory, with clocks that are turned by hand.

mod blind;
mod odd;
mod passed_on;
mod renewal;

use std::{
    future::Future,
    io,
    task::{Context, Poll, Waker},
};

use evertide_ltx::{Level, LtxName, Txid};
use futures_util::{FutureExt, StreamExt, future::join, stream};

use self::odd::{Odd, odd};
use super::*;
use crate::{ByteStream, CountingClient, ManualClock, MemoryClient, bytes_stream};

const RANGE: TxidRange = TxidRange {
    found: Txid::ZERO,
    begins: Txid::FIRST,
};
const LASTS: Duration = Duration::from_secs(120);

/// A writer with a clock of its own.
struct Writer {
    clock: Arc<ManualClock>,
    lease: Arc<Lease>,
    client: LeasedClient,
    lineage: Identity,
}

impl Writer {
    fn new(store: &Arc<CountingClient>, process: &str) -> Self {
        Self::with_owner(store, process, Identity::random())
    }

    /// The process after this one: as much later, and with what this one has noted, if anything.
    fn restarted(&self, store: &Arc<CountingClient>, known: Option<u64>) -> Self {
        let next = Self::with_known(store, "33", self.lease.owner().id, known);
        next.clock.advance(self.clock.uptime());
        next
    }

    fn with_owner(store: &Arc<CountingClient>, process: &str, id: Identity) -> Self {
        Self::with_known(store, process, id, None)
    }

    fn with_known(
        store: &Arc<CountingClient>,
        process: &str,
        id: Identity,
        known: Option<u64>,
    ) -> Self {
        Self::over_with(store.clone(), process, id, known)
    }

    fn over(store: Arc<dyn ReplicaClient>) -> Self {
        Self::over_with(store, "11", Identity::random(), None)
    }

    fn over_with(
        store: Arc<dyn ReplicaClient>,
        process: &str,
        id: Identity,
        known: Option<u64>,
    ) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = Arc::new(ManualClock::new(now));
        let owner = Owner {
            id,
            boot: 1,
            home: 1,
            host: "db1".to_owned(),
            process: process.to_owned(),
        };
        let lease = Lease::new(Arc::clone(&store), clock.clone(), owner, LASTS);
        let lease = Arc::new(lease.knowing(known));
        let client = LeasedClient::new(store, Arc::clone(&lease));
        let lineage = Identity::random();
        Self {
            clock,
            lease,
            client,
            lineage,
        }
    }

    /// Looks, and may write from now on.
    async fn claim(&self) -> Result<Taken, Error> {
        let taken = self.lease.look().await?;
        self.lease.claim(self.lineage, &taken, RANGE);
        Ok(taken)
    }

    async fn put(&self, txid: u64) -> Result<(), Error> {
        self.put_body(txid, bytes_stream("content".into())).await
    }

    async fn put_body(&self, txid: u64, body: ByteStream) -> Result<(), Error> {
        let put = self
            .client
            .put(Level::L0, name(txid), SystemTime::UNIX_EPOCH, body);
        put.await.map(drop)
    }
}

fn name(txid: u64) -> LtxName {
    LtxName::new(Txid::new(txid), Txid::new(txid))
}

fn store() -> Arc<CountingClient> {
    Arc::new(CountingClient::new(Arc::new(MemoryClient::new("replica"))))
}

async fn stored(store: &CountingClient) -> Vec<LtxName> {
    let listed = store.list(Level::L0, None).await.unwrap();
    listed.into_iter().map(|object| object.name).collect()
}

fn pass(writers: &[&Writer], seconds: u64) {
    for writer in writers {
        writer.clock.advance(Duration::from_secs(seconds));
    }
}

#[track_caller]
fn assert_lost(result: Result<(), Error>, said: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { .. }), "{error:?}");
    assert!(error.to_string().contains(said), "{error}");
}

#[tokio::test]
async fn a_look_that_is_out_of_date_gives_no_claim_to_what_was_taken_since() {
    let store = store();
    let [first, second] = ["11", "22"].map(|process| Writer::new(&store, process));
    first.claim().await.unwrap();
    first.put(1).await.unwrap();
    // It is stopped between its look and what follows, for longer than its lease lasts.
    first.clock.advance(LASTS);
    let looked = first.lease.look().await.unwrap();
    assert!(second.claim().await.is_err());
    second.clock.advance(2 * LASTS);
    second.claim().await.unwrap();
    second.put(2).await.unwrap();
    // Another task of it hears of that first.
    assert!(first.put(3).await.is_err());
    first.lease.claim(first.lineage, &looked, RANGE);
    let error = first.put(3).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { .. }), "{error}");
    let claimed = first.claim().await;
    assert!(
        matches!(claimed, Err(Error::LeaseHeld { .. })),
        "{claimed:?}"
    );
}

#[tokio::test]
async fn a_second_writer_is_told_who_the_first_one_is_and_what_to_do() {
    let store = store();
    let (first, second) = (
        Writer::new(&store, "11 (app)"),
        Writer::new(&store, "22 (app)"),
    );
    assert_eq!(first.claim().await.unwrap(), Taken::New);
    first.put(1).await.unwrap();
    let error = second.claim().await.unwrap_err();
    let text = error.to_string();
    for said in [
        "process 11 (app) on db1, since 2023-11-14T22:13:20Z",
        "Stop",
        "2m",
    ] {
        assert!(text.contains(said), "{text}");
    }
    assert_lost(second.put(2).await, "process 11 (app)");
    assert_eq!(stored(&store).await, [name(1)]);
}

#[tokio::test]
async fn of_two_who_looked_at_the_same_time_the_second_to_write_is_refused() {
    let store = store();
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.claim().await.unwrap();
    second.claim().await.unwrap();
    first.put(1).await.unwrap();
    assert_lost(second.put(2).await, "process 11");
    assert_lost(second.put(2).await, "process 11");
    first.put(3).await.unwrap();
    assert_eq!(stored(&store).await, [name(1), name(3)]);
}

#[tokio::test]
async fn who_writes_all_the_time_renews_once_a_minute_and_who_writes_nothing_never() {
    let store = store();
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    for second in 0..600 {
        writer.put(second + 1).await.unwrap();
        pass(&[&writer], 1);
    }
    let requests = store.requests();
    assert_eq!((requests.get, requests.put), (1, 600 + 10));
    pass(&[&writer], 3_600);
    assert_eq!(store.requests(), requests, "idle");
    writer.put(601).await.unwrap();
    let after = store.requests();
    assert_eq!(
        (after.get, after.put),
        (1, requests.put + 2),
        "a lease that ended and that nobody took is taken with one request"
    );
}

#[tokio::test]
async fn after_a_crash_another_one_takes_over_when_the_lease_has_ended() {
    let store = store();
    let (dead, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    dead.claim().await.unwrap();
    dead.put(1).await.unwrap();
    heir.clock.set(SystemTime::UNIX_EPOCH); // its clock is wrong by decades
    for _ in 0..5 {
        assert!(heir.claim().await.is_err());
        pass(&[&heir], 25);
    }
    let Error::LeaseHeld { wait, .. } = heir.claim().await.unwrap_err() else {
        panic!("something else");
    };
    assert_eq!(wait, Duration::from_secs(1));
    heir.clock.advance(wait);
    let taken = heir.claim().await.unwrap();
    assert!(matches!(taken, Taken::FromAnother(_)), "{taken:?}");
    heir.put(2).await.unwrap();
    assert_eq!(stored(&store).await, [name(1), name(2)]);
}

#[tokio::test]
async fn a_lease_ends_for_its_owner_as_for_everybody_else_however_long_it_is_to_last() {
    let day = 24 * 3_600;
    for lasts in [Duration::from_secs(3 * day), Duration::MAX] {
        let store = store();
        let (writer, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
        let (owner, clock) = (writer.lease.owner().clone(), writer.clock.clone());
        let lease = Arc::new(Lease::new(store.clone(), clock, owner, lasts));
        let patient = Writer {
            client: LeasedClient::new(store.clone(), Arc::clone(&lease)),
            lease,
            ..writer
        };
        patient.claim().await.unwrap();
        patient.put(1).await.unwrap();
        let error = heir.claim().await.unwrap_err();
        assert!(matches!(error, Error::LeaseHeld { .. }), "{error}");
        pass(&[&patient, &heir], day + 301);
        heir.claim().await.unwrap();
        heir.put(2).await.unwrap();
        assert_lost(patient.put(3).await, "taken meanwhile");
        assert_eq!(stored(&store).await, [name(1), name(2)]);
    }
}

#[tokio::test]
async fn a_writer_that_renews_is_never_taken_over_however_long_one_watches() {
    let store = store();
    let (busy, other) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    busy.claim().await.unwrap();
    for txid in 1..200 {
        busy.put(txid).await.unwrap();
        assert!(other.claim().await.is_err(), "{txid}");
        pass(&[&busy, &other], 59);
    }
}

#[tokio::test]
async fn who_wakes_after_its_lease_was_taken_writes_nothing_more() {
    let store = store();
    let (sleeper, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    sleeper.claim().await.unwrap();
    sleeper.put(1).await.unwrap();
    assert!(heir.claim().await.is_err());
    pass(&[&sleeper, &heir], 130);
    heir.claim().await.unwrap();
    heir.put(2).await.unwrap();
    assert_lost(sleeper.put(3).await, "process 22");
    assert_lost(
        sleeper.client.delete(Level::L0, &[name(1)]).await,
        "process 22",
    );
    let key = SmallKey::new("checksums").unwrap();
    let small = sleeper
        .client
        .put_small(&key, "x".into(), Precondition::None);
    assert_lost(small.await.map(drop), "process 22");
    assert_lost(sleeper.client.delete_small(&key).await, "process 22");
    assert_eq!(stored(&store).await, [name(1), name(2)]);
    // Nor when it has looked again, before it may.
    assert!(sleeper.lease.look().await.is_err());
    assert_lost(sleeper.put(3).await, "process 22");
}

#[tokio::test]
async fn an_object_whose_lease_ends_while_it_is_sent_never_becomes_visible() {
    let store = store();
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    writer.put(1).await.unwrap();
    let clock = Arc::clone(&writer.clock);
    let slow = stream::iter(["a", "b", "c"]).map(move |chunk| {
        clock.advance(Duration::from_secs(31));
        Ok(chunk.into())
    });
    assert_lost(writer.put_body(2, slow.boxed()).await, "in time");
    assert_eq!(stored(&store).await, [name(1)]);
    writer.put(3).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_a_large_object_is_sent() {
    let store = store();
    let (writer, other) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    writer.claim().await.unwrap();
    let clock = Arc::clone(&writer.clock);
    let slow = stream::iter(0..100).then(move |_| {
        let clock = Arc::clone(&clock);
        async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            clock.advance(Duration::from_secs(10));
            Ok("chunk".into())
        }
    });
    writer.put_body(1, slow.boxed()).await.unwrap();
    let renewals = store.requests().put - 1;
    assert!((10..20).contains(&renewals), "{renewals}");
    assert!(other.claim().await.is_err());
}

#[tokio::test]
async fn a_lease_that_was_let_go_is_taken_at_once() {
    let store = store();
    let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
    first.lease.release().await.unwrap();
    assert_eq!(
        store.requests().total(),
        0,
        "there was nothing to let go of"
    );
    first.claim().await.unwrap();
    first.put(1).await.unwrap();
    first.lease.release().await.unwrap();
    assert_lost(first.put(2).await, "not ours");
    let taken = second.claim().await.unwrap();
    assert!(matches!(taken, Taken::Released(_)), "{taken:?}");
    assert_eq!(taken.record().unwrap().generation, 1);
    second.put(2).await.unwrap();
    let seen = first.lease.look().await.unwrap_err();
    assert!(seen.to_string().contains("process 22"), "{seen}");
    second.lease.release().await.unwrap();
    let taken = first.claim().await.unwrap();
    assert_eq!(taken.record().unwrap().generation, 2);
}

/// What the store has in full when the process ends may still be stored after it has let go.
#[tokio::test]
async fn who_lets_go_while_something_may_still_arrive_says_so() {
    for breaks_off in [false, true] {
        let store = store();
        let (first, second) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
        first.claim().await.unwrap();
        first.put(1).await.unwrap();
        assert!(first.put(1).await.unwrap_err().is_already_exists());
        if breaks_off {
            let endless = first.put_body(2, stream::pending().boxed());
            assert!(endless.now_or_never().is_none());
        } else {
            let fails = stream::once(async { Err(io::Error::other("it cannot be read")) });
            assert!(first.put_body(2, fails.boxed()).await.is_err());
        }
        first.put(3).await.unwrap();
        first.lease.release().await.unwrap();
        let taken = second.claim().await.unwrap();
        assert!(matches!(taken, Taken::FromAnother(_)), "{taken:?}");
    }
}

#[tokio::test]
async fn a_restart_goes_on_at_once_and_what_is_left_of_the_start_before_does_not_let_go() {
    let store = store();
    let id = Identity::random();
    let before = Writer::with_owner(&store, "11", id);
    let after = Writer::with_owner(&store, "22", id);
    before.claim().await.unwrap();
    before.put(1).await.unwrap();
    let taken = after.claim().await.unwrap();
    assert!(matches!(taken, Taken::Again(_)), "{taken:?}");
    after.put(2).await.unwrap();
    before.lease.release().await.unwrap();
    let other = Writer::new(&store, "33");
    let held = other.claim().await.unwrap_err();
    assert!(held.to_string().contains("process 22"), "{held}");
    pass(&[&before], 100);
    assert_lost(before.put(3).await, "not ours");
}

#[tokio::test]
async fn a_lease_of_a_later_version_is_left_alone() {
    let store = store();
    let content = "evertide lease 2\nall is different\n";
    let key = SmallKey::lease();
    let put = store.put_small(&key, content.into(), Precondition::Absent);
    put.await.unwrap();
    let writer = Writer::new(&store, "11");
    let error = writer.claim().await.unwrap_err();
    assert!(matches!(error, Error::BadLease { .. }), "{error}");
    assert_lost(writer.put(1).await, "not ours");
    let found = store.get_small(&key).await.unwrap().unwrap();
    assert_eq!(found.content, content);
}

#[tokio::test]
async fn a_lost_answer_is_not_taken_for_another_writer() {
    let store = odd(2, true);
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    for _ in 0..2 {
        assert!(writer.put(1).await.is_err());
    }
    writer.put(1).await.unwrap();
    assert!(Writer::new(&store, "22").claim().await.is_err());
}

#[tokio::test]
async fn others_know_which_transactions_are_used_before_they_are_stored() {
    let store = store();
    let writer = Writer::new(&store, "11");
    writer.claim().await.unwrap();
    let range = async || {
        let found = store.get_small(&SmallKey::lease()).await.unwrap().unwrap();
        LeaseRecord::decode(&found.content).unwrap().range.unwrap()
    };
    writer.put(1).await.unwrap();
    assert_eq!(range().await, RANGE);
    let version = async || {
        store
            .get_small(&SmallKey::lease())
            .await
            .unwrap()
            .unwrap()
            .version
    };
    let before = version().await;
    writer.put(2).await.unwrap();
    assert_eq!(version().await, before, "nothing is new");
    // Another replica of the database has made it skip some.
    let far = 3 * TxidRange::EPOCH + 5;
    writer.put(far).await.unwrap();
    let begins = Txid::new(far);
    assert_eq!(range().await, TxidRange { begins, ..RANGE });
    let before = version().await;
    writer.put(far + 1).await.unwrap();
    assert_eq!(version().await, before, "and is known");
    // It looks again, and begins above.
    let taken = writer.lease.look().await.unwrap();
    let above = TxidRange {
        found: begins,
        begins: Txid::new(7 * TxidRange::EPOCH),
    };
    writer.lease.claim(writer.lineage, &taken, above);
    writer.put(7 * TxidRange::EPOCH).await.unwrap();
    assert_eq!(range().await, above);
}

fn known(writer: &Writer) -> Option<u64> {
    *writer.lease.known().borrow()
}

#[tokio::test]
async fn where_a_store_sees_to_it_a_restart_needs_to_know_nothing() {
    let store = store();
    let before = Writer::new(&store, "11");
    before.claim().await.unwrap();
    before.put(1).await.unwrap();
    assert_eq!(known(&before), None);
    let after = before.restarted(&store, None);
    let taken = after.claim().await.unwrap();
    assert!(matches!(taken, Taken::Again(_)), "{taken:?}");
}

/// Stopped anywhere in taking the lease and storing an object, for longer than the lease lasts: either
/// the other one has not begun, or nothing is stored. (The store takes no time here; what protects
/// where it does is in the documentation of this module.)
#[tokio::test]
async fn wherever_a_writer_is_stopped_nothing_of_it_is_stored_after_another_has_begun() {
    for steps in 0.. {
        let store = store();
        let (stopped, heir) = (Writer::new(&store, "11"), Writer::new(&store, "22"));
        stopped.claim().await.unwrap();
        stopped.put(1).await.unwrap();
        pass(&[&stopped, &heir], 50);
        assert!(heir.claim().await.is_err());
        let yielding = stream::iter(0..3).then(async |_| {
            tokio::task::yield_now().await;
            Ok("chunk".into())
        });
        let mut put = Box::pin(stopped.put_body(2, yielding.boxed()));
        let mut context = Context::from_waker(Waker::noop());
        let mut done = None;
        for _ in 0..steps {
            match put.as_mut().poll(&mut context) {
                Poll::Ready(result) => done = Some(result),
                Poll::Pending => continue,
            }
            break;
        }
        if let Some(done) = done {
            done.unwrap();
            assert!(steps > 3);
            return;
        }
        pass(&[&stopped, &heir], 200);
        heir.claim().await.unwrap();
        heir.put(3).await.unwrap();
        assert_lost(put.await, "");
        assert_eq!(
            stored(&store).await,
            [name(1), name(3)],
            "after {steps} steps"
        );
    }
}
