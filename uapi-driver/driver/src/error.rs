// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, as sentences: what was being done, what was wrong with it, what to do about it.

use crate::ring::complete::WorkError;
use crate::ring::work::PostError;
use rdma_uapi::{wire, Errno, Failure, Reason};
use std::fmt;
use std::path::PathBuf;
use verbena_core::schema::{CQE_COOKIE, CQ_RING, DOORBELL, DOORBELL_MAPS, DUMP, QP_RINGS};

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
    #[error("{doing}: {source}")]
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
    /// The device is gone, and nothing that was on it will work again.
    #[error("the device is gone")]
    Gone,
    /// An argument that no call could make right.
    #[error("{0}")]
    Argument(&'static str),
    /// The other side's answer contradicts its own description: a bug of the kernel module or the device.
    #[error("{doing}: the answer makes no sense ({what})")]
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
            Self::Open { source, .. } | Self::System { source, .. } => errno_of(source),
            Self::Start { errno, .. } => Some(*errno),
            Self::Gone | Self::Post(PostError::DeviceGone) => Some(Errno::ENODEV),
            Self::Post(PostError::QueueFull) => Some(Errno::ENOMEM),
            Self::Post(_) | Self::Argument(_) => Some(Errno::EINVAL),
            Self::Work(_) | Self::Answer { .. } => Some(Errno::EIO),
        }
    }

    /// With a failed call: what exactly was wrong.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Call(call) => Some(&call.failure),
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
    /// The name of the attribute, if it is known here.
    pub attribute: Option<&'static str>,
}

impl CallError {
    pub(crate) fn new(doing: &'static str, class: u16, method: u8, failure: Failure) -> Self {
        Self {
            doing,
            failure,
            attribute: attribute_name(class, method, failure.attr),
        }
    }
}

impl std::error::Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = &self.failure;
        match self.attribute {
            Some(name) => {
                write!(
                    f,
                    "{}: {}: {} (attribute `{name}`",
                    self.doing, failure.errno, failure.reason
                )?;
                if failure.offset != 0 {
                    write!(f, " at offset {}", failure.offset)?;
                }
                if failure.detail != 0 {
                    write!(f, ", detail {:#x}", failure.detail)?;
                }
                f.write_str(")")?;
            }
            None => write!(f, "{}: {failure}", self.doing)?,
        }
        if failure.reason == Reason::DEVICE {
            if let Some(name) = verbena_hw::admin::Status(failure.detail).name() {
                write!(f, " ({name})")?;
            }
        }
        f.write_str(advice(failure))
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

/// The name of a method's attribute.
fn attribute_name(class: u16, method: u8, attr: u16) -> Option<&'static str> {
    let attr = match attr {
        wire::FIELD_NONE | wire::FIELD_METHOD..=wire::FIELD_LENGTH => return None,
        attr => attr & wire::ATTR_ID,
    };
    let mut ours = [
        DOORBELL_MAPS.spec,
        DOORBELL.spec,
        CQ_RING.spec,
        QP_RINGS.spec,
        CQE_COOKIE.spec,
        DUMP.spec,
    ]
    .into_iter();
    if let Some(spec) = ours.find(|spec| spec.id == attr) {
        return Some(spec.name);
    }
    let schema = rdma_uapi::class::ALL.iter().find(|schema| schema.id == class)?;
    let method = schema.methods.iter().find(|m| m.number == method)?;
    method.attrs.iter().find(|a| a.spec.id == attr).map(|a| a.spec.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdma_uapi::class;
    use rdma_uapi::wire::method;

    #[test]
    fn u06_a_failed_call_becomes_a_sentence_that_names_the_attribute() {
        let failure = Failure::new(Errno::EINVAL, Reason::OUT_OF_RANGE).at(class::mr::LENGTH.id(), 56);
        let error = Error::from(CallError::new("register memory", class::MR, method::CREATE, failure));
        assert_eq!(
            error.to_string(),
            "register memory: EINVAL: the value is out of range (attribute `length` at offset 56)"
        );
        assert_eq!(
            (error.errno(), error.reason()),
            (Some(Errno::EINVAL), Some(Reason::OUT_OF_RANGE))
        );
    }

    #[test]
    fn u06_advice_is_given_where_it_helps() {
        let failure = Failure::new(Errno::ENOMEM, Reason::MEMLOCK);
        let error = Error::from(CallError::new("register memory", class::MR, method::CREATE, failure));
        assert!(error.to_string().contains("ulimit -l"), "{error}");
        let failure = Failure::device(Errno::EINVAL, verbena_hw::admin::Status::BAD_TRANSITION.0);
        let error = Error::from(CallError::new(
            "modify a queue pair",
            class::QP_RC,
            method::MODIFY,
            failure,
        ));
        assert!(error.to_string().contains("BAD_TRANSITION"), "{error}");
        let failure = Failure::new(Errno::EINVAL, Reason::BAD_LENGTH).at(wire::FIELD_LENGTH, 0);
        let error = Error::from(CallError::new("a raw call", class::MR, method::CREATE, failure));
        assert!(error.to_string().contains("the header's length"), "{error}");
    }
}
