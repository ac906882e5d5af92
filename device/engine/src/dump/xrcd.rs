// SPDX-License-Identifier: MIT OR Apache-2.0
//! XRC domains in a dump.

use super::Select;
use crate::hca::Hca;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;

/// An XRC domain.
#[derive(Clone, Debug, Serialize)]
pub struct XrcdDump {
    /// Its number.
    pub xrcdn: u32,
    /// Shared receive queues in it.
    pub srqs: u32,
    /// XRC targets in it.
    pub targets: u32,
}

/// All of them, with everything; none otherwise.
pub(super) fn xrcds(hca: &Hca, select: Select) -> Vec<XrcdDump> {
    if select != Select::All {
        return Vec::new();
    }
    let show = |(xrcdn, xrcd): (u32, &crate::qp::xrc::Xrcd)| XrcdDump {
        xrcdn,
        srqs: xrcd.srqs,
        targets: xrcd.targets,
    };
    hca.xrcds.iter().map(show).collect()
}

impl Display for XrcdDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "XRCD {:#x}, {} shared receive queues, {} targets",
            self.xrcdn, self.srqs, self.targets
        )
    }
}
