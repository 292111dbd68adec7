//! Reading numbers, ids and texts out of structures of a header, with bounds: a structure is read
//! as a whole, a field of it is named when it breaks a rule, and one budget bounds what is read of
//! an image altogether.

use std::cell::Cell;

use super::{DiskId, Format, HEADER_READS_BYTES_MAX, HeaderError, LOCATOR_BYTES_MAX, ReadAt};

/// The unit of all three formats' headers, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// An image, and how much more may be read of it.
pub(crate) struct Source<'a> {
    image: &'a dyn ReadAt,
    left_bytes: Cell<u64>,
}

/// What was read of one structure.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    format: Format,
    name: &'static str,
    at: u64,
    bytes: Vec<u8>,
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(image: &'a dyn ReadAt) -> Self {
        Self { image, left_bytes: Cell::new(HEADER_READS_BYTES_MAX) }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    /// Reads the structure `name` of `bytes` bytes at `at`. The callers hold `bytes` against a limit
    /// of their own, or it is a constant.
    pub(super) fn fields(
        &self,
        format: Format,
        name: &'static str,
        at: u64,
        bytes: usize,
    ) -> Result<Fields, HeaderError> {
        let bad = |rule| HeaderError::Bad { format, field: name, at, rule };
        let end = at.checked_add(bytes as u64).filter(|end| *end <= self.size_bytes());
        end.ok_or_else(|| bad("it reaches beyond the end of the file"))?;
        let left = self.left_bytes.get().checked_sub(bytes as u64);
        self.left_bytes.set(left.ok_or_else(|| bad("there is more of it than is ever read"))?);
        let mut buf = vec![0; bytes];
        self.image.read_exact_at(&mut buf, at)?;
        Ok(Fields { format, name, at, bytes: buf })
    }

    /// Reads a text of `bytes` bytes.
    pub(super) fn text(
        &self,
        format: Format,
        name: &'static str,
        at: u64,
        bytes: usize,
    ) -> Result<Fields, HeaderError> {
        if bytes > LOCATOR_BYTES_MAX {
            return Err(HeaderError::Bad { format, field: name, at, rule: "it is too long" });
        }
        self.fields(format, name, at, bytes)
    }
}

impl Fields {
    /// The structure breaks a rule at its byte `offset`.
    pub(super) fn bad(&self, offset: usize, rule: &'static str) -> HeaderError {
        let at = self.at.saturating_add(offset as u64);
        HeaderError::Bad { format: self.format, field: self.name, at, rule }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn starts_with(&self, magic: &[u8]) -> bool {
        self.bytes.starts_with(magic)
    }

    fn part<const N: usize>(&self, offset: usize) -> Result<[u8; N], HeaderError> {
        let part = self.bytes.get(offset..).and_then(|rest| rest.first_chunk());
        part.copied().ok_or_else(|| self.bad(offset, "the structure ends before it"))
    }

    pub(super) fn be32(&self, offset: usize) -> Result<u32, HeaderError> {
        Ok(self.part::<4>(offset)?.iter().fold(0, |n, byte| n << 8 | u32::from(*byte)))
    }

    pub(super) fn be64(&self, offset: usize) -> Result<u64, HeaderError> {
        Ok(self.part::<8>(offset)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    pub(super) fn le16(&self, offset: usize) -> Result<u16, HeaderError> {
        self.part(offset).map(u16::from_le_bytes)
    }

    pub(super) fn le32(&self, offset: usize) -> Result<u32, HeaderError> {
        self.part(offset).map(u32::from_le_bytes)
    }

    pub(super) fn le64(&self, offset: usize) -> Result<u64, HeaderError> {
        self.part(offset).map(u64::from_le_bytes)
    }

    pub(super) fn id(&self, offset: usize) -> Result<DiskId, HeaderError> {
        self.part(offset).map(DiskId)
    }

    /// All of it as text in UTF-8.
    pub(super) fn utf8(&self) -> Result<String, HeaderError> {
        let text = std::str::from_utf8(&self.bytes);
        let text = text.map_err(|error| self.bad(error.valid_up_to(), "it is not UTF-8"))?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// `bytes` bytes of it as text in UTF-16, to the first NUL; a half unit at the end is left out.
    /// What is no character counts as U+FFFD: such a path names nothing.
    pub(super) fn utf16(&self, offset: usize, bytes: usize, order: ByteOrder) -> String {
        let end = offset.saturating_add(bytes).min(self.bytes.len());
        let (units, _) = self.bytes.get(offset..end).unwrap_or_default().as_chunks::<2>();
        let unit = |pair: &[u8; 2]| match order {
            ByteOrder::Little => u16::from_le_bytes(*pair),
            ByteOrder::Big => u16::from(pair[0]) << 8 | u16::from(pair[1]),
        };
        let units = units.iter().map(unit).take_while(|unit| *unit != 0);
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }
}

/// Which byte of a unit comes first.
#[derive(Clone, Copy)]
pub(super) enum ByteOrder {
    Little,
    Big,
}
