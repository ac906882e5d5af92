// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first way, one struct that grows: whoever wants one field more makes everybody's longer. As `ibv_poll_cq`, the
//! driver fills an array of them.

use crate::accessors::{imm, mac};
use crate::ring::complete::CqRing;
use crate::seen::{Datagram, Few, Many};
use verbena_hw::cqe::flags;

/// The fields of `struct ibv_wc`, and those that have come since.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Wc {
    wr_id: u64,
    status: u32,
    opcode: u32,
    vendor_err: u32,
    byte_len: u32,
    /// Immediate data in network order or the invalidated key, by `flags`.
    imm: u32,
    qpn: u32,
    src_qpn: u32,
    flags: u32,
    pkey_index: u16,
    sl: u8,
    timestamp: u64,
    smac: [u8; 6],
}

/// Fills `into` from the oldest on; how many.
pub type Poll = fn(&mut CqRing, &mut [Wc]) -> usize;

/// The driver's.
#[inline(never)]
pub fn poll(cq: &mut CqRing, into: &mut [Wc]) -> usize {
    let mut count = 0;
    for wc in into {
        let Some(completion) = cq.poll() else { break };
        *wc = Wc {
            wr_id: completion.wr_id(),
            status: completion.status().0.into(),
            opcode: completion.opcode().0.into(),
            vendor_err: completion.vendor_err(),
            byte_len: completion.byte_len(),
            imm: imm(&completion),
            qpn: completion.qpn(),
            src_qpn: completion.src_qpn(),
            flags: completion.flags().into(),
            pkey_index: completion.pkey_index(),
            sl: completion.sl(),
            timestamp: completion.timestamp(),
            smac: completion.src_mac(),
        };
        count += 1;
    }
    count
}

/// A consumer of few.
pub fn few(cq: &mut CqRing, poll: Poll, array: &mut [Wc], mut see: impl FnMut(Few)) {
    loop {
        let count = poll(cq, array);
        for wc in array.iter().take(count) {
            see(Few {
                wr_id: wc.wr_id,
                status: wc.status as u8,
                byte_len: wc.byte_len,
            });
        }
        if count < array.len() {
            return;
        }
    }
}

/// A consumer of many.
pub fn many(cq: &mut CqRing, poll: Poll, array: &mut [Wc], mut see: impl FnMut(Many)) {
    loop {
        let count = poll(cq, array);
        for wc in array.iter().take(count) {
            let has = |flag: u8| wc.flags & u32::from(flag) != 0;
            see(Many {
                wr_id: wc.wr_id,
                status: wc.status as u8,
                opcode: wc.opcode as u8,
                recv: has(flags::RECV),
                solicited: has(flags::SOLICITED),
                qpn: wc.qpn,
                byte_len: wc.byte_len,
                timestamp: wc.timestamp,
                imm: has(flags::IMM).then_some(u32::from_be(wc.imm)),
                invalidated: has(flags::INVALIDATED).then_some(wc.imm),
                datagram: has(flags::GRH).then(|| Datagram {
                    src_qpn: wc.src_qpn,
                    pkey_index: wc.pkey_index,
                    sl: wc.sl,
                    smac: mac(wc.smac),
                }),
                vendor_err: (wc.status != 0).then_some(wc.vendor_err),
            });
        }
        if count < array.len() {
            return;
        }
    }
}
