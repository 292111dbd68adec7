//! One sample of every message, the same for ever: what `tests/data/golden.txt` has as bytes.

use blockferry_delta::{
    BlockHash, ChangedBlock, Chunk, ChunkId, ChunkParams, ImageName, Lineage, Meta, NodeId,
    NodeRun, PageExtent, Probe, RecipePart, Root, StoreId, StoreKey, StoreName, WalkLevel,
    WalkSalt,
};
use blockferry_wire::{
    Abort, Accept, Compression, Dictionary, Encoding, Failed, Filled, Goodbye, Head, Hello,
    HelloAck, Inventory, InventoryEntry, Join, JoinAccepted, JoinRefused, Kind, Lane, Message,
    Offer, Pack, Packer, PartsEnd, Receipt, Refusal, Refuse, Resume, Role, SetMember, Statement,
    Values, WalkStart, Want,
};
use blockferry_wire::{
    Holding, Member, Promotion, Proof, Resolution, Rival, Roster, Said, Text, What,
};

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

pub(crate) fn root(n: u8) -> Root {
    Root::from_bytes([n; 32])
}

pub(crate) fn image(name: &str) -> ImageName {
    ImageName::new(name).expect("a good name")
}

pub(crate) fn store() -> StoreId {
    StoreId::from_bytes([0x5a; 16])
}

pub(crate) fn store_name() -> StoreName {
    StoreName::new("vdisks").expect("a good name")
}

pub(crate) fn lineage() -> Lineage {
    Lineage::from_entries([(node(1), 6), (node(2), 300)]).expect("good entries")
}

pub(crate) fn extent(first: u64, count: u32) -> PageExtent {
    PageExtent { first, count }
}

pub(crate) fn entry() -> InventoryEntry {
    InventoryEntry {
        image: image("win11.vhdx"),
        number: 7,
        root: root(0xaa),
        lineage: lineage(),
        size_bytes: 8 << 30,
    }
}

pub(crate) fn offer() -> Offer {
    Offer {
        store: store(),
        image: image("win11.vhdx"),
        number: 7,
        root: root(0xaa),
        size_bytes: (8 << 30) + 512,
        meta: Meta {
            mode: 0o640,
            uid: 107,
            gid: 107,
            mtime_ns: -1_500_000_000,
            xattrs: vec![(b"user.note".to_vec(), b"gold".to_vec())],
        },
        lineage: lineage(),
        author: node(1),
        recorded_unix_ms: 1_795_309_200_000,
        bases: vec![root(0xbb), root(0xcc)],
        chunk_params: ChunkParams::CURRENT,
        lane: Lane::Urgent,
        dirty_bytes: Some(23_068_672),
        data_bytes: 6_765_000_000,
        allocated_zero: vec![
            PageExtent { first: 16, count: 240 },
            PageExtent { first: 4096, count: 1 },
        ],
        older: Some(vec![[0x1d; 8], [0x2d; 8]]),
        set: Vec::new(),
    }
}

fn offer_of_a_set() -> Offer {
    let member = |name, n| SetMember { image: image(name), root: root(n) };
    Offer { set: vec![member("win11.pvp", 0xdd), member("win11.vhdx", 0xaa)], ..offer() }
}

pub(crate) fn walk_start() -> WalkStart {
    WalkStart { size_bytes: 8 << 30, salt: WalkSalt([0x77; 32]) }
}

pub(crate) fn probe(level: WalkLevel, runs: &[(u64, u64)]) -> Probe {
    let run = |(first, count): &(u64, u64)| NodeRun { first: *first, count: *count };
    Probe { level, nodes: runs.iter().map(run).collect() }
}

pub(crate) fn part() -> RecipePart {
    let block = |index, dirty, zero, n| ChangedBlock {
        index,
        dirty,
        zero,
        hash: BlockHash::from_bytes([n; 32]),
    };
    let chunk = |offset, bytes, id| Chunk { offset, bytes, id: ChunkId(id) };
    RecipePart {
        number: 0,
        blocks: vec![block(3, 0xffff, 0x8000, 0x11), block(200, 0x0101, 0, 0x22)],
        chunks: vec![
            chunk(196_608, 20_481, 0x0102_0304_0506_0708),
            chunk(217_089, 40_960, 0x1112_1314_1516_1718),
        ],
        zero_segments: vec![1, 2, 9],
    }
}

pub(crate) fn receipt() -> Receipt {
    Receipt {
        node: node(9),
        store: store(),
        image: image("win11.vhdx"),
        number: 7,
        root: root(0xaa),
        signature: [0xee; 64],
    }
}

pub(crate) fn zstd_pack() -> Pack {
    let pages = (0..3 * 4096u32).map(|i| (i / 7) as u8).collect();
    let mut packer = Packer::new().expect("memory");
    packer
        .pack(0, vec![extent(48, 1), extent(50, 2)], pages, Compression::zstd(3))
        .expect("three pages")
}

fn stored_pack() -> Pack {
    let bytes = vec![0xab; 512];
    let (extents, encoding) = (vec![extent(7, 1)], Encoding::Stored);
    Pack { part: 4, extents, encoding, dictionary: vec![], raw_bytes: 512, bytes: bytes.into() }
}

/// Pages of the base, numbered from 0: what dictionaries of samples are made of.
pub(crate) fn base_pages(extents: &[PageExtent]) -> Vec<u8> {
    let pages = extents.iter().flat_map(|e| e.first..e.first + u64::from(e.count));
    pages.flat_map(|page| (0..4096u32).map(move |i| (i * i / 9 + page as u32) as u8)).collect()
}

/// Two pages of the base with an edit each, and one of another place.
pub(crate) fn dictionary_pack() -> Pack {
    let extents = vec![extent(48, 2), extent(300, 1)];
    let dictionary = Dictionary { extents: vec![extent(48, 2), extent(77, 1)], bytes: vec![] };
    let bytes = base_pages(&dictionary.extents);
    let mut pages = bytes.clone();
    pages[100..104].copy_from_slice(b"edit");
    pages.copy_within(5000..8192, 4999);
    let mut packer = Packer::new().expect("memory");
    let dictionary = Dictionary { bytes, ..dictionary };
    packer.pack_with(0, extents, pages, dictionary, Compression::zstd(3)).expect("three pages")
}

/// Every message at least once, with the name of its golden line.
pub(crate) fn messages() -> Vec<(String, Message)> {
    let hello = Hello {
        instance: Some(7),
        clock_unix_ms: Some(1_767_225_600_000),
        ..Hello::new("hub-01", "blockferry/0.1.0")
    };
    let named: Vec<(&str, Message)> = vec![
        ("", hello.into()),
        (
            "",
            HelloAck {
                version: 1,
                features: 5,
                node_name: "b".into(),
                agent: "x/1".into(),
                instance: None,
                clock_unix_ms: None,
            }
            .into(),
        ),
        ("", Inventory::split(store(), &store_name(), [entry()]).remove(0).into()),
        ("", Head { store: store(), entry: entry() }.into()),
        ("", Goodbye::new(Refusal::ShuttingDown, "restart").into()),
        ("", blockferry_wire::Ping { token: u64::MAX }.into()),
        ("", blockferry_wire::Pong { token: 23 }.into()),
        ("", Resume { store: store(), own_log: 7, known_log: u64::MAX, known_place: 3 }.into()),
        ("", statement(holding()).into()),
        ("-roster", statement(roster()).into()),
        ("-promotion", statement(promotion()).into()),
        ("-torn", statement(torn()).into()),
        ("-resolution", statement(resolution()).into()),
        ("", join().into()),
        ("", join_accepted().into()),
        ("", JoinRefused::new(Refusal::TicketExpired, "16 min old").into()),
        ("", offer().into()),
        ("-set", offer_of_a_set().into()),
        ("", Accept { base: Some(root(0xbb)), dictionaries: true, walk: None }.into()),
        ("-no-base", Accept { base: None, dictionaries: false, walk: None }.into()),
        ("-walk", Accept { base: None, dictionaries: false, walk: Some(walk_start()) }.into()),
        ("", Refuse::disk_full("no room", 9 << 30, 1 << 20).into()),
        ("-unknown", Refuse::new(Refusal::Unknown(0x7777), "").into()),
        ("", PartsEnd { parts: 3, blocks: 300 }.into()),
        ("", Want { part: 0, again: false, extents: vec![extent(48, 15), extent(3200, 1)] }.into()),
        ("-again", Want { part: 70_000, again: true, extents: vec![] }.into()),
        ("", Filled { part: 2 }.into()),
        ("", receipt().into()),
        ("", Failed::new(Refusal::RootMismatch, "root differs").into()),
        ("", Abort::new(Refusal::SourceTorn, "changed").into()),
        ("", part().into()),
        ("", zstd_pack().into()),
        ("-stored", stored_pack().into()),
        ("-dictionary", dictionary_pack().into()),
        ("", probe(WalkLevel::Groups, &[(3, 2), (300, 1)]).into()),
        ("", Values { level: WalkLevel::Blocks, bytes: (0..12).collect() }.into()),
        ("-pages", Values { level: WalkLevel::Pages, bytes: (0..64).collect() }.into()),
    ];
    let named = named.into_iter().map(|(suffix, m)| (format!("{}{suffix}", m.name()), m));
    let messages: Vec<_> = named.collect();
    for kind in Kind::ALL {
        assert!(messages.iter().any(|(_, message)| message.kind() == *kind), "{kind:?} is missing");
    }
    messages
}

pub(crate) fn said(what: What) -> Said {
    let unix_ms = 1_795_309_200_000;
    Said { key: [0x11; 32], store: store(), sequence: 41, unix_ms, what }
}

fn statement(what: What) -> Statement {
    let body = said(what).encode().expect("samples keep the rules");
    Statement { place: 300, body, signature: [0xee; 64] }
}

pub(crate) fn holding() -> What {
    let (number, root, proof) = (7, root(0xaa), Proof::ReadBack);
    let (image, lineage, rivals) = (image("win11.vhdx"), lineage(), Vec::new());
    What::Holding(Holding { image, number, root, lineage, proof, rivals })
}

/// A holding of somebody who keeps another content beside it.
pub(crate) fn torn() -> What {
    let What::Holding(mut holding) = holding() else { panic!("a holding") };
    holding.rivals = vec![Rival {
        number: 6,
        root: root(0xcc),
        lineage: lineage(),
        author: node(2),
        size_bytes: 4 << 20,
        recorded_unix_ms: 1_795_309_100_000,
    }];
    What::Holding(holding)
}

pub(crate) fn resolution() -> What {
    What::Resolution(Resolution {
        image: image("win11.vhdx"),
        root: root(0xcc),
        lineage: lineage(),
        by: Text::new("root (uid 0)"),
        node: node(1),
        beside: false,
    })
}

pub(crate) fn roster() -> What {
    let member = |n: u8, name: &str, writer| Member { node: node(n), name: name.into(), writer };
    let members = vec![member(1, "branch-07", true), member(2, "branch-08", false)];
    What::Roster(Roster { node_name: "hub-01".into(), members })
}

pub(crate) fn promotion() -> What {
    What::Promotion(Promotion {
        image: image("win11.vhdx"),
        number: 7,
        root: root(0xaa),
        lineage: lineage(),
        by: Text::new("root (uid 0)"),
        receipts: vec![node(1), node(2)],
    })
}

fn join() -> Join {
    Join {
        secret: *b"0123456789abcdef",
        node_name: "branch-07".into(),
        store: store_name(),
        addresses: vec!["[2001:db8::1]:7700".into(), "branch-07.example.net:7700".into()],
    }
}

fn join_accepted() -> JoinAccepted {
    JoinAccepted {
        store_name: store_name(),
        store: store(),
        key: StoreKey::from_bytes([0x4b; 32]),
        role: Role::Mirror,
        node_name: "hub-01".into(),
    }
}
