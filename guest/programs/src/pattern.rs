// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes that tests send: each depends on its offset and on the iteration, so that data of the wrong place or of
//! the wrong time is noticed.

use verbena::Buffer;

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

/// How many of `len` bytes at `offset` come before the first whole word of the pattern.
fn head(len: usize, offset: u64) -> usize {
    ((8 - offset % 8) as usize % 8).min(len)
}

/// Writes the pattern of `[offset, offset + buf.len())` into `buf`.
pub fn fill(buf: &mut [u8], offset: u64, iteration: u64) {
    let (head, rest) = buf.split_at_mut(head(buf.len(), offset));
    bytewise(head, offset, iteration);
    let mut index = (offset + head.len() as u64) / 8;
    let mut words = rest.chunks_exact_mut(8);
    for chunk in &mut words {
        chunk.copy_from_slice(&word(index, iteration).to_le_bytes());
        index += 1;
    }
    bytewise(words.into_remainder(), index * 8, iteration);
}

fn bytewise(buf: &mut [u8], offset: u64, iteration: u64) {
    for (byte_, at) in buf.iter_mut().zip(offset..) {
        *byte_ = byte(at, iteration);
    }
}

/// The first byte of `buf` that is not the pattern's, as an offset in `buf`.
pub fn first_difference(buf: &[u8], offset: u64, iteration: u64) -> Option<usize> {
    let (head, rest) = buf.split_at(head(buf.len(), offset));
    if let Some(at) = bytewise_difference(head, offset, iteration) {
        return Some(at);
    }
    let first = (offset + head.len() as u64) / 8;
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    for (chunk, index) in words.zip(first..) {
        if chunk != word(index, iteration).to_le_bytes() {
            let at = (index - first) as usize * 8;
            return bytewise_difference(chunk, index * 8, iteration).map(|i| head.len() + at + i);
        }
    }
    let at = rest.len() - tail.len();
    bytewise_difference(tail, (first * 8) + at as u64, iteration).map(|i| head.len() + at + i)
}

fn bytewise_difference(buf: &[u8], offset: u64, iteration: u64) -> Option<usize> {
    (0..buf.len()).find(|&i| buf[i] != byte(offset + i as u64, iteration))
}

/// Bytes that go between a buffer and the pattern at once: on the stack, so that nothing is allocated on a path whose
/// system calls are counted.
const CHUNK: usize = 8192;

/// Writes `len` bytes at `at` of `buffer`: the pattern from `offset` on.
///
/// # Panics
///
/// If the range is not inside the buffer.
pub fn fill_buffer(buffer: &Buffer, at: usize, len: usize, offset: u64, iteration: u64) {
    let mut chunk = [0; CHUNK];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(CHUNK);
        fill(&mut chunk[..n], offset + done as u64, iteration);
        buffer.write_at(at + done, &chunk[..n]);
        done += n;
    }
}

/// Compares `len` bytes at `at` of `buffer` with the pattern from `offset` on; the first difference, as an offset in
/// `buffer`.
///
/// # Panics
///
/// If the range is not inside the buffer.
pub fn difference_in_buffer(buffer: &Buffer, at: usize, len: usize, offset: u64, iteration: u64) -> Option<usize> {
    let mut chunk = [0; CHUNK];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(CHUNK);
        buffer.read_at(at + done, &mut chunk[..n]);
        if let Some(i) = first_difference(&chunk[..n], offset + done as u64, iteration) {
            return Some(at + done + i);
        }
        done += n;
    }
    None
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
    fn words_and_bytes_agree_at_every_alignment() {
        for offset in 0..17 {
            for len in 0..33 {
                let mut buf = vec![0u8; len];
                fill(&mut buf, offset, 9);
                assert!((0..len).all(|i| buf[i] == byte(offset + i as u64, 9)));
            }
        }
    }

    #[test]
    fn every_wrong_byte_is_found_where_it_is() {
        for offset in 0..9 {
            for len in 1..33 {
                let mut buf = vec![0u8; len];
                fill(&mut buf, offset, 4);
                for wrong in 0..len {
                    buf[wrong] ^= 0x10;
                    assert_eq!(
                        first_difference(&buf, offset, 4),
                        Some(wrong),
                        "offset {offset}, length {len}"
                    );
                    buf[wrong] ^= 0x10;
                }
                assert_eq!(first_difference(&buf, offset, 4), None);
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
