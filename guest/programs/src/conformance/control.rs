// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages: the header, the attributes, what is said of a bad one (U1, U5, U6). After every abuse the same context still
//! works.

use super::kit::{check_eq, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::pattern;
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class::interface::feature;
use rdma_uapi::class::{self, cq, device, interface};
use rdma_uapi::listing::Record;
use rdma_uapi::wire::{self, method};
use rdma_uapi::{Errno, Reason};
use verbena::Context;

pub const CASES: &[Case] = &[
    Case::single("u01_length_shorter_than_a_header", short_length),
    Case::single("u01_length_that_is_no_multiple_of_8", odd_length),
    Case::single("u01_length_beyond_the_attributes", length_beyond),
    Case::single("u01_the_longest_message_is_accepted", longest),
    Case::single("u01_flags_and_reserved_fields_must_be_zero", reserved_fields),
    Case::single("u01_object_must_be_zero_where_none_is_taken", object_not_zero),
    Case::single("u04_experimental_features_are_asked_for_first", features),
    Case::single("u05_unknown_mandatory_is_named", unknown_mandatory),
    Case::single("u05_unknown_optional_is_ignored", unknown_optional),
    Case::single("u05_duplicate_is_refused", duplicate),
    Case::single("u05_short_payload_is_refused", short_payload),
    Case::single("u05_long_payload_with_zero_tail_is_accepted", zero_tail),
    Case::single("u05_long_payload_with_other_tail_is_e2big", other_tail),
    Case::single("u05_missing_required_is_named", missing),
    Case::single("u05_attribute_shorter_than_its_head", short_attribute),
    Case::single("u05_attribute_beyond_the_message", attribute_beyond),
    Case::single("u05_padding_and_results_must_be_zero", padding),
    Case::single("u05_by_pointer_only_where_allowed", by_pointer),
    Case::single("u05_pointers_to_nowhere_are_efault", bad_pointer),
    Case::single("u05_outputs_say_what_was_written", outputs),
    Case::single("u05_outputs_by_pointer_say_how_long_they_are", outputs_by_pointer),
    Case::single("u05_arbitrary_bytes_do_no_harm", arbitrary_bytes),
    Case::single("u06_the_driver_makes_it_a_sentence", sentence),
    Case::single("u06_value_out_of_range_is_named", out_of_range),
];

/// An attribute number that no method has.
const UNKNOWN: u16 = 47;

/// The context still does what it should.
fn works(ctx: &Context) -> Result<()> {
    let answer = Message::new(class::PD, 0, |_| {})
        .call(ctx, method::CREATE)
        .context("a context that was abused")?;
    Message::new(class::PD, answer.object(), |_| {})
        .call(ctx, method::DESTROY)
        .context("a context that was abused")?;
    Ok(())
}

/// A message that creates a completion queue of 16 entries, at [`CQE_AT`].
fn create_cq() -> Message {
    Message::new(class::CQ, 0, |m| {
        m.put(cq::CQE, &16);
    })
}

/// Where the first attribute of a message is.
const CQE_AT: usize = wire::HEADER;

/// Sends a message that must create a completion queue, and destroys it.
fn creates_cq(ctx: &Context, message: &Message, what: &str) -> Result<()> {
    let answer = message.call(ctx, method::CREATE).with_context(|| what.to_owned())?;
    ensure!(
        answer.reply().get(cq::CQE) >= Some(16),
        "{what}: the queue has {:?} entries",
        answer.reply().get(cq::CQE)
    );
    Message::new(class::CQ, answer.object(), |_| {}).call(ctx, method::DESTROY)?;
    Ok(())
}

fn short_length(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in [0, 1, 8, 16, 23] {
        let mut message = Message::new(class::PD, 0, |_| {});
        message.set16(0, length);
        match message.call(&ctx, method::CREATE) {
            Ok(_) => anyhow::bail!("length {length} was accepted"),
            Err(failure) => check_eq!(failure.errno, Errno::EINVAL, "the errno of length {length}"),
        }
        works(&ctx)?;
    }
    PASS
}

fn odd_length(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in [25, 28, 31, 33, 65_535] {
        let mut message = create_cq();
        message.set16(0, length);
        let how = (Errno::EINVAL, Reason::BAD_LENGTH);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (wire::FIELD_LENGTH, 0),
            &format!("length {length}"),
        )?;
        works(&ctx)?;
    }
    PASS
}

fn length_beyond(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut message = create_cq();
    let end = message.len();
    // What follows is zero: an attribute of no length.
    message.set16(0, end as u16 + 8);
    message.refused(
        &ctx,
        method::CREATE,
        (Errno::EINVAL, Reason::SHORT_ATTR),
        (0, end),
        "8 bytes more",
    )?;
    works(&ctx)?;
    PASS
}

fn longest(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut message = create_cq();
    let room = wire::MAX_MESSAGE - message.len() - wire::ATTR_HEAD;
    message.optional(UNKNOWN, &vec![0xa5; room]);
    check_eq!(message.len(), wire::MAX_MESSAGE, "the message's length");
    creates_cq(&ctx, &message, "the longest message")?;
    PASS
}

fn reserved_fields(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let fields = [
        (8, wire::FIELD_FLAGS, 8, Reason::UNKNOWN_FLAG),
        (12, wire::FIELD_RESERVED, 12, Reason::NOT_ZERO),
        (16, wire::FIELD_RESERVED, 16, Reason::NOT_ZERO),
        (20, wire::FIELD_RESERVED, 16, Reason::NOT_ZERO),
    ];
    for (offset, field, at, reason) in fields {
        for bit in 0..32 {
            let mut message = create_cq();
            message.set32(offset, 1 << bit);
            let what = format!("bit {bit} of the header's word at {offset}");
            message.refused(&ctx, method::CREATE, (Errno::EINVAL, reason), (field, at), &what)?;
        }
    }
    works(&ctx)?;
    PASS
}

fn object_not_zero(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EINVAL, Reason::OBJECT_NOT_ZERO);
    for id in [1, 0x1234, u32::MAX] {
        let mut message = create_cq();
        message.set32(4, id);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (wire::FIELD_OBJECT, 4),
            "CREATE with an object",
        )?;
        let message = Message::new(class::DEVICE, id, |_| {});
        message.refused(
            &ctx,
            method::QUERY,
            how,
            (wire::FIELD_OBJECT, 4),
            "QUERY of device number something",
        )?;
    }
    works(&ctx)?;
    PASS
}

fn features(fixture: &Fixture) -> Outcome {
    let ask = |features: u64| {
        Message::new(class::INTERFACE, 0, |m| {
            m.put(interface::FEATURES, &features);
        })
    };
    let ctx = fixture.open()?;
    ctx.ask_features(feature::EXPERIMENTAL).context("as the first call")?;
    let how = (Errno::EBUSY, Reason::NOT_FIRST);
    ask(feature::EXPERIMENTAL).refused(&ctx, method::MODIFY, how, (wire::FIELD_METHOD, 0), "asking twice")?;
    works(&ctx)?;

    let ctx = fixture.open()?;
    works(&ctx)?;
    ask(feature::EXPERIMENTAL).refused(&ctx, method::MODIFY, how, (wire::FIELD_METHOD, 0), "asking late")?;

    let ctx = fixture.open()?;
    let how = (Errno::EOPNOTSUPP, Reason::UNKNOWN_FLAG);
    let at = (interface::FEATURES.id(), wire::HEADER);
    ask(!feature::ALL).refused(&ctx, method::MODIFY, how, at, "unknown features")?;
    works(&ctx)?;
    PASS
}

fn unknown_mandatory(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR);
    for id in [
        0,
        UNKNOWN,
        63,
        64,
        wire::ATTR_ID & !wire::ATTR_DRIVER,
        wire::driver_attr(wire::DriverId(1), 63),
    ] {
        for payload in [&[][..], &[0; 3], &[0xff; 100]] {
            let mut message = create_cq();
            let at = message.mandatory(id, payload);
            message.refused(&ctx, method::CREATE, how, (id, at), &format!("attribute {id:#x}"))?;
        }
    }
    works(&ctx)?;
    PASS
}

fn unknown_optional(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut message = create_cq();
    for (id, payload) in [
        (UNKNOWN, &b""[..]),
        (63, b"abc"),
        (100, b"12345678"),
        (UNKNOWN, b"again"),
    ] {
        message.optional(id, payload);
    }
    creates_cq(&ctx, &message, "unknown optional attributes")?;
    PASS
}

fn duplicate(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EINVAL, Reason::DUPLICATE);
    let mut message = create_cq();
    let at = message.mandatory(cq::CQE.id(), &16u32.to_le_bytes());
    message.refused(&ctx, method::CREATE, how, (cq::CQE.id(), at), "an attribute twice")?;
    let mut message = create_cq();
    let at = message.optional(cq::CQE.id(), &16u32.to_le_bytes());
    message.refused(
        &ctx,
        method::CREATE,
        how,
        (cq::CQE.id(), at),
        "an attribute twice, once optional",
    )?;
    works(&ctx)?;
    PASS
}

fn short_payload(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in 0..4 {
        let mut message = Message::new(class::CQ, 0, |_| {});
        let at = message.mandatory(cq::CQE.id(), &[16, 0, 0, 0][..length]);
        let failure = match message.call(&ctx, method::CREATE) {
            Ok(_) => anyhow::bail!("a payload of {length} bytes was accepted"),
            Err(failure) => failure,
        };
        let got = (
            failure.errno,
            failure.reason,
            failure.attr,
            usize::from(failure.offset),
            failure.detail,
        );
        check_eq!(
            got,
            (Errno::EINVAL, Reason::SHORT_PAYLOAD, cq::CQE.id(), at, 4),
            "errno, reason, attribute, offset, bytes expected"
        );
    }
    works(&ctx)?;
    PASS
}

fn zero_tail(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in [5, 8, 12, 4096] {
        let mut payload = vec![0; length];
        payload[0] = 16;
        let mut message = Message::new(class::CQ, 0, |_| {});
        message.mandatory(cq::CQE.id(), &payload);
        creates_cq(
            &ctx,
            &message,
            &format!("a payload of {length} bytes, zero after the fourth"),
        )?;
    }
    PASS
}

fn other_tail(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for (length, wrong) in [(5, 4), (8, 7), (100, 50)] {
        let mut payload = vec![0; length];
        payload[0] = 16;
        payload[wrong] = 1;
        let mut message = Message::new(class::CQ, 0, |_| {});
        let at = message.mandatory(cq::CQE.id(), &payload);
        let how = (Errno::E2BIG, Reason::TAIL_NOT_ZERO);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (cq::CQE.id(), at),
            &format!("byte {wrong} of {length}"),
        )?;
    }
    works(&ctx)?;
    PASS
}

fn missing(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let message = Message::new(class::CQ, 0, |m| {
        m.put(cq::COMP_VECTOR, &0);
    });
    let how = (Errno::EINVAL, Reason::MISSING);
    message.refused(&ctx, method::CREATE, how, (cq::CQE.id(), 0), "a queue without a size")?;
    let message = Message::new(class::QP_RC, 0, |_| {});
    message.refused(
        &ctx,
        method::CREATE,
        how,
        (class::qp::PD.id(), 0),
        "a queue pair without anything",
    )?;
    works(&ctx)?;
    PASS
}

fn short_attribute(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in 0..wire::ATTR_HEAD as u16 {
        let mut message = create_cq();
        let at = message.attr(UNKNOWN, length, &[], 0);
        let how = (Errno::EINVAL, Reason::SHORT_ATTR);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (UNKNOWN, at),
            &format!("an attribute of {length} bytes"),
        )?;
    }
    works(&ctx)?;
    PASS
}

fn attribute_beyond(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for length in [17, 24, 1000, u16::MAX] {
        for mandatory in [0, wire::ATTR_MANDATORY] {
            let mut message = create_cq();
            let at = message.attr(UNKNOWN | mandatory, length, &[0; 8], 0);
            let how = (Errno::EINVAL, Reason::ATTR_PAST_END);
            message.refused(
                &ctx,
                method::CREATE,
                how,
                (UNKNOWN, at),
                &format!("an attribute of {length} bytes in 16"),
            )?;
        }
    }
    works(&ctx)?;
    PASS
}

fn padding(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EINVAL, Reason::NOT_ZERO);
    let mut message = Message::new(class::CQ, 0, |_| {});
    let at = message.attr(cq::CQE.id(), 12, &16u32.to_le_bytes(), 0x80);
    message.refused(
        &ctx,
        method::CREATE,
        how,
        (cq::CQE.id(), at),
        "padding that is not zero",
    )?;
    for bit in [0, 30, 31] {
        let mut message = create_cq();
        message.set32(CQE_AT + 4, 1 << bit);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (cq::CQE.id(), CQE_AT),
            &format!("bit {bit} of a result, given"),
        )?;
    }
    works(&ctx)?;
    PASS
}

fn by_pointer(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let message = Message::new(class::CQ, 0, |m| {
        m.by_pointer(cq::CQE, 0x1000, 4);
    });
    let how = (Errno::EINVAL, Reason::NOT_BY_POINTER);
    message.refused(&ctx, method::CREATE, how, (cq::CQE.id(), CQE_AT), "a size by pointer")?;
    for length in [0, 8, 15, 17, 24] {
        let mut message = Message::new(class::INTERFACE, 0, |_| {});
        let at = message.mandatory(interface::LISTING.id() | wire::ATTR_BY_POINTER, &vec![0; length]);
        let how = (Errno::EINVAL, Reason::SHORT_PAYLOAD);
        let what = format!("a pointer of {length} bytes");
        message.refused(&ctx, method::QUERY, how, (interface::LISTING.id(), at), &what)?;
    }
    works(&ctx)?;
    PASS
}

fn bad_pointer(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EFAULT, Reason::BAD_POINTER);
    // The first page is nobody's, nor is the upper half of the address space a program's.
    for addr in [0, 8, 0xffff_8000_0000_0000, u64::MAX - 7] {
        let message = Message::new(class::INTERFACE, 0, |m| {
            m.by_pointer(interface::LISTING, addr, 4096);
        });
        let at = (interface::LISTING.id(), wire::HEADER);
        message.refused(&ctx, method::QUERY, how, at, &format!("4096 bytes at {addr:#x}"))?;
    }
    works(&ctx)?;
    PASS
}

fn outputs(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let full = size_of::<device::DeviceAttrs>();
    for room in [0, 1, 8, full - 1, full, full + 1, full + 64] {
        let mut message = Message::new(class::DEVICE, 0, |_| {});
        message.mandatory(device::ATTRS.id(), &vec![0; room]);
        let answer = message.call(&ctx, method::QUERY)?;
        let answered = answer
            .reply()
            .answered(device::ATTRS.id())
            .context("the attribute was not answered")?;
        check_eq!(answered.written as usize, room.min(full), "bytes written to {room}");
        check_eq!(answered.truncated, room < full, "whether {room} bytes were too few");
    }
    // What was not asked for is not there, what was is.
    let message = Message::new(class::DEVICE, 0, |m| {
        m.ask(device::DRIVER_ID).ask_text(device::DRIVER_NAME, 3);
    });
    let answer = message.call(&ctx, method::QUERY)?;
    check_eq!(answer.reply().get(device::DRIVER_ID), Some(1), "the driver's id");
    check_eq!(
        answer.reply().text(device::DRIVER_NAME),
        Some("ver"),
        "the first letters of the driver's name"
    );
    check_eq!(
        answer.reply().answered(device::ATTRS.id()),
        None,
        "what was not asked for"
    );
    PASS
}

fn outputs_by_pointer(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let one = size_of::<Record>();
    let memory = ctx.alloc_buffer(1 << 20)?;
    let ask = |length: usize| {
        let message = Message::new(class::INTERFACE, 0, |m| {
            m.by_pointer(interface::LISTING, memory.addr(), length as u64);
        });
        memory.fill(0, memory.len(), 0xee);
        message.call(&ctx, method::QUERY)
    };
    let mut full = 0;
    for room in [0, 1, one, 3 * one + 5] {
        let answer = ask(room)?;
        let answered = answer
            .reply()
            .answered(interface::LISTING.id())
            .context("it was not answered")?;
        check_eq!(
            (answered.written as usize, answered.truncated),
            (room, true),
            "written and truncated"
        );
        full = answered.full.context("the full size was not answered")? as usize;
        ensure!(full > room && full % one == 0, "{full} is no size of a listing");
        check_eq!(
            memory.find_mismatch(room, 4096, |_| 0xee),
            None,
            "the first byte written beyond the room"
        );
    }
    let answer = ask(full)?;
    let answered = answer
        .reply()
        .answered(interface::LISTING.id())
        .context("it was not answered")?;
    check_eq!(
        (answered.written as usize, answered.truncated),
        (full, false),
        "written and truncated"
    );
    check_eq!(
        memory.find_mismatch(full, 4096, |_| 0xee),
        None,
        "the first byte written beyond the listing"
    );
    PASS
}

fn arbitrary_bytes(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut random = vec![0; 8 * 4096];
    pattern::fill(&mut random, 0, 0x5eed);
    let mut words = random
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8")))
        .cycle();
    let mut next = move || words.next().expect("it goes round");
    let classes = [
        class::INTERFACE,
        class::DEVICE,
        class::PORT,
        class::PD,
        class::MR,
        class::CQ,
        class::QP_RC,
        0x8101,
    ];
    let mut accepted = 0;
    for round in 0..600u32 {
        let pick = next();
        let class = classes[pick as usize % classes.len()];
        let method_ = (pick >> 16) as u8 % 5;
        if method_ == method::CREATE_FD {
            continue; // It would make a descriptor that nobody closes.
        }
        let object = if method_ == method::CREATE || pick & 1 << 40 == 0 {
            0
        } else {
            (pick >> 32) as u32 & 0xf
        };
        let mut message = Message::new(class, object, |_| {});
        for _ in 0..pick >> 48 & 3 {
            let value = next();
            // Never by pointer: an arbitrary address may be somebody's.
            let id = (value as u16 & 0x3f) | (value as u16 & wire::ATTR_MANDATORY);
            let payload = next().to_le_bytes();
            let length = (value >> 16 & 0x1f) as u16;
            message.attr(id, length, &payload, 0);
        }
        if round % 7 == 0 {
            message.set32((next() % 6) as usize * 4, next() as u32 | 8);
        }
        if message.call(&ctx, method_).is_ok() {
            accepted += 1;
        }
    }
    ensure!(
        accepted > 0,
        "not even one of 600 was a good message: the case tests nothing"
    );
    works(&ctx)?;
    PASS
}

fn sentence(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let Err(error) = ctx.create_cq(u32::MAX) else {
        anyhow::bail!("a completion queue of 2^32 - 1 entries was made")
    };
    let failure = *error.failure().context("it is no failed call")?;
    check_eq!(
        (failure.attr, failure.reason),
        (cq::CQE.id(), Reason::OUT_OF_RANGE),
        "attribute and reason"
    );
    let text = error.to_string();
    for part in ["EINVAL", "cqe", "range"] {
        ensure!(text.contains(part), "'{text}' says nothing of '{part}'");
    }
    refused(ctx.create_cq(u32::MAX), Errno::EINVAL, "the same again")?;
    works(&ctx)?;
    PASS
}

fn out_of_range(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let how = (Errno::EINVAL, Reason::OUT_OF_RANGE);
    for entries in [0, 1 << 31, u32::MAX] {
        let mut message = Message::new(class::CQ, 0, |m| {
            m.put(cq::COMP_VECTOR, &0);
        });
        let at = message.mandatory(cq::CQE.id(), &entries.to_le_bytes());
        message.refused(
            &ctx,
            method::CREATE,
            how,
            (cq::CQE.id(), at),
            &format!("{entries} entries"),
        )?;
    }
    let mut message = create_cq();
    let at = message.mandatory(cq::COMP_VECTOR.id(), &1_000_000u32.to_le_bytes());
    message.refused(
        &ctx,
        method::CREATE,
        how,
        (cq::COMP_VECTOR.id(), at),
        "vector 1,000,000",
    )?;
    works(&ctx)?;
    PASS
}
