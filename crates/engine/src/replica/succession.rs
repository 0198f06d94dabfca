//! Whether this database may go on with what a replica has, and from which transaction on.
//!
//! The lease says who wrote there last. Whoever has that owner's local state, or is the database at the
//! same path of the same machine, goes on as it always did. Everybody else has to prove to be a
//! continuation: the replica's newest transaction was captured here, or the database is what
//! it was after that transaction, page for page. What cannot be proven is another history, which would be
//! buried under ours; that takes a word of the operator.

use std::{sync::Arc, time::SystemTime};

use evertide_ltx::Txid;
use evertide_storage::{Error as StoreError, Identity, LeaseRecord, LtxObject, Owner, Taken};

use super::{Replica, body::read_tail, plan::Remote};
use crate::{
    Error, VerifyOptions,
    database::{Captured, Command},
    runtime::blocking,
    verify::{Content, Record, recorded_content, verify_here},
};

/// Transactions of one holder of the lease, at most. The next one begins at a multiple of it.
const EPOCH: u64 = 1 << 32;
/// 2020-01-01T00:00:00Z, in seconds since 1970.
const YEAR_2020: u64 = 1_577_836_800;

/// What may follow a history that is not known to be ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Succession {
    /// Only what is proven to go on from there.
    Proven,
    /// Anything: the operator said so.
    Forced,
}

/// What the lease says about a replica that it would be taken of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claim {
    /// It is ours to go on with.
    Rightful,
    /// It has to be proven that we go on from there.
    ToBeProven,
}

fn judge(taken: &Taken, us: &Owner) -> Claim {
    match taken {
        Taken::New | Taken::Again(_) => Claim::Rightful,
        // Local state is a cache: who lost it, or has another one, is the same database there.
        Taken::Released(last) | Taken::FromAnother(last) if last.owner.home == us.home => {
            Claim::Rightful
        }
        Taken::Released(_) | Taken::FromAnother(_) | Taken::Displacing(_) => Claim::ToBeProven,
    }
}

/// Where to go on. Something of the owner before may still arrive, unless it let go in order: a file
/// that continues the newest one, or a snapshot of a later transaction. It is the end of that owner's history
/// then, and harmless as long as nothing of ours continues it or is merged with it. So ours begins with a
/// snapshot, above every transaction that the other one can have used.
///
/// The other one may have begun in the same way, and have stored nothing yet. Where the store makes sure that only one
/// has the lease, objects of the same name do no harm: the one that comes later is refused. Elsewhere ours begins at a
/// transaction that tells the time, `apart`, and so above that of whoever began before, whatever its clock says.
fn begin(taken: &Taken, remote: Remote, apart: Option<SystemTime>) -> Remote {
    let newest = remote.txid().get();
    match (taken, apart) {
        (Taken::FromAnother(last) | Taken::Displacing(last), Some(now)) => {
            let epoch = epoch_of(now).max(epoch_of(last.since) + 1);
            let before = epoch.saturating_mul(EPOCH).saturating_sub(1);
            Remote::Other(Txid::new(before.max(newest | (EPOCH - 1))))
        }
        (Taken::FromAnother(_) | Taken::Displacing(_), None) if newest > 0 => {
            Remote::Other(Txid::new(newest | (EPOCH - 1)))
        }
        _ => remote,
    }
}

/// Seconds since 2020, until 2156, and 0 before and after.
fn epoch_of(now: SystemTime) -> u64 {
    let since_1970 = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let since_2020 = since_1970.as_secs().saturating_sub(YEAR_2020);
    u32::try_from(since_2020).unwrap_or_default().into()
}

impl Replica {
    /// Lets the next write take the lease, if this database may go on with the replica; from where.
    pub(super) async fn inherit(
        &mut self,
        taken: Taken,
        remote: Remote,
        newest: Option<&LtxObject>,
    ) -> Result<Remote, Error> {
        let claim = judge(&taken, self.context.lease.owner());
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
        let apart = match self.context.client.capabilities().compare_and_set {
            true => None,
            false => Some(self.context.clock.now()), // not after what the lease will say
        };
        self.context.lease.claim(lineage, &taken);
        Ok(begin(&taken, remote, apart))
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
            Ok(taken) => judge(taken, us) == Claim::ToBeProven,
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
        ];
        for (taken, expected) in cases {
            assert_eq!(judge(&taken, &us), expected, "{taken:?}");
        }
    }

    #[test]
    fn a_new_owner_begins_above_whatever_the_one_before_may_still_store() {
        let other = record(owner(Identity::random(), 2));
        let [ours, theirs] = [Remote::Ours, Remote::Other].map(|of| of(Txid::new(0x1_0000_0007)));
        for taken in [
            Taken::New,
            Taken::Again(other.clone()),
            Taken::Released(other.clone()),
        ] {
            assert_eq!(begin(&taken, ours, None), ours, "{taken:?}");
            assert_eq!(begin(&taken, theirs, None), theirs, "{taken:?}");
        }
        for taken in [Taken::FromAnother(other.clone()), Taken::Displacing(other)] {
            for remote in [ours, theirs] {
                let above = Remote::Other(Txid::new(0x1_ffff_ffff));
                assert_eq!(
                    begin(&taken, remote, None),
                    above,
                    "with a snapshot of 2 * 2^32"
                );
            }
            let empty = Remote::Other(Txid::ZERO);
            assert_eq!(
                begin(&taken, empty, None),
                empty,
                "nobody has stored anything"
            );
        }
    }
    /// The one before may have begun in the same way, and have stored nothing yet.
    #[test]
    fn where_the_lease_cannot_be_relied_on_who_begins_later_begins_above() {
        let another = Taken::FromAnother(record(owner(Identity::random(), 2)));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let in_2026 = 1_795_000_000;
        for txid in [0, 7, 0x1_0000_0007, 0x0cf0_0000_0000_0000] {
            let remote = Remote::Other(Txid::new(txid));
            let first = |seconds| {
                let begun = begin(&another, remote, Some(at(in_2026 + seconds)));
                begun.txid().next().get()
            };
            for seconds in 0..5 {
                assert!(first(seconds) > txid && first(seconds) % EPOCH == 0);
                assert!(first(seconds + 1) > first(seconds), "after {txid:x}");
            }
        }
        // The other one took it a day later than now, by its clock.
        let day = 24 * 60 * 60;
        let mut last = record(owner(Identity::random(), 2));
        last.since = at(in_2026 + day);
        let empty = Remote::Other(Txid::ZERO);
        let theirs = begin(&another, empty, Some(last.since));
        let ours = begin(&Taken::FromAnother(last), empty, Some(at(in_2026)));
        assert!(ours.txid() > theirs.txid(), "{ours:?} after {theirs:?}");
        let released = Taken::Released(record(owner(Identity::random(), 2)));
        let now = Some(at(in_2026));
        assert_eq!(begin(&released, empty, now), empty, "nothing is under way");
    }

    #[test]
    fn a_clock_that_is_wrong_costs_no_transactions() {
        let another = Taken::FromAnother(record(owner(Identity::random(), 2)));
        let above = Remote::Other(Txid::new(0x1_ffff_ffff));
        for seconds in [0, YEAR_2020, YEAR_2020 + (1 << 32), 1 << 40] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let remote = Remote::Other(Txid::new(0x1_0000_0007));
            assert_eq!(begin(&another, remote, Some(now)), above, "{seconds}");
        }
        let last = Remote::Other(Txid::MAX);
        let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000));
        assert_eq!(begin(&another, last, now), last, "nothing is above it");
    }
}
