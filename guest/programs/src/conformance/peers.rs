// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two sides, each with a device of its own: what one gives the other and what it does not, what each one's port counts, and
//! that both show the same connection (H6, H11, H14, H15).

use super::kit::{check_eq, dump, impatient, quiet, Outcome, PASS};
use crate::harness::{Case, Side, Wire};
use crate::link::{Link, Region, Spec, Window, SOON};
use anyhow::{ensure, Context as _, Result};
use verbena::{
    path_to, Access, Context, Endpoint, EventKind, EventQueue, Key, PortInfo, QpAttr, QpState, RecvWr, SendWr, Sge,
    WindowType,
};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::pair("h06_a_peer_has_the_rights_of_the_region_and_no_other", rights),
    Case::pair("h06_a_peer_reaches_through_a_window_what_it_covers", windows),
    Case::pair("h06_a_peers_key_ends_with_what_it_stands_for", key_ends),
    Case::pair("h11_each_ports_counters_count_its_own_side", counters),
    Case::pair("h11_each_ports_counters_count_the_errors_of_its_side", error_counters),
    Case::pair("h11_a_port_that_is_switched_off_is_silent_for_the_peer", switched_off),
    Case::pair("h14_keys_of_the_peer_are_nothing_at_home", foreign_keys),
    Case::pair("h14_queue_pairs_of_the_peer_are_not_at_home", foreign_numbers),
    Case::pair("h14_a_stranger_from_the_other_side_is_not_heard", stranger),
    Case::pair("h15_both_ends_show_the_same_connection", both_dumps),
];

const DATA: &[u8; 8] = b"from far";
const BEFORE: u8 = 0x5e;

/// Whether both sides have the same device, as in one guest.
fn same_device(ctx: &Context, wire: &mut Wire) -> Result<bool> {
    let mine = ctx.device()?.node_guid;
    Ok(wire.exchange(&mine)? == mine)
}

/// What the left side does to memory of the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Write,
    Read,
    Atomic,
}

/// Does it, and tells how it ended.
fn reach(link: &mut Link, op: Op, to: Window) -> Result<Status> {
    let own = link.region(64, Access::LOCAL_WRITE)?;
    let sges = [own.sge(..8)];
    let wr = match op {
        Op::Write => SendWr::write(to.at(0)).inline(DATA),
        Op::Read => SendWr::read(to.at(0)).sges(&sges),
        Op::Atomic => SendWr::fetch_add(to.at(0), 1).sges(&sges),
    };
    link.qp.post_send(&wr.signaled())?;
    let status = link.sent()?.status;
    let came = own.buffer().to_vec(0, 8);
    match (op, status) {
        (Op::Read | Op::Atomic, Status::SUCCESS) => check_eq!(came, vec![BEFORE; 8], "what came of {op:?}"),
        _ => check_eq!(came, vec![0; 8], "what came of {op:?}, which ended with {status}"),
    }
    Ok(status)
}

fn rights(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const W: Access = Access::LOCAL_WRITE;
    for (access, allowed) in [
        (W, &[][..]),
        (Access::REMOTE_READ, &[Op::Read]),
        (W.union(Access::REMOTE_WRITE), &[Op::Write]),
        (W.union(Access::REMOTE_ATOMIC), &[Op::Atomic]),
        (Access::ALL_REMOTE, &[Op::Write, Op::Read, Op::Atomic]),
    ] {
        for op in [Op::Write, Op::Read, Op::Atomic] {
            let mut link = Link::meet(ctx, wire, &impatient())?;
            let may = allowed.contains(&op);
            if side == Side::Left {
                let to: Window = wire.recv()?;
                let expected = if may { Status::SUCCESS } else { Status::REM_ACCESS_ERR };
                check_eq!(
                    reach(&mut link, op, to)?,
                    expected,
                    "{op:?} of a region with {access:?}"
                );
                wire.barrier("done")?;
            } else {
                let region = link.region(4096, access)?;
                region.buffer().fill(0, 4096, BEFORE);
                wire.send(&Window::of(&region, 64))?;
                wire.barrier("done")?;
                let mut expected = [BEFORE; 8];
                match op {
                    Op::Write if may => expected = *DATA,
                    Op::Atomic if may => expected[0] += 1,
                    _ => {}
                }
                check_eq!(
                    region.buffer().to_vec(64, 8),
                    expected,
                    "the region with {access:?} after {op:?}"
                );
                check_eq!(
                    region.buffer().find_mismatch(72, 4096 - 72, |_| BEFORE),
                    None,
                    "the first byte beside it that has changed"
                );
            }
        }
    }
    PASS
}

fn windows(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    for window_type in [WindowType::Type1, WindowType::Type2] {
        // Inside it; beyond its end; after it has been taken back.
        for (offset, taken_back, expected) in [
            (56, false, Status::SUCCESS),
            (57, false, Status::REM_ACCESS_ERR),
            (0, true, Status::REM_ACCESS_ERR),
        ] {
            let mut link = Link::meet(ctx, wire, &impatient())?;
            if side == Side::Left {
                let to: Window = wire.recv()?;
                let status = reach(&mut link, Op::Write, to.at(offset).into())?;
                check_eq!(
                    status,
                    expected,
                    "a WRITE at byte {offset} of a window of {window_type:?}"
                );
                wire.barrier("done")?;
                continue;
            }
            // The region itself lets nobody in.
            let region = link.region(4096, Access::LOCAL_WRITE | Access::MW_BIND)?;
            region.buffer().fill(0, 4096, BEFORE);
            let mut window = link.pd.alloc_window(window_type)?;
            let remote = match window_type {
                WindowType::Type1 => window.bind(&region, 1024..1088, Access::REMOTE_WRITE)?,
                WindowType::Type2 => {
                    let (wr, remote) = window.bind_wr(&region, 1024..1088, Access::REMOTE_WRITE);
                    link.qp.post_send(&wr.signaled())?;
                    link.sent_well()?;
                    remote
                }
            };
            match window_type {
                _ if !taken_back => {}
                WindowType::Type1 => window.unbind()?,
                WindowType::Type2 => {
                    link.qp.post_send(&SendWr::local_invalidate(remote.rkey).signaled())?;
                    link.sent_well()?;
                }
            }
            wire.send(&Window::from(remote))?;
            wire.barrier("done")?;
            let mut all = vec![BEFORE; 4096];
            if expected == Status::SUCCESS {
                all[1024 + offset..][..8].copy_from_slice(DATA);
            }
            ensure!(
                region.buffer().to_vec(0, 4096) == all,
                "more than the window was written, or less"
            );
        }
    }
    PASS
}

fn key_ends(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let reach_next = |link: &mut Link, wire: &mut Wire, expected, what: &str| -> Result<()> {
        let to: Window = wire.recv()?;
        check_eq!(reach(link, Op::Write, to)?, expected, "{what}");
        wire.barrier("reached")
    };
    if side == Side::Left {
        reach_next(&mut link, wire, Status::SUCCESS, "the region")?;
        reach_next(&mut link, wire, Status::SUCCESS, "the region, registered anew")?;
        reach_next(&mut link, wire, Status::REM_ACCESS_ERR, "its old key")?;
        let mut link = Link::meet(ctx, wire, &impatient())?;
        reach_next(&mut link, wire, Status::SUCCESS, "its new key, over another connection")?;
        reach_next(&mut link, wire, Status::REM_ACCESS_ERR, "a region that has gone")?;
        return PASS;
    }
    let offer = |to: Window, wire: &mut Wire| -> Result<()> {
        wire.send(&to)?;
        wire.barrier("reached")
    };
    let buffer = ctx.alloc_buffer(4096)?;
    let mut mr = link.pd.register(&buffer, Access::ALL_REMOTE)?;
    let old = Window::of(&mr, 0);
    offer(old, wire)?;
    let second = ctx.alloc_buffer(8192)?;
    mr.reregister().memory(&second).apply()?;
    offer(Window::of(&mr, 4096), wire)?;
    check_eq!(second.to_vec(4096, 8), DATA, "what came through the new key");
    buffer.fill(0, 4096, BEFORE);
    offer(old, wire)?;
    check_eq!(
        buffer.find_mismatch(0, 4096, |_| BEFORE),
        None,
        "what came through the old key"
    );
    let Link { pd, .. } = link;
    let mut again = Link::in_domain(ctx, pd, &impatient())?;
    again.connect_over(wire, &impatient())?;
    let gone = Window::of(&mr, 0);
    offer(gone, wire)?;
    mr.deregister()?;
    second.fill(0, 8192, BEFORE);
    offer(gone, wire)?;
    check_eq!(
        second.find_mismatch(0, 8192, |_| BEFORE),
        None,
        "what came without a region"
    );
    PASS
}

/// How much counters have grown.
fn growth<'a>(before: &'a PortInfo, after: &'a PortInfo) -> impl Fn(&str) -> Result<u64> + 'a {
    |name| {
        let of = |port: &PortInfo| {
            port.counter(name)
                .with_context(|| format!("there is no counter '{name}'"))
        };
        Ok(of(after)?.wrapping_sub(of(before)?))
    }
}

fn counters(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const MESSAGES: u64 = 7;
    const LEN: u64 = 3000;
    let same = same_device(ctx, wire)?;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(LEN as usize, Access::LOCAL_WRITE)?;
    let before = ctx.port(1)?;
    if side == Side::Right {
        for _ in 0..MESSAGES {
            link.qp.post_recv(&RecvWr::new(&[region.sge(..)]))?;
        }
    }
    wire.barrier("counted before")?;
    for _ in 0..MESSAGES {
        if side == Side::Left {
            link.qp.post_send(&SendWr::send().sges(&[region.sge(..)]).signaled())?;
            link.sent_well()?;
        } else {
            link.received_well()?;
        }
    }
    wire.barrier("said")?;
    let after = ctx.port(1)?;
    let grown = growth(&before, &after);
    let sent = [
        ("sent_msgs", MESSAGES),
        ("sent_bytes", MESSAGES * LEN),
        ("rdma_sends", MESSAGES),
    ];
    let received = [
        ("rcvd_msgs", MESSAGES),
        ("rcvd_bytes", MESSAGES * LEN),
        ("rdma_recvs", MESSAGES),
    ];
    let mine = |here: bool, counter: &(&'static str, u64)| {
        let (name, n) = *counter;
        (name, if here || same { n } else { 0 })
    };
    let left = side == Side::Left;
    let expected = sent
        .iter()
        .map(|c| mine(left, c))
        .chain(received.iter().map(|c| mine(!left, c)));
    for (name, expected) in expected {
        check_eq!(grown(name)?, expected, "{name} of the {side:?} side");
    }
    for name in ["completion_err", "retry_exceeded_err", "send_err", "pkey_violations"] {
        check_eq!(grown(name)?, 0, "{name} of the {side:?} side");
    }
    wire.barrier("counted")?;
    PASS
}

fn error_counters(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let same = same_device(ctx, wire)?;
    let left = side == Side::Left;
    let mut not_ready = impatient();
    not_ready.connect.rnr_retry = 0;
    let mut link = Link::meet(ctx, wire, &not_ready)?;
    let before = ctx.port(1)?;
    wire.barrier("counted before")?;
    if left {
        link.qp.post_send(&SendWr::send().inline(DATA).signaled())?;
        check_eq!(
            link.sent()?.status,
            Status::RNR_RETRY_EXC_ERR,
            "a SEND that nobody waits for"
        );
    }
    let mut link = Link::meet(ctx, wire, &not_ready)?;
    if left {
        let to: Window = wire.recv()?;
        check_eq!(
            reach(&mut link, Op::Write, to)?,
            Status::REM_ACCESS_ERR,
            "a key of nothing"
        );
    } else {
        let region = link.region(64, Access::ALL_REMOTE)?;
        let mut remote = region.remote(0);
        remote.rkey ^= 0x55;
        wire.send(&Window::from(remote))?;
    }
    wire.barrier("failed")?;
    let after = ctx.port(1)?;
    let grown = growth(&before, &after);
    for (name, here) in [
        ("rcvd_rnr_err", left),
        ("retry_rnr_exceeded_err", left),
        ("send_rnr_err", !left),
        ("access_err", !left),
    ] {
        check_eq!(grown(name)?, u64::from(here || same), "{name} of the {side:?} side");
    }
    check_eq!(
        grown("completion_err")?,
        if left || same { 2 } else { 0 },
        "completion_err of the {side:?} side"
    );
    wire.barrier("counted")?;
    PASS
}

/// The port is on again, whatever happened.
struct SwitchedOff<'a>(&'a Context);

impl Drop for SwitchedOff<'_> {
    fn drop(&mut self) {
        // If it fails, the next case says so.
        let _ = self.0.switch_port(1, true);
    }
}

fn port_event(events: &EventQueue, kind: EventKind) -> Result<()> {
    let event = events.next_event(Some(SOON))?;
    let event = event.with_context(|| format!("no event where {kind:?} was due"))?;
    check_eq!(
        (event.kind, event.object, event.cookie),
        (kind, 1, 0x9047),
        "kind, port, cookie"
    );
    Ok(())
}

fn switched_off(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let same = same_device(ctx, wire)?;
    let events = ctx.create_event_queue()?;
    events.associate_port(1, 0x9047)?;
    let mut link = Link::meet(ctx, wire, &impatient())?;
    let before = ctx.port(1)?;
    let off = (side == Side::Left).then(|| SwitchedOff(ctx));
    if off.is_some() {
        ctx.switch_port(1, false)?;
        port_event(&events, EventKind::PortError)?;
        ensure!(!ctx.port(1)?.is_active(), "the port is active, switched off");
        // Once more changes nothing.
        ctx.switch_port(1, false)?;
    }
    wire.barrier("off")?;
    link.qp.post_send(&SendWr::send().inline(DATA).signaled())?;
    check_eq!(
        link.sent()?.status,
        Status::RETRY_EXC_ERR,
        "a SEND over a port that is off"
    );
    if side == Side::Right && !same {
        ensure!(
            ctx.port(1)?.is_active(),
            "the other side's port has switched off this one"
        );
        check_eq!(events.try_next()?, None, "an event of the other side's port");
    }
    let after = ctx.port(1)?;
    let grown = growth(&before, &after);
    let here = side == Side::Left || same;
    check_eq!(grown("link_downed")?, u64::from(here), "how often the port went down");
    check_eq!(grown("send_err")? > 0, here, "whether sending failed at its own port");
    ensure!(grown("completer_retry_err")? > 0, "no SEND was tried again");
    wire.barrier("tried")?;
    if off.is_some() {
        ctx.switch_port(1, true)?;
        port_event(&events, EventKind::PortActive)?;
        check_eq!(events.try_next()?, None, "one more event");
    }
    drop(off);
    wire.barrier("on")?;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    link.qp.post_recv(&RecvWr::new(&[]))?;
    wire.barrier("ready")?;
    link.qp.post_send(&SendWr::send().signaled())?;
    link.sent_well()?;
    link.received_well()?;
    PASS
}

fn foreign_keys(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(4096, Access::ALL_REMOTE)?;
    region.buffer().fill(0, 4096, BEFORE);
    let mine = (Window::of(&region, 0), region.lkey().0);
    let (theirs, lkey): (Window, u32) = wire.exchange(&mine)?;
    // Both sides try the other's keys on queue pairs of their own.
    let (mut a, _b) = Link::pair(ctx, ctx, &impatient())?;
    check_eq!(
        reach(&mut a, Op::Write, theirs)?,
        Status::REM_ACCESS_ERR,
        "the peer's remote key"
    );
    let (mut a, _b) = Link::pair(ctx, ctx, &impatient())?;
    check_eq!(
        reach(&mut a, Op::Read, theirs)?,
        Status::REM_ACCESS_ERR,
        "the peer's remote key"
    );
    let (mut a, b) = Link::pair(ctx, ctx, &impatient())?;
    let sink = b.region(64, Access::ALL_REMOTE)?;
    let secret = Sge {
        addr: theirs.at(0).addr,
        len: 64,
        lkey: Key(lkey),
    };
    a.qp.post_send(&SendWr::write(sink.remote(0)).sges(&[secret]).signaled())?;
    check_eq!(a.sent()?.status, Status::LOC_PROT_ERR, "the peer's local key");
    check_eq!(
        sink.buffer().find_mismatch(0, 64, |_| 0),
        None,
        "the first byte that came"
    );
    wire.barrier("tried")?;
    check_eq!(
        region.buffer().find_mismatch(0, 4096, |_| BEFORE),
        None,
        "the first byte that has changed"
    );
    wire.barrier("looked")?;
    // Where it belongs the key is good.
    if side == Side::Left {
        check_eq!(
            reach(&mut link, Op::Write, theirs)?,
            Status::SUCCESS,
            "the key over its connection"
        );
    }
    wire.barrier("done")?;
    PASS
}

fn foreign_numbers(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let link = Link::meet(ctx, wire, &Spec::default())?;
    let there: String = wire.exchange(&link.qp.endpoint()?.to_string())?;
    let there: Endpoint = there.parse()?;
    // The peer's number, at one's own address: whoever has it here, if anybody, has not asked.
    let mut lost = Link::new(ctx, &impatient())?;
    let here = Endpoint {
        gid: link.qp.endpoint()?.gid,
        ..there
    };
    lost.qp.connect_with(&here, &impatient().connect)?;
    lost.qp.post_send(&SendWr::send().inline(DATA).signaled())?;
    check_eq!(lost.sent()?.status, Status::RETRY_EXC_ERR, "the peer's number at home");
    wire.barrier("tried")?;
    let mut link = link;
    quiet(&mut link.recv_cq, "a SEND to somebody else's number")?;
    if side == Side::Right {
        link.qp.post_recv(&RecvWr::new(&[]))?;
    }
    wire.barrier("ready")?;
    if side == Side::Left {
        link.qp.post_send(&SendWr::send().signaled())?;
        link.sent_well()?;
    } else {
        link.received_well()?;
    }
    PASS
}

fn stranger(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    if side == Side::Right {
        let region = link.region(4096, Access::ALL_REMOTE)?;
        region.buffer().fill(0, 4096, BEFORE);
        link.qp.post_recv(&RecvWr::new(&[region.sge(..64)]).wr_id(1))?;
        wire.send(&(link.qp.endpoint()?.to_string(), Window::of(&region, 0)))?;
        wire.barrier("tried")?;
        quiet(&mut link.recv_cq, "messages of a stranger")?;
        check_eq!(
            region.buffer().find_mismatch(0, 4096, |_| BEFORE),
            None,
            "what a stranger changed"
        );
        check_eq!(link.qp.query()?.state, QpState::RTS, "the victim's state");
        wire.barrier("looked")?;
        check_eq!(link.received_well()?.wr_id, 1, "the receive");
        check_eq!(region.buffer().to_vec(0, 8), DATA, "what came");
        return PASS;
    }
    let (there, to): (String, Window) = wire.recv()?;
    let there: Endpoint = there.parse()?;
    let psn = link.qp.psn();
    for op in 0..3 {
        // It knows everything that there is to know, but is not whom the victim is connected with.
        let mut stranger = Link::new(ctx, &impatient())?;
        stranger.qp.init()?;
        let rtr = QpAttr::to(QpState::RTR)
            .path(path_to(there.gid, 0))
            .path_mtu(ctx.port(1)?.attrs.active_mtu)
            .dest_qpn(there.qpn.get())
            .rq_psn(there.psn.get());
        stranger.qp.modify(&rtr.max_dest_rd_atomic(1).min_rnr_timer(1))?;
        let rts = QpAttr::to(QpState::RTS).sq_psn(psn).timeout(9);
        stranger.qp.modify(&rts.retry_cnt(1).rnr_retry(1).max_rd_atomic(1))?;
        let own = Region::new(&stranger.pd, 64, Access::LOCAL_WRITE)?;
        let wr = match op {
            0 => SendWr::send(),
            1 => SendWr::write(to.at(0)),
            _ => SendWr::read(to.at(0)),
        };
        stranger.qp.post_send(&wr.sges(&[own.sge(..)]).signaled())?;
        check_eq!(stranger.sent()?.status, Status::RETRY_EXC_ERR, "what a stranger hears");
        check_eq!(
            own.buffer().find_mismatch(0, 64, |_| 0),
            None,
            "the first byte that it learned"
        );
    }
    wire.barrier("tried")?;
    wire.barrier("looked")?;
    link.qp.post_send(&SendWr::send().inline(DATA).signaled())?;
    link.sent_well()?;
    PASS
}

fn both_dumps(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const MESSAGES: u64 = 3;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let there: String = wire.exchange(&link.qp.endpoint()?.to_string())?;
    let there: Endpoint = there.parse()?;
    let (gid, qpn) = (there.gid.to_string(), there.qpn.get());
    for _ in 0..MESSAGES {
        link.qp.post_recv(&RecvWr::new(&[]))?;
    }
    wire.barrier("ready")?;
    for _ in 0..MESSAGES {
        if side == Side::Left {
            link.qp.post_send(&SendWr::send().signaled())?;
            link.sent_well()?;
        } else {
            link.received_well()?;
        }
    }
    wire.barrier("said")?;
    let shown = dump(ctx)?;
    let qp = shown.qp(link.qp.qpn()).context("the queue pair is not in the dump")?;
    check_eq!(qp["state"].as_str(), Some("RTS"), "its state in the dump");
    check_eq!(
        qp["dest_qpn"].as_u64(),
        Some(qpn.into()),
        "its peer's number in the dump"
    );
    check_eq!(qp["dgid"].as_str(), Some(gid.as_str()), "its peer's GID in the dump");
    let msn = if side == Side::Left { 0 } else { MESSAGES };
    check_eq!(
        qp["msn"].as_u64(),
        Some(msn),
        "messages that it has received, in the dump"
    );
    let number = |name: &str| qp[name].as_u64().with_context(|| format!("the dump has no {name}"));
    let (sq, rq) = (number("sq_psn")?, number("rq_psn")?);
    let info = link.qp.query()?;
    check_eq!(
        (u64::from(info.sq_psn), u64::from(info.rq_psn)),
        (sq, rq),
        "the PSNs, asked for and in the dump"
    );
    check_eq!(
        (info.state, info.dest_qpn, info.path.dgid),
        (QpState::RTS, qpn, there.gid.0),
        "what QUERY says"
    );
    // What one sends next is what the other expects next.
    let (their_sq, their_rq): (u64, u64) = wire.exchange(&(sq, rq))?;
    check_eq!((their_rq, their_sq), (sq, rq), "the PSNs of both ends");
    PASS
}
