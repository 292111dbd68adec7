//! Changes made in place, as whoever has an image open makes them: an update that replaces a whole
//! file has nothing in common with what was held of it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;

use super::image::data_pages;
use super::tools::Numbers;

const PAGE_BYTES: usize = 4096;
const BLOCK_PAGES: u64 = 16;
const STEP_BYTES: usize = 1 << 20;

/// What was changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edited {
    /// Bytes of the 4 KiB pages that were written.
    pub(crate) page_bytes: u64,
    /// Bytes of the 64 KiB blocks in which they lie.
    pub(crate) block_bytes: u64,
}

impl Edited {
    fn of(pages: impl IntoIterator<Item = u64>) -> Edited {
        let pages: BTreeSet<u64> = pages.into_iter().collect();
        let blocks: BTreeSet<u64> = pages.iter().map(|page| page / BLOCK_PAGES).collect();
        Edited {
            page_bytes: pages.len() as u64 * PAGE_BYTES as u64,
            block_bytes: blocks.len() as u64 * BLOCK_PAGES * PAGE_BYTES as u64,
        }
    }
}

/// Turns `target`, which holds what `old` holds, into `new`, page by page.
pub(crate) fn turn_into(target: &Path, old: &Path, new: &Path) -> anyhow::Result<Edited> {
    let (old, new) = (File::open(old)?, File::open(new)?);
    let target = OpenOptions::new().write(true).open(target)?;
    let size_bytes = new.metadata()?.len();
    target.set_len(size_bytes)?;
    let (mut was, mut is) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    let mut pages = Vec::new();
    for offset in (0..size_bytes).step_by(STEP_BYTES) {
        let bytes = usize::try_from(size_bytes - offset).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        was.fill(0);
        read_up_to(&old, &mut was[..bytes], offset)?;
        new.read_exact_at(&mut is[..bytes], offset)?;
        let both = was[..bytes].chunks(PAGE_BYTES).zip(is[..bytes].chunks(PAGE_BYTES));
        for (index, (_, page)) in both.enumerate().filter(|(_, (was, is))| was != is) {
            let at = offset + (index * PAGE_BYTES) as u64;
            target.write_all_at(page, at)?;
            pages.push(at / PAGE_BYTES as u64);
        }
    }
    target.sync_all()?;
    Ok(Edited::of(pages))
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(())
}

/// Fills `per_mille` of the pages that hold something with noise.
pub(crate) fn noise(target: &Path, per_mille: u64, seed: u64) -> anyhow::Result<Edited> {
    let mut numbers = Numbers(seed);
    let mut fill = |page: &mut [u8]| numbers.fill(page);
    rewrite(target, per_mille, seed ^ 1, &mut fill)
}

/// Changes a few bytes at two places in `per_mille` of the pages that hold something, as a
/// database changes a row and a header.
pub(crate) fn rows(target: &Path, per_mille: u64, seed: u64) -> anyhow::Result<Edited> {
    let mut numbers = Numbers(seed);
    let mut change = |page: &mut [u8]| {
        let row = 64 + usize::try_from(numbers.below(4000)).unwrap_or(0);
        numbers.fill(&mut page[8..16]);
        numbers.fill(&mut page[row..row + 24]);
    };
    rewrite(target, per_mille, seed ^ 2, &mut change)
}

fn rewrite(
    target: &Path,
    per_mille: u64,
    seed: u64,
    change: &mut dyn FnMut(&mut [u8]),
) -> anyhow::Result<Edited> {
    let file = OpenOptions::new().read(true).write(true).open(target)?;
    let mut candidates = data_pages(&file)?;
    // A short last page is left alone.
    candidates
        .retain(|page| (page + 1) * PAGE_BYTES as u64 <= file.metadata().map_or(0, |m| m.len()));
    let count = candidates.len() as u64 * per_mille / 1000;
    let mut numbers = Numbers(seed);
    let mut chosen = BTreeSet::new();
    while (chosen.len() as u64) < count {
        let index = usize::try_from(numbers.below(candidates.len() as u64))?;
        chosen.insert(*candidates.get(index).context("no such page")?);
    }
    let mut page = vec![0; PAGE_BYTES];
    for number in &chosen {
        let at = number * PAGE_BYTES as u64;
        file.read_exact_at(&mut page, at)?;
        change(&mut page);
        file.write_all_at(&page, at)?;
    }
    file.sync_all()?;
    Ok(Edited::of(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_turned_into_another_and_the_difference_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let old = vec![1; 40 * PAGE_BYTES];
        let mut new = old.clone();
        new[5 * PAGE_BYTES + 7] = 2;
        new[17 * PAGE_BYTES] = 2;
        new[18 * PAGE_BYTES] = 2;
        new.extend_from_slice(&[3; 100]);
        for (name, bytes) in [("old", &old), ("new", &new), ("target", &old)] {
            std::fs::write(path(name), bytes).unwrap();
        }
        let edited = turn_into(&path("target"), &path("old"), &path("new")).unwrap();
        assert_eq!(std::fs::read(path("target")).unwrap(), new);
        assert_eq!(edited.page_bytes, 4 * 4096);
        assert_eq!(edited.block_bytes, 3 * 65536);
    }

    #[test]
    fn as_many_pages_change_as_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        for edit in [noise, rows] {
            let before = vec![9; 2000 * PAGE_BYTES];
            std::fs::write(&path, &before).unwrap();
            assert_eq!(edit(&path, 10, 1).unwrap().page_bytes, 20 * 4096);
            let after = std::fs::read(&path).unwrap();
            let pages = after.chunks(PAGE_BYTES).zip(before.chunks(PAGE_BYTES));
            assert_eq!(pages.filter(|(is, was)| is != was).count(), 20);
        }
    }
}
