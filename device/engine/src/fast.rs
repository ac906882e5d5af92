// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fast registration: regions whose memory a work request names.
//!
//! A region of this kind is made empty by a command. The work request FAST_REGISTER gives it memory, rights and a key of its
//! poster's choice, all at once; an invalidation from either side takes them away again (IBA vol. 1, 10.6.4, states *free* and
//! *valid*). While a window is bound to it, it stays valid. The memory is named by elements, that is by L_Keys of regions of the
//! same protection domain: whoever may not reach memory cannot register it. They are in the work queue entry or, if they are
//! many, in memory that the entry names. Addresses of the bus are named through a region of all DMA addresses, which a driver
//! keeps in a domain of its own.

use crate::hca::Hca;
use crate::limits;
use crate::mr::{KeyFault, Kind, Mr, LOCAL, NO_KEY};
use crate::pages::{Extent, Extents};
use verbena_hw::cqe::vendor;
use verbena_hw::id::{Key, Pdn};
use verbena_hw::qp::access;
use verbena_hw::ring::PageList;
use verbena_hw::wqe::Sge;

/// What a table entry is as a region that work requests register.
#[derive(Clone, Debug)]
pub(crate) struct Fast {
    /// The key that it has or, while it is free, had last.
    pub(crate) key: Key,
    /// Most elements.
    max: u32,
    /// Valid: the regions that it stands on, by index, each as often as an element names it.
    on: Vec<u32>,
}

/// What a work request asks for.
#[derive(Clone, Copy)]
pub(crate) struct FastRegistration<'a> {
    /// The key that it will have: same index, any tag.
    pub(crate) key: Key,
    pub(crate) iova: u64,
    pub(crate) access: u32,
    pub(crate) elements: &'a [Sge],
}

/// Rights that such a region can give: those of every other.
const RIGHTS: u32 = access::MR_ALL;
const WRITING: u32 = access::REMOTE_WRITE | access::REMOTE_ATOMIC;

impl Fast {
    /// The entry of a region that is free.
    pub(crate) fn free(pdn: Pdn, key: Key, max: u32) -> Mr {
        Mr {
            key: NO_KEY,
            pdn,
            access: 0,
            iova: 0,
            len: 0,
            page_shift: PageList::SHIFT_4K,
            pages: 0,
            extents: Extents::One(0),
            users: 0,
            kind: Kind::Fast(Fast {
                key,
                max,
                on: Vec::new(),
            }),
        }
    }
}

impl Hca {
    /// Gives a free region memory, for a queue pair of `pdn`. On failure it stays free.
    pub(crate) fn fast_register(&mut self, pdn: Pdn, wanted: FastRegistration<'_>) -> Result<(), KeyFault> {
        let fault = |reason| Err(KeyFault(reason));
        let FastRegistration {
            key,
            iova,
            access,
            elements,
        } = wanted;
        let Some((mr, fast)) = self.mrs.get(key.index()).and_then(|mr| match &mr.kind {
            Kind::Fast(fast) => Some((mr, fast)),
            _ => None,
        }) else {
            return fault(vendor::KEY_UNKNOWN);
        };
        if mr.pdn != pdn {
            return fault(vendor::KEY_PD);
        }
        if mr.key != NO_KEY {
            return fault(vendor::REGION_STATE);
        }
        // As for regions that a command registers.
        if access & !RIGHTS != 0 || (access & WRITING != 0 && access & access::LOCAL_WRITE == 0) {
            return fault(vendor::KEY_ACCESS);
        }
        if elements.len() > fast.max as usize {
            return fault(vendor::SGE_COUNT);
        }
        let (len, extents, on) = self.gather(pdn, access, elements)?;
        if len == 0 || iova.checked_add(len - 1).is_none() || (access & access::ZERO_BASED != 0 && iova != 0) {
            return fault(vendor::KEY_RANGE);
        }
        if self.extents + extents.cost() > limits::EXTENTS {
            return fault(vendor::REGION_STATE);
        }
        self.extents += extents.cost();
        for &region in &on {
            if let Some(mr) = self.mrs.get_mut(region) {
                mr.users += 1;
            }
        }
        if let Some(mr) = self.mrs.get_mut(key.index()) {
            mr.key = key;
            mr.access = access | LOCAL;
            (mr.iova, mr.len, mr.extents) = (iova, len, extents);
            if let Kind::Fast(fast) = &mut mr.kind {
                (fast.key, fast.on) = (key, on);
            }
        }
        Ok(())
    }

    /// The memory that elements name: its length, its stretches, and the regions that it is in.
    fn gather(&self, pdn: Pdn, rights: u32, elements: &[Sge]) -> Result<(u64, Extents, Vec<u32>), KeyFault> {
        let needed = LOCAL | rights & access::LOCAL_WRITE;
        let (mut len, mut list, mut on, mut end) = (0, Vec::<Extent>::new(), Vec::new(), None);
        for sge in elements {
            let mut range = self.mrs.check(sge.lkey, pdn, sge.addr, sge.len.into(), needed)?;
            // One that stands on others goes without being asked, as they do not.
            if !matches!(range.region().kind, Kind::Memory) {
                return Err(KeyFault(vendor::KEY_ACCESS));
            }
            on.push(sge.lkey.index());
            while let Some((addr, n)) = range.next(u64::MAX) {
                if self.extents + list.len() > limits::EXTENTS {
                    return Err(KeyFault(vendor::REGION_STATE));
                }
                if end != Some(addr) {
                    list.push(Extent { start: len, addr });
                }
                end = addr.checked_add(n);
                len += n;
            }
        }
        Ok((len, Extents::from_list(list), on))
    }

    /// Takes memory and key away from a region that work requests register, if it is valid. Anything else is left alone. No
    /// window is bound to it any more.
    pub(crate) fn fast_free(&mut self, index: u32) {
        let Some(mr) = self.mrs.get_mut(index) else {
            return;
        };
        let Kind::Fast(fast) = &mut mr.kind else {
            return;
        };
        let on = core::mem::take(&mut fast.on);
        self.extents -= mr.extents.cost();
        mr.key = NO_KEY;
        mr.extents = Extents::One(0);
        (mr.iova, mr.len, mr.access) = (0, 0, 0);
        for region in on {
            if let Some(mr) = self.mrs.get_mut(region) {
                mr.users -= 1;
            }
        }
    }

    /// [`Hca::fast_free`] of every region that stands on another.
    pub(crate) fn fast_free_all_on(&mut self, index: u32) {
        let concerned: Vec<u32> = self
            .mrs
            .entries()
            .filter(|(_, mr)| matches!(&mr.kind, Kind::Fast(fast) if fast.on.contains(&index)))
            .map(|(index, _)| index)
            .collect();
        for index in concerned {
            if self.mrs.get(index).is_some_and(|mr| mr.users > 0) {
                self.unbind_all_on(index);
            }
            self.fast_free(index);
        }
    }
}
