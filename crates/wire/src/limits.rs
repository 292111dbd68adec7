//! Every limit of the protocol, named with its unit, and how they hang together.
//!
//! A limit is checked before anything is allocated by a number that came from a peer. The relations
//! below are asserted when the crate is compiled: a limit can't be moved without its neighbours.

use blockferry_delta::{
    BLOCK_BYTES, ChunkParams, IMAGE_BYTES_MAX, PAGE_BYTES, PAGES_PER_BLOCK, PART_BLOCKS_MAX,
    PART_CHUNKS_MAX, PART_ZERO_SEGMENTS_MAX, WALK_PAGES_NODES_MAX, WALK_PIECE_NODES_MAX,
    WALK_PRINTS_BYTES, WALK_RUNS_MAX, WALK_VALUE_BYTES,
};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Payload bytes of the largest control message (an inventory), and of a skipped unknown frame.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Payload bytes of messages that hold nothing but a few integers or one root.
pub const TINY_BYTES_MAX: usize = 64;
/// Payload bytes of messages that hold a code and a text, or two names.
pub const SMALL_BYTES_MAX: usize = 4 << 10;
/// Payload bytes of a join, all that a stranger may say.
pub const JOIN_BYTES_MAX: usize = 8 << 10;
/// Payload bytes of a receipt.
pub const RECEIPT_BYTES_MAX: usize = 512;
/// Payload bytes of a head: one entry with the longest lineage.
pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// Bytes of what a statement's signature covers, without the domain: a promotion with the longest
/// lineage and all receipts, or the longest roster.
pub const STATEMENT_BODY_BYTES_MAX: usize = 112 << 10;
/// Payload bytes of a statement.
pub const STATEMENT_BYTES_MAX: usize = 128 << 10;
/// Payload bytes of an offer: the longest lineage and the most extended attributes.
pub const OFFER_BYTES_MAX: usize = 256 << 10;
/// Payload bytes of a want.
pub const WANT_BYTES_MAX: usize = 64 << 10;

/// Bytes of a varint of 64 bits.
pub const VARINT_BYTES_MAX: usize = 10;
/// Bytes of a part's fixed header.
pub const PART_HEADER_BYTES: usize = 16;
/// Bytes of a part's columns before compression: per block a gap and two masks, per chunk a gap and
/// three bytes of length, per zero segment a gap (segment numbers are below 2^24: four bytes).
pub const PART_COLUMNS_BYTES_MAX: usize = PART_BLOCKS_MAX * (VARINT_BYTES_MAX + 4)
    + PART_CHUNKS_MAX * (VARINT_BYTES_MAX + 3)
    + PART_ZERO_SEGMENTS_MAX * 4;
/// Payload bytes of a part: hashes, ids, and columns that zstd could not shrink (its bound adds
/// one 256th and, below 128 KiB, at most 64 bytes).
pub const PART_BYTES_MAX: usize = PART_HEADER_BYTES
    + PART_BLOCKS_MAX * 32
    + PART_CHUNKS_MAX * 8
    + PART_COLUMNS_BYTES_MAX
    + PART_COLUMNS_BYTES_MAX / 256
    + 64;
/// Pages of a part: what a want may name at most.
pub const PART_PAGES_MAX: usize = PART_BLOCKS_MAX * PAGES_PER_BLOCK;
/// Bytes of the longest chunk a recipe may name.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Raw bytes of a pack: a quarter of a part. Packs of 1 MiB compress 3 % worse than one long stream,
/// packs of 2 MiB 1.4 % (decision 6).
pub const PACK_RAW_BYTES_MAX: usize = 2 << 20;
/// Pages of a pack.
pub const PACK_PAGES_MAX: usize = PACK_RAW_BYTES_MAX / PAGE_BYTES;
/// Bytes of a pack's fixed header.
pub const PACK_HEADER_BYTES: usize = 12;
/// Bytes of a pack's dictionary: those of the pack, and a quarter for the borders of what is
/// chosen, which are rounded to pages.
pub const DICTIONARY_BYTES_MAX: usize = PACK_RAW_BYTES_MAX + PACK_RAW_BYTES_MAX / 4;
/// Pages of a dictionary, and its extents: each may be a page for itself.
pub const DICTIONARY_PAGES_MAX: usize = DICTIONARY_BYTES_MAX / PAGE_BYTES;
/// Logarithm of the window of a pack with a dictionary: its last byte reaches over both.
pub const DICTIONARY_WINDOW_LOG: u32 = 23;
/// Payload bytes of a pack: encoded bytes are never more than the raw ones.
pub const PACK_BYTES_MAX: usize = PACK_HEADER_BYTES
    + PACK_PAGES_MAX * 2 * VARINT_BYTES_MAX
    + 2
    + DICTIONARY_PAGES_MAX * 2 * VARINT_BYTES_MAX
    + PACK_RAW_BYTES_MAX;

/// Parts sent that have no want yet.
pub const PARTS_IN_FLIGHT: usize = 3;
/// Parts sent that are not filled yet: what either side remembers of a transfer.
pub const PARTS_OPEN_MAX: usize = 4;
/// Packs a sender has asked its driver for, or has ready to send.
pub const PACKS_IN_FLIGHT: usize = 4;
/// Packs a receiver has given its driver that are not answered yet; it then has no room.
pub const PACKS_UNFILLED_MAX: usize = 3;
/// Extents of a want: every page of a part for itself.
pub const WANT_EXTENTS_MAX: usize = PART_PAGES_MAX;

/// Payload bytes of a probe: its runs are two integers below 2^32 each.
pub const PROBE_BYTES_MAX: usize = WALK_RUNS_MAX * 2 * 5 + 4 * HEAD;
/// Bytes of the header of values.
pub const VALUES_HEADER_BYTES: usize = 4;
/// Payload bytes of values: one piece of an answer.
pub const VALUES_BYTES_MAX: usize =
    VALUES_HEADER_BYTES + WALK_PAGES_NODES_MAX as usize * WALK_PRINTS_BYTES;

/// Older generations that an offer tells of.
pub const OLDER_MAX: usize = 64;
/// Bytes of a root by which an offer tells of an older generation.
pub const OLDER_ROOT_BYTES: usize = 8;
/// Images of a set that an offer names.
pub const SET_MEMBERS_MAX: usize = 128;
/// Runs of allocated zeros that an offer names.
pub const ALLOCATED_ZERO_MAX: usize = 4096;

/// Offers a node keeps open to one peer.
pub const OFFERS_OPEN_PER_PEER_MAX: usize = 32;
/// Bidirectional streams a peer may have open: transfers both ways, the control stream and slack.
pub const STREAMS_PER_PEER_MAX: usize = 64;
/// Bases an offer names.
pub const BASES_MAX: usize = 16;
/// Writers a lineage names.
pub const LINEAGE_ENTRIES_MAX: usize = 256;
/// Highest generation number.
pub const GENERATION_NUMBER_MAX: u64 = 1 << 48;
/// Contents beside the current one that a holding names. Who keeps more of them says so of these.
pub const RIVALS_MAX: usize = 8;
/// Members that a roster names, and receipts that a promotion rests on.
pub const ROSTER_MEMBERS_MAX: usize = 1024;
/// Entries of one inventory message.
pub const INVENTORY_ENTRIES_MAX: usize = 4096;
/// Bytes of the longest node name.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Bytes of the longest image name.
pub const IMAGE_NAME_BYTES_MAX: usize = 128;
/// Bytes of the longest store name.
pub const STORE_NAME_BYTES_MAX: usize = 64;
/// Bytes of the longest agent (`blockferry/0.1.0`).
pub const AGENT_BYTES_MAX: usize = 64;
/// Bytes of the longest text for people.
pub const TEXT_BYTES_MAX: usize = 1 << 10;
/// Bytes of the longest address (`host:port`; a DNS name has at most 253).
pub const ADDRESS_BYTES_MAX: usize = 260;
/// Addresses a join names.
pub const ADDRESSES_MAX: usize = 16;
/// Extended attributes of an image.
pub const XATTRS_MAX: usize = 128;
/// Bytes of an extended attribute's name.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// Bytes of all extended attributes of an image, names and values.
pub const XATTRS_BYTES_MAX: usize = 128 << 10;

/// Bytes of a CBOR head, and of a CBOR unsigned integer at most.
const HEAD: usize = 9;
/// Bytes of an encoded lineage at most.
const LINEAGE_BYTES: usize = HEAD + LINEAGE_ENTRIES_MAX * (2 + 32 + HEAD);
/// Bytes of an encoded inventory entry at most: five keys, name, two integers, root, lineage.
pub(crate) const ENTRY_BYTES_MAX: usize =
    HEAD + 5 + (2 + IMAGE_NAME_BYTES_MAX) + 2 * HEAD + (2 + 32) + LINEAGE_BYTES;
/// Bytes of an inventory without its entries at most.
pub(crate) const INVENTORY_BASE_BYTES_MAX: usize = 3 * HEAD + 4 + 17 + 2 + STORE_NAME_BYTES_MAX;
/// Bytes of the fields that all statements have at most.
const SAID_BYTES: usize = HEAD + 5 + 34 + 17 + 3 * HEAD;
/// Bytes of an encoded roster at most.
const ROSTER_BYTES: usize = SAID_BYTES
    + 2
    + (2 + NODE_NAME_BYTES_MAX)
    + HEAD
    + ROSTER_MEMBERS_MAX * (34 + 2 + NODE_NAME_BYTES_MAX + 1);
/// Bytes of an encoded promotion at most.
const PROMOTION_BYTES: usize = SAID_BYTES
    + 6
    + (2 + IMAGE_NAME_BYTES_MAX)
    + HEAD
    + 34
    + LINEAGE_BYTES
    + (3 + TEXT_BYTES_MAX)
    + HEAD
    + ROSTER_MEMBERS_MAX * 34;
/// Bytes of an encoded holding at most.
const HOLDING_BYTES: usize = SAID_BYTES
    + 6
    + (2 + IMAGE_NAME_BYTES_MAX)
    + 3 * HEAD
    + 34
    + LINEAGE_BYTES
    + RIVALS_MAX * (3 * HEAD + 34 + LINEAGE_BYTES + 34);
/// Bytes of an encoded offer at most.
const OFFER_BYTES: usize = 32 * HEAD
    + 3 * 35
    + 2
    + IMAGE_NAME_BYTES_MAX
    + LINEAGE_BYTES
    + BASES_MAX * 34
    + OLDER_MAX * OLDER_ROOT_BYTES
    + SET_MEMBERS_MAX * (2 + IMAGE_NAME_BYTES_MAX + 34)
    + XATTRS_MAX * 2 * 5
    + XATTRS_BYTES_MAX
    + ALLOCATED_ZERO_MAX * 2 * HEAD;

const _: () = {
    assert!(PACK_RAW_BYTES_MAX.is_multiple_of(PAGE_BYTES), "a pack holds whole pages");
    assert!(PACK_PAGES_MAX <= u16::MAX as usize, "a pack's extents are counted in 16 bits");
    assert!(DICTIONARY_BYTES_MAX.is_multiple_of(PAGE_BYTES), "a dictionary holds whole pages");
    assert!(DICTIONARY_PAGES_MAX <= u16::MAX as usize, "its extents are counted in 16 bits");
    assert!(
        PACK_RAW_BYTES_MAX + DICTIONARY_BYTES_MAX <= 1 << DICTIONARY_WINDOW_LOG,
        "a pack's last byte reaches its dictionary's first"
    );
    assert!(PART_BLOCKS_MAX <= u16::MAX as usize, "a part's blocks are counted in 16 bits");
    assert!(PART_CHUNKS_MAX <= u16::MAX as usize, "a part's chunks are counted in 16 bits");
    assert!(CHUNK_BYTES_MAX < 1 << 24, "a chunk's length is three bytes");
    assert!(ChunkParams::CURRENT.max_bytes <= CHUNK_BYTES_MAX, "our own chunks may travel");
    assert!(IMAGE_BYTES_MAX / (BLOCK_BYTES as u64 * 64) <= 1 << 24, "a segment gap is 4 bytes");
    assert!(PART_BYTES_MAX <= CONTROL_BYTES_MAX, "a part is no larger than a control message");
    assert!(PACK_BYTES_MAX < 2 * PACK_RAW_BYTES_MAX, "a pack's overhead is small");
    assert!(
        WANT_EXTENTS_MAX * 2 * HEAD + 4 * HEAD <= WANT_BYTES_MAX,
        "the largest want fits its frame"
    );
    assert!(INVENTORY_BASE_BYTES_MAX + ENTRY_BYTES_MAX <= CONTROL_BYTES_MAX, "an entry fits");
    assert!(ENTRY_BYTES_MAX + 2 * HEAD + 17 <= HEAD_BYTES_MAX, "the largest entry fits a head");
    assert!(ROSTER_BYTES <= STATEMENT_BODY_BYTES_MAX, "the longest roster fits a statement");
    assert!(PROMOTION_BYTES <= STATEMENT_BODY_BYTES_MAX, "the longest promotion fits, too");
    assert!(HOLDING_BYTES <= STATEMENT_BODY_BYTES_MAX, "and the longest holding");
    assert!(
        STATEMENT_BODY_BYTES_MAX + 4 * HEAD + 66 <= STATEMENT_BYTES_MAX,
        "the longest statement fits its frame"
    );
    assert!(OFFER_BYTES <= OFFER_BYTES_MAX, "the largest offer fits its frame");
    assert!(TEXT_BYTES_MAX + 6 * HEAD <= SMALL_BYTES_MAX, "the longest text fits its frame");
    assert!(
        ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 3) + 256 <= JOIN_BYTES_MAX,
        "the largest join fits its frame"
    );
    assert!(
        WALK_PIECE_NODES_MAX as usize * WALK_VALUE_BYTES + VALUES_HEADER_BYTES <= VALUES_BYTES_MAX,
        "a piece of values fits its frame"
    );
    assert!(PROBE_BYTES_MAX <= CONTROL_BYTES_MAX, "a probe is no larger than a control message");
    assert!(PARTS_IN_FLIGHT <= PARTS_OPEN_MAX, "a part in flight is open");
    assert!(
        2 * OFFERS_OPEN_PER_PEER_MAX <= STREAMS_PER_PEER_MAX,
        "offers both ways fit the streams"
    );
    assert!(
        PACKS_UNFILLED_MAX * PACK_BYTES_MAX + DICTIONARY_BYTES_MAX <= 9 << 20,
        "what a receiver holds of one transfer is at most 9 MiB"
    );
};
