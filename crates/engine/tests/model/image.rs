//! Images of the whole database, read under both locks, and the last transaction before a stop.

use super::{
    capture::{Engine, Mutation},
    protocol::Action,
    state::{CaptureAt, Image},
};

impl Engine<'_> {
    /// Between two steps somebody wants an image, or the last transaction.
    pub(crate) fn begin_image(&mut self, image: Image) -> bool {
        let begins = self.me().at == CaptureAt::Idle && self.me().image == Image::None;
        if begins {
            self.me().image = image;
            self.me().at = CaptureAt::Header;
        }
        begins
    }

    /// It is read, or given up.
    pub(crate) fn end_image(&mut self) -> bool {
        let ends = self.me().at == CaptureAt::Idle && self.me().image == Image::Read;
        if ends {
            self.me().image = Image::None;
        }
        ends
    }

    /// Takes both locks, whatever the facts are, and captures under them.
    pub(super) fn hold_still(&mut self) -> bool {
        let me = *self.me();
        let behind = me.position.frames < me.seen.frames;
        let unguarded = self.mutation == Mutation::ImageWithoutGuard;
        let action = if me.pin == 0 {
            Action::TakePin
        } else if !me.guard && !unguarded {
            Action::TakeGuard
        } else if behind && !me.caught_up {
            Action::Capture
        } else if me.image == Image::OneTransaction {
            return self.let_go_of_guard();
        } else {
            self.me().image = Image::Read;
            return self.rest();
        };
        self.go(CaptureAt::Do(action))
    }

    /// Nobody else can checkpoint while it is held.
    fn let_go_of_guard(&mut self) -> bool {
        if self.me().stale && self.mutation != Mutation::GuardGoneAfterLast {
            return self.go(CaptureAt::Do(Action::AwaitCheckpointer));
        }
        self.me().image = Image::None;
        self.go(CaptureAt::Do(Action::ReleaseGuard))
    }
}
