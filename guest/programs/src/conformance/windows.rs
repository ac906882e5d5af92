// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows, invalidation, atomic writes and flushes (H5, H6, and the class of the object model).

use super::kit::{check_eq, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use anyhow::{bail, ensure, Result};
use rdma_uapi::{Errno, Reason};
use verbena::{Access, MemoryWindow, Remote, SendWr, WindowType};
use verbena_hw::cqe::{vendor, Opcode, Status};

pub const CASES: &[Case] = &[
    Case::single("h06_a_window_bound_by_a_call_opens_its_part", bound_by_call),
    Case::single(
        "h06_a_window_bound_by_a_work_request_opens_its_part",
        bound_by_work_request,
    ),
    Case::single("h06_a_window_may_count_from_zero", zero_based),
    Case::single("h06_a_region_under_a_window_is_in_use", in_use),
    Case::single(
        "h06_closing_with_bound_windows_takes_everything_back",
        closed_while_bound,
    ),
    Case::single("h06_a_window_is_bound_only_to_what_allows_it", bind_rules),
    Case::single("h05_a_window_is_invalidated_by_its_owner", local_invalidate),
    Case::single("h05_a_window_is_invalidated_by_the_peers_send", send_invalidate),
    Case::single("h05_atomic_write", atomic_write),
    Case::single("h05_flush_needs_its_right", flush),
    Case::single("u08_a_window_is_what_it_was_made", made),
];

/// Two queue pairs of one process; the second's memory grants nothing but windows.
struct Ends {
    a: Link,
    b: Link,
    region: Region,
}

const BINDABLE: Access = Access::LOCAL_WRITE.union(Access::MW_BIND);
const DATA: &[u8; 8] = b"windowed";

impl Ends {
    fn new(fixture: &Fixture) -> Result<Self> {
        let ctx = fixture.open()?;
        let (a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
        let region = b.region(16 << 10, BINDABLE)?;
        Ok(Self { a, b, region })
    }

    /// a writes; how it ends.
    fn write(&mut self, remote: Remote) -> Result<Status> {
        self.a.qp.post_send(&SendWr::write(remote).inline(DATA).signaled())?;
        Ok(self.a.sent()?.status)
    }

    /// b binds by a work request, which must succeed.
    fn bind(&mut self, window: &mut MemoryWindow, at: usize, len: usize, access: Access) -> Result<Remote> {
        let (wr, remote) = window.bind_wr(&self.region, at..at + len, access);
        self.b.qp.post_send(&wr.signaled())?;
        check_eq!(
            self.b.sent_well()?.opcode,
            Opcode::BIND_MW,
            "the opcode of the completion"
        );
        Ok(remote)
    }
}

fn bound_by_call(fixture: &Fixture) -> Outcome {
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type1)?;
    let first = window.bind(&e.region, 4096..4160, Access::REMOTE_WRITE)?;
    check_eq!(e.write(first.offset(56))?, Status::SUCCESS, "a write to its last bytes");
    check_eq!(e.region.buffer().to_vec(4152, 8), DATA, "what was written");
    check_eq!(window.bound_len()?, 64, "bytes of the window");
    // Bound again it has another key, and the old one is nothing.
    let second = window.bind(&e.region, 0..64, Access::REMOTE_WRITE)?;
    ensure!(first.rkey != second.rkey, "the key is the same after another bind");
    check_eq!(e.write(second)?, Status::SUCCESS, "a write through the new key");
    window.unbind()?;
    check_eq!(window.bound_len()?, 0, "bytes of the unbound window");
    check_eq!(
        e.write(second)?,
        Status::REM_ACCESS_ERR,
        "a write through an unbound window"
    );
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type1)?;
    let remote = window.bind(&e.region, 4096..4160, Access::REMOTE_WRITE)?;
    check_eq!(
        e.write(remote.offset(57))?,
        Status::REM_ACCESS_ERR,
        "a write beyond its end"
    );
    PASS
}

fn bound_by_work_request(fixture: &Fixture) -> Outcome {
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type2)?;
    let remote = e.bind(&mut window, 100, 50, Access::REMOTE_WRITE)?;
    check_eq!(e.write(remote)?, Status::SUCCESS, "a write");
    check_eq!(e.region.buffer().to_vec(100, 8), DATA, "what was written");
    // It grants writing, not reading.
    let target = e.a.region(8, Access::LOCAL_WRITE)?;
    let sges = [target.sge(..)];
    e.a.qp.post_send(&SendWr::read(remote).sges(&sges).signaled())?;
    check_eq!(e.a.sent()?.status, Status::REM_ACCESS_ERR, "a read");
    // Another queue pair of the same process is not who bound it.
    let mut f = Ends::new(fixture)?;
    let mut window = f.b.pd.alloc_window(WindowType::Type2)?;
    let remote = f.bind(&mut window, 0, 50, Access::REMOTE_WRITE)?;
    let spec = Spec::default();
    let pd = f.b.ctx.alloc_pd()?;
    let mut other = Link::in_domain(&f.b.ctx, pd, &spec)?;
    let mut third = Link::new(&f.b.ctx, &spec)?;
    Link::join(&mut other, &mut third, &spec)?;
    third.qp.post_send(&SendWr::write(remote).inline(DATA).signaled())?;
    check_eq!(
        third.sent()?.status,
        Status::REM_ACCESS_ERR,
        "a write through another queue pair"
    );
    PASS
}

fn zero_based(fixture: &Fixture) -> Outcome {
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type2)?;
    let remote = e.bind(&mut window, 5000, 64, Access::REMOTE_WRITE | Access::ZERO_BASED)?;
    check_eq!(remote.addr, 0, "where it begins");
    check_eq!(e.write(remote.offset(8))?, Status::SUCCESS, "a write");
    check_eq!(e.region.buffer().to_vec(5008, 8), DATA, "what was written");
    PASS
}

fn in_use(fixture: &Fixture) -> Outcome {
    let Ends { b, region, .. } = Ends::new(fixture)?;
    let mut window = b.pd.alloc_window(WindowType::Type1)?;
    window.bind(&region, .., Access::REMOTE_READ)?;
    let Err(error) = region.into_registration().deregister() else {
        bail!("a region was deregistered under a window")
    };
    check_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EBUSY), Some(Reason::IN_USE)),
        "errno and reason"
    );
    let free = b.region(4096, BINDABLE)?;
    window.bind(&free, .., Access::REMOTE_READ)?;
    window.unbind()?;
    free.into_registration().deregister()?;
    PASS
}

fn closed_while_bound(fixture: &Fixture) -> Outcome {
    // The context is closed with everything standing: whatever the order, nothing may be left, and the device goes on.
    for window_type in [WindowType::Type1, WindowType::Type2] {
        let mut e = Ends::new(fixture)?;
        let mut window = e.b.pd.alloc_window(window_type)?;
        match window_type {
            WindowType::Type1 => drop(window.bind(&e.region, .., Access::REMOTE_READ)?),
            WindowType::Type2 => drop(e.bind(&mut window, 0, 64, Access::REMOTE_READ)?),
        }
        // The region is refused its end, and lives until the context is closed.
        drop(e.region);
        drop(window);
    }
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type2)?;
    let remote = e.bind(&mut window, 0, 64, Access::REMOTE_WRITE)?;
    check_eq!(e.write(remote)?, Status::SUCCESS, "a write afterwards");
    PASS
}

fn bind_rules(fixture: &Fixture) -> Outcome {
    let e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type1)?;
    let plain = e.b.region(4096, Access::ALL_REMOTE)?;
    refused(
        window.bind(&plain, .., Access::REMOTE_READ),
        Errno::EINVAL,
        "a region without the right to bind",
    )?;
    let read_only = e.b.region(4096, Access::MW_BIND)?;
    refused(
        window.bind(&read_only, .., Access::REMOTE_WRITE),
        Errno::EINVAL,
        "writing to a region that its owner may not write",
    )?;
    window.bind(&read_only, .., Access::REMOTE_READ)?;
    refused(
        window.bind(&e.region, .., Access::LOCAL_WRITE),
        Errno::EINVAL,
        "a local right",
    )?;
    refused(
        window.bind(&e.region, .., Access::REMOTE_READ | Access::ZERO_BASED),
        Errno::EINVAL,
        "a window of type 1 from zero",
    )?;
    let foreign = Region::new(&e.b.ctx.alloc_pd()?, 4096, BINDABLE)?;
    refused(
        window.bind(&foreign, .., Access::REMOTE_READ),
        Errno::EINVAL,
        "a region of another protection domain",
    )?;
    check_eq!(window.bound_len()?, 4096, "the window after all these refusals");
    let mut of_type_2 = e.b.pd.alloc_window(WindowType::Type2)?;
    refused(
        of_type_2.bind(&e.region, .., Access::REMOTE_READ),
        Errno::EINVAL,
        "a window of type 2 bound by a call",
    )?;
    // The work request's own refusals are completions.
    let mut e = e;
    let (wr, _) = window.bind_wr(&e.region, 0..64, Access::REMOTE_READ);
    e.b.qp.post_send(&wr.signaled())?;
    let done = e.b.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::MW_BIND_ERR, vendor::WINDOW_STATE),
        "a window of type 1 bound by a work request"
    );
    PASS
}

fn local_invalidate(fixture: &Fixture) -> Outcome {
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type2)?;
    for _ in 0..300 {
        // More often than the key's tag has values.
        let remote = e.bind(&mut window, 0, 64, Access::REMOTE_WRITE)?;
        check_eq!(e.write(remote)?, Status::SUCCESS, "a write");
        e.b.qp.post_send(&SendWr::local_invalidate(remote.rkey).signaled())?;
        check_eq!(
            e.b.sent_well()?.opcode,
            Opcode::LOCAL_INV,
            "the opcode of the completion"
        );
        check_eq!(window.bound_len()?, 0, "bytes of the invalidated window");
    }
    let gone = window.rkey();
    e.b.qp.post_send(&SendWr::local_invalidate(gone))?;
    let done = e.b.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::LOC_QP_OP_ERR, vendor::KEY_UNKNOWN),
        "invalidating twice"
    );
    let mut e = Ends::new(fixture)?;
    let key = e.region.lkey().0;
    e.b.qp.post_send(&SendWr::local_invalidate(key))?;
    check_eq!(
        e.b.sent()?.vendor_err,
        vendor::NOT_INVALIDATABLE,
        "invalidating a registered region"
    );
    PASS
}

fn send_invalidate(fixture: &Fixture) -> Outcome {
    let mut e = Ends::new(fixture)?;
    let mut window = e.b.pd.alloc_window(WindowType::Type2)?;
    let remote = e.bind(&mut window, 0, 64, Access::REMOTE_WRITE)?;
    e.b.qp.post_recv(&verbena::RecvWr::new(&[]).wr_id(1))?;
    e.a.qp.post_send(&SendWr::send_invalidate(remote.rkey).signaled())?;
    e.a.sent_well()?;
    let got = e.b.received_well()?;
    check_eq!(
        (got.wr_id, got.invalidated_rkey, got.imm),
        (1, Some(remote.rkey), None),
        "the receive, the key that it lost, its immediate data"
    );
    check_eq!(window.bound_len()?, 0, "bytes of the invalidated window");
    // It can be bound again; a key that is none of the receiver's windows ends both sides.
    e.bind(&mut window, 0, 64, Access::REMOTE_WRITE)?;
    e.b.qp.post_recv(&verbena::RecvWr::new(&[]).wr_id(2))?;
    e.a.qp.post_send(&SendWr::send_invalidate(remote.rkey).signaled())?;
    check_eq!(e.a.sent()?.status, Status::REM_INV_REQ_ERR, "the sender's status");
    let got = e.b.received()?;
    check_eq!(
        (got.wr_id, got.status),
        (2, Status::REM_INV_REQ_ERR),
        "the receiver's status"
    );
    PASS
}

fn atomic_write(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let (from, to) = (a.region(64, Access::LOCAL_WRITE)?, b.region(64, Access::ALL_REMOTE)?);
    from.buffer().write_at(8, b"from it!");
    let sges = [from.sge(8..16)];
    a.qp.post_send(&SendWr::atomic_write(to.remote(16)).sges(&sges).signaled())?;
    check_eq!(
        a.sent_well()?.opcode,
        Opcode::ATOMIC_WRITE,
        "the opcode of the completion"
    );
    a.qp.post_send(&SendWr::atomic_write(to.remote(24)).inline(b"in line!").signaled())?;
    a.sent_well()?;
    check_eq!(to.buffer().to_vec(16, 16), b"from it!in line!", "what was written");
    check_eq!(to.buffer().to_vec(0, 16), [0; 16], "what is before it");
    a.qp.post_send(&SendWr::atomic_write(to.remote(4)).inline(b"askew!!!").signaled())?;
    check_eq!(
        a.sent()?.status,
        Status::REM_INV_REQ_ERR,
        "an address that is not aligned"
    );
    let (mut a, _b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    a.qp.post_send(&SendWr::atomic_write(to.remote(0)).inline(b"four").signaled())?;
    check_eq!(a.sent()?.status, Status::LOC_LEN_ERR, "four bytes");
    PASS
}

fn flush(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut spec = Spec::default();
    spec.connect.access = Access::ALL_REMOTE | Access::FLUSH_GLOBAL;
    let (mut a, b) = Link::pair(&ctx, &ctx, &spec)?;
    let to = b.region(8192, Access::ALL_REMOTE | Access::FLUSH_GLOBAL)?;
    a.qp.post_send(&SendWr::write(to.remote(4096)).inline(DATA))?;
    a.qp.post_send(&SendWr::flush(to.remote(4096), 8).signaled())?;
    check_eq!(a.sent_well()?.opcode, Opcode::FLUSH, "the opcode of the completion");
    check_eq!(to.buffer().to_vec(4096, 8), DATA, "what was written");
    a.qp.post_send(&SendWr::flush_region(to.rkey()).signaled())?;
    a.sent_well()?;
    a.qp.post_send(&SendWr::flush(to.remote(4096), 4097).signaled())?;
    check_eq!(a.sent()?.status, Status::REM_ACCESS_ERR, "beyond the region's end");
    // Without the region's right, and without the queue pair's.
    let (mut a, b) = Link::pair(&ctx, &ctx, &spec)?;
    let plain = b.region(8192, Access::ALL_REMOTE)?;
    a.qp.post_send(&SendWr::flush(plain.remote(0), 8).signaled())?;
    check_eq!(a.sent()?.status, Status::REM_ACCESS_ERR, "a region without the right");
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let to = b.region(8192, Access::ALL_REMOTE | Access::FLUSH_GLOBAL)?;
    a.qp.post_send(&SendWr::flush(to.remote(0), 8).signaled())?;
    check_eq!(
        a.sent()?.status,
        Status::REM_INV_REQ_ERR,
        "a queue pair without the right"
    );
    PASS
}

fn made(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    ensure!(ctx.device()?.max_mw > 0, "the device says it has no windows");
    let pd = ctx.alloc_pd()?;
    let windows = [WindowType::Type1, WindowType::Type2].map(|kind| pd.alloc_window(kind));
    for window in windows {
        let window = window?;
        check_eq!(window.bound_len()?, 0, "bytes of a new window");
        ensure!(window.rkey() != 0, "{window:?} has no key");
        window.destroy()?;
    }
    let standing = pd.alloc_window(WindowType::Type2)?;
    let Err(error) = pd.destroy() else {
        bail!("a protection domain was destroyed under a window")
    };
    check_eq!(error.reason(), Some(Reason::IN_USE), "the reason");
    standing.destroy()?;
    PASS
}
