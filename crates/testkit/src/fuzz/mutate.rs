//! One small change of an input.

use fastrand::Rng;

/// Numbers that tip something over.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    65_536,
    1 << 30,
    1 << 31,
    1 << 32,
    1 << 63,
];

/// Makes one small change to `bytes`: cuts, repeats, overwrites, or takes a piece of `other` or one
/// of the words.
pub fn mutate(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    let at = random.usize(..=bytes.len());
    let end = bytes.len().min(at + random.usize(..40));
    match random.u8(..11) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => {
            let from = random.usize(..=other.len());
            let piece = &other[from..other.len().min(from + 60)];
            bytes.splice(at..end, piece.iter().copied());
        }
        4 => overwrite(bytes, at, &number(random)),
        5 if bytes.len() > 100 => bytes[random.usize(..100)] = random.u8(..),
        6 | 7 if !words.is_empty() => {
            let word = words[random.usize(..words.len())].as_bytes();
            let end = if random.bool() {
                at
            } else {
                end.min(at + word.len())
            };
            bytes.splice(at..end, word.iter().copied());
        }
        8 => {
            // Digits, and letters that are next to each other, for texts.
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(random.u8(..3)).wrapping_sub(1);
            }
        }
        9 => bytes.insert(at, random.u8(b' '..=b'~')),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
    }
}

/// A number at a limit, in either order of bytes and of one of the usual sizes.
fn number(random: &mut Rng) -> Vec<u8> {
    let value = NUMBERS[random.usize(..NUMBERS.len())].wrapping_sub(random.u64(..2));
    let size = [1, 2, 4, 8][random.usize(..4)];
    if random.bool() {
        value.to_be_bytes()[8 - size..].to_vec()
    } else {
        value.to_le_bytes()[..size].to_vec()
    }
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(piece) {
        *place = *byte;
    }
}
