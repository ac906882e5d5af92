// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions: what can be registered, what a registration grants, and when it ends (H6).

use super::kit::{check_eq, refused, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{Link, Region, Spec};
use crate::pattern;
use anyhow::{bail, ensure, Result};
use rdma_uapi::class::mr::access;
use rdma_uapi::class::{self, mr};
use rdma_uapi::wire::{self, method, ObjectId};
use rdma_uapi::{Errno, Reason};
use std::collections::HashSet;
use verbena::{Access, Remote, SendWr};
use verbena_hw::cqe::{vendor, Status};

pub const CASES: &[Case] = &[
    Case::single("h06_any_start_and_length_can_be_registered", any_range),
    Case::single("h06_register_rejects_what_cannot_be", bad_ranges),
    Case::single("h06_access_rights_that_contradict_each_other", bad_access),
    Case::single("h06_memory_that_is_not_there", not_there),
    Case::single("h06_remote_key_only_with_remote_rights", remote_key),
    Case::single("h06_query_tells_what_was_registered", query),
    Case::single("h06_zero_based_addresses", zero_based),
    Case::single("h06_addresses_of_ones_own_choice", own_addresses),
    Case::single("h06_one_buffer_in_several_regions", several),
    Case::single("h06_keys_die_with_their_region", keys_die),
    Case::single("h06_keys_are_not_used_again_at_once", fresh_keys),
    Case::single("h06_a_large_region", large),
    Case::single("h05_atomics", atomics),
];

/// WRITEs 8 bytes through a loopback connection to `remote` and tells how it ended.
fn write(a: &mut Link, source: &Region, remote: Remote) -> Result<(Status, u32)> {
    a.qp.post_send(&SendWr::write(remote).sges(&[source.sge(..8)]).signaled())?;
    let done = a.sent()?;
    Ok((done.status, done.vendor_err))
}

fn any_range(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let source = a.region(64, Access::empty())?;
    let buffer = ctx.alloc_buffer(5 * 4096)?;
    for (start, len) in [
        (0, 1),
        (1, 1),
        (4095, 1),
        (4095, 2),
        (4095, 4098),
        (7, 4096),
        (0, 4096),
        (4096, 12_288),
        (3, 20_477),
    ] {
        let region = b.pd.register_part(&buffer, start..start + len, Access::ALL_REMOTE)?;
        check_eq!(
            (region.len(), region.addr()),
            (len, buffer.addr() + start as u64),
            "length and address"
        );
        buffer.fill(0, buffer.len(), 0);
        // The last byte and nothing beyond it.
        source.buffer().fill(0, 1, 0xa5);
        a.qp.post_send(
            &SendWr::write(region.remote(len - 1))
                .sges(&[source.sge(..1)])
                .signaled(),
        )?;
        a.sent_well()?;
        let wrong = buffer.find_mismatch(0, buffer.len(), |i| if i == start + len - 1 { 0xa5 } else { 0 });
        check_eq!(wrong, None, "the first wrong byte of {len} bytes at {start}");
    }
    PASS
}

/// A message that registers memory.
fn register(pd: u32, addr: u64, len: u64, rights: u32) -> Message {
    Message::new(class::MR, 0, |m| {
        m.put(mr::PD, &ObjectId(pd))
            .put(mr::ADDR, &addr)
            .put(mr::LENGTH, &len)
            .put(mr::ACCESS, &rights);
        m.ask(mr::LKEY).ask(mr::RKEY);
    })
}

/// Where the attributes of [`register`] stand.
const ADDR_AT: usize = wire::HEADER + 16;
const LENGTH_AT: usize = ADDR_AT + 16;
const ACCESS_AT: usize = LENGTH_AT + 16;

fn bad_ranges(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    let most = ctx.device()?.max_mr_size;
    let how = (Errno::EINVAL, Reason::OUT_OF_RANGE);
    for (addr, len) in [
        (0x10_000, 0),
        (0x10_000, most + 1),
        (u64::MAX - 4095, 4096),
        (u64::MAX, 1),
        (4096, u64::MAX),
    ] {
        let at = (mr::LENGTH.id(), LENGTH_AT);
        register(pd, addr, len, 1).refused(&ctx, method::CREATE, how, at, &format!("{len:#x} bytes at {addr:#x}"))?;
    }
    PASS
}

fn bad_access(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    let memory = ctx.alloc_buffer(4096)?;
    let at = (mr::ACCESS.id(), ACCESS_AT);
    for rights in [
        access::REMOTE_WRITE,
        access::REMOTE_ATOMIC,
        access::REMOTE_WRITE | access::REMOTE_READ,
    ] {
        let how = (Errno::EINVAL, Reason::CONFLICT);
        let message = register(pd, memory.addr(), 4096, rights);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            at,
            &format!("rights {rights:#x} without local write"),
        )?;
    }
    for rights in [1 << 31, 1 << 12, 1 << 19 | access::LOCAL_WRITE] {
        let how = (Errno::EINVAL, Reason::UNKNOWN_FLAG);
        let message = register(pd, memory.addr(), 4096, rights);
        message.refused(
            &ctx,
            method::CREATE,
            how,
            at,
            &format!("rights {rights:#x}, which nobody knows"),
        )?;
    }
    let how = (Errno::EOPNOTSUPP, Reason::UNSUPPORTED);
    let message = register(pd, memory.addr(), 4096, access::ON_DEMAND);
    message.refused(&ctx, method::CREATE, how, at, "on-demand paging")?;
    // Hints are taken and change nothing.
    let hints = access::LOCAL_WRITE | access::RELAXED_ORDERING;
    register(pd, memory.addr(), 4096, hints).call(&ctx, method::CREATE)?;
    PASS
}

fn not_there(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    // The first page is nobody's, nor is the upper half of the address space a program's.
    for addr in [0, 8, 4000, 0xffff_8000_0000_0000] {
        match register(pd, addr, 4096, access::LOCAL_WRITE).call(&ctx, method::CREATE) {
            Ok(_) => bail!("4096 bytes at {addr:#x} were registered"),
            Err(failure) => check_eq!(failure.errno, Errno::EFAULT, "the errno of registering at {addr:#x}"),
        }
    }
    // Nothing of the attempts is left that would keep the domain.
    Message::new(class::PD, pd, |_| {}).call(&ctx, method::DESTROY)?;
    PASS
}

fn remote_key(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    for (rights, remote) in [
        (Access::empty(), false),
        (Access::LOCAL_WRITE, false),
        (Access::REMOTE_READ, true),
        (Access::LOCAL_WRITE | Access::REMOTE_WRITE, true),
        (Access::ALL_REMOTE, true),
    ] {
        let region = Region::new(&pd, 4096, rights)?;
        ensure!(region.lkey().0 != 0, "a region without a local key");
        check_eq!(region.rkey() != 0, remote, "whether {rights:?} gives a remote key");
    }
    PASS
}

fn query(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    let memory = ctx.alloc_buffer(8192)?;
    let rights = access::LOCAL_WRITE | access::REMOTE_READ;
    let made = register(pd, memory.addr() + 10, 5000, rights).call(&ctx, method::CREATE)?;
    let query = Message::new(class::MR, made.object(), |m| {
        m.ask(mr::PD)
            .ask(mr::ADDR)
            .ask(mr::LENGTH)
            .ask(mr::IOVA)
            .ask(mr::ACCESS)
            .ask(mr::LKEY)
            .ask(mr::RKEY);
    });
    let answer = query.call(&ctx, method::QUERY)?;
    let reply = answer.reply();
    check_eq!(reply.get(mr::PD), Some(ObjectId(pd)), "the domain");
    check_eq!(reply.get(mr::ADDR), Some(memory.addr() + 10), "the address");
    check_eq!(reply.get(mr::LENGTH), Some(5000), "the length");
    check_eq!(
        reply.get(mr::IOVA),
        Some(memory.addr() + 10),
        "the address that peers use"
    );
    check_eq!(reply.get(mr::ACCESS), Some(rights), "the rights");
    check_eq!(reply.get(mr::LKEY), made.reply().get(mr::LKEY), "the local key");
    check_eq!(reply.get(mr::RKEY), made.reply().get(mr::RKEY), "the remote key");
    PASS
}

fn zero_based(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let source = a.region(64, Access::empty())?;
    pattern::fill_buffer(source.buffer(), 0, 8, 0, 3);
    let region = b.region(8192, Access::ALL_REMOTE | Access::ZERO_BASED)?;
    check_eq!(region.addr(), 0, "the region's first address");
    check_eq!(
        write(
            &mut a,
            &source,
            Remote {
                addr: 4090,
                rkey: region.rkey()
            }
        )?
        .0,
        Status::SUCCESS,
        "the WRITE"
    );
    check_eq!(
        pattern::difference_in_buffer(region.buffer(), 4090, 8, 0, 3),
        None,
        "the first wrong byte"
    );
    let outside = Remote {
        addr: region.buffer().addr(),
        rkey: region.rkey(),
    };
    let (status, reason) = write(&mut a, &source, outside)?;
    check_eq!(
        status,
        Status::REM_ACCESS_ERR,
        "a WRITE to the buffer's address (reason {reason})"
    );
    PASS
}

fn own_addresses(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let source = a.region(64, Access::empty())?;
    pattern::fill_buffer(source.buffer(), 0, 8, 0, 4);
    let buffer = ctx.alloc_buffer(8192)?;
    // In the middle of nowhere, not even aligned, and at the very end of the address space.
    for iova in [0x7_0000_0000_0123, u64::MAX - 8191] {
        buffer.fill(0, 8192, 0);
        let region = b.pd.register_at(&buffer, iova, Access::ALL_REMOTE)?;
        let at = Remote {
            addr: iova.wrapping_add(8184),
            rkey: region.rkey(),
        };
        check_eq!(
            write(&mut a, &source, at)?.0,
            Status::SUCCESS,
            "a WRITE to the end of a region at {iova:#x}"
        );
        check_eq!(
            pattern::difference_in_buffer(&buffer, 8184, 8, 0, 4),
            None,
            "the first wrong byte"
        );
        check_eq!(
            buffer.find_mismatch(0, 8184, |_| 0),
            None,
            "the first byte that should not have been written"
        );
    }
    refused(
        b.pd.register_at(&buffer, u64::MAX - 8190, Access::ALL_REMOTE),
        Errno::EINVAL,
        "addresses beyond the end",
    )?;
    PASS
}

fn several(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let source = a.region(64, Access::empty())?;
    let buffer = ctx.alloc_buffer(8192)?;
    let all = b.pd.register(&buffer, Access::ALL_REMOTE)?;
    let half = b.pd.register_part(&buffer, 4096.., Access::ALL_REMOTE)?;
    ensure!(
        all.lkey() != half.lkey() && all.rkey() != half.rkey(),
        "two regions have the same key"
    );
    for region in [&all, &half] {
        buffer.fill(0, 8192, 0);
        pattern::fill_buffer(source.buffer(), 0, 8, 0, 6);
        let at = region.remote(region.len() - 8);
        check_eq!(write(&mut a, &source, at)?.0, Status::SUCCESS, "the WRITE");
        check_eq!(
            pattern::difference_in_buffer(&buffer, 8184, 8, 0, 6),
            None,
            "the first wrong byte"
        );
    }
    // One ends, the other does not.
    half.deregister()?;
    check_eq!(
        write(&mut a, &source, all.remote(8184))?.0,
        Status::SUCCESS,
        "a WRITE through the other region"
    );
    PASS
}

fn keys_die(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for local in [false, true] {
        let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
        let source = a.region(64, Access::empty())?;
        let target = b.region(64, Access::ALL_REMOTE)?;
        check_eq!(
            write(&mut a, &source, target.remote(0))?.0,
            Status::SUCCESS,
            "a WRITE before"
        );
        if local {
            let dead = source.sge(..8);
            source.into_registration().deregister()?;
            a.qp.post_send(&SendWr::write(target.remote(0)).sges(&[dead]).signaled())?;
            let done = a.sent()?;
            check_eq!(
                (done.status, done.vendor_err),
                (Status::LOC_PROT_ERR, vendor::KEY_UNKNOWN),
                "a dead local key"
            );
        } else {
            let dead = target.remote(0);
            let buffer = target.buffer().clone();
            target.into_registration().deregister()?;
            buffer.fill(0, 8, 0x77);
            check_eq!(
                write(&mut a, &source, dead)?.0,
                Status::REM_ACCESS_ERR,
                "a dead remote key"
            );
            check_eq!(
                buffer.find_mismatch(0, 8, |_| 0x77),
                None,
                "the first byte written through a dead key"
            );
        }
    }
    PASS
}

fn fresh_keys(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = ctx.alloc_pd()?;
    let buffer = ctx.alloc_buffer(4096)?;
    let mut seen = HashSet::new();
    for n in 0..64 {
        let region = pd.register(&buffer, Access::ALL_REMOTE)?;
        ensure!(
            seen.insert(region.lkey()),
            "registration {n} has the key {} of a dead one",
            region.lkey()
        );
    }
    PASS
}

fn large(fixture: &Fixture) -> Outcome {
    const LEN: usize = 128 << 20;
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let source = a.region(64, Access::empty())?;
    let region = b.region(LEN, Access::ALL_REMOTE)?;
    for (n, at) in [0, 4092, (2 << 20) - 4, LEN / 2 - 1, LEN - 8].into_iter().enumerate() {
        pattern::fill_buffer(source.buffer(), 0, 8, 0, n as u64);
        check_eq!(
            write(&mut a, &source, region.remote(at))?.0,
            Status::SUCCESS,
            "a WRITE at {at}"
        );
        check_eq!(
            pattern::difference_in_buffer(region.buffer(), at, 8, 0, n as u64),
            None,
            "the first wrong byte"
        );
    }
    PASS
}

fn atomics(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    if ctx.device()?.atomic_cap == 0 {
        return Ok(crate::harness::Verdict::Skip("the device has no atomics".to_owned()));
    }
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let result = a.region(4096, Access::LOCAL_WRITE)?;
    let word = b.region(4096, Access::ALL_REMOTE)?;
    let place = 4088;
    word.buffer().write_at(place, &40u64.to_le_bytes());
    let into = [result.sge(16..24)];
    let steps = [
        (SendWr::fetch_add(word.remote(place), 2), 40, 42),
        (SendWr::compare_swap(word.remote(place), 41, 1), 42, 42),
        (SendWr::compare_swap(word.remote(place), 42, u64::MAX), 42, u64::MAX),
        (SendWr::fetch_add(word.remote(place), 3), u64::MAX, 2),
    ];
    for (n, (wr, before, after)) in steps.into_iter().enumerate() {
        a.qp.post_send(&wr.sges(&into).signaled())?;
        check_eq!(a.sent_well()?.byte_len, 8, "bytes of operation {n}");
        check_eq!(result.buffer().load_u64(16), before, "what operation {n} found");
        check_eq!(word.buffer().load_u64(place), after, "what operation {n} left");
    }
    // What cannot be done atomically is not done.
    a.qp.post_send(&SendWr::fetch_add(word.remote(place - 4), 1).sges(&into).signaled())?;
    check_eq!(
        a.sent()?.status,
        Status::REM_INV_REQ_ERR,
        "an operand that is not aligned"
    );
    check_eq!(word.buffer().load_u64(place), 2, "the word");
    PASS
}
