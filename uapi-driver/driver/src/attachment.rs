// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a device is, as a person writes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The device node that the kernel module makes for the first HCA.
pub const DEFAULT_NODE: &str = "/dev/verbena0";
/// The system-wide node that the kernel module makes: it belongs to no HCA.
pub const DEFAULT_SYSTEM_NODE: &str = "/dev/verbena";

/// How a context reaches its device.
///
/// As text: `kernel`, `kernel:/dev/verbena1`, `direct:/run/hca.sock`. A path below `/dev` alone is a node, any other path
/// a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// Through the kernel module: its character device.
    Kernel(PathBuf),
    /// Without a guest and a kernel: the vfio-user socket of the device itself.
    Direct(PathBuf),
}

impl Attachment {
    /// Through the kernel module's first device.
    pub fn kernel() -> Self {
        Self::Kernel(DEFAULT_NODE.into())
    }

    /// Directly to the vfio-user socket at `path`.
    pub fn direct(path: impl Into<PathBuf>) -> Self {
        Self::Direct(path.into())
    }

    /// Whether it is without a kernel.
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }

    /// The node's or the socket's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Kernel(path) | Self::Direct(path) => path,
        }
    }
}

impl Default for Attachment {
    fn default() -> Self {
        Self::kernel()
    }
}

impl FromStr for Attachment {
    type Err = AttachmentError;

    fn from_str(text: &str) -> Result<Self, AttachmentError> {
        match text.split_once(':') {
            None if text == "kernel" => Ok(Self::kernel()),
            None if text.starts_with("/dev/") => Ok(Self::Kernel(text.into())),
            None if text.contains('/') => Ok(Self::Direct(text.into())),
            Some(("kernel", path)) if !path.is_empty() => Ok(Self::Kernel(path.into())),
            Some(("direct", path)) if !path.is_empty() => Ok(Self::Direct(path.into())),
            _ => Err(AttachmentError(text.to_owned())),
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(path) => write!(f, "kernel:{}", path.display()),
            Self::Direct(path) => write!(f, "direct:{}", path.display()),
        }
    }
}

/// A text that names no attachment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no attachment: write `kernel`, `kernel:/dev/verbena1` or `direct:/path/of/socket`")]
pub struct AttachmentError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_read_as_they_are_written() {
        for text in ["kernel:/dev/verbena1", "direct:/run/a:b.sock", "direct:hca.sock"] {
            assert_eq!(text.parse::<Attachment>().unwrap().to_string(), text);
        }
        assert_eq!("kernel".parse(), Ok(Attachment::kernel()));
        assert_eq!("/dev/verbena3".parse(), Ok(Attachment::Kernel("/dev/verbena3".into())));
        assert_eq!("/run/hca.sock".parse(), Ok(Attachment::direct("/run/hca.sock")));
        for text in ["", "direct", "direct:", "kernel:", "vfio:/x", "hca"] {
            let error = text.parse::<Attachment>().unwrap_err().to_string();
            assert!(error.contains("direct:/path"), "{error}");
        }
    }
}
