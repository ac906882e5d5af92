// SPDX-License-Identifier: MIT OR Apache-2.0
//! H4 and H5: every operation on every type of queue pair, with as many elements and inline bytes as an entry can have, and with
//! each flag; and refused on the types that do not have it.

use crate::datagrams::{address, GRH, QKEY};
use crate::way;
use verbena_engine::testing::{attrs, Cq, End, Guest, Mr, Pair, QpShape, RecvWr, SendWr, Srq, World};
use verbena_hw::admin::Opcode as Admin;
use verbena_hw::cmd::{CreateMrReq, CreateMwReq, CreateMwRsp, MR_FAST};
use verbena_hw::cqe::{vendor, CqRecord, Cqe, Opcode as Of, Status};
use verbena_hw::eqe::Event;
use verbena_hw::id::Key;
use verbena_hw::mw::MwType;
use verbena_hw::qp::{access, QpState, QpType, GSI_QKEY};
use verbena_hw::wqe::{flush, send_flags, BindArgs, FlushArgs, SendOpcode, Sge, UdArgs, MAX_INLINE, MAX_SGE};
use zerocopy::FromZeros;

use SendOpcode as S;

const TYPES: [QpType; 6] = [
    QpType::RC,
    QpType::XRC_INI,
    QpType::UC,
    QpType::UD,
    QpType::GSI,
    QpType::RAW,
];

/// What each type has (IBA vol. 1, 9.2 and 10.8.2; raw frames have no headers to say more than SEND). RC and XRC: everything.
fn has(kind: QpType, opcode: SendOpcode) -> bool {
    let datagram = matches!(opcode, S::SEND | S::SEND_WITH_IMM);
    let own_keys = matches!(
        opcode,
        S::LOCAL_INVALIDATE | S::BIND_MW | S::FAST_REGISTER | S::FAST_REGISTER_LIST
    );
    match kind {
        QpType::RC | QpType::XRC_INI => true,
        QpType::UC => datagram || own_keys || matches!(opcode, S::WRITE | S::WRITE_WITH_IMM),
        QpType::UD | QpType::GSI => datagram,
        _ => opcode == S::SEND,
    }
}

/// Bytes of an element, and of a message of as many elements as there can be: a management datagram's, because the general services
/// interface takes no other.
const EACH: u32 = 8;
const ALL: u32 = EACH * MAX_SGE as u32;

/// Two ends, of which one sends.
struct Scene {
    w: World,
    a: End,
    b: End,
    kind: QpType,
    /// XRC: where the other end's receives are, and complete.
    shared: Option<(Srq, Cq)>,
    salt: u8,
}

fn end(w: &mut World, kind: QpType) -> End {
    let mut guest = Guest::start(w, 8 << 20);
    let cq = guest.cq(w, 8);
    let mut req = guest.qp_request(w, &cq, &cq, QpShape::default());
    req.qp_type = kind;
    let qp = guest.create_qp(w, &req).expect("a queue pair");
    let mr = memory(w, &mut guest);
    End { guest, cq, qp, mr }
}

/// A region that allows everything.
fn memory(w: &mut World, guest: &mut Guest) -> Mr {
    let buffer = w.ram_mut(guest.hca).alloc(1 << 20);
    let rights = access::MR_ALL & !access::ZERO_BASED;
    guest.mr(w, buffer, 1 << 20, rights).expect("a region")
}

impl Scene {
    fn new(kind: QpType) -> Self {
        if matches!(kind, QpType::RC | QpType::XRC_INI) {
            let Pair {
                mut world,
                mut a,
                mut b,
            } = way::connected();
            for end in [&mut a, &mut b] {
                end.mr = memory(&mut world, &mut end.guest);
            }
            let (shared, salt) = (None, 0);
            let mut scene = Self {
                w: world,
                a,
                b,
                kind,
                shared,
                salt,
            };
            if kind == QpType::XRC_INI {
                scene.xrc();
            }
            return scene;
        }
        let mut w = way::world(1);
        let (mut a, mut b) = (end(&mut w, kind), end(&mut w, kind));
        let (to_a, to_b) = ((a.guest.gid(), a.qp.qpn), (b.guest.gid(), b.qp.qpn));
        for (end, to) in [(&mut a, to_b), (&mut b, to_a)] {
            let steps = match kind {
                QpType::UC => attrs::connection(kind, to.0, to.1, (7, 9)),
                QpType::RAW => attrs::raw(),
                kind => attrs::datagram(kind, if kind == QpType::GSI { GSI_QKEY } else { QKEY }),
            };
            for (mask, attrs) in steps {
                end.guest.modify(&mut w, end.qp.qpn, mask, attrs).expect("a transition");
            }
        }
        let (shared, salt) = (None, 0);
        Self {
            w,
            a,
            b,
            kind,
            shared,
            salt,
        }
    }

    /// a's queue pair becomes an initiator; b has a target for it.
    fn xrc(&mut self) {
        let w = &mut self.w;
        let (a, b) = (&mut self.a, &mut self.b);
        let xrcdn = b.guest.xrcd(w);
        let cq = b.guest.cq(w, 8);
        let mut req = b.guest.xrc_srq_request(w, 4, xrcdn, &cq);
        req.log_stride = 10;
        req.max_sge = MAX_SGE;
        let ring = w.ram_mut(b.guest.hca).alloc(16 << 10);
        req.ring = verbena_hw::ring::PageList::direct(ring, 16 << 10);
        let srq = b.guest.create_srq(w, &req).expect("a queue");
        let req = b.guest.target_request(xrcdn);
        let target = b.guest.create_qp(w, &req).expect("a target").qpn;
        let req = a.guest.initiator_request(w, &a.cq, QpShape::default());
        a.qp = a.guest.create_qp(w, &req).expect("an initiator");
        let to_b = attrs::connection(QpType::XRC_INI, b.guest.gid(), target, (7, 9));
        let to_a = attrs::connection(QpType::XRC_TGT, a.guest.gid(), a.qp.qpn, (9, 7));
        for (guest, qpn, steps) in [(&mut a.guest, a.qp.qpn, to_b), (&mut b.guest, target, to_a)] {
            for (mask, attrs) in steps {
                guest.modify(w, qpn, mask, attrs).expect("a transition");
            }
        }
        self.shared = Some((srq, cq));
    }

    /// As many elements as an entry has, one behind the other.
    fn elements(end: &End, at: u64, first: u32) -> Vec<Sge> {
        let mut list = vec![end.sge(at, first)];
        list.extend((1..u64::from(MAX_SGE)).map(|n| end.sge(at + u64::from(first) + (n - 1) * u64::from(EACH), EACH)));
        list
    }

    fn is_datagram(&self) -> bool {
        matches!(self.kind, QpType::UD | QpType::GSI)
    }

    /// Bytes that stand before the message in its receive.
    fn before(&self) -> u64 {
        if self.is_datagram() {
            GRH
        } else {
            0
        }
    }

    /// A receive of as many elements as there can be, at 64 KiB.
    fn receive(&mut self, wr_id: u64, len: u32) {
        let first = self.before() as u32 + len - EACH * (u32::from(MAX_SGE) - 1);
        let wr = RecvWr::new(wr_id, &Self::elements(&self.b, 64 << 10, first));
        match &mut self.shared {
            Some((srq, _)) => srq.post(&self.w, wr),
            None => self.b.qp.post_recv(&self.w, wr),
        }
    }

    fn received(&mut self) -> Option<Cqe> {
        let cq = self.shared.as_mut().map_or(&mut self.b.cq, |(_, cq)| cq);
        cq.poll(&self.w)
    }

    fn post(&mut self, wr: SendWr) {
        let qpn = if self.kind == QpType::GSI {
            verbena_hw::id::Qpn::GSI
        } else {
            self.b.qp.qpn
        };
        let qkey = if self.kind == QpType::GSI { GSI_QKEY } else { QKEY };
        let wr = match (&self.shared, self.is_datagram()) {
            (Some((srq, _)), _) => wr.srq(srq.srqn),
            (_, true) => wr.to(UdArgs {
                qkey,
                ..address(self.b.guest.gid(), qpn)
            }),
            _ => wr,
        };
        self.a.qp.post(&self.w, wr);
        self.w.run();
    }

    /// Other data each time; a raw frame's begin with its addresses.
    fn data(&mut self, len: u32) -> Vec<u8> {
        self.salt = self.salt.wrapping_add(1);
        let salt = self.salt;
        let mut data: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(7) ^ salt).collect();
        if self.kind == QpType::RAW {
            data[..6].copy_from_slice(&self.w.mac(self.b.guest.hca));
            data[6..12].copy_from_slice(&self.w.mac(self.a.guest.hca));
            data[12..14].copy_from_slice(&[0x88, 0xb5]);
        }
        data
    }

    /// A region at an end that has no memory yet.
    fn without_memory(w: &mut World, end: &mut End) -> Key {
        let req = CreateMrReq {
            len: u64::from(MAX_SGE),
            pdn: end.guest.pdn,
            flags: MR_FAST,
            ..CreateMrReq::new_zeroed()
        };
        let key = end.guest.register(w, &req).expect("a region").lkey;
        Key::from_parts(key.index(), 0x21)
    }

    /// One that has: whose key is there to be invalidated.
    fn registered(w: &mut World, end: &mut End) -> Key {
        let key = Self::without_memory(w, end);
        let register = SendWr::register(0, key, 0, access::LOCAL_WRITE, &[end.sge(0, 64)]);
        end.qp.post(w, register);
        w.run();
        assert_eq!(end.completion(w).status, 0);
        key
    }

    /// A work request of this kind, and a check that it has done what it should.
    fn request(&mut self, opcode: SendOpcode) -> (SendWr, Expected) {
        let data = self.data(ALL);
        self.a.fill(&mut self.w, 0, &data);
        let own = Self::elements(&self.a, 0, EACH);
        let (there, rkey) = (self.b.addr(128 << 10), self.b.rkey());
        let eight = [self.a.sge(0, 8)];
        match opcode {
            S::WRITE => (SendWr::write(1, &own, there, rkey), Expected::Written(data)),
            S::WRITE_WITH_IMM => {
                self.receive(50, ALL);
                let wr = SendWr::write(1, &own, there, rkey).imm(5);
                (wr, Expected::WrittenAndTold(data))
            }
            S::SEND => {
                self.receive(50, ALL);
                (SendWr::send(1, &own), Expected::Received(data))
            }
            S::SEND_WITH_IMM => {
                self.receive(50, ALL);
                (SendWr::send(1, &own).imm(5), Expected::Received(data))
            }
            S::SEND_WITH_INVALIDATE => {
                self.receive(50, ALL);
                // By a queue pair of the same domain, whatever its type.
                let key = Self::registered(&mut self.w, &mut self.b);
                (SendWr::send_invalidate(1, &own, key), Expected::Received(data))
            }
            S::READ => {
                self.b.fill(&mut self.w, 128 << 10, &data);
                self.a.fill(&mut self.w, 0, &[0; ALL as usize]);
                (SendWr::read(1, &own, there, rkey), Expected::Read(data))
            }
            S::COMPARE_SWAP => {
                self.b.fill(&mut self.w, 128 << 10, &5u64.to_le_bytes());
                let wr = SendWr::compare_swap(1, eight[0], there, rkey, 5, 9);
                (wr, Expected::Written(9u64.to_le_bytes().to_vec()))
            }
            S::FETCH_ADD => {
                self.b.fill(&mut self.w, 128 << 10, &5u64.to_le_bytes());
                let wr = SendWr::fetch_add(1, eight[0], there, rkey, 4);
                (wr, Expected::Written(9u64.to_le_bytes().to_vec()))
            }
            S::ATOMIC_WRITE => {
                let wr = SendWr::atomic_write(1, &[self.a.sge(0, 4), self.a.sge(4, 4)], there, rkey);
                (wr, Expected::Written(data[..8].to_vec()))
            }
            S::FLUSH => {
                let args = FlushArgs {
                    len: 64,
                    placement: flush::GLOBAL,
                    level: flush::RANGE,
                };
                (SendWr::flush(1, there, rkey, args), Expected::Nothing)
            }
            S::LOCAL_INVALIDATE => {
                let key = if has(self.kind, opcode) && self.kind != QpType::XRC_INI {
                    Self::registered(&mut self.w, &mut self.a)
                } else {
                    self.registered_by_initiator()
                };
                (SendWr::local_invalidate(1, key), Expected::Nothing)
            }
            S::FAST_REGISTER => {
                let key = Self::without_memory(&mut self.w, &mut self.a);
                let wr = SendWr::register(1, key, 0, access::LOCAL_WRITE, &own);
                (wr, Expected::Nothing)
            }
            S::FAST_REGISTER_LIST => {
                let key = Self::without_memory(&mut self.w, &mut self.a);
                let list = [self.a.sge(0, 64), self.a.sge(4096, 64)];
                let bytes: Vec<u8> = list
                    .iter()
                    .flat_map(|sge| zerocopy::IntoBytes::as_bytes(sge).to_vec())
                    .collect();
                self.a.fill(&mut self.w, 32 << 10, &bytes);
                let list = self.a.sge(32 << 10, bytes.len() as u32);
                let wr = SendWr::register_list(1, key, 0, access::LOCAL_WRITE, &[list]);
                (wr, Expected::Nothing)
            }
            S::BIND_MW => {
                let req = CreateMwReq {
                    pdn: self.a.guest.pdn,
                    mw_type: MwType::TYPE_2,
                    reserved: [0; 3],
                };
                let (w, g) = (&mut self.w, &mut self.a.guest);
                let mw: CreateMwRsp = g.command(w, Admin::CREATE_MW, &req).expect("a window");
                let args = BindArgs {
                    len: 64,
                    lkey: self.a.mr.lkey,
                    access: access::REMOTE_READ,
                };
                let key = Key::from_parts(mw.rkey.index(), 0x33);
                (SendWr::bind(1, key, self.a.addr(0), args), Expected::Nothing)
            }
            other => panic!("{other} has no scenario"),
        }
    }

    /// As [`Scene::registered`], by a's own queue, which is an initiator's; a number of no object where that has no such operation.
    fn registered_by_initiator(&mut self) -> Key {
        if self.kind != QpType::XRC_INI {
            return Key::from_parts(0x1234, 1);
        }
        let key = Self::without_memory(&mut self.w, &mut self.a);
        let register = SendWr::register(0, key, 0, access::LOCAL_WRITE, &[self.a.sge(0, 64)]);
        self.post(register);
        assert_eq!(self.a.completion(&self.w).status, 0);
        key
    }

    /// Checks what a request of an [`Expected`] has done, and that its receive, if it took one, is complete.
    fn check(&mut self, expected: &Expected, what: &str) {
        match expected {
            Expected::Nothing => {}
            Expected::Written(data) | Expected::WrittenAndTold(data) => {
                assert_eq!(&self.b.bytes(&self.w, 128 << 10, data.len()), data, "{what}");
            }
            Expected::Received(data) => {
                let at = (64 << 10) + self.before();
                assert_eq!(&self.b.bytes(&self.w, at, data.len()), data, "{what}");
            }
            Expected::Read(data) => assert_eq!(&self.a.bytes(&self.w, 0, data.len()), data, "{what}"),
        }
        let takes = matches!(expected, Expected::Received(_) | Expected::WrittenAndTold(_));
        let got = self.received();
        assert_eq!(
            got.map(|cqe| (cqe.status, cqe.wr_id)),
            takes.then_some((0, 50)),
            "{what}"
        );
        assert_eq!(self.received(), None, "{what}");
    }
}

/// What a work request does.
enum Expected {
    Nothing,
    /// These bytes at the peer's 128 KiB.
    Written(Vec<u8>),
    /// And a receive.
    WrittenAndTold(Vec<u8>),
    /// A receive of these bytes.
    Received(Vec<u8>),
    /// These bytes at home.
    Read(Vec<u8>),
}

fn over_packets_carries(kind: QpType) -> bool {
    // Raw frames are not the transport's.
    way::either(true, kind != QpType::RAW)
}

/// A rule, so that raw frames to b's port arrive.
fn steer(scene: &mut Scene) {
    use verbena_hw::cmd::CreateFlowReq;
    if scene.kind == QpType::RAW {
        let mut req = CreateFlowReq {
            qpn: scene.b.qp.qpn,
            port: 1,
            flow_type: verbena_hw::flow::FlowType::NORMAL,
            ..CreateFlowReq::new_zeroed()
        };
        (req.value.dmac, req.mask.dmac) = (scene.w.mac(scene.b.guest.hca), [0xff; 6]);
        scene
            .b
            .guest
            .create(&mut scene.w, Admin::CREATE_FLOW, &req)
            .expect("a rule");
    }
}

#[test]
fn h05_every_operation_on_every_type_with_every_flag_and_all_elements() {
    const FLAGS: [u8; 5] = [
        send_flags::SIGNALED,
        0,
        send_flags::SIGNALED | send_flags::FENCE,
        send_flags::SIGNALED | send_flags::SOLICITED,
        send_flags::FENCE | send_flags::SOLICITED,
    ];
    let mut done = 0;
    for kind in TYPES.into_iter().filter(|&kind| over_packets_carries(kind)) {
        let mut scene = Scene::new(kind);
        steer(&mut scene);
        for (opcode, name) in SendOpcode::ALL.iter().filter(|(opcode, _)| has(kind, *opcode)) {
            for flags in FLAGS {
                let what = format!("{kind} {name} with flags {flags:#x}");
                let (mut wr, expected) = scene.request(*opcode);
                wr.header.flags = flags;
                assert_eq!(wr.header.opcode, opcode.0, "{what}");
                scene.b.guest.events(&mut scene.w);
                let cq = scene.shared.as_mut().map_or(&mut scene.b.cq, |(_, cq)| cq);
                cq.arm(&scene.w, CqRecord::ARM_SOLICITED);
                scene.post(wr);
                let sent = scene.a.cq.poll(&scene.w);
                let signaled = flags & send_flags::SIGNALED != 0;
                assert_eq!(
                    sent.map(|cqe| (Status(cqe.status), cqe.wr_id)),
                    signaled.then_some((Status::SUCCESS, 1)),
                    "{what}"
                );
                let takes = matches!(expected, Expected::Received(_) | Expected::WrittenAndTold(_));
                let events = scene.b.guest.events(&mut scene.w);
                let told = events.iter().any(|eqe| Event(eqe.event) == Event::COMPLETION);
                // Raw frames carry nothing beside themselves.
                let solicits = flags & send_flags::SOLICITED != 0 && kind != QpType::RAW;
                assert_eq!(told, takes && solicits, "{what}");
                scene.check(&expected, &what);
                done += 1;
            }
        }
        // One that is signalled accounts for those before it that were not.
        let (wr, expected) = scene.request(S::SEND);
        scene.post(wr);
        let sent = scene.a.completion(&scene.w);
        assert_eq!((sent.status, Of(sent.opcode)), (0, Of::SEND), "{kind}");
        assert_eq!(sent.consumed, scene.a.qp.sq_producer, "{kind}");
        scene.check(&expected, "the last");
    }
    let each = 14 + 14 + 8 + 2 + 2;
    assert_eq!(done, FLAGS.len() * way::either(each + 1, each));
}

#[test]
fn h05_every_operation_that_sends_data_takes_512_bytes_inline_and_no_more() {
    for kind in TYPES.into_iter().filter(|&kind| over_packets_carries(kind)) {
        let sending = |opcode: &SendOpcode| {
            use SendOpcode as S;
            let data = [
                S::WRITE,
                S::WRITE_WITH_IMM,
                S::SEND,
                S::SEND_WITH_IMM,
                S::SEND_WITH_INVALIDATE,
            ];
            has(kind, *opcode) && data.contains(opcode)
        };
        for opcode in SendOpcode::ALL.iter().map(|known| known.0).filter(sending) {
            let mut scene = Scene::new(kind);
            steer(&mut scene);
            let what = format!("{kind} {opcode} inline");
            let key = Scene::registered_elsewhere(&mut scene);
            let len = if kind == QpType::GSI { ALL } else { MAX_INLINE.into() };
            let data = scene.data(len);
            let mut wr = SendWr::send(1, &[]).inline(&data);
            (wr.header.opcode, wr.header.imm) = (opcode.0, key.0);
            (wr.header.remote_addr, wr.header.rkey) = (scene.b.addr(128 << 10), scene.b.rkey());
            let writes = matches!(opcode, S::WRITE | S::WRITE_WITH_IMM);
            let expected = match opcode {
                S::WRITE => Expected::Written(data),
                S::WRITE_WITH_IMM => Expected::WrittenAndTold(data),
                _ => Expected::Received(data),
            };
            if opcode != S::WRITE {
                scene.receive(50, len);
            }
            scene.post(wr.clone());
            let sent = scene.a.completion(&scene.w);
            assert_eq!((Status(sent.status), writes), (Status::SUCCESS, writes), "{what}");
            scene.check(&expected, &what);
            // One byte more than an entry can have.
            wr.header.inline_len = u32::from(MAX_INLINE) + 1;
            wr.body.resize(usize::from(MAX_INLINE) + 1, 0);
            scene.post(wr);
            refused(&mut scene, vendor::INLINE_LEN, &what);
        }
    }
}

impl Scene {
    /// A key at b that a SEND may invalidate; nothing where b's queue pair cannot register memory.
    fn registered_elsewhere(scene: &mut Scene) -> Key {
        match scene.kind {
            QpType::RC | QpType::XRC_INI => Scene::registered(&mut scene.w, &mut scene.b),
            _ => Key(5),
        }
    }
}

/// The last work request ended here, for this reason, as the type's errors do.
fn refused(scene: &mut Scene, reason: u32, what: &str) {
    let cqe = scene.a.completion(&scene.w);
    assert_eq!(
        (Status(cqe.status), cqe.vendor_err),
        (Status::LOC_QP_OP_ERR, reason),
        "{what}"
    );
    let ends = match scene.kind {
        QpType::RC | QpType::XRC_INI => QpState::ERR,
        _ => QpState::SQE,
    };
    let qpn = scene.a.qp.qpn;
    assert_eq!(scene.a.guest.state(&mut scene.w, qpn), ends, "{what}");
}

#[test]
fn h05_operations_that_a_type_does_not_have_are_refused_and_touch_nothing() {
    let known = SendOpcode::ALL.iter().map(|known| known.0);
    let unknown = [14, 15, 0x7f, 0xff].map(SendOpcode);
    let mut count = 0;
    for kind in TYPES {
        for opcode in known.clone().chain(unknown) {
            if unknown.contains(&opcode) || !has(kind, opcode) {
                let mut scene = Scene::new(kind);
                let what = format!("{kind} {opcode}");
                scene.receive(50, ALL);
                let mut wr = SendWr::write(1, &[scene.a.sge(0, 8)], scene.b.addr(128 << 10), scene.b.rkey());
                wr.header.opcode = opcode.0;
                // Unsignalled: an error has a completion all the same.
                wr.header.flags = 0;
                let before = scene.b.bytes(&scene.w, 128 << 10, 8);
                scene.post(wr);
                refused(&mut scene, vendor::OPCODE, &what);
                assert_eq!(scene.b.bytes(&scene.w, 128 << 10, 8), before, "{what}");
                assert_eq!(scene.received(), None, "{what}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 6 * 4 + 6 + 12 + 12 + 13);
}

#[test]
fn h04_an_element_more_than_an_entry_can_have_is_refused() {
    for kind in TYPES {
        let mut scene = Scene::new(kind);
        let mut list = Scene::elements(&scene.a, 0, EACH);
        list.push(scene.a.sge(0, EACH));
        scene.post(SendWr::send(1, &list));
        refused(&mut scene, vendor::SGE_COUNT, &kind.to_string());
    }
}
