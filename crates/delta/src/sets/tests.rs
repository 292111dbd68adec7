//! Sets and faults of stores that are only names and headers.

use super::*;
use crate::header::{DiskId, Locator, LocatorKind};

const STORE: &str = "/srv/vdisks";

fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("a name")
}

fn plain(text: &str) -> SetFile {
    SetFile { name: name(text), header: None, unreadable: None, modified_unix_s: 0 }
}

fn disk(text: &str, format: Format, id: u8) -> SetFile {
    let header = Header {
        format,
        virtual_bytes: 1 << 30,
        id: (format != Format::Qcow2).then_some(DiskId([id; 16])),
        parent: None,
        data_file: None,
        unclean: None,
    };
    SetFile { header: Some(header), ..plain(text) }
}

fn link(kind: LocatorKind, path: &str) -> ParentLink {
    ParentLink { locators: vec![Locator { kind, path: path.into() }], ..ParentLink::default() }
}

/// A child of `parent` by a relative path, with the right id.
fn child(text: &str, id: u8, parent: &SetFile) -> SetFile {
    let format = parent.header.as_ref().expect("a disk").format;
    let mut file = disk(text, format, id);
    let path = if format == Format::Qcow2 { "" } else { ".\\" };
    let mut link = link(LocatorKind::Relative, &format!("{path}{}", parent.name));
    link.ids.extend(parent.header.as_ref().and_then(|h| h.id));
    file.header.as_mut().expect("a disk").parent = Some(link);
    file
}

fn parent_link(file: &mut SetFile) -> &mut ParentLink {
    file.header.as_mut().and_then(|h| h.parent.as_mut()).expect("a child")
}

fn find(files: &[SetFile]) -> Sets {
    Sets::find(files, STORE, Grouping::Auto)
}

fn members(sets: &Sets, of: &str) -> Vec<String> {
    sets.set_of(&name(of)).expect("a set").members.iter().map(ToString::to_string).collect()
}

#[test]
fn a_chain_with_its_sidecars_is_one_set_in_the_order_of_need() {
    let base = disk("win.vhdx", Format::Vhdx, 1);
    let one = child("win.1.avhdx", 2, &base);
    let two = child("win.2.avhdx", 3, &one);
    let other = disk("alone.vhdx", Format::Vhdx, 9);
    let sidecars = ["win.xml", "win.pvp", "win.1.pvp", "win.2.pvp", "stray.pvp"].map(plain);
    let sets = find(&[vec![two, one, base, other], sidecars.to_vec()].concat());
    let expected =
        ["win.pvp", "win.vhdx", "win.1.pvp", "win.1.avhdx", "win.2.pvp", "win.2.avhdx", "win.xml"];
    assert_eq!(members(&sets, "win.1.avhdx"), expected);
    assert_eq!(sets.set_of(&name("win.xml")).expect("a set").name, name("win.vhdx"));
    assert_eq!(sets.set_of(&name("alone.vhdx")), None, "alone is no set");
    assert_eq!(sets.set_of(&name("stray.pvp")), None);
    assert_eq!(sets.sets().len(), 1);
    let children: Vec<_> = sets.children(&name("win.vhdx")).cloned().collect();
    assert_eq!(children, [name("win.1.avhdx")]);
    assert_eq!(sets.parent(&name("win.2.avhdx")), Some(&name("win.1.avhdx")));
    for file in ["win.vhdx", "win.1.avhdx", "win.2.avhdx", "alone.vhdx", "win.pvp"] {
        assert_eq!(sets.fault(&name(file)), None, "{file}");
    }
}

/// What is done to a good child.
type Damage<'a> = &'a dyn Fn(&mut SetFile);

#[test]
fn every_broken_link_is_a_fault() {
    let base = disk("base.vhd", Format::Vhd, 1);
    let good = child("child.vhd", 2, &base);
    let damage: [(&str, Damage<'_>); 8] = [
        ("another", &|f| parent_link(f).ids = vec![DiskId([7; 16])]),
        ("modification time", &|f| parent_link(f).modified_2000_s = Some(5)),
        ("size of its disk", &|f| f.header.as_mut().expect("a disk").virtual_bytes += 512),
        ("gone.vhd, which is not in", &|f| {
            parent_link(f).locators[0].path = ".\\gone.vhd".into();
        }),
        ("outside the store", &|f| parent_link(f).locators[0].path = "D:\\x\\gone.vhd".into()),
        ("outside the store", &|f| parent_link(f).locators.clear()),
        ("circle", &|f| {
            *parent_link(f) = link(LocatorKind::Relative, "child.vhd");
        }),
        ("checksum", &|f| f.unreadable = Some("the checksum is wrong".into())),
    ];
    for (text, break_it) in damage {
        let mut broken = good.clone();
        break_it(&mut broken);
        let grandchild = child("grandchild.vhd", 3, &broken);
        let sets = find(&[base.clone(), broken, grandchild]);
        let fault = sets.fault(&good.name).expect(text).to_string();
        assert!(fault.contains(text), "{fault}");
        let below = sets.fault(&name("grandchild.vhd")).expect(text).to_string();
        assert!(below.contains("builds upon child.vhd") || below.contains("circle"), "{below}");
        assert_eq!(sets.fault(&base.name), None);
    }
    assert_eq!(find(&[base.clone(), good.clone()]).fault(&good.name), None);
    let not_one = SetFile { header: None, ..base };
    let fault = find(&[not_one, good.clone()]).fault(&good.name).cloned().expect("no VHD");
    assert!(fault.is_mismatch() && fault.to_string().contains("format"), "{fault}");
}

#[test]
fn a_parents_time_may_be_off_by_what_file_systems_round() {
    let mut base = disk("base.vhd", Format::Vhd, 1);
    base.modified_unix_s = EPOCH_2000_S + 1000;
    let mut file = child("child.vhd", 2, &base);
    for (seconds, fits) in [(997, false), (998, true), (1000, true), (1002, true), (1003, false)] {
        parent_link(&mut file).modified_2000_s = Some(seconds);
        let sets = find(&[base.clone(), file.clone()]);
        assert_eq!(sets.fault(&file.name).is_none(), fits, "{seconds}");
    }
}

#[test]
fn circles_and_long_chains_end() {
    let (mut a, mut b) = (disk("a.qcow2", Format::Qcow2, 0), disk("b.qcow2", Format::Qcow2, 0));
    a.header.as_mut().expect("a disk").parent = Some(link(LocatorKind::Relative, "b.qcow2"));
    b.header.as_mut().expect("a disk").parent = Some(link(LocatorKind::Relative, "a.qcow2"));
    let sets = find(&[a, b]);
    assert_eq!(sets.fault(&name("a.qcow2")), Some(&Fault::Cycle));
    assert_eq!(sets.fault(&name("b.qcow2")), Some(&Fault::Cycle));
    let mut chain = vec![disk("d000", Format::Vhdx, 0)];
    for number in 1..=CHAIN_DISKS_MAX {
        let next = child(&format!("d{number:03}"), number as u8, &chain[number - 1]);
        chain.push(next);
    }
    let sets = find(&chain);
    let last = |back: usize| &chain[CHAIN_DISKS_MAX - back].name;
    assert_eq!(sets.fault(last(0)), Some(&Fault::ChainTooLong));
    assert_eq!(sets.fault(last(1)), None, "as long as may be");
}

#[test]
fn paths_of_parents() {
    let cases: [(Format, LocatorKind, &str, &str); 14] = [
        (Format::Qcow2, LocatorKind::Relative, "base", "here"),
        (Format::Qcow2, LocatorKind::Relative, "./base", "here"),
        (Format::Qcow2, LocatorKind::Relative, "file:base", "here"),
        (Format::Qcow2, LocatorKind::Absolute, "/srv/vdisks/base", "here"),
        (Format::Qcow2, LocatorKind::Absolute, "/mnt/other/base", "stray"),
        (Format::Qcow2, LocatorKind::Relative, "../vdisks/base", "stray"),
        (Format::Qcow2, LocatorKind::Absolute, "/mnt/other/gone", "outside"),
        (Format::Qcow2, LocatorKind::Relative, "nbd://host/base", "outside"),
        (Format::Qcow2, LocatorKind::Relative, "json:{\"driver\":\"raw\"}", "outside"),
        (Format::Qcow2, LocatorKind::Relative, "BASE", "absent"),
        (Format::Vhdx, LocatorKind::Relative, ".\\BASE", "here"),
        (Format::Vhdx, LocatorKind::Absolute, "D:\\vdisks\\base", "stray"),
        (Format::Vhd, LocatorKind::Name, "base", "here"),
        (Format::Vhd, LocatorKind::Relative, "\u{1b}[2J\n", "absent"),
    ];
    let file = plain("base");
    let names = BTreeMap::from([(&file.name, &file)]);
    for (format, kind, path, expected) in cases {
        let found = match locate(&link(kind, path), format, &names, STORE) {
            Place::Here(_) => "here",
            Place::Stray(_, _) => "stray",
            Place::Absent(text) | Place::Outside(text) if text.chars().any(char::is_control) => {
                panic!("{text:?} is shown as it is")
            }
            Place::Absent(_) => "absent",
            Place::Outside(_) => "outside",
        };
        assert_eq!(found, expected, "{path}");
    }
    let mut both = link(LocatorKind::Absolute, "D:\\elsewhere\\base");
    both.locators.extend(link(LocatorKind::Relative, ".\\base").locators);
    assert_eq!(locate(&both, Format::Vhdx, &names, STORE), Place::Here(name("base")));
}

#[test]
fn a_stray_path_is_told_and_no_fault() {
    let base = disk("base.vhdx", Format::Vhdx, 1);
    let mut file = child("child.avhdx", 2, &base);
    parent_link(&mut file).locators[0] =
        Locator { kind: LocatorKind::Absolute, path: "D:\\old\\base.vhdx".into() };
    let sets = find(&[base, file.clone()]);
    assert_eq!(sets.fault(&file.name), None);
    let strays: Vec<_> = sets.stray_paths().collect();
    assert_eq!(strays, [(&file.name, "D:\\old\\base.vhdx")]);
    assert!(sets.set_of(&file.name).is_some());
}

#[test]
fn qcow2_knows_no_ids_but_formats_and_data_files() {
    let base = disk("base.qcow2", Format::Qcow2, 0);
    let mut file = child("top.qcow2", 0, &base);
    file.header.as_mut().expect("a disk").data_file = Some("top.data".into());
    let sets = find(&[base.clone(), file.clone(), plain("top.data")]);
    assert_eq!(members(&sets, "top.data"), ["top.data", "base.qcow2", "top.qcow2"]);
    assert_eq!(sets.sets()[0].name, base.name);
    let sets = find(&[base, file.clone()]);
    assert!(matches!(sets.fault(&file.name), Some(Fault::ParentAbsent { .. })));
    for (format, fits) in [("raw", true), ("qcow2", false), ("vhdx", false)] {
        parent_link(&mut file).format = Some(format.into());
        file.header.as_mut().expect("a disk").data_file = None;
        let sets = find(&[plain("base.qcow2"), file.clone()]);
        assert_eq!(sets.fault(&file.name).is_none(), fits, "{format}");
    }
}

#[test]
fn an_operators_groups_replace_what_would_be_found() {
    let base = disk("base.vhdx", Format::Vhdx, 1);
    let files = [child("child.avhdx", 2, &base), base, plain("x.db"), plain("x.log")];
    let group_of = |name: &str| name.starts_with("x.").then_some(0);
    let sets = Sets::find(&files, STORE, Grouping::Named(&group_of));
    assert_eq!(members(&sets, "x.log"), ["x.db", "x.log"]);
    assert_eq!(sets.set_of(&name("base.vhdx")), None);
    assert_eq!(sets.parent(&name("child.avhdx")), Some(&name("base.vhdx")), "chains still count");
}
