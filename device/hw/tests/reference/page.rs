// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference as Markdown.

use crate::evaluate::Names;
use crate::read::{Constant, Format, Module, Part, Register, Values};
use quote::ToTokens;
use std::collections::BTreeMap;
use std::fmt::Write;
use syn::Expr;

const INTRODUCTION: &str = "# The hardware reference

What crosses the boundary between the Verbena HCA and a driver: registers, doorbells, commands, queue entries, status codes,
events. This page is made from the declarations in [`device/hw`](../hw/src), and a test fails when it is not what they say:
do not edit it.

Integers are little-endian unless a field says otherwise. Offsets and sizes are in bytes.
";

/// The page.
pub fn write(modules: &[Module], names: &Names<'_>) -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push('\n');
    for module in modules {
        let anchor = module.title.to_lowercase().replace(' ', "-");
        let _ = writeln!(page, "- [{}](#{anchor})", module.title);
    }
    for module in modules {
        let _ = write!(page, "\n## {}\n\n{}\n", module.title, text(&module.doc));
        body(&mut page, module, names);
    }
    page
}

fn body(page: &mut String, module: &Module, names: &Names<'_>) {
    let mut parts = module.items.iter().peekable();
    while let Some(part) = parts.next() {
        match part {
            Part::Constant(first) => {
                let mut run = vec![first];
                while let Some(Part::Constant(next)) = parts.peek() {
                    run.push(next);
                    parts.next();
                }
                constants(page, &run, names, "");
            }
            Part::Constants(name, doc, list) => {
                heading(page, name, doc);
                constants(page, &list.iter().collect::<Vec<_>>(), names, name);
            }
            Part::Values(values) => enumeration(page, values, names),
            Part::Format(format) => structure(page, format, names, &module.title),
            Part::Number(name, of, doc) => {
                let _ = write!(page, "\n**`{name}`** (`{}`): {}\n", source(of), text(doc));
            }
            Part::Registers(registers) => register_file(page, registers, names),
            Part::Layout(name, size, offsets) => check(module, names, name, size, offsets),
        }
    }
}

fn heading(page: &mut String, name: &str, doc: &str) {
    let _ = write!(page, "\n### `{name}`\n");
    if !doc.is_empty() {
        let _ = write!(page, "\n{}\n", text(doc));
    }
}

fn constants(page: &mut String, list: &[&Constant], names: &Names<'_>, group: &str) {
    page.push_str("\n| name | value | meaning |\n|---|---|---|\n");
    for constant in list {
        let shown = match names.number(&constant.value, group) {
            Some(number) => shown(number, &constant.value),
            None => format!("`{}`", source(&constant.value)),
        };
        let _ = writeln!(page, "| `{}` | {shown} | {} |", constant.name, cell(&constant.doc));
    }
}

/// A number as its declaration has it: in hexadecimal if it is written so, shifted if it is one bit.
fn shown(number: u64, expr: &Expr) -> String {
    let written = source(expr);
    match written.strip_prefix("1 << ") {
        Some(bit) if bit.bytes().all(|byte| byte.is_ascii_digit()) => format!("1 << {bit}"),
        _ if written.starts_with("0x") || written.contains(['|', '*', '"']) => format!("{number:#x}"),
        _ => number.to_string(),
    }
}

fn enumeration(page: &mut String, values: &Values, names: &Names<'_>) {
    heading(
        page,
        &values.name,
        &format!("{} A `{}`.", values.doc, source(&values.of)),
    );
    constants(page, &values.values.iter().collect::<Vec<_>>(), names, "");
}

fn structure(page: &mut String, format: &Format, names: &Names<'_>, home: &str) {
    let (offsets, size) = names
        .offsets(&format.fields, home)
        .unwrap_or_else(|| panic!("{} has a field of unknown size", format.name));
    if let Some(stated) = &format.size {
        assert_eq!(
            names.number(stated, ""),
            Some(size),
            "{} and its stated size",
            format.name
        );
    }
    heading(page, &format.name, &format!("{} {size} bytes.", format.doc));
    page.push_str("\n| offset | size | field | type | meaning |\n|---|---|---|---|---|\n");
    for ((name, ty, doc), offset) in format.fields.iter().zip(offsets) {
        let bytes = names.size(ty, home).unwrap_or_default();
        let _ = writeln!(
            page,
            "| {offset} | {bytes} | `{name}` | `{}` | {} |",
            source(ty),
            cell(doc)
        );
    }
}

fn register_file(page: &mut String, registers: &[Register], names: &Names<'_>) {
    page.push_str("\n### The register file\n\n| offset | size | register | access | reset | meaning |\n|---|---|---|---|---|---|\n");
    for register in registers {
        let number = |expr| names.number(expr, "");
        let offset = number(&register.offset).expect("an offset is a number");
        let mut name = format!("`{}`", register.name);
        if let Some((count, stride)) = &register.array {
            let (count, stride) = (number(count), number(stride));
            let _ = write!(name, ", {} of them, {} apart", count.unwrap_or(0), stride.unwrap_or(0));
        }
        let reset = match number(&register.reset) {
            Some(reset) => format!("{reset:#x}"),
            None => format!("`{}`", source(&register.reset)),
        };
        let access = match register.access.as_str() {
            "Ro" => "read",
            "Wo" => "write",
            _ => "read, write",
        };
        let width = number(&register.width).unwrap_or(0);
        let doc = cell(&register.doc);
        let _ = writeln!(
            page,
            "| {offset:#05x} | {width} | {name} | {access} | {reset} | {doc} |"
        );
    }
}

/// What `assert_layout!` says of a format is what was worked out from its fields.
fn check(module: &Module, names: &Names<'_>, name: &str, size: &Expr, stated: &[(String, Expr)]) {
    let format = module.items.iter().find_map(|part| match part {
        Part::Format(format) if format.name == name => Some(format),
        _ => None,
    });
    let Some(format) = format else { return };
    let (offsets, worked_out) = names
        .offsets(&format.fields, &module.title)
        .expect("it has been written");
    if let Some(size) = names.number(size, "") {
        assert_eq!(size, worked_out, "the size of {name}");
    }
    let by_name: BTreeMap<_, _> = format.fields.iter().map(|(name, ..)| name).zip(offsets).collect();
    for (field, offset) in stated {
        if let Some(offset) = names.number(offset, "") {
            assert_eq!(by_name.get(field), Some(&offset), "the offset of {name}.{field}");
        }
    }
}

/// Tokens as a person writes them.
pub fn source(tokens: &impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    let text = text
        .replace(" :: ", "::")
        .replace(" ;", ";")
        .replace("[ ", "[")
        .replace(" ]", "]");
    text.replace("(& ", "(&")
        .replace(" ,", ",")
        .replace("& ", "&")
        .replace(" (", "(")
        .replace("( ", "(")
        .replace(" )", ")")
}

/// Documentation without the links that only rustdoc can follow.
fn text(doc: &str) -> String {
    let mut out = String::new();
    let mut rest = doc;
    while let Some(start) = rest.find("[`") {
        let Some(end) = rest[start..].find("`]").map(|n| start + n) else {
            break;
        };
        out.push_str(&rest[..start]);
        let name = &rest[start + 2..end];
        out.push('`');
        out.push_str(name.trim_start_matches("crate::"));
        out.push('`');
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    out
}

/// The same, on one line of a table.
fn cell(doc: &str) -> String {
    let lines: Vec<_> = doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    text(&lines.join(" ")).replace('|', "\\|")
}
