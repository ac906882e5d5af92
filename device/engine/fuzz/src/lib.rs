// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the targets share: two honest guests, a third, and what must be true whatever the third does.

pub mod requests;
pub mod steering;

use verbena_engine::testing::{attrs, End, Pair, QpShape, SendWr, World};
use verbena_engine::HcaId;
use verbena_hw::admin::Opcode;
use verbena_hw::qp::QpState;
use verbena_hw::regs;

/// Memory of the third guest that comes and goes.
pub const SECOND: u64 = 0xa000_0000;
/// Bytes of it.
pub const SECOND_LEN: usize = 1 << 16;

/// Bytes of one honest message.
const MESSAGE: u32 = 300;

/// The three.
pub struct Arena {
    pub world: World,
    a: End,
    b: End,
    pub evil: End,
    /// Whom the third one claims to be connected with is an honest queue pair.
    victim: bool,
    round: u64,
    objects: [serde_json::Value; 2],
}

impl Arena {
    /// All connected.
    pub fn new(victim: bool) -> Self {
        let Pair { mut world, a, b } = Pair::connected();
        let shape = QpShape {
            sq_log: 4,
            rq_log: 4,
            ..QpShape::default()
        };
        let evil = End::new(&mut world, shape, 5);
        world.ram_mut(evil.guest.hca).map(SECOND, SECOND_LEN, true);
        let objects = [a.guest.hca, b.guest.hca].map(|hca| objects(&world, hca));
        let mut arena = Self {
            world,
            a,
            b,
            evil,
            victim,
            round: 0,
            objects,
        };
        arena.connect();
        arena
    }

    /// What the honest guests have now is what they must have in the end.
    fn remember_objects(&mut self) {
        self.objects = [self.a.guest.hca, self.b.guest.hca].map(|hca| objects(&self.world, hca));
    }

    fn connect(&mut self) {
        let end = if self.victim { &self.b } else { &self.evil };
        let to = (end.guest.gid(), end.qp.qpn);
        self.evil.connect(&mut self.world, to, (0, 0), |_| {});
    }

    /// The third guest takes its queue pair through RESET to RTS again, if its device still listens.
    pub fn revive(&mut self) {
        let (w, evil) = (&mut self.world, &mut self.evil);
        if evil.guest.modify_state(w, evil.qp.qpn, QpState::RESET).is_err() {
            return;
        }
        evil.qp.rewind(w);
        let end = if self.victim { &self.b } else { &*evil };
        let (gid, qpn) = (end.guest.gid(), end.qp.qpn);
        for (mask, attrs) in [attrs::init(), attrs::rtr(gid, qpn, 0), attrs::rts(0)] {
            // It may have spoiled what this needs.
            let _ = evil.guest.modify(w, evil.qp.qpn, mask, attrs);
        }
    }

    /// Whether the third guest's device has given up on it.
    pub fn is_fatal(&mut self) -> bool {
        self.world.read_reg(self.evil.guest.hca, regs::STATUS, 4) as u32 & regs::STATUS_FATAL != 0
    }

    /// A round of honest traffic, checked to the byte.
    pub fn honest(&mut self) {
        let Self {
            world: w, a, b, round, ..
        } = self;
        *round += 1;
        let data: Vec<u8> = (0..u64::from(MESSAGE)).map(|i| (i * 31 + *round * 7) as u8).collect();
        a.fill(w, 0, &data);
        b.post_recv(w, *round, 4096, MESSAGE);
        a.post(w, SendWr::send(*round, &[a.sge(0, 150), a.sge(150, 150)]));
        a.post(w, SendWr::write(*round, &[a.sge(0, MESSAGE)], b.addr(0), b.rkey()));
        a.post(w, SendWr::read(*round, &[a.sge(8192, MESSAGE)], b.addr(4096), b.rkey()));
        // The third guest's work may have no end, so this does not wait for it.
        for _ in 0..1000 {
            if !w.poll().did_work {
                break;
            }
        }
        for _ in 0..3 {
            let cqe = a.completion(w);
            assert_eq!((cqe.status, cqe.wr_id), (0, *round));
        }
        let cqe = b.completion(w);
        assert_eq!((cqe.status, cqe.wr_id, cqe.byte_len), (0, *round, MESSAGE));
        for (end, at) in [(&*b, 0), (&*b, 4096), (&*a, 8192)] {
            assert_eq!(end.bytes(w, at, MESSAGE as usize), data);
        }
        a.nothing(w);
        b.nothing(w);
    }

    /// The third guest tidies up, with `orderly` by its own commands, then by a reset; nothing is left of it.
    pub fn finish(mut self, orderly: bool) {
        let hca = self.evil.guest.hca;
        if orderly && !self.is_fatal() {
            self.destroy_all();
        }
        self.world.engine.reset_hca(hca);
        for (kind, count) in objects(&self.world, hca).as_object().expect("counts by kind") {
            assert_eq!(count, 0, "{kind} after a reset");
        }
        assert_eq!(
            self.world.read_reg(hca, regs::STATUS, 4),
            u64::from(regs::STATUS_READY),
            "the device is as new"
        );
        self.honest();
        let after = [self.a.guest.hca, self.b.guest.hca].map(|hca| objects(&self.world, hca));
        assert_eq!(after, self.objects, "nobody else lost or gained anything");
    }

    /// Destroys what the dump shows, dependents first: each must go, and then nothing is there.
    fn destroy_all(&mut self) {
        let hca = self.evil.guest.hca;
        let dump = self.world.engine.dump(Some(hca), self.world.now, &self.world.env);
        let dump = &dump.hcas[0];
        let sets = dump
            .counter_sets
            .iter()
            .map(|set| (Opcode::DESTROY_COUNTER, set.number));
        let flows = dump.flows.iter().map(|flow| (Opcode::DESTROY_FLOW, flow.number));
        let qps = dump.qps.iter().map(|qp| (Opcode::DESTROY_QP, qp.qpn));
        let srqs = dump.srqs.iter().map(|srq| (Opcode::DESTROY_SRQ, srq.srqn));
        let mws = dump.mws.iter().map(|mw| (Opcode::DESTROY_MW, mw.index));
        // Those that stand on others go before them: whether one does is not in the dump, so some are tried twice.
        let mrs: Vec<_> = dump.mrs.iter().map(|mr| mr.index).collect();
        let xrcds = dump.xrcds.iter().map(|xrcd| (Opcode::DESTROY_XRCD, xrcd.xrcdn));
        let cqs = dump.cqs.iter().map(|cq| (Opcode::DESTROY_CQ, cq.cqn));
        let eqs = dump.eqs.iter().map(|eq| (Opcode::DESTROY_EQ, eq.eqn));
        let doorbells = dump.doorbells.iter().map(|page| (Opcode::DESTROY_DOORBELL, page.index));
        let first: Vec<_> = flows
            .chain(qps)
            .chain(sets)
            .chain(srqs)
            .chain(xrcds)
            .chain(mws)
            .collect();
        let then: Vec<_> = cqs.chain(eqs).chain(doorbells).collect();
        self.destroy_each(first);
        let standing: Vec<_> = mrs
            .into_iter()
            .filter(|&index| {
                self.evil
                    .guest
                    .destroy(&mut self.world, Opcode::DESTROY_MR, index)
                    .is_err()
            })
            .map(|index| (Opcode::DESTROY_MR, index))
            .collect();
        self.destroy_each(standing);
        self.destroy_each(then);
        if self.is_fatal() {
            return;
        }
        let dump = self.world.engine.dump(Some(hca), self.world.now, &self.world.env);
        let left = &dump.hcas[0].objects;
        let counts = [
            left.flows,
            left.counter_sets,
            left.qps,
            left.srqs,
            left.xrcds,
            left.mws,
            left.mrs,
            left.cqs,
            left.eqs,
            left.doorbells,
        ];
        assert_eq!(counts, [0; 10], "after everything was destroyed");
    }

    /// Destroys objects, each of which must go.
    fn destroy_each(&mut self, objects: Vec<(Opcode, u32)>) {
        for (opcode, number) in objects {
            let destroyed = self.evil.guest.destroy(&mut self.world, opcode, number);
            if self.is_fatal() {
                return;
            }
            assert!(destroyed.is_ok(), "{opcode:?} {number:#x}: {destroyed:?}");
        }
    }
}

/// How many objects an HCA has, by kind.
fn objects(world: &World, hca: HcaId) -> serde_json::Value {
    let dump = world.engine.dump(Some(hca), world.now, &world.env);
    serde_json::to_value(&dump.hcas[0].objects).expect("numbers")
}
