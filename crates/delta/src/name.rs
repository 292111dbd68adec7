//! Names of images and stores. One rule on every platform and on the wire, so that no name can
//! leave its directory, hide, look like an option or differ only by normalisation.

use std::fmt;
use std::str::FromStr;

/// Bytes of the longest image name.
pub const IMAGE_NAME_BYTES_MAX: usize = 128;
/// Bytes of the longest store name.
pub const STORE_NAME_BYTES_MAX: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "bad name {escaped}: 1 to {bytes_max} of A-Z a-z 0-9 . _ - that don't start with . or -, \
     and no name that Windows reserves"
)]
pub struct NameError {
    /// The text with everything outside printable ASCII escaped.
    pub escaped: String,
    /// The bound it was held against, in bytes.
    pub bytes_max: usize,
}

fn check(text: &str, bytes_max: usize) -> Result<(), NameError> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let good = plain && (1..=bytes_max).contains(&text.len()) && !text.starts_with(['.', '-']);
    if good && !is_device(text) {
        return Ok(());
    }
    let escaped = text.chars().take(bytes_max + 8).flat_map(char::escape_default).collect();
    Err(NameError { escaped, bytes_max })
}

/// `CON`, `nul.vhd` and their kin can't be files on Windows, whatever their extension.
fn is_device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| matches!(n.as_bytes(), [b'1'..=b'9']))
    };
    ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule for names.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text, $max).map(|()| Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// The name of an image: a file directly in a store.
    ImageName, IMAGE_NAME_BYTES_MAX
);
name!(
    /// The name of a store, known to every member.
    StoreName, STORE_NAME_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_do_harm_are_refused() {
        let long = "x".repeat(129);
        let bad = [
            "",
            ".",
            "..",
            "/etc/passwd",
            "a/../b",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            "-rf",
            ".marker",
            "\u{e9}",
            "CON",
            "nul.vhd",
            "lpt1",
            "Com9.img",
            "a b",
            "a\\b",
            long.as_str(),
        ];
        for text in bad {
            let error = ImageName::new(text).expect_err(text);
            assert!(error.escaped.is_ascii() && !error.escaped.contains('\n'), "{error}");
        }
        for text in ["win11.vhdx", "a", "COM", "com10.img", "_x-1", "x".repeat(128).as_str()] {
            assert_eq!(ImageName::new(text).expect(text).as_str(), text);
        }
        assert!(StoreName::new(&"s".repeat(65)).is_err());
    }
}
