// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The parser against its rules, written a second time.
//!
//! The first byte of an input chooses a method among all common ones, the second whether what it requires is required; the
//! rest is the message behind its header.

#![no_main]

#[path = "../../tests/support/rules.rs"]
mod rules;

use libfuzzer_sys::fuzz_target;
use rdma_uapi::class;
use rdma_uapi::describe::explain;
use rdma_uapi::parse::{attributes, Index, Layout, Words};
use rdma_uapi::schema::{attr_flags, AttrSchema};
use rdma_uapi::wire::{DriverId, HEADER, MAX_MESSAGE};
use zerocopy::FromBytes;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (which, strict, body) = input;
    let methods: Vec<_> = class::ALL
        .iter()
        .flat_map(|class| class.methods.iter().map(|method| (class.id, method)))
        .collect();
    let (class, method) = methods[usize::from(which) % methods.len()];
    let mut attrs: Vec<AttrSchema> = method.attrs.to_vec();
    if !strict {
        attrs.iter_mut().for_each(|attr| attr.flags &= !attr_flags::REQUIRED);
    }
    let body = &body[..body.len().min(MAX_MESSAGE - HEADER) & !7];
    let mut message = vec![0; HEADER];
    message.extend_from_slice(body);

    let mut layout = Layout::new(DriverId(1));
    for attr in &attrs {
        layout.add(attr).expect("the schema is sound");
    }
    let mut index = Index::EMPTY;
    let words: &Words = FromBytes::ref_from_bytes(&message).expect("it is of words");
    let parsed = attributes(words, &layout, &mut index);
    match (parsed, rules::verdict(&message, &attrs)) {
        (Ok(()), Ok(found)) => {
            for attr in &attrs {
                let place = index.find(&message, layout.slot(attr.spec.id));
                let wanted = found
                    .iter()
                    .find(|(id, _)| *id == attr.spec.id)
                    .map(|(_, at)| at.clone());
                assert_eq!(place.map(|found| found.start..found.end), wanted, "{}", attr.spec.name);
            }
        }
        (Err(failure), Err(wanted)) => {
            assert_eq!(failure, wanted);
            // And there are words for it.
            assert!(!explain(&failure, class, method.number).to_string().is_empty());
        }
        (parsed, verdict) => panic!("parsed {parsed:?}, but by the rules {verdict:?}"),
    }
});
