// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The dispatch table of a device: the common classes and the driver's additions, merged once at registration (U11).
//!
//! A class that is not there costs 8 bytes, a class's table is as long as its highest method, a method that is not there
//! costs 8 bytes. Dispatch is two bounds checks, three loads and a call.

use crate::call::Call;
use crate::driver::{Driver, Ending};
use crate::failure::Outcome;
use crate::parse::{Layout, NotAdded};
use crate::schema::{class_flags, Access, AttrSchema, ClassSchema, MethodSchema, Target};
use crate::sys::{try_box, Box, NoMemory, Vec};
use crate::wire::{self, class_driver};
use core::fmt;

/// What answers a method.
pub type Handler<D> = fn(&mut Call<'_, D>) -> Outcome;

/// What ends an object of a class, from DESTROY or when the context closes.
pub type Release<D> = fn(&Ending<'_, D>) -> Outcome;

/// A class that somebody implements, wholly or in part.
pub struct ClassOps<D: Driver> {
    /// What the class is. For a common class, the static of [`crate::class`].
    pub schema: &'static ClassSchema,
    /// Methods by number, and what answers them. A method that was there already is replaced.
    pub methods: &'static [(u8, Handler<D>)],
    /// What ends an object; with it, DESTROY works without a handler of its own.
    pub release: Option<Release<D>>,
}

/// Attributes that a driver adds to a method.
pub struct Extension {
    /// The class.
    pub class: u16,
    /// The method.
    pub method: u8,
    /// The attributes, with ids from [`wire::driver_attr`].
    pub attrs: &'static [AttrSchema],
}

/// What a driver takes out of the common table.
pub struct Removal {
    /// The class.
    pub class: u16,
    /// One method of it, or all.
    pub method: Option<u8>,
}

/// What a driver adds, replaces, removes.
pub struct Additions<D: Driver> {
    /// Classes of its own, and common classes that it implements or changes.
    pub classes: &'static [ClassOps<D>],
    /// Attributes of its own for any method.
    pub extensions: &'static [Extension],
    /// What of the common table the device does not have.
    pub removals: &'static [Removal],
}

/// Why a driver's table was refused: a bug of the driver's, or no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No memory.
    NoMemory,
    /// The class id belongs to another driver.
    ForeignClass(u16),
    /// The class's schema has no such method.
    NoSuchMethod(u16, u8),
    /// The method number is out of range.
    BadMethod(u16, u8),
    /// An attribute's id is taken, out of range, or another driver's.
    BadAttr(u16, u8, u16),
    /// An extension or removal names what is not there.
    NothingThere(u16),
}

impl From<NoMemory> for Refusal {
    fn from(_: NoMemory) -> Self {
        Refusal::NoMemory
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoMemory => write!(f, "out of memory"),
            Refusal::ForeignClass(class) => write!(f, "class {class:#x} is not the driver's"),
            Refusal::NoSuchMethod(class, method) => write!(f, "the schema of class {class:#x} has no method {method}"),
            Refusal::BadMethod(class, method) => write!(f, "method {method} of class {class:#x} is out of range"),
            Refusal::BadAttr(class, method, attr) => {
                write!(
                    f,
                    "attribute {attr:#x} of class {class:#x}, method {method}, is taken or out of range"
                )
            }
            Refusal::NothingThere(class) => write!(f, "class {class:#x} or its method is not there"),
        }
    }
}

impl core::error::Error for Refusal {}

/// A method, ready to be dispatched.
pub struct Method<D: Driver> {
    pub(crate) handler: Handler<D>,
    pub(crate) replaced: Option<Handler<D>>,
    pub(crate) schema: &'static MethodSchema,
    pub(crate) class: &'static ClassSchema,
    /// Anybody may call it, and it need not have been asked for.
    pub(crate) open: bool,
    /// It is about no object that exists yet, or about the only one: there is nothing to look up.
    pub(crate) lone: bool,
    /// Attributes that not everybody may give: then the method is not open.
    pub(crate) guarded: Vec<&'static AttrSchema>,
    pub(crate) extension: &'static [AttrSchema],
    pub(crate) layout: Layout,
}

impl<D: Driver> Method<D> {
    /// Its description, without what the driver adds.
    pub fn schema(&self) -> &'static MethodSchema {
        self.schema
    }

    /// Notes what an attribute takes.
    fn guard(&mut self, attr: &'static AttrSchema) -> Result<(), NoMemory> {
        if attr.access != Access::Any {
            self.guarded.push(attr)?;
            self.open = false;
        }
        Ok(())
    }

    /// Its attributes: the schema's, then the driver's.
    pub fn attrs(&self) -> impl Iterator<Item = &'static AttrSchema> {
        self.schema.attrs.iter().chain(self.extension)
    }
}

/// A class, ready to be dispatched.
pub struct Class<D: Driver> {
    pub(crate) schema: &'static ClassSchema,
    pub(crate) release: Option<Release<D>>,
    methods: Vec<Option<Box<Method<D>>>>,
}

impl<D: Driver> Class<D> {
    /// Its description.
    pub fn schema(&self) -> &'static ClassSchema {
        self.schema
    }

    /// The method with that number.
    #[inline]
    pub fn method(&self, number: u8) -> Option<&Method<D>> {
        self.methods.get(usize::from(number))?.as_deref()
    }

    /// The same, by a number that may be any: no table is longer than there are methods.
    #[inline]
    pub(crate) fn called(&self, number: u32) -> Option<&Method<D>> {
        self.methods.get(number as usize)?.as_deref()
    }

    /// Numbers that the class's table has room for: those up to its highest method.
    pub fn slots(&self) -> usize {
        self.methods.len()
    }

    /// All methods, by number.
    pub fn methods(&self) -> impl Iterator<Item = &Method<D>> {
        self.methods.iter().filter_map(|method| method.as_deref())
    }
}

/// The table of a device.
pub struct Table<D: Driver> {
    common: Vec<Option<Box<Class<D>>>>,
    own: Vec<Option<Box<Class<D>>>>,
}

impl<D: Driver> Table<D> {
    /// Merges the common table and the driver's.
    ///
    /// # Errors
    ///
    /// A contradiction in the driver's table, or no memory.
    pub fn compile(common: &[ClassOps<D>], additions: &Additions<D>) -> Result<Self, Refusal> {
        let mut table = Table {
            common: Vec::new(),
            own: Vec::new(),
        };
        for ops in common {
            if !D::SYSTEM_WIDE || ops.schema.flags & class_flags::GLOBAL != 0 {
                table.merge(ops)?;
            }
        }
        for removal in additions.removals {
            table.remove(removal)?;
        }
        for ops in additions.classes {
            table.merge(ops)?;
        }
        for extension in additions.extensions {
            table.extend(extension)?;
        }
        Ok(table)
    }

    /// The class with that id.
    #[inline]
    pub fn class(&self, id: u16) -> Option<&Class<D>> {
        let (classes, number) = match class_driver(id) {
            None => (&self.common, id),
            Some(driver) if driver == D::ID => (&self.own, id & 0xff),
            Some(_) => return None,
        };
        classes.get(usize::from(number))?.as_deref()
    }

    /// All classes, the common ones first, by id.
    pub fn classes(&self) -> impl Iterator<Item = &Class<D>> {
        self.common
            .iter()
            .chain(self.own.iter())
            .filter_map(|class| class.as_deref())
    }

    fn place(&mut self, id: u16) -> Result<&mut Option<Box<Class<D>>>, Refusal> {
        let (classes, number) = match class_driver(id) {
            None => (&mut self.common, usize::from(id)),
            Some(driver) if driver == D::ID => (&mut self.own, usize::from(id & 0xff)),
            Some(_) => return Err(Refusal::ForeignClass(id)),
        };
        // Common ids are below 256 too: the table's length is bounded by what a driver can name.
        if number > 0xff {
            return Err(Refusal::ForeignClass(id));
        }
        while classes.len() <= number {
            classes.push(None)?;
        }
        Ok(&mut classes[number])
    }

    fn merge(&mut self, ops: &ClassOps<D>) -> Result<(), Refusal> {
        let schema = ops.schema;
        let place = self.place(schema.id)?;
        if place.is_none() {
            *place = Some(try_box(Class {
                schema,
                release: None,
                methods: Vec::new(),
            })?);
        }
        let Some(class) = place else {
            unreachable!("it was made above")
        };
        for &(number, handler) in ops.methods {
            class.set(number, handler)?;
        }
        if ops.release.is_some() {
            class.release = ops.release;
            let destroy = wire::method::DESTROY;
            if schema.method(destroy).is_some() && class.method(destroy).is_none() {
                class.set(destroy, crate::common::destroy::<D>)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, removal: &Removal) -> Result<(), Refusal> {
        let place = self.place(removal.class)?;
        let class = place.as_mut().ok_or(Refusal::NothingThere(removal.class))?;
        match removal.method {
            None => *place = None,
            Some(number) => match class.methods.get_mut(usize::from(number)) {
                Some(method) if method.is_some() => *method = None,
                _ => return Err(Refusal::NothingThere(removal.class)),
            },
        }
        Ok(())
    }

    fn extend(&mut self, extension: &Extension) -> Result<(), Refusal> {
        let place = self.place(extension.class)?;
        let class = place.as_mut().ok_or(Refusal::NothingThere(extension.class))?;
        let Some(Some(method)) = class.methods.get_mut(usize::from(extension.method)) else {
            return Err(Refusal::NothingThere(extension.class));
        };
        method.extension = extension.attrs;
        for attr in extension.attrs {
            method.guard(attr)?;
            if attr.spec.id & wire::ATTR_DRIVER == 0 {
                return Err(Refusal::BadAttr(extension.class, extension.method, attr.spec.id));
            }
            add(&mut method.layout, attr, extension.class, extension.method)?;
        }
        Ok(())
    }
}

impl<D: Driver> Class<D> {
    fn set(&mut self, number: u8, handler: Handler<D>) -> Result<(), Refusal> {
        let id = self.schema.id;
        if number >= wire::method::END {
            return Err(Refusal::BadMethod(id, number));
        }
        while self.methods.len() <= usize::from(number) {
            self.methods.push(None)?;
        }
        let place = &mut self.methods[usize::from(number)];
        if let Some(method) = place {
            method.replaced = Some(method.handler);
            method.handler = handler;
            return Ok(());
        }
        let schema = self.schema.method(number).ok_or(Refusal::NoSuchMethod(id, number))?;
        let mut layout = Layout::new(D::ID);
        let open = schema.access == Access::Any && number < wire::method::EXPERIMENTAL;
        let lone = matches!(schema.target, Target::New | Target::Only);
        let mut method = try_box(Method {
            handler,
            replaced: None,
            schema,
            class: self.schema,
            open,
            lone,
            guarded: Vec::new(),
            extension: &[],
            layout: Layout::new(D::ID),
        })?;
        for attr in schema.attrs {
            method.guard(attr)?;
            add(&mut layout, attr, id, number)?;
        }
        method.layout = layout;
        *place = Some(method);
        Ok(())
    }
}

fn add(layout: &mut Layout, attr: &AttrSchema, class: u16, method: u8) -> Result<(), Refusal> {
    layout.add(attr).map_err(|not| match not {
        NotAdded::BadId => Refusal::BadAttr(class, method, attr.spec.id),
        NotAdded::NoMemory => Refusal::NoMemory,
    })
}
