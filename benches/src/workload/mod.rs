//! Workloads: what both ends hold before a job, and what the sender holds after.
//!
//! All but two are made from a seed: a synthetic server image (`plan`, `content`, `image`), and a
//! change of it (`dirt`). The two real ones are generations of a real server's disk when there are
//! any (`benches/images/build`), else a synthetic change stands in and says so. Nothing here is
//! measured; what is made is kept (`cache`) and only read from then on. Files before a change have
//! the time of modification of one day, files after it that of the next: whoever places them must
//! keep the times, or tools that go by time and size do more or less than they would.

mod cache;
mod container;
mod content;
mod dirt;
mod image;
mod pages;
mod plan;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use content::{Contents, PAGE_BYTES};
use dirt::per_mille;
use image::Image;
use pages::changed_page_bytes;
use plan::Plan;

/// The name of the image in a store.
const NAME: &str = "server.raw";
const HOLE_PERCENT: u64 = 15;
/// The sparse image: so many times as large, so much of it holes.
const SPARSE_TIMES: u64 = 10;
const SPARSE_HOLE_PERCENT: u64 = 95;
const IMAGE_BYTES_MIN: u64 = 1 << 20;
const NO_REAL_IMAGES: &str = "no directory with g1.raw, g2.raw and g3.raw was given; \
                              benches/images/build makes one, as root on Debian";

/// All workloads, in the order of the report.
pub(crate) const NAMES: [&str; 14] = [
    "first-copy",
    "real-big-update",
    "real-small-day",
    "random-0.1",
    "random-1",
    "clustered",
    "database",
    "new-layout",
    "new-name",
    "sparse",
    "touched",
    "container-qcow2",
    "container-vhd",
    "container-vhdx",
];

/// A file under its name in a store.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// A workload, made.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// One of `NAMES`.
    pub(crate) name: &'static str,
    /// What it is, with sizes and seed, in one line.
    pub(crate) words: String,
    /// Why a synthetic image stands in for a real one.
    pub(crate) stands_in: Option<String>,
    /// What both ends hold before the job; nothing for a first copy.
    pub(crate) before: Vec<Placed>,
    /// What the sender publishes; the name of one in `before` makes it an update.
    pub(crate) after: Placed,
    /// Bytes in 4 KiB pages that differ from the file of that name before, at the same place.
    pub(crate) changed_page_bytes: Option<u64>,
}

/// What to make, and where.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) seed: u64,
    /// Size of the synthetic image: whole MiB.
    pub(crate) image_bytes: u64,
    /// Where workloads are kept.
    pub(crate) dir: PathBuf,
    /// Directory with `g1.raw`, `g2.raw` and `g3.raw`.
    pub(crate) real_images: Option<PathBuf>,
}

/// Makes the workload below `request.dir`, or finds it there.
pub(crate) fn prepare(name: &str, request: &Request) -> anyhow::Result<Workload> {
    let known = NAMES.iter().find(|known| **known == name);
    let name = *known.with_context(|| format!("no workload {name}; there are {NAMES:?}"))?;
    let whole = request.image_bytes.is_multiple_of(IMAGE_BYTES_MIN) && request.image_bytes > 0;
    ensure!(whole, "an image of {} bytes: not a whole number of MiB", request.image_bytes);
    let real = matches!(name, "real-big-update" | "real-small-day");
    if real && let Some(images) = &request.real_images {
        let images = images.canonicalize().with_context(|| images.display().to_string())?;
        let request = Request { real_images: Some(images.clone()), ..request.clone() };
        return cache::kept(name, &request, |_| generations(name, &images));
    }
    let request = Request { real_images: None, ..request.clone() };
    let base = match name {
        "first-copy" | "sparse" => None,
        _ => Some(prepare("first-copy", &request)?.after),
    };
    // The same disks as another workload's, in a container.
    let dirty = match name.strip_prefix("container-") {
        Some(_) => Some(prepare("random-1", &request)?.after),
        None => None,
    };
    let maker = Maker::new(name, &request);
    cache::kept(name, &request, |directory| match (base, dirty) {
        (None, _) if name == "sparse" => maker.sparse(directory),
        (None, _) => maker.first_copy(directory),
        (Some(base), Some(dirty)) => maker.container(directory, &base, &dirty),
        (Some(base), None) => maker.update(directory, base),
    })
}

/// Two generations of a real image, where they are.
fn generations(name: &'static str, images: &Path) -> anyhow::Result<Workload> {
    let (old, new, words) = match name {
        "real-big-update" => ("g1.raw", "g2.raw", "a big update"),
        _ => ("g2.raw", "g3.raw", "a small day"),
    };
    let placed = |file: &str| Placed { name: NAME.to_owned(), path: images.join(file) };
    let (before, after) = (placed(old), placed(new));
    let changed = changed_page_bytes(&before.path, &after.path)?;
    let size_bytes = std::fs::metadata(&after.path)?.len();
    let words = format!("a real server's disk of {}, {old} to {new}: {words}", mib(size_bytes));
    Ok(Workload {
        name,
        words,
        stands_in: None,
        before: vec![before],
        after,
        changed_page_bytes: Some(changed),
    })
}

/// Bytes in words.
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// What all synthetic workloads of a seed and size have in common.
struct Maker {
    name: &'static str,
    seed: u64,
    plan: Plan,
    contents: Contents,
}

impl Maker {
    fn new(name: &'static str, request: &Request) -> Maker {
        let (size_bytes, holes) = match name {
            "sparse" => (request.image_bytes * SPARSE_TIMES, SPARSE_HOLE_PERCENT),
            _ => (request.image_bytes, HOLE_PERCENT),
        };
        Maker {
            name,
            seed: request.seed,
            plan: Plan::new(request.seed, size_bytes, holes),
            contents: Contents::new(request.seed),
        }
    }

    /// The image in words.
    fn image(&self) -> String {
        format!(
            "a synthetic server image of {} ({} of data in {} files, seed {})",
            mib(self.plan.size_bytes),
            mib(self.plan.data_pages() * PAGE_BYTES as u64),
            self.plan.entries.len(),
            self.seed
        )
    }

    /// The workload of an image before (if any) and after.
    fn workload(&self, words: &str, before: Option<Placed>, after: Placed) -> Made {
        let same = before.as_ref().filter(|before| before.name == after.name);
        let changed = same.map(|before| changed_page_bytes(&before.path, &after.path));
        let name = self.name;
        let stands_in = name.starts_with("real-").then(|| NO_REAL_IMAGES.to_owned());
        Ok(Workload {
            name,
            words: format!("{}: {words}", self.image()),
            stands_in,
            before: before.into_iter().collect(),
            after,
            changed_page_bytes: changed.transpose()?,
        })
    }

    fn first_copy(&self, directory: &Path) -> Made {
        let path = directory.join("server.raw");
        Image::create(&path, &self.plan, &self.contents)?.finish(0)?;
        self.workload("to an empty store", None, Placed { name: NAME.to_owned(), path })
    }

    /// An image with little in it, and a thousandth of that rewritten.
    fn sparse(&self, directory: &Path) -> Made {
        let (old, new) = (directory.join("before.raw"), directory.join("after.raw"));
        Image::create(&old, &self.plan, &self.contents)?.finish(0)?;
        let image = Image::copied(&old, &new, &self.plan, &self.contents)?;
        let dirty = dirt::at_random(&self.plan, per_mille(self.plan.data_pages(), 1), self.seed);
        for page in &dirty {
            image.rewrite(*page, self.seed)?;
        }
        image.finish(1)?;
        let words = format!("{} random pages rewritten (0.1 % of those with data)", dirty.len());
        let placed = |path| Placed { name: NAME.to_owned(), path };
        self.workload(&words, Some(placed(old)), placed(new))
    }

    /// The base image, and what became of it.
    fn update(&self, directory: &Path, base: Placed) -> Made {
        if self.name == "new-name" {
            let after = Placed { name: "copy-of-server.raw".to_owned(), path: base.path.clone() };
            return self.workload("the same bytes under a new name", Some(base), after);
        }
        let path = directory.join("after.raw");
        let words = match self.name {
            "new-layout" => {
                let plan = self.plan.laid_out_anew();
                Image::create(&path, &plan, &self.contents)?.finish(1)?;
                "the same files at other places".to_owned()
            }
            _ => {
                let image = Image::copied(&base.path, &path, &self.plan, &self.contents)?;
                let words = self.change(&image)?;
                image.finish(1)?;
                words
            }
        };
        self.workload(&words, Some(base), Placed { name: NAME.to_owned(), path })
    }

    /// Changes a copy of the base image; gives what was done in words.
    fn change(&self, image: &Image<'_>) -> anyhow::Result<String> {
        let (plan, seed) = (&self.plan, self.seed);
        let rewrite = |pages: std::collections::BTreeSet<u64>, what: &str| {
            pages.iter().try_for_each(|page| image.rewrite(*page, seed))?;
            anyhow::Ok(format!("{} {what}", pages.len()))
        };
        Ok(match self.name {
            "real-big-update" => {
                dirt::big_update(image, plan, seed)?;
                "files added, every fourth changed, a quarter of the database filled".to_owned()
            }
            "real-small-day" => {
                let pages = dirt::small_day(image, plan, seed)?;
                format!("small edits in the database, ends of some texts: {pages} pages")
            }
            "random-0.1" => {
                let dirty = dirt::at_random(plan, per_mille(plan.pages(), 1), seed);
                rewrite(dirty, "random pages rewritten (0.1 % of the image's)")?
            }
            "random-1" => {
                let dirty = dirt::at_random(plan, per_mille(plan.pages(), 10), seed);
                rewrite(dirty, "random pages rewritten (1 % of the image's)")?
            }
            "clustered" => {
                let dirty = dirt::in_runs(plan, per_mille(plan.pages(), 10), seed);
                rewrite(dirty, "pages in runs of 64 to 512 rewritten (1 % of the image's)")?
            }
            "database" => {
                let of = dirt::database_pages(plan);
                let dirty = dirt::in_database(plan, per_mille(of, 10), seed);
                dirty.iter().try_for_each(|page| image.edit(*page, seed))?;
                let count = dirty.len();
                format!("{count} of {of} pages of a database with 1 to 4 edits of 8 to 64 bytes")
            }
            "touched" => "not a byte changed, time of modification moved by a day".to_owned(),
            name => anyhow::bail!("nothing changes in {name}"),
        })
    }

    /// The disks of `random-1` in a container.
    fn container(&self, directory: &Path, base: &Placed, dirty: &Placed) -> Made {
        let suffix = self.name.trim_start_matches("container-");
        let path = |when: &str| directory.join(format!("{when}.{suffix}"));
        let (old, new) = (path("before"), path("after"));
        container::make(suffix, (&base.path, &dirty.path), (&old, &new))?;
        let words = format!("in a {suffix} file; 1 % of the disk's pages rewritten at random");
        let placed = |path| Placed { name: format!("server.{suffix}"), path };
        self.workload(&words, Some(placed(old)), placed(new))
    }
}

type Made = anyhow::Result<Workload>;

#[cfg(test)]
mod tests;
