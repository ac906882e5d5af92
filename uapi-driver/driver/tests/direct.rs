// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver against the device, with nothing in between but the socket and shared memory.

mod common;
mod connections;

use common::{pattern, Device, Side, LONG};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use verbena::{
    Access, ArmKind, Attachment, Context, DeviceList, Errno, Error, EventKind, EventQueue, ListedDevice, PostError,
    QpAttr, QpState, RcQp, Reason, RecvWr, Remote, SendWr, WcOpcode, WcStatus,
};

#[test]
fn u07_the_interface_lists_the_classes_and_verbenas_own() {
    let device = Device::new(1);
    let interface = device.open(0).interface().unwrap();
    let classes = interface.classes();
    for name in [
        "interface",
        "device",
        "port",
        "pd",
        "mr",
        "cq",
        "qp_rc",
        "event_queue",
        "verbena_doorbell",
    ] {
        assert!(
            classes.iter().any(|class| class.name == name),
            "{name} is missing in\n{interface}"
        );
    }
    let mr = classes.iter().find(|class| class.name == "mr").unwrap();
    let create = mr.methods.iter().find(|method| method.name == "create").unwrap();
    assert!(create.attrs.iter().any(|attr| attr.name == "lkey" && attr.ty == "u32"));
    assert!(interface.to_string().contains("required"), "{interface}");
}

#[test]
fn h02_device_and_port_say_what_they_are() {
    let device = Device::new(1);
    let context = device.open(0);
    let attrs = context.device().unwrap();
    assert!(attrs.max_qp > 0 && attrs.max_cqe > 0 && attrs.ports == 1, "{attrs:?}");
    let port = context.port(1).unwrap();
    assert!(port.is_active());
    assert_eq!(port.gids[0].gid, context.gid(1, 0).unwrap().0);
    assert_eq!(port.gids[0].gid[..2], [0xfe, 0x80]);
    assert!(port.counter("sent_msgs").is_some(), "{:?}", port.counters);
    assert!(context.port(2).is_err());
    assert_eq!(context.name().unwrap(), "hca0.sock");
}

#[test]
fn h15_the_device_dumps_itself_to_the_guest() {
    let device = Device::new(1);
    let context = device.open(0);
    let side = Side::new(&context, 4);
    let dump = context.dump().unwrap();
    assert!(dump.starts_with('{') && dump.contains("qp"), "{dump}");
    drop(side);
}

#[test]
fn h13_two_hcas_of_one_server_exchange_data_of_every_size() {
    let device = Device::new(2);
    let (mut left, mut right) = Side::pair(&device.open(0), &device.open(1), 16);
    for (n, len) in [0usize, 1, 63, 64, 4095, 4096, 1 << 20, 64 << 20]
        .into_iter()
        .enumerate()
    {
        let from = left.buffer(len.max(1), n);
        let to = right.context.alloc_buffer(len + 128).unwrap();
        let source = left.pd.register(&from, Access::LOCAL_WRITE).unwrap();
        let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
        let check = |what: &str| {
            let wrong = to.find_mismatch(0, len, |i| pattern(i, n));
            assert_eq!(wrong, None, "{what} of {len} bytes");
            assert_eq!(
                to.to_vec(len, 128),
                [0; 128],
                "{what} of {len} bytes wrote beyond its end"
            );
            to.fill(0, len, 0);
        };

        left.qp
            .post_send(
                &SendWr::write(target.remote(0))
                    .sges(&[source.sge(..len)])
                    .wr_id(1)
                    .signaled(),
            )
            .unwrap();
        let done = left.complete();
        done.ok().unwrap();
        assert_eq!((done.wr_id, done.opcode, done.recv), (1, WcOpcode::RDMA_WRITE, false));
        check("WRITE");

        right.qp.post_recv(&RecvWr::new(&[target.sge(..len)]).wr_id(2)).unwrap();
        left.qp
            .post_send(
                &SendWr::send_imm(n as u32)
                    .sges(&[source.sge(..len)])
                    .wr_id(3)
                    .signaled(),
            )
            .unwrap();
        let received = right.complete();
        received.ok().unwrap();
        assert_eq!((received.wr_id, received.recv, received.imm), (2, true, Some(n as u32)));
        assert_eq!(received.byte_len as usize, len);
        left.complete().ok().unwrap();
        check("SEND");

        // The other way round: the right side reads what is on the left.
        let readable = left
            .pd
            .register(&from, Access::LOCAL_WRITE | Access::REMOTE_READ)
            .unwrap();
        right
            .qp
            .post_send(
                &SendWr::read(readable.remote(0))
                    .sges(&[target.sge(..len)])
                    .wr_id(4)
                    .signaled(),
            )
            .unwrap();
        let read = right.complete();
        read.ok().unwrap();
        assert_eq!(
            (read.wr_id, read.opcode, read.byte_len as usize),
            (4, WcOpcode::RDMA_READ, len)
        );
        check("READ");
    }
}

#[test]
fn h05_scatter_lists_that_cross_pages_are_gathered_and_scattered() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, mut right) = Side::pair(&context, &context, 8);
    let from = left.buffer(5 * 4096, 5);
    let to = right.context.alloc_buffer(5 * 4096).unwrap();
    let source = left.pd.register(&from, Access::LOCAL_WRITE).unwrap();
    let target = right.pd.register(&to, Access::LOCAL_WRITE).unwrap();
    let gather = [
        source.sge(4000..4200),
        source.sge(0..1),
        source.sge(8190..16400),
        source.sge(7..7),
    ];
    let scatter = [target.sge(4095..4097), target.sge(10_000..18_300), target.sge(1..500)];
    right.qp.post_recv(&RecvWr::new(&scatter)).unwrap();
    left.qp.post_send(&SendWr::send().sges(&gather).signaled()).unwrap();
    assert_eq!(right.complete().byte_len, 8411);
    left.complete().ok().unwrap();
    let sent: Vec<u8> = [4000..4200, 0..1, 8190..16400]
        .into_iter()
        .flatten()
        .map(|i| pattern(i, 5))
        .collect();
    let mut received = to.to_vec(4095, 2);
    received.extend(to.to_vec(10_000, 8300));
    received.extend(to.to_vec(1, 499));
    assert_eq!(received[..8411], sent);
    assert_eq!(to.to_vec(110, 10), [0; 10], "nothing is written beyond the message");
}

#[test]
fn h04_inline_data_needs_no_region_and_is_free_at_once() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, mut right) = Side::pair(&context, &context, 4);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let mut data = *b"inline data, thirteen and a bit words long, all of it right here";
    left.qp
        .post_send(&SendWr::write(target.remote(9)).inline(&data).signaled())
        .unwrap();
    let sent = std::mem::replace(&mut data, [0; 64]);
    left.complete().ok().unwrap();
    assert_eq!(to.to_vec(9, 64), sent);
    right.qp.post_recv(&RecvWr::new(&[target.sge(1024..)])).unwrap();
    left.qp
        .post_send(&SendWr::send().inline(&sent[..13]).signaled())
        .unwrap();
    assert_eq!(right.complete().byte_len, 13);
    assert_eq!(to.to_vec(1024, 13), sent[..13]);
    let refused = left.qp.post_send(&SendWr::send().inline(&[0; 65]));
    assert_eq!(refused, Err(PostError::InlineTooLong { max: 64 }));
}

#[test]
fn u19_batches_go_round_the_rings_many_times_with_one_signal_each() {
    const BATCH: u64 = 8;
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, right) = Side::pair(&context, &context, 16);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    for round in 0..500u64 {
        let mut batch = left.qp.send_batch();
        for i in 0..BATCH {
            let value = (round * BATCH + i).to_le_bytes();
            let wr = SendWr::write(target.remote(8 * i as usize)).inline(&value).wr_id(i);
            batch.push(&if i == BATCH - 1 { wr.signaled() } else { wr }).unwrap();
        }
        batch.ring().unwrap();
        let done = left.complete();
        done.ok().unwrap();
        assert_eq!(done.wr_id, BATCH - 1);
        for i in 0..BATCH {
            assert_eq!(to.load_u64(8 * i as usize), round * BATCH + i);
        }
    }
    assert_eq!(left.qp.send_outstanding(), 0);
}

#[test]
fn u19_a_full_queue_says_so_and_a_batch_that_fails_is_forgotten() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, right) = Side::pair(&context, &context, 4);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let write = SendWr::write(target.remote(0)).inline(&[7; 8]).signaled();
    for _ in 0..left.qp.send_depth() {
        left.qp.post_send(&write).unwrap();
    }
    assert_eq!(left.qp.post_send(&write), Err(PostError::QueueFull));
    for _ in 0..left.qp.send_depth() {
        left.complete().ok().unwrap();
    }
    let mut batch = left.qp.send_batch();
    batch
        .push(&SendWr::write(target.remote(64)).inline(&[9; 8]).signaled())
        .unwrap();
    drop(batch);
    left.qp.post_send(&write).unwrap();
    left.complete().ok().unwrap();
    assert!(left.cq.poll_timeout(Duration::from_millis(50)).unwrap().is_none());
    assert_eq!(to.load_u64(64), 0, "the forgotten batch did not happen");
}

#[test]
fn h10_a_wrong_key_is_an_error_that_names_itself_and_flushes_the_rest() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, right) = Side::pair(&context, &context, 8);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let wrong = Remote {
        rkey: target.rkey() ^ 0x5a,
        ..target.remote(0)
    };
    let mut batch = left.qp.send_batch();
    batch.push(&SendWr::write(wrong).inline(&[1; 8]).wr_id(1)).unwrap();
    batch
        .push(&SendWr::write(target.remote(0)).inline(&[2; 8]).wr_id(2))
        .unwrap();
    batch.ring().unwrap();
    let (first, second) = (left.complete(), left.complete());
    assert_eq!((first.wr_id, first.status), (1, WcStatus::REM_ACCESS_ERR));
    assert_eq!((second.wr_id, second.status), (2, WcStatus::WR_FLUSH_ERR));
    assert!(first.ok().unwrap_err().to_string().contains("REM_ACCESS_ERR"));
    assert_eq!(left.qp.query().unwrap().state, QpState::ERR);
    assert_eq!(to.load_u64(0), 0);
}

#[test]
fn h04_a_reset_queue_pair_connects_and_works_again() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, mut right) = Side::pair(&context, &context, 4);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    for round in 0..3u8 {
        // Three of four entries: every life begins at another place of the rings than the one before ended.
        for _ in 0..3 {
            left.qp
                .post_send(&SendWr::write(target.remote(0)).inline(&[round; 8]).signaled())
                .unwrap();
        }
        left.complete().ok().unwrap();
        assert!(left.qp.reset(&mut []).is_err(), "its completion queue is missing");
        while left.qp.send_outstanding() > 1 {
            left.complete().ok().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
        left.qp.reset(&mut [&mut left.cq]).unwrap();
        right.qp.reset(&mut [&mut right.cq]).unwrap();
        assert_eq!(left.qp.post_send(&SendWr::send()), Err(PostError::WrongState));
        assert!(
            left.cq.poll().is_none(),
            "completions of the former life are not delivered"
        );
        left.qp.connect(&right.qp.endpoint().unwrap()).unwrap();
        right.qp.connect(&left.qp.endpoint().unwrap()).unwrap();
    }
    left.qp
        .post_send(&SendWr::write(target.remote(8)).inline(&[9; 8]).signaled().wr_id(5))
        .unwrap();
    assert_eq!(left.complete().wr_id, 5);
    assert_eq!(to.to_vec(8, 8), [9; 8]);
}

#[test]
fn h04_a_transition_that_lacks_an_attribute_is_refused_by_name() {
    let device = Device::new(1);
    let mut side = Side::new(&device.open(0), 4);
    let error = side.qp.modify(&QpAttr::to(QpState::INIT).port(1)).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    assert_eq!(error.reason(), Some(Reason::MISSING), "{error}");
    assert!(error.to_string().contains("attribute "), "{error}");
    assert_eq!(side.qp.state(), QpState::RESET);
    assert!(side.qp.modify(&QpAttr::to(QpState::RESET)).is_err());
    side.qp.init().unwrap();
    side.qp.post_recv(&RecvWr::new(&[])).unwrap();
    assert_eq!(side.qp.post_send(&SendWr::send()), Err(PostError::WrongState));
    assert_eq!(side.qp.recv_outstanding(), 1);
}

#[test]
fn h12_an_armed_queue_wakes_a_sleeper_through_its_descriptor() {
    let device = Device::new(1);
    let context = device.open(0);
    let events = context.create_event_queue().unwrap();
    let (mut left, right) = Side::pair(&context, &context, 8);
    events.associate_cq(&left.cq, 0xc0de).unwrap();
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let write = SendWr::write(target.remote(0)).inline(&[1; 8]).signaled();
    assert!(!readable(&events, Duration::ZERO));

    for _ in 0..20 {
        left.cq.arm(ArmKind::Any);
        assert!(left.cq.poll().is_none());
        left.qp.post_send(&write).unwrap();
        assert!(readable(&events, LONG));
        let event = events.next_event(Some(LONG)).unwrap().unwrap();
        assert_eq!((event.kind, event.cookie), (EventKind::Completion, 0xc0de));
        left.complete().ok().unwrap();
        assert!(!readable(&events, Duration::ZERO), "read events are gone");
    }

    // Not armed: no event.
    left.qp.post_send(&write).unwrap();
    left.complete().ok().unwrap();
    assert_eq!(events.next_event(Some(Duration::from_millis(50))).unwrap(), None);
    assert_eq!(events.try_next().unwrap(), None);

    // The whole dance in one call, with the completion coming while it sleeps.
    let Side { mut qp, mut cq, .. } = left;
    let poster = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        qp.post_send(&SendWr::write(target.remote(0)).inline(&[1; 8]).signaled().wr_id(77))
            .unwrap();
        // Dropped, the queue pair would take its completion along.
        std::thread::sleep(Duration::from_millis(500));
        (qp, target)
    });
    let done = cq.wait(&events, Some(LONG)).unwrap().unwrap();
    assert_eq!(done.wr_id, 77);
    let begin = Instant::now();
    assert_eq!(cq.wait(&events, Some(Duration::from_millis(30))).unwrap(), None);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    drop(poster.join().unwrap());
}

fn readable(events: &EventQueue, timeout: Duration) -> bool {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(timeout).unwrap())).unwrap() == 1
}

#[test]
fn u09_no_event_of_a_destroyed_queue_is_delivered_and_many_come_in_one_call() {
    let device = Device::new(1);
    let context = device.open(0);
    let events = EventQueue::with_capacity(&context, 64).unwrap();
    assert!(events.capacity() >= 64);
    let (mut left, right) = Side::pair(&context, &context, 8);
    let (mut other, right2) = Side::pair(&context, &context, 8);
    events.associate_cq(&left.cq, 1).unwrap();
    events.associate_cq(&other.cq, 2).unwrap();
    let to = context.alloc_buffer(4096).unwrap();
    for (side, peer) in [(&mut left, &right), (&mut other, &right2)] {
        let target = peer.pd.register(&to, Access::ALL_REMOTE).unwrap();
        side.cq.arm(ArmKind::Any);
        side.qp
            .post_send(&SendWr::write(target.remote(0)).inline(&[1; 8]).signaled())
            .unwrap();
        side.complete().ok().unwrap();
    }
    let begin = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 2 && begin.elapsed() < LONG {
        seen.extend(events.read_events(16).unwrap().into_iter().map(|event| event.cookie));
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2]);
    assert_eq!(events.read_events(16).unwrap(), []);

    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    left.cq.arm(ArmKind::Any);
    left.qp
        .post_send(&SendWr::write(target.remote(0)).inline(&[1; 8]).signaled())
        .unwrap();
    assert!(readable(&events, LONG));
    drop(left);
    assert_eq!(events.read_events(16).unwrap(), []);
    assert_eq!(events.try_next().unwrap(), None);
}

#[test]
fn u13_what_is_in_use_cannot_be_destroyed_and_order_of_drops_does_not_matter() {
    let device = Device::new(1);
    let context = device.open(0);
    let pd = context.alloc_pd().unwrap();
    let cq = context.create_cq(16).unwrap();
    let buffer = context.alloc_buffer(4096).unwrap();
    let region = pd.register(&buffer, Access::ALL_REMOTE).unwrap();
    let qp = RcQp::builder(&pd, &cq, &cq).build().unwrap();
    let error = cq.destroy().unwrap_err();
    assert_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EBUSY), Some(Reason::IN_USE)),
        "{error}"
    );
    let error = pd.destroy().unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EBUSY), "{error}");
    // Handles of what they stand on are gone; queue pair and region still are whole.
    assert_eq!(qp.query().unwrap().state, QpState::RESET);
    drop(context);
    drop(buffer);
    assert_eq!(region.buffer().unwrap().len(), 4096);
    qp.destroy().unwrap();
    region.deregister().unwrap();
}

#[test]
fn u13_contexts_of_one_process_share_the_device_and_nothing_else() {
    let device = Device::new(1);
    let (one, two) = (device.open(0), device.open(0));
    let (mut left, right) = Side::pair(&one, &two, 4);
    let to = two.alloc_buffer(64).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    left.qp
        .post_send(&SendWr::write(target.remote(0)).inline(&[5; 64]).signaled())
        .unwrap();
    left.complete().ok().unwrap();
    assert_eq!(to.to_vec(0, 64), [5; 64]);
    drop((left, one));
    assert!(!two.is_gone());
    drop((right, target, two));
    // The last context closed the socket; the device takes the next client.
    for _ in 0..3 {
        let again = device.open(0);
        again.alloc_pd().unwrap();
    }
}

#[test]
fn u13_completions_of_a_dropped_queue_pair_are_not_delivered() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, right) = Side::pair(&context, &context, 8);
    let to = context.alloc_buffer(64).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let mut other = RcQp::builder(&left.pd, &left.cq, &left.cq).build().unwrap();
    let mut peer = RcQp::builder(&right.pd, &right.cq, &right.cq).build().unwrap();
    other.connect(&peer.endpoint().unwrap()).unwrap();
    peer.connect(&other.endpoint().unwrap()).unwrap();
    let write = SendWr::write(target.remote(0)).inline(&[1; 8]).signaled();
    for _ in 0..5 {
        other.post_send(&write.wr_id(1)).unwrap();
        left.qp.post_send(&write.wr_id(2)).unwrap();
    }
    let begin = Instant::now();
    while left.context.port(1).unwrap().counter("sent_msgs") < Some(10) {
        assert!(begin.elapsed() < LONG);
        std::thread::yield_now();
    }
    drop(other);
    let next = RcQp::builder(&left.pd, &left.cq, &left.cq).build().unwrap();
    for _ in 0..5 {
        let done = left.complete();
        done.ok().unwrap();
        assert_eq!((done.wr_id, done.qpn), (2, left.qp.qpn()));
    }
    assert!(left.cq.poll().is_none());
    assert_eq!(next.send_outstanding(), 0, "a successor is not credited with them");
}

#[test]
fn h06_regions_count_from_their_buffer_from_zero_or_from_where_they_are_told() {
    let device = Device::new(1);
    let context = device.open(0);
    let (mut left, right) = Side::pair(&context, &context, 8);
    let to = context.alloc_buffer(8192).unwrap();
    let plain = right.pd.register_part(&to, 100..200, Access::ALL_REMOTE).unwrap();
    let zero = right.pd.register(&to, Access::ALL_REMOTE | Access::ZERO_BASED).unwrap();
    let chosen = right.pd.register_at(&to, 0xdead_0000_0000, Access::ALL_REMOTE).unwrap();
    assert_eq!(
        (plain.addr(), zero.addr(), chosen.addr()),
        (to.addr() + 100, 0, 0xdead_0000_0000)
    );
    for (region, offset, place) in [(&plain, 5, 105), (&zero, 300, 300), (&chosen, 4090, 4090)] {
        left.qp
            .post_send(
                &SendWr::write(region.remote(offset))
                    .inline(&[place as u8; 16])
                    .signaled(),
            )
            .unwrap();
        left.complete().ok().unwrap();
        assert_eq!(to.to_vec(place, 16), [place as u8; 16]);
    }
    // SAFETY: the device cannot reach it, so it is not registered.
    let error = unsafe { right.pd.register_raw([0u8; 8].as_mut_ptr(), 8, Access::LOCAL_WRITE) }.unwrap_err();
    assert_eq!(
        (error.errno(), error.reason()),
        (Some(Errno::EFAULT), Some(Reason::BAD_POINTER)),
        "{error}"
    );
    let error = right.pd.register(&to, Access::REMOTE_WRITE).unwrap_err();
    assert!(error.to_string().contains("attribute access"), "{error}");
}

#[test]
fn u13_memory_of_dropped_regions_serves_again() {
    let device = Device::new(1);
    let context = device.open(0);
    let pd = context.alloc_pd().unwrap();
    for round in 0..50 {
        // More in all than the attachment has.
        let buffer = context.alloc_buffer(512 << 20).unwrap();
        buffer.write_at(round * 4096, &[1]);
        pd.register(&buffer, Access::LOCAL_WRITE).unwrap();
    }
}

#[test]
fn u13_when_the_server_ends_calls_fail_and_nothing_waits() {
    let mut device = Device::new(2);
    let (survivor, context) = (device.open(1), device.open(0));
    let events = context.create_event_queue().unwrap();
    events.associate_device(9).unwrap();
    let (mut left, right) = Side::pair(&context, &context, 8);
    let to = context.alloc_buffer(64).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    device.stop();

    let event = events.next_event(Some(LONG)).unwrap().expect("the end is an event");
    assert_eq!(event.kind, EventKind::DeviceGone);
    assert!(matches!(events.next_event(Some(LONG)), Err(Error::Gone)));
    assert!(
        readable(&events, Duration::ZERO),
        "a descriptor whose queue has ended does not block readers"
    );
    assert!(context.is_gone());
    for error in [
        context.device().unwrap_err(),
        context.alloc_pd().unwrap_err(),
        left.qp.set_error().unwrap_err(),
    ] {
        assert!(error.is_gone(), "{error}");
    }
    let write = SendWr::write(target.remote(0)).inline(&[1; 8]).signaled();
    let posted = left.qp.post_send(&write);
    assert!(matches!(posted, Ok(()) | Err(PostError::DeviceGone)), "{posted:?}");
    let begin = Instant::now();
    assert!(matches!(left.cq.poll_timeout(LONG), Err(Error::Gone)));
    assert!(begin.elapsed() < Duration::from_secs(10));
    to.write_at(0, &[1]);
    assert_eq!(to.to_vec(0, 1), [1]);
    drop((left, right, target, events, context, survivor));

    // A new server on the same sockets is a new device.
    device.start();
    device.open(0).alloc_pd().unwrap();
}

#[test]
fn u13_a_gone_device_and_its_successor_are_kept_apart() {
    let mut device = Device::new(1);
    let old = device.open(0);
    old.alloc_pd().unwrap();
    device.stop();
    assert!(old.alloc_pd().is_err());
    device.start();
    let new = device.open(0);
    new.alloc_pd().unwrap();
    drop(old);
    new.alloc_pd().unwrap();
}

#[test]
fn u06_what_keeps_a_device_from_being_opened_is_said_with_advice() {
    let device = Device::new(1);
    let fails = |attachment: &str| Context::open(&attachment.parse().unwrap()).unwrap_err().to_string();
    let nowhere = device.path().join("nothing.sock");
    let error = fails(&format!("direct:{}", nowhere.display()));
    assert!(
        error.contains("nothing.sock") && error.contains("verbena-hca --socket"),
        "{error}"
    );
    let error = fails(&format!("kernel:{}", device.path().join("verbena0").display()));
    assert!(error.contains("modprobe"), "{error}");

    // Somebody else has the device.
    let other = vfio_user::Client::new(&device.socket(0)).unwrap();
    let begin = Instant::now();
    let error = fails(&format!("direct:{}", device.socket(0).display()));
    assert!(error.contains("one client at a time"), "{error}");
    assert!(begin.elapsed() < LONG);
    drop(other);

    // Nobody who speaks vfio-user.
    let path = device.path().join("mute.sock");
    let mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let begin = Instant::now();
    let error = fails(&format!("direct:{}", path.display()));
    assert!(error.contains("one client at a time"), "{error}");
    assert!(begin.elapsed() < LONG);
    drop(mute);
    let error = fails(&format!("direct:{}", path.display()));
    assert!(error.contains("nobody listens"), "{error}");
}

#[test]
fn u06_malformed_messages_are_refused_with_the_reason_in_the_header() {
    use rdma_uapi::client::{Builder, Reply};
    use rdma_uapi::wire::{method, HEADER};
    let device = Device::new(1);
    let context = device.open(0);
    // SAFETY: none of the messages has an attribute by pointer.
    let call = |method, message: &mut [u8]| unsafe { context.raw_call(method, message) };

    let mut words = [0; 8];
    let message = Builder::new(&mut words, 0x7fff, 0).finish().unwrap();
    assert_eq!(call(method::CREATE, message), Err(Errno::EOPNOTSUPP));
    assert_eq!(Reply::new(message).failure(Errno::EOPNOTSUPP).reason, Reason::NO_CLASS);

    for stated in [0u16, 8, 25, 32, 4096, u16::MAX] {
        let mut message = [0u8; HEADER];
        message[..2].copy_from_slice(&stated.to_ne_bytes());
        message[2] = rdma_uapi::class::PD as u8;
        assert_eq!(
            call(method::CREATE, &mut message),
            Err(Errno::EINVAL),
            "length {stated}"
        );
    }
    assert_eq!(call(200, &mut [0; 4]), Err(Errno::EINVAL));
    context.alloc_pd().unwrap();
}

#[test]
fn u04_features_are_asked_for_first_or_not_at_all() {
    let device = Device::new(1);
    let context = device.open(0);
    context
        .ask_features(rdma_uapi::class::interface::feature::EXPERIMENTAL)
        .unwrap();
    assert!(context.interface().unwrap().to_string().contains("experimental"));
    let late = device.open(0);
    late.alloc_pd().unwrap();
    let error = late.ask_features(1).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::NOT_FIRST), "{error}");
}

#[test]
fn u17_attached_devices_are_listed_and_their_coming_and_going_is_reported() {
    let mut device = Device::new(2);
    // Other tests of this binary attach devices too: these are known by their sockets.
    let root = device.path().canonicalize().unwrap();
    let mine = |list: &DeviceList| -> Vec<ListedDevice> {
        let all = list.devices().unwrap().into_iter();
        all.filter(|listed| listed.attachment.path().starts_with(&root))
            .collect()
    };
    let list = DeviceList::beside(&Attachment::direct("")).unwrap();
    let events = list.watch().unwrap();
    let wait_for = |kind, arrival| loop {
        let event = events.next_event(Some(LONG)).unwrap().expect("it is reported");
        if (event.kind, event.data) == (kind, arrival) {
            break;
        }
    };
    assert_eq!(mine(&list), []);
    let (first, second) = (device.open(0), device.open(1));
    let listed = mine(&list);
    assert_eq!(listed.len(), 2);
    for (listed, context) in listed.iter().zip([&first, &second]) {
        wait_for(EventKind::DeviceAdded, listed.arrival);
        assert_eq!(listed.name, context.name().unwrap());
        assert_eq!(listed.node_guid, context.device().unwrap().node_guid);
        assert_eq!(
            (listed.driver.as_str(), listed.ports, listed.active_ports, listed.works),
            ("verbena", 1, 1, true)
        );
        Context::open(&listed.attachment).unwrap().check().unwrap();
    }
    assert_ne!(listed[0].index, listed[1].index);
    assert!(verbena::devices().unwrap().contains(&listed[0]));
    let another = device.open(0);
    drop(first);
    assert_eq!(mine(&list).len(), 2, "it is still attached");
    drop(another);
    wait_for(EventKind::DeviceRemoved, listed[0].arrival);
    assert_eq!(mine(&list), listed[1..]);
    device.stop();
    wait_for(EventKind::DeviceChanged, listed[1].arrival);
    assert!(!mine(&list)[0].works);
    drop(second);
    wait_for(EventKind::DeviceRemoved, listed[1].arrival);
    assert_eq!(mine(&list), []);
}

#[test]
fn u19_one_thread_posts_while_another_polls() {
    const COUNT: u64 = 20_000;
    let device = Device::new(1);
    let context = device.open(0);
    let (left, right) = Side::pair(&context, &context, 64);
    let to = context.alloc_buffer(4096).unwrap();
    let target = right.pd.register(&to, Access::ALL_REMOTE).unwrap();
    let Side { mut qp, mut cq, .. } = left;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..COUNT {
                let value = id.to_le_bytes();
                let wr = SendWr::write(target.remote(0)).inline(&value).wr_id(id).signaled();
                while let Err(error) = qp.post_send(&wr) {
                    assert_eq!(error, PostError::QueueFull);
                    std::thread::yield_now();
                }
            }
        });
        for id in 0..COUNT {
            let done = cq.poll_timeout(LONG).unwrap().expect("a completion arrives in time");
            done.ok().unwrap();
            assert_eq!(done.wr_id, id);
        }
    });
    assert_eq!(to.load_u64(0), COUNT - 1);
}

#[test]
fn p09_a_device_that_sleeps_hears_of_every_message() {
    // The device sleeps whenever it can. Each thread has a doorbell page of its own, and lets it fall asleep at other times.
    for workers in [1, 2] {
        let device = Device::with_workers(1, workers, Duration::ZERO);
        std::thread::scope(|scope| {
            for seed in 0..3u32 {
                let context = device.open(0);
                scope.spawn(move || {
                    let (mut left, mut right) = Side::pair(&context, &context, 8);
                    let mut random = seed + 1;
                    for n in 0..1500u64 {
                        right.qp.post_recv(&RecvWr::new(&[]).wr_id(n)).unwrap();
                        left.qp.post_send(&SendWr::send().wr_id(n).signaled()).unwrap();
                        assert_eq!((left.complete().wr_id, right.complete().wr_id), (n, n));
                        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        if random >> 30 == 0 {
                            std::thread::sleep(Duration::from_micros(u64::from(random >> 22 & 0x7f)));
                        } else {
                            (0..random >> 22 & 0xff).for_each(|_| std::hint::spin_loop());
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn u13_more_queue_pairs_than_a_doorbell_page_has_slots() {
    let device = Device::new(1);
    let context = device.open(0);
    let limit = context.device().unwrap().max_qp;
    if limit <= 4200 {
        return;
    }
    let pd = context.alloc_pd().unwrap();
    let mut cq = context.create_cq(64).unwrap();
    let make = || {
        RcQp::builder(&pd, &cq, &cq)
            .send_depth(4)
            .recv_depth(1)
            .max_sge(1)
            .build()
            .unwrap()
    };
    let mut all: Vec<RcQp> = (0..4100).map(|_| make()).collect();
    let to = context.alloc_buffer(64).unwrap();
    let target = pd.register(&to, Access::ALL_REMOTE).unwrap();
    let (first, rest) = all.split_first_mut().unwrap();
    let last = rest.last_mut().unwrap();
    last.connect(&first.endpoint().unwrap()).unwrap();
    first.connect(&last.endpoint().unwrap()).unwrap();
    for qp in [last, first] {
        qp.post_send(&SendWr::write(target.remote(0)).inline(&[3; 8]).signaled())
            .unwrap();
        assert!(cq.poll_timeout(LONG).unwrap().is_some_and(|done| done.is_success()));
    }
}

#[test]
fn attachments_of_tools_open_what_they_name() {
    let device = Device::new(1);
    let text = format!("direct:{}", device.socket(0).display());
    let context = Context::open(&text.parse::<Attachment>().unwrap()).unwrap();
    assert_eq!(context.attachment().to_string(), text);
}
