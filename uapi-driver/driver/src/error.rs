// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, as sentences: what was being done, what was wrong with it, what to do about it.

use crate::cm::ConnectError;
use crate::ring::complete::WorkError;
use crate::ring::work::PostError;
use rdma_uapi::describe::explain_with;
use rdma_uapi::{class, Errno, Failure, Reason};
use std::fmt;
use std::path::PathBuf;
use verbena_core::schema::{
    CQE_COOKIE, CQ_RING, DOORBELL, DOORBELL_MAPS, DOORBELL_SCHEMA, DOORBELL_USE, DUMP, EVENT_RINGS, QP_RINGS,
};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the object model failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The device node or the socket cannot be opened.
    #[error("{} cannot be opened: {source}{}", path.display(), hint(advice))]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do about it; may be empty.
        advice: &'static str,
    },
    /// The device does not come up.
    #[error("the device at {} does not start: {reason}", path.display())]
    Start {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The error number that goes with it.
        errno: Errno,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What it was for.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A work request was not posted.
    #[error(transparent)]
    Post(#[from] PostError),
    /// A work request failed.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// A command of a batch failed that was to be all or nothing: what the commands before it made is gone again.
    #[error("command {command} of {of} failed and the others were undone: {source}")]
    Undone {
        /// Which command, from 0, in the order in which they were added.
        command: usize,
        /// How many there were.
        of: usize,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A command of a batch was not executed, because one before it failed.
    #[error("did not {doing}: a command before it failed")]
    Canceled {
        /// What it would have done.
        doing: &'static str,
    },
    /// A connection did not come about.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The device is gone, and nothing that was on it will work again.
    #[error("the device is gone")]
    Gone,
    /// An argument that no call could make right.
    #[error("{0}")]
    Argument(&'static str),
    /// The other side's answer contradicts its own description: a bug of the kernel module or the device.
    #[error("cannot {doing}: the answer makes no sense ({what})")]
    Answer {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with the answer.
        what: &'static str,
    },
}

fn hint(advice: &str) -> String {
    if advice.is_empty() {
        String::new()
    } else {
        format!(" ({advice})")
    }
}

impl Error {
    /// The error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call(call) => Some(call.failure.errno),
            Self::Undone { source, .. } => source.errno(),
            Self::Canceled { .. } => Some(Errno::ECANCELED),
            Self::Open { source, .. } | Self::System { source, .. } => errno_of(source),
            Self::Start { errno, .. } => Some(*errno),
            Self::Gone | Self::Post(PostError::DeviceGone) => Some(Errno::ENODEV),
            Self::Post(PostError::QueueFull) => Some(Errno::ENOMEM),
            Self::Post(_) | Self::Argument(_) => Some(Errno::EINVAL),
            Self::Connect(error) => Some(error.errno()),
            Self::Work(_) | Self::Answer { .. } => Some(Errno::EIO),
        }
    }

    /// With a failed call: what exactly was wrong.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Call(call) => Some(&call.failure),
            Self::Undone { source, .. } => source.failure(),
            _ => None,
        }
    }

    /// With a failed call: the reason.
    pub fn reason(&self) -> Option<Reason> {
        self.failure().map(|failure| failure.reason)
    }

    /// Whether it says that the device is gone.
    pub fn is_gone(&self) -> bool {
        self.errno() == Some(Errno::ENODEV)
    }

    pub(crate) fn system(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System {
            doing,
            source: errno.into(),
        }
    }
}

pub(crate) fn errno_of(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().and_then(|n| u16::try_from(n).ok()).map(Errno)
}

/// A failed call of the object model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What was being done.
    pub doing: &'static str,
    /// The error number, the reason, and which attribute or field was wrong.
    pub failure: Failure,
    /// Class and method that were called; none where memory was to be mapped.
    pub called: Option<(u16, u8)>,
}

impl std::error::Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: ", self.doing)?;
        match self.called {
            Some((class, method)) => {
                let known: Vec<_> = class::ALL.iter().copied().chain([&DOORBELL_SCHEMA]).collect();
                explain_with(&self.failure, class, method, &known).fmt(f)?;
            }
            None => self.failure.fmt(f)?,
        }
        if let Some(name) = own_attribute(self.failure.attr) {
            write!(f, " (the attribute is {name})")?;
        }
        if self.failure.reason == Reason::DEVICE {
            if let Some(name) = verbena_hw::admin::Status(self.failure.detail).name() {
                write!(f, " ({name})")?;
            }
        }
        f.write_str(advice(&self.failure))
    }
}

/// What to do about it, where that is not obvious from the reason.
fn advice(failure: &Failure) -> &'static str {
    match failure.reason {
        Reason::MEMLOCK => "; raise the limit of locked memory (`ulimit -l`, or LimitMEMLOCK= of the service)",
        Reason::IN_USE => "; destroy what was made on it first",
        Reason::OTHER_DRIVER => "; the device is not a Verbena HCA",
        Reason::NOT_PERMITTED => "; run it with more privileges",
        _ => "",
    }
}

/// The name of one of Verbena's own attributes, which accompany common methods.
fn own_attribute(attr: u16) -> Option<&'static str> {
    let own = [
        DOORBELL_MAPS.spec,
        DOORBELL.spec,
        CQ_RING.spec,
        QP_RINGS.spec,
        CQE_COOKIE.spec,
        DUMP.spec,
        DOORBELL_USE.spec,
        EVENT_RINGS.spec,
    ];
    own.iter().find(|spec| spec.id == attr).map(|spec| spec.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_uapi::wire::{self, method};

    fn error(class: u16, method: u8, failure: Failure) -> Error {
        CallError {
            doing: "try it",
            failure,
            called: Some((class, method)),
        }
        .into()
    }

    #[test]
    fn u06_a_failed_call_becomes_a_sentence_that_names_the_attribute() {
        let failure = Failure::new(Errno::EINVAL, Reason::OUT_OF_RANGE).at(class::mr::LENGTH.id(), 56);
        let wrong = error(class::MR, method::CREATE, failure);
        assert_eq!(
            wrong.to_string(),
            "cannot try it: mr create: attribute length at offset 56: the value is out of range (EINVAL)"
        );
        assert_eq!(
            (wrong.errno(), wrong.reason()),
            (Some(Errno::EINVAL), Some(Reason::OUT_OF_RANGE))
        );
        let failure = Failure::new(Errno::EINVAL, Reason::BAD_LENGTH).at(wire::FIELD_LENGTH, 0);
        let wrong = error(class::MR, method::CREATE, failure).to_string();
        assert!(wrong.contains("the header's length"), "{wrong}");
    }

    #[test]
    fn u10_verbenas_own_attributes_and_class_have_names_too() {
        let failure = Failure::new(Errno::ENOENT, Reason::NO_OBJECT).at(DOORBELL.id(), 56);
        let wrong = error(class::QP_RC, method::CREATE, failure).to_string();
        assert!(wrong.contains("verbena_doorbell"), "{wrong}");
        let failure = Failure::new(Errno::EBUSY, Reason::IN_USE);
        let wrong = error(DOORBELL_SCHEMA.id, method::DESTROY, failure).to_string();
        assert!(wrong.contains("verbena_doorbell destroy"), "{wrong}");
    }

    #[test]
    fn u06_advice_is_given_where_it_helps() {
        let locked = error(class::MR, method::CREATE, Failure::new(Errno::ENOMEM, Reason::MEMLOCK)).to_string();
        assert!(locked.contains("ulimit -l"), "{locked}");
        let failure = Failure::device(Errno::EINVAL, verbena_hw::admin::Status::BAD_TRANSITION.0);
        let refused = error(class::QP_RC, method::MODIFY, failure).to_string();
        assert!(refused.contains("BAD_TRANSITION"), "{refused}");
    }
}
