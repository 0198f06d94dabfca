//! Whether this database may go on with what a replica has, and from which transaction on.
//!
//! The lease says who wrote there last. Whoever has that owner's local state, or is the database at the
//! same path of the same machine, goes on as it always did. Everybody else has to prove to be a
//! continuation: the replica's newest transaction was captured here, or the database is what
//! it was after that transaction, page for page. What cannot be proven is another history, which would be
//! buried under ours; that takes a word of the operator.

use std::{sync::Arc, time::SystemTime};

use evertide_ltx::Txid;
use evertide_storage::{
    Error as StoreError, Identity, LeaseRecord, LtxObject, Owner, ReplicaClient, Taken, TxidRange,
};

use super::{Replica, body::read_tail, plan::Remote};
use crate::{
    Error, VerifyOptions,
    capture::YEAR_2020,
    database::{Captured, Command},
    runtime::blocking,
    verify::{Content, Record, recorded_content, verify_here},
};

const EPOCH: u64 = TxidRange::EPOCH;
/// In 2156. There are some after it that nobody begins with, so that transactions do not run out.
const LAST_EPOCH: u64 = (1 << 32) - (1 << 16);
/// What reaches further was not counted by anybody, and nobody may go on from there.
const LAST_TXID: Txid = Txid::new(u64::MAX - 256 * EPOCH);

/// What may follow a history that is not known to be ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Succession {
    /// Only what is proven to go on from there.
    Proven,
    /// Anything: the operator said so.
    Forced,
}

/// Makes sure that there are transactions after all of these files.
pub(super) fn check_room<'a>(
    objects: impl IntoIterator<Item = &'a LtxObject>,
    client: &dyn ReplicaClient,
    replica: &str,
) -> Result<(), Error> {
    let mut objects = objects.into_iter();
    match objects.find(|object| object.name.max > LAST_TXID) {
        Some(object) => Err(no_room(object, client, replica)),
        None => Ok(()),
    }
}

fn no_room(after: &LtxObject, client: &dyn ReplicaClient, replica: &str) -> Error {
    Error::NoTransactionsLeft {
        name: replica.to_owned(),
        location: client.location(),
        file: format!("{} of level {}", after.name, after.level),
    }
}

/// What the lease says about a replica that it would be taken of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// It is ours to go on with.
    Rightful,
    /// It has to be proven that we go on from there.
    ToBeProven,
}

/// Of a replica whose newest transaction this is. Where the store is `blind` what the lease says may have come late.
fn judge(taken: &Taken, us: &Owner, newest: Txid, blind: bool) -> Claim {
    match taken {
        Taken::New | Taken::Again(_) => Claim::Rightful,
        // Nobody has stored anything since it was taken.
        Taken::Displacing(last) if last.range.is_some_and(|range| range.found == newest) => {
            Claim::Rightful
        }
        // Local state is a cache: who lost it, or has another one, is the same database there.
        Taken::Released(last) | Taken::FromAnother(last)
            if last.owner.home == us.home && !(blind && is_of_another(newest, last)) =>
        {
            Claim::Rightful
        }
        Taken::Released(_) | Taken::FromAnother(_) | Taken::Displacing(_) => Claim::ToBeProven,
    }
}

/// Whether the newest transaction of a replica was stored by somebody else than this owner of the lease.
fn is_of_another(newest: Txid, last: &LeaseRecord) -> bool {
    let epoch = TxidRange::epoch;
    last.range
        .is_some_and(|range| newest != range.found && epoch(newest) != epoch(range.begins))
}

/// Where to go on. Something of the owner before may still arrive, unless it let go in order: a file
/// that continues the newest one, or a snapshot of a later transaction. It is the end of that owner's history
/// then, and harmless as long as nothing of ours continues it or is merged with it. So ours begins with a
/// snapshot, above every transaction that the other one can have used.
///
/// That one may have begun in the same way, and have stored nothing yet; its lease says where it begins. Where it is
/// `unsure` that there is no other one, of whom nobody knows, it is the same: the first transaction tells the time, and
/// whoever begins later begins above, with transactions of its own.
fn begin(taken: &Taken, remote: Remote, now: SystemTime, unsure: bool) -> Remote {
    let newest = remote.txid().get();
    let apart = |last: Option<&LeaseRecord>| {
        let theirs = last.and_then(|last| last.range);
        let theirs = theirs.map_or(0, |range| TxidRange::epoch(range.begins).saturating_add(1));
        let epoch = epoch_of(now).max(theirs).min(LAST_EPOCH);
        let before = (epoch * EPOCH).saturating_sub(1);
        Remote::Other(Txid::new(before.max(newest | (EPOCH - 1))))
    };
    match (taken, remote) {
        (Taken::FromAnother(last) | Taken::Displacing(last), _) => apart(Some(last)),
        // It was to be stored above what was found then, and of whoever that was something may arrive all the same.
        (Taken::Again(last), _) if let Some(range) = owed(last, remote) => {
            Remote::Other(range.begins.previous().max(remote.txid()))
        }
        (Taken::Released(last), _) if owed(last, remote).is_some() => apart(Some(last)),
        // It begins with a snapshot anyway.
        (_, Remote::Other(newest)) if unsure && newest > Txid::ZERO => apart(taken.record()),
        _ => remote,
    }
}

/// Where the owner of a lease was to begin with a snapshot that the replica does not have.
fn owed(last: &LeaseRecord, remote: Remote) -> Option<TxidRange> {
    last.range
        .filter(|range| range.owes_its_first(remote.txid()))
}

/// Seconds since 2020, and 0 where there are too few or too many.
fn epoch_of(now: SystemTime) -> u64 {
    let since_1970 = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let since_2020 = since_1970.saturating_sub(YEAR_2020).as_secs();
    if since_2020 < LAST_EPOCH {
        since_2020
    } else {
        0
    }
}

impl Replica {
    /// Lets the next write take the lease, if this database may go on with the replica; from where.
    pub(super) async fn inherit(
        &mut self,
        taken: Taken,
        remote: Remote,
        newest: Option<&LtxObject>,
    ) -> Result<Remote, Error> {
        let blind = self.doubt.is_blind();
        let claim = judge(&taken, self.context.lease.owner(), remote.txid(), blind);
        if claim == Claim::ToBeProven
            && let Some(newest) = newest
            && let Some(last) = taken.record()
            && !matches!(remote, Remote::Ours(_))
            && !self.is_newest_state(newest).await?
        {
            self.bury(last)?;
        }
        let theirs = taken.record().map(|last| last.lineage);
        let new = theirs.unwrap_or_else(Identity::random);
        let identity = Arc::clone(&self.context.identity);
        let disk = Arc::clone(&self.context.disk);
        let lineage = blocking(move || identity.lineage_or(&*disk, new)).await;
        let lineage = lineage.map_err(|source| Error::Io {
            path: self.database(),
            action: "note the lineage of",
            source,
        })?;
        let unsure = blind || self.doubt.is_unresolved();
        let begun = begin(&taken, remote, self.context.clock.now(), unsure);
        if let Some(newest) = newest
            && begun.txid() >= LAST_TXID
        {
            let (client, name) = (&*self.context.client, &self.context.options.name);
            return Err(no_room(newest, client, name));
        }
        let range = TxidRange {
            found: remote.txid(),
            begins: Txid::new(begun.txid().get().saturating_add(1)),
        };
        self.context.lease.claim(lineage, &taken, range);
        Ok(begun)
    }

    /// The replica has another history: an error, unless the operator wants ours to follow it.
    fn bury(&self, last: &LeaseRecord) -> Result<(), Error> {
        let (name, holder) = (self.context.options.name.clone(), last.to_string());
        let location = self.context.client.location();
        if self.context.succession == Succession::Forced {
            tracing::warn!(
                database = %self.database().display(), replica = name, before = holder,
                "taking over a replica with another history, as asked for; starting over with a \
                 snapshot above it"
            );
            return Ok(());
        }
        Err(Error::OtherHistory {
            name,
            location,
            holder,
            fork: self.context.identity.lineage() == Some(last.lineage),
        })
    }

    /// Whether the database is, or was when capture began, what it was after the newest transaction of
    /// the replica.
    async fn is_newest_state(&mut self, newest: &LtxObject) -> Result<bool, Error> {
        let Some(theirs) = self.newest_content(newest).await? else {
            return Ok(false);
        };
        loop {
            let Captured { begun, record, .. } = self.context.captured.borrow_and_update().clone();
            let now = record.as_ref().map(Record::content);
            // What it was before it wrote there itself is not where it goes on from.
            let begun = begun.filter(|_| !self.wrote);
            if begun.is_some() || now.is_some() {
                return Ok([begun, now].contains(&Some(theirs)));
            }
            if self.context.captured.changed().await.is_err() {
                // The database's task has ended, and this one is about to be cancelled.
                return std::future::pending().await;
            }
        }
    }

    /// Tells the task of the database what was found. Where somebody else wrote last it may have to be
    /// proven what the database was at the start: it is read before more is written to it.
    pub(super) fn looked(&self, taken: &Result<Taken, StoreError>) {
        let us = self.context.lease.owner();
        let wanted = match taken {
            // What is newest is not known yet.
            Ok(taken) => judge(taken, us, Txid::MAX, self.doubt.is_blind()) == Claim::ToBeProven,
            Err(error) => matches!(error, StoreError::LeaseHeld { .. }),
        };
        let known = {
            let captured = self.context.captured.borrow();
            captured.begun.is_some() || captured.record.is_some()
        };
        // That task ends only together with this one.
        if wanted && !known {
            let _ = self.context.commands.send(Command::WantChecksum);
        }
        let _ = self.context.commands.send(Command::Looked);
    }

    /// The newest state of the replica: as it was recorded, or from its files.
    async fn newest_content(&self, newest: &LtxObject) -> Result<Option<Content>, Error> {
        let client = &self.context.client;
        let failed = |source| self.replica_error(source);
        let tail = read_tail(&**client, newest).await.map_err(failed)?;
        if let Some(tail) = tail {
            let recorded = recorded_content(&**client, tail.txid, tail.timestamp_ms).await;
            if let Some(content) = recorded.map_err(failed)? {
                return Ok(Some(content));
            }
        }
        tracing::info!(
            database = %self.database().display(), replica = self.context.options.name,
            "the replica was written elsewhere; reading it to see whether this database is what it has"
        );
        let mut options = VerifyOptions::new(Arc::clone(client));
        options.temporary = self.context.captured.borrow().dir.clone();
        let report = verify_here(options).await;
        let report = report.map_err(|source| Error::Unproven {
            name: self.context.options.name.clone(),
            source: Box::new(source),
        })?;
        Ok(Content::of(&report).filter(|_| report.txid == newest.name.max))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn owner(id: Identity, home: u64) -> Owner {
        Owner {
            id,
            boot: 1,
            home,
            host: "db1".to_owned(),
            process: "4711 (evertide)".to_owned(),
        }
    }

    fn record(owner: Owner) -> LeaseRecord {
        let lineage = Identity::random();
        LeaseRecord::new(
            lineage,
            owner,
            SystemTime::UNIX_EPOCH,
            Duration::from_secs(120),
        )
    }

    /// Its upload failed, or its process died before it.
    #[test]
    fn a_snapshot_that_was_to_be_stored_above_is_owed_until_it_is_there() {
        let us = owner(Identity::random(), 1);
        let begins = 5 * EPOCH;
        let last = ranged(us, 7, begins);
        for unsure in [false, true] {
            for found in [0, 7, begins - 1] {
                for of in [Remote::Ours, Remote::Other] {
                    let remote = of(Txid::new(found));
                    let again = begin(&Taken::Again(last.clone()), remote, at(0), unsure);
                    assert_eq!(again, Remote::Other(Txid::new(begins - 1)), "{found:x}");
                    let next = begin(&Taken::Released(last.clone()), remote, at(0), unsure);
                    let first = next.txid().next().get();
                    assert!(first > begins && first.is_multiple_of(EPOCH), "{first:x}");
                }
            }
            let there = Remote::Ours(Txid::new(begins));
            for taken in [Taken::Again(last.clone()), Taken::Released(last.clone())] {
                assert_eq!(begin(&taken, there, at(0), unsure), there);
            }
        }
    }

    /// Found a replica with this newest transaction.
    fn ranged(owner: Owner, found: u64, begins: u64) -> LeaseRecord {
        let mut record = record(owner);
        record.range = Some(TxidRange {
            found: Txid::new(found),
            begins: Txid::new(begins),
        });
        record
    }

    #[test]
    fn the_owner_and_whoever_is_in_its_place_goes_on_and_everybody_else_has_to_prove_it() {
        let us = owner(Identity::random(), 1);
        let same_place = record(owner(Identity::random(), 1));
        let elsewhere = record(owner(Identity::random(), 2));
        let cases = [
            (Taken::New, Claim::Rightful),
            (Taken::Again(record(us.clone())), Claim::Rightful),
            (Taken::Released(same_place.clone()), Claim::Rightful),
            (Taken::FromAnother(same_place), Claim::Rightful),
            (Taken::Released(elsewhere.clone()), Claim::ToBeProven),
            (Taken::FromAnother(elsewhere), Claim::ToBeProven),
            (Taken::Displacing(record(us.clone())), Claim::ToBeProven),
            (
                Taken::Displacing(ranged(us.clone(), 6, 8)),
                Claim::ToBeProven,
            ),
            (Taken::Displacing(ranged(us.clone(), 7, 8)), Claim::Rightful),
        ];
        for (taken, expected) in cases {
            for blind in [false, true] {
                let judged = judge(&taken, &us, Txid::new(7), blind);
                assert_eq!(judged, expected, "{taken:?}");
            }
        }
    }

    /// What the lease says is of before, and came late.
    #[test]
    fn whoever_is_in_the_place_of_one_that_did_not_store_what_is_newest_has_to_prove_it() {
        let us = owner(Identity::random(), 1);
        let before = |found, begins| ranged(owner(Identity::random(), 1), found, begins);
        for (newest, found, begins, expected) in [
            (7, 7, EPOCH, Claim::Rightful), // it has stored nothing
            (9, 7, 8, Claim::Rightful),
            (EPOCH + 9, 7, EPOCH, Claim::Rightful),
            (9, 7, EPOCH, Claim::ToBeProven),
            (2 * EPOCH + 9, 7, EPOCH, Claim::ToBeProven),
        ] {
            let last = before(found, begins);
            for taken in [Taken::Released(last.clone()), Taken::FromAnother(last)] {
                let judged = |blind| judge(&taken, &us, Txid::new(newest), blind);
                assert_eq!(judged(true), expected, "{newest:x} of {taken:?}");
                assert_eq!(judged(false), Claim::Rightful, "the store saw to that");
            }
        }
    }

    /// A moment of 2026.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + seconds)
    }

    #[test]
    fn who_goes_on_in_order_goes_on_where_the_replica_ends() {
        let other = record(owner(Identity::random(), 2));
        let [ours, theirs] = [Remote::Ours, Remote::Other].map(|of| of(Txid::new(0x1_0000_0007)));
        for taken in [
            Taken::New,
            Taken::Again(other.clone()),
            Taken::Released(other.clone()),
        ] {
            assert_eq!(begin(&taken, ours, at(0), false), ours, "{taken:?}");
            assert_eq!(begin(&taken, theirs, at(0), false), theirs, "{taken:?}");
            assert_eq!(begin(&taken, ours, at(0), true), ours, "{taken:?}");
            let empty = Remote::Other(Txid::ZERO);
            assert_eq!(begin(&taken, empty, at(0), true), empty, "{taken:?}");
            // There may be somebody else of whom nobody knows.
            let apart = begin(&taken, theirs, at(0), true);
            assert!(
                apart.txid() > theirs.txid() && apart.txid().next().get().is_multiple_of(EPOCH)
            );
        }
    }

    #[test]
    fn a_new_owner_begins_above_whatever_the_one_before_may_still_store() {
        let them = owner(Identity::random(), 2);
        for blind in [false, true] {
            for txid in [
                0,
                7,
                0x1_0000_0007,
                0x0cf0_0000_0000_0000,
                0x7000_0000_0000_0000,
            ] {
                for of in [Remote::Ours, Remote::Other] {
                    let remote = of(Txid::new(txid));
                    // What it began with after what it found, and has not stored.
                    let first = begin(
                        &Taken::FromAnother(record(them.clone())),
                        remote,
                        at(0),
                        blind,
                    );
                    let first = first.txid().next().get();
                    assert!(first > txid && first.is_multiple_of(EPOCH), "{first:x}");
                    let last = ranged(them.clone(), txid, first);
                    for seconds in [0, 1, 300] {
                        for taken in [
                            Taken::FromAnother(last.clone()),
                            Taken::Displacing(last.clone()),
                        ] {
                            let ours = begin(&taken, remote, at(seconds), blind)
                                .txid()
                                .next()
                                .get();
                            assert!(
                                ours >= first + EPOCH && ours.is_multiple_of(EPOCH),
                                "{ours:x} after {first:x}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Of whom the one who comes later does not know.
    #[test]
    fn of_two_new_owners_the_later_one_begins_above() {
        let another = Taken::FromAnother(record(owner(Identity::random(), 2)));
        for txid in [0, 7, 0x1_0000_0007] {
            let remote = Remote::Other(Txid::new(txid));
            let first = |seconds| begin(&another, remote, at(seconds), true).txid();
            assert!(
                first(1) > first(0) && first(100) > first(1),
                "after {txid:x}"
            );
        }
    }

    #[test]
    fn a_clock_that_is_wrong_costs_few_transactions() {
        let them = owner(Identity::random(), 2);
        let another = Taken::FromAnother(record(them.clone()));
        let above = Remote::Other(Txid::new(0x1_ffff_ffff));
        let remote = Remote::Other(Txid::new(0x1_0000_0007));
        for seconds in [
            0,
            YEAR_2020.as_secs(),
            YEAR_2020.as_secs() + LAST_EPOCH,
            1 << 40,
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(begin(&another, remote, now, true), above, "{seconds}");
        }
        // Whatever somebody else's lease says.
        let forged = Taken::FromAnother(ranged(them, 0, u64::MAX));
        let begun = begin(&forged, remote, at(0), true).txid().next().get();
        assert_eq!(begun, LAST_EPOCH * EPOCH);
    }
}
