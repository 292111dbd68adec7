//! The journal as a file: what is read through it, what a torn end costs, what damage shows.

use std::sync::Arc;

use blockferry_delta::{Root, StoreKey};

use super::*;
use crate::disk::SimDisk;

const LIVE: &str = "vm.img";
const PATH: &str = "vm.img.journal";
const PAGE: usize = PAGE_BYTES;

fn keys() -> Keys {
    Keys::derive(&StoreKey::from_bytes([5; 32]))
}

fn head(image_bytes: usize) -> Head {
    Head { image_bytes: image_bytes as u64, root: Root::from_bytes([7; 32]) }
}

fn disk(base: &[u8]) -> Arc<dyn Disk> {
    let disk = SimDisk::new(1, 1 << 30);
    disk.open(LIVE, Open::Create).unwrap().write_at(base, 0).unwrap();
    Arc::new(disk)
}

fn create(disk: &Arc<dyn Disk>, image_bytes: usize) -> Journal {
    Journal::create(disk.as_ref(), PATH, LIVE, head(image_bytes), &keys()).unwrap()
}

fn reopen(disk: &Arc<dyn Disk>, head: Head) -> Option<Journal> {
    Journal::reopen(disk.as_ref(), PATH, LIVE, head, &keys()).unwrap()
}

fn all(journal: &Journal, bytes: usize) -> Vec<u8> {
    let mut out = vec![9; bytes];
    assert_eq!(journal.read(&mut out, 0).unwrap(), bytes);
    for at in [0, 1, PAGE - 1, PAGE, 3 * PAGE + 7, bytes - 1] {
        for len in [1, 5000, 70_000] {
            let mut part = vec![9; len];
            let got = journal.read(&mut part, at as u64).unwrap();
            assert_eq!(got, len.min(bytes - at));
            assert!(part[..got] == out[at..at + got], "{len} bytes at {at}");
        }
    }
    out
}

/// Pages, a hole over some of them, a page in the hole again, a short last page.
fn fill(journal: &mut Journal, expected: &mut [u8]) {
    let len = expected.len();
    let mut data = |journal: &mut Journal, at: usize, bytes: usize, fill: u8| {
        expected[at..at + bytes].fill(fill);
        journal.write(&expected[at..at + bytes], at as u64).unwrap();
    };
    data(journal, 2 * PAGE, 3 * PAGE, 1);
    data(journal, 20 * PAGE, 17 * PAGE, 2);
    data(journal, len - 100, 100, 3);
    expected[3 * PAGE..30 * PAGE].fill(0);
    journal.hole(3 * PAGE as u64, 10 * PAGE as u64).unwrap();
    journal.hole(13 * PAGE as u64, 17 * PAGE as u64).unwrap();
    expected[25 * PAGE..26 * PAGE].fill(4);
    journal.write(&expected[25 * PAGE..26 * PAGE], 25 * PAGE as u64).unwrap();
}

#[test]
fn what_is_read_is_the_new_content() {
    for (base_bytes, image_bytes) in
        [(50, 50), (30, 50), (60, 50)].map(|(a, b)| (a * PAGE, b * PAGE + 100))
    {
        let base: Vec<u8> = (0..base_bytes).map(|n| 100 + (n / PAGE) as u8).collect();
        let disk = disk(&base);
        let mut journal = create(&disk, image_bytes);
        let mut expected = base.clone();
        expected.resize(image_bytes, 0);
        fill(&mut journal, &mut expected);
        assert!(all(&journal, image_bytes) == expected);
        let sum = journal.sum();
        drop(journal);
        let journal = reopen(&disk, head(image_bytes)).expect("the same content");
        assert!(all(&journal, image_bytes) == expected, "it is the same after a restart");
        assert_eq!(journal.sum(), sum);
        assert!(apply::is_whole(journal.file(), PATH, &sum).unwrap());
        drop(journal);
        assert!(reopen(&disk, head(image_bytes + 1)).is_none(), "another content");
    }
}

#[test]
fn a_torn_end_costs_the_last_record_and_no_more() {
    let base = vec![8; 50 * PAGE];
    let disk = disk(&base);
    let mut journal = create(&disk, base.len());
    journal.write(&[1; PAGE], 0).unwrap();
    let whole = journal.end;
    journal.write(&[2; 2 * PAGE], PAGE as u64).unwrap();
    let end = journal.end;
    drop(journal);
    for cut in [end - 1, whole + 40, whole + 1] {
        let file = disk.open(PATH, Open::ReadWrite).unwrap();
        file.set_len(cut).unwrap();
        drop(file);
        let mut journal = reopen(&disk, head(base.len())).expect("the head is whole");
        let mut expected = base.clone();
        expected[..PAGE].fill(1);
        assert!(all(&journal, base.len()) == expected, "cut at {cut}");
        assert_eq!(journal.end, whole);
        journal.write(&[2; 2 * PAGE], PAGE as u64).unwrap();
        assert_eq!(journal.end, end, "it goes on as if nothing had been");
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let base = vec![8; 4 * PAGE];
    let sim = SimDisk::new(1, 1 << 30);
    sim.open(LIVE, Open::Create).unwrap().write_at(&base, 0).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut journal = create(&disk, base.len());
    journal.write(&[1; 600], 0).unwrap();
    journal.hole(PAGE as u64, PAGE as u64).unwrap();
    let (sum, end) = (journal.sum(), journal.end);
    drop(journal);
    for at in 0..end {
        sim.flip_bit(PATH, at).unwrap();
        let file = disk.open(PATH, Open::Read).unwrap();
        assert!(!apply::is_whole(file.as_ref(), PATH, &sum).unwrap(), "byte {at}");
        let mut count = 0;
        if let Some(mut records) = Records::open(file.as_ref(), PATH).unwrap() {
            while records.next().unwrap().is_some() {
                count += 1;
            }
            assert!(!records.is_at_end(), "byte {at}");
        }
        assert!(count < 2, "byte {at}: {count} records taken for whole");
        sim.flip_bit(PATH, at).unwrap();
    }
}

#[test]
fn nobody_makes_it_grow_without_end() {
    let disk = disk(&[1; 10]);
    let mut journal = create(&disk, 1 << 20);
    journal.end = FILE_BYTES_MAX - 100;
    assert!(matches!(journal.write(&[1; PAGE], 0), Err(Error::BadPart(_))));
}
