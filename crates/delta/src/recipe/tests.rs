//! A recipe applied to the base gives the generation, whatever changed.

use proptest::prelude::*;

use super::*;
use crate::digest::digest_segment;
use crate::ids::StoreKey;
use crate::page::Keys;
use crate::units::{SEGMENT_BYTES, segment_count};

fn map_of(keys: &Keys, data: &[u8]) -> Vec<SegmentMap> {
    data.chunks(SEGMENT_BYTES as usize)
        .enumerate()
        .map(|(i, s)| digest_segment(keys, i as u32, s, data.len() as u64))
        .collect()
}

fn parts(keys: &Keys, new: &[u8], base: Option<&[u8]>) -> Vec<RecipePart> {
    let (new_map, size) = (map_of(keys, new), new.len() as u64);
    let base_map = base.map(|b| map_of(keys, b)).unwrap_or_default();
    let base_bytes = base.map_or(0, |b| b.len() as u64);
    let mut builder = PartBuilder::new(size);
    for index in 0..segment_count(size) {
        let old = base_map.get(index as usize);
        let blocks = changed_blocks(index, &new_map[index as usize], size, old, base_bytes);
        builder.segment(index, blocks, &[]);
    }
    builder.finish();
    std::iter::from_fn(|| builder.next_ready()).collect()
}

/// What a receiver does, in small: keep, zero, take dirty pages from the new image.
fn apply(new: &[u8], base: Option<&[u8]>, parts: &[RecipePart]) -> Vec<u8> {
    let mut out = base.unwrap_or_default().to_vec();
    out.resize(new.len(), 0);
    for part in parts {
        for segment in &part.zero_segments {
            let start = *segment as usize * SEGMENT_BYTES as usize;
            let end = new.len().min(start + SEGMENT_BYTES as usize);
            out[start..end].fill(0);
        }
        for block in &part.blocks {
            for page in (0..PAGES_PER_BLOCK).filter(|p| block.dirty & (1 << p) != 0) {
                let start = block.index as usize * BLOCK_BYTES + page * PAGE_BYTES;
                let end = new.len().min(start + PAGE_BYTES);
                if block.zero & (1 << page) != 0 {
                    out[start..end].fill(0);
                } else {
                    out[start..end].copy_from_slice(&new[start..end]);
                }
            }
        }
    }
    out
}

fn image(pages: usize, extra: usize, seed: u64, zero_every: usize) -> Vec<u8> {
    let mut data = vec![0u8; pages * PAGE_BYTES + extra];
    for (i, page) in data.chunks_mut(PAGE_BYTES).enumerate() {
        if zero_every == 0 || i % zero_every != 0 {
            let value = (seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9) >> 8) as u8 | 1;
            page.fill(value);
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_recipe_turns_the_base_into_the_generation(
        old_pages in 0usize..2600, new_pages in 0usize..2600,
        extra in 0usize..4096, zero_every in 0usize..5, has_base: bool,
        edits in prop::collection::vec((0usize..2600, any::<u8>()), 0..20),
    ) {
        let keys = Keys::derive(&StoreKey::from_bytes([2; 32]));
        let base = image(old_pages, extra, 1, zero_every);
        let mut new = base.clone();
        new.resize(new_pages * PAGE_BYTES + extra / 2, 0);
        for (page, value) in edits {
            if let Some(byte) = new.get_mut(page * PAGE_BYTES) {
                *byte = value;
            }
        }
        let base = has_base.then_some(base);
        let parts = parts(&keys, &new, base.as_deref());
        prop_assert!(apply(&new, base.as_deref(), &parts) == new);
        for (i, part) in parts.iter().enumerate() {
            prop_assert_eq!(part.number as usize, i);
            prop_assert!(part.blocks.len() <= PART_BLOCKS_MAX);
            prop_assert!(part.blocks.windows(2).all(|w| w[0].index < w[1].index));
            prop_assert!(part.blocks.iter().all(|b| b.zero & !b.dirty == 0));
        }
    }
}

#[test]
fn one_changed_page_is_one_dirty_page() {
    let keys = Keys::derive(&StoreKey::from_bytes([2; 32]));
    let base = image(3000, 0, 5, 0);
    let mut new = base.clone();
    new[1234 * PAGE_BYTES + 17] ^= 0xFF;
    let parts = parts(&keys, &new, Some(&base));
    assert_eq!(parts.len(), 1);
    let [block] = parts[0].blocks[..] else { panic!("one block") };
    assert_eq!((block.index, block.dirty, block.zero), (1234 / 16, 1 << (1234 % 16), 0));
    assert_eq!(block.literal_bytes(new.len() as u64), 4096);
}

#[test]
fn equal_images_and_zeros_need_nothing() {
    let keys = Keys::derive(&StoreKey::from_bytes([2; 32]));
    let data = image(3000, 77, 5, 3);
    assert_eq!(parts(&keys, &data, Some(&data)), []);
    assert_eq!(parts(&keys, &vec![0; 20 << 20], None), []);
}

#[test]
fn a_segment_that_became_zero_is_named_not_listed() {
    let keys = Keys::derive(&StoreKey::from_bytes([2; 32]));
    let base = image(3072, 0, 5, 0);
    let mut new = base.clone();
    new[4 << 20..8 << 20].fill(0);
    let parts = parts(&keys, &new, Some(&base));
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].zero_segments.as_slice(), parts[0].blocks.len()), (&[1][..], 0));
}

#[test]
fn chunks_travel_only_over_dirt() {
    let chunk = |offset, bytes| Chunk { offset, bytes, id: crate::ids::ChunkId(offset) };
    let block =
        |index, dirty| ChangedBlock { index, dirty, zero: 0, hash: BlockHash::from_bytes([0; 32]) };
    let chunks = [chunk(0, 65_536), chunk(65_536, 8192), chunk(73_728, 57_344), chunk(1 << 20, 9)];
    let mut builder = PartBuilder::new(4 << 20);
    builder.segment(0, Some(vec![block(0, 0x0001), block(1, 0x0003)]), &chunks);
    builder.finish();
    let part = builder.next_ready().expect("one part");
    assert_eq!(part.chunks, [chunks[1]]);
}

#[test]
fn every_chunk_over_dirt_travels_whatever_part_its_blocks_are_in() {
    let block = |index| ChangedBlock {
        index,
        dirty: 0xFFFF,
        zero: 0,
        hash: BlockHash::from_bytes([0; 32]),
    };
    let mut builder = PartBuilder::new(64 << 20);
    let mut all = Vec::new();
    for segment in 0..16u32 {
        let start = u64::from(segment) * SEGMENT_BYTES;
        let chunk = |n: u64| Chunk {
            offset: start + n * 32_768,
            bytes: 32_768,
            id: crate::ids::ChunkId(start + n),
        };
        let chunks: Vec<_> = (0..128).map(chunk).collect();
        let first = u64::from(segment) * SEGMENT_BLOCKS as u64;
        builder.segment(segment, Some((first..first + 64).map(block).collect()), &chunks);
        all.extend(chunks);
    }
    builder.finish();
    let sent: Vec<_> = std::iter::from_fn(|| builder.next_ready()).flat_map(|p| p.chunks).collect();
    assert_eq!(sent, all);
}
