// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eventfd that wakes a device: VFIO_USER_DEVICE_GET_REGION_IO_FDS, which `vfio_user::Client` cannot ask for.
//!
//! A server may offer an eventfd in place of writes of a value to a register, as a hypervisor has KVM signal one. Here
//! it stands for [`RING_WAKE`] in the doorbell registers. A signal is half of what a message on the socket costs both sides,
//! and it is what the first message after a pause waits for.

use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use verbena_hw::doorbell::{RegisterAddress, PAGES, REG_RING, RING_WAKE};
use verbena_hw::pci;
use zerocopy::{FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The message, and the flags of its answer (vfio-user, "Header").
const GET_REGION_IO_FDS: u16 = 6;
const REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;
/// `VFIO_USER_IO_FD_TYPE_IOEVENTFD`, and `KVM_IOEVENTFD_FLAG_DATAMATCH`.
const IO_EVENT_FD: u32 = 0;
const DATA_MATCH: u32 = 1 << 0;

/// The header of a message, and what follows it both ways.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RegionIoFds {
    message_id: u16,
    command: u16,
    message_size: u32,
    flags: u32,
    error: u32,
    argsz: u32,
    region_flags: u32,
    index: u32,
    count: u32,
}

/// Writes of one value to one register, and what stands for them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SubRegion {
    offset: u64,
    size: u64,
    fd_index: u32,
    kind: u32,
    flags: u32,
    padding: u32,
    datamatch: u64,
}

/// Bytes of a header.
const HEADER: usize = 16;
/// The longest answer: one sub-region for each doorbell page.
const LONGEST: usize = size_of::<RegionIoFds>() + PAGES as usize * size_of::<SubRegion>();

/// The eventfd.
pub(super) struct Bell {
    event: OwnedFd,
    /// By doorbell page: whether it stands for that one's register.
    pages: [u64; PAGES as usize / 64],
}

impl Bell {
    /// Asks the server at the other end, between two messages of others. `None`: it has none to give.
    pub(super) fn ask(mut stream: &UnixStream) -> io::Result<Option<Self>> {
        let question = RegionIoFds {
            command: GET_REGION_IO_FDS,
            message_size: size_of::<RegionIoFds>() as u32,
            argsz: (LONGEST - HEADER) as u32,
            index: pci::BAR_DOORBELL as u32,
            ..RegionIoFds::default()
        };
        stream.write_all(question.as_bytes())?;
        let mut answer = vec![0; HEADER];
        let event = receive(stream, &mut answer)?;
        let malformed = || io::Error::new(ErrorKind::InvalidData, "a malformed answer to GET_REGION_IO_FDS");
        let field = |answer: &[u8], at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| answer[at + i]));
        let (size, flags) = (field(&answer, 4) as usize, field(&answer, 8));
        if !(HEADER..=LONGEST).contains(&size) || flags & REPLY == 0 {
            return Err(malformed());
        }
        answer.resize(size, 0);
        stream.read_exact(&mut answer[HEADER..])?;
        if flags & ERROR != 0 {
            return Ok(None);
        }
        let (head, rest) = RegionIoFds::read_from_prefix(&answer).map_err(|_| malformed())?;
        let Some(event) = event else { return Ok(None) };
        let mut pages = [0; PAGES as usize / 64];
        for bytes in rest.chunks_exact(size_of::<SubRegion>()).take(head.count as usize) {
            let Ok(register) = SubRegion::read_from_bytes(bytes) else {
                continue;
            };
            let at = RegisterAddress::from_bar_offset(register.offset);
            let what = (register.fd_index, register.kind, register.flags, register.datamatch);
            match at {
                Some(at)
                    if u64::from(at.offset) == REG_RING
                        && register.size == size_of_val(&RING_WAKE) as u64
                        && what == (0, IO_EVENT_FD, DATA_MATCH, RING_WAKE.into()) =>
                {
                    pages[at.page as usize / 64] |= 1 << (at.page % 64);
                }
                // Something else that the server would like to be told by an event.
                _ => {}
            }
        }
        Ok(Some(Self { event, pages }))
    }

    /// Whether it stands for the register at `offset` in BAR 2.
    pub(super) fn rings(&self, offset: u64) -> bool {
        let at = RegisterAddress::from_bar_offset(offset).filter(|at| u64::from(at.offset) == REG_RING);
        at.is_some_and(|at| self.pages[at.page as usize / 64] & 1 << (at.page % 64) != 0)
    }

    /// Rings. A barrier as well: whatever was stored before the system call is there for who learns of it.
    pub(super) fn ring(&self) {
        // Fails when the counter is full, which takes longer than a machine lives, or somebody who fools himself.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// Reads as many bytes as `into` has, and the descriptor that comes with the first of them.
fn receive(mut stream: &UnixStream, into: &mut [u8]) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let vec = &mut [IoSliceMut::new(into)];
    let received = rustix::io::retry_on_intr(|| recvmsg(stream, vec, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let descriptors = control.drain().filter_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let first = descriptors.flatten().next();
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut into[received.bytes..])?;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{eventfd, EventfdFlags};
    use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use verbena_hw::doorbell::{PAGE_SIZE, RING_SCAN};

    /// What a server answers, with a descriptor or without.
    fn answered(answer: &[u8], event: Option<&OwnedFd>) -> io::Result<Option<Bell>> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = event.map(|event| [event.as_fd()]);
        if let Some(fds) = &fds {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&theirs, &[IoSlice::new(answer)], &mut control, SendFlags::empty()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        Bell::ask(&ours)
    }

    fn answer(flags: u32, registers: &[SubRegion]) -> Vec<u8> {
        let size = size_of::<RegionIoFds>() + size_of_val(registers);
        let head = RegionIoFds {
            command: GET_REGION_IO_FDS,
            message_size: size as u32,
            flags,
            argsz: (size - HEADER) as u32,
            index: 2,
            count: registers.len() as u32,
            ..RegionIoFds::default()
        };
        [head.as_bytes(), registers.as_bytes()].concat()
    }

    const REGISTER: SubRegion = SubRegion {
        offset: 0,
        size: 4,
        fd_index: 0,
        kind: 0,
        flags: 1,
        padding: 0,
        datamatch: RING_WAKE as u64,
    };

    #[test]
    fn h02_an_eventfd_rings_the_registers_that_it_stands_for() {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let at = |offset| SubRegion { offset, ..REGISTER };
        let registers = [
            at(0),
            at(77 * PAGE_SIZE),
            // Others: no register, beyond the end, another width, value, descriptor, or mechanism, any value.
            at(PAGE_SIZE + 4),
            at(u64::MAX),
            SubRegion {
                size: 8,
                ..at(2 * PAGE_SIZE)
            },
            SubRegion {
                datamatch: RING_SCAN.into(),
                ..at(3 * PAGE_SIZE)
            },
            SubRegion {
                fd_index: 1,
                ..at(4 * PAGE_SIZE)
            },
            SubRegion {
                kind: 1,
                ..at(5 * PAGE_SIZE)
            },
            SubRegion {
                flags: 0,
                ..at(6 * PAGE_SIZE)
            },
        ];
        let bell = answered(&answer(REPLY, &registers), Some(&event)).unwrap().unwrap();
        let rung: Vec<_> = (0..PAGES)
            .filter(|page| bell.rings(u64::from(*page) * PAGE_SIZE))
            .collect();
        assert_eq!(rung, [0, 77]);
        assert!(!bell.rings(4) && !bell.rings(u64::MAX));
        bell.ring();
        bell.ring();
        let mut count = [0; 8];
        rustix::io::read(&event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
    }

    #[test]
    fn h01_a_server_without_an_eventfd_is_rung_by_message() {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let refused = RegionIoFds {
            message_size: HEADER as u32,
            flags: REPLY | ERROR,
            error: libc::ENOTSUP as u32,
            ..RegionIoFds::default()
        };
        assert!(answered(&refused.as_bytes()[..HEADER], None).unwrap().is_none());
        assert!(answered(&answer(REPLY, &[]), None).unwrap().is_none());
        let none = answered(&answer(REPLY, &[]), Some(&event)).unwrap().unwrap();
        assert!(!none.rings(0), "a descriptor for nothing");
    }

    #[test]
    fn h01_a_malformed_answer_about_eventfds_is_an_error() {
        let whole = answer(REPLY, &[REGISTER]);
        let size = |size: u32| [&whole[..4], &size.to_ne_bytes(), &whole[8..]].concat();
        for broken in [
            &whole[..HEADER - 1],
            &whole[..whole.len() - 1],
            &size(HEADER as u32 - 1),
            &size(HEADER as u32 + 8),
            &size(u32::MAX),
            &answer(0, &[REGISTER]),
        ] {
            assert!(answered(broken, None).is_err(), "{broken:?}");
        }
    }
}
