// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The driver and the real device, end to end in one process, down to a byte that moves.

use crate::bench::client::{App, Parts};
use crate::bench::engine::Live;
use rdma_uapi::class::event_queue::kind;
use rdma_uapi::class::mr::{self, access};
use rdma_uapi::class::{self, device, port, qp, COOKIE, EVENT_QUEUE_OF};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Context, Errno, Failure, Reason};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use verbena_core::platform::Dma;
use verbena_core::schema::{self, CqRing, DoorbellMaps, QpRings, CQE_COOKIE};
use verbena_core::{mmap, MmapTarget};
use verbena_hw::cqe::{CqRecord, Cqe, Status};
use verbena_hw::id::{Gid, Key};
use verbena_hw::ring::{phase, slot};
use verbena_hw::wqe::{send_flags, SendHeader, SendOpcode, Sge};
use verbena_hw::{cqe, doorbell};
use zerocopy::{FromBytes, IntoBytes};

fn until<T>(what: impl Fn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = what() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come to pass");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn memory(app: &App, offset: u64, length: u64) -> std::sync::Arc<crate::bench::Memory> {
    match mmap(&app.context, offset, length).unwrap() {
        MmapTarget::Memory { memory, offset: 0 } => memory,
        MmapTarget::Memory { .. } => panic!("a part was given where the whole was asked for"),
        MmapTarget::Register(_) => panic!("memory was asked for"),
    }
}

fn gid(app: &App) -> [u8; 16] {
    let query = |m: &mut Builder<'_>| {
        m.ask_array(port::GIDS, 8);
    };
    let answer = app.call(method::QUERY, class::PORT, 1, query).unwrap();
    let gid = answer
        .reply()
        .array(port::GIDS)
        .next()
        .expect("entry 0 is always there")
        .gid;
    gid
}

/// Everything that leads a queue pair from RESET to RTS, connected to `peer`.
fn connected(m: &mut Builder<'_>, gid: [u8; 16], peer: u32) {
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ;
    m.put(qp::PORT, &1).put(qp::PKEY_INDEX, &0).put(qp::ACCESS, &rights);
    let path = qp::Path {
        dgid: gid,
        hop_limit: 64,
        ..Default::default()
    };
    m.put(qp::PATH, &path)
        .put(qp::PATH_MTU, &4096)
        .put(qp::DEST_QPN, &peer)
        .put(qp::RQ_PSN, &100);
    m.put(qp::MAX_DEST_RD_ATOMIC, &4)
        .put(qp::MIN_RNR_TIMER, &12)
        .put(qp::TIMEOUT, &14);
    m.put(qp::RETRY_CNT, &7)
        .put(qp::RNR_RETRY, &6)
        .put(qp::SQ_PSN, &100)
        .put(qp::MAX_RD_ATOMIC, &4);
}

/// Brings a queue pair in RESET to RTS, one MODIFY a state.
fn connect(app: &App, object: u32, gid: [u8; 16], peer: u32) {
    let modify = |fill: &dyn Fn(&mut Builder<'_>)| {
        app.call(method::MODIFY, class::QP_RC, object, |m| fill(m))
            .map(drop)
            .unwrap_or_else(|e| panic!("{e}"));
    };
    modify(&|m| {
        m.put(qp::STATE, &qp::state::INIT)
            .put(qp::PORT, &1)
            .put(qp::PKEY_INDEX, &0);
        m.put(qp::ACCESS, &(access::LOCAL_WRITE | access::REMOTE_WRITE));
    });
    modify(&|m| {
        let path = qp::Path {
            dgid: gid,
            hop_limit: 64,
            ..Default::default()
        };
        m.put(qp::STATE, &qp::state::RTR)
            .put(qp::PATH, &path)
            .put(qp::PATH_MTU, &4096)
            .put(qp::DEST_QPN, &peer);
        m.put(qp::RQ_PSN, &100)
            .put(qp::MAX_DEST_RD_ATOMIC, &4)
            .put(qp::MIN_RNR_TIMER, &12);
    });
    modify(&|m| {
        m.put(qp::STATE, &qp::state::RTS)
            .put(qp::TIMEOUT, &14)
            .put(qp::RETRY_CNT, &7)
            .put(qp::RNR_RETRY, &6);
        m.put(qp::SQ_PSN, &100).put(qp::MAX_RD_ATOMIC, &4);
    });
}

/// Two queue pairs of one application, connected to each other.
struct Pair {
    parts: Parts,
    ring: CqRing,
    maps: DoorbellMaps,
    first: (u32, u32, QpRings),
    second: u32,
}

fn pair(app: &App, report: impl Fn(&mut Builder<'_>)) -> Pair {
    let (cq, cqn, ring) = app.cq(64, &report).unwrap();
    let (doorbell, maps) = app.doorbell();
    let parts = Parts {
        pd: app.pd(),
        cq,
        cqn,
        doorbell,
        doorbell_index: maps.index,
    };
    let gid = gid(app);
    let first = app
        .qp(&parts, |m| {
            m.put(CQE_COOKIE, &0x5151);
        })
        .unwrap();
    // The second knows its peer when it is made: one call.
    let second = app
        .qp(&parts, |m| {
            m.put(qp::STATE, &qp::state::RTS).put(CQE_COOKIE, &0x5252);
            report(m);
            connected(m, gid, first.1);
        })
        .unwrap();
    connect(app, first.0, gid, second.1);
    Pair {
        parts,
        ring,
        maps,
        first,
        second: second.0,
    }
}

impl Pair {
    /// Posts one WRITE of `len` bytes and rings.
    fn write(&self, live: &Live, app: &App, index: u32, from: Sge, to: (u64, u32)) {
        let (_, _, rings) = self.first;
        let sq = memory(app, rings.mmap_offset, rings.mmap_length);
        let header = SendHeader {
            owner: phase(index, rings.send_log_entries),
            opcode: SendOpcode::WRITE.0,
            flags: send_flags::SIGNALED,
            num_sge: 1,
            wr_id: 0xabcd,
            remote_addr: to.0,
            rkey: Key(to.1),
            ..SendHeader::default()
        };
        let at = (slot(index, rings.send_log_entries) as usize) << rings.send_log_stride;
        sq.write(at + 8, &header.as_bytes()[8..]);
        sq.write(at + 32, from.as_bytes());
        let word = u64::read_from_bytes(&header.as_bytes()[..8]).unwrap();
        sq.words()[at / 8].store(word, Ordering::Release);

        let page = memory(app, self.maps.page_offset, doorbell::PAGE_SIZE);
        let (word, bit) = (usize::from(rings.slot) / 64, rings.slot % 64);
        page.words()[doorbell::BITMAP / 8 + word].fetch_or(1 << bit, Ordering::SeqCst);
        page.words()[doorbell::SUMMARY / 8].fetch_or(1 << word, Ordering::SeqCst);
        if page.words()[doorbell::KICK / 8].load(Ordering::SeqCst) as u32 != 0 {
            let Ok(MmapTarget::Register(register)) = mmap(&app.context, self.maps.register_offset, doorbell::PAGE_SIZE)
            else {
                panic!("the register was asked for")
            };
            live.served()
                .write_doorbell(register.bar_offset() + doorbell::REG_RING, rings.slot.into());
        }
    }

    fn completion(&self, app: &App, index: u32) -> Option<Cqe> {
        let ring = memory(app, self.ring.mmap_offset, self.ring.mmap_length);
        let at = slot(index, self.ring.log_entries as u8) as usize * 64;
        let owner = ring.words()[at / 8].load(Ordering::Acquire) as u8;
        if owner & 1 != phase(index, self.ring.log_entries as u8) {
            return None;
        }
        let mut bytes = [0; 64];
        ring.read(at, &mut bytes);
        Some(Cqe::read_from_bytes(&bytes).unwrap())
    }

    fn arm(&self, app: &App) {
        let ring = memory(app, self.ring.mmap_offset, self.ring.mmap_length);
        // Consumer counter 0 below, the request to be told above it: sequence 1.
        let arm = u64::from(1 << 2 | CqRecord::ARM_ANY) << 32;
        ring.words()[self.ring.record_offset as usize / 8].store(arm, Ordering::SeqCst);
    }
}

#[test]
fn u08_the_engine_tells_its_limits_and_its_port() {
    let live = Live::start();
    let answer = live
        .app
        .call(method::QUERY, class::DEVICE, 0, |m| {
            m.ask(device::ATTRS);
        })
        .unwrap();
    let attrs = answer.reply().get(device::ATTRS).unwrap();
    assert!(attrs.max_qp >= 65_536 && attrs.max_qp_wr == 32_768 && attrs.max_sge == 32);
    assert_eq!((attrs.ports, attrs.comp_vectors), (1, 4));
    assert_ne!((attrs.node_guid, attrs.fw_version), (0, 0));
    assert_eq!(gid(&live.app), Gid::link_local([2, 0x56, 0x42, 0, 0, 1]).0);
    let answer = live
        .app
        .call(method::QUERY, class::PORT, 1, |m| {
            m.ask(port::ATTRS).ask_array(port::PKEYS, 1);
        })
        .unwrap();
    let state = answer.reply().get(port::ATTRS).unwrap();
    assert_eq!((state.state, state.max_mtu), (port::state::ACTIVE, 4096));
    assert_eq!(answer.reply().array(port::PKEYS).next(), Some(0xffff));
}

#[test]
fn h05_a_write_posted_in_mapped_rings_arrives() {
    let live = Live::start();
    let app = &live.app;
    let pair = pair(app, |_| {});
    let (source, target) = (app.bench.user_buffer(3, true), app.bench.user_buffer(3, true));
    let rights = access::LOCAL_WRITE | access::REMOTE_WRITE;
    let keys = |addr| {
        let answer = app.mr(pair.parts.pd, addr, 3 * 4096, rights).unwrap();
        (
            answer.reply().get(mr::LKEY).unwrap(),
            answer.reply().get(mr::RKEY).unwrap(),
        )
    };
    let ((lkey, _), (_, rkey)) = (keys(source), keys(target));
    let byte = |n: u64| (n * 7 + 3) as u8;
    let host = &app.bench;
    let len = 2 * 4096 + 17;
    let pattern: Vec<u8> = (0..len).map(byte).collect();
    rdma_uapi::Host::copy_out(host, &(), source + 5, &pattern).unwrap();
    pair.write(
        &live,
        app,
        0,
        Sge {
            addr: source + 5,
            len: len as u32,
            lkey: Key(lkey),
        },
        (target + 9, rkey),
    );
    let completion = until(|| pair.completion(app, 0));
    assert_eq!((Status(completion.status), completion.vendor_err), (Status::SUCCESS, 0));
    assert_eq!(cqe::Opcode(completion.opcode), cqe::Opcode::RDMA_WRITE);
    assert_eq!(
        (completion.wr_id, completion.cookie, completion.qpn.get()),
        (0xabcd, 0x5151, pair.first.1)
    );
    let mut arrived = vec![0; len as usize + 2];
    rdma_uapi::Host::copy_in(host, &(), target + 8, &mut arrived).unwrap();
    assert_eq!((arrived[0], arrived[len as usize + 1]), (0, 0), "not a byte more");
    assert_eq!(arrived[1..=len as usize], pattern);
}

#[test]
fn u09_an_armed_completion_queue_reports_through_an_interrupt() {
    let live = Live::start();
    let app = &live.app;
    let (queue, fd) = app.event_queue();
    let pair = pair(app, |m| {
        m.put(EVENT_QUEUE_OF, &ObjectId(queue)).put(COOKIE, &0xcafe);
    });
    let buffer = app.bench.user_buffer(1, false);
    let answer = app
        .mr(pair.parts.pd, buffer, 4096, access::LOCAL_WRITE | access::REMOTE_WRITE)
        .unwrap();
    let (lkey, rkey) = (
        answer.reply().get(mr::LKEY).unwrap(),
        answer.reply().get(mr::RKEY).unwrap(),
    );
    pair.arm(app);
    pair.write(
        &live,
        app,
        0,
        Sge {
            addr: buffer,
            len: 8,
            lkey: Key(lkey),
        },
        (buffer + 64, rkey),
    );
    let event = until(|| app.next_event(fd));
    assert_eq!(
        (event.kind, event.object, event.cookie),
        (kind::COMPLETION, pair.parts.cq, 0xcafe)
    );
    assert!(pair.completion(app, 0).is_some(), "the entry is there before the event");
}

#[test]
fn u09_a_violation_of_access_is_an_event_of_the_violated_queue_pair() {
    let live = Live::start();
    let app = &live.app;
    let (queue, fd) = app.event_queue();
    let pair = pair(app, |m| {
        m.put(EVENT_QUEUE_OF, &ObjectId(queue)).put(COOKIE, &0xbad);
    });
    let buffer = app.bench.user_buffer(1, false);
    let answer = app.mr(pair.parts.pd, buffer, 4096, access::LOCAL_WRITE).unwrap();
    let lkey = answer.reply().get(mr::LKEY).unwrap();
    let from = Sge {
        addr: buffer,
        len: 8,
        lkey: Key(lkey),
    };
    pair.write(&live, app, 0, from, (buffer, lkey));
    let completion = until(|| pair.completion(app, 0));
    assert_eq!(Status(completion.status), Status::REM_ACCESS_ERR);
    let event = until(|| app.next_event(fd));
    assert_eq!((event.kind, event.class), (kind::QP_ACCESS_ERROR, class::QP_RC));
    assert_eq!((event.object, event.cookie), (pair.second, 0xbad));
}

#[test]
fn u09_a_cable_that_is_pulled_is_an_event_of_the_port() {
    let live = Live::start();
    let (_, fd) = live.app.event_queue();
    live.app.associate(fd, class::PORT, 1, 5).unwrap();
    live.served().set_link(false);
    let event = until(|| live.app.next_event(fd));
    assert_eq!((event.kind, event.object, event.cookie), (kind::PORT_ERROR, 1, 5));
    live.served().set_link(true);
    assert_eq!(until(|| live.app.next_event(fd)).kind, kind::PORT_ACTIVE);
}

fn dump(app: &App) -> serde_json::Value {
    let pages = 64;
    let room = app.bench.user_buffer(pages, false);
    let answer = app
        .call(method::QUERY, class::DEVICE, 0, |m| {
            m.by_pointer(schema::DUMP, room, pages as u64 * 4096);
        })
        .unwrap();
    let answered = answer
        .reply()
        .answered(schema::DUMP.id())
        .expect("the dump was asked for");
    assert!(!answered.truncated);
    let mut text = vec![0; answered.written as usize];
    rdma_uapi::Host::copy_in(&app.bench, &(), room, &mut text).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)))
}

#[test]
fn h15_the_dump_shows_what_exists_and_that_it_ends() {
    let live = Live::start();
    let empty = dump(&live.app).to_string();
    let other = live.app.another();
    let pair = pair(&other, |_| {});
    let full = dump(&live.app).to_string();
    let qpn = pair.first.1.to_string();
    assert!(full.contains(&qpn) && full.len() > empty.len(), "{full}");
    Context::close(&other.context);
    let after = dump(&live.app).to_string();
    assert!(!after.contains(&qpn), "{after}");
}

#[test]
fn u06_the_engines_refusals_name_what_was_wrong() {
    let live = Live::start();
    let app = &live.app;
    let parts = app.parts();
    let (object, ..) = app.qp(&parts, |_| {}).unwrap();
    let modify = |fill: &dyn Fn(&mut Builder<'_>)| -> (Errno, Reason, u16) {
        let failure: Failure = app
            .call(method::MODIFY, class::QP_RC, object, |m| fill(m))
            .map(drop)
            .unwrap_err();
        (failure.errno, failure.reason, failure.attr)
    };
    let wrong = modify(&|m| {
        m.put(qp::STATE, &qp::state::RTS);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::BAD_STATE, qp::STATE.id()));
    let wrong = modify(&|m| {
        m.put(qp::STATE, &qp::state::INIT).put(qp::PORT, &1).put(qp::ACCESS, &1);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::MISSING, qp::PKEY_INDEX.id()));
    let wrong = modify(&|m| {
        m.put(qp::STATE, &qp::state::INIT)
            .put(qp::PORT, &2)
            .put(qp::ACCESS, &1)
            .put(qp::PKEY_INDEX, &0);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::OUT_OF_RANGE, qp::PORT.id()));
    let wrong = modify(&|m| {
        m.put(qp::STATE, &qp::state::INIT)
            .put(qp::PORT, &1)
            .put(qp::ACCESS, &1)
            .put(qp::PKEY_INDEX, &0);
        m.put(qp::TIMEOUT, &14);
    });
    assert_eq!(wrong, (Errno::EINVAL, Reason::NOT_ALLOWED, qp::TIMEOUT.id()));
}

#[test]
fn u13_contexts_close_in_the_middle_of_traffic_and_leave_nothing() {
    let live = Live::start();
    let used = live.app.bench.0.ram.used();
    for round in 0..20 {
        let app = live.app.another();
        let pair = pair(&app, |_| {});
        let buffer = app.bench.user_buffer(1, false);
        let answer = app
            .mr(pair.parts.pd, buffer, 4096, access::LOCAL_WRITE | access::REMOTE_WRITE)
            .unwrap();
        let (lkey, rkey) = (
            answer.reply().get(mr::LKEY).unwrap(),
            answer.reply().get(mr::RKEY).unwrap(),
        );
        for index in 0..8 {
            pair.write(
                &live,
                &app,
                index,
                Sge {
                    addr: buffer,
                    len: 64,
                    lkey: Key(lkey),
                },
                (buffer + 64, rkey),
            );
        }
        Context::close(&app.context);
        assert_eq!(
            live.app.bench.0.ram.used(),
            used + round + 1,
            "all but the process's own page"
        );
        assert_eq!(live.app.bench.0.pinned.load(Ordering::Relaxed), 0);
    }
    assert!(!live.app.device.state().is_gone());
    assert!(live.app.bench.0.log.lock().unwrap().is_empty());
}

#[test]
fn h03_many_threads_make_and_destroy_at_once() {
    let live = Live::start();
    let used = live.app.bench.0.ram.used();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let app = live.app.another();
            scope.spawn(move || {
                for _ in 0..25 {
                    let pair = pair(&app, |_| {});
                    app.destroy(class::QP_RC, pair.first.0).unwrap();
                }
                Context::close(&app.context);
            });
        }
    });
    assert_eq!(live.app.bench.0.ram.used(), used);
    assert!(live.app.bench.0.log.lock().unwrap().is_empty());
}
