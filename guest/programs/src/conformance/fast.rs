// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions that work requests register and invalidate (H5, H6, H14).

use super::kit::{check_eq, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use anyhow::{ensure, Result};
use rdma_uapi::Errno;
use verbena::{Access, Context, ElementList, FastRegion, RecvWr, Remote, SendWr, Sge, WindowType};
use verbena_hw::cqe::{vendor, Opcode, Status};

pub const CASES: &[Case] = &[
    Case::single("h05_a_work_request_registers_memory", registers),
    Case::single("h05_a_region_is_invalidated_and_registered_again", again),
    Case::single("h05_a_peer_invalidates_a_region_with_its_send", by_peer),
    Case::single("h06_memory_under_a_valid_region_is_in_use", in_use),
    Case::single("h06_a_region_for_work_requests_has_limits", limits),
    Case::single("h06_a_region_of_hundreds_of_elements_is_registered", hundreds),
    Case::single("h06_a_window_on_a_region_that_a_work_request_registered", window),
    Case::single("h14_memory_of_another_domain_is_not_registered", other_domain),
    Case::single("h14_addresses_of_the_bus_are_not_registered", bus),
];

const AT: u64 = 0x6000_0000_0000;
const OPEN: Access = Access::LOCAL_WRITE.union(Access::REMOTE_WRITE);

/// b has memory that no peer may touch, and a region without memory.
struct Ends {
    a: Link,
    b: Link,
    memory: Region,
    fast: FastRegion,
}

impl Ends {
    fn new(ctx: &Context) -> Result<Self> {
        let (a, b) = Link::pair(ctx, ctx, &Spec::default())?;
        Ok(Self {
            memory: b.region(3 * 4096, Access::LOCAL_WRITE)?,
            fast: b.pd.alloc_fast_region(4)?,
            a,
            b,
        })
    }

    /// b posts a registration of these elements; how it ends.
    fn register(&mut self, elements: &[Sge], access: Access) -> Result<(Status, u32, Remote)> {
        let (wr, remote) = self.fast.register_wr(elements, AT, access);
        self.b.qp.post_send(&wr.signaled())?;
        let done = self.b.sent()?;
        if done.is_success() {
            check_eq!(done.opcode, Opcode::REG_MR, "what completed");
        }
        Ok((done.status, done.vendor_err, remote))
    }

    /// Two words in different pages, the later one first.
    fn valid(&mut self) -> Result<Remote> {
        let elements = [self.memory.sge(8192..8200), self.memory.sge(16..24)];
        let (status, reason, remote) = self.register(&elements, OPEN)?;
        check_eq!((status, reason), (Status::SUCCESS, 0), "a registration");
        Ok(remote)
    }

    /// a writes; how that ends.
    fn write(&mut self, to: Remote, data: &[u8]) -> Result<Status> {
        self.a.qp.post_send(&SendWr::write(to).inline(data).signaled())?;
        Ok(self.a.sent()?.status)
    }
}

fn registers(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx)?;
    check_eq!(ends.fast.registered_len()?, 0, "bytes of a new region");
    let remote = ends.valid()?;
    check_eq!(ends.fast.registered_len()?, 16, "its bytes");
    let words = [1u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
    check_eq!(ends.write(remote, &words)?, Status::SUCCESS, "a WRITE to all of it");
    check_eq!(ends.memory.buffer().load_u64(8192), 1, "the first element");
    check_eq!(ends.memory.buffer().load_u64(16), 2, "the second element");
    check_eq!(ends.memory.buffer().load_u64(24), 0, "what is behind it");
    // Its owner names it by the same key.
    let theirs = ends.a.region(64, OPEN)?;
    let own = [Sge {
        addr: AT + 8,
        len: 8,
        lkey: ends.fast.key(),
    }];
    ends.b
        .qp
        .post_send(&SendWr::write(theirs.remote(0)).sges(&own).signaled())?;
    ends.b.sent_well()?;
    check_eq!(theirs.buffer().load_u64(0), 2, "what its owner sent of it");
    check_eq!(
        ends.write(remote.offset(9), &words[..8])?,
        Status::REM_ACCESS_ERR,
        "beyond its end"
    );
    PASS
}

fn again(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx)?;
    for _ in 0..300 {
        // Tags come round after 256.
        let remote = ends.valid()?;
        check_eq!(ends.write(remote, b"12345678")?, Status::SUCCESS, "a WRITE");
        ends.b.qp.post_send(&ends.fast.invalidate_wr().signaled())?;
        check_eq!(ends.b.sent_well()?.opcode, Opcode::LOCAL_INV, "what completed");
    }
    let remote = ends.valid()?;
    let stale = Remote {
        rkey: remote.rkey ^ 1,
        ..remote
    };
    check_eq!(
        ends.write(stale, b"12345678")?,
        Status::REM_ACCESS_ERR,
        "a WRITE with another tag"
    );
    // Twice in a row it is not registered.
    let (status, reason, _) = ends.register(&[ends.memory.sge(..8)], OPEN)?;
    let status_of_flushed = status == Status::WR_FLUSH_ERR;
    ensure!(
        status_of_flushed || (status, reason) == (Status::LOC_QP_OP_ERR, vendor::REGION_STATE),
        "a valid region was registered: {status}, {reason}"
    );
    PASS
}

fn by_peer(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx)?;
    let remote = ends.valid()?;
    ends.b.qp.post_recv(&RecvWr::new(&[]))?;
    ends.a.qp.post_send(&SendWr::send_invalidate(remote.rkey).signaled())?;
    ends.a.sent_well()?;
    check_eq!(
        ends.b.received_well()?.invalidated_rkey,
        Some(remote.rkey),
        "the key that the receive says is gone"
    );
    check_eq!(ends.fast.registered_len()?, 0, "bytes of a free region");
    ends.valid()?;
    check_eq!(
        ends.write(remote, b"12345678")?,
        Status::REM_ACCESS_ERR,
        "a WRITE with the old key"
    );
    PASS
}

fn in_use(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx)?;
    ends.valid()?;
    let mut other = ends.b.region(64, Access::LOCAL_WRITE)?.into_registration();
    other.reregister().access(OPEN).apply()?;
    other.deregister()?;
    let Ends { a: _a, b, memory, fast } = ends;
    // The buffer is the registration's, which keeps it.
    let mut registration = memory.into_registration();
    refused(
        registration.reregister().access(OPEN).apply(),
        Errno::EBUSY,
        "memory under a valid region",
    )?;
    fast.destroy()?;
    registration.reregister().access(OPEN).apply()?;
    registration.deregister()?;
    drop(b);
    PASS
}

fn limits(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let most = ctx.device()?.max_fast_reg_pages;
    ensure!(most > 0, "no region for work requests to register");
    let pd = ctx.alloc_pd()?;
    check_eq!(pd.alloc_fast_region(most)?.max_elements(), most, "its elements");
    refused(pd.alloc_fast_region(0), Errno::EINVAL, "no elements")?;
    refused(pd.alloc_fast_region(most + 1), Errno::EINVAL, "too many elements")?;
    for (elements, access, expected) in [
        (5, OPEN, vendor::SGE_COUNT),
        (0, OPEN, vendor::KEY_RANGE),
        (1, Access::REMOTE_WRITE, vendor::KEY_ACCESS),
    ] {
        let spec = Spec {
            max_sge: 5,
            ..Spec::default()
        };
        let (_a, mut b) = Link::pair(&ctx, &ctx, &spec)?;
        let memory = b.region(64, Access::LOCAL_WRITE)?;
        let mut fast = b.pd.alloc_fast_region(4)?;
        let sges = vec![memory.sge(..8); elements];
        b.qp.post_send(&fast.register_wr(&sges, AT, access).0)?;
        let done = b.sent()?;
        check_eq!(
            (done.status, done.vendor_err),
            (Status::LOC_QP_OP_ERR, expected),
            "{elements} elements with {access:?}"
        );
    }
    PASS
}

fn hundreds(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let most = ctx.device()?.max_fast_reg_pages as usize;
    ensure!(
        most >= 256,
        "{most} elements of a region, where other adapters have 256"
    );
    let mut ends = Ends::new(&ctx)?;
    ends.fast = ends.b.pd.alloc_fast_region(most as u32)?;
    // A word out of each 16 bytes, the last first.
    ends.memory = ends.b.region(most * 16, Access::LOCAL_WRITE)?;
    let elements: Vec<Sge> = (0..most).rev().map(|n| ends.memory.sge(n * 16..n * 16 + 8)).collect();
    let list = ElementList::new(&ends.b.pd, most)?;
    for turn in 1..=3u64 {
        let at = [list.set(&elements)];
        let (wr, remote) = ends.fast.register_list_wr(&at, AT, OPEN);
        ends.b.qp.post_send(&wr.signaled())?;
        check_eq!(ends.b.sent_well()?.opcode, Opcode::REG_MR, "what completed");
        // It was read: the list is free again.
        list.set(&[]);
        check_eq!(ends.fast.registered_len()?, most as u64 * 8, "its bytes");
        let word = |n: usize| turn << 32 | n as u64;
        let words: Vec<u8> = (0..most).flat_map(|n| word(n).to_le_bytes()).collect();
        let theirs = ends.a.region(words.len(), Access::LOCAL_WRITE)?;
        theirs.buffer().write_at(0, &words);
        let all = [theirs.sge(..)];
        ends.a.qp.post_send(&SendWr::write(remote).sges(&all).signaled())?;
        ends.a.sent_well()?;
        for n in 0..most {
            let place = (most - 1 - n) * 16;
            check_eq!(ends.memory.buffer().load_u64(place), word(n), "word {n}");
            check_eq!(ends.memory.buffer().load_u64(place + 8), 0, "what is behind word {n}");
        }
        ends.b.qp.post_send(&ends.fast.invalidate_wr().signaled())?;
        ends.b.sent_well()?;
    }
    // One more than it may have, and a list that is not memory of this side's.
    let mut small = ends.b.pd.alloc_fast_region(40)?;
    let at = [list.set(&elements[..41])];
    ends.b.qp.post_send(&small.register_list_wr(&at, AT, OPEN).0)?;
    let done = ends.b.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::LOC_QP_OP_ERR, vendor::SGE_COUNT),
        "41 elements for 40"
    );
    let mut ends = Ends::new(&ctx)?;
    let foreign = ElementList::new(&ctx.alloc_pd()?, 4)?;
    let at = [foreign.set(&[ends.memory.sge(..8)])];
    ends.b.qp.post_send(&ends.fast.register_list_wr(&at, AT, OPEN).0)?;
    let done = ends.b.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::LOC_PROT_ERR, vendor::KEY_PD),
        "a list of another domain"
    );
    PASS
}

fn window(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut ends = Ends::new(&ctx)?;
    let mut window = ends.b.pd.alloc_window(WindowType::Type2)?;
    let elements = [ends.memory.sge(8192..8200), ends.memory.sge(16..24)];
    let (status, reason, region) = ends.register(&elements, Access::LOCAL_WRITE | Access::MW_BIND)?;
    check_eq!((status, reason), (Status::SUCCESS, 0), "a registration");
    let (wr, open) = window.bind_at_wr(ends.fast.key(), region.addr + 4, 8, Access::REMOTE_WRITE);
    ends.b.qp.post_send(&wr.signaled())?;
    check_eq!(ends.b.sent_well()?.opcode, Opcode::BIND_MW, "what completed");
    check_eq!(
        ends.write(open, b"12345678")?,
        Status::SUCCESS,
        "a WRITE over the joint"
    );
    check_eq!(
        ends.memory.buffer().to_vec(8196, 4),
        b"1234",
        "the end of the first element"
    );
    check_eq!(
        ends.memory.buffer().to_vec(16, 4),
        b"5678",
        "the beginning of the second"
    );
    // While it is bound, the region's key stays.
    ends.b.qp.post_send(&ends.fast.invalidate_wr().signaled())?;
    let done = ends.b.sent()?;
    check_eq!(
        (done.status, done.vendor_err),
        (Status::LOC_QP_OP_ERR, vendor::REGION_STATE),
        "an invalidation under a window"
    );
    // Nor does the region go, until the window has.
    let fast = &ends.fast;
    check_eq!(fast.registered_len()?, 16, "its bytes");
    window.destroy()?;
    PASS
}

fn other_domain(fixture: &Fixture) -> Outcome {
    let (ctx, foreign) = (fixture.open()?, fixture.open()?);
    let theirs = Region::new(&foreign.alloc_pd()?, 4096, Access::ALL_REMOTE)?;
    let mut ends = Ends::new(&ctx)?;
    let (status, reason, _) = ends.register(&[theirs.sge(..8)], OPEN)?;
    check_eq!(
        (status, reason),
        (Status::LOC_QP_OP_ERR, vendor::KEY_PD),
        "another's memory"
    );
    // Nor another's region with own memory.
    let mut ends = Ends::new(&ctx)?;
    ends.fast = foreign.alloc_pd()?.alloc_fast_region(4)?;
    let (status, reason, _) = ends.register(&[ends.memory.sge(..8)], OPEN)?;
    check_eq!(
        (status, reason),
        (Status::LOC_QP_OP_ERR, vendor::KEY_PD),
        "another's region"
    );
    PASS
}

fn bus(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    // No key, and the index that the table begins with: what other devices keep for this.
    for key in [0, 0x100, 0xffff_ffff] {
        let mut ends = Ends::new(&ctx)?;
        let element = Sge {
            addr: 0x10_0000,
            len: 4096,
            lkey: verbena::Key(key),
        };
        let (status, reason, _) = ends.register(&[element], OPEN)?;
        check_eq!(
            (status, reason),
            (Status::LOC_QP_OP_ERR, vendor::KEY_UNKNOWN),
            "an address of the bus by key {key:#x}"
        );
    }
    PASS
}
