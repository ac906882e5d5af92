// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in for the device: completions in a ring, the same on every pass over it.

use crate::memory::Mapping;
use crate::ring::complete::{CqRing, LOG_STRIDE, WORDS};
use crate::ring::memory::Ring;
use crate::ring::table::{QpSlot, QpTable};
use std::error::Error;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use verbena_hw::cqe::{flags, vendor, Cqe, Opcode, Status};
use verbena_hw::id::Qpn;
use verbena_hw::ring::{phase, OWNER_PHASE};

/// log2 of the ring's entries: as many as a completion queue has unless its application asks for others.
const LOG_ENTRIES: u8 = 8;
/// Entries of the ring, all of which are written before any is read.
pub const ENTRIES: u32 = 1 << LOG_ENTRIES;
/// One in so many is an error.
const ERRORS: u32 = 128;

/// The device's side of the ring.
pub struct Device {
    ring: Ring<WORDS>,
    _qp: QpSlot,
}

/// A ring with completions in it, and who writes the next ones.
pub fn ring() -> Result<(Device, CqRing), Box<dyn Error>> {
    let bytes = (usize::try_from(ENTRIES)? + 1) << LOG_STRIDE;
    let mapping = Arc::new(Mapping::anonymous(bytes)?);
    let ring = || Ring::new(mapping.clone(), 0, LOG_ENTRIES, LOG_STRIDE).ok_or("the ring does not fit");
    let qps = Arc::new(QpTable::new());
    let qp = qps.claim().ok_or("no slot")?;
    let record = bytes - (1 << LOG_STRIDE);
    let cq = CqRing::new(ring()?, mapping.clone(), record, qps.clone()).ok_or("the record does not fit")?;
    let device = ring()?;
    for index in 0..ENTRIES {
        // Not yet there: the first pass begins with `produce`.
        let owner = phase(index, LOG_ENTRIES) ^ OWNER_PHASE;
        let words: [u64; WORDS] = zerocopy::transmute!(Cqe {
            owner,
            cookie: qp.cookie(),
            ..cqe(index)
        });
        for (word, value) in device.entry(index).0.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }
    Ok((Device { ring: device, _qp: qp }, cq))
}

impl Device {
    /// Writes every entry of the next pass.
    #[inline(never)]
    pub fn produce(&self) {
        for index in 0..ENTRIES {
            let word = &self.ring.entry(index).0[0];
            word.store(word.load(Ordering::Relaxed) ^ u64::from(OWNER_PHASE), Ordering::Release);
        }
    }
}

/// The mix: of sixteen, eight sends and eight receives; of these two with immediate data, two datagrams, one that
/// invalidated a key. And few errors.
fn cqe(index: u32) -> Cqe {
    let common = Cqe {
        qpn: Qpn::truncate(0x40 + index % 3),
        wr_id: 0x1_0000_0000 + u64::from(index) * 0x1111,
        byte_len: 64 + index * 3,
        consumed: index,
        timestamp: 1_000_000_000_000 + u64::from(index) * 731,
        ..Cqe::default()
    };
    let receive = Cqe {
        opcode: Opcode::RECV.0,
        flags: flags::RECV,
        ..common
    };
    if index % ERRORS == ERRORS - 1 {
        return Cqe {
            status: Status::LOC_PROT_ERR.0,
            vendor_err: vendor::KEY_RANGE,
            ..common
        };
    }
    match index % 16 {
        0..8 => Cqe {
            opcode: [Opcode::SEND.0, Opcode::RDMA_WRITE.0][index as usize % 2],
            ..common
        },
        8 | 9 => Cqe {
            opcode: Opcode::RECV_RDMA_WITH_IMM.0,
            flags: flags::RECV | flags::IMM | flags::SOLICITED,
            imm: (index * 7).to_be(),
            ..common
        },
        10 => Cqe {
            flags: flags::RECV | flags::INVALIDATED,
            imm: 0x5000 + index,
            ..receive
        },
        11 | 12 => Cqe {
            flags: flags::RECV | flags::GRH,
            src_qpn: Qpn::truncate(0x80 + index),
            pkey_index: 1,
            sl: 3,
            smac: [2, 0, 0, 0, 0, index as u8],
            ..receive
        },
        _ => receive,
    }
}
