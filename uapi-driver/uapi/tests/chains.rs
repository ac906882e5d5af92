// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Chains: U16.

mod support;

use rdma_uapi::class::{self, interface, mr, qp};
use rdma_uapi::client::{Builder, Reply};
use rdma_uapi::wire::{method, ObjectId};
use rdma_uapi::{Errno, Failure, Reason};
use support::verbs::Process;
use zerocopy::IntoBytes;

/// A chain being put together: what a batch builder in the driver does.
struct Batch<'p> {
    p: &'p Process,
    commands: Vec<interface::Command>,
}

impl<'p> Batch<'p> {
    fn new(p: &'p Process) -> Self {
        Batch {
            p,
            commands: Vec::new(),
        }
    }

    /// Adds a command; the reference to what it will create.
    fn add(&mut self, number: u8, class: u16, object: u32, fill: impl FnOnce(&mut Builder<'_>)) -> ObjectId {
        let mut buffer = [0u64; 64];
        let mut builder = Builder::new(&mut buffer, class, object);
        fill(&mut builder);
        let message = self.p.bench.map(builder.finish().unwrap());
        self.commands.push(interface::Command {
            message,
            method: number.into(),
            ..Default::default()
        });
        ObjectId(ObjectId::CHAIN | (self.commands.len() as u32 - 1))
    }

    fn mr(&mut self, pd: ObjectId, length: u64) -> ObjectId {
        self.add(method::CREATE, class::MR, 0, |m| {
            m.put(mr::PD, &pd)
                .put(mr::ADDR, &0)
                .put(mr::LENGTH, &length)
                .put(mr::ACCESS, &1)
                .ask(mr::LKEY);
        })
    }

    /// Executes it: results and how many were executed, or why it failed.
    fn run(&self, mode: u32) -> Result<(Vec<u32>, u32), Failure> {
        let addr = self.p.bench.map(self.commands.as_bytes());
        let results = self.p.bench.map(&vec![0xff; self.commands.len() * 4]);
        let sent = self.p.call(method::EXECUTE, class::INTERFACE, 0, |m| {
            m.by_pointer(interface::COMMANDS, addr, self.commands.len() as u64 * 16);
            m.by_pointer(interface::RESULTS, results, self.commands.len() as u64 * 4);
            m.put(interface::MODE, &mode).ask(interface::EXECUTED);
        })?;
        let bytes = self.p.bench.read(results);
        let results = bytes
            .chunks_exact(4)
            .map(|b| u32::from_ne_bytes(b.try_into().unwrap()))
            .collect();
        Ok((results, sent.reply().get(interface::EXECUTED).unwrap()))
    }

    /// A command's message as it came back.
    fn message(&self, n: usize) -> Vec<u8> {
        self.p.bench.read(self.commands[n].message)
    }
}

fn process() -> Process {
    Process::new(Default::default())
}

const EINVAL: u32 = Errno::EINVAL.0 as u32;
const ECANCELED: u32 = Errno::ECANCELED.0 as u32;

#[test]
fn u16_a_thousand_queue_pairs_to_rts_in_one_call() {
    let p = process();
    let mut batch = Batch::new(&p);
    let pd = batch.add(method::CREATE, class::PD, 0, |_| {});
    let cq = batch.add(method::CREATE, class::CQ, 0, |m| {
        m.put(class::cq::CQE, &100);
    });
    for n in 0..1022 {
        batch.add(method::CREATE, class::QP_RC, 0, |m| {
            m.put(qp::PD, &pd)
                .put(qp::SEND_CQ, &cq)
                .put(qp::RECV_CQ, &cq)
                .put(qp::STATE, &qp::state::RTS);
            m.put(qp::DEST_QPN, &n).put(qp::PATH, &qp::Path::default()).ask(qp::QPN);
        });
    }
    let (results, executed) = batch.run(interface::mode::STOP).unwrap();
    assert_eq!((executed, results.iter().sum::<u32>()), (1024, 0));
    assert_eq!(p.context.store().len(), 1024);
    let mut numbers: Vec<u32> = (2..1024)
        .map(|n| Reply::new(&batch.message(n)).get(qp::QPN).expect("its own answer"))
        .collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1022);
    let last = Reply::new(&batch.message(1023)).object();
    let sent = p.call(method::QUERY, class::QP_RC, last, |m| {
        m.ask(qp::STATE).ask(qp::DEST_QPN);
    });
    let sent = sent.unwrap();
    assert_eq!(
        (sent.reply().get(qp::STATE), sent.reply().get(qp::DEST_QPN)),
        (Some(qp::state::RTS), Some(1021))
    );
}

#[test]
fn u16_stop_or_continue_and_each_command_has_its_own_error() {
    let p = process();
    for (mode, want, count) in [
        (interface::mode::STOP, [0, EINVAL, ECANCELED, ECANCELED], 2),
        (interface::mode::CONTINUE, [0, EINVAL, 0, EINVAL], 4),
    ] {
        let mut batch = Batch::new(&p);
        let pd = batch.add(method::CREATE, class::PD, 0, |_| {});
        let bad = batch.mr(pd, 0);
        batch.mr(pd, 64);
        // Refers to the command that created nothing.
        batch.mr(bad, 64);
        let (results, executed) = batch.run(mode).unwrap();
        assert_eq!((&results[..], executed), (&want[..], count));
        let failure = Reply::new(&batch.message(1)).failure(Errno::EINVAL);
        assert_eq!((failure.attr, failure.reason), (mr::LENGTH.id(), Reason::OUT_OF_RANGE));
        if mode == interface::mode::CONTINUE {
            let failure = Reply::new(&batch.message(3)).failure(Errno::EINVAL);
            assert_eq!(
                (failure.attr, failure.reason, failure.detail),
                (mr::PD.id(), Reason::BAD_REFERENCE, 1)
            );
        }
    }
    assert_eq!(p.context.store().len(), 1 + 2);
}

#[test]
fn u16_all_or_nothing_undoes_everything() {
    let p = process();
    let kept = p.pd();
    let mut batch = Batch::new(&p);
    let pd = batch.add(method::CREATE, class::PD, 0, |_| {});
    let first = batch.mr(pd, 64);
    batch.mr(ObjectId(kept), 64);
    batch.add(method::DESTROY, class::MR, first.0, |_| {});
    batch.mr(pd, 0);
    batch.mr(pd, 64);
    let failure = batch.run(interface::mode::ALL_OR_NOTHING).unwrap_err();
    assert_eq!((failure.errno, failure.reason), (Errno::EINVAL, Reason::OUT_OF_RANGE));
    assert_eq!(
        (failure.attr, failure.detail),
        (interface::COMMANDS.id(), 4),
        "the command that failed"
    );
    assert_eq!(p.context.store().len(), 1, "only what was there before");
    assert_eq!(p.bench.pinned(), 0);
    p.destroy(class::PD, kept).expect("nothing depends on it any more");

    let mut batch = Batch::new(&p);
    let pd = batch.add(method::CREATE, class::PD, 0, |_| {});
    batch.mr(pd, 64);
    let (results, executed) = batch.run(interface::mode::ALL_OR_NOTHING).unwrap();
    assert_eq!((results, executed), (vec![0, 0], 2));
    assert_eq!(p.context.store().len(), 2);
}

#[test]
fn u16_all_or_nothing_refuses_what_it_could_not_undo() {
    let p = process();
    let pd = p.pd();
    let mr = p.mr(pd, 64).unwrap();
    for (number, class, object) in [
        (method::DESTROY, class::MR, mr),
        (method::CREATE_FD, class::EVENT_QUEUE, 0),
        (method::MODIFY, class::QP_RC, 1),
    ] {
        let mut batch = Batch::new(&p);
        batch.mr(ObjectId(pd), 64);
        batch.add(number, class, object, |_| {});
        let failure = batch.run(interface::mode::ALL_OR_NOTHING).unwrap_err();
        assert_eq!((failure.reason, failure.detail), (Reason::NOT_ALLOWED, 1));
        assert_eq!(p.context.store().len(), 2);
    }
}

#[test]
fn u16_bad_chains() {
    let p = process();
    // A chain in a chain.
    let mut batch = Batch::new(&p);
    batch.add(method::EXECUTE, class::INTERFACE, 0, |m| {
        m.by_pointer(interface::COMMANDS, 0, 0);
    });
    assert_eq!(batch.run(interface::mode::STOP).unwrap(), (vec![EINVAL], 1));
    assert_eq!(
        Reply::new(&batch.message(0)).header().error.reason,
        Reason::NOT_ALLOWED.0
    );
    // Messages that are not there, or too short, or reach too far.
    let mut batch = Batch::new(&p);
    let short = p.bench.map(&[8; 8]);
    let far = p.bench.map(&[
        0xf8, 0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    let none = p.bench.map(&[0; 24]);
    for message in [0, short, far, none] {
        batch.commands.push(interface::Command {
            message,
            ..Default::default()
        });
    }
    batch.commands.push(interface::Command {
        message: none,
        reserved: 1,
        ..Default::default()
    });
    let efault = u32::from(Errno::EFAULT.0);
    let (results, _) = batch.run(interface::mode::CONTINUE).unwrap();
    assert_eq!(results, [efault, efault, efault, EINVAL, EINVAL]);
    // Nothing, too much, an unknown mode, a reference outside a chain.
    assert_eq!(Batch::new(&p).run(interface::mode::STOP).unwrap(), (vec![], 0));
    let failure = batch.run(3).unwrap_err();
    assert_eq!(
        (failure.attr, failure.reason),
        (interface::MODE.id(), Reason::OUT_OF_RANGE)
    );
    let failure = p
        .call(method::EXECUTE, class::INTERFACE, 0, |m| {
            m.by_pointer(interface::COMMANDS, 0, 4097 * 16);
        })
        .unwrap_err();
    assert_eq!(
        (failure.attr, failure.reason),
        (interface::COMMANDS.id(), Reason::OUT_OF_RANGE)
    );
    assert_eq!(p.mr(ObjectId::CHAIN, 64).unwrap_err().errno, Errno::ENOENT);
    assert!(p.context.store().is_empty());
}
