// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work that asks for what is not allowed: the status on either side, the events, the flush, and that nothing was touched
//! (H10).
//!
//! The left side requests, the right side responds, unless the case says otherwise.

use super::kit::{check_eq, Layout, Outcome, PASS};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{Link, Region, Spec, Window, SOON};
use anyhow::{ensure, Context as _, Result};
use std::time::{Duration, Instant};
use verbena::{
    Access, ConnectOptions, Context, EventKind, EventQueue, QpState, RcQp, RecvWr, Remote, SendWr, Sge, WorkCompletion,
};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::Key;
use verbena_hw::wqe::{send_flags, SendHeader, SendOpcode};
use zerocopy::IntoBytes;

pub const CASES: &[Case] = &[
    Case::pair("h10_local_key_unknown_of_a_send", |s, c, w| {
        local_fault(s, c, w, Local::UnknownKey)
    }),
    Case::pair("h10_local_range_outside_the_region", |s, c, w| {
        local_fault(s, c, w, Local::OutOfRange)
    }),
    Case::pair("h10_local_key_of_another_domain", |s, c, w| {
        local_fault(s, c, w, Local::OtherDomain)
    }),
    Case::pair("h10_local_write_not_granted_to_a_read", |s, c, w| {
        local_fault(s, c, w, Local::NotWritable)
    }),
    Case::pair("h10_remote_key_unknown", |s, c, w| {
        remote_fault(s, c, w, Remotely::UnknownKey)
    }),
    Case::pair("h10_remote_range_outside_the_region", |s, c, w| {
        remote_fault(s, c, w, Remotely::OutOfRange)
    }),
    Case::pair("h10_remote_range_that_wraps", |s, c, w| {
        remote_fault(s, c, w, Remotely::Wraps)
    }),
    Case::pair("h10_remote_write_not_granted_by_the_region", |s, c, w| {
        remote_fault(s, c, w, Remotely::RegionNoWrite)
    }),
    Case::pair("h10_remote_read_not_granted_by_the_region", |s, c, w| {
        remote_fault(s, c, w, Remotely::RegionNoRead)
    }),
    Case::pair("h10_remote_key_of_another_domain", |s, c, w| {
        remote_fault(s, c, w, Remotely::OtherDomain)
    }),
    Case::pair("h10_remote_write_not_granted_by_the_queue_pair", |s, c, w| {
        queue_pair_access(s, c, w, false)
    }),
    Case::pair("h10_remote_read_not_granted_by_the_queue_pair", |s, c, w| {
        queue_pair_access(s, c, w, true)
    }),
    Case::pair("h10_receive_too_short", receive_too_short),
    Case::pair("h10_receive_with_a_bad_key", |s, c, w| bad_receive(s, c, w, true)),
    Case::pair("h10_receive_into_memory_that_is_not_writable", |s, c, w| {
        bad_receive(s, c, w, false)
    }),
    Case::single("h10_malformed_entries_are_operation_errors", malformed_entries),
    Case::single("h10_malformed_receives", malformed_receives),
    Case::single("h10_a_read_where_none_are_allowed", no_reads),
];

/// Impatient: what fails, fails soon.
pub(super) fn impatient() -> Spec {
    let connect = ConnectOptions {
        timeout: 10,
        retry_cnt: 2,
        rnr_retry: 2,
        min_rnr_timer: 8,
        ..ConnectOptions::default()
    };
    Spec {
        connect,
        ..Spec::default()
    }
}

/// Waits for the queue pair to get into the error state.
pub(super) fn until_error(qp: &RcQp) -> Result<()> {
    let begun = Instant::now();
    while qp.query()?.state != QpState::ERR {
        ensure!(
            begun.elapsed() < SOON,
            "the queue pair is in {} and not in the error state",
            qp.query()?.state
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Fails unless the completion is the error that is expected.
pub(super) fn failed(done: WorkCompletion, wr_id: u64, status: Status) -> Result<()> {
    check_eq!(
        (done.wr_id, done.status),
        (wr_id, status),
        "work request and status (reason {})",
        done.vendor_err
    );
    Ok(())
}

/// The next event of `queue` is of this kind, with this cookie.
fn expect_event(queue: &EventQueue, kind: EventKind, cookie: u64) -> Result<u64> {
    let event = queue
        .next_event(Some(SOON))?
        .with_context(|| format!("no event {kind:?}"))?;
    check_eq!((event.kind, event.cookie), (kind, cookie), "the event and its cookie");
    Ok(event.data)
}

/// What is wrong on the requester's own side.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Local {
    UnknownKey,
    OutOfRange,
    OtherDomain,
    NotWritable,
}

fn local_fault(side: Side, ctx: &Context, wire: &mut Wire, fault: Local) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let region = link.region(8192, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    let layout = Layout::whole(0, 4096);
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            let stranger = Region::new(&ctx.alloc_pd()?, 4096, Access::ALL_REMOTE)?;
            let read_only = link.region(4096, Access::empty())?;
            let good = region.sge(..4096);
            let (bad, reason) = match fault {
                Local::UnknownKey => (
                    Sge {
                        lkey: Key(good.lkey.0 ^ 0xff),
                        ..good
                    },
                    vendor::KEY_UNKNOWN,
                ),
                Local::OutOfRange => (Sge { len: 8193, ..good }, vendor::KEY_RANGE),
                Local::OtherDomain => (stranger.sge(..4096), vendor::KEY_PD),
                Local::NotWritable => (read_only.sge(..4096), vendor::KEY_ACCESS),
            };
            let wr = if fault == Local::NotWritable {
                SendWr::read(there.at(0))
            } else {
                SendWr::write(there.at(0))
            };
            link.qp.post_send(&wr.wr_id(1).sges(&[bad]).signaled())?;
            link.qp
                .post_send(&SendWr::write(there.at(0)).wr_id(2).inline(b"behind it"))?;
            let done = link.sent()?;
            failed(done, 1, Status::LOC_PROT_ERR)?;
            check_eq!(done.vendor_err, reason, "the device's reason");
            failed(link.sent()?, 2, Status::WR_FLUSH_ERR)?;
            until_error(&link.qp)?;
            wire.barrier("failed")?;
        }
        Side::Right => {
            layout.put(&region, 1);
            wire.barrier("prepared")?;
            wire.barrier("failed")?;
            layout.verify(&region, 4096, 1).context("nothing should have come")?;
            // It has noticed nothing.
            check_eq!(link.qp.query()?.state, QpState::RTS, "the responder's state");
        }
    }
    PASS
}

/// What is wrong with what the requester asks of the responder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remotely {
    UnknownKey,
    OutOfRange,
    Wraps,
    RegionNoWrite,
    RegionNoRead,
    OtherDomain,
}

fn remote_fault(side: Side, ctx: &Context, wire: &mut Wire, fault: Remotely) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let stranger = ctx.alloc_pd()?;
    let (pd, rights) = match fault {
        Remotely::RegionNoWrite => (&link.pd, Access::LOCAL_WRITE | Access::REMOTE_READ),
        Remotely::RegionNoRead => (&link.pd, Access::LOCAL_WRITE | Access::REMOTE_WRITE),
        Remotely::OtherDomain => (&stranger, Access::ALL_REMOTE),
        _ => (&link.pd, Access::ALL_REMOTE),
    };
    let region = Region::new(pd, 8192, rights)?;
    let own = link.region(8192, Access::LOCAL_WRITE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    let layout = Layout::whole(0, 8192);
    match side {
        Side::Left => {
            layout.put(&own, 2);
            wire.barrier("prepared")?;
            let place = there.at(0);
            let target = match fault {
                Remotely::UnknownKey => Remote {
                    rkey: place.rkey ^ 0x55,
                    ..place
                },
                // The last byte is one too far.
                Remotely::OutOfRange => there.at(1),
                Remotely::Wraps => Remote {
                    addr: u64::MAX - 100,
                    ..place
                },
                _ => place,
            };
            let wr = if fault == Remotely::RegionNoRead {
                SendWr::read(target)
            } else {
                SendWr::write(target)
            };
            link.qp.post_send(&wr.wr_id(1).sges(&[own.sge(..)]).signaled())?;
            link.qp.post_send(&SendWr::send().wr_id(2))?;
            failed(link.sent()?, 1, Status::REM_ACCESS_ERR)?;
            failed(link.sent()?, 2, Status::WR_FLUSH_ERR)?;
            until_error(&link.qp)?;
            wire.barrier("failed")?;
            layout.verify(&own, 8192, 2).context("the requester's own memory")?;
        }
        Side::Right => {
            let events = ctx.create_event_queue()?;
            events.associate_qp(&link.qp, 0xbad)?;
            layout.put(&region, 1);
            for n in 0..3 {
                link.qp.post_recv(&RecvWr::new(&[]).wr_id(n))?;
            }
            wire.barrier("prepared")?;
            let reason = expect_event(&events, EventKind::QpAccessError, 0xbad)?;
            let expected = match fault {
                Remotely::UnknownKey => vendor::KEY_UNKNOWN,
                Remotely::OutOfRange | Remotely::Wraps => vendor::KEY_RANGE,
                Remotely::RegionNoWrite | Remotely::RegionNoRead => vendor::KEY_ACCESS,
                Remotely::OtherDomain => vendor::KEY_PD,
            };
            check_eq!(reason, u64::from(expected), "the event's reason");
            wire.barrier("failed")?;
            until_error(&link.qp)?;
            for n in 0..3 {
                failed(link.received()?, n, Status::WR_FLUSH_ERR)?;
            }
            layout
                .verify(&region, 8192, 1)
                .context("nothing should have been written")?;
        }
    }
    PASS
}

fn queue_pair_access(side: Side, ctx: &Context, wire: &mut Wire, read: bool) -> Outcome {
    let mut spec = impatient();
    if side == Side::Right {
        // The other right is there, so that only the one that is missing can be the reason.
        let other = if read {
            Access::REMOTE_WRITE
        } else {
            Access::REMOTE_READ
        };
        spec.connect.access = Access::LOCAL_WRITE | other;
    }
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            let wr = if read {
                SendWr::read(there.at(0))
            } else {
                SendWr::write(there.at(0))
            };
            link.qp.post_send(&wr.wr_id(1).sges(&[region.sge(..64)]).signaled())?;
            failed(link.sent()?, 1, Status::REM_INV_REQ_ERR)?;
            wire.barrier("failed")?;
        }
        Side::Right => {
            let events = ctx.create_event_queue()?;
            events.associate_qp(&link.qp, 5)?;
            wire.barrier("prepared")?;
            let reason = expect_event(&events, EventKind::QpRequestError, 5)?;
            check_eq!(reason, u64::from(vendor::QP_ACCESS), "the event's reason");
            wire.barrier("failed")?;
            until_error(&link.qp)?;
        }
    }
    PASS
}

fn receive_too_short(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let region = link.region(8192, Access::LOCAL_WRITE)?;
    let layout = Layout::whole(100, 4097);
    match side {
        Side::Left => {
            layout.put(&region, 1);
            wire.barrier("prepared")?;
            link.qp
                .post_send(&SendWr::send().wr_id(1).sges(&layout.sges(&region)).signaled())?;
            failed(link.sent()?, 1, Status::REM_INV_REQ_ERR)?;
            until_error(&link.qp)?;
        }
        Side::Right => {
            let nothing = Layout::whole(0, 0);
            nothing.clear(&region);
            link.qp
                .post_recv(&RecvWr::new(&[region.sge(..4000), region.sge(4000..4096)]).wr_id(7))?;
            link.qp.post_recv(&RecvWr::new(&[region.sge(..)]).wr_id(8))?;
            wire.barrier("prepared")?;
            let done = link.received()?;
            failed(done, 7, Status::LOC_LEN_ERR)?;
            check_eq!(done.vendor_err, vendor::RECV_TOO_SHORT, "the device's reason");
            failed(link.received()?, 8, Status::WR_FLUSH_ERR)?;
            until_error(&link.qp)?;
            nothing
                .verify(&region, 0, 0)
                .context("nothing should have been written")?;
        }
    }
    wire.barrier("done")?;
    PASS
}

fn bad_receive(side: Side, ctx: &Context, wire: &mut Wire, bad_key: bool) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let region = link.region(4096, if bad_key { Access::LOCAL_WRITE } else { Access::empty() })?;
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            link.qp
                .post_send(&SendWr::send().wr_id(1).inline(b"a few bytes").signaled())?;
            failed(link.sent()?, 1, Status::REM_OP_ERR)?;
            until_error(&link.qp)?;
        }
        Side::Right => {
            let good = region.sge(..64);
            let (sge, reason) = match bad_key {
                true => (
                    Sge {
                        lkey: Key(good.lkey.0 ^ 1),
                        ..good
                    },
                    vendor::KEY_UNKNOWN,
                ),
                false => (good, vendor::KEY_ACCESS),
            };
            link.qp.post_recv(&RecvWr::new(&[sge]).wr_id(7))?;
            wire.barrier("prepared")?;
            let done = link.received()?;
            failed(done, 7, Status::LOC_PROT_ERR)?;
            check_eq!(done.vendor_err, reason, "the device's reason");
            until_error(&link.qp)?;
            check_eq!(
                region.buffer().find_mismatch(0, 4096, |_| 0),
                None,
                "the first byte that was written"
            );
        }
    }
    wire.barrier("done")?;
    PASS
}

/// An entry as the device reads it.
fn entry(header: SendHeader, sges: &[Sge]) -> Vec<u64> {
    let bytes = header
        .as_bytes()
        .iter()
        .chain(sges.as_bytes())
        .copied()
        .collect::<Vec<u8>>();
    bytes
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8")))
        .collect()
}

fn malformed_entries(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let head = |opcode: SendOpcode| SendHeader {
        opcode: opcode.0,
        flags: send_flags::SIGNALED,
        wr_id: 9,
        ..SendHeader::default()
    };
    let inline = |len: u32| SendHeader {
        flags: send_flags::SIGNALED | send_flags::INLINE,
        inline_len: len,
        ..head(SendOpcode::WRITE)
    };
    let write = || head(SendOpcode::WRITE);
    let list: Vec<(&str, SendHeader, u32)> = vec![
        ("opcode 14", head(SendOpcode(14)), vendor::OPCODE),
        ("opcode 255", head(SendOpcode(255)), vendor::OPCODE),
        ("an unknown flag", SendHeader { flags: 0x12, ..write() }, vendor::FLAGS),
        (
            "an inline READ",
            SendHeader {
                opcode: SendOpcode::READ.0,
                ..inline(8)
            },
            vendor::FLAGS,
        ),
        (
            "five elements of four",
            SendHeader { num_sge: 5, ..write() },
            vendor::SGE_COUNT,
        ),
        (
            "255 elements",
            SendHeader {
                num_sge: 255,
                ..write()
            },
            vendor::SGE_COUNT,
        ),
        (
            "inline data and elements",
            SendHeader {
                num_sge: 1,
                ..inline(8)
            },
            vendor::SGE_COUNT,
        ),
        ("33 inline bytes of 32", inline(33), vendor::INLINE_LEN),
        ("2^32 - 1 inline bytes", inline(u32::MAX), vendor::INLINE_LEN),
        (
            "a length of inline data without any",
            SendHeader {
                inline_len: 8,
                ..write()
            },
            vendor::INLINE_LEN,
        ),
    ];
    for (what, header, reason) in list {
        let mut link = Link::new(&ctx, &Spec::default())?;
        let here = link.qp.endpoint()?;
        link.qp.connect(&here)?;
        // The driver's interface rounds sizes up: these are at least what the entries exceed.
        let caps = *link.qp.caps();
        check_eq!(
            (caps.max_send_sge, caps.max_inline),
            (4, 32),
            "elements and inline bytes of the queue pair"
        );
        link.qp.post_raw_send(&entry(header, &[]))?;
        link.qp.post_send(&SendWr::write(Default::default()).wr_id(10))?;
        let done = link.sent()?;
        check_eq!(
            (done.wr_id, done.status),
            (9, Status::LOC_QP_OP_ERR),
            "{what}: work request and status"
        );
        check_eq!(done.vendor_err, reason, "{what}: the device's reason");
        failed(link.sent()?, 10, Status::WR_FLUSH_ERR)?;
    }
    // Longer than any message may be: two elements of 2^31 bytes.
    let mut link = Link::new(&ctx, &Spec::default())?;
    let here = link.qp.endpoint()?;
    link.qp.connect(&here)?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    let long = Sge {
        len: 1 << 31,
        ..region.sge(..)
    };
    link.qp
        .post_raw_send(&entry(SendHeader { num_sge: 2, ..write() }, &[long, long]))?;
    let done = link.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::LOC_LEN_ERR, vendor::MESSAGE_LEN),
        "4 GiB: status and reason"
    );
    PASS
}

fn malformed_receives(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for (elements, sends) in [(5u64, 1), (255, 0)] {
        let (mut a, mut b) = Link::pair(&ctx, &ctx, &impatient())?;
        // num_sge is byte 3 of the first word; the second is the id.
        b.qp.post_raw_recv(&[elements << 24, 44])?;
        let data = vec![7; sends];
        a.qp.post_send(&SendWr::send().wr_id(1).inline(&data).signaled())?;
        let done = b.received()?;
        failed(done, 44, Status::LOC_QP_OP_ERR)?;
        check_eq!(done.vendor_err, vendor::SGE_COUNT, "the device's reason");
        failed(a.sent()?, 1, Status::REM_OP_ERR)?;
    }
    PASS
}

fn no_reads(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut spec = impatient();
    spec.connect.max_rd_atomic = Some(0);
    let (mut a, b) = Link::pair(&ctx, &ctx, &spec)?;
    let (to, from) = (a.region(64, Access::LOCAL_WRITE)?, b.region(64, Access::ALL_REMOTE)?);
    a.qp.post_send(&SendWr::read(from.remote(0)).wr_id(1).sges(&[to.sge(..)]).signaled())?;
    let done = a.sent()?;
    failed(done, 1, Status::LOC_QP_OP_ERR)?;
    check_eq!(done.vendor_err, vendor::RD_ATOMIC, "the device's reason");
    PASS
}
