// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table that leads from DMA addresses to memory.

use super::file::FileMap;
use std::sync::Arc;
use verbena_engine::{Dma, GuestRam};
use vm_memory::{VolatileMemory, VolatileSlice};

/// Mappings are made of whole pages of this size.
pub const PAGE_SIZE: u64 = 4096;

/// Most memory files of one address space. QEMU gives one for each memory backend.
pub const MAX_FILES: usize = 64;

/// One stretch of DMA addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Last address: a mapping may end where the address space does.
    pub last: u64,
    /// What is there.
    pub backing: Backing,
}

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Nothing that the device can reach: the client gave no file (ROM, another device's registers).
    None,
    /// Memory.
    File {
        /// Index in the address space's files.
        file: usize,
        /// Offset of the mapping's first byte in it.
        offset: u64,
        /// Whether the device may write.
        writable: bool,
    },
}

/// Why a mapping cannot be made or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Length zero, not made of whole pages, or beyond the end of the address space.
    #[error("the range is not made of whole pages of the address space")]
    Range,
    /// Part of the range is mapped already.
    #[error("part of the range is mapped already")]
    Overlap,
    /// The range would cut a mapping in two.
    #[error("the range covers only a part of a mapping")]
    Partial,
    /// Nothing is mapped there.
    #[error("nothing is mapped there")]
    NotMapped,
    /// Too many mappings or too many files.
    #[error("there is no room for another mapping")]
    Full,
}

impl MapError {
    /// The errno that a client gets.
    pub fn errno(self) -> i32 {
        match self {
            Self::Range | Self::Partial => libc::EINVAL,
            Self::Overlap => libc::EEXIST,
            Self::NotMapped => libc::ENOENT,
            Self::Full => libc::ENOSPC,
        }
    }
}

/// Everything that one HCA can reach by DMA. Immutable.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    /// Sorted by address, disjoint.
    mappings: Vec<Mapping>,
    /// The files that mappings name.
    files: Vec<Arc<FileMap>>,
}

fn range(address: u64, size: u64) -> Result<(u64, u64), MapError> {
    if size == 0 || address % PAGE_SIZE != 0 || size % PAGE_SIZE != 0 {
        return Err(MapError::Range);
    }
    let last = address.checked_add(size - 1).ok_or(MapError::Range)?;
    Ok((address, last))
}

impl AddressSpace {
    /// The mappings, in the order of addresses.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The file that a [`Backing`] names.
    pub fn file(&self, index: usize) -> &FileMap {
        &self.files[index]
    }

    /// The files.
    pub fn files(&self) -> &[Arc<FileMap>] {
        &self.files
    }

    /// The table with one more mapping. `memory` is the file, the offset in it and whether the device may write.
    ///
    /// # Errors
    ///
    /// The range is not allowed or taken, or the table is full (`limit` mappings).
    pub fn with(
        &self,
        address: u64,
        size: u64,
        memory: Option<(Arc<FileMap>, u64, bool)>,
        limit: usize,
    ) -> Result<Self, MapError> {
        let (start, last) = range(address, size)?;
        let at = self.mappings.partition_point(|mapping| mapping.last < start);
        if self.mappings.get(at).is_some_and(|next| next.start <= last) {
            return Err(MapError::Overlap);
        }
        if self.mappings.len() >= limit {
            return Err(MapError::Full);
        }
        let mut new = self.clone();
        let backing = match memory {
            None => Backing::None,
            Some((file, offset, writable)) => {
                let known = new.files.iter().position(|known| Arc::ptr_eq(known, &file));
                let index = match known {
                    Some(index) => index,
                    None if new.files.len() >= MAX_FILES => return Err(MapError::Full),
                    None => {
                        new.files.push(file);
                        new.files.len() - 1
                    }
                };
                Backing::File {
                    file: index,
                    offset,
                    writable,
                }
            }
        };
        new.mappings.insert(at, Mapping { start, last, backing });
        Ok(new)
    }

    /// The table without the mappings in a range.
    ///
    /// # Errors
    ///
    /// The range is not allowed, holds nothing, or cuts a mapping.
    pub fn without(&self, address: u64, size: u64) -> Result<Self, MapError> {
        let (start, last) = range(address, size)?;
        let from = self.mappings.partition_point(|mapping| mapping.last < start);
        let to = self.mappings.partition_point(|mapping| mapping.start <= last);
        let Some(gone) = self.mappings.get(from..to).filter(|gone| !gone.is_empty()) else {
            return Err(MapError::NotMapped);
        };
        if gone[0].start < start || gone[gone.len() - 1].last > last {
            return Err(MapError::Partial);
        }
        let mut mappings = self.mappings.clone();
        mappings.drain(from..to);
        Ok(Self {
            mappings,
            files: self.files.clone(),
        }
        .forget_unused_files())
    }

    fn forget_unused_files(mut self) -> Self {
        let mut used = vec![false; self.files.len()];
        for mapping in &self.mappings {
            if let Backing::File { file, .. } = mapping.backing {
                used[file] = true;
            }
        }
        if used.iter().all(|used| *used) {
            return self;
        }
        // Where each file that stays moves to.
        let mut next = 0;
        let places: Vec<usize> = used
            .iter()
            .map(|used| {
                let place = next;
                next += usize::from(*used);
                place
            })
            .collect();
        for mapping in &mut self.mappings {
            if let Backing::File { file, .. } = &mut mapping.backing {
                *file = places[*file];
            }
        }
        let mut keep = used.iter();
        self.files.retain(|_| *keep.next().expect("one entry for each file"));
        self
    }
}

impl GuestRam for AddressSpace {
    #[inline]
    fn slice(&self, addr: u64, len: usize, dma: Dma) -> Option<VolatileSlice<'_>> {
        let at = self.mappings.partition_point(|mapping| mapping.last < addr);
        let mapping = self.mappings.get(at).filter(|mapping| mapping.start <= addr)?;
        let Backing::File { file, offset, writable } = mapping.backing else {
            return None;
        };
        if dma == Dma::Write && !writable {
            return None;
        }
        // The mapping was checked against the file's size when it was made, so neither the sum overflows nor does the
        // slice end beyond the memory.
        let into = addr - mapping.start;
        let left = (mapping.last - addr).saturating_add(1);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        self.files[file].memory().get_slice((offset + into) as usize, len).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{testing::memfd, FileMaps};
    use super::*;
    use std::io::{Read, Seek, Write};
    use vm_memory::Bytes;

    const LIMIT: usize = 8;

    #[test]
    fn h13_lookup_finds_the_byte_and_stops_at_the_mapping() {
        let maps = FileMaps::default();
        let file = memfd(4 * PAGE_SIZE);
        let map = maps.get(&file, 4 * PAGE_SIZE).unwrap();
        let space = AddressSpace::default()
            .with(0x10_0000, 2 * PAGE_SIZE, Some((map.clone(), PAGE_SIZE, true)), LIMIT)
            .unwrap()
            .with(0x10_2000, PAGE_SIZE, Some((map, 0, false)), LIMIT)
            .unwrap();

        let slice = space.slice(0x10_0ffe, 0x3000, Dma::Write).unwrap();
        assert_eq!(slice.len(), 0x1002, "up to the end of the mapping");
        slice.write_slice(b"VB", 0).unwrap();
        let mut file = file;
        file.seek(std::io::SeekFrom::Start(PAGE_SIZE + 0xffe)).unwrap();
        let mut bytes = [0; 2];
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"VB");

        assert!(space.slice(0x10_2000, 1, Dma::Write).is_none(), "a read-only mapping");
        assert!(space.slice(0x10_2000, 1, Dma::Read).is_some());
        assert!(space.slice(0x0f_ffff, 1, Dma::Read).is_none(), "before the first");
        assert!(space.slice(0x10_3000, 1, Dma::Read).is_none(), "after the last");
        file.flush().unwrap();
    }

    #[test]
    fn h13_ranges_are_whole_pages_disjoint_and_removed_as_they_were_made() {
        let space = AddressSpace::default().with(0x4000, 0x2000, None, LIMIT).unwrap();
        let refuse = |address, size| space.with(address, size, None, LIMIT).unwrap_err();
        assert_eq!(refuse(0x5000, 0x1000), MapError::Overlap);
        assert_eq!(refuse(0x3000, 0x2000), MapError::Overlap);
        assert_eq!(refuse(0x0000, 0x10000), MapError::Overlap);
        assert_eq!(refuse(0x0000, 0), MapError::Range);
        assert_eq!(refuse(0x0001, 0x1000), MapError::Range);
        assert_eq!(refuse(0x0000, 0x1001), MapError::Range);
        assert_eq!(refuse(!0xfff, 0x2000), MapError::Range);
        assert!(space.with(!0xfff, 0x1000, None, LIMIT).is_ok(), "the last page");

        assert_eq!(space.without(0x4000, 0x1000).unwrap_err(), MapError::Partial);
        assert_eq!(space.without(0x5000, 0x1000).unwrap_err(), MapError::Partial);
        assert_eq!(space.without(0x6000, 0x1000).unwrap_err(), MapError::NotMapped);
        assert_eq!(space.without(0x4000, 0x2000).unwrap().mappings(), []);
        assert_eq!(
            space.without(0, 0x10000).unwrap().mappings(),
            [],
            "a range that covers it"
        );
    }

    #[test]
    fn h13_the_number_of_mappings_is_bounded() {
        let mut space = AddressSpace::default();
        for page in 0..LIMIT as u64 {
            space = space.with(page * PAGE_SIZE, PAGE_SIZE, None, LIMIT).unwrap();
        }
        let more = space.with(1 << 32, PAGE_SIZE, None, LIMIT);
        assert_eq!(more.unwrap_err(), MapError::Full);
    }

    #[test]
    fn h13_a_file_is_let_go_with_its_last_mapping() {
        let maps = FileMaps::default();
        let (a, b) = (memfd(PAGE_SIZE), memfd(PAGE_SIZE));
        let (map_a, map_b) = (maps.get(&a, PAGE_SIZE).unwrap(), maps.get(&b, PAGE_SIZE).unwrap());
        let space = AddressSpace::default()
            .with(0, PAGE_SIZE, Some((map_a.clone(), 0, true)), LIMIT)
            .unwrap()
            .with(PAGE_SIZE, PAGE_SIZE, Some((map_b.clone(), 0, true)), LIMIT)
            .unwrap();
        drop((map_a, map_b));
        space
            .slice(PAGE_SIZE, 1, Dma::Write)
            .unwrap()
            .write_obj(7u8, 0)
            .unwrap();

        let space = space.without(0, PAGE_SIZE).unwrap();
        assert_eq!(space.files().len(), 1);
        let byte: u8 = space.slice(PAGE_SIZE, 1, Dma::Read).unwrap().read_obj(0).unwrap();
        assert_eq!(byte, 7, "the mapping that stays still names its own file");
    }
}
