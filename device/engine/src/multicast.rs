// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast groups: which queue pairs of the fabric are attached to which group (IBA vol. 1, 10.5).

use crate::limits;
use crate::schedule::QpRef;
use std::collections::HashMap;
use verbena_hw::id::Gid;

/// All groups that have members.
#[derive(Debug, Default)]
pub(crate) struct Groups(HashMap<Gid, Vec<QpRef>>);

/// Why a queue pair is not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachFault {
    /// It is attached already.
    Member,
    /// The group has as many members as it can have.
    Full,
}

impl Groups {
    /// Attaches a queue pair, behind those that are attached.
    pub(crate) fn attach(&mut self, gid: Gid, qp: QpRef) -> Result<(), AttachFault> {
        let members = self.0.entry(gid).or_default();
        if members.contains(&qp) {
            return Err(AttachFault::Member);
        }
        if members.len() == limits::GROUP {
            return Err(AttachFault::Full);
        }
        members.push(qp);
        Ok(())
    }

    /// Detaches a queue pair. `false`: it was not attached.
    pub(crate) fn detach(&mut self, gid: &Gid, qp: QpRef) -> bool {
        let Some(members) = self.0.get_mut(gid) else {
            return false;
        };
        let Some(at) = members.iter().position(|member| *member == qp) else {
            return false;
        };
        members.remove(at);
        if members.is_empty() {
            self.0.remove(gid);
        }
        true
    }

    /// Detaches all queue pairs that are no longer there.
    pub(crate) fn retain(&mut self, stays: impl Fn(QpRef) -> bool) {
        self.0.retain(|_, members| {
            members.retain(|member| stays(*member));
            !members.is_empty()
        });
    }

    /// Those attached to a group, in the order in which they were attached.
    pub(crate) fn members(&self, gid: &Gid) -> &[QpRef] {
        self.0.get(gid).map_or(&[], Vec::as_slice)
    }
}
