//! Headers of disk images: what VHD, VHDX and qcow2 files say about themselves and about the image
//! they build upon. Sets are made of it, and what must not be published is known by it.
//!
//! Pure: bytes come through [`ReadAt`]. Every length is held against a named limit before anything
//! is allocated; at most [`HEADER_READS_BYTES_MAX`] bytes are read of an image, whatever it says.
//! Malformed input gives a [`HeaderError`] that says what is wrong and where, never a panic.

mod fields;
mod qcow2;
mod vhd;
mod vhdx;

use std::fmt;
use std::io;

pub(crate) use fields::{Fields, Source};

/// Bytes of the longest path of a parent that is read: what a VHDX locator can say.
pub const LOCATOR_BYTES_MAX: usize = 1 << 16;
/// Paths of a parent that are read; a VHD has room for eight and a name.
pub const LOCATORS_MAX: usize = 16;
/// Bytes that are read of one image at most, over all its structures.
pub const HEADER_READS_BYTES_MAX: u64 = 2 << 20;

// The largest header there is: both headers and region tables of a VHDX, the metadata table, the
// locator's table and all its texts.
const _: () = assert!(
    HEADER_READS_BYTES_MAX
        > (2 * 4096 + 3 * (64 << 10) + 2 * LOCATORS_MAX * LOCATOR_BYTES_MAX / 2 + 4096) as u64
);

/// Where an image's bytes come from.
pub trait ReadAt {
    /// Bytes of the image's file.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Whatever reading meets, the file's end above all.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(buf.len()).and_then(|end| self.get(start..end));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The formats whose headers are read. Whatever is none of them counts as raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Microsoft's first: a footer, and for all but the fixed kind a copy of it at the start.
    Vhd,
    /// Microsoft's second.
    Vhdx,
    /// QEMU's, versions 2 and 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vhd => "VHD",
            Self::Vhdx => "VHDX",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// What names a state of a disk: the unique id of a VHD, the DataWriteGuid of a VHDX (as it lies in
/// the file). A child remembers its parent's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub [u8; 16]);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In which way a path names a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocatorKind {
    /// From the child's directory.
    Relative,
    /// From the root of a host.
    Absolute,
    /// By the id of a volume of a host.
    Volume,
    /// The field for the parent's name in a VHD: a bare name or a path.
    Name,
}

/// One path that a child remembers of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    /// Its kind.
    pub kind: LocatorKind,
    /// The path, as it is written. Comes from outside: to be escaped wherever it is shown.
    pub path: String,
}

/// What a child says about the image it builds upon.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ParentLink {
    /// Every path it remembers.
    pub locators: Vec<Locator>,
    /// What the parent's id must be; a VHDX may name two, for the time of a change of the parent.
    /// None: the format knows no ids.
    pub ids: Vec<DiskId>,
    /// When the parent's file was modified last, in seconds since 2000 (VHD). `None`: not said.
    pub modified_2000_s: Option<u32>,
    /// The format that the parent is to be read as (qcow2): such as `raw`.
    pub format: Option<String>,
}

/// Why the bytes of an image are not what its users would see after closing it well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclean {
    /// A VHDX with something in its log: open, or not closed well.
    Log,
    /// A qcow2 with the dirty bit: open with lazy refcounts, or not closed well.
    Dirty,
    /// A qcow2 that was marked as corrupt.
    Corrupt,
}

impl fmt::Display for Unclean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "its log is not empty",
            Self::Dirty => "its dirty bit is set",
            Self::Corrupt => "it is marked as corrupt",
        })
    }
}

/// What an image's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub format: Format,
    /// Bytes of the disk that a machine sees.
    pub virtual_bytes: u64,
    /// What a child remembers as its parent's id; `None`: the format knows none.
    pub id: Option<DiskId>,
    /// What it builds upon, if anything.
    pub parent: Option<ParentLink>,
    /// A file beside it that holds its data (qcow2).
    pub data_file: Option<String>,
    /// Whether it was closed well.
    pub unclean: Option<Unclean>,
}

/// Why a header can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The bytes can't be read.
    #[error("the header can't be read: {0}")]
    Read(#[from] io::Error),
    /// They break a rule of the format.
    #[error("{format} header: {field} at byte {at}: {rule}")]
    Bad {
        /// The format that it began as.
        format: Format,
        /// The field or structure.
        field: &'static str,
        /// Where that begins in the file, in bytes.
        at: u64,
        /// The rule.
        rule: &'static str,
    },
}

/// Reads what an image says about itself; `None`: it has no header of a known format.
///
/// # Errors
/// The bytes can't be read, or begin as a known format and break its rules.
pub fn read_header(image: &(impl ReadAt + ?Sized)) -> Result<Option<Header>, HeaderError> {
    let source = Source::new(&image);
    if source.size_bytes() < fields::SECTOR_BYTES as u64 {
        return Ok(None);
    }
    let first = source.fields(Format::Qcow2, "first sector", 0, fields::SECTOR_BYTES)?;
    if first.starts_with(qcow2::MAGIC) {
        return qcow2::read(&source).map(Some);
    }
    if first.starts_with(vhdx::SIGNATURE) {
        return vhdx::read(&source).map(Some);
    }
    vhd::read(&source, first)
}
