// SPDX-License-Identifier: MIT OR Apache-2.0
//! H3: commands, and the status of each way in which one can fail.

use verbena_engine::testing::{Failed, Guest, Pair, QpShape, World};
use verbena_hw::admin::{Command, Opcode, Status};
use verbena_hw::cmd::*;
use verbena_hw::id::{Cqn, Eqn, Gid, Pdn, Srqn};
use verbena_hw::qp::{access, QpType};
use verbena_hw::regs;
use verbena_hw::ring::PageList;
use zerocopy::FromZeros;

const MEMORY: usize = 4 << 20;

fn guest() -> (World, Guest) {
    let mut w = World::new(1);
    let guest = Guest::start(&mut w, MEMORY);
    (w, guest)
}

/// What spoils a good request, and how it then fails.
type Case<R> = (fn(&mut R), Status, usize);

fn failed<T>(status: Status, detail: usize) -> Result<T, Failed> {
    Err(Failed {
        status,
        detail: detail as u32,
    })
}

macro_rules! at {
    ($t:ty, $f:ident) => {
        core::mem::offset_of!($t, $f)
    };
}

#[test]
fn h03_many_commands_in_flight_each_answered_by_its_id() {
    let (mut w, mut g) = guest();
    for id in 0..16 {
        g.submit(&mut w, Opcode::CREATE_PD, &[0u8; 0], 100 + id);
    }
    w.run();
    let mut ids: Vec<_> = core::iter::from_fn(|| g.reap(&mut w)).map(|c| c.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (100..116).collect::<Vec<_>>());
}

#[test]
fn h03_a_batch_of_completions_is_one_interrupt() {
    let (mut w, mut g) = guest();
    w.take_interrupts(g.hca, 0);
    for id in 0..8 {
        g.submit(&mut w, Opcode::NOP, &[0u8; 0], id);
    }
    w.run();
    assert_eq!(w.take_interrupts(g.hca, 0), 1);
}

#[test]
fn h03_completions_wait_while_the_ring_is_full() {
    let (mut w, mut g) = guest();
    for id in 0..16 {
        g.submit(&mut w, Opcode::NOP, &[0u8; 0], id);
    }
    w.run();
    // The completion ring is full; ten more commands may be taken, but not answered.
    for id in 16..26 {
        g.submit(&mut w, Opcode::NOP, &[0u8; 0], id);
    }
    w.run();
    let mut ids = Vec::new();
    while let Some(completion) = g.reap(&mut w) {
        ids.push(completion.id);
        w.run();
    }
    assert_eq!(ids, (0..26).collect::<Vec<_>>());
}

#[test]
fn h03_a_long_registration_lets_others_pass() {
    let mut w = World::new(1);
    let mut g = Guest::start(&mut w, 16 << 20);
    // The same two pages over and over, so that nothing merges.
    let count = 300_000u32;
    let list = w.ram_mut(g.hca).alloc(count as usize * 8);
    let page = w.ram_mut(g.hca).alloc(3 * 4096);
    let entries: Vec<u8> = (0..count)
        .flat_map(|i| (page + u64::from(i % 2) * 8192).to_le_bytes())
        .collect();
    w.ram(g.hca).write(list, &entries);
    let req = CreateMrReq {
        pages: PageList::indirect(list, count),
        iova: 0,
        len: u64::from(count) * 4096,
        first_offset: 0,
        pdn: g.pdn,
        access: access::LOCAL_WRITE,
        flags: 0,
        reserved: 0,
    };
    g.submit(&mut w, Opcode::CREATE_MR, &req, 1);
    g.submit(&mut w, Opcode::NOP, &[0u8; 0], 2);
    w.run();
    assert_eq!(g.reap(&mut w).map(|c| c.id), Some(2), "the short command overtakes");
    let done = g.reap(&mut w).expect("the long one ends too");
    assert_eq!((done.id, done.status), (1, Status::OK));
}

#[test]
fn h03_disabling_abandons_what_is_in_execution() {
    let mut w = World::new(1);
    let mut g = Guest::start(&mut w, 32 << 20);
    let count = 1u32 << 18;
    let list = w.ram_mut(g.hca).alloc(count as usize * 8);
    let page = w.ram_mut(g.hca).alloc(4096);
    let entries: Vec<u8> = (0..count).flat_map(|_| page.to_le_bytes()).collect();
    w.ram(g.hca).write(list, &entries);
    let req = CreateMrReq {
        pages: PageList::indirect(list, count),
        iova: 0,
        len: u64::from(count) * 4096,
        first_offset: 0,
        pdn: g.pdn,
        access: 0,
        flags: 0,
        reserved: 0,
    };
    g.submit(&mut w, Opcode::CREATE_MR, &req, 1);
    w.poll();
    w.write_reg(g.hca, regs::CTRL, 4, 0);
    w.run();
    let dump = w.engine.dump(Some(g.hca), w.now, &w.env);
    assert_eq!(dump.hcas[0].objects.mrs, 0);
    let pdn = g.pdn;
    // The objects stay; a second event queue 0 cannot be the default for asynchronous events.
    let mut again = {
        w.write_reg(g.hca, regs::ASQ_TAIL, 4, 0);
        Reattached::new(&mut w, &g)
    };
    again
        .destroy_pd(&mut w, pdn)
        .expect("no longer held by the registration");
}

/// The admin queue started again by hand.
struct Reattached {
    hca: verbena_engine::HcaId,
    asq: u64,
    acq: u64,
}

impl Reattached {
    fn new(w: &mut World, g: &Guest) -> Self {
        let asq = w.ram_mut(g.hca).alloc(4096);
        let acq = w.ram_mut(g.hca).alloc(4096);
        w.write_reg(g.hca, regs::ASQ_ADDR, 8, asq);
        w.write_reg(g.hca, regs::ACQ_ADDR, 8, acq);
        w.write_reg(g.hca, regs::CTRL, 4, regs::CTRL_ENABLE.into());
        Self { hca: g.hca, asq, acq }
    }

    fn destroy_pd(&mut self, w: &mut World, pdn: Pdn) -> Result<(), Status> {
        use zerocopy::IntoBytes;
        let mut command = Command::new_zeroed();
        command.opcode = Opcode::DESTROY_PD;
        command.payload[..4].copy_from_slice(&pdn.0.to_le_bytes());
        w.ram(self.hca).write(self.asq, command.as_bytes());
        w.write_reg(self.hca, regs::ASQ_TAIL, 4, 1);
        w.run();
        let word = w.ram(self.hca).read_u64(self.acq);
        assert_eq!(word & 1, 1, "answered");
        match Status((word >> 32) as u16) {
            Status::OK => Ok(()),
            other => Err(other),
        }
    }
}

#[test]
fn h03_unknown_opcodes_and_reserved_fields() {
    let (mut w, mut g) = guest();
    let r = g.create(&mut w, Opcode(0x7777), &[0u8; 0]);
    assert_eq!(r, failed(Status::BAD_OPCODE, 0x7777));
    // Behind the request.
    let r = g.command::<[u8; 0]>(&mut w, Opcode::NOP, &[0u8, 0, 0, 9]);
    assert_eq!(r, failed(Status::RESERVED_FIELD, 3));
    // In the command itself.
    let mut command = Command::new_zeroed();
    command.opcode = Opcode::NOP;
    command.id = 77;
    command.reserved0 = 1;
    g.submit_raw(&mut w, &command);
    w.run();
    let completion = g.reap(&mut w).expect("an answer");
    assert_eq!((completion.id, completion.status), (77, Status::RESERVED_FIELD));
    // In a handle.
    let req = HandleReq {
        handle: g.pdn.0,
        reserved: 1,
    };
    let r = g.command::<[u8; 0]>(&mut w, Opcode::DESTROY_PD, &req);
    assert_eq!(r, failed(Status::RESERVED_FIELD, 4));
}

#[test]
fn h03_what_does_not_exist() {
    let (mut w, mut g) = guest();
    for opcode in [
        Opcode::DESTROY_PD,
        Opcode::DESTROY_DOORBELL,
        Opcode::DESTROY_EQ,
        Opcode::DESTROY_CQ,
        Opcode::QUERY_CQ,
        Opcode::DESTROY_MR,
        Opcode::QUERY_MR,
        Opcode::DESTROY_QP,
        Opcode::QUERY_QP,
    ] {
        for handle in [0x123, 0x00ff_ffff, u32::MAX] {
            let r = g.destroy(&mut w, opcode, handle);
            assert_eq!(r, failed(Status::NO_SUCH_OBJECT, 0), "{opcode} {handle:#x}");
        }
    }
}

#[test]
fn h03_what_is_in_use_stays() {
    let mut pair = Pair::connected();
    let (w, a) = (&mut pair.world, &mut pair.a);
    let g = &mut a.guest;
    // The domain: one queue pair and one region. The event queue: one queue pair and one completion queue. The
    // completion queue: sends and receives.
    let (pdn, db, eqn, cqn, qpn) = (g.pdn.0, g.doorbell, g.eqn.0, a.cq.cqn.get(), a.qp.qpn.get());
    assert_eq!(g.destroy(w, Opcode::DESTROY_PD, pdn), failed(Status::IN_USE, 2));
    assert_eq!(g.destroy(w, Opcode::DESTROY_DOORBELL, db), failed(Status::IN_USE, 1));
    assert_eq!(g.destroy(w, Opcode::DESTROY_EQ, eqn), failed(Status::IN_USE, 2));
    assert_eq!(g.destroy(w, Opcode::DESTROY_CQ, cqn), failed(Status::IN_USE, 2));
    // In the right order everything goes.
    for (opcode, handle) in [
        (Opcode::DESTROY_QP, qpn),
        (Opcode::DESTROY_MR, a.mr.lkey.index()),
        (Opcode::DESTROY_CQ, cqn),
        (Opcode::DESTROY_EQ, eqn),
        (Opcode::DESTROY_DOORBELL, db),
        (Opcode::DESTROY_PD, pdn),
    ] {
        assert_eq!(g.destroy(w, opcode, handle), Ok(()), "{opcode}");
        assert_eq!(
            g.destroy(w, opcode, handle),
            failed(Status::NO_SUCH_OBJECT, 0),
            "{opcode} twice"
        );
    }
}

#[test]
fn h03_query_device_tells_limits_that_hold() {
    let (mut w, mut g) = guest();
    let caps: QueryDeviceRsp = g.command(&mut w, Opcode::QUERY_DEVICE, &[0u8; 0]).expect("caps");
    assert!(caps.max_qp >= 65_536);
    assert_eq!(caps.max_sge, 32);
    assert_eq!(caps.max_inline, 512);
    assert_eq!(caps.max_msg, 1 << 31);
    let reliable = 1 << QpType::RC.0 | 1 << QpType::XRC_INI.0 | 1 << QpType::XRC_TGT.0;
    assert_eq!(
        caps.qp_types,
        reliable | 1 << QpType::UC.0 | 1 << QpType::UD.0 | 1 << QpType::GSI.0 | 1 << QpType::RAW.0
    );
    assert_eq!((caps.max_flow, caps.max_flow_groups), (65536, 64));
    // All that there are.
    assert_eq!(caps.rc_opcodes, 0x3fff);
    assert_eq!(caps.max_fast_elements, 512);
    assert_eq!(caps.page_size_cap, 1 << 12 | 1 << 21 | 1 << 30);
    assert!(caps.fw_version.starts_with(b"0."));
}

#[test]
fn h11_the_port_goes_down_and_up_on_command_and_says_so() {
    let (mut w, mut g) = guest();
    let port = |g: &mut Guest, w: &mut World, state| {
        g.command::<[u8; 0]>(w, Opcode::MODIFY_PORT, &ModifyPortReq { state, reserved: 0 })
            .map(|_| ())
    };
    assert_eq!(port(&mut g, &mut w, regs::PORT_DOWN), Ok(()));
    let rsp: QueryPortRsp = g.command(&mut w, Opcode::QUERY_PORT, &[0u8; 0]).expect("port");
    assert_eq!(
        (rsp.state, rsp.mac, rsp.pkey),
        (regs::PORT_DOWN, [2, 0x56, 0x42, 0, 0, 1], 0xffff)
    );
    assert_eq!(
        w.read_reg(g.hca, regs::PORT_STATE, 4) & 0xff,
        u64::from(regs::PORT_DOWN)
    );
    assert_eq!(port(&mut g, &mut w, regs::PORT_ACTIVE), Ok(()));
    // The cable has a say too.
    w.engine.set_link(g.hca, false, w.now, &w.env);
    assert_eq!(port(&mut g, &mut w, regs::PORT_ACTIVE), Ok(()));
    assert_eq!(
        w.read_reg(g.hca, regs::PORT_STATE, 4) & 0xff,
        u64::from(regs::PORT_DOWN)
    );
    assert_eq!(port(&mut g, &mut w, 2), failed(Status::BAD_FIELD, 0));
    let events: Vec<_> = g.events(&mut w).iter().map(|e| (e.event, e.number)).collect();
    assert_eq!(events, [(0x21, 1), (0x20, 1), (0x21, 1)]);
}

#[test]
fn h11_the_gid_table() {
    let mut w = World::new(1);
    let mut g = Guest::start(&mut w, MEMORY);
    let mut other = Guest::start(&mut w, MEMORY);
    let set = |g: &mut Guest, w: &mut World, index, gid| {
        let req = SetGidReq {
            index,
            reserved: 0,
            gid,
        };
        g.command::<[u8; 0]>(w, Opcode::SET_GID, &req).map(|_| ())
    };
    let ip = Gid::from_ipv4([10, 0, 0, 1]);
    assert_eq!(set(&mut g, &mut w, 1, ip), Ok(()));
    assert_eq!(set(&mut g, &mut w, 1, ip), Ok(()), "the same once more");
    assert_eq!(set(&mut g, &mut w, 2, ip), failed(Status::DUPLICATE_GID, 1));
    assert_eq!(
        set(&mut other, &mut w, 1, ip),
        failed(Status::DUPLICATE_GID, u32::MAX as usize)
    );
    assert_eq!(
        set(&mut g, &mut w, 0, ip),
        failed(Status::BAD_FIELD, at!(SetGidReq, index))
    );
    assert_eq!(
        set(&mut g, &mut w, 32, ip),
        failed(Status::BAD_FIELD, at!(SetGidReq, index))
    );
    let query = |g: &mut Guest, w: &mut World, index| {
        g.command::<QueryGidRsp>(w, Opcode::QUERY_GID, &QueryGidReq { index, reserved: 0 })
            .map(|rsp| rsp.gid)
    };
    assert_eq!(query(&mut g, &mut w, 0), Ok(g.gid()));
    assert_eq!(query(&mut g, &mut w, 1), Ok(ip));
    assert_eq!(query(&mut g, &mut w, 32), failed(Status::BAD_FIELD, 0));
    // Given back, it is anybody's.
    assert_eq!(set(&mut g, &mut w, 1, Gid::default()), Ok(()));
    assert_eq!(set(&mut other, &mut w, 1, ip), Ok(()));
    let changes = g.events(&mut w).iter().filter(|e| e.event == 0x22).count();
    assert_eq!(changes, 2);
}

#[test]
fn h03_create_doorbell_fails_for_its_own_reasons() {
    let (mut w, mut g) = guest();
    for addr in [0, 0x10_0008, u64::MAX - 4095] {
        let r = g.create(&mut w, Opcode::CREATE_DOORBELL, &CreateDoorbellReq { addr });
        assert_eq!(r, failed(Status::BAD_ADDRESS, 0), "{addr:#x}");
    }
    let addr = w.ram_mut(g.hca).alloc(4096);
    let req = CreateDoorbellReq { addr };
    for index in 1..1024 {
        assert_eq!(g.create(&mut w, Opcode::CREATE_DOORBELL, &req), Ok(index));
    }
    assert_eq!(
        g.create(&mut w, Opcode::CREATE_DOORBELL, &req),
        failed(Status::LIMIT, 1024)
    );
}

#[test]
fn h03_create_eq_fails_for_its_own_reasons() {
    let (mut w, mut g) = guest();
    let ring = w.ram_mut(g.hca).alloc(4096);
    let good = CreateEqReq {
        ring: PageList::direct(ring, 4096),
        log_entries: 7,
        async_default: 0,
        vector: 2,
        reserved: [0; 3],
    };
    let cases: [Case<CreateEqReq>; 6] = [
        (|r| r.vector = 64, Status::BAD_FIELD, at!(CreateEqReq, vector)),
        (|r| r.log_entries = 18, Status::BAD_FIELD, at!(CreateEqReq, log_entries)),
        (
            |r| r.async_default = 1,
            Status::BAD_FIELD,
            at!(CreateEqReq, async_default),
        ),
        (
            |r| r.reserved[2] = 1,
            Status::RESERVED_FIELD,
            at!(CreateEqReq, reserved),
        ),
        (|r| r.log_entries = 8, Status::BAD_PAGE_LIST, at!(CreateEqReq, ring)),
        (|r| r.ring.addr = 0x1000, Status::BAD_ADDRESS, at!(CreateEqReq, ring)),
    ];
    for (spoil, status, detail) in cases {
        let mut req = good;
        spoil(&mut req);
        assert_eq!(g.create(&mut w, Opcode::CREATE_EQ, &req), failed(status, detail));
    }
    for eqn in 1..64 {
        assert_eq!(g.create(&mut w, Opcode::CREATE_EQ, &good), Ok(eqn));
    }
    assert_eq!(g.create(&mut w, Opcode::CREATE_EQ, &good), failed(Status::LIMIT, 64));
}

#[test]
fn h03_create_cq_fails_for_its_own_reasons() {
    let (mut w, mut g) = guest();
    let ring = w.ram_mut(g.hca).alloc(4096);
    let record = w.ram_mut(g.hca).alloc(4096);
    let good = CreateCqReq {
        ring: PageList::direct(ring, 4096),
        record,
        cookie: 1,
        eqn: g.eqn,
        log_entries: 6,
        flags: 0,
        reserved: [0; 10],
    };
    let cases: [Case<CreateCqReq>; 6] = [
        (|r| r.eqn = Eqn(9), Status::NO_SUCH_OBJECT, at!(CreateCqReq, eqn)),
        (|r| r.log_entries = 23, Status::BAD_FIELD, at!(CreateCqReq, log_entries)),
        (
            |r| r.reserved[0] = 1,
            Status::RESERVED_FIELD,
            at!(CreateCqReq, reserved),
        ),
        (|r| r.record += 8, Status::BAD_ADDRESS, at!(CreateCqReq, record)),
        (|r| r.record = 0x40, Status::BAD_ADDRESS, at!(CreateCqReq, record)),
        (|r| r.ring.count = 0, Status::BAD_PAGE_LIST, at!(CreateCqReq, ring)),
    ];
    for (spoil, status, detail) in cases {
        let mut req = good;
        spoil(&mut req);
        assert_eq!(g.create(&mut w, Opcode::CREATE_CQ, &req), failed(status, detail));
    }
    g.create(&mut w, Opcode::CREATE_CQ, &good).expect("a completion queue");
}

#[test]
fn h03_create_qp_fails_for_its_own_reasons() {
    let (mut w, mut g) = guest();
    let cq = g.cq(&mut w, 4);
    let good = g.qp_request(&mut w, &cq, &cq, QpShape::default());
    use Status as S;
    let cases: [Case<CreateQpReq>; 24] = [
        (|r| r.qp_type = QpType(0), S::BAD_FIELD, at!(CreateQpReq, qp_type)),
        (|r| r.qp_type = QpType(77), S::BAD_FIELD, at!(CreateQpReq, qp_type)),
        (|r| r.flags = 2, S::BAD_FIELD, at!(CreateQpReq, flags)),
        (|r| r.srqn = Srqn::truncate(1), S::BAD_FIELD, at!(CreateQpReq, srqn)),
        (|r| r.slot = 4096, S::BAD_FIELD, at!(CreateQpReq, slot)),
        (
            |r| r.sq_log_entries = 16,
            S::BAD_FIELD,
            at!(CreateQpReq, sq_log_entries),
        ),
        (|r| r.sq_log_stride = 5, S::BAD_FIELD, at!(CreateQpReq, sq_log_stride)),
        (|r| r.sq_log_stride = 11, S::BAD_FIELD, at!(CreateQpReq, sq_log_stride)),
        (|r| r.sq_log_stride = 255, S::BAD_FIELD, at!(CreateQpReq, sq_log_stride)),
        (
            |r| r.rq_log_entries = 255,
            S::BAD_FIELD,
            at!(CreateQpReq, rq_log_entries),
        ),
        (|r| r.rq_log_stride = 4, S::BAD_FIELD, at!(CreateQpReq, rq_log_stride)),
        (|r| r.max_send_sge = 33, S::BAD_FIELD, at!(CreateQpReq, max_send_sge)),
        (|r| r.sq_log_stride = 9, S::BAD_FIELD, at!(CreateQpReq, max_send_sge)),
        (|r| r.max_recv_sge = 255, S::BAD_FIELD, at!(CreateQpReq, max_recv_sge)),
        (|r| r.max_inline = 513, S::BAD_FIELD, at!(CreateQpReq, max_inline)),
        (|r| r.reserved[3] = 1, S::RESERVED_FIELD, at!(CreateQpReq, reserved)),
        (|r| r.pdn = Pdn(0), S::NO_SUCH_OBJECT, at!(CreateQpReq, pdn)),
        (
            |r| r.send_cqn = Cqn::truncate(0),
            S::NO_SUCH_OBJECT,
            at!(CreateQpReq, send_cqn),
        ),
        (
            |r| r.recv_cqn = Cqn::truncate(0),
            S::NO_SUCH_OBJECT,
            at!(CreateQpReq, recv_cqn),
        ),
        (|r| r.eqn = Eqn(1), S::NO_SUCH_OBJECT, at!(CreateQpReq, eqn)),
        (|r| r.doorbell = 1, S::NO_SUCH_OBJECT, at!(CreateQpReq, doorbell)),
        (|r| r.sq.page_shift = 13, S::BAD_PAGE_LIST, at!(CreateQpReq, sq)),
        (|r| r.sq.addr += 32, S::BAD_ADDRESS, at!(CreateQpReq, sq)),
        (|r| r.rq.count = 3, S::BAD_PAGE_LIST, at!(CreateQpReq, rq)),
    ];
    for (i, (spoil, status, detail)) in cases.into_iter().enumerate() {
        let mut req = good;
        spoil(&mut req);
        let r = g.create_qp(&mut w, &req).map(|qp| qp.qpn);
        assert_eq!(r, failed(status, detail), "case {i}");
    }
    g.create_qp(&mut w, &good).expect("a queue pair");
    let r = g.create_qp(&mut w, &good).map(|qp| qp.qpn);
    assert_eq!(r, failed(S::SLOT_TAKEN, good.slot.into()));
    // Nothing of the failures has been left behind.
    let pdn = g.pdn.0;
    assert_eq!(g.destroy(&mut w, Opcode::DESTROY_PD, pdn), failed(S::IN_USE, 1));
}

#[test]
fn h03_a_ring_may_begin_inside_of_a_page() {
    let (mut w, mut g) = guest();
    let cq = g.cq(&mut w, 4);
    let page = w.ram_mut(g.hca).alloc(8192);
    let mut good = g.qp_request(&mut w, &cq, &cq, QpShape::default());
    good.sq_log_entries = 1;
    let entry = 1u64 << good.sq_log_stride;
    good.sq = PageList::direct(page + entry, 2 * entry);
    let refused: [Case<CreateQpReq>; 5] = [
        (|r| r.sq.addr += 32, Status::BAD_ADDRESS, at!(CreateQpReq, sq)),
        (
            |r| r.sq.addr = 0u64.wrapping_sub(1 << r.sq_log_stride),
            Status::BAD_ADDRESS,
            at!(CreateQpReq, sq),
        ),
        (|r| r.sq.count = 0, Status::BAD_PAGE_LIST, at!(CreateQpReq, sq)),
        (|r| r.sq.page_shift = 21, Status::BAD_PAGE_LIST, at!(CreateQpReq, sq)),
        (|r| r.sq.reserved = 1, Status::BAD_PAGE_LIST, at!(CreateQpReq, sq)),
    ];
    for (i, (spoil, status, detail)) in refused.into_iter().enumerate() {
        let mut req = good;
        spoil(&mut req);
        let r = g.create_qp(&mut w, &req).map(|qp| qp.qpn);
        assert_eq!(r, failed(status, detail), "case {i}");
    }
    let qp = g.create_qp(&mut w, &good).expect("a queue pair").qpn;
    g.destroy(&mut w, Opcode::DESTROY_QP, qp.get()).expect("it goes");
    // Across a page's end as well: it is one stretch.
    good.sq.addr = page + 4096 - entry;
    g.create_qp(&mut w, &good).expect("a queue pair");
}

#[test]
fn h03_create_mr_fails_for_its_own_reasons() {
    let (mut w, mut g) = guest();
    let at = w.ram_mut(g.hca).alloc(8192);
    let list = w.ram_mut(g.hca).alloc(4096);
    w.ram(g.hca).write(list, &at.to_le_bytes());
    w.ram(g.hca).write(list + 8, &(at + 4096).to_le_bytes());
    let good = CreateMrReq {
        pages: PageList::indirect(list, 2),
        iova: 0x7000_0010,
        len: 8000,
        first_offset: 0x10,
        pdn: g.pdn,
        access: access::LOCAL_WRITE | access::REMOTE_WRITE,
        flags: 0,
        reserved: 0,
    };
    use Status as S;
    let cases: [Case<CreateMrReq>; 17] = [
        (|r| r.len = 0, S::BAD_FIELD, at!(CreateMrReq, len)),
        (|r| r.len = u64::MAX, S::BAD_FIELD, at!(CreateMrReq, len)),
        (|r| r.iova = u64::MAX - 100, S::BAD_FIELD, at!(CreateMrReq, iova)),
        (|r| r.access |= access::ZERO_BASED, S::BAD_FIELD, at!(CreateMrReq, iova)),
        (|r| r.access = 1 << 6, S::BAD_FIELD, at!(CreateMrReq, access)),
        (
            |r| r.access = access::REMOTE_WRITE,
            S::BAD_FIELD,
            at!(CreateMrReq, access),
        ),
        (
            |r| r.access = access::REMOTE_ATOMIC,
            S::BAD_FIELD,
            at!(CreateMrReq, access),
        ),
        (|r| r.first_offset = 4096, S::BAD_FIELD, at!(CreateMrReq, first_offset)),
        (|r| r.pdn = Pdn(99), S::NO_SUCH_OBJECT, at!(CreateMrReq, pdn)),
        (|r| r.reserved = 1, S::RESERVED_FIELD, at!(CreateMrReq, reserved)),
        (|r| r.len = 8192, S::BAD_PAGE_LIST, at!(CreateMrReq, pages)),
        (|r| r.pages.kind = 2, S::BAD_PAGE_LIST, at!(CreateMrReq, pages)),
        (|r| r.pages.reserved = 2, S::BAD_PAGE_LIST, at!(CreateMrReq, pages)),
        (|r| r.pages.count = u32::MAX, S::BAD_PAGE_LIST, at!(CreateMrReq, pages)),
        (|r| r.pages.addr += 4, S::BAD_ADDRESS, at!(CreateMrReq, pages)),
        (|r| r.pages.addr = 0x8000, S::BAD_ADDRESS, at!(CreateMrReq, pages)),
        // The third entry of the list is zero: no page there.
        (
            |r| (r.pages.count, r.len) = (3, 12_000),
            S::BAD_ADDRESS,
            at!(CreateMrReq, pages),
        ),
    ];
    for (i, (spoil, status, detail)) in cases.into_iter().enumerate() {
        let mut req = good;
        spoil(&mut req);
        let r = g.register(&mut w, &req).map(|mr| mr.lkey);
        assert_eq!(r, failed(status, detail), "case {i}");
    }
    // An entry that is not a page's address.
    w.ram(g.hca).write(list + 8, &(at + 4097).to_le_bytes());
    let r = g.register(&mut w, &good).map(|mr| mr.lkey);
    assert_eq!(r, failed(S::BAD_PAGE_LIST, at!(CreateMrReq, pages)));
    w.ram(g.hca).write(list + 8, &(at + 4096).to_le_bytes());
    let mr = g.register(&mut w, &good).expect("a region");
    let rsp: QueryMrRsp = g.about(&mut w, Opcode::QUERY_MR, mr.lkey.index()).expect("the region");
    assert_eq!((rsp.iova, rsp.len, rsp.pages, rsp.page_shift), (good.iova, 8000, 2, 12));
    assert_eq!((rsp.lkey, rsp.rkey), (mr.lkey, mr.rkey));
    // The failures hold nothing.
    g.destroy(&mut w, Opcode::DESTROY_MR, mr.lkey.index()).expect("gone");
    let pdn = g.pdn.0;
    g.destroy(&mut w, Opcode::DESTROY_PD, pdn).expect("gone");
}
