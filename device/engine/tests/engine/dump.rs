// SPDX-License-Identifier: MIT OR Apache-2.0
//! H15: the dump, from the host and from inside.

use verbena_engine::testing::{Failed, Pair, SendWr};
use verbena_hw::admin::{Opcode, Status};
use verbena_hw::cmd::{DumpReq, DumpRsp, DUMP_ALL, DUMP_CQ, DUMP_MR, DUMP_QP};
use verbena_hw::ring::PageList;

fn dump(pair: &mut Pair, select: u32, number: u32, len: u64) -> Result<serde_json::Value, Failed> {
    let w = &mut pair.world;
    let hca = pair.a.guest.hca;
    let at = w.ram_mut(hca).alloc(len.next_multiple_of(4096) as usize);
    let req = DumpReq {
        pages: PageList::direct(at, len),
        len,
        select,
        number,
    };
    let rsp: DumpRsp = pair.a.guest.command(w, Opcode::DUMP, &req)?;
    let text = w.ram(hca).read(at, rsp.len as usize);
    Ok(serde_json::from_slice(&text).expect("JSON"))
}

#[test]
fn h15_the_guest_dumps_its_own_hca() {
    let mut pair = Pair::connected();
    let w = &mut pair.world;
    pair.a.post(w, SendWr::write(1, &[], pair.b.addr(0), pair.b.rkey()));
    w.run();
    let all = dump(&mut pair, DUMP_ALL, 0, 1 << 16).expect("a dump");
    assert_eq!(all["name"], "test0");
    assert_eq!(all["objects"]["qps"], 1);
    assert_eq!(all["qps"][0]["state"], "RTS");
    assert_eq!(all["qps"][0]["qpn"], pair.a.qp.qpn.get());
    assert_eq!(all["qps"][0]["sq"]["consumer"], 1);
    let sent = all["counters"]
        .as_array()
        .expect("counters")
        .iter()
        .find(|c| c["name"] == "sent_msgs")
        .expect("the counter");
    assert_eq!(sent["value"], 1);
    assert_eq!(all["registers"][0]["name"], "MAGIC");
}

#[test]
fn h15_a_part_of_it() {
    let mut pair = Pair::connected();
    let (qpn, cqn, mr) = (pair.a.qp.qpn.get(), pair.a.cq.cqn.get(), pair.a.mr.lkey.index());
    for (select, number, group) in [(DUMP_QP, qpn, "qps"), (DUMP_CQ, cqn, "cqs"), (DUMP_MR, mr, "mrs")] {
        for number in [number, u32::MAX] {
            let part = dump(&mut pair, select, number, 8192).expect("a dump");
            assert_eq!(part[group].as_array().expect("the group").len(), 1);
            assert!(part.get("registers").is_none());
        }
        assert_eq!(
            dump(&mut pair, select, 0x1234, 8192).map_err(|f| f.status),
            Err(Status::NO_SUCH_OBJECT)
        );
    }
}

#[test]
fn h15_a_buffer_that_is_too_small_learns_how_large_it_must_be() {
    let mut pair = Pair::connected();
    let Err(failed) = dump(&mut pair, DUMP_ALL, 0, 100) else {
        panic!("100 bytes cannot do");
    };
    assert_eq!(failed.status, Status::BUFFER_TOO_SMALL);
    dump(&mut pair, DUMP_ALL, 0, u64::from(failed.detail) + 64).expect("now it fits");
}

#[test]
fn h15_the_host_sees_all_hcas_as_json_and_as_text() {
    let mut pair = Pair::connected();
    pair.a.post_recv(&mut pair.world, 1, 0, 8);
    let dump = pair.world.engine.dump(None, pair.world.now, &pair.world.env);
    assert_eq!(dump.hcas.len(), 2);
    let json = serde_json::to_value(&dump).expect("JSON");
    assert_eq!(json["hcas"][1]["port"]["state"], "ACTIVE");
    let text = dump.to_string();
    for word in [
        "HCA 0 \"test0\"",
        "QP 0x20000 RC RTS",
        "MAGIC",
        "port ACTIVE",
        "CQ ",
        "EQ 0",
    ] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

/// The doorbell page of the pair's sender, as JSON, and all of its HCA as text.
fn doorbell_page(pair: &Pair) -> (serde_json::Value, String) {
    let dump = pair
        .world
        .engine
        .dump(Some(pair.a.guest.hca), pair.world.now, &pair.world.env);
    let json = serde_json::to_value(&dump.hcas[0].doorbells[0]).expect("JSON");
    (json["page"].clone(), dump.to_string())
}

#[test]
fn h15_a_doorbell_page_shows_who_has_rung_and_who_is_watched() {
    let mut pair = Pair::connected();
    let write = |pair: &mut Pair, id| {
        let wr = SendWr::write(id, &[pair.a.sge(0, 8)], pair.b.addr(0), pair.b.rkey());
        pair.a.qp.post_quietly(&pair.world, wr);
        pair.a.qp.ring(&pair.world);
    };
    let qpn = pair.a.qp.qpn.get();
    write(&mut pair, 1);
    let (page, text) = doorbell_page(&pair);
    assert_eq!(page["rung"][0]["qpn"], qpn);
    assert_eq!(page["watched"], serde_json::json!([]));
    assert!(text.contains(&format!(", rung {qpn:#x}\n")), "{text}");
    let (again, _) = doorbell_page(&pair);
    assert_eq!(page, again, "it was looked at, not taken");

    // Emptied, it is watched, and need not ring.
    pair.world.run();
    write(&mut pair, 2);
    let (page, text) = doorbell_page(&pair);
    assert_eq!(page["rung"], serde_json::json!([]));
    assert_eq!(page["watched"][0]["qpn"], qpn);
    assert_eq!(page["asleep"], false);
    assert!(text.contains(&format!(", watched {qpn:#x}\n")), "{text}");

    pair.world.run();
    assert!(pair.world.engine.prepare_sleep(0, &pair.world.env));
    let (page, text) = doorbell_page(&pair);
    assert_eq!(page["asleep"], true);
    assert_eq!(page["watched"], serde_json::json!([]));
    assert!(text.contains(", the device sleeps\n"), "{text}");
}

#[test]
fn h15_a_doorbell_page_that_is_not_mapped_says_so() {
    let mut pair = Pair::connected();
    let hca = pair.a.guest.hca;
    let at = verbena_engine::testing::RAM_BASE;
    pair.world.ram_mut(hca).unmap(at);
    let (page, text) = doorbell_page(&pair);
    assert_eq!(page, serde_json::Value::Null);
    assert!(text.contains(", not mapped\n"), "{text}");
}
