//! VHDX ([MS-VHDX]): the two headers of which the newer whole one counts, the region table, the
//! metadata with the disk's size and the parent locator. A log that is not empty says that the file
//! is open, or was not closed well: then its tables may be behind, but what is read here is written
//! before anything else of a disk is, and never goes through the log while the disk is in use.

use super::fields::ByteOrder;
use super::{
    DiskId, Fields, Format, Header, HeaderError, LOCATOR_BYTES_MAX, LOCATORS_MAX, Locator,
    LocatorKind, ParentLink, Source, Unclean,
};

/// How a VHDX begins.
pub(super) const SIGNATURE: &[u8] = b"vhdxfile";

const FORMAT: Format = Format::Vhdx;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Where the headers and the region tables are, each twice.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const HEADER_BYTES: usize = 4096;
const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
const TABLE_BYTES: usize = 64 << 10;
/// Entries of a region table or a metadata table: the format's own limit.
const ENTRIES_MAX: usize = 2047;
const ENTRY_BYTES: usize = 32;
/// Pairs of a parent locator that are looked at.
const PAIRS_MAX: usize = LOCATORS_MAX;
const PAIR_BYTES: usize = 12;
/// Bytes of the longest key of a parent locator that is known.
const KEY_BYTES_MAX: usize = 64;

/// Fields of a header.
const SEQUENCE: usize = 8;
const DATA_WRITE_ID: usize = 32;
const LOG_ID: usize = 48;
const VERSION: usize = 66;

const ZERO_ID: DiskId = DiskId([0; 16]);
const METADATA_REGION: DiskId = guid(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE_575F_050F_886E);
const FILE_PARAMETERS: DiskId = guid(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6_33F0_AA44_E76B);
const DISK_SIZE: DiskId = guid(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211_5DBE_D83B_F4B8);
const PARENT_LOCATOR: DiskId = guid(0xA8D3_5F2D, 0xB30B, 0x454D, 0xABF7_D3D8_4834_AB0C);
const LOCATOR_OF_VHDX: DiskId = guid(0xB04A_EFB7, 0xD19E, 0x4A81, 0xB789_25B8_E944_5913);

/// A GUID as it lies in a file: three little-endian numbers and eight bytes in their order.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> DiskId {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let d = d.swap_bytes().to_le_bytes();
    DiskId([
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ])
}

/// Reads a GUID as text, with braces or without.
fn parse_guid(text: &str) -> Option<DiskId> {
    let text = text.trim_matches(['{', '}', '\0', ' ']);
    let dashes = text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    if text.len() != 36 || !dashes {
        return None;
    }
    let number = |from: usize, to: usize| u64::from_str_radix(text.get(from..to)?, 16).ok();
    let (a, b, c) = (number(0, 8)?, number(9, 13)?, number(14, 18)?);
    let d = number(19, 23)? << 48 | number(24, 36)?;
    Some(guid(u32::try_from(a).ok()?, u16::try_from(b).ok()?, u16::try_from(c).ok()?, d))
}

pub(super) fn read(source: &Source<'_>) -> Result<Header, HeaderError> {
    let header = current_header(source)?;
    let (metadata, metadata_bytes) = metadata_region(source)?;
    let items = Items::read(source, metadata, metadata_bytes)?;
    let parameters = items.need(source, FILE_PARAMETERS, "file parameters", 8)?;
    let size = items.need(source, DISK_SIZE, "virtual disk size", 8)?;
    let has_parent = parameters.le32(4)? & 2 != 0;
    let parent = if has_parent { Some(parent_of(source, &items)?) } else { None };
    Ok(Header {
        format: FORMAT,
        virtual_bytes: size.le64(0)?,
        id: Some(header.id(DATA_WRITE_ID)?),
        parent,
        data_file: None,
        unclean: (header.id(LOG_ID)? != ZERO_ID).then_some(Unclean::Log),
    })
}

/// The header that counts: whole, and with the higher number if both are.
fn current_header(source: &Source<'_>) -> Result<Fields, HeaderError> {
    let [one, two] = HEADERS.map(|at| source.fields(FORMAT, "header", at, HEADER_BYTES));
    let (one, two) = (one?, two?);
    let whole = |fields: &Fields| {
        fields.starts_with(b"head")
            && adds_up(fields.bytes())
            && fields.le16(VERSION).ok() == Some(1)
    };
    match (whole(&one), whole(&two)) {
        (true, false) => Ok(one),
        (false, true) => Ok(two),
        (false, false) => Err(one.bad(0, "neither header is whole and of version 1")),
        (true, true) => match one.le64(SEQUENCE)?.cmp(&two.le64(SEQUENCE)?) {
            std::cmp::Ordering::Greater => Ok(one),
            std::cmp::Ordering::Less => Ok(two),
            // Windows makes both alike.
            std::cmp::Ordering::Equal if one.bytes() == two.bytes() => Ok(one),
            std::cmp::Ordering::Equal => Err(two.bad(SEQUENCE, "two headers of one number differ")),
        },
    }
}

/// Where the metadata are, and how many bytes.
fn metadata_region(source: &Source<'_>) -> Result<(u64, u64), HeaderError> {
    let table = |at: u64| -> Result<Fields, HeaderError> {
        let table = source.fields(FORMAT, "region table", at, TABLE_BYTES)?;
        if !table.starts_with(b"regi") {
            return Err(table.bad(0, "it doesn't begin with regi"));
        }
        if !adds_up(table.bytes()) {
            return Err(table.bad(4, "the checksum is wrong"));
        }
        Ok(table)
    };
    let table = table(REGIONS[0]).or_else(|error| table(REGIONS[1]).map_err(|_| error))?;
    let count = table.le32(8)? as usize;
    if count > ENTRIES_MAX {
        return Err(table.bad(8, "a region table has at most 2047 entries"));
    }
    for entry in (0..count).map(|n| 16 + n * ENTRY_BYTES) {
        if table.id(entry)? != METADATA_REGION {
            continue;
        }
        let (at, bytes) = (table.le64(entry + 16)?, u64::from(table.le32(entry + 24)?));
        if at < MIB || !at.is_multiple_of(MIB) || bytes < MIB || !bytes.is_multiple_of(MIB) {
            return Err(table.bad(entry + 16, "a region is so many MiB, after the first"));
        }
        return Ok((at, bytes));
    }
    Err(table.bad(8, "there is no metadata region"))
}

/// The table of metadata.
struct Items {
    table: Fields,
    at: u64,
    bytes: u64,
}

/// One of them: where it is and how many bytes.
type Item = (u64, usize);

impl Items {
    fn read(source: &Source<'_>, at: u64, bytes: u64) -> Result<Self, HeaderError> {
        let name = "metadata table";
        let head = source.fields(FORMAT, name, at, ENTRY_BYTES)?;
        if !head.starts_with(b"metadata") {
            return Err(head.bad(0, "it doesn't begin with metadata"));
        }
        let count = usize::from(head.le16(10)?);
        if count > ENTRIES_MAX {
            return Err(head.bad(10, "a metadata table has at most 2047 entries"));
        }
        let table = source.fields(FORMAT, name, at, ENTRY_BYTES + count * ENTRY_BYTES)?;
        Ok(Self { table, at, bytes })
    }

    fn find(&self, id: DiskId) -> Result<Option<Item>, HeaderError> {
        let entries = self.table.bytes().len() / ENTRY_BYTES;
        for entry in (1..entries).map(|n| n * ENTRY_BYTES) {
            // Flag 1 marks an item of a user, whose ids are their own affair.
            if self.table.id(entry)? != id || self.table.le32(entry + 24)? & 1 != 0 {
                continue;
            }
            let (offset, bytes) = (self.table.le32(entry + 16)?, self.table.le32(entry + 20)?);
            let end = u64::from(offset) + u64::from(bytes);
            if (offset as usize) < TABLE_BYTES || end > self.bytes || u64::from(bytes) > MIB {
                return Err(self.table.bad(entry + 16, "an item of up to 1 MiB, in the region"));
            }
            return Ok(Some((self.at.saturating_add(u64::from(offset)), bytes as usize)));
        }
        Ok(None)
    }

    /// An item that must be there, and have `bytes` bytes at least.
    fn need(
        &self,
        source: &Source<'_>,
        id: DiskId,
        name: &'static str,
        bytes: usize,
    ) -> Result<Fields, HeaderError> {
        let missing = |at| HeaderError::Bad { format: FORMAT, field: name, at, rule: "missing" };
        let (at, length) = self.find(id)?.ok_or_else(|| missing(self.at))?;
        if length < bytes {
            return Err(missing(at));
        }
        source.fields(FORMAT, name, at, bytes)
    }
}

fn parent_of(source: &Source<'_>, items: &Items) -> Result<ParentLink, HeaderError> {
    let name = "parent locator";
    let head = items.need(source, PARENT_LOCATOR, name, 20)?;
    let (at, bytes) = items.find(PARENT_LOCATOR)?.expect("it was just read");
    if head.id(0)? != LOCATOR_OF_VHDX {
        return Err(head.bad(0, "it is of no known kind"));
    }
    let count = usize::from(head.le16(18)?);
    let pairs_end = 20 + count * PAIR_BYTES;
    if count > PAIRS_MAX || pairs_end > bytes {
        return Err(head.bad(18, "too many pairs"));
    }
    let table = source.fields(FORMAT, name, at, pairs_end)?;
    let mut parent = ParentLink::default();
    for pair in (0..count).map(|n| 20 + n * PAIR_BYTES) {
        let text = |offset: usize, length: usize, bytes_max: usize| {
            let (from, length) = (table.le32(offset)?, usize::from(table.le16(length)?));
            if from as usize + length > bytes || length > bytes_max {
                return Err(table.bad(offset, "a text of the locator, not too long"));
            }
            let text = source.text(FORMAT, name, at.saturating_add(u64::from(from)), length)?;
            Ok(text.utf16(0, length, ByteOrder::Little))
        };
        let key = text(pair, pair + 8, KEY_BYTES_MAX)?;
        let value = text(pair + 4, pair + 10, LOCATOR_BYTES_MAX)?;
        let mut path = |kind| parent.locators.push(Locator { kind, path: value.clone() });
        match key.as_str() {
            "relative_path" => path(LocatorKind::Relative),
            "absolute_win32_path" => path(LocatorKind::Absolute),
            "volume_path" => path(LocatorKind::Volume),
            "parent_linkage" | "parent_linkage2" => {
                let id = parse_guid(&value);
                parent.ids.push(id.ok_or_else(|| table.bad(pair + 4, "the linkage is no GUID"))?);
            }
            _ => {}
        }
    }
    // The second is all zeros unless the parent is being changed.
    parent.ids.retain(|id| *id != ZERO_ID);
    match parent.ids.is_empty() {
        true => Err(table.bad(0, "it names no parent_linkage")),
        false => Ok(parent),
    }
}

/// Is the CRC-32C at byte 4 right, with those bytes taken as zero?
fn adds_up(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(8) else { return false };
    let said = head.last_chunk::<4>().map(|four| u32::from_le_bytes(*four));
    let state = crc32c(crc32c(!0, &[head[0], head[1], head[2], head[3], 0, 0, 0, 0]), rest);
    said == Some(!state)
}

/// The polynomial of CRC-32C (Castagnoli), reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// For each byte and each of the eight places that it is processed at: what it does to the state.
static TABLES: [[u32; 256]; 8] = crc_tables();

const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut place = 0;
    while place < 8 {
        let mut byte = 0;
        while byte < 256 {
            let mut state = if place == 0 { byte as u32 } else { tables[place - 1][byte] };
            let mut bit = 0;
            while bit < 8 {
                state = if state & 1 == 1 { state >> 1 ^ POLYNOMIAL } else { state >> 1 };
                bit += 1;
            }
            tables[place][byte] = state;
            byte += 1;
        }
        place += 1;
    }
    tables
}

/// Takes `bytes` into the state of a CRC-32C, eight at a time.
fn crc32c(mut state: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let word = u64::from_le_bytes(*eight) ^ u64::from(state);
        state = (0..8)
            .fold(0, |sum, place| sum ^ TABLES[7 - place][(word >> (8 * place)) as usize & 0xFF]);
    }
    for byte in rest {
        state = state >> 8 ^ TABLES[0][(state as u8 ^ byte) as usize];
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn a_guid_in_text_is_what_lies_in_a_file() {
        let text = "{8B7CA206-4790-4B9A-B8FE-575F050F886E}";
        let id = parse_guid(text).expect("a GUID");
        assert_eq!(id, METADATA_REGION);
        assert_eq!(id.0[..4], [0x06, 0xA2, 0x7C, 0x8B]);
        assert_eq!(id.0[8..], [0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E]);
        assert_eq!(parse_guid(&text[1..37].to_lowercase()), Some(id));
        for wrong in ["", "{}", "8B7CA206", "{8B7CA206-4790-4B9A-B8FE-575F050F886G}"] {
            assert_eq!(parse_guid(wrong), None, "{wrong}");
        }
    }
}
