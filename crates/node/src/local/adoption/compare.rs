//! How an image here stands to what a peer has of it, for whoever takes a store over from another tool.
//!
//! Pure. Bytes first, then lineage, then times: what robocopy, rsync or DFS-R left is mostly equal and
//! without any lineage.

use blockferry_delta::{Order, Root};

use crate::api::Compared;
use crate::transfer::judge::Version;

/// What a peer offered of an image last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Its content.
    pub(crate) root: Root,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
    /// Its modification time in nanoseconds since 1970.
    pub(crate) mtime_ns: i128,
}

/// What is here: what was recorded, and its time; or a file that isn't recorded yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Here<'a> {
    Recorded(&'a Version, i128),
    Unrecorded,
    Nothing,
}

/// Compares; `None`: neither side has it.
pub(crate) fn compare(
    here: Here<'_>,
    there: Option<&Version>,
    offered: Option<&Offered>,
) -> Option<Compared> {
    let there = there.filter(|version| version.root != Root::NOTHING);
    let (ours, mtime_ns) = match (here, there) {
        (Here::Nothing, None) => return None,
        (Here::Nothing, Some(_)) => return Some(Compared::Missing),
        (Here::Unrecorded, _) => return Some(Compared::Unrecorded),
        (Here::Recorded(..), None) => return Some(Compared::OnlyHere),
        (Here::Recorded(ours, mtime_ns), Some(_)) => (ours, mtime_ns),
    };
    let theirs = there?;
    if ours.root == theirs.root {
        let times = offered.filter(|offered| offered.root == ours.root);
        let adrift = times.is_some_and(|offered| offered.mtime_ns != mtime_ns);
        return Some(if adrift { Compared::TimesAdrift } else { Compared::Equal });
    }
    Some(match theirs.lineage.compare(&ours.lineage) {
        Order::Newer => Compared::Stale,
        Order::Older => Compared::NewerHere,
        Order::Equal | Order::Concurrent => Compared::Differs,
    })
}

#[cfg(test)]
mod tests {
    use blockferry_delta::{Lineage, NodeId};

    use super::*;

    fn version(root: u8, lineage: &[(u8, u64)]) -> Version {
        let entries = lineage.iter().map(|(n, c)| (NodeId::from_bytes([*n; 32]), *c));
        let lineage = Lineage::from_entries(entries).expect("valid");
        Version { number: 1, root: Root::from_bytes([root; 32]), lineage }
    }

    #[test]
    fn table() {
        use Compared::*;
        let (found, same) = (version(1, &[]), version(1, &[(9, 2)]));
        let (made, newer) = (version(2, &[(9, 2)]), version(3, &[(9, 3)]));
        let deleted = Version { root: Root::NOTHING, ..made.clone() };
        let offered = Offered { root: found.root, size_bytes: 5, mtime_ns: 70 };
        let here = |version, mtime_ns| Here::Recorded(version, mtime_ns);
        let rows = [
            (Here::Nothing, None, None, None),
            (Here::Nothing, Some(&deleted), None, None),
            (Here::Nothing, Some(&made), None, Some(Missing)),
            (Here::Unrecorded, Some(&made), None, Some(Unrecorded)),
            (Here::Unrecorded, None, None, Some(Unrecorded)),
            (here(&found, 7), None, None, Some(OnlyHere)),
            (here(&made, 7), Some(&deleted), None, Some(OnlyHere)),
            (here(&found, 7), Some(&same), None, Some(Equal)),
            (here(&found, 7), Some(&same), Some(&offered), Some(TimesAdrift)),
            (here(&found, 70), Some(&same), Some(&offered), Some(Equal)),
            (here(&made, 7), Some(&made), Some(&offered), Some(Equal)), // offered something else
            (here(&found, 7), Some(&made), None, Some(Stale)),
            (here(&made, 7), Some(&newer), None, Some(Stale)),
            (here(&newer, 7), Some(&made), None, Some(NewerHere)),
            (here(&made, 7), Some(&found), None, Some(NewerHere)),
            (here(&found, 7), Some(&version(4, &[])), None, Some(Differs)),
            (here(&made, 7), Some(&version(4, &[(8, 1)])), None, Some(Differs)),
        ];
        for (here, there, offered, expected) in rows {
            assert_eq!(compare(here, there, offered), expected, "{here:?} {there:?}");
        }
    }
}
