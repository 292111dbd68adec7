//! Messages of a transfer, in the order of its dialogue.

use blockferry_delta::{
    ChunkParams, IMAGE_BYTES_MAX, ImageName, Lineage, Meta, NodeId, PAGE_BYTES, PageExtent, Root,
    StoreId, page_count,
};

use super::Body;
use super::control::code_and_text;
use super::fields as field;
use super::set::{self, SetMember};
use super::text::Text;
use super::walk::WalkStart;
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Result, manifest};
use crate::limits as max;
use crate::refusal::Refusal;

/// How urgent a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Before everything else.
    Urgent,
    /// As it comes.
    #[default]
    Normal,
    /// When nothing else wants the link.
    Bulk,
}

impl Lane {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Lane::Urgent => 0,
            Lane::Normal => 1,
            Lane::Bulk => 2,
        }
    }

    /// The lane a number stands for.
    pub const fn from_number(number: u8) -> Option<Lane> {
        match number {
            0 => Some(Lane::Urgent),
            1 => Some(Lane::Normal),
            2 => Some(Lane::Bulk),
            _ => None,
        }
    }
}

/// A generation is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The store.
    pub store: StoreId,
    /// The image.
    pub image: ImageName,
    /// The generation's number.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// Its size in bytes; 0: the image was deleted, which only a peer with [`FEATURE_DELETIONS`] is
    /// told.
    pub size_bytes: u64,
    /// What is carried beside the bytes.
    pub meta: Meta,
    /// What it descends from.
    pub lineage: Lineage,
    /// The node that recorded it.
    pub author: NodeId,
    /// When it was recorded, milliseconds since 1970: for people, decides nothing.
    pub recorded_unix_ms: i64,
    /// Roots a recipe can start from, newest first.
    pub bases: Vec<Root>,
    /// How its chunks were cut.
    pub chunk_params: ChunkParams,
    /// How urgent it is.
    pub lane: Lane,
    /// Bytes that differ from the first base: a hint.
    pub dirty_bytes: Option<u64>,
    /// Bytes of its pages that aren't zero: what a receiver without a base has to find room for.
    pub data_bytes: u64,
    /// Runs of zero pages that have storage in the source.
    pub allocated_zero: Vec<PageExtent>,
    /// First bytes of the roots of generations that it descends from and that are no bases, newest
    /// first. `None`: the sender can't compare with a content that is none of the bases.
    pub older: Option<Vec<[u8; max::OLDER_ROOT_BYTES]>>,
    /// The images that are to become current together with it, itself among them, in the order in
    /// which they need each other; none: it belongs to no set.
    pub set: Vec<SetMember>,
}

/// Feature bit of a hello: deletions are understood.
pub const FEATURE_DELETIONS: u64 = 1 << 1;

impl Offer {
    /// Does it say that the image was deleted?
    pub fn is_deletion(&self) -> bool {
        self.size_bytes == 0
    }

    /// Is `root` a content that the sender says it knows: a base or an older generation?
    pub fn knows(&self, root: &Root) -> bool {
        let older = self.older.iter().flatten();
        self.bases.contains(root)
            || older.into_iter().any(|short| root.as_bytes().starts_with(short))
    }

    /// The rules an offer keeps, read or to be written.
    pub(crate) fn check(&self) -> Result<()> {
        field::check_number(self.number)?;
        field::check_content(self.size_bytes, &self.root)?;
        if self.is_deletion() && !self.bases.is_empty() {
            return Err(manifest("a deletion with bases"));
        }
        field::check_meta(&self.meta)?;
        field::check_chunk_params(&self.chunk_params)?;
        if self.bases.len() > max::BASES_MAX {
            return Err(manifest("too many bases"));
        }
        let twice = |(i, root): (usize, &Root)| self.bases[..i].contains(root);
        if self.bases.iter().enumerate().any(twice) {
            return Err(manifest("a base is named twice"));
        }
        let pages = page_count(self.size_bytes);
        if self.data_bytes > pages * PAGE_BYTES as u64 {
            return Err(manifest("more data than the image is long"));
        }
        if self.allocated_zero.len() > max::ALLOCATED_ZERO_MAX
            || self.allocated_zero.last().is_some_and(|e| e.end().is_none_or(|end| end > pages))
        {
            return Err(manifest("allocated zeros beyond the end"));
        }
        if self.older.as_ref().is_some_and(|older| older.len() > max::OLDER_MAX) {
            return Err(manifest("too many older generations"));
        }
        set::check(&self.set, &self.image, &self.root)
    }
}

#[derive(Default)]
struct OfferFields {
    store: Option<StoreId>,
    image: Option<ImageName>,
    number: Option<u64>,
    root: Option<Root>,
    size_bytes: Option<u64>,
    meta: Option<Meta>,
    lineage: Option<Lineage>,
    author: Option<NodeId>,
    recorded_unix_ms: Option<i64>,
    bases: Option<Vec<Root>>,
    chunk_params: Option<ChunkParams>,
    lane: Option<Lane>,
    dirty_bytes: Option<u64>,
    data_bytes: Option<u64>,
    allocated_zero: Vec<PageExtent>,
    older: Option<Vec<[u8; max::OLDER_ROOT_BYTES]>>,
    set: Vec<SetMember>,
}

impl OfferFields {
    fn read_field(&mut self, key: u64, reader: &mut Reader<'_>) -> Result<()> {
        match key {
            0 => self.store = Some(StoreId::from_bytes(reader.fixed()?)),
            1 => self.image = Some(field::read_image(reader)?),
            2 => self.number = Some(reader.u64()?),
            3 => self.root = Some(field::read_root(reader)?),
            4 => self.size_bytes = Some(reader.u64()?),
            5 => self.meta = Some(field::read_meta(reader)?),
            6 => self.lineage = Some(field::read_lineage(reader)?),
            7 => self.author = Some(NodeId::from_bytes(reader.fixed()?)),
            8 => self.recorded_unix_ms = Some(reader.i64()?),
            9 => {
                let items = reader.array(max::BASES_MAX, "too many bases")?;
                let list = (0..items).map(|_| field::read_root(reader)).collect::<Result<_>>()?;
                self.bases = Some(list);
            }
            10 => self.chunk_params = Some(field::read_chunk_params(reader)?),
            11 => {
                let known = Lane::from_number(reader.u8()?);
                self.lane = Some(reader.need(known, "unknown lane")?);
            }
            12 => self.dirty_bytes = Some(reader.u64()?),
            13 => self.data_bytes = Some(reader.u64()?),
            14 => {
                let (extents, pages) = (max::ALLOCATED_ZERO_MAX, page_count(IMAGE_BYTES_MAX));
                self.allocated_zero = field::read_extents(reader, extents, pages)?;
            }
            15 => {
                let rule = "too many older generations";
                let bytes = reader.bytes(max::OLDER_MAX * max::OLDER_ROOT_BYTES, rule)?;
                let (roots, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err(reader.bad("a root cut short"));
                }
                self.older = Some(roots.to_vec());
            }
            20 => self.set = set::read(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    }
}

impl Body for Offer {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut fields = OfferFields::default();
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            fields.read_field(key, reader)?;
        }
        let offer = Self {
            store: reader.need(fields.store, "store missing")?,
            image: reader.need(fields.image, "image missing")?,
            number: reader.need(fields.number, "number missing")?,
            root: reader.need(fields.root, "root missing")?,
            size_bytes: reader.need(fields.size_bytes, "size missing")?,
            meta: reader.need(fields.meta, "meta missing")?,
            lineage: reader.need(fields.lineage, "lineage missing")?,
            author: reader.need(fields.author, "author missing")?,
            recorded_unix_ms: reader.need(fields.recorded_unix_ms, "recorded missing")?,
            bases: reader.need(fields.bases, "bases missing")?,
            chunk_params: reader.need(fields.chunk_params, "chunk parameters missing")?,
            lane: reader.need(fields.lane, "lane missing")?,
            dirty_bytes: fields.dirty_bytes,
            data_bytes: reader.need(fields.data_bytes, "data bytes missing")?,
            allocated_zero: fields.allocated_zero,
            older: fields.older,
            set: fields.set,
        };
        offer.check()?;
        Ok(offer)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        self.check()?;
        let zeros = !self.allocated_zero.is_empty();
        let (older, in_set) = (self.older.is_some(), !self.set.is_empty());
        let optional = [self.dirty_bytes.is_some(), zeros, older, in_set];
        writer.map(13 + optional.iter().filter(|there| **there).count());
        writer.uint(0u8).bytes(self.store.as_bytes()).uint(1u8).text(self.image.as_str());
        writer.uint(2u8).uint(self.number).uint(3u8).bytes(self.root.as_bytes());
        writer.uint(4u8).uint(self.size_bytes).uint(5u8);
        field::write_meta(&self.meta, writer)?;
        writer.uint(6u8);
        field::write_lineage(&self.lineage, writer);
        writer.uint(7u8).bytes(self.author.as_bytes()).uint(8u8).int(self.recorded_unix_ms);
        writer.uint(9u8).array(self.bases.len());
        for base in &self.bases {
            writer.bytes(base.as_bytes());
        }
        writer.uint(10u8);
        field::write_chunk_params(&self.chunk_params, writer);
        writer.uint(11u8).uint(self.lane.number());
        if let Some(dirty_bytes) = self.dirty_bytes {
            writer.uint(12u8).uint(dirty_bytes);
        }
        writer.uint(13u8).uint(self.data_bytes);
        if zeros {
            writer.uint(14u8);
            let pages = page_count(IMAGE_BYTES_MAX);
            field::write_extents(&self.allocated_zero, pages, writer)?;
        }
        if let Some(older) = &self.older {
            writer.uint(15u8).bytes(older.as_flattened());
        }
        if in_set {
            writer.uint(20u8);
            set::write(&self.set, writer);
        }
        Ok(())
    }
}

/// Send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The base the receiver starts from: one of the offer's, the offer's own root, or none.
    pub base: Option<Root>,
    /// It can read pages of that base: packs may have dictionaries.
    pub dictionaries: bool,
    /// Without a base: the receiver starts from this content, with which the sender compares.
    pub walk: Option<WalkStart>,
}

impl Body for Accept {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut base, mut dictionaries, mut walk) = (None, false, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => base = Some(field::read_root(reader)?),
                1 => walk = Some(WalkStart::read(reader)?),
                2 => dictionaries = reader.bool()?,
                _ => reader.skip()?,
            }
        }
        if base.is_some() && walk.is_some() {
            return Err(reader.bad("a walk with a base"));
        }
        Ok(Self { base, dictionaries, walk })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        if self.base.is_some() && self.walk.is_some() {
            return Err(Error::ApiMisuse("a walk with a base"));
        }
        let keys = [self.base.is_some(), self.walk.is_some(), self.dictionaries];
        writer.map(keys.into_iter().filter(|there| *there).count());
        if let Some(base) = &self.base {
            writer.uint(0u8).bytes(base.as_bytes());
        }
        if let Some(walk) = &self.walk {
            writer.uint(1u8);
            walk.write(writer)?;
        }
        if self.dictionaries {
            writer.uint(2u8).bool(true);
        }
        Ok(())
    }
}

/// Don't send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why.
    pub code: Refusal,
    /// For people.
    pub text: Text,
    /// With `DISK_FULL`: bytes the whole plan needs.
    pub bytes_needed: Option<u64>,
    /// With `DISK_FULL`: bytes that are free.
    pub bytes_free: Option<u64>,
}

impl Refuse {
    /// Without figures.
    pub fn new(code: Refusal, text: &str) -> Self {
        Self { code, text: Text::new(text), bytes_needed: None, bytes_free: None }
    }

    /// `DISK_FULL` with its figures.
    pub fn disk_full(text: &str, bytes_needed: u64, bytes_free: u64) -> Self {
        Self {
            bytes_needed: Some(bytes_needed),
            bytes_free: Some(bytes_free),
            ..Self::new(Refusal::DiskFull, text)
        }
    }
}

impl Body for Refuse {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut code, mut text, mut bytes_needed, mut bytes_free) = (None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => code = Some(Refusal::from_number(reader.u16()?)),
                1 => text = Some(Text::read(reader)?),
                2 => bytes_needed = Some(reader.u64()?),
                3 => bytes_free = Some(reader.u64()?),
                _ => reader.skip()?,
            }
        }
        let code = reader.need(code, "code missing")?;
        Ok(Self { code, text: reader.need(text, "text missing")?, bytes_needed, bytes_free })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        let figures = [(2u8, self.bytes_needed), (3u8, self.bytes_free)];
        let given = figures.iter().filter(|(_, bytes)| bytes.is_some()).count();
        writer.map(2 + given).uint(0u8).uint(self.code.number());
        writer.uint(1u8).text(self.text.as_str());
        for (key, bytes) in figures {
            if let Some(bytes) = bytes {
                writer.uint(key).uint(bytes);
            }
        }
        Ok(())
    }
}

/// That was the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsEnd {
    /// How many parts there were.
    pub parts: u32,
    /// How many blocks they listed.
    pub blocks: u64,
}

impl Body for PartsEnd {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut parts, mut blocks) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => parts = Some(reader.u32()?),
                1 => blocks = Some(reader.u64()?),
                _ => reader.skip()?,
            }
        }
        let parts = reader.need(parts, "parts missing")?;
        Ok(Self { parts, blocks: reader.need(blocks, "blocks missing")? })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.map(2).uint(0u8).uint(self.parts).uint(1u8).uint(self.blocks);
        Ok(())
    }
}

/// These pages, please.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The part whose blocks they belong to.
    pub part: u32,
    /// A block made of what the receiver believed to have failed its hash.
    pub again: bool,
    /// Which pages; none says that nothing need travel.
    pub extents: Vec<PageExtent>,
}

impl Body for Want {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut part, mut again, mut extents) = (None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => part = Some(reader.u32()?),
                1 => again = Some(reader.bool()?),
                2 => {
                    extents = Some(field::read_extents(
                        reader,
                        max::WANT_EXTENTS_MAX,
                        max::PART_PAGES_MAX as u64,
                    )?)
                }
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            part: reader.need(part, "part missing")?,
            again: reader.need(again, "again missing")?,
            extents: reader.need(extents, "extents missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.map(3).uint(0u8).uint(self.part).uint(1u8).bool(self.again).uint(2u8);
        field::write_extents(&self.extents, max::PART_PAGES_MAX as u64, writer)
    }
}

/// A part is complete and verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Which.
    pub part: u32,
}

impl Body for Filled {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut part = None;
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => part = Some(reader.u32()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self { part: reader.need(part, "part missing")? })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.map(1).uint(0u8).uint(self.part);
        Ok(())
    }
}

/// The generation is durable at `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who signs.
    pub node: NodeId,
    /// The store.
    pub store: StoreId,
    /// The image.
    pub image: ImageName,
    /// The generation's number.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// Ed25519 over [`signed_bytes`](Self::signed_bytes) by the node's key.
    pub signature: [u8; 64],
}

impl Receipt {
    /// What is signed: a domain, then every field in one possible form.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let name = self.image.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(b"blockferry receipt v1\0");
        bytes.extend_from_slice(self.node.as_bytes());
        bytes.extend_from_slice(self.store.as_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.push(u8::try_from(name.len()).expect("image names are at most 128 bytes"));
        bytes.extend_from_slice(name);
        bytes
    }

    /// Whether it is for what `offer` offers.
    pub(crate) fn answers(&self, offer: &Offer) -> bool {
        self.store == offer.store
            && self.image == offer.image
            && self.number == offer.number
            && self.root == offer.root
    }
}

impl Body for Receipt {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut node, mut store, mut image, mut number, mut root, mut signature) =
            (None, None, None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => node = Some(NodeId::from_bytes(reader.fixed()?)),
                1 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                2 => image = Some(field::read_image(reader)?),
                3 => number = Some(field::check_number(reader.u64()?)?),
                4 => root = Some(field::read_root(reader)?),
                5 => signature = Some(reader.fixed()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            node: reader.need(node, "node missing")?,
            store: reader.need(store, "store missing")?,
            image: reader.need(image, "image missing")?,
            number: reader.need(number, "number missing")?,
            root: reader.need(root, "root missing")?,
            signature: reader.need(signature, "signature missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        field::check_number(self.number)?;
        writer.map(6).uint(0u8).bytes(self.node.as_bytes());
        writer.uint(1u8).bytes(self.store.as_bytes()).uint(2u8).text(self.image.as_str());
        writer.uint(3u8).uint(self.number).uint(4u8).bytes(self.root.as_bytes());
        writer.uint(5u8).bytes(&self.signature);
        Ok(())
    }
}

code_and_text!(
    /// It came to nothing at the receiver.
    Failed
);
code_and_text!(
    /// It came to nothing at the sender.
    Abort
);
