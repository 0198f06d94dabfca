//! What a followed copy holds: a small file beside it, `.<name>-evertide-follow`.
//!
//! ```text
//! evertide follow 1
//! page size 4096
//! before 00000000000000a1 7 9c0f…      the transaction, pages, checksum of all pages
//! after 00000000000000a2 8 b122…
//! checksum 8d21…                       of the lines above
//! ```
//!
//! It is written before the copy is changed, so the copy is in one of the two states, and a checksum
//! over all its pages tells which. In neither of them, it was changed by somebody else.

use std::fmt::Write;

use evertide_ltx::{Checksum, PageSize, Pgno, Txid};

/// More is no position.
pub(super) const MAX_LEN: u64 = 4096;
const TITLE: &str = "evertide follow 1";

/// A state of the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// The transaction whose state it is.
    pub(super) txid: Txid,
    /// The size, in pages.
    pub(super) pages: u32,
    /// The checksum of the copy, as it is on disk.
    pub(super) checksum: Checksum,
}

/// The states that the copy may be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    /// The size of a page.
    pub(super) page_size: PageSize,
    /// The state before the last change.
    pub(super) before: Option<State>,
    /// The state after it.
    pub(super) after: State,
}

impl Position {
    pub(super) fn to_text(self) -> String {
        let mut text = format!("{TITLE}\npage size {}\n", self.page_size.get());
        let states = [("before", self.before), ("after", Some(self.after))];
        for (name, state) in states {
            if let Some(state) = state {
                let State {
                    txid,
                    pages,
                    checksum,
                } = state;
                let _ = writeln!(text, "{name} {txid} {pages} {checksum}");
            }
        }
        let checksum = checksum_of(&text);
        let _ = writeln!(text, "checksum {checksum}");
        text
    }

    /// Reads what [`Position::to_text`] wrote; `None` where it is anything else.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (start, last) = text.rsplit_once('\n')?;
        let body = text.get(..=start.len())?;
        if last.strip_prefix("checksum ")? != checksum_of(body).to_string() {
            return None;
        }
        let mut lines = start.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let page_size = lines.next()?.strip_prefix("page size ")?.parse().ok()?;
        let (first, second) = (lines.next()?, lines.next());
        let (before, after) = match second {
            Some(second) => (Some(state(first, "before")?), second),
            None => (None, first),
        };
        let position = Self {
            page_size: PageSize::new(page_size).ok()?,
            before,
            after: state(after, "after")?,
        };
        lines.next().is_none().then_some(position)
    }

    /// The state with this size and checksum.
    pub(super) fn find(&self, pages: u32, checksum: Checksum) -> Option<State> {
        let states = [Some(self.after), self.before];
        let mut states = states.into_iter().flatten();
        states.find(|state| state.pages == pages && state.checksum == checksum)
    }
}

fn state(line: &str, name: &str) -> Option<State> {
    let mut words = line.split(' ');
    if words.next()? != name {
        return None;
    }
    let state = State {
        txid: words.next()?.parse().ok()?,
        pages: words.next()?.parse().ok()?,
        checksum: Checksum::new(u64::from_str_radix(words.next()?, 16).ok()?),
    };
    words.next().is_none().then_some(state)
}

fn checksum_of(text: &str) -> Checksum {
    Checksum::page(Pgno::FIRST, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(txid: u64, pages: u32) -> State {
        let checksum = Checksum::new((1 << 63) | (txid * 77));
        State {
            txid: Txid::new(txid),
            pages,
            checksum,
        }
    }

    fn position() -> Position {
        Position {
            page_size: PageSize::new(512).unwrap(),
            before: Some(state(0xa1, 7)),
            after: state(0xa2, 9),
        }
    }

    #[test]
    fn a_position_comes_back_and_no_damage_to_it_is_believed() {
        let whole = position();
        let first = Position {
            before: None,
            ..whole
        };
        for position in [whole, first] {
            let text = position.to_text();
            assert!((text.len() as u64) < MAX_LEN);
            assert_eq!(Position::parse(text.as_bytes()), Some(position));
            for at in 0..text.len() {
                assert_eq!(Position::parse(&text.as_bytes()[..at]), None, "cut at {at}");
                for bit in 0..8 {
                    let mut bad = text.clone().into_bytes();
                    bad[at] ^= 1 << bit;
                    assert_eq!(Position::parse(&bad), None, "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_position_of_another_version_is_not_believed() {
        let text = position().to_text();
        let (body, _) = text.rsplit_once("checksum ").unwrap();
        let sealed = |body: &str| format!("{body}checksum {}\n", checksum_of(body));
        assert_eq!(Position::parse(sealed(body).as_bytes()), Some(position()));
        let newer = body.replacen("follow 1", "follow 2", 1);
        assert_eq!(Position::parse(sealed(&newer).as_bytes()), None);
        let longer = format!("{body}owner 7\n");
        assert_eq!(Position::parse(sealed(&longer).as_bytes()), None);
    }

    #[test]
    fn the_copy_is_in_one_of_two_states_or_was_changed_by_somebody_else() {
        let position = position();
        let (before, after) = (state(0xa1, 7), state(0xa2, 9));
        assert_eq!(position.find(7, before.checksum), Some(before));
        assert_eq!(position.find(9, after.checksum), Some(after));
        assert_eq!(position.find(9, before.checksum), None);
    }
}
