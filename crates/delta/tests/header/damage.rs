//! Damaged headers: every bit and every end of small images, and random damage of all of them, with
//! checksums made right again so that it gets past them. Whatever the bytes, the answer is a value:
//! no panic, no more read than the limit says, and an error says where.
//!
//! `BLOCKFERRY_FUZZ=10000000` sets how many random cases are run, `BLOCKFERRY_SEED` the first.

use std::cell::Cell;
use std::io;

use blockferry_delta::{
    HEADER_READS_BYTES_MAX, Header, HeaderError, LOCATOR_BYTES_MAX, LOCATORS_MAX, ReadAt,
    read_header,
};

use crate::disks::{
    Qcow2, VHDX_ITEMS_AT, VHDX_METADATA_AT, Vhd, VhdKind, Vhdx, vhd_checksum, vhdx_checksum,
};

/// An image with some bytes changed, and its length.
struct Damaged<'a> {
    whole: &'a [u8],
    length: usize,
    patches: Vec<(usize, Vec<u8>)>,
    read_bytes: Cell<u64>,
}

impl<'a> Damaged<'a> {
    fn new(whole: &'a [u8]) -> Self {
        Self { whole, length: whole.len(), patches: Vec::new(), read_bytes: Cell::new(0) }
    }

    fn copy(&self, buf: &mut [u8], start: usize) -> Option<()> {
        let end = start.checked_add(buf.len()).filter(|end| *end <= self.length)?;
        buf.copy_from_slice(self.whole.get(start..end)?);
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                if (start..end).contains(&at) {
                    buf[at - start] = *byte;
                }
            }
        }
        Some(())
    }

    /// Reads its header and checks what must hold whatever it holds.
    fn read(&self) -> Option<Header> {
        self.read_bytes.set(0);
        let header = match read_header(self) {
            Ok(header) => header?,
            Err(HeaderError::Read(error)) => panic!("it is read beyond its end: {error}"),
            Err(error) => {
                assert!(error.to_string().contains(" at byte "), "{error}");
                return None;
            }
        };
        assert!(self.read_bytes.get() <= HEADER_READS_BYTES_MAX);
        let parent = header.parent.clone().unwrap_or_default();
        assert!(parent.locators.len() <= LOCATORS_MAX);
        // A unit of UTF-16 may take three bytes of UTF-8.
        let long = |text: &String| text.len() > LOCATOR_BYTES_MAX / 2 * 3;
        assert!(!parent.locators.iter().any(|l| long(&l.path)));
        Some(header)
    }
}

impl ReadAt for Damaged<'_> {
    fn size_bytes(&self) -> u64 {
        self.length as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_bytes.set(self.read_bytes.get() + buf.len() as u64);
        let done = usize::try_from(offset).ok().and_then(|start| self.copy(buf, start));
        done.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// A checksummed structure: where, how many bytes, and what makes its sum right.
type Sealed = (usize, usize, fn(&mut [u8]));

/// An image to damage: its bytes, where anything is, and its checksummed structures.
struct Subject {
    bytes: Vec<u8>,
    spots: Vec<std::ops::Range<usize>>,
    sealed: Vec<Sealed>,
}

impl Subject {
    fn vhd(disk: &Vhd) -> Self {
        let bytes = disk.bytes();
        let (end, footer): (_, fn(&mut [u8])) = (bytes.len() - 512, |b| vhd_checksum(b, 64));
        let mut sealed = vec![(end, 512, footer)];
        let mut spots: Vec<_> = std::iter::once(end..end + 512).collect();
        if disk.kind != VhdKind::Fixed {
            sealed.extend([(0, 512, footer), (512, 1024, |b| vhd_checksum(b, 36))]);
            spots.push(0..end);
        }
        Self { bytes, spots, sealed }
    }

    fn vhdx(disk: &Vhdx) -> Self {
        let (header, table) = (4096, 64 << 10);
        let places =
            [(64 << 10, header), (128 << 10, header), (192 << 10, table), (256 << 10, table)];
        let mut spots = vec![0..16, VHDX_METADATA_AT..VHDX_METADATA_AT + 32 * 8];
        spots.push(VHDX_ITEMS_AT..VHDX_ITEMS_AT + 1200);
        spots.extend(places.map(|(at, _)| at..at + 96));
        let sum: fn(&mut [u8]) = vhdx_checksum;
        Self { bytes: disk.bytes(), spots, sealed: places.map(|(at, n)| (at, n, sum)).to_vec() }
    }

    fn qcow2(disk: &Qcow2) -> Self {
        Self { bytes: disk.bytes(), spots: std::iter::once(0..320).collect(), sealed: Vec::new() }
    }

    fn all() -> Vec<Self> {
        let (vhd, vhdx) = (Vhd::new(VhdKind::Dynamic, 1), Vhdx::new(1));
        let fixed = Vhd { size_bytes: 4096, ..Vhd::new(VhdKind::Fixed, 4) };
        let backing = Some(("base.qcow2".to_owned(), "qcow2".to_owned()));
        let child = Qcow2 { version_3: true, size_bytes: 1 << 30, backing, ..Qcow2::default() };
        let data_file = Some("disk.data".to_owned());
        let outside = Qcow2 { version_3: true, features: 4, data_file, ..Qcow2::default() };
        vec![
            Self::vhd(&Vhd::child(2, &vhd, "base.vhd", 7)),
            Self::vhd(&vhd),
            Self::vhd(&fixed),
            Self::vhdx(&Vhdx::child(3, &vhdx, "base.vhdx")),
            Self::vhdx(&vhdx),
            Self::qcow2(&child),
            Self::qcow2(&Qcow2 { version_3: false, ..child.clone() }),
            Self::qcow2(&outside),
        ]
    }

    /// Makes the sums of what was damaged right again.
    fn reseal(&self, damaged: &mut Damaged<'_>) {
        for (at, bytes, sum) in &self.sealed {
            let within = at..&(at + bytes);
            let touched = damaged.patches.iter().any(|(p, _)| within.contains(&p));
            let mut structure = vec![0; *bytes];
            if touched && damaged.copy(&mut structure, *at).is_some() {
                sum(&mut structure);
                // Only the field of the sum differs from what is there already.
                let mut before = vec![0; *bytes];
                damaged.copy(&mut before, *at).expect("it was just read");
                if let Some(first) = (0..*bytes).find(|n| structure[*n] != before[*n]) {
                    let end = (first + 4).min(*bytes);
                    damaged.patches.push((at + first, structure[first..end].to_vec()));
                }
            }
        }
    }
}

#[test]
fn every_bit_and_every_end() {
    let (mut cases, mut read) = (0_u64, 0_u64);
    for subject in Subject::all() {
        let good = Damaged::new(&subject.bytes).read().expect("it is good");
        for at in subject.spots.iter().flat_map(Clone::clone) {
            for bit in 0..8 {
                for reseal in [false, true] {
                    let mut damaged = Damaged::new(&subject.bytes);
                    damaged.patches.push((at, vec![subject.bytes[at] ^ 1 << bit]));
                    if reseal && !subject.sealed.is_empty() {
                        // The sums of large tables are slow to make: one bit of each byte.
                        if bit != at % 8 {
                            continue;
                        }
                        subject.reseal(&mut damaged);
                    }
                    read += u64::from(damaged.read().is_some());
                    cases += 1;
                }
            }
            let mut short = Damaged::new(&subject.bytes);
            short.length = at;
            assert_ne!(short.read(), Some(Header { virtual_bytes: 1, ..good.clone() }));
            cases += 1;
        }
    }
    eprintln!("headers: {cases} damaged ones, {read} of them still readable, 0 panics");
    assert!(cases > 50_000 && read > 1000 && read < cases);
}

/// Splitmix64.
struct Rng(u64);

impl Rng {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }
}

/// What one patch writes: a byte, or a number that is at a border.
fn value(rng: &mut Rng) -> Vec<u8> {
    const BORDERS: [u64; 10] =
        [0, 1, 7, 511, 0xFFFF, 1 << 16, 1 << 20, 0x7FFF_FFFF, u64::MAX - 511, u64::MAX];
    let border = BORDERS[rng.below(BORDERS.len())].wrapping_add(rng.draw() % 3);
    let little: Vec<u8> = border.to_le_bytes().to_vec();
    match rng.below(6) {
        0 => little,
        1 => little[..4].to_vec(),
        2 => little[..2].to_vec(),
        3 => little.into_iter().rev().collect(),
        4 => little[..4].iter().rev().copied().collect(),
        _ => vec![rng.draw() as u8],
    }
}

/// One random case; says whether it was still readable.
fn one(subjects: &[Subject], rng: &mut Rng) -> bool {
    let subject = &subjects[rng.below(subjects.len())];
    let mut damaged = Damaged::new(&subject.bytes);
    for _ in 0..=rng.below(4) {
        let spot = subject.spots[rng.below(subject.spots.len())].clone();
        let value = value(rng);
        // Fields lie at multiples of two.
        let at = spot.start + rng.below(spot.len() / 2) * 2;
        if at + value.len() <= subject.bytes.len() {
            damaged.patches.push((at, value));
        }
    }
    // A sum over 64 KiB takes longer than all the rest of a case.
    let reseals = if subject.bytes.len() > 1 << 20 { 16 } else { 2 };
    if rng.below(reseals) == 0 {
        subject.reseal(&mut damaged);
    }
    if rng.below(8) == 0 {
        damaged.length = rng.below(subject.bytes.len() + 1);
    }
    damaged.read().is_some()
}

#[test]
fn random_damage() {
    let number = |name: &str, usual: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => usual,
    };
    let (count, seed) = (number("BLOCKFERRY_FUZZ", 300_000), number("BLOCKFERRY_SEED", 1));
    let subjects = Subject::all();
    let started = std::time::Instant::now();
    let run = |thread: u64| {
        let (mut done, mut read) = (0_u64, 0_u64);
        for case in (0..count).filter(|case| case % 2 == thread) {
            let mut rng = Rng((seed + case).wrapping_mul(0xD134_2543_DE82_EF95));
            read += u64::from(one(&subjects, &mut rng));
            done += 1;
        }
        (done, read)
    };
    let [one, two] = std::thread::scope(|scope| {
        [0, 1].map(|n| scope.spawn(move || run(n))).map(|t| t.join().expect("no panic"))
    });
    let (done, read) = (one.0 + two.0, one.1 + two.1);
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("headers: {done} executions, {read} readable, 0 panics, {seconds:.1} s");
    assert_eq!(done, count);
    assert!(read > done / 100 && read < done, "{read} of {done}");
}
