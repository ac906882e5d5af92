// SPDX-License-Identifier: MIT OR Apache-2.0
//! A dump: what the server knows of an HCA, and within it what the engine knows.

use crate::memory::{AddressSpace, Backing};
use crate::pci::config::{ConfigSpace, CAP_MSIX, COMMAND};
use crate::pci::msix::VectorState;
use serde::{Serialize, Serializer};
use std::fmt;
use verbena_engine::Dump;

/// The state of one HCA.
#[derive(Clone, Debug, Serialize)]
pub struct HcaReport {
    /// Its number.
    pub hca: usize,
    /// Its vfio-user socket.
    pub socket: String,
    /// MAC address of its port.
    pub mac: String,
    /// Whether a client is attached.
    pub attached: bool,
    /// vfio-user messages that this client has sent.
    pub messages: u64,
    /// PCI.
    pub pci: PciReport,
    /// The MSI-X vectors that were ever touched.
    pub msix: Vec<VectorState>,
    /// What it can reach by DMA.
    pub memory: Vec<MappingReport>,
    /// Registers, queues, objects, counters: the engine's dump of this HCA.
    #[serde(serialize_with = "only_hca")]
    pub device: Dump,
}

/// The dump of the one HCA that `dump` is of, without the list around it.
fn only_hca<S: Serializer>(dump: &Dump, serializer: S) -> Result<S::Ok, S::Error> {
    dump.hcas.first().serialize(serializer)
}

/// The configuration space.
#[derive(Clone, Debug, Serialize)]
pub struct PciReport {
    /// Command register.
    pub command: u16,
    /// MSI-X enable bit in its message control register.
    pub msix_enabled: bool,
    /// The first 256 bytes, in hexadecimal.
    pub config: String,
}

/// One DMA mapping.
#[derive(Clone, Debug, Serialize)]
pub struct MappingReport {
    /// First DMA address.
    pub address: u64,
    /// Last DMA address.
    pub last: u64,
    /// The memory file's inode; absent if there is no memory behind the mapping.
    pub inode: Option<u64>,
    /// Offset in that file.
    pub offset: u64,
    /// Whether the device may write.
    pub writable: bool,
}

/// A MAC address as people write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl PciReport {
    /// Of a configuration space.
    pub fn new(config: &ConfigSpace) -> Self {
        Self {
            command: config.u16_at(COMMAND),
            msix_enabled: config.u16_at(CAP_MSIX + 2) & 1 << 15 != 0,
            config: config.bytes()[..256].iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl MappingReport {
    /// Of every mapping in `space`.
    pub fn all(space: &AddressSpace) -> Vec<Self> {
        let report = space.mappings().iter().map(|mapping| {
            let (inode, offset, writable) = match mapping.backing {
                Backing::None => (None, 0, false),
                Backing::File { file, offset, writable } => (Some(space.file(file).inode()), offset, writable),
            };
            Self {
                address: mapping.start,
                last: mapping.last,
                inode,
                offset,
                writable,
            }
        });
        report.collect()
    }
}

impl fmt::Display for HcaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached = if self.attached {
            format!("attached, {} messages", self.messages)
        } else {
            "not attached".into()
        };
        writeln!(f, "== HCA {}: {} ({attached})", self.hca, self.socket)?;
        writeln!(
            f,
            "mac {}   PCI command {:#06x}   MSI-X {}",
            self.mac,
            self.pci.command,
            if self.pci.msix_enabled { "enabled" } else { "disabled" }
        )?;
        writeln!(f, "\nDMA mappings: {}", self.memory.len())?;
        if !self.memory.is_empty() {
            writeln!(
                f,
                "  {:>18}  {:>18}  {:>12}  {:>18}  access",
                "first", "last", "file", "offset"
            )?;
        }
        for mapping in &self.memory {
            let (file, access) = match (mapping.inode, mapping.writable) {
                (None, _) => ("-".into(), "none"),
                (Some(inode), false) => (inode.to_string(), "read"),
                (Some(inode), true) => (inode.to_string(), "read, write"),
            };
            let (first, last, offset) = (mapping.address, mapping.last, mapping.offset);
            writeln!(f, "  {first:#18x}  {last:#18x}  {file:>12}  {offset:#18x}  {access}")?;
        }
        writeln!(f, "\nMSI-X vectors in use: {}", self.msix.len())?;
        if !self.msix.is_empty() {
            writeln!(f, "  vector  signalled  state")?;
        }
        for vector in &self.msix {
            let mut state = vec![if vector.bound { "bound" } else { "not bound" }];
            state.extend(vector.masked.then_some("masked"));
            state.extend(vector.pending.then_some("pending"));
            writeln!(
                f,
                "  {:>6}  {:>9}  {}",
                vector.vector,
                vector.signalled,
                state.join(", ")
            )?;
        }
        writeln!(f)?;
        let device = self.device.to_string();
        writeln!(f, "{}", device.trim_end())
    }
}
