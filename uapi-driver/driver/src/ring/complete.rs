// SPDX-License-Identifier: MIT OR Apache-2.0
//! The completion ring as the driver sees it, and completions read where the device wrote them.

use super::memory::Ring;
use super::table::{QpTable, Side};
use crate::memory::{Mapping, View};
use std::fmt;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::Arc;
use verbena_hw::cqe::{flags, vendor, CqRecord, Cqe, Opcode, Status};
use verbena_hw::ring::{phase, OWNER_PHASE};

/// Words of a [`Cqe`].
pub(crate) const WORDS: usize = size_of::<Cqe>() / 8;
/// log2 of the bytes of a [`Cqe`].
pub(crate) const LOG_STRIDE: u8 = size_of::<Cqe>().trailing_zeros() as u8;

/// Which completions raise an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmKind {
    /// The next one.
    Any,
    /// The next one that its sender asked to be solicited, or that is an error.
    Solicited,
}

pub(crate) struct CqRing {
    ring: Ring<WORDS>,
    record: View<CqRecord>,
    qps: Arc<QpTable>,
    consumer: u32,
    arm_sequence: u32,
}

impl CqRing {
    /// `record` is where in `mapping` the [`CqRecord`] is; `None` if it does not fit.
    pub(crate) fn new(ring: Ring<WORDS>, mapping: Arc<Mapping>, record: usize, qps: Arc<QpTable>) -> Option<Self> {
        // SAFETY: any bits are a `CqRecord`; its fields that anybody writes are atomics.
        let record = unsafe { View::new(mapping, record) }?;
        Some(Self {
            ring,
            record,
            qps,
            consumer: 0,
            arm_sequence: 0,
        })
    }

    /// The device goes on in another ring, which begins with what was not consumed. `None` if it does not fit its memory.
    pub(crate) fn move_to(&mut self, ring: Ring<WORDS>, mapping: Arc<Mapping>, record: usize) -> Option<()> {
        let qps = self.qps.clone();
        *self = Self {
            // The device goes on with what it last acted on.
            arm_sequence: self.arm_sequence,
            ..Self::new(ring, mapping, record, qps)?
        };
        Some(())
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// The oldest completion, if there is one. Those of queue pairs that are gone are passed over.
    #[inline(always)]
    pub(crate) fn poll(&mut self) -> Option<Completion<'_>> {
        let Self {
            ring,
            record,
            qps,
            consumer,
            ..
        } = self;
        let (word0, entry) = loop {
            let entry = ring.entry(*consumer).0;
            // Acquire: the entry's other words are read after the owner bit that says they are there.
            let word0 = entry[0].load(Ordering::Acquire);
            if (word0 as u8 ^ phase(*consumer, ring.log_entries())) & OWNER_PHASE != 0 {
                return None;
            }
            let side = match (word0 >> 24) as u8 & flags::RECV {
                0 => Side::Send,
                _ => Side::Recv,
            };
            let consumed = entry[3].load(Ordering::Relaxed) as u32;
            if qps.consume(entry[7].load(Ordering::Relaxed), side, consumed) {
                break (word0, entry);
            }
            advance(consumer, record);
        };
        Some(Completion {
            word0,
            entry,
            consumer,
            record,
        })
    }

    /// Asks for one event.
    pub(crate) fn arm(&mut self, kind: ArmKind) {
        // Modulo 2^30, and never 0 as a whole: the kind is not.
        self.arm_sequence = self.arm_sequence.wrapping_add(1);
        let kind = match kind {
            ArmKind::Any => CqRecord::ARM_ANY,
            ArmKind::Solicited => CqRecord::ARM_SOLICITED,
        };
        self.record.arm.store(self.arm_sequence << 2 | kind, Ordering::Release);
        // Store buffering: the caller's next poll must not be satisfied before the device can see the request, or an
        // entry written in between would be seen by neither. The device has its fence between entry and `arm`.
        fence(Ordering::SeqCst);
    }

    /// Whether an entry waits, without taking it.
    pub(crate) fn is_ready(&self) -> bool {
        let word0 = self.ring.entry(self.consumer).0[0].load(Ordering::Acquire);
        (word0 as u8 ^ phase(self.consumer, self.ring.log_entries())) & OWNER_PHASE == 0
    }

    /// Makes the waiting entries of the queue pair with `cookie` stale, wherever they stand; says how many.
    pub(crate) fn forget(&mut self, cookie: u64) -> u32 {
        let mut forgotten = 0;
        let mut index = self.consumer;
        while index.wrapping_sub(self.consumer) < self.entries() {
            let entry = self.ring.entry(index).0;
            let owner = entry[0].load(Ordering::Acquire) as u8;
            if (owner ^ phase(index, self.ring.log_entries())) & OWNER_PHASE != 0 {
                break;
            }
            if entry[7].load(Ordering::Relaxed) == cookie {
                // Entries belong to the driver until it gives them back, so the device does not mind.
                entry[7].store(NOBODY, Ordering::Relaxed);
                forgotten += 1;
            }
            index = index.wrapping_add(1);
        }
        forgotten
    }
}

/// Gives the oldest entry back to the device.
#[inline(always)]
fn advance(consumer: &mut u32, record: &CqRecord) {
    *consumer = consumer.wrapping_add(1);
    // Release: the device overwrites the entry only after it has seen this, so after our loads from it.
    record.consumer.store(*consumer, Ordering::Release);
}

/// A cookie that no queue pair ever has: the index is beyond the table.
const NOBODY: u64 = u64::MAX;

/// A completion, read in place: each accessor is a load from the entry that the device wrote. When it is dropped the
/// entry goes back to the device.
pub struct Completion<'a> {
    word0: u64,
    entry: &'a [AtomicU64; WORDS],
    consumer: &'a mut u32,
    record: &'a CqRecord,
}

impl Completion<'_> {
    /// A word of the entry as it is.
    #[inline(always)]
    pub(crate) fn word(&self, n: usize) -> u64 {
        self.entry[n].load(Ordering::Relaxed)
    }

    /// The number that the work request was posted with.
    #[inline(always)]
    pub fn wr_id(&self) -> u64 {
        self.word(1)
    }

    /// How it ended.
    #[inline(always)]
    pub fn status(&self) -> Status {
        Status((self.word0 >> 16) as u8)
    }

    /// Whether it succeeded.
    #[inline(always)]
    pub fn is_success(&self) -> bool {
        self.status() == Status::SUCCESS
    }

    /// What it was; says nothing unless it succeeded.
    #[inline(always)]
    pub fn opcode(&self) -> Opcode {
        Opcode((self.word0 >> 8) as u8)
    }

    /// The entry's [`flags`].
    #[inline(always)]
    pub(crate) fn flags(&self) -> u8 {
        (self.word0 >> 24) as u8
    }

    /// Whether the work request was a receive; holds with errors too.
    #[inline(always)]
    pub fn is_recv(&self) -> bool {
        self.flags() & flags::RECV != 0
    }

    /// Whether its sender asked for a solicited event.
    #[inline(always)]
    pub fn is_solicited(&self) -> bool {
        self.flags() & flags::SOLICITED != 0
    }

    /// The queue pair that it belongs to; of an XRC shared receive queue's receive, the target that it came through.
    #[inline(always)]
    pub fn qpn(&self) -> u32 {
        (self.word0 >> 32) as u32
    }

    /// Bytes received, or read by a READ or an atomic.
    #[inline(always)]
    pub fn byte_len(&self) -> u32 {
        self.word(2) as u32
    }

    /// The immediate data that came with the message.
    #[inline(always)]
    pub fn imm(&self) -> Option<u32> {
        (self.flags() & flags::IMM != 0).then(|| u32::from_be((self.word(2) >> 32) as u32))
    }

    /// Whether the receive begins with a datagram's header, of [`crate::GRH_LEN`] bytes, which count in
    /// [`Completion::byte_len`].
    #[inline(always)]
    pub fn has_grh(&self) -> bool {
        self.flags() & flags::GRH != 0
    }

    /// Of a datagram's receive, and of an XRC shared receive queue's: the sender's queue pair.
    #[inline(always)]
    pub fn src_qpn(&self) -> u32 {
        self.word(5) as u32
    }

    /// Of a datagram's receive: the P_Key's index.
    #[inline(always)]
    pub fn pkey_index(&self) -> u16 {
        (self.word(5) >> 32) as u16
    }

    /// Of a datagram's receive: its service level.
    #[inline(always)]
    pub fn sl(&self) -> u8 {
        (self.word(5) >> 48) as u8
    }

    /// Of a datagram's or a frame's receive: the sender's MAC address.
    pub fn src_mac(&self) -> [u8; 6] {
        let [mac @ .., _, _] = self.word(6).to_le_bytes();
        mac
    }

    /// Of a frame's receive: the tag of the rule that steered it here, if it has one.
    #[inline(always)]
    pub fn flow_tag(&self) -> Option<u32> {
        (self.flags() & flags::TAG != 0).then(|| (self.word(2) >> 32) as u32)
    }

    /// Of a frame's receive: the headers that the device found in it ([`verbena_hw::flow::found`]).
    #[inline(always)]
    pub fn headers(&self) -> u16 {
        (self.word(5) >> 32) as u16
    }

    /// Of a frame's receive: its VLAN's id, if it has a tag.
    #[inline(always)]
    pub fn vlan(&self) -> Option<u16> {
        let vlan = (self.word(6) >> 48) as u16;
        (vlan != 0xffff).then_some(vlan)
    }

    /// The key that the message invalidated.
    #[inline(always)]
    pub fn invalidated_rkey(&self) -> Option<u32> {
        (self.flags() & flags::INVALIDATED != 0).then(|| (self.word(2) >> 32) as u32)
    }

    /// With an error: the device's own reason, see [`verbena_hw::cqe::vendor`].
    #[inline(always)]
    pub fn vendor_err(&self) -> u32 {
        (self.word(3) >> 32) as u32
    }

    /// When it was written, in nanoseconds of the device's clock.
    #[inline(always)]
    pub fn timestamp(&self) -> u64 {
        self.word(4)
    }

    /// Itself as a value, for those who want to keep it.
    pub fn to_owned(&self) -> WorkCompletion {
        WorkCompletion {
            wr_id: self.wr_id(),
            status: self.status(),
            opcode: self.opcode(),
            recv: self.is_recv(),
            solicited: self.is_solicited(),
            qpn: self.qpn(),
            byte_len: self.byte_len(),
            imm: self.imm(),
            grh: self.has_grh(),
            src_qpn: self.src_qpn(),
            invalidated_rkey: self.invalidated_rkey(),
            vendor_err: self.vendor_err(),
            timestamp: self.timestamp(),
        }
    }

    /// Its success as a result.
    ///
    /// # Errors
    ///
    /// The status, if it is not success.
    #[inline]
    pub fn ok(&self) -> Result<(), WorkError> {
        match self.status() {
            Status::SUCCESS => Ok(()),
            status => Err(WorkError {
                wr_id: self.wr_id(),
                qpn: self.qpn(),
                status,
                vendor_err: self.vendor_err(),
            }),
        }
    }
}

impl Drop for Completion<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        advance(self.consumer, self.record);
    }
}

impl fmt::Debug for Completion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_owned().fmt(f)
    }
}

/// A completion that has been copied out of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkCompletion {
    /// See [`Completion::wr_id`].
    pub wr_id: u64,
    /// See [`Completion::status`].
    pub status: Status,
    /// See [`Completion::opcode`].
    pub opcode: Opcode,
    /// See [`Completion::is_recv`].
    pub recv: bool,
    /// See [`Completion::is_solicited`].
    pub solicited: bool,
    /// See [`Completion::qpn`].
    pub qpn: u32,
    /// See [`Completion::byte_len`].
    pub byte_len: u32,
    /// See [`Completion::imm`].
    pub imm: Option<u32>,
    /// See [`Completion::has_grh`].
    pub grh: bool,
    /// See [`Completion::src_qpn`].
    pub src_qpn: u32,
    /// See [`Completion::invalidated_rkey`].
    pub invalidated_rkey: Option<u32>,
    /// See [`Completion::vendor_err`].
    pub vendor_err: u32,
    /// See [`Completion::timestamp`].
    pub timestamp: u64,
}

impl WorkCompletion {
    /// Whether it succeeded.
    pub fn is_success(&self) -> bool {
        self.status == Status::SUCCESS
    }

    /// Its success as a result.
    ///
    /// # Errors
    ///
    /// The status, if it is not success.
    pub fn ok(&self) -> Result<(), WorkError> {
        match self.status {
            Status::SUCCESS => Ok(()),
            status => Err(WorkError {
                wr_id: self.wr_id,
                qpn: self.qpn,
                status,
                vendor_err: self.vendor_err,
            }),
        }
    }
}

/// A work request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkError {
    /// The work request's number.
    pub wr_id: u64,
    /// Its queue pair.
    pub qpn: u32,
    /// How it ended.
    pub status: Status,
    /// The device's own reason, see [`verbena_hw::cqe::vendor`].
    pub vendor_err: u32,
}

impl fmt::Display for WorkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "work request {} of QP {:#x} ended with {}",
            self.wr_id, self.qpn, self.status
        )?;
        match vendor_text(self.vendor_err) {
            Some("") => Ok(()),
            Some(text) => write!(f, ": {text}"),
            None => write!(f, ": vendor reason {}", self.vendor_err),
        }
    }
}

impl std::error::Error for WorkError {}

fn vendor_text(reason: u32) -> Option<&'static str> {
    Some(match reason {
        vendor::NONE => "",
        vendor::OPCODE => "the queue pair's type does not have the opcode",
        vendor::FLAGS => "the request's flags are not allowed",
        vendor::SGE_COUNT => "too many scatter/gather elements",
        vendor::INLINE_LEN => "too much inline data",
        vendor::KEY_UNKNOWN => "no region has the key",
        vendor::KEY_PD => "the region belongs to another protection domain",
        vendor::KEY_RANGE => "the range is not inside the region",
        vendor::KEY_ACCESS => "the region does not grant the access",
        vendor::UNREACHABLE => "the region's memory is not mapped for the device any more",
        vendor::QP_ACCESS => "the queue pair's access rights do not allow the operation",
        vendor::RECV_TOO_SHORT => "the receive buffer is shorter than the message",
        vendor::MESSAGE_LEN => "the message is longer than the port allows",
        vendor::ATOMIC_OPERAND => "an atomic operand is not 8 bytes long, or not aligned",
        vendor::RD_ATOMIC => "the peer allows fewer outstanding READs and atomics",
        vendor::RING_UNREACHABLE => "the queue's ring is not mapped for the device any more",
        vendor::ADDRESS => "the destination is malformed, or names an empty entry of the GID table",
        vendor::WINDOW_STATE => "the window is bound already, or is bound in another way",
        vendor::KEY_QP => "the key is of a window that another queue pair has bound",
        vendor::NOT_INVALIDATABLE => "the key is none that a work request may invalidate",
        vendor::FLUSH_OPERAND => "the FLUSH asks for a placement or a level that there is not",
        vendor::REGION_STATE => "the region is registered already, or its memory is in too many pieces for the device",
        vendor::XRC_SRQ => "the request names no shared receive queue of the target's domain",
        vendor::FOREIGN_MAC => "the frame's source is not the port's MAC address",
        vendor::FRAME_LEN => "the frame is shorter than its header",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::table::QpSlot;
    use verbena_hw::id::Qpn;

    #[test]
    fn h10_every_reason_of_the_device_has_a_sentence() {
        let without: Vec<_> = (0..1000)
            .filter(|&reason| vendor_text(reason).is_none())
            .filter_map(vendor::name)
            .collect();
        assert!(without.is_empty(), "{without:?}");
    }

    /// A completion queue and, on the same memory, a device that writes into it.
    struct Fixture {
        mapping: Arc<Mapping>,
        qps: Arc<QpTable>,
        cq: CqRing,
        device: Ring<WORDS>,
        producer: u32,
    }

    fn fixture(log_entries: u8) -> Fixture {
        let mapping = Arc::new(Mapping::anonymous(8192).unwrap());
        let ring = || Ring::new(mapping.clone(), 0, log_entries, LOG_STRIDE).unwrap();
        let qps = Arc::new(QpTable::new());
        let record = 64 << log_entries;
        let cq = CqRing::new(ring(), mapping.clone(), record, qps.clone()).unwrap();
        {
            let device = ring();
            Fixture {
                mapping,
                qps,
                cq,
                device,
                producer: 0,
            }
        }
    }

    impl Fixture {
        /// The device writes `cqe`, as the specification of its ring says.
        fn write(&mut self, qp: &QpSlot, cqe: Cqe) {
            let consumer = self.cq.record.consumer.load(Ordering::Acquire);
            assert!(self.producer.wrapping_sub(consumer) < self.cq.entries(), "overrun");
            let owner = cqe.owner & !1 | phase(self.producer, self.device.log_entries());
            let words: [u64; WORDS] = zerocopy::transmute!(Cqe {
                owner,
                cookie: qp.cookie(),
                ..cqe
            });
            let entry = self.device.entry(self.producer).0;
            for i in (0..WORDS).rev() {
                entry[i].store(words[i], Ordering::Release);
            }
            self.producer += 1;
        }

        fn ids(&mut self) -> Vec<u64> {
            let mut ids = Vec::new();
            while let Some(completion) = self.cq.poll() {
                ids.push(completion.wr_id());
            }
            ids
        }
    }

    fn success(wr_id: u64) -> Cqe {
        Cqe {
            wr_id,
            ..Cqe::default()
        }
    }

    #[test]
    fn u24_accessors_read_the_entry_where_the_device_wrote_it() {
        let mut f = fixture(2);
        let qp = f.qps.claim().unwrap();
        let cqe = Cqe {
            owner: 0xfe,
            opcode: Opcode::RECV_RDMA_WITH_IMM.0,
            status: Status::SUCCESS.0,
            flags: flags::RECV | flags::IMM | flags::SOLICITED | flags::GRH,
            src_qpn: Qpn::truncate(0x123456),
            pkey_index: 0x789,
            sl: 11,
            smac: [1, 2, 3, 4, 5, 6],
            qpn: Qpn::truncate(0xabcdef),
            wr_id: u64::MAX - 5,
            byte_len: 12345,
            imm: 0x0102_0304u32.to_be(),
            consumed: 1,
            timestamp: 77,
            ..Cqe::default()
        };
        f.write(&qp, cqe);
        let completion = f.cq.poll().unwrap();
        assert_eq!(
            completion.to_owned(),
            WorkCompletion {
                wr_id: u64::MAX - 5,
                status: Status::SUCCESS,
                opcode: Opcode::RECV_RDMA_WITH_IMM,
                recv: true,
                solicited: true,
                qpn: 0xabcdef,
                byte_len: 12345,
                imm: Some(0x0102_0304),
                grh: true,
                src_qpn: 0x123456,
                invalidated_rkey: None,
                vendor_err: 0,
                timestamp: 77,
            }
        );
        assert_eq!(completion.ok(), Ok(()));
        assert_eq!(completion.invalidated_rkey(), None);
        assert_eq!((completion.pkey_index(), completion.sl()), (0x789, 11));
        assert_eq!(completion.src_mac(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn u24_an_error_is_an_error_with_its_reason_in_words() {
        let mut f = fixture(2);
        let qp = f.qps.claim().unwrap();
        let vendor_err = vendor::KEY_RANGE;
        f.write(
            &qp,
            Cqe {
                status: Status::LOC_PROT_ERR.0,
                vendor_err,
                wr_id: 4,
                ..Cqe::default()
            },
        );
        let error = f.cq.poll().unwrap().ok().unwrap_err();
        assert_eq!((error.wr_id, error.status), (4, Status::LOC_PROT_ERR));
        assert!(
            error
                .to_string()
                .contains("LOC_PROT_ERR: the range is not inside the region"),
            "{error}"
        );
    }

    #[test]
    fn u19_completions_arrive_in_order_over_many_passes_and_give_their_places_back() {
        let mut f = fixture(3);
        let qp = f.qps.claim().unwrap();
        assert!(f.cq.poll().is_none());
        let (mut sent, mut seen) = (0u64, 0u64);
        for round in 0..40u64 {
            for _ in 0..round % 9 {
                f.write(
                    &qp,
                    Cqe {
                        consumed: sent as u32 + 1,
                        ..success(sent)
                    },
                );
                sent += 1;
            }
            assert_eq!(f.cq.is_ready(), round % 9 != 0);
            for id in f.ids() {
                assert_eq!(id, seen);
                seen += 1;
            }
            assert_eq!(seen, sent);
            assert_eq!(u64::from(f.cq.record.consumer.load(Ordering::Relaxed)), seen);
            assert_eq!(u64::from(qp.consumed(Side::Send)), seen);
        }
        assert!(sent > 64, "many passes");
    }

    #[test]
    fn u19_the_place_is_the_devices_again_only_when_the_completion_is_dropped() {
        let mut f = fixture(1);
        let qp = f.qps.claim().unwrap();
        f.write(&qp, success(1));
        f.write(&qp, success(2));
        let first = f.cq.poll().unwrap();
        assert_eq!(first.record.consumer.load(Ordering::Relaxed), 0);
        assert_eq!(first.wr_id(), 1);
        drop(first);
        assert_eq!(f.cq.record.consumer.load(Ordering::Relaxed), 1);
        // A view that is forgotten was not consumed.
        std::mem::forget(f.cq.poll().unwrap());
        assert_eq!(f.ids(), [2]);
    }

    #[test]
    fn u19_sends_and_receives_free_their_own_queue() {
        let mut f = fixture(2);
        let (one, two) = (f.qps.claim().unwrap(), f.qps.claim().unwrap());
        f.write(
            &one,
            Cqe {
                consumed: 5,
                ..success(0)
            },
        );
        f.write(
            &two,
            Cqe {
                consumed: 9,
                flags: flags::RECV,
                ..success(0)
            },
        );
        assert_eq!(f.ids().len(), 2);
        assert_eq!((one.consumed(Side::Send), one.consumed(Side::Recv)), (5, 0));
        assert_eq!((two.consumed(Side::Send), two.consumed(Side::Recv)), (0, 9));
    }

    #[test]
    fn u19_completions_of_a_dropped_queue_pair_are_passed_over() {
        let mut f = fixture(3);
        let (gone, here) = (f.qps.claim().unwrap(), f.qps.claim().unwrap());
        for i in 0..3 {
            f.write(&gone, success(100 + i));
            f.write(&here, success(i));
        }
        drop(gone);
        assert_eq!(f.ids(), [0, 1, 2]);
        assert_eq!(
            f.cq.record.consumer.load(Ordering::Relaxed),
            6,
            "their places are given back too"
        );
    }

    #[test]
    fn u19_a_reset_queue_pair_gets_nothing_of_its_former_life() {
        let mut f = fixture(3);
        let (reset, other) = (f.qps.claim().unwrap(), f.qps.claim().unwrap());
        for i in 0..4 {
            f.write(
                &reset,
                Cqe {
                    consumed: 50 + i,
                    ..success(100)
                },
            );
            f.write(&other, success(i.into()));
        }
        assert_eq!(f.cq.forget(reset.cookie()), 4);
        assert_eq!(f.ids(), [0, 1, 2, 3]);
        assert_eq!(reset.consumed(Side::Send), 0);
        f.write(
            &reset,
            Cqe {
                consumed: 1,
                ..success(7)
            },
        );
        assert_eq!((f.ids(), reset.consumed(Side::Send)), (vec![7], 1));
    }

    #[test]
    fn h07_each_arming_is_a_new_request() {
        let mut f = fixture(1);
        let mut last = 0;
        for kind in [ArmKind::Any, ArmKind::Any, ArmKind::Solicited, ArmKind::Any] {
            f.cq.arm(kind);
            let arm = f.cq.record.arm.load(Ordering::Relaxed);
            assert_ne!(arm >> 2, last >> 2);
            let expected = match kind {
                ArmKind::Any => CqRecord::ARM_ANY,
                ArmKind::Solicited => CqRecord::ARM_SOLICITED,
            };
            assert_eq!(arm & CqRecord::ARM_KIND, expected);
            last = arm;
        }
    }

    #[test]
    fn u19_a_poller_and_a_device_on_two_threads_agree() {
        const COUNT: u64 = 100_000;
        let Fixture {
            qps,
            mut cq,
            device,
            mapping,
            ..
        } = fixture(4);
        let qp = qps.claim().unwrap();
        let cookie = qp.cookie();
        let mapping = mapping.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: any bits are a record, and what changes in it is atomic.
                let record: &CqRecord = unsafe { mapping.view(64 << 4) }.unwrap();
                for id in 0..COUNT {
                    while (id as u32).wrapping_sub(record.consumer.load(Ordering::Acquire)) >= 16 {
                        std::thread::yield_now();
                    }
                    let owner = phase(id as u32, 4);
                    let cqe = Cqe {
                        owner,
                        wr_id: id,
                        byte_len: id as u32 ^ 0x5555,
                        cookie,
                        ..Cqe::default()
                    };
                    let words: [u64; WORDS] = zerocopy::transmute!(cqe);
                    let entry = device.entry(id as u32).0;
                    for i in 1..WORDS {
                        entry[i].store(words[i], Ordering::Relaxed);
                    }
                    entry[0].store(words[0], Ordering::Release);
                }
            });
            for id in 0..COUNT {
                loop {
                    if let Some(completion) = cq.poll() {
                        assert_eq!((completion.wr_id(), completion.byte_len()), (id, id as u32 ^ 0x5555));
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        });
    }
}
