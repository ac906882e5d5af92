// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that is the interrupt controller: MSI-X eventfds to `core`'s handler, deadlines to its work, and the end of the
//! device.

use super::Device;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EventFd, EFD_CLOEXEC, EFD_NONBLOCK};

/// Serves interrupts until dropped.
pub(super) struct Interrupts {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Interrupts {
    /// The `n`th of `vectors` is vector `n`; `died` says that the driver found the device dead, `due` that its work is due
    /// at another time.
    pub(super) fn start(device: Arc<Device>, vectors: Vec<EventFd>, died: EventFd, due: EventFd) -> Result<Self> {
        let system = |source| Error::System {
            doing: "start the interrupt thread",
            source,
        };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(system)?;
        let stopped = stop.try_clone().map_err(system)?;
        let thread = std::thread::Builder::new()
            .name("verbena interrupts".into())
            .spawn(move || serve(&device, &vectors, &died, &due, &stopped))
            .map_err(system)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // Its counter is zero, so it cannot be full.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                log::error!("the interrupt thread panicked");
            }
        }
    }
}

fn serve(device: &Arc<Device>, vectors: &[EventFd], died: &EventFd, due: &EventFd, stop: &EventFd) {
    let stream = device.host().socket().stream();
    let watched: Vec<BorrowedFd<'_>> = [stop, died, due].into_iter().chain(vectors).map(borrow).collect();
    let mut gone = false;
    loop {
        if device.host().take_due() && !gone {
            verbena_core::work(device);
        }
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        if let (Some(stream), false) = (stream, gone) {
            // Only the end: answers are for whoever asked.
            fds.push(PollFd::new(stream, PollFlags::RDHUP));
        }
        // Seconds and nanoseconds of a duration fit.
        let timeout = device.host().due().and_then(|due| Timespec::try_from(due).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("interrupts are not served any more: {error}");
                return;
            }
        }
        let ready = |n: usize| fds.get(n).is_some_and(|fd| !fd.revents().is_empty());
        if ready(0) {
            return;
        }
        if !gone && (ready(1) || ready(watched.len())) {
            log::warn!("the device is gone");
            device.host().socket().end();
            verbena_core::remove(device);
            super::node::changed(device);
            gone = true;
        }
        if gone {
            // Nobody raises them any more; what is left of before is not served.
            let _ = died.read();
        }
        if ready(2) {
            let _ = due.read();
        }
        for (vector, event) in (0..).zip(vectors) {
            if ready(3 + usize::from(vector)) && event.read().is_ok() && !gone {
                verbena_core::interrupt(device, vector);
            }
        }
    }
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the eventfd lives, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
