//! What is read as a map, what is refused as none, and what it must fit.

use blockferry_delta::{Lineage, Meta, NodeId};

use super::text::TextMap;
use super::*;
use crate::catalog::Checkpoint;
use crate::disk::{RenameHow, SimDisk};

const PAGE: u64 = 4096;
const SIZE: u64 = 100 * PAGE;
const MTIME_NS: i128 = 1_763_790_000_123_456_789;
const MTIME: &str = "1763790000.123456789";

fn generation(number: u64) -> Generation {
    Generation {
        image: ImageName::new("vm.raw").expect("valid"),
        number,
        root: Root::from_bytes([number as u8; 32]),
        size_bytes: SIZE,
        data_bytes: 0,
        meta: Meta { mode: 0, uid: 0, gid: 0, mtime_ns: 0, xattrs: Vec::new() },
        lineage: Lineage::default(),
        author: NodeId::from_bytes([1; 32]),
        recorded_unix_ms: 0,
        discover: crate::Discover::Scan,
        bytes_read: 0,
        dirty_bytes: 0,
        wire_bytes: 0,
        millis: 0,
        allocated_zero: Vec::new(),
    }
}

fn stat() -> Stat {
    let disk = SimDisk::new(1, 1 << 20);
    disk.open("x", Open::CreateNew).expect("opens");
    let stat = disk.stat("x").expect("reads").expect("is there");
    Stat { size_bytes: SIZE, mtime_ns: MTIME_NS, ..stat }
}

fn image(stat: &Stat) -> ImageRecord {
    ImageRecord {
        name: ImageName::new("vm.raw").expect("valid"),
        id: 1,
        current: 7,
        checkpoint: Some(Checkpoint::of(stat)),
        oldest_map: 1,
        adopted: false,
        deleted: false,
    }
}

/// What a text comes to, given by a person with these words.
fn told(text: &str, since: Option<u64>, settled: bool) -> std::result::Result<Ranges, Unfit> {
    let stat = stat();
    let (image, current) = (image(&stat), generation(7));
    let facts = Facts { image: &image, current: &current, stat: &stat, settled };
    let written_ns = MTIME_NS - 1;
    let changed = Changed::Text { text: text.as_bytes().to_vec(), written_ns };
    Told { changed, since }.ranges(&facts)
}

fn ours(lines: &str) -> String {
    format!("# blockferry changed v1\nbase {}\nsize {SIZE}\nmtime {MTIME}\n{lines}", root(7))
}

fn root(number: u64) -> Root {
    generation(number).root
}

fn refused(outcome: std::result::Result<Ranges, Unfit>) -> String {
    match outcome {
        Err(Unfit::Bad(why) | Unfit::Base(_, why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn every_form_of_a_map_is_read() {
    let by_number = ours("8192 4096\n0x4000 0x1000 dirty\n end \n\n# that is all\n")
        .replace(&format!("base {}", root(7)), "base 7");
    let borg = format!("0 4096 same\n4096 4096 data\n8192 {} same # rest\n", SIZE - 8192);
    let ddrescue = format!(
        "# Mapfile. Created by GNU ddrescue version 1.27\n# current_pos current_status pass\n\
         0x00001000     ?               1\n#  pos size status\n\
         0x0 0x1000 ?\n0x1000 0x1000 +\n0x2000 {:#x} ?\n",
        SIZE - 0x2000
    );
    let with_time = |map: &str| format!("mtime {MTIME}\n{map}");
    type Row = (String, Option<u64>, &'static [(u64, u64)]);
    let rows: [Row; 6] = [
        (ours("8192 4096\r\n0 4096\r\nend\r\n"), None, &[(0, 4096), (8192, 4096)]),
        (ours("0 8192\n4096 8192 dirty\n12288 4096 clean\nend"), Some(7), &[(0, 12288)]),
        (by_number, None, &[(8192, 4096), (0x4000, 0x1000)]),
        (ours("end\n"), None, &[]),
        (with_time(&borg), Some(7), &[(4096, 4096)]),
        (with_time(&ddrescue), Some(7), &[(4096, 4096)]),
    ];
    for (text, since, expected) in rows {
        assert_eq!(told(&text, since, true).as_deref(), Ok(expected), "{text}");
    }
    let beyond = ours(&format!("{} 65536\nend\n", SIZE - 4096));
    assert_eq!(told(&beyond, None, true).as_deref(), Ok(&[(SIZE - 4096, 4096)][..]), "rounded up");
}

#[test]
fn what_is_no_map_is_refused_with_the_line() {
    let rows = [
        ("0 4096 perhaps\nend\n", "line 5: a state other"),
        ("0\nend\n", "line 5: expected START"),
        ("0 4096 dirty 1\nend\n", "line 5: expected START"),
        ("0 0\nend\n", "no bytes"),
        ("+5 4096\nend\n", "not a number"),
        ("-5 4096\nend\n", "not a number"),
        ("0x 4096\nend\n", "not a number"),
        ("0x+5 4096\nend\n", "not a number"),
        ("18446744073709551615 1\nend\n", "beyond the end of any image"),
        ("18446744073709551616 1\nend\n", "not a number"),
        ("1 18446744073709551615\nend\n", "beyond the end of any image"),
        ("0 4096\nend\n0 4096\n", "line 7: something follows"),
        ("size 5\nend\n", "size is said twice"),
        ("0 4096\n", "cut short"),
        ("409600 4096\nend\n", "reaches beyond"),
        ("0 409600000\nend\n", "reaches beyond"),
        ("1 + 1\nend\n", "a state other"),
        ("\u{e9} 5\nend\n", "not a number"),
    ];
    for (lines, why) in rows {
        let said = refused(told(&ours(lines), None, true));
        assert!(said.contains(why), "{lines}: {said}");
    }
    let version = ours("end\n").replace(" v1", " v2");
    assert!(refused(told(&version, None, true)).contains("version other than v1"));
    assert!(TextMap::parse(b"0 1\n\xFF\xFE\n").unwrap_err().contains("line 2: not text"));
    assert!(TextMap::parse(&[b'1'; 5000]).unwrap_err().contains("longer than"));
}

#[test]
fn a_map_must_begin_at_the_current_generation_and_end_at_what_is_there() {
    let good = ours("0 4096\nend\n");
    let said = |text: &str, since| refused(told(text, since, true));
    let change = |from: &str, to: &str| good.replace(from, to);
    let base = format!("base {}", root(7));
    assert!(said(&change(&base, &format!("base {}", root(6))), None).contains("begins at the"));
    assert!(said(&change(&base, "base 6"), None).contains("begins at generation 6"));
    assert!(said(&change(&base, "base seven"), None).contains("a root or a generation"));
    assert!(said(&change(&base, ""), None).contains("--since GENERATION"));
    assert!(said(&good, Some(6)).contains("begins at generation 6"), "both must hold");
    assert!(said(&change(&SIZE.to_string(), "4096"), None).contains("size 4096"));
    assert!(said(&change("mtime ", "inode 99\nmtime "), None).contains("inode 99"));
    assert!(said(&change("789", "788"), None).contains("written to since"));
    for mtime in ["now", "1.2.3", "-1", ".5", "5.", "1.0000000001", "99999999999999999999"] {
        let text = change(MTIME, mtime);
        assert!(said(&text, None).contains("not SECONDS"), "{mtime}");
    }
    let without = change(&format!("mtime {MTIME}\n"), "");
    assert!(said(&without, None).contains("after the map"), "the map's file is older");
    let gap = "mtime 1763790000.123456789\n0 4096 same\n8192 401408 data\n";
    assert!(said(gap, Some(7)).contains("cut short"), "a gap in a map without an end");
    let busy = told(&good, None, false);
    assert!(matches!(busy, Err(Unfit::Unproven(_))), "{busy:?}");
}

#[test]
fn a_bitmap_must_begin_there_too() {
    let stat = stat();
    let (mut image, current) = (image(&stat), generation(7));
    let outcome = |image: &ImageRecord, name: &str, since| {
        let address = format!("nbd+unix:///x?socket=/no/such/socket&bitmap={name}");
        let changed = Changed::Bitmap(NbdBitmap::parse(&address).expect("an address"));
        let facts = Facts { image, current: &current, stat: &stat, settled: true };
        Told { changed, since }.ranges(&facts)
    };
    let digits = root(7).to_string();
    let unreached = |outcome| assert!(refused(outcome).contains("/no/such/socket: "));
    unreached(outcome(&image, &format!("blockferry-{digits}"), None));
    unreached(outcome(&image, &format!("b-{}", &digits[..16]), Some(7)));
    unreached(outcome(&image, "anything", Some(7)));
    assert!(refused(outcome(&image, "anything", None)).contains("--since"));
    assert!(refused(outcome(&image, &format!("b-{}", &digits[..15]), None)).contains("--since"));
    assert!(refused(outcome(&image, &root(6).to_string(), None)).contains("begins at the content"));
    assert!(refused(outcome(&image, &digits, Some(8))).contains("generation 8"));
    image.checkpoint = None;
    let moved = outcome(&image, &digits, None);
    assert!(matches!(moved, Err(Unfit::Unproven(_))), "{moved:?}");
}

#[test]
fn beside_an_image_only_what_proves_itself_counts() {
    let disk = SimDisk::new(1, 1 << 20);
    let put = |text: &str| {
        disk.remove_file("vm.raw.changed").expect("removed");
        let file = disk.open("vm.raw.changed", Open::CreateNew).expect("opens");
        file.write_at(text.as_bytes(), 0).expect("written");
    };
    let stat = stat();
    let (image, current) = (image(&stat), generation(7));
    let facts = Facts { image: &image, current: &current, stat: &stat, settled: true };
    let found = || beside(&disk, &facts).expect("reads");
    assert_eq!(found(), None);
    put(&ours("0 4096\nend\n"));
    assert_eq!(found(), Some(Ok(vec![(0, 4096)])));
    put(&ours("0 4096\nend\n").replace(&format!("mtime {MTIME}\n"), ""));
    assert!(refused(found().expect("a map")).contains("no line mtime"));
    put("");
    assert!(refused(found().expect("a map")).contains("no line mtime"));
    disk.make_dir("d").expect("made");
    disk.rename("vm.raw.changed", "d/x", RenameHow::Replace).expect("renamed");
    disk.make_dir("vm.raw.changed").expect("made");
    assert!(refused(found().expect("something")).contains("not a regular file"));
}

#[test]
fn names_of_maps_are_no_images() {
    for (name, is) in [("vm.raw.changed", true), (".changed", false), ("changed", false)] {
        assert_eq!(is_sidecar(name), is, "{name}");
    }
}

/// Any bytes give a map or a reason, and what is a map is in order, apart and bounded.
#[test]
fn any_bytes_are_survived() {
    let words = [
        "base",
        "size",
        "mtime",
        "inode",
        "end",
        "0",
        "4096",
        "0x1000",
        "18446744073709551615",
        "dirty",
        "clean",
        "+",
        "?",
        "#",
        "\n",
        "\n",
        "\n",
        " ",
        "\t",
        "\u{0}",
        "-1",
        "1.5",
        "9e9",
        "70368744177664",
        "99999999999999999999999",
        "# blockferry changed v1\n",
    ];
    let mut seed = 7_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (seed >> 33) as usize % below
    };
    let (mut maps, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..next(30) {
            if round % 3 == 0 {
                text.push(next(256) as u8);
            } else {
                text.extend_from_slice(words[next(words.len())].as_bytes());
                text.push(b" \n"[next(2)]);
            }
        }
        match TextMap::parse(&text) {
            Ok(map) => {
                maps += 1;
                let apart = map.dirty.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0);
                assert!(apart && map.dirty.iter().all(|(_, bytes)| *bytes > 0), "{map:?}");
            }
            Err(why) => {
                refused += 1;
                assert!(why.starts_with("line "), "{why}");
            }
        }
    }
    assert!(maps > 500 && refused > 5000, "{maps} maps, {refused} refused");
}

#[test]
fn every_cut_of_a_map_is_refused() {
    let whole = ours("0 4096\n8192 4096 dirty\nend\n");
    assert!(told(&whole, None, true).is_ok());
    // Without its last line break it still is whole.
    for length in 0..whole.len() - 1 {
        refused(told(&whole[..length], None, true));
    }
}
