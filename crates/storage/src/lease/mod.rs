//! Who may write to a replica: one at a time.
//!
//! The lease is a small object of the replica that names its owner and how long it lasts. It is taken
//! before the first write and renewed with writes, in [`LeasedClient`], when less than half of it is
//! left; nobody renews it while nothing is written, so that an idle database makes no request. Whoever
//! finds it unchanged since then takes it again with one request.
//!
//! - It is taken and renewed by replacing exactly what was read ([`Precondition::Unchanged`]): of
//!   several who try one succeeds, and the others are told. Where a store cannot do that
//!   ([`Capabilities::compare_and_set`](crate::Capabilities)), the object is read again some seconds later,
//!   when whoever tried at the same time has written, too, and one knows that the other has it.
//!   Who writes long after the look that came before may have written over somebody else, and waits as
//!   for a stranger's lease ([`Taken::Displacing`]). So does a process that finds a record of the one before it,
//!   unless that is the one which is known to have been stored in time ([`Lease::knowing`]).
//! - Its owner stops writing when a quarter of it is left, measured from before the request that renewed
//!   it, by a clock that goes on while the machine sleeps, and by the time of day. Who waits for it
//!   measures from when it saw it, or adds five minutes to its end (`decide`).
//! - Something may still be on its way when it ends: of a process that is stopped between its last look at
//!   the clock and the write, or of one whose network is slow. What arrives late must do no harm, and
//!   whoever takes a lease that was not let go of has to see to that: [`Taken::FromAnother`].

mod client;
mod decide;
mod record;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use evertide_ltx::Txid;
use tokio::sync::watch;

pub use self::{
    client::LeasedClient,
    record::{Identity, LeaseRecord, LeaseState, NotAnIdentity, Owner, TxidRange},
};
use self::{
    decide::{Renewed, Verdict, decide, margin, renewal},
    state::{Claim, State},
};
use crate::{Clock, Error, Precondition, ReplicaClient, SmallKey, Version};

/// A lease lasts so long at least.
const SHORTEST: Duration = Duration::from_millis(100);
/// How often a renewal is tried whose answer may have been lost.
const TRIES: u32 = 3;
/// How long others may take to write over a lease that is being taken, in a store that cannot prevent it. Who takes longer
/// waits as for a stranger's.
const SETTLING: Duration = Duration::from_secs(5);

/// The lease of one replica, for one writer in this process.
pub struct Lease {
    client: Arc<dyn ReplicaClient>,
    clock: Arc<dyn Clock>,
    owner: Owner,
    session: Identity,
    duration: Duration,
    /// Requests go one at a time.
    requests: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// The seal of the record of ours that was stored last, and in time, in a store without conditions.
    known: watch::Sender<Option<u64>>,
}

/// From whom a free lease would be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Nobody ever had it.
    New,
    /// From the same owner, which had it last: nobody else has written since.
    Again(LeaseRecord),
    /// From another owner, which let go of it in order: all that it wrote has arrived.
    Released(LeaseRecord),
    /// From another owner, whose lease has ended, or that let go without knowing the end of everything:
    /// something of what it was writing may still arrive.
    FromAnother(LeaseRecord),
    /// From the same owner, by whose record that of somebody else may have been replaced, who may have written.
    Displacing(LeaseRecord),
}

impl Taken {
    /// What the lease says.
    pub fn record(&self) -> Option<&LeaseRecord> {
        match self {
            Self::New => None,
            Self::Again(record)
            | Self::Released(record)
            | Self::FromAnother(record)
            | Self::Displacing(record) => Some(record),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("replica", &self.client.location())
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// A lease lasts no longer than a day, whatever it is made with: nobody waits longer for one.
    pub const LONGEST: Duration = decide::LONGEST;

    /// The lease of the replica that this client reaches. Nothing is asked of it yet.
    pub fn new(
        client: Arc<dyn ReplicaClient>,
        clock: Arc<dyn Clock>,
        owner: Owner,
        duration: Duration,
    ) -> Self {
        Self {
            client,
            clock,
            owner,
            session: Identity::random(),
            duration: duration.clamp(SHORTEST, Self::LONGEST),
            requests: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            known: watch::Sender::default(),
        }
    }

    /// With what [`Lease::known`] said in the process before, of the same owner and replica: without it that one's
    /// lease is waited for, where the store has no conditions.
    pub fn knowing(self, known: Option<u64>) -> Self {
        self.known.send_replace(known);
        self
    }

    /// Which record of ours is known to be the last one that was stored in time: for the process after this one. Stays
    /// `None` where the store has conditions, and nobody needs it.
    pub fn known(&self) -> watch::Receiver<Option<u64>> {
        self.known.subscribe()
    }

    /// Whose it is to be.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Reads who has the lease. If it can be taken, it is taken by the first write after [`Lease::claim`].
    ///
    /// # Errors
    ///
    /// [`Error::LeaseHeld`] while somebody else has it, [`Error::BadLease`] where the object cannot be
    /// understood, and those of the store.
    pub async fn look(&self) -> Result<Taken, Error> {
        let _one = self.requests.lock().await;
        let known = self.state().version();
        let last = self.read().await?;
        let (unchanged, displacing) = {
            let mut state = self.state();
            match &last {
                Some(last) if last.session == self.session => {
                    let another = state.version() != known && last.state == LeaseState::Held;
                    if another && self.arrived_late(&state) {
                        state.forget();
                        state.displacing = true;
                    }
                }
                Some(last) if self.is_unknown(last) => {
                    state.forget();
                    state.displacing = true;
                }
                _ => state.forget(),
            }
            let since = state.seen.as_ref().map(|seen| seen.since);
            let unchanged = since.map_or(Duration::ZERO, |since| {
                self.clock.uptime().saturating_sub(since)
            });
            (unchanged, state.displacing)
        };
        let us = (!displacing).then_some(&self.owner);
        match decide(last.as_ref(), us, self.clock.now(), unchanged) {
            Verdict::Free => Ok(self.taken_from(last, displacing)),
            Verdict::Held { wait } => Err(Error::LeaseHeld {
                location: self.client.location(),
                holder: match last {
                    Some(_) if displacing => {
                        "whoever may have taken its lease from this process".to_owned()
                    }
                    last => last.map(|last| last.to_string()).unwrap_or_default(),
                },
                wait,
            }),
        }
    }

    fn taken_from(&self, last: Option<LeaseRecord>, displacing: bool) -> Taken {
        match last {
            None => Taken::New,
            Some(last) if last.owner.id == self.owner.id && displacing => Taken::Displacing(last),
            Some(last) if last.owner.id == self.owner.id => Taken::Again(last),
            Some(last) if last.state == LeaseState::Released => Taken::Released(last),
            Some(last) => Taken::FromAnother(last),
        }
    }

    /// Lets the next write take the lease as [`Lease::look`] found it, for a replica of this history, to write these
    /// transactions. Where it is known by now that somebody else has taken it since, nothing happens, and the write is
    /// refused.
    pub fn claim(&self, lineage: Identity, taken: &Taken, range: TxidRange) {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(claim) = &mut state.claim
            && claim.lineage == lineage
        {
            let outdated = claim.range != range;
            claim.range = range;
            state.outdated |= outdated;
            return;
        }
        let last = state.seen.as_ref().and_then(|seen| seen.record.as_ref());
        let ours = last.is_some_and(|last| last.session == self.session);
        if last != taken.record() && !ours {
            return;
        }
        let generation = match last {
            None => 1,
            Some(last) if last.owner.id == self.owner.id => last.generation,
            Some(last) => last.generation.saturating_add(1),
        };
        state.claim = Some(Claim {
            lineage,
            range,
            generation,
            since: now,
        });
    }

    /// Takes or renews the lease where less than half of it is left: to be called before a write.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] where somebody else has it, or it was not claimed since it was lost: then
    /// nothing may be written before the next [`Lease::look`]. And those of the store.
    pub async fn ensure(&self) -> Result<(), Error> {
        if self.is_fresh() {
            return Ok(());
        }
        let _one = self.requests.lock().await;
        for _ in 0..TRIES {
            if self.is_fresh() {
                return Ok(());
            }
            self.renew().await?;
        }
        self.check()
    }

    /// The same before a transaction is stored: others must know which ones are used.
    async fn ensure_for(&self, txid: Txid) -> Result<(), Error> {
        {
            let mut state = self.state();
            let epoch = TxidRange::epoch;
            if let Some(claim) = &mut state.claim
                && epoch(claim.range.begins) < epoch(txid)
            {
                claim.range.begins = txid;
                state.outdated = true;
            }
        }
        self.ensure().await
    }

    /// Renews it once more where the end of a renewal is not known, since nobody waited for it.
    async fn settle(&self) {
        let _one = self.requests.lock().await;
        if self.state().sent.is_some() {
            let _ = self.renew().await; // if that fails, too, the next write tries it
        }
    }

    /// How often it was taken, also after it had ended.
    pub fn takings(&self) -> u64 {
        self.state().takings
    }

    fn is_fresh(&self) -> bool {
        self.left() >= renewal(self.duration) && !self.state().outdated
    }

    /// Whether the lease is ours, and will be while what is being written arrives.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`].
    pub fn check(&self) -> Result<(), Error> {
        match self.left() {
            Duration::ZERO => Err(self.lost("it has ended")),
            left if left < margin(self.duration) => {
                Err(self.lost("it could not be renewed in time"))
            }
            _ => Ok(()),
        }
    }

    /// Lets go of the lease, if it was taken: nothing more will be sent. Who waits for it need not wait
    /// until it ends, and learns whether something may still arrive of what was broken off or failed.
    ///
    /// # Errors
    ///
    /// Those of the store. It ends by itself then.
    pub async fn release(&self) -> Result<(), Error> {
        let _one = self.requests.lock().await;
        let (claim, version, let_go) = {
            let mut state = self.state();
            let let_go = match state.unsettled {
                true => LeaseState::Abandoned,
                false => LeaseState::Released,
            };
            let claim = state.claim.filter(|_| state.taken);
            let version = state.version();
            state.forget();
            (claim, version, let_go)
        };
        let (Some(claim), Some(version)) = (claim, version) else {
            return Ok(());
        };
        let record = self.record(claim, self.clock.now(), let_go);
        let sent = self.clock.uptime();
        match self.put(&record, Some(version)).await {
            Err(error) if error.is_conflict() => Ok(()), // it is not ours any more
            Err(error) => Err(error),
            Ok(_) => {
                if !self.is_late(sent) {
                    self.knows(&record);
                }
                Ok(())
            }
        }
    }

    /// A write begins. It may still arrive later, unless the store answers: [`UnderWay::settled`].
    fn under_way(&self) -> UnderWay<'_> {
        UnderWay {
            lease: self,
            settled: false,
        }
    }

    /// Waits until the lease is lost, and renews it until then: for writes that take long.
    async fn keep(&self) -> Error {
        let pause = self.duration / 20;
        loop {
            let due = self.left().saturating_sub(renewal(self.duration));
            tokio::time::sleep(due.max(pause)).await;
            match self.ensure().await {
                Ok(()) => {}
                Err(error @ Error::LeaseLost { .. }) => return error,
                // The store may answer the next time.
                Err(error) if self.check().is_err() => return error,
                Err(_) => {}
            }
        }
    }

    /// How much of the lease is left, nothing where it is not ours.
    fn left(&self) -> Duration {
        let (uptime, now) = (self.clock.uptime(), self.clock.now());
        self.state().left(self.duration, uptime, now)
    }

    async fn renew(&self) -> Result<(), Error> {
        let had_it = !self.left().is_zero();
        let (claim, seen, taken) = {
            let state = self.state();
            (state.claim, state.seen.clone(), state.taken)
        };
        let (Some(claim), Some(seen)) = (claim, seen) else {
            return Err(self.lost("it is not ours"));
        };
        let begun = Renewed {
            uptime: self.clock.uptime(),
            now: self.clock.now(),
        };
        let record = self.record(claim, begun.now, LeaseState::Held);
        let blind = self.is_blind();
        self.state().sent.get_or_insert(begun.uptime);
        match self.put(&record, seen.version).await {
            Ok(version) => {
                let mut state = self.state();
                state.note(Some(version), Some(record.clone()), begun.uptime);
                state.sent = None;
            }
            Err(error) if error.is_conflict() => {
                self.recognise().await?;
                if blind && (taken || self.arrived_late(&self.state())) {
                    self.still_ours()?;
                }
                return Ok(());
            }
            Err(error) => {
                self.state().unsettled |= blind;
                return Err(error);
            }
        }
        if blind && self.is_late(begun.uptime) {
            self.still_ours()?;
        }
        if blind && self.left().is_zero() {
            tokio::time::sleep(self.settling()).await;
            self.recognise().await?;
        }
        let mut state = self.state();
        state.renewed = Some(begun);
        state.taken = true;
        state.takings += u64::from(!had_it);
        state.outdated = state.claim.is_some_and(|now| now.range != claim.range);
        state.displacing = false;
        drop(state);
        self.knows(&record);
        Ok(())
    }

    /// Whether the store writes over whatever has come since it was looked at.
    fn is_blind(&self) -> bool {
        !self.client.capabilities().compare_and_set
    }

    /// This record of ours was stored, and nobody else had the lease meanwhile.
    fn knows(&self, record: &LeaseRecord) {
        if self.is_blind() {
            self.known.send_replace(Some(record.seal()));
        }
    }

    /// Whether a record of the process before may have been stored without condition long after it was sent, and so have
    /// replaced that of somebody else.
    fn is_unknown(&self, last: &LeaseRecord) -> bool {
        let is_known = *self.known.borrow() == Some(last.seal());
        self.is_blind() && last.owner.id == self.owner.id && !is_known
    }

    /// What is there is not what was there: our own, whose answer was lost, or somebody else's.
    async fn recognise(&self) -> Result<(), Error> {
        let found = self.read().await?;
        if found.is_some_and(|found| found.session == self.session) {
            return Ok(());
        }
        self.state().forget();
        Err(self.lost("it was taken meanwhile"))
    }

    /// Whether a record of ours of which nobody has heard may have been stored without condition long after it was sent, and
    /// so have replaced that of somebody else: not while we have the lease.
    fn arrived_late(&self, state: &State) -> bool {
        let (uptime, now) = (self.clock.uptime(), self.clock.now());
        let has_ended = state.left(self.duration, uptime, now).is_zero();
        self.is_blind() && has_ended && state.sent.is_none_or(|sent| self.is_late(sent))
    }

    /// Whether what was sent then, and is stored now, may have replaced the record of somebody who writes, where our lease
    /// has ended by now.
    fn is_late(&self, sent: Duration) -> bool {
        self.clock.uptime().saturating_sub(sent) >= self.settling()
    }

    /// Of two who take the lease at the same time both are there after so long, and know who was the last.
    fn settling(&self) -> Duration {
        margin(self.duration).min(SETTLING)
    }

    /// After a record of ours was stored without condition, long after the last look. Where our lease has ended meanwhile it
    /// may have replaced that of somebody else, who notices at the next renewal; until then nothing may be written here.
    fn still_ours(&self) -> Result<(), Error> {
        if !self.left().is_zero() {
            return Ok(());
        }
        let now = self.clock.uptime();
        {
            let mut state = self.state();
            state.forget();
            state.displacing = true;
            if let Some(seen) = &mut state.seen {
                seen.since = now;
            }
        }
        Err(self.lost("somebody else may have taken it meanwhile"))
    }

    /// Reads the object, and notes since when it is what it is.
    async fn read(&self) -> Result<Option<LeaseRecord>, Error> {
        let found = self.client.get_small(&SmallKey::lease()).await?;
        let (version, record) = match found {
            None => (None, None),
            Some(found) => {
                let record =
                    LeaseRecord::decode(&found.content).ok_or_else(|| Error::BadLease {
                        location: self.client.location(),
                    })?;
                (Some(found.version), Some(record))
            }
        };
        let uptime = self.clock.uptime();
        self.state().note(version, record.clone(), uptime);
        Ok(record)
    }

    async fn put(&self, record: &LeaseRecord, over: Option<Version>) -> Result<Version, Error> {
        if over.is_none() && !self.client.capabilities().conditional_create {
            // Such a store writes over whatever has come since it was looked at.
            let key = SmallKey::lease();
            if self.client.get_small(&key).await?.is_some() {
                return Err(Error::AlreadyExists {
                    location: self.client.location(),
                    object: key.to_string(),
                });
            }
        }
        let precondition = over.map_or(Precondition::Absent, Precondition::Unchanged);
        let content = record.encode().into();
        self.client
            .put_small(&SmallKey::lease(), content, precondition)
            .await
    }

    fn record(&self, claim: Claim, now: SystemTime, state: LeaseState) -> LeaseRecord {
        LeaseRecord {
            generation: claim.generation,
            session: self.session,
            since: claim.since,
            state,
            range: Some(claim.range),
            ..LeaseRecord::new(claim.lineage, self.owner.clone(), now, self.duration)
        }
    }

    fn lost(&self, why: &str) -> Error {
        let state = self.state();
        let record = state.seen.as_ref().and_then(|seen| seen.record.as_ref());
        let other = record.filter(|record| record.session != self.session);
        let reason = match other {
            Some(other) => format!(
                "{why}; its owner is {other}. Stop that process if it still runs, or replicate to \
                 another path"
            ),
            None => why.to_owned(),
        };
        Error::LeaseLost {
            location: self.client.location(),
            reason,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write whose end is not known yet. Dropped like that, it may still arrive: the store may have all of
/// it, or the network.
struct UnderWay<'a> {
    lease: &'a Lease,
    settled: bool,
}

impl UnderWay<'_> {
    /// The store has answered.
    fn settled(mut self) {
        self.settled = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.lease.state().unsettled = true;
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
