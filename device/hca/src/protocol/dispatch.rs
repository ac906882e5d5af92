// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out one complete message: parse, validate, call the backend, say what to answer.

use super::shape::Shape;
use super::wire::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, RegionAccess, RegionInfo, RegionIoFds, SetIrqs, SubRegion,
    Version, IO_DATA_MATCH, IO_EVENT_FD, MAX_DATA, MAX_DMA_MAPS, MAX_FDS, VERSION_MAJOR, VERSION_MINOR,
};
use super::Backend;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_DMA_UNMAP_FLAG_ALL, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_TYPE_MASK,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Why a message is not answered with success.
#[derive(Debug)]
pub enum Fault {
    /// The client gets this errno, and may go on.
    Errno(i32),
    /// The message breaks the protocol: the client gets EINVAL and the connection ends.
    Malformed(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        // A backend's error without an errno is a refusal of what the client asked for.
        Self::Errno(error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

/// What the two sides have agreed on, from the client's VERSION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Minor version.
    pub minor: u16,
    /// The most data that the client takes in one message.
    pub max_data: u32,
    /// The most descriptors that it takes.
    pub max_fds: u64,
}

#[derive(Serialize, Deserialize, Debug, Default)]
struct VersionData {
    #[serde(default)]
    capabilities: Capabilities,
}

// Only what this server acts on; a client may announce more.
#[derive(Serialize, Deserialize, Debug, Default)]
struct Capabilities {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_msg_fds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_data_xfer_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgsizes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_dma_maps: Option<u64>,
}

/// Carries out `body` of a VERSION command. Returns what was agreed on and the reply's body.
///
/// # Errors
///
/// Another major version, or text that is not JSON: nothing that follows can be relied upon.
pub fn negotiate(body: &[u8]) -> Result<(Agreement, Vec<u8>), Fault> {
    let (client, data) = fixed::<Version>(body)?;
    if client.major != VERSION_MAJOR {
        return Err(Fault::Malformed(format!(
            "the client speaks vfio-user {}.{}, the server {VERSION_MAJOR}.{VERSION_MINOR}",
            client.major, client.minor
        )));
    }
    // The text ends with a zero byte; a client without any text has defaults only.
    let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let terminated = text.len() < data.len();
    if !data.is_empty() && !terminated {
        return Err(Fault::Malformed("the version data is not terminated".into()));
    }
    let caps = if text.is_empty() {
        Capabilities::default()
    } else {
        serde_json::from_slice::<VersionData>(text)
            .map_err(|error| Fault::Malformed(format!("the version data is not valid: {error}")))?
            .capabilities
    };
    let agreement = Agreement {
        minor: client.minor.min(VERSION_MINOR),
        // Without the capability, the specification's default of 1 MiB holds: more than this server ever sends.
        max_data: caps
            .max_data_xfer_size
            .map_or(MAX_DATA, |theirs| theirs.min(u64::from(MAX_DATA)) as u32),
        // The specification's default.
        max_fds: caps.max_msg_fds.unwrap_or(1),
    };
    let answer = VersionData {
        capabilities: Capabilities {
            max_msg_fds: Some(u64::from(MAX_FDS)),
            max_data_xfer_size: Some(u64::from(MAX_DATA)),
            pgsizes: Some(4096),
            max_dma_maps: Some(MAX_DMA_MAPS as u64),
        },
    };
    let version = Version {
        major: VERSION_MAJOR,
        minor: agreement.minor,
    };
    let mut reply = version.as_bytes().to_vec();
    serde_json::to_writer(&mut reply, &answer).expect("numbers serialize into memory");
    reply.push(0);
    Ok((agreement, reply))
}

/// What a command is answered with.
#[derive(Debug, Default)]
pub struct Answer {
    /// The reply's body.
    pub body: Vec<u8>,
    /// The descriptor that goes with it: a client that announces nothing takes one.
    pub fd: Option<OwnedFd>,
}

impl From<Vec<u8>> for Answer {
    fn from(body: Vec<u8>) -> Self {
        Self { body, fd: None }
    }
}

/// One command that arrived after VERSION.
pub struct Request<'a> {
    /// Which.
    pub command: Command,
    /// Everything after the header.
    pub body: &'a [u8],
    /// The descriptors that came with it; what the command does not take is closed.
    pub fds: Vec<OwnedFd>,
    /// What VERSION agreed on.
    pub agreement: &'a Agreement,
}

/// Carries out `request`.
///
/// # Errors
///
/// See [`Fault`]. Whatever the client sent, nothing here panics.
pub fn carry_out(request: Request<'_>, shape: &Shape, backend: &mut dyn Backend) -> Result<Answer, Fault> {
    let Request {
        command,
        body,
        fds,
        agreement,
    } = request;
    if !fds.is_empty() && !matches!(command, Command::DMA_MAP | Command::DEVICE_SET_IRQS) {
        return Err(Fault::Errno(libc::EINVAL));
    }
    let body = match command {
        Command::DMA_MAP => dma_map(body, fds, backend),
        Command::DMA_UNMAP => dma_unmap(body, backend),
        Command::DEVICE_GET_INFO => {
            fixed::<DeviceInfo>(body)?;
            Ok(reply(&DeviceInfo {
                argsz: size_of::<DeviceInfo>() as u32,
                flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
                num_regions: shape.regions.len() as u32,
                num_irqs: shape.irqs.len() as u32,
            }))
        }
        Command::DEVICE_GET_REGION_INFO => region_info(body, shape),
        Command::DEVICE_GET_REGION_IO_FDS => return region_io_fds(body, shape, agreement, backend),
        Command::DEVICE_GET_IRQ_INFO => {
            let (asked, _) = fixed::<IrqInfo>(body)?;
            let irq = shape.irqs.get(asked.index as usize).ok_or(Fault::Errno(libc::EINVAL))?;
            Ok(reply(&IrqInfo {
                argsz: size_of::<IrqInfo>() as u32,
                flags: irq.flags,
                index: asked.index,
                count: irq.count,
            }))
        }
        Command::DEVICE_SET_IRQS => set_irqs(body, fds, shape, backend),
        Command::REGION_READ => region_read(body, shape, agreement, backend),
        Command::REGION_WRITE => region_write(body, shape, backend),
        Command::DEVICE_RESET => {
            backend.reset()?;
            Ok(Vec::new())
        }
        Command::VERSION => Err(Fault::Malformed("VERSION a second time".into())),
        _ => Err(Fault::Errno(libc::ENOTSUP)),
    };
    body.map(Answer::from)
}

/// The fixed part of a body, and what follows it.
fn fixed<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<(T, &[u8]), Fault> {
    T::read_from_prefix(body).map_err(|_| {
        Fault::Malformed(format!(
            "{} bytes where the command has at least {}",
            body.len(),
            size_of::<T>()
        ))
    })
}

fn reply<T: IntoBytes + Immutable>(body: &T) -> Vec<u8> {
    body.as_bytes().to_vec()
}

fn dma_map(body: &[u8], mut fds: Vec<OwnedFd>, backend: &mut dyn Backend) -> Result<Vec<u8>, Fault> {
    let (map, _) = fixed::<DmaMap>(body)?;
    if fds.len() > 1 {
        return Err(Fault::Errno(libc::EINVAL));
    }
    let file = fds.pop().map(File::from);
    let flags = DmaMapFlags::from_bits_retain(map.flags);
    backend.dma_map(flags, map.offset, map.address, map.size, file)?;
    Ok(Vec::new())
}

fn dma_unmap(body: &[u8], backend: &mut dyn Backend) -> Result<Vec<u8>, Fault> {
    let (unmap, _) = fixed::<DmaUnmap>(body)?;
    if unmap.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP != 0 {
        return Err(Fault::Errno(libc::ENOTSUP));
    }
    // "All" is the kernel's bit 1 with address and size 0. The vfio_user crate names that bit otherwise, so the
    // backend is asked for the whole range in so many words: by its raw bits.
    if unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL != 0 && (unmap.address != 0 || unmap.size != 0) {
        return Err(Fault::Errno(libc::EINVAL));
    }
    let flags = DmaUnmapFlags::from_bits_retain(unmap.flags);
    backend.dma_unmap(flags, unmap.address, unmap.size)?;
    Ok(reply(&unmap))
}

fn region_info(body: &[u8], shape: &Shape) -> Result<Vec<u8>, Fault> {
    let (asked, _) = fixed::<RegionInfo>(body)?;
    let region = shape
        .regions
        .get(asked.index as usize)
        .ok_or(Fault::Errno(libc::EINVAL))?;
    Ok(reply(&RegionInfo {
        argsz: size_of::<RegionInfo>() as u32,
        flags: region.flags,
        index: asked.index,
        cap_offset: 0,
        size: region.size,
        offset: 0,
    }))
}

/// The registers that an eventfd may stand for, and the eventfd. A client whose room is too small for the answer is told how much
/// it takes.
fn region_io_fds(
    body: &[u8],
    shape: &Shape,
    agreement: &Agreement,
    backend: &mut dyn Backend,
) -> Result<Answer, Fault> {
    let (asked, _) = fixed::<RegionIoFds>(body)?;
    let known = (asked.index as usize) < shape.regions.len();
    if !known || asked.flags != 0 || asked.count != 0 {
        return Err(Fault::Errno(libc::EINVAL));
    }
    let events = &shape.events;
    let count = if asked.index == events.region { events.count } else { 0 };
    let size = size_of::<RegionIoFds>() + count as usize * size_of::<SubRegion>();
    let mut body = reply(&RegionIoFds {
        argsz: size as u32,
        flags: 0,
        index: asked.index,
        count,
    });
    if count == 0 || (asked.argsz as usize) < size || agreement.max_fds == 0 {
        return Ok(body.into());
    }
    for n in 0..u64::from(count) {
        let register = SubRegion {
            offset: events.offset + n * events.stride,
            size: events.size,
            fd_index: 0,
            kind: IO_EVENT_FD,
            flags: IO_DATA_MATCH,
            padding: 0,
            datamatch: events.value,
        };
        body.extend_from_slice(register.as_bytes());
    }
    let fd = Some(backend.event_fd()?);
    Ok(Answer { body, fd })
}

/// Checks that an access lies inside a region.
fn access(access: &RegionAccess, shape: &Shape) -> Result<(), Fault> {
    let region = shape
        .regions
        .get(access.region as usize)
        .ok_or(Fault::Errno(libc::EINVAL))?;
    let end = access.offset.checked_add(u64::from(access.count));
    if access.count > MAX_DATA || end.is_none_or(|end| end > region.size) {
        return Err(Fault::Errno(libc::EINVAL));
    }
    Ok(())
}

fn region_read(body: &[u8], shape: &Shape, agreement: &Agreement, backend: &mut dyn Backend) -> Result<Vec<u8>, Fault> {
    let (wanted, _) = fixed::<RegionAccess>(body)?;
    access(&wanted, shape)?;
    if wanted.count > agreement.max_data {
        return Err(Fault::Errno(libc::EINVAL));
    }
    let mut answer = reply(&wanted);
    let data = answer.len();
    answer.resize(data + wanted.count as usize, 0);
    backend.region_read(wanted.region, wanted.offset, &mut answer[data..])?;
    Ok(answer)
}

fn region_write(body: &[u8], shape: &Shape, backend: &mut dyn Backend) -> Result<Vec<u8>, Fault> {
    let (wanted, data) = fixed::<RegionAccess>(body)?;
    access(&wanted, shape)?;
    if data.len() != wanted.count as usize {
        return Err(Fault::Malformed(format!(
            "{} bytes of data where its count says {}",
            data.len(),
            wanted.count
        )));
    }
    backend.region_write(wanted.region, wanted.offset, data)?;
    Ok(reply(&wanted))
}

fn set_irqs(body: &[u8], fds: Vec<OwnedFd>, shape: &Shape, backend: &mut dyn Backend) -> Result<Vec<u8>, Fault> {
    let (set, data) = fixed::<SetIrqs>(body)?;
    let irq = shape.irqs.get(set.index as usize).ok_or(Fault::Errno(libc::EINVAL))?;
    let kind = set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    let action = set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
    let known = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
    let end = set.start.checked_add(set.count);
    let valid = set.flags & !known == 0
        && matches!(
            action,
            VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER
        )
        && end.is_some_and(|end| end <= irq.count)
        && match kind {
            // No vectors at all: every one of the type loses its descriptor.
            VFIO_IRQ_SET_DATA_NONE => set.count != 0 || (set.start == 0 && action == VFIO_IRQ_SET_ACTION_TRIGGER),
            VFIO_IRQ_SET_DATA_BOOL => set.count != 0 && data.len() == set.count as usize,
            VFIO_IRQ_SET_DATA_EVENTFD => set.count != 0 && action == VFIO_IRQ_SET_ACTION_TRIGGER,
            _ => false,
        }
        && match fds.len() {
            0 => true,
            n => kind == VFIO_IRQ_SET_DATA_EVENTFD && n == set.count as usize,
        };
    if !valid {
        return Err(Fault::Errno(libc::EINVAL));
    }
    if kind == VFIO_IRQ_SET_DATA_BOOL {
        // The backend's interface has no room for the bytes: each vector that is named becomes a call of its own.
        let flags = VFIO_IRQ_SET_DATA_NONE | action;
        for (vector, wanted) in (set.start..).zip(data) {
            if *wanted != 0 {
                backend.set_irqs(set.index, flags, vector, 1, Vec::new())?;
            }
        }
        return Ok(Vec::new());
    }
    let files = fds.into_iter().map(File::from).collect();
    backend.set_irqs(set.index, set.flags, set.start, set.count, files)?;
    Ok(Vec::new())
}

/// The header of a reply.
pub fn reply_header(request: &Header, body: usize) -> Header {
    Header {
        message_id: request.message_id,
        command: request.command,
        message_size: (Header::SIZE + body) as u32,
        flags: Header::REPLY,
        error: 0,
    }
}

/// The header of a reply that says `errno`.
pub fn error_header(request: &Header, errno: i32) -> Header {
    Header {
        flags: Header::REPLY | Header::ERROR,
        error: errno.unsigned_abs(),
        ..reply_header(request, 0)
    }
}
