// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process has mapped of a device: rings, doorbell pages, registers. They outlive a device that is taken away.
#![expect(
    unsafe_code,
    reason = "memory whose device is gone is what no safe interface touches"
)]

use anyhow::{Context as _, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Loads and stores a word in each page that this process has mapped of a device file of Verbena's; says how many pages that
/// are. A kernel that has left a hole where the device was ends the process by SIGBUS.
///
/// What is stored is what was loaded. Only when nobody else of the process uses the mappings: a word that somebody
/// changes meanwhile would be set back.
///
/// # Errors
///
/// The process cannot read its own list of mappings.
pub fn touch() -> Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("read /proc/self/maps")?;
    let pages = maps
        .lines()
        .filter_map(of_a_device)
        .flat_map(|(from, to)| (from..to).step_by(PAGE));
    let mut touched = 0;
    for page in pages {
        // SAFETY: the kernel has just said that a shared mapping of this process is there, readable and writable, and nothing
        // is unmapped by another thread while the caller holds what it belongs to. A page is aligned for a word, any bits are
        // one, and everybody else accesses it atomically.
        let word = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(page) };
        word.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        touched += 1;
    }
    Ok(touched)
}

/// Where a line of `/proc/self/maps` lies, if it is one of a device file of Verbena's that may be written.
fn of_a_device(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, path) = (words.next()?, words.next()?, words.nth(3)?);
    if !path.starts_with("/dev/verbena") || !rights.starts_with("rw") {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    Some((
        usize::from_str_radix(from, 16).ok()?,
        usize::from_str_radix(to, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::of_a_device;

    #[test]
    fn u13_mappings_of_a_device_are_told_from_others() {
        let line = |text| of_a_device(text);
        let ours = "7f0000001000-7f0000003000 rw-s 100000000 00:06 401                    /dev/verbena0 (deleted)";
        assert_eq!(line(ours), Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        assert_eq!(line("7f0000001000-7f0000003000 rw-p 00000000 00:00 0"), None);
        assert_eq!(
            line("7f0000001000-7f0000003000 r--s 00000000 00:06 401 /dev/verbena0"),
            None
        );
        assert_eq!(
            line("7f0000001000-7f0000003000 rw-s 00000000 00:05 7 /dev/zero (deleted)"),
            None
        );
    }
}
