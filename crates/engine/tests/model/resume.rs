//! What tells a start whether it may go on after its record: the facts, for the engine's own decision.

use super::{
    capture::Mutation,
    protocol::{Generation, Resume, ResumeFacts, resume},
    state::{Position, Salts, State, Wal},
};

/// Whether everything after the position is still in the WAL.
pub(crate) fn resumes(s: &State, mutation: Mutation) -> Resume {
    let (position, header) = (&s.capture.position, s.header());
    let generation = Generation::of(numbers(position.salt), numbers(header.salt));
    let is_zero = generation == Generation::Nameless;
    resume(&ResumeFacts {
        generation: match mutation {
            Mutation::ZeroSaltsKnown if is_zero => Generation::Same,
            _ => generation,
        },
        captured: position.frames.into(),
        committed: header.frames.into(),
        continues: continues(position, &s.wal) || mutation == Mutation::NoChecksum,
        rebooted: s.capture.rebooted && mutation != Mutation::RebootUnnoticed,
        followed: is_followed(position, &s.wal) && mutation != Mutation::ResetFollowed,
    })
}

fn numbers(salts: Salts) -> (u32, u32) {
    (salts.first.into(), salts.second.into())
}

/// Whether the WAL still holds, at our position, the frame we took last.
pub(crate) fn continues(position: &Position, wal: &Wal) -> bool {
    let last = usize::from(position.frames).checked_sub(1);
    last.is_none_or(|at| wal.frames[at].commit == position.last)
}

/// Whether a frame of its generation comes after it.
fn is_followed(position: &Position, wal: &Wal) -> bool {
    let after = wal.frames.get(usize::from(position.frames));
    after.is_some_and(|frame| frame.commit != 0 && frame.salt == position.salt)
}
