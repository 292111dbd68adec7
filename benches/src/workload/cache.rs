//! Workloads that are made stay made: a directory for each name, seed and size with the files and
//! a manifest.
//!
//! A workload is made in a directory of another name that is renamed at the end, so a directory
//! with its final name is whole. It is used again when the generator and what was asked for are
//! the same and each file has the length and the time it had then; times of images are set to days
//! of 2026, so whoever wrote to one has moved it. Else it is made anew. Two runs must not prepare
//! in one directory at the same time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Placed, Request, Workload};

/// Raised when the same seed gives other bytes than before.
const GENERATOR: u32 = 1;
const MANIFEST: &str = "manifest.json";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    generator: u32,
    asked: Asked,
    words: String,
    stands_in: Option<String>,
    before: Vec<Held>,
    after: Held,
    changed_page_bytes: Option<u64>,
}

/// What a workload follows from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    name: String,
    seed: u64,
    image_bytes: u64,
    real_images: Option<PathBuf>,
}

/// A file as it was when the workload was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    name: String,
    /// Relative to the workload's directory when it is in there.
    path: PathBuf,
    bytes: u64,
    modified_nanoseconds: u64,
}

impl Held {
    fn of(placed: &Placed, below: &Path) -> anyhow::Result<Held> {
        let stat =
            std::fs::metadata(&placed.path).with_context(|| placed.path.display().to_string())?;
        let inside = placed.path.strip_prefix(below).map(Path::to_owned);
        Ok(Held {
            name: placed.name.clone(),
            path: inside.unwrap_or_else(|_| placed.path.clone()),
            bytes: stat.len(),
            modified_nanoseconds: nanoseconds(stat.modified()?)?,
        })
    }

    /// The file, when it still is what it was.
    fn found(&self, below: &Path) -> Option<Placed> {
        let placed = Placed { name: self.name.clone(), path: below.join(&self.path) };
        let now = Held::of(&placed, below).ok()?;
        (now == *self).then_some(placed)
    }
}

fn nanoseconds(time: SystemTime) -> anyhow::Result<u64> {
    Ok(u64::try_from(time.duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// The workload from `request.dir`, or made there by `make`, which is given an empty directory.
pub(super) fn kept(
    name: &'static str,
    request: &Request,
    make: impl FnOnce(&Path) -> anyhow::Result<Workload>,
) -> anyhow::Result<Workload> {
    let real = if request.real_images.is_some() { "-real" } else { "" };
    let directory = format!("{name}-{}-{}{real}", request.seed, request.image_bytes);
    std::fs::create_dir_all(&request.dir).with_context(|| request.dir.display().to_string())?;
    // Absolute, so that a workload can name the files of another one.
    let home = request.dir.canonicalize()?.join(&directory);
    let asked = Asked {
        name: name.to_owned(),
        seed: request.seed,
        image_bytes: request.image_bytes,
        real_images: request.real_images.clone(),
    };
    if let Some(workload) = load(name, &home, &asked) {
        return Ok(workload);
    }
    let half = home.with_file_name(format!("{directory}.half"));
    for leftover in [&home, &half] {
        if leftover.exists() {
            std::fs::remove_dir_all(leftover)?;
        }
    }
    std::fs::create_dir(&half)?;
    let made = make(&half).and_then(|made| save(&half, &made, asked)).and_then(|manifest| {
        std::fs::rename(&half, &home)?;
        workload(name, &home, manifest).context("a workload that was just made isn't there")
    });
    if made.is_err() {
        // What went wrong is worth more than what is left.
        let _ = std::fs::remove_dir_all(&half);
    }
    made
}

/// Writes the manifest of what is in the directory.
fn save(half: &Path, made: &Workload, asked: Asked) -> anyhow::Result<Manifest> {
    let before = made.before.iter().map(|placed| Held::of(placed, half));
    let manifest = Manifest {
        generator: GENERATOR,
        asked,
        words: made.words.clone(),
        stands_in: made.stands_in.clone(),
        before: before.collect::<anyhow::Result<_>>()?,
        after: Held::of(&made.after, half)?,
        changed_page_bytes: made.changed_page_bytes,
    };
    let file = File::create(half.join(MANIFEST))?;
    serde_json::to_writer_pretty(&file, &manifest)?;
    file.sync_all()?;
    Ok(manifest)
}

/// A workload that was made before and still is what was asked for.
fn load(name: &'static str, home: &Path, asked: &Asked) -> Option<Workload> {
    let bytes = std::fs::read(home.join(MANIFEST)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    if manifest.generator != GENERATOR || manifest.asked != *asked {
        return None;
    }
    workload(name, home, manifest)
}

fn workload(name: &'static str, home: &Path, manifest: Manifest) -> Option<Workload> {
    Some(Workload {
        name,
        words: manifest.words,
        stands_in: manifest.stands_in,
        before: manifest.before.iter().map(|held| held.found(home)).collect::<Option<_>>()?,
        after: manifest.after.found(home)?,
        changed_page_bytes: manifest.changed_page_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(directory: &Path, bytes: &[u8]) -> anyhow::Result<Workload> {
        let path = directory.join("after.raw");
        std::fs::write(&path, bytes)?;
        Ok(Workload {
            name: "x",
            words: "words".to_owned(),
            stands_in: None,
            before: Vec::new(),
            after: Placed { name: "server.raw".to_owned(), path },
            changed_page_bytes: Some(1),
        })
    }

    #[test]
    fn what_is_made_stays_until_something_differs() {
        let directory = tempfile::tempdir().unwrap();
        let mut request = Request {
            seed: 1,
            image_bytes: 2,
            dir: directory.path().join("deeper"),
            real_images: None,
        };
        let never = |_: &Path| -> anyhow::Result<Workload> { panic!("it was there") };
        let first = kept("x", &request, |half| make(half, b"one")).unwrap();
        let again = kept("x", &request, never).unwrap();
        assert_eq!((first.words, first.after.path.clone()), (again.words, again.after.path));
        assert_eq!(again.changed_page_bytes, Some(1));
        let other = Request { seed: 2, ..request.clone() };
        kept("x", &other, |half| make(half, b"other")).unwrap();
        kept("x", &request, never).unwrap();

        std::fs::write(&first.after.path, b"two").unwrap();
        kept("x", &request, |half| make(half, b"three")).unwrap();
        assert_eq!(std::fs::read(&first.after.path).unwrap(), b"three");
        let file = File::options().write(true).open(&first.after.path).unwrap();
        file.set_modified(UNIX_EPOCH).unwrap();
        let failed = kept("x", &request, |half| {
            make(half, b"four")?;
            anyhow::bail!("no room")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no room");
        assert_eq!(std::fs::read_dir(&request.dir).unwrap().count(), 1, "no half is left");
        kept("x", &request, |half| make(half, b"five")).unwrap();
        request.real_images = Some(PathBuf::from("/images"));
        kept("x", &request, |half| make(half, b"six")).unwrap();
        assert_eq!(std::fs::read_dir(&request.dir).unwrap().count(), 3);
    }
}
