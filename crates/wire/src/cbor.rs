//! Numbered CBOR maps: the shape of every control message.
//!
//! A reader takes keys in strictly ascending order, skips those it does not know and refuses
//! indefinite lengths, repeated keys and bytes after the map. Nothing is allocated by a number from
//! the wire: arrays are read element by element against a limit, strings borrow from the frame.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::error::{Error, Invalid, Result};
use crate::frame::Kind;

/// Reads the maps of one message.
pub(crate) struct Reader<'b> {
    decoder: Decoder<'b>,
    kind: Kind,
}

/// A map being read: which key may come next.
#[derive(Default)]
pub(crate) struct Keys {
    left: u64,
    last: Option<u64>,
}

impl<'b> Reader<'b> {
    pub(crate) fn new(kind: Kind, payload: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(payload), kind }
    }

    /// A `BAD_FRAME` at the current offset.
    pub(crate) fn bad(&self, rule: &'static str) -> Error {
        let offset = self.decoder.position() as u64;
        Invalid::BadFrame { kind: self.kind.number(), rule, offset }.into()
    }

    fn check<T>(
        &mut self,
        rule: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> std::result::Result<T, minicbor::decode::Error>,
    ) -> Result<T> {
        let at = self.decoder.position();
        read(&mut self.decoder).map_err(|_| {
            self.decoder.set_position(at);
            self.bad(rule)
        })
    }

    /// Begins a map.
    pub(crate) fn map(&mut self) -> Result<Keys> {
        let left = self.check("map expected", Decoder::map)?;
        let left = left.ok_or_else(|| self.bad("indefinite length"))?;
        Ok(Keys { left, last: None })
    }

    /// The next key of a map, `None` at its end.
    pub(crate) fn key(&mut self, keys: &mut Keys) -> Result<Option<u64>> {
        if keys.left == 0 {
            return Ok(None);
        }
        keys.left -= 1;
        let key = self.check("unsigned key expected", Decoder::u64)?;
        if keys.last.is_some_and(|last| last >= key) {
            return Err(self.bad("keys not ascending"));
        }
        keys.last = Some(key);
        Ok(Some(key))
    }

    /// Begins an array of at most `items_max` items.
    pub(crate) fn array(&mut self, items_max: usize, rule: &'static str) -> Result<usize> {
        let items = self.check("array expected", Decoder::array)?;
        let items = items.ok_or_else(|| self.bad("indefinite length"))?;
        match usize::try_from(items) {
            Ok(items) if items <= items_max => Ok(items),
            _ => Err(self.bad(rule)),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.check("u8 expected", Decoder::u8)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.check("u16 expected", Decoder::u16)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.check("u32 expected", Decoder::u32)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.check("u64 expected", Decoder::u64)
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.check("i64 expected", Decoder::i64)
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        self.check("bool expected", Decoder::bool)
    }

    pub(crate) fn bytes(&mut self, bytes_max: usize, rule: &'static str) -> Result<&'b [u8]> {
        let bytes = self.check("byte string expected", Decoder::bytes)?;
        if bytes.len() > bytes_max { Err(self.bad(rule)) } else { Ok(bytes) }
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.check("byte string expected", Decoder::bytes)?;
        bytes.try_into().map_err(|_| self.bad("byte string of another length expected"))
    }

    pub(crate) fn text(&mut self, bytes_max: usize) -> Result<&'b str> {
        let text = self.check("text expected", Decoder::str)?;
        if text.len() > bytes_max { Err(self.bad("text too long")) } else { Ok(text) }
    }

    /// Passes over one value of any definite shape, however deep, without recursion or memory.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            let more = match self.check("value expected", |d| d.datatype())? {
                Type::Array => self.check("array expected", Decoder::array)?.unwrap_or(0),
                Type::Map => {
                    let entries = self.check("map expected", Decoder::map)?.unwrap_or(0);
                    entries.checked_mul(2).ok_or_else(|| self.bad("length overflows"))?
                }
                Type::Tag => self.check("tag expected", Decoder::tag).map(|_| 1)?,
                Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef => {
                    return Err(self.bad("indefinite length"));
                }
                Type::Break | Type::Unknown(_) => return Err(self.bad("value expected")),
                // What is left holds no further values.
                _ => self.check("value expected", Decoder::skip).map(|()| 0)?,
            };
            left = left.checked_add(more).ok_or_else(|| self.bad("length overflows"))?;
        }
        Ok(())
    }

    /// Nothing may follow the map.
    pub(crate) fn end(&self) -> Result<()> {
        if self.decoder.position() == self.decoder.input().len() {
            Ok(())
        } else {
            Err(self.bad("bytes after the message"))
        }
    }

    /// A field that must be there.
    pub(crate) fn need<T>(&self, field: Option<T>, rule: &'static str) -> Result<T> {
        field.ok_or_else(|| self.bad(rule))
    }
}

/// Writes the maps of one message behind room for the frame's header.
pub(crate) struct Writer<'a>(Encoder<&'a mut Vec<u8>>);

const MEMORY: &str = "writing to memory can't fail";

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self(Encoder::new(out))
    }

    pub(crate) fn map(&mut self, entries: usize) -> &mut Self {
        self.0.map(entries as u64).expect(MEMORY);
        self
    }

    pub(crate) fn array(&mut self, items: usize) -> &mut Self {
        self.0.array(items as u64).expect(MEMORY);
        self
    }

    pub(crate) fn uint(&mut self, value: impl Into<u64>) -> &mut Self {
        self.0.u64(value.into()).expect(MEMORY);
        self
    }

    pub(crate) fn int(&mut self, value: i64) -> &mut Self {
        self.0.i64(value).expect(MEMORY);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.0.bool(value).expect(MEMORY);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.bytes(value).expect(MEMORY);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.0.str(value).expect(MEMORY);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8]) -> Result<usize> {
        let mut reader = Reader::new(Kind::Ping, bytes);
        reader.skip()?;
        Ok(reader.decoder.position())
    }

    #[test]
    fn unknown_values_are_skipped_whatever_their_depth() {
        assert_eq!(skip(&[0x18, 0xff]), Ok(2));
        assert_eq!(skip(&[0xa1, 0x01, 0x82, 0x63, b'a', b'b', b'c', 0xf6, 0x05]), Ok(8));
        let mut deep = vec![0x81; 1 << 20];
        deep.push(0x00);
        assert_eq!(skip(&deep), Ok(deep.len()));
        assert_eq!(skip(&[0xc1, 0xfb, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(10));
        for bad in [
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00][..],
            &[0xbb, 0x80, 0, 0, 0, 0, 0, 0, 0][..],
            &[0x9f, 0xff],
            &[0x5f, 0xff],
            &[0xff],
            &[],
        ] {
            assert_eq!(skip(bad).expect_err("bad").code(), "BAD_FRAME", "{bad:x?}");
        }
    }

    #[test]
    fn keys_ascend() {
        let mut reader = Reader::new(Kind::Ping, &[0xa2, 1, 7, 1, 8]);
        let mut keys = reader.map().unwrap();
        assert_eq!(reader.key(&mut keys), Ok(Some(1)));
        assert_eq!(reader.u64(), Ok(7));
        assert_eq!(reader.key(&mut keys).expect_err("repeated").code(), "BAD_FRAME");
    }
}
