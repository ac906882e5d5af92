// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hostile guest writes whatever it likes, while two honest ones talk: nothing panics, and their traffic is right.

use core::time::Duration;
use proptest::prelude::*;
use verbena_engine::testing::{End, Pair, QpShape, SendWr, World};
use verbena_engine::HcaId;
use verbena_hw::admin::{Command, Opcode};
use verbena_hw::regs;
use zerocopy::FromBytes;

/// Something that a guest can do to its device.
#[derive(Clone, Debug)]
enum Act {
    /// Writes a register.
    Register(u16, u8, u64),
    /// Reads one.
    Peek(u16, u8),
    /// Writes BAR 2.
    Doorbell(u32, u8, u32),
    /// Submits a command: an opcode and bytes, over a plausible request.
    Command(u8, Vec<(u8, u8)>),
    /// Overwrites bytes of its rings, records and doorbell page.
    Memory(u8, u16, Vec<u8>),
    /// Posts an entry with some bytes spoiled.
    Send(u8, Vec<(u8, u8)>),
    /// Unmaps or maps its second memory.
    Remap(bool),
    /// Lets time pass.
    Wait(u16),
}

fn act() -> impl Strategy<Value = Act> {
    let spoils = prop::collection::vec((any::<u8>(), any::<u8>()), 0..6);
    prop_oneof![
        (0u16..0x700, prop::sample::select(vec![1u8, 2, 4, 8]), any::<u64>()).prop_map(|(o, s, v)| Act::Register(
            o & !3,
            s,
            v
        )),
        (any::<u16>(), any::<u8>()).prop_map(|(o, s)| Act::Peek(o, s)),
        (0u32..0x5000, prop::sample::select(vec![2u8, 4, 8]), any::<u32>()).prop_map(|(o, s, v)| Act::Doorbell(
            o & !0xfff | o & 8,
            s,
            if v % 2 == 0 { v % 8 } else { v }
        )),
        (0u8..0x62, spoils.clone()).prop_map(|(o, b)| Act::Command(o, b)),
        (0u8..6, any::<u16>(), prop::collection::vec(any::<u8>(), 1..32)).prop_map(|(w, o, b)| Act::Memory(w, o, b)),
        (0u8..8, spoils).prop_map(|(k, b)| Act::Send(k, b)),
        any::<bool>().prop_map(Act::Remap),
        (0u16..2000).prop_map(Act::Wait),
    ]
}

const SECOND: u64 = 0xa000_0000;

fn perform(w: &mut World, evil: &mut End, act: &Act) {
    let hca: HcaId = evil.guest.hca;
    match act {
        Act::Register(offset, size, value) => {
            // A reset or a disabled queue would end the attack early; they have tests of their own.
            let ends = [regs::CTRL, regs::ASQ_TAIL].contains(&u32::from(*offset));
            if !ends {
                w.write_reg(hca, (*offset).into(), (*size).into(), *value);
            }
        }
        Act::Peek(offset, size) => {
            w.read_reg(hca, (*offset).into(), (*size).into());
        }
        Act::Doorbell(offset, size, value) => {
            w.engine
                .write_doorbell(hca, (*offset).into(), (*size).into(), (*value).into());
        }
        Act::Command(opcode, spoils) => {
            let mut bytes = [0u8; 256];
            // Numbers and addresses that exist, where requests have such.
            let words = [
                evil.qp.qpn.get(),
                SECOND as u32,
                evil.cq.cqn.get(),
                evil.mr.lkey.index(),
            ];
            for (i, chunk) in bytes[16..48].chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&words[(i + usize::from(*opcode)) % 4].to_le_bytes());
            }
            bytes[0] = *opcode;
            for (at, byte) in spoils {
                bytes[usize::from(*at)] = *byte;
            }
            let mut command = Command::read_from_bytes(&bytes).expect("256 bytes");
            if ![Opcode::DESTROY_EQ].contains(&command.opcode) {
                command.id = 1;
                evil.guest.submit_raw(w, &command);
                w.run();
                while evil.guest.reap(w).is_some() {}
            }
        }
        Act::Memory(which, offset, bytes) => {
            let base = match which {
                0 => evil.qp.sq,
                1 => evil.qp.rq,
                2 => evil.cq.ring,
                3 => evil.cq.record,
                4 => evil.guest.doorbell_page,
                _ => evil.mr.addr,
            };
            let at = base + u64::from(offset % 3000);
            w.ram(hca).write(at, bytes);
        }
        Act::Send(kind, spoils) => {
            let (sge, addr, rkey) = (evil.sge(0, 100), evil.addr(0), evil.rkey());
            let mut wr = match kind {
                0 => SendWr::send(1, &[sge]),
                1 => SendWr::read(1, &[sge], addr, rkey),
                2 => SendWr::fetch_add(1, evil.sge(0, 8), addr, rkey, 1),
                3 => SendWr::write(1, &[sge; 32], addr, rkey).imm(1),
                4 => SendWr::write(1, &[], addr, rkey).inline(&[7; 512]),
                _ => SendWr::write(1, &[sge], addr, rkey),
            };
            let mut bytes = [0u8; 32];
            bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&wr.header));
            for (at, byte) in spoils {
                match usize::from(*at) {
                    at @ 0..32 => bytes[at] = *byte,
                    at => {
                        if let Some(b) = wr.body.get_mut(at - 32) {
                            *b = *byte;
                        }
                    }
                }
            }
            wr.header = zerocopy::transmute!(bytes);
            evil.qp.post(w, wr);
        }
        Act::Remap(map) => {
            w.ram_mut(hca).unmap(SECOND);
            if *map {
                w.ram_mut(hca).map(SECOND, 1 << 16, true);
            }
            w.engine.ram_changed(hca, &w.env);
        }
        Act::Wait(micros) => w.advance(Duration::from_micros((*micros).into())),
    }
}

/// One round of honest traffic, checked to the byte.
fn honest(w: &mut World, a: &mut End, b: &mut End, round: u64) {
    let data: Vec<u8> = (0..300u64).map(|i| (i * 31 + round * 7) as u8).collect();
    a.fill(w, 0, &data);
    b.post_recv(w, round, 4096, 300);
    a.post(w, SendWr::send(round, &[a.sge(0, 150), a.sge(150, 150)]));
    a.post(w, SendWr::write(round, &[a.sge(0, 300)], b.addr(0), b.rkey()));
    a.post(w, SendWr::read(round, &[a.sge(8192, 300)], b.addr(4096), b.rkey()));
    for _ in 0..1000 {
        if !w.poll().did_work {
            break;
        }
    }
    for _ in 0..3 {
        let cqe = a.completion(w);
        assert_eq!((cqe.status, cqe.wr_id), (0, round));
    }
    let cqe = b.completion(w);
    assert_eq!((cqe.status, cqe.wr_id, cqe.byte_len), (0, round, 300));
    for (end, at) in [(&*b, 0), (&*b, 4096), (&*a, 8192)] {
        assert_eq!(end.bytes(w, at, 300), data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn h14_a_hostile_guest_harms_nobody(acts in prop::collection::vec(act(), 1..60), victim in any::<bool>()) {
        let Pair { world: mut w, mut a, mut b } = Pair::connected();
        let mut evil = End::new(&mut w, QpShape::default(), 4);
        w.ram_mut(evil.guest.hca).map(SECOND, 1 << 16, true);
        // Connected to itself, or claiming to be connected to an honest queue pair.
        let to = if victim { (b.guest.gid(), b.qp.qpn) } else { (evil.guest.gid(), evil.qp.qpn) };
        evil.connect(&mut w, to, (0, 0), |_| {});
        for (round, act) in acts.iter().enumerate() {
            perform(&mut w, &mut evil, act);
            honest(&mut w, &mut a, &mut b, round as u64);
        }
        let dump = w.engine.dump(None, w.now, &w.env);
        prop_assert!(dump.to_string().contains("HCA 2"));
        // Whatever it did, a reset brings the device back.
        w.engine.reset_hca(evil.guest.hca);
        prop_assert_eq!(w.read_reg(evil.guest.hca, regs::STATUS, 4), u64::from(regs::STATUS_READY));
        honest(&mut w, &mut a, &mut b, 9999);
    }
}
