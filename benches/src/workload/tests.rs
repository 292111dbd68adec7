//! Every workload made small: what both ends hold before, what is there after, how many pages
//! differ, and that a second call finds what the first one made.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::ground::image::{blake3, data_bytes, same_bytes};
use crate::ground::tools::has;

const IMAGE_BYTES: u64 = 2 << 20;
const IMAGE_PAGES: u64 = IMAGE_BYTES / 4096;

fn request(dir: &Path, seed: u64) -> Request {
    Request { seed, image_bytes: IMAGE_BYTES, dir: dir.to_owned(), real_images: None }
}

fn modified(placed: &Placed) -> i64 {
    std::fs::metadata(&placed.path).unwrap().mtime()
}

#[test]
fn every_workload_can_be_made_and_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let request = request(directory.path(), 1);
    for name in NAMES {
        if name.starts_with("container-") && !has("qemu-img") {
            eprintln!("skipped: {name} needs qemu-img");
            assert!(format!("{:#}", prepare(name, &request).unwrap_err()).contains("qemu-img"));
            continue;
        }
        let made = prepare(name, &request).unwrap();
        assert_eq!(made.name, name);
        assert!(made.words.contains("seed 1") && !made.words.contains('\n'), "{}", made.words);
        assert_eq!(made.stands_in.is_some(), name.starts_with("real-"), "{name}");
        let inode = std::fs::metadata(&made.after.path).unwrap().ino();
        let found = prepare(name, &request).unwrap();
        assert_eq!(std::fs::metadata(&found.after.path).unwrap().ino(), inode, "{name}");
        assert_eq!((found.words, found.stands_in), (made.words, made.stands_in));
        assert_eq!(found.changed_page_bytes, made.changed_page_bytes);
        if let [before] = &made.before[..] {
            let update = before.name == made.after.name;
            assert_eq!(made.changed_page_bytes.is_some(), update, "{name}");
            assert_eq!(modified(&made.after) - modified(before), i64::from(update) * 86_400);
            assert_eq!(
                same_bytes(&before.path, &made.after.path).unwrap(),
                name == "touched" || !update
            );
        } else {
            assert_eq!(name, "first-copy");
        }
    }
}

#[test]
fn as_many_pages_change_as_the_name_says() {
    let directory = tempfile::tempdir().unwrap();
    let request = request(directory.path(), 3);
    let plan = Plan::new(3, IMAGE_BYTES, HOLE_PERCENT);
    let expected = [
        ("random-0.1", 1),
        ("random-1", IMAGE_PAGES / 100),
        ("clustered", IMAGE_PAGES / 100),
        ("database", (plan.database().unwrap().pages() / 100).max(1)),
        ("touched", 0),
        ("sparse", 1),
    ];
    for (name, pages) in expected {
        let made = prepare(name, &request).unwrap();
        assert_eq!(made.changed_page_bytes, Some(pages * 4096), "{name}");
    }
    let pages = |name| prepare(name, &request).unwrap().changed_page_bytes.unwrap() / 4096;
    assert!((1..IMAGE_PAGES / 20).contains(&pages("real-small-day")));
    assert!((IMAGE_PAGES / 10..IMAGE_PAGES * 6 / 10).contains(&pages("real-big-update")));
    assert!(pages("new-layout") > IMAGE_PAGES / 2);
    for name in ["first-copy", "new-name"] {
        assert_eq!(prepare(name, &request).unwrap().changed_page_bytes, None);
    }
}

#[test]
fn the_seed_decides() {
    let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let hash = |directory: &Path, seed, name| {
        blake3(&prepare(name, &request(directory, seed)).unwrap().after.path).unwrap()
    };
    for name in ["random-1", "new-layout", "real-big-update"] {
        assert_eq!(hash(first.path(), 1, name), hash(second.path(), 1, name), "{name}");
        assert_ne!(hash(first.path(), 1, name), hash(first.path(), 2, name), "{name}");
    }
}

#[test]
fn a_sparse_image_is_large_and_holds_little() {
    let directory = tempfile::tempdir().unwrap();
    let made = prepare("sparse", &request(directory.path(), 1)).unwrap();
    let stat = std::fs::metadata(&made.after.path).unwrap();
    assert_eq!(stat.len(), 10 * IMAGE_BYTES);
    let held = stat.blocks() * 512;
    let data = data_bytes(&made.after.path).unwrap();
    assert!(held >= data && held < data + (256 << 10), "{held} for {data}");
    assert!(data * 100 / stat.len() < 9 && data * 100 / stat.len() > 2, "{data}");
}

#[test]
fn a_container_holds_the_disks() {
    if !has("qemu-img") {
        eprintln!("skipped: containers need qemu-img");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let request = request(directory.path(), 1);
    let disks = prepare("random-1", &request).unwrap();
    for name in ["container-qcow2", "container-vhd", "container-vhdx"] {
        let made = prepare(name, &request).unwrap();
        assert!(container::same_disk(&disks.before[0].path, &made.before[0].path), "{name}");
        assert!(container::same_disk(&disks.after.path, &made.after.path), "{name}");
        assert!(!container::same_disk(&disks.before[0].path, &made.after.path), "{name}");
        // A guest's page may lie across two of the file's; a format writes some tables besides.
        let changed = made.changed_page_bytes.unwrap() / 4096;
        let least = IMAGE_PAGES / 100;
        assert!((least..=2 * least + 600).contains(&changed), "{name}: {changed}");
    }
}

#[test]
fn real_generations_are_used_where_they_are() {
    let [directory, images] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (file, pages) in [("g1.raw", [1, 1, 1]), ("g2.raw", [1, 2, 2]), ("g3.raw", [1, 2, 3])] {
        let bytes: Vec<u8> = pages.iter().flat_map(|byte| [*byte; 4096]).collect();
        std::fs::write(images.path().join(file), bytes).unwrap();
    }
    let real_images = Some(images.path().to_owned());
    let request = Request { real_images, ..request(directory.path(), 1) };
    let update = prepare("real-big-update", &request).unwrap();
    let day = prepare("real-small-day", &request).unwrap();
    assert_eq!((update.changed_page_bytes, day.changed_page_bytes), (Some(8192), Some(4096)));
    assert!(update.stands_in.is_none() && update.words.contains("g1.raw to g2.raw"));
    assert!(day.after.path.ends_with("g3.raw") && day.before[0].path.ends_with("g2.raw"));
    std::fs::remove_file(images.path().join("g3.raw")).unwrap();
    assert!(format!("{:#}", prepare("real-small-day", &request).unwrap_err()).contains("g3.raw"));
}

#[test]
fn what_cannot_be_made_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let request = request(directory.path(), 1);
    assert!(prepare("no-such", &request).unwrap_err().to_string().contains("random-0.1"));
    let odd = Request { image_bytes: 4097, ..request };
    assert!(prepare("first-copy", &odd).unwrap_err().to_string().contains("whole number of MiB"));
}

#[test]
fn images_that_the_packages_do_not_fit_in_are_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("images");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/build");
    for (size, words) in [
        ("1G", "2G is the least"),
        ("2147483647", "2G is the least"),
        ("-3G", "2G is the least"),
        ("large", "not large"),
    ] {
        let output = std::process::Command::new(&script).arg(&target).arg(size).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(words), "{size}: {told}");
        assert!(!target.exists(), "{size}");
    }
}
