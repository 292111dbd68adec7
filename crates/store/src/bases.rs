//! Bases: which contents a recipe can start from. An image's own earlier generations come first,
//! then other images of the store that hold much the same at the same places: a copy under a new
//! name, or a clone that went its own way.

use std::sync::Arc;

use blockferry_delta::{ImageName, Root, SegmentMap, segment_count};

use crate::catalog::{CatalogRead, ImageRecord};
use crate::error::Result;
use crate::store::{MapOf, Store};

/// Own generations that are offered as bases, beside the current one.
const OWN_MAX: usize = 8;
/// Other images that are offered as bases.
const OTHERS_MAX: usize = 8;
/// Other images that are compared.
const COMPARED_MAX: usize = 64;
/// Segments that are compared with each of them, spread over the image.
const SAMPLED_SEGMENTS: u32 = 16;

impl Store {
    /// Roots of the generations whose block map is known here and that are a good start for the
    /// current generation of `name`, the best first.
    pub fn bases(self: &Arc<Self>, name: &ImageName) -> Result<Vec<Root>> {
        let read = self.catalog.read()?;
        let Some(image) = read.image(name)? else { return Ok(Vec::new()) };
        let mut roots: Vec<Root> = Vec::new();
        for generation in read.generations(image.id, name)? {
            let known = generation.number >= image.oldest_map;
            // A deletion is no content to start from.
            if known
                && !generation.is_deleted()
                && roots.len() <= OWN_MAX
                && !roots.contains(&generation.root)
            {
                roots.push(generation.root);
            }
        }
        for root in similar(&read, &image)? {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Ok(roots)
    }
}

/// Where a base's block map is: in the image itself or in another one.
pub(crate) fn find_base(
    read: &CatalogRead,
    image: &ImageRecord,
    root: &Root,
) -> Result<Option<MapOf>> {
    if let Some(own) = MapOf::find(read, image, root)? {
        return Ok(Some(own));
    }
    for other in read.images()? {
        let current = read.generation(other.id, &other.name, other.current)?;
        if other.id != image.id && current.is_some_and(|current| current.root == *root) {
            return MapOf::find(read, &other, root);
        }
    }
    Ok(None)
}

/// Current roots of the other images that hold at least a quarter of the same blocks.
fn similar(read: &CatalogRead, image: &ImageRecord) -> Result<Vec<Root>> {
    let Some(current) = read.generation(image.id, &image.name, image.current)? else {
        return Ok(Vec::new());
    };
    let count = segment_count(current.size_bytes);
    let step = count.div_ceil(SAMPLED_SEGMENTS).max(1);
    let mut sample = Vec::new();
    for segment in (0..count).step_by(step as usize) {
        sample.push((segment, read.map(image.id, segment)?));
    }
    let mut found = Vec::new();
    let others =
        read.images()?.into_iter().filter(|o| o.id != image.id && o.current > 0 && !o.deleted);
    for other in others.take(COMPARED_MAX) {
        let Some(theirs) = read.generation(other.id, &other.name, other.current)? else { continue };
        let (mut same, mut all) = (0, 0);
        for (segment, mine) in &sample {
            let (equal, rows) = equal_blocks(mine.as_ref(), read.map(other.id, *segment)?.as_ref());
            same += equal;
            all += rows;
        }
        if all > 0 && same * 4 >= all {
            found.push((same, theirs.root));
        }
    }
    found.sort_unstable_by_key(|(same, _)| std::cmp::Reverse(*same));
    Ok(found.into_iter().take(OTHERS_MAX).map(|(_, root)| root).collect())
}

/// (blocks that are equal in both, blocks of the first), zeros left out.
fn equal_blocks(mine: Option<&SegmentMap>, theirs: Option<&SegmentMap>) -> (usize, usize) {
    let Some(SegmentMap::Rows(mine)) = mine else { return (0, 0) };
    let theirs = match theirs {
        Some(SegmentMap::Rows(rows)) => rows.as_slice(),
        _ => &[],
    };
    let rows = || mine.iter().enumerate().filter(|(_, row)| row.zero_mask() != u16::MAX);
    let equal = rows().filter(|(n, row)| theirs.get(*n).is_some_and(|t| t.hash == row.hash));
    (equal.count(), rows().count())
}
