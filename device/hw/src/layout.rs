// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//! Compile-time assertions of sizes and offsets, and the shape that open enumerations share.

/// Asserts, at compile time, the size of a format and the offsets of its fields.
macro_rules! assert_layout {
    ($t:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$t>() == $size);
            $(assert!(core::mem::offset_of!($t, $field) == $offset);)*
        };
    };
}

/// Declares an open enumeration: a peer may write any value, so unknown ones are representable and have no name.
macro_rules! open_enum {
    ($(#[$m:meta])* $vis:vis struct $name:ident($int:ty) { $($(#[$vm:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes, zerocopy_derive::Immutable, zerocopy_derive::KnownLayout)]
        #[repr(transparent)]
        $vis struct $name(pub $int);

        impl $name {
            $($(#[$vm])* pub const $variant: Self = Self($value);)*

            /// Every value that has a name, with that name, in the order of declaration.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, stringify!($variant)),)*];

            /// The value's name, or `None` for a value that this version does not know.
            pub fn name(self) -> Option<&'static str> {
                let mut i = 0;
                while i < Self::ALL.len() {
                    if Self::ALL[i].0 == self {
                        return Some(Self::ALL[i].1);
                    }
                    i += 1;
                }
                None
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}({:#x})", stringify!($name), self.0),
                }
            }
        }
    };
}

/// Declares a module of `u32` constants whose names can be looked up.
macro_rules! named {
    ($(#[$m:meta])* pub mod $module:ident { $($(#[$vm:meta])* pub const $name:ident: u32 = $value:expr;)* }) => {
        $(#[$m])*
        pub mod $module {
            $($(#[$vm])* pub const $name: u32 = $value;)*

            /// The value's name, or `None` for a value that this version does not know.
            pub fn name(value: u32) -> Option<&'static str> {
                const ALL: &[(u32, &str)] = &[$(($name, stringify!($name)),)*];
                ALL.iter().find(|known| known.0 == value).map(|known| known.1)
            }
        }
    };
}

pub(crate) use assert_layout;
pub(crate) use named;
pub(crate) use open_enum;
