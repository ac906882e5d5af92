// SPDX-License-Identifier: MIT OR Apache-2.0
//! H6: access rights in full. Every combination of a region's rights, and of a queue pair's, against every operation that needs one.

use crate::way;
use verbena_engine::testing::{Failed, Mr, Pair, QpShape, RecvWr, SendWr, World};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{CreateMrReq, CreateMwReq, CreateMwRsp};
use verbena_hw::cqe::Status;
use verbena_hw::id::Key;
use verbena_hw::mw::MwType;
use verbena_hw::qp::access::*;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{flush, BindArgs, FlushArgs, Sge};
use zerocopy::FromZeros;

/// What a region may have, beside where its addresses begin.
const OF_REGIONS: [u32; 6] = [
    LOCAL_WRITE,
    REMOTE_WRITE,
    REMOTE_READ,
    REMOTE_ATOMIC,
    MW_BIND,
    FLUSH_GLOBAL,
];
/// What a queue pair may have that means something.
const OF_QUEUE_PAIRS: [u32; 4] = [REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, FLUSH_GLOBAL];

/// All sets of these.
fn sets(of: &[u32]) -> impl Iterator<Item = u32> + '_ {
    (0..1u32 << of.len()).map(move |set| {
        let members = of.iter().enumerate().filter(|(n, _)| set >> n & 1 != 0);
        members.fold(0, |all, (_, right)| all | right)
    })
}

/// A request of a's to a region of b's: what it is called, the right that it needs there (IBA vol. 1, 10.6.3; annexes A19.4), and
/// the entry.
type Remote = (&'static str, u32, fn(&Pair, u64, Key) -> SendWr);

const REMOTE: [Remote; 7] = [
    ("WRITE", REMOTE_WRITE, |p, at, key| {
        SendWr::write(1, &[p.a.sge(0, 8)], at, key)
    }),
    ("WRITE with immediate data", REMOTE_WRITE, |p, at, key| {
        SendWr::write(1, &[p.a.sge(0, 8)], at, key).imm(1)
    }),
    ("READ", REMOTE_READ, |p, at, key| {
        SendWr::read(1, &[p.a.sge(64, 8)], at, key)
    }),
    ("COMPARE_SWAP", REMOTE_ATOMIC, |p, at, key| {
        SendWr::compare_swap(1, p.a.sge(64, 8), at, key, 0, 5)
    }),
    ("FETCH_ADD", REMOTE_ATOMIC, |p, at, key| {
        SendWr::fetch_add(1, p.a.sge(64, 8), at, key, 5)
    }),
    ("ATOMIC_WRITE", REMOTE_WRITE, |p, at, key| {
        SendWr::atomic_write(1, &[p.a.sge(0, 8)], at, key)
    }),
    ("FLUSH", FLUSH_GLOBAL, |_, at, key| {
        let args = FlushArgs {
            len: 8,
            placement: flush::GLOBAL,
            level: flush::RANGE,
        };
        SendWr::flush(1, at, key, args)
    }),
];

/// What b does with its own region: the right that it needs, 0 for none, how it ends without, and the entry.
type Own = (&'static str, u32, Status, fn(&mut Pair, Sge) -> SendWr);

const OWN: [Own; 3] = [
    ("sending from it", 0, Status::SUCCESS, |p, part| {
        p.a.post_recv(&mut p.world, 9, 0, 8);
        SendWr::send(1, &[part])
    }),
    ("reading into it", LOCAL_WRITE, Status::LOC_PROT_ERR, |p, part| {
        SendWr::read(1, &[part], p.a.addr(0), p.a.rkey())
    }),
    ("binding a window to it", MW_BIND, Status::MW_BIND_ERR, |p, part| {
        let req = CreateMwReq {
            pdn: p.b.guest.pdn,
            mw_type: MwType::TYPE_2,
            reserved: [0; 3],
        };
        let mw: CreateMwRsp =
            p.b.guest
                .command(&mut p.world, Admin::CREATE_MW, &req)
                .expect("a window");
        let args = BindArgs {
            len: part.len.into(),
            lkey: part.lkey,
            access: REMOTE_READ,
        };
        SendWr::bind(1, Key::from_parts(mw.rkey.index(), 9), part.addr, args)
    }),
];

fn pair(rights: u32) -> Pair {
    way::pair(QpShape::default(), 6, |attrs| attrs.access = rights)
}

/// A zeroed page of b's with these rights.
fn region(w: &mut World, p: &mut verbena_engine::testing::End, rights: u32) -> Result<Mr, Failed> {
    let at = w.ram_mut(p.guest.hca).alloc(4096);
    p.guest.mr(w, at, 4096, rights)
}

/// a's request to the region ends so, and has done something only if it has succeeded.
fn tried(p: &mut Pair, mr: &Mr, of: &Remote) -> Status {
    let (w, a, b) = (&mut p.world, &mut p.a, &mut p.b);
    a.fill(w, 0, b"whatever");
    b.post_recv(w, 9, 0, 8);
    // A region that nobody may reach has no R_Key. Whoever guesses that its L_Key would be it has guessed wrong.
    let key = if mr.rkey == Key(0) { mr.lkey } else { mr.rkey };
    let wr = of.2(p, mr.addr, key);
    p.a.post(&mut p.world, wr);
    p.world.run();
    let status = Status(p.a.completion(&p.world).status);
    let now = p.world.ram(p.b.guest.hca).read_u64(mr.addr);
    let changes = !matches!(of.0, "READ" | "FLUSH");
    assert_eq!(now != 0, changes && status == Status::SUCCESS, "{}: {status}", of.0);
    status
}

#[test]
fn h06_every_set_of_a_regions_rights_against_every_operation() {
    let mut made = 0;
    for rights in sets(&OF_REGIONS) {
        let mut p = pair(QP_ALL);
        let wanted = region(&mut p.world, &mut p.b, rights);
        // Who lets peers change it must be able to write it itself (IBA vol. 1, 10.6.3.1).
        if rights & (REMOTE_WRITE | REMOTE_ATOMIC) != 0 && rights & LOCAL_WRITE == 0 {
            let detail = core::mem::offset_of!(CreateMrReq, access) as u32;
            let status = AdminStatus::BAD_FIELD;
            assert_eq!(wanted.map(|mr| mr.lkey), Err(Failed { status, detail }), "{rights:#x}");
            continue;
        }
        made += 1;
        for of in &REMOTE {
            let mut p = pair(QP_ALL);
            let mr = region(&mut p.world, &mut p.b, rights).expect("a region");
            let expected = if rights & of.1 != 0 {
                Status::SUCCESS
            } else {
                Status::REM_ACCESS_ERR
            };
            assert_eq!(tried(&mut p, &mr, of), expected, "{} with {rights:#x}", of.0);
        }
        for (what, needs, otherwise, entry) in OWN {
            let mut p = pair(QP_ALL);
            let mr = region(&mut p.world, &mut p.b, rights).expect("a region");
            let part = Sge {
                addr: mr.addr,
                len: 8,
                lkey: mr.lkey,
            };
            let wr = entry(&mut p, part);
            p.b.post(&mut p.world, wr);
            p.world.run();
            let expected = if rights & needs == needs {
                Status::SUCCESS
            } else {
                otherwise
            };
            let status = Status(p.b.completion(&p.world).status);
            assert_eq!(status, expected, "{what} with {rights:#x}");
        }
        // And receiving into it.
        let mut p = pair(QP_ALL);
        let mr = region(&mut p.world, &mut p.b, rights).expect("a region");
        let part = Sge {
            addr: mr.addr,
            len: 8,
            lkey: mr.lkey,
        };
        p.b.qp.post_recv(&p.world, RecvWr::new(7, &[part]));
        p.a.post(&mut p.world, SendWr::send(1, &[]).inline(b"received"));
        p.world.run();
        let expected = if rights & LOCAL_WRITE != 0 {
            [Status::SUCCESS; 2]
        } else {
            [Status::REM_OP_ERR, Status::LOC_PROT_ERR]
        };
        let got = [p.a.completion(&p.world), p.b.completion(&p.world)].map(|cqe| Status(cqe.status));
        assert_eq!(got, expected, "receiving with {rights:#x}");
    }
    // All with LOCAL_WRITE; of the others those without the two that need it.
    assert_eq!(made, 32 + 8);
}

#[test]
fn h06_every_set_of_a_queue_pairs_rights_against_every_operation() {
    for rights in sets(&OF_QUEUE_PAIRS) {
        for of in &REMOTE {
            let mut p = pair(rights);
            let mr = region(&mut p.world, &mut p.b, MR_ALL & !ZERO_BASED).expect("a region");
            let expected = if rights & of.1 != 0 {
                Status::SUCCESS
            } else {
                Status::REM_INV_REQ_ERR
            };
            assert_eq!(tried(&mut p, &mr, of), expected, "{} with {rights:#x}", of.0);
        }
    }
}

#[test]
fn h06_every_set_of_a_windows_rights_against_every_operation() {
    for rights in sets(&OF_QUEUE_PAIRS) {
        for of in &REMOTE {
            let mut p = pair(QP_ALL);
            let mr = region(&mut p.world, &mut p.b, MR_ALL & !ZERO_BASED).expect("a region");
            let req = CreateMwReq {
                pdn: p.b.guest.pdn,
                mw_type: MwType::TYPE_2,
                reserved: [0; 3],
            };
            let mw: CreateMwRsp =
                p.b.guest
                    .command(&mut p.world, Admin::CREATE_MW, &req)
                    .expect("a window");
            let key = Key::from_parts(mw.rkey.index(), 9);
            let args = BindArgs {
                len: 64,
                lkey: mr.lkey,
                access: rights,
            };
            p.b.post(&mut p.world, SendWr::bind(1, key, mr.addr, args));
            p.world.run();
            assert_eq!(Status(p.b.completion(&p.world).status), Status::SUCCESS, "{rights:#x}");
            let window = Mr { rkey: key, ..mr };
            let expected = if rights & of.1 != 0 {
                Status::SUCCESS
            } else {
                Status::REM_ACCESS_ERR
            };
            assert_eq!(tried(&mut p, &window, of), expected, "{} with {rights:#x}", of.0);
        }
    }
}

#[test]
fn h06_rights_that_nothing_can_have_are_refused() {
    let mut p = pair(QP_ALL);
    let at = p.world.ram_mut(p.b.guest.hca).alloc(4096);
    for bit in (0..32).map(|n| 1u32 << n).filter(|bit| MR_ALL & bit == 0) {
        let req = CreateMrReq {
            pages: PageList::direct(at, 4096),
            iova: at,
            len: 4096,
            pdn: p.b.guest.pdn,
            access: LOCAL_WRITE | bit,
            ..CreateMrReq::new_zeroed()
        };
        let detail = core::mem::offset_of!(CreateMrReq, access) as u32;
        let status = AdminStatus::BAD_FIELD;
        let made = p.b.guest.register(&mut p.world, &req).map(|mr| mr.lkey);
        assert_eq!(made, Err(Failed { status, detail }), "{bit:#x}");
    }
}
