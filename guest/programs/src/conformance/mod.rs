// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Verbena promises, as cases: written once, run over every attachment.
//!
//! Each file is an area and has its own list, [`CASES`] is all of them. A case's name begins with the row that it proves
//! (`u05_`: the object model, `h10_`: the HCA). A case never looks at how it is attached: where the two differ, the
//! promise is the same and the case asks for the promise.

mod access;
mod account;
mod apart;
mod batch;
mod batch_kinds;
mod cleanup;
mod cm;
mod commands;
mod control;
mod counters;
mod counting;
mod cq;
mod cq_modify;
mod datagram;
mod discovery;
mod epoll;
mod errors;
mod ethernet;
mod events;
mod fast;
mod interface;
mod isolation;
mod kit;
mod mad;
mod memory;
mod node;
mod null;
mod objects;
mod pace;
mod pcie;
mod peers;
mod qp_life;
mod qp_state;
mod queries;
mod raw;
mod reassociate;
mod reregister;
mod retries;
mod srq;
mod system_cm;
mod tracing;
mod transfer;
mod unreliable;
mod windows;
mod xrc;

use crate::harness::{Body, Case, Fixture};

/// The areas, in the order in which they run: what the later ones stand on comes first.
const AREAS: &[&[Case]] = &[
    pcie::CASES,
    control::CASES,
    interface::CASES,
    commands::CASES,
    queries::CASES,
    objects::CASES,
    discovery::CASES,
    batch::CASES,
    batch_kinds::CASES,
    node::CASES,
    account::CASES,
    access::CASES,
    tracing::CASES,
    memory::CASES,
    null::CASES,
    reregister::CASES,
    qp_state::CASES,
    qp_life::CASES,
    pace::CASES,
    transfer::CASES,
    cq::CASES,
    cq_modify::CASES,
    datagram::CASES,
    unreliable::CASES,
    ethernet::CASES,
    counters::CASES,
    counting::CASES,
    errors::CASES,
    retries::CASES,
    srq::CASES,
    xrc::CASES,
    windows::CASES,
    fast::CASES,
    events::CASES,
    epoll::CASES,
    reassociate::CASES,
    cm::CASES,
    system_cm::CASES,
    mad::CASES,
    isolation::CASES,
    apart::CASES,
    peers::CASES,
    cleanup::CASES,
];

/// Areas whose cases change nothing but what they have made themselves: several may run beside each other on one device, and a
/// process that is killed in the middle leaves everything to the kernel.
const MORTAL: &[&[Case]] = &[
    batch::CASES,
    batch_kinds::CASES,
    tracing::CASES,
    memory::CASES,
    null::CASES,
    reregister::CASES,
    cq::CASES,
    cq_modify::CASES,
    datagram::CASES,
    counting::CASES,
    srq::CASES,
    xrc::CASES,
    windows::CASES,
    fast::CASES,
    events::CASES,
    epoll::CASES,
    reassociate::CASES,
    cm::CASES,
    mad::CASES,
];

/// Those of them that make processes or files, which would outlive them.
const IMMORTAL: &[&str] = &[
    "u25_of_one_process_or_with_its_children",
    "u08_xrc_domain_is_shared_by_a_file",
];

/// Cases that may be killed in the middle; those in [`IMMORTAL`] among them are not begun.
static MORTALS: &[Case] = &joined::<{ count(MORTAL) }>(MORTAL);

/// How many cases [`begin_mortal`] knows.
pub fn mortals() -> usize {
    MORTALS.len()
}

/// Runs case `n` of those that may be killed in the middle, and says whether it came to a good end; `None`: it is not one. A bad
/// end proves nothing by itself: it may have met others of its kind, who have the port or the method that it asks for.
pub fn begin_mortal(n: usize, fixture: &Fixture) -> Option<bool> {
    let case = MORTALS.get(n)?;
    match case.body {
        Body::Single(run) if !IMMORTAL.contains(&case.name) => Some(run(fixture).is_ok()),
        _ => None,
    }
}

/// Every case.
pub static CASES: &[Case] = &joined::<{ count(AREAS) }>(AREAS);

const fn count(areas: &[&[Case]]) -> usize {
    let (mut total, mut area) = (0, 0);
    while area < areas.len() {
        total += areas[area].len();
        area += 1;
    }
    total
}

const fn joined<const N: usize>(areas: &[&[Case]]) -> [Case; N] {
    let mut all = [areas[0][0]; N];
    let (mut at, mut area) = (0, 0);
    while area < areas.len() {
        let mut i = 0;
        while i < areas[area].len() {
            all[at] = areas[area][i];
            at += 1;
            i += 1;
        }
        area += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{CASES, IMMORTAL};
    use std::collections::HashSet;

    #[test]
    fn u13_who_is_not_mortal_is_a_case() {
        for name in IMMORTAL {
            assert!(CASES.iter().any(|case| case.name == *name), "{name}");
        }
    }

    #[test]
    fn names_are_unique_and_begin_with_a_row() {
        let mut seen = HashSet::new();
        for case in CASES {
            assert!(seen.insert(case.name), "{} is there twice", case.name);
            let (row, rest) = case.name.split_once('_').expect("a row and a name");
            let (area, number) = row.split_at(1);
            assert!(area == "u" || area == "h", "{}", case.name);
            assert!(number.len() == 2 && number.parse::<u32>().is_ok(), "{}", case.name);
            assert!(
                rest.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{}",
                case.name
            );
        }
    }
}
