// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions without memory.

use crate::context::MESSAGE;
use crate::error::Result;
use crate::object::Object;
use crate::{Context, ProtectionDomain};
use rdma_uapi::class::{self, mr};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::sync::Arc;
use verbena_hw::id::Key;
use verbena_hw::wqe::Sge;

/// A region that reads as zeros and forgets what is written to it: the part of a message that nobody wants, the padding of one that
/// must be longer than its data. Peers cannot name it.
pub struct NullRegion {
    // Field order: gone before its protection domain can go.
    object: Object,
    lkey: Key,
    _pd: Arc<Object>,
}

impl NullRegion {
    pub(crate) fn new(pd: &ProtectionDomain) -> Result<Self> {
        const DOING: &str = "make a null region";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::MR, 0);
        message.put(mr::PD, &pd.object.id()).put(mr::NULL, &1).ask(mr::LKEY);
        let answer = pd.context().call(DOING, method::CREATE, message)?;
        Ok(Self {
            object: Object::new(pd.context(), class::MR, answer.object(), "destroy a null region"),
            lkey: Key(answer.expect(DOING, mr::LKEY)?),
            _pd: pd.object.clone(),
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// The key by which the owner's work requests name it.
    pub fn lkey(&self) -> Key {
        self.lkey
    }

    /// So many bytes of it, for a work request. Which ones is all the same.
    #[inline]
    pub fn sge(&self, len: u32) -> Sge {
        Sge {
            addr: 0,
            len,
            lkey: self.lkey,
        }
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

impl fmt::Debug for NullRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NullRegion(lkey {})", self.lkey)
    }
}
