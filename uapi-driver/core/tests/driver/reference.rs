// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! `docs/reference.md`: every class, method and attribute, made from the dispatch tables that answer the calls. What the
//! names mean is taken from the comments where they are declared.

use crate::bench::Bench;
use rdma_uapi::schema::{attr_flags, class_flags, Access, AttrSchema, Field, Shape, StructSchema, Target, Type};
use rdma_uapi::table::Table;
use rdma_uapi::wire::{self, ATTR_DRIVER};
use rdma_uapi::{common, Driver};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use verbena_core::node::System;
use verbena_core::Verbena;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Compares a generated page with the one that is there, or replaces it.
pub fn check(name: &str, text: &str) {
    let path = docs(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(there.lines()).position(|(now, then)| now != then);
    assert!(
        there == text,
        "docs/{name} is stale, from line {} on. UPDATE_GOLDEN=1 cargo test -p verbena-core --test driver makes it anew",
        differs.map_or_else(|| text.lines().count().min(there.lines().count()), |n| n + 1)
    );
}

pub fn table<D: Driver>() -> Table<D> {
    Table::compile(common::Table::<D>::CLASSES, &D::ADDITIONS).unwrap()
}

/// What declarations say of themselves: by file and name of an attribute, class or constant, by structure and field.
#[derive(Default)]
struct Words {
    attrs: BTreeMap<(String, String), String>,
    fields: BTreeMap<(String, String), String>,
    files: BTreeMap<String, String>,
}

impl Words {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut words = Words::default();
        let classes = std::fs::read_dir(root.join("../uapi/src/class")).unwrap();
        let mut files: Vec<_> = classes.map(|entry| entry.unwrap().path()).collect();
        files.extend([root.join("src/schema.rs"), root.join("../uapi/src/listing.rs")]);
        files.sort();
        for path in files {
            words.file(&path);
        }
        words
    }

    fn file(&mut self, path: &Path) {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let head: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
        let first: Vec<_> = text
            .lines()
            .skip_while(|line| !line.starts_with("//!"))
            .take_while(|line| line.starts_with("//! "))
            .filter_map(|line| line.strip_prefix("//! "))
            .collect();
        assert!(!head.is_empty(), "{} says nothing of itself", path.display());
        self.files.insert(stem.clone(), plain(&first.join(" ")));
        let (mut comment, mut structure, mut statement) = (String::new(), String::new(), String::new());
        for line in text.lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("/// ") {
                comment.push_str(if comment.is_empty() { "" } else { " " });
                comment.push_str(more);
                continue;
            }
            if let Some(name) = line.strip_prefix("pub struct ") {
                structure = name.split([' ', '(']).next().unwrap().to_owned();
            } else if let Some((name, _)) = line
                .split_once(": ")
                .filter(|_| line.ends_with(',') && !comment.is_empty())
            {
                self.fields
                    .insert((structure.clone(), name.to_owned()), plain(&comment));
            }
            if line.starts_with("pub const ") || !statement.is_empty() {
                statement.push_str(line);
                if !line.ends_with(';') {
                    continue;
                }
                // The name that the program sees is the only text in an attribute's declaration.
                if let (true, Some(name)) = (statement.contains("Attr::"), statement.split('"').nth(1)) {
                    self.attrs.insert((stem.clone(), name.to_owned()), plain(&comment));
                }
                statement.clear();
            }
            comment.clear();
        }
    }

    fn attr(&self, class: &str, name: &str) -> &str {
        // Where the class's own file is; what all have is in `mod`, Verbena's in `schema`, queue pairs share one file.
        let own = if class.starts_with("qp_") { "qp" } else { class };
        let files = [own, "mod", "schema"];
        let found = files
            .iter()
            .find_map(|file| self.attrs.get(&((*file).to_owned(), name.to_owned())));
        let anywhere = || self.attrs.iter().find(|((_, n), _)| n == name).map(|(_, text)| text);
        found
            .or_else(anywhere)
            .unwrap_or_else(|| panic!("nothing says what {class} {name} is"))
    }
}

/// Without the marks of links.
fn plain(text: &str) -> String {
    let text = text.replace("[`", "`").replace("`]", "`");
    text.replace("super::", "")
        .replace("verbena_hw::", "")
        .replace('|', "\\|")
}

fn type_name(of: &Type) -> String {
    match of {
        Type::U8 => "u8".into(),
        Type::U16 => "u16".into(),
        Type::U32 => "u32".into(),
        Type::U64 => "u64".into(),
        Type::Bytes(n) => format!("[u8; {n}]"),
        Type::Text(n) => format!("text of {n} bytes"),
        Type::Struct(s) => format!("[{}](#{})", s.name, s.name.to_lowercase()),
    }
}

struct Page<'w> {
    out: String,
    words: &'w Words,
    structs: BTreeMap<&'static str, &'static StructSchema>,
    names: BTreeMap<u16, &'static str>,
}

impl Page<'_> {
    fn shape(&mut self, attr: &AttrSchema) -> String {
        match &attr.spec.shape {
            Shape::One(one) => self.used(one),
            Shape::Many(many) => format!("array of {}", self.used(many)),
            Shape::Object(classes) => {
                let names: Vec<_> = classes.iter().map(|id| self.class_name(*id)).collect();
                format!("object: {}", names.join(", "))
            }
            Shape::Text => "text".into(),
        }
    }

    fn used(&mut self, of: &Type) -> String {
        if let Type::Struct(s) = of {
            self.structs.insert(s.name, s);
        }
        type_name(of)
    }

    fn class_name(&self, id: u16) -> String {
        match self.names.get(&id) {
            Some(name) => format!("[{name}](#{name})"),
            None => format!("class {id} (not there)"),
        }
    }

    fn classes<D: Driver>(&mut self, table: &Table<D>, which: impl Fn(u16) -> bool) {
        for class in table.classes().filter(|class| which(class.schema().id)) {
            let schema = class.schema();
            writeln!(self.out, "## {}\n", schema.name).unwrap();
            let own = if schema.name.starts_with("qp_") {
                "qp"
            } else {
                schema.name
            };
            if let Some(words) = self.words.files.get(own) {
                writeln!(self.out, "{words}\n").unwrap();
            }
            let flags: Vec<_> = [
                (class_flags::GLOBAL, "also on the system-wide node"),
                (class_flags::FD, "its objects are file descriptors"),
                (class_flags::EVENTS, "its objects report to event queues"),
            ]
            .iter()
            .filter(|(flag, _)| schema.flags & flag != 0)
            .map(|(_, text)| format!("; {text}"))
            .collect();
            writeln!(self.out, "Class {:#06x}{}.\n", schema.id, flags.concat()).unwrap();
            for method in class.methods() {
                self.method(schema.name, method.schema().number, method);
            }
        }
    }

    fn method<D: Driver>(&mut self, class: &str, number: u8, method: &rdma_uapi::table::Method<D>) {
        let schema = method.schema();
        let on = match schema.target {
            Target::New => "makes an object",
            Target::Only => "object 0",
            Target::Object => "an object",
            Target::Numbered => "a number, from 1",
            Target::Fd => "the object's own descriptor, object 0",
        };
        let takes = |access| match access {
            Access::Any => "",
            Access::NetAdmin => "; takes CAP_NET_ADMIN",
            Access::NetRaw => "; takes CAP_NET_RAW",
            Access::SysAdmin => "; takes CAP_SYS_ADMIN",
        };
        let access = takes(schema.access);
        let ioctl = wire::ioctl(number);
        writeln!(
            self.out,
            "### {class} {}\n\nMethod {number}, ioctl `{ioctl:#x}`; {on}{access}.\n",
            schema.name
        )
        .unwrap();
        if method.attrs().next().is_none() {
            writeln!(self.out, "No attributes.\n").unwrap();
            return;
        }
        writeln!(
            self.out,
            "| id | attribute | | type | what it is |\n|---|---|---|---|---|"
        )
        .unwrap();
        for attr in method.attrs() {
            let flags: Vec<_> = [
                (attr_flags::IN, "in"),
                (attr_flags::OUT, "out"),
                (attr_flags::REQUIRED, "**required**"),
                (attr_flags::BY_POINTER, "or by pointer"),
            ]
            .iter()
            .filter(|(flag, _)| attr.flags & flag != 0)
            .map(|(_, text)| *text)
            .collect();
            let shape = self.shape(attr);
            let grown = if attr.min < attr.size && attr.size != u16::MAX {
                format!(", from {} bytes on", attr.min)
            } else {
                String::new()
            };
            let (id, name) = (attr.spec.id, attr.spec.name);
            let rule = match (takes(attr.access).trim_start_matches("; takes "), attr.bit) {
                ("", _) => String::new(),
                (capability, 0) => format!(" Takes {capability}."),
                (capability, bit) => format!(" Takes {capability} if bit {} is set.", bit - 1),
            };
            let id = if id & ATTR_DRIVER != 0 {
                format!("{id:#06x}")
            } else {
                id.to_string()
            };
            let what = self.words.attr(class, name);
            writeln!(
                self.out,
                "| {id} | `{name}` | {} | {shape}{grown} | {what}{rule} |",
                flags.join(", ")
            )
            .unwrap();
        }
        self.out.push('\n');
    }

    fn structures(&mut self) {
        writeln!(self.out, "# Structures\n").unwrap();
        let mut done = BTreeMap::new();
        while let Some((name, s)) = self.structs.pop_first() {
            if done.insert(name, ()).is_some() {
                continue;
            }
            writeln!(self.out, "## {name}\n\n{} bytes.\n", s.size).unwrap();
            writeln!(self.out, "| offset | field | type | what it is |\n|---|---|---|---|").unwrap();
            for &Field {
                name: field,
                offset,
                ty,
            } in s.fields
            {
                let what = &self.words.fields[&(name.to_owned(), field.to_owned())];
                let ty = self.used(&ty);
                writeln!(self.out, "| {offset} | `{field}` | {ty} | {what} |").unwrap();
            }
            self.out.push('\n');
        }
    }
}

#[test]
fn u07_the_reference_is_made_from_the_dispatch_tables() {
    let (device, node) = (table::<Verbena<Bench>>(), table::<System<Bench>>());
    let words = Words::read();
    let mut names: BTreeMap<u16, &'static str> = BTreeMap::new();
    names.extend(device.classes().map(|class| (class.schema().id, class.schema().name)));
    names.extend(node.classes().map(|class| (class.schema().id, class.schema().name)));
    let mut page = Page {
        out: String::new(),
        words: &words,
        structs: BTreeMap::new(),
        names,
    };
    page.out.push_str(
        "# Reference: every class, method and attribute\n\nGenerated by a test from the tables that answer the calls \
         (`core/tests/driver/reference.rs`); do not edit. What a call is, and what the columns mean, is in \
         [model.md](model.md). An attribute may be left out unless it is required; an output is answered if it is \
         there. Ids from 0x2000 on are the driver's own.\n\n",
    );
    for class in page.names.clone() {
        writeln!(page.out, "- {:#06x} [{}](#{})", class.0, class.1, class.1).unwrap();
    }
    page.out.push_str("\n# Classes of a device\n\n");
    page.classes(&device, |_| true);
    page.out.push_str("# Classes of the system-wide node alone\n\n");
    page.classes(&node, |id| device.class(id).is_none());
    page.structures();
    check("reference.md", &format!("{}\n", page.out.trim_end()));
}
