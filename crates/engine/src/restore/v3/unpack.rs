//! LZ4 frames as Litestream 0.3 writes them: one to a file, checksum included.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;

/// What `age` puts at the start of an encrypted file.
const ENCRYPTED: &[u8] = b"age-";

/// Reads one LZ4 frame, in bounded memory, and verifies that it is whole and that nothing follows.
pub(super) struct Unpack<R: Read> {
    decoder: FrameDecoder<Whole<R>>,
    ended: bool,
}

/// An input whose end is an error, since the decoder takes some cuts for the end of the frame.
struct Whole<R> {
    inner: R,
    start: Vec<u8>,
}

impl<R: Read> Unpack<R> {
    pub(super) fn new(inner: R) -> Self {
        let start = Vec::new();
        Self {
            decoder: FrameDecoder::new(Whole { inner, start }),
            ended: false,
        }
    }

    fn explain(&self, error: io::Error) -> io::Error {
        if self.decoder.get_ref().start.starts_with(ENCRYPTED) {
            return io::Error::other(
                "it is encrypted with age, which Litestream 0.3 could do: decrypt all files of \
                 the generation with `age --decrypt` first",
            );
        }
        error
    }
}

impl<R: Read> Read for Unpack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.decoder.read(buffer);
        let read = read.map_err(|error| self.explain(error))?;
        if read == 0 {
            self.ended = true;
            if self.decoder.get_mut().inner.read(&mut [0])? > 0 {
                return Err(io::Error::other("something follows its end"));
            }
        }
        Ok(read)
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            // Not `UnexpectedEof`: the decoder has its own idea of that.
            return Err(io::Error::other("it is cut off"));
        }
        let room = ENCRYPTED.len().saturating_sub(self.start.len());
        self.start
            .extend(buffer.iter().take(read.min(room)).copied());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    /// As Litestream's encoder has it: independent blocks, a checksum of the content.
    fn packed(content: &[u8]) -> Vec<u8> {
        let info = FrameInfo::new()
            .content_checksum(true)
            .block_size(BlockSize::Max64KB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Unpack::new(bytes).read_to_end(&mut content)?;
        Ok(content)
    }

    fn content() -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..150_000)
            .map(|at| random.u8(..) & (at >> 9) as u8)
            .collect()
    }

    #[test]
    fn a_frame_cut_anywhere_or_with_something_behind_it_is_refused() {
        let (content, bytes) = (content(), packed(&content()));
        assert_eq!(unpacked(&bytes).unwrap(), content);
        let every = 13; // coprime to all block sizes
        let cuts = (0..bytes.len()).filter(|at| at % every == 0 || *at < 100);
        for len in cuts.chain(bytes.len() - 20..bytes.len()) {
            assert!(unpacked(&bytes[..len]).is_err(), "{len} bytes");
        }
        for more in [&b"\0"[..], &bytes] {
            assert!(unpacked(&[&bytes, more].concat()).is_err());
        }
    }

    #[test]
    fn a_cut_between_two_blocks_is_seen() {
        let bytes = packed(&content());
        // The first block starts behind the header; each is led by its size.
        let mut at = 7;
        let mut blocks = 0;
        loop {
            let size = u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) & 0x7fff_ffff;
            assert!(unpacked(&bytes[..at]).is_err(), "cut at {at}");
            if size == 0 {
                break;
            }
            at += 4 + size as usize;
            blocks += 1;
        }
        assert!(blocks > 2);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused_or_changes_nothing() {
        let (content, bytes) = (content(), packed(&content()));
        let mut random = fastrand::Rng::with_seed(11);
        let places = (0..11).chain(bytes.len() - 9..bytes.len());
        let somewhere: Vec<_> = (0..300).map(|_| random.usize(..bytes.len())).collect();
        for place in places.chain(somewhere) {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[place] ^= 1 << bit;
                match unpacked(&bad) {
                    Ok(found) => assert!(found == content, "bit {bit} of byte {place}"),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }

    #[test]
    fn an_encrypted_file_is_called_so() {
        let error = unpacked(b"age-encryption.org/v1\n-> X25519 abc\n").unwrap_err();
        assert!(error.to_string().contains("age --decrypt"), "{error}");
    }
}
