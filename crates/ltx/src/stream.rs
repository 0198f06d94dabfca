//! LZ4 frames of one page each, which Litestream wrote before its version of `superfly/ltx` was
//! 0.5.2.
//!
//! All integers are little-endian. The source is the LZ4 frame format, version 1.6.
//!
//! ```text
//!   0  4  magic 0x184d2204
//!   4  1  flags: 0x40 version, 0x20 independent blocks, 0x10 block checksums, 0x08 content size,
//!         0x04 content checksum, 0x01 dictionary
//!   5  1  block size
//!   6  8  content size, if flagged
//!      1  header checksum
//!         blocks: 4 bytes size, with the highest bit if not compressed; content; 4 bytes checksum
//!         if flagged
//!      4  zero
//!      4  content checksum, if flagged
//! ```
//!
//! The frame's own checksums are not looked at: the checksum of the LTX file covers the content.

use lz4_flex::block::decompress_into_with_dict;

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// More blocks than any encoder makes of one page.
const MAX_BLOCKS: usize = 64;

/// How far a frame reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// So many bytes.
    Complete(usize),
    /// At least so many: come back with them.
    Needs(usize),
}

/// The parts of a frame's header that matter here.
#[derive(Clone, Copy)]
struct Head {
    len: usize,
    block_checksum: usize,
    content_checksum: usize,
}

impl Head {
    const MIN_LEN: usize = 7;

    fn parse(bytes: &[u8; Self::MIN_LEN]) -> Result<Self, &'static str> {
        let [magic @ .., flags, _, _] = *bytes;
        if magic != MAGIC {
            return Err("it is not an LZ4 frame");
        }
        if flags & 0b1100_0011 != 0b0100_0000 {
            return Err("its LZ4 frame has unknown flags");
        }
        let flagged = |bit: u8, len| if flags & bit == 0 { 0 } else { len };
        Ok(Self {
            len: Self::MIN_LEN + flagged(0x08, 8),
            block_checksum: flagged(0x10, 4),
            content_checksum: flagged(0x04, 4),
        })
    }
}

/// One step through the blocks of a frame.
struct Block {
    /// Where its content is.
    start: usize,
    end: usize,
    compressed: bool,
}

/// The block whose size is at `at`; `None` for the mark at the end.
fn block_at(size: [u8; 4], at: usize) -> Option<Block> {
    let size = u32::from_le_bytes(size);
    let len = (size & 0x7fff_ffff) as usize;
    let start = at + 4;
    (size != 0).then_some(Block {
        start,
        end: start + len,
        compressed: size >> 31 == 0,
    })
}

fn size_at(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// How far the frame reaches that starts with these bytes; more than `max` bytes are refused.
pub(crate) fn extent(bytes: &[u8], max: usize) -> Result<Extent, &'static str> {
    let Some(head) = bytes.first_chunk() else {
        return Ok(Extent::Needs(Head::MIN_LEN));
    };
    let head = Head::parse(head)?;
    let mut at = head.len;
    for _ in 0..=MAX_BLOCKS {
        let Some(size) = size_at(bytes, at) else {
            return Ok(Extent::Needs(at + 4));
        };
        let Some(block) = block_at(size, at) else {
            let end = at + 4 + head.content_checksum;
            return Ok(if bytes.len() < end {
                Extent::Needs(end)
            } else {
                Extent::Complete(end)
            });
        };
        at = block.end + head.block_checksum;
        if at > max {
            return Err("its LZ4 frame is larger than one of a page can be");
        }
    }
    Err("its LZ4 frame has too many blocks")
}

/// Decompresses a complete frame into exactly one page.
pub(crate) fn decompress(frame: &[u8], page: &mut [u8]) -> Result<(), String> {
    let cut = || "its LZ4 frame is cut short".to_owned();
    let head = Head::parse(frame.first_chunk().ok_or_else(cut)?)?;
    let (mut at, mut filled) = (head.len, 0);
    while let Some(block) = block_at(size_at(frame, at).ok_or_else(cut)?, at) {
        let content = frame.get(block.start..block.end).ok_or_else(cut)?;
        // Blocks that are not independent refer back to what was decompressed before.
        let (before, out) = page.split_at_mut(filled);
        filled += if block.compressed {
            decompress_into_with_dict(content, out, before).map_err(|error| error.to_string())?
        } else {
            let out = out
                .get_mut(..content.len())
                .ok_or("its LZ4 frame holds more than a page")?;
            out.copy_from_slice(content);
            content.len()
        };
        at = block.end + head.block_checksum;
    }
    if filled != page.len() {
        return Err(format!("{filled} bytes where the page has {}", page.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;
    use crate::PageSize;

    /// Half random, half repeated.
    fn page(len: usize) -> Vec<u8> {
        let mut page = vec![7; len];
        fastrand::Rng::with_seed(1).fill(&mut page[..len / 2]);
        page
    }

    /// The page as a frame of several blocks, which the encoder ends at each flush.
    fn frame(info: FrameInfo, page: &[u8], blocks: usize) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        for part in page.chunks(page.len() / blocks) {
            encoder.write_all(part).expect("memory takes all");
            encoder.flush().expect("memory takes all");
        }
        encoder.finish().expect("a frame")
    }

    fn infos() -> Vec<FrameInfo> {
        let mut infos = Vec::new();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for flags in 0..8 {
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(BlockSize::Max64KB);
                let size = (flags & 4 != 0).then_some(4096);
                let info = info.block_checksums(flags & 1 != 0).content_size(size);
                infos.push(info.content_checksum(flags & 2 != 0));
            }
        }
        infos
    }

    #[test]
    fn frames_of_every_kind_are_read_and_end_where_they_end() {
        for info in infos() {
            for blocks in [1, 2, 8] {
                let page = page(4096);
                let frame = frame(info.clone(), &page, blocks);
                let longer = [frame.as_slice(), b"what follows"].concat();
                assert_eq!(extent(&longer, 10_000), Ok(Extent::Complete(frame.len())));
                let mut found = vec![0; page.len()];
                decompress(&frame, &mut found).expect("a good frame");
                assert!(found == page, "{info:?} in {blocks} blocks");
            }
        }
    }

    #[test]
    fn a_frame_of_an_encoder_that_flushes_at_every_chance_is_read() {
        let size = PageSize::new(512).expect("a page size");
        let frame = frame(FrameInfo::new(), &page(512), 64);
        assert!(frame.len() > crate::page::max_block(size) + 2);
        let blocks = frame.len() - 4; // and the mark that ends them
        for max in [blocks, crate::page::max_stream(size)] {
            assert_eq!(extent(&frame, max), Ok(Extent::Complete(frame.len())));
        }
        assert!(extent(&frame, blocks - 1).is_err());
    }

    #[test]
    fn a_frame_that_is_cut_off_asks_for_more_and_never_panics() {
        for info in infos() {
            let frame = frame(info, &page(4096), 2);
            for len in 0..frame.len() {
                let more = extent(&frame[..len], 10_000).expect("a good beginning");
                assert!(
                    matches!(more, Extent::Needs(needs) if len < needs && needs <= frame.len())
                );
                // What lies behind the mark at the end is not needed for the content.
                if len + 8 < frame.len() {
                    assert!(decompress(&frame[..len], &mut [0; 4096]).is_err());
                }
            }
        }
    }

    #[test]
    fn a_frame_of_less_or_more_than_a_page_is_refused() {
        let frame = frame(FrameInfo::new(), &page(4096), 2);
        for len in [512, 2048, 4095, 4097, 8192] {
            assert!(decompress(&frame, &mut vec![0; len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_block_larger_than_any_page_is_refused_before_it_is_read() {
        let mut frame = frame(FrameInfo::new(), &page(4096), 1);
        frame
            .get_mut(7..11)
            .expect("a block size")
            .copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        assert!(extent(&frame, 10_000).is_err());
    }
}
