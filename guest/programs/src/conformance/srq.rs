// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues: whose receives, in which order, and what they report (H8, and the class of the object model).

use super::kit::{check_eq, quiet, refused, Outcome, PASS, QUIET};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Region, SOON};
use anyhow::{bail, ensure, Context as _, Result};
use rdma_uapi::class;
use rdma_uapi::Errno;
use verbena::{
    Access, CompletionQueue, ConnectOptions, Context, Endpoint, Event, EventKind, EventQueue, PostError,
    ProtectionDomain, QpState, RcQp, Reason, RecvWr, Remote, SendWr, SharedReceiveQueue,
};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h08_shared_receives_go_to_whoever_needs_one", whoever),
    Case::pair("h08_shared_receives_of_many_peers", many_peers),
    Case::single("h08_posting_to_a_full_shared_queue_says_so_and_ends", full),
    Case::single("h08_a_shared_queue_resizes_with_what_is_posted", resize),
    Case::pair("h08_a_shared_queue_resizes_under_traffic", resize_under_traffic),
    Case::single("h08_the_limit_is_one_event_each_time_it_is_armed", limit),
    Case::single("h08_the_last_receive_of_a_failed_queue_pair_is_an_event", last_wqe),
    Case::single("h08_queue_pairs_with_shared_receives_have_none_of_their_own", no_own),
    Case::single("h08_a_shared_queue_in_use_is_not_destroyed", in_use),
    Case::single("u09_events_of_a_shared_queue_go_where_it_is_associated", associated),
    Case::single("u08_a_shared_queue_is_what_it_was_made", made),
];

/// Queue pairs that are connected with themselves and share their receives.
struct Shared {
    srq: SharedReceiveQueue,
    qps: Vec<RcQp>,
    cq: CompletionQueue,
    events: EventQueue,
    region: Region,
    pd: ProtectionDomain,
}

/// The cookie of the shared queue; a queue pair's is its index.
const COOKIE: u64 = 0x5a5a_0000_1111_0000;
/// Bytes of a receive.
const SIZE: usize = 64;

impl Shared {
    fn new(ctx: &Context, depth: u32, qps: u64) -> Result<Self> {
        let (pd, cq, events) = (ctx.alloc_pd()?, ctx.create_cq(256)?, ctx.create_event_queue()?);
        let srq = SharedReceiveQueue::builder(&pd)
            .depth(depth)
            .events(&events, COOKIE)
            .build()?;
        let region = Region::new(&pd, 64 << 10, Access::LOCAL_WRITE)?;
        let mut this = Self {
            srq,
            qps: Vec::new(),
            cq,
            events,
            region,
            pd,
        };
        for n in 0..qps {
            let mut qp = this.queue_pair(n)?;
            let here = qp.endpoint()?;
            qp.connect(&here)?;
            this.qps.push(qp);
        }
        Ok(this)
    }

    fn queue_pair(&self, cookie: u64) -> Result<RcQp> {
        Ok(RcQp::builder(&self.pd, &self.cq, &self.cq)
            .shared_receives(&self.srq)
            .events(&self.events, cookie)
            .build()?)
    }

    /// Posts the receive of this number, into its place.
    fn post(&mut self, n: u64) -> Result<(), PostError> {
        let at = n as usize % (self.region.buffer().len() / SIZE) * SIZE;
        self.srq.post(&RecvWr::new(&[self.region.sge(at..at + SIZE)]).wr_id(n))
    }

    /// Sends the number through a queue pair to itself; answers which receive it arrived in.
    fn send(&mut self, qp: usize, number: u64) -> Result<u64> {
        self.qps[qp].post_send(&SendWr::send().inline(&number.to_le_bytes()))?;
        let done = good(next(&mut self.cq).context("the receive of a message")?)?;
        ensure!(done.recv, "{done:?} is no receive");
        check_eq!(done.qpn, self.qps[qp].qpn(), "the queue pair of the receive");
        check_eq!(done.byte_len, 8, "bytes of the message");
        let at = done.wr_id as usize % (self.region.buffer().len() / SIZE) * SIZE;
        check_eq!(
            self.region.buffer().to_vec(at, 8),
            number.to_le_bytes(),
            "the message, where its receive says"
        );
        Ok(done.wr_id)
    }

    fn event(&self, what: &str) -> Result<Event> {
        self.events
            .next_event(Some(SOON))?
            .with_context(|| format!("no event: {what}"))
    }

    fn no_event(&self, what: &str) -> Result<()> {
        match self.events.next_event(Some(QUIET))? {
            None => Ok(()),
            Some(event) => bail!("{what}: nothing should be reported, but {event:?} was"),
        }
    }
}

fn whoever(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 4, 3)?;
    // Many passes over the ring; every queue pair takes what is next.
    for n in 0..60 {
        s.post(2 * n)?;
        s.post(2 * n + 1)?;
        for n in [2 * n, 2 * n + 1] {
            check_eq!(s.send((n as usize * 7) % 3, n)?, n, "the receive that was taken");
        }
        check_eq!(s.srq.posted(), 0, "receives that nobody took");
    }
    // Data arrives where the elements say, also that of a WRITE with immediate data, which takes a receive too.
    let target = Region::new(&s.pd, SIZE, Access::ALL_REMOTE)?;
    s.qps[0].set_error()?;
    s.post(500)?;
    let here = s.qps[1].endpoint()?;
    ensure!(here.qpn.get() == s.qps[1].qpn(), "an endpoint of another queue pair");
    let wr = SendWr::write_imm(target.remote(0), 0xabcd).inline(b"written ");
    // Its access rights are the defaults: a peer may write.
    s.qps[1].post_send(&wr)?;
    let done = good(next(&mut s.cq)?)?;
    check_eq!(
        (done.wr_id, done.imm),
        (500, Some(0xabcd)),
        "receive and immediate data"
    );
    check_eq!(target.buffer().to_vec(0, 8), b"written ", "what was written");
    PASS
}

/// Queue pairs a side.
const PEERS: usize = 8;

/// Left sends through each of its queue pairs, right receives all of it on one shared queue.
fn many_peers(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const EACH: u64 = 50;
    let pd = ctx.alloc_pd()?;
    let (mut cq, region) = (ctx.create_cq(1024)?, Region::new(&pd, 64 << 10, Access::LOCAL_WRITE)?);
    let mut srq = SharedReceiveQueue::builder(&pd).depth(32).build()?;
    let mut qps = Vec::new();
    for _ in 0..PEERS {
        qps.push(RcQp::builder(&pd, &cq, &cq).shared_receives(&srq).build()?);
    }
    meet(wire, &mut qps)?;
    if side == Side::Left {
        for n in 0..EACH {
            for (i, qp) in qps.iter_mut().enumerate() {
                let number = (i as u64) << 32 | n;
                qp.post_send(&SendWr::send().inline(&number.to_le_bytes()).signaled())?;
            }
            for _ in 0..PEERS {
                good(next(&mut cq)?)?;
            }
        }
        wire.barrier("received")?;
        return PASS;
    }
    let slot = |n: u64| (n as usize % 32) * SIZE;
    for n in 0..32 {
        srq.post(&RecvWr::new(&[region.sge(slot(n)..slot(n) + SIZE)]).wr_id(n))?;
    }
    let mut seen = [0; PEERS];
    for n in 0..EACH * PEERS as u64 {
        let done = good(next(&mut cq)?)?;
        let bytes = region.buffer().to_vec(slot(done.wr_id), 8);
        let number = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        let (i, count) = ((number >> 32) as usize, number & 0xffff_ffff);
        ensure!(i < PEERS && qps[i].qpn() == done.qpn, "{number:#x} came to {done:?}");
        check_eq!(count, seen[i], "the next message of peer {i}");
        seen[i] += 1;
        let n = n + 32;
        srq.post(&RecvWr::new(&[region.sge(slot(done.wr_id)..slot(done.wr_id) + SIZE)]).wr_id(done.wr_id))
            .with_context(|| format!("receive {n}"))?;
    }
    check_eq!(seen, [EACH; PEERS], "messages of each peer");
    wire.barrier("received")?;
    PASS
}

/// Connects each with the other side's of the same index, patient with a peer that has no receive yet.
fn meet(wire: &mut Wire, qps: &mut [RcQp]) -> Result<()> {
    let here = qps
        .iter()
        .map(|qp| Ok(qp.endpoint()?.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let there: Vec<String> = wire.exchange(&here)?;
    let options = ConnectOptions {
        rnr_retry: 7,
        ..ConnectOptions::default()
    };
    for (qp, peer) in qps.iter_mut().zip(&there) {
        qp.connect_with(&peer.parse::<Endpoint>()?, &options)?;
    }
    wire.barrier("connected")
}

fn full(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 8, 1)?;
    for n in 0..8 {
        s.post(n)?;
    }
    check_eq!(s.post(8), Err(PostError::QueueFull), "a ninth receive");
    check_eq!(s.srq.posted(), 8, "posted receives");
    check_eq!(s.send(0, 1)?, 0, "the receive that was taken");
    s.post(8)?;
    check_eq!(s.post(9), Err(PostError::QueueFull), "a tenth receive");
    let too_many = [s.region.sge(0..1); 3];
    s.send(0, 2)?;
    check_eq!(
        s.srq.post(&RecvWr::new(&too_many)),
        Err(PostError::TooManySges { max: 2 }),
        "a receive of three elements"
    );
    PASS
}

fn resize(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 4, 2)?;
    for n in 0..4 {
        s.post(n)?;
    }
    check_eq!(s.send(0, 7)?, 0, "the receive that was taken");
    s.srq.resize(50)?;
    ensure!(s.srq.depth() >= 50, "{} entries instead of 50", s.srq.depth());
    check_eq!(s.srq.posted(), 3, "posted receives after resizing");
    for n in 4..50 {
        s.post(n)?;
    }
    refused(s.srq.resize(8), Errno::EBUSY, "fewer entries than are posted")?;
    refused(s.srq.resize(0), Errno::EINVAL, "no entries")?;
    refused(s.srq.resize(u32::MAX), Errno::EINVAL, "four billion entries")?;
    for n in 1..50 {
        check_eq!(s.send(n as usize % 2, n)?, n, "the receive that was taken");
    }
    s.srq.resize(1)?;
    for n in 60..70 {
        s.post(n)?;
        check_eq!(s.send(0, n)?, n, "the receive that was taken");
    }
    PASS
}

/// Left sends as fast as it can, right resizes its shared queue all the time: nothing is lost, doubled or reordered.
fn resize_under_traffic(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: u64 = 2000;
    let pd = ctx.alloc_pd()?;
    let (mut cq, region) = (ctx.create_cq(256)?, Region::new(&pd, 4096, Access::LOCAL_WRITE)?);
    let mut srq = SharedReceiveQueue::builder(&pd).depth(16).build()?;
    let mut qps = [RcQp::builder(&pd, &cq, &cq).shared_receives(&srq).build()?];
    meet(wire, &mut qps)?;
    if side == Side::Left {
        for n in 0..COUNT {
            qps[0].post_send(&SendWr::send().inline(&n.to_le_bytes()).signaled())?;
            good(next(&mut cq)?)?;
        }
        wire.barrier("received")?;
        return PASS;
    }
    let mut posted = 0;
    for n in 0..COUNT {
        // Places are used again after 64 receives, which is more than are ever outstanding.
        while posted < COUNT && posted - n < 40 {
            let at = posted as usize % 64 * SIZE;
            match srq.post(&RecvWr::new(&[region.sge(at..at + SIZE)]).wr_id(posted)) {
                Ok(()) => posted += 1,
                Err(PostError::QueueFull) => break,
                Err(other) => bail!("{other}"),
            }
        }
        if n % 10 == 9 {
            // What is posted may be more than the smaller size; both answers are right.
            match srq.resize([64, 16, 128][n as usize / 10 % 3]) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(Errno::EBUSY) => {}
                Err(error) => bail!("{error}"),
            }
        }
        let done = good(next(&mut cq)?)?;
        check_eq!(done.wr_id, n, "the receive that completed");
        let at = n as usize % 64 * SIZE;
        check_eq!(region.buffer().to_vec(at, 8), n.to_le_bytes(), "message {n}");
    }
    wire.barrier("received")?;
    PASS
}

fn limit(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 16, 2)?;
    for n in 0..10 {
        s.post(n)?;
    }
    s.srq.arm_limit(8)?;
    check_eq!(s.srq.limit()?, 8, "the limit");
    for n in 0..2 {
        s.send(n % 2, 1)?;
    }
    s.no_event("eight receives are posted")?;
    s.send(0, 1)?;
    let event = s.event("seven receives are fewer than eight")?;
    check_eq!(
        (event.kind, event.class, event.cookie),
        (EventKind::SrqLimitReached, class::SRQ, COOKIE),
        "kind, class, cookie"
    );
    check_eq!(s.srq.limit()?, 0, "the limit after its event");
    s.send(1, 1)?;
    s.no_event("the limit is not armed any more")?;
    // Six are posted: too few already.
    s.srq.arm_limit(7)?;
    check_eq!(
        s.event("armed above what is posted")?.kind,
        EventKind::SrqLimitReached,
        "the event"
    );
    s.srq.arm_limit(6)?;
    s.srq.arm_limit(0)?;
    s.send(0, 1)?;
    s.no_event("disarmed")?;
    refused(s.srq.arm_limit(17), Errno::EINVAL, "a limit beyond the entries")?;
    PASS
}

fn last_wqe(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 16, 2)?;
    s.post(0)?;
    s.post(1)?;
    s.qps[0].set_error()?;
    let event = s.event("the queue pair was moved to an error state")?;
    check_eq!(
        (event.kind, event.class, event.cookie),
        (EventKind::LastWqeReached, class::QP_RC, 0),
        "kind, class, cookie"
    );
    quiet(&mut s.cq, "receives of a shared queue are not flushed")?;
    check_eq!(s.send(1, 5)?, 0, "the other queue pair's receive");
    // The other fails by itself: its own error first.
    s.qps[1].post_send(&SendWr::write(Remote { addr: 1, rkey: 1 }).inline(b"bad").wr_id(9))?;
    let done = next(&mut s.cq)?;
    // It is its own peer: the error that its responder found flushes the WRITE.
    check_eq!((done.wr_id, done.status), (9, Status::WR_FLUSH_ERR), "the failed WRITE");
    let kinds = [s.event("an access error")?.kind, s.event("the last receive")?.kind];
    ensure!(
        kinds.contains(&EventKind::QpAccessError) && kinds.contains(&EventKind::LastWqeReached),
        "{kinds:?} were reported"
    );
    s.no_event("everything has been said")?;
    check_eq!(s.srq.posted(), 1, "receives that stay posted");
    PASS
}

fn no_own(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 4, 1)?;
    check_eq!(s.qps[0].recv_depth(), 0, "entries of its own receive queue");
    check_eq!(s.qps[0].caps().max_recv_wr, 0, "receives that it holds");
    check_eq!(
        s.qps[0].query()?.caps.max_recv_wr,
        0,
        "receives that the device says it holds"
    );
    check_eq!(
        s.qps[0].post_recv(&RecvWr::new(&[])),
        Err(PostError::NoQueue),
        "a receive of its own"
    );
    // With a queue pair that has its own, both live side by side.
    let mut own = RcQp::builder(&s.pd, &s.cq, &s.cq).build()?;
    let here = own.endpoint()?;
    own.connect(&here)?;
    own.post_recv(&RecvWr::new(&[]).wr_id(77))?;
    s.post(1)?;
    own.post_send(&SendWr::send())?;
    check_eq!(good(next(&mut s.cq)?)?.wr_id, 77, "its own receive");
    check_eq!(s.send(0, 3)?, 1, "the shared one");
    // After RESET it begins again on the same shared queue.
    s.qps[0].reset(&mut [&mut s.cq])?;
    let here = s.qps[0].endpoint()?;
    s.qps[0].connect(&here)?;
    s.post(2)?;
    check_eq!(s.send(0, 4)?, 2, "the shared one after RESET");
    PASS
}

fn in_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let Shared {
        srq,
        qps,
        cq,
        pd,
        region,
        ..
    } = Shared::new(&ctx, 4, 2)?;
    let Err(error) = srq.destroy() else {
        bail!("a shared queue was destroyed under queue pairs")
    };
    check_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EBUSY), Some(Reason::IN_USE)),
        "errno and reason"
    );
    drop(region);
    let free = SharedReceiveQueue::builder(&pd).build()?;
    drop(qps);
    let Err(error) = pd.destroy() else {
        bail!("a protection domain was destroyed under a shared queue")
    };
    check_eq!(error.reason(), Some(Reason::IN_USE), "the reason");
    free.destroy()?;
    cq.destroy()?;
    PASS
}

fn associated(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut s = Shared::new(&ctx, 8, 1)?;
    let other = ctx.create_event_queue()?;
    other.associate_srq(&s.srq, 321)?;
    s.srq.arm_limit(1)?;
    let event = other
        .next_event(Some(SOON))?
        .context("no event where it was associated")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::SrqLimitReached, 321),
        "the event and its cookie"
    );
    s.no_event("it was associated with another queue")?;
    other.dissociate_srq(&s.srq)?;
    s.srq.arm_limit(1)?;
    s.post(0)?;
    check_eq!(
        other.next_event(Some(QUIET))?,
        None,
        "an event of a queue that reports to none"
    );
    // Armed at birth, with nothing posted.
    let queue = SharedReceiveQueue::builder(&s.pd).limit(2).events(&other, 5).build()?;
    let event = other
        .next_event(Some(SOON))?
        .context("no event of a queue that was born empty")?;
    check_eq!(
        (event.kind, event.cookie),
        (EventKind::SrqLimitReached, 5),
        "the event and its cookie"
    );
    // Destroyed with an event unread: it is not delivered.
    queue.arm_limit(2)?;
    std::thread::sleep(QUIET);
    queue.destroy()?;
    check_eq!(other.try_next()?, None, "an event of what is destroyed");
    check_eq!(s.qps[0].query()?.state, QpState::RTS, "the queue pair's state");
    PASS
}

fn made(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let device = ctx.device()?;
    ensure!(
        device.max_srq > 0 && device.max_srq_wr > 0 && device.max_srq_sge > 0,
        "no shared queues: {device:?}"
    );
    let pd = ctx.alloc_pd()?;
    for (depth, sges) in [(1, 0), (3, 1), (100, device.max_srq_sge), (device.max_srq_wr, 1)] {
        let srq = SharedReceiveQueue::builder(&pd).depth(depth).max_sge(sges).build()?;
        ensure!(
            srq.depth() >= depth && srq.max_sge() >= sges,
            "{srq:?} is smaller than asked for"
        );
        check_eq!(srq.limit()?, 0, "the limit of a new queue");
        check_eq!(srq.posted(), 0, "receives in a new queue");
    }
    for (depth, sges) in [
        (0, 1),
        (device.max_srq_wr + 1, 1),
        (4, device.max_srq_sge + 1),
        (4, u32::MAX),
    ] {
        let srq = SharedReceiveQueue::builder(&pd).depth(depth).max_sge(sges).build();
        refused(srq, Errno::EINVAL, &format!("{depth} entries of {sges} elements"))?;
    }
    let srq = SharedReceiveQueue::builder(&pd).depth(4).limit(5).build();
    refused(srq, Errno::EINVAL, "a limit beyond the entries")?;
    PASS
}
