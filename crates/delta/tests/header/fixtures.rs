//! What is read of disks that were written from the specifications: every path and id of a parent.

use blockferry_delta::{
    DiskId, Format, Header, Locator, LocatorKind, ParentLink, Unclean, read_header,
};

use crate::disks::{Qcow2, Vhd, VhdKind, Vhdx};

fn read(bytes: &[u8]) -> Header {
    read_header(bytes).expect("a good header").expect("a known format")
}

fn locator(kind: LocatorKind, path: &str) -> Locator {
    Locator { kind, path: path.to_owned() }
}

#[test]
fn a_vhd_and_its_child() {
    let base = Vhd::new(VhdKind::Dynamic, 1);
    let header = read(&base.bytes());
    assert_eq!((header.format, header.virtual_bytes), (Format::Vhd, 1 << 20));
    assert_eq!((header.id, header.parent), (Some(DiskId([1; 16])), None));
    let fixed = read(&Vhd::new(VhdKind::Fixed, 3).bytes());
    assert_eq!((fixed.id, fixed.virtual_bytes), (Some(DiskId([3; 16])), 1 << 20));

    let mut child = Vhd::child(2, &base, "b\u{e5}se.vhd", 77);
    child.locators.push((*b"MacX", "file:///vdisks/base.vhd".to_owned()));
    child.locators.push((*b"????", "unknown".to_owned()));
    let parent = read(&child.bytes()).parent.expect("a parent");
    let expected = ParentLink {
        locators: vec![
            locator(LocatorKind::Relative, ".\\b\u{e5}se.vhd"),
            locator(LocatorKind::Absolute, "D:\\vdisks\\b\u{e5}se.vhd"),
            locator(LocatorKind::Absolute, "file:///vdisks/base.vhd"),
            locator(LocatorKind::Name, "b\u{e5}se.vhd"),
        ],
        ids: vec![DiskId([1; 16])],
        modified_2000_s: Some(77),
        format: None,
    };
    assert_eq!(parent, expected);
}

#[test]
fn a_vhd_whose_footer_is_torn_is_read_by_its_copy() {
    let whole = Vhd::new(VhdKind::Dynamic, 1).bytes();
    for torn in [0..512, whole.len() - 512..whole.len()] {
        let mut bytes = whole.clone();
        bytes[torn.start + 100] ^= 1;
        assert_eq!(read(&bytes), read(&whole));
        bytes[torn].fill(0);
        assert_eq!(read(&bytes), read(&whole));
    }
}

#[test]
fn a_vhdx_and_its_child() {
    let base = Vhdx::new(1);
    let header = read(&base.bytes());
    assert_eq!((header.format, header.virtual_bytes), (Format::Vhdx, 64 << 20));
    assert_eq!((header.id, header.parent), (Some(DiskId([1; 16])), None));
    assert_eq!(header.unclean, None);

    let child = Vhdx::child(2, &base, "base.vhdx");
    let parent = read(&child.bytes()).parent.expect("a parent");
    assert_eq!(parent.ids, [DiskId([1; 16])], "a second linkage of zeros is none");
    let kinds: Vec<LocatorKind> = parent.locators.iter().map(|l| l.kind).collect();
    assert_eq!(kinds, [LocatorKind::Relative, LocatorKind::Volume, LocatorKind::Absolute]);
    assert_eq!(parent.locators[0].path, ".\\base.vhdx");
    assert_eq!(parent.locators[2].path, "D:\\vdisks\\base.vhdx");

    let open = Vhdx { log_id: [5; 16], ..base };
    assert_eq!(read(&open.bytes()).unclean, Some(Unclean::Log));
}

#[test]
fn of_two_headers_of_a_vhdx_the_newer_whole_one_counts() {
    let mut bytes = Vhdx::new(1).bytes();
    let older = Vhdx { log_id: [5; 16], ..Vhdx::new(2) }.bytes();
    bytes[64 << 10..68 << 10].copy_from_slice(&older[64 << 10..68 << 10]);
    assert_eq!(read(&bytes).id, Some(DiskId([1; 16])), "the second has the higher number");
    bytes[(128 << 10) + 40] ^= 1;
    let header = read(&bytes);
    assert_eq!((header.id, header.unclean), (Some(DiskId([2; 16])), Some(Unclean::Log)));
    bytes[(64 << 10) + 40] ^= 1;
    let error = read_header(bytes.as_slice()).expect_err("none is whole").to_string();
    assert_eq!(
        error,
        "VHDX header: header at byte 65536: neither header is whole and of version 1"
    );
}

#[test]
fn a_qcow2_with_a_backing_file() {
    let backing = Some(("/srv/vdisks/base.raw".to_owned(), "raw".to_owned()));
    for version_3 in [false, true] {
        let disk =
            Qcow2 { version_3, size_bytes: 5 << 30, backing: backing.clone(), ..Qcow2::default() };
        let header = read(&disk.bytes());
        assert_eq!((header.virtual_bytes, header.id), (5 << 30, None));
        let parent = header.parent.expect("a parent");
        assert_eq!(parent.locators, [locator(LocatorKind::Absolute, "/srv/vdisks/base.raw")]);
        assert_eq!(parent.format.as_deref(), Some("raw"));
    }
    for (features, unclean) in [
        (0, None),
        (1, Some(Unclean::Dirty)),
        (2, Some(Unclean::Corrupt)),
        (3, Some(Unclean::Corrupt)),
    ] {
        let disk = Qcow2 { version_3: true, features, ..Qcow2::default() };
        assert_eq!(read(&disk.bytes()).unclean, unclean);
    }
    let name = Some("disk.data".to_owned());
    let disk = Qcow2 { version_3: true, features: 4, data_file: name.clone(), ..Qcow2::default() };
    assert_eq!(read(&disk.bytes()).data_file, name);
}

#[test]
fn what_has_no_header_is_raw() {
    for bytes in [&[][..], &[7; 100], &[0; 512], &[0xFF; 5000]] {
        assert_eq!(read_header(bytes).expect("no error"), None);
    }
}
