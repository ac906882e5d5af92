// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Builder and parser against each other, and both against arbitrary bytes: U26.

mod support;

use proptest::prelude::*;
use rdma_uapi::class::{self, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::failure::Outcome;
use rdma_uapi::parse::{Index, Layout};
use rdma_uapi::schema::{attr_flags, AttrSchema, Shape, UNBOUNDED};
use rdma_uapi::wire::{self, method, AttrHead, DriverId, Header, HEADER};
use support::rules::verdict;
use support::verbs::Process;
use zerocopy::{FromBytes, IntoBytes};

fn attributes(message: &[u8], layout: &Layout) -> Outcome<Index> {
    let mut index = Index::EMPTY;
    rdma_uapi::parse::attributes(FromBytes::ref_from_bytes(message).unwrap(), layout, &mut index).map(|()| index)
}

fn layout(attrs: &[AttrSchema]) -> Layout {
    let mut layout = Layout::new(DriverId(1));
    for attr in attrs {
        layout.add(attr).expect("the schema is sound");
    }
    layout
}

fn qp_create() -> &'static [AttrSchema] {
    qp::RC.method(method::CREATE).unwrap().attrs
}

/// The parser and the rules written plainly say the same: what is where, or what is wrong.
fn agree(message: &[u8], attrs: &[AttrSchema]) {
    let layout = layout(attrs);
    match (attributes(message, &layout), verdict(message, attrs)) {
        (Ok(index), Ok(found)) => {
            for attr in attrs {
                let slot = layout.slot(attr.spec.id);
                let place = index.find(message, slot).map(|found| found.start..found.end);
                let wanted = found
                    .iter()
                    .find(|(id, _)| *id == attr.spec.id)
                    .map(|(_, at)| at.clone());
                assert_eq!(place, wanted, "{}", attr.spec.name);
            }
        }
        (parsed, verdict) => assert_eq!(parsed.map(|_| ()).err(), verdict.map(|_| ()).err()),
    }
}

/// A message that is nearly right: real attributes with real sizes, some of them bent.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let attr = (
        0..45u16,
        prop_oneof![4 => Just(0u16), 1 => any::<u16>()],
        0..48usize,
        any::<u8>(),
        0..40u8,
    );
    (prop::collection::vec(attr, 0..14), any::<u16>()).prop_map(|(attrs, class)| {
        let mut bytes = vec![0u8; HEADER];
        for (id, flags, length, fill, bend) in attrs {
            let known = qp_create().iter().find(|attr| attr.spec.id == id);
            let payload = match known {
                Some(attr) if bend > 3 && attr.size != UNBOUNDED => usize::from(attr.size),
                _ => length,
            };
            let flags = flags & (wire::ATTR_MANDATORY | wire::ATTR_BY_POINTER | wire::ATTR_DRIVER);
            let head = AttrHead {
                length: if bend == 0 { u16::from(fill) } else { 8 + payload as u16 },
                id: id | flags,
                result: u32::from(bend == 1),
            };
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend(std::iter::repeat_n(if bend == 2 { fill } else { 0 }, payload));
            bytes.resize(wire::align(bytes.len()), if bend == 3 { fill } else { 0 });
        }
        let header = Header {
            length: bytes.len() as u16,
            class,
            ..Header::default()
        };
        bytes[..HEADER].copy_from_slice(header.as_bytes());
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn u26_the_parser_agrees_with_the_rules_written_plainly(message in nearly()) {
        let attrs = qp_create();
        agree(&message, attrs);
        // The same rules without anything required: more messages get past them.
        let optional: Vec<AttrSchema> =
            attrs.iter().map(|attr| AttrSchema { flags: attr.flags & !attr_flags::REQUIRED, ..*attr }).collect();
        agree(&message, &optional);
    }

    #[test]
    fn u26_a_failure_points_into_the_message(message in nearly()) {
        if let Err(failure) = attributes(&message, &layout(qp_create())) {
            prop_assert!(usize::from(failure.offset) < message.len());
            prop_assert!(failure.offset % 8 == 0);
            let sentence = rdma_uapi::describe::explain(&failure, class::QP_RC, method::CREATE).to_string();
            prop_assert!(sentence.starts_with("qp_rc create: "));
        }
    }

    #[test]
    fn u26_arbitrary_bytes_are_answered_not_panicked_about(
        mut message in prop::collection::vec(any::<u8>(), 0..300),
        number in 0..140u32,
        class in 0..20u16,
        honest in any::<bool>(),
    ) {
        let p = Process::new(Default::default());
        p.pd();
        p.cq();
        if honest && message.len() >= HEADER {
            message.truncate(message.len() & !7);
            let length = message.len() as u16;
            let header = Header { length, class, object: u32::from(message[0]) % 4, ..Header::default() };
            message[..HEADER].copy_from_slice(header.as_bytes());
        }
        let before = message.clone();
        if let Err(failure) = p.raw(number, &mut message) {
            prop_assert_ne!(failure.errno.0, 0);
            if message.len() >= HEADER {
                prop_assert_ne!(failure.reason.0, 0);
                prop_assert_eq!(&message[..16], &before[..16], "a failed call leaves the header's input alone");
            }
        }
        p.close();
        prop_assert!(p.context.store().is_empty());
    }

    #[test]
    fn u26_nearly_right_messages_reach_the_handlers_and_leave_nothing_behind(
        messages in prop::collection::vec((nearly(), 0..6u32, 0..20u16, 0..8u32), 1..12),
    ) {
        let p = Process::new(Default::default());
        let pd = p.pd();
        for (mut message, number, class, object) in messages {
            let mut header = Header::read_from_prefix(&message).unwrap().0;
            header.class = class;
            header.object = if number == 0 { 0 } else { object };
            message[..HEADER].copy_from_slice(header.as_bytes());
            let _ = p.raw(number, &mut message);
        }
        let _ = p.mr(pd, 64);
        p.close();
        prop_assert!(p.context.store().is_empty());
        prop_assert_eq!(p.bench.pinned(), 0);
    }

    #[test]
    fn u26_what_the_builder_writes_the_parser_reads(
        values in prop::collection::btree_map(1..40u16, any::<u64>(), 0..20),
        optional in any::<u64>(),
        room in 0..400usize,
    ) {
        let mut buffer = vec![0xdead_beef_u64; room];
        let mut builder = Builder::new(&mut buffer, class::QP_RC, 7);
        let mut size = HEADER;
        let mut wanted = Vec::new();
        for attr in qp_create() {
            let Some(value) = values.get(&attr.spec.id) else { continue };
            let bytes = value.to_ne_bytes().repeat(4);
            let Shape::One(ty) = attr.spec.shape else { continue };
            if optional >> attr.spec.id & 1 != 0 {
                builder.optional();
            }
            use rdma_uapi::schema::Attr;
            match ty.size() {
                4 => { builder.put(Attr::<[u8; 4]>::new(attr.spec.id, ""), bytes[..4].try_into().unwrap()); }
                8 => { builder.put(Attr::<[u8; 8]>::new(attr.spec.id, ""), bytes[..8].try_into().unwrap()); }
                24 => { builder.put(Attr::<[u8; 24]>::new(attr.spec.id, ""), bytes[..24].try_into().unwrap()); }
                _ => { builder.put(Attr::<[u8; 32]>::new(attr.spec.id, ""), bytes[..32].try_into().unwrap()); }
            }
            size += wire::align(8 + ty.size());
            wanted.push((attr.spec.id, bytes[..ty.size()].to_vec()));
        }
        match builder.finish() {
            Err(_) => prop_assert!(size > room * 8),
            Ok(message) => {
                prop_assert_eq!(message.len(), size);
                let optional: Vec<AttrSchema> = qp_create()
                    .iter()
                    .map(|attr| AttrSchema { flags: attr.flags & !attr_flags::REQUIRED, ..*attr })
                    .collect();
                let layout = layout(&optional);
                let index = attributes(message, &layout).expect("what was built is right");
                for (id, bytes) in wanted {
                    let found = index.find(message, layout.slot(id)).expect("it is there");
                    prop_assert_eq!(&message[found.start..found.end], &bytes[..]);
                }
                prop_assert_eq!(Reply::new(message).object(), 7);
            }
        }
    }

    #[test]
    fn u26_the_reader_survives_any_reply(message in prop::collection::vec(any::<u8>(), 0..300), id in any::<u16>()) {
        let reply = Reply::new(&message);
        let _ = reply.header();
        if let Some(answered) = reply.answered(id & wire::ATTR_ID) {
            prop_assert!(answered.bytes.len() <= message.len());
        }
        let _ = (reply.get(qp::CAPS), reply.get(qp::QPN), reply.array(class::port::GIDS).count());
        let _ = reply.text(class::device::NAME);
    }
}

#[test]
fn u26_nothing_big_is_allocated_for_a_small_message() {
    // The only sizes that a message can ask for are bounded: a queue's capacity, and a by-pointer length, which is
    // walked element by element.
    let p = Process::new(Default::default());
    let (fd, _) = p.queue();
    let addr = p.bench.map(&[0; 24]);
    let failure = p
        .call_fd(fd, method::MODIFY, class::EVENT_QUEUE, |m| {
            m.by_pointer(class::event_queue::ASSOCIATE, addr, 24 << 40);
        })
        .unwrap_err();
    assert_eq!(failure.detail, 0, "the first element already is wrong");
}
