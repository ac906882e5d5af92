// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::object::Object;
use crate::pd::resolve;
use crate::ring::work::{Remote, SendWr};
use crate::{Access, Context, MemoryRegion, ProtectionDomain};
use rdma_uapi::class::{self, mw};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use verbena_hw::id::Key;

/// How a window is bound, and to whom it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowType {
    /// By [`MemoryWindow::bind`], a call; open to every queue pair of the protection domain.
    Type1,
    /// By [`MemoryWindow::bind_wr`], a work request; open to the queue pair that it is posted on, until that one or its
    /// peer invalidates the key.
    Type2,
}

/// A key of its own for a part of a memory region, which can be given and taken back without touching the region.
///
/// While a window is bound to it, a region is not deregistered: EBUSY. Dropping a window unbinds it.
pub struct MemoryWindow {
    // Field order: gone before its protection domain can go.
    object: Object,
    rkey: Key,
    window_type: WindowType,
    _pd: Arc<Object>,
}

impl MemoryWindow {
    pub(crate) fn new(pd: &ProtectionDomain, window_type: WindowType) -> Result<Self> {
        const DOING: &str = "make a memory window";
        let kind = match window_type {
            WindowType::Type1 => mw::kind::TYPE_1,
            WindowType::Type2 => mw::kind::TYPE_2,
        };
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MW, 0);
        message.put(mw::PD, &pd.object.id()).put(mw::TYPE, &kind).ask(mw::RKEY);
        let answer = pd.context().call(DOING, method::CREATE, message)?;
        Ok(Self {
            object: Object::new(pd.context(), class::MW, answer.object(), "destroy a memory window"),
            rkey: Key(answer.expect(DOING, mw::RKEY)?),
            window_type,
            _pd: pd.object.clone(),
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// The key that it has, or that [`MemoryWindow::bind_wr`] gave it last.
    pub fn rkey(&self) -> u32 {
        self.rkey.0
    }

    /// How it is bound.
    pub fn window_type(&self) -> WindowType {
        self.window_type
    }

    /// Binds a window of type 1 to a part of `region`, with remote rights; answers what a peer must know. A key that a peer
    /// had before is nothing any more.
    ///
    /// # Errors
    ///
    /// It is of type 2; the region grants no [`Access::MW_BIND`], is of another protection domain, or its owner may not
    /// write what the window would let peers write; the device is gone. It is bound as it was then.
    ///
    /// # Panics
    ///
    /// If the range is not inside the region.
    pub fn bind(&mut self, region: &MemoryRegion, range: impl RangeBounds<usize>, access: Access) -> Result<Remote> {
        let (start, len) = resolve(range, region.len());
        let addr = region.addr().wrapping_add(start as u64);
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MW, self.object.id().0);
        message
            .put(mw::MR, &region.object().id())
            .put(mw::ADDR, &addr)
            .put(mw::LENGTH, &(len as u64))
            .put(mw::ACCESS, &access.bits());
        self.rkey = self.modify("bind a memory window", message)?;
        Ok(Remote {
            addr,
            rkey: self.rkey.0,
        })
    }

    /// Unbinds a window of type 1.
    ///
    /// # Errors
    ///
    /// It is of type 2; the device is gone.
    pub fn unbind(&mut self) -> Result<()> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MW, self.object.id().0);
        message.put(mw::LENGTH, &0);
        self.rkey = self.modify("unbind a memory window", message)?;
        Ok(())
    }

    fn modify(&self, doing: &'static str, mut message: Builder<'_>) -> Result<Key> {
        message.ask(mw::RKEY);
        let answer = self.context().call(doing, method::MODIFY, message)?;
        Ok(Key(answer.expect(doing, mw::RKEY)?))
    }

    /// A work request that binds a window of type 2 to a part of `region`, and what a peer must know when it has completed.
    /// The window is free: new, or invalidated. With [`Access::ZERO_BASED`] its addresses begin at 0.
    ///
    /// # Panics
    ///
    /// If the range is not inside the region.
    pub fn bind_wr(
        &mut self,
        region: &MemoryRegion,
        range: impl RangeBounds<usize>,
        access: Access,
    ) -> (SendWr<'static>, Remote) {
        let (start, len) = resolve(range, region.len());
        let addr = region.addr().wrapping_add(start as u64);
        self.bind_at_wr(region.lkey(), addr, len, access)
    }

    /// As [`MemoryWindow::bind_wr`], to `len` bytes at `addr` of whatever region has this key: a [`crate::FastRegion`] grants
    /// windows too, if it was registered with [`Access::MW_BIND`].
    pub fn bind_at_wr(&mut self, lkey: Key, addr: u64, len: usize, access: Access) -> (SendWr<'static>, Remote) {
        self.rkey = Key::from_parts(self.rkey.index(), self.rkey.tag().wrapping_add(1));
        let wr = SendWr::bind_window(
            Remote {
                addr,
                rkey: self.rkey.0,
            },
            len as u64,
            lkey,
            access.bits(),
        );
        let seen = if access.contains(Access::ZERO_BASED) { 0 } else { addr };
        let remote = Remote {
            addr: seen,
            rkey: self.rkey.0,
        };
        (wr, remote)
    }

    /// Bytes that it shows; 0 if it is not bound.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn bound_len(&self) -> Result<u64> {
        const DOING: &str = "query a memory window";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MW, self.object.id().0);
        message.ask(mw::LENGTH);
        self.context()
            .call(DOING, method::QUERY, message)?
            .expect(DOING, mw::LENGTH)
    }

    /// Destroys it. Dropping it does the same.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn destroy(self) -> Result<()> {
        self.object.destroy()
    }
}

impl fmt::Debug for MemoryWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryWindow({:?}, rkey {})", self.window_type, self.rkey)
    }
}
