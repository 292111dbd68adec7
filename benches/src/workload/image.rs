//! A synthetic image as a file: made from its plan, copied, changed page by page, finished.
//!
//! What is no file is a hole. A page that is rewritten gets content of its file's kind, and never
//! what it held before, so that the number of changed pages is the number of rewritten ones. A
//! finished image is on disk and has a time of modification from a calendar of its own: tools that
//! go by time and size must see that a later one is later.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use super::content::{Contents, PAGE_BYTES, Page, mixed};
use super::plan::{Entry, Plan};
use crate::ground::tools::{Numbers, run};

const PAGE: u64 = PAGE_BYTES as u64;
/// Pages written at once.
const STEP_PAGES: u64 = 256;
/// 2026-01-01, in seconds.
const DAY_ZERO: u64 = 1_767_225_600;
/// A short tail may come out as it was; so often isn't chance.
const ATTEMPTS: u64 = 256;

/// A file with a plan.
#[derive(Debug)]
pub(super) struct Image<'a> {
    file: File,
    plan: &'a Plan,
    contents: &'a Contents,
}

impl<'a> Image<'a> {
    /// Writes all files of the plan to a new file.
    pub(super) fn create(
        path: &Path,
        plan: &'a Plan,
        contents: &'a Contents,
    ) -> anyhow::Result<Image<'a>> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        file.set_len(plan.size_bytes)?;
        let image = Image { file, plan, contents };
        for entry in &plan.entries {
            image.put(entry)?;
        }
        Ok(image)
    }

    /// Opens a copy of `source`, which was made from this plan.
    pub(super) fn copied(
        source: &Path,
        path: &Path,
        plan: &'a Plan,
        contents: &'a Contents,
    ) -> anyhow::Result<Image<'a>> {
        copy(source, path)?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Image { file, plan, contents })
    }

    /// Writes a file of the image, or one more into a hole.
    pub(super) fn put(&self, entry: &Entry) -> anyhow::Result<()> {
        let mut bytes = Vec::with_capacity((STEP_PAGES * PAGE) as usize);
        let mut page: Page = [0; PAGE_BYTES];
        for start in (0..entry.pages()).step_by(STEP_PAGES as usize) {
            bytes.clear();
            for index in start..entry.pages().min(start + STEP_PAGES) {
                self.draw(entry, entry.seed, index, &mut page);
                bytes.extend_from_slice(&page);
            }
            self.file.write_all_at(&bytes, (entry.first + start) * PAGE)?;
        }
        Ok(())
    }

    /// A page of a file: its content, and zeros behind the file's end.
    fn draw(&self, entry: &Entry, seed: u64, index: u64, page: &mut Page) {
        self.contents.fill(entry.kind, seed, index, page);
        let left = entry.bytes - index * PAGE;
        if left < PAGE {
            page[left as usize..].fill(0);
        }
    }

    fn read(&self, page: u64) -> anyhow::Result<Page> {
        let mut bytes = [0; PAGE_BYTES];
        self.file.read_exact_at(&mut bytes, page * PAGE)?;
        Ok(bytes)
    }

    fn file_at(&self, page: u64) -> anyhow::Result<Entry> {
        self.plan.file_at(page).with_context(|| format!("page {page} is in a hole"))
    }

    /// Gives a page other content of the same kind.
    pub(super) fn rewrite(&self, page: u64, seed: u64) -> anyhow::Result<()> {
        let entry = self.file_at(page)?;
        let old = self.read(page)?;
        let mut new = old;
        for attempt in 0..ATTEMPTS {
            let seed = mixed(entry.seed ^ seed, attempt);
            self.draw(&entry, seed, page - entry.first, &mut new);
            if new != old {
                return Ok(self.file.write_all_at(&new, page * PAGE)?);
            }
        }
        bail!("page {page} can't be made to differ")
    }

    /// Overwrites 8 to 64 bytes of a page at one to four places.
    pub(super) fn edit(&self, page: u64, seed: u64) -> anyhow::Result<()> {
        let old = self.read(page)?;
        let mut numbers = Numbers(mixed(seed, page));
        let mut new = old;
        while new == old {
            for _ in 0..=numbers.below(4) {
                let length = 8 + numbers.below(57) as usize;
                let start = numbers.below(PAGE - length as u64) as usize;
                self.contents.edit(&mut numbers, &mut new[start..start + length]);
            }
        }
        Ok(self.file.write_all_at(&new, page * PAGE)?)
    }

    /// Sets the time of modification and waits for the disk.
    pub(super) fn finish(self, day: u64) -> anyhow::Result<()> {
        finish(&self.file, day)
    }
}

/// Sets a file's time of modification to the start of a day of the image's own calendar, and waits
/// for the disk.
pub(super) fn finish(file: &File, day: u64) -> anyhow::Result<()> {
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_ZERO + day * 86_400))?;
    Ok(file.sync_all()?)
}

/// Copies a file with its holes; shared extents would make what tools write later cost more.
pub(super) fn copy(source: &Path, target: &Path) -> anyhow::Result<()> {
    let options = ["--sparse=auto", "--reflink=never"];
    run(Command::new("cp").args(options).arg(source).arg(target))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::content::Kind;
    use super::super::pages::changed_page_bytes;
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const SIZE_BYTES: u64 = 4 << 20;

    #[test]
    fn same_seed_same_bytes_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let mut hashes = Vec::new();
        for (name, seed) in [("a", 1), ("b", 1), ("c", 2)] {
            let path = directory.path().join(name);
            let plan = Plan::new(seed, SIZE_BYTES, 15);
            Image::create(&path, &plan, &Contents::new(seed)).unwrap().finish(0).unwrap();
            hashes.push(crate::ground::image::blake3(&path).unwrap());
        }
        // When this changes, results of before can't be compared: raise cache::GENERATOR too.
        assert_eq!(hashes[0], "75487a5aa34a3f3bf701e0a2a5037a1eac97a5163110e3129cc1f5123fbaf72a");
        assert_eq!(hashes[0], hashes[1]);
        assert_ne!(hashes[0], hashes[2]);
    }

    #[test]
    fn holes_take_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let plan = Plan::new(1, SIZE_BYTES, 50);
        Image::create(&path, &plan, &Contents::new(1)).unwrap().finish(0).unwrap();
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!(stat.len(), SIZE_BYTES);
        let (held, data) = (stat.blocks() * 512, plan.data_pages() * PAGE);
        assert!(held >= data && held < data + (64 << 10), "{held} for {data}");
        assert_eq!(stat.mtime(), 1_767_225_600);
    }

    #[test]
    fn each_rewritten_or_edited_page_differs_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("a"), directory.path().join("b"));
        let plan = Plan::new(1, SIZE_BYTES, 15);
        let contents = Contents::new(1);
        Image::create(&old, &plan, &contents).unwrap().finish(0).unwrap();
        let image = Image::copied(&old, &new, &plan, &contents).unwrap();
        // The last pages of files are the ones that may come out as they were.
        let tails: Vec<u64> = plan.entries.iter().map(|entry| entry.end() - 1).collect();
        for page in &tails {
            image.rewrite(*page, 7).unwrap();
        }
        let database = plan.database().unwrap();
        image.edit(database.first, 7).unwrap();
        image.edit(database.first + 1, 7).unwrap();
        let changed = changed_page_bytes(&old, &new).unwrap();
        assert_eq!(changed, (tails.len() as u64 + 2) * PAGE);
        let (hole, _) = plan.holes().next().unwrap();
        assert!(image.rewrite(hole, 7).is_err());
        let more = Entry { first: hole, bytes: 9, kind: Kind::Noise, seed: 1 };
        image.put(&more).unwrap();
        assert_eq!(changed_page_bytes(&old, &new).unwrap(), changed + PAGE);
    }
}
