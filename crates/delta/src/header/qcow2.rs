//! qcow2 (docs/interop/qcow2.rst of QEMU), versions 2 and 3: the header, its extensions and the name
//! of the backing file, all of which lie in the first cluster. The format knows no id of a parent:
//! whether a backing file is still the right one can't be told from the headers.

use super::{
    Fields, Format, Header, HeaderError, Locator, LocatorKind, ParentLink, Source, Unclean,
};

/// How a qcow2 begins.
pub(super) const MAGIC: &[u8] = b"QFI\xfb";

const FORMAT: Format = Format::Qcow2;
/// Bytes of a header of version 2, and of what every version 3 has.
const V2_BYTES: usize = 72;
const V3_BYTES: usize = 104;
/// Longest header of a version 3 that is taken, in bytes.
const V3_BYTES_MAX: u32 = 4096;
/// Longest name of a backing file, in bytes: the format's own limit.
const BACKING_BYTES_MAX: u32 = 1023;
/// Clusters are 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Header extensions that are looked at.
const EXTENSIONS_MAX: usize = 64;
/// Longest name of a format, in bytes.
const FORMAT_BYTES_MAX: usize = 64;

const BACKING_FORMAT: u32 = 0xE279_2ACA;
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// Bits of the incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;

pub(super) fn read(source: &Source<'_>) -> Result<Header, HeaderError> {
    let head = source.fields(FORMAT, "header", 0, V2_BYTES)?;
    let version = head.be32(4)?;
    let cluster_bits = head.be32(20)?;
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(head.bad(20, "a cluster is 2^9 to 2^21 bytes"));
    }
    let cluster_bytes = 1_u64 << cluster_bits;
    let (features, header_bytes) = match version {
        2 => (0, V2_BYTES as u32),
        3 => version_3(source, cluster_bytes)?,
        _ => return Err(head.bad(4, "the version is neither 2 nor 3")),
    };
    let extensions = Extensions::read(source, u64::from(header_bytes), cluster_bytes)?;
    let data_file = match features & DATA_FILE {
        0 => None,
        _ => Some(extensions.data_file.unwrap_or_default()),
    };
    let unclean = match features {
        bits if bits & CORRUPT != 0 => Some(Unclean::Corrupt),
        bits if bits & DIRTY != 0 => Some(Unclean::Dirty),
        _ => None,
    };
    Ok(Header {
        format: FORMAT,
        virtual_bytes: head.be64(24)?,
        id: None,
        parent: backing(source, &head, cluster_bytes, extensions.backing_format)?,
        data_file,
        unclean,
    })
}

/// What version 3 has beyond version 2: incompatible features and the header's length.
fn version_3(source: &Source<'_>, cluster_bytes: u64) -> Result<(u64, u32), HeaderError> {
    let head = source.fields(FORMAT, "header", 0, V3_BYTES)?;
    let bytes = head.be32(100)?;
    let long = bytes as usize >= V3_BYTES && bytes <= V3_BYTES_MAX && bytes.is_multiple_of(8);
    if !long || u64::from(bytes) > cluster_bytes {
        return Err(head.bad(100, "a header is 104 to 4096 bytes, a multiple of 8, in a cluster"));
    }
    Ok((head.be64(72)?, bytes))
}

fn backing(
    source: &Source<'_>,
    head: &Fields,
    cluster_bytes: u64,
    format: Option<String>,
) -> Result<Option<ParentLink>, HeaderError> {
    let (at, bytes) = (head.be64(8)?, head.be32(16)?);
    if at == 0 {
        return Ok(None);
    }
    if bytes == 0 || bytes > BACKING_BYTES_MAX {
        return Err(head.bad(16, "a backing file's name is 1 to 1023 bytes"));
    }
    if at.checked_add(u64::from(bytes)).is_none_or(|end| end > cluster_bytes) {
        return Err(head.bad(8, "a backing file's name lies in the first cluster"));
    }
    let path = source.text(FORMAT, "backing file's name", at, bytes as usize)?.utf8()?;
    let kind = if path.starts_with('/') { LocatorKind::Absolute } else { LocatorKind::Relative };
    let locators = vec![Locator { kind, path }];
    Ok(Some(ParentLink { locators, format, ..ParentLink::default() }))
}

/// What is wanted of the header's extensions.
#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

impl Extensions {
    fn read(source: &Source<'_>, start: u64, cluster_bytes: u64) -> Result<Self, HeaderError> {
        let mut found = Self::default();
        let mut at = start;
        // An image may be shorter than its first cluster: then the extensions end with it.
        let end = cluster_bytes.min(source.size_bytes());
        for _ in 0..EXTENSIONS_MAX {
            if at + 8 > end {
                return Ok(found);
            }
            let head = source.fields(FORMAT, "header extension", at, 8)?;
            let (kind, bytes) = (head.be32(0)?, u64::from(head.be32(4)?));
            if kind == 0 {
                return Ok(found);
            }
            if bytes > end - (at + 8) {
                return Err(head.bad(4, "an extension lies in the first cluster"));
            }
            let bytes_max = match kind {
                BACKING_FORMAT => FORMAT_BYTES_MAX,
                DATA_FILE_NAME => BACKING_BYTES_MAX as usize,
                _ => 0,
            };
            if bytes_max > 0 {
                if bytes > bytes_max as u64 {
                    return Err(head.bad(4, "the name is too long"));
                }
                let text = source.text(FORMAT, "header extension", at + 8, bytes as usize)?;
                match kind {
                    BACKING_FORMAT => found.backing_format = Some(text.utf8()?),
                    _ => found.data_file = Some(text.utf8()?),
                }
            }
            at += 8 + bytes.next_multiple_of(8);
        }
        Ok(found)
    }
}
