// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory files: each is mapped once in this process, whoever shares it and however often.

use super::advice;
use super::fault::Watch;
use rustix::fs::{fcntl_getfl, fstat, fstatfs, FileType, OFlags};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

/// Largest memory file: what a whole-file mapping may take of this process' address space.
pub const MAX_FILE_SIZE: u64 = 16 << 40;

/// A memory file, mapped in full.
#[derive(Debug)]
pub struct FileMap {
    // Before the memory: the watch must have ended when the mapping goes.
    watch: Watch,
    memory: MmapRegion<()>,
    key: Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    writable: bool,
}

impl FileMap {
    /// The memory.
    #[inline]
    pub fn memory(&self) -> &MmapRegion<()> {
        &self.memory
    }

    /// Whether the file was opened for writing.
    pub fn writable(&self) -> bool {
        self.key.writable
    }

    /// The file's length when it was mapped.
    pub fn size(&self) -> u64 {
        self.memory.size() as u64
    }

    /// The file's inode number.
    pub fn inode(&self) -> u64 {
        self.key.inode
    }

    /// Whether memory was found missing: the file has been truncated since, and the device sees zeros.
    pub fn lost(&self) -> bool {
        self.watch.hit()
    }
}

/// Why a file cannot be used as memory.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no memory: a device's descriptor, a socket. Not an error of the client; the device cannot reach it.
    #[error("the descriptor is not a memory file")]
    NotMemory,
    /// The mapping would reach beyond the file's end, where an access raises SIGBUS.
    #[error("the file has {size} bytes, {needed} are to be mapped")]
    TooShort {
        /// Its length.
        size: u64,
        /// The end of the mapping.
        needed: u64,
    },
    /// Longer than [`MAX_FILE_SIZE`].
    #[error("a memory file of {0} bytes is too large")]
    TooLarge(u64),
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It cannot be mapped.
    #[error("the file cannot be mapped: {0}")]
    Map(#[from] MmapRegionError),
}

impl FileError {
    /// The errno that a client gets.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotMemory | Self::TooShort { .. } => libc::EINVAL,
            Self::TooLarge(_) => libc::EFBIG,
            Self::Io(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
            Self::Map(MmapRegionError::Mmap(error)) => error.raw_os_error().unwrap_or(libc::ENOMEM),
            Self::Map(_) => libc::ENOMEM,
        }
    }
}

/// The memory files of a server.
#[derive(Debug, Default)]
pub struct FileMaps {
    maps: Mutex<HashMap<Key, Weak<FileMap>>>,
}

/// `statfs` of a file system in user space, whose pages a hostile process can withhold for as long as it likes.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

impl FileMaps {
    /// The mapping of `file`, which must have at least `needed` bytes.
    ///
    /// # Errors
    ///
    /// See [`FileError`].
    pub fn get(&self, file: &File, needed: u64) -> Result<Arc<FileMap>, FileError> {
        let stat = fstat(file).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::NotMemory);
        }
        if fstatfs(file).map_err(io::Error::from)?.f_type as u64 == FUSE_SUPER_MAGIC {
            return Err(FileError::NotMemory);
        }
        let size = stat.st_size as u64;
        if needed > size {
            return Err(FileError::TooShort { size, needed });
        }
        if size > MAX_FILE_SIZE {
            return Err(FileError::TooLarge(size));
        }
        let mode = fcntl_getfl(file).map_err(io::Error::from)? & OFlags::RWMODE;
        let writable = match mode {
            OFlags::RDWR => true,
            OFlags::RDONLY => false,
            // Memory cannot be mapped for writing alone.
            _ => return Err(FileError::NotMemory),
        };
        let key = Key {
            device: stat.st_dev,
            inode: stat.st_ino,
            writable,
        };

        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that has grown since it was mapped, or that lost memory, is mapped anew.
        let known = maps.get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.size() >= needed && !known.lost()) {
            return Ok(known);
        }
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let memory = MmapRegion::build(
            Some(FileOffset::new(file.try_clone()?, 0)),
            size as usize,
            protection,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )?;
        advice::prefer_huge_pages(&memory);
        let watch = Watch::new(memory.as_ptr() as usize, memory.size()).ok_or_else(|| {
            // As many files as a server with hundreds of guests has.
            io::Error::from_raw_os_error(libc::ENOSPC)
        })?;
        let map = Arc::new(FileMap { watch, memory, key });
        maps.retain(|_, map| map.strong_count() > 0);
        maps.insert(key, Arc::downgrade(&map));
        Ok(map)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::fs::File;

    /// A memory file of `size` bytes.
    pub(crate) fn memfd(size: u64) -> File {
        let fd = rustix::fs::memfd_create("verbena-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(size).unwrap();
        file
    }
}

#[cfg(test)]
mod tests {
    use super::testing::memfd;
    use super::*;
    use vm_memory::{Bytes, VolatileMemory};

    #[test]
    fn h13_a_file_is_mapped_once_however_often_it_is_named() {
        let maps = FileMaps::default();
        let file = memfd(8192);
        let a = maps.get(&file, 8192).unwrap();
        let b = maps.get(&file.try_clone().unwrap(), 4096).unwrap();
        assert!(Arc::ptr_eq(&a, &b));
        file.set_len(16384).unwrap();
        let c = maps.get(&file, 16384).unwrap();
        assert_eq!(c.size(), 16384, "grown since");
    }

    #[test]
    fn h14_what_is_no_memory_is_refused() {
        let maps = FileMaps::default();
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(maps.get(&null, 4096), Err(FileError::NotMemory)));
        let short = memfd(4096);
        assert!(matches!(
            maps.get(&short, 8192),
            Err(FileError::TooShort {
                size: 4096,
                needed: 8192
            })
        ));
    }

    #[test]
    fn h14_memory_that_is_truncated_reads_as_zero_and_is_reported() {
        let maps = FileMaps::default();
        let file = memfd(8192);
        let other = memfd(4096);
        let map = maps.get(&file, 8192).unwrap();
        let bystander = maps.get(&other, 4096).unwrap();
        map.memory().get_slice(4096, 1).unwrap().write_obj(0x55u8, 0).unwrap();
        assert!(!map.lost());

        file.set_len(0).unwrap();
        let byte: u8 = map.memory().get_slice(4096, 1).unwrap().read_obj(0).unwrap();
        assert_eq!(byte, 0, "the process is alive and sees nothing of the old content");
        assert!(map.lost());
        assert!(!bystander.lost(), "another guest's memory is untouched");
    }
}
