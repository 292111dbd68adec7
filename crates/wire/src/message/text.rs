//! Texts of a peer: bounded and without control characters, so that a log line stays one line.

use std::fmt;

use crate::cbor::Reader;
use crate::error::{Invalid, Result};
use crate::limits::{ADDRESS_BYTES_MAX, NODE_NAME_BYTES_MAX, TEXT_BYTES_MAX};

/// A text for people: at most [`TEXT_BYTES_MAX`] bytes, no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Makes a text of anything: control characters become `?`, what is too long is cut off.
    pub fn new(text: &str) -> Self {
        let mut short = String::new();
        for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
            if short.len() + c.len_utf8() > TEXT_BYTES_MAX {
                break;
            }
            short.push(c);
        }
        Self(short)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let text = reader.text(TEXT_BYTES_MAX)?;
        if text.chars().any(char::is_control) {
            return Err(reader.bad("control character in text"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// The rule for node names: as for stores.
pub(crate) fn check_node_name(name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let good = plain && (1..=NODE_NAME_BYTES_MAX).contains(&name.len());
    if good && !name.starts_with(['.', '-']) {
        Ok(())
    } else {
        Err(Invalid::BadName { what: "the node's name" }.into())
    }
}

pub(crate) fn read_node_name(reader: &mut Reader<'_>) -> Result<String> {
    let name = reader.text(ADDRESS_BYTES_MAX)?;
    check_node_name(name)?;
    Ok(name.to_owned())
}

/// Printable ASCII without spaces, 1 to `bytes_max` bytes.
pub(crate) fn check_word(word: &str, bytes_max: usize, what: &'static str) -> Result<()> {
    let good = (1..=bytes_max).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
    if good { Ok(()) } else { Err(Invalid::BadName { what }.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_bounded_line() {
        assert_eq!(Text::new("disk\nfull\u{1b}[2J").as_str(), "disk?full?[2J");
        for unit in ["x", "\u{e9}", "\u{1f600}"] {
            let text = Text::new(&unit.repeat(TEXT_BYTES_MAX));
            assert!(text.as_str().len() <= TEXT_BYTES_MAX);
            assert!(text.as_str().len() > TEXT_BYTES_MAX - 4);
        }
    }

    #[test]
    fn node_names_follow_the_rule() {
        for bad in ["", ".", "-x", "a b", "a/b", "a\nb", &"x".repeat(NODE_NAME_BYTES_MAX + 1)] {
            assert_eq!(check_node_name(bad).expect_err(bad).code(), "BAD_NAME");
        }
        assert_eq!(check_node_name(&"x".repeat(NODE_NAME_BYTES_MAX)), Ok(()));
    }
}
