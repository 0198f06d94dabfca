//! The files of a replica that Litestream 0.3 wrote. They are only ever read.
//!
//! ```text
//! generations/<generation, 16 hex>/snapshots/<index, 8 hex>.snapshot.lz4
//! generations/<generation, 16 hex>/wal/<index, 8 hex>_<offset, 8 to 16 hex>.wal.lz4
//! ```
//!
//! A generation is one unbroken history of the database; an index counts the files that its WAL has
//! been, and an offset is where in that file a segment starts. Source: `litestream.go` of v0.3.13.

use std::{fmt, time::SystemTime};

/// The name of a file below the root of a replica that Litestream 0.3 wrote.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct V3Key {
    generation: u64,
    part: V3Part,
    /// As it was found: the same offset can be written with more digits or fewer.
    text: String,
}

/// What a file of a generation holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum V3Part {
    /// The whole database, as it was at some time while the WAL had this index.
    Snapshot {
        /// The number of the WAL file.
        index: u32,
    },
    /// Bytes of a WAL file.
    Segment {
        /// The number of the WAL file.
        index: u32,
        /// Where in it they start, in bytes.
        offset: u64,
    },
}

/// A file of a replica that Litestream 0.3 wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V3Object {
    /// Its name.
    pub key: V3Key,
    /// Size in bytes, compressed.
    pub size: u64,
    /// When it was stored; a restore to a point in time goes by this.
    pub created: SystemTime,
}

impl V3Key {
    /// Reads a key below the root of the replica, `None` where it is no such file.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("generations/")?;
        let (generation, rest) = rest.split_once('/')?;
        let (folder, file) = rest.split_once('/')?;
        let part = match folder {
            "snapshots" => V3Part::Snapshot {
                index: index(file.strip_suffix(".snapshot.lz4")?)?,
            },
            "wal" => {
                let (first, second) = file.strip_suffix(".wal.lz4")?.split_once('_')?;
                V3Part::Segment {
                    index: index(first)?,
                    offset: hex(second, 8, 16)?,
                }
            }
            _ => return None,
        };
        Some(Self {
            generation: hex(generation, 16, 16)?,
            part,
            text: text.to_owned(),
        })
    }

    /// The generation it belongs to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it holds.
    pub fn part(&self) -> V3Part {
        self.part
    }

    /// The key below the root of the replica.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl V3Part {
    /// The number of the WAL file.
    pub fn index(self) -> u32 {
        match self {
            Self::Snapshot { index } | Self::Segment { index, .. } => index,
        }
    }
}

impl fmt::Display for V3Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn index(text: &str) -> Option<u32> {
    u32::try_from(hex(text, 8, 8)?).ok()
}

/// A number in lower-case hex digits, so many at least and at most.
fn hex(text: &str, least: usize, most: usize) -> Option<u64> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let valid = (least..=most).contains(&text.len()) && text.bytes().all(digit);
    valid.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_litestream_0_3_wrote_are_taken_for_such() {
        let snapshot = "generations/0123456789abcdef/snapshots/0000000a.snapshot.lz4";
        let key = V3Key::parse(snapshot).unwrap();
        assert_eq!(key.generation(), 0x0123_4567_89ab_cdef);
        assert_eq!(key.part(), V3Part::Snapshot { index: 10 });
        assert_eq!(key.as_str(), snapshot);
        for strange in [
            "generations/0123456789abcdef/snapshots/0000000a.snapshot.lz4.tmp",
            "generations/0123456789ABCDEF/snapshots/0000000a.snapshot.lz4",
            "generations/0123456789abcde/snapshots/0000000a.snapshot.lz4",
            "generations/0123456789abcdef/snapshots/000000a.snapshot.lz4",
            "generations/0123456789abcdef/wal/0000000a.wal.lz4",
            "generations/0123456789abcdef/wal/0000000a_0001038.wal.lz4",
            "generations/0123456789abcdef/wal/0000000a_00000000000010380.wal.lz4",
            "generations/0123456789abcdef/wal/+000000a_00001038.wal.lz4",
            "generations/0123456789abcdef/other/0000000a.snapshot.lz4",
            "0123456789abcdef/snapshots/0000000a.snapshot.lz4",
            "",
        ] {
            assert_eq!(V3Key::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn offsets_over_4_gib_are_read_whatever_their_number_of_digits() {
        for (digits, offset) in [
            ("00001038", 0x1038),
            ("ffffffff", u64::from(u32::MAX)),
            ("123456789", 0x1_2345_6789),
            ("0000000123456789", 0x1_2345_6789),
            ("ffffffffffffffff", u64::MAX),
        ] {
            let text = format!("generations/0123456789abcdef/wal/00000001_{digits}.wal.lz4");
            let key = V3Key::parse(&text).unwrap();
            assert_eq!(key.part(), V3Part::Segment { index: 1, offset });
            assert_eq!(key.to_string(), text);
        }
    }
}
