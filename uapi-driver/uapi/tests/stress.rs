// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Many threads on the same objects, on purpose: create, use, associate, destroy, by ids that others may just have
//! destroyed; and the device is taken away in the middle of it (U13). Afterwards nothing is left, and nothing was
//! logged.

mod support;

use rdma_uapi::class::{self, cq, event_queue as eq, mr, qp, EVENT_QUEUE_OF};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Cause, Errno, Failure, Reason};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use support::verbs::{Process, State, Verbs};

/// xorshift64*: which calls race is chosen by a seed that a failure prints.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// Ids that everybody uses, without asking who made them or whether they still are.
struct Board([AtomicU32; 24]);

impl Board {
    fn pick(&self, dice: &mut Dice) -> u32 {
        self.0[dice.throw(24) as usize].load(Ordering::Relaxed)
    }

    fn pin_up(&self, dice: &mut Dice, id: u32) {
        self.0[dice.throw(24) as usize].store(id, Ordering::Relaxed);
    }
}

/// What a call that lost a race may say.
fn excused(failure: &Failure, removing: bool) -> bool {
    match failure.errno {
        Errno::ENOENT => failure.reason == Reason::NO_OBJECT,
        Errno::EINVAL => failure.reason == Reason::WRONG_CLASS,
        Errno::EBUSY => matches!(failure.reason, Reason::BUSY | Reason::IN_USE),
        Errno::EOPNOTSUPP => failure.reason == Reason::UNSUPPORTED,
        Errno::ENOMEM => failure.reason == Reason::MEMLOCK,
        Errno::ENODEV => removing,
        _ => false,
    }
}

fn one_call(p: &Process, board: &Board, queues: &[(u32, ObjectId)], dice: &mut Dice) -> Result<(), Failure> {
    let (fd, queue) = queues[dice.throw(queues.len() as u64) as usize];
    let (some, other) = (board.pick(dice), board.pick(dice));
    let made = match dice.throw(12) {
        0 | 1 => p.call(method::CREATE, class::PD, 0, |_| {}),
        2 | 3 => p.call(method::CREATE, class::CQ, 0, |m| {
            m.put(cq::CQE, &8).put(EVENT_QUEUE_OF, &queue);
        }),
        4 => p.call(method::CREATE, class::MR, 0, |m| {
            m.put(mr::PD, &ObjectId(some))
                .put(mr::ADDR, &0)
                .put(mr::LENGTH, &4096)
                .put(mr::ACCESS, &1);
        }),
        5 => p.call(method::CREATE, class::QP_RC, 0, |m| {
            m.put(qp::PD, &ObjectId(some))
                .put(qp::SEND_CQ, &ObjectId(other))
                .put(qp::RECV_CQ, &ObjectId(other));
        }),
        6 => return p.call(method::QUERY, class::CQ, some, |_| {}).map(drop),
        7 => {
            let number = dice.throw(3) as u32;
            let what = match number {
                0 => (class::PORT, 1),
                1 => (class::CQ, some),
                _ => (class::QP_RC, some),
            };
            let association = eq::Association {
                class: what.0,
                object: ObjectId(what.1),
                ..Default::default()
            };
            let attr = if dice.throw(2) == 0 {
                eq::ASSOCIATE
            } else {
                eq::DISSOCIATE
            };
            let changed = p.call_fd(fd, method::MODIFY, class::EVENT_QUEUE, |m| {
                m.put_array(attr, &[association]);
            });
            return changed.map(drop);
        }
        8 => {
            // What an interrupt does.
            if let Ok(object) = p.context.store().get(ObjectId(some)) {
                object.post(
                    if dice.throw(2) == 0 {
                        eq::kind::COMPLETION
                    } else {
                        eq::kind::CQ_ERROR
                    },
                    1,
                );
            }
            p.device.post(class::PORT, 1, eq::kind::PORT_ACTIVE, 0);
            return Ok(());
        }
        9 => {
            let mut events = [eq::Event::default(); 8];
            p.bench.fd::<Verbs>(fd).queue().take(&mut events);
            return Ok(());
        }
        n => {
            let classes = [class::PD, class::CQ, class::MR, class::QP_RC];
            let class = classes[(dice.throw(4) + n) as usize % 4];
            return p.destroy(class, some);
        }
    }?;
    board.pin_up(dice, made.object());
    Ok(())
}

fn storm(seed: u64, remove: bool) {
    let p = Process::new(State::default());
    let board = Board(std::array::from_fn(|_| AtomicU32::new(1)));
    let queues: Vec<_> = (0..3).map(|_| p.queue()).collect();
    let (removing, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        for n in 0..6 {
            let (p, board, queues, removing, done) = (&p, &board, &queues, &removing, &done);
            threads.spawn(move || {
                let mut dice = Dice((seed << 8 | n) * 2 + 1);
                for _ in 0..1500 {
                    if let Err(failure) = one_call(p, board, queues, &mut dice) {
                        // Read afterwards: a call that is refused for this reason began after it was said.
                        let excused = excused(&failure, removing.load(Ordering::SeqCst));
                        assert!(excused, "seed {seed}, thread {n}: {failure}");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        if remove {
            while done.load(Ordering::Relaxed) < 3000 {
                std::thread::yield_now();
            }
            removing.store(true, Ordering::SeqCst);
            p.device.remove();
        }
    });
    for (fd, _) in queues {
        p.bench.close_fd(fd);
    }
    p.close();
    assert!(p.context.store().is_empty(), "seed {seed}: objects are left");
    assert_eq!(p.bench.pinned(), 0, "seed {seed}: memory is still charged");
    assert_eq!(p.device.contexts(), 0);
    assert_eq!(p.bench.log_lines(), [""; 0], "seed {seed}");
    let ended = p.device.state().ended.lock().unwrap();
    assert_eq!(ended.iter().any(|end| end.2 == Cause::Removed), remove, "seed {seed}");
    assert!(
        p.device.state().cqs.lock().unwrap().is_empty(),
        "seed {seed}: an interrupt still finds a CQ"
    );
}

fn seeds() -> std::ops::Range<u64> {
    // Another beginning for a longer run: STRESS_SEED=1000 cargo test --test stress
    let first = std::env::var("STRESS_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    first..first + 12
}

#[test]
fn u13_threads_race_on_the_same_ids_and_nothing_is_left() {
    seeds().for_each(|seed| storm(seed, false));
}

#[test]
fn u13_the_device_is_removed_in_the_middle_of_the_race() {
    seeds().for_each(|seed| storm(seed, true));
}
