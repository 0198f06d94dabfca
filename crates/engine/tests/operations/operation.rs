//! What can be done, and how two bytes say it.

/// One operation. The numbers are how much, or which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// So many rows, in a transaction of their own.
    Insert(u8),
    /// Every n-th row gets other content.
    Update(u8),
    /// Every n-th row goes.
    Delete(u8),
    /// Rows that are rolled back, after they have spilled into the WAL.
    Rollback(u8),
    /// Some megabytes in one transaction.
    Huge(u8),
    /// Every page is written anew.
    Vacuum,
    /// The table is dropped and made again.
    Recreate,
    /// A checkpoint of the application, of each of the four kinds.
    Checkpoint(&'static str),
    /// Whether the application's commits checkpoint.
    AutoCheckpoint(u8),
    /// Its connection is closed and another one opened.
    Reconnect,
    /// A reader begins, or the one that began ends.
    Reader,
    /// What is committed is captured.
    Sync,
    /// What is committed is on the replica; this state can be restored from now on.
    Durable,
    /// The backup stops in order, or starts.
    StopOrStart,
    /// The backup goes away without stopping, and another one starts.
    Abandon,
    /// The local state is deleted between a stop and a start.
    ForgetState,
    /// The replica is emptied between a stop and a start.
    EmptyReplica,
    /// A copy of the database is made.
    Copy,
    /// It is put in place of the database, between a stop and a start.
    PutBack,
    /// The time of day jumps by so many half days, forwards or backwards.
    Clock(i8),
    /// The newest state is restored and compared.
    Restore,
    /// A state that was durable before is restored and compared.
    RestoreEarlier(u8),
}

const MODES: [&str; 4] = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

/// The first bytes that mean different operations.
pub(crate) fn kinds() -> impl Iterator<Item = u8> {
    0..32
}

impl Operation {
    /// What two bytes mean. Every pair means something, and writes are the most common.
    pub(crate) fn new(kind: u8, much: u8) -> Self {
        match kind % 32 {
            0..=4 => Self::Insert(much % 40),
            5 | 6 => Self::Update(much % 7 + 1),
            7 => Self::Delete(much % 5 + 1),
            8 => Self::Rollback(much),
            9 => Self::Huge(much % 8),
            10 => Self::Vacuum,
            11 => Self::Recreate,
            12..=15 => Self::Checkpoint(MODES[usize::from(kind % 4)]),
            16 => Self::AutoCheckpoint(much % 3),
            17 => Self::Reconnect,
            18 => Self::Reader,
            19 | 20 => Self::Sync,
            21 | 22 => Self::Durable,
            23 => Self::StopOrStart,
            24 => Self::Abandon,
            25 => Self::ForgetState,
            26 => Self::EmptyReplica,
            27 => Self::Copy,
            28 => Self::PutBack,
            29 => Self::Clock(much.cast_signed() / 8),
            30 => Self::Restore,
            _ => Self::RestoreEarlier(much),
        }
    }
}
