// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that makes flow rules and counter sets of every kind, binds and takes them away, and sends frames to whoever it likes.

#![no_main]

use arbitrary::Arbitrary;
use core::time::Duration;
use libfuzzer_sys::fuzz_target;
use verbena_engine::testing::{attrs, RecvWr, SendWr};
use verbena_engine_fuzz::steering::{Steering, ETHERTYPE};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{BindCounterReq, CreateFlowReq, HandleReq, ModifyPortReq};
use verbena_hw::flow::{FlowFields, FlowType};
use verbena_hw::id::Qpn;
use verbena_hw::qp::QpState;
use zerocopy::{FromZeros, IntoBytes};

#[derive(Arbitrary, Debug)]
enum Act {
    /// A rule that is nearly right.
    Rule {
        flow_type: u8,
        flags: u8,
        priority: u8,
        /// Which fields are compared, a bit each.
        fields: u8,
        /// Whose addresses.
        who: u8,
        qp: u8,
        spoils: Vec<(u8, u8)>,
    },
    /// A rule that is not.
    Bytes(Vec<u8>),
    /// A rule or a counter set is asked about, or taken away.
    Object { destroy: bool, set: bool, object: u8 },
    /// A counter set.
    Set,
    /// A queue pair is bound to a set.
    Bind { qp: u8, set: u8 },
    /// A frame.
    Frame { to: u8, from: u8, data: Vec<u8> },
    /// A receive.
    Listen { slot: u8, len: u16 },
    /// The queue pair begins again.
    Revive,
    /// The port goes or comes.
    Port(bool),
    /// Time passes.
    Wait(u16),
}

#[derive(Default)]
struct Made {
    rules: Vec<u32>,
    sets: Vec<u32>,
}

fuzz_target!(|acts: Vec<Act>| {
    let mut steering = Steering::new();
    let mut made = Made::default();
    for act in acts.iter().take(24) {
        perform(&mut steering, &mut made, act);
        steering.honest();
    }
    steering.finish();
});

/// One of those that were made, or any number.
fn one(made: &[u32], n: u8) -> u32 {
    let number = made.get(usize::from(n) % (made.len() + 1));
    number.copied().unwrap_or(n.into())
}

/// A number of a queue pair: the third guest's own, or any, such as an honest guest's.
fn queue_pair(s: &Steering, n: u8) -> Qpn {
    match n % 4 {
        0 => s.arena.evil.qp.qpn,
        1 | 2 => s.evil.qp.qpn,
        _ => Qpn::truncate(n.into()),
    }
}

/// A MAC address: one of the three, a group's, everybody's, nobody's.
fn address(s: &Steering, n: u8) -> [u8; 6] {
    match n % 6 {
        n @ 0..=2 => s.macs[usize::from(n)],
        3 => [0x01, 0, 0x5e, 1, 2, n],
        4 => [0xff; 6],
        _ => [2, 9, 9, 9, 9, n],
    }
}

fn rule(s: &Steering, (flow_type, flags, priority): (u8, u8, u8), fields: u8, who: u8, qp: u8) -> CreateFlowReq {
    let mut req = CreateFlowReq {
        qpn: queue_pair(s, qp),
        flow_type: FlowType(flow_type % 5),
        port: 1,
        flags: (flags % 8).into(),
        priority: priority.into(),
        ..CreateFlowReq::new_zeroed()
    };
    if req.flags & verbena_hw::flow::flags::DROP != 0 {
        req.qpn = Qpn::truncate(0);
    }
    let full = FlowFields {
        dmac: address(s, who),
        smac: address(s, who / 6),
        ethertype: ETHERTYPE,
        ip_version: if who % 2 == 0 { 4 } else { 6 },
        protocol: 17,
        dst_port: [0x12, 0xb7],
        ..FlowFields::default()
    };
    let mut take = |bit: u8, copy: fn(&mut FlowFields, &FlowFields)| {
        if fields >> bit & 1 != 0 {
            copy(&mut req.value, &full);
            let mut ones = FlowFields::new_zeroed();
            ones.as_mut_bytes().fill(0xff);
            copy(&mut req.mask, &ones);
        }
    };
    take(0, |to, from| to.dmac = from.dmac);
    take(1, |to, from| to.smac = from.smac);
    take(2, |to, from| to.ethertype = from.ethertype);
    take(3, |to, from| to.ip_version = from.ip_version);
    take(4, |to, from| to.protocol = from.protocol);
    take(5, |to, from| to.dst_port = from.dst_port);
    req
}

fn perform(s: &mut Steering, made: &mut Made, act: &Act) {
    match act {
        Act::Rule {
            flow_type,
            flags,
            priority,
            fields,
            who,
            qp,
            spoils,
        } => {
            let req = rule(s, (*flow_type, *flags, *priority), *fields, *who, *qp);
            let mut bytes = [0; size_of::<CreateFlowReq>()];
            bytes.copy_from_slice(req.as_bytes());
            for (at, byte) in spoils.iter().take(4) {
                if let Some(place) = bytes.get_mut(usize::from(*at)) {
                    *place = *byte;
                }
            }
            let evil = &mut s.arena.evil.guest;
            made.rules
                .extend(evil.create(&mut s.arena.world, Opcode::CREATE_FLOW, &bytes));
        }
        Act::Bytes(bytes) => {
            let mut request = [0; 240];
            for (to, from) in request.iter_mut().zip(bytes) {
                *to = *from;
            }
            let evil = &mut s.arena.evil.guest;
            made.rules
                .extend(evil.create(&mut s.arena.world, Opcode::CREATE_FLOW, &request));
        }
        Act::Object { destroy, set, object } => {
            let all = if *set { &made.sets } else { &made.rules };
            let req = HandleReq {
                handle: one(all, *object),
                reserved: 0,
            };
            let opcode = match (*set, *destroy) {
                (false, false) => Opcode::QUERY_FLOW,
                (false, true) => Opcode::DESTROY_FLOW,
                (true, false) => Opcode::QUERY_COUNTER,
                (true, true) => Opcode::DESTROY_COUNTER,
            };
            let evil = &mut s.arena.evil.guest;
            // It may not be there (any more).
            let _ = evil.command::<[u8; 0]>(&mut s.arena.world, opcode, &req);
        }
        Act::Set => {
            let evil = &mut s.arena.evil.guest;
            let set = evil.create(&mut s.arena.world, Opcode::CREATE_COUNTER, &[0u8; 0]);
            made.sets.extend(set);
        }
        Act::Bind { qp, set } => {
            let req = BindCounterReq {
                qpn: queue_pair(s, *qp),
                counter: one(&made.sets, *set),
            };
            let evil = &mut s.arena.evil.guest;
            let _ = evil.command::<[u8; 0]>(&mut s.arena.world, Opcode::BIND_COUNTER, &req);
        }
        Act::Frame { to, from, data } => {
            let mut frame = [address(s, *to), address(s, *from)].concat();
            frame.extend_from_slice(data);
            let evil = &s.arena.evil;
            evil.fill(&mut s.arena.world, 0, &frame);
            let wr = SendWr::send(1, &[evil.sge(0, frame.len() as u32)]);
            s.evil.qp.post(&s.arena.world, wr);
            s.arena.world.poll();
        }
        Act::Listen { slot, len } => {
            let wr = RecvWr::new(2, &[s.listen(*slot, *len)]);
            s.evil.qp.post_recv(&s.arena.world, wr);
        }
        Act::Revive => {
            let (w, evil, qpn) = (&mut s.arena.world, &mut s.arena.evil.guest, s.evil.qp.qpn);
            if evil.modify_state(w, qpn, QpState::RESET).is_ok() {
                s.evil.qp.rewind(w);
                s.evil.cq.drain(w);
                for (mask, attrs) in attrs::raw() {
                    evil.modify(w, qpn, mask, attrs).expect("a transition");
                }
            }
        }
        Act::Port(on) => {
            let req = ModifyPortReq {
                state: if *on { 4 } else { 1 },
                reserved: 0,
            };
            let evil = &mut s.arena.evil.guest;
            evil.command::<[u8; 0]>(&mut s.arena.world, Opcode::MODIFY_PORT, &req)
                .expect("its own port");
        }
        Act::Wait(micros) => s.arena.world.advance(Duration::from_micros((*micros).into())),
    }
    // What it has under way may have no end, but a frame is carried in one poll.
    s.arena.world.poll();
    s.evil.cq.drain(&s.arena.world);
}
