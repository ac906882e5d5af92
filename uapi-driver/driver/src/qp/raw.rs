// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raw Ethernet.

use super::{Qp, QpAttr, Raw, SendBatch};
use crate::error::{Error, Result};
use crate::flow::{self, Flow, FlowCounts};
use crate::ring::work::{PostError, SendWr};
use rdma_uapi::wire::ObjectId;
use verbena_hw::qp::QpState;

/// A raw Ethernet queue pair: each send is a whole frame, from the destination's MAC address to the last byte of payload, and
/// carries the port's own MAC address ([`crate::Context::mac`]) as its source. It receives what rules steer to it. Making one
/// takes CAP_NET_RAW.
pub type RawQp = Qp<Raw>;

/// A rule that leads to a [`RawQp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(ObjectId);

impl Qp<Raw> {
    /// Moves it from RESET to RTS.
    ///
    /// # Errors
    ///
    /// It is in another state; the device is gone.
    pub fn make_ready(&mut self) -> Result<()> {
        self.modify(&QpAttr::to(QpState::INIT).port(1))?;
        self.modify(&QpAttr::to(QpState::RTR))?;
        self.modify(&QpAttr::to(QpState::RTS))
    }

    /// Steers frames here, until [`RawQp::unsteer`] or its own end.
    ///
    /// # Errors
    ///
    /// There is such a rule for this queue pair already; `flow` compares what it cannot; the device has no room for more
    /// rules; the process has not CAP_NET_RAW; the device is gone.
    pub fn steer(&mut self, flow: &Flow) -> Result<RuleId> {
        let object = flow.create(self.object.context(), Some(self.object.id()))?;
        let id = object.id();
        self.rules.push(object);
        Ok(RuleId(id))
    }

    fn rule(&self, rule: RuleId) -> Result<usize> {
        let at = self.rules.iter().position(|object| object.id() == rule.0);
        at.ok_or(Error::Argument("the rule does not lead to this queue pair"))
    }

    /// Takes a rule away: nothing that comes later is received by it.
    ///
    /// # Errors
    ///
    /// It is another queue pair's; the device is gone.
    pub fn unsteer(&mut self, rule: RuleId) -> Result<()> {
        let at = self.rule(rule)?;
        self.rules.swap_remove(at).destroy()
    }

    /// What a rule has matched.
    ///
    /// # Errors
    ///
    /// It is another queue pair's; the device is gone.
    pub fn rule_counts(&self, rule: RuleId) -> Result<FlowCounts> {
        flow::counts(&self.rules[self.rule(rule)?])
    }

    /// Posts a frame: [`SendWr::send`].
    ///
    /// # Errors
    ///
    /// [`PostError`]; nothing has happened then, except with [`PostError::DeviceGone`].
    #[inline(always)]
    pub fn post_send(&mut self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.check_send_state()?;
        self.send.push(&self.slot, wr)?;
        self.publish()
    }
}

impl SendBatch<'_, Raw> {
    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// [`PostError`]; the batch is what it was before.
    #[inline(always)]
    pub fn push(&mut self, wr: &SendWr<'_>) -> Result<(), PostError> {
        self.qp.check_send_state()?;
        self.qp.send.push(&self.qp.slot, wr)
    }
}
