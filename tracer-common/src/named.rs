//! Defines enums whose values are indices or on the wire, with a name for each variant.

/// Defines an enum from its variants, in order, each with its name: `First = 0 => "first"`, and after the first one
/// `Second => "second"`. It has `COUNT`, `ALL` in order, `name()`, and `from_wire()`, which is `None` for a value that no
/// variant has.
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $name:ident: $int:ty {
            $(#[$first_about:meta])*
            $first:ident = $value:literal => $first_name:literal,
            $($(#[$variant_about:meta])* $variant:ident => $variant_name:literal,)*
        }
    ) => {
        $(#[$about])*
        #[repr($int)]
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name {
            $(#[$first_about])*
            $first = $value,
            $($(#[$variant_about])* $variant,)*
        }

        impl $name {
            /// Number of variants.
            pub const COUNT: usize = Self::ALL.len();
            /// All variants, in the order of their values.
            pub const ALL: [Self; [$first_name $(, $variant_name)*].len()] =
                [Self::$first $(, Self::$variant)*];

            /// The variant's name in output and documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::$first => $first_name,
                    $(Self::$variant => $variant_name,)*
                }
            }

            /// The variant with this value; `None`: no variant has it.
            pub fn from_wire(value: $int) -> Option<Self> {
                Self::ALL.get((value as usize).checked_sub($value)?).copied()
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    use crate::PortBy;

    #[test]
    fn all_are_in_order_with_their_names_and_values() {
        assert_eq!(PortBy::COUNT, 4);
        assert_eq!(PortBy::ALL.map(PortBy::name), ["connect", "bind", "listen", "spread"]);
        assert_eq!(PortBy::ALL.map(|by| by as u8), [1, 2, 3, 4]);
        let of = [0, 1, 4, 5].map(PortBy::from_wire);
        assert_eq!(of, [None, Some(PortBy::Connect), Some(PortBy::Spread), None]);
    }
}
