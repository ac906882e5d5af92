// SPDX-License-Identifier: MIT OR Apache-2.0

//! Frames beside the connection: the honest guests have a raw Ethernet queue pair each, a rule, and a counter set.

use crate::Arena;
use verbena_engine::testing::{attrs, Cq, Guest, Qp, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{BindCounterReq, CreateFlowReq, QueryCounterRsp, QueryFlowRsp};
use verbena_hw::flow::{flags, FlowType};
use verbena_hw::qp::QpType;
use verbena_hw::wqe::Sge;
use zerocopy::FromZeros;

/// Local experimental EtherType 1 (IEEE 802).
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// What the honest guests' frames have in them, and no memory of the third's.
const SECRET: &[u8] = b"from the one honest guest to the other";
/// What the rule tags them with.
const TAG: u32 = 0xab_cdef;
/// Where frames are in an honest guest's buffer, sent and received, and in the third's.
const SENT: u64 = 0x10_0000;
const RECEIVED: u64 = 0x11_0000;
/// Where the third guest's receives begin in its buffer, and how many bytes these have altogether.
pub const LISTENS: u64 = 0x12_0000;
pub const LISTENED: usize = 1 << 14;

/// A raw Ethernet queue pair.
pub struct Raw {
    pub cq: Cq,
    pub qp: Qp,
}

impl Raw {
    /// In RTS.
    fn new(w: &mut World, guest: &mut Guest) -> Self {
        let cq = guest.cq(w, 4);
        let shape = QpShape {
            sq_log: 3,
            rq_log: 3,
            ..QpShape::default()
        };
        let mut req = guest.qp_request(w, &cq, &cq, shape);
        req.qp_type = QpType::RAW;
        let qp = guest.create_qp(w, &req).expect("a queue pair");
        for (mask, attrs) in attrs::raw() {
            guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
        }
        Self { cq, qp }
    }
}

/// The three, and what they have for frames.
pub struct Steering {
    pub arena: Arena,
    /// The third guest's.
    pub evil: Raw,
    /// MAC addresses: the honest guests', the third's.
    pub macs: [[u8; 6]; 3],
    here: Raw,
    there: Raw,
    rule: u32,
    /// The counter sets of the sender and of the receiver.
    sets: [u32; 2],
    rounds: u64,
}

impl Default for Steering {
    fn default() -> Self {
        Self::new()
    }
}

impl Steering {
    /// All of it made.
    pub fn new() -> Self {
        let mut arena = Arena::new(false);
        let Arena {
            world: w, a, b, evil, ..
        } = &mut arena;
        let macs = [a.guest.hca, b.guest.hca, evil.guest.hca].map(|hca| w.mac(hca));
        let (here, there) = (Raw::new(w, &mut a.guest), Raw::new(w, &mut b.guest));
        let mut req = CreateFlowReq {
            qpn: there.qp.qpn,
            flow_type: FlowType::NORMAL,
            port: 1,
            flags: flags::TAG,
            tag: TAG,
            ..CreateFlowReq::new_zeroed()
        };
        (req.value.smac, req.mask.smac) = (macs[0], [0xff; 6]);
        (req.value.dmac, req.mask.dmac) = (macs[1], [0xff; 6]);
        let rule = b.guest.create(w, Opcode::CREATE_FLOW, &req).expect("a rule");
        let sets = [(&mut a.guest, here.qp.qpn), (&mut b.guest, there.qp.qpn)].map(|(guest, qpn)| {
            let counter = guest.create(w, Opcode::CREATE_COUNTER, &[0u8; 0]).expect("a set");
            let req = BindCounterReq { qpn, counter };
            guest.command::<[u8; 0]>(w, Opcode::BIND_COUNTER, &req).expect("bound");
            counter
        });
        let evil = Raw::new(w, &mut evil.guest);
        arena.remember_objects();
        Self {
            arena,
            evil,
            macs,
            here,
            there,
            rule,
            sets,
            rounds: 0,
        }
    }

    /// A frame from one honest guest to the other: it comes once, whole, by its rule, is counted once, and nobody else has seen
    /// it. Then what any target asks of them.
    pub fn honest(&mut self) {
        self.rounds += 1;
        let Self { arena, here, there, .. } = self;
        let Arena { world: w, a, b, .. } = arena;
        let mut frame = [&self.macs[1][..], &self.macs[0], &ETHERTYPE, SECRET].concat();
        frame.extend((0..200).map(|i| (i + self.rounds) as u8));
        let len = frame.len() as u32;
        a.fill(w, SENT, &frame);
        b.fill(w, RECEIVED, &vec![0; frame.len()]);
        there
            .qp
            .post_recv(w, RecvWr::new(self.rounds, &[b.sge(RECEIVED, 2000)]));
        here.qp.post(w, SendWr::send(self.rounds, &[a.sge(SENT, len)]));
        for _ in 0..1000 {
            if !w.poll().did_work {
                break;
            }
        }
        let sent = here.cq.poll(w).expect("the frame's completion");
        assert_eq!((sent.status, sent.wr_id), (0, self.rounds));
        let got = there.cq.poll(w).expect("the frame");
        assert_eq!((got.status, got.wr_id, got.byte_len), (0, self.rounds, len));
        assert_eq!(got.imm, TAG, "by its rule");
        assert_eq!(b.bytes(w, RECEIVED, frame.len()), frame);
        assert_eq!((here.cq.poll(w), there.cq.poll(w)), (None, None), "once");
        for (guest, set, sends) in [(&mut a.guest, self.sets[0], true), (&mut b.guest, self.sets[1], false)] {
            let counted: QueryCounterRsp = guest.about(w, Opcode::QUERY_COUNTER, set).expect("the set");
            let bytes = self.rounds * u64::from(len);
            let expected = if sends {
                [self.rounds, 0, bytes, 0, 0, 0]
            } else {
                [0, self.rounds, 0, bytes, 0, 0]
            };
            assert_eq!((counted.values, counted.members), (expected, 1));
        }
        let rule: QueryFlowRsp = b.guest.about(w, Opcode::QUERY_FLOW, self.rule).expect("the rule");
        assert_eq!(rule.frames, self.rounds);
        // What it hears now is its own work's, or there is something to see.
        let hears = !self.evil.cq.drain(w).is_empty();
        arena.honest();
        if hears {
            self.overheard();
        }
    }

    fn overheard(&self) {
        let heard = self.arena.evil.bytes(&self.arena.world, LISTENS, LISTENED);
        let found = heard.windows(SECRET.len()).any(|bytes| bytes == SECRET);
        assert!(!found, "the third guest has seen a frame between the others");
    }

    /// The third guest tidies up. In none of its receives was what the others said to each other.
    pub fn finish(self) {
        self.overheard();
        self.arena.finish(true);
    }

    /// An element of the third guest's buffer for a receive.
    pub fn listen(&self, slot: u8, len: u16) -> Sge {
        let slot = u64::from(slot % 8) * 2048;
        self.arena.evil.sge(LISTENS + slot, u32::from(len % 2049))
    }
}
