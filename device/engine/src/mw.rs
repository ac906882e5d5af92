// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows: keys of their own for parts of regions, bound and invalidated while the regions stay.
//!
//! A bound window is an entry of the table of keys like a region's, with the stretches of its part, so that a peer's access
//! costs what it costs with a region. Type 1 is bound by a command and open to every queue pair of its protection domain;
//! type 2 is bound by a work request and open only to the queue pair that bound it (IBA vol. 1, 10.6.7.2). Types 2A and 2B
//! differ in whether an access checks the queue pair's number alone or its protection domain too. Here a number never
//! passes to a queue pair of another domain while a window is bound to it, because the window is unbound when its queue
//! pair goes: one kind of window is both.

use crate::env::Env;
use crate::hca::{Cx, Hca};
use crate::limits;
use crate::mr::{KeyFault, Kind, Mr, LOCAL, NOBODY, NO_KEY};
use crate::pages::Extents;
use verbena_hw::cqe::vendor;
use verbena_hw::id::{Key, Pdn, Qpn};
use verbena_hw::mw::MwType;
use verbena_hw::qp::access;

/// What a table entry is as a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) mw_type: MwType,
    pub(crate) pdn: Pdn,
    /// The key that it has or, while it is not bound, had last.
    pub(crate) key: Key,
    /// Type 2, bound: who bound it.
    pub(crate) qpn: Option<Qpn>,
    /// Bound: the region's index.
    pub(crate) on: Option<u32>,
}

/// What a window is to show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// The key that it will have: same index, any tag.
    pub(crate) key: Key,
    pub(crate) lkey: Key,
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) access: u32,
}

/// Rights that a window can give.
const RIGHTS: u32 =
    access::REMOTE_READ | access::REMOTE_WRITE | access::REMOTE_ATOMIC | access::ZERO_BASED | access::FLUSH_GLOBAL;
const WRITING: u32 = access::REMOTE_WRITE | access::REMOTE_ATOMIC;

impl Window {
    /// The entry of a window that is not bound.
    pub(crate) fn unbound(mw_type: MwType, pdn: Pdn, key: Key) -> Mr {
        Mr {
            key: NO_KEY,
            pdn,
            access: 0,
            iova: 0,
            len: 0,
            page_shift: 0,
            pages: 0,
            extents: Extents::One(0),
            users: 0,
            kind: Kind::Window(Window {
                mw_type,
                pdn,
                key,
                qpn: None,
                on: None,
            }),
        }
    }
}

impl Hca {
    /// Binds a window for a queue pair (type 2) or a command (type 1). On failure it is what it was.
    pub(crate) fn bind(&mut self, by: Option<(Qpn, Pdn)>, binding: Binding) -> Result<(), KeyFault> {
        let fault = |reason| Err(KeyFault(reason));
        let index = binding.key.index();
        let Some(&Mr {
            kind: Kind::Window(window),
            ..
        }) = self.mrs.get(index)
        else {
            return fault(vendor::KEY_UNKNOWN);
        };
        let fits = match (by, window.mw_type) {
            (Some(_), MwType::TYPE_2) => window.on.is_none() && binding.len > 0,
            // o10-36.2.2: no zero-based windows of type 1.
            (None, MwType::TYPE_1) => binding.access & access::ZERO_BASED == 0,
            _ => false,
        };
        if !fits {
            return fault(vendor::WINDOW_STATE);
        }
        if by.is_some_and(|(_, pdn)| pdn != window.pdn) {
            return fault(vendor::KEY_PD);
        }
        if binding.access & !RIGHTS != 0 {
            return fault(vendor::KEY_ACCESS);
        }
        let extents = if binding.len > 0 {
            self.part(window.pdn, &binding)?
        } else {
            Extents::One(0)
        };
        let held = self.mrs.get(index).map_or(0, |mr| mr.extents.cost());
        if self.extents - held + extents.cost() > limits::EXTENTS {
            return fault(vendor::WINDOW_STATE);
        }
        self.unbind(index);
        self.extents += extents.cost();
        let on = (binding.len > 0).then_some(binding.lkey.index());
        if let Some(region) = on.and_then(|on| self.mrs.get_mut(on)) {
            region.users += 1;
        }
        if let Some(qp) = by.and_then(|(qpn, _)| self.qps.get_mut(qpn.get())) {
            qp.windows += 1;
        }
        let zero_based = binding.access & access::ZERO_BASED != 0;
        if let Some(mr) = self.mrs.get_mut(index) {
            *mr = Mr {
                key: if on.is_some() { binding.key } else { NO_KEY },
                // Nobody has this domain: who may access a window of type 2 is decided by its queue pair.
                pdn: if by.is_some() { NOBODY } else { window.pdn },
                access: binding.access,
                iova: if zero_based { 0 } else { binding.addr },
                len: binding.len,
                page_shift: mr.page_shift,
                pages: 0,
                extents,
                users: 0,
                kind: Kind::Window(Window {
                    key: binding.key,
                    qpn: by.map(|(qpn, _)| qpn),
                    on,
                    ..window
                }),
            };
        }
        Ok(())
    }

    /// The stretches of the part of a region that a binding names.
    fn part(&self, pdn: Pdn, binding: &Binding) -> Result<Extents, KeyFault> {
        // C10-74: who lets peers write must be able to write itself.
        let writes = if binding.access & WRITING != 0 {
            access::LOCAL_WRITE
        } else {
            0
        };
        // C10-73. A window has none of these rights, so none is bound to a window.
        let needed = LOCAL | access::MW_BIND | writes;
        let range = self.mrs.check(binding.lkey, pdn, binding.addr, binding.len, needed)?;
        if range.region().access & access::ZERO_BASED != 0 {
            return Err(KeyFault(vendor::KEY_ACCESS));
        }
        Ok(range.extents())
    }

    /// Takes a window's key away, if it is bound. Anything else is left alone.
    pub(crate) fn unbind(&mut self, index: u32) {
        let Some(mr) = self.mrs.get_mut(index) else {
            return;
        };
        let Kind::Window(window) = &mut mr.kind else {
            return;
        };
        let (on, qpn) = (window.on.take(), window.qpn.take());
        self.extents -= mr.extents.cost();
        mr.key = NO_KEY;
        mr.extents = Extents::One(0);
        (mr.len, mr.access) = (0, 0);
        if let Some(region) = on.and_then(|on| self.mrs.get_mut(on)) {
            region.users -= 1;
        }
        if let Some(qp) = qpn.and_then(|qpn| self.qps.get_mut(qpn.get())) {
            qp.windows -= 1;
        }
    }

    /// Invalidates a key for a queue pair: its own work request, or one that its peer has sent.
    pub(crate) fn invalidate(&mut self, qpn: Qpn, key: Key) -> Result<(), KeyFault> {
        let pdn = self.qps.get(qpn.get()).map(|qp| qp.pdn);
        let Some(mr) = self.mrs.get(key.index()).filter(|mr| mr.key == key) else {
            return Err(KeyFault(vendor::KEY_UNKNOWN));
        };
        match &mr.kind {
            Kind::Window(window) if window.mw_type == MwType::TYPE_2 => {
                if Some(window.pdn) != pdn {
                    return Err(KeyFault(vendor::KEY_PD));
                }
                if window.qpn != Some(qpn) {
                    return Err(KeyFault(vendor::KEY_QP));
                }
            }
            Kind::Fast(_) => {
                if Some(mr.pdn) != pdn {
                    return Err(KeyFault(vendor::KEY_PD));
                }
                // Its key cannot go while others stand on it.
                if mr.users > 0 {
                    return Err(KeyFault(vendor::REGION_STATE));
                }
                self.fast_free(key.index());
                return Ok(());
            }
            // o10-37.2.26: a window of type 1, and what a command has registered, a command takes away.
            _ => return Err(KeyFault(vendor::NOT_INVALIDATABLE)),
        }
        self.unbind(key.index());
        Ok(())
    }

    /// Unbinds every window that a queue pair has bound.
    pub(crate) fn unbind_all_of(&mut self, qpn: Qpn) {
        self.unbind_where(|window| window.qpn == Some(qpn));
    }

    /// Unbinds every window on a region.
    pub(crate) fn unbind_all_on(&mut self, index: u32) {
        self.unbind_where(|window| window.on == Some(index));
    }

    fn unbind_where(&mut self, concerns: impl Fn(&Window) -> bool) {
        let concerned: Vec<u32> = self
            .mrs
            .entries()
            .filter(|(_, mr)| matches!(&mr.kind, Kind::Window(window) if concerns(window)))
            .map(|(index, _)| index)
            .collect();
        for index in concerned {
            self.unbind(index);
        }
    }
}

/// A send queue's memory management: work requests that nobody but the device itself executes.
pub(crate) mod work {
    use super::*;
    use crate::fast::FastRegistration;
    use crate::hca::Side;
    use crate::qp::local::local_protection;
    use crate::qp::message::{BadRequest, Message, Operation};
    use crate::qp::requester::fail;
    use crate::qp::sg::{self, Stretches};
    use crate::schedule::QpRef;
    use verbena_hw::cqe::{Cqe, Status};
    use verbena_hw::wqe::{BindArgs, SendOpcode, Sge, MAX_FAST_ELEMENTS};
    use zerocopy::{FromZeros, IntoBytes};

    /// Executes one of a reliable queue pair. It takes no PSN and waits for nobody: everything before it in its queue is complete.
    pub(crate) fn execute<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message) {
        match perform(hca, cx, at, message) {
            Ok(()) => done(hca, cx, at, message),
            Err(bad) => fail(hca, cx, at, message, bad),
        }
    }

    /// Does what one asks for.
    ///
    /// # Errors
    ///
    /// How it ends instead.
    pub(crate) fn perform<E: Env>(
        hca: &mut Hca,
        cx: &Cx<'_, E>,
        at: QpRef,
        message: &Message,
    ) -> Result<(), BadRequest> {
        let Some(qp) = hca.qps.get(at.qpn.get()) else {
            return Ok(());
        };
        let pdn = qp.pdn;
        let header = &message.header;
        let (result, status) = match message.operation {
            Operation::BindWindow => {
                let args: BindArgs = zerocopy::transmute!(message.atomic);
                let binding = Binding {
                    key: header.rkey,
                    lkey: args.lkey,
                    addr: header.remote_addr,
                    len: args.len,
                    access: args.access,
                };
                (hca.bind(Some((at.qpn, pdn)), binding), Status::MW_BIND_ERR)
            }
            Operation::FastRegister => (register(hca, cx, pdn, message)?, Status::LOC_QP_OP_ERR),
            _ => (hca.invalidate(at.qpn, Key(header.imm)), Status::LOC_QP_OP_ERR),
        };
        result.map_err(|KeyFault(reason)| BadRequest { status, reason })
    }

    /// One has been performed.
    pub(crate) fn done<E: Env>(hca: &mut Hca, cx: &mut Cx<'_, E>, at: QpRef, message: &Message) {
        let Some(qp) = hca.qps.get_mut(at.qpn.get()) else {
            return;
        };
        qp.req.consumer = qp.req.consumer.wrapping_add(1);
        if qp.signal_all || message.is_signaled() {
            let cqe = Cqe {
                opcode: message.operation.completion().0,
                wr_id: message.header.wr_id,
                ..Cqe::default()
            };
            hca.complete(cx, at.qpn, Side::Send, cqe);
        }
    }

    /// Registers memory.
    ///
    /// # Errors
    ///
    /// The elements are not where the entry says: how it ends. Whether they can be registered is the inner result.
    fn register<E: Env>(
        hca: &mut Hca,
        cx: &Cx<'_, E>,
        pdn: Pdn,
        message: &Message,
    ) -> Result<Result<(), KeyFault>, BadRequest> {
        let header = &message.header;
        let listed;
        let elements = if header.opcode == SendOpcode::FAST_REGISTER_LIST.0 {
            listed = list(hca, cx, pdn, message)?;
            &listed[..]
        } else {
            message.elements().as_slice()
        };
        let wanted = FastRegistration {
            key: header.rkey,
            iova: header.remote_addr,
            access: header.imm,
            elements,
        };
        Ok(hca.fast_register(pdn, wanted))
    }

    /// The elements in the memory that an entry names, read once.
    fn list<E: Env>(hca: &Hca, cx: &Cx<'_, E>, pdn: Pdn, message: &Message) -> Result<Vec<Sge>, BadRequest> {
        const SIZE: u64 = size_of::<Sge>() as u64;
        if message.len % SIZE != 0 {
            return Err(BadRequest {
                status: Status::LOC_LEN_ERR,
                reason: vendor::MESSAGE_LEN,
            });
        }
        if message.len / SIZE > MAX_FAST_ELEMENTS.into() {
            return Err(BadRequest::operation(vendor::SGE_COUNT));
        }
        sg::check(&hca.mrs, pdn, message.elements(), 0, message.len, 0).map_err(local_protection)?;
        let mut list = vec![Sge::new_zeroed(); (message.len / SIZE) as usize];
        let from = Stretches::list(&hca.mrs, pdn, message.elements(), 0, 0);
        sg::load(cx.env.ram(hca.id), from, list.as_mut_bytes()).map_err(local_protection)?;
        Ok(list)
    }
}
