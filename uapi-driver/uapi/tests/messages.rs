// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The call's shape and the rules for attributes: U1, U2, U4, U5, U6.

mod support;

use rdma_uapi::class::{self, interface, mr, port};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::schema::Attr;
use rdma_uapi::wire::{self, method, AttrHead, Header, ObjectId, HEADER};
use rdma_uapi::{Errno, Reason};
use support::abacus::{self, Abacus};
use support::verbs::Process;
use zerocopy::{FromBytes, IntoBytes};

fn process() -> Process {
    Process::new(support::verbs::State::default())
}

/// A message of one class with attributes as given: id with flags, payload.
fn message(class: u16, object: u32, attrs: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0u8; wire::HEADER];
    for (id, payload) in attrs {
        let head = AttrHead {
            length: (8 + payload.len()) as u16,
            id: *id,
            result: 0,
        };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(wire::align(bytes.len()), 0);
    }
    let header = Header {
        length: bytes.len() as u16,
        class,
        object,
        ..Header::default()
    };
    bytes[..wire::HEADER].copy_from_slice(header.as_bytes());
    bytes
}

const PD: u16 = mr::PD.id() | wire::ATTR_MANDATORY;
const ADDR: u16 = mr::ADDR.id() | wire::ATTR_MANDATORY;
const LENGTH: u16 = mr::LENGTH.id() | wire::ATTR_MANDATORY;
const ACCESS: u16 = mr::ACCESS.id() | wire::ATTR_MANDATORY;

/// An MR CREATE that is right, with something before the last attribute.
fn mr_create(pd: u32, extra: &[(u16, &[u8])]) -> Vec<u8> {
    let pd = pd.to_ne_bytes();
    let length = 4096u64.to_ne_bytes();
    let access = 1u32.to_ne_bytes();
    let mut attrs: Vec<(u16, &[u8])> = vec![(PD, &pd), (ADDR, &[0; 8]), (LENGTH, &length)];
    attrs.extend_from_slice(extra);
    attrs.push((ACCESS, &access));
    message(class::MR, 0, &attrs)
}

#[test]
fn u01_the_number_is_the_method_and_the_first_word_the_class() {
    assert_eq!(wire::ioctl(method::CREATE), 0xc018_d200);
    assert_eq!(wire::ioctl_method(wire::ioctl(method::DESTROY)), Some(method::DESTROY));
    assert_eq!(wire::ioctl_method(wire::ioctl(127)), Some(127));
    assert_eq!(wire::ioctl_method(0xc018_d280), None, "method 128");
    assert_eq!(wire::ioctl_method(0xc018_1b01), None, "another subsystem's");
    assert_eq!(wire::ioctl_method(0xc010_d200), None, "another size");

    let p = process();
    let mut bytes = message(class::PD, 0, &[]);
    assert_eq!(&bytes[..4], &[24, 0, class::PD as u8, 0], "length, then class");
    p.raw(method::CREATE.into(), &mut bytes).unwrap();
    let pd = Reply::new(&bytes).object();
    assert_ne!(pd, 0, "the id comes back in the header");
}

#[test]
fn u01_every_header_field_is_checked_and_named() {
    let p = process();
    type Change = fn(&mut Header);
    let wrong: &[(Change, u16, Reason)] = &[
        (|h| h.length = 16, wire::FIELD_LENGTH, Reason::BAD_LENGTH),
        (|h| h.length = 32, wire::FIELD_LENGTH, Reason::BAD_LENGTH),
        (|h| h.flags = 1, wire::FIELD_FLAGS, Reason::UNKNOWN_FLAG),
        (|h| h.reserved = 1, wire::FIELD_RESERVED, Reason::NOT_ZERO),
        (|h| h.error.reason = 1, wire::FIELD_RESERVED, Reason::NOT_ZERO),
        (|h| h.error.detail = 1, wire::FIELD_RESERVED, Reason::NOT_ZERO),
        (|h| h.object = 7, wire::FIELD_OBJECT, Reason::OBJECT_NOT_ZERO),
    ];
    for (change, field, reason) in wrong {
        let mut bytes = message(class::PD, 0, &[]);
        let mut header = Header::read_from_bytes(&bytes[..]).unwrap();
        change(&mut header);
        bytes.copy_from_slice(header.as_bytes());
        let failure = p.raw(method::CREATE.into(), &mut bytes).unwrap_err();
        assert_eq!(
            (failure.errno, failure.attr, failure.reason),
            (Errno::EINVAL, *field, *reason)
        );
    }
    for length in 0..wire::HEADER {
        let failure = p.raw(0, &mut vec![0; length]).unwrap_err();
        assert_eq!(failure.errno, Errno::EINVAL);
    }
    assert!(p.context.store().is_empty(), "none of them made anything");
}

#[test]
fn u02_the_generic_methods_and_what_a_class_lacks() {
    let p = process();
    let pd = p.pd();
    p.call(method::QUERY, class::PD, pd, |_| {}).unwrap();
    let failure = p.call(method::MODIFY, class::PD, pd, |_| {}).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EOPNOTSUPP, Reason::NO_METHOD));
    assert_eq!(failure.attr, wire::FIELD_METHOD);
    let failure = p.call(method::CREATE, class::SRQ, 0, |_| {}).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EOPNOTSUPP, Reason::NO_CLASS),
        "nobody implements it"
    );
    assert_eq!(failure.attr, wire::FIELD_CLASS);
    p.destroy(class::PD, pd).unwrap();
    let failure = p.destroy(class::PD, pd).unwrap_err();
    assert_eq!((failure.errno, failure.attr), (Errno::ENOENT, wire::FIELD_OBJECT));
    for beyond in [128, 255, 256, u32::MAX] {
        assert_eq!(
            p.raw(beyond, &mut message(class::PD, 0, &[])).unwrap_err().errno,
            Errno::EOPNOTSUPP
        );
    }
}

#[test]
fn u04_four_blocks_and_experimental_only_when_asked_for_first() {
    const { assert!(method::CLASS == 32 && method::DRIVER == 64 && method::EXPERIMENTAL == 96 && method::END == 128) };
    let p = support::Process::<Abacus>::new(abacus::State::default());
    let frame = p.call(method::CREATE, class::PD, 0, |_| {}).unwrap().object();
    let make = |m: &mut Builder<'_>| {
        m.put(abacus::FRAME, &ObjectId(frame));
    };
    let tally = p.call(method::CREATE, abacus::TALLY, 0, make).unwrap().object();
    let failure = p.call(abacus::SHAKE, abacus::TALLY, tally, |_| {}).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EOPNOTSUPP, Reason::EXPERIMENTAL)
    );
    let ask = |m: &mut Builder<'_>| {
        m.put(interface::FEATURES, &interface::feature::EXPERIMENTAL);
    };
    let failure = p.call(method::MODIFY, class::INTERFACE, 0, ask).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EBUSY, Reason::NOT_FIRST),
        "too late"
    );

    let p = p.other();
    let unknown = |m: &mut Builder<'_>| {
        m.put(interface::FEATURES, &(1 << 40));
    };
    let failure = p.call(method::MODIFY, class::INTERFACE, 0, unknown).unwrap_err();
    assert_eq!(
        (failure.errno, failure.attr),
        (Errno::EOPNOTSUPP, interface::FEATURES.id())
    );
    p.call(method::MODIFY, class::INTERFACE, 0, ask).unwrap();
    let frame = p.call(method::CREATE, class::PD, 0, |_| {}).unwrap().object();
    let make = |m: &mut Builder<'_>| {
        m.put(abacus::FRAME, &ObjectId(frame));
    };
    let tally = p.call(method::CREATE, abacus::TALLY, 0, make).unwrap().object();
    p.call(abacus::SHAKE, abacus::TALLY, tally, |_| {}).unwrap();
    let sent = p.call(method::QUERY, class::INTERFACE, 0, |m| {
        m.ask(interface::FEATURES);
    });
    assert_eq!(
        sent.unwrap().reply().get(interface::FEATURES),
        Some(interface::feature::EXPERIMENTAL)
    );
}

/// What the commands of a chain return, each a method and its message.
fn chain(p: &support::Process<Abacus>, commands: &[(u8, &[u8])]) -> Vec<u32> {
    let commands: Vec<_> = commands
        .iter()
        .map(|(number, message)| interface::Command {
            message: p.bench.map(message),
            method: (*number).into(),
            ..Default::default()
        })
        .collect();
    let sent = p.call(method::EXECUTE, class::INTERFACE, 0, |m| {
        m.put_array(interface::COMMANDS, &commands)
            .put(interface::MODE, &interface::mode::CONTINUE)
            .ask_array(interface::RESULTS, commands.len());
    });
    sent.unwrap().reply().array(interface::RESULTS).collect()
}

#[test]
fn u04_neither_a_chain_nor_another_context_is_a_way_around_asking_first() {
    let p = support::Process::<Abacus>::new(abacus::State::default());
    let ask = |p: &support::Process<Abacus>| {
        p.call(method::MODIFY, class::INTERFACE, 0, |m| {
            m.put(interface::FEATURES, &interface::feature::EXPERIMENTAL);
        })
    };
    let tally = |p: &support::Process<Abacus>| {
        let frame = p.call(method::CREATE, class::PD, 0, |_| {}).unwrap().object();
        let tally = p.call(method::CREATE, abacus::TALLY, 0, |m| {
            m.put(abacus::FRAME, &ObjectId(frame));
        });
        tally.unwrap().object()
    };
    let refused = Errno::EOPNOTSUPP.0 as u32;

    // Each context for itself.
    let asked = p.other();
    ask(&asked).unwrap();
    let (mine, its) = (tally(&p), tally(&asked));
    let shake = |object| (abacus::SHAKE, message(abacus::TALLY, object, &[]));
    let (number, bytes) = shake(mine);
    assert_eq!(chain(&p, &[(number, &bytes)]), [refused]);
    let (number, bytes) = shake(its);
    assert_eq!(chain(&asked, &[(number, &bytes)]), [0]);

    // A chain is a call, so what asks in it comes too late.
    let late = p.other();
    let features = interface::feature::EXPERIMENTAL.to_ne_bytes();
    let bytes = message(class::INTERFACE, 0, &[(interface::FEATURES.id(), &features)]);
    assert_eq!(chain(&late, &[(method::MODIFY, &bytes)]), [Errno::EBUSY.0 as u32]);

    // What is refused as experimental was a call as well.
    let tried = p.other();
    assert!(tried.call(abacus::SHAKE, abacus::TALLY, 0, |_| {}).is_err());
    assert_eq!(ask(&tried).unwrap_err().reason, Reason::NOT_FIRST);

    // What is no call of any method there is leaves the chance.
    let clumsy = p.other();
    assert!(clumsy.raw(method::QUERY.into(), &mut [0; 24]).is_err());
    assert!(clumsy.call(method::QUERY, 0x7fff, 0, |_| {}).is_err());
    assert!(
        clumsy.call(abacus::SHAKE, class::PD, 0, |_| {}).is_err(),
        "a PD has no such method"
    );
    ask(&clumsy).unwrap();
    let (number, bytes) = shake(tally(&clumsy));
    assert_eq!(chain(&clumsy, &[(number, &bytes)]), [0]);
}

#[test]
fn u05_unknown_mandatory_is_named() {
    let p = process();
    let pd = p.pd();
    let mut bytes = mr_create(pd, &[(40 | wire::ATTR_MANDATORY, &[1, 2, 3])]);
    let failure = p.raw(method::CREATE.into(), &mut bytes).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR)
    );
    // Header, then PD (4 bytes, padded), ADDR and LENGTH.
    assert_eq!((failure.attr, failure.offset), (40, 24 + 16 + 16 + 16));
}

#[test]
fn u05_unknown_optional_is_ignored() {
    let p = process();
    let pd = p.pd();
    p.raw(
        method::CREATE.into(),
        &mut mr_create(pd, &[(40, &[1, 2, 3]), (41, &[]), (40, &[9])]),
    )
    .unwrap();
}

#[test]
fn u05_longer_with_a_zero_tail_is_accepted_and_with_a_non_zero_one_is_e2big() {
    let p = process();
    let pd = p.pd();
    p.raw(method::CREATE.into(), &mut mr_create(pd, &[(mr::IOVA.id(), &[0; 40])]))
        .unwrap();
    let mut tail = [0; 40];
    for at in 8..40 {
        tail[at] = 0x80;
        let failure = p
            .raw(method::CREATE.into(), &mut mr_create(pd, &[(mr::IOVA.id(), &tail)]))
            .unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason),
            (Errno::E2BIG, Reason::TAIL_NOT_ZERO),
            "byte {at}"
        );
        assert_eq!(
            (failure.attr, failure.detail),
            (mr::IOVA.id(), 8),
            "and says how much is known"
        );
        tail[at] = 0;
    }
}

#[test]
fn u05_shorter_than_required_is_einval() {
    let p = process();
    let pd = p.pd();
    for length in 0..8 {
        let failure = p
            .raw(
                method::CREATE.into(),
                &mut mr_create(pd, &[(mr::IOVA.id(), &vec![0; length])]),
            )
            .unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason, failure.detail),
            (Errno::EINVAL, Reason::SHORT_PAYLOAD, 8)
        );
        assert_eq!(failure.attr, mr::IOVA.id());
    }
}

#[test]
fn u05_duplicates_are_einval() {
    let p = process();
    let pd = p.pd();
    let failure = p
        .raw(method::CREATE.into(), &mut mr_create(pd, &[(ADDR, &[0; 8])]))
        .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EINVAL, Reason::DUPLICATE, mr::ADDR.id())
    );
    // The mandatory bit does not make it another attribute.
    let failure = p
        .raw(method::CREATE.into(), &mut mr_create(pd, &[(mr::ADDR.id(), &[0; 8])]))
        .unwrap_err();
    assert_eq!(failure.reason, Reason::DUPLICATE);
}

#[test]
fn u05_missing_required_is_named() {
    let p = process();
    let failure = p
        .raw(method::CREATE.into(), &mut message(class::MR, 0, &[(ADDR, &[0; 8])]))
        .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.attr),
        (Errno::EINVAL, Reason::MISSING, mr::PD.id())
    );
}

#[test]
fn u05_attribute_lengths_cannot_leave_the_message() {
    let p = process();
    let pd = p.pd();
    let good = mr_create(pd, &[]);
    for length in (0..8u16).chain([9, 4000, 0xfff8, 0xffff]) {
        let mut bytes = good.clone();
        // The last attribute's head.
        let at = bytes.len() - 16;
        bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        let failure = p.raw(method::CREATE.into(), &mut bytes).unwrap_err();
        assert_eq!(failure.errno, Errno::EINVAL, "length {length}");
        assert_eq!(usize::from(failure.offset), at);
    }
}

#[test]
fn u05_padding_and_result_must_be_zero() {
    let p = process();
    let pd = p.pd();
    let good = mr_create(pd, &[]);
    let last = good.len() - 16;
    for at in (last + 4..last + 8).chain(last + 12..last + 16) {
        let mut bytes = good.clone();
        bytes[at] = 1;
        let failure = p.raw(method::CREATE.into(), &mut bytes).unwrap_err();
        assert_eq!(
            (failure.errno, failure.reason),
            (Errno::EINVAL, Reason::NOT_ZERO),
            "byte {at}"
        );
        assert_eq!(failure.attr, mr::ACCESS.id());
    }
}

#[test]
fn u05_outputs_say_how_much_was_written_and_whether_it_was_truncated() {
    let p = process();
    let query = |room: usize| {
        p.call(method::QUERY, class::PORT, 1, |m| {
            m.ask_array(port::GIDS, room);
        })
        .unwrap()
    };
    for room in 0..6 {
        let sent = query(room);
        let answered = sent.reply().answered(port::GIDS.id()).expect("it was asked for");
        let fits = room.min(3);
        assert_eq!(
            (answered.written as usize, answered.truncated),
            (fits * 24, room < 3),
            "room for {room}"
        );
        assert_eq!(
            sent.reply().array(port::GIDS).map(|g| g.index).collect::<Vec<_>>(),
            (0..fits as u16).collect::<Vec<_>>()
        );
    }
    let sent = query(3);
    assert!(sent.reply().answered(port::PKEYS.id()).is_none(), "nobody asked");
}

#[test]
fn u05_large_payloads_go_by_pointer_in_and_out() {
    let p = process();
    let query = |addr: u64, length: u64| {
        p.call(method::QUERY, class::PORT, 2, |m| {
            m.by_pointer(port::GIDS, addr, length);
        })
    };
    let addr = p.bench.map(&[0xee; 96]);
    let sent = query(addr, 96).unwrap();
    let answered = sent.reply().answered(port::GIDS.id()).unwrap();
    assert_eq!(
        (answered.written, answered.truncated, answered.full),
        (72, false, Some(72))
    );
    assert_eq!(
        p.bench.read(addr)[16 + 24..16 + 24 + 2],
        [1, 0],
        "the second one's index"
    );
    assert_eq!(p.bench.read(addr)[72..], [0xee; 24], "and no further");

    let sent = query(addr, 30).unwrap();
    let answered = sent.reply().answered(port::GIDS.id()).unwrap();
    assert_eq!(
        (answered.written, answered.truncated, answered.full),
        (30, true, Some(72)),
        "what to bring next time"
    );
    let sent = query(0, 0).unwrap();
    assert_eq!(
        sent.reply().answered(port::GIDS.id()).unwrap().full,
        Some(72),
        "no room: only the size"
    );

    let failure = query(addr + 90, 96).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EFAULT, Reason::BAD_POINTER));
    assert_eq!((failure.attr, failure.offset), (port::GIDS.id(), 24));
    assert_eq!(query(u64::MAX - 3, 96).unwrap_err().errno, Errno::EFAULT);

    let failure = p
        .call(method::QUERY, class::PORT, 1, |m| {
            m.by_pointer(port::ATTRS, addr, 96);
        })
        .unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason),
        (Errno::EINVAL, Reason::NOT_BY_POINTER),
        "only what says so"
    );
}

#[test]
fn u05_structures_grow_both_ways() {
    // A program that knows a longer structure gets what there is; one that knows a shorter one gets what it knows.
    const LONGER: Attr<[u8; 64]> = Attr::new(port::ATTRS.id(), "attrs");
    const SHORTER: Attr<[u8; 8]> = Attr::new(port::ATTRS.id(), "attrs");
    let p = process();
    let sent = p.call(method::QUERY, class::PORT, 1, |m| {
        m.ask(LONGER);
    });
    let sent = sent.unwrap();
    assert_eq!(sent.reply().answered(port::ATTRS.id()).unwrap().written, 48);
    assert_eq!(sent.reply().get(LONGER).unwrap()[48..], [0; 16]);
    let sent = p.call(method::QUERY, class::PORT, 1, |m| {
        m.ask(SHORTER);
    });
    let sent = sent.unwrap();
    assert!(sent.reply().answered(port::ATTRS.id()).unwrap().truncated);
    assert_eq!(sent.reply().get(SHORTER), Some([4, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn u06_a_failure_becomes_a_sentence() {
    let p = process();
    let pd = p.pd();
    let cq = p.cq();
    let failure = p.mr(cq, 64).unwrap_err();
    assert_eq!(
        (failure.errno, failure.reason, failure.detail),
        (Errno::EINVAL, Reason::WRONG_CLASS, class::CQ)
    );
    assert_eq!((failure.attr, failure.offset), (mr::PD.id(), 24));
    let says = rdma_uapi::describe::explain(&failure, class::MR, method::CREATE).to_string();
    assert_eq!(
        says,
        "mr create: attribute pd at offset 24: the object is of another class, it is a cq (EINVAL)"
    );

    let failure = p.mr(pd, 0).unwrap_err();
    let says = rdma_uapi::describe::explain(&failure, class::MR, method::CREATE).to_string();
    assert_eq!(
        says,
        "mr create: attribute length at offset 56: the value is out of range (EINVAL)"
    );

    let failure = p.call(method::MODIFY, class::PD, pd, |_| {}).unwrap_err();
    let says = rdma_uapi::describe::explain(&failure, class::PD, method::MODIFY).to_string();
    assert_eq!(says, "pd method 2: the class has no such method (EOPNOTSUPP)");
    for (reason, name, sentence) in Reason::ALL {
        assert!(!name.is_empty() && !sentence.is_empty());
        assert_eq!(
            Reason::ALL.iter().filter(|other| other.0 == *reason).count(),
            1,
            "{name} is there once"
        );
    }
}

#[test]
fn u06_a_success_leaves_no_error_behind() {
    let p = process();
    let mut bytes = mr_create(p.pd(), &[]);
    p.raw(method::CREATE.into(), &mut bytes).unwrap();
    assert_eq!(Reply::new(&bytes).header().error, Default::default());
}

#[test]
fn u01_a_length_that_no_message_has_is_refused_in_the_header_alone() {
    use rdma_uapi::context::message_length;
    let bytes = |length: u16| {
        let mut bytes = [0u8; HEADER];
        bytes[..2].copy_from_slice(&length.to_ne_bytes());
        bytes
    };
    for length in [0, 1, 16, 23, 25, 31, 65529, 65535] {
        let mut header = bytes(length);
        assert_eq!(message_length(&mut header), Err(Errno::EINVAL), "{length}");
        let failure = Reply::new(&header).failure(Errno::EINVAL);
        assert_eq!(
            (failure.reason, failure.attr, failure.offset),
            (Reason::BAD_LENGTH, wire::FIELD_LENGTH, 0),
            "{length}"
        );
        assert_eq!(header[..16], bytes(length)[..16], "the rest is as it was");
    }
    for length in [24, 32, 65528] {
        let mut header = bytes(length);
        assert_eq!(message_length(&mut header), Ok(length.into()));
        assert_eq!(header, bytes(length));
    }
}
