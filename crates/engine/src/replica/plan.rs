//! What a replica needs next. Pure.

use evertide_ltx::{Level, LtxName, Txid};
use evertide_storage::LtxObject;

use crate::state::Staged;

/// What to upload next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum UploadPlan {
    /// The replica has everything.
    Nothing,
    /// The staged files from this one on, merged into one.
    Files(usize),
    /// One file with the pages that changed since this transaction, the newest on the replica: what
    /// was staged since is gone.
    Changes {
        /// The newest transaction on the replica.
        since: Txid,
    },
    /// A snapshot of a transaction above this one: the replica has nothing, or nothing that was
    /// captured here.
    Snapshot {
        /// The newest transaction on the replica.
        above: Txid,
    },
}

/// The newest transaction of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remote {
    /// It is known to be one that was captured here.
    Ours(Txid),
    /// It is of another history, or may be, even if it is older than what is captured here: only
    /// a snapshot can follow it. Zero where the replica is empty.
    Other(Txid),
}

impl Remote {
    /// The transaction.
    pub(crate) fn txid(self) -> Txid {
        match self {
            Self::Ours(txid) | Self::Other(txid) => txid,
        }
    }

    /// What of it can be waited for: the transactions of another history are none of ours.
    pub(crate) fn replicated(self) -> Txid {
        match self {
            Self::Ours(txid) => txid,
            Self::Other(_) => Txid::ZERO,
        }
    }
}

/// Up to which transaction a replica with these files can be restored; zero without a snapshot.
pub(crate) fn restorable(mut names: Vec<LtxName>) -> Txid {
    names.sort_unstable();
    names.iter().fold(Txid::ZERO, |reached, name| {
        if name.min <= reached.next() {
            reached.max(name.max)
        } else {
            reached
        }
    })
}

/// Whether Litestream goes on above these files: it takes the newest file of level 0 for the end of the
/// history, whatever other levels have, and reads it under the name of its last transaction alone.
pub(crate) fn is_continuable(objects: &[LtxObject]) -> bool {
    let newest = objects.iter().map(|object| object.name.max).max();
    let single =
        |object: &LtxObject| object.level == Level::L0 && object.name.min == object.name.max;
    newest.is_none_or(|newest| objects.iter().any(|o| o.name.max == newest && single(o)))
}

/// Plans for a replica at `remote`, where `captured` is the newest transaction here and `staged`
/// are the files that lead to it.
pub(crate) fn plan_upload(remote: Remote, captured: Txid, staged: &[Staged]) -> UploadPlan {
    let remote = match remote {
        Remote::Ours(remote) if captured > Txid::ZERO && remote <= captured => remote,
        remote => {
            return UploadPlan::Snapshot {
                above: remote.txid(),
            };
        }
    };
    if remote == captured {
        return UploadPlan::Nothing;
    }
    match staged
        .iter()
        .position(|file| file.name.max > remote)
        .and_then(|first| Some((first, staged.get(first)?)))
    {
        Some((first, file)) if file.name.min == remote.next() => UploadPlan::Files(first),
        // It would have to branch off inside a file.
        Some((_, file)) if file.name.min <= remote => UploadPlan::Snapshot { above: remote },
        _ => UploadPlan::Changes { since: remote },
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_replica_without_a_base_or_with_a_gap_is_not_restorable_to_its_end() {
        let restorable = |files: &[(u64, u64)]| {
            let name = |&(min, max): &(u64, u64)| LtxName {
                min: Txid::new(min),
                max: Txid::new(max),
            };
            restorable(files.iter().map(name).collect()).get()
        };
        assert_eq!(restorable(&[]), 0);
        assert_eq!(restorable(&[(2, 2), (3, 3)]), 0);
        assert_eq!(restorable(&[(3, 3), (1, 1), (2, 2)]), 3);
        assert_eq!(restorable(&[(1, 1), (2, 2), (4, 4)]), 2);
        assert_eq!(
            restorable(&[(1, 1), (2, 2), (4, 4), (1, 4), (5, 9), (6, 7)]),
            9
        );
    }

    #[test]
    fn litestream_goes_on_above_a_single_transaction_of_level_0_alone() {
        let continuable = |files: &[(Level, u64, u64)]| {
            let object = |&(level, min, max): &(Level, u64, u64)| LtxObject {
                level,
                name: LtxName {
                    min: Txid::new(min),
                    max: Txid::new(max),
                },
                size: 1,
                created: SystemTime::UNIX_EPOCH,
            };
            is_continuable(&files.iter().map(object).collect::<Vec<_>>())
        };
        let (l0, l1, snapshot) = (Level::L0, Level::new(1).unwrap(), Level::SNAPSHOT);
        assert!(continuable(&[]));
        assert!(!continuable(&[(snapshot, 1, 1)]));
        assert!(!continuable(&[(l0, 2, 2), (l0, 3, 4), (snapshot, 1, 1)]));
        assert!(!continuable(&[(l0, 2, 2), (snapshot, 1, 3)]), "it is older");
        assert!(continuable(&[(l0, 2, 2), (l1, 2, 2), (snapshot, 1, 2)]));
        assert!(continuable(&[(l0, 2, 5), (l0, 6, 6), (snapshot, 1, 1)]));
    }

    #[test]
    fn a_replica_gets_what_continues_it_and_a_snapshot_where_nothing_does() {
        let staged = [(4, 4), (5, 8), (9, 9)].map(|(min, max)| Staged {
            name: LtxName {
                min: Txid::new(min),
                max: Txid::new(max),
            },
            bytes: 1,
        });
        let snapshot = |above| UploadPlan::Snapshot {
            above: Txid::new(above),
        };
        let cases = [
            (9, 9, UploadPlan::Nothing),
            (8, 9, UploadPlan::Files(2)),
            (4, 9, UploadPlan::Files(1)),
            (3, 9, UploadPlan::Files(0)),
            (
                2,
                9,
                UploadPlan::Changes {
                    since: Txid::new(2),
                },
            ), // what continues it was removed
            (6, 9, snapshot(6)),   // its history branched off inside 5..8
            (10, 9, snapshot(10)), // it is ahead: the local database was restored or replaced
            (7, 0, snapshot(7)),   // there is no local history yet
            (0, 0, snapshot(0)),
        ];
        for (remote, captured, expected) in cases {
            let remote = Txid::new(remote);
            let plan = plan_upload(Remote::Ours(remote), Txid::new(captured), &staged);
            assert_eq!(plan, expected, "replica at {remote}, captured {captured}");
            let other = plan_upload(Remote::Other(remote), Txid::new(captured), &staged);
            assert_eq!(other, snapshot(remote.get()), "another history at {remote}");
        }
        let empty = plan_upload(Remote::Other(Txid::ZERO), Txid::new(9), &staged);
        assert_eq!(empty, snapshot(0));
    }
}
