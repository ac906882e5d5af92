// SPDX-License-Identifier: MIT OR Apache-2.0
//! One HCA as a vfio-user client sees it: the seam between the protocol and the engine.
//!
//! Everything here runs in the main loop. BAR 0 and BAR 2 are the engine's; the configuration space and BAR 4 are kept
//! here; DMA mappings and interrupt vectors go to where the worker finds them.

use crate::memory::file::{FileError, FileMap, FileMaps};
use crate::memory::AddressSpace;
use crate::pci::config::{ConfigSpace, Effect};
use crate::pci::msix::MsixBar;
use crate::protocol::shape::{IRQ_ERROR, IRQ_MSIX, REGION_CONFIG};
use crate::protocol::wire::MAX_DMA_MAPS;
use crate::protocol::Backend;
use crate::shared::Shared;
use rustix::event::{eventfd, EventfdFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use verbena_hw::pci;
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_UNMAP_FLAG_ALL, VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_TYPE_MASK,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};

const REGION_REGS: u32 = pci::BAR_REGS as u32;
const REGION_DOORBELL: u32 = pci::BAR_DOORBELL as u32;
const REGION_MSIX: u32 = pci::BAR_MSIX as u32;

/// One HCA.
pub struct Device {
    shared: Arc<Shared>,
    files: Arc<FileMaps>,
    index: usize,
    config: ConfigSpace,
    msix: MsixBar,
    /// The eventfd by which the client rings, if it asked for one. Never another client's.
    bell: Option<OwnedFd>,
}

impl Device {
    /// HCA number `index`.
    pub fn new(shared: Arc<Shared>, files: Arc<FileMaps>, index: usize) -> Self {
        Self {
            shared,
            files,
            index,
            config: ConfigSpace::new(),
            msix: MsixBar::default(),
            bell: None,
        }
    }

    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its configuration space.
    pub fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// The eventfd by which the client rings, if it asked for one: to be waited for.
    pub fn bell(&self) -> Option<&OwnedFd> {
        self.bell.as_ref()
    }

    /// The eventfd has been signalled: what a write of [`RING_WAKE`](verbena_hw::doorbell::RING_WAKE) to the register of every
    /// doorbell page would be.
    pub fn rung(&self) {
        self.shared.rung(self.index);
    }

    /// The client is gone: no memory, no interrupts, the state after power-on. Peers see silence.
    pub fn detach(&mut self) {
        self.reset_function();
        self.shared.set_ram(self.index, AddressSpace::default());
        self.shared.port(self.index).vectors.clear();
        self.bell = None;
    }

    /// Whether memory that the client gave has vanished under the device.
    pub fn lost_memory(&self) -> bool {
        self.shared.ram(self.index).files().iter().any(|file| file.lost())
    }

    fn reset_function(&mut self) {
        let port = self.shared.port(self.index);
        self.shared.act(|engine, _, _| engine.reset_hca(port.id));
        port.vectors.reset();
        self.config.reset();
        self.msix = MsixBar::default();
    }

    /// The mapping of the memory behind a DMA_MAP, with the access that both the file and the client allow; `None` if
    /// the descriptor is no memory.
    fn memory(&self, file: &File, end: u64, flags: DmaMapFlags) -> Result<Option<(Arc<FileMap>, bool)>, FileError> {
        match self.files.get(file, end) {
            Ok(map) => {
                let writable = map.writable() && flags.contains(DmaMapFlags::WRITE);
                Ok(Some((map, writable)))
            }
            Err(FileError::NotMemory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An error that a client gets as `errno`.
fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// The bytes of an access as a number; an access that no register has keeps its low 8 bytes.
fn number(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = data.len().min(8);
    bytes[..len].copy_from_slice(&data[..len]);
    u64::from_le_bytes(bytes)
}

impl Backend for Device {
    fn event_fd(&mut self) -> io::Result<OwnedFd> {
        let bell = match self.bell.take() {
            Some(bell) => bell,
            None => eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        };
        self.bell.insert(bell).try_clone()
    }
}

impl ServerBackend for Device {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            REGION_REGS if !data.is_empty() => {
                let id = self.shared.port(self.index).id;
                let value = self
                    .shared
                    .inspect(|engine, _, _| engine.read_reg(id, offset, data.len()));
                // An access that is too wide reads as ones, all of it.
                data.fill(0xff);
                for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
                    *byte = value;
                }
            }
            // Doorbells read as zero.
            REGION_DOORBELL => data.fill(0),
            REGION_MSIX => self.msix.read(offset, data),
            REGION_CONFIG => {
                self.config.read(usize::try_from(offset).unwrap_or(usize::MAX), data);
            }
            _ if data.is_empty() => {}
            _ => return Err(errno(libc::EINVAL)),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let id = self.shared.port(self.index).id;
        match region {
            REGION_REGS if !data.is_empty() => self.shared.act(|engine, now, env| {
                engine.write_reg(id, offset, data.len(), number(data), now, env);
            }),
            REGION_DOORBELL if !data.is_empty() => self.shared.act(|engine, _, _| {
                engine.write_doorbell(id, offset, data.len(), number(data));
            }),
            REGION_MSIX => self.msix.write(offset, data),
            REGION_CONFIG => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                if self.config.write(offset, data) == Effect::FunctionLevelReset {
                    log::debug!("hca {}: function-level reset", self.index);
                    self.reset_function();
                }
            }
            _ if data.is_empty() => {}
            _ => return Err(errno(libc::EINVAL)),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let end = offset.checked_add(size).ok_or(errno(libc::EINVAL))?;
        let memory = match &file {
            None => None,
            Some(file) => self.memory(file, end, flags).map_err(|error| {
                log::warn!("hca {}: memory at {address:#x}: {error}", self.index);
                errno(error.errno())
            })?,
        };
        let memory = memory.map(|(map, writable)| (map, offset, writable));
        log::debug!(
            "hca {}: map {address:#x}+{size:#x}{}",
            self.index,
            if memory.is_some() { "" } else { " (no memory)" }
        );
        let space = self.shared.ram(self.index).with(address, size, memory, MAX_DMA_MAPS);
        self.shared
            .set_ram(self.index, space.map_err(|error| errno(error.errno()))?);
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        log::debug!("hca {}: unmap {address:#x}+{size:#x} {:#x}", self.index, flags.bits());
        let space = if flags.bits() & VFIO_DMA_UNMAP_FLAG_ALL != 0 {
            AddressSpace::default()
        } else {
            let space = self.shared.ram(self.index).without(address, size);
            space.map_err(|error| errno(error.errno()))?
        };
        self.shared.set_ram(self.index, space);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        log::debug!("hca {}: reset", self.index);
        self.reset_function();
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, flags: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        if index == IRQ_ERROR {
            // Never signalled: whatever the client binds to it is closed here.
            return Ok(());
        }
        if index != IRQ_MSIX {
            // No other type has a vector: the protocol lets only the removal of none through.
            return if count == 0 { Ok(()) } else { Err(errno(libc::EINVAL)) };
        }
        let vectors = &self.shared.port(self.index).vectors;
        let (first, number) = match (u16::try_from(start), u16::try_from(count)) {
            (Ok(first), Ok(number)) => (first, number),
            _ => return Err(errno(libc::EINVAL)),
        };
        let eventfds = flags & VFIO_IRQ_SET_DATA_TYPE_MASK == VFIO_IRQ_SET_DATA_EVENTFD;
        match flags & VFIO_IRQ_SET_ACTION_TYPE_MASK {
            VFIO_IRQ_SET_ACTION_MASK => vectors.mask(first, number, true),
            VFIO_IRQ_SET_ACTION_UNMASK => vectors.mask(first, number, false),
            // No descriptors for vectors that are named: they are latched from now on.
            _ if eventfds && fds.is_empty() => {
                vectors.bind(first, (0..number).map(|_| None).collect())?;
            }
            _ if eventfds => vectors.bind(first, fds.into_iter().map(Some).collect())?,
            _ if count == 0 => {
                vectors.bind(0, (0..pci::MSIX_VECTORS).map(|_| None).collect())?;
            }
            _ => (first..).take(number.into()).for_each(|vector| vectors.signal(vector)),
        }
        Ok(())
    }
}
