//! Enums whose values have a name that is stored and shown; each name is written once.

/// Gives an enum the names of its values, the way from a name to the value, and the list of all names.
macro_rules! closed_set {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// Every name, as it is stored and shown.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Name as it is stored and shown.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Value of this name; `None` if there is none.
            #[must_use]
            pub fn from_name(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(in crate::domain) use closed_set;
