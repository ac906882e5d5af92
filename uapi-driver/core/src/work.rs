// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! What is done because datagrams arrived on QP 1 or because a time is over: [`work`], and when it is due.
//!
//! It runs in a thread of its own ([`Platform::schedule`]) because it waits for commands, which an interrupt's thread must not.

use crate::gsi::Gsi;
use crate::hardware::Hardware;
use crate::platform::Platform;
use crate::{cm, mad, Device};
use core::sync::atomic::Ordering;
use rdma_uapi::sys::{Mutex, NoMemory};

/// Who waits for a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    /// The communication manager.
    Cm,
    /// Clients of management classes.
    Mad,
}

/// When [`work`] is due, for each [`Who`]. Taken before nothing.
pub(crate) struct Due(Mutex<[Option<u64>; 2]>);

impl Due {
    pub(crate) fn try_new() -> Result<Self, NoMemory> {
        Mutex::try_new([None; 2], c"verbena_due").map(Due)
    }
}

impl<P: Platform> Hardware<P> {
    /// [`work`] shall be called as soon as possible.
    pub(crate) fn want_work(&self) {
        // Sequentially consistent, as in `ask`: of this request and a later deadline, this one counts.
        self.work.store(true, Ordering::SeqCst);
        self.platform.schedule(0);
    }

    /// From now on this is when `who` is due; `None`: not at all.
    pub(crate) fn due(&self, who: Who, at: Option<u64>) {
        let mut due = self.due.0.lock();
        due[who as usize] = at;
        self.ask(&due);
    }

    /// `who` is due at this time at the latest.
    pub(crate) fn due_by(&self, who: Who, at: u64) {
        let mut due = self.due.0.lock();
        let mine = &mut due[who as usize];
        *mine = Some(mine.map_or(at, |sooner| sooner.min(at)));
        self.ask(&due);
    }

    /// `who` is not due; what was asked for is not taken back.
    pub(crate) fn not_due(&self, who: Who) {
        self.due.0.lock()[who as usize] = None;
    }

    /// Asks for the sooner one. Under the lock, so that the last request is that of the last deadline.
    fn ask(&self, due: &[Option<u64>; 2]) {
        let Some(next) = due.iter().flatten().min() else { return };
        self.platform.schedule(next.saturating_sub(self.platform.now()));
        if self.work.load(Ordering::SeqCst) {
            self.platform.schedule(0);
        }
    }
}

/// Management datagrams have arrived, or a deadline has passed: what [`Platform::schedule`] asks for.
pub fn work<P: Platform>(device: &Device<P>) {
    let hardware = device.state();
    hardware.work.store(false, Ordering::SeqCst);
    if hardware.is_gone() {
        return;
    }
    let Some(gsi) = hardware.gsi.get() else { return };
    arrivals(device, &gsi);
    if let Some(cm) = hardware.cm.get() {
        cm::tick(device, &cm);
    }
    mad::tick(hardware, &gsi);
    // The request that led here is used up: the deadline that is left needs one of its own.
    let due = hardware.due.0.lock();
    hardware.ask(&due);
}

/// Each datagram goes to whoever is responsible for its management class.
fn arrivals<P: Platform>(device: &Device<P>, gsi: &Gsi<P>) {
    let hardware = device.state();
    gsi.poll(hardware, |received| {
        // The class is the header's second byte (IBA vol. 1, 13.4.2).
        match (received.mad[1], hardware.cm.get()) {
            (rdma_cm::mad::CLASS, Some(cm)) => cm::arrived(device, &cm, received),
            (rdma_cm::mad::CLASS, None) => {}
            _ => mad::arrived(hardware, gsi, received),
        }
    });
}
