//! Scrub of one image: its file is read back and every block compared with the catalog.

use blockferry_delta::{
    BLOCK_BYTES, ImageName, PAGES_PER_BLOCK, PageExtent, SEGMENT_BLOCKS, SEGMENT_BYTES, SegmentMap,
    block_hash, image_root, segment_count, segment_len,
};

use crate::disk::AlignedBuf;
use crate::error::{Error, IoContext, Result};
use crate::freeze::open_live;
use crate::scan::Progress;
use crate::store::{MapOf, Store};

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks compared.
    pub blocks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Pages of the blocks that aren't what was recorded.
    pub bad: Vec<PageExtent>,
    /// Does the block map itself end in the recorded root?
    pub root_ok: bool,
}

impl VerifyReport {
    /// Is everything as recorded?
    pub fn is_good(&self) -> bool {
        self.bad.is_empty() && self.root_ok
    }
}

impl Store {
    /// Reads image `name` back and compares it with its current generation.
    pub fn verify(&self, name: &ImageName, progress: &dyn Progress) -> Result<VerifyReport> {
        self.compare_all(name, false, progress)
    }

    /// The same, but from the device, also what the page cache has.
    pub fn verify_deep(&self, name: &ImageName, progress: &dyn Progress) -> Result<VerifyReport> {
        self.compare_all(name, true, progress)
    }

    fn compare_all(
        &self,
        name: &ImageName,
        deep: bool,
        progress: &dyn Progress,
    ) -> Result<VerifyReport> {
        self.check_marker()?;
        let read = self.catalog.read()?;
        let image = read.image(name)?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let current = self.current_of(Some(&image))?;
        let current = current.filter(|current| !current.is_deleted());
        let current = current.ok_or_else(|| Error::NotFound(name.clone()))?;
        let file = open_live(self.disk.as_ref(), name)?;
        let size = file.stat().during("look at", name.as_str())?.size_bytes;
        let map = MapOf::find(&read, &image, &current.root)?;
        let map =
            map.ok_or_else(|| Error::NoGeneration { image: name.clone(), root: current.root })?;
        let mut report = VerifyReport::default();
        let mut values = Vec::new();
        let mut buf = AlignedBuf::with_capacity(SEGMENT_BYTES as usize);
        for segment in 0..segment_count(current.size_bytes) {
            let known = map.segment(&read, segment)?.ok_or_else(|| Error::Corrupt {
                what: "the block map",
                detail: format!("segment {segment} is missing"),
            })?;
            values.push(known.value(current.size_bytes));
            let offset = u64::from(segment) * SEGMENT_BYTES;
            let bytes = segment_len(segment, current.size_bytes);
            progress.reading(bytes as u64);
            let got = match deep {
                true => file.read_device_at(&mut buf, offset, bytes),
                false => file.read_bulk_at(&mut buf, offset, bytes),
            };
            let got = got.during("read", name.as_str())?;
            let all = 0..bytes.div_ceil(BLOCK_BYTES);
            compare(&mut report, (segment, all), &known, &buf[..got], current.size_bytes);
            progress.advance(offset + bytes as u64, current.size_bytes);
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
        }
        report.root_ok = image_root(&values) == current.root && size == current.size_bytes;
        Ok(report)
    }
}

/// Compares some blocks of a segment with its block map: `have` is what the file has of them.
pub(crate) fn compare(
    report: &mut VerifyReport,
    (segment, blocks): (u32, std::ops::Range<usize>),
    known: &SegmentMap,
    have: &[u8],
    size: u64,
) {
    let (start, from) = (u64::from(segment) * SEGMENT_BLOCKS as u64, blocks.start);
    report.bytes += have.len() as u64;
    report.blocks += blocks.len() as u64;
    for block in blocks {
        let number = start + block as u64;
        let bytes = have.chunks(BLOCK_BYTES).nth(block - from).unwrap_or_default();
        let good = match known {
            SegmentMap::Zero(_) => !bytes.is_empty() && blockferry_delta::is_zero(bytes),
            SegmentMap::Rows(rows) => {
                let row = rows.get(block);
                let hash = (!bytes.is_empty()).then(|| block_hash(number, bytes, size));
                row.map(|row| row.hash) == hash && hash.is_some()
            }
        };
        if !good {
            let first = number * PAGES_PER_BLOCK as u64;
            (first..first + PAGES_PER_BLOCK as u64)
                .for_each(|page| PageExtent::push(&mut report.bad, page));
        }
    }
}
