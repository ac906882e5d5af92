// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second way, accessor functions: Verbena's, which are inlined, and the same behind a table of functions, as a
//! library has them that does not know its driver when it is compiled (libibverbs' `ibv_cq_ex`).

use crate::ring::complete::{Completion, CqRing};
use crate::seen::{Datagram, Few, Many};
use verbena_hw::cqe::flags;

/// What the driver does.
pub fn few(cq: &mut CqRing, mut see: impl FnMut(Few)) {
    while let Some(completion) = cq.poll() {
        see(Few {
            wr_id: completion.wr_id(),
            status: completion.status().0,
            byte_len: completion.byte_len(),
        });
    }
}

/// The same, reading everything.
pub fn many(cq: &mut CqRing, mut see: impl FnMut(Many)) {
    while let Some(completion) = cq.poll() {
        see(read(&completion));
    }
}

/// Everything that a completion says.
#[inline(always)]
pub fn read(completion: &Completion<'_>) -> Many {
    let failed = !completion.is_success();
    Many {
        wr_id: completion.wr_id(),
        status: completion.status().0,
        opcode: completion.opcode().0,
        recv: completion.is_recv(),
        solicited: completion.is_solicited(),
        qpn: completion.qpn(),
        byte_len: completion.byte_len(),
        timestamp: completion.timestamp(),
        imm: completion.imm(),
        invalidated: completion.invalidated_rkey(),
        datagram: completion.has_grh().then(|| Datagram {
            src_qpn: completion.src_qpn(),
            pkey_index: completion.pkey_index(),
            sl: completion.sl(),
            smac: mac(completion.src_mac()),
        }),
        vendor_err: failed.then(|| completion.vendor_err()),
    }
}

/// A MAC address as a number.
#[inline(always)]
pub fn mac([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// The entry's immediate data, in network order, or the invalidated key.
#[inline(always)]
pub fn imm(completion: &Completion<'_>) -> u32 {
    (completion.word(2) >> 32) as u32
}

/// A function for each field but those that every consumer wants, which are the completion's own.
pub struct Table {
    opcode: fn(&Completion<'_>) -> u8,
    flags: fn(&Completion<'_>) -> u8,
    qpn: fn(&Completion<'_>) -> u32,
    byte_len: fn(&Completion<'_>) -> u32,
    imm: fn(&Completion<'_>) -> u32,
    invalidated_rkey: fn(&Completion<'_>) -> u32,
    src_qpn: fn(&Completion<'_>) -> u32,
    pkey_index: fn(&Completion<'_>) -> u16,
    sl: fn(&Completion<'_>) -> u8,
    src_mac: fn(&Completion<'_>) -> u64,
    vendor_err: fn(&Completion<'_>) -> u32,
    timestamp: fn(&Completion<'_>) -> u64,
}

/// The driver's functions.
pub static TABLE: Table = Table {
    opcode: |c| c.opcode().0,
    flags: |c| c.flags(),
    qpn: |c| c.qpn(),
    byte_len: |c| c.byte_len(),
    imm: |c| u32::from_be(imm(c)),
    invalidated_rkey: |c| imm(c),
    src_qpn: |c| c.src_qpn(),
    pkey_index: |c| c.pkey_index(),
    sl: |c| c.sl(),
    src_mac: |c| mac(c.src_mac()),
    vendor_err: |c| c.vendor_err(),
    timestamp: |c| c.timestamp(),
};

/// Few fields through the table.
pub fn few_by_table(cq: &mut CqRing, table: &Table, mut see: impl FnMut(Few)) {
    while let Some(completion) = cq.poll() {
        see(Few {
            wr_id: completion.wr_id(),
            status: completion.status().0,
            byte_len: (table.byte_len)(&completion),
        });
    }
}

/// Everything through the table.
pub fn many_by_table(cq: &mut CqRing, table: &Table, mut see: impl FnMut(Many)) {
    while let Some(completion) = cq.poll() {
        let flags = (table.flags)(&completion);
        let has = |flag: u8| flags & flag != 0;
        let status = completion.status().0;
        see(Many {
            wr_id: completion.wr_id(),
            status,
            opcode: (table.opcode)(&completion),
            recv: has(flags::RECV),
            solicited: has(flags::SOLICITED),
            qpn: (table.qpn)(&completion),
            byte_len: (table.byte_len)(&completion),
            timestamp: (table.timestamp)(&completion),
            imm: has(flags::IMM).then(|| (table.imm)(&completion)),
            invalidated: has(flags::INVALIDATED).then(|| (table.invalidated_rkey)(&completion)),
            datagram: has(flags::GRH).then(|| Datagram {
                src_qpn: (table.src_qpn)(&completion),
                pkey_index: (table.pkey_index)(&completion),
                sl: (table.sl)(&completion),
                smac: (table.src_mac)(&completion),
            }),
            vendor_err: (status != 0).then(|| (table.vendor_err)(&completion)),
        });
    }
}
