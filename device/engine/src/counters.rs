// SPDX-License-Identifier: MIT OR Apache-2.0
//! The port's counters, in the order of [`verbena_hw::cmd::COUNTERS`].

use verbena_hw::cmd::COUNTERS;

/// Which counter. The discriminant is its position in [`COUNTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Counter {
    SentMsgs,
    RcvdMsgs,
    SentBytes,
    RcvdBytes,
    SentReads,
    RcvdRnrErr,
    SendRnrErr,
    AckTimeouts,
    RetryExceededErr,
    RetryRnrExceededErr,
    CompletionErr,
    AccessErr,
    InvalidReqErr,
    FlushedWrs,
    DoorbellsTrapped,
    CqOverruns,
    DroppedUnreachable,
    DroppedNoQp,
    DroppedNoReceive,
    DroppedLength,
    QkeyViolations,
    SentTooLong,
    SentPkts,
    RcvdPkts,
    RetransmittedPkts,
    DuplicateRequest,
    OutOfSeqRequest,
    RcvdSeqErr,
    IcrcErrors,
    DroppedMalformed,
    SentFrames,
    RcvdFrames,
    DroppedNoRule,
    DroppedByRule,
    /// An acknowledgement was put off and is part of a later one.
    AckDeferred,
    /// A work request was begun again: its time was over, or the peer had missed a packet.
    CompleterRetryErr,
    /// A packet, or a run of a message, could not leave: the port is down, or has not this source any more.
    SendErr,
    /// The port went down.
    LinkDowned,
    /// SENDs that have completed.
    RdmaSends,
    /// Receives that have completed well.
    RdmaRecvs,
    /// A packet of another partition came.
    PkeyViolations,
}

const _: () = assert!(Counter::PkeyViolations as usize + 1 == COUNTERS.len());

/// The counters of one HCA.
#[derive(Clone, Debug)]
pub(crate) struct Counters([u64; COUNTERS.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNTERS.len()])
    }
}

impl Counters {
    #[inline]
    pub(crate) fn add(&mut self, counter: Counter, n: u64) {
        self.0[counter as usize] = self.0[counter as usize].wrapping_add(n);
    }

    #[inline]
    pub(crate) fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub(crate) fn values(&self) -> [u64; COUNTERS.len()] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h11_counters_stand_where_the_format_says() {
        let at = |c: Counter| COUNTERS[c as usize];
        assert_eq!(at(Counter::SentMsgs), "sent_msgs");
        assert_eq!(at(Counter::RcvdRnrErr), "rcvd_rnr_err");
        assert_eq!(at(Counter::AckTimeouts), "ack_timeouts");
        assert_eq!(at(Counter::AccessErr), "access_err");
        assert_eq!(at(Counter::FlushedWrs), "flushed_wrs");
        assert_eq!(at(Counter::CqOverruns), "cq_overruns");
        assert_eq!(at(Counter::DroppedNoReceive), "dropped_no_receive");
        assert_eq!(at(Counter::SentTooLong), "sent_too_long");
        assert_eq!(at(Counter::RetransmittedPkts), "retransmitted_pkts");
        assert_eq!(at(Counter::IcrcErrors), "icrc_errors");
        assert_eq!(at(Counter::DroppedMalformed), "dropped_malformed");
        assert_eq!(at(Counter::DroppedByRule), "dropped_by_rule");
        assert_eq!(at(Counter::SendErr), "send_err");
        assert_eq!(at(Counter::PkeyViolations), "pkey_violations");
    }
}
