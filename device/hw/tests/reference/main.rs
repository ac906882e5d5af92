// SPDX-License-Identifier: MIT OR Apache-2.0
//! `device/docs/hardware.md` is what the declarations in this crate's source say, and nothing else (H2).
//!
//! It is made from the source, not from compiled values, because only the source has the comments. Where the two could
//! differ, in sizes and offsets, the source's own `assert_layout!` lines are asked: a size that this test works out and
//! that they contradict is a failure.

mod evaluate;
mod page;
mod read;

use std::path::{Path, PathBuf};

const HOW: &str = "device/docs/hardware.md is not what the source of verbena-hw says. If the source is right:
    UPDATE_GOLDEN=1 cargo test -p verbena-hw --test reference";

/// The modules, in the order in which a person needs them, and what each section is called.
const MODULES: &[(&str, &str)] = &[
    ("pci", "PCI"),
    ("regs", "Registers"),
    ("ring", "Rings and page lists"),
    ("doorbell", "Doorbells"),
    ("admin", "The admin queue"),
    ("cmd", "Commands"),
    ("qp", "Queue pairs"),
    ("wqe", "Work queue entries"),
    ("cqe", "Completions"),
    ("srq", "Shared receive queues"),
    ("mw", "Memory windows"),
    ("flow", "Raw Ethernet and flow rules"),
    ("eqe", "Events"),
    ("grh", "The header of a datagram"),
    ("wire", "Packets"),
    ("id", "Numbers"),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The crate's public modules, as `lib.rs` declares them.
fn declared() -> Vec<String> {
    let text = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let file = syn::parse_file(&text).unwrap();
    let public = |item: &syn::Item| match item {
        syn::Item::Mod(module) if matches!(module.vis, syn::Visibility::Public(_)) => Some(module.ident.to_string()),
        _ => None,
    };
    file.items.iter().filter_map(public).collect()
}

#[test]
fn h02_the_hardware_reference_is_the_declaration() {
    let mut named: Vec<_> = MODULES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut declared = declared();
    named.sort();
    declared.sort();
    assert_eq!(named, declared, "every module of the crate has a section, see MODULES");

    let modules: Vec<_> = MODULES
        .iter()
        .map(|(name, title)| read::module(title, &source().join(format!("{name}.rs"))))
        .collect();
    let names = evaluate::Names::new(&modules);
    let text = page::write(&modules, &names);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hardware.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        there == text,
        "{HOW}\nThe first difference is in line {:?}.",
        differs.map(|n| n + 1)
    );
}
