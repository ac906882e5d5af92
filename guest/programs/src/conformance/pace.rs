// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues with a rate limit (H4, and the attributes of the object model).

use super::kit::{check_eq, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{next, Link, Spec, SOON};
use anyhow::{bail, ensure, Result};
use rdma_uapi::Errno;
use std::time::{Duration, Instant};
use verbena::{Access, QpAttr, QpState, SendWr, UcQp};

pub const CASES: &[Case] = &[
    Case::single("h04_a_limited_queue_takes_its_time_and_nobody_elses", keeps),
    Case::single("h04_a_rate_limit_of_an_unreliable_connection", unreliable),
    Case::single("u08_a_rate_limit_is_what_it_was_set_to", is_set),
];

/// 10 bytes a microsecond.
const KBPS: u32 = 80_000;
const BURST: u32 = 64 << 10;
const LEN: usize = 2 << 20;

/// The least that [`LEN`] bytes take.
fn least() -> Duration {
    Duration::from_micros((LEN as u64 - u64::from(BURST)) / 10)
}

fn keeps(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let (mut c, d) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let (from, to) = (a.region(LEN, Access::empty())?, b.region(LEN, Access::ALL_REMOTE)?);
    let (other_from, other_to) = (c.region(LEN, Access::empty())?, d.region(LEN, Access::ALL_REMOTE)?);
    from.buffer().fill(0, LEN, 0xa5);
    a.qp.modify(&QpAttr::new().rate_limit(KBPS).max_burst(BURST))?;

    let begin = Instant::now();
    a.qp.post_send(&SendWr::write(to.remote(0)).sges(&[from.sge(..)]).signaled())?;
    c.qp.post_send(&SendWr::write(other_to.remote(0)).sges(&[other_from.sge(..)]).signaled())?;
    c.sent_well()?;
    let (others, early) = (begin.elapsed(), a.send_cq.poll_timeout(Duration::ZERO)?);
    ensure!(
        early.is_none() || others >= least(),
        "the limited one had ended after {others:?}"
    );
    if early.is_none() {
        a.sent_well()?;
    }
    let took = begin.elapsed();
    ensure!(took >= least(), "{LEN} bytes took {took:?}, not {:?} at least", least());
    check_eq!(
        to.buffer().find_mismatch(0, LEN, |_| 0xa5),
        None,
        "the first wrong byte"
    );

    // Without it, and while it would hold.
    a.qp.post_send(&SendWr::write(to.remote(0)).sges(&[from.sge(..)]).signaled())?;
    a.qp.modify(&QpAttr::new().rate_limit(1))?;
    a.qp.modify(&QpAttr::new().rate_limit(0))?;
    a.sent_well()?;
    PASS
}

fn unreliable(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let mut cq = ctx.create_cq(16)?;
    let mut ends = Vec::new();
    for _ in 0..2 {
        ends.push(UcQp::builder(&pd, &cq, &cq).build()?);
    }
    let places = [ends[0].endpoint()?, ends[1].endpoint()?];
    let options = Spec::default().connect;
    ends[0].connect_with(&places[1], &options)?;
    ends[1].connect_with(&places[0], &options)?;
    let (from, to) = (
        crate::link::Region::new(&pd, LEN, Access::empty())?,
        crate::link::Region::new(&pd, LEN, Access::ALL_REMOTE)?,
    );
    from.buffer().fill(0, LEN, 0xa5);
    ends[0].modify(&QpAttr::new().rate_limit(KBPS).max_burst(BURST))?;
    let begin = Instant::now();
    ends[0].post_send(&SendWr::write(to.remote(0)).sges(&[from.sge(..)]).signaled())?;
    let done = next(&mut cq)?;
    let took = begin.elapsed();
    ensure!(done.is_success(), "it ended with {}", done.status);
    ensure!(
        (least()..SOON).contains(&took),
        "{LEN} bytes took {took:?}, not {:?} at least",
        least()
    );
    check_eq!(
        to.buffer().find_mismatch(0, LEN, |_| 0xa5),
        None,
        "the first wrong byte"
    );
    PASS
}

/// What QUERY says of the three attributes.
fn told(link: &Link) -> Result<(u32, u32, u32)> {
    let info = link.qp.query()?;
    Ok((info.rate_limit, info.max_burst, info.typical_packet))
}

fn is_set(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, _b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let device = ctx.device()?;
    let (least, most) = (device.qp_rate_limit_min, device.qp_rate_limit_max);
    if least == 0 || least > most {
        bail!("a device with limits from {least} to {most}");
    }
    check_eq!(told(&a)?, (0, 0, 0), "the limit of a new queue pair");
    let all = QpAttr::new().rate_limit(most).max_burst(123).typical_packet(45);
    a.qp.modify(&all)?;
    check_eq!(told(&a)?, (most, 123, 45), "the limit");
    if let Some(more) = most.checked_add(1) {
        let more = QpAttr::new().rate_limit(more);
        refused(a.qp.modify(&more), Errno::EINVAL, "a greater limit than the device has")?;
    }
    let shape = QpAttr::new().max_burst(1000);
    refused(a.qp.modify(&shape), Errno::EINVAL, "a burst without a limit")?;
    check_eq!(told(&a)?, (most, 123, 45), "the limit after what was refused");
    a.qp.modify(&QpAttr::new().rate_limit(least))?;
    check_eq!(told(&a)?, (least, 0, 0), "a limit that leaves the rest to the device");
    a.qp.reset(&mut [&mut a.send_cq, &mut a.recv_cq])?;
    check_eq!(told(&a)?, (0, 0, 0), "the limit after RESET");
    let early = QpAttr::to(QpState::INIT)
        .port(1)
        .pkey_index(0)
        .access(Access::empty())
        .rate_limit(least);
    refused(a.qp.modify(&early), Errno::EINVAL, "a limit on the way to INIT")?;
    PASS
}
