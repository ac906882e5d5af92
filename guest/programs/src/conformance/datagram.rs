// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams (H9), and the addresses that they go to (U8, U19).

use super::kit::{check_eq, quiet, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Region};
use crate::pattern;
use anyhow::{anyhow, ensure, Context as _, Result};
use rdma_uapi::class::{self, ah, mcast, pd};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::Errno;
use verbena::{
    path_to, Access, AddressHandle, CheckedAddress, CompletionQueue, Context, Gid, ProtectionDomain, QpState, RecvWr,
    SendWr, UdQp, WcOpcode, WcStatus, WorkCompletion, GRH_LEN,
};

pub const CASES: &[Case] = &[
    Case::pair("h09_a_datagram_says_who_sent_it_and_is_answered", conversation),
    Case::pair("h09_datagrams_of_every_size", every_size),
    Case::pair("h09_many_datagrams_arrive_in_order", many),
    Case::single("h09_immediate_data_and_nothing_else", immediate),
    Case::single("h09_a_wrong_q_key_is_dropped_and_counted", wrong_key),
    Case::single("h09_the_high_bit_sends_the_queue_pairs_own_q_key", own_key),
    Case::single("h09_longer_than_the_mtu_is_dropped_silently", too_long),
    Case::single("h09_without_a_receiver_it_is_dropped_and_counted", no_receiver),
    Case::single(
        "h10_a_bad_datagram_stops_the_send_queue_until_it_is_told_to_go_on",
        send_error,
    ),
    Case::single(
        "h10_a_receive_that_is_too_short_is_an_error_of_the_receiver",
        short_receive,
    ),
    Case::single(
        "h04_a_datagram_queue_pair_has_no_attributes_of_a_connection",
        state_machine,
    ),
    Case::pair("h09_a_multicast_reaches_its_members_on_both_sides", multicast),
    Case::single("h09_attaching_and_detaching_decide_who_receives", membership),
    Case::single(
        "u08_a_membership_is_an_object_and_keeps_its_queue_pair",
        membership_object,
    ),
    Case::single("u08_an_address_handle_is_checked_and_keeps_its_domain", address_object),
];

const QKEY: u32 = 0x0bad_cafe;
const GRH: usize = GRH_LEN;
/// The MTU of every port.
const MTU: usize = 4096;

/// A datagram queue pair that is ready, with what it stands on.
struct Mailbox {
    qp: UdQp,
    send_cq: CompletionQueue,
    recv_cq: CompletionQueue,
    region: Region,
    pd: ProtectionDomain,
}

impl Mailbox {
    fn new(ctx: &Context) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let (send_cq, recv_cq) = (ctx.create_cq(256)?, ctx.create_cq(256)?);
        let mut qp = UdQp::builder(&pd, &send_cq, &recv_cq).max_inline(512).build()?;
        qp.make_ready(QKEY)?;
        let region = Region::new(&pd, 1 << 20, Access::LOCAL_WRITE)?;
        Ok(Self {
            qp,
            send_cq,
            recv_cq,
            region,
            pd,
        })
    }

    fn receive_at(&mut self, offset: usize, len: usize) -> Result<()> {
        let sge = self.region.sge(offset..offset + len);
        Ok(self.qp.post_recv(&RecvWr::new(&[sge]).wr_id(offset as u64))?)
    }

    fn sent(&mut self) -> Result<WorkCompletion> {
        next(&mut self.send_cq).context("waiting for the completion of a datagram")
    }

    fn received(&mut self) -> Result<WorkCompletion> {
        good(next(&mut self.recv_cq).context("waiting for a datagram")?)
    }

    /// The address of the sender of what was received at `offset`.
    fn sender(&self, offset: usize) -> Result<AddressHandle> {
        let mut header = [0; GRH];
        header.copy_from_slice(&self.region.buffer().to_vec(offset, GRH));
        Ok(AddressHandle::of_sender(&header, 0)?)
    }
}

fn counter(ctx: &Context, name: &str) -> Result<u64> {
    let counters = ctx.port(1)?.counters;
    let found = counters.iter().find(|(known, _)| known == name);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| anyhow!("no counter {name}"))
}

/// Sends a few bytes from `a` to a queue pair of its own device.
fn send(a: &mut Mailbox, ctx: &Context, qpn: u32, qkey: u32) -> Result<()> {
    let to = AddressHandle::to(ctx.gid(1, 0)?)?.qp(qpn, qkey);
    a.qp.post_send(&SendWr::send().inline(b"hello").signaled(), &to)?;
    good(a.sent()?)?;
    Ok(())
}

/// The two sides tell each other where they are.
fn meet(ctx: &Context, wire: &mut Wire, own: &Mailbox) -> Result<(Gid, u32)> {
    let here = (ctx.gid(1, 0)?.0, own.qp.qpn());
    let (gid, qpn): ([u8; 16], u32) = wire.exchange(&here)?;
    Ok((Gid(gid), qpn))
}

fn conversation(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = Mailbox::new(ctx)?;
    own.receive_at(0, GRH + 100)?;
    let (gid, qpn) = meet(ctx, wire, &own)?;
    if side == Side::Left {
        let to = AddressHandle::to(gid)?.qp(qpn, QKEY);
        own.qp
            .post_send(&SendWr::send().inline(b"who are you?").signaled(), &to)?;
        let done = good(own.sent()?)?;
        check_eq!(done.opcode, WcOpcode::SEND, "what was sent");
    }
    let got = own.received()?;
    let text: &[u8] = match side {
        Side::Left => b"the right side",
        Side::Right => b"who are you?",
    };
    check_eq!(got.byte_len as usize, GRH + text.len(), "bytes received");
    ensure!(got.grh && got.recv, "a datagram's receive has a header: {got:?}");
    check_eq!(got.src_qpn, qpn, "the sender's queue pair");
    check_eq!(own.region.buffer().to_vec(GRH, text.len()), text, "the text");
    let from = own.sender(0)?;
    check_eq!(from.gid(), gid, "the sender's GID");
    if side == Side::Right {
        // With what came, and nothing else.
        let to = from.qp(got.src_qpn, QKEY);
        own.qp
            .post_send(&SendWr::send().inline(b"the right side").signaled(), &to)?;
        good(own.sent()?)?;
    }
    wire.barrier("answered")?;
    PASS
}

fn every_size(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = Mailbox::new(ctx)?;
    let (gid, qpn) = meet(ctx, wire, &own)?;
    let to = AddressHandle::to(gid)?.qp(qpn, QKEY);
    for (n, len) in [0, 1, 3, 63, 64, 255, 1024, 4095, MTU].into_iter().enumerate() {
        let buffer = own.region.buffer();
        if side == Side::Right {
            pattern::fill_buffer(buffer, 0, 2 * MTU, 0, 99);
            own.receive_at(0, GRH + MTU)?;
            wire.barrier("posted")?;
            let got = own.received()?;
            check_eq!(got.byte_len as usize, GRH + len, "bytes received");
            let buffer = own.region.buffer();
            let wrong = pattern::difference_in_buffer(buffer, GRH, len, 0, n as u64);
            check_eq!(wrong, None, "the first wrong byte of {len}");
            let end = GRH + len;
            let spilt = pattern::difference_in_buffer(buffer, end, 2 * MTU - end, end as u64, 99);
            check_eq!(spilt, None, "the first byte written behind {len} bytes");
        } else {
            pattern::fill_buffer(buffer, 0, MTU, 0, n as u64);
            wire.barrier("posted")?;
            let sge = own.region.sge(..len);
            own.qp.post_send(&SendWr::send().sges(&[sge]).signaled(), &to)?;
            good(own.sent()?)?;
        }
    }
    wire.barrier("done")?;
    PASS
}

fn many(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const BATCH: u64 = 100;
    let mut own = Mailbox::new(ctx)?;
    let (gid, qpn) = meet(ctx, wire, &own)?;
    let to = AddressHandle::to(gid)?.qp(qpn, QKEY);
    for round in 0..10 {
        if side == Side::Right {
            for i in 0..BATCH as usize {
                own.receive_at(64 * i, 64)?;
            }
            wire.barrier("posted")?;
            for i in 0..BATCH {
                let got = own.received()?;
                check_eq!(got.wr_id, 64 * i, "the order of receives");
                let value = own.region.buffer().load_u64(64 * i as usize + GRH);
                check_eq!(value, round * BATCH + i, "the order of datagrams");
            }
            wire.barrier("received")?;
        } else {
            wire.barrier("posted")?;
            let mut batch = own.qp.send_batch();
            for i in 0..BATCH {
                let value = (round * BATCH + i).to_le_bytes();
                let wr = SendWr::send().inline(&value).wr_id(i);
                batch.push(&if i + 1 == BATCH { wr.signaled() } else { wr }, &to)?;
            }
            batch.ring()?;
            check_eq!(good(own.sent()?)?.wr_id, BATCH - 1, "the signaled one");
            wire.barrier("received")?;
        }
    }
    PASS
}

fn immediate(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    b.receive_at(0, GRH)?;
    let to = AddressHandle::to(ctx.gid(1, 0)?)?.qp(b.qp.qpn(), QKEY);
    a.qp.post_send(&SendWr::send_imm(0x0102_0304).solicited(), &to)?;
    let got = b.received()?;
    check_eq!(got.imm, Some(0x0102_0304), "the immediate data");
    check_eq!(got.byte_len as usize, GRH, "bytes received");
    ensure!(got.solicited, "it was solicited");
    quiet(&mut a.send_cq, "a send that asked for no completion")?;
    PASS
}

fn wrong_key(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    b.receive_at(0, GRH + 5)?;
    let before = counter(&ctx, "qkey_violations")?;
    send(&mut a, &ctx, b.qp.qpn(), QKEY ^ 1)?;
    quiet(&mut b.recv_cq, "a datagram with a wrong Q_Key")?;
    ensure!(counter(&ctx, "qkey_violations")? > before, "it was not counted");
    send(&mut a, &ctx, b.qp.qpn(), QKEY)?;
    b.received()?;
    PASS
}

fn own_key(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    b.receive_at(0, GRH + 5)?;
    send(&mut a, &ctx, b.qp.qpn(), 1 << 31)?;
    b.received()?;
    check_eq!(a.qp.query()?.qkey, QKEY, "the sender's own Q_Key");
    PASS
}

fn too_long(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    b.receive_at(0, 2 * MTU)?;
    let to = AddressHandle::to(ctx.gid(1, 0)?)?.qp(b.qp.qpn(), QKEY);
    let before = counter(&ctx, "sent_too_long")?;
    a.qp.post_send(&SendWr::send().sges(&[a.region.sge(..MTU + 1)]).signaled(), &to)?;
    // Complete, and gone (IBA vol. 1, 11.4.1.1).
    good(a.sent()?)?;
    quiet(&mut b.recv_cq, "a datagram longer than the MTU")?;
    ensure!(counter(&ctx, "sent_too_long")? > before, "it was not counted");
    PASS
}

fn no_receiver(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    let (receives, pairs) = (counter(&ctx, "dropped_no_receive")?, counter(&ctx, "dropped_no_qp")?);
    send(&mut a, &ctx, b.qp.qpn(), QKEY)?;
    ensure!(counter(&ctx, "dropped_no_receive")? > receives, "it was not counted");
    let number = b.qp.qpn();
    drop(b);
    send(&mut a, &ctx, number, QKEY)?;
    ensure!(counter(&ctx, "dropped_no_qp")? > pairs, "it was not counted");
    let nobody = AddressHandle::to(Gid::from_ipv4([203, 0, 113, 1]))?.qp(number, QKEY);
    a.qp.post_send(&SendWr::send().inline(b"?").signaled(), &nobody)?;
    good(a.sent()?)?;
    check_eq!(a.qp.query()?.state, QpState::RTS, "the sender's state");
    PASS
}

fn send_error(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    b.receive_at(0, GRH + 5)?;
    let gid = ctx.gid(1, 0)?;
    let to = AddressHandle::to(gid)?.qp(b.qp.qpn(), QKEY);
    // A GID table entry that is empty: the address is well formed, so only the device notices.
    let bad = AddressHandle::new(&path_to(gid, 31), 1)?.qp(b.qp.qpn(), QKEY);
    let mut batch = a.qp.send_batch();
    batch.push(&SendWr::send().wr_id(1), &bad)?;
    batch.push(&SendWr::send().wr_id(2), &to)?;
    batch.ring()?;
    let failed = a.sent()?;
    check_eq!(
        (failed.wr_id, failed.status),
        (1, WcStatus::LOC_QP_OP_ERR),
        "the bad one"
    );
    let flushed = a.sent()?;
    check_eq!(
        (flushed.wr_id, flushed.status),
        (2, WcStatus::WR_FLUSH_ERR),
        "the one behind it"
    );
    check_eq!(a.qp.query()?.state, QpState::SQE, "the state");
    // It still receives.
    a.receive_at(0, GRH + 5)?;
    send(&mut b, &ctx, a.qp.qpn(), QKEY)?;
    a.received()?;
    a.qp.modify(&verbena::QpAttr::to(QpState::RTS))?;
    send(&mut a, &ctx, b.qp.qpn(), QKEY)?;
    b.received()?;
    PASS
}

fn short_receive(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    // Room for the data, but not for what stands before it: the mistake of everybody's first datagram.
    b.receive_at(0, 5)?;
    b.receive_at(64, GRH + 5)?;
    send(&mut a, &ctx, b.qp.qpn(), QKEY)?;
    check_eq!(next(&mut b.recv_cq)?.status, WcStatus::LOC_LEN_ERR, "the short receive");
    check_eq!(
        next(&mut b.recv_cq)?.status,
        WcStatus::WR_FLUSH_ERR,
        "the one behind it"
    );
    check_eq!(b.qp.query()?.state, QpState::ERR, "the receiver's state");
    check_eq!(a.qp.query()?.state, QpState::RTS, "the sender's state");
    PASS
}

fn state_machine(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let cq = ctx.create_cq(16)?;
    let mut qp = UdQp::builder(&pd, &cq, &cq).build()?;
    let attr = verbena::QpAttr::to;
    let wants = |qp: &mut UdQp, attr: &verbena::QpAttr, what: &str| refused(qp.modify(attr), Errno::EINVAL, what);
    wants(&mut qp, &attr(QpState::RTS), "RESET to RTS")?;
    wants(
        &mut qp,
        &attr(QpState::INIT).port(1).pkey_index(0),
        "INIT without a Q_Key",
    )?;
    wants(&mut qp, &attr(QpState::INIT).port(2).pkey_index(0).qkey(1), "port 2")?;
    let connection = attr(QpState::INIT).port(1).pkey_index(0).qkey(1).timeout(14);
    refused(qp.modify(&connection), Errno::EOPNOTSUPP, "an attribute of connections")?;
    qp.modify(&attr(QpState::INIT).port(1).pkey_index(0).qkey(1))?;
    qp.modify(&attr(QpState::RTR).qkey(2))?;
    wants(&mut qp, &attr(QpState::RTS), "RTS without a PSN")?;
    qp.modify(&attr(QpState::RTS).sq_psn(7))?;
    qp.modify(&attr(QpState::SQD))?;
    qp.modify(&attr(QpState::RTS).qkey(3))?;
    let info = qp.query()?;
    check_eq!(
        (info.state, info.qkey, info.port),
        (QpState::RTS, 3, 1),
        "state, Q_Key, port"
    );
    qp.set_error()?;
    wants(&mut qp, &attr(QpState::RTS), "ERR to RTS")?;
    PASS
}

fn address_object(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    let path = path_to(ctx.gid(1, 0)?, 0);
    let checked = CheckedAddress::new(&a.pd, &path, 1)?;
    b.receive_at(0, GRH + 2)?;
    let to = checked.handle().qp(b.qp.qpn(), QKEY);
    a.qp.post_send(&SendWr::send().inline(b"ah").signaled(), &to)?;
    b.received()?;
    for (what, wrong) in [
        ("an empty GID table entry", path_to(ctx.gid(1, 0)?, 31)),
        ("an index behind the table", path_to(ctx.gid(1, 0)?, 255)),
        ("no index of any table", path_to(ctx.gid(1, 0)?, 256)),
        ("no destination", path_to(Gid::default(), 0)),
        ("a service level", verbena::Path { sl: 16, ..path }),
        (
            "a flow label",
            verbena::Path {
                flow_label: 1 << 20,
                ..path
            },
        ),
    ] {
        refused(CheckedAddress::new(&a.pd, &wrong, 1), Errno::EINVAL, what)?;
    }
    refused(CheckedAddress::new(&a.pd, &path, 2), Errno::EINVAL, "port 2")?;
    checked.destroy()?;
    // As an object: what it was made of, and that its domain is in use.
    let domain = Message::new(class::PD, 0, |m| {
        m.ask(pd::PDN);
    });
    let domain = ObjectId(domain.call(&ctx, method::CREATE)?.object());
    let handle = Message::new(class::AH, 0, |m| {
        m.put(ah::PD, &domain).put(ah::PATH, &path);
    });
    let handle = handle.call(&ctx, method::CREATE)?.object();
    let query = Message::new(class::AH, handle, |m| {
        m.ask(ah::PD).ask(ah::PATH).ask(ah::PORT);
    });
    let answer = query.call(&ctx, method::QUERY)?;
    check_eq!(answer.reply().get(ah::PD), Some(domain), "its domain");
    check_eq!(answer.reply().get(ah::PATH), Some(path), "its path");
    check_eq!(answer.reply().get(ah::PORT), Some(1), "its port");
    let destroy = |class, id| Message::new(class, id, |_| {}).call(&ctx, method::DESTROY);
    match destroy(class::PD, domain.0) {
        Err(failure) => check_eq!(failure.errno, Errno::EBUSY, "destroying a domain in use"),
        Ok(_) => anyhow::bail!("a domain in use was destroyed"),
    }
    destroy(class::AH, handle)?;
    destroy(class::PD, domain.0)?;
    PASS
}

/// A group of the case's own: cases and both sides of a pair share the fabric.
fn group(last: u8) -> Gid {
    Gid::from_ipv4([239, 255, 9, last])
}

fn multicast(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = Mailbox::new(ctx)?;
    own.qp.attach(group(1))?;
    for i in 0..2 {
        own.receive_at(1024 * i, GRH + 100)?;
    }
    let (gid, qpn) = meet(ctx, wire, &own)?;
    wire.barrier("attached")?;
    let to = AddressHandle::to(group(1))?.members(QKEY);
    // One after the other, so that both see the same order.
    for turn in [Side::Left, Side::Right] {
        if side == turn {
            own.qp.post_send(&SendWr::send().inline(b"to all").signaled(), &to)?;
            good(own.sent()?)?;
        }
        let got = own.received()?;
        check_eq!(got.byte_len as usize, GRH + 6, "bytes received");
        let sender = if side == turn { own.qp.qpn() } else { qpn };
        check_eq!(got.src_qpn, sender, "the sender's queue pair");
        let at = got.wr_id as usize;
        check_eq!(own.region.buffer().to_vec(at + GRH, 6), b"to all", "the text");
        let from = own.sender(at)?.gid();
        check_eq!(
            from,
            if side == turn { ctx.gid(1, 0)? } else { gid },
            "the sender's GID"
        );
        wire.barrier("received")?;
    }
    own.qp.detach(group(1))?;
    wire.barrier("detached")?;
    PASS
}

fn membership(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b, mut c) = (Mailbox::new(&ctx)?, Mailbox::new(&ctx)?, Mailbox::new(&ctx)?);
    let to = AddressHandle::to(group(2))?.members(QKEY);
    let mut cast = || -> Result<()> {
        a.qp.post_send(&SendWr::send().inline(b"?").signaled(), &to)?;
        good(a.sent()?)?;
        Ok(())
    };
    b.receive_at(0, GRH + 1)?;
    c.receive_at(0, GRH + 1)?;
    cast()?;
    quiet(&mut b.recv_cq, "a message to a group without members")?;
    b.qp.attach(group(2))?;
    c.qp.attach(group(2))?;
    refused(b.qp.attach(group(2)), Errno::EEXIST, "attaching twice")?;
    cast()?;
    b.received()?;
    c.received()?;
    b.qp.detach(group(2))?;
    ensure!(b.qp.detach(group(2)).is_err(), "it was detached twice");
    b.receive_at(0, GRH + 1)?;
    c.receive_at(0, GRH + 1)?;
    cast()?;
    c.received()?;
    quiet(&mut b.recv_cq, "a message to a group that it has left")?;
    // A queue pair that is gone is no member.
    drop(c);
    cast()?;
    refused(
        b.qp.attach(Gid::from_ipv4([10, 0, 0, 1])),
        Errno::EINVAL,
        "a group that is none",
    )?;
    PASS
}

fn membership_object(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut a = Mailbox::new(&ctx)?;
    a.qp.attach(group(3))?;
    // Ids are given out in order of creation, and the membership was made last.
    let mut found = None;
    for id in (1..64).rev() {
        let query = Message::new(class::MCAST, id, |m| {
            m.ask(mcast::QP).ask(mcast::GID);
        });
        if let Ok(answer) = query.call(&ctx, method::QUERY) {
            check_eq!(answer.reply().get(mcast::GID), Some(group(3).0), "its group");
            found = answer.reply().get(mcast::QP);
            break;
        }
    }
    let qp = found.context("no object of class MCAST")?;
    match Message::new(class::QP_UD, qp.0, |_| {}).call(&ctx, method::DESTROY) {
        Err(failure) => check_eq!(failure.errno, Errno::EBUSY, "destroying a member"),
        Ok(_) => anyhow::bail!("a member was destroyed"),
    }
    a.qp.detach(group(3))?;
    a.qp.destroy()?;
    PASS
}
