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

#[test]
fn h03_every_object_has_its_commands() {
    use verbena_hw::admin::Opcode;
    let doc = read::module("", &source().join("cmd.rs")).doc;
    let rows: Vec<Vec<&str>> = doc
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| object"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let known = |word: &str| Opcode::ALL.iter().any(|(_, name)| *name == word);
    let commands = |cell: &str| -> Vec<String> {
        let words = cell.split(", ").map(str::to_owned);
        words.filter(|word| known(word)).collect()
    };
    let mut named = Vec::new();
    for row in &rows {
        let [object, make, show, change, end] = row[..] else {
            panic!("{row:?} has other columns")
        };
        assert!(!commands(show).is_empty(), "{object} cannot be asked about");
        assert_eq!(make.is_empty(), end.is_empty(), "{object}: what is made can be ended");
        for cell in [make, show, change, end] {
            let all = commands(cell);
            let reason = cell.is_empty() || cell.strip_prefix("nothing: ").is_some_and(|why| !why.is_empty());
            assert!(
                reason || all.join(", ") == cell,
                "{object}: '{cell}' is neither commands nor a reason"
            );
            named.extend(all);
        }
    }
    let of = |name: &str| named.iter().filter(|word| *word == name).count();
    for (_, name) in Opcode::ALL {
        let times = match *name {
            "NOP" => 0,
            "SET_GID" => 3,
            _ => 1,
        };
        assert_eq!(of(name), times, "{name} in the table of commands");
    }
}
