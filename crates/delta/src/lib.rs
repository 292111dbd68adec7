//! What a disk image is made of and how two of them differ.
//!
//! **Blocks prove, pages travel, chunks find.** A block (64 KiB) carries a BLAKE3 subtree value
//! whose tree ends in the standard BLAKE3 of the file. A page (4 KiB) carries a keyed 32-bit
//! fingerprint that tells what changed inside a block. A chunk (content-defined) carries a keyed
//! 64-bit id that says where the same bytes already are.
//!
//! This crate is pure: it has no files, sockets, clocks or threads. Everything it says about a
//! page or a chunk is a hint; only a block hash proves.

mod block;
mod chunk;
mod cut;
mod dictionary;
mod digest;
mod header;
mod ids;
mod lineage;
mod map;
mod meta;
mod name;
mod page;
mod recipe;
mod sets;
mod tree;
mod units;
mod walk;
mod zeros;

pub use block::{BlockRow, block_hash, verify_block};
pub use chunk::{Chunk, ChunkParams, Chunker};
pub use cut::{LOOKAHEAD_BYTES, hard_cuts, is_tail_cut};
pub use dictionary::{Neighbour, dictionary};
pub use digest::{chunk_segment, digest_segment};
pub use header::{
    DiskId, Format, HEADER_READS_BYTES_MAX, Header, HeaderError, LOCATOR_BYTES_MAX, LOCATORS_MAX,
    Locator, LocatorKind, ParentLink, ReadAt, Unclean, read_header,
};
pub use ids::{BlockHash, ChunkId, IdError, NodeId, Root, StoreId, StoreKey};
pub use lineage::{LINEAGE_WRITERS_MAX, Lineage, LineageError, Order};
pub use map::{MapError, ROW_BYTES, SegmentMap};
pub use meta::Meta;
pub use name::{IMAGE_NAME_BYTES_MAX, ImageName, NameError, STORE_NAME_BYTES_MAX, StoreName};
pub use page::{Fingerprints, Keys, is_zero};
pub use recipe::{
    ChangedBlock, PART_BLOCKS_MAX, PART_CHUNKS_MAX, PART_ZERO_SEGMENTS_MAX, PartBuilder,
    RecipePart, changed_blocks, walked_blocks,
};
pub use sets::{CHAIN_DISKS_MAX, Fault, Grouping, ImageSet, Mismatch, SetFile, Sets};
pub use tree::{image_root, merge};
pub use units::*;
pub use walk::{
    NodeHasher, NodeRun, OpenProbe, Probe, WALK_BLOCKS_NODES_MAX, WALK_FIRST_NODES_MAX,
    WALK_PAGES_NODES_MAX, WALK_PIECE_NODES_MAX, WALK_PRINTS_BYTES, WALK_RUNS_MAX, WALK_VALUE_BYTES,
    WALK_WINDOW_BLOCKS, Walk, WalkLevel, WalkSalt, comparable_blocks, short_prints,
};
