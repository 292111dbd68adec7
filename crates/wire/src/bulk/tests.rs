//! Parts and packs: every rule refused, the target size held.

use blockferry_delta::{
    Chunker, Keys, SEGMENT_BYTES, StoreKey, changed_blocks, chunk_segment, digest_segment,
};

use super::*;

fn block(index: u64, dirty: u16, zero: u16) -> ChangedBlock {
    ChangedBlock { index, dirty, zero, hash: BlockHash::from_bytes([index as u8; 32]) }
}

fn chunk(offset: u64, bytes: u32) -> Chunk {
    Chunk { offset, bytes, id: ChunkId(offset ^ 0x55) }
}

fn part() -> RecipePart {
    RecipePart {
        number: 3,
        blocks: vec![block(0, 1, 1), block(5, 0xffff, 0x10), block(u64::MAX - 1, 0, 0)],
        chunks: vec![chunk(0, 1), chunk(1, max::CHUNK_BYTES_MAX), chunk(1 << 40, 70_000)],
        zero_segments: vec![0, 1, 2, u32::MAX],
    }
}

fn encoded(part: &RecipePart) -> Vec<u8> {
    let mut out = Vec::new();
    encode_part(part, &mut out).expect("keeps the rules");
    out
}

/// A part's payload with columns of one's own.
fn with_columns(header: (u16, u16, u32), columns: &[u8]) -> Vec<u8> {
    let mut out = 0u32.to_le_bytes().to_vec();
    out.extend_from_slice(&header.0.to_le_bytes());
    out.extend_from_slice(&header.1.to_le_bytes());
    out.extend_from_slice(&header.2.to_le_bytes());
    out.extend_from_slice(&(columns.len() as u32).to_le_bytes());
    out.extend(vec![7; usize::from(header.0) * 32 + usize::from(header.1) * 8]);
    out.extend(zstd::bulk::compress(columns, 1).expect("memory"));
    out
}

fn code(result: Result<RecipePart>) -> &'static str {
    result.map_or_else(|error| error.code(), |_| "good")
}

/// A pack's payload, whole.
fn encoded_pack(pack: &Pack, out: &mut Vec<u8>) -> Result<()> {
    encode_pack_head(pack, out)?;
    out.extend_from_slice(&pack.bytes);
    Ok(())
}

#[test]
fn a_part_comes_back() {
    assert_eq!(decode_part(&encoded(&part())), Ok(part()));
    let zeros = RecipePart { zero_segments: (0..65_536).collect(), ..RecipePart::default() };
    let bytes = encoded(&zeros);
    assert!(bytes.len() < 64, "{} bytes for a run of zero segments", bytes.len());
    assert_eq!(decode_part(&bytes), Ok(zeros));
}

#[test]
fn the_largest_part_fits_its_frame_and_one_more_is_refused() {
    let spread = |i: u64| (i + 1) << 45;
    let full = RecipePart {
        number: u32::MAX,
        blocks: (0..128).map(|i| block(spread(i), 0x5a5a ^ i as u16, 0)).collect(),
        chunks: (0..4096).map(|i| chunk(i << 45, 77_777 ^ i as u32)).collect(),
        zero_segments: (0..65_536).map(|i| i * 65_000 + i % 7).collect(),
    };
    let bytes = encoded(&full);
    assert!(bytes.len() <= max::PART_BYTES_MAX, "{}", bytes.len());
    assert_eq!(decode_part(&bytes), Ok(full.clone()));
    let grow: [fn(&mut RecipePart); 4] = [
        |part| part.blocks.push(block(u64::MAX - 1, 0, 0)),
        |part| part.chunks.push(chunk(1 << 60, 1)),
        |part| part.zero_segments.push(u32::MAX),
        |part| *part = RecipePart::default(),
    ];
    for grow in grow {
        let mut over = full.clone();
        grow(&mut over);
        assert_eq!(encode_part(&over, &mut Vec::new()).expect_err("over").code(), "API_MISUSE");
    }
}

#[test]
fn counts_are_refused_before_anything_is_read() {
    for header in [(129, 0, 0), (1, 4097, 0), (1, 0, 65_537), (u16::MAX, u16::MAX, u32::MAX)] {
        let mut payload = with_columns((1, 0, 0), &[0, 1, 0, 0, 0]);
        payload[4..6].copy_from_slice(&u16::to_le_bytes(header.0));
        payload[6..8].copy_from_slice(&u16::to_le_bytes(header.1));
        payload[8..12].copy_from_slice(&u32::to_le_bytes(header.2));
        assert_eq!(code(decode_part(&payload)), "BAD_MANIFEST", "{header:?}");
    }
    assert_eq!(code(decode_part(&with_columns((0, 1, 0), &[0, 1, 0, 0]))), "BAD_MANIFEST");
    let mut bomb = with_columns((1, 0, 0), &[0, 1, 0, 0, 0]);
    bomb[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(code(decode_part(&bomb)), "BAD_FRAME");
    bomb[12..16].copy_from_slice(&14u32.to_le_bytes());
    assert_eq!(code(decode_part(&bomb)), "DECOMPRESS_LIMIT");
}

#[test]
fn columns_have_one_form() {
    let good = |columns: &[u8]| code(decode_part(&with_columns((1, 0, 0), columns)));
    assert_eq!(good(&[5, 1, 0, 1, 0]), "good");
    assert_eq!(good(&[0x85, 0x00, 1, 0, 1, 0]), "BAD_FRAME", "a longer varint of 5");
    assert_eq!(good(&[5, 1, 0, 2, 0]), "BAD_MANIFEST", "zero but not dirty");
    assert_eq!(good(&[5, 1, 0, 1, 0, 0]), "BAD_FRAME", "a byte too many");
    let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1, 0, 1, 0];
    assert_eq!(good(&largest), "BAD_FRAME", "no block after the last number");
    let mut too_long = largest;
    too_long[9] = 2;
    assert_eq!(good(&too_long), "BAD_FRAME", "more than 64 bits");
    let two = |columns: &[u8]| code(decode_part(&with_columns((1, 1, 1), columns)));
    assert_eq!(two(&[5, 1, 0, 1, 0, 9, 1, 0, 0, 3]), "good");
    assert_eq!(two(&[5, 1, 0, 1, 0, 9, 0, 0, 0, 3]), "BAD_MANIFEST", "a chunk of no bytes");
    assert_eq!(two(&[5, 1, 0, 1, 0, 9, 1, 0, 0x10, 3]), "BAD_MANIFEST", "a chunk too long");
    let far = [5, 1, 0, 1, 0, 9, 1, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x10];
    let far = code(decode_part(&with_columns((1, 1, 1), &far)));
    assert_eq!(far, "BAD_MANIFEST", "a segment past 32 bits");
}

#[test]
fn varints_come_back() {
    for shift in 0..64 {
        for value in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            assert!(bytes.len() <= max::VARINT_BYTES_MAX);
            assert_eq!(Records::new(Kind::Part, &bytes).varint(), Ok(value));
        }
    }
}

/// Files of all sizes behind one another, each padded with zeros to its last page.
fn file_system(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        let length = match random() % 8 {
            0 => 1 + random() % 600_000,
            1 | 2 => 1 + random() % 100_000,
            _ => 1 + random() % 24_000,
        };
        data.extend((0..length).map(|_| random() as u8));
        data.resize(data.len().next_multiple_of(PAGE_BYTES), 0);
    }
    data.truncate(bytes);
    data
}

#[test]
fn a_dirty_block_costs_at_most_58_bytes() {
    let data = file_system(16 << 20);
    let keys = Keys::derive(&StoreKey::from_bytes([1; 32]));
    let chunker = Chunker::new(keys.clone());
    let size = data.len() as u64;
    let mut parts: Vec<RecipePart> = Vec::new();
    for (index, start) in (0..data.len()).step_by(SEGMENT_BYTES as usize).enumerate() {
        let (end, index) = (start + SEGMENT_BYTES as usize, index as u32);
        let map = digest_segment(&keys, index, &data[start..end], size);
        if index % 2 == 0 {
            parts.push(RecipePart { number: index / 2, ..RecipePart::default() });
        }
        let part = parts.last_mut().unwrap();
        part.blocks.extend(changed_blocks(index, &map, size, None, 0).unwrap());
        part.chunks.extend(chunk_segment(&chunker, index, &data, start, end));
    }
    let blocks: usize = parts.iter().map(|part| part.blocks.len()).sum();
    let chunks: usize = parts.iter().map(|part| part.chunks.len()).sum();
    let bytes: usize = parts.iter().map(|part| encoded(part).len() + 8).sum();
    // Hash and ids are 32 bytes and 8 for each chunk; everything else is 2 bytes for each chunk
    // here, and 1.2 on a real image, where most chunks begin and end with a page.
    assert!(blocks == 256 && 10 * chunks > 21 * blocks, "{blocks} blocks, {chunks} chunks");
    assert!(bytes <= 58 * blocks, "{bytes} bytes, {blocks} blocks, {chunks} chunks");
}

#[test]
fn packs_have_one_form() {
    let pack = |extents: Vec<PageExtent>, encoding, raw_bytes: u32, len: usize| Pack {
        part: 1,
        extents,
        encoding,
        dictionary: vec![],
        raw_bytes,
        bytes: vec![1; len].into(),
    };
    let extent = |first, count| PageExtent { first, count };
    let stored = Encoding::Stored;
    let good = [
        pack(vec![extent(0, 1)], stored, 1, 1),
        pack(vec![extent(9, 256)], stored, 1 << 20, 1 << 20),
        pack(vec![extent(0, 1), extent(1, 1)], Encoding::Zstd, 8192, 8191),
        pack((0..512).map(|i| extent(i << 50, 1)).collect(), stored, 2 << 20, 2 << 20),
    ];
    for pack in good {
        let mut out = Vec::new();
        encoded_pack(&pack, &mut out).expect("good");
        assert!(out.len() <= max::PACK_BYTES_MAX);
        assert_eq!(decode_pack(&out.into()), Ok(pack));
    }
    let bad = [
        pack(vec![], stored, 0, 0),
        pack(vec![extent(0, 0)], stored, 0, 0),
        pack(vec![extent(0, 513)], stored, 513 << 12, 513 << 12),
        pack(vec![extent(0, u32::MAX)], stored, 4096, 4096),
        pack(vec![extent(u64::MAX, 2)], stored, 8192, 8192),
        pack(vec![extent(1, 1), extent(0, 1)], stored, 8192, 8192),
        pack(vec![extent(1, 1), extent(1, 1)], stored, 8192, 8192),
        pack(vec![extent(1, 2)], stored, 4096, 4096),
        pack(vec![extent(1, 2)], stored, 8192, 8191),
        pack(vec![extent(1, 2)], Encoding::Zstd, 8192, 8192),
    ];
    for pack in bad {
        let error = encoded_pack(&pack, &mut Vec::new()).expect_err("bad");
        assert_eq!(error.code(), "API_MISUSE", "{pack:?}");
    }
}

#[test]
fn bad_packs_of_a_peer_are_refused() {
    let head = |encoding: u8, reserved: u8, count: u16, raw_bytes: u32| {
        let mut out = vec![1, 0, 0, 0, encoding, reserved];
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&raw_bytes.to_le_bytes());
        out
    };
    let with = |mut head: Vec<u8>, rest: &[u8], pages: usize| {
        head.extend_from_slice(rest);
        head.extend(vec![3; pages]);
        decode_pack(&head.into()).map_err(|error| error.code())
    };
    assert!(with(head(0, 0, 1, 4096), &[5, 1], 4096).is_ok());
    let bad = Err("BAD_FRAME");
    assert_eq!(with(head(3, 0, 1, 4096), &[5, 1], 4096), bad, "unknown encoding");
    assert_eq!(with(head(0, 1, 1, 4096), &[5, 1], 4096), bad, "reserved");
    assert_eq!(with(head(0, 0, 0, 0), &[], 0), bad, "nothing in it");
    assert_eq!(with(head(0, 0, 257, 4096), &[5, 1], 4096), bad, "too many extents");
    assert_eq!(with(head(0, 0, 1, 4096), &[5, 0], 4096), bad, "empty extent");
    assert_eq!(with(head(0, 0, 1, 4096), &[0x85, 0, 1], 4096), bad, "longer varint");
    assert_eq!(with(head(0, 0, 1, u32::MAX), &[5, 1], 4096), bad, "raw length");
    assert_eq!(with(head(0, 0, 1, 4096), &[5, 1], 4097), bad, "trailing byte");
    let absurd = [5, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(with(head(0, 0, 1, 4096), &absurd, 4096), bad, "2^32 - 1 pages");
    let overflow = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1];
    assert_eq!(with(head(0, 0, 1, 4096), &overflow, 4096), bad, "past 64 bits");
}

#[test]
fn dictionaries_have_one_form_and_a_limit() {
    let extent = |first, count| PageExtent { first, count };
    let pack = |dictionary: Vec<PageExtent>| Pack {
        part: 1,
        extents: vec![extent(0, 1)],
        encoding: Encoding::Zstd,
        dictionary,
        raw_bytes: 4096,
        bytes: vec![1; 99].into(),
    };
    let all = max::DICTIONARY_PAGES_MAX as u64;
    let good = [
        vec![extent(7, 1)],
        vec![extent(0, all as u32)],
        vec![extent(9, 3), extent(12, 1), extent(1 << 50, 2)],
        (0..all).map(|page| extent(page << 50, 1)).collect(),
    ];
    for dictionary in good {
        let pack = pack(dictionary);
        let mut out = Vec::new();
        encoded_pack(&pack, &mut out).expect("good");
        assert_eq!((out[4], decode_pack(&out.into())), (2, Ok(pack)));
    }
    let bad = [
        vec![extent(0, 0)],
        vec![extent(0, all as u32 + 1)],
        vec![extent(0, all as u32), extent(1 << 20, 1)],
        vec![extent(5, 1), extent(4, 1)],
        vec![extent(5, 2), extent(6, 1)],
        vec![extent(u64::MAX, 2)],
    ];
    for dictionary in bad {
        let pack = pack(dictionary);
        let error = encoded_pack(&pack, &mut Vec::new()).expect_err("bad");
        assert_eq!(error.code(), "API_MISUSE", "{pack:?}");
    }
    let stored = Pack { encoding: Encoding::Stored, bytes: vec![1; 4096].into(), ..pack(vec![]) };
    let stored = Pack { dictionary: vec![extent(0, 1)], ..stored };
    assert_eq!(encoded_pack(&stored, &mut Vec::new()).expect_err("bad").code(), "API_MISUSE");
}

#[test]
fn bad_dictionaries_of_a_peer_are_refused() {
    let with = |dictionary: &[u8]| {
        let mut out = vec![1, 0, 0, 0, 2, 0, 1, 0, 0, 16, 0, 0, 5, 1];
        out.extend_from_slice(dictionary);
        out.extend([3; 99]);
        decode_pack(&out.into()).map_err(|error| error.code())
    };
    assert!(with(&[1, 0, 5, 1]).is_ok_and(|pack| pack.bytes.len() == 99));
    let bad = Err("BAD_FRAME");
    assert_eq!(with(&[0, 0]), bad, "an empty one");
    assert_eq!(with(&[1, 0, 5, 0]), bad, "an empty extent");
    assert_eq!(with(&[1, 0, 0x85, 0, 1]), bad, "a longer varint");
    assert_eq!(with(&[1, 0, 5, 0x81, 5]), bad, "641 pages");
    assert_eq!(with(&[0x81, 2, 5, 1]), bad, "641 extents");
    assert_eq!(with(&[2, 0, 5, 0x80, 4, 0, 0x81, 1]), bad, "641 pages of two extents");
    assert_eq!(with(&[1, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x1f]), bad, "past 32 bits");
    let overflow = [1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 1];
    assert_eq!(with(&overflow), bad, "past 64 bits");
}
