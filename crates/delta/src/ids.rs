//! Identities: fixed-size values that name a content, a node, a store or a chunk. They print and
//! parse as text in one way each.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER_PERMISSIVE};

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: expected {expected}")]
pub struct IdError {
    /// What was to be parsed.
    pub what: &'static str,
    /// The form it should have.
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $codec:expr, $expected:literal, $case:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first eight characters of the text form, for people.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&$codec.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = IdError { what: stringify!($name), expected: $expected };
                let bytes = $codec.decode(text.$case().as_bytes()).map_err(|_| wrong.clone())?;
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }
    };
}

id!(
    /// The standard BLAKE3 of a whole image: what `b3sum` prints.
    Root, 32, HEXLOWER_PERMISSIVE, "64 hexadecimal digits", to_ascii_lowercase
);
impl Root {
    /// The BLAKE3 of nothing: what stands for the content of an image that was deleted.
    pub const NOTHING: Self = Self([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9,
        0x49, 0x9b, 0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f,
        0x32, 0x62,
    ]);
}

id!(
    /// The BLAKE3 subtree value of one block (of an image of a single block: the root itself).
    BlockHash, 32, HEXLOWER_PERMISSIVE, "64 hexadecimal digits", to_ascii_lowercase
);
id!(
    /// A node: SHA-256 of its public key (SPKI).
    NodeId, 32, BASE32_NOPAD, "52 base32 characters", to_ascii_uppercase
);
id!(
    /// A store, the same on every member whatever it is called there.
    StoreId, 16, HEXLOWER_PERMISSIVE, "32 hexadecimal digits", to_ascii_lowercase
);

/// The secret of a store: it keys page fingerprints and chunk ids. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw secret.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

/// Keyed 64-bit id of a chunk's bytes. A hint: equal ids suggest equal bytes, a block hash proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_print_and_parse() {
        let root = Root::from_bytes(*blake3::hash(b"abc").as_bytes());
        assert_eq!(root.to_string(), blake3::hash(b"abc").to_hex().as_str());
        assert_eq!(root.to_string().to_uppercase().parse(), Ok(root));
        let node = NodeId::from_bytes([7; 32]);
        assert_eq!(node.to_string().len(), 52);
        assert_eq!(node.to_string().to_lowercase().parse(), Ok(node));
        for bad in ["", "zz", "00", &"0".repeat(63), &"0".repeat(66), "\u{e4}"] {
            assert!(bad.parse::<Root>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_store_key_is_never_printed() {
        assert_eq!(format!("{:?}", StoreKey::from_bytes([3; 32])), "StoreKey(..)");
    }
}
