//! Records of the catalog: numbered CBOR maps for what is small, fixed little-endian records for
//! chunk lists. Numbers are never used twice; unknown ones are skipped.

use blockferry_delta::{
    Chunk, ChunkId, ImageName, Lineage, Meta, NodeId, PageExtent, Root, SEGMENT_BYTES,
};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::disk::Stat;
use crate::error::{Error, Result};

/// How a generation was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Discover {
    /// All data was read and hashed.
    #[n(0)]
    Scan,
    /// Only times, mode, owner or attributes changed.
    #[n(1)]
    Metadata,
    /// It came from a peer.
    #[n(2)]
    Received,
    /// Only what the filesystem says may have changed was read and hashed.
    #[n(3)]
    Extents,
    /// Only what a map from outside says has changed was read and hashed.
    #[n(4)]
    Map,
}

/// One frozen content of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Which image.
    pub image: ImageName,
    /// Number within this node's history of the image, from 1.
    pub number: u64,
    /// BLAKE3 of the file.
    pub root: Root,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// Bytes in pages that aren't zero.
    pub data_bytes: u64,
    /// Mode, owner, time and attributes.
    pub meta: Meta,
    /// Which generations it descends from.
    pub lineage: Lineage,
    /// Node that recorded it first.
    pub author: NodeId,
    /// When this node recorded it, milliseconds since 1970; for people only.
    pub recorded_unix_ms: i64,
    /// How it was found.
    pub discover: Discover,
    /// Image bytes read to find it.
    pub bytes_read: u64,
    /// Bytes of pages that differ from the generation before.
    pub dirty_bytes: u64,
    /// Bytes that travelled to get it here; 0 where it was made.
    pub wire_bytes: u64,
    /// Milliseconds it took to record or receive.
    pub millis: u64,
    /// Runs of zero pages that have storage in the source and get it in copies.
    pub allocated_zero: Vec<PageExtent>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct GenerationRecord {
    #[n(0)]
    number: u64,
    #[n(1)]
    root: ByteArray<32>,
    #[n(2)]
    size_bytes: u64,
    #[n(3)]
    meta: MetaRecord,
    #[n(4)]
    lineage: Vec<(ByteArray<32>, u64)>,
    #[n(5)]
    author: ByteArray<32>,
    #[n(6)]
    recorded_unix_ms: i64,
    #[n(7)]
    discover: Discover,
    #[n(8)]
    bytes_read: u64,
    #[n(9)]
    dirty_bytes: u64,
    #[n(10)]
    wire_bytes: u64,
    #[n(11)]
    millis: u64,
    #[n(12)]
    data_bytes: u64,
    #[n(13)]
    allocated_zero: Vec<(u64, u32)>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct MetaRecord {
    #[n(0)]
    mode: u32,
    #[n(1)]
    uid: u32,
    #[n(2)]
    gid: u32,
    #[n(3)]
    mtime_s: i64,
    #[n(4)]
    mtime_subsec_ns: u32,
    #[n(5)]
    xattrs: Vec<(ByteVec, ByteVec)>,
}

const NS: i128 = 1_000_000_000;

impl MetaRecord {
    fn of(meta: &Meta) -> Self {
        let wrap = |bytes: &Vec<u8>| ByteVec::from(bytes.clone());
        Self {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_s: i64::try_from(meta.mtime_ns.div_euclid(NS)).unwrap_or(i64::MAX),
            mtime_subsec_ns: meta.mtime_ns.rem_euclid(NS) as u32,
            xattrs: meta.xattrs.iter().map(|(k, v)| (wrap(k), wrap(v))).collect(),
        }
    }

    fn meta(self) -> Meta {
        let open = |(k, v): (ByteVec, ByteVec)| (k.into(), v.into());
        Meta {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime_ns: i128::from(self.mtime_s) * NS + i128::from(self.mtime_subsec_ns),
            xattrs: self.xattrs.into_iter().map(open).collect(),
        }
    }
}

fn decode<'b, T: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<T> {
    minicbor::decode(bytes).map_err(|e| Error::Corrupt { what, detail: e.to_string() })
}

fn encode<T: Encode<()>>(record: &T) -> Vec<u8> {
    minicbor::to_vec(record).expect("encoding to memory cannot fail")
}

impl Generation {
    /// Does it say that the image was deleted? An empty file is never recorded: what has no bytes is
    /// no content.
    pub fn is_deleted(&self) -> bool {
        self.size_bytes == 0
    }

    /// Was it found here when nothing was known of it, and has no peer confirmed it? It descends
    /// from nothing and nobody made it: it is older than whatever somebody made.
    pub fn is_adopted(&self) -> bool {
        self.discover != Discover::Received && self.lineage.entries().next().is_none()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let lineage = self.lineage.entries();
        encode(&GenerationRecord {
            number: self.number,
            root: ByteArray::from(*self.root.as_bytes()),
            size_bytes: self.size_bytes,
            meta: MetaRecord::of(&self.meta),
            lineage: lineage.map(|(n, c)| (ByteArray::from(*n.as_bytes()), c)).collect(),
            author: ByteArray::from(*self.author.as_bytes()),
            recorded_unix_ms: self.recorded_unix_ms,
            discover: self.discover,
            bytes_read: self.bytes_read,
            dirty_bytes: self.dirty_bytes,
            wire_bytes: self.wire_bytes,
            millis: self.millis,
            data_bytes: self.data_bytes,
            allocated_zero: self.allocated_zero.iter().map(|e| (e.first, e.count)).collect(),
        })
    }

    pub(crate) fn decode(image: &ImageName, bytes: &[u8]) -> Result<Self> {
        let what = "a generation record";
        let record: GenerationRecord = decode(what, bytes)?;
        let entries = record
            .lineage
            .into_iter()
            .map(|(node, count)| (NodeId::from_bytes(node.into()), count));
        let lineage = Lineage::from_entries(entries)
            .map_err(|e| Error::Corrupt { what, detail: e.to_string() })?;
        let zero = record.allocated_zero.into_iter();
        Ok(Self {
            image: image.clone(),
            number: record.number,
            root: Root::from_bytes(record.root.into()),
            size_bytes: record.size_bytes,
            data_bytes: record.data_bytes,
            meta: record.meta.meta(),
            lineage,
            author: NodeId::from_bytes(record.author.into()),
            recorded_unix_ms: record.recorded_unix_ms,
            discover: record.discover,
            bytes_read: record.bytes_read,
            dirty_bytes: record.dirty_bytes,
            wire_bytes: record.wire_bytes,
            millis: record.millis,
            allocated_zero: zero.map(|(first, count)| PageExtent { first, count }).collect(),
        })
    }
}

/// What of a file's metadata proves that it wasn't touched since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Checkpoint {
    #[n(0)]
    pub(crate) inode: u64,
    #[n(1)]
    pub(crate) size_bytes: u64,
    #[n(2)]
    mtime_s: i64,
    #[n(3)]
    mtime_subsec_ns: u32,
    #[n(4)]
    ctime_s: i64,
    #[n(5)]
    ctime_subsec_ns: u32,
}

impl Checkpoint {
    pub(crate) fn of(stat: &Stat) -> Self {
        let split = |ns: i128| (ns.div_euclid(NS) as i64, ns.rem_euclid(NS) as u32);
        let ((mtime_s, mtime_subsec_ns), (ctime_s, ctime_subsec_ns)) =
            (split(stat.mtime_ns), split(stat.ctime_ns));
        Self {
            inode: stat.inode,
            size_bytes: stat.size_bytes,
            mtime_s,
            mtime_subsec_ns,
            ctime_s,
            ctime_subsec_ns,
        }
    }

    /// Same file with the same content, though its name or attributes may have changed.
    pub(crate) fn same_content(&self, stat: &Stat) -> bool {
        self.same_file(&Self::of(stat))
    }

    /// The same of two that were taken.
    pub(crate) fn same_file(&self, now: &Self) -> bool {
        (self.inode, self.size_bytes, self.mtime_s, self.mtime_subsec_ns)
            == (now.inode, now.size_bytes, now.mtime_s, now.mtime_subsec_ns)
    }
}

/// An image: its current generation and the file that held it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageRecord {
    pub(crate) name: ImageName,
    pub(crate) id: u32,
    /// Number of the current generation; 0 before the first.
    pub(crate) current: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Oldest generation whose block map is still known.
    pub(crate) oldest_map: u64,
    /// Its file was there before the catalog was: what it holds is older than anything recorded.
    pub(crate) adopted: bool,
    /// The current generation says that it was deleted.
    pub(crate) deleted: bool,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct ImageFields {
    #[n(0)]
    id: u32,
    #[n(1)]
    current: u64,
    #[n(2)]
    checkpoint: Option<Checkpoint>,
    #[n(3)]
    oldest_map: u64,
    #[n(4)]
    adopted: Option<bool>,
    #[n(5)]
    deleted: Option<bool>,
}

impl ImageRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&ImageFields {
            id: self.id,
            current: self.current,
            checkpoint: self.checkpoint,
            oldest_map: self.oldest_map,
            adopted: self.adopted.then_some(true),
            deleted: self.deleted.then_some(true),
        })
    }

    pub(crate) fn decode(name: &ImageName, bytes: &[u8]) -> Result<Self> {
        let fields: ImageFields = decode("an image record", bytes)?;
        Ok(Self {
            name: name.clone(),
            id: fields.id,
            current: fields.current,
            checkpoint: fields.checkpoint,
            oldest_map: fields.oldest_map,
            adopted: fields.adopted.unwrap_or(false),
            deleted: fields.deleted.unwrap_or(false),
        })
    }
}

/// A commit that has begun: the staging is sealed and about to take the image's place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Prepared {
    #[n(0)]
    pub(crate) name: String,
    #[n(1)]
    pub(crate) staging: String,
    /// Inode of the staging: wherever it is after a crash, that file is the new content.
    #[n(2)]
    pub(crate) inode: u64,
    /// The generation's record, made current when the commit is finished.
    #[n(3)]
    pub(crate) generation: ByteVec,
    /// Spool with block maps and chunk lists of what changed.
    #[n(4)]
    pub(crate) spool: String,
    /// Inode of the file it replaces, if any.
    #[n(5)]
    pub(crate) replaces: Option<u64>,
    /// The replaced file becomes the image's spare.
    #[n(6)]
    pub(crate) keep_spare: bool,
    /// What the staging was when it was sealed: whoever writes to it after the rename shows.
    #[n(7)]
    pub(crate) sealed: Option<Checkpoint>,
    /// BLAKE3 of the spool's file.
    #[n(8)]
    pub(crate) spool_sum: Option<ByteArray<32>>,
    /// The staging is a journal, with this BLAKE3, of changes to the image's own file.
    #[n(9)]
    pub(crate) journal: Option<ByteArray<32>>,
    /// What is replaced goes into quarantine.
    #[n(10)]
    pub(crate) keep_replaced: Option<bool>,
    /// It is committed together with others.
    #[n(11)]
    pub(crate) set: Option<SetPart>,
}

/// The part of one image in the commit of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SetPart {
    /// Number of the set's first image: the same in all its parts.
    #[n(0)]
    pub(crate) token: u32,
    /// Its place in the order of the commit, from 0.
    #[n(1)]
    pub(crate) place: u32,
    /// How many there are.
    #[n(2)]
    pub(crate) count: u32,
}

/// A staging that has its base's content and may be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Staged {
    #[n(0)]
    pub(crate) path: String,
    #[n(1)]
    pub(crate) root: ByteArray<32>,
    #[n(2)]
    pub(crate) base: Option<ByteArray<32>>,
    #[n(3)]
    pub(crate) inode: u64,
}

/// An earlier content of the image, kept so that the next staging needn't be a whole copy.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Spare {
    /// Generation it holds.
    #[n(0)]
    pub(crate) number: u64,
    #[n(1)]
    pub(crate) root: ByteArray<32>,
    #[n(2)]
    pub(crate) checkpoint: Checkpoint,
}

/// A clone of the content recorded last.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Held {
    #[n(0)]
    pub(crate) root: ByteArray<32>,
    #[n(1)]
    pub(crate) checkpoint: Checkpoint,
    /// The clone that was held before, of another content.
    #[n(2)]
    pub(crate) before: Option<HeldBefore>,
}

/// A clone of the content recorded before the last.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct HeldBefore {
    #[n(0)]
    pub(crate) root: ByteArray<32>,
    #[n(1)]
    pub(crate) checkpoint: Checkpoint,
}

macro_rules! cbor_record {
    ($($name:ident: $what:literal),*) => {
        $(impl $name {
            pub(crate) fn encode(&self) -> Vec<u8> {
                encode(self)
            }

            pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
                decode($what, bytes)
            }
        })*
    };
}

cbor_record!(
    Prepared: "a prepared commit",
    Staged: "a staging record",
    Spare: "a spare record",
    Held: "a held base's record"
);

/// Where the index says a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) image: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

/// Bytes of one former place of a chunk: id, offset.
const PLACE_RECORD_BYTES: usize = 16;

/// Former places of chunks: for each its id (u64) and its offset in the image (u64).
pub(crate) fn encode_places(places: &[(ChunkId, u64)]) -> Vec<u8> {
    places.iter().flat_map(|(id, at)| [id.0.to_le_bytes(), at.to_le_bytes()]).flatten().collect()
}

/// Parses former places.
pub(crate) fn decode_places(record: &[u8]) -> Result<impl Iterator<Item = (ChunkId, u64)>> {
    let (rows, rest) = record.as_chunks::<PLACE_RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(Error::Corrupt { what: "a list of places", detail: "odd length".to_owned() });
    }
    Ok(rows.iter().map(|row| {
        let (id, at) = row.split_first_chunk::<8>().expect("8 of 16 bytes");
        let at = at.try_into().expect("the other 8");
        (ChunkId(u64::from_le_bytes(*id)), u64::from_le_bytes(at))
    }))
}

/// Bytes of one chunk in a list: offset in the segment, length, id.
const CHUNK_RECORD_BYTES: usize = 16;

/// Chunk list of a segment: for each chunk its offset in the segment (u32), length (u32), id (u64).
pub(crate) fn encode_chunks(segment: u32, chunks: &[Chunk]) -> Vec<u8> {
    let start = u64::from(segment) * SEGMENT_BYTES;
    let mut out = Vec::with_capacity(chunks.len() * CHUNK_RECORD_BYTES);
    for chunk in chunks {
        out.extend_from_slice(&((chunk.offset - start) as u32).to_le_bytes());
        out.extend_from_slice(&chunk.bytes.to_le_bytes());
        out.extend_from_slice(&chunk.id.0.to_le_bytes());
    }
    out
}

/// Parses a chunk list.
pub(crate) fn decode_chunks(segment: u32, record: &[u8]) -> Result<Vec<Chunk>> {
    let (rows, rest) = record.as_chunks::<CHUNK_RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(Error::Corrupt { what: "a chunk list", detail: "odd length".to_owned() });
    }
    let start = u64::from(segment) * SEGMENT_BYTES;
    let word = |row: &[u8; 16], at: usize| {
        u32::from_le_bytes(row[at..at + 4].try_into().expect("4 of 16 bytes"))
    };
    let chunk = |row: &[u8; 16]| Chunk {
        offset: start + u64::from(word(row, 0)),
        bytes: word(row, 4),
        id: ChunkId(u64::from(word(row, 8)) | u64::from(word(row, 12)) << 32),
    };
    Ok(rows.iter().map(chunk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation() -> Generation {
        let node = NodeId::from_bytes([4; 32]);
        Generation {
            image: ImageName::new("a.raw").expect("valid"),
            number: 3,
            root: Root::from_bytes([9; 32]),
            size_bytes: 12345,
            data_bytes: 4096,
            meta: Meta {
                mode: 0o640,
                uid: 1,
                gid: 2,
                mtime_ns: -5 * NS + 7,
                xattrs: vec![(b"user.a".to_vec(), vec![0, 1])],
            },
            lineage: Lineage::from_entries([(node, 3)]).expect("valid"),
            author: node,
            recorded_unix_ms: -1,
            discover: Discover::Received,
            bytes_read: 1,
            dirty_bytes: 2,
            wire_bytes: 3,
            millis: 4,
            allocated_zero: vec![PageExtent { first: 5, count: 6 }],
        }
    }

    #[test]
    fn records_survive() {
        let made = generation();
        assert_eq!(Generation::decode(&made.image, &made.encode()).expect("decodes"), made);
        let chunks = [
            Chunk { offset: SEGMENT_BYTES + 5, bytes: 7, id: ChunkId(u64::MAX - 1) },
            Chunk { offset: 2 * SEGMENT_BYTES - 1, bytes: 70_000, id: ChunkId(2) },
        ];
        assert_eq!(decode_chunks(1, &encode_chunks(1, &chunks)).expect("decodes"), chunks);
        let places = [(ChunkId(u64::MAX - 1), 5), (ChunkId(2), u64::MAX)];
        assert!(decode_places(&encode_places(&places)).expect("decodes").eq(places));
    }

    #[test]
    fn damaged_records_are_errors() {
        let bytes = generation().encode();
        let name = generation().image;
        let survived = (0..bytes.len()).filter(|n| Generation::decode(&name, &bytes[..*n]).is_ok());
        assert_eq!(survived.count(), 0);
        assert!(decode_chunks(0, &[0; 17]).is_err());
        assert!(decode_places(&[0; 17]).is_err());
    }
}
