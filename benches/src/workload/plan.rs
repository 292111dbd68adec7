//! Where the files of a synthetic image lie, decided from the seed alone and before any byte is
//! written.
//!
//! Files begin at pages, are 4 KiB to 32 MiB long (as many of each power of two: most files are
//! small, most bytes are in large ones) and end in zeros up to the next page. One in twelve is a
//! copy of an earlier one; one is a database and has an eighth of the data. Holes between them
//! take the share that was asked for. Kinds take turns so that each gets its share of the bytes
//! even in a small image. There is no file system's metadata.

use super::content::{Kind, PAGE_BYTES, mixed};
use crate::ground::tools::Numbers;

const PAGE: u64 = PAGE_BYTES as u64;
const FILE_BYTES_MAX: u64 = 32 << 20;
/// No file but the database has more than this part of the data.
const FILE_PART: u64 = 32;
const TWIN_ONE_IN: u64 = 12;
const DATABASE_PART: u64 = 8;
/// Shares of the bytes outside the database.
const SHARES: [(Kind, u64); 3] = [(Kind::Text, 42), (Kind::Binary, 50), (Kind::Noise, 8)];

/// A file in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place, in pages.
    pub(super) first: u64,
    /// Its length; the rest of its last page is zeros.
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    pub(super) seed: u64,
}

impl Entry {
    /// Pages it takes.
    pub(super) fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE)
    }

    /// The page after it.
    pub(super) fn end(&self) -> u64 {
        self.first + self.pages()
    }
}

/// All files of an image, by their place.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) size_bytes: u64,
    pub(super) entries: Vec<Entry>,
    /// Of each entry: how many pages all entries before it have.
    before: Vec<u64>,
    hole_percent: u64,
    seed: u64,
}

/// Puts holes between files so that they take their share.
struct Holes {
    percent: u64,
    data_pages: u64,
    hole_pages: u64,
}

impl Holes {
    /// Length of the hole after a file of so many pages.
    fn after(&mut self, pages: u64, numbers: &mut Numbers) -> u64 {
        self.data_pages += pages;
        let goal = self.data_pages * self.percent / (100 - self.percent);
        let lack = goal.saturating_sub(self.hole_pages);
        let hole = if numbers.below(2) == 0 { 0 } else { numbers.below(2 * lack + 1) };
        self.hole_pages += hole;
        hole
    }
}

impl Plan {
    /// An image of so many bytes (whole pages) with so many of them in holes.
    pub(super) fn new(seed: u64, size_bytes: u64, hole_percent: u64) -> Plan {
        let mut numbers = Numbers(mixed(seed, size_bytes));
        let total = size_bytes / PAGE;
        let data_bytes = size_bytes / 100 * (100 - hole_percent);
        let mut holes = Holes { percent: hole_percent, data_pages: 0, hole_pages: 0 };
        let mut entries: Vec<Entry> = Vec::new();
        let (mut page, mut database) = (0, false);
        while page < total {
            let entry = if !database && page >= total * 2 / 5 {
                database = true;
                let bytes = (data_bytes / DATABASE_PART).next_multiple_of(PAGE);
                Entry { first: page, bytes, kind: Kind::Database, seed: numbers.next() }
            } else {
                next_file(&mut numbers, &entries, data_bytes, page)
            };
            let entry = Entry { bytes: entry.bytes.min((total - page) * PAGE), ..entry };
            entries.push(entry);
            page = entry.end() + holes.after(entry.pages(), &mut numbers);
        }
        Plan::of(seed, size_bytes, hole_percent, entries)
    }

    fn of(seed: u64, size_bytes: u64, hole_percent: u64, entries: Vec<Entry>) -> Plan {
        let mut sum = 0;
        let count = |entry: &Entry| {
            sum += entry.pages();
            sum - entry.pages()
        };
        let before = entries.iter().map(count).collect();
        Plan { size_bytes, entries, before, hole_percent, seed }
    }

    /// The same files in another order with other holes.
    pub(super) fn laid_out_anew(&self) -> Plan {
        let mut numbers = Numbers(mixed(self.seed, 0x6c61_796f));
        let mut entries = self.entries.clone();
        for end in (2..=entries.len()).rev() {
            entries.swap(end - 1, numbers.below(end as u64) as usize);
        }
        let mut room = self.size_bytes / PAGE - self.data_pages();
        let mut holes = Holes { percent: self.hole_percent, data_pages: 0, hole_pages: 0 };
        let mut page = 0;
        for entry in &mut entries {
            entry.first = page;
            let hole = holes.after(entry.pages(), &mut numbers).min(room);
            room -= hole;
            page = entry.end() + hole;
        }
        Plan::of(self.seed, self.size_bytes, self.hole_percent, entries)
    }

    /// Pages of the image, holes included.
    pub(super) fn pages(&self) -> u64 {
        self.size_bytes / PAGE
    }

    /// Pages that hold something.
    pub(super) fn data_pages(&self) -> u64 {
        let last = self.before.last().zip(self.entries.last());
        last.map_or(0, |(before, entry)| before + entry.pages())
    }

    /// The data page with this number, counted without holes.
    pub(super) fn data_page(&self, ordinal: u64) -> u64 {
        let index = self.before.partition_point(|before| *before <= ordinal) - 1;
        self.entries[index].first + ordinal - self.before[index]
    }

    /// The file that has this page of the image.
    pub(super) fn file_at(&self, page: u64) -> Option<Entry> {
        let index = self.entries.partition_point(|entry| entry.first <= page).checked_sub(1)?;
        Some(self.entries[index]).filter(|entry| page < entry.end())
    }

    /// The database, or what of it found room.
    pub(super) fn database(&self) -> Option<Entry> {
        self.entries.iter().copied().find(|entry| entry.kind == Kind::Database)
    }

    /// Holes: first page and number of pages.
    pub(super) fn holes(&self) -> impl Iterator<Item = (u64, u64)> {
        let starts = std::iter::once(0).chain(self.entries.iter().map(Entry::end));
        let ends = self.entries.iter().map(|entry| entry.first).chain([self.pages()]);
        starts.zip(ends).map(|(start, end)| (start, end - start)).filter(|(_, pages)| *pages > 0)
    }
}

/// The next file: a copy of an earlier one, or one of the kind that is furthest behind its share.
fn next_file(numbers: &mut Numbers, entries: &[Entry], data_bytes: u64, page: u64) -> Entry {
    if !entries.is_empty() && numbers.below(TWIN_ONE_IN) == 0 {
        let twin = entries[numbers.below(entries.len() as u64) as usize];
        if twin.kind != Kind::Database {
            return Entry { first: page, ..twin };
        }
    }
    let most = (data_bytes / FILE_PART).clamp(2 * PAGE, FILE_BYTES_MAX);
    // Uniform within a power of two, and all powers of two from 4 KiB on alike.
    let powers = u64::from((most / PAGE).ilog2());
    let least = PAGE << numbers.below(powers);
    let bytes = least + numbers.below(least);
    let kind = lagging(entries);
    Entry { first: page, bytes, kind, seed: numbers.next() }
}

/// The kind with the fewest bytes for its share.
fn lagging(entries: &[Entry]) -> Kind {
    // The last thousand say enough, and a plan of many files stays linear.
    let recent = &entries[entries.len().saturating_sub(1000)..];
    let bytes = |kind| -> u64 {
        recent.iter().filter(|entry| entry.kind == kind).map(|entry| entry.bytes).sum()
    };
    let furthest = SHARES.iter().min_by_key(|(kind, share)| bytes(*kind) / share);
    furthest.map_or(Kind::Binary, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_each_other_and_holes_take_their_share() {
        let sizes = [(1 << 20, 15, 15), (64 << 20, 15, 5), (1 << 30, 15, 3), (1 << 30, 95, 2)];
        for (seed, (size_bytes, percent, slack)) in (1..=20).flat_map(|n| sizes.map(|s| (n, s))) {
            let plan = Plan::new(seed, size_bytes, percent);
            let mut page = 0;
            for entry in &plan.entries {
                assert!(entry.first >= page && entry.bytes > 0);
                page = entry.end();
            }
            assert!(page <= plan.pages());
            let holes: u64 = plan.holes().map(|(_, pages)| pages).sum();
            assert_eq!(holes + plan.data_pages(), plan.pages());
            let share = 100 * holes / plan.pages();
            assert!(share.abs_diff(percent) <= slack, "{share} % of {size_bytes}, seed {seed}");
        }
    }

    #[test]
    fn sizes_kinds_and_twins_are_mixed() {
        let plan = Plan::new(3, 1 << 30, 15);
        let sizes =
            |least, most| plan.entries.iter().filter(|e| (least..most).contains(&e.bytes)).count();
        assert!(sizes(0, 64 << 10) > 20 && sizes(64 << 10, 1 << 20) > 20);
        assert!(sizes(1 << 20, 64 << 20) > 20 && sizes(0, 4096) == 0);
        for (kind, share) in SHARES {
            let of_kind = plan.entries.iter().filter(|entry| entry.kind == kind);
            let bytes: u64 = of_kind.map(|entry| entry.bytes).sum();
            let percent = bytes * 100 / (plan.data_pages() * PAGE * 7 / 8);
            assert!(percent.abs_diff(share) < 8, "{kind:?} {percent}");
        }
        let database = plan.database().unwrap();
        assert!((10..15).contains(&(database.pages() * 100 / plan.data_pages())));
        let mut seeds: Vec<u64> = plan.entries.iter().map(|entry| entry.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let twins = plan.entries.len() - seeds.len();
        assert!(twins * 30 > plan.entries.len() && twins * 6 < plan.entries.len(), "{twins}");
    }

    #[test]
    fn data_pages_are_found_by_number_and_by_place() {
        let plan = Plan::new(5, 4 << 20, 15);
        let pages: Vec<u64> = (0..plan.data_pages()).map(|n| plan.data_page(n)).collect();
        assert!(pages.is_sorted());
        for page in 0..plan.pages() {
            assert_eq!(plan.file_at(page).is_some(), pages.binary_search(&page).is_ok(), "{page}");
        }
    }

    #[test]
    fn a_new_layout_has_the_same_files() {
        let plan = Plan::new(5, 64 << 20, 15);
        let other = plan.laid_out_anew();
        let files = |plan: &Plan| {
            let mut files: Vec<_> = plan.entries.iter().map(|e| (e.seed, e.bytes)).collect();
            files.sort_unstable();
            files
        };
        assert_eq!(files(&plan), files(&other));
        assert_ne!(plan.entries, other.entries);
        assert!(other.entries.windows(2).all(|pair| pair[0].end() <= pair[1].first));
        assert!(other.entries.last().unwrap().end() <= other.pages());
    }
}
