//! VHD (Virtual Hard Disk Image Format Specification 1.0): the footer at the end, its copy at the
//! start of all but fixed disks, the sparse header with the parent's id, time stamp and paths.
//! Numbers are big-endian; the paths of Windows are UTF-16, the name of the parent big-endian, the
//! locators' texts little-endian.

use super::fields::{ByteOrder, SECTOR_BYTES};
use super::{
    Fields, Format, Header, HeaderError, LOCATOR_BYTES_MAX, Locator, LocatorKind, ParentLink,
    Source,
};

const FORMAT: Format = Format::Vhd;
const COOKIE: &[u8] = b"conectix";
const SPARSE_COOKIE: &[u8] = b"cxsparse";
const SPARSE_BYTES: usize = 1024;

/// Fields of the footer.
const DATA_OFFSET: usize = 16;
const CURRENT_SIZE: usize = 48;
const DISK_TYPE: usize = 60;
const CHECKSUM: usize = 64;
const UNIQUE_ID: usize = 68;

/// Kinds of disks.
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// Fields of the sparse header.
const SPARSE_CHECKSUM: usize = 36;
const PARENT_ID: usize = 40;
const PARENT_TIME: usize = 56;
const PARENT_NAME: usize = 64;
const PARENT_NAME_BYTES: usize = 512;
const LOCATORS: usize = 576;
const LOCATOR_ENTRY_BYTES: usize = 24;
const LOCATOR_ENTRIES: usize = 8;

/// Reads a VHD; `None`: there is neither a footer nor its copy.
pub(super) fn read(source: &Source<'_>, first: Fields) -> Result<Option<Header>, HeaderError> {
    let end = source.size_bytes() - SECTOR_BYTES as u64;
    let last = source.fields(FORMAT, "footer", end, SECTOR_BYTES)?;
    let copy = source.fields(FORMAT, "copy of the footer", 0, SECTOR_BYTES)?;
    let at_end = last.starts_with(COOKIE);
    if !at_end && !first.starts_with(COOKIE) {
        return Ok(None);
    }
    let whole = |fields: &Fields| fields.starts_with(COOKIE) && adds_up(fields.bytes(), CHECKSUM);
    let footer = match (whole(&last), whole(&copy)) {
        (true, _) => last,
        (false, true) => copy,
        (false, false) if at_end => return Err(last.bad(CHECKSUM, "the checksum is wrong")),
        (false, false) => return Err(copy.bad(CHECKSUM, "the checksum is wrong")),
    };
    let parent = match footer.be32(DISK_TYPE)? {
        FIXED => None,
        kind @ (DYNAMIC | DIFFERENCING) => {
            let sparse = sparse_header(source, &footer)?;
            if kind == DIFFERENCING { Some(parent_of(source, &sparse)?) } else { None }
        }
        _ => return Err(footer.bad(DISK_TYPE, "a disk is fixed, dynamic or differencing")),
    };
    Ok(Some(Header {
        format: FORMAT,
        virtual_bytes: footer.be64(CURRENT_SIZE)?,
        id: Some(footer.id(UNIQUE_ID)?),
        parent,
        data_file: None,
        unclean: None,
    }))
}

/// The checksum of a structure: the complement of the sum of its bytes, those of the checksum
/// itself left out.
fn adds_up(bytes: &[u8], checksum: usize) -> bool {
    let sum = |part: &[u8]| part.iter().fold(0_u32, |n, byte| n.wrapping_add(u32::from(*byte)));
    let (before, rest) = bytes.split_at(checksum);
    let (said, after) = rest.split_at(4);
    let said = said.iter().fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
    !sum(before).wrapping_add(sum(after)) == said
}

fn sparse_header(source: &Source<'_>, footer: &Fields) -> Result<Fields, HeaderError> {
    let at = footer.be64(DATA_OFFSET)?;
    let sparse = source.fields(FORMAT, "sparse header", at, SPARSE_BYTES)?;
    if !sparse.starts_with(SPARSE_COOKIE) {
        return Err(sparse.bad(0, "it doesn't begin with cxsparse"));
    }
    if !adds_up(sparse.bytes(), SPARSE_CHECKSUM) {
        return Err(sparse.bad(SPARSE_CHECKSUM, "the checksum is wrong"));
    }
    Ok(sparse)
}

fn parent_of(source: &Source<'_>, sparse: &Fields) -> Result<ParentLink, HeaderError> {
    let mut locators = Vec::new();
    for number in 0..LOCATOR_ENTRIES {
        let entry = LOCATORS + number * LOCATOR_ENTRY_BYTES;
        locators.extend(locator(source, sparse, entry)?);
    }
    let name = sparse.utf16(PARENT_NAME, PARENT_NAME_BYTES, ByteOrder::Big);
    if !name.is_empty() {
        locators.push(Locator { kind: LocatorKind::Name, path: name });
    }
    let modified = sparse.be32(PARENT_TIME)?;
    Ok(ParentLink {
        locators,
        ids: vec![sparse.id(PARENT_ID)?],
        modified_2000_s: (modified != 0).then_some(modified),
        format: None,
    })
}

/// One locator, if it is there and of a kind that is known.
fn locator(
    source: &Source<'_>,
    sparse: &Fields,
    entry: usize,
) -> Result<Option<Locator>, HeaderError> {
    let code = sparse.be32(entry)?.to_le_bytes().into_iter().rev().collect::<Vec<u8>>();
    let (kind, wide) = match code.as_slice() {
        b"W2ru" => (LocatorKind::Relative, true),
        b"W2ku" => (LocatorKind::Absolute, true),
        b"Wi2r" => (LocatorKind::Relative, false),
        b"Wi2k" | b"MacX" => (LocatorKind::Absolute, false),
        _ => return Ok(None),
    };
    let bytes = sparse.be32(entry + 8)? as usize;
    if bytes > LOCATOR_BYTES_MAX {
        return Err(sparse.bad(entry + 8, "a parent's path is too long"));
    }
    let text = source.text(FORMAT, "parent locator", sparse.be64(entry + 16)?, bytes)?;
    let path = if wide { text.utf16(0, bytes, ByteOrder::Little) } else { text.utf8()? };
    Ok((!path.is_empty()).then_some(Locator { kind, path }))
}
