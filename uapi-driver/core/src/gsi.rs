// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! QP 1, the general services interface: management datagrams in and out, by the driver itself.
//!
//! Its rings are memory of the driver that no process maps. Receives are always posted; what arrives is handed, one by
//! one, to whoever is responsible for its management class ([`crate::work`]). A datagram that cannot be sent at once is
//! dropped: what travels here repeats itself.
//!
//! Locks: `send` and `poll` are never held together, and neither while a datagram is being handled.

use crate::admin::CommandError;
use crate::hardware::Hardware;
use crate::platform::{Dma, Platform, PAGE};
use core::sync::atomic::{fence, AtomicBool, AtomicU32, Ordering};
use rdma_uapi::failure::Outcome;
use rdma_uapi::sys::{Mutex, Vec};
use rdma_uapi::{Errno, Failure, Reason};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::{
    CreateCqReq, CreateDoorbellReq, CreateMrReq, CreateMrRsp, CreateQpReq, HandleReq, HandleRsp, ModifyQpReq, MR_DMA,
};
use verbena_hw::cqe::{self, CqRecord, Cqe, Status};
use verbena_hw::doorbell;
use verbena_hw::grh::{self, Grh, Route};
use verbena_hw::id::{Cqn, Gid, Key, Pdn, Qpn, Srqn};
use verbena_hw::qp::{access, attr, Path, QpAttrs, QpState, QpType, GSI_QKEY};
use verbena_hw::ring::{phase, slot, PageList, OWNER_PHASE};
use verbena_hw::wqe::{
    send_flags, send_log_stride, RecvHeader, SendHeader, SendOpcode, Sge, UdArgs, RECV_MIN_LOG_STRIDE,
};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a management datagram (IBA vol. 1, 13.4.2).
pub(crate) const MAD: usize = 256;
/// log2 of the entries of both queues: datagrams that may wait in either direction.
const LOG_ENTRIES: u8 = 6;
const ENTRIES: usize = 1 << LOG_ENTRIES;
/// log2 of the entries of the completion queue: those of both queues.
const LOG_COMPLETIONS: u8 = LOG_ENTRIES + 1;
/// Bytes of a receive buffer: GRH and datagram, rounded up to a power of two.
const BUFFER: usize = 512;
const RECEIVED: usize = grh::LEN + MAD;
/// log2 of the bytes of a receive entry with one element.
const RECV_STRIDE: u8 = RECV_MIN_LOG_STRIDE;
/// Bytes of a send entry with a datagram in it.
const SEND: usize = size_of::<SendHeader>() + size_of::<UdArgs>() + MAD;

const _: () = assert!(RECEIVED <= BUFFER && RECEIVED % 8 == 0 && SEND % 8 == 0);
const _: () = assert!(size_of::<RecvHeader>() + size_of::<Sge>() == 1 << RECV_STRIDE);

/// QP 1.
pub(crate) struct Gsi<P: Platform> {
    qpn: Qpn,
    pub(crate) cqn: Cqn,
    doorbell: u32,
    lkey: Key,
    send_stride: u8,
    /// The send ring, then, on a page of its own, the receive ring.
    rings: P::Dma,
    recv_offset: usize,
    /// The completion ring, then the record.
    completions: P::Dma,
    buffers: P::Dma,
    page: P::Dma,
    /// The send queue's free-running producer counter.
    send: Mutex<u32>,
    /// How far the device has consumed it.
    sent: AtomicU32,
    poll: Mutex<Poll>,
    /// The port's GID table as last read.
    gids: Mutex<Vec<Gid>>,
    gids_are_old: AtomicBool,
}

/// What has been made in the device, to be ended again if the rest fails.
#[derive(Default)]
struct Made {
    objects: [Option<(Opcode, u32)>; 5],
    count: usize,
}

impl Made {
    fn add(&mut self, destroy: Opcode, handle: u32) {
        self.objects[self.count] = Some((destroy, handle));
        self.count += 1;
    }

    #[cold]
    fn undo<P: Platform>(&self, hardware: &Hardware<P>) {
        for &(destroy, handle) in self.objects.iter().flatten().rev() {
            let ended: Result<(), CommandError> = hardware.command(destroy, &HandleReq { handle, reserved: 0 });
            if let Err(error @ CommandError::Refused { .. }) = ended {
                hardware
                    .platform
                    .log(format_args!("{error}: the device keeps what nobody owns and is reset"));
                hardware.gone();
            }
        }
    }
}

#[derive(Default)]
struct Poll {
    /// Free-running counters: of completions consumed, of receives posted, of requests for an event.
    consumed: u32,
    posted: u32,
    arms: u32,
}

/// A datagram that arrived.
pub(crate) struct Received {
    /// Where from and where to.
    pub(crate) route: Route,
    /// The sender's queue pair.
    pub(crate) qpn: Qpn,
    /// The datagram.
    pub(crate) mad: [u8; MAD],
}

/// To whom at the other side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    pub(crate) qpn: Qpn,
    pub(crate) qkey: u32,
}

impl Default for To {
    /// The other QP 1.
    fn default() -> Self {
        To {
            qpn: Qpn::GSI,
            qkey: GSI_QKEY,
        }
    }
}

impl<P: Platform> Gsi<P> {
    /// Makes QP 1 and brings it to work. Its parts are the device's until it is reset.
    ///
    /// # Errors
    ///
    /// The device has none, or no memory.
    pub(crate) fn start(hardware: &Hardware<P>) -> Outcome<Self> {
        if hardware.limits.qp_types & 1 << QpType::GSI.0 == 0 {
            return Err(Failure::new(Errno::EOPNOTSUPP, Reason::UNSUPPORTED));
        }
        let alloc = |len: usize| {
            let memory = hardware.platform.alloc_dma(len);
            memory.map_err(|errno| Failure::new(errno, Reason::NO_MEMORY))
        };
        let send_stride = send_log_stride(QpType::GSI, 0, MAD as u16).unwrap_or(verbena_hw::wqe::MAX_LOG_STRIDE);
        let send_bytes = ENTRIES << send_stride;
        let recv_offset = send_bytes.next_multiple_of(PAGE as usize);
        let recv_bytes = ENTRIES << RECV_STRIDE;
        let ring_bytes = size_of::<Cqe>() << LOG_COMPLETIONS;
        let rings = alloc(recv_offset + recv_bytes)?;
        let completions = alloc(ring_bytes + size_of::<CqRecord>())?;
        let buffers = alloc(ENTRIES * BUFFER)?;
        let page = alloc(PAGE as usize)?;
        let mut gsi = Gsi {
            qpn: Qpn::default(),
            cqn: Cqn::default(),
            doorbell: 0,
            lkey: Key::default(),
            send_stride,
            rings,
            recv_offset,
            completions,
            buffers,
            page,
            send: Mutex::try_new(0, c"verbena_gsi_send")?,
            sent: AtomicU32::new(0),
            poll: Mutex::try_new(Poll::default(), c"verbena_gsi_poll")?,
            gids: Mutex::try_new(Vec::new(), c"verbena_gids")?,
            gids_are_old: AtomicBool::new(true),
        };
        let mut made = Made::default();
        match gsi.make(hardware, &mut made) {
            Ok(()) => Ok(gsi),
            Err(failure) => {
                // The device lets go of the memory before it is freed.
                made.undo(hardware);
                Err(failure)
            }
        }
    }

    fn make(&mut self, hardware: &Hardware<P>, made: &mut Made) -> Outcome {
        // Completion vector 0.
        let events = hardware.events.get(1).unwrap_or(&hardware.events[0]);
        let pd: HandleRsp = hardware.command(Opcode::CREATE_PD, &())?;
        made.add(Opcode::DESTROY_PD, pd.handle);
        // The domain is the driver's own: no process can name it.
        let region = CreateMrReq {
            pages: PageList::default(),
            iova: 0,
            len: 0,
            first_offset: 0,
            pdn: Pdn(pd.handle),
            access: access::LOCAL_WRITE,
            flags: MR_DMA,
            reserved: 0,
        };
        let region: CreateMrRsp = hardware.command(Opcode::CREATE_MR, &region)?;
        made.add(Opcode::DESTROY_MR, region.lkey.index());
        self.lkey = region.lkey;
        let page = CreateDoorbellReq { addr: self.page.addr() };
        let page: HandleRsp = hardware.command(Opcode::CREATE_DOORBELL, &page)?;
        made.add(Opcode::DESTROY_DOORBELL, page.handle);
        self.doorbell = page.handle;
        let ring_bytes = (size_of::<Cqe>() << LOG_COMPLETIONS) as u64;
        let queue = CreateCqReq {
            ring: PageList::direct(self.completions.addr(), ring_bytes),
            record: self.completions.addr() + ring_bytes,
            cookie: 0,
            eqn: events.eqn,
            log_entries: LOG_COMPLETIONS,
            flags: 0,
            reserved: [0; 10],
        };
        let queue: HandleRsp = hardware.command(Opcode::CREATE_CQ, &queue)?;
        made.add(Opcode::DESTROY_CQ, queue.handle);
        self.cqn = Cqn::truncate(queue.handle);
        let pair = CreateQpReq {
            sq: PageList::direct(self.rings.addr(), (ENTRIES << self.send_stride) as u64),
            rq: PageList::direct(
                self.rings.addr() + self.recv_offset as u64,
                (ENTRIES << RECV_STRIDE) as u64,
            ),
            cookie: 0,
            pdn: Pdn(pd.handle),
            send_cqn: self.cqn,
            recv_cqn: self.cqn,
            srqn: Srqn::default(),
            doorbell: self.doorbell,
            slot: 0,
            qp_type: QpType::GSI,
            flags: 0,
            sq_log_entries: LOG_ENTRIES,
            sq_log_stride: self.send_stride,
            rq_log_entries: LOG_ENTRIES,
            rq_log_stride: RECV_STRIDE,
            max_send_sge: 0,
            max_recv_sge: 1,
            max_inline: MAD as u16,
            eqn: hardware.events[0].eqn,
            xrcdn: 0,
            reserved: [0; 4],
            mask: 0,
            reserved2: 0,
            attrs: QpAttrs::default(),
        };
        let pair: HandleRsp = hardware.command(Opcode::CREATE_QP, &pair)?;
        made.add(Opcode::DESTROY_QP, pair.handle);
        self.qpn = Qpn::truncate(pair.handle);
        {
            let mut poll = self.poll.lock();
            for buffer in 0..ENTRIES {
                self.post_receive(&mut poll, buffer);
            }
            self.arm(&mut poll);
        }
        self.modify(hardware, QpState::INIT, attr::PKEY_INDEX | attr::QKEY)?;
        self.modify(hardware, QpState::RTR, 0)?;
        self.modify(hardware, QpState::RTS, attr::SQ_PSN)
    }

    fn modify(&self, hardware: &Hardware<P>, state: QpState, mask: u32) -> Outcome {
        let request = ModifyQpReq {
            qpn: self.qpn,
            mask: mask | attr::STATE,
            attrs: QpAttrs {
                state: state.0,
                cur_state: QpState::SQE.0,
                qkey: GSI_QKEY,
                ..QpAttrs::default()
            },
        };
        Ok(hardware.command(Opcode::MODIFY_QP, &request)?)
    }

    /// What its sends and receives begin with is written last, with release ordering: the entry is there then.
    fn put(memory: &P::Dma, offset: usize, entry: &[u8]) {
        let (first, rest) = entry.split_at(8);
        memory.write(offset + 8, rest);
        let mut word = [0; 8];
        word.copy_from_slice(first);
        memory.words()[offset / 8].store(u64::from_le_bytes(word), Ordering::Release);
    }

    fn post_receive(&self, poll: &mut Poll, buffer: usize) {
        let at = slot(poll.posted, LOG_ENTRIES) as usize;
        let header = RecvHeader {
            owner: phase(poll.posted, LOG_ENTRIES),
            num_sge: 1,
            wr_id: buffer as u64,
            ..RecvHeader::default()
        };
        let element = Sge {
            addr: self.buffers.addr() + (buffer * BUFFER) as u64,
            len: BUFFER as u32,
            lkey: self.lkey,
        };
        let mut entry = [0; 1 << RECV_STRIDE];
        entry[..size_of::<RecvHeader>()].copy_from_slice(header.as_bytes());
        entry[size_of::<RecvHeader>()..].copy_from_slice(element.as_bytes());
        Self::put(&self.rings, self.recv_offset + (at << RECV_STRIDE), &entry);
        poll.posted = poll.posted.wrapping_add(1);
    }

    /// Tells the device how far completions are consumed, and asks for an event at the next one.
    fn arm(&self, poll: &mut Poll) {
        poll.arms = poll.arms.wrapping_add(1);
        let arm = poll.arms << 2 | CqRecord::ARM_ANY;
        self.record(poll.consumed, arm);
        // Store buffering: what is looked at next must not have been read before the device can see the request.
        fence(Ordering::SeqCst);
    }

    /// The record's two words are one of memory's.
    fn record(&self, consumer: u32, arm: u32) {
        let at = (size_of::<Cqe>() << LOG_COMPLETIONS) / 8;
        self.completions.words()[at].store(u64::from(arm) << 32 | u64::from(consumer), Ordering::Release);
    }

    /// Sends a datagram. Says whether it could: the queue may be full, or the source GID not (any more) one of ours.
    pub(crate) fn send(&self, hardware: &Hardware<P>, route: &Route, to: &To, mad: &[u8; MAD]) -> bool {
        if hardware.is_gone() || route.dgid.is_zero() {
            return false;
        }
        let Some(sgid_index) = self.gid_index(hardware, &route.sgid) else {
            return false;
        };
        let args = UdArgs {
            path: Path {
                dgid: route.dgid,
                flow_label: route.flow_label,
                sgid_index,
                hop_limit: route.hop_limit,
                traffic_class: route.traffic_class,
                vlan: 0xffff,
                port: 1,
                ..Path::default()
            },
            dest_qpn: to.qpn,
            qkey: to.qkey,
            reserved: 0,
        };
        {
            let mut producer = self.send.lock();
            if producer.wrapping_sub(self.sent.load(Ordering::Acquire)) >= ENTRIES as u32 {
                return false;
            }
            let header = SendHeader {
                owner: phase(*producer, LOG_ENTRIES),
                opcode: SendOpcode::SEND.0,
                // Its completion says how far the queue is consumed.
                flags: send_flags::SIGNALED | send_flags::INLINE,
                inline_len: MAD as u32,
                ..SendHeader::default()
            };
            let mut entry = [0; SEND];
            let (head, rest) = entry.split_at_mut(size_of::<SendHeader>());
            let (address, data) = rest.split_at_mut(size_of::<UdArgs>());
            head.copy_from_slice(header.as_bytes());
            address.copy_from_slice(args.as_bytes());
            data.copy_from_slice(mad);
            let at = slot(*producer, LOG_ENTRIES) as usize;
            Self::put(&self.rings, at << self.send_stride, &entry);
            *producer = producer.wrapping_add(1);
        }
        // As verbena_hw::doorbell::DoorbellPage::ring does it, slot 0.
        let words = self.page.words();
        words[doorbell::BITMAP / 8].fetch_or(1, Ordering::SeqCst);
        words[doorbell::SUMMARY / 8].fetch_or(1, Ordering::SeqCst);
        if words[doorbell::KICK / 8].load(Ordering::SeqCst) as u32 != 0 {
            let register = u64::from(self.doorbell) * doorbell::PAGE_SIZE + doorbell::REG_RING;
            hardware.platform.ring(register, 0);
        }
        true
    }

    /// Hands every datagram that has arrived to `each`, then asks for an event at the next one.
    pub(crate) fn poll(&self, hardware: &Hardware<P>, mut each: impl FnMut(&Received)) {
        let mut armed = false;
        loop {
            match self.next(hardware) {
                Some(Some(received)) => each(&received),
                Some(None) => {}
                None if armed => return,
                None => {
                    self.arm(&mut self.poll.lock());
                    armed = true;
                }
            }
        }
    }

    /// Consumes a completion, if there is one; what arrived, if it says that something did.
    fn next(&self, hardware: &Hardware<P>) -> Option<Option<Received>> {
        let mut poll = self.poll.lock();
        let offset = slot(poll.consumed, LOG_COMPLETIONS) as usize * size_of::<Cqe>();
        // Acquire: the device writes this word last.
        let owner = self.completions.words()[offset / 8].load(Ordering::Acquire) as u8;
        if owner & OWNER_PHASE != phase(poll.consumed, LOG_COMPLETIONS) {
            return None;
        }
        let mut completion = Cqe::new_zeroed();
        self.completions.read(offset, completion.as_mut_bytes());
        poll.consumed = poll.consumed.wrapping_add(1);
        self.record(poll.consumed, poll.arms << 2 | CqRecord::ARM_ANY);
        let good = completion.status == Status::SUCCESS.0;
        if completion.flags & cqe::flags::RECV == 0 {
            self.sent.store(completion.consumed, Ordering::Release);
            if !good && completion.status != Status::WR_FLUSH_ERR.0 {
                drop(poll);
                self.recover(hardware, &completion);
            }
            return Some(None);
        }
        if !good {
            // Only an end of the queue pair flushes receives, and that is the device's end.
            return Some(None);
        }
        let buffer = completion.wr_id as usize % ENTRIES;
        let mut bytes = [0; RECEIVED];
        self.buffers.read(buffer * BUFFER, &mut bytes);
        self.post_receive(&mut poll, buffer);
        let (header, data) = bytes.split_at(grh::LEN);
        let (mut grh, mut mad) = (Grh([0; grh::LEN]), [0; MAD]);
        grh.0.copy_from_slice(header);
        mad.copy_from_slice(data);
        let qpn = completion.src_qpn;
        Some(grh.route().map(|route| Received { route, qpn, mad }))
    }

    /// A send failed, which stopped the send queue: it goes on. What was behind the failure is lost.
    #[cold]
    fn recover(&self, hardware: &Hardware<P>, completion: &Cqe) {
        let (status, reason) = (completion.status, completion.vendor_err);
        hardware.platform.log(format_args!(
            "a management datagram could not be sent: status {status}, reason {reason}"
        ));
        // The GID that it was sent from may have gone.
        self.gids_changed();
        if let Err(failure) = self.modify(hardware, QpState::RTS, attr::CUR_STATE) {
            hardware
                .platform
                .log(format_args!("QP 1 cannot send any more: {failure}"));
        }
    }

    /// The GID table is not what it was.
    pub(crate) fn gids_changed(&self) {
        self.gids_are_old.store(true, Ordering::Relaxed);
    }

    /// Calls `f` with the port's GID table.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub(crate) fn with_gids<R>(&self, hardware: &Hardware<P>, f: impl FnOnce(&[Gid]) -> R) -> Outcome<R> {
        let mut gids = self.gids.lock();
        // Taken before it is read: what changes meanwhile is read next time.
        if self.gids_are_old.swap(false, Ordering::Relaxed) {
            gids.truncate(0);
            let read = hardware.gids(hardware.limits.gid_table_len.min(256), |_, gid| Ok(gids.push(*gid)?));
            if let Err(failure) = read {
                self.gids_changed();
                return Err(failure);
            }
        }
        Ok(f(&gids))
    }

    /// Where a GID of ours stands in the table.
    pub(crate) fn gid_index(&self, hardware: &Hardware<P>, gid: &Gid) -> Option<u8> {
        let find = |gids: &[Gid]| gids.iter().position(|entry| entry == gid);
        let index = self.with_gids(hardware, find).ok()??;
        u8::try_from(index).ok()
    }
}

impl<P: Platform> Hardware<P> {
    /// QP 1; made, if it is not there.
    ///
    /// # Errors
    ///
    /// As [`Gsi::start`].
    pub(crate) fn gsi(&self) -> Outcome<rdma_uapi::sys::Arc<Gsi<P>>> {
        self.gsi.get_or(|| Gsi::start(self))
    }
}
