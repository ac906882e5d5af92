// SPDX-License-Identifier: MIT OR Apache-2.0
//! A source file into what a reader of the reference wants of it.

use proc_macro2::TokenStream;
use std::path::Path;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Expr, Field, Fields, Ident, Item, Token, Type, Visibility};

/// A module.
pub struct Module {
    pub title: String,
    pub doc: String,
    pub items: Vec<Part>,
}

/// What stands in a module.
pub enum Part {
    /// A constant.
    Constant(Constant),
    /// A group of constants: a module of flags, or the constants of a type.
    Constants(String, String, Vec<Constant>),
    /// An open enumeration.
    Values(Values),
    /// A format with fields.
    Format(Format),
    /// A number of 24 bits, or another transparent wrapper: name, what is in it, meaning.
    Number(String, Type, String),
    /// The register file.
    Registers(Vec<Register>),
    /// `assert_layout!`: type, size, offsets.
    Layout(String, Expr, Vec<(String, Expr)>),
}

pub struct Constant {
    pub name: String,
    pub value: Expr,
    pub doc: String,
}

pub struct Values {
    pub name: String,
    pub of: Type,
    pub doc: String,
    pub values: Vec<Constant>,
}

pub struct Format {
    pub name: String,
    pub doc: String,
    /// As the declaration itself states it.
    pub size: Option<Expr>,
    pub fields: Vec<(String, Type, String)>,
}

pub struct Register {
    pub name: String,
    pub doc: String,
    pub offset: Expr,
    pub width: Expr,
    pub array: Option<(Expr, Expr)>,
    pub access: String,
    pub reset: Expr,
}

/// Reads a module of the crate, and what it takes from private modules in files of their own: that has its name.
pub fn module(title: &str, path: &Path) -> Module {
    let (file, items) = items(path);
    Module {
        title: title.to_owned(),
        doc: doc(&file.attrs),
        items,
    }
}

fn items(path: &Path) -> (syn::File, Vec<Part>) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut items = Vec::new();
    for item in &file.items {
        match item {
            Item::Mod(module) if module.content.is_none() && !is_public(&module.vis) => {
                let below = path.with_extension("").join(format!("{}.rs", module.ident));
                items.extend(self::items(&below).1);
            }
            item => part(item, &mut items),
        }
    }
    (file, items)
}

fn part(item: &Item, parts: &mut Vec<Part>) {
    match item {
        Item::Const(constant) if is_public(&constant.vis) => parts.push(Part::Constant(Constant {
            name: constant.ident.to_string(),
            value: (*constant.expr).clone(),
            doc: doc(&constant.attrs),
        })),
        Item::Struct(format) if is_public(&format.vis) => parts.extend(structure(format)),
        Item::Mod(module) if is_public(&module.vis) => {
            let constants = module
                .content
                .iter()
                .flat_map(|(_, items)| items)
                .filter_map(|item| match item {
                    Item::Const(constant) => Some(Constant {
                        name: constant.ident.to_string(),
                        value: (*constant.expr).clone(),
                        doc: doc(&constant.attrs),
                    }),
                    _ => None,
                });
            let (name, doc) = (module.ident.to_string(), doc(&module.attrs));
            parts.push(Part::Constants(name, doc, constants.collect()));
        }
        Item::Impl(implementation) if implementation.trait_.is_none() => {
            let of = implementation.self_ty.as_ref();
            let constants: Vec<_> = implementation
                .items
                .iter()
                .filter_map(|item| match item {
                    syn::ImplItem::Const(constant) if is_public(&constant.vis) => Some(Constant {
                        name: constant.ident.to_string(),
                        value: constant.expr.clone(),
                        doc: doc(&constant.attrs),
                    }),
                    _ => None,
                })
                .collect();
            if !constants.is_empty() {
                parts.push(Part::Constants(crate::page::source(of), String::new(), constants));
            }
        }
        Item::Macro(call) => macro_call(&call.mac, parts),
        _ => {}
    }
}

fn structure(format: &syn::ItemStruct) -> Option<Part> {
    let (name, doc) = (format.ident.to_string(), doc(&format.attrs));
    let shape = format.attrs.iter().find(|attr| attr.path().is_ident("repr"))?;
    let shape: Ident = shape.parse_args().expect("repr has one word in this crate");
    match &format.fields {
        Fields::Named(fields) if shape == "C" => Some(Part::Format(Format {
            name,
            doc,
            size: None,
            fields: fields.named.iter().map(field).collect(),
        })),
        Fields::Unnamed(fields) if shape == "transparent" => {
            let of = fields.unnamed.first().expect("a wrapper wraps something");
            Some(Part::Number(name, of.ty.clone(), doc))
        }
        _ => None,
    }
}

fn field(field: &Field) -> (String, Type, String) {
    let name = field.ident.as_ref().expect("it is a named field").to_string();
    (name, field.ty.clone(), doc(&field.attrs))
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The macros by which this crate declares formats. Another one would go unnoticed, so it is a failure.
fn macro_call(call: &syn::Macro, parts: &mut Vec<Part>) {
    let name = call.path.get_ident().map(ToString::to_string).unwrap_or_default();
    let tokens = call.tokens.clone();
    match name.as_str() {
        "macro_rules" => {}
        "named" => part(&parse::<Item>(&name, tokens), parts),
        "open_enum" => parts.push(Part::Values(parse::<OpenEnum>(&name, tokens).0)),
        "payload" => parts.push(Part::Format(parse::<Payload>(&name, tokens).0)),
        "id24" => parts.push(parse::<Id24>(&name, tokens).0),
        "regs" => parts.push(Part::Registers(parse::<Regs>(&name, tokens).0)),
        "assert_layout" => parts.push(parse::<Layout>(&name, tokens).0),
        other => panic!("the reference does not know what `{other}!` declares"),
    }
}

fn parse<T: Parse>(name: &str, tokens: TokenStream) -> T {
    syn::parse2(tokens).unwrap_or_else(|error| panic!("{name}!: {error}"))
}

struct OpenEnum(Values);

impl Parse for OpenEnum {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let _: Visibility = input.parse()?;
        let _: Token![struct] = input.parse()?;
        let name: Ident = input.parse()?;
        let inner;
        syn::parenthesized!(inner in input);
        let of = inner.parse()?;
        let body;
        syn::braced!(body in input);
        let mut values = Vec::new();
        while !body.is_empty() {
            let attrs = body.call(Attribute::parse_outer)?;
            let name: Ident = body.parse()?;
            let _: Token![=] = body.parse()?;
            values.push(Constant {
                name: name.to_string(),
                value: body.parse()?,
                doc: doc(&attrs),
            });
            let _: Token![,] = body.parse()?;
        }
        Ok(OpenEnum(Values {
            name: name.to_string(),
            of,
            doc: doc(&attrs),
            values,
        }))
    }
}

struct Payload(Format);

impl Parse for Payload {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let _: Visibility = input.parse()?;
        let _: Token![struct] = input.parse()?;
        let name: Ident = input.parse()?;
        let _: Token![:] = input.parse()?;
        let size: syn::LitInt = input.parse()?;
        let body;
        syn::braced!(body in input);
        let fields = body.parse_terminated(Field::parse_named, Token![,])?;
        Ok(Payload(Format {
            name: name.to_string(),
            doc: doc(&attrs),
            size: Some(syn::parse_quote!(#size)),
            fields: fields.iter().map(field).collect(),
        }))
    }
}

struct Id24(Part);

impl Parse for Id24 {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let name: Ident = input.parse()?;
        let doc = format!("{} 24 bits of a `u32`.", doc(&attrs));
        Ok(Id24(Part::Number(name.to_string(), syn::parse_quote!(u32), doc)))
    }
}

struct Regs(Vec<Register>);

impl Parse for Regs {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut registers = Vec::new();
        while !input.is_empty() {
            let attrs = input.call(Attribute::parse_outer)?;
            let name: Ident = input.parse()?;
            let _: Token![@] = input.parse()?;
            let offset: syn::LitInt = input.parse()?;
            let _: Token![:] = input.parse()?;
            let width: syn::LitInt = input.parse()?;
            let array = if input.peek(syn::token::Bracket) {
                let inner;
                syn::bracketed!(inner in input);
                let count = inner.parse()?;
                let _: Token![;] = inner.parse()?;
                Some((count, inner.parse()?))
            } else {
                None
            };
            let _: Token![,] = input.parse()?;
            let access: Ident = input.parse()?;
            let _: Token![,] = input.parse()?;
            let word: Ident = input.parse()?;
            assert_eq!(word, "reset");
            let reset = input.parse()?;
            let _: Token![;] = input.parse()?;
            registers.push(Register {
                name: name.to_string(),
                doc: doc(&attrs),
                offset: syn::parse_quote!(#offset),
                width: syn::parse_quote!(#width),
                array,
                access: access.to_string(),
                reset,
            });
        }
        Ok(Regs(registers))
    }
}

struct Layout(Part);

impl Parse for Layout {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let of: Type = input.parse()?;
        let _: Token![,] = input.parse()?;
        let size = input.parse()?;
        let mut offsets = Vec::new();
        while input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let field: Ident = input.parse()?;
            let _: Token![@] = input.parse()?;
            offsets.push((field.to_string(), input.parse()?));
        }
        Ok(Layout(Part::Layout(crate::page::source(&of), size, offsets)))
    }
}

/// The text of documentation comments: paragraphs are kept, lines of one paragraph are joined.
fn doc(attrs: &[Attribute]) -> String {
    let mut text = String::new();
    for attr in attrs {
        let syn::Meta::NameValue(value) = &attr.meta else {
            continue;
        };
        let Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(line),
            ..
        }) = &value.value
        else {
            continue;
        };
        if attr.path().is_ident("doc") {
            let line = line.value();
            let line = line.strip_prefix(' ').unwrap_or(&line);
            text.push_str(line);
            text.push('\n');
        }
    }
    let text = text.split("\n# Examples").next().unwrap_or_default();
    text.trim().to_owned()
}
