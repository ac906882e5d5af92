// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fourth way, a base struct and optional groups behind it, in the order of their bits: fewer decisions than one a
//! field, and shorter than a struct of everything. (Ledford's proposal of 2016.)

use crate::accessors::{imm, mac};
use crate::ring::complete::CqRing;
use crate::seen::{Datagram, Few, Many};
use std::mem::MaybeUninit;
use verbena_hw::cqe::flags;

/// The groups: chosen by the application for the queue, and told in each completion's `magic`, above the version.
pub mod group {
    pub const VERSION: u32 = 1;
    /// [`super::Queue`].
    pub const QUEUE: u32 = 1 << 8;
    /// [`super::Data`].
    pub const DATA: u32 = 1 << 9;
    /// [`super::Address`].
    pub const ADDRESS: u32 = 1 << 10;
    /// [`super::Failure`].
    pub const FAILURE: u32 = 1 << 11;
    pub const FEW: u32 = 0;
    pub const ALL: u32 = QUEUE | DATA | ADDRESS | FAILURE;
}

/// When and where it ended.
#[derive(Clone, Copy)]
#[repr(C)]
struct Queue {
    timestamp: u64,
    qpn: u32,
    reserved: u32,
}

/// What came with the message beside its bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Data {
    /// Immediate data in network order, or the invalidated key.
    imm: u32,
    reserved: u32,
}

/// Where a datagram came from.
#[derive(Clone, Copy)]
#[repr(C)]
struct Address {
    src_qpn: u32,
    pkey_index: u16,
    sl: u8,
    reserved: u8,
    smac: [u8; 6],
    vlan: u16,
}

/// Why it failed.
#[derive(Clone, Copy)]
#[repr(C)]
struct Failure {
    vendor_err: u32,
    reserved: u32,
}

/// Bytes that all groups together take.
const ROOM: usize = size_of::<Queue>() + size_of::<Data>() + size_of::<Address>() + size_of::<Failure>();

/// The base, and room for the groups.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Wc {
    wr_id: u64,
    magic: u32,
    status: u8,
    opcode: u8,
    flags: u8,
    byte_len: u32,
    groups: Groups,
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Groups([MaybeUninit<u8>; ROOM]);

impl Default for Wc {
    fn default() -> Self {
        Self {
            wr_id: 0,
            magic: 0,
            status: 0,
            opcode: 0,
            flags: 0,
            byte_len: 0,
            groups: Groups([MaybeUninit::new(0); ROOM]),
        }
    }
}

/// Puts a group where `at` is.
#[inline(always)]
fn put<T>(groups: &mut Groups, at: &mut usize, group: T) {
    debug_assert!(*at + size_of::<T>() <= ROOM && *at % align_of::<T>() == 0);
    // SAFETY: every group is put at most once and there is room for all; each is a multiple of 8 bytes, so each is
    // aligned.
    unsafe { groups.0.as_mut_ptr().add(*at).cast::<T>().write(group) };
    *at += size_of::<T>();
}

/// Takes the group that is where `at` is.
///
/// # Safety
///
/// A `T` was put there.
#[inline(always)]
unsafe fn take<'a, T>(groups: &'a Groups, at: &mut usize) -> &'a T {
    // SAFETY: as the caller says.
    let group = unsafe { &*groups.0.as_ptr().add(*at).cast::<T>() };
    *at += size_of::<T>();
    group
}

/// Fills `into` from the oldest on with the groups of `wanted`; how many.
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
        wc.byte_len = completion.byte_len();
        let (mut magic, mut at) = (group::VERSION, 0);
        if wanted & group::QUEUE != 0 {
            let group = Queue {
                timestamp: completion.timestamp(),
                qpn: completion.qpn(),
                reserved: 0,
            };
            put(&mut wc.groups, &mut at, group);
            magic |= group::QUEUE;
        }
        if wanted & group::DATA != 0 && wc.flags & (flags::IMM | flags::INVALIDATED) != 0 {
            let group = Data {
                imm: imm(&completion),
                reserved: 0,
            };
            put(&mut wc.groups, &mut at, group);
            magic |= group::DATA;
        }
        if wanted & group::ADDRESS != 0 && wc.flags & flags::GRH != 0 {
            let group = Address {
                src_qpn: completion.src_qpn(),
                pkey_index: completion.pkey_index(),
                sl: completion.sl(),
                reserved: 0,
                smac: completion.src_mac(),
                vlan: 0,
            };
            put(&mut wc.groups, &mut at, group);
            magic |= group::ADDRESS;
        }
        if wanted & group::FAILURE != 0 && wc.status != 0 {
            let group = Failure {
                vendor_err: completion.vendor_err(),
                reserved: 0,
            };
            put(&mut wc.groups, &mut at, group);
            magic |= group::FAILURE;
        }
        wc.magic = magic;
        count += 1;
    }
    count
}

/// A consumer of few: all that it reads is in the base.
pub fn few(cq: &mut CqRing, poll: Poll, array: &mut [Wc], mut see: impl FnMut(Few)) {
    loop {
        let count = poll(cq, group::FEW, array);
        for wc in array.iter().take(count) {
            see(Few {
                wr_id: wc.wr_id,
                status: wc.status,
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
        let count = poll(cq, group::ALL, array);
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
    let has = |group: u32| wc.magic & group != 0;
    let flag = |flag: u8| wc.flags & flag != 0;
    let mut many = Many {
        wr_id: wc.wr_id,
        status: wc.status,
        opcode: wc.opcode,
        recv: flag(flags::RECV),
        solicited: flag(flags::SOLICITED),
        qpn: 0,
        byte_len: wc.byte_len,
        timestamp: 0,
        imm: None,
        invalidated: None,
        datagram: None,
        vendor_err: None,
    };
    let mut at = 0;
    if has(group::QUEUE) {
        // SAFETY: `magic` names the groups that were put, and they are taken in the same order; so below.
        let group = unsafe { take::<Queue>(&wc.groups, &mut at) };
        many.timestamp = group.timestamp;
        many.qpn = group.qpn;
    }
    if has(group::DATA) {
        // SAFETY: as above.
        let group = unsafe { take::<Data>(&wc.groups, &mut at) };
        many.imm = flag(flags::IMM).then(|| u32::from_be(group.imm));
        many.invalidated = flag(flags::INVALIDATED).then_some(group.imm);
    }
    if has(group::ADDRESS) {
        // SAFETY: as above.
        let group = unsafe { take::<Address>(&wc.groups, &mut at) };
        many.datagram = Some(Datagram {
            src_qpn: group.src_qpn,
            pkey_index: group.pkey_index,
            sl: group.sl,
            smac: mac(group.smac),
        });
    }
    if has(group::FAILURE) {
        // SAFETY: as above.
        many.vendor_err = Some(unsafe { take::<Failure>(&wc.groups, &mut at) }.vendor_err);
    }
    many
}
