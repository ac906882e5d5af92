// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The one seam for memory and locks.
//!
//! Everything here may sleep: the whole object model runs in process context (interrupts are threaded), so there
//! are no spinlocks. Allocation can fail, and says so, on both sides; natively it does not, but the same code runs.
//!
//! | here | natively | in the kernel |
//! |---|---|---|
//! | [`Arc`] | `std::sync::Arc` | `kernel::sync::Arc` |
//! | [`Box`] | `std::boxed::Box` | `KBox` |
//! | [`Vec`] | over `std::vec::Vec` | over `KVVec` |
//! | [`Mutex`] | over `std::sync::Mutex` | over a boxed `kernel::sync::Mutex` |

#[cfg(in_kernel)]
mod kernel;
#[cfg(in_kernel)]
pub use self::kernel::*;

#[cfg(not(in_kernel))]
mod native;
#[cfg(not(in_kernel))]
pub use self::native::*;

pub use core::sync::atomic;

/// There was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl<T: Copy> Vec<T> {
    /// Appends all of `items`.
    ///
    /// # Errors
    ///
    /// No memory; then some of the items may have been appended.
    pub fn extend(&mut self, items: &[T]) -> Result<(), NoMemory> {
        for &item in items {
            self.push(item)?;
        }
        Ok(())
    }

    /// Makes it `len` long, with copies of `fill` where it grows.
    ///
    /// # Errors
    ///
    /// No memory; then it may have grown by part of it.
    pub fn resize(&mut self, len: usize, fill: T) -> Result<(), NoMemory> {
        self.truncate(len);
        self.reserve(len - self.len())?;
        while self.len() < len {
            self.push(fill)?;
        }
        Ok(())
    }

    /// Makes it `len` long if it is shorter, with zeros where it grows.
    ///
    /// # Errors
    ///
    /// No memory; then it may have grown by part of it.
    pub fn at_least(&mut self, len: usize) -> Result<(), NoMemory>
    where
        T: Default,
    {
        if self.len() < len {
            self.resize(len, T::default())?;
        }
        Ok(())
    }
}

impl<T> Vec<T> {
    /// Takes the item at `index` out; the last one takes its place.
    ///
    /// # Panics
    ///
    /// If there is no such item.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let last = self.len() - 1;
        self.swap(index, last);
        match self.pop() {
            Some(item) => item,
            None => unreachable!("the slice had a last item"),
        }
    }
}
