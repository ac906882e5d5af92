// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counter sets (H11, U8).

use super::kit::{check_eq, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{good, next, Region};
use anyhow::{ensure, Result};
use rdma_uapi::class::{self, counter_set};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::Errno;
use verbena::{Access, CompletionQueue, Context, CounterSet, RcQp, RecvWr, Remote, SendWr, WcStatus};

pub const CASES: &[Case] = &[
    Case::single("h11_counter_sets_count_what_their_queue_pairs_do", counts),
    Case::single("h11_counter_sets_count_errors_and_what_they_flush", errors),
    Case::single("u08_counter_sets_and_queue_pairs_do_not_keep_each_other", objects),
];

/// Two connected queue pairs of one device.
struct Two {
    a: RcQp,
    b: RcQp,
    a_cq: CompletionQueue,
    b_cq: CompletionQueue,
    region: Region,
}

impl Two {
    fn new(ctx: &Context) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let (a_cq, b_cq) = (ctx.create_cq(64)?, ctx.create_cq(64)?);
        let mut a = RcQp::builder(&pd, &a_cq, &a_cq).build()?;
        let mut b = RcQp::builder(&pd, &b_cq, &b_cq).build()?;
        a.connect(&b.endpoint()?)?;
        b.connect(&a.endpoint()?)?;
        let region = Region::new(&pd, 1 << 16, Access::LOCAL_WRITE | Access::ALL_REMOTE)?;
        Ok(Self {
            a,
            b,
            a_cq,
            b_cq,
            region,
        })
    }

    fn write(&mut self, len: usize) -> Result<()> {
        let to = self.region.remote(32768);
        let sges = [self.region.sge(..len)];
        self.a.post_send(&SendWr::write(to).sges(&sges).signaled())?;
        good(next(&mut self.a_cq)?)?;
        Ok(())
    }
}

/// Those that are not zero.
fn of(set: &CounterSet) -> Result<Vec<(String, u64)>> {
    let all = set.counters()?;
    Ok(all.into_iter().filter(|(_, value)| *value != 0).collect())
}

fn named(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

fn counts(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut two = Two::new(&ctx)?;
    let (here, there) = (ctx.create_counter_set()?, ctx.create_counter_set()?);
    two.write(1000)?;
    here.bind(&two.a)?;
    there.bind(&two.b)?;
    ensure!(of(&here)?.is_empty(), "what was before is counted");
    two.write(100)?;
    two.write(4096)?;
    let sges = [two.region.sge(32768..40960)];
    two.b.post_recv(&RecvWr::new(&sges))?;
    two.a.post_send(&SendWr::send().inline(b"hello").signaled())?;
    good(next(&mut two.a_cq)?)?;
    good(next(&mut two.b_cq)?)?;
    let sent = named(&[("sent_msgs", 3), ("sent_bytes", 4201)]);
    check_eq!(of(&here)?, sent, "what was sent");
    let received = named(&[("rcvd_msgs", 3), ("rcvd_bytes", 4201)]);
    check_eq!(of(&there)?, received, "what was received");
    // Bound to the other set it leaves this one.
    there.bind(&two.a)?;
    two.write(10)?;
    check_eq!(of(&here)?, sent, "what was sent, after it has left");
    there.unbind(&two.a)?;
    there.unbind(&two.b)?;
    two.write(10)?;
    let both = named(&[
        ("sent_msgs", 1),
        ("rcvd_msgs", 4),
        ("sent_bytes", 10),
        ("rcvd_bytes", 4211),
    ]);
    check_eq!(of(&there)?, both, "both directions in one set");
    PASS
}

fn errors(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut two = Two::new(&ctx)?;
    let set = ctx.create_counter_set()?;
    set.bind(&two.a)?;
    let sges = [two.region.sge(..8)];
    two.a.post_recv(&RecvWr::new(&sges))?;
    two.a
        .post_send(&SendWr::write(Remote::default()).sges(&sges).signaled())?;
    let failed = next(&mut two.a_cq)?;
    check_eq!(failed.status, WcStatus::REM_ACCESS_ERR, "a WRITE without a key");
    check_eq!(next(&mut two.a_cq)?.status, WcStatus::WR_FLUSH_ERR, "the receive");
    check_eq!(of(&set)?, named(&[("completion_err", 1), ("flushed_wrs", 1)]), "errors");
    PASS
}

fn objects(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut two = Two::new(&ctx)?;
    let (first, second) = (ctx.create_counter_set()?, ctx.create_counter_set()?);
    first.bind(&two.a)?;
    first.bind(&two.b)?;
    first.destroy()?;
    two.write(10)?;
    second.bind(&two.a)?;
    let Two { a, .. } = two;
    a.destroy()?;
    check_eq!(of(&second)?, Vec::new(), "a set that nobody has used");
    // Only queue pairs count.
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE);
    let pd = pd.map_err(|failure| anyhow::anyhow!("{failure:?}"))?.object();
    let set = Message::new(class::COUNTER_SET, 0, |_| {}).call(&ctx, method::CREATE);
    let set = set.map_err(|failure| anyhow::anyhow!("{failure:?}"))?.object();
    let bound = Message::new(class::COUNTER_SET, set, |m| {
        m.put(counter_set::BIND, &ObjectId(pd));
    });
    match bound.call(&ctx, method::MODIFY) {
        Err(failure) => check_eq!(failure.errno, Errno::EINVAL, "a protection domain in a counter set"),
        Ok(_) => anyhow::bail!("a protection domain was bound to a counter set"),
    }
    PASS
}
