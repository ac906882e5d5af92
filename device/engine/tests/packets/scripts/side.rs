// SPDX-License-Identifier: MIT OR Apache-2.0
//! One side of a script's connections.

use super::keys::{Change, Class, Flaw, Opening, HANDLES};
use super::script::{slot, Area, Script, SLOT, SLOTS};
use std::collections::{BTreeMap, BTreeSet};
use verbena_engine::testing::{attrs, Cq, Guest, Mr, Qp, QpShape, RecvWr, SendWr, Srq, World};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{BindMwReq, CreateMrReq, CreateMwReq, CreateMwRsp, QueryMrRsp, QueryMwRsp, MR_FAST};
use verbena_hw::cqe::{flags, Cqe, Status};
use verbena_hw::id::{Gid, Key, Qpn, Srqn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpType};
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{BindArgs, Sge};

/// One side: a guest with a queue pair for each connection.
pub struct Side {
    pub guest: Guest,
    pub cq: Cq,
    pub qps: Vec<Qp>,
    /// XRC's targets, whose initiators are the other side's `qps`.
    pub targets: Vec<Qp>,
    /// One for all, or with XRC one for each connection.
    pub srqs: Vec<Srq>,
    pub buffer: Mr,
    pub closed: Mr,
    /// Of each connection's handles, the keys that they have had: of those whose keys it chooses, the first.
    pub keys: Vec<[Vec<Key>; HANDLES.len()]>,
    /// What each queue of each queue pair has completed, receive queues apart: between the two there is no order.
    pub completed: BTreeMap<(usize, bool), Vec<Completed>>,
    pub events: Vec<(u64, u8, u64)>,
}

/// How its peer names a side's queue pairs.
pub struct Name {
    pub gid: Gid,
    pub qps: Vec<Qpn>,
    pub targets: Vec<Qpn>,
}

/// A completion, without what depends on time and on numbers that are drawn.
pub type Completed = (u64, Status, Option<u8>, u8, u32, u32, u32);

/// Something that has keys.
fn handle(w: &mut World, guest: &mut Guest, class: Class) -> Key {
    let pdn = guest.pdn;
    let mw_type = match class {
        Class::Command => MwType::TYPE_1,
        Class::Window => MwType::TYPE_2,
        Class::Region => {
            let req = CreateMrReq {
                pages: PageList::default(),
                iova: 0,
                len: 2,
                first_offset: 0,
                pdn,
                access: 0,
                flags: MR_FAST,
                reserved: 0,
            };
            return guest.register(w, &req).expect("a region").lkey;
        }
    };
    let req = CreateMwReq {
        pdn,
        mw_type,
        reserved: [0; 3],
    };
    let rsp: CreateMwRsp = guest.command(w, Opcode::CREATE_MW, &req).expect("a window");
    rsp.rkey
}

/// What a handle is at the end of a script: the key's number, its address, its length, its rights.
pub type Shown = (u8, u64, u64, u32);

impl Side {
    pub fn new(w: &mut World, script: &Script) -> Self {
        let mut guest = Guest::start(w, 2 << 20);
        let cq = guest.cq(w, 7);
        let xrcdn = guest.xrcd(w);
        let shared = match script.xrc {
            true => script.connections,
            false => script.shared.into(),
        };
        let srqs: Vec<_> = (0..shared)
            .map(|_| {
                let req = match script.xrc {
                    true => guest.xrc_srq_request(w, 6, xrcdn, &cq),
                    false => guest.srq_request(w, 6),
                };
                guest.create_srq(w, &req).expect("a shared receive queue")
            })
            .collect();
        let shape = QpShape {
            sq_log: 5,
            rq_log: 5,
            sq_log_stride: 9,
            rq_log_stride: 6,
            max_sge: 3,
            max_inline: 256,
        };
        let qps = (0..script.connections)
            .map(|_| {
                if script.xrc {
                    let req = guest.initiator_request(w, &cq, shape);
                    return guest.create_qp(w, &req).expect("an initiator");
                }
                let mut req = guest.qp_request(w, &cq, &cq, shape);
                if let Some(srq) = srqs.first() {
                    req.srqn = srq.srqn;
                    (req.rq, req.rq_log_entries, req.rq_log_stride, req.max_recv_sge) = Default::default();
                }
                guest.create_qp(w, &req).expect("a queue pair")
            })
            .collect();
        let targets = (0..if script.xrc { script.connections } else { 0 })
            .map(|n| {
                let mut req = guest.target_request(xrcdn);
                req.cookie += n as u64;
                guest.create_qp(w, &req).expect("a target")
            })
            .collect();
        let len = slot(script.connections, Area::Own, 0);
        let at = w.ram_mut(guest.hca).alloc(len as usize);
        let pattern: Vec<u8> = (0..len).map(|i| (i * 7 + i / 253) as u8).collect();
        w.ram(guest.hca).write(at, &pattern);
        let all = access::MR_ALL & !access::ZERO_BASED;
        let buffer = guest.mr(w, at, len, all).expect("a region");
        let closed = guest
            .mr(w, at, len, access::LOCAL_WRITE | access::FLUSH_GLOBAL)
            .expect("a region");
        let handles = if script.keys { script.connections } else { 0 };
        let keys = (0..handles)
            .map(|_| HANDLES.map(|class| vec![handle(w, &mut guest, class)]))
            .collect();
        Self {
            guest,
            cq,
            qps,
            targets,
            srqs,
            buffer,
            closed,
            keys,
            completed: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    pub fn name(&self) -> Name {
        let numbers = |qps: &[Qp]| qps.iter().map(|qp| qp.qpn).collect();
        Name {
            gid: self.guest.gid(),
            qps: numbers(&self.qps),
            targets: numbers(&self.targets),
        }
    }

    pub fn connect(&mut self, w: &mut World, script: &Script, peer: &Name) {
        const FIRST: (u32, u32) = (0xff_fff0, 0xff_fff0);
        let (own, to) = match script.xrc {
            true => (QpType::XRC_INI, &peer.targets),
            false => (QpType::RC, &peer.qps),
        };
        let senders = self.qps.iter().zip(to).map(|(qp, to)| (own, qp, *to));
        let targets = self.targets.iter().zip(&peer.qps);
        let targets = targets.map(|(qp, to)| (QpType::XRC_TGT, qp, *to));
        for (kind, qp, to) in senders.chain(targets) {
            for (mask, mut attrs) in attrs::connection(kind, peer.gid, to, FIRST) {
                if attrs.path_mtu != 0 {
                    attrs.path_mtu = script.mtu.0;
                }
                // About a millisecond, and as often as can be.
                (attrs.timeout, attrs.retry_cnt, attrs.rnr_retry) = (8, 7, script.patience);
                attrs.max_rd_atomic = script.depth;
                self.guest.modify(w, qp.qpn, mask, attrs).expect("a transition");
            }
        }
    }

    pub fn receive(&mut self, w: &World, connection: usize, wr_id: u64, len: u32) {
        let n = (wr_id % u64::from(SLOTS)) as u32;
        let sge = Sge {
            addr: self.buffer.addr + slot(connection, Area::Receive, n),
            len,
            lkey: self.buffer.lkey,
        };
        let wr = RecvWr::new(wr_id, &[sge]);
        let shared = self.srqs.len();
        match shared {
            0 => self.qps[connection].post_recv(w, wr),
            _ => self.srqs[connection % shared].post(w, wr),
        }
    }

    /// Takes what has been completed. Answers the ids.
    pub fn drain(&mut self, w: &mut World) -> BTreeSet<(usize, u64)> {
        let mut seen = BTreeSet::new();
        for cqe in self.cq.drain(w) {
            let of = |qps: &[Qp]| qps.iter().position(|qp| qp.qpn == cqe.qpn);
            let connection = of(&self.qps).or(of(&self.targets)).expect("one of its queue pairs");
            seen.insert((connection, cqe.wr_id));
            let what = self.completed(&cqe);
            self.completed
                .entry((connection, cqe.flags & flags::RECV != 0))
                .or_default()
                .push(what);
        }
        let events = self.guest.events(w);
        self.events
            .extend(events.iter().map(|eqe| (eqe.cookie, eqe.event, eqe.data)));
        seen
    }

    /// A handle's key, by number.
    pub fn key(&self, connection: usize, handle: usize, tag: u32) -> Key {
        let keys = &self.keys[connection][handle];
        match HANDLES[handle] {
            Class::Command => keys[tag as usize],
            _ => Key::from_parts(keys[0].index(), keys[0].tag().wrapping_add(tag as u8)),
        }
    }

    /// A completion, without what depends on time and on numbers that are drawn.
    fn completed(&self, cqe: &Cqe) -> Completed {
        let opcode = (cqe.status == 0).then_some(cqe.opcode);
        let mut imm = cqe.imm;
        if cqe.flags & flags::INVALIDATED != 0 {
            let of = |key: &Key| key.index() == Key(imm).index();
            let mut handles = self.keys.iter().flatten();
            let at = handles.position(|keys| of(&keys[0])).expect("one of its keys");
            let keys = self.keys.iter().flatten().nth(at).expect("it was there");
            imm = (at as u32) << 8 | u32::from(Key(imm).tag().wrapping_sub(keys[0].tag()));
        }
        (
            cqe.wr_id,
            Status(cqe.status),
            opcode,
            cqe.flags,
            cqe.byte_len,
            imm,
            cqe.vendor_err,
        )
    }

    /// Address of a connection's first target slot.
    pub fn targets(&self, connection: usize) -> u64 {
        self.buffer.addr + slot(connection, Area::Target, 0)
    }

    /// The work request that changes a key.
    pub fn change(&self, connection: usize, wr_id: u64, change: Change) -> SendWr {
        let (handle, tag, opening, flaw) = match change {
            Change::Close { handle, tag } => {
                return SendWr::local_invalidate(wr_id, self.key(connection, handle, tag));
            }
            Change::Open {
                handle,
                tag,
                opening,
                flaw,
            } => (handle, tag, opening, flaw),
        };
        let key = self.key(connection, handle, tag);
        let mut lkey = self.buffer.lkey;
        if matches!(flaw, Some(Flaw::Key)) {
            lkey = Key(lkey.0 ^ 0x55);
        }
        if opening.class == Class::Region {
            let memory = self.memory(connection, opening, lkey, flaw);
            let iova = opening.address(opening.first, self.targets(connection));
            let mut rights = opening.rights;
            if matches!(flaw, Some(Flaw::Rights)) {
                rights |= access::FLUSH_PERSISTENT;
            }
            return SendWr::register(wr_id, key, iova, rights, &memory);
        }
        let (at, mut args) = self.binding(connection, opening);
        args.lkey = lkey;
        match flaw {
            Some(Flaw::Range) => args.len = self.buffer.len,
            Some(Flaw::Rights) => args.lkey = self.closed.lkey,
            Some(Flaw::Nothing) => args.len = 0,
            Some(Flaw::Key) | None => {}
        }
        SendWr::bind(wr_id, key, at, args)
    }

    fn binding(&self, connection: usize, opening: Opening) -> (u64, BindArgs) {
        let at = self.targets(connection) + u64::from(opening.first * SLOT);
        let args = BindArgs {
            len: u64::from(opening.slots * SLOT),
            lkey: self.buffer.lkey,
            access: opening.rights,
        };
        (at, args)
    }

    /// What a region consists of.
    fn memory(&self, connection: usize, opening: Opening, lkey: Key, flaw: Option<Flaw>) -> Vec<Sge> {
        let part = |from: u32, to: u32| Sge {
            addr: self.targets(connection) + u64::from(from * SLOT),
            len: (to - from) * SLOT,
            lkey,
        };
        let mut parts = vec![part(opening.first, SLOTS), part(0, opening.first)];
        match flaw {
            Some(Flaw::Range) => parts[0].len = self.buffer.len as u32,
            Some(Flaw::Nothing) => parts.clear(),
            _ => {}
        }
        parts
    }

    /// Makes the changes of keys that a batch of the other side's needs. Answers the number of the last work request.
    pub fn prepare(&mut self, w: &mut World, connection: usize, first: u64, changes: &[Change]) -> Option<u64> {
        let mut last = None;
        for (n, &change) in changes.iter().enumerate() {
            if let Change::Open { handle, opening, .. } = change {
                if opening.class == Class::Command {
                    self.bind(w, connection, handle, opening);
                    continue;
                }
            }
            let wr_id = first + n as u64;
            let mut wr = self.change(connection, wr_id, change);
            if !self.targets.is_empty() {
                // An initiator's entries have a place for a number, whatever they are.
                wr = wr.srq(Srqn::default());
            }
            self.qps[connection].post_quietly(w, wr);
            last = Some(wr_id);
        }
        if last.is_some() {
            self.qps[connection].ring(w);
        }
        last
    }

    /// Binds a window of type 1.
    fn bind(&mut self, w: &mut World, connection: usize, handle: usize, opening: Opening) {
        let (addr, args) = self.binding(connection, opening);
        let req = BindMwReq {
            addr,
            len: args.len,
            index: self.keys[connection][handle][0].index(),
            lkey: args.lkey,
            access: args.access,
            reserved: [0; 2],
            reserved1: 0,
        };
        let rsp: CreateMwRsp = self.guest.command(w, Opcode::BIND_MW, &req).expect("bound");
        self.keys[connection][handle].push(rsp.rkey);
    }

    /// What its handles are.
    pub fn shown(&mut self, w: &mut World) -> Vec<Shown> {
        let mut shown = Vec::new();
        for keys in &self.keys {
            for (keys, class) in keys.iter().zip(HANDLES) {
                let index = keys[0].index();
                let number = |key: Key| match class {
                    // Drawn anew each time.
                    Class::Command => keys.iter().position(|&had| had == key).expect("its key") as u8,
                    _ => key.tag().wrapping_sub(keys[0].tag()),
                };
                shown.push(match class {
                    Class::Region => {
                        let mr: QueryMrRsp = self.guest.about(w, Opcode::QUERY_MR, index).expect("a region");
                        (number(mr.lkey), mr.iova, mr.len, mr.access)
                    }
                    _ => {
                        let mw: QueryMwRsp = self.guest.about(w, Opcode::QUERY_MW, index).expect("a window");
                        let qpn = mw.qpn;
                        assert!(
                            qpn == Qpn::default() || self.qps.iter().any(|qp| qp.qpn == qpn),
                            "who bound it"
                        );
                        (number(mw.rkey), mw.iova, mw.len, mw.access)
                    }
                });
            }
        }
        shown
    }
}
