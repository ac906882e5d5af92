// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data moves: every operation, every size, every shape of memory, byte for byte, and nothing beside it is touched.
//!
//! The left side requests, the right side responds. Both walk the same list of messages.

use super::kit::{check_eq, Layout, Outcome, HUGE, PASS, SIZES};
use crate::harness::{Case, Side, Wire};
use crate::link::{Link, Region, Spec, Window};
use crate::pattern;
use anyhow::{Context as _, Result};
use verbena::{Access, Context, RecvWr, SendWr, Sge};
use verbena_hw::cqe::Opcode;
use verbena_hw::wqe::{MAX_INLINE, MAX_SGE};

pub const CASES: &[Case] = &[
    Case::pair("h05_send_every_size", |s, c, w| every_size(s, c, w, Op::Send)),
    Case::pair("h05_send_with_immediate_every_size", |s, c, w| {
        every_size(s, c, w, Op::SendImm)
    }),
    Case::pair("h05_write_every_size", |s, c, w| every_size(s, c, w, Op::Write)),
    Case::pair("h05_write_with_immediate_every_size", |s, c, w| {
        every_size(s, c, w, Op::WriteImm)
    }),
    Case::pair("h05_read_every_size", |s, c, w| every_size(s, c, w, Op::Read)),
    Case::pair("h05_send_64_mib", |s, c, w| huge(s, c, w, Op::Send)),
    Case::pair("h05_send_with_immediate_64_mib", |s, c, w| huge(s, c, w, Op::SendImm)),
    Case::pair("h05_write_64_mib", |s, c, w| huge(s, c, w, Op::Write)),
    Case::pair("h05_write_with_immediate_64_mib", |s, c, w| huge(s, c, w, Op::WriteImm)),
    Case::pair("h05_read_64_mib", |s, c, w| huge(s, c, w, Op::Read)),
    Case::pair("h05_send_scattered_across_pages", |s, c, w| {
        scattered(s, c, w, Op::Send)
    }),
    Case::pair("h05_write_gathered_across_pages", |s, c, w| {
        scattered(s, c, w, Op::Write)
    }),
    Case::pair("h05_read_scattered_across_pages", |s, c, w| {
        scattered(s, c, w, Op::Read)
    }),
    Case::pair("h05_send_with_32_elements_on_both_sides", |s, c, w| {
        most_elements(s, c, w, Op::Send)
    }),
    Case::pair("h05_write_with_32_elements", |s, c, w| {
        most_elements(s, c, w, Op::Write)
    }),
    Case::pair("h05_read_with_32_elements", |s, c, w| most_elements(s, c, w, Op::Read)),
    Case::pair("h05_receive_may_be_longer_than_the_message", longer_receive),
    Case::pair("h05_elements_may_name_several_regions", several_regions),
    Case::pair("h05_inline_every_length_up_to_the_limit", inline),
    Case::pair("h05_inline_data_may_change_after_the_post", inline_is_copied),
    Case::pair("h05_both_directions_at_once", both_directions),
    Case::pair("h05_messages_of_one_queue_stay_in_order", in_order),
    Case::pair("h05_a_fence_waits_for_the_read_before_it", fence),
    Case::single("h05_a_queue_pair_connected_with_itself", with_itself),
    Case::single("h05_two_contexts_of_one_process", two_contexts),
];

/// An operation that moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Send,
    SendImm,
    Write,
    WriteImm,
    Read,
}

impl Op {
    fn takes_receive(self) -> bool {
        matches!(self, Self::Send | Self::SendImm | Self::WriteImm)
    }

    /// Whether the responder's memory is named by the requester, as one stretch.
    fn is_rdma(self) -> bool {
        matches!(self, Self::Write | Self::WriteImm | Self::Read)
    }

    fn completes_as(self) -> Opcode {
        match self {
            Self::Send | Self::SendImm => Opcode::SEND,
            Self::Write | Self::WriteImm => Opcode::RDMA_WRITE,
            Self::Read => Opcode::RDMA_READ,
        }
    }
}

/// One message: how it lies on the requester's side and on the responder's.
struct Message {
    local: Layout,
    remote: Layout,
}

/// The immediate data of message `n`: not the same in both byte orders.
fn imm(n: u64) -> u32 {
    0x0102_0300 + n as u32
}

/// Moves the messages one after the other and looks at all of both memories after each.
fn converse(side: Side, ctx: &Context, wire: &mut Wire, op: Op, spec: &Spec, messages: &[Message]) -> Outcome {
    let mut link = Link::meet(ctx, wire, spec)?;
    let layouts = messages.iter().map(|m| match side {
        Side::Left => &m.local,
        Side::Right => &m.remote,
    });
    let size = layouts.map(Layout::end).max().unwrap_or(0) + 4096 + 77;
    let region = link.region(size, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    for (n, message) in messages.iter().enumerate() {
        let n = n as u64;
        let one = || format!("{op:?} number {n} of {} bytes", message.local.len());
        match side {
            Side::Left => request(&mut link, wire, op, &region, there, message, n).with_context(one)?,
            Side::Right => respond(&mut link, wire, op, &region, message, n).with_context(one)?,
        }
    }
    PASS
}

fn request(
    link: &mut Link,
    wire: &mut Wire,
    op: Op,
    region: &Region,
    there: Window,
    message: &Message,
    n: u64,
) -> Result<()> {
    let local = &message.local;
    match op {
        Op::Read => local.clear(region),
        _ => local.put(region, n),
    }
    wire.barrier("prepared")?;
    let sges = local.sges(region);
    let remote = there.at(message.remote.start());
    let wr = match op {
        Op::Send => SendWr::send(),
        Op::SendImm => SendWr::send_imm(imm(n)),
        Op::Write => SendWr::write(remote),
        Op::WriteImm => SendWr::write_imm(remote, imm(n)),
        Op::Read => SendWr::read(remote),
    };
    link.qp.post_send(&wr.wr_id(0x1000 + n).sges(&sges).signaled())?;
    let done = link.sent_well()?;
    check_eq!(done.wr_id, 0x1000 + n, "the work request's id");
    check_eq!(done.opcode, op.completes_as(), "the completion's opcode");
    check_eq!(done.qpn, link.qp.qpn(), "the completion's queue pair");
    check_eq!(done.recv, false, "whether it is of a receive");
    if op == Op::Read {
        check_eq!(done.byte_len as usize, local.len(), "bytes read");
    }
    wire.barrier("done")?;
    local
        .verify(region, local.len(), n)
        .context("in the requester's memory")
}

fn respond(link: &mut Link, wire: &mut Wire, op: Op, region: &Region, message: &Message, n: u64) -> Result<()> {
    let (remote, len) = (&message.remote, message.local.len());
    match op {
        Op::Read => remote.put(region, n),
        _ => remote.clear(region),
    }
    if op.takes_receive() {
        // The data of a WRITE with immediate does not go where the receive says.
        let sges = if op.is_rdma() { Vec::new() } else { remote.sges(region) };
        link.qp.post_recv(&RecvWr::new(&sges).wr_id(0x2000 + n))?;
    }
    wire.barrier("prepared")?;
    if op.takes_receive() {
        let done = link.received_well()?;
        let (opcode, data) = match op {
            Op::Send => (Opcode::RECV, None),
            Op::SendImm => (Opcode::RECV, Some(imm(n))),
            _ => (Opcode::RECV_RDMA_WITH_IMM, Some(imm(n))),
        };
        check_eq!(done.wr_id, 0x2000 + n, "the receive's id");
        check_eq!(
            (done.opcode, done.imm),
            (opcode, data),
            "the receive's opcode and immediate data"
        );
        check_eq!(done.byte_len as usize, len, "bytes received");
        check_eq!(
            (done.recv, done.qpn),
            (true, link.qp.qpn()),
            "whether it is of a receive, and its queue pair"
        );
        if op.is_rdma() || op == Op::Send {
            // The completion is the promise that the data is there: no word on the wire before looking.
            remote
                .verify(region, len, n)
                .context("in the responder's memory, right after the completion")?;
        }
    }
    wire.barrier("done")?;
    remote.verify(region, len, n).context("in the responder's memory")
}

fn every_size(side: Side, ctx: &Context, wire: &mut Wire, op: Op) -> Outcome {
    // Neither offset is aligned to anything, and they differ modulo 8.
    let message = |&len: &usize| Message {
        local: Layout::whole(4096 + 123, len),
        remote: Layout::whole(8192 - 31, len),
    };
    let messages: Vec<_> = SIZES.iter().map(message).collect();
    converse(side, ctx, wire, op, &Spec::default(), &messages)
}

fn huge(side: Side, ctx: &Context, wire: &mut Wire, op: Op) -> Outcome {
    let message = Message {
        local: Layout::whole(4096 - 5, HUGE),
        remote: Layout::whole(64 + 1, HUGE),
    };
    converse(side, ctx, wire, op, &Spec::default(), &[message])
}

fn scattered(side: Side, ctx: &Context, wire: &mut Wire, op: Op) -> Outcome {
    let lists: [&[usize]; 5] = [
        &[1, 4095, 4097, 17],
        &[0, 8192, 0, 1],
        &[5000, 3, 5000, 3, 5000],
        &[63, 64, 65, 4096, 12_288, 1],
        &[0, 0, 0],
    ];
    let spec = Spec {
        max_sge: 6,
        ..Spec::default()
    };
    let messages: Vec<_> = lists
        .iter()
        .map(|list| {
            let local = Layout::pieces(4000, 9, list);
            let len = local.len();
            // The same bytes, cut otherwise: in thirds.
            let thirds = [len / 3, len / 3, len - 2 * (len / 3)];
            let remote = if op.is_rdma() {
                Layout::whole(4091, len)
            } else {
                Layout::pieces(3333, 70, &thirds)
            };
            Message { local, remote }
        })
        .collect();
    converse(side, ctx, wire, op, &spec, &messages)
}

fn most_elements(side: Side, ctx: &Context, wire: &mut Wire, op: Op) -> Outcome {
    let most = usize::from(MAX_SGE);
    let spec = Spec {
        max_sge: u32::from(MAX_SGE),
        ..Spec::default()
    };
    let rising: Vec<usize> = (0..most).map(|n| n * 131 + 1).collect();
    let len: usize = rising.iter().sum();
    let mut even = vec![len / most; most];
    even[most - 1] += len % most;
    let remote = if op.is_rdma() {
        Layout::whole(1, len)
    } else {
        Layout::pieces(13, 1, &even)
    };
    let small = vec![1; most];
    let small_remote = if op.is_rdma() {
        Layout::whole(4095, most)
    } else {
        Layout::pieces(4090, 5, &small)
    };
    let messages = [
        Message {
            local: Layout::pieces(4099, 3, &rising),
            remote,
        },
        Message {
            local: Layout::pieces(4080, 4095, &small),
            remote: small_remote,
        },
    ];
    converse(side, ctx, wire, op, &spec, &messages)
}

fn longer_receive(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(32_768, Access::LOCAL_WRITE)?;
    for (n, len) in [(0, 0), (1, 1), (2, 4096), (3, 5001)] {
        match side {
            Side::Left => {
                let layout = Layout::whole(7, len);
                layout.put(&region, n);
                wire.barrier("prepared")?;
                link.qp
                    .post_send(&SendWr::send().sges(&layout.sges(&region)).signaled())?;
                link.sent_well()?;
            }
            Side::Right => {
                // 5,002 bytes: the message ends in an element's middle, at its end, or before it begins.
                let layout = Layout::pieces(4000, 11, &[1, 4095, 905, 1]);
                layout.clear(&region);
                link.qp.post_recv(&RecvWr::new(&layout.sges(&region)))?;
                wire.barrier("prepared")?;
                check_eq!(link.received_well()?.byte_len as usize, len, "bytes received");
                layout_prefix(&region, len, n)?;
            }
        }
        wire.barrier("looked at")?;
    }
    PASS
}

/// The receive of [`longer_receive`] holds exactly the message.
fn layout_prefix(region: &Region, len: usize, iteration: u64) -> Result<()> {
    let mut left = len;
    let lengths = [1, 4095, 905, 1].map(|piece: usize| {
        let here = piece.min(left);
        left -= here;
        here
    });
    // The same places as the whole receive's, each with as much of the message as belongs there.
    Layout::pieces(4000, 11, &[1, 4095, 905, 1])
        .shortened(&lengths)
        .verify(region, len, iteration)
}

fn several_regions(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let regions = [
        link.region(4096, Access::LOCAL_WRITE)?,
        link.region(100, Access::LOCAL_WRITE)?,
        link.region(9000, Access::LOCAL_WRITE)?,
    ];
    let ranges = [5..4096, 0..100, 1..8000];
    let sges: Vec<Sge> = regions
        .iter()
        .zip(&ranges)
        .map(|(region, range)| region.sge(range.clone()))
        .collect();
    let mut at = 0;
    match side {
        Side::Left => {
            for (region, range) in regions.iter().zip(&ranges) {
                pattern::fill_buffer(region.buffer(), range.start, range.len(), at, 5);
                at += range.len() as u64;
            }
            wire.barrier("prepared")?;
            link.qp.post_send(&SendWr::send().sges(&sges).signaled())?;
            link.sent_well()?;
        }
        Side::Right => {
            link.qp.post_recv(&RecvWr::new(&sges))?;
            wire.barrier("prepared")?;
            link.received_well()?;
            for (region, range) in regions.iter().zip(&ranges) {
                let wrong = pattern::difference_in_buffer(region.buffer(), range.start, range.len(), at, 5);
                check_eq!(wrong, None, "the first wrong byte of a region");
                at += range.len() as u64;
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

fn inline(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let most = usize::from(MAX_INLINE);
    let spec = Spec {
        max_inline: u32::from(MAX_INLINE),
        ..Spec::default()
    };
    let mut link = Link::meet(ctx, wire, &spec)?;
    let region = link.region(8192, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    let mut data = vec![0; most];
    for (n, len) in [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 255, 256, most - 1, most]
        .into_iter()
        .enumerate()
    {
        let n = n as u64;
        // Across a page boundary; the SEND and the WRITE lie apart.
        let (sent, written) = (Layout::whole(4096 - 9, len), Layout::whole(5001, len));
        match side {
            Side::Left => {
                wire.barrier("prepared")?;
                pattern::fill(&mut data[..len], 0, n);
                link.qp.post_send(&SendWr::send().inline(&data[..len]).signaled())?;
                link.sent_well()?;
                wire.barrier("sent")?;
                wire.barrier("cleared")?;
                link.qp
                    .post_send(&SendWr::write(there.at(written.start())).inline(&data[..len]).signaled())?;
                link.sent_well()?;
                wire.barrier("written")?;
            }
            Side::Right => {
                sent.clear(&region);
                link.qp.post_recv(&RecvWr::new(&sent.sges(&region)))?;
                wire.barrier("prepared")?;
                check_eq!(link.received_well()?.byte_len as usize, len, "bytes received");
                sent.verify(&region, len, n)
                    .with_context(|| format!("SEND of {len} inline bytes"))?;
                wire.barrier("sent")?;
                written.clear(&region);
                wire.barrier("cleared")?;
                wire.barrier("written")?;
                written
                    .verify(&region, len, n)
                    .with_context(|| format!("WRITE of {len} inline bytes"))?;
            }
        }
    }
    let long = vec![0; most + 1];
    if link.qp.post_send(&SendWr::send().inline(&long).signaled()).is_ok() {
        anyhow::bail!("{} bytes of inline data were accepted", long.len());
    }
    PASS
}

fn inline_is_copied(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(4096, Access::LOCAL_WRITE)?;
    match side {
        Side::Left => {
            wire.barrier("prepared")?;
            let mut batch = link.qp.send_batch();
            for n in 0..16u8 {
                // The same array each time: gone before the device has seen any of them.
                let data = [n; 32];
                batch.push(&SendWr::send().inline(&data).signaled())?;
            }
            batch.ring()?;
            for _ in 0..16 {
                link.sent_well()?;
            }
        }
        Side::Right => {
            for n in 0..16 {
                link.qp.post_recv(&RecvWr::new(&[region.sge(n * 32..n * 32 + 32)]))?;
            }
            wire.barrier("prepared")?;
            for n in 0..16 {
                link.received_well()?;
                check_eq!(region.buffer().to_vec(n * 32, 32), vec![n as u8; 32], "message {n}");
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

fn both_directions(_: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const COUNT: usize = 32;
    const LEN: usize = 3000;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let out = link.region(COUNT * LEN, Access::empty())?;
    let back = link.region(COUNT * LEN, Access::LOCAL_WRITE)?;
    for n in 0..COUNT {
        pattern::fill_buffer(out.buffer(), n * LEN, LEN, 0, n as u64);
        link.qp
            .post_recv(&RecvWr::new(&[back.sge(n * LEN..(n + 1) * LEN)]).wr_id(n as u64))?;
    }
    wire.barrier("prepared")?;
    for n in 0..COUNT {
        link.qp.post_send(
            &SendWr::send()
                .wr_id(n as u64)
                .sges(&[out.sge(n * LEN..(n + 1) * LEN)])
                .signaled(),
        )?;
    }
    for n in 0..COUNT {
        check_eq!(link.sent_well()?.wr_id, n as u64, "the order of sends");
        check_eq!(link.received_well()?.wr_id, n as u64, "the order of receives");
        let wrong = pattern::difference_in_buffer(back.buffer(), n * LEN, LEN, 0, n as u64);
        check_eq!(wrong, None, "the first wrong byte of message {n}");
    }
    wire.barrier("done")?;
    PASS
}

fn in_order(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    // WRITEs to one place and SENDs, in turns: each SEND's receive must find the WRITE before it and none after it.
    const COUNT: u64 = 48;
    let mut link = Link::meet(
        ctx,
        wire,
        &Spec {
            send_depth: 128,
            ..Spec::default()
        },
    )?;
    let region = link.region(8192, Access::ALL_REMOTE)?;
    let there: Window = wire.exchange(&Window::of(&region, 0))?;
    match side {
        Side::Left => {
            for n in 0..COUNT {
                region.buffer().write_at(n as usize * 8, &n.to_le_bytes());
            }
            wire.barrier("prepared")?;
            for n in 0..COUNT {
                let number = [region.sge(n as usize * 8..n as usize * 8 + 8)];
                link.qp
                    .post_send(&SendWr::write(there.at(n as usize * 8)).sges(&number))?;
                link.qp.post_send(&SendWr::send().wr_id(n).sges(&number).signaled())?;
            }
            for n in 0..COUNT {
                check_eq!(link.sent_well()?.wr_id, n, "the order of completions");
            }
        }
        Side::Right => {
            region.buffer().fill(0, 4096, 0xff);
            for n in 0..COUNT as usize {
                link.qp
                    .post_recv(&RecvWr::new(&[region.sge(4096 + n * 8..4096 + n * 8 + 8)]).wr_id(n as u64))?;
            }
            wire.barrier("prepared")?;
            for n in 0..COUNT {
                check_eq!(link.received_well()?.wr_id, n, "the order of completions");
                let at = n as usize * 8;
                check_eq!(region.buffer().load_u64(4096 + at), n, "what SEND {n} brought");
                check_eq!(region.buffer().load_u64(at), n, "what the WRITE before SEND {n} wrote");
            }
        }
    }
    wire.barrier("done")?;
    PASS
}

fn fence(side: Side, ctx: &Context, wire: &mut Wire) -> Outcome {
    const LEN: usize = 100_000;
    const ROUNDS: u64 = 20;
    let mut link = Link::meet(ctx, wire, &Spec::default())?;
    let region = link.region(2 * LEN, Access::ALL_REMOTE)?;
    if side == Side::Right {
        wire.send(&Window::of(&region, 0))?;
    }
    let peer: Option<Window> = (side == Side::Left).then(|| wire.recv()).transpose()?;
    for round in 0..ROUNDS {
        if side == Side::Right {
            Layout::whole(0, LEN).put(&region, round);
        }
        wire.barrier("laid out")?;
        if let Some(peer) = peer {
            // What comes by the READ is sent back by the WRITE, which must not look before it is there.
            let own = [region.sge(..LEN)];
            let read = SendWr::read(peer.at(0)).sges(&own);
            let write = SendWr::write(peer.at(LEN)).sges(&own).fence().signaled();
            let mut both = link.qp.send_batch();
            both.push(&read)?;
            both.push(&write)?;
            both.ring()?;
            link.sent_well()?;
        }
        wire.barrier("back")?;
        if side == Side::Right {
            let (there, back) = (region.buffer().to_vec(0, LEN), region.buffer().to_vec(LEN, LEN));
            let differs = there.iter().zip(&back).position(|(there, back)| there != back);
            check_eq!(differs, None, "the first byte that came back wrong in round {round}");
        }
    }
    PASS
}

fn with_itself(fixture: &crate::harness::Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let mut link = Link::new(&ctx, &Spec::default())?;
    let here = link.qp.endpoint()?;
    link.qp.connect(&here)?;
    let region = link.region(3 * 4096, Access::ALL_REMOTE)?;
    let source = Layout::whole(1, 4000);
    source.put(&region, 1);
    link.qp.post_recv(&RecvWr::new(&[region.sge(8192..12_288)]))?;
    link.qp
        .post_send(&SendWr::send().sges(&source.sges(&region)).signaled())?;
    link.sent_well()?;
    check_eq!(link.received_well()?.byte_len, 4000, "bytes received");
    check_eq!(
        pattern::difference_in_buffer(region.buffer(), 8192, 4000, 0, 1),
        None,
        "the first wrong byte"
    );
    link.qp.post_send(
        &SendWr::read(region.remote(1))
            .sges(&[region.sge(4100..8100)])
            .signaled(),
    )?;
    link.sent_well()?;
    check_eq!(
        pattern::difference_in_buffer(region.buffer(), 4100, 4000, 0, 1),
        None,
        "the first wrong byte read"
    );
    PASS
}

fn two_contexts(fixture: &crate::harness::Fixture) -> Outcome {
    let (one, two) = (fixture.open_side(Side::Left)?, fixture.open_side(Side::Right)?);
    let (mut a, b) = Link::pair(&one, &two, &Spec::default())?;
    let (from, to) = (a.region(8192, Access::empty())?, b.region(8192, Access::ALL_REMOTE)?);
    let (source, sink) = (Layout::whole(3, 8000), Layout::whole(100, 8000));
    source.put(&from, 9);
    sink.clear(&to);
    a.qp.post_send(&SendWr::write(to.remote(100)).sges(&source.sges(&from)).signaled())?;
    a.sent_well()?;
    sink.verify(&to, 8000, 9)?;
    drop((a, from, one));
    // The other context lives on.
    check_eq!(
        b.pd.register(&two.alloc_buffer(4096)?, Access::empty()).is_ok(),
        true,
        "whether memory can be registered"
    );
    PASS
}
