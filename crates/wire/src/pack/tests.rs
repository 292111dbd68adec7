//! Packs that lie about themselves cost nothing.

use zstd::zstd_safe::{CCtx, CParameter};

use super::*;

fn extent(count: u32) -> Vec<PageExtent> {
    vec![PageExtent { first: 0, count }]
}

fn pages(count: usize) -> Vec<u8> {
    (0..count * PAGE_BYTES).map(|i| (i / 11 % 251) as u8).collect()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn zstd_pack(raw_bytes: u32, bytes: Vec<u8>) -> Pack {
    let count = raw_bytes.div_ceil(PAGE_BYTES as u32);
    let (extents, encoding, dictionary) = (extent(count), Encoding::Zstd, vec![]);
    Pack { part: 0, extents, encoding, dictionary, raw_bytes, bytes: bytes.into() }
}

fn frame(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 3).expect("memory")
}

fn code(raw_bytes: u32, bytes: Vec<u8>) -> &'static str {
    let result = unpack(&zstd_pack(raw_bytes, bytes), raw_bytes.into());
    result.map_or_else(|error| error.code(), |_| "good")
}

#[test]
fn what_is_packed_is_unpacked() {
    let mut packer = Packer::new().unwrap();
    let levels = [-7, -5, 1, 3, 9, 19].map(Compression::zstd);
    for compression in levels.into_iter().chain([Compression::Stored]) {
        for data in [pages(1), pages(31), pages(256), noise(1 << 20), noise(512), vec![0; 8192]] {
            let count = data.len().div_ceil(PAGE_BYTES) as u32;
            let pack = packer.pack(5, extent(count), data.clone(), compression).unwrap();
            assert!(pack.bytes.len() <= data.len());
            assert_eq!(unpack(&pack, data.len() as u64), Ok(data.into()));
        }
    }
}

#[test]
fn what_does_not_shrink_is_stored() {
    let mut packer = Packer::new().unwrap();
    let mut encoding = |pages: Vec<u8>, compression| {
        let count = pages.len().div_ceil(PAGE_BYTES) as u32;
        packer.pack(0, extent(count), pages, compression).unwrap().encoding
    };
    let mut mixed = noise(1 << 20);
    mixed[300_000..800_000].fill(9);
    for level in [-5, 1, 3, 9].map(Compression::zstd) {
        assert_eq!(encoding(noise(1 << 20), level), Encoding::Stored);
        assert_eq!(encoding(noise(4096), level), Encoding::Stored);
        assert_eq!(encoding(pages(256), level), Encoding::Zstd);
        assert_eq!(encoding(mixed.clone(), level), Encoding::Zstd);
    }
    assert_eq!(encoding(pages(256), Compression::Stored), Encoding::Stored);
}

#[test]
fn a_higher_level_makes_fewer_bytes_whatever_came_before() {
    let text: Vec<u8> = (0..500_000u32).flat_map(|n| (n / 7 * 31 % 1999).to_le_bytes()).collect();
    let (count, mut packer) = (text.len().div_ceil(PAGE_BYTES) as u32, Packer::new().unwrap());
    let mut bytes = |level| {
        let pack = packer.pack(0, extent(count), text.clone(), Compression::zstd(level));
        pack.unwrap().bytes
    };
    let (first, high, again) = (bytes(-5), bytes(9), bytes(-5));
    assert!(high.len() < first.len(), "{} {}", high.len(), first.len());
    assert!(first == again, "a level leaves nothing behind");
}

#[test]
fn a_packer_refuses_what_no_want_can_ask_for() {
    let mut packer = Packer::new().unwrap();
    let mut misuse = |extents, pages| {
        packer.pack(0, extents, pages, Compression::zstd(1)).expect_err("misuse").code()
    };
    assert_eq!(misuse(extent(513), pages(513)), "API_MISUSE");
    assert_eq!(misuse(extent(2), pages(1)), "API_MISUSE");
    assert_eq!(misuse(vec![], vec![]), "API_MISUSE");
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let bomb = frame(&vec![0; 64 << 20]);
    assert!(bomb.len() < 16 << 10, "{}", bomb.len());
    assert_eq!(code(1 << 20, bomb.clone()), "DECOMPRESS_LIMIT");
    let pack = zstd_pack(u32::MAX, bomb);
    for expected in [u64::from(u32::MAX), 2 << 20, u64::MAX, (2 << 20) + 1, 0] {
        assert_eq!(unpack(&pack, expected).expect_err("bomb").code(), "DECOMPRESS_LIMIT");
    }
}

#[test]
fn a_header_that_lies_is_found_out() {
    let honest = frame(&pages(256));
    assert_eq!(code(1 << 20, honest.clone()), "good");
    assert_eq!(code((1 << 20) - 1, honest.clone()), "DECOMPRESS_LIMIT");
    // The content of a 5-page frame behind the header of a 4-page one.
    let (four, five) = (frame(&pages(4)), frame(&pages(5)));
    let size_at = 5;
    assert_eq!(five[..size_at], four[..size_at], "magic and descriptor are the same");
    let mut lies = five.clone();
    lies[size_at..size_at + 2].copy_from_slice(&four[size_at..size_at + 2]);
    assert_eq!(code(4 * 4096, lies), "DECOMPRESS_BAD");
    let mut lies = four;
    lies[size_at..size_at + 2].copy_from_slice(&five[size_at..size_at + 2]);
    assert_eq!(code(5 * 4096, lies), "DECOMPRESS_BAD");
}

#[test]
fn only_one_plain_frame_is_taken() {
    let one = frame(&pages(4));
    let two = [one.clone(), one.clone()].concat();
    assert_eq!(code(4 * 4096, two), "DECOMPRESS_BAD", "two frames");
    let skippable = [0x184D_2A50u32.to_le_bytes(), 4u32.to_le_bytes(), [0; 4]].concat();
    assert_eq!(code(4 * 4096, [skippable.clone(), one.clone()].concat()), "DECOMPRESS_BAD");
    assert_eq!(code(4 * 4096, [one.clone(), skippable].concat()), "DECOMPRESS_BAD");
    assert_eq!(code(4 * 4096, [one.as_slice(), &[0]].concat()), "DECOMPRESS_BAD", "trailing");
    assert_eq!(code(4 * 4096, Vec::new()), "DECOMPRESS_BAD", "empty");
    for length in 0..one.len() {
        assert_ne!(code(4 * 4096, one[..length].to_vec()), "good", "cut to {length}");
    }
}

#[test]
fn a_frame_without_its_size_is_refused() {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
    let mut bytes = Vec::with_capacity(1 << 20);
    context.compress2(&mut bytes, &pages(4)).unwrap();
    assert_eq!(code(4 * 4096, bytes), "DECOMPRESS_LIMIT");
}

#[test]
fn a_dictionary_or_a_huge_window_is_refused() {
    let mut named = frame(&pages(4));
    // Frame descriptor: two bits say how long the dictionary's id is; put in one of one byte.
    named[4] |= 1;
    named.insert(5, 0x77);
    assert_eq!(code(4 * 4096, named), "DECOMPRESS_BAD", "a dictionary");
    // No single segment: a window descriptor of 2 GiB and more, content size of 4 bytes.
    let mut window = MAGIC.to_vec();
    window.extend_from_slice(&[0x80, 0xff]);
    window.extend_from_slice(&16_384u32.to_le_bytes());
    window.extend_from_slice(&[0x01, 0x00, 0x00]);
    assert_ne!(code(4 * 4096, window), "good", "a window of 3.75 TiB");
}

#[test]
fn stored_bytes_have_the_length_that_is_due() {
    let mut pack = zstd_pack(4096, vec![1; 4096]);
    pack.encoding = Encoding::Stored;
    assert_eq!(unpack(&pack, 4096), Ok(vec![1; 4096].into()));
    pack.bytes = [&pack.bytes[..], &[1]].concat().into();
    assert_eq!(unpack(&pack, 4096).expect_err("longer").code(), "DECOMPRESS_LIMIT");
}

/// `budget` of the node counts with this much for levels up to 8, and for those up to 3.
#[test]
fn the_memory_of_a_compressor_is_what_the_budget_says() {
    for (levels, bytes_max) in [(vec![-5, 1, 3], 2 << 20), (vec![6, 8], 8 << 20)] {
        let mut packer = Packer::new().unwrap();
        for level in levels {
            packer.pack(0, extent(512), pages(512), Compression::zstd(level)).unwrap();
        }
        let bytes = packer.compressor.context_mut().sizeof();
        assert!(bytes < bytes_max, "{bytes} of {bytes_max}");
    }
}

const THREE: Compression = Compression::Zstd(3);

/// Pages of the base: with edits they are what is packed.
fn dictionary(bytes: Vec<u8>) -> Dictionary {
    Dictionary { extents: extent(bytes.len().div_ceil(PAGE_BYTES) as u32), bytes }
}

#[test]
fn a_dictionary_makes_an_edit_cost_its_size() {
    let base = noise(PACK_RAW_BYTES_MAX);
    let mut pages = base.clone();
    for at in (100..pages.len()).step_by(PAGE_BYTES) {
        pages[at..at + 8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    // An insertion in the middle moves the rest.
    pages.copy_within(1 << 20..(2 << 20) - 77, (1 << 20) + 77);
    let levels = [-5, 1, 3, 4, 5, 6, 8, 9, 10, 12, 15, 19].map(Compression::zstd);
    for level in levels.into_iter().chain([Compression::Stored]) {
        let mut packer = Packer::new().unwrap();
        let pack = packer.pack_with(1, extent(512), pages.clone(), dictionary(base.clone()), level);
        let pack = pack.unwrap();
        assert_eq!(pack.dictionary, extent(512), "{level:?}");
        assert!(pack.bytes.len() < 32 * 512, "{} bytes, {level:?}", pack.bytes.len());
        let back = unpack_with(&pack, pages.len() as u64, &base);
        assert!(back.as_deref() == Ok(&pages[..]), "{level:?}");
    }
}

#[test]
fn the_whole_of_the_largest_dictionary_is_reached() {
    let base = noise(DICTIONARY_BYTES_MAX);
    let pages = base[..PACK_RAW_BYTES_MAX].to_vec();
    let pack = Packer::new().unwrap().pack_with(
        0,
        extent(512),
        pages.clone(),
        dictionary(base.clone()),
        THREE,
    );
    let pack = pack.unwrap();
    assert!(pack.bytes.len() < 4096, "{} bytes", pack.bytes.len());
    assert!(unpack_with(&pack, pages.len() as u64, &base) == Ok(pages.into()));
}

#[test]
fn a_dictionary_of_no_use_is_left_out() {
    let mut packer = Packer::new().unwrap();
    let pack =
        packer.pack_with(0, extent(2), noise(8192), dictionary(vec![7; 8192]), THREE).unwrap();
    assert_eq!((pack.encoding, pack.dictionary.len()), (Encoding::Stored, 0));
    let pack = packer.pack_with(0, extent(2), pages(2), Dictionary::default(), THREE).unwrap();
    assert_eq!((pack.encoding, pack.dictionary.len()), (Encoding::Zstd, 0));
    let huge = dictionary(vec![0; DICTIONARY_BYTES_MAX + 1]);
    let misuse = packer.pack_with(0, extent(2), pages(2), huge, THREE).expect_err("too large");
    assert_eq!(misuse.code(), "API_MISUSE");
}

#[test]
fn another_dictionary_gives_no_more_than_is_due() {
    let (base, mut pages) = (noise(256 << 10), noise(256 << 10));
    pages[5000..9000].fill(3);
    let pack =
        Packer::new().unwrap().pack_with(0, extent(64), pages, dictionary(base.clone()), THREE);
    let pack = pack.unwrap();
    assert_eq!(pack.dictionary.len(), 1);
    let mut wrong = base.clone();
    wrong.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    for other in [wrong, base[..base.len() - 1].to_vec(), vec![1; 4096], noise(4 << 20)] {
        if let Ok(out) = unpack_with(&pack, 256 << 10, &other) {
            assert_eq!(out.len(), 256 << 10);
        }
    }
    let code = |dictionary: &[u8]| {
        unpack_with(&pack, 256 << 10, dictionary).map_or_else(|error| error.code(), |_| "good")
    };
    assert_eq!(code(&base), "good");
    assert_eq!(code(&[]), "DECOMPRESS_BAD");
    let plain = zstd_pack(16_384, frame(&super::tests::pages(4)));
    assert_eq!(unpack_with(&plain, 16_384, &base).expect_err("none").code(), "DECOMPRESS_BAD");
}
