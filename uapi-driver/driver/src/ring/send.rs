// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send ring as the driver sees it: entries are written at the producer counter and become visible together.
//!
//! A batch is written with everything in place but the first entry's word 0, which keeps the phase of the last pass: the
//! device stops there, however far behind it the others stand complete. Publishing is that one word, with *release*
//! ordering: whoever reads it with acquire reads every store of the batch. Aborting takes the phases of the others back
//! before anything could have seen them.

use super::memory::Ring;
use super::table::{QpSlot, Side};
use super::work::{Data, PostError, SendWr};
use std::sync::atomic::{AtomicU64, Ordering};
use verbena_hw::ring::{phase, OWNER_PHASE};
use verbena_hw::wqe::{SendHeader, Sge, UdArgs, XrcArgs};

/// Words of a [`SendHeader`].
pub(crate) const HEAD: usize = size_of::<SendHeader>() / 8;

/// Words of a [`UdArgs`].
const ADDRESS: usize = size_of::<UdArgs>() / 8;

/// Words of an [`XrcArgs`].
const NAME: usize = size_of::<XrcArgs>() / 8;

pub(crate) struct SendRing {
    ring: Ring<HEAD>,
    /// Counter of the next entry.
    producer: u32,
    /// Counter of the first entry that is not published.
    published: u32,
    /// Word 0 of the first unpublished entry, as it will be.
    first: u64,
    /// Where the entries end that were free when the device's consumer counter was last looked up.
    end: u32,
    max_sge: u32,
    max_inline: u32,
}

impl SendRing {
    pub(crate) fn new(ring: Ring<HEAD>, max_sge: u32, max_inline: u32) -> Self {
        Self {
            end: ring.entries(),
            ring,
            producer: 0,
            published: 0,
            first: 0,
            max_sge,
            max_inline,
        }
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Posted entries whose completion, or that of a later one, has not been polled.
    pub(crate) fn outstanding(&self, slot: &QpSlot) -> u32 {
        self.producer.wrapping_sub(slot.consumed(Side::Send))
    }

    /// Begins again at counter zero with an empty ring, as the device does in RESET.
    pub(crate) fn reset(&mut self) {
        self.ring.clear();
        (self.producer, self.published, self.first, self.end) = (0, 0, 0, self.entries());
    }

    /// Writes `wr` into the next entry. It belongs to the batch until [`SendRing::publish`] or [`SendRing::abort`].
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: &QpSlot, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.reserve(slot)?;
        let (head, body) = self.ring.entry(self.producer);
        let word0 = self.write(head, body, wr)?;
        finish(head, word0, &mut self.producer, self.published, &mut self.first);
        Ok(())
    }

    /// As [`SendRing::push`], for a datagram to `to`.
    #[inline(always)]
    pub(crate) fn push_to(&mut self, slot: &QpSlot, wr: &SendWr<'_>, to: &UdArgs) -> Result<(), PostError> {
        let words: [u64; ADDRESS] = zerocopy::transmute!(*to);
        self.push_behind(slot, wr, words)
    }

    /// As [`SendRing::push`], to a shared receive queue that an XRC initiator names.
    #[inline(always)]
    pub(crate) fn push_to_srq(&mut self, slot: &QpSlot, wr: &SendWr<'_>, to: &XrcArgs) -> Result<(), PostError> {
        let words: [u64; NAME] = zerocopy::transmute!(*to);
        self.push_behind(slot, wr, words)
    }

    /// As [`SendRing::push`], with so many words between the header and the rest.
    #[inline(always)]
    fn push_behind<const N: usize>(
        &mut self,
        slot: &QpSlot,
        wr: &SendWr<'_>,
        words: [u64; N],
    ) -> Result<(), PostError> {
        self.reserve(slot)?;
        let (head, body) = self.ring.entry(self.producer);
        let Some((between, body)) = body.split_at_checked(N) else {
            return Err(PostError::BadEntry);
        };
        let word0 = self.write(head, body, wr)?;
        for (word, value) in between.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        finish(head, word0, &mut self.producer, self.published, &mut self.first);
        Ok(())
    }

    /// Writes everything of an entry but word 0, which it answers.
    #[inline(always)]
    fn write(&self, head: &[AtomicU64; HEAD], body: &[AtomicU64], wr: &SendWr<'_>) -> Result<u64, PostError> {
        let (num_sge, inline_len) = match wr.data {
            Data::Sges(sges) => {
                if sges.len() > self.max_sge as usize {
                    return Err(PostError::TooManySges { max: self.max_sge });
                }
                let body = match wr.atomic {
                    None => body,
                    Some((compare_add, swap)) => {
                        let [a, b, rest @ ..] = body else {
                            return Err(PostError::BadEntry);
                        };
                        a.store(compare_add, Ordering::Relaxed);
                        b.store(swap, Ordering::Relaxed);
                        rest
                    }
                };
                store_sges(body, sges)?;
                (sges.len() as u8, 0)
            }
            Data::Inline(data) => {
                if data.len() > self.max_inline as usize {
                    return Err(PostError::InlineTooLong { max: self.max_inline });
                }
                store_bytes(body, data)?;
                (0, data.len() as u32)
            }
        };
        let words: [u64; HEAD] = zerocopy::transmute!(SendHeader {
            owner: phase(self.producer, self.ring.log_entries()),
            opcode: wr.opcode.0,
            flags: wr.flags,
            num_sge,
            imm: wr.imm,
            wr_id: wr.wr_id,
            remote_addr: wr.remote.addr,
            rkey: wr.rkey(),
            inline_len,
        });
        // Spelt out: a loop over four words is not unrolled, and costs more than the words.
        let [_, word1, word2, word3] = head;
        word1.store(words[1], Ordering::Relaxed);
        word2.store(words[2], Ordering::Relaxed);
        word3.store(words[3], Ordering::Relaxed);
        Ok(words[0])
    }

    /// Writes an entry as it is given, whatever it says, with only the phase set right.
    pub(crate) fn push_raw(&mut self, slot: &QpSlot, entry: &[u64]) -> Result<(), PostError> {
        self.reserve(slot)?;
        let (head, body) = self.ring.entry(self.producer);
        let ([first, ..], true) = (entry, entry.len() <= HEAD + body.len()) else {
            return Err(PostError::BadEntry);
        };
        for (word, value) in head.iter().chain(body).zip(entry).skip(1) {
            word.store(*value, Ordering::Relaxed);
        }
        let owner = u64::from(phase(self.producer, self.ring.log_entries()));
        let word0 = first & !u64::from(OWNER_PHASE) | owner;
        finish(head, word0, &mut self.producer, self.published, &mut self.first);
        Ok(())
    }

    /// Makes the batch visible to the device; false if there is none.
    #[inline(always)]
    pub(crate) fn publish(&mut self) -> bool {
        if !self.has_unpublished() {
            return false;
        }
        // Release: every other store of the batch (bodies, and word 0 of the later entries) before this one.
        self.ring.entry(self.published).0[0].store(self.first, Ordering::Release);
        self.published = self.producer;
        true
    }

    /// Whether there is a batch that is neither published nor aborted.
    #[inline(always)]
    pub(crate) fn has_unpublished(&self) -> bool {
        self.published != self.producer
    }

    /// Forgets the batch.
    #[cold]
    pub(crate) fn abort(&mut self) {
        let log = self.ring.log_entries();
        if !self.has_unpublished() {
            return;
        }
        let mut index = self.published.wrapping_add(1);
        while index != self.producer {
            // The device cannot have looked at it: it stops at the batch's first entry. The next batch's release orders
            // this store before whatever makes it look.
            let unwritten = u64::from(phase(index, log) ^ OWNER_PHASE);
            self.ring.entry(index).0[0].store(unwritten, Ordering::Relaxed);
            index = index.wrapping_add(1);
        }
        self.producer = self.published;
    }

    #[inline(always)]
    fn reserve(&mut self, slot: &QpSlot) -> Result<(), PostError> {
        if self.producer == self.end {
            return self.look_for_room(slot);
        }
        Ok(())
    }

    #[inline(never)]
    fn look_for_room(&mut self, slot: &QpSlot) -> Result<(), PostError> {
        self.end = slot.consumed(Side::Send).wrapping_add(self.ring.entries());
        // The counter is the device's word. One that it cannot have reached leaves no room.
        let room = self.end.wrapping_sub(self.producer);
        if room == 0 || room > self.ring.entries() {
            self.end = self.producer;
            return Err(PostError::QueueFull);
        }
        Ok(())
    }
}

/// The last word of an entry: the batch's first one keeps it back. (Of the ring's fields, because the entry's words are
/// borrowed from another one of them: to find them again would cost a tenth of the whole.)
#[inline(always)]
fn finish(head: &[AtomicU64; HEAD], word0: u64, producer: &mut u32, published: u32, first: &mut u64) {
    if *producer == published {
        *first = word0;
    } else {
        head[0].store(word0, Ordering::Relaxed);
    }
    *producer = producer.wrapping_add(1);
}

/// Writes scatter/gather elements, two words each.
#[inline(always)]
pub(crate) fn store_sges(body: &[AtomicU64], sges: &[Sge]) -> Result<(), PostError> {
    // The most frequent number by far, and where a loop would cost most.
    if let ([sge], [a, b, ..]) = (sges, body) {
        let words: [u64; 2] = zerocopy::transmute!(*sge);
        a.store(words[0], Ordering::Relaxed);
        b.store(words[1], Ordering::Relaxed);
        return Ok(());
    }
    if 2 * sges.len() > body.len() {
        return Err(PostError::BadEntry);
    }
    for (words, sge) in body.chunks_exact(2).zip(sges) {
        let value: [u64; 2] = zerocopy::transmute!(*sge);
        words[0].store(value[0], Ordering::Relaxed);
        words[1].store(value[1], Ordering::Relaxed);
    }
    Ok(())
}

/// Writes bytes, zero-padded to whole words.
#[inline(always)]
fn store_bytes(body: &[AtomicU64], data: &[u8]) -> Result<(), PostError> {
    if data.len() > 8 * body.len() {
        return Err(PostError::BadEntry);
    }
    // The most frequent length by far, and where a loop would cost most.
    if let (Ok(word), [first, ..]) = (data.try_into(), body) {
        first.store(u64::from_le_bytes(word), Ordering::Relaxed);
        return Ok(());
    }
    let whole = data.chunks_exact(8);
    let rest = whole.remainder();
    let mut words = body.iter();
    for (chunk, word) in whole.zip(&mut words) {
        word.store(
            u64::from_le_bytes(chunk.try_into().expect("chunks of 8")),
            Ordering::Relaxed,
        );
    }
    if let (false, Some(word)) = (rest.is_empty(), body.get(data.len() / 8)) {
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(tail), Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;
    use crate::ring::table::QpTable;
    use crate::ring::work::Remote;
    use std::sync::Arc;
    use verbena_hw::id::Key;
    use verbena_hw::qp::QpType;
    use verbena_hw::wqe::{send_flags, send_log_stride, AtomicArgs, SendOpcode};
    use zerocopy::{FromBytes, IntoBytes};

    /// A send ring and, on the same memory, what a device sees.
    struct Fixture {
        mapping: Arc<Mapping>,
        table: Arc<QpTable>,
        slot: QpSlot,
        ring: SendRing,
        log_entries: u8,
        log_stride: u8,
        consumer: u32,
    }

    fn fixture(log_entries: u8, max_sge: u8, max_inline: u16) -> Fixture {
        let log_stride = send_log_stride(QpType::RC, max_sge, max_inline).unwrap();
        let mapping = Arc::new(Mapping::anonymous(1 << (log_entries + log_stride).max(12)).unwrap());
        let table = Arc::new(QpTable::new());
        let slot = table.claim().unwrap();
        let ring = Ring::new(mapping.clone(), 0, log_entries, log_stride).unwrap();
        let ring = SendRing::new(ring, max_sge.into(), max_inline.into());
        Fixture {
            mapping,
            table,
            slot,
            ring,
            log_entries,
            log_stride,
            consumer: 0,
        }
    }

    impl Fixture {
        /// The device's next entry, if its phase says that it is there: its bytes.
        fn take(&mut self) -> Option<Vec<u8>> {
            let stride = 1usize << self.log_stride;
            let at = verbena_hw::ring::slot(self.consumer, self.log_entries) as usize * stride;
            let words = (0..stride / 8).map(|i| {
                // SAFETY: any 8 bytes are an atomic.
                let word = unsafe { self.mapping.view::<AtomicU64>(at + 8 * i) };
                word.unwrap().load(Ordering::Acquire).to_le_bytes()
            });
            let bytes: Vec<u8> = words.flatten().collect();
            if bytes[0] & OWNER_PHASE != phase(self.consumer, self.log_entries) {
                return None;
            }
            self.consumer += 1;
            Some(bytes)
        }

        /// The device completes everything that it has taken.
        fn complete(&self) {
            assert!(self.table.consume(self.slot.cookie(), Side::Send, self.consumer));
        }

        fn post(&mut self, wr: &SendWr<'_>) -> Result<(), PostError> {
            self.ring.push(&self.slot, wr)?;
            assert!(self.ring.publish());
            Ok(())
        }
    }

    fn header(entry: &[u8]) -> SendHeader {
        SendHeader::read_from_prefix(entry).unwrap().0
    }

    #[test]
    fn u19_a_write_is_encoded_as_the_hardware_declares_it() {
        let mut f = fixture(2, 4, 0);
        let sges = [1u64, 2, 3].map(|i| Sge {
            addr: i << 40,
            len: i as u32 * 1000,
            lkey: Key(i as u32),
        });
        let remote = Remote {
            addr: 0x1122_3344_5566_7788,
            rkey: 0xabcd,
        };
        let wr = SendWr::write_imm(remote, 0x0102_0304).wr_id(u64::MAX - 1).sges(&sges);
        f.post(&wr.signaled().fence().solicited()).unwrap();
        let entry = f.take().unwrap();
        let expected = SendHeader {
            owner: 1,
            opcode: SendOpcode::WRITE_WITH_IMM.0,
            flags: send_flags::SIGNALED | send_flags::FENCE | send_flags::SOLICITED,
            num_sge: 3,
            imm: u32::from_ne_bytes([1, 2, 3, 4]),
            wr_id: u64::MAX - 1,
            remote_addr: remote.addr,
            rkey: Key(0xabcd),
            inline_len: 0,
        };
        assert_eq!(header(&entry), expected);
        assert_eq!(entry[32..80], *sges.as_bytes());
    }

    #[test]
    fn u19_atomics_have_their_operands_before_the_element() {
        let mut f = fixture(2, 1, 0);
        let sge = Sge {
            addr: 64,
            len: 8,
            lkey: Key(3),
        };
        f.post(&SendWr::compare_swap(Remote::default(), 7, 9).sges(&[sge]))
            .unwrap();
        let entry = f.take().unwrap();
        assert_eq!(
            (header(&entry).opcode, header(&entry).num_sge),
            (SendOpcode::COMPARE_SWAP.0, 1)
        );
        assert_eq!(
            entry[32..48],
            *AtomicArgs {
                compare_add: 7,
                swap: 9
            }
            .as_bytes()
        );
        assert_eq!(entry[48..64], *sge.as_bytes());
    }

    #[test]
    fn u19_inline_data_of_every_length_arrives_whole() {
        let mut f = fixture(3, 1, 100);
        let data: Vec<u8> = (1..=100).collect();
        for len in (0..=100).chain([0, 1, 100, 7]) {
            f.post(&SendWr::send().inline(&data[..len])).unwrap();
            let entry = f.take().unwrap();
            assert_eq!((header(&entry).num_sge, header(&entry).inline_len as usize), (0, len));
            assert_eq!(header(&entry).flags, send_flags::INLINE);
            assert_eq!(entry[32..32 + len], data[..len], "length {len}");
            f.complete();
        }
        assert_eq!(
            f.post(&SendWr::send().inline(&[0; 101])),
            Err(PostError::InlineTooLong { max: 100 })
        );
        assert!(f.take().is_none());
    }

    #[test]
    fn u19_the_ring_is_full_until_a_completion_says_otherwise_over_many_passes() {
        let mut f = fixture(2, 1, 0);
        for pass in 0..5u64 {
            for i in 0..4 {
                f.post(&SendWr::send().wr_id(4 * pass + i)).unwrap();
            }
            assert_eq!(f.ring.outstanding(&f.slot), 4);
            assert_eq!(f.post(&SendWr::send()), Err(PostError::QueueFull));
            for i in 0..4 {
                assert_eq!(header(&f.take().unwrap()).wr_id, 4 * pass + i);
            }
            assert!(f.take().is_none(), "entries of the last pass are not seen again");
            assert_eq!(
                f.post(&SendWr::send()),
                Err(PostError::QueueFull),
                "taken is not completed"
            );
            f.complete();
        }
    }

    #[test]
    fn u19_a_batch_is_invisible_until_it_is_published_and_then_whole() {
        let mut f = fixture(3, 1, 0);
        for i in 0..5 {
            f.ring.push(&f.slot, &SendWr::send().wr_id(i)).unwrap();
        }
        assert!(f.take().is_none());
        assert!(f.ring.publish());
        assert!(!f.ring.publish(), "there is nothing more");
        let ids: Vec<u64> = std::iter::from_fn(|| f.take())
            .map(|entry| header(&entry).wr_id)
            .collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn u19_an_aborted_batch_leaves_nothing_behind_a_shorter_one() {
        // Two passes, so that the stale phases of an abort are tried with either value.
        let mut f = fixture(3, 1, 0);
        for round in 0..4 {
            for i in 0..6 {
                f.ring.push(&f.slot, &SendWr::send().wr_id(100 + i)).unwrap();
            }
            f.ring.abort();
            f.ring.abort();
            assert!(f.take().is_none());
            f.post(&SendWr::send().wr_id(round)).unwrap();
            f.post(&SendWr::send().wr_id(round)).unwrap();
            let ids: Vec<u64> = std::iter::from_fn(|| f.take())
                .map(|entry| header(&entry).wr_id)
                .collect();
            assert_eq!(ids, [round, round]);
            f.complete();
        }
    }

    #[test]
    fn u19_too_many_elements_are_refused_and_leave_the_batch_as_it_was() {
        let mut f = fixture(3, 2, 0);
        let sges = [Sge::default(); 3];
        f.ring.push(&f.slot, &SendWr::send().wr_id(1).sges(&sges[..2])).unwrap();
        let refused = f.ring.push(&f.slot, &SendWr::send().wr_id(2).sges(&sges));
        assert_eq!(refused, Err(PostError::TooManySges { max: 2 }));
        f.ring.publish();
        assert_eq!(f.take().map(|entry| header(&entry).wr_id), Some(1));
        assert!(f.take().is_none());
    }

    #[test]
    fn u19_a_raw_entry_keeps_everything_but_its_phase() {
        let mut f = fixture(2, 1, 0);
        for pass in 0..3 {
            for _ in 0..4 {
                let raw = [0xffff_ffff_ffff_ff7e_u64, 2, 3, 4, 5, 6, 7, 8];
                f.ring.push_raw(&f.slot, &raw).unwrap();
                f.ring.publish();
                let entry = f.take().unwrap();
                let words: Vec<u64> = entry
                    .chunks(8)
                    .map(|w| u64::from_le_bytes(w.try_into().unwrap()))
                    .collect();
                assert_eq!(words[0] | 1, raw[0] | 1, "pass {pass}");
                assert_eq!(words[1..], raw[1..]);
                f.complete();
            }
        }
        assert_eq!(f.ring.push_raw(&f.slot, &[0; 9]), Err(PostError::BadEntry));
        assert_eq!(f.ring.push_raw(&f.slot, &[]), Err(PostError::BadEntry));
    }

    #[test]
    fn u19_reset_begins_again_with_an_empty_ring() {
        let mut f = fixture(2, 1, 0);
        for _ in 0..6 {
            f.post(&SendWr::send()).unwrap();
            f.take().unwrap();
            f.complete();
        }
        f.post(&SendWr::send()).unwrap();
        f.slot.reset();
        f.ring.reset();
        f.consumer = 0;
        assert!(f.take().is_none());
        assert_eq!(f.ring.outstanding(&f.slot), 0);
        f.post(&SendWr::send().wr_id(9)).unwrap();
        assert_eq!(f.take().map(|entry| header(&entry).wr_id), Some(9));
    }
}
