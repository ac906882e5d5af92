// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a consumer has in its hands when it has read a completion, however that was presented.

/// What a consumer of few fields reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Few {
    pub wr_id: u64,
    pub status: u8,
    pub byte_len: u32,
}

/// What a consumer of many reads: everything there is. What belongs to some completions only is looked at only with
/// those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Many {
    pub wr_id: u64,
    pub status: u8,
    pub opcode: u8,
    pub recv: bool,
    pub solicited: bool,
    pub qpn: u32,
    pub byte_len: u32,
    pub timestamp: u64,
    pub imm: Option<u32>,
    pub invalidated: Option<u32>,
    pub datagram: Option<Datagram>,
    pub vendor_err: Option<u32>,
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub src_qpn: u32,
    pub pkey_index: u16,
    pub sl: u8,
    pub smac: u64,
}

/// Something that is read of a completion, and put to use in the cheapest way: a sum.
pub trait Seen: Copy {
    fn sum(self) -> u64;
}

impl Seen for Few {
    #[inline(always)]
    fn sum(self) -> u64 {
        self.wr_id
            .wrapping_add(self.status.into())
            .wrapping_add(self.byte_len.into())
    }
}

impl Seen for Many {
    #[inline(always)]
    fn sum(self) -> u64 {
        let few = Few {
            wr_id: self.wr_id,
            status: self.status,
            byte_len: self.byte_len,
        };
        let mut sum = few
            .sum()
            .wrapping_add(self.opcode.into())
            .wrapping_add(self.recv.into())
            .wrapping_add(self.solicited.into())
            .wrapping_add(self.qpn.into())
            .wrapping_add(self.timestamp);
        if let Some(imm) = self.imm {
            sum = sum.wrapping_add(imm.into());
        }
        if let Some(key) = self.invalidated {
            sum = sum.wrapping_add(key.into());
        }
        if let Some(from) = self.datagram {
            sum = sum
                .wrapping_add(from.src_qpn.into())
                .wrapping_add(from.pkey_index.into())
                .wrapping_add(from.sl.into())
                .wrapping_add(from.smac);
        }
        if let Some(vendor) = self.vendor_err {
            sum = sum.wrapping_add(vendor.into());
        }
        sum
    }
}
