// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory and locks over the kernel's own. Memory is accounted to the memory cgroup of whoever calls.

use super::NoMemory;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::alloc::{AllocError, KBox, KVVec};
use kernel::init::InPlaceInit;
use kernel::sync::lock::mutex::MutexBackend;
pub use kernel::sync::Arc;
use kernel::sync::UniqueArc;

/// A value on the heap.
pub type Box<T> = KBox<T>;

impl From<AllocError> for NoMemory {
    fn from(_: AllocError) -> Self {
        NoMemory
    }
}

/// Puts a value on the heap.
///
/// # Errors
///
/// No memory.
pub fn try_box<T>(value: T) -> Result<Box<T>, NoMemory> {
    Ok(KBox::new(value, GFP_KERNEL_ACCOUNT)?)
}

/// Puts a value on the heap, shared.
///
/// # Errors
///
/// No memory.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, NoMemory> {
    Ok(Arc::new(value, GFP_KERNEL_ACCOUNT)?)
}

/// Bytes that an allocation of `bytes` takes: the sizes of the kernel's caches (`kmalloc_info` in `mm/slab_common.c`), and
/// above them whole pages.
pub const fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        65..=96 => 96,
        129..=192 => 192,
        9..=8192 => bytes.next_power_of_two(),
        _ => (bytes + 4095) & !4095,
    }
}

/// Bytes that a shared value takes: a count and itself.
pub const fn arc_bytes<T>() -> usize {
    let align = if align_of::<T>() > 4 { align_of::<T>() } else { 4 };
    allocated(align + size_of::<T>())
}

/// Room for a shared value that does not exist yet: what can fail is done, what cannot is left.
pub struct ArcRoom<T>(UniqueArc<core::mem::MaybeUninit<T>>);

impl<T> ArcRoom<T> {
    /// Finds the memory.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_new() -> Result<Self, NoMemory> {
        Ok(ArcRoom(UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?))
    }

    /// Puts the value in.
    pub fn fill(self, value: T) -> Arc<T> {
        self.0.write(value).into()
    }
}

/// A growing array whose growth can fail.
pub struct Vec<T>(KVVec<T>);

impl<T> Vec<T> {
    /// An empty one; takes no memory.
    pub const fn new() -> Self {
        Vec(KVVec::new())
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn push(&mut self, item: T) -> Result<(), NoMemory> {
        Ok(self.0.push(item, GFP_KERNEL_ACCOUNT)?)
    }

    /// Makes room for `more` items, so that pushing them cannot fail.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        Ok(self.0.reserve(more, GFP_KERNEL_ACCOUNT)?)
    }

    /// Takes the last item.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Forgets all items from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl<T> Default for Vec<T> {
    fn default() -> Self {
        Vec::new()
    }
}

impl<T> Deref for Vec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for Vec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// What a [`Mutex`] holds: never pinned, whatever is in it.
struct Loose<T>(T);

impl<T> Unpin for Loose<T> {}

/// A sleeping lock. The kernel's must not move once it is made, so it has a place of its own on the heap, and this can
/// be made, returned and stored like any value.
pub struct Mutex<T>(Pin<KBox<kernel::sync::Mutex<Loose<T>>>>);

/// What a held [`Mutex`] gives.
pub struct Guard<'a, T>(kernel::sync::lock::Guard<'a, Loose<T>, MutexBackend>);

impl<T> Mutex<T> {
    /// Bytes that it takes elsewhere.
    pub const HEAP: usize = allocated(size_of::<kernel::sync::Mutex<Loose<T>>>());

    /// A lock around `value`; the name is for lock checkers.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_new(value: T, name: &'static core::ffi::CStr) -> Result<Self, NoMemory> {
        let lock = kernel::sync::Mutex::new(Loose(value), name, kernel::static_lock_class!());
        KBox::pin_init(lock, GFP_KERNEL_ACCOUNT)
            .map(Mutex)
            .map_err(|_| NoMemory)
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        Guard(self.0.lock())
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0 .0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0 .0
    }
}
