// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands as a program meets them: many at once, and each refusal with its own words (H3).

use super::kit::{check_eq, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use anyhow::{anyhow, bail, ensure, Context as _, Result};
use rdma_uapi::class::{cq, mcast, mw, qp};
use rdma_uapi::{wire, Errno, Reason};
use std::collections::HashSet;
use std::sync::Barrier;
use verbena::{Access, Context, Error, Flow, Gid, QpAttr, QpState, RawQp, RcQp, SendWr, UdQp, WindowType};

pub const CASES: &[Case] = &[
    Case::single("h03_commands_of_many_threads_are_in_flight_together", many),
    Case::single("h03_each_refusal_says_which_one_it_is", refusals),
];

const THREADS: usize = 12;
const ROUNDS: usize = 6;

/// Makes a queue pair and what it stands on, asks about it, changes it, and answers its number.
fn round(ctx: &Context, held: &mut Vec<Link>) -> Result<u32> {
    let mut link = Link::new(ctx, &Spec::default())?;
    let region = Region::new(&link.pd, 8192, Access::ALL_REMOTE | Access::MW_BIND)?;
    let window = link.pd.alloc_window(WindowType::Type1)?;
    link.qp.init()?;
    check_eq!(link.qp.query()?.state, QpState::INIT, "its state");
    check_eq!(link.qp.query()?.qpn, link.qp.qpn(), "its number");
    window.destroy()?;
    region.into_registration().deregister()?;
    let qpn = link.qp.qpn();
    held.push(link);
    Ok(qpn)
}

fn many(fixture: &Fixture) -> Outcome {
    let shared = fixture.open()?;
    let objects = shared.objects()?.len();
    // All are alive until all have been made.
    let (start, made) = (Barrier::new(THREADS), Barrier::new(THREADS));
    let numbers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (start, made, shared) = (&start, &made, &shared);
                scope.spawn(move || -> Result<Vec<u32>> {
                    // Half of them share a context.
                    let ctx = if n % 2 == 0 { Ok(shared.clone()) } else { fixture.open() };
                    start.wait();
                    let mut held = Vec::new();
                    let numbers = ctx.and_then(|ctx| (0..ROUNDS).map(|_| round(&ctx, &mut held)).collect());
                    made.wait();
                    numbers
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let all: Vec<u32> = numbers.concat();
    let different: HashSet<u32> = all.iter().copied().collect();
    check_eq!(different.len(), THREADS * ROUNDS, "different numbers of queue pairs");
    check_eq!(
        shared.objects()?.len(),
        objects,
        "objects of the shared context afterwards"
    );
    PASS
}

/// What a program tries, and how it is refused: the errno, the reason, which attribute (0: none), and the number that says more.
type Refusal = (&'static str, fn(&Context) -> Result<(), Error>, Errno, Reason, u16, u16);

const REFUSALS: &[Refusal] = &[
    (
        "from RESET to RTS",
        |ctx| change(ctx, &QpAttr::to(QpState::RTS)),
        Errno::EINVAL,
        Reason::BAD_STATE,
        qp::STATE.id(),
        // From 0 to 3.
        3 << 8,
    ),
    (
        "to INIT without a P_Key",
        |ctx| change(ctx, &QpAttr::to(QpState::INIT).port(1).access(Access::empty())),
        Errno::EINVAL,
        Reason::MISSING,
        qp::PKEY_INDEX.id(),
        0,
    ),
    (
        "to INIT without a port",
        |ctx| change(ctx, &QpAttr::to(QpState::INIT).pkey_index(0).access(Access::empty())),
        Errno::EINVAL,
        Reason::MISSING,
        qp::PORT.id(),
        0,
    ),
    (
        "to INIT with a PSN",
        |ctx| change(ctx, &init().sq_psn(1)),
        Errno::EINVAL,
        Reason::NOT_ALLOWED,
        qp::SQ_PSN.id(),
        0,
    ),
    (
        "a P_Key that the table does not have",
        |ctx| change(ctx, &init().pkey_index(1)),
        Errno::EINVAL,
        Reason::OUT_OF_RANGE,
        qp::PKEY_INDEX.id(),
        0,
    ),
    (
        "port 2",
        |ctx| change(ctx, &init().port(2)),
        Errno::EINVAL,
        Reason::OUT_OF_RANGE,
        qp::PORT.id(),
        0,
    ),
    (
        "a domain under a window",
        |ctx| {
            let pd = ctx.alloc_pd()?;
            let _window = pd.alloc_window(WindowType::Type1)?;
            pd.destroy()
        },
        Errno::EBUSY,
        Reason::IN_USE,
        wire::FIELD_OBJECT,
        1,
    ),
    (
        "a window on a region that lets none be bound",
        |ctx| {
            let pd = ctx.alloc_pd()?;
            let buffer = ctx.alloc_buffer(4096)?;
            let mr = pd.register(&buffer, Access::ALL_REMOTE)?;
            pd.alloc_window(WindowType::Type1)?
                .bind(&mr, .., Access::REMOTE_READ)
                .map(drop)
        },
        Errno::EINVAL,
        Reason::NOT_ALLOWED,
        mw::ACCESS.id(),
        0,
    ),
    (
        "a group that the queue pair is in",
        |ctx| {
            let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
            let mut qp = UdQp::builder(&pd, &cq, &cq).build()?;
            let mut group = Gid::default();
            (group.0[0], group.0[1], group.0[15]) = (0xff, 0x0e, 0x33);
            qp.attach(group)?;
            qp.attach(group)
        },
        Errno::EEXIST,
        Reason::IN_USE,
        mcast::GID.id(),
        0,
    ),
    (
        "a rule that is there",
        |ctx| {
            let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
            let mut qp = RawQp::builder(&pd, &cq, &cq).build()?;
            let flow = Flow::new().ethertype(0x88b5);
            qp.steer(&flow)?;
            qp.steer(&flow).map(drop)
        },
        Errno::EEXIST,
        Reason::IN_USE,
        0,
        0,
    ),
    (
        "more entries than the device can",
        |ctx| ctx.create_cq(u32::MAX).map(drop),
        Errno::EINVAL,
        Reason::OUT_OF_RANGE,
        cq::CQE.id(),
        0,
    ),
    (
        "a port that is not there",
        |ctx| ctx.port(7).map(drop),
        Errno::ENOENT,
        Reason::NO_OBJECT,
        wire::FIELD_OBJECT,
        0,
    ),
];

fn init() -> QpAttr {
    QpAttr::to(QpState::INIT).port(1).pkey_index(0).access(Access::empty())
}

/// Changes a new queue pair.
fn change(ctx: &Context, attributes: &QpAttr) -> Result<(), Error> {
    let (pd, cq) = (ctx.alloc_pd()?, ctx.create_cq(16)?);
    RcQp::builder(&pd, &cq, &cq).build()?.modify(attributes)
}

fn refusals(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut wrong = Vec::new();
    for &(what, attempt, errno, reason, attr, detail) in REFUSALS {
        let Err(error) = attempt(&ctx) else {
            bail!("{what}: accepted")
        };
        let failure = *error.failure().with_context(|| format!("{what}: {error}"))?;
        let got = (
            failure.errno,
            failure.reason,
            failure.attr & wire::ATTR_ID,
            failure.detail,
        );
        let expected = (errno, reason, attr & wire::ATTR_ID, detail);
        if got != expected {
            wrong.push(format!("{what}: {got:?} instead of {expected:?}"));
        }
        ensure!(error.to_string().contains(&format!("{errno:?}")), "{what}: '{error}'");
    }
    ensure!(
        wrong.is_empty(),
        "errno, reason, attribute, detail: {}",
        wrong.join("; ")
    );
    // After all of them the device does what it should.
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let sink = b.region(64, Access::ALL_REMOTE)?;
    a.qp.post_send(&SendWr::write(sink.remote(0)).inline(b"still").signaled())?;
    a.sent_well()?;
    PASS
}
