// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unreliable connections (H4): SEND and WRITE, whole or not at all.

use super::kit::{check_eq, quiet, refused, Outcome, PASS};
use crate::harness::{Case, Fixture, Side, Wire};
use crate::link::{good, next, Region, Window};
use crate::pattern;
use anyhow::{Context as _, Result};
use rdma_uapi::Errno;
use verbena::{
    Access, CompletionQueue, Context, Endpoint, ProtectionDomain, QpAttr, QpState, RecvWr, SendWr, UcQp, WcOpcode,
    WcStatus, WindowType,
};

pub const CASES: &[Case] = &[
    Case::pair("h04_uc_sends_and_writes_of_every_size", every_size),
    Case::single("h04_uc_drops_what_the_peer_cannot_take", drops),
    Case::single(
        "h10_uc_send_error_stops_the_send_queue_until_it_is_told_to_go_on",
        send_error,
    ),
    Case::single("h05_uc_binds_windows_and_registers_memory_of_its_own", own_keys),
    Case::single("h04_uc_has_no_attributes_of_a_reliable_connection", state_machine),
];

const LEN: usize = 1 << 20;

/// An unreliable queue pair with what it stands on. Its memory: what it sends, then where it receives, then where its peer
/// writes.
struct End {
    qp: UcQp,
    send_cq: CompletionQueue,
    recv_cq: CompletionQueue,
    region: Region,
    pd: ProtectionDomain,
}

impl End {
    fn new(ctx: &Context) -> Result<Self> {
        let pd = ctx.alloc_pd()?;
        let (send_cq, recv_cq) = (ctx.create_cq(64)?, ctx.create_cq(64)?);
        let qp = UcQp::builder(&pd, &send_cq, &recv_cq).build()?;
        let region = Region::new(&pd, 3 * LEN, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
        Ok(Self {
            qp,
            send_cq,
            recv_cq,
            region,
            pd,
        })
    }

    fn pair(ctx: &Context) -> Result<(Self, Self)> {
        let (mut a, mut b) = (Self::new(ctx)?, Self::new(ctx)?);
        a.qp.connect(&b.qp.endpoint()?)?;
        b.qp.connect(&a.qp.endpoint()?)?;
        Ok((a, b))
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        let sge = self.region.sge(LEN..LEN + len);
        Ok(self.qp.post_recv(&RecvWr::new(&[sge]))?)
    }

    fn send(&mut self, wr: &SendWr<'_>) -> Result<()> {
        self.qp.post_send(&wr.signaled())?;
        good(next(&mut self.send_cq).context("waiting for the completion of a send")?)?;
        Ok(())
    }
}

fn every_size(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut own = End::new(ctx)?;
    let there: String = wire.exchange(&own.qp.endpoint()?.to_string())?;
    own.qp.connect(&there.parse::<Endpoint>()?)?;
    let window: Window = wire.exchange(&Window::of(&own.region, 2 * LEN))?;
    for (n, len) in [0, 1, 63, 4096, 4097, LEN].into_iter().enumerate() {
        let n = n as u64;
        if side == Side::Left {
            pattern::fill_buffer(own.region.buffer(), 0, len, 0, n);
            wire.barrier("posted")?;
            let sge = own.region.sge(..len);
            own.send(&SendWr::send().sges(&[sge]))?;
            own.send(&SendWr::write_imm(window.at(0), 7).sges(&[sge]))?;
        } else {
            own.receive(len)?;
            own.receive(0)?;
            wire.barrier("posted")?;
            let got = good(next(&mut own.recv_cq)?)?;
            check_eq!((got.opcode, got.byte_len as usize), (WcOpcode::RECV, len), "the SEND");
            let got = good(next(&mut own.recv_cq)?)?;
            check_eq!(got.opcode, WcOpcode::RECV_RDMA_WITH_IMM, "the WRITE");
            check_eq!(got.imm, Some(7), "its immediate data");
            for at in [LEN, 2 * LEN] {
                let wrong = pattern::difference_in_buffer(own.region.buffer(), at, len, 0, n);
                check_eq!(wrong, None, "the first wrong byte of {len}");
            }
        }
        wire.barrier("checked")?;
    }
    PASS
}

fn drops(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = End::pair(&ctx)?;
    // No receive; no right.
    a.send(&SendWr::send().inline(b"lost"))?;
    b.qp.modify(&QpAttr::new().access(Access::empty()))?;
    a.send(&SendWr::write(b.region.remote(0)).inline(b"lost"))?;
    quiet(&mut b.recv_cq, "what cannot be taken")?;
    check_eq!(b.region.buffer().to_vec(0, 4), [0; 4], "memory without a right to it");
    b.receive(100)?;
    a.send(&SendWr::send().inline(b"found"))?;
    check_eq!(good(next(&mut b.recv_cq)?)?.byte_len, 5, "bytes received");
    for end in [&a, &b] {
        check_eq!(end.qp.query()?.state, QpState::RTS, "the state");
    }
    PASS
}

fn send_error(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = End::pair(&ctx)?;
    b.receive(100)?;
    let sge = a.region.sge(..8);
    a.qp.post_send(&SendWr::read(b.region.remote(0)).sges(&[sge]))?;
    check_eq!(next(&mut a.send_cq)?.status, WcStatus::LOC_QP_OP_ERR, "a READ");
    a.qp.post_send(&SendWr::send())?;
    check_eq!(next(&mut a.send_cq)?.status, WcStatus::WR_FLUSH_ERR, "a SEND in SQE");
    check_eq!(a.qp.query()?.state, QpState::SQE, "the state");
    a.qp.modify(&QpAttr::to(QpState::RTS))?;
    a.send(&SendWr::send().inline(b"on"))?;
    check_eq!(good(next(&mut b.recv_cq)?)?.byte_len, 2, "bytes received");
    PASS
}

fn state_machine(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut a = End::new(&ctx)?;
    let init = QpAttr::to(QpState::INIT).port(1).pkey_index(0).access(Access::empty());
    for (what, attr) in [
        ("a timeout", init.clone().timeout(14)),
        ("a retry count", init.clone().retry_cnt(7)),
        ("a Q_Key", init.clone().qkey(1)),
        ("a READ depth", init.clone().max_dest_rd_atomic(1)),
    ] {
        refused(a.qp.modify(&attr), Errno::EOPNOTSUPP, what)?;
    }
    a.qp.modify(&init)?;
    refused(
        a.qp.modify(&QpAttr::to(QpState::RTR)),
        Errno::EINVAL,
        "RTR without a path",
    )?;
    let here = a.qp.endpoint()?;
    a.qp.connect(&here)?;
    let info = a.qp.query()?;
    check_eq!(
        (info.state, info.dest_qpn),
        (QpState::RTS, a.qp.qpn()),
        "state and peer"
    );
    // Connected to itself, it talks to itself.
    a.receive(8)?;
    a.send(&SendWr::send().inline(b"me"))?;
    check_eq!(good(next(&mut a.recv_cq)?)?.byte_len, 2, "bytes received");
    PASS
}

fn own_keys(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let (mut a, mut b) = End::pair(&ctx)?;
    let rights = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::MW_BIND;
    let region = Region::new(&b.pd, 8192, rights)?;
    let registration = region.into_registration();
    let buffer = registration.buffer().context("the region has memory")?.clone();
    let mut window = b.pd.alloc_window(WindowType::Type2)?;
    let (bind, through) = window.bind_wr(&registration, 4096..4160, Access::REMOTE_WRITE);
    b.send(&bind)?;
    let mut fast = b.pd.alloc_fast_region(1)?;
    let memory = [registration.sge(..64)];
    let (register, named) = fast.register_wr(&memory, 0x7000, Access::LOCAL_WRITE | Access::REMOTE_WRITE);
    b.send(&register)?;
    a.send(&SendWr::write(through).inline(b"windowed"))?;
    a.send(&SendWr::write(named).inline(b"register"))?;
    // Its receive comes behind both.
    let arrived = |a: &mut End, b: &mut End| -> Result<()> {
        b.receive(1)?;
        a.send(&SendWr::send().inline(b"!"))?;
        good(next(&mut b.recv_cq)?)?;
        Ok(())
    };
    arrived(&mut a, &mut b)?;
    check_eq!(buffer.to_vec(4096, 8), b"windowed", "through the window");
    check_eq!(buffer.to_vec(0, 8), b"register", "through the region");
    b.send(&fast.invalidate_wr())?;
    b.send(&SendWr::local_invalidate(through.rkey))?;
    a.send(&SendWr::write(through).inline(b"too late"))?;
    a.send(&SendWr::write(named).inline(b"too late"))?;
    arrived(&mut a, &mut b)?;
    check_eq!(buffer.to_vec(4096, 8), b"windowed", "through the window's old key");
    check_eq!(buffer.to_vec(0, 8), b"register", "through the region's old key");
    PASS
}
