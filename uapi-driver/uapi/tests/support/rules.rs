// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The rules of U5 a second time, as plainly as they can be written: what the parser is compared with.

use rdma_uapi::failure::{Outcome, Reason};
use rdma_uapi::schema::{attr_flags, AttrSchema, UNBOUNDED};
use rdma_uapi::wire::{self, AttrHead, HEADER};
use rdma_uapi::{Errno, Failure};
use std::ops::Range;
use zerocopy::FromBytes;

/// The known attributes of `message`, each with where its payload is; or the first thing that is wrong.
pub fn verdict(message: &[u8], attrs: &[AttrSchema]) -> Outcome<Vec<(u16, Range<usize>)>> {
    let mut seen: Vec<(u16, Range<usize>)> = Vec::new();
    let mut at = HEADER;
    while at < message.len() {
        let (head, _) = AttrHead::read_from_prefix(&message[at..]).expect("messages are of words");
        let id = head.id & wire::ATTR_ID;
        let wrong = |errno, reason| Failure::new(errno, reason).at(id, at as u16);
        let invalid = |reason| wrong(Errno::EINVAL, reason);
        let length = usize::from(head.length);
        if length < 8 {
            return Err(invalid(Reason::SHORT_ATTR));
        }
        let padded = length.div_ceil(8) * 8;
        let Some(whole) = message.get(at..at + padded) else {
            return Err(invalid(Reason::ATTR_PAST_END));
        };
        if head.result != 0 || whole[length..].iter().any(|&b| b != 0) {
            return Err(invalid(Reason::NOT_ZERO));
        }
        let (payload, place) = (&whole[8..length], at + 8..at + length);
        match attrs.iter().find(|attr| attr.spec.id == id) {
            None if head.id & wire::ATTR_MANDATORY != 0 => {
                return Err(wrong(Errno::EOPNOTSUPP, Reason::UNKNOWN_ATTR));
            }
            None => {}
            Some(attr) => {
                if seen.iter().any(|(id, _)| *id == attr.spec.id) {
                    return Err(invalid(Reason::DUPLICATE));
                }
                payload_is_right(attr, head.id & wire::ATTR_BY_POINTER != 0, payload)
                    .map_err(|failure| failure.at(id, at as u16))?;
                seen.push((id, place));
            }
        }
        at += padded;
    }
    let missing =
        |attr: &&AttrSchema| attr.flags & attr_flags::REQUIRED != 0 && !seen.iter().any(|(id, _)| *id == attr.spec.id);
    match attrs.iter().find(missing) {
        Some(attr) => Err(Failure::new(Errno::EINVAL, Reason::MISSING).at(attr.spec.id, 0)),
        None => Ok(seen),
    }
}

fn payload_is_right(attr: &AttrSchema, by_pointer: bool, payload: &[u8]) -> Outcome {
    if by_pointer {
        if attr.flags & attr_flags::BY_POINTER == 0 {
            return Err(Failure::new(Errno::EINVAL, Reason::NOT_BY_POINTER));
        }
        if payload.len() != 16 {
            return Err(Failure::new(Errno::EINVAL, Reason::SHORT_PAYLOAD).detail(16));
        }
        return Ok(());
    }
    // What an output's payload holds is nobody's business.
    if attr.flags & attr_flags::IN == 0 {
        return Ok(());
    }
    if payload.len() < usize::from(attr.min) {
        return Err(Failure::new(Errno::EINVAL, Reason::SHORT_PAYLOAD).detail(attr.min));
    }
    let beyond = payload.get(usize::from(attr.size)..).unwrap_or(&[]);
    if attr.size != UNBOUNDED && beyond.iter().any(|&b| b != 0) {
        return Err(Failure::new(Errno::E2BIG, Reason::TAIL_NOT_ZERO).detail(attr.size));
    }
    Ok(())
}
