// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two guests with a connection between them: where most conversations begin.

use super::{attrs, Cq, Guest, Mr, Qp, QpShape, RecvWr, SendWr, World};
use verbena_hw::cqe::Cqe;
use verbena_hw::id::{Cqn, Key};
use verbena_hw::qp::{access, QpAttrs, QpState};
use verbena_hw::wqe::Sge;

/// One end of a connection: a guest with one queue pair, one completion queue for both directions, and one buffer.
pub struct End {
    /// The guest.
    pub guest: Guest,
    /// Its completion queue.
    pub cq: Cq,
    /// Its queue pair.
    pub qp: Qp,
    /// Its buffer, with all rights.
    pub mr: Mr,
}

/// All rights that a plain buffer has.
const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC;

/// Bytes of an end's buffer.
const BUFFER: u64 = 2 << 20;

impl End {
    /// A guest with everything but a connection. Its completion queue has `1 << cq_log` entries.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn new(w: &mut World, shape: QpShape, cq_log: u8) -> Self {
        let mut guest = Guest::start(w, 16 << 20);
        let cq = guest.cq(w, cq_log);
        let req = guest.qp_request(w, &cq, &cq, shape);
        let qp = guest.create_qp(w, &req).expect("a queue pair");
        let buffer = w.ram_mut(guest.hca).alloc(BUFFER as usize);
        let mr = guest.mr(w, buffer, BUFFER, RIGHTS).expect("a region");
        Self { guest, cq, qp, mr }
    }

    /// Takes the queue pair from RESET to RTS. PSNs begin at `sq_psn` and `rq_psn`; `tune` changes the attributes of
    /// any of the three transitions.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn connect(
        &mut self,
        w: &mut World,
        (dgid, dest_qpn): (verbena_hw::id::Gid, verbena_hw::id::Qpn),
        (sq_psn, rq_psn): (u32, u32),
        tune: impl Fn(&mut QpAttrs),
    ) {
        for (mask, mut attrs) in [attrs::init(), attrs::rtr(dgid, dest_qpn, rq_psn), attrs::rts(sq_psn)] {
            tune(&mut attrs);
            self.guest.modify(w, self.qp.qpn, mask, attrs).expect("a transition");
        }
    }

    /// Address of byte `offset` of the buffer.
    pub fn addr(&self, offset: u64) -> u64 {
        self.mr.addr + offset
    }

    /// R_Key of the buffer.
    pub fn rkey(&self) -> Key {
        self.mr.rkey
    }

    /// An element of the buffer.
    pub fn sge(&self, offset: u64, len: u32) -> Sge {
        Sge {
            addr: self.addr(offset),
            len,
            lkey: self.mr.lkey,
        }
    }

    /// Writes into the buffer.
    pub fn fill(&self, w: &mut World, offset: u64, bytes: &[u8]) {
        w.ram(self.guest.hca).write(self.addr(offset), bytes);
    }

    /// Reads from the buffer.
    pub fn bytes(&self, w: &World, offset: u64, len: usize) -> Vec<u8> {
        w.ram(self.guest.hca).read(self.addr(offset), len)
    }

    /// Posts a send work request and rings.
    pub fn post(&mut self, w: &mut World, wr: SendWr) {
        self.qp.post(w, wr);
    }

    /// Posts a receive into the buffer.
    pub fn post_recv(&mut self, w: &mut World, wr_id: u64, offset: u64, len: u32) {
        let wr = RecvWr::new(wr_id, &[self.sge(offset, len)]);
        self.qp.post_recv(w, wr);
    }

    /// The next completion, which must be there.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn completion(&mut self, w: &World) -> Cqe {
        self.cq.poll(w).expect("a completion")
    }

    /// That there is no completion.
    ///
    /// # Panics
    ///
    /// If there is one.
    pub fn nothing(&mut self, w: &World) {
        assert_eq!(self.cq.poll(w), None);
    }
}

/// Two connected ends.
pub struct Pair {
    /// The world.
    pub world: World,
    /// One end.
    pub a: End,
    /// The other.
    pub b: End,
}

impl Pair {
    /// A connection with the usual attributes.
    pub fn connected() -> Self {
        Self::with(QpShape::default(), 8, |_| {})
    }

    /// A connection whose queue pairs have this shape, whose completion queues have `1 << cq_log` entries, and
    /// whose attributes `tune` changes, on both sides.
    pub fn with(shape: QpShape, cq_log: u8, tune: impl Fn(&mut QpAttrs)) -> Self {
        Self::within(World::new(1), shape, cq_log, tune)
    }

    /// As [`Pair::with`], in a world of one's own.
    pub fn within(mut world: World, shape: QpShape, cq_log: u8, tune: impl Fn(&mut QpAttrs)) -> Self {
        let mut a = End::new(&mut world, shape, cq_log);
        let mut b = End::new(&mut world, shape, cq_log);
        let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
        // Near the end of the sequence, so that every test crosses its wrap.
        a.connect(&mut world, to_b, (0xff_fffe, 0x12), &tune);
        b.connect(&mut world, to_a, (0x12, 0xff_fffe), &tune);
        Self { world, a, b }
    }

    /// Gives both ends other queue pairs, connected, and answers those that they had.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn reconnect(world: &mut World, a: &mut End, b: &mut End, shape: QpShape) -> (Qp, Qp) {
        let [old_a, old_b] = [&mut *a, &mut *b].map(|end| {
            let req = end.guest.qp_request(world, &end.cq, &end.cq, shape);
            let qp = end.guest.create_qp(world, &req).expect("a queue pair");
            core::mem::replace(&mut end.qp, qp)
        });
        let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
        a.connect(world, to_b, (1, 1), |_| {});
        b.connect(world, to_a, (1, 1), |_| {});
        (old_a, old_b)
    }

    /// Connects both anew, the first end with another queue pair, whose sends complete in `send_cqn`.
    ///
    /// # Panics
    ///
    /// If the device refuses.
    pub fn complete_sends_in(&mut self, send_cqn: Cqn) {
        let Self { world, a, b } = self;
        let mut req = a.guest.qp_request(world, &a.cq, &a.cq, QpShape::default());
        req.send_cqn = send_cqn;
        a.qp = a.guest.create_qp(world, &req).expect("a queue pair");
        let (to_b, to_a) = ((b.guest.gid(), b.qp.qpn), (a.guest.gid(), a.qp.qpn));
        b.guest.modify_state(world, b.qp.qpn, QpState::RESET).expect("reset");
        a.connect(world, to_b, (1, 1), |_| {});
        b.connect(world, to_a, (1, 1), |_| {});
    }
}
