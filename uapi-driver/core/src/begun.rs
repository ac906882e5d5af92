// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Commands of a chain that are under way together: what the driver keeps for the chain, and for each of them.
//!
//! The device executes commands in their order, so those of one chain do what they would have done one after the other. A
//! chain that stops at a failure sends them in a link: the device then executes none behind one that failed.

use crate::admin::{Begun, Linked};
use crate::driver::Handling;
use crate::events::Delisted;
use crate::numbers::Kind;
use crate::platform::Platform;
use crate::qp::{self, Making, NewQp};
use crate::{CommandError, Device, Verbena};
use core::cell::Cell;
use rdma_uapi::class;
use rdma_uapi::failure::Outcome;
use rdma_uapi::wire::method;
use rdma_uapi::{Failure, Offer, Reservation};
use verbena_hw::admin::Opcode;
use verbena_hw::cmd::HandleRsp;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What Verbena keeps for a chain: its link, 0 before it has one.
#[derive(Default)]
pub struct Chain {
    link: Cell<u8>,
}

/// What Verbena keeps for a command that has begun.
pub struct Pending<P: Platform>(Way<P>);

enum Way<P: Platform> {
    /// A queue pair that is being made.
    New(Making<P>, Begun),
    /// One that is being moved.
    Move(Begun),
    /// One that is being destroyed, and the object as events find it.
    End(Delisted<P>, Begun),
}

/// Whether commands of this kind can begin without being waited for.
pub(crate) fn defers(class: u16, number: u8) -> bool {
    // All of one kind of handler: those of XRC targets are others.
    const QUEUE_PAIRS: [u16; 5] = [
        class::QP_RC,
        class::QP_UC,
        class::QP_UD,
        class::QP_XRC_INI,
        class::QP_RAW,
    ];
    QUEUE_PAIRS.contains(&class) && [method::CREATE, method::MODIFY, method::DESTROY].contains(&number)
}

/// An offer that is going to be taken: it comes with the right to have one more command in flight.
pub(crate) struct Taking<'c, P: Platform> {
    offer: &'c Offer<'c, Verbena<P>>,
    linked: Linked,
    device: &'c crate::Hardware<P>,
    /// The right is not used yet.
    unused: bool,
}

impl<P: Platform> Drop for Taking<'_, P> {
    fn drop(&mut self) {
        if self.unused {
            self.device.admin.forgo();
        }
    }
}

/// The offer that the call has, if it has one.
///
/// # Errors
///
/// There is one, and it cannot be taken now: the command is to be executed in its turn.
pub(crate) fn offer<'c, P: Platform>(call: &Handling<'c, P>) -> Outcome<Option<Taking<'c, P>>> {
    match call.offer() {
        Some(offer) => take(call.device(), offer).map(Some),
        None => Ok(None),
    }
}

fn take<'c, P: Platform>(device: &'c crate::Hardware<P>, offer: &'c Offer<'c, Verbena<P>>) -> Outcome<Taking<'c, P>> {
    let not_now = || Failure::device(rdma_uapi::Errno::EBUSY, 0);
    if !device.links || !device.admin.may_begin() {
        return Err(not_now());
    }
    let mut taking = Taking {
        offer,
        linked: Linked::default(),
        device,
        unused: true,
    };
    if offer.stops() {
        let link = &offer.chain().link;
        if link.get() == 0 {
            link.set(device.admin.take_link().ok_or_else(not_now)?);
        }
        taking.linked = Linked {
            link: link.get(),
            begins: offer.is_first(),
        };
    }
    Ok(taking)
}

impl<P: Platform> Taking<'_, P> {
    fn begin<Req, Rsp>(&mut self, opcode: Opcode, request: &Req) -> Outcome<Begun>
    where
        Req: IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes,
    {
        self.unused = false;
        Ok(self.device.admin.begin::<Req, Rsp>(opcode, request, self.linked)?)
    }

    /// Begins to make a queue pair.
    pub(crate) fn create(mut self, new: NewQp<P>, reservation: Reservation<'_, Verbena<P>>) -> Outcome {
        let begun = self.begin::<_, HandleRsp>(Opcode::CREATE_QP, &new.request)?;
        self.offer.take(Pending(Way::New(new.making, begun)), Some(reservation));
        Ok(())
    }

    /// Begins to move one.
    pub(crate) fn modify(mut self, request: &verbena_hw::cmd::ModifyQpReq) -> Outcome {
        let begun = self.begin::<_, ()>(Opcode::MODIFY_QP, request)?;
        self.offer.take(Pending(Way::Move(begun)), None);
        Ok(())
    }
}

/// Begins to destroy a queue pair.
pub(crate) fn release<P: Platform>(call: &Handling<'_, P>, offer: &Offer<'_, Verbena<P>>) -> Outcome<Pending<P>> {
    let mut taking = take(call.device(), offer)?;
    let request = qp::to_destroy(call)?;
    let delisted = Delisted::of(call.device(), Kind::Qp, request.handle);
    match taking.begin::<_, ()>(Opcode::DESTROY_QP, &request) {
        Ok(begun) => Ok(Pending(Way::End(delisted, begun))),
        Err(failure) => {
            delisted.back(call.device());
            Err(failure)
        }
    }
}

/// Waits for the end of a command, and does what there is to do then.
pub(crate) fn finish<'c, P: Platform>(
    call: &mut Handling<'c, P>,
    pending: Pending<P>,
    reservation: Option<Reservation<'c, Verbena<P>>>,
) -> Outcome {
    let admin = &call.device().admin;
    match (pending.0, reservation) {
        (Way::New(making, begun), Some(reservation)) => {
            let answer = admin.finish(begun);
            making.finish(call, reservation, answer, None)
        }
        (Way::Move(begun), None) => {
            let moved: Result<(), _> = admin.finish(begun);
            moved.map_err(|error| crate::qp_attrs::failure(call, error))
        }
        (Way::End(delisted, begun), None) => {
            let ended = delisted.end(call.core_device(), admin.finish(begun));
            call.destroyed(match ended {
                // Without a device there is nothing to end, and the program's teardown goes on.
                Ok(()) | Err(CommandError::Gone) => Ok(()),
                Err(refused) => Err(refused.into()),
            })
        }
        _ => unreachable!("a CREATE has a reservation, and nothing else has"),
    }
}

/// A chain is over.
pub(crate) fn chain_over<P: Platform>(device: &Device<P>, chain: Chain) {
    if chain.link.get() != 0 {
        device.state().admin.give_link(chain.link.get());
    }
}
