// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers out of expressions, and sizes out of types, as far as this crate's declarations need it.

use crate::read::{Constant, Module, Part};
use std::collections::BTreeMap;
use syn::{BinOp, Expr, Lit, Type};

/// What names stand for.
pub struct Names<'a> {
    constants: BTreeMap<String, &'a Expr>,
    /// By the title of the module and the name of the type.
    sizes: BTreeMap<(String, String), u64>,
}

impl<'a> Names<'a> {
    /// The names of all modules. Constants of one name in two modules of flags are told apart by the module's name.
    pub fn new(modules: &'a [Module]) -> Self {
        let mut names = Names {
            constants: BTreeMap::new(),
            sizes: BTreeMap::new(),
        };
        for part in modules.iter().flat_map(|module| &module.items) {
            match part {
                Part::Constant(constant) => names.constant("", constant),
                Part::Constants(group, _, constants) => constants.iter().for_each(|c| names.constant(group, c)),
                Part::Registers(registers) => {
                    for register in registers {
                        names.constants.insert(register.name.clone(), &register.offset);
                    }
                }
                _ => {}
            }
        }
        // A format may be made of one that is declared in a later module: again, until all have a size.
        loop {
            let before = names.sizes.len();
            for module in modules {
                let home = &module.title;
                for part in &module.items {
                    let found = match part {
                        Part::Values(values) => names.size(&values.of, home).map(|size| (&values.name, size)),
                        Part::Number(name, of, _) => names.size(of, home).map(|size| (name, size)),
                        Part::Format(format) => {
                            let offsets = names.offsets(&format.fields, home);
                            offsets.map(|(_, size)| (&format.name, size))
                        }
                        _ => None,
                    };
                    if let Some((name, size)) = found {
                        names.sizes.insert((home.clone(), name.clone()), size);
                    }
                }
            }
            if names.sizes.len() == before {
                return names;
            }
        }
    }

    fn constant(&mut self, group: &str, constant: &'a Constant) {
        if !group.is_empty() {
            self.constants
                .insert(format!("{group}::{}", constant.name), &constant.value);
        }
        self.constants.entry(constant.name.clone()).or_insert(&constant.value);
    }

    /// The size of a type in bytes, as the module `home` names it: its own types come first.
    pub fn size(&self, ty: &Type, home: &str) -> Option<u64> {
        match ty {
            Type::Array(array) => Some(self.size(&array.elem, home)? * self.number(&array.len, "")?),
            Type::Path(path) => {
                let name = path.path.segments.last()?.ident.to_string();
                match name.as_str() {
                    "u8" => Some(1),
                    "u16" | "U16" => Some(2),
                    "u32" | "U32" | "AtomicU32" => Some(4),
                    "u64" | "U64" | "AtomicU64" => Some(8),
                    _ => self.sizes.get(&(home.to_owned(), name.clone())).copied().or_else(|| {
                        let mut elsewhere = self.sizes.iter().filter(|((_, of), _)| *of == name);
                        elsewhere.next().map(|(_, size)| *size)
                    }),
                }
            }
            _ => None,
        }
    }

    /// The offset of each field, and the size of all. There is no padding: zerocopy sees to that.
    pub fn offsets(&self, fields: &[(String, Type, String)], home: &str) -> Option<(Vec<u64>, u64)> {
        let mut at = 0;
        let mut offsets = Vec::new();
        for (_, ty, _) in fields {
            offsets.push(at);
            at += self.size(ty, home)?;
        }
        Some((offsets, at))
    }

    /// What an expression comes to; names are looked up in `group` first.
    pub fn number(&self, expr: &Expr, group: &str) -> Option<u64> {
        match expr {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().ok(),
                _ => None,
            },
            // `u32::from_le_bytes(*b"text")`.
            Expr::Call(call) => match call.args.first()? {
                Expr::Unary(pointer) => match &*pointer.expr {
                    Expr::Lit(syn::ExprLit {
                        lit: Lit::ByteStr(text),
                        ..
                    }) => Some(
                        text.value()
                            .iter()
                            .rev()
                            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
                    ),
                    _ => None,
                },
                _ => None,
            },
            Expr::Paren(inner) => self.number(&inner.expr, group),
            Expr::Cast(cast) => self.number(&cast.expr, group),
            Expr::Binary(binary) => {
                let (left, right) = (self.number(&binary.left, group)?, self.number(&binary.right, group)?);
                Some(match binary.op {
                    BinOp::Add(_) => left + right,
                    BinOp::Sub(_) => left.checked_sub(right)?,
                    BinOp::Mul(_) => left * right,
                    BinOp::Shl(_) => left << right,
                    BinOp::BitOr(_) => left | right,
                    BinOp::BitAnd(_) => left & right,
                    _ => return None,
                })
            }
            Expr::Path(path) => {
                let segments: Vec<_> = path
                    .path
                    .segments
                    .iter()
                    .map(|segment| segment.ident.to_string())
                    .collect();
                let name = segments.last()?;
                if name == "MAX" && segments.len() == 2 {
                    return match segments[0].as_str() {
                        "u16" => Some(u16::MAX.into()),
                        "u32" => Some(u32::MAX.into()),
                        "u64" => Some(u64::MAX),
                        _ => None,
                    };
                }
                let found = self.constants.get(&format!("{group}::{name}"));
                let (found, group) = match found {
                    Some(found) => (found, group),
                    None => (self.constants.get(name)?, ""),
                };
                self.number(found, group)
            }
            _ => None,
        }
    }
}
