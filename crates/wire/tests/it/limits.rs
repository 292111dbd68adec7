//! Every limit that a message can reach: at it, one above, and absurd.

use blockferry_delta::{IMAGE_BYTES_MAX, Lineage, NodeId, PageExtent, Root, WalkLevel};
use blockferry_wire::limits as max;
use blockferry_wire::{
    Accept, Frame, Hello, Inventory, InventoryEntry, Join, Kind, Message, Offer, Refusal, Refuse,
    Text, Values, Want,
};

use crate::golden::decode;
use crate::samples::{entry, extent, image, offer, probe, root, store, store_name, walk_start};

/// Encodes and decodes: the code of whoever refuses.
fn trip(message: impl Into<Message>) -> &'static str {
    let message = message.into();
    let frame = match message.encode() {
        Ok(frame) => frame,
        Err(error) => return error.code(),
    };
    match decode(&frame) {
        Ok(back) => {
            assert_eq!(back, message);
            "good"
        }
        Err(error) => error.code(),
    }
}

/// What a peer that doesn't keep the rules may send.
fn raw(kind: Kind, payload: &[u8]) -> &'static str {
    let frame = Frame { kind, payload: payload.to_vec().into() };
    Message::decode(frame).map_or_else(|error| error.code(), |_| "good")
}

fn wide_lineage(writers: usize) -> Option<Lineage> {
    let id = |i: usize| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
        NodeId::from_bytes(bytes)
    };
    Lineage::from_entries((0..writers).map(|i| (id(i), u64::MAX))).ok()
}

#[test]
fn deletions() {
    let deletion = || Offer {
        root: Root::NOTHING,
        size_bytes: 0,
        data_bytes: 0,
        dirty_bytes: None,
        allocated_zero: vec![],
        bases: vec![],
        ..offer()
    };
    let with = |change: fn(&mut Offer)| {
        let mut offer = deletion();
        change(&mut offer);
        trip(offer)
    };
    assert_eq!(with(|_| ()), "good");
    assert!(deletion().is_deletion() && !offer().is_deletion());
    assert_eq!(with(|o| o.root = root(1)), "API_MISUSE");
    assert_eq!(with(|o| o.size_bytes = 1), "good", "an image may have any root");
    assert_eq!(with(|o| o.data_bytes = 1), "API_MISUSE");
    assert_eq!(with(|o| o.bases = vec![root(1)]), "API_MISUSE");
    let zeros = |o: &mut Offer| o.allocated_zero = vec![PageExtent { first: 0, count: 1 }];
    assert_eq!(with(zeros), "API_MISUSE");
    let listed = |root, size_bytes| InventoryEntry { root, size_bytes, ..entry() };
    let inventory = |entry| Inventory {
        store: store(),
        store_name: store_name(),
        entries: vec![entry],
        last: true,
    };
    assert_eq!(trip(inventory(listed(Root::NOTHING, 0))), "good");
    assert_eq!(trip(inventory(listed(root(1), 0))), "API_MISUSE");
}

#[test]
fn offers() {
    let with = |change: fn(&mut Offer)| {
        let mut offer = offer();
        change(&mut offer);
        trip(offer)
    };
    assert_eq!(with(|o| o.size_bytes = IMAGE_BYTES_MAX), "good");
    let small = |o: &mut Offer| (o.size_bytes, o.data_bytes, o.allocated_zero) = (1, 4096, vec![]);
    assert_eq!(with(small), "good");
    assert_eq!(with(|o| o.data_bytes = o.size_bytes + 4096), "API_MISUSE");
    fn run(first: u64, count: u32) -> PageExtent {
        PageExtent { first, count }
    }
    assert_eq!(with(|o| o.allocated_zero = vec![run(o.size_bytes / 4096, 1)]), "good");
    assert_eq!(with(|o| o.allocated_zero = vec![run(o.size_bytes / 4096, 2)]), "API_MISUSE");
    assert_eq!(with(|o| o.allocated_zero = vec![run(5, 1), run(5, 1)]), "API_MISUSE");
    assert_eq!(with(|o| o.allocated_zero = (0..4096).map(|n| run(2 * n, 1)).collect()), "good");
    assert_eq!(
        with(|o| o.allocated_zero = (0..4097).map(|n| run(2 * n, 1)).collect()),
        "API_MISUSE"
    );
    for bad in [0, IMAGE_BYTES_MAX + 1, 1 << 63, u64::MAX] {
        let mut offer = offer();
        offer.size_bytes = bad;
        assert_eq!(trip(offer), "API_MISUSE", "size {bad}");
    }
    for (number, code) in [
        (1, "good"),
        (max::GENERATION_NUMBER_MAX, "good"),
        (0, "API_MISUSE"),
        (max::GENERATION_NUMBER_MAX + 1, "API_MISUSE"),
        (u64::MAX, "API_MISUSE"),
    ] {
        let mut offer = offer();
        offer.number = number;
        assert_eq!(trip(offer), code, "number {number}");
    }
    assert_eq!(with(|o| o.bases = (0..16).map(root).collect()), "good");
    assert_eq!(with(|o| o.bases = (0..17).map(root).collect()), "API_MISUSE");
    assert_eq!(with(|o| o.bases = vec![root(1), root(1)]), "API_MISUSE");
    assert_eq!(with(|o| o.lineage = wide_lineage(256).expect("256 writers")), "good");
    assert!(wide_lineage(max::LINEAGE_ENTRIES_MAX + 1).is_none(), "delta's limit is the same");
    assert_eq!(with(|o| o.chunk_params.max_bytes = max::CHUNK_BYTES_MAX), "good");
    assert_eq!(with(|o| o.chunk_params.max_bytes = max::CHUNK_BYTES_MAX + 2), "API_MISUSE");
    assert_eq!(with(|o| o.chunk_params.average_bytes = 0), "API_MISUSE");
    assert_eq!(with(|o| o.dirty_bytes = None), "good");
    assert_eq!(with(|o| o.older = None), "good");
    assert_eq!(with(|o| o.older = Some(vec![[9; 8]; max::OLDER_MAX])), "good");
    assert_eq!(with(|o| o.older = Some(vec![[9; 8]; max::OLDER_MAX + 1])), "API_MISUSE");
    assert_eq!(with(|o| o.recorded_unix_ms = i64::MIN), "good");
}

#[test]
fn metadata() {
    let with = |change: &dyn Fn(&mut blockferry_delta::Meta)| {
        let mut offer = offer();
        change(&mut offer.meta);
        trip(offer)
    };
    assert_eq!(with(&|m| m.mode = 0o7777), "good");
    assert_eq!(with(&|m| m.mode = 0o10000), "API_MISUSE");
    for mtime_ns in [0, -1, i128::from(i64::MIN) * 1_000_000_000, 11_644_473_600_000_000_000] {
        assert_eq!(with(&|m| m.mtime_ns = mtime_ns), "good", "{mtime_ns}");
    }
    assert_eq!(with(&|m| m.mtime_ns = i128::MAX), "API_MISUSE");
    let names = |n: usize| (0..n).map(|i| (format!("user.{i:06}").into_bytes(), vec![]));
    assert_eq!(with(&|m| m.xattrs = names(max::XATTRS_MAX).collect()), "good");
    assert_eq!(with(&|m| m.xattrs = names(max::XATTRS_MAX + 1).collect()), "API_MISUSE");
    let one = |name: usize, value: usize| vec![(vec![b'n'; name], vec![b'v'; value])];
    let room = max::XATTRS_BYTES_MAX - 5;
    assert_eq!(with(&|m| m.xattrs = one(5, room)), "good");
    assert_eq!(with(&|m| m.xattrs = one(5, room + 1)), "API_MISUSE");
    assert_eq!(with(&|m| m.xattrs = one(max::XATTR_NAME_BYTES_MAX, 1)), "good");
    assert_eq!(with(&|m| m.xattrs = one(max::XATTR_NAME_BYTES_MAX + 1, 1)), "API_MISUSE");
    assert_eq!(with(&|m| m.xattrs = one(0, 1)), "API_MISUSE");
    assert_eq!(with(&|m| m.xattrs = [one(2, 1), one(2, 2)].concat()), "API_MISUSE", "twice");
    assert_eq!(with(&|m| m.xattrs = [one(3, 1), one(2, 2)].concat()), "API_MISUSE", "descending");
}

#[test]
fn the_largest_offer_fits_its_frame() {
    let mut largest = offer();
    largest.image = image(&"x".repeat(max::IMAGE_NAME_BYTES_MAX));
    largest.lineage = wide_lineage(max::LINEAGE_ENTRIES_MAX).expect("256 writers");
    largest.bases = (0..16).map(root).collect();
    let name = |i: usize| format!("{i:0255}").into_bytes();
    largest.meta.xattrs = (0..max::XATTRS_MAX).map(|i| (name(i), vec![9; 1024 - 255])).collect();
    assert_eq!(trip(largest), "good");
}

#[test]
fn wants() {
    let want = |extents: Vec<PageExtent>| trip(Want { part: 0, again: true, extents });
    assert_eq!(want((0..2048).map(|i| extent(i << 40, 1)).collect()), "good");
    assert_eq!(want((0..2049).map(|i| extent(i << 40, 1)).collect()), "API_MISUSE");
    assert_eq!(want(vec![extent(0, 2048)]), "good");
    assert_eq!(want(vec![extent(0, 2049)]), "API_MISUSE");
    assert_eq!(want(vec![extent(5, 1), extent(5, 1)]), "API_MISUSE");
    assert_eq!(want(vec![extent(u64::MAX, 1)]), "API_MISUSE");
    let extents = |items: &[u8]| {
        let head: &[u8] = &[0xa3, 0, 0, 1, 0xf4, 2];
        raw(Kind::Want, &[head, items].concat())
    };
    assert_eq!(extents(&[0x82, 5, 1]), "good");
    assert_eq!(extents(&[0x82, 5, 0]), "BAD_FRAME", "an empty extent");
    assert_eq!(extents(&[0x81, 5]), "BAD_FRAME", "half an extent");
    assert_eq!(extents(&[0x82, 5, 0x19, 0x08, 0x01]), "BAD_FRAME", "2049 pages");
    assert_eq!(extents(&[0x82, 5, 0x1a, 0xff, 0xff, 0xff, 0xff]), "BAD_FRAME", "2^32 - 1 pages");
    let far = [0x82, 0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(extents(&far), "BAD_FRAME", "past 64 bits");
    assert_eq!(extents(&[0x99, 0x10, 0x02]), "BAD_FRAME", "2049 extents");
    let absurd = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    assert_eq!(extents(&absurd), "BAD_FRAME", "2^63 extents");
    assert_eq!(extents(&[0x9f, 5, 1, 0xff]), "BAD_FRAME", "indefinite");
}

#[test]
fn names_and_texts() {
    let hello = |name: &str, agent: &str| trip(Hello::new(name, agent));
    assert_eq!(hello(&"n".repeat(64), &"a".repeat(64)), "good");
    for (name, agent) in [
        ("n".repeat(65), "a".into()),
        (String::new(), "a".into()),
        ("..".into(), "a".into()),
        ("n".into(), "a".repeat(65)),
        ("n".into(), String::new()),
        ("n".into(), "a b".into()),
        ("n".into(), "a\u{1b}[2J".into()),
    ] {
        assert_eq!(hello(&name, &agent), "API_MISUSE", "{name:?} {agent:?}");
    }
    let mut payload = vec![0xa2, 0, 0x19, 0x10, 0x01, 1, 0x79, 0x04, 0x00];
    payload.extend([b'x'; 1024]);
    assert_eq!(raw(Kind::Goodbye, &payload), "good");
    payload[8] = 1;
    payload.push(b'x');
    assert_eq!(raw(Kind::Goodbye, &payload), "BAD_FRAME", "1025 bytes");
    assert_eq!(raw(Kind::Goodbye, &[0xa2, 0, 1, 1, 0x61, 0x0a]), "BAD_FRAME", "a newline");
    assert_eq!(raw(Kind::Goodbye, &[0xa2, 0, 1, 1, 0x61, 0xff]), "BAD_FRAME", "no UTF-8");
    let long = Text::new(&"\u{e9}".repeat(4000));
    assert_eq!(trip(Refuse { text: long, ..Refuse::new(Refusal::Busy, "") }), "good");
}

#[test]
fn hostile_names_are_refused() {
    let good = |name: &str| {
        let mut payload = vec![0xa6, 0, 0x58, 0x20];
        payload.extend([9; 32]);
        payload.extend([1, 0x50]);
        payload.extend([5; 16]);
        payload.extend([2, 0x78, name.len() as u8]);
        payload.extend(name.as_bytes());
        payload.extend([3, 7, 4, 0x58, 0x20]);
        payload.extend([1; 32]);
        payload.extend([5, 0x58, 0x40]);
        payload.extend([2; 64]);
        raw(Kind::Receipt, &payload)
    };
    assert_eq!(good("win11.vhdx"), "good");
    let long = "x".repeat(129);
    for bad in [
        "..",
        "/etc/passwd",
        "a/../b",
        "",
        ".",
        "a\0",
        "a\n",
        "\u{1b}[",
        "CON",
        "-rf",
        ".marker",
        "e\u{301}",
        "\u{e9}",
        &long,
    ] {
        assert_eq!(good(bad), "BAD_NAME", "{bad:?}");
    }
}

#[test]
fn joins() {
    let with = |addresses: Vec<String>| {
        let secret = [7; 16];
        trip(Join { secret, node_name: "n".into(), store: store_name(), addresses })
    };
    let longest = "h".repeat(max::ADDRESS_BYTES_MAX);
    assert_eq!(with(vec![]), "good");
    assert_eq!(with(vec![longest.clone(); max::ADDRESSES_MAX]), "good");
    assert_eq!(with(vec!["h:1".into(); max::ADDRESSES_MAX + 1]), "API_MISUSE");
    assert_eq!(with(vec![longest + "h"]), "API_MISUSE");
    assert_eq!(with(vec!["h 1".into()]), "API_MISUSE");
}

#[test]
fn inventories_of_any_length_are_split_into_frames() {
    let wide = InventoryEntry {
        image: image(&"x".repeat(128)),
        number: max::GENERATION_NUMBER_MAX,
        lineage: wide_lineage(256).expect("256 writers"),
        size_bytes: IMAGE_BYTES_MAX,
        ..entry()
    };
    for (entries, messages) in [
        (vec![], 1),
        (vec![entry(); 4096], 1),
        (vec![entry(); 4097], 2),
        (vec![wide.clone(); 500], 6),
    ] {
        let split = Inventory::split(store(), &store_name(), entries.clone());
        assert_eq!(split.len(), messages);
        let together: Vec<_> = split.iter().flat_map(|i| i.entries.clone()).collect();
        assert_eq!(together, entries);
        for (i, inventory) in split.into_iter().enumerate() {
            assert_eq!(inventory.last, i + 1 == messages);
            assert_eq!(trip(inventory), "good");
        }
    }
    let mut over = Inventory::split(store(), &store_name(), vec![entry(); 4096]).remove(0);
    over.entries.push(entry());
    assert_eq!(trip(over), "API_MISUSE");
    let head = blockferry_wire::Head { store: store(), entry: wide };
    assert_eq!(trip(head), "good");
}

#[test]
fn maps_evolve_but_have_one_form() {
    let good = |payload: &[u8]| raw(Kind::Filled, payload);
    assert_eq!(good(&[0xa1, 0, 5]), "good");
    assert_eq!(good(&[0xa3, 0, 5, 9, 0x82, 1, 0x61, b'x', 0x19, 0xff, 0xff, 0xf6]), "good");
    assert_eq!(good(&[0xa0]), "BAD_FRAME", "missing");
    assert_eq!(good(&[0xa2, 0, 5, 0, 6]), "BAD_FRAME", "twice");
    assert_eq!(good(&[0xa2, 9, 1, 0, 6]), "BAD_FRAME", "descending");
    assert_eq!(good(&[0xbf, 0, 5, 0xff]), "BAD_FRAME", "indefinite");
    assert_eq!(good(&[0xa1, 0x61, b'x', 5]), "BAD_FRAME", "a text as key");
    assert_eq!(good(&[0xa1, 0, 0x20]), "BAD_FRAME", "negative");
    assert_eq!(good(&[0xa1, 0, 0x1b, 0, 0, 0, 1, 0, 0, 0, 0]), "BAD_FRAME", "2^32");
    assert_eq!(good(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 5]), "BAD_FRAME");
    assert_eq!(good(&[0xa1, 0, 5, 0]), "BAD_FRAME", "trailing");
    let deep: Vec<u8> = [&[0xa2, 0, 5, 9][..], &[0x81; 40], &[0]].concat();
    assert_eq!(good(&deep), "good", "nested");
    assert_eq!(raw(Kind::JoinAccepted, &[0xa1, 3, 3]), "BAD_FRAME", "an unknown role");
    assert_eq!(raw(Kind::Offer, &[0xa1, 11, 3]), "BAD_FRAME", "an unknown lane");
    let lineage = |items: &[u8]| raw(Kind::Head, &[&[0xa1, 1, 0xa1, 3][..], items].concat());
    assert_eq!(lineage(&[0x99, 0x02, 0x01]), "BAD_FRAME", "257 writers");
    assert_eq!(lineage(&[0x81, 0]), "BAD_FRAME", "half an entry");
}

#[test]
fn probes_and_values() {
    let runs = |n: u64| (0..n).map(|i| (2 * i, 1)).collect::<Vec<_>>();
    let most = max::PROBE_BYTES_MAX as u64 / 10;
    assert_eq!(trip(probe(WalkLevel::Blocks, &runs(1 << 16))), "good");
    assert_eq!(trip(probe(WalkLevel::Blocks, &runs((1 << 16) + 1))), "API_MISUSE");
    assert_eq!(trip(probe(WalkLevel::Pages, &runs(1 << 15))), "good");
    assert_eq!(trip(probe(WalkLevel::Pages, &runs((1 << 15) + 1))), "API_MISUSE");
    assert_eq!(trip(probe(WalkLevel::Blocks, &[(9, 1 << 19)])), "good");
    assert_eq!(trip(probe(WalkLevel::Blocks, &[(9, (1 << 19) + 1)])), "API_MISUSE");
    assert_eq!(trip(probe(WalkLevel::Groups, &[])), "API_MISUSE");
    assert_eq!(trip(probe(WalkLevel::Groups, &[(7, 0)])), "API_MISUSE");
    assert!(most >= 1 << 16, "the longest probe fits its frame");
    let values = |level, bytes| trip(Values { level, bytes: vec![3; bytes] });
    assert_eq!(values(WalkLevel::Blocks, 131_072 * 6), "good");
    assert_eq!(values(WalkLevel::Blocks, 131_073 * 6), "API_MISUSE");
    assert_eq!(values(WalkLevel::Stretches, 7), "API_MISUSE");
    assert_eq!(values(WalkLevel::Pages, max::VALUES_BYTES_MAX - 4), "good");
    assert_eq!(values(WalkLevel::Pages, 0), "API_MISUSE");
    assert_eq!(raw(Kind::Values, &[4, 0, 0, 0, 1, 2, 3, 4, 5, 6]), "BAD_FRAME", "unknown level");
    assert_eq!(raw(Kind::Values, &[1, 0, 1, 0, 1, 2, 3, 4, 5, 6]), "BAD_FRAME", "reserved");
    assert_eq!(raw(Kind::Probe, &[0xa2, 0, 4, 1, 0x82, 0, 1]), "BAD_FRAME", "unknown level");
    assert_eq!(raw(Kind::Probe, &[0xa2, 0, 1, 1, 0x81, 0]), "BAD_FRAME", "no count");
    let both = Accept { base: Some(root(1)), dictionaries: false, walk: Some(walk_start()) };
    assert_eq!(trip(both), "API_MISUSE");
}
