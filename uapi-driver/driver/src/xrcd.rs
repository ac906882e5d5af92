// SPDX-License-Identifier: MIT OR Apache-2.0
//! XRC domains.

use crate::context::{Answer, MESSAGE};
use crate::error::{Error, Result};
use crate::object::Object;
use crate::Context;
use rdma_uapi::class;
use rdma_uapi::class::xrcd::{flag, XrcdMembers, FILE, FLAGS, MEMBERS, XRCDN};
use rdma_uapi::client::Builder;
use rdma_uapi::wire::method;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// What a domain makes meet: shared receive queues ([`crate::SrqBuilder::xrc`]) and targets ([`crate::XrcTarget`]). A request to
/// any target of the domain may name any shared receive queue of it.
pub struct XrcDomain {
    pub(crate) object: Arc<Object>,
    xrcdn: u32,
}

/// How [`XrcDomain::open`] goes about a file without a domain, or with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenXrc {
    /// The file must have a domain.
    Existing,
    /// It may have one, and has one afterwards.
    Create,
    /// It must not have one, and has one afterwards.
    CreateNew,
}

impl XrcDomain {
    /// A new one, which nobody else can have.
    ///
    /// # Errors
    ///
    /// The device has no more, or is gone.
    pub fn new(context: &Context) -> Result<Self> {
        Self::make(context, |_| {})
    }

    /// The one that a file stands for, whatever process or context has made it; it lives until the last of them has
    /// destroyed it. The file may be closed afterwards.
    ///
    /// # Errors
    ///
    /// ENOENT: the file has none. EEXIST: it has one, with [`OpenXrc::CreateNew`]. The device has no more, or is gone.
    pub fn open(context: &Context, file: impl AsFd, how: OpenXrc) -> Result<Self> {
        // An open descriptor is not negative.
        let fd = file.as_fd().as_raw_fd() as u32;
        let flags = match how {
            OpenXrc::Existing => 0,
            OpenXrc::Create => flag::CREATE,
            OpenXrc::CreateNew => flag::CREATE | flag::EXCLUSIVE,
        };
        Self::make(context, |message| {
            message.put(FILE, &fd).put(FLAGS, &flags);
        })
    }

    fn make(context: &Context, say: impl FnOnce(&mut Builder<'_>)) -> Result<Self> {
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::XRCD, 0);
        say(&mut message);
        message.ask(XRCDN);
        let answer = context.call(Self::DOING, method::CREATE, message)?;
        Self::made(context, &answer)
    }

    /// What CREATE is, in a sentence.
    pub(crate) const DOING: &'static str = "make an XRC domain";

    /// The message of CREATE for one that nobody else can have.
    pub(crate) fn message(words: &mut [u64]) -> Builder<'_> {
        let mut message = Builder::new(words, class::XRCD, 0);
        message.ask(XRCDN);
        message
    }

    /// From what CREATE answered.
    pub(crate) fn made(context: &Context, answer: &Answer<'_>) -> Result<Self> {
        let object = Object::new(context, class::XRCD, answer.object(), "destroy an XRC domain");
        Ok(Self {
            object: Arc::new(object),
            xrcdn: answer.expect(Self::DOING, XRCDN)?,
        })
    }

    /// The context that it was made on.
    pub fn context(&self) -> &Context {
        self.object.context()
    }

    /// The number that the device knows it by: the same in all contexts that share it.
    pub fn xrcdn(&self) -> u32 {
        self.xrcdn
    }

    /// What is in it, as the device counts, of all contexts that share it.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn members(&self) -> Result<XrcdMembers> {
        const DOING: &str = "query an XRC domain";
        let mut words = [0; MESSAGE];
        let mut message = Builder::new(&mut words, class::XRCD, self.object.id().0);
        message.ask(MEMBERS);
        let answer = self.context().call(DOING, method::QUERY, message)?;
        answer.expect(DOING, MEMBERS)
    }

    /// Gives up this context's part in it. Dropping it does the same, when the last object in it is gone.
    ///
    /// # Errors
    ///
    /// EBUSY while this context has objects in it.
    pub fn destroy(self) -> Result<(), Error> {
        self.object.destroy()
    }
}

impl fmt::Debug for XrcDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XrcDomain({:#x})", self.xrcdn)
    }
}
