// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that tests send: each depends on its offset and on the iteration, so that data of the wrong place or of
//! the wrong time is noticed.

/// The byte at `offset` in iteration `iteration`.
pub fn byte(offset: u64, iteration: u64) -> u8 {
    word(offset / 8, iteration).to_le_bytes()[(offset % 8) as usize]
}

/// The 8 bytes at word `index` in iteration `iteration`: a mix (the finaliser of SplitMix64) of both.
fn word(index: u64, iteration: u64) -> u64 {
    let mut x = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ iteration.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Calls `f` with each piece of `len` bytes from `offset` that lies in one word of the pattern, and with its bytes.
fn pieces(len: usize, offset: u64, iteration: u64, mut f: impl FnMut(std::ops::Range<usize>, &[u8]) -> bool) {
    let mut at = 0;
    while at < len {
        let position = offset + at as u64;
        let skip = (position % 8) as usize;
        let n = (8 - skip).min(len - at);
        let bytes = word(position / 8, iteration).to_le_bytes();
        if !f(at..at + n, &bytes[skip..skip + n]) {
            return;
        }
        at += n;
    }
}

/// Writes the pattern of `[offset, offset + buf.len())` into `buf`.
pub fn fill(buf: &mut [u8], offset: u64, iteration: u64) {
    pieces(buf.len(), offset, iteration, |range, bytes| {
        buf[range].copy_from_slice(bytes);
        true
    });
}

/// The first byte of `buf` that is not the pattern's, as an offset in `buf`.
pub fn first_difference(buf: &[u8], offset: u64, iteration: u64) -> Option<usize> {
    let mut first = None;
    pieces(buf.len(), offset, iteration, |range, bytes| {
        if buf[range.clone()] != *bytes {
            first = range.clone().find(|&i| buf[i] != byte(offset + i as u64, iteration));
        }
        first.is_none()
    });
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_depends_on_offset_and_iteration() {
        let mut a = [0u8; 256];
        fill(&mut a, 0, 1);
        assert_eq!(first_difference(&a, 0, 1), None);
        assert!(first_difference(&a, 0, 2).is_some());
        assert!(first_difference(&a, 1, 1).is_some());
        a[255] ^= 1;
        assert_eq!(first_difference(&a, 0, 1), Some(255));
    }

    #[test]
    fn pieces_and_bytes_agree_at_every_alignment() {
        for offset in 0..17 {
            for len in 0..33 {
                let mut buf = vec![0u8; len];
                fill(&mut buf, offset, 9);
                assert!((0..len).all(|i| buf[i] == byte(offset + i as u64, 9)));
            }
        }
    }

    #[test]
    fn pattern_continues_across_fills() {
        let mut whole = [0u8; 100];
        fill(&mut whole, 7, 3);
        let mut part = [0u8; 50];
        fill(&mut part, 57, 3);
        assert_eq!(whole[50..], part);
    }
}
