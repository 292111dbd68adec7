//! The external map, a source of the discover station: somebody outside the store (a hypervisor, a
//! script) says what changed in an image since its last generation, as text or as a dirty bitmap of
//! qemu.
//!
//! What is said counts only if it can be shown to begin at that generation and to end at what was
//! frozen; else the image is read whole. A map that a person gave is refused with the reason
//! instead. Even then it is a claim: what it calls changed is hashed, and so is a sample of the rest.

mod nbd;
mod runs;
#[cfg(test)]
mod tests;
mod text;

use blockferry_delta::{ImageName, Root};

pub use nbd::NbdBitmap;
pub(crate) use runs::{Ranges, Runs};
use text::TextMap;

use crate::catalog::{Generation, ImageRecord};
use crate::disk::{Disk, Kind, Open, Stat};
use crate::error::{Error, IoContext, Result};

/// Bytes of the longest text that is read.
pub const MAP_BYTES_MAX: u64 = 32 << 20;
/// Ends the name of a map that lies beside its image.
const SIDECAR: &str = ".changed";
/// Bytes by which a map may reach beyond the image: units of whatever made it.
const ROUNDING_BYTES_MAX: u64 = 4 << 20;

/// Where a map of changes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is a text.
    Text {
        /// The text.
        text: Vec<u8>,
        /// When it was written last, nanoseconds since 1970, by the clock of file times.
        written_ns: i128,
    },
    /// It is a dirty bitmap that qemu keeps.
    Bitmap(NbdBitmap),
}

/// A map of changes that a person named for one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The map.
    pub changed: Changed,
    /// Number of the generation it begins at, if the person said so.
    pub since: Option<u64>,
}

/// What a map must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) image: &'a ImageRecord,
    pub(crate) current: &'a Generation,
    /// The image's file when it was frozen.
    pub(crate) stat: &'a Stat,
    /// Nobody wrote to the file between this look at it and the freezing.
    pub(crate) settled: bool,
}

/// Why a map isn't used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It can't be meant: malformed, or of another content.
    Bad(String),
    /// It begins at another content than the current generation's.
    Base(Base, String),
    /// Nobody did wrong, but it proves nothing.
    Unproven(String),
}

impl Unfit {
    fn bad<T>(what: impl Into<String>) -> std::result::Result<T, Self> {
        Err(Self::Bad(what.into()))
    }
}

/// What a map names as the content it begins at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// BLAKE3 of that content.
    Root(Root),
    /// The first digits of it.
    Prefix(String),
    /// Number of the generation.
    Number(u64),
}

impl Base {
    /// Is this the content of `generation`?
    pub(crate) fn is_of(&self, generation: &Generation) -> bool {
        match self {
            Self::Root(root) => *root == generation.root,
            Self::Prefix(prefix) => generation.root.to_string().starts_with(prefix),
            Self::Number(number) => *number == generation.number,
        }
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(root) => write!(f, "the content {root}"),
            Self::Prefix(prefix) => write!(f, "the content {prefix}"),
            Self::Number(number) => write!(f, "generation {number}"),
        }
    }
}

/// Is this the name of a map beside an image, rather than an image's?
pub(crate) fn is_sidecar(name: &str) -> bool {
    name.strip_suffix(SIDECAR).is_some_and(|image| ImageName::new(image).is_ok())
}

impl Told {
    /// The ranges of the frozen content that may differ from the current generation.
    pub(crate) fn ranges(&self, facts: &Facts<'_>) -> std::result::Result<Ranges, Unfit> {
        match &self.changed {
            Changed::Text { text, written_ns } => {
                let map = TextMap::parse(text).map_err(Unfit::Bad)?;
                if map.mtime_ns.is_none() && *written_ns < facts.stat.mtime_ns {
                    return Unfit::bad("the image was written to after the map");
                }
                of_text(map, self.since, facts)
            }
            Changed::Bitmap(bitmap) => of_bitmap(bitmap, self.since, facts),
        }
    }
}

/// The ranges that the map beside an image names; `None`: there is no map.
pub(crate) fn beside(
    disk: &dyn Disk,
    facts: &Facts<'_>,
) -> Result<Option<std::result::Result<Ranges, Unfit>>> {
    let path = format!("{}{SIDECAR}", facts.image.name);
    let Some(stat) = disk.stat(&path).during("look at", &path)? else { return Ok(None) };
    if stat.kind != Kind::File {
        return Ok(Some(Unfit::bad("it is not a regular file")));
    }
    if stat.size_bytes > MAP_BYTES_MAX {
        return Ok(Some(Unfit::bad(format!("it is longer than {MAP_BYTES_MAX} bytes"))));
    }
    let mut text = vec![0; stat.size_bytes as usize];
    let file = disk.open(&path, Open::Read).during("open", &path)?;
    match file.read_exact_at(&mut text, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Ok(Some(Unfit::bad("it became shorter while it was read")));
        }
        read => read.during("read", &path)?,
    }
    let ranges = TextMap::parse(&text).map_err(Unfit::Bad).and_then(|map| {
        // Nobody vouches for a file that lies about: it must say what it ends at.
        if map.mtime_ns.is_none() {
            return Unfit::bad("it has no line mtime");
        }
        of_text(map, None, facts)
    });
    Ok(Some(ranges))
}

fn of_text(
    map: TextMap,
    since: Option<u64>,
    facts: &Facts<'_>,
) -> std::result::Result<Ranges, Unfit> {
    begins_at(map.base.as_ref(), since, facts.current)?;
    let differs = |what: &str, said: u64, is: u64| {
        Unfit::Bad(format!("it is of an image with {what} {said}; this one's is {is}"))
    };
    if let Some(said) = map.size_bytes.filter(|said| *said != facts.stat.size_bytes) {
        return Err(differs("size", said, facts.stat.size_bytes));
    }
    if let Some(said) = map.inode.filter(|said| *said != facts.stat.inode) {
        return Err(differs("inode", said, facts.stat.inode));
    }
    if map.mtime_ns.is_some_and(|said| said != facts.stat.mtime_ns) {
        return Unfit::bad("the image's mtime is not the one it says: written to since");
    }
    if !facts.settled {
        return Err(Unfit::Unproven("the image is being written".to_owned()));
    }
    if !map.ends && map.covers_bytes.is_none_or(|covers| covers < facts.stat.size_bytes) {
        return Unfit::bad("it is cut short: no line end, and it doesn't tell of the whole image");
    }
    within(map.dirty, facts.stat.size_bytes)
}

fn of_bitmap(
    bitmap: &NbdBitmap,
    since: Option<u64>,
    facts: &Facts<'_>,
) -> std::result::Result<Ranges, Unfit> {
    begins_at(bitmap.base().as_ref(), since, facts.current)?;
    let unproven = |why: &str| Err(Unfit::Unproven(why.to_owned()));
    // qemu notes a write when it is over, so one that was under way may be missing.
    if !facts.settled {
        return unproven("the image is being written");
    }
    // qemu tells of the file it opened, which need not be the one that has the name now.
    if facts.image.checkpoint.is_none_or(|point| point.inode != facts.stat.inode) {
        return unproven("the image is not the file that was recorded");
    }
    within(bitmap.read(facts.stat.size_bytes)?, facts.stat.size_bytes)
}

/// Continuity, the first half: the map begins at the current generation.
fn begins_at(
    base: Option<&Base>,
    since: Option<u64>,
    current: &Generation,
) -> std::result::Result<(), Unfit> {
    if base.is_none() && since.is_none() {
        return Unfit::bad("it doesn't say which content it begins at: say --since GENERATION");
    }
    let now = || format!("the current generation is {}, root {}", current.number, current.root);
    for base in base.cloned().into_iter().chain(since.map(Base::Number)) {
        if !base.is_of(current) {
            let why = format!("it begins at {base}; {}", now());
            return Err(Unfit::Base(base, why));
        }
    }
    Ok(())
}

/// The ranges, if they are of an image of this size; what is rounding at the end is cut off.
fn within(ranges: Ranges, size_bytes: u64) -> std::result::Result<Ranges, Unfit> {
    let rounded = size_bytes.saturating_add(ROUNDING_BYTES_MAX);
    match ranges.last() {
        Some((start, bytes)) if *start >= size_bytes || start + bytes > rounded => {
            Unfit::bad(format!("it reaches beyond the image's {size_bytes} bytes"))
        }
        _ => Ok(ranges
            .into_iter()
            .map(|(start, bytes)| (start, bytes.min(size_bytes - start)))
            .collect()),
    }
}

/// Refuses a name that belongs to maps.
pub(crate) fn check_name(name: &ImageName) -> Result<()> {
    if is_sidecar(name.as_str()) { Err(Error::MapName(name.clone())) } else { Ok(()) }
}
