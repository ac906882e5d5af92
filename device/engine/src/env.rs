// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the engine needs of the world, as arguments: guest memory and interrupts.

use vm_memory::VolatileSlice;

/// One HCA of an [`crate::Engine`]. Valid from `add_hca` to `remove_hca`; may name another HCA afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HcaId(pub u32);

/// What the device is about to do with guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma {
    /// Only read it.
    Read,
    /// Write it, or read and write it.
    Write,
}

/// The DMA address space of one HCA: what its client has mapped for it.
pub trait GuestRam {
    /// The memory at DMA address `addr`: at most `len` bytes, fewer where a mapping ends, and at least one.
    ///
    /// `None` if nothing is mapped at `addr`, or not for this kind of access. Mappings that follow one another in
    /// DMA addresses need not do so in the server's memory, so a caller with a long range asks piece by piece.
    /// `len` is not zero. An implementation may be asked millions of times a second.
    fn slice(&self, addr: u64, len: usize, dma: Dma) -> Option<VolatileSlice<'_>>;
}

/// The world around the engine.
///
/// Methods take `&self`: an implementation that must remember something does so behind its own lock or atomics.
pub trait Env {
    /// The address space type.
    type Ram: GuestRam;

    /// The address space of `hca`. Must not change during one call into the engine: an implementation over a
    /// snapshot of the mappings holds the same snapshot for the whole of a [`crate::Engine::poll`] or [`crate::Loan::run`].
    fn ram(&self, hca: HcaId) -> &Self::Ram;

    /// Signals MSI-X vector `vector` (below [`verbena_hw::pci::MSIX_VECTORS`]) of `hca`.
    fn interrupt(&self, hca: HcaId, vector: u16);
}
