// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What a driver brings: its ids, its state, its payload for an object, its table of what it adds, replaces, removes.

use crate::call::Call;
use crate::context::Context;
use crate::device::Device;
use crate::failure::Outcome;
use crate::host::Host;
use crate::object::Object;
use crate::reservation::Reservation;
use crate::table::Additions;
use crate::wire::DriverId;

/// A driver.
pub trait Driver: Sized + Send + Sync + 'static {
    /// Tags the classes and attributes that are its own.
    const ID: DriverId;
    /// Its name.
    const NAME: &'static str;
    /// What it adds to the common classes, replaces or removes.
    const ADDITIONS: Additions<Self>;
    /// It serves the system-wide node, which belongs to no device: of the common classes only those flagged GLOBAL.
    const SYSTEM_WIDE: bool = false;
    /// Objects that one context may have.
    const MAX_OBJECTS: u32 = 1 << 20;

    /// Where it runs.
    type Host: Host;
    /// What it keeps for a device.
    type Device: Send + Sync;
    /// What it keeps for an open context.
    type Context: Send + Sync;
    /// What it keeps for an object: usually an enum with one variant a class.
    type Object: Send + Sync;
    /// What it keeps for a command that it has begun and not finished ([`crate::pipeline`]). [`Infallible`] if it begins
    /// none.
    ///
    /// [`Infallible`]: core::convert::Infallible
    type Pending: Send;
    /// What it keeps for a chain while it is executed.
    type Chain: Default;

    /// Ports of the device.
    fn ports(device: &Self::Device) -> u32;

    /// Somebody opens the device.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being opened.
    fn open(device: &Device<Self>, owner: &<Self::Host as Host>::Owner) -> Outcome<Self::Context>;

    /// What an object takes beside its `Self::Object`, for the account that INTERFACE QUERY gives.
    fn memory(_object: &Self::Object) -> Memory {
        Memory::default()
    }

    /// Whether the handler of this method takes an offer ([`crate::Call::offer`]) to begin a command and leave its end for later.
    fn defers(_class: u16, _method: u8) -> bool {
        false
    }

    /// Begins to end the object that a DESTROY is about, as its class's release function would for [`Cause::Destroy`]. It takes
    /// no new calls already; [`Driver::finish`] ends it with [`Call::destroyed`]. Asked for what [`Driver::defers`] only.
    ///
    /// # Errors
    ///
    /// It does not begin smoothly, and nothing has happened: the release function is called in its turn.
    fn begin_release(_call: &Call<'_, Self>, _offer: &crate::Offer<'_, Self>) -> Outcome<Self::Pending> {
        unreachable!("a driver that defers DESTROY can begin it")
    }

    /// Waits for the end of a command that was begun, and does what its handler would have done then. A CREATE's id and
    /// memory are those that the handler had reserved. Called once for every command that was begun.
    ///
    /// # Errors
    ///
    /// What the command's end says.
    fn finish<'c>(
        _call: &mut Call<'c, Self>,
        _pending: Self::Pending,
        _reservation: Option<Reservation<'c, Self>>,
    ) -> Outcome {
        unreachable!("a driver that begins commands can finish them")
    }

    /// A chain is over; nothing of it is under way.
    fn chain_over(_device: &Device<Self>, _chain: Self::Chain) {}

    /// A context ends; all its objects are gone already.
    fn close(device: &Device<Self>, context: &Self::Context);
}

/// Memory that an object takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of the kernel's own.
    pub bytes: usize,
    /// Bytes that are shared with the process, and their book-keeping.
    pub shared: u64,
}

/// Why an object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// DESTROY: an error keeps the object alive.
    Destroy,
    /// The context ends: an error is logged and the object is gone all the same.
    Close,
    /// The context ends, or the object is destroyed, and the device is gone: there is no hardware to talk to. An error is
    /// logged and the object is gone all the same.
    Removed,
}

/// What a class's release function is given when an object ends.
pub struct Ending<'a, D: Driver> {
    /// The context.
    pub context: &'a Context<D>,
    /// The object.
    pub object: &'a Object<D>,
    /// Why.
    pub cause: Cause,
}

impl<D: Driver> Ending<'_, D> {
    /// The driver's state of the device.
    pub fn device(&self) -> &D::Device {
        self.context.device().state()
    }
}
