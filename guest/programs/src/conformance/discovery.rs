// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the device says of itself: identity, limits, port, counters, dump (H2, H11, H15).

use super::kit::{check_eq, dump, refused, Outcome, PASS};
use crate::harness::{Case, Fixture};
use crate::link::{Link, Spec};
use anyhow::{ensure, Context as _};
use rdma_uapi::class::port::{gid_type, link_layer};
use rdma_uapi::Errno;
use verbena::{Access, RecvWr, SendWr};
use verbena_hw::id::Gid;
use verbena_hw::{cmd, cqe, pci, wqe};

pub const CASES: &[Case] = &[
    Case::single("h02_the_device_says_what_it_is", identity),
    Case::single("h02_limits_are_what_the_hardware_promises", limits),
    Case::single("h02_limits_hold", limits_hold),
    Case::single("h11_the_port_says_what_it_is", port),
    Case::single("h11_gids_belong_to_the_port", gids),
    Case::single("h11_a_port_that_is_not_there", no_port),
    Case::single("h11_counters_count", counters),
    Case::single("h15_the_dump_is_json_and_names_the_device", dump_is_json),
    Case::single("h15_the_dump_shows_objects_as_long_as_they_live", dump_shows_objects),
];

fn identity(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let device = ctx.device()?;
    check_eq!(device.vendor_id, u32::from(pci::VENDOR_ID), "the vendor");
    check_eq!(device.vendor_part_id, u32::from(pci::DEVICE_ID), "the part");
    ensure!(device.node_guid != 0, "the device has no GUID");
    ensure!(device.fw_version != 0, "the device has no version");
    check_eq!(device.ports, 1, "ports");
    check_eq!(ctx.driver_name()?, "verbena", "the driver's name");
    ensure!(!ctx.name()?.is_empty(), "the device has no name");
    // Asked again, it says the same.
    check_eq!(ctx.device()?, device, "the second answer");
    PASS
}

fn limits(fixture: &Fixture) -> Outcome {
    let device = fixture.open()?.device()?;
    check_eq!(device.max_sge, u32::from(wqe::MAX_SGE), "scatter/gather elements");
    check_eq!(device.max_inline, u32::from(wqe::MAX_INLINE), "inline bytes");
    ensure!(
        device.max_qp_wr >= 1 << wqe::MAX_LOG_ENTRIES,
        "{} work requests on a queue",
        device.max_qp_wr
    );
    ensure!(
        device.max_cqe >= 1 << 16 && device.max_cqe <= 1 << cqe::MAX_LOG_ENTRIES,
        "{} entries",
        device.max_cqe
    );
    ensure!(device.max_qp >= 65_536, "{} queue pairs", device.max_qp);
    ensure!(device.max_mr_size >= 1 << 30, "regions of {} bytes", device.max_mr_size);
    ensure!(
        device.page_size_cap & 1 << 12 != 0,
        "page sizes {:#x}",
        device.page_size_cap
    );
    ensure!(device.comp_vectors >= 1, "no completion vector");
    ensure!(
        device.max_qp_rd_atom >= 1 && device.max_qp_init_rd_atom >= 1,
        "no READs"
    );
    for (what, n) in [
        ("regions", device.max_mr),
        ("domains", device.max_pd),
        ("completion queues", device.max_cq),
    ] {
        ensure!(n >= 1024, "only {n} {what}");
    }
    PASS
}

fn limits_hold(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let device = ctx.device()?;
    refused(
        ctx.create_cq(device.max_cqe + 1),
        Errno::EINVAL,
        "a completion queue beyond the limit",
    )?;
    let pd = ctx.alloc_pd()?;
    let cq = ctx.create_cq(16)?;
    let qp = || verbena::RcQp::builder(&pd, &cq, &cq);
    refused(
        qp().send_depth(device.max_qp_wr + 1).build(),
        Errno::EINVAL,
        "a send queue beyond the limit",
    )?;
    refused(
        qp().recv_depth(device.max_qp_wr + 1).build(),
        Errno::EINVAL,
        "a receive queue beyond the limit",
    )?;
    refused(
        qp().max_sge(device.max_sge + 1).build(),
        Errno::EINVAL,
        "more elements than the limit",
    )?;
    refused(
        qp().max_inline(device.max_inline + 1).build(),
        Errno::EINVAL,
        "more inline data than the limit",
    )?;
    let most = qp()
        .send_depth(1024)
        .recv_depth(1024)
        .max_sge(device.max_sge)
        .max_inline(device.max_inline)
        .build()?;
    drop(most);
    PASS
}

fn port(fixture: &Fixture) -> Outcome {
    let port = fixture.open()?.port(1)?;
    ensure!(port.is_active(), "the port is in state {}", port.attrs.state);
    check_eq!(port.attrs.link_layer, link_layer::ETHERNET, "the link layer");
    ensure!(
        [256, 512, 1024, 2048, 4096].contains(&port.attrs.max_mtu),
        "MTU {}",
        port.attrs.max_mtu
    );
    ensure!(
        port.attrs.active_mtu <= port.attrs.max_mtu && port.attrs.active_mtu >= 256,
        "MTU {}",
        port.attrs.active_mtu
    );
    ensure!(
        port.attrs.max_message >= 1 << 30,
        "messages of {} bytes",
        port.attrs.max_message
    );
    ensure!(port.pkeys.contains(&0xffff), "no default P_Key in {:x?}", port.pkeys);
    ensure!(
        port.attrs.gid_entries as usize >= port.gids.len(),
        "{} GIDs",
        port.gids.len()
    );
    PASS
}

fn gids(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let gids = ctx.port(1)?.gids;
    let first = gids.first().context("the table is empty")?;
    check_eq!(
        (first.index, first.gid_type),
        (0, gid_type::ROCE_V2),
        "index and type of the first entry"
    );
    check_eq!(
        first.gid[..8],
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0],
        "the first entry's prefix: link-local"
    );
    check_eq!(
        first.gid[11..13],
        [0xff, 0xfe],
        "the middle of the first entry's interface id: from a MAC address"
    );
    check_eq!(ctx.gid(1, 0)?, Gid(first.gid), "the same entry asked for alone");
    for (n, gid) in gids.iter().enumerate() {
        ensure!(gid.gid != [0; 16], "entry {} is empty", gid.index);
        ensure!(
            gids[..n].iter().all(|g| g.gid != gid.gid),
            "{} is in the table twice",
            Gid(gid.gid)
        );
    }
    ensure!(ctx.gid(1, 100_000).is_err(), "there is a GID number 100,000");
    PASS
}

fn no_port(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    for number in [0, 2, 255, u32::MAX] {
        refused(ctx.port(number), Errno::ENOENT, &format!("port {number}"))?;
    }
    PASS
}

fn counters(fixture: &Fixture) -> Outcome {
    const MESSAGES: u64 = 5;
    const LEN: usize = 1000;
    let ctx = fixture.open()?;
    let before = ctx.port(1)?;
    for name in cmd::COUNTERS {
        ensure!(before.counter(name).is_some(), "there is no counter '{name}'");
    }
    let (mut a, mut b) = Link::pair(&ctx, &ctx, &Spec::default())?;
    let region = a.region(2 * LEN, Access::empty())?;
    let sink = b.region(LEN, Access::LOCAL_WRITE)?;
    for _ in 0..MESSAGES {
        b.qp.post_recv(&RecvWr::new(&[sink.sge(..)]))?;
        a.qp.post_send(&SendWr::send().sges(&[region.sge(..LEN)]).signaled())?;
        a.sent_well()?;
        b.received_well()?;
    }
    let after = ctx.port(1)?;
    // Others may use the device as well, so: at least.
    let grown = |name: &str| {
        after
            .counter(name)
            .unwrap_or(0)
            .wrapping_sub(before.counter(name).unwrap_or(0))
    };
    for (name, least) in [
        ("sent_msgs", MESSAGES),
        ("rcvd_msgs", MESSAGES),
        ("sent_bytes", MESSAGES * LEN as u64),
        ("rcvd_bytes", MESSAGES * LEN as u64),
    ] {
        ensure!(
            grown(name) >= least,
            "{name} grew by {} instead of {least}",
            grown(name)
        );
    }
    PASS
}

fn dump_is_json(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let text = ctx.dump()?;
    let value: serde_json::Value = serde_json::from_str(&text).context("the dump is no JSON")?;
    ensure!(value.is_object(), "the dump is no object");
    let gid = ctx.gid(1, 0)?.to_string();
    ensure!(text.contains(&gid), "the dump does not show the port's GID {gid}");
    PASS
}

fn dump_shows_objects(fixture: &Fixture) -> Outcome {
    let ctx = fixture.open()?;
    let link = Link::new(&ctx, &Spec::default())?;
    let region = link.region(12_288, Access::ALL_REMOTE)?;
    let (qpn, cqn, lkey) = (link.qp.qpn(), link.send_cq.cqn(), region.lkey());
    let there = dump(&ctx)?;
    ensure!(there.has_qp(qpn), "queue pair {qpn:#x} is not in the dump");
    ensure!(there.has_cq(cqn), "completion queue {cqn:#x} is not in the dump");
    ensure!(there.has_mr(lkey), "the region with key {lkey} is not in the dump");
    drop((link, region));
    let gone = dump(&ctx)?;
    ensure!(!gone.has_qp(qpn), "queue pair {qpn:#x} is still in the dump");
    ensure!(!gone.has_cq(cqn), "completion queue {cqn:#x} is still in the dump");
    ensure!(!gone.has_mr(lkey), "the region with key {lkey} is still in the dump");
    PASS
}
