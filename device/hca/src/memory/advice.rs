// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel is told about memory that is mapped here.

use rustix::mm::{madvise, Advice};
use vm_memory::MmapRegion;

/// Asks for pages of 2 MiB where the file has them: QEMU asks for its side, but the size of a page is every mapping's own, and
/// with 65,536 queue pairs in turn almost each access is to a page whose translation is nowhere near. A file that has none
/// changes nothing.
pub(super) fn prefer_huge_pages(memory: &MmapRegion<()>) {
    // SAFETY: the region is mapped as long as the reference lives, and the advice changes the size of pages, not what is in
    // them.
    let advised = unsafe { madvise(memory.as_ptr().cast(), memory.size(), Advice::LinuxHugepage) };
    if let Err(error) = advised {
        log::debug!("no huge pages: {error}");
    }
}
