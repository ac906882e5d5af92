// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions that are registered anew: other memory, another domain, other rights (H6).

use super::kit::{check_eq, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Spec};
use anyhow::{ensure, Result};
use rdma_uapi::Errno;
use verbena::{Access, Context, MemoryRegion, Remote, SendWr, WindowType};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h06_a_region_gets_other_memory", memory),
    Case::single("h06_a_region_gets_other_rights", rights),
    Case::single("h06_a_region_moves_to_another_domain", domain),
    Case::single("h06_old_keys_are_nothing_any_more", old_keys),
    Case::single("h06_a_region_that_is_not_registered_anew_is_what_it_was", unchanged),
    Case::single("h06_a_region_under_a_window_is_not_registered_anew", window),
];

const WRITABLE: Access = Access::LOCAL_WRITE.union(Access::REMOTE_WRITE);

/// Two ends, one of which has a region that the other writes to.
struct Ends {
    a: Link,
    b: Link,
    mr: MemoryRegion,
}

impl Ends {
    fn new(ctx: &Context, access: Access) -> Result<Self> {
        let (a, b) = Link::pair(ctx, ctx, &Spec::default())?;
        let mr = b.pd.register(&ctx.alloc_buffer(8192)?, access)?;
        Ok(Self { a, b, mr })
    }

    /// a writes one word; how it ends. A failure ends the connection.
    fn write(&mut self, to: Remote, value: u64) -> Result<Status> {
        let wr = SendWr::write(to);
        self.a.qp.post_send(&wr.inline(&value.to_le_bytes()).signaled())?;
        Ok(self.a.sent()?.status)
    }
}

fn memory(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx, WRITABLE)?;
    let (old, new) = (ends.mr.buffer().cloned(), ctx.alloc_buffer(3 << 20)?);
    ends.mr.reregister().memory(&new).apply()?;
    check_eq!(ends.mr.len(), new.len(), "its length");
    check_eq!(ends.mr.addr(), new.addr(), "its address");
    let far = new.len() - 8;
    check_eq!(
        ends.write(ends.mr.remote(far), 71)?,
        Status::SUCCESS,
        "a WRITE to its end"
    );
    check_eq!(new.load_u64(far), 71, "the new memory");
    ends.mr.reregister().memory_at(&new, 0x1000).apply()?;
    check_eq!(ends.mr.addr(), 0x1000, "its address");
    check_eq!(ends.write(ends.mr.remote(8), 72)?, Status::SUCCESS, "a WRITE");
    check_eq!(new.load_u64(8), 72, "the new memory");
    // Zero-based is another way to name the same memory.
    ends.mr.reregister().access(WRITABLE | Access::ZERO_BASED).apply()?;
    check_eq!(ends.mr.addr(), 0, "its address");
    check_eq!(ends.write(ends.mr.remote(16), 73)?, Status::SUCCESS, "a WRITE");
    check_eq!(new.load_u64(16), 73, "the new memory");
    let old = old.expect("it was made of a buffer");
    check_eq!(old.load_u64(8), 0, "the old memory");
    PASS
}

fn rights(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    // Memory that was pinned to be read is written afterwards.
    let mut ends = Ends::new(&ctx, Access::REMOTE_READ)?;
    ends.mr.reregister().access(WRITABLE).apply()?;
    check_eq!(ends.write(ends.mr.remote(0), 5)?, Status::SUCCESS, "a WRITE");
    ends.mr.reregister().access(Access::REMOTE_READ).apply()?;
    check_eq!(
        ends.write(ends.mr.remote(0), 6)?,
        Status::REM_ACCESS_ERR,
        "a WRITE to what is for reading"
    );
    let buffer = ends.mr.buffer().expect("it was made of a buffer");
    check_eq!(buffer.load_u64(0), 5, "the memory");
    PASS
}

fn domain(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx, WRITABLE)?;
    let other = ctx.alloc_pd()?;
    ends.mr.reregister().pd(&other).apply()?;
    refused(other.destroy(), Errno::EBUSY, "the domain that it is in now")?;
    check_eq!(
        ends.write(ends.mr.remote(0), 5)?,
        Status::REM_ACCESS_ERR,
        "a WRITE through a queue pair of the domain that it was in"
    );
    // The old domain goes when everything but the region is gone.
    let Ends { a, b, mr } = ends;
    let (b_pd, a_pd) = (b.pd, a.pd);
    drop((b.qp, b.send_cq, b.recv_cq));
    drop((a.qp, a.send_cq, a.recv_cq));
    b_pd.destroy()?;
    a_pd.destroy()?;
    mr.deregister()?;
    PASS
}

fn old_keys(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx, WRITABLE)?;
    let (before, lkey) = (ends.mr.remote(0), ends.mr.lkey());
    ends.mr.reregister().access(WRITABLE).apply()?;
    ensure!(
        ends.mr.rkey() != before.rkey && ends.mr.lkey() != lkey,
        "the keys are what they were"
    );
    check_eq!(
        ends.write(ends.mr.remote(0), 5)?,
        Status::SUCCESS,
        "a WRITE with the new key"
    );
    check_eq!(
        ends.write(before, 6)?,
        Status::REM_ACCESS_ERR,
        "a WRITE with the old key"
    );
    PASS
}

fn unchanged(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx, WRITABLE)?;
    let (before, lkey) = (ends.mr.remote(0), ends.mr.lkey());
    refused(ends.mr.reregister().apply(), Errno::EINVAL, "nothing to change")?;
    let access = Access::REMOTE_WRITE;
    refused(
        ends.mr.reregister().access(access).apply(),
        Errno::EINVAL,
        "rights that contradict each other",
    )?;
    let buffer = ctx.alloc_buffer(4096)?;
    refused(
        ends.mr.reregister().memory_at(&buffer, u64::MAX - 10).apply(),
        Errno::EINVAL,
        "memory beyond the address space",
    )?;
    check_eq!((ends.mr.remote(0), ends.mr.lkey()), (before, lkey), "address and keys");
    check_eq!(ends.write(before, 6)?, Status::SUCCESS, "a WRITE with the key");
    PASS
}

fn window(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx, Access::LOCAL_WRITE | Access::MW_BIND)?;
    let mut window = ends.b.pd.alloc_window(WindowType::Type1)?;
    let shown = window.bind(&ends.mr, 0..64, Access::REMOTE_WRITE)?;
    refused(
        ends.mr.reregister().access(WRITABLE).apply(),
        Errno::EBUSY,
        "a region with a window on it",
    )?;
    check_eq!(ends.write(shown, 9)?, Status::SUCCESS, "a WRITE through the window");
    window.unbind()?;
    ends.mr.reregister().access(WRITABLE).apply()?;
    check_eq!(
        ends.write(ends.mr.remote(0), 10)?,
        Status::SUCCESS,
        "a WRITE to the region"
    );
    PASS
}
