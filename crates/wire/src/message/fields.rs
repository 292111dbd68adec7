//! Fields that several messages share: names, lineage, metadata, chunk parameters, entries and
//! extents.

use blockferry_delta::{
    ChunkParams, IMAGE_BYTES_MAX, ImageName, Lineage, Meta, NodeId, PageExtent, Root, StoreName,
};

use super::InventoryEntry;
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Invalid, Result, manifest};
use crate::limits as max;
use crate::wants::check_extents;

pub(super) fn read_image(reader: &mut Reader<'_>) -> Result<ImageName> {
    let name = reader.text(max::TEXT_BYTES_MAX)?;
    ImageName::new(name).map_err(|_| Invalid::BadName { what: "the image's name" }.into())
}

pub(super) fn read_store_name(reader: &mut Reader<'_>) -> Result<StoreName> {
    let name = reader.text(max::TEXT_BYTES_MAX)?;
    StoreName::new(name).map_err(|_| Invalid::BadName { what: "the store's name" }.into())
}

pub(super) fn read_root(reader: &mut Reader<'_>) -> Result<Root> {
    reader.fixed().map(Root::from_bytes)
}

pub(super) fn check_number(number: u64) -> Result<u64> {
    if (1..=max::GENERATION_NUMBER_MAX).contains(&number) {
        Ok(number)
    } else {
        Err(manifest("generation number out of range"))
    }
}

pub(super) fn check_size(size_bytes: u64) -> Result<u64> {
    if (1..=IMAGE_BYTES_MAX).contains(&size_bytes) {
        Ok(size_bytes)
    } else {
        Err(manifest("image size out of range"))
    }
}

/// Size and root of a generation: of an image, or nothing and the root of nothing for a deletion.
pub(super) fn check_content(size_bytes: u64, root: &Root) -> Result<()> {
    match size_bytes {
        0 if *root == Root::NOTHING => Ok(()),
        _ => check_size(size_bytes).map(drop),
    }
}

pub(super) fn read_lineage(reader: &mut Reader<'_>) -> Result<Lineage> {
    let items = reader.array(2 * max::LINEAGE_ENTRIES_MAX, "lineage too long")?;
    if items % 2 != 0 {
        return Err(reader.bad("lineage entry without a count"));
    }
    let mut entries: Vec<(NodeId, u64)> = Vec::with_capacity(items / 2);
    for _ in 0..items / 2 {
        let node = NodeId::from_bytes(reader.fixed()?);
        if entries.last().is_some_and(|(last, _)| *last >= node) {
            return Err(reader.bad("lineage not ascending"));
        }
        entries.push((node, reader.u64()?));
    }
    Lineage::from_entries(entries).map_err(|_| reader.bad("lineage entry with no generation"))
}

pub(super) fn write_lineage(lineage: &Lineage, writer: &mut Writer<'_>) {
    writer.array(2 * lineage.entries().count());
    for (node, count) in lineage.entries() {
        writer.bytes(node.as_bytes()).uint(count);
    }
}

const NANOS: i128 = 1_000_000_000;

pub(super) fn read_meta(reader: &mut Reader<'_>) -> Result<Meta> {
    let (mut mode, mut uid, mut gid, mut seconds, mut nanos, mut xattrs) =
        (None, None, None, None, None, None);
    let mut keys = reader.map()?;
    while let Some(key) = reader.key(&mut keys)? {
        match key {
            0 => mode = Some(reader.u32()?),
            1 => uid = Some(reader.u32()?),
            2 => gid = Some(reader.u32()?),
            3 => seconds = Some(reader.i64()?),
            4 => nanos = Some(reader.u32()?),
            5 => xattrs = Some(read_xattrs(reader)?),
            _ => reader.skip()?,
        }
    }
    let nanos = reader.need(nanos, "mtime nanoseconds missing")?;
    let seconds = reader.need(seconds, "mtime seconds missing")?;
    let meta = Meta {
        mode: reader.need(mode, "mode missing")?,
        uid: reader.need(uid, "uid missing")?,
        gid: reader.need(gid, "gid missing")?,
        mtime_ns: i128::from(seconds) * NANOS + i128::from(nanos),
        xattrs: reader.need(xattrs, "xattrs missing")?,
    };
    if i128::from(nanos) >= NANOS {
        return Err(manifest("nanoseconds out of range"));
    }
    check_meta(&meta)?;
    Ok(meta)
}

fn read_xattrs(reader: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let items = reader.array(2 * max::XATTRS_MAX, "too many extended attributes")?;
    if items % 2 != 0 {
        return Err(reader.bad("extended attribute without a value"));
    }
    let mut xattrs = Vec::with_capacity(items / 2);
    let rule = "extended attributes too long";
    let mut left = max::XATTRS_BYTES_MAX;
    for _ in 0..items / 2 {
        let name = reader.bytes(max::XATTR_NAME_BYTES_MAX.min(left), rule)?;
        left -= name.len();
        let value = reader.bytes(left, rule)?;
        left -= value.len();
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    Ok(xattrs)
}

/// The rules for metadata, for what is read and for what is to be written.
pub(super) fn check_meta(meta: &Meta) -> Result<()> {
    if meta.mode > 0o7777 {
        return Err(manifest("mode out of range"));
    }
    if i64::try_from(meta.mtime_ns.div_euclid(NANOS)).is_err() {
        return Err(manifest("mtime out of range"));
    }
    let good = |(name, _): &(Vec<u8>, Vec<u8>)| {
        (1..=max::XATTR_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0)
    };
    let ascending = meta.xattrs.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !ascending || !meta.xattrs.iter().all(good) {
        return Err(manifest("extended attribute names not valid and ascending"));
    }
    let bytes: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if meta.xattrs.len() > max::XATTRS_MAX || bytes > max::XATTRS_BYTES_MAX {
        return Err(manifest("extended attributes too long"));
    }
    Ok(())
}

pub(super) fn write_meta(meta: &Meta, writer: &mut Writer<'_>) -> Result<()> {
    check_meta(meta)?;
    let seconds = i64::try_from(meta.mtime_ns.div_euclid(NANOS)).expect("checked just above");
    let nanos = u32::try_from(meta.mtime_ns.rem_euclid(NANOS)).expect("below 10^9");
    writer.map(6).uint(0u8).uint(meta.mode).uint(1u8).uint(meta.uid).uint(2u8).uint(meta.gid);
    writer.uint(3u8).int(seconds).uint(4u8).uint(nanos).uint(5u8).array(2 * meta.xattrs.len());
    for (name, value) in &meta.xattrs {
        writer.bytes(name).bytes(value);
    }
    Ok(())
}

pub(super) fn read_chunk_params(reader: &mut Reader<'_>) -> Result<ChunkParams> {
    if reader.array(7, "chunk parameters too long")? != 7 {
        return Err(reader.bad("chunk parameters too short"));
    }
    let params = ChunkParams {
        algo: reader.u16()?,
        version: reader.u16()?,
        tail_bytes: reader.u32()?,
        min_bytes: reader.u32()?,
        average_bytes: reader.u32()?,
        max_bytes: reader.u32()?,
        level: reader.u8()?,
    };
    check_chunk_params(&params)?;
    Ok(params)
}

pub(super) fn check_chunk_params(params: &ChunkParams) -> Result<()> {
    if params.valid() && params.max_bytes <= max::CHUNK_BYTES_MAX {
        Ok(())
    } else {
        Err(manifest("chunk parameters out of range"))
    }
}

pub(super) fn write_chunk_params(params: &ChunkParams, writer: &mut Writer<'_>) {
    writer.array(7).uint(params.algo).uint(params.version).uint(params.tail_bytes);
    writer.uint(params.min_bytes).uint(params.average_bytes).uint(params.max_bytes);
    writer.uint(params.level);
}

pub(super) fn read_entry(reader: &mut Reader<'_>) -> Result<InventoryEntry> {
    let (mut image, mut number, mut root, mut lineage, mut size) = (None, None, None, None, None);
    let mut keys = reader.map()?;
    while let Some(key) = reader.key(&mut keys)? {
        match key {
            0 => image = Some(read_image(reader)?),
            1 => number = Some(check_number(reader.u64()?)?),
            2 => root = Some(read_root(reader)?),
            3 => lineage = Some(read_lineage(reader)?),
            4 => size = Some(reader.u64()?),
            _ => reader.skip()?,
        }
    }
    let entry = InventoryEntry {
        image: reader.need(image, "image missing")?,
        number: reader.need(number, "number missing")?,
        root: reader.need(root, "root missing")?,
        lineage: reader.need(lineage, "lineage missing")?,
        size_bytes: reader.need(size, "size missing")?,
    };
    check_content(entry.size_bytes, &entry.root)?;
    Ok(entry)
}

pub(super) fn write_entry(entry: &InventoryEntry, writer: &mut Writer<'_>) -> Result<()> {
    check_number(entry.number)?;
    check_content(entry.size_bytes, &entry.root)?;
    writer.map(5).uint(0u8).text(entry.image.as_str()).uint(1u8).uint(entry.number);
    writer.uint(2u8).bytes(entry.root.as_bytes()).uint(3u8);
    write_lineage(&entry.lineage, writer);
    writer.uint(4u8).uint(entry.size_bytes);
    Ok(())
}

pub(super) fn read_extents(
    reader: &mut Reader<'_>,
    extents_max: usize,
    pages_max: u64,
) -> Result<Vec<PageExtent>> {
    let items = reader.array(2 * extents_max, "too many extents")?;
    if items % 2 != 0 {
        return Err(reader.bad("extent without a count"));
    }
    let mut extents = Vec::with_capacity(items / 2);
    let mut end = 0u64;
    for _ in 0..items / 2 {
        let first = end.checked_add(reader.u64()?).ok_or_else(|| reader.bad("extent overflows"))?;
        let count = reader.u32()?;
        end = first.checked_add(count.into()).ok_or_else(|| reader.bad("extent overflows"))?;
        extents.push(PageExtent { first, count });
    }
    check_extents(&extents, pages_max).map_err(|rule| reader.bad(rule))?;
    Ok(extents)
}

pub(super) fn write_extents(
    extents: &[PageExtent],
    pages_max: u64,
    writer: &mut Writer<'_>,
) -> Result<()> {
    check_extents(extents, pages_max).map_err(Error::ApiMisuse)?;
    writer.array(2 * extents.len());
    let mut end = 0;
    for extent in extents {
        writer.uint(extent.first - end).uint(extent.count);
        end = extent.first + u64::from(extent.count);
    }
    Ok(())
}
