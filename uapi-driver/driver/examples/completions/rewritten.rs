// SPDX-License-Identifier: MIT OR Apache-2.0
//! The third way, a struct that is rewritten for every completion: the fields that the application chose with its queue
//! and that this completion has, one behind the other, the widest first, so that all are aligned. Who reads walks them
//! in the same order. (What Mellanox proposed for libibverbs in 2016, and withdrew.)

use crate::accessors::{imm, mac};
use crate::ring::complete::CqRing;
use crate::seen::{Datagram, Few, Many};
use std::mem::MaybeUninit;
use verbena_hw::cqe::flags;

/// Which fields: chosen by the application for the queue, and told in each completion.
pub mod with {
    pub const TIMESTAMP: u32 = 1 << 0;
    pub const SMAC: u32 = 1 << 1;
    pub const BYTE_LEN: u32 = 1 << 2;
    pub const IMM: u32 = 1 << 3;
    pub const INVALIDATED: u32 = 1 << 4;
    pub const QPN: u32 = 1 << 5;
    pub const SRC_QPN: u32 = 1 << 6;
    pub const VENDOR_ERR: u32 = 1 << 7;
    pub const PKEY_INDEX: u32 = 1 << 8;
    pub const SL: u32 = 1 << 9;
    pub const FEW: u32 = BYTE_LEN;
    pub const ALL: u32 = (1 << 10) - 1;
}

/// Bytes that all fields together take.
const ROOM: usize = 2 * 8 + 6 * 4 + 2 + 6;

/// What is always there, and room for what may be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Wc {
    wr_id: u64,
    with: u32,
    status: u8,
    opcode: u8,
    flags: u8,
    fields: [MaybeUninit<u8>; ROOM],
}

impl Default for Wc {
    fn default() -> Self {
        Self {
            wr_id: 0,
            with: 0,
            status: 0,
            opcode: 0,
            flags: 0,
            fields: [MaybeUninit::new(0); ROOM],
        }
    }
}

/// Where the next field begins.
struct Writer<'a> {
    fields: &'a mut [MaybeUninit<u8>; ROOM],
    at: usize,
}

impl Writer<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        debug_assert!(self.at + N <= ROOM);
        // SAFETY: every field is put at most once, and there is room for all of them.
        unsafe { self.fields.as_mut_ptr().add(self.at).cast::<[u8; N]>().write(field) };
        self.at += N;
    }
}

/// The same for who reads.
struct Reader<'a> {
    fields: &'a [MaybeUninit<u8>; ROOM],
    at: usize,
}

impl Reader<'_> {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        debug_assert!(self.at + N <= ROOM);
        // SAFETY: `with` names the fields that were put, and they are taken in the same order.
        let field = unsafe { self.fields.as_ptr().add(self.at).cast::<[u8; N]>().read() };
        self.at += N;
        field
    }
}

/// Fills `into` from the oldest on with the fields of `wanted`; how many.
pub type Poll = fn(&mut CqRing, u32, &mut [Wc]) -> usize;

/// The driver's.
#[inline(never)]
pub fn poll(cq: &mut CqRing, wanted: u32, into: &mut [Wc]) -> usize {
    let mut count = 0;
    for wc in into {
        let Some(completion) = cq.poll() else { break };
        wc.wr_id = completion.wr_id();
        wc.status = completion.status().0;
        wc.opcode = completion.opcode().0;
        wc.flags = completion.flags();
        let has = |flag: u8| completion.flags() & flag != 0;
        let mut with = 0;
        let mut fields = Writer {
            fields: &mut wc.fields,
            at: 0,
        };
        if wanted & with::TIMESTAMP != 0 {
            fields.put(completion.timestamp().to_ne_bytes());
            with |= with::TIMESTAMP;
        }
        if wanted & with::SMAC != 0 && has(flags::GRH) {
            fields.put(mac(completion.src_mac()).to_ne_bytes());
            with |= with::SMAC;
        }
        if wanted & with::BYTE_LEN != 0 {
            fields.put(completion.byte_len().to_ne_bytes());
            with |= with::BYTE_LEN;
        }
        if wanted & with::IMM != 0 && has(flags::IMM) {
            fields.put(imm(&completion).to_ne_bytes());
            with |= with::IMM;
        }
        if wanted & with::INVALIDATED != 0 && has(flags::INVALIDATED) {
            fields.put(imm(&completion).to_ne_bytes());
            with |= with::INVALIDATED;
        }
        if wanted & with::QPN != 0 {
            fields.put(completion.qpn().to_ne_bytes());
            with |= with::QPN;
        }
        if wanted & with::SRC_QPN != 0 && has(flags::GRH) {
            fields.put(completion.src_qpn().to_ne_bytes());
            with |= with::SRC_QPN;
        }
        if wanted & with::VENDOR_ERR != 0 && wc.status != 0 {
            fields.put(completion.vendor_err().to_ne_bytes());
            with |= with::VENDOR_ERR;
        }
        if wanted & with::PKEY_INDEX != 0 && has(flags::GRH) {
            fields.put(completion.pkey_index().to_ne_bytes());
            with |= with::PKEY_INDEX;
        }
        if wanted & with::SL != 0 && has(flags::GRH) {
            fields.put([completion.sl()]);
            with |= with::SL;
        }
        wc.with = with;
        count += 1;
    }
    count
}

/// A consumer of few.
pub fn few(cq: &mut CqRing, poll: Poll, array: &mut [Wc], mut see: impl FnMut(Few)) {
    loop {
        let count = poll(cq, with::FEW, array);
        for wc in array.iter().take(count) {
            let mut fields = Reader {
                fields: &wc.fields,
                at: 0,
            };
            let mut byte_len = 0;
            if wc.with & with::BYTE_LEN != 0 {
                byte_len = u32::from_ne_bytes(fields.take());
            }
            see(Few {
                wr_id: wc.wr_id,
                status: wc.status,
                byte_len,
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
        let count = poll(cq, with::ALL, array);
        for wc in array.iter().take(count) {
            see(read(wc));
        }
        if count < array.len() {
            return;
        }
    }
}

#[inline(always)]
fn read(wc: &Wc) -> Many {
    let mut fields = Reader {
        fields: &wc.fields,
        at: 0,
    };
    let has = |field: u32| wc.with & field != 0;
    let mut many = Many {
        wr_id: wc.wr_id,
        status: wc.status,
        opcode: wc.opcode,
        recv: wc.flags & flags::RECV != 0,
        solicited: wc.flags & flags::SOLICITED != 0,
        qpn: 0,
        byte_len: 0,
        timestamp: 0,
        imm: None,
        invalidated: None,
        datagram: None,
        vendor_err: None,
    };
    let mut from = Datagram {
        src_qpn: 0,
        pkey_index: 0,
        sl: 0,
        smac: 0,
    };
    if has(with::TIMESTAMP) {
        many.timestamp = u64::from_ne_bytes(fields.take());
    }
    if has(with::SMAC) {
        from.smac = u64::from_ne_bytes(fields.take());
    }
    if has(with::BYTE_LEN) {
        many.byte_len = u32::from_ne_bytes(fields.take());
    }
    if has(with::IMM) {
        many.imm = Some(u32::from_be_bytes(fields.take()));
    }
    if has(with::INVALIDATED) {
        many.invalidated = Some(u32::from_ne_bytes(fields.take()));
    }
    if has(with::QPN) {
        many.qpn = u32::from_ne_bytes(fields.take());
    }
    if has(with::SRC_QPN) {
        from.src_qpn = u32::from_ne_bytes(fields.take());
    }
    if has(with::VENDOR_ERR) {
        many.vendor_err = Some(u32::from_ne_bytes(fields.take()));
    }
    if has(with::PKEY_INDEX) {
        from.pkey_index = u16::from_ne_bytes(fields.take());
    }
    if has(with::SL) {
        let [sl] = fields.take();
        from.sl = sl;
        many.datagram = Some(from);
    }
    many
}
