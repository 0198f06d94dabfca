//! What must be true of the replica, whatever happens, judged after each change of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;
use tokio::time::Instant;

use super::pages::{Changes, Pages, content as content_of};
use crate::{
    DrillFailureKind, DrillStatus,
    restore::{RestoreTarget, plan},
    verify::Content,
};

/// How many of the last events are shown with a fault.
const REMEMBERED: usize = 60;

/// A node, by number.
pub(super) type NodeId = usize;

/// What must hold in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// The exact state of each transaction is kept.
    pub(super) exact: bool,
    /// Only one writes at a time. Where the store or the clocks cannot see to that, whoever writes was given the lease
    /// no longer ago than it lasts.
    pub(super) exclusive: bool,
    /// How long a lease lasts.
    pub(super) lease: Duration,
    /// No object is written over. Where the store cannot see to that, by none that holds anything else.
    pub(super) created: bool,
}

impl Promise {
    /// What one machine alone can rely on, in a store that does all on condition.
    pub(super) fn of_one(lease: Duration) -> Self {
        Self {
            exact: false,
            exclusive: true,
            lease,
            created: true,
        }
    }
}

/// Everything that was captured, and everything that is stored.
#[derive(Debug)]
pub(super) struct Judge {
    start: Instant,
    /// All states there ever were: whose, and after which transaction.
    states: HashMap<Pages, BTreeSet<(NodeId, Txid)>>,
    objects: BTreeMap<(Level, LtxName), (LtxObject, Changes)>,
    /// The newest states that could be restored since the lease was taken or renewed last, and since when. Who takes it
    /// looked at one of them: what arrives later is the end of a history.
    newest: Vec<(Instant, Pages)>,
    /// Since when there is any.
    began: Option<Instant>,
    /// What nodes were told is safe, and its pages.
    durable: BTreeMap<Txid, Pages>,
    promise: Promise,
    /// Who has the lease.
    owner: Option<NodeId>,
    /// Who had it, and when it was taken or renewed last.
    leased: BTreeMap<NodeId, Instant>,
    /// Who took it while it might go on from there, since somebody else wrote last.
    entitled: BTreeSet<NodeId>,
    /// Who wrote last.
    writer: Option<NodeId>,
    /// The first thing that was wrong.
    fault: Option<String>,
    /// Of everything that happened, and when. In which order at one moment does not count: who is woken first by one
    /// thing is drawn by tokio.
    trace: u64,
    /// The end of that, to be read.
    last: VecDeque<String>,
    pub(super) stored: u64,
    /// Levels that anything was ever stored on, and how often.
    pub(super) levels: BTreeMap<Level, u64>,
    /// How often the lease was taken or renewed.
    pub(super) leases: u64,
    pub(super) deleted: u64,
    pub(super) successions: u64,
    pub(super) proofs: u64,
}

impl Judge {
    pub(super) fn new(promise: Promise) -> Self {
        Self {
            start: Instant::now(),
            states: HashMap::new(),
            objects: BTreeMap::new(),
            newest: Vec::new(),
            began: None,
            durable: BTreeMap::new(),
            promise,
            owner: None,
            leased: BTreeMap::new(),
            entitled: BTreeSet::new(),
            writer: None,
            fault: None,
            trace: 0,
            last: VecDeque::new(),
            stored: 0,
            levels: BTreeMap::new(),
            leases: 0,
            deleted: 0,
            successions: 0,
            proofs: 0,
        }
    }

    /// Something was wrong, whatever else is.
    pub(super) fn blame(&mut self, fault: String) {
        self.must(false, || fault);
    }

    /// Tasks of nodes must not panic for a fault of another: it is noted, and [`Judge::assert_sound`] panics.
    fn must(&mut self, hold: bool, fault: impl FnOnce() -> String) {
        if !hold {
            self.fault.get_or_insert_with(fault);
        }
    }

    pub(super) fn assert_sound(&self) {
        if let Some(fault) = &self.fault {
            let last = self.last.iter().map(String::as_str);
            let last: Vec<&str> = last.collect();
            panic!("{fault}, after\n{}", last.join("\n"));
        }
    }

    /// A node captured this.
    pub(super) fn captured(&mut self, node: NodeId, txid: Txid, pages: &Pages) {
        self.note(format_args!("{node} captured {txid} {pages:?}"));
        let whose = self.states.entry(pages.clone()).or_default();
        whose.insert((node, txid));
    }

    /// A node was told that this state of its is on the replica.
    pub(super) fn told_durable(&mut self, txid: Txid, pages: &Pages) {
        if self.durable.get(&txid) == Some(pages) {
            return;
        }
        self.note(format_args!("{txid} is safe"));
        let before = self.durable.insert(txid, pages.clone());
        self.must(before.is_none(), || {
            format!("two states of {txid} are said to be safe")
        });
        // With retention another one may have deleted it while the report was under way, by a clock that is days ahead.
        let newest = self.restore(RestoreTarget::Latest);
        let may_be_gone = !self.promise.exact && newest.is_some_and(|(newest, _)| newest > txid);
        let safe = self.is_restorable(txid) || may_be_gone;
        self.must(safe, || format!("{txid}, said to be safe, is not"));
    }

    /// The state of a transaction can be restored exactly.
    fn is_restorable(&self, txid: Txid) -> bool {
        let found = self.restore(RestoreTarget::Txid(txid));
        found.is_some_and(|(reached, pages)| reached == txid && pages == self.durable[&txid])
    }

    /// A node's drills have found something out: it must be true.
    pub(super) fn drilled(&mut self, node: NodeId, before: &DrillStatus, now: &DrillStatus) {
        if now.proofs > before.proofs
            && let Some(proof) = now.proven
        {
            self.note(format_args!("{node} proved {}", proof.txid));
            let known = self.states.iter().any(|(pages, whose)| {
                let content = Content::of_sum(pages.len() as u32, proof.database_checksum);
                whose.iter().any(|(_, txid)| *txid == proof.txid) && content == content_of(pages)
            });
            self.must(known, || {
                format!("a drill proved a state of {} that nobody had", proof.txid)
            });
            self.proofs += 1;
        }
        if now.failures > before.failures
            && let Some(failure) = &now.failure
        {
            self.note(format_args!("{node} failed to drill: {}", failure.problem));
            let kind = failure.kind;
            self.must(kind == DrillFailureKind::Unfinished, || {
                format!("a sound replica fails a drill: {}", failure.problem)
            });
        }
    }

    /// Every state that was said to be safe still is.
    pub(super) fn assert_nothing_lost(&self) {
        let lost = |txid: &&Txid| self.promise.exact && !self.is_restorable(**txid);
        let lost: Vec<&Txid> = self.durable.keys().filter(lost).collect();
        assert!(
            lost.is_empty(),
            "what was said to be safe is lost: {lost:?}"
        );
    }

    pub(super) fn stored(&mut self, node: NodeId, object: LtxObject, content: &[u8]) {
        self.note(format_args!(
            "{node} stored {} {}",
            object.level, object.name
        ));
        let changes = Changes::of(content);
        *self.levels.entry(object.level).or_default() += 1;
        let place = (object.level, object.name);
        let before = self.objects.insert(place, (object, changes.clone()));
        let created = self.promise.created;
        let kept = before.is_none_or(|(_, before)| !created && before == changes);
        self.must(kept, || "an object was overwritten".to_owned());
        self.stored += 1;
        self.look();
    }

    pub(super) fn deleted(&mut self, node: NodeId, level: Level, names: &[LtxName]) {
        for name in names {
            self.note(format_args!("{node} deleted {level} {name}"));
            self.objects.remove(&(level, *name));
            self.deleted += 1;
        }
        self.look();
    }

    /// A node took or renewed the lease.
    pub(super) fn leased(&mut self, node: NodeId, legitimate: impl FnOnce(&[Pages]) -> bool) {
        self.note(format_args!("{node} leased"));
        self.leases += 1;
        self.leased.insert(node, Instant::now());
        if self.owner != Some(node) {
            let may = self.may_succeed(legitimate);
            if self.promise.exclusive {
                self.must(may, || format!("node {node} may not go on from there"));
            }
            if may {
                self.entitled.insert(node);
            }
            self.successions += u64::from(self.owner.is_some());
        }
        self.owner = Some(node);
        // Two who do not know of each other yet may both have looked for as long as a lease lasts.
        let known = self.unaware();
        let ended = self.newest.iter().skip(1);
        let old = ended.take_while(|(since, _)| since.elapsed() >= known);
        self.newest.drain(..old.count());
    }

    /// For how long two may write without knowing of each other.
    fn unaware(&self) -> Duration {
        match self.promise.exclusive {
            true => Duration::ZERO,
            false => 2 * self.promise.lease,
        }
    }

    /// Whether a node may go on from what another one has written.
    fn may_succeed(&self, legitimate: impl FnOnce(&[Pages]) -> bool) -> bool {
        let newest: Vec<Pages> = self.newest.iter().map(|(_, pages)| pages.clone()).collect();
        let was_empty = self
            .began
            .is_none_or(|since| since.elapsed() < self.unaware());
        was_empty || legitimate(&newest)
    }

    /// All of an object is on its way.
    pub(super) fn sent(&mut self, node: NodeId, legitimate: impl FnOnce(&[Pages]) -> bool) {
        let owner = self.owner;
        if self.promise.exclusive {
            self.must(owner == Some(node), || {
                format!("node {node} writes with the lease of {owner:?}")
            });
        } else {
            let lease = self.promise.lease;
            let leased = self.leased.get(&node);
            let recently = leased.is_some_and(|since| since.elapsed() < lease);
            self.must(recently, || {
                format!(
                    "node {node} writes without ever a lease, or after its end; {owner:?} has it"
                )
            });
            if self.writer != Some(node) {
                let may = self.entitled.contains(&node) || self.may_succeed(legitimate);
                self.must(may, || format!("node {node} may not go on from there"));
            }
            self.entitled.retain(|entitled| *entitled == node);
        }
        self.writer = Some(node);
    }

    /// The newest state is one that a database had: never a mixture of two.
    fn look(&mut self) {
        let newest = self.restore(RestoreTarget::Latest);
        if let Some((txid, pages)) = &newest {
            let whose = self.states.get(pages);
            let known = whose.is_some_and(|whose| whose.iter().any(|(_, of)| of == txid));
            self.must(known, || {
                format!("the newest state, of {txid}, is none that a database ever had then")
            });
        }
        let any = newest.is_some() || self.newest.is_empty();
        self.must(any, || "nothing can be restored".to_owned());
        let newest = newest.map(|(_, pages)| pages);
        if newest.as_ref() != self.newest() {
            self.began.get_or_insert(Instant::now());
            self.newest
                .extend(newest.map(|pages| (Instant::now(), pages)));
        }
    }

    /// The transaction that is reached, and the database then.
    fn restore(&self, target: RestoreTarget) -> Option<(Txid, Pages)> {
        let listing: Vec<LtxObject> = self.objects.values().map(|(o, _)| o.clone()).collect();
        let plan = plan(&listing, target).ok()?;
        let mut pages = Pages::new();
        for file in plan.files() {
            let (_, changes) = &self.objects[&(file.level, file.name)];
            changes.apply(&mut pages);
        }
        Some((plan.txid(), pages))
    }

    /// The newest state that can be restored.
    pub(super) fn newest(&self) -> Option<&Pages> {
        self.newest.last().map(|(_, pages)| pages)
    }

    /// Something happened.
    pub(super) fn note(&mut self, what: impl fmt::Debug) {
        let line = format!("{:.3} {what:?}", self.start.elapsed().as_secs_f64());
        let mut hash = DefaultHasher::new();
        line.hash(&mut hash);
        self.trace = self.trace.wrapping_add(hash.finish());
        if self.fault.is_none() {
            self.last.push_back(line);
            if self.last.len() > REMEMBERED {
                self.last.pop_front();
            }
        }
    }

    /// The same for two runs in which the same happened.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }
}
