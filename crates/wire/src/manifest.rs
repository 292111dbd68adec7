//! The rules of a recipe against the image it is for. Both ends hold their parts against them: the
//! receiver because it trusts nobody, the sender so that a mistake is found where it was made.

use blockferry_delta::{RecipePart, SEGMENT_BLOCKS, block_count, block_pages_mask, segment_count};

use crate::message::Offer;

/// What the parts so far allow the next one to be.
#[derive(Debug)]
pub(crate) struct Manifest {
    size_bytes: u64,
    chunk_bytes_max: u32,
    next_number: u32,
    next_block: u64,
    next_segment: u64,
    blocks: u64,
}

impl Manifest {
    pub(crate) fn new(offer: &Offer) -> Self {
        Self {
            size_bytes: offer.size_bytes,
            chunk_bytes_max: offer.chunk_params.max_bytes,
            next_number: 0,
            next_block: 0,
            next_segment: 0,
            blocks: 0,
        }
    }

    /// Parts so far.
    pub(crate) fn parts(&self) -> u32 {
        self.next_number
    }

    /// Blocks listed so far.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Takes the next part, or names the rule it breaks.
    pub(crate) fn add(&mut self, part: &RecipePart) -> Result<(), &'static str> {
        if part.number != self.next_number {
            return Err("part number not consecutive");
        }
        if part.blocks.is_empty() && part.zero_segments.is_empty() {
            return Err("part without content");
        }
        let next_block = self.check_blocks(part)?;
        let next_segment = self.check_zero_segments(part)?;
        self.check_chunks(part)?;
        self.next_number = self.next_number.checked_add(1).ok_or("too many parts")?;
        (self.next_block, self.next_segment) = (next_block, next_segment);
        self.blocks += part.blocks.len() as u64;
        Ok(())
    }

    fn check_blocks(&self, part: &RecipePart) -> Result<u64, &'static str> {
        let (mut next, end) = (self.next_block, block_count(self.size_bytes));
        for block in &part.blocks {
            if block.index < next {
                return Err("blocks not ascending");
            }
            if block.index >= end {
                return Err("block beyond the end");
            }
            if block.dirty & !block_pages_mask(block.index, self.size_bytes) != 0 {
                return Err("dirty page beyond the end");
            }
            if block.zero & !block.dirty != 0 {
                return Err("zero page that is not dirty");
            }
            next = block.index + 1;
        }
        Ok(next)
    }

    fn check_zero_segments(&self, part: &RecipePart) -> Result<u64, &'static str> {
        let (mut next, end) = (self.next_segment, u64::from(segment_count(self.size_bytes)));
        let mut blocks = part.blocks.iter().map(|b| b.index / SEGMENT_BLOCKS as u64).peekable();
        for segment in part.zero_segments.iter().map(|s| u64::from(*s)) {
            if segment < next {
                return Err("zero segments not ascending");
            }
            if segment >= end {
                return Err("zero segment beyond the end");
            }
            while blocks.next_if(|of_block| *of_block < segment).is_some() {}
            if blocks.peek() == Some(&segment) {
                return Err("block in a zero segment");
            }
            next = segment + 1;
        }
        Ok(next)
    }

    fn check_chunks(&self, part: &RecipePart) -> Result<(), &'static str> {
        let mut next = 0;
        for chunk in &part.chunks {
            if chunk.offset < next {
                return Err("chunks overlap");
            }
            if chunk.bytes == 0 || chunk.bytes > self.chunk_bytes_max {
                return Err("chunk length out of range");
            }
            next = chunk.offset.checked_add(chunk.bytes.into()).ok_or("chunk beyond the end")?;
            if next > self.size_bytes {
                return Err("chunk beyond the end");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blockferry_delta::{
        BlockHash, ChangedBlock, Chunk, ChunkId, ChunkParams, ImageName, Lineage, Meta, NodeId,
        Root, StoreId,
    };

    use super::*;
    use crate::message::Lane;

    /// An image of two segments and a bit: 129 blocks, the last with two pages, one of them short.
    const SIZE: u64 = (8 << 20) + 5000;

    fn offer() -> Offer {
        Offer {
            store: StoreId::from_bytes([0; 16]),
            image: ImageName::new("a.raw").unwrap(),
            number: 1,
            root: Root::from_bytes([0; 32]),
            size_bytes: SIZE,
            meta: Meta::default(),
            lineage: Lineage::default(),
            author: NodeId::from_bytes([0; 32]),
            recorded_unix_ms: 0,
            bases: Vec::new(),
            chunk_params: ChunkParams::CURRENT,
            lane: Lane::Normal,
            dirty_bytes: None,
            data_bytes: 0,
            allocated_zero: Vec::new(),
            older: None,
            set: Vec::new(),
        }
    }

    fn block(index: u64, dirty: u16, zero: u16) -> ChangedBlock {
        ChangedBlock { index, dirty, zero, hash: BlockHash::from_bytes([0; 32]) }
    }

    fn part(number: u32, blocks: &[u64], zero_segments: &[u32]) -> RecipePart {
        RecipePart {
            number,
            blocks: blocks.iter().map(|index| block(*index, 3, 1)).collect(),
            chunks: Vec::new(),
            zero_segments: zero_segments.to_vec(),
        }
    }

    fn only(part: RecipePart) -> Result<(), &'static str> {
        Manifest::new(&offer()).add(&part)
    }

    #[test]
    fn parts_ascend() {
        let mut manifest = Manifest::new(&offer());
        assert_eq!(manifest.add(&part(0, &[0, 5], &[1])), Ok(()));
        assert_eq!(manifest.add(&part(0, &[6], &[])), Err("part number not consecutive"));
        assert_eq!(manifest.add(&part(2, &[6], &[])), Err("part number not consecutive"));
        assert_eq!(manifest.add(&part(1, &[5], &[])), Err("blocks not ascending"));
        assert_eq!(manifest.add(&part(1, &[6], &[1])), Err("zero segments not ascending"));
        assert_eq!(manifest.add(&part(1, &[128], &[])), Ok(()));
        assert_eq!(manifest.add(&part(2, &[], &[2])), Ok(()));
        assert_eq!((manifest.parts(), manifest.blocks()), (3, 3));
    }

    #[test]
    fn a_part_keeps_to_the_image() {
        assert_eq!(only(part(0, &[129], &[])), Err("block beyond the end"));
        assert_eq!(only(part(0, &[u64::MAX], &[])), Err("block beyond the end"));
        assert_eq!(only(part(0, &[], &[3])), Err("zero segment beyond the end"));
        assert_eq!(only(part(0, &[], &[])), Err("part without content"));
        assert_eq!(only(part(0, &[3, 3], &[])), Err("blocks not ascending"));
        assert_eq!(only(part(0, &[], &[1, 1])), Err("zero segments not ascending"));
        assert_eq!(only(part(0, &[1, 64, 128], &[1])), Err("block in a zero segment"));
        assert_eq!(only(part(0, &[1, 63, 128], &[1])), Ok(()));
        assert_eq!(only(part(0, &[128], &[2])), Err("block in a zero segment"));
        let with = |block| RecipePart { blocks: vec![block], ..part(0, &[], &[]) };
        assert_eq!(only(with(block(128, 4, 0))), Err("dirty page beyond the end"));
        assert_eq!(only(with(block(0, 4, 2))), Err("zero page that is not dirty"));
        assert_eq!(only(with(block(0, 0, 0))), Ok(()), "a colliding fingerprint");
    }

    #[test]
    fn chunks_keep_to_the_image() {
        let with = |chunks: &[(u64, u32)]| {
            let chunk = |(offset, bytes): &(u64, u32)| Chunk {
                offset: *offset,
                bytes: *bytes,
                id: ChunkId(1),
            };
            only(RecipePart { chunks: chunks.iter().map(chunk).collect(), ..part(0, &[0], &[]) })
        };
        let largest = ChunkParams::CURRENT.max_bytes;
        assert_eq!(with(&[(0, 1), (1, largest), (SIZE - 1, 1)]), Ok(()));
        assert_eq!(with(&[(0, 0)]), Err("chunk length out of range"));
        assert_eq!(with(&[(0, largest + 1)]), Err("chunk length out of range"));
        assert_eq!(with(&[(0, 5), (4, 1)]), Err("chunks overlap"));
        assert_eq!(with(&[(SIZE - 1, 2)]), Err("chunk beyond the end"));
        assert_eq!(with(&[(u64::MAX, 1)]), Err("chunk beyond the end"));
    }
}
