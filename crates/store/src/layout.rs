//! Where Blockferry's private files of a store lie, and the marker that says "this is a store":
//! a directory without it is never read as an empty store. `docs/format.md` describes both.

use blockferry_delta::{ImageName, Root, StoreId, StoreKey, StoreName};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::disk::{Disk, Kind, Open, RenameHow};
use crate::error::{Error, IoContext, Result};

/// Directory of everything private.
pub(crate) const PRIVATE: &str = ".blockferry";
/// Directory of stagings and spools.
pub(crate) const STAGING: &str = ".blockferry/staging";
/// Directory of spares: earlier contents kept to be built upon.
pub(crate) const SPARE: &str = ".blockferry/spare";
/// Directory of held bases: clones of what was recorded last.
pub(crate) const BASE: &str = ".blockferry/base";
/// Directory of clones of what was recorded before that.
pub(crate) const BEFORE: &str = ".blockferry/before";
/// Directory of contents that aren't current and are kept.
pub(crate) const KEPT: &str = ".blockferry/kept";
/// Directory of catalogs that could not be read.
pub(crate) const QUARANTINE: &str = ".blockferry/quarantine";
/// Directory of what recovery found to be of no use; emptied in the quiet after it.
pub(crate) const TRASH: &str = ".blockferry/trash";
/// There while the store is being adopted.
pub(crate) const ADOPTING: &str = ".blockferry/adopting";
/// The catalog.
pub(crate) const CATALOG: &str = ".blockferry/catalog.redb";
/// The marker.
pub(crate) const MARKER: &str = ".blockferry/store";
const MARKER_NEW: &str = ".blockferry/store.new";
const MARKER_VERSION: u64 = 1;
/// Bytes of the largest marker that is read.
const MARKER_BYTES_MAX: u64 = 4096;

/// Staging of the generation of `name` with `root`.
pub(crate) fn staging_path(name: &ImageName, root: &Root) -> String {
    format!("{STAGING}/{name}.{}", root.short())
}

/// How the name of a journal ends.
pub(crate) const JOURNAL_END: &str = ".journal";

/// Journal of the generation of `name` with `root`.
pub(crate) fn journal_path(name: &ImageName, root: &Root) -> String {
    format!("{}{JOURNAL_END}", staging_path(name, root))
}

/// Where the file of `name` goes when a journal could not be put into it whole.
pub(crate) fn half_path(name: &ImageName) -> String {
    format!("{STAGING}/{name}.half")
}

/// Spare of `name`.
pub(crate) fn spare_path(name: &ImageName) -> String {
    format!("{SPARE}/{name}")
}

/// Held base of `name`.
pub(crate) fn base_path(name: &ImageName) -> String {
    format!("{BASE}/{name}")
}

/// Held clone of the content of `name` before the one in [`base_path`].
pub(crate) fn before_path(name: &ImageName) -> String {
    format!("{BEFORE}/{name}")
}

/// The kept content of `name` with this serial number.
pub(crate) fn kept_path(name: &ImageName, serial: u64) -> String {
    format!("{KEPT}/{name}.{serial}")
}

/// What a file `NAME.NUMBER` is called after.
pub(crate) fn split_numbered(leaf: &str) -> Option<(ImageName, u64)> {
    let (name, number) = leaf.rsplit_once('.')?;
    Some((ImageName::new(name).ok()?, number.parse().ok()?))
}

/// Who a store is, the same on every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Its name.
    pub name: StoreName,
    /// Its id.
    pub id: StoreId,
    /// Its secret.
    pub key: StoreKey,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Marker {
    #[n(0)]
    version: u64,
    #[n(1)]
    name: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    id: [u8; 16],
    #[cbor(n(3), with = "minicbor::bytes")]
    key: [u8; 32],
    /// Of the marker without it; absent in those of earlier versions.
    #[n(4)]
    sum: Option<ByteArray<32>>,
}

impl Marker {
    fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("encoding to memory cannot fail")
    }

    /// Its bytes, with the sum of all the others at the end.
    fn sealed(self) -> Vec<u8> {
        let plain = Self { sum: None, ..self };
        let sum = *blake3::hash(&plain.encode()).as_bytes();
        Self { sum: Some(sum.into()), ..plain }.encode()
    }

    /// The marker that these bytes are, and no others: there is one form with a sum and one without.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let marker: Self = minicbor::decode(bytes).map_err(|e| damaged(&e.to_string()))?;
        if marker.version > MARKER_VERSION {
            return Err(Error::CatalogNewer { found: marker.version, known: MARKER_VERSION });
        }
        let plain = Self { sum: None, name: marker.name.clone(), ..marker };
        let right = match marker.sum {
            Some(_) => plain.sealed(),
            None => plain.encode(),
        };
        if right == bytes { Ok(marker) } else { Err(damaged("it isn't what was written")) }
    }
}

/// Makes the private directories and, last, the marker.
pub(crate) fn create(disk: &dyn Disk, identity: &StoreIdentity) -> Result<()> {
    if let Some(existing) = read_marker(disk)? {
        return Err(Error::StoreExists(existing.name.to_string()));
    }
    make_private(disk)?;
    let marker = Marker {
        version: MARKER_VERSION,
        name: identity.name.to_string(),
        id: *identity.id.as_bytes(),
        key: *identity.key.as_bytes(),
        sum: None,
    };
    let bytes = marker.sealed();
    disk.remove_file(MARKER_NEW).during("remove", MARKER_NEW)?;
    let file = disk.open(MARKER_NEW, Open::CreateNew).during("create", MARKER_NEW)?;
    file.write_at(&bytes, 0).during("write", MARKER_NEW)?;
    file.sync().during("sync", MARKER_NEW)?;
    disk.rename(MARKER_NEW, MARKER, RenameHow::Replace).during("rename", MARKER)?;
    disk.sync_dir(PRIVATE).during("sync", PRIVATE)?;
    disk.sync_dir("").during("sync", "store directory")
}

/// Makes what is missing of the private directories.
pub(crate) fn make_private(disk: &dyn Disk) -> Result<()> {
    match disk.stat(PRIVATE).during("look at", PRIVATE)? {
        Some(stat) if stat.kind != Kind::Dir => {
            return Err(Error::StoreUnsafe(".blockferry is not a directory"));
        }
        _ => {}
    }
    let dirs = [PRIVATE, STAGING, SPARE, BASE, BEFORE, KEPT, QUARANTINE, TRASH];
    let there = |dir: &&str| disk.stat(dir).is_ok_and(|stat| stat.is_some());
    if dirs.iter().all(there) {
        return Ok(());
    }
    for dir in dirs {
        disk.make_dir(dir).during("make directory", dir)?;
    }
    disk.sync_dir(PRIVATE).during("sync", PRIVATE)?;
    disk.sync_dir("").during("sync", "store directory")
}

/// Reads the marker; `None` when there is none.
pub(crate) fn read_marker(disk: &dyn Disk) -> Result<Option<StoreIdentity>> {
    if disk.stat(PRIVATE).during("look at", PRIVATE)?.is_none() {
        return Ok(None);
    }
    let Some(stat) = disk.stat(MARKER).during("look at", MARKER)? else { return Ok(None) };
    if stat.kind != Kind::File || stat.size_bytes > MARKER_BYTES_MAX {
        return Err(damaged("not a small regular file"));
    }
    let file = disk.open(MARKER, Open::Read).during("open", MARKER)?;
    let mut bytes = vec![0; stat.size_bytes as usize];
    file.read_exact_at(&mut bytes, 0).during("read", MARKER)?;
    let marker = Marker::decode(&bytes)?;
    let name = StoreName::new(&marker.name).map_err(|e| damaged(&e.to_string()))?;
    Ok(Some(StoreIdentity {
        name,
        id: StoreId::from_bytes(marker.id),
        key: StoreKey::from_bytes(marker.key),
    }))
}

fn damaged(detail: &str) -> Error {
    Error::Marker(detail.to_owned())
}

/// The store of unit tests.
#[cfg(test)]
pub(crate) fn identity() -> StoreIdentity {
    StoreIdentity {
        name: StoreName::new("vdisks").expect("a name"),
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    fn marked(bytes: &[u8]) -> Result<Option<StoreIdentity>> {
        let disk = SimDisk::new(1, 1 << 20);
        make_private(&disk).expect("made");
        let file = disk.open(MARKER, Open::CreateNew).expect("created");
        file.write_at(bytes, 0).expect("written");
        read_marker(&disk)
    }

    fn written() -> Vec<u8> {
        let disk = SimDisk::new(1, 1 << 20);
        create(&disk, &identity()).expect("created");
        let file = disk.open(MARKER, Open::Read).expect("opened");
        let mut bytes = vec![0; file.stat().expect("looked at").size_bytes as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    /// What earlier versions wrote.
    fn old() -> Vec<u8> {
        let head = [&[0xa4, 0, 1, 1, 0x66][..], b"vdisks", &[2, 0x50], &[1; 16]].concat();
        [&head[..], &[3, 0x58, 32], &[2; 32]].concat()
    }

    #[test]
    fn a_marker_is_read_with_its_sum_and_an_old_one_without() {
        assert_eq!(marked(&written()).expect("whole"), Some(identity()));
        assert_eq!(marked(&old()).expect("old"), Some(identity()));
        // An earlier version finds what it knows at the beginning of a new one.
        assert_eq!(written()[1..old().len()], old()[1..]);
        assert_eq!(written()[0], 0xa5);
    }

    #[test]
    fn a_torn_or_rotten_marker_is_an_error_and_never_another_store() {
        let whole = written();
        let refused = |bytes: &[u8], what: &str| {
            let error = marked(bytes).expect_err(what);
            let newer = matches!(error, Error::CatalogNewer { .. });
            assert!(newer || error.code() == "MARKER_DAMAGED", "{what}: {error}");
        };
        for bit in 0..whole.len() * 8 {
            let mut rotten = whole.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            refused(&rotten, &format!("bit {bit}"));
        }
        for len in 0..whole.len() {
            refused(&whole[..len], &format!("cut at {len}"));
            let mut torn = whole[..len].to_vec();
            torn.resize(whole.len(), 0);
            refused(&torn, &format!("zeros from {len}"));
        }
        refused(&[&whole[..], &[0]].concat(), "something behind it");
        refused(&[&old()[..], &[0]].concat(), "something behind an old one");
        for len in 0..old().len() {
            refused(&old()[..len], &format!("an old one cut at {len}"));
        }
    }
}
