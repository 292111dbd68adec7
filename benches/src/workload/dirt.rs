//! Which pages of an image a change touches, and the changes that are made of them: dirt at
//! random, dirt in runs, small edits in the database, and the two that stand in for a real
//! server's updates.

use std::collections::BTreeSet;

use super::content::{Kind, PAGE_BYTES, mixed};
use super::image::Image;
use super::plan::{Entry, Plan};
use crate::ground::tools::Numbers;

const PAGE: u64 = PAGE_BYTES as u64;
/// Length of a run of dirty pages.
const RUN_PAGES: std::ops::RangeInclusive<u64> = 64..=512;

/// So many of a number of things, at least one.
pub(super) fn per_mille(things: u64, share: u64) -> u64 {
    (things * share / 1000).max(1)
}

/// `count` different pages that hold something, any as likely as any other.
pub(super) fn at_random(plan: &Plan, count: u64, seed: u64) -> BTreeSet<u64> {
    let mut numbers = Numbers(mixed(seed, 0x7261_6e64));
    let of = plan.data_pages();
    let mut pages = BTreeSet::new();
    while (pages.len() as u64) < count.min(of) {
        pages.insert(plan.data_page(numbers.below(of)));
    }
    pages
}

/// `count` different pages in runs of 64 to 512 (the last as long as it takes). A run goes on
/// behind a hole. A tenth of the pages or less, else finding places would take long.
pub(super) fn in_runs(plan: &Plan, count: u64, seed: u64) -> BTreeSet<u64> {
    let mut numbers = Numbers(mixed(seed, 0x7275_6e73));
    let of = plan.data_pages();
    let count = count.min(of.div_ceil(10));
    let mut dirty = BTreeSet::new();
    while (dirty.len() as u64) < count {
        let span = RUN_PAGES.end() - RUN_PAGES.start() + 1;
        let run = RUN_PAGES.start() + numbers.below(span);
        let run = run.min(count - dirty.len() as u64);
        let start = numbers.below(of - run + 1);
        // Runs don't touch each other, or they would be longer.
        let around = start.saturating_sub(1)..=start + run;
        if dirty.range(around).next().is_none() {
            dirty.extend(start..start + run);
        }
    }
    dirty.into_iter().map(|ordinal| plan.data_page(ordinal)).collect()
}

/// `count` different pages of the database.
pub(super) fn in_database(plan: &Plan, count: u64, seed: u64) -> BTreeSet<u64> {
    let mut numbers = Numbers(mixed(seed, 0x6461_7461));
    let mut pages = BTreeSet::new();
    if let Some(database) = plan.database() {
        while (pages.len() as u64) < count.min(database.pages()) {
            pages.insert(database.first + numbers.below(database.pages()));
        }
    }
    pages
}

/// Pages of the database.
pub(super) fn database_pages(plan: &Plan) -> u64 {
    plan.database().map_or(0, |database| database.pages())
}

/// Files that are new: two holes in three are filled with a file. Where they lie and what they are.
fn new_files(plan: &Plan, numbers: &mut Numbers) -> Vec<Entry> {
    let mut files = Vec::new();
    for (first, pages) in plan.holes() {
        let kind = [Kind::Text, Kind::Binary, Kind::Binary, Kind::Noise][numbers.below(4) as usize];
        let bytes = pages * PAGE - numbers.below(PAGE);
        let seed = numbers.next();
        if numbers.below(3) > 0 {
            files.push(Entry { first, bytes, kind, seed });
        }
    }
    files
}

/// Stands in for a big update: files put into holes, a new version of every fourth file (another
/// content from somewhere on), a quarter of the database filled anew.
pub(super) fn big_update(image: &Image<'_>, plan: &Plan, seed: u64) -> anyhow::Result<()> {
    let mut numbers = Numbers(mixed(seed, 0x6269_6720));
    for file in new_files(plan, &mut numbers) {
        image.put(&file)?;
    }
    let salt = numbers.next();
    for entry in &plan.entries {
        let (first, last) = match entry.kind {
            Kind::Database => (entry.end() - entry.pages().div_ceil(4), entry.end()),
            _ if numbers.below(4) == 0 => (entry.first + numbers.below(entry.pages()), entry.end()),
            _ => continue,
        };
        for page in first..last {
            image.rewrite(page, salt)?;
        }
    }
    Ok(())
}

/// Stands in for a small day: small edits in 2 % of the database, the last pages of every tenth
/// text file (logs) written anew. Gives the pages.
pub(super) fn small_day(image: &Image<'_>, plan: &Plan, seed: u64) -> anyhow::Result<u64> {
    let mut numbers = Numbers(mixed(seed, 0x736d_616c));
    let edited = in_database(plan, per_mille(database_pages(plan), 20), numbers.next());
    for page in &edited {
        image.edit(*page, seed)?;
    }
    let mut changed = edited.len() as u64;
    let salt = numbers.next();
    for entry in plan.entries.iter().filter(|entry| entry.kind == Kind::Text) {
        if numbers.below(10) == 0 {
            let pages = entry.pages().min(1 + numbers.below(4));
            for page in entry.end() - pages..entry.end() {
                image.rewrite(page, salt)?;
            }
            changed += pages;
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(1, 256 << 20, 15)
    }

    #[test]
    fn as_many_pages_as_were_asked_for_and_all_hold_something() {
        let plan = plan();
        for count in [1, 65, 655] {
            for pages in [at_random(&plan, count, 1), in_runs(&plan, count, 1)] {
                assert_eq!(pages.len() as u64, count);
                assert!(pages.iter().all(|page| plan.file_at(*page).is_some()));
            }
        }
        let pages = in_database(&plan, 100, 1);
        let database = plan.database().unwrap();
        assert_eq!(pages.len(), 100);
        assert!(pages.iter().all(|page| (database.first..database.end()).contains(page)));
        assert_eq!(at_random(&plan, 100, 1), at_random(&plan, 100, 1));
        assert_ne!(at_random(&plan, 100, 1), at_random(&plan, 100, 2));
    }

    #[test]
    fn random_pages_are_spread_and_runs_are_not() {
        let plan = plan();
        let pieces = |pages: &BTreeSet<u64>| {
            let pages: Vec<u64> = pages.iter().copied().collect();
            1 + pages.windows(2).filter(|pair| pair[1] != pair[0] + 1).count()
        };
        assert!(pieces(&at_random(&plan, 655, 1)) > 600);
        let runs = pieces(&in_runs(&plan, 655, 1));
        assert!((2..=16).contains(&runs), "{runs} runs, holes between them");
    }
}
