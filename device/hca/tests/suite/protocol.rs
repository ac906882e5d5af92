// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client may send, what it may not, and that the server survives all of it.

use crate::common::{memfd, named_memfd, Raw, Running};
use crate::patience::eventually;
use proptest::prelude::*;
use rustix::event::EventfdFlags;
use std::fs::File;
use std::io::Write;
use verbena_hca::protocol::wire::{
    DmaMap, DmaUnmap, Header, RegionAccess, RegionInfo, RegionIoFds, SetIrqs, SubRegion, MAX_DATA, MAX_MESSAGE,
};
use verbena_hw::doorbell::RING_WAKE;
use verbena_hw::regs;
use zerocopy::{FromBytes, IntoBytes};

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_REGION_IO_FDS: u16 = 6;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;

fn read_magic() -> RegionAccess {
    RegionAccess {
        offset: regs::MAGIC.into(),
        region: 0,
        count: 4,
    }
}

/// The server is alive and the device is as new: a good client attaches and reads the identity.
fn works(server: &Running) {
    let mut client = server.client(0);
    let mut magic = [0; 4];
    client.region_read(0, regs::MAGIC.into(), &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), regs::MAGIC_VALUE);
}

/// A header that claims `size` bytes, and `body`.
fn claiming(command: u16, size: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        message_id: 7,
        command,
        message_size: size,
        flags,
        error: 0,
    };
    [header.as_bytes(), body].concat()
}

#[test]
fn h01_version_agrees_on_the_lower_minor_and_announces_limits() {
    let server = Running::new(1);
    for (theirs, agreed) in [(0u16, 0u16), (1, 1), (7, 1)] {
        let mut raw = Raw::connect(&server.socket(0));
        let body = [&[0, 0], &theirs.to_le_bytes()[..], b"{}\0"].concat();
        let reply = raw.call(VERSION, &body);
        assert_eq!(reply.errno(), None);
        assert_eq!(u16::from_le_bytes([reply.body[2], reply.body[3]]), agreed);
        let (end, text) = reply.body[4..].split_last().unwrap();
        assert_eq!(*end, 0);
        let data: serde_json::Value = serde_json::from_slice(text).unwrap();
        // More than 16, and QEMU refuses the server.
        assert_eq!(data["capabilities"]["max_msg_fds"], 16);
        assert_eq!(data["capabilities"]["max_data_xfer_size"], MAX_DATA);
        drop(raw);
        works(&server);
    }
}

#[test]
fn h01_version_without_text_is_version_with_defaults() {
    let server = Running::new(1);
    let mut raw = Raw::connect(&server.socket(0));
    assert_eq!(raw.call(VERSION, &[0, 0, 1, 0]).errno(), None);
    assert_eq!(raw.call(GET_INFO, &[0; 16]).errno(), None);
}

#[test]
fn h01_what_breaks_the_protocol_ends_that_connection_only() {
    let server = Running::new(2);
    let mut bystander = server.client(1);
    // A first message that is no VERSION, or a bad one.
    let first: &[(&str, Vec<u8>)] = &[
        ("no VERSION", claiming(GET_INFO, 32, 0, &[0; 16])),
        ("VERSION, no body", claiming(VERSION, 16, 0, &[])),
        ("VERSION, half a body", claiming(VERSION, 18, 0, &[0; 2])),
        ("VERSION, another major", claiming(VERSION, 20, 0, &[1, 0, 0, 0])),
        ("VERSION, no terminator", claiming(VERSION, 22, 0, b"\0\0\0\0{}")),
        ("VERSION, no JSON", claiming(VERSION, 23, 0, b"\0\0\0\0{{\0")),
        ("VERSION, no UTF-8", claiming(VERSION, 23, 0, b"\0\0\0\0\xff\xfe\0")),
        (
            "VERSION, wrong types",
            claiming(VERSION, 41, 0, b"\0\0\0\0{\"capabilities\":null}\0"),
        ),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
        ("text", b"GET / HTTP/1.1\r\n\r\n".repeat(4)),
    ];
    for (what, bytes) in first {
        let mut raw = Raw::connect(&server.socket(0));
        raw.send(bytes).unwrap();
        println!("{what}");
        raw.expect_closed();
        works(&server);
    }
    // After a good VERSION.
    let later: &[(&str, Vec<u8>)] = &[
        ("size 0", claiming(GET_INFO, 0, 0, &[])),
        ("size below the header", claiming(GET_INFO, 15, 0, &[])),
        ("size beyond the bound", claiming(REGION_WRITE, MAX_MESSAGE + 1, 0, &[])),
        ("largest size", claiming(REGION_WRITE, u32::MAX, 0, &[])),
        ("a reply", claiming(GET_INFO, 16, Header::REPLY, &[])),
        ("no type", claiming(GET_INFO, 16, 9, &[])),
        ("VERSION again", claiming(VERSION, 20, 0, &[0; 4])),
        ("DMA_MAP cut", claiming(DMA_MAP, 16 + 31, 0, &[0; 31])),
        ("DMA_UNMAP cut", claiming(DMA_UNMAP, 16 + 23, 0, &[0; 23])),
        ("GET_INFO cut", claiming(GET_INFO, 16, 0, &[])),
        ("REGION_INFO cut", claiming(GET_REGION_INFO, 16 + 8, 0, &[0; 8])),
        ("IRQ_INFO cut", claiming(GET_IRQ_INFO, 16 + 15, 0, &[0; 15])),
        ("SET_IRQS cut", claiming(SET_IRQS, 16 + 19, 0, &[0; 19])),
        ("READ cut", claiming(REGION_READ, 16 + 15, 0, &[0; 15])),
        ("WRITE, too little data", {
            let access = RegionAccess {
                count: 8,
                ..read_magic()
            };
            claiming(REGION_WRITE, 36, 0, &[access.as_bytes(), &[0; 4]].concat())
        }),
        ("WRITE, too much data", {
            claiming(REGION_WRITE, 40, 0, &[read_magic().as_bytes(), &[0; 8]].concat())
        }),
    ];
    for (what, bytes) in later {
        let mut raw = server.raw(0);
        raw.send(bytes).unwrap();
        println!("{what}");
        raw.expect_closed();
        works(&server);
    }
    let mut magic = [0; 4];
    bystander.region_read(0, regs::MAGIC.into(), &mut magic).unwrap();
    assert_eq!(u32::from_le_bytes(magic), regs::MAGIC_VALUE);
}

#[test]
fn h01_what_cannot_be_done_is_answered_with_an_errno() {
    let server = Running::new(1);
    let mut raw = server.raw(0);
    let region_info = |index| {
        RegionInfo {
            argsz: 32,
            index,
            ..RegionInfo::default()
        }
        .as_bytes()
        .to_vec()
    };
    let access = |region, offset, count| RegionAccess { offset, region, count }.as_bytes().to_vec();
    let map = |address, size, offset| {
        DmaMap {
            argsz: 32,
            flags: 3,
            offset,
            address,
            size,
        }
        .as_bytes()
        .to_vec()
    };
    let unmap = |flags, address, size| {
        DmaUnmap {
            argsz: 24,
            flags,
            address,
            size,
        }
        .as_bytes()
        .to_vec()
    };
    let irqs = |flags, index, start, count| {
        SetIrqs {
            argsz: 20,
            flags,
            index,
            start,
            count,
        }
        .as_bytes()
        .to_vec()
    };
    let inval = Some(libc::EINVAL);
    let table: &[(u16, Vec<u8>, Option<i32>)] = &[
        (0, vec![], Some(libc::ENOTSUP)),
        (11, vec![0; 16], Some(libc::ENOTSUP)),
        (14, vec![0; 16], Some(libc::ENOTSUP)),
        (0xffff, vec![1; 100], Some(libc::ENOTSUP)),
        (GET_REGION_INFO, region_info(9), inval),
        (GET_REGION_INFO, region_info(u32::MAX), inval),
        (GET_REGION_INFO, region_info(8), None),
        (
            GET_IRQ_INFO,
            [[16, 0, 0, 0], [0; 4], [5, 0, 0, 0], [0; 4]].concat(),
            inval,
        ),
        (REGION_READ, access(9, 0, 4), inval),
        (REGION_READ, access(0, 16 << 10, 4), inval),
        (REGION_READ, access(0, (16 << 10) - 2, 4), inval),
        (REGION_READ, access(0, u64::MAX, 4), inval),
        (REGION_READ, access(2, 0, MAX_DATA + 1), inval),
        (REGION_READ, access(2, 0, u32::MAX), inval),
        (REGION_READ, access(1, 0, 4), inval),
        (REGION_READ, access(6, 0, 1), inval),
        (REGION_READ, access(0, 0, 0), None),
        (REGION_READ, access(2, 0, MAX_DATA), None),
        (REGION_WRITE, access(1, 0, 0), None),
        (DMA_MAP, map(0, 0, 0), inval),
        (DMA_MAP, map(1, 4096, 0), inval),
        (DMA_MAP, map(0, 4095, 0), inval),
        (DMA_MAP, map(u64::MAX - 4095, 8192, 0), inval),
        (DMA_MAP, map(0, 4096, u64::MAX), inval),
        // Without a file: ignored, but remembered.
        (DMA_MAP, map(0xe0000, 0x20000, 0), None),
        (DMA_MAP, map(0xf0000, 0x1000, 0), Some(libc::EEXIST)),
        (DMA_UNMAP, unmap(0, 0xf0000, 0x1000), inval),
        (DMA_UNMAP, unmap(0, 0x1000, 0x1000), Some(libc::ENOENT)),
        (DMA_UNMAP, unmap(1, 0xe0000, 0x20000), Some(libc::ENOTSUP)),
        (DMA_UNMAP, unmap(2, 0xe0000, 0x20000), inval),
        (DMA_UNMAP, unmap(0, 0xe0000, 0x20000), None),
        // As QEMU says "everything".
        (DMA_UNMAP, unmap(2, 0, 0), None),
        (SET_IRQS, irqs(0, 2, 0, 1), inval),
        (SET_IRQS, irqs(1 | 2 | 32, 2, 0, 1), inval),
        (SET_IRQS, irqs(1 | 8 | 32, 2, 0, 1), inval),
        (SET_IRQS, irqs(1 | 32 | 64, 2, 0, 1), inval),
        (SET_IRQS, irqs(1 | 32, 5, 0, 1), inval),
        (SET_IRQS, irqs(1 | 32, 2, 64, 1), inval),
        (SET_IRQS, irqs(1 | 32, 2, 63, 2), inval),
        (SET_IRQS, irqs(1 | 32, 2, u32::MAX, 2), inval),
        (SET_IRQS, irqs(1 | 32, 2, 1, 0), inval),
        (SET_IRQS, irqs(1 | 8, 2, 0, 0), inval),
        (SET_IRQS, irqs(2 | 32, 2, 0, 2), inval),
        (SET_IRQS, [irqs(2 | 32, 2, 0, 2), vec![1, 0]].concat(), None),
        (SET_IRQS, irqs(4 | 8, 2, 0, 1), inval),
        (SET_IRQS, irqs(4 | 32, 2, 0, 64), None),
        (SET_IRQS, irqs(1 | 8, 2, 0, 64), None),
        (SET_IRQS, irqs(1 | 16, 2, 0, 64), None),
        (SET_IRQS, irqs(1 | 32, 0, 0, 0), None),
        (SET_IRQS, irqs(1 | 32, 0, 0, 1), inval),
        (RESET, vec![], None),
        (RESET, vec![1; 12], None),
    ];
    for (command, body, errno) in table {
        let reply = raw.call(*command, body);
        assert_eq!(reply.errno(), *errno, "command {command} with {body:x?}");
        if errno.is_some() {
            assert_eq!(reply.header.message_size as usize, Header::SIZE);
        }
    }
    // The connection has survived all of it.
    let reply = raw.call(REGION_READ, read_magic().as_bytes());
    assert_eq!(reply.body[16..], regs::MAGIC_VALUE.to_le_bytes());
}

#[test]
fn h01_no_reply_is_honoured_also_for_failures() {
    let server = Running::new(1);
    let mut raw = server.raw(0);
    let quiet = |raw: &mut Raw, command, body: &[u8]| {
        let message = raw.message(command, Header::NO_REPLY, body);
        raw.send(&message).unwrap();
    };
    let write = RegionAccess {
        offset: 4,
        region: 7,
        count: 2,
    };
    quiet(&mut raw, REGION_WRITE, &[write.as_bytes(), &[6, 0]].concat());
    quiet(&mut raw, 0xffff, &[]);
    quiet(&mut raw, REGION_READ, read_magic().as_bytes());
    quiet(&mut raw, DMA_MAP, &[0; 32]);
    let read = RegionAccess {
        offset: 4,
        region: 7,
        count: 2,
    };
    // `call` checks that the next reply is the one to this message.
    let reply = raw.call(REGION_READ, read.as_bytes());
    assert_eq!(reply.body[16..], [6, 0], "carried out in order");
}

/// Descriptors of this process, which is the server's too, that are memory files of this name.
fn open_descriptors(name: &str) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains(name)).count()
}

#[test]
fn h14_descriptors_are_taken_where_they_belong_and_closed_elsewhere() {
    let server = Running::new(1);
    let file = named_memfd("counted", 0x2000);
    let other = named_memfd("counted", 0x1000);
    let eventfd = File::from(rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let map = DmaMap {
        argsz: 32,
        flags: 3,
        offset: 0,
        address: 0,
        size: 0x2000,
    };
    let irq = |flags, count| {
        SetIrqs {
            argsz: 20,
            flags,
            index: 2,
            start: 0,
            count,
        }
        .as_bytes()
        .to_vec()
    };

    let mut raw = server.raw(0);
    let before = open_descriptors("counted");
    assert_eq!(before, 2);
    let inval = Some(libc::EINVAL);
    assert_eq!(raw.call_fds(GET_INFO, &[0; 16], &[&file]).errno(), inval);
    assert_eq!(raw.call_fds(RESET, &[], &[&file, &other]).errno(), inval);
    assert_eq!(raw.call_fds(0x77, &[], &[&file]).errno(), Some(libc::EINVAL));
    assert_eq!(raw.call_fds(DMA_MAP, map.as_bytes(), &[&file, &other]).errno(), inval);
    assert_eq!(
        raw.call_fds(DMA_MAP, map.as_bytes(), &[&other]).errno(),
        inval,
        "too short"
    );
    assert_eq!(
        raw.call_fds(SET_IRQS, &irq(4 | 32, 1), &[&file]).errno(),
        inval,
        "no eventfd"
    );
    assert_eq!(
        raw.call_fds(SET_IRQS, &irq(4 | 32, 2), &[&eventfd]).errno(),
        inval,
        "one of two"
    );
    assert_eq!(
        raw.call_fds(SET_IRQS, &irq(1 | 32, 1), &[&eventfd]).errno(),
        inval,
        "no use"
    );
    let many: Vec<&File> = std::iter::repeat_n(&other, 253).collect();
    assert_eq!(raw.call_fds(RESET, &[], &many).errno(), inval);
    assert_eq!(open_descriptors("counted"), before, "every one of them is closed");

    assert_eq!(raw.call_fds(DMA_MAP, map.as_bytes(), &[&file]).errno(), None);
    assert_eq!(raw.call_fds(SET_IRQS, &irq(4 | 32, 1), &[&eventfd]).errno(), None);
    assert_eq!(open_descriptors("counted"), before + 1, "the memory that is mapped");
    // Something that is no memory, another device's registers for one, is ignored as a mapping without a file is.
    let null = File::open("/dev/null").unwrap();
    let map = DmaMap {
        address: 0x10000,
        ..map
    };
    assert_eq!(raw.call_fds(DMA_MAP, map.as_bytes(), &[&null]).errno(), None);
    drop(raw);
    works(&server);
    eventually("what the client gave is closed", || {
        open_descriptors("counted") == before
    });
}

#[test]
fn h01_messages_may_arrive_in_pieces_or_together() {
    let server = Running::new(1);
    let mut raw = server.raw(0);
    let one = raw.message(REGION_READ, 0, read_magic().as_bytes());
    for byte in &one {
        raw.send(&[*byte]).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(raw.receive().unwrap().body[16..], regs::MAGIC_VALUE.to_le_bytes());

    raw.send(&one.repeat(300)).unwrap();
    for _ in 0..300 {
        assert_eq!(raw.receive().unwrap().body[16..], regs::MAGIC_VALUE.to_le_bytes());
    }
}

#[test]
fn h02_an_eventfd_stands_for_writes_to_doorbell_registers() {
    let server = Running::new(1);
    let ask = |argsz, flags, index| {
        RegionIoFds {
            argsz,
            flags,
            index,
            count: 0,
        }
        .as_bytes()
        .to_vec()
    };
    let whole = 16 + 1024 * 40;
    let mut raw = server.raw(0);
    for wrong in [ask(whole, 0, 9), ask(whole, 1, 2)] {
        assert_eq!(raw.call(GET_REGION_IO_FDS, &wrong).errno(), Some(libc::EINVAL));
    }
    let events = open_descriptors("[eventfd]");
    for (asked, size, count) in [(ask(whole, 0, 0), 16, 0), (ask(whole - 1, 0, 2), whole, 1024)] {
        let reply = raw.call(GET_REGION_IO_FDS, &asked);
        let head = RegionIoFds::read_from_bytes(&reply.body).expect("no register");
        assert_eq!((head.argsz, head.count), (size, count));
    }
    assert_eq!(open_descriptors("[eventfd]"), events, "none was made");

    let mut ours = Vec::new();
    for _ in 0..2 {
        let (reply, fds) = raw.call_for_fds(GET_REGION_IO_FDS, &ask(whole, 0, 2));
        ours.extend(fds);
        let (head, registers) = RegionIoFds::read_from_prefix(&reply.body).unwrap();
        assert_eq!((head.argsz, head.index, head.count), (whole, 2, 1024));
        let registers = <[SubRegion]>::ref_from_bytes(registers).unwrap();
        for (page, register) in (0..).zip(registers) {
            let expected = SubRegion {
                offset: page * 4096,
                size: 4,
                fd_index: 0,
                kind: 0,
                flags: 1,
                padding: 0,
                datamatch: RING_WAKE.into(),
            };
            assert_eq!(*register, expected);
        }
        assert_eq!(registers.len(), 1024);
    }
    assert_eq!(ours.len(), 2);
    // One eventfd, to both of which the server listens; that nothing has rung does no harm.
    for _ in 0..2 {
        rustix::io::write(&ours[0], &1u64.to_ne_bytes()).unwrap();
    }
    let mut count = [0; 8];
    rustix::io::read(&ours[1], &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2, "the server takes nothing out of it");
    assert_eq!(raw.call(GET_INFO, &[0; 16]).errno(), None);
    drop((raw, ours));
    works(&server);
    eventually("the eventfd is closed with its client's connection", || {
        open_descriptors("[eventfd]") == events
    });

    // A client that takes no descriptors is told what it could have.
    let mut raw = Raw::connect(&server.socket(0));
    let version = [&[0, 0, 1, 0], &b"{\"capabilities\":{\"max_msg_fds\":0}}\0"[..]].concat();
    assert_eq!(raw.call(VERSION, &version).errno(), None);
    assert_eq!(raw.call(GET_REGION_IO_FDS, &ask(whole, 0, 2)).body.len(), 16);
    assert_eq!(open_descriptors("[eventfd]"), events);
}

#[test]
fn h14_a_client_that_takes_no_replies_stops_only_itself() {
    let server = Running::new(2);
    let mut raw = server.raw(0);
    let wide = RegionAccess {
        offset: 0,
        region: 2,
        count: MAX_DATA,
    };
    let message = raw.message(REGION_READ, 0, wide.as_bytes());
    raw.stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Far more replies than sockets hold, until the server reads no further.
    for _ in 0..100_000 {
        match raw.stream.write(&message) {
            Ok(n) if n == message.len() => sent += 1,
            _ => break,
        }
    }
    assert!(sent < 100_000, "the server must stop reading");
    let mut good = server.client(1);
    let mut magic = [0; 4];
    good.region_read(0, regs::MAGIC.into(), &mut magic).unwrap();
    // And takes up where it left when they are taken.
    raw.stream.set_nonblocking(false).unwrap();
    for _ in 0..sent {
        assert_eq!(raw.receive().unwrap().body.len(), 16 + MAX_DATA as usize);
    }
}

#[test]
fn h14_a_client_that_dies_inside_a_message_leaves_nothing() {
    let server = Running::new(1);
    for cut in [1, 15, 16, 17, 31] {
        let mut raw = server.raw(0);
        let message = raw.message(REGION_READ, 0, read_magic().as_bytes());
        raw.send(&message[..cut]).unwrap();
        drop(raw);
        works(&server);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any header over any body, any number of descriptors: the server answers or closes, and serves the next one.
    #[test]
    fn h14_no_message_harms_the_server(
        messages in prop::collection::vec(
            (
                prop_oneof![3 => 0u16..16, 1 => any::<u16>()],
                prop_oneof![4 => Just(None), 1 => any::<u32>().prop_map(Some), 1 => (0u32..64).prop_map(Some)],
                prop_oneof![4 => Just(0u32), 1 => Just(Header::NO_REPLY), 1 => any::<u32>()],
                prop::collection::vec(prop_oneof![2 => Just(0u8), 1 => 0u8..8, 1 => any::<u8>()], 0..80),
                0usize..3,
            ),
            1..8,
        ),
    ) {
        thread_local! {
            static SERVER: Running = Running::new(1);
            static FILE: File = memfd(0x10000);
        }
        SERVER.with(|server| {
            let mut raw = server.raw(0);
            for (command, size, flags, body, fds) in &messages {
                let size = size.unwrap_or((Header::SIZE + body.len()) as u32);
                let bytes = claiming(*command, size, *flags, body);
                FILE.with(|file| {
                    use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
                    use std::os::fd::AsFd;
                    let fds = vec![file.as_fd(); *fds];
                    let mut space = [std::mem::MaybeUninit::uninit(); 256];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
                    // Fails when the server has closed already.
                    let iov = [std::io::IoSlice::new(&bytes)];
                    let _ = sendmsg(&raw.stream, &iov, &mut control, SendFlags::NOSIGNAL);
                });
            }
            // Whatever comes back is framed replies, up to the end.
            raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
            while let Ok(reply) = raw.receive() {
                assert_eq!(reply.header.flags & Header::TYPE, Header::REPLY);
                let _ = Header::read_from_bytes(reply.header.as_bytes()).unwrap();
            }
            drop(raw);
            works(server);
        });
    }
}
