// SPDX-License-Identifier: MIT OR Apache-2.0
//! H6: regions that are registered anew, and the region of all DMA addresses.

use verbena_engine::testing::{Failed, Mr, Pair, SendWr};
use verbena_hw::admin::{Opcode as Admin, Status as AdminStatus};
use verbena_hw::cmd::{mr_modify as change, CreateMrReq, CreateMrRsp, CreateMwReq, CreateMwRsp, ModifyMrReq, MR_DMA};
use verbena_hw::cqe::{vendor, Status};
use verbena_hw::id::{Key, Pdn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::{BindArgs, Sge};

const RIGHTS: u32 = access::LOCAL_WRITE | access::REMOTE_WRITE;

/// A region of b's, of two pages.
struct Anew {
    pair: Pair,
    mr: Mr,
}

impl Anew {
    fn new() -> Self {
        let mut pair = Pair::connected();
        let w = &mut pair.world;
        let place = w.ram_mut(pair.b.guest.hca).alloc(8192);
        let mr = pair.b.guest.mr(w, place, 8192, RIGHTS).expect("a region");
        Self { pair, mr }
    }

    fn request(&self, mask: u32) -> ModifyMrReq {
        ModifyMrReq {
            pages: PageList::default(),
            iova: 0,
            len: 0,
            first_offset: 0,
            index: self.mr.lkey.index(),
            mask,
            pdn: Pdn::default(),
            access: 0,
            reserved: 0,
        }
    }

    fn modify(&mut self, req: ModifyMrReq) -> Result<CreateMrRsp, Failed> {
        let guest = &mut self.pair.b.guest;
        guest.command(&mut self.pair.world, Admin::MODIFY_MR, &req)
    }

    /// a writes eight bytes.
    fn write(&mut self, addr: u64, key: Key) -> Status {
        let wr = SendWr::write(2, &[], addr, key).inline(b"anewanew");
        self.pair.a.post(&mut self.pair.world, wr);
        self.pair.world.run();
        Status(self.pair.a.completion(&self.pair.world).status)
    }
}

#[test]
fn h06_new_rights_are_under_new_keys() {
    let mut t = Anew::new();
    let rsp = t
        .modify(ModifyMrReq {
            access: access::LOCAL_WRITE | access::REMOTE_READ,
            ..t.request(change::ACCESS)
        })
        .expect("other rights");
    assert_eq!(rsp.lkey.index(), t.mr.lkey.index(), "it is the same region");
    assert_ne!(rsp.lkey, t.mr.lkey);
    assert_eq!(rsp.lkey, rsp.rkey);
    assert_eq!(
        t.write(t.mr.addr, rsp.rkey),
        Status::REM_ACCESS_ERR,
        "it may be read only"
    );
    let mut t = Anew::new();
    let rsp = t
        .modify(ModifyMrReq {
            access: RIGHTS,
            ..t.request(change::ACCESS)
        })
        .expect("the same rights");
    assert_eq!(t.write(t.mr.addr, rsp.rkey), Status::SUCCESS);
    assert_eq!(t.write(t.mr.addr, t.mr.rkey), Status::REM_ACCESS_ERR, "the old key");
}

#[test]
fn h06_new_memory_takes_the_place_of_the_old() {
    let mut t = Anew::new();
    let hca = t.pair.b.guest.hca;
    let pages = t.pair.world.ram_mut(hca).alloc(5 * 4096);
    let list = t.pair.world.ram_mut(hca).alloc(16);
    for (i, page) in [pages + 3 * 4096, pages].into_iter().enumerate() {
        t.pair.world.ram(hca).write(list + 8 * i as u64, &page.to_le_bytes());
    }
    let rsp = t
        .modify(ModifyMrReq {
            pages: PageList::indirect(list, 2),
            iova: 0x5000_0000,
            len: 5000,
            first_offset: 96,
            ..t.request(change::TRANSLATION)
        })
        .expect("other memory");
    assert_eq!(t.write(0x5000_0000 + 4000, rsp.rkey), Status::SUCCESS);
    assert_eq!(t.pair.world.ram(hca).read(pages, 8), b"anewanew");
    assert_eq!(t.pair.world.ram(hca).read(t.mr.addr, 8), [0; 8]);
    assert_eq!(
        t.write(0x5000_0000 + 4993, rsp.rkey),
        Status::REM_ACCESS_ERR,
        "beyond its end"
    );
}

#[test]
fn h06_a_region_moves_to_another_domain() {
    let mut t = Anew::new();
    let pdn = t
        .pair
        .b
        .guest
        .create(&mut t.pair.world, Admin::CREATE_PD, &[0u8; 0])
        .expect("a domain");
    let rsp = t
        .modify(ModifyMrReq {
            pdn: Pdn(pdn),
            ..t.request(change::PD)
        })
        .expect("another domain");
    let guest = &mut t.pair.b.guest;
    let in_use = guest.destroy(&mut t.pair.world, Admin::DESTROY_PD, pdn);
    assert_eq!(in_use.map_err(|f| (f.status, f.detail)), Err((AdminStatus::IN_USE, 1)));
    assert_eq!(
        t.write(t.mr.addr, rsp.rkey),
        Status::REM_ACCESS_ERR,
        "its queue pairs are in another"
    );
    let guest = &mut t.pair.b.guest;
    guest
        .destroy(&mut t.pair.world, Admin::DESTROY_MR, rsp.lkey.index())
        .expect("deregistered");
    guest
        .destroy(&mut t.pair.world, Admin::DESTROY_PD, pdn)
        .expect("nobody uses it");
}

#[test]
fn h06_what_cannot_be_registered_anew_is_what_it_was() {
    let mut t = Anew::new();
    let at = |offset: usize| offset as u32;
    macro_rules! refuse {
        ($req:expr, $status:ident, $detail:expr) => {
            let req = $req;
            let refused = t.modify(req).map(|_| ()).map_err(|f| (f.status, f.detail));
            assert_eq!(refused, Err((AdminStatus::$status, $detail)), "{req:?}");
        };
    }
    use core::mem::offset_of;
    refuse!(t.request(0), BAD_FIELD, at(offset_of!(ModifyMrReq, mask)));
    refuse!(t.request(8), BAD_FIELD, at(offset_of!(ModifyMrReq, mask)));
    let spoilt = ModifyMrReq {
        access: access::REMOTE_WRITE,
        ..t.request(change::ACCESS)
    };
    refuse!(spoilt, BAD_FIELD, at(offset_of!(ModifyMrReq, access)));
    let spoilt = ModifyMrReq {
        access: RIGHTS | access::ZERO_BASED,
        ..t.request(change::ACCESS)
    };
    refuse!(spoilt, BAD_FIELD, at(offset_of!(ModifyMrReq, access)));
    let spoilt = ModifyMrReq {
        pdn: Pdn(77),
        ..t.request(change::PD)
    };
    refuse!(spoilt, NO_SUCH_OBJECT, at(offset_of!(ModifyMrReq, pdn)));
    let spoilt = ModifyMrReq {
        index: 0,
        ..t.request(change::ACCESS)
    };
    refuse!(spoilt, NO_SUCH_OBJECT, at(offset_of!(ModifyMrReq, index)));
    // Found out while the pages are read: the new domain is let go again.
    let pdn = t
        .pair
        .b
        .guest
        .create(&mut t.pair.world, Admin::CREATE_PD, &[0u8; 0])
        .expect("a domain");
    let list = t.pair.world.ram_mut(t.pair.b.guest.hca).alloc(16);
    let spoilt = ModifyMrReq {
        pages: PageList::indirect(list, 2),
        len: 8192,
        pdn: Pdn(pdn),
        ..t.request(change::TRANSLATION | change::PD)
    };
    refuse!(spoilt, BAD_ADDRESS, at(offset_of!(ModifyMrReq, pages)));
    let guest = &mut t.pair.b.guest;
    guest
        .destroy(&mut t.pair.world, Admin::DESTROY_PD, pdn)
        .expect("nobody uses it");
    assert_eq!(
        t.write(t.mr.addr, t.mr.rkey),
        Status::SUCCESS,
        "with the keys that it had"
    );
}

#[test]
fn h06_a_region_with_a_window_on_it_stays_as_it_is() {
    let mut t = Anew::new();
    let req = ModifyMrReq {
        access: access::LOCAL_WRITE | access::MW_BIND,
        ..t.request(change::ACCESS)
    };
    let keys = t.modify(req).expect("bindable");
    let window = CreateMwReq {
        pdn: t.pair.b.guest.pdn,
        mw_type: MwType::TYPE_2,
        reserved: [0; 3],
    };
    let guest = &mut t.pair.b.guest;
    let window: CreateMwRsp = guest
        .command(&mut t.pair.world, Admin::CREATE_MW, &window)
        .expect("a window");
    let args = BindArgs {
        len: 8,
        lkey: keys.lkey,
        access: access::REMOTE_WRITE,
    };
    t.pair
        .b
        .post(&mut t.pair.world, SendWr::bind(1, window.rkey, t.mr.addr, args));
    t.pair.world.run();
    assert_eq!(t.pair.b.completion(&t.pair.world).status, 0);
    let refused = t.modify(req).map(|_| ()).map_err(|f| (f.status, f.detail));
    assert_eq!(refused, Err((AdminStatus::IN_USE, 1)));
    assert_eq!(t.write(t.mr.addr, window.rkey), Status::SUCCESS);
}

fn all_memory(pdn: Pdn) -> CreateMrReq {
    CreateMrReq {
        pages: PageList::default(),
        iova: 0,
        len: 0,
        first_offset: 0,
        pdn,
        access: access::LOCAL_WRITE,
        flags: MR_DMA,
        reserved: 0,
    }
}

#[test]
fn h06_a_dma_region_is_all_memory_of_its_own_guest() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    // Both guests have memory there.
    let here = w.ram_mut(pair.a.guest.hca).alloc(4096);
    w.ram(pair.a.guest.hca).write(here, b"somewhere");
    let mr = pair
        .a
        .guest
        .register(w, &all_memory(pair.a.guest.pdn))
        .expect("all memory");
    assert_eq!(mr.rkey, Key(0), "nothing for peers");
    let sge = |addr, len| Sge {
        addr,
        len,
        lkey: mr.lkey,
    };
    let wr = SendWr::write(1, &[sge(here, 9)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.run();
    assert_eq!(pair.a.completion(w).status, 0);
    assert_eq!(pair.b.bytes(w, 0, 9), b"somewhere");
    // Where nothing is mapped there is nothing.
    let wr = SendWr::write(2, &[sge(u64::MAX - 20, 9)], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!(
        (Status(cqe.status), cqe.vendor_err),
        (Status::LOC_PROT_ERR, vendor::UNREACHABLE)
    );
}

#[test]
fn h14_a_dma_region_is_of_one_domain_and_local() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    let pdn = pair.a.guest.create(w, Admin::CREATE_PD, &[0u8; 0]).expect("a domain");
    let mr = pair.a.guest.register(w, &all_memory(Pdn(pdn))).expect("all memory");
    let sge = Sge {
        addr: pair.a.addr(0),
        len: 8,
        lkey: mr.lkey,
    };
    let wr = SendWr::write(1, &[sge], pair.b.addr(0), pair.b.rkey());
    pair.a.post(w, wr);
    w.run();
    let cqe = pair.a.completion(w);
    assert_eq!(
        (Status(cqe.status), cqe.vendor_err),
        (Status::LOC_PROT_ERR, vendor::KEY_PD)
    );
    for spoil in [
        |r: &mut CreateMrReq| r.access = access::LOCAL_WRITE | access::REMOTE_READ,
        |r: &mut CreateMrReq| r.access = access::MW_BIND,
        |r: &mut CreateMrReq| r.len = 4096,
        |r: &mut CreateMrReq| r.iova = 1,
        |r: &mut CreateMrReq| r.flags = 3,
    ] {
        let mut req = all_memory(Pdn(pdn));
        spoil(&mut req);
        let refused = pair.a.guest.register(w, &req).map(|mr| mr.lkey).map_err(|f| f.status);
        assert_eq!(refused, Err(AdminStatus::BAD_FIELD), "{req:?}");
    }
}
