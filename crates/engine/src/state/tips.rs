//! What each replica was last known to have: enough to recognise it after an absence in which
//! everything that was staged for it had to go.

use evertide_ltx::{Checksum, Pgno, Txid};

/// Replicas that are remembered.
const MOST: usize = 8;
const TIP: usize = 24;

/// The newest transaction of one replica, which was captured here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tip {
    /// Which replica, as a checksum of where it is.
    replica: u64,
    pub(crate) txid: Txid,
    /// When that was captured, in milliseconds since the epoch.
    pub(crate) timestamp_ms: i64,
}

impl Tip {
    /// The newest transaction of the replica at this place.
    pub(crate) fn new(location: &str, txid: Txid, timestamp_ms: i64) -> Self {
        Self {
            replica: Checksum::page(Pgno::FIRST, location.as_bytes()).get(),
            txid,
            timestamp_ms,
        }
    }
}

impl Tip {
    /// What a replica has when the newest image arrives, whichever asked for it.
    pub(crate) fn of_image(txid: Txid, timestamp_ms: i64) -> Self {
        Self {
            replica: 0, // no checksum
            txid,
            timestamp_ms,
        }
    }
}

/// What replicas had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tips([Option<Tip>; MOST]);

impl Tips {
    /// Notes what a replica has now. With more replicas than are remembered the one that is ahead of
    /// the others is forgotten: it needs that least.
    pub(crate) fn note(&mut self, tip: Tip) {
        let known = |slot: &Option<Tip>| slot.is_some_and(|known| known.replica == tip.replica);
        let place = |tips: &[Option<Tip>; MOST]| {
            let same = tips.iter().position(known);
            same.or_else(|| tips.iter().position(Option::is_none))
        };
        let ahead = |(_, slot): &(usize, &Option<Tip>)| slot.map(|known| known.txid);
        let at = place(&self.0).or_else(|| {
            let furthest = self.0.iter().enumerate().max_by_key(ahead);
            furthest.map(|(at, _)| at)
        });
        if let Some(slot) = at.and_then(|at| self.0.get_mut(at)) {
            *slot = Some(tip);
        }
    }

    /// When this transaction was captured, if a replica is known to have had it as its newest.
    pub(crate) fn timestamp_of(&self, txid: Txid) -> Option<i64> {
        let mut known = self.0.iter().flatten();
        let known = known.find(|tip| tip.txid == txid);
        known.map(|tip| tip.timestamp_ms)
    }

    pub(super) fn encode(&self) -> [u8; MOST * TIP] {
        let mut bytes = [0; MOST * TIP];
        for (slot, tip) in bytes.as_chunks_mut::<TIP>().0.iter_mut().zip(self.0) {
            let Some(tip) = tip else { continue };
            let words = [
                tip.replica,
                tip.txid.get(),
                tip.timestamp_ms.cast_unsigned(),
            ];
            for (target, word) in slot.as_chunks_mut().0.iter_mut().zip(words) {
                *target = word.to_le_bytes();
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; MOST * TIP]) -> Self {
        let mut tips = Self::default();
        for (tip, slot) in tips.0.iter_mut().zip(bytes.as_chunks::<TIP>().0) {
            let words = slot.as_chunks().0;
            let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
            *tip = (word(1) > 0).then(|| Tip {
                replica: word(0),
                txid: Txid::new(word(1)),
                timestamp_ms: word(2).cast_signed(),
            });
        }
        tips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tip(replica: u8, txid: u64) -> Tip {
        Tip::new(&format!("/replica/{replica}"), Txid::new(txid), -5)
    }

    #[test]
    fn each_replica_is_remembered_at_its_newest_and_read_back() {
        let mut tips = Tips::default();
        for (replica, txid) in [(1, 4), (2, 7), (1, 6), (2, 9)] {
            tips.note(tip(replica, txid));
        }
        for (txid, known) in [(4, None), (6, Some(-5)), (7, None), (9, Some(-5))] {
            assert_eq!(tips.timestamp_of(Txid::new(txid)), known, "{txid}");
        }
        assert_eq!(Tips::decode(&tips.encode()), tips);
    }

    #[test]
    fn of_too_many_replicas_those_that_lag_are_remembered() {
        let mut tips = Tips::default();
        tips.note(tip(0, 3));
        for replica in 1..20 {
            tips.note(tip(replica, 50 + u64::from(replica)));
        }
        assert_eq!(tips.timestamp_of(Txid::new(3)), Some(-5));
        assert_eq!(tips.timestamp_of(Txid::new(69)), Some(-5));
    }
}
