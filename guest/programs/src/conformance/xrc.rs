// SPDX-License-Identifier: MIT OR Apache-2.0
//! XRC: one connection to the shared receive queues of a domain, and who a domain belongs to (H4, H8, U8).

use super::kit::{check_eq, quiet, refused, Outcome, PASS, QUIET};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Region, SOON};
use anyhow::{ensure, Context as _, Result};
use rdma_uapi::class;
use rdma_uapi::Errno;
use std::fs::File;
use std::path::PathBuf;
use verbena::{
    Access, CompletionQueue, Context, Endpoint, EventKind, EventQueue, OpenXrc, ProtectionDomain, QpAttr, QpState,
    RcQp, Reason, RecvWr, Remote, SendWr, SharedReceiveQueue, XrcDomain, XrcInitiator, XrcTarget,
};
use verbena_hw::cqe::{Opcode, Status};

pub const CASES: &[Case] = &[
    Case::single("u08_xrc_objects_are_what_they_were_made", made),
    Case::single("u08_xrc_objects_in_use_are_not_destroyed", in_use),
    Case::single("u08_xrc_domain_is_shared_by_a_file", shared_by_file),
    Case::single("u13_xrc_domain_lives_as_long_as_somebody_has_it", outlives),
    Case::single("u08_xrc_target_is_opened_by_its_number", opened),
    Case::single("u13_xrc_target_lives_as_long_as_somebody_has_it", opened_outlives),
    Case::single("h04_xrc_one_connection_reaches_every_queue_of_a_domain", every_queue),
    Case::pair("h04_xrc_sends_to_the_queues_of_a_peer", to_a_peer),
    Case::single("h04_xrc_has_the_operations_of_rc", operations),
    Case::single("h08_xrc_queue_reports_its_limit_and_waits_for_receives", limit_and_wait),
    Case::single("h14_xrc_queue_of_another_domain_is_not_reached", other_domain),
    Case::single("h10_xrc_target_that_fails_says_so", target_fails),
];

/// Cookie of the target's events; the queues' is their index.
const TARGET: u64 = 0x7a;
/// Bytes of a receive.
const SIZE: usize = 64;

/// A shared receive queue of a domain, with a protection domain, memory and a completion queue of its own.
struct Receiver {
    srq: SharedReceiveQueue,
    cq: CompletionQueue,
    region: Region,
}

impl Receiver {
    fn new(ctx: &Context, domain: &XrcDomain, events: Option<(&EventQueue, u64)>) -> Result<Self> {
        let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(64)?);
        let region = Region::new(&pd, 64 << 10, Access::LOCAL_WRITE | Access::ALL_REMOTE)?;
        let mut builder = SharedReceiveQueue::builder(&pd).depth(16).xrc(domain, &cq);
        if let Some((queue, cookie)) = events {
            builder = builder.events(queue, cookie);
        }
        let srq = builder.build()?;
        Ok(Self { srq, cq, region })
    }

    fn post(&mut self, n: u64) -> Result<()> {
        let at = n as usize % 16 * SIZE;
        Ok(self
            .srq
            .post(&RecvWr::new(&[self.region.sge(at..at + SIZE)]).wr_id(n))?)
    }

    /// The next receive, which must be number `n`, through `target`, and hold `data`.
    fn got(&mut self, n: u64, target: &XrcTarget, data: u64) -> Result<()> {
        let done = good(next(&mut self.cq)?)?;
        check_eq!(
            (done.wr_id, done.qpn, done.byte_len),
            (n, target.qpn(), 8),
            "the receive"
        );
        let at = n as usize % 16 * SIZE;
        check_eq!(self.region.buffer().to_vec(at, 8), data.to_le_bytes(), "its data");
        Ok(())
    }

    fn remote(&self) -> Remote {
        Remote {
            addr: self.region.addr(),
            rkey: self.region.rkey(),
        }
    }
}

/// An initiator and its target, with two queues in the target's domain.
struct Xrc {
    receivers: [Receiver; 2],
    target: XrcTarget,
    initiator: XrcInitiator,
    cq: CompletionQueue,
    region: Region,
    domain: XrcDomain,
    events: EventQueue,
}

impl Xrc {
    fn new(ctx: &Context) -> Result<Self> {
        Self::in_domain(ctx, XrcDomain::new(ctx)?)
    }

    fn in_domain(ctx: &Context, domain: XrcDomain) -> Result<Self> {
        let (pd, cq, events) = (ctx.alloc_pd()?, ctx.create_cq(64)?, ctx.create_event_queue()?);
        let receivers = [
            Receiver::new(ctx, &domain, Some((&events, 0)))?,
            Receiver::new(ctx, &domain, Some((&events, 1)))?,
        ];
        let mut target = XrcTarget::builder(&domain).events(&events, TARGET).build()?;
        let mut initiator = XrcInitiator::initiator(&pd, &cq).build()?;
        target.connect(&initiator.endpoint()?)?;
        initiator.connect(&target.endpoint()?)?;
        let region = Region::new(&pd, 64 << 10, Access::LOCAL_WRITE)?;
        Ok(Self {
            receivers,
            target,
            initiator,
            cq,
            region,
            domain,
            events,
        })
    }

    /// Sends eight bytes to a queue; how that ended.
    fn send(&mut self, srqn: u32, data: u64) -> Result<Status> {
        let bytes = data.to_le_bytes();
        let wr = SendWr::send().inline(&bytes).wr_id(data).signaled();
        self.initiator.post_send(&wr, srqn)?;
        let done = next(&mut self.cq)?;
        check_eq!((done.wr_id, done.qpn), (data, self.initiator.qpn()), "the send");
        Ok(done.status)
    }

    fn event(&self, what: &str) -> Result<(EventKind, u16, u64)> {
        let event = self.events.next_event(Some(SOON))?;
        let event = event.with_context(|| format!("{what}: no event"))?;
        Ok((event.kind, event.class, event.cookie))
    }
}

fn made(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let device = ctx.device()?;
    ensure!(device.max_xrcd > 0, "no XRC domains: {device:?}");
    let x = Xrc::new(&ctx)?;
    ensure!(x.domain.xrcdn() != 0, "a domain without a number");
    let info = x.target.query()?;
    check_eq!((info.qpn, info.state), (x.target.qpn(), QpState::RTS), "the target");
    check_eq!(info.dest_qpn, x.initiator.qpn(), "the target's peer");
    let info = x.initiator.query()?;
    check_eq!(
        (info.qpn, info.state),
        (x.initiator.qpn(), QpState::RTS),
        "the initiator"
    );
    check_eq!(
        (info.caps.max_recv_wr, x.initiator.recv_depth()),
        (0, 0),
        "receives of an initiator"
    );
    check_eq!(info.dest_qpn, x.target.qpn(), "the initiator's peer");
    ensure!(
        x.receivers[0].srq.srqn() != x.receivers[1].srq.srqn(),
        "two queues of one number"
    );
    // Each takes what its side needs, and nothing of the other's.
    let mut target = XrcTarget::builder(&x.domain).build()?;
    let init = QpAttr::to(QpState::INIT)
        .port(1)
        .pkey_index(0)
        .access(Access::ALL_REMOTE);
    target.modify(&init)?;
    let bare = QpAttr::to(QpState::RTR)
        .path(verbena::path_to(x.initiator.endpoint()?.gid, 0))
        .path_mtu(1024)
        .dest_qpn(1234)
        .rq_psn(1);
    refused(
        target.modify(&bare),
        Errno::EINVAL,
        "a target without what an answerer has",
    )?;
    target.modify(&bare.max_dest_rd_atomic(1).min_rnr_timer(1))?;
    let asks = QpAttr::to(QpState::RTS).sq_psn(1).timeout(1).retry_cnt(1);
    refused(target.modify(&asks), Errno::EOPNOTSUPP, "retries of a target")?;
    target.modify(&QpAttr::to(QpState::RTS).sq_psn(1).timeout(1))?;
    // A queue of a domain is named by requests, not by queue pairs.
    let pd = ctx.alloc_pd()?;
    let named = RcQp::builder(&pd, &x.cq, &x.cq)
        .shared_receives(&x.receivers[0].srq)
        .build();
    refused(named, Errno::EINVAL, "a queue pair on a queue of an XRC domain")?;
    PASS
}

fn in_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let x = Xrc::new(&ctx)?;
    let domain = XrcDomain::new(&ctx)?;
    let target = XrcTarget::builder(&domain).build()?;
    let Err(error) = domain.destroy() else {
        anyhow::bail!("a domain was destroyed under a target")
    };
    check_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EBUSY), Some(Reason::IN_USE)),
        "errno and reason"
    );
    target.destroy()?;
    let [first, second] = x.receivers;
    let Err(error) = first.cq.destroy() else {
        anyhow::bail!("a completion queue was destroyed under a queue of an XRC domain")
    };
    check_eq!(error.errno(), Some(Errno::EBUSY), "the errno of the completion queue");
    // The target holds its domain, not the queues in it.
    first.srq.destroy()?;
    second.srq.destroy()?;
    x.target.destroy()?;
    x.domain.destroy()?;
    PASS
}

/// A file of this process's own, removed in the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("verbena-{name}-{}", std::process::id()));
        File::create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn open(&self) -> Result<File> {
        Ok(File::open(&self.0)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn shared_by_file(fixture: &Fixture) -> Outcome {
    let (one, two) = (fixture.open()?, fixture.open()?);
    let (file, other) = (Scratch::new("xrc-shared")?, Scratch::new("xrc-other")?);
    refused(
        XrcDomain::open(&one, file.open()?, OpenXrc::Existing),
        Errno::ENOENT,
        "the domain of a file without one",
    )?;
    let domain = XrcDomain::open(&one, file.open()?, OpenXrc::CreateNew)?;
    refused(
        XrcDomain::open(&two, file.open()?, OpenXrc::CreateNew),
        Errno::EEXIST,
        "a new domain for a file that has one",
    )?;
    let part = XrcDomain::open(&two, file.open()?, OpenXrc::Existing)?;
    check_eq!(part.xrcdn(), domain.xrcdn(), "the number in another context");
    let apart = XrcDomain::open(&two, other.open()?, OpenXrc::Create)?;
    ensure!(apart.xrcdn() != domain.xrcdn(), "two files share a domain");
    // The other context's queue, through this one's target.
    let mut x = Xrc::in_domain(&one, domain)?;
    let mut theirs = Receiver::new(&two, &part, None)?;
    theirs.post(3)?;
    check_eq!(x.send(theirs.srq.srqn(), 0x11)?, Status::SUCCESS, "the send");
    theirs.got(3, &x.target, 0x11)?;
    PASS
}

fn outlives(fixture: &Fixture) -> Outcome {
    let (one, two) = (fixture.open()?, fixture.open()?);
    let file = Scratch::new("xrc-outlives")?;
    let first = XrcDomain::open(&one, file.open()?, OpenXrc::CreateNew)?;
    let number = first.xrcdn();
    let second = XrcDomain::open(&two, file.open()?, OpenXrc::Existing)?;
    first.destroy()?;
    // The context that made it is gone; what the other has in it works.
    drop(one);
    let mut x = Xrc::in_domain(&two, second)?;
    check_eq!(x.domain.xrcdn(), number, "the number");
    x.receivers[0].post(1)?;
    check_eq!(x.send(x.receivers[0].srq.srqn(), 5)?, Status::SUCCESS, "the send");
    x.receivers[0].got(1, &x.target, 5)?;
    drop(x);
    let three = fixture.open()?;
    refused(
        XrcDomain::open(&three, file.open()?, OpenXrc::Existing),
        Errno::ENOENT,
        "a domain that nobody has any more",
    )?;
    PASS
}

fn opened(fixture: &Fixture) -> Outcome {
    let (one, two) = (fixture.open()?, fixture.open()?);
    let file = Scratch::new("xrc-opened")?;
    let mut x = Xrc::in_domain(&one, XrcDomain::open(&one, file.open()?, OpenXrc::CreateNew)?)?;
    let part = XrcDomain::open(&two, file.open()?, OpenXrc::Existing)?;
    let events = two.create_event_queue()?;
    let target = XrcTarget::builder(&part).events(&events, 0x33).open(x.target.qpn())?;
    check_eq!(
        (target.qpn(), target.state()),
        (x.target.qpn(), QpState::RTS),
        "the same target"
    );
    let (here, there) = (x.target.query()?, target.query()?);
    check_eq!(
        (here.dest_qpn, here.rq_psn),
        (there.dest_qpn, there.rq_psn),
        "its attributes"
    );
    // It cannot be opened from elsewhere, nor made anew by the way.
    let apart = XrcDomain::new(&two)?;
    let attributes = QpAttr::to(QpState::INIT);
    for (builder, qpn, errno, what) in [
        (
            XrcTarget::builder(&apart),
            target.qpn(),
            Errno::ENOENT,
            "a target of another domain",
        ),
        (
            XrcTarget::builder(&part),
            x.initiator.qpn(),
            Errno::ENOENT,
            "an initiator",
        ),
        (XrcTarget::builder(&part), u32::MAX, Errno::ENOENT, "no number"),
        (
            XrcTarget::builder(&part).attributes(attributes),
            target.qpn(),
            Errno::EINVAL,
            "attributes",
        ),
    ] {
        refused(builder.open(qpn), errno, what)?;
    }
    // Its end is told to both.
    check_eq!(x.send(0xff_ffff, 1)?, Status::REM_INV_REQ_ERR, "a send to no queue");
    check_eq!(
        x.event("who made it")?,
        (EventKind::QpAccessError, class::QP_XRC_TGT, TARGET),
        "the event of who made it"
    );
    let event = events.next_event(Some(SOON))?.context("who opened it: no event")?;
    check_eq!(
        (event.kind, event.class, event.cookie),
        (EventKind::QpAccessError, class::QP_XRC_TGT, 0x33),
        "the event of who opened it"
    );
    check_eq!(target.query()?.state, QpState::ERR, "its state");
    PASS
}

fn opened_outlives(fixture: &Fixture) -> Outcome {
    let (one, two, three) = (fixture.open()?, fixture.open()?, fixture.open()?);
    let file = Scratch::new("xrc-opened-outlives")?;
    let first = XrcDomain::open(&one, file.open()?, OpenXrc::CreateNew)?;
    let second = XrcDomain::open(&two, file.open()?, OpenXrc::Existing)?;
    let third = XrcDomain::open(&three, file.open()?, OpenXrc::Existing)?;
    let made = XrcTarget::builder(&first).build()?;
    let qpn = made.qpn();
    let mut opened = XrcTarget::builder(&second).open(qpn)?;
    check_eq!(opened.state(), QpState::RESET, "its state");
    // Who made it is gone, with its context. Who opened it connects it.
    drop((made, first, one));
    let pd = two.alloc_pd()?;
    let mut cq = two.create_cq(16)?;
    let mut initiator = XrcInitiator::initiator(&pd, &cq).build()?;
    opened.connect(&initiator.endpoint()?)?;
    initiator.connect(&opened.endpoint()?)?;
    let again = XrcTarget::builder(&third).open(qpn)?;
    check_eq!(again.state(), QpState::RTS, "the state that it was moved to");
    let mut receiver = Receiver::new(&three, &third, None)?;
    receiver.post(1)?;
    let data = 9u64.to_le_bytes();
    initiator.post_send(&SendWr::send().inline(&data).signaled(), receiver.srq.srqn())?;
    good(next(&mut cq)?)?;
    receiver.got(1, &again, 9)?;
    opened.destroy()?;
    check_eq!(again.query()?.state, QpState::RTS, "its state when one of two has gone");
    again.destroy()?;
    refused(
        XrcTarget::builder(&third).open(qpn),
        Errno::ENOENT,
        "a target that nobody has any more",
    )?;
    PASS
}

fn every_queue(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut x = Xrc::new(&ctx)?;
    for receiver in &mut x.receivers {
        for n in 0..8 {
            receiver.post(n)?;
        }
    }
    for n in 0..16 {
        let to = n as usize % 3 % 2;
        let srqn = x.receivers[to].srq.srqn();
        let number = x.receivers[to].srq.posted();
        if number == 0 {
            x.receivers[to].post(n)?;
        }
        check_eq!(x.send(srqn, 0x100 + n)?, Status::SUCCESS, "send {n}");
        let receiver = &mut x.receivers[to];
        let done = good(next(&mut receiver.cq)?)?;
        check_eq!(done.src_qpn, x.initiator.qpn(), "the sender");
        check_eq!((done.opcode, done.qpn), (Opcode::RECV, x.target.qpn()), "the receive");
        let at = done.wr_id as usize % 16 * SIZE;
        check_eq!(
            receiver.region.buffer().to_vec(at, 8),
            (0x100 + n).to_le_bytes(),
            "its data"
        );
    }
    // A completion of a queue that is gone is none.
    let [mut first, mut second] = x.receivers;
    first.post(3)?;
    let wr = SendWr::send().inline(b"too late");
    x.initiator.post_send(&wr.signaled(), first.srq.srqn())?;
    good(next(&mut x.cq)?)?;
    first.srq.destroy()?;
    quiet(&mut first.cq, "a queue that is gone")?;
    quiet(&mut second.cq, "the other queue")?;
    PASS
}

fn to_a_peer(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const MESSAGES: u64 = 100;
    let (pd, mut cq) = (ctx.alloc_pd()?, ctx.create_cq(256)?);
    if side == Side::Left {
        let mut initiator = XrcInitiator::initiator(&pd, &cq).build()?;
        let (peer, srqns): (String, Vec<u32>) =
            wire.exchange(&(initiator.endpoint()?.to_string(), Vec::<u32>::new()))?;
        initiator.connect(&peer.parse::<Endpoint>()?)?;
        wire.barrier("connected")?;
        for n in 0..MESSAGES {
            let bytes = n.to_le_bytes();
            let wr = SendWr::send().inline(&bytes).signaled();
            initiator.post_send(&wr, srqns[n as usize % srqns.len()])?;
            good(next(&mut cq)?)?;
        }
        wire.barrier("received")?;
        return PASS;
    }
    let domain = XrcDomain::new(ctx)?;
    let mut receivers = (0..3)
        .map(|_| Receiver::new(ctx, &domain, None))
        .collect::<Result<Vec<_>>>()?;
    let mut target = XrcTarget::builder(&domain).build()?;
    let srqns: Vec<u32> = receivers.iter().map(|receiver| receiver.srq.srqn()).collect();
    let (peer, _): (String, Vec<u32>) = wire.exchange(&(target.endpoint()?.to_string(), srqns))?;
    target.connect(&peer.parse::<Endpoint>()?)?;
    wire.barrier("connected")?;
    for n in 0..MESSAGES {
        let at = n as usize % receivers.len();
        receivers[at].post(n)?;
        receivers[at].got(n, &target, n)?;
    }
    wire.barrier("received")?;
    PASS
}

fn operations(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut x = Xrc::new(&ctx)?;
    let (srqn, remote) = (x.receivers[0].srq.srqn(), x.receivers[0].remote());
    x.region.buffer().write_at(0, &[7; 4096]);
    let (data, eight) = (x.region.sge(0..4000), x.region.sge(8192..8200));
    let back = x.region.sge(16384..16384 + 4000);
    x.receivers[0].post(15)?;
    for (n, wr) in [
        SendWr::write(remote).sges(&[data]),
        SendWr::fetch_add(remote, 1).sges(&[eight]),
        SendWr::compare_swap(remote, 0x0707_0707_0707_0708, 5).sges(&[eight]),
        SendWr::read(remote).sges(&[back]),
        SendWr::write_imm(remote.offset(8192), 77).sges(&[data]),
    ]
    .into_iter()
    .enumerate()
    {
        x.initiator.post_send(&wr.wr_id(n as u64).signaled(), srqn)?;
        check_eq!(good(next(&mut x.cq)?)?.wr_id, n as u64, "operation {n}");
    }
    let buffer = x.region.buffer();
    check_eq!(
        buffer.to_vec(8192, 8),
        0x0707_0707_0707_0708u64.to_le_bytes(),
        "what was added to"
    );
    check_eq!(buffer.to_vec(16384, 8), 5u64.to_le_bytes(), "what was read");
    check_eq!(buffer.to_vec(16392, 3992), [7; 3992], "the rest of it");
    let done = good(next(&mut x.receivers[0].cq)?)?;
    check_eq!(
        (done.wr_id, done.imm),
        (15, Some(77)),
        "the receive of a WRITE with immediate data"
    );
    // The memory of one queue's protection domain, through the other queue.
    let eight = [eight];
    let wr = SendWr::write(remote).sges(&eight).wr_id(9).signaled();
    x.initiator.post_send(&wr, x.receivers[1].srq.srqn())?;
    check_eq!(
        next(&mut x.cq)?.status,
        Status::REM_ACCESS_ERR,
        "a key of another protection domain"
    );
    PASS
}

fn limit_and_wait(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut x = Xrc::new(&ctx)?;
    let srqn = x.receivers[1].srq.srqn();
    for n in 0..2 {
        x.receivers[1].post(n)?;
    }
    x.receivers[1].srq.arm_limit(2)?;
    check_eq!(x.send(srqn, 1)?, Status::SUCCESS, "the first send");
    check_eq!(
        x.event("one is fewer than two")?,
        (EventKind::SrqLimitReached, class::SRQ, 1),
        "the event"
    );
    check_eq!(x.send(srqn, 2)?, Status::SUCCESS, "the second send");
    let bytes = 3u64.to_le_bytes();
    let wr = SendWr::send().inline(&bytes).wr_id(3).signaled();
    x.initiator.post_send(&wr, srqn)?;
    quiet(&mut x.cq, "nothing is posted to the queue that it names")?;
    x.receivers[1].post(2)?;
    check_eq!(good(next(&mut x.cq)?)?.wr_id, 3, "the third send");
    for (n, data) in [(0, 1), (1, 2), (2, 3)] {
        x.receivers[1].got(n, &x.target, data)?;
    }
    PASS
}

fn other_domain(fixture: &Fixture) -> Outcome {
    let (ctx, stranger) = (fixture.open()?, fixture.open()?);
    let domain = XrcDomain::new(&stranger)?;
    let mut theirs = Receiver::new(&stranger, &domain, None)?;
    theirs.post(0)?;
    let pd: ProtectionDomain = ctx.alloc_pd()?;
    let basic = SharedReceiveQueue::builder(&pd).build()?;
    for srqn in [theirs.srq.srqn(), basic.srqn(), 0, 0x00ff_ffff, u32::MAX] {
        let mut x = Xrc::new(&ctx)?;
        check_eq!(x.send(srqn, 1)?, Status::REM_INV_REQ_ERR, "a send to queue {srqn:#x}");
        let (kind, class, cookie) = x.event("a request that is refused")?;
        check_eq!(
            (kind, class, cookie),
            (EventKind::QpAccessError, class::QP_XRC_TGT, TARGET),
            "the event"
        );
        check_eq!(x.target.query()?.state, QpState::ERR, "the target's state");
    }
    check_eq!(theirs.srq.posted(), 1, "receives of the other domain");
    quiet(&mut theirs.cq, "the other domain's queue")?;
    PASS
}

fn target_fails(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut x = Xrc::new(&ctx)?;
    x.receivers[0].post(0)?;
    // Longer than the receive: it ends in an error, and with it the target.
    let (srqn, data) = (x.receivers[0].srq.srqn(), [x.region.sge(0..SIZE + 1)]);
    let wr = SendWr::send().sges(&data).signaled();
    x.initiator.post_send(&wr, srqn)?;
    check_eq!(next(&mut x.cq)?.status, Status::REM_INV_REQ_ERR, "the send");
    let done = next(&mut x.receivers[0].cq)?;
    check_eq!((done.wr_id, done.status), (0, Status::LOC_LEN_ERR), "the receive");
    check_eq!(
        x.event("a target that has failed")?,
        (EventKind::LastWqeReached, class::QP_XRC_TGT, TARGET),
        "the event"
    );
    x.receivers[0].post(1)?;
    check_eq!(x.send(srqn, 5)?, Status::WR_FLUSH_ERR, "the next send");
    std::thread::sleep(QUIET);
    check_eq!(x.receivers[0].srq.posted(), 1, "receives stay posted");
    PASS
}
