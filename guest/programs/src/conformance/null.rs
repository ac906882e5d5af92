// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions without memory (H6, and the class of the object model).

use super::kit::{check_eq, dump, Outcome, PASS};
use super::raw::Message;
use crate::harness::{Case, Fixture};
use crate::link::{Link, Spec};
use anyhow::{ensure, Result};
use rdma_uapi::class::{self, mr};
use rdma_uapi::wire::{method, ObjectId, HEADER};
use rdma_uapi::{Errno, Reason};
use verbena::{Access, RecvWr, Remote, SendWr, WindowType};
use verbena_hw::cqe::Status;

pub const CASES: &[Case] = &[
    Case::single("h06_a_null_region_gives_zeros_and_forgets", zeros),
    Case::single("h06_a_null_region_is_nothing_to_peers_and_windows", local_only),
    Case::single("u08_a_null_region_is_what_it_was_made", made),
];

fn zeros(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let (own, theirs) = (a.pd.alloc_null_region()?, b.pd.alloc_null_region()?);
    let (source, sink) = (
        a.region(8192, Access::LOCAL_WRITE)?,
        b.region(8192, Access::ALL_REMOTE)?,
    );
    source.buffer().fill_with(0, 8192, |i| i as u8);

    // A message that ends in zeros; a receive that does not want its beginning.
    sink.buffer().fill(0, 8192, 0xa5);
    b.qp.post_recv(&RecvWr::new(&[theirs.sge(100), sink.sge(..8000)]))?;
    a.qp.post_send(&SendWr::send().sges(&[source.sge(..5000), own.sge(1000)]).signaled())?;
    a.sent_well()?;
    check_eq!(b.received_well()?.byte_len, 6000, "the length of what was received");
    let wrong = sink.buffer().find_mismatch(0, 8192, |i| match i + 100 {
        at @ 0..5000 => at as u8,
        5000..6000 => 0,
        _ => 0xa5,
    });
    check_eq!(wrong, None, "the first wrong byte");

    // A READ of which nothing but the end is wanted.
    a.qp.post_send(
        &SendWr::read(sink.remote(0))
            .sges(&[own.sge(8000), source.sge(..192)])
            .signaled(),
    )?;
    a.sent_well()?;
    let wrong = source.buffer().find_mismatch(0, 192, |_| 0xa5);
    check_eq!(wrong, None, "the first wrong byte that was read");

    // A peer's memory, cleared.
    a.qp.post_send(&SendWr::write(sink.remote(0)).sges(&[own.sge(8192)]).signaled())?;
    a.sent_well()?;
    check_eq!(sink.buffer().find_mismatch(0, 8192, |_| 0), None, "the first byte left");
    PASS
}

/// How a WRITE of `a` to `remote` ends.
fn write(a: &mut Link, remote: Remote) -> Result<Status> {
    a.qp.post_send(&SendWr::write(remote).inline(b"nowhere").signaled())?;
    Ok(a.sent()?.status)
}

fn local_only(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let null = b.pd.alloc_null_region()?;
    let remote = Remote {
        addr: 0,
        rkey: null.lkey().0,
    };
    check_eq!(
        write(&mut a, remote)?,
        Status::REM_ACCESS_ERR,
        "a WRITE to a null region"
    );

    let (mut a, b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let null = a.pd.alloc_null_region()?;
    let mut window = a.pd.alloc_window(WindowType::Type2)?;
    let (wr, _) = window.bind_at_wr(null.lkey(), 0, 64, Access::REMOTE_READ);
    a.qp.post_send(&wr.signaled())?;
    let bound = a.sent()?;
    check_eq!(bound.status, Status::MW_BIND_ERR, "binding a window to a null region");

    // One of another domain is none.
    let (mut a, _b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let foreign = b.pd.alloc_null_region()?;
    let sink = b.region(64, Access::ALL_REMOTE)?;
    a.qp.post_send(&SendWr::write(sink.remote(0)).sges(&[foreign.sge(8)]).signaled())?;
    check_eq!(
        a.sent()?.status,
        Status::LOC_PROT_ERR,
        "a null region of another domain"
    );
    PASS
}

fn create(pd: u32, fill: impl FnOnce(&mut rdma_uapi::client::Builder<'_>)) -> Message {
    Message::new(class::MR, 0, |m| {
        m.put(mr::PD, &ObjectId(pd)).put(mr::NULL, &1);
        fill(m);
        m.ask(mr::LKEY).ask(mr::RKEY);
    })
}

fn made(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let pd = Message::new(class::PD, 0, |_| {}).call(&ctx, method::CREATE)?.object();
    // The third attribute: each contradicts.
    let third = HEADER + 2 * 16;
    let conflict = (Errno::EINVAL, Reason::CONFLICT);
    for (id, at, message) in [
        (
            mr::ADDR.id(),
            third,
            create(pd, |m| {
                m.put(mr::ADDR, &0x1_0000);
            }),
        ),
        (
            mr::LENGTH.id(),
            third,
            create(pd, |m| {
                m.put(mr::LENGTH, &4096);
            }),
        ),
        (
            mr::IOVA.id(),
            third,
            create(pd, |m| {
                m.put(mr::IOVA, &0);
            }),
        ),
        (
            mr::ACCESS.id(),
            third,
            create(pd, |m| {
                m.put(mr::ACCESS, &1);
            }),
        ),
        (
            mr::NULL.id(),
            third - 16,
            create(pd, |m| {
                m.put(mr::MAX_ELEMENTS, &1);
            }),
        ),
    ] {
        message.refused(
            &ctx,
            method::CREATE,
            conflict,
            (id, at),
            "a null region that has something",
        )?;
    }
    let two = Message::new(class::MR, 0, |m| {
        m.put(mr::PD, &ObjectId(pd)).put(mr::NULL, &2);
    });
    let how = (Errno::EINVAL, Reason::OUT_OF_RANGE);
    two.refused(&ctx, method::CREATE, how, (mr::NULL.id(), third - 16), "two")?;

    let answer = create(pd, |_| {}).call(&ctx, method::CREATE)?;
    let region = answer.object();
    let (lkey, rkey) = (answer.reply().get(mr::LKEY), answer.reply().get(mr::RKEY));
    ensure!(lkey.is_some_and(|key| key != 0), "a null region without a key");
    check_eq!(rkey, Some(0), "its remote key");
    let query = Message::new(class::MR, region, |m| {
        m.ask(mr::PD)
            .ask(mr::NULL)
            .ask(mr::LKEY)
            .ask(mr::LENGTH)
            .ask(mr::MAX_ELEMENTS);
    });
    let answer = query.call(&ctx, method::QUERY)?;
    let reply = answer.reply();
    check_eq!(reply.get(mr::PD), Some(ObjectId(pd)), "its domain");
    check_eq!(reply.get(mr::NULL), Some(1), "whether it is one");
    check_eq!(reply.get(mr::LKEY), lkey, "its key");
    check_eq!(reply.get(mr::LENGTH), None, "its length");
    check_eq!(reply.get(mr::MAX_ELEMENTS), None, "its elements");
    ensure!(
        dump(&ctx)?.has_mr(verbena::Key(lkey.unwrap_or_default())),
        "the device's dump does not show it"
    );

    let modify = Message::new(class::MR, region, |m| {
        m.put(mr::ACCESS, &1);
    });
    let failure = modify
        .call(&ctx, method::MODIFY)
        .map(drop)
        .expect_err("there is nothing to change");
    check_eq!(
        (failure.errno, failure.reason),
        (Errno::EINVAL, Reason::NOT_ALLOWED),
        "changing it"
    );
    Message::new(class::MR, region, |_| {}).call(&ctx, method::DESTROY)?;
    Message::new(class::PD, pd, |_| {}).call(&ctx, method::DESTROY)?;
    PASS
}
