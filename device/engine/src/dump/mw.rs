// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows in a dump.

use super::{rights, Select};
use crate::hca::Hca;
use crate::mr::Kind;
use core::fmt::{self, Display, Formatter};
use serde::Serialize;

/// A memory window. As with regions, the tag of its key is left out.
#[derive(Clone, Debug, Serialize)]
pub struct MwDump {
    /// Index of its key.
    pub index: u32,
    /// Type: 1 or 2.
    #[serde(rename = "type")]
    pub mw_type: u8,
    /// Protection domain.
    pub pdn: u32,
    /// Bound: index of the region's key.
    pub region: Option<u32>,
    /// Type 2, bound: the queue pair.
    pub qpn: Option<u32>,
    /// First address.
    pub iova: u64,
    /// Length in bytes.
    pub len: u64,
    /// Access rights by name.
    pub access: Vec<&'static str>,
}

/// All of them, with everything; none otherwise.
pub(super) fn mws(hca: &Hca, select: Select) -> Vec<MwDump> {
    if select != Select::All {
        return Vec::new();
    }
    let mut mws: Vec<_> = hca
        .mrs
        .entries()
        .filter_map(|(index, mr)| match &mr.kind {
            Kind::Window(window) => Some(MwDump {
                index,
                mw_type: window.mw_type.0,
                pdn: window.pdn.0,
                region: window.on,
                qpn: window.qpn.map(|qpn| qpn.get()),
                iova: mr.iova,
                len: mr.len,
                access: rights(mr.access),
            }),
            Kind::Memory | Kind::Null | Kind::Fast(_) => None,
        })
        .collect();
    mws.sort_by_key(|mw| mw.index);
    mws
}

impl Display for MwDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "MW {:#x} type {} pd {:#x}", self.index, self.mw_type, self.pdn)?;
        match self.region {
            Some(region) => write!(
                f,
                " on MR {region:#x} {:#x}+{:#x} {}",
                self.iova,
                self.len,
                self.access.join("|")
            ),
            None => f.write_str(" not bound"),
        }
    }
}
