// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections without acknowledgements.

use super::{path_to, ConnectOptions, Qp, QpAttr, Uc};
use crate::endpoint::Endpoint;
use crate::error::Result;
use verbena_hw::qp::QpState;

/// An unreliable connected queue pair: SEND and RDMA WRITE. A send completes when it has left; what the peer cannot take,
/// for want of a receive or of rights, is dropped.
pub type UcQp = Qp<Uc>;

impl Qp<Uc> {
    /// Connects it to `peer`, with [`ConnectOptions::default`].
    ///
    /// # Errors
    ///
    /// As [`UcQp::connect_with`].
    pub fn connect(&mut self, peer: &Endpoint) -> Result<()> {
        self.connect_with(peer, &ConnectOptions::default())
    }

    /// Moves it from RESET or INIT to RTS, connected to `peer`. The peer must do the same. What `options` say of
    /// acknowledgements and READs does not count.
    ///
    /// # Errors
    ///
    /// It is in another state; an option is out of the device's range; the device is gone.
    pub fn connect_with(&mut self, peer: &Endpoint, options: &ConnectOptions) -> Result<()> {
        if self.state() == QpState::RESET {
            self.modify(&options.init())?;
        }
        let mtu = match options.mtu {
            Some(mtu) => mtu,
            None => self.context().port(options.port)?.attrs.active_mtu,
        };
        let ready_to_receive = QpAttr::to(QpState::RTR)
            .path(path_to(peer.gid, options.sgid_index))
            .path_mtu(mtu)
            .dest_qpn(peer.qpn.get())
            .rq_psn(peer.psn.get());
        self.modify(&ready_to_receive)?;
        self.modify(&QpAttr::to(QpState::RTS).sq_psn(self.psn()))
    }
}
