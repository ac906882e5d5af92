// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that writes what it likes into its rings, records, doorbell pages and regions.

#![no_main]

use arbitrary::Arbitrary;
use core::time::Duration;
use libfuzzer_sys::fuzz_target;
use verbena_engine::testing::{RecvWr, SendWr, Srq};
use verbena_engine_fuzz::{Arena, SECOND, SECOND_LEN};
use verbena_hw::cmd::CreateMrReq;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{flush, FlushArgs, SendHeader, Sge};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[derive(Arbitrary, Debug)]
enum Act {
    /// Posts an entry that is nearly right and rings.
    Send { kind: u8, spoil: Spoil, ring: Ring },
    /// Posts an entry that is not.
    Entry { bytes: Vec<u8>, ring: Ring },
    /// Posts a receive.
    Recv { shared: bool, spoil: Spoil, sges: u8 },
    /// Overwrites bytes of something that the device reads.
    Memory { which: u8, at: u16, bytes: Vec<u8> },
    /// The device's counters, as the guest says them.
    Consumer(u32),
    /// Rings whatever.
    Doorbell { page: u8, slot: u32 },
    /// The second memory goes or comes.
    Remap(bool),
    /// The queue pair begins again.
    Revive,
    /// Time passes.
    Wait(u16),
}

#[derive(Arbitrary, Debug)]
enum Ring {
    Page,
    Register,
    Not,
}

/// Bytes that are changed, by place.
#[derive(Arbitrary, Debug)]
struct Spoil(Vec<(u8, u8)>);

impl Spoil {
    fn apply(&self, bytes: &mut [u8]) {
        for (at, byte) in self.0.iter().take(4) {
            if let Some(place) = bytes.get_mut(usize::from(*at)) {
                *place = *byte;
            }
        }
    }
}

fuzz_target!(|input: (bool, Vec<Act>)| {
    let (victim, acts) = input;
    let mut arena = Arena::new(victim);
    let req = arena.evil.guest.srq_request(&mut arena.world, 4);
    let mut srq = arena.evil.guest.create_srq(&mut arena.world, &req).expect("a queue");
    let mut shared = arena
        .evil
        .guest
        .qp_request(&mut arena.world, &arena.evil.cq, &arena.evil.cq, Default::default());
    shared.srqn = srq.srqn;
    shared.rq_log_entries = 0;
    let _ = arena.evil.guest.create_qp(&mut arena.world, &shared);
    // A region on the memory that goes.
    let req = CreateMrReq {
        pages: PageList::direct(SECOND, SECOND_LEN as u64),
        iova: SECOND,
        len: SECOND_LEN as u64,
        first_offset: 0,
        pdn: arena.evil.guest.pdn,
        access: access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC,
        ..CreateMrReq::new_zeroed()
    };
    let second = arena.evil.guest.register(&mut arena.world, &req).expect("a region");
    let second = Sge {
        addr: SECOND,
        len: 64,
        lkey: second.lkey,
    };
    for act in acts.iter().take(40) {
        perform(&mut arena, &mut srq, second, act);
        arena.honest();
    }
    arena.finish(true);
});

fn perform(arena: &mut Arena, srq: &mut Srq, second: Sge, act: &Act) {
    let hca = arena.evil.guest.hca;
    match act {
        Act::Send { kind, spoil, ring } => {
            let evil = &mut arena.evil;
            let sge = if kind & 0x80 != 0 { second } else { evil.sge(0, 100) };
            let (addr, rkey) = (evil.addr(0), evil.rkey());
            let args = FlushArgs {
                len: 100,
                placement: flush::GLOBAL,
                level: u32::from(kind & 0x40 != 0),
            };
            let mut wr = match kind % 16 {
                0 => SendWr::send(1, &[sge]),
                1 => SendWr::read(1, &[sge], addr, rkey),
                2 => SendWr::fetch_add(1, evil.sge(0, 8), addr, rkey, 1),
                3 => SendWr::write(1, &[sge; 32], addr, rkey).imm(1),
                4 => SendWr::write(1, &[], addr, rkey).inline(&[7; 512]),
                5 => SendWr::local_invalidate(1, rkey),
                6 => SendWr::send_invalidate(1, &[sge], rkey),
                7 => SendWr::flush(1, addr, rkey, args),
                8 => SendWr::atomic_write(1, &[evil.sge(0, 8)], addr, rkey),
                9 => SendWr::compare_swap(1, evil.sge(0, 8), addr, rkey, 0, 1),
                10 => SendWr::register(1, rkey, addr, 7, &[sge; 32]),
                11 => SendWr::register_list(1, rkey, addr, 7, &[sge; 2]),
                _ => SendWr::write(1, &[sge], addr, rkey),
            };
            let mut bytes = wr.header.as_bytes().to_vec();
            spoil.apply(&mut bytes);
            wr.header = SendHeader::read_from_bytes(&bytes).expect("as long as before");
            post(arena, wr, ring);
        }
        Act::Entry { bytes, ring } => {
            let mut header = [0; size_of::<SendHeader>()];
            let head = bytes.len().min(header.len());
            header[..head].copy_from_slice(&bytes[..head]);
            let mut wr = SendWr::send(0, &[]);
            wr.header = SendHeader::read_from_bytes(&header).expect("as long as a header");
            wr.body = bytes[head..].to_vec();
            post(arena, wr, ring);
        }
        Act::Recv { shared, spoil, sges } => {
            let sges = vec![arena.evil.sge(256, 64); usize::from(*sges % 4)];
            let mut wr = RecvWr::new(2, &sges);
            let mut bytes = wr.header.as_bytes().to_vec();
            spoil.apply(&mut bytes);
            wr.header = FromBytes::read_from_bytes(&bytes).expect("as long as before");
            if *shared {
                srq.post(&arena.world, wr);
            } else {
                arena.evil.qp.post_recv(&arena.world, wr);
            }
        }
        Act::Memory { which, at, bytes } => {
            let evil = &arena.evil;
            let base = match which % 8 {
                0 => evil.qp.sq,
                1 => evil.qp.rq,
                2 => evil.cq.ring,
                3 => evil.cq.record,
                4 => evil.guest.doorbell_page,
                5 => srq.ring,
                6 => srq.record,
                _ => evil.mr.addr,
            };
            let bytes = &bytes[..bytes.len().min(64)];
            arena.world.ram(hca).write(base + u64::from(at % 1000), bytes);
        }
        Act::Consumer(value) => arena.world.ram(hca).write(arena.evil.cq.record, &value.to_le_bytes()),
        Act::Doorbell { page, slot } => {
            let at = u64::from(*page) << 12;
            arena.world.engine.write_doorbell(hca, at, 4, (*slot).into());
        }
        Act::Remap(map) => {
            arena.world.ram_mut(hca).unmap(SECOND);
            if *map {
                arena.world.ram_mut(hca).map(SECOND, SECOND_LEN, true);
            }
            arena.world.engine.ram_changed(hca, &arena.world.env);
        }
        Act::Revive => arena.revive(),
        Act::Wait(micros) => arena.world.advance(Duration::from_micros((*micros).into())),
    }
}

fn post(arena: &mut Arena, wr: SendWr, ring: &Ring) {
    arena.evil.qp.post_quietly(&arena.world, wr);
    match ring {
        Ring::Page => arena.evil.qp.ring(&arena.world),
        Ring::Register => arena.evil.qp.ring_register(&mut arena.world),
        Ring::Not => {}
    }
}
