//! Sets: which images of a store belong together, and whether each can be used where it is. From
//! the files' names and headers alone: parents by the paths that children remember, sidecars by
//! their stem, or groups that an operator named.
//!
//! Promises: a member comes after everything it needs in its set's order; an image whose chain is
//! broken has a [`Fault`] that says where; chains are followed for [`CHAIN_DISKS_MAX`] disks.

mod locate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::header::{Format, Header, ParentLink, Unclean};
use crate::name::ImageName;
use locate::{Place, locate};

/// Disks of the longest chain, the base included.
pub const CHAIN_DISKS_MAX: usize = 64;

/// Seconds from 1970 to 2000: where VHD's clock begins.
const EPOCH_2000_S: i64 = 946_684_800;
/// File systems keep times to two seconds at the coarsest.
const TIME_SLACK_S: i64 = 2;

/// A file of a store, as far as sets need it.
#[derive(Clone, Debug)]
pub struct SetFile {
    /// Its name.
    pub name: ImageName,
    /// What its header says; `None`: it has none.
    pub header: Option<Header>,
    /// Why its header can't be read, if it can't.
    pub unreadable: Option<String>,
    /// When its content was modified last, in seconds since 1970.
    pub modified_unix_s: i64,
}

/// How images are put together.
#[derive(Clone, Copy)]
pub enum Grouping<'a> {
    /// By their headers and stems.
    Auto,
    /// By an operator: the number of the group that a name belongs to.
    Named(&'a dyn Fn(&str) -> Option<usize>),
}

/// In what a parent differs from what its child remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It isn't of the format that the child builds upon.
    Format,
    /// Its id: it was written to since, or is another disk.
    Id,
    /// When it was modified.
    Time,
    /// The size of its disk.
    Size,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "its format is another",
            Self::Id => "its identifier is another: it was written to, or is another disk",
            Self::Time => "its modification time is another",
            Self::Size => "the size of its disk is another",
        })
    }
}

/// Why an image can't be used where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its header begins as a known format and breaks the rules.
    #[error("{what}")]
    Unreadable {
        /// Which rule, and where.
        what: String,
    },
    /// What it builds upon isn't in the store.
    #[error("it builds upon {name}, which is not in the store")]
    ParentAbsent {
        /// The parent's name, escaped.
        name: String,
    },
    /// What it builds upon is in another directory.
    #[error("it builds upon {path}, which is outside the store")]
    ParentOutside {
        /// The path it remembers, escaped.
        path: String,
    },
    /// The parent isn't what it remembers.
    #[error("it builds upon {parent}, but {what}")]
    ParentMismatch {
        /// The parent.
        parent: ImageName,
        /// In what they differ.
        what: Mismatch,
    },
    /// It builds upon itself.
    #[error("the chain of what it builds upon is a circle")]
    Cycle,
    /// There are too many disks below it.
    #[error("it builds upon a chain of more than {CHAIN_DISKS_MAX} disks")]
    ChainTooLong,
    /// Something below it has a fault.
    #[error("it builds upon {ancestor}, and: {what}")]
    Below {
        /// Who has.
        ancestor: ImageName,
        /// Which.
        what: String,
    },
}

impl Fault {
    /// Is it that a parent is there, and isn't what it should be?
    pub fn is_mismatch(&self) -> bool {
        matches!(self, Self::ParentMismatch { .. })
    }
}

/// Images that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// What it is called: its base.
    pub name: ImageName,
    /// Its members, each after what it needs.
    pub members: Vec<ImageName>,
}

/// The sets of a store, and what is wrong with its images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    sets: Vec<ImageSet>,
    set_of: BTreeMap<ImageName, usize>,
    parents: BTreeMap<ImageName, ImageName>,
    faults: BTreeMap<ImageName, Fault>,
    strays: BTreeMap<ImageName, String>,
    unclean: BTreeMap<ImageName, Unclean>,
}

impl Sets {
    /// Finds the sets among all `files` of the store in the directory `store_path`.
    pub fn find(files: &[SetFile], store_path: &str, grouping: Grouping<'_>) -> Self {
        let mut sets = Self::default();
        let names: BTreeMap<&ImageName, &SetFile> = files.iter().map(|f| (&f.name, f)).collect();
        let mut links: Vec<(&ImageName, ImageName)> = Vec::new();
        for file in files {
            let unclean = file.header.as_ref().and_then(|header| header.unclean);
            sets.unclean.extend(unclean.map(|unclean| (file.name.clone(), unclean)));
            if let Some(what) = &file.unreadable {
                sets.faults.insert(file.name.clone(), Fault::Unreadable { what: what.clone() });
            }
            links.extend(sets.data_of(file, &names, store_path).map(|data| (&file.name, data)));
            links.extend(sets.parent_of(file, &names, store_path).map(|p| (&file.name, p)));
        }
        sets.follow_chains(files);
        let groups = match grouping {
            Grouping::Auto => {
                let stems = sidecars(files);
                links.extend(stems.iter().map(|(sidecar, disk)| (*sidecar, (*disk).clone())));
                joined(files, &links)
            }
            Grouping::Named(group_of) => named(files, group_of),
        };
        sets.take_groups(groups, files);
        sets
    }

    /// The set of an image that belongs to one with others.
    pub fn set_of(&self, name: &ImageName) -> Option<&ImageSet> {
        self.set_of.get(name).map(|at| &self.sets[*at])
    }

    /// All sets.
    pub fn sets(&self) -> &[ImageSet] {
        &self.sets
    }

    /// What is wrong with an image.
    pub fn fault(&self, name: &ImageName) -> Option<&Fault> {
        self.faults.get(name)
    }

    /// Images with a path of a parent that leads elsewhere: the parent is here, but whoever follows
    /// the path won't find it. With the path, escaped.
    pub fn stray_paths(&self) -> impl Iterator<Item = (&ImageName, &str)> {
        self.strays.iter().map(|(name, path)| (name, path.as_str()))
    }

    /// Why an image's bytes are not what its users would see after closing it well.
    pub fn unclean(&self, name: &ImageName) -> Option<Unclean> {
        self.unclean.get(name).copied()
    }

    /// What an image builds upon, if that is in the store.
    pub fn parent(&self, name: &ImageName) -> Option<&ImageName> {
        self.parents.get(name)
    }

    /// The images that build upon this one directly.
    pub fn children<'a>(&'a self, name: &'a ImageName) -> impl Iterator<Item = &'a ImageName> {
        self.parents.iter().filter(move |(_, parent)| *parent == name).map(|(child, _)| child)
    }

    /// The file beside a qcow2 that holds its data.
    fn data_of(
        &mut self,
        file: &SetFile,
        names: &BTreeMap<&ImageName, &SetFile>,
        store_path: &str,
    ) -> Option<ImageName> {
        let path = file.header.as_ref()?.data_file.as_ref()?;
        let link = ParentLink::by_path(path);
        self.take_place(file, locate(&link, Format::Qcow2, names, store_path))
    }

    /// The image that `file` builds upon, if it is here; else, or if it isn't the right one, that
    /// is its fault.
    fn parent_of(
        &mut self,
        file: &SetFile,
        names: &BTreeMap<&ImageName, &SetFile>,
        store_path: &str,
    ) -> Option<ImageName> {
        let header = file.header.as_ref()?;
        let link = header.parent.as_ref()?;
        let parent = self.take_place(file, locate(link, header.format, names, store_path))?;
        if let Some(what) = mismatch(header, link, names[&parent]) {
            let fault = Fault::ParentMismatch { parent: parent.clone(), what };
            self.faults.entry(file.name.clone()).or_insert(fault);
        }
        self.parents.insert(file.name.clone(), parent.clone());
        Some(parent)
    }

    fn take_place(&mut self, file: &SetFile, place: Place) -> Option<ImageName> {
        let fault = match place {
            Place::Here(name) => return Some(name),
            Place::Stray(name, path) => {
                self.strays.insert(file.name.clone(), path);
                return Some(name);
            }
            Place::Absent(name) => Fault::ParentAbsent { name },
            Place::Outside(path) => Fault::ParentOutside { path },
        };
        self.faults.entry(file.name.clone()).or_insert(fault);
        None
    }

    /// Faults of whole chains: circles, too many disks, a fault further down.
    fn follow_chains(&mut self, files: &[SetFile]) {
        let own = self.faults.clone();
        for file in files.iter().filter(|file| !own.contains_key(&file.name)) {
            let mut seen = BTreeSet::from([&file.name]);
            let mut at = &file.name;
            let fault = loop {
                let Some(parent) = self.parents.get(at) else { break None };
                if !seen.insert(parent) {
                    break Some(Fault::Cycle);
                }
                if seen.len() > CHAIN_DISKS_MAX {
                    break Some(Fault::ChainTooLong);
                }
                if let Some(fault) = own.get(parent) {
                    let what = fault.to_string();
                    break Some(Fault::Below { ancestor: parent.clone(), what });
                }
                at = parent;
            };
            if let Some(fault) = fault {
                self.faults.insert(file.name.clone(), fault);
            }
        }
    }

    /// Disks below an image; what is in a circle counts as far up as there are limits.
    fn depth(&self, name: &ImageName) -> usize {
        let below = std::iter::successors(Some(name), |at| self.parents.get(*at));
        below.take(CHAIN_DISKS_MAX + 1).count()
    }

    fn take_groups(&mut self, groups: Vec<Vec<ImageName>>, files: &[SetFile]) {
        let data: BTreeSet<&str> = files
            .iter()
            .filter_map(|file| file.header.as_ref()?.data_file.as_deref())
            .map(|path| path.rsplit('/').next().unwrap_or_default())
            .collect();
        for mut members in groups {
            if members.len() < 2 {
                continue;
            }
            let disks = members.iter().filter(|n| !is_sidecar(n)).map(|n| (n, self.depth(n)));
            let disks: Vec<(ImageName, usize)> = disks.map(|(n, d)| (n.clone(), d)).collect();
            let of_stem = |name: &ImageName| {
                let same = disks.iter().filter(|(disk, _)| stem(disk) == stem(name));
                same.map(|(_, depth)| *depth).min().unwrap_or(0)
            };
            // What describes the whole set comes last: whoever reads it finds all of it. What
            // describes one disk comes before that disk, and so does the file with its data.
            members.sort_by_cached_key(|name| match extension(name) {
                Some("xml") => (1, 0, 0, name.clone()),
                _ if is_sidecar(name) => (0, of_stem(name), 0, name.clone()),
                _ if data.contains(name.as_str()) => (0, self.depth(name), 0, name.clone()),
                _ => (0, self.depth(name), 1, name.clone()),
            });
            let base = members.iter().find(|n| !is_sidecar(n) && !data.contains(n.as_str()));
            let name = base.unwrap_or(&members[0]).clone();
            self.set_of.extend(members.iter().map(|n| (n.clone(), self.sets.len())));
            self.sets.push(ImageSet { name, members });
        }
    }
}

/// In what a parent differs from what its child remembers.
fn mismatch(child: &Header, link: &ParentLink, parent: &SetFile) -> Option<Mismatch> {
    let format = match (child.format, link.format.as_deref()) {
        (Format::Qcow2, Some("qcow2")) => Some(Format::Qcow2),
        (Format::Qcow2, Some("vpc")) => Some(Format::Vhd),
        (Format::Qcow2, Some("vhdx")) => Some(Format::Vhdx),
        // Any file can be read as a raw disk, and the format may be left for QEMU to find out.
        (Format::Qcow2, _) => return None,
        (format, _) => Some(format),
    };
    let Some(header) = parent.header.as_ref().filter(|h| Some(h.format) == format) else {
        return Some(Mismatch::Format);
    };
    if !link.ids.is_empty() && header.id.is_none_or(|id| !link.ids.contains(&id)) {
        return Some(Mismatch::Id);
    }
    if child.format == Format::Vhd && child.virtual_bytes != header.virtual_bytes {
        return Some(Mismatch::Size);
    }
    let remembered = link.modified_2000_s.map(|s| i64::from(s).saturating_add(EPOCH_2000_S));
    let apart = |s: i64| s.abs_diff(parent.modified_unix_s) > TIME_SLACK_S.unsigned_abs();
    remembered.is_some_and(apart).then_some(Mismatch::Time)
}

fn extension(name: &ImageName) -> Option<&'static str> {
    let (_, extension) = name.as_str().rsplit_once('.')?;
    ["pvp", "xml"].into_iter().find(|known| extension.eq_ignore_ascii_case(known))
}

/// Does a file describe a disk rather than be one?
fn is_sidecar(name: &ImageName) -> bool {
    extension(name).is_some()
}

/// A name without its extension.
fn stem(name: &ImageName) -> &str {
    name.as_str().rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem)
}

/// Each sidecar with every disk of its stem.
fn sidecars(files: &[SetFile]) -> Vec<(&ImageName, &ImageName)> {
    let mut disks: BTreeMap<&str, Vec<&ImageName>> = BTreeMap::new();
    for file in files.iter().filter(|file| !is_sidecar(&file.name)) {
        disks.entry(stem(&file.name)).or_default().push(&file.name);
    }
    let of = |sidecar| disks.get(stem(sidecar)).into_iter().flatten().map(move |d| (sidecar, *d));
    files.iter().map(|file| &file.name).filter(|name| is_sidecar(name)).flat_map(of).collect()
}

/// Groups of what is linked, directly or not.
fn joined(files: &[SetFile], links: &[(&ImageName, ImageName)]) -> Vec<Vec<ImageName>> {
    let mut sides: BTreeMap<&ImageName, Vec<&ImageName>> = BTreeMap::new();
    for (one, other) in links {
        sides.entry(one).or_default().push(other);
        sides.entry(other).or_default().push(one);
    }
    let (mut seen, mut groups) = (BTreeSet::new(), Vec::new());
    for file in files {
        let (mut open, mut group) = (vec![&file.name], Vec::new());
        while let Some(name) = open.pop() {
            if seen.insert(name) {
                group.push(name.clone());
                open.extend(sides.get(name).into_iter().flatten());
            }
        }
        groups.push(group);
    }
    groups
}

/// Groups that an operator named.
fn named(files: &[SetFile], group_of: &dyn Fn(&str) -> Option<usize>) -> Vec<Vec<ImageName>> {
    let mut groups: BTreeMap<usize, Vec<ImageName>> = BTreeMap::new();
    for file in files {
        if let Some(number) = group_of(file.name.as_str()) {
            groups.entry(number).or_default().push(file.name.clone());
        }
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests;
