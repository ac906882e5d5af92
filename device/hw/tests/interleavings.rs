// SPDX-License-Identifier: MIT OR Apache-2.0
//! No wake-up is lost: every interleaving, and every reordering that the memory model allows, of what a driver and the
//! device do to the words by which one tells the other.
//!
//! The two sides are modelled: the same accesses in the same order with the same orderings as `DoorbellPage::ring` here, and
//! as `Doorbell`, `Watch` and `Engine::prepare_sleep` (`wants_event` for completions) in the engine, and the server's main loop
//! where it takes an event. Loom takes sequentially
//! consistent accesses for acquire and release, so where the code relies on their being more, the model has a fence behind
//! them.

use loom::sync::atomic::{fence, AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

/// The words of a doorbell page with one slot, the first word of the entry that the slot's queue has next, and the register.
#[derive(Default)]
struct Page {
    entry: AtomicU64,
    bitmap: AtomicU64,
    summary: AtomicU64,
    kick: AtomicU64,
    watched: AtomicU64,
    register: AtomicU64,
}

/// What the driver does with its fence.
#[derive(Clone, Copy, PartialEq)]
enum Fence {
    Kept,
    Left,
}

impl Page {
    /// The driver posts and rings.
    fn post(&self, before_watched: Fence) {
        self.entry.store(1, Ordering::Release);
        if before_watched == Fence::Kept {
            fence(Ordering::SeqCst);
        }
        if self.watched.load(Ordering::Relaxed) != 0 {
            return;
        }
        self.bitmap.fetch_or(1, Ordering::SeqCst);
        self.summary.fetch_or(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.kick.load(Ordering::SeqCst) != 0 {
            // Traps: whoever handles it takes the engine's lock and gives the queue a turn.
            self.register.store(1, Ordering::Release);
        }
    }

    fn is_posted(&self) -> bool {
        self.entry.load(Ordering::Acquire) != 0
    }

    /// The device takes what has rung; whether the slot had, and its turn found the entry.
    fn collect(&self) -> bool {
        if self.summary.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.summary.swap(0, Ordering::SeqCst) != 0 && self.bitmap.swap(0, Ordering::SeqCst) != 0 && self.is_posted()
    }

    /// The device prepares to sleep; whether there is work.
    fn prepare_sleep(&self, fence_kept: Fence) -> bool {
        self.kick.store(1, Ordering::SeqCst);
        let had_seat = self.watched.load(Ordering::Relaxed) != 0;
        if had_seat {
            self.watched.store(0, Ordering::SeqCst);
        }
        if fence_kept == Fence::Kept {
            fence(Ordering::SeqCst);
        }
        (had_seat && self.is_posted()) || self.summary.load(Ordering::SeqCst) != 0
    }

    /// Whether a sleeping device learns of the entry.
    fn wakes(&self) -> bool {
        self.register.load(Ordering::Acquire) != 0
    }
}

/// A driver posts one entry while the device, which watches the queue or does not, polls once and then goes to sleep.
fn one_post(watched: bool, driver: Fence, device: Fence) {
    loom::model(move || {
        let page = Arc::new(Page::default());
        page.watched.store(watched.into(), Ordering::Relaxed);
        let of_driver = page.clone();
        let thread = thread::spawn(move || of_driver.post(driver));
        let found = page.collect() || page.prepare_sleep(device);
        thread.join().unwrap();
        assert!(found || page.wakes(), "the device sleeps, and an entry waits");
    });
}

#[test]
fn p09_no_interleaving_loses_a_doorbell() {
    one_post(false, Fence::Kept, Fence::Kept);
}

#[test]
fn p09_no_interleaving_loses_an_entry_of_a_watched_queue() {
    one_post(true, Fence::Kept, Fence::Kept);
}

#[test]
#[should_panic(expected = "an entry waits")]
fn p09_without_the_devices_fence_a_doorbell_is_lost() {
    one_post(false, Fence::Kept, Fence::Left);
}

#[test]
#[should_panic(expected = "an entry waits")]
fn p09_without_the_drivers_fence_an_entry_of_a_watched_queue_is_lost() {
    one_post(true, Fence::Left, Fence::Kept);
}

/// When the server takes the event by which a driver wakes the device.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    BeforeTheLook,
    AfterTheLook,
}

/// Two queues of a page ring while the device sleeps, by an event that says nothing about which. The server begins what it finds
/// and withdraws the announcement; then the worker goes to sleep again. Events that come together may be one.
fn two_kicks(taken: Taken) {
    loom::model(move || {
        let page = Arc::new(Page::default());
        page.kick.store(1, Ordering::SeqCst);
        let threads = [1, 2].map(|bit| {
            let page = page.clone();
            thread::spawn(move || {
                page.bitmap.fetch_or(bit, Ordering::SeqCst);
                page.summary.fetch_or(1, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                if page.kick.load(Ordering::SeqCst) != 0 {
                    // An eventfd counts, under a lock of its own.
                    page.register.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        let mut found = 0;
        let mut serve = || {
            let look = |found: &mut u64| {
                page.kick.store(0, Ordering::SeqCst);
                if page.summary.load(Ordering::Relaxed) != 0 && page.summary.swap(0, Ordering::SeqCst) != 0 {
                    *found |= page.bitmap.swap(0, Ordering::SeqCst);
                }
            };
            if taken == Taken::AfterTheLook {
                if page.register.load(Ordering::Acquire) != 0 {
                    look(&mut found);
                    let asleep = sleeps(&page);
                    page.register.swap(0, Ordering::AcqRel);
                    return asleep;
                }
                return true;
            }
            if page.register.swap(0, Ordering::AcqRel) != 0 {
                look(&mut found);
                return sleeps(&page);
            }
            true
        };
        let asleep = serve();
        for thread in threads {
            thread.join().unwrap();
        }
        // Whoever is awake looks; whoever sleeps needs the event.
        let event = page.register.load(Ordering::Acquire) != 0;
        if !asleep || event {
            found |= page.bitmap.load(Ordering::SeqCst);
        }
        assert_eq!(found, 3, "the device sleeps, and an entry waits");
    });
}

/// The worker, awake, prepares to sleep; whether it does.
fn sleeps(page: &Page) -> bool {
    page.kick.store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let work = page.summary.load(Ordering::SeqCst) != 0;
    if work {
        page.kick.store(0, Ordering::SeqCst);
    }
    !work
}

#[test]
fn p09_no_interleaving_loses_a_queue_that_woke_the_device_by_an_event() {
    two_kicks(Taken::BeforeTheLook);
}

#[test]
#[should_panic(expected = "an entry waits")]
fn p09_an_event_that_is_taken_after_the_look_is_lost() {
    two_kicks(Taken::AfterTheLook);
}

/// A queue is given up while the device stays awake: the entry is found by that look, or rings.
#[test]
fn p09_no_interleaving_loses_an_entry_when_a_seat_is_given_up() {
    loom::model(|| {
        let page = Arc::new(Page::default());
        page.watched.store(1, Ordering::Relaxed);
        let of_driver = page.clone();
        let thread = thread::spawn(move || of_driver.post(Fence::Kept));
        page.watched.store(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let found = page.is_posted();
        thread.join().unwrap();
        assert!(found || page.collect(), "nobody looks, and nothing has rung");
    });
}

/// Two queues ring the same word while the device takes it: no bit stays behind an empty summary.
#[test]
fn p09_no_interleaving_leaves_a_bit_behind() {
    loom::model(|| {
        let page = Arc::new(Page::default());
        let threads = [1, 2].map(|bit| {
            let page = page.clone();
            thread::spawn(move || {
                page.bitmap.fetch_or(bit, Ordering::SeqCst);
                page.summary.fetch_or(1, Ordering::SeqCst);
            })
        });
        let mut taken = 0;
        if page.summary.swap(0, Ordering::SeqCst) != 0 {
            taken |= page.bitmap.swap(0, Ordering::SeqCst);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        if page.summary.swap(0, Ordering::SeqCst) != 0 {
            taken |= page.bitmap.swap(0, Ordering::SeqCst);
        }
        assert_eq!(taken, 3);
    });
}

/// A program arms its completion queue and polls once more while the device writes a completion and looks whether to tell.
fn one_completion(device: Fence) {
    loom::model(move || {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let of_driver = words.clone();
        let thread = thread::spawn(move || {
            let [entry, arm] = &*of_driver;
            arm.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
            entry.load(Ordering::Acquire) != 0
        });
        let [entry, arm] = &*words;
        entry.store(1, Ordering::Release);
        if device == Fence::Kept {
            fence(Ordering::SeqCst);
        }
        let told = arm.load(Ordering::Relaxed) != 0;
        let polled = thread.join().unwrap();
        assert!(told || polled, "a completion waits, and nobody is told");
    });
}

#[test]
fn h07_no_interleaving_loses_the_event_of_a_completion() {
    one_completion(Fence::Kept);
}

#[test]
#[should_panic(expected = "nobody is told")]
fn h07_without_the_devices_fence_the_event_of_a_completion_is_lost() {
    one_completion(Fence::Left);
}
