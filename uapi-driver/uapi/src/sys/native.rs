// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Memory and locks over `std`.

use super::NoMemory;
use core::ops::{Deref, DerefMut};
pub use std::boxed::Box;
pub use std::sync::Arc;

/// Puts a value on the heap.
///
/// # Errors
///
/// No memory.
pub fn try_box<T>(value: T) -> Result<Box<T>, NoMemory> {
    Ok(Box::new(value))
}

/// Puts a value on the heap, shared.
///
/// # Errors
///
/// No memory.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, NoMemory> {
    Ok(Arc::new(value))
}

/// Bytes that an allocation of `bytes` takes: the usual allocators give multiples of 16.
pub const fn allocated(bytes: usize) -> usize {
    (bytes + 15) & !15
}

/// Bytes that a shared value takes: two counts and itself.
pub const fn arc_bytes<T>() -> usize {
    allocated(2 * size_of::<usize>() + size_of::<T>())
}

/// Room for a shared value that does not exist yet: what can fail is done, what cannot is left.
pub struct ArcRoom<T>(core::marker::PhantomData<T>);

impl<T> ArcRoom<T> {
    /// Finds the memory.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_new() -> Result<Self, NoMemory> {
        Ok(ArcRoom(core::marker::PhantomData))
    }

    /// Puts the value in.
    pub fn fill(self, value: T) -> Arc<T> {
        Arc::new(value)
    }
}

/// A growing array whose growth can fail.
#[derive(Debug)]
pub struct Vec<T>(std::vec::Vec<T>);

impl<T> Vec<T> {
    /// An empty one; takes no memory.
    pub const fn new() -> Self {
        Vec(std::vec::Vec::new())
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn push(&mut self, item: T) -> Result<(), NoMemory> {
        self.0.try_reserve(1).map_err(|_| NoMemory)?;
        self.0.push(item);
        Ok(())
    }

    /// Makes room for `more` items, so that pushing them cannot fail.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        self.0.try_reserve(more).map_err(|_| NoMemory)
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

/// A sleeping lock.
#[derive(Debug)]
pub struct Mutex<T>(std::sync::Mutex<T>);

/// What a held [`Mutex`] gives.
pub type Guard<'a, T> = std::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// Bytes that it takes elsewhere: none.
    pub const HEAP: usize = 0;

    /// A lock around `value`; the name is for lock checkers.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn try_new(value: T, _name: &'static core::ffi::CStr) -> Result<Self, NoMemory> {
        Ok(Mutex(std::sync::Mutex::new(value)))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        // A panic under the lock is a bug of ours that a test shall see where it happened, not in every later caller.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
