//! Statements: what a node signs about itself, and what others carry on to all members of a store.
//!
//! The signed body travels as the bytes that were signed, so that a relay needn't understand every
//! field of it. Decoding checks the form of the known fields; who may say it, and whether the
//! signature is good, the driver judges.

use blockferry_delta::{ImageName, Lineage, NodeId, Root, StoreId};

use super::Body;
use super::fields::{check_number, read_image, read_lineage, read_root, write_lineage};
use super::text::{Text, check_node_name, read_node_name};
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Result};
use crate::frame::Kind;
use crate::limits as max;

/// Feature bit of a hello: statements are understood and wanted.
pub const FEATURE_STATEMENTS: u64 = 1 << 8;

/// What a signature of a statement begins with, so that it fits nothing else.
const DOMAIN: &[u8] = b"blockferry statement v1\0";

/// Where a peer is to go on in what it knows of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The store.
    pub store: StoreId,
    /// The list of who says this; another number means that its places are new.
    pub own_log: u64,
    /// The list of who is asked, as it was known last; 0: none.
    pub known_log: u64,
    /// The last place in that list that has come.
    pub known_place: u64,
}

impl Body for Resume {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut store, mut own, mut known, mut place) = (None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                1 => own = Some(reader.u64()?),
                2 => known = Some(reader.u64()?),
                3 => place = Some(reader.u64()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            store: reader.need(store, "store missing")?,
            own_log: reader.need(own, "own log missing")?,
            known_log: reader.need(known, "known log missing")?,
            known_place: reader.need(place, "known place missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.map(4).uint(0u8).bytes(self.store.as_bytes()).uint(1u8).uint(self.own_log);
        writer.uint(2u8).uint(self.known_log).uint(3u8).uint(self.known_place);
        Ok(())
    }
}

/// A statement on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its place in the list of who sends it.
    pub place: u64,
    /// What was signed: an encoded [`Said`].
    pub body: Vec<u8>,
    /// Ed25519 over [`Statement::signed_bytes`] by the key that the body names.
    pub signature: [u8; 64],
}

impl Statement {
    /// What is signed for a body.
    pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
        [DOMAIN, body].concat()
    }

    /// What it says.
    ///
    /// # Errors
    /// `BAD_FRAME` with the offset in the body.
    pub fn said(&self) -> Result<Said> {
        Said::decode(&self.body)
    }
}

impl Body for Statement {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut place, mut body, mut signature) = (None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => place = Some(reader.u64()?),
                1 => {
                    let bytes = reader.bytes(max::STATEMENT_BODY_BYTES_MAX, "body too long")?;
                    body = Some(bytes.to_vec());
                }
                2 => signature = Some(reader.fixed()?),
                _ => reader.skip()?,
            }
        }
        let statement = Self {
            place: reader.need(place, "place missing")?,
            body: reader.need(body, "body missing")?,
            signature: reader.need(signature, "signature missing")?,
        };
        statement.said()?;
        Ok(statement)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        if self.body.len() > max::STATEMENT_BODY_BYTES_MAX {
            return Err(Error::ApiMisuse("statement too long"));
        }
        writer.map(3).uint(0u8).uint(self.place).uint(1u8).bytes(&self.body);
        writer.uint(2u8).bytes(&self.signature);
        Ok(())
    }
}

/// What a node states about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its public key: 32 bytes of Ed25519.
    pub key: [u8; 32],
    /// The store it is about.
    pub store: StoreId,
    /// Of two statements of a node about the same, the higher one counts.
    pub sequence: u64,
    /// When it was said, in milliseconds since 1970; for people.
    pub unix_ms: i64,
    /// What is said.
    pub what: What,
}

/// The kinds of statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Which generation of an image is current at the node.
    Holding(Holding),
    /// Who shares the store with the node.
    Roster(Roster),
    /// Somebody promoted a generation at the node.
    Promotion(Promotion),
    /// Somebody decided a conflict at the node; another member is to carry it out.
    Resolution(Resolution),
    /// A kind of a later version.
    Unknown(u64),
}

/// How sure a node is of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every block was verified before it was written, and everything is on disk.
    Durable,
    /// And it was read back from disk after that.
    ReadBack,
    /// Its file has changed since; nothing newer is recorded yet.
    Changed,
    /// What was read back is not what was written.
    Damaged,
}

/// A receipt for all: the generation of an image that is current at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The image.
    pub image: ImageName,
    /// Number of the generation there.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// What it descends from.
    pub lineage: Lineage,
    /// How sure the node is.
    pub proof: Proof,
    /// Contents that it keeps beside it because they diverged, until somebody decides.
    pub rivals: Vec<Rival>,
}

/// A content of an image that diverged from the one that is current where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Number of the generation at who made it.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// What it descends from.
    pub lineage: Lineage,
    /// Who made it.
    pub author: NodeId,
    /// Length of the image in bytes.
    pub size_bytes: u64,
    /// When it was kept, in milliseconds since 1970; for people.
    pub recorded_unix_ms: i64,
}

/// A member of a store, as another one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Its name there.
    pub name: String,
    /// Its changes travel; else it is a mirror.
    pub writer: bool,
}

/// With whom a node shares a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// What the node calls itself.
    pub node_name: String,
    /// The others, by ascending node id.
    pub members: Vec<Member>,
}

/// A generation that somebody promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The image.
    pub image: ImageName,
    /// Number of the generation at the node.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// What it descends from.
    pub lineage: Lineage,
    /// Who asked for it, for people.
    pub by: Text,
    /// On whose receipts, by ascending node id.
    pub receipts: Vec<NodeId>,
}

/// How a conflict is to end: a request to a member that holds the content that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The image.
    pub image: ImageName,
    /// The content that is to go on.
    pub root: Root,
    /// What was known of where it was decided: a content that isn't covered was not decided about.
    pub lineage: Lineage,
    /// Who asked for it, for people.
    pub by: Text,
    /// The member that is to carry it out; nobody else does.
    pub node: NodeId,
    /// The other contents are to become images of their own.
    pub beside: bool,
}

const HOLDING: u64 = 1;
const ROSTER: u64 = 2;
const PROMOTION: u64 = 3;
const RESOLUTION: u64 = 4;
/// Items of the array of rivals that each of them takes.
const RIVAL_ITEMS: usize = 6;

/// Fields of all kinds as they are read.
#[derive(Default)]
struct Fields {
    image: Option<ImageName>,
    number: Option<u64>,
    root: Option<Root>,
    lineage: Option<Lineage>,
    proof: Option<u64>,
    node_name: Option<String>,
    members: Option<Vec<Member>>,
    by: Option<Text>,
    receipts: Option<Vec<NodeId>>,
    rivals: Vec<Rival>,
    node: Option<NodeId>,
    beside: Option<bool>,
}

impl Said {
    /// Reads a body.
    ///
    /// # Errors
    /// `BAD_FRAME` with the offset in the body.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(Kind::Statement, body);
        let (mut key, mut store, mut sequence, mut unix_ms, mut kind) =
            (None, None, None, None, None);
        let mut fields = Fields::default();
        let mut keys = reader.map()?;
        while let Some(number) = reader.key(&mut keys)? {
            match number {
                0 => key = Some(reader.fixed()?),
                1 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                2 => sequence = Some(reader.u64()?),
                3 => unix_ms = Some(reader.i64()?),
                4 => kind = Some(reader.u64()?),
                // What the fields of a later kind mean isn't known here.
                _ if !matches!(kind, Some(HOLDING | ROSTER | PROMOTION | RESOLUTION)) => {
                    reader.skip()?
                }
                _ => fields.read(number, reader)?,
            }
        }
        reader.end()?;
        let kind = reader.need(kind, "kind missing")?;
        Ok(Self {
            key: reader.need(key, "key missing")?,
            store: reader.need(store, "store missing")?,
            sequence: reader.need(sequence, "sequence missing")?,
            unix_ms: reader.need(unix_ms, "time missing")?,
            what: fields.what(kind, reader)?,
        })
    }

    /// The body to be signed.
    ///
    /// # Errors
    /// `API_MISUSE` when a list or a name is longer than it may be.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(256);
        let writer = &mut Writer::new(&mut out);
        let (kind, entries) = match &self.what {
            What::Holding(holding) => (HOLDING, 10 + usize::from(!holding.rivals.is_empty())),
            What::Roster(_) => (ROSTER, 7),
            What::Promotion(_) => (PROMOTION, 11),
            What::Resolution(_) => (RESOLUTION, 11),
            What::Unknown(_) => return Err(Error::ApiMisuse("a statement of no known kind")),
        };
        writer.map(entries).uint(0u8).bytes(&self.key).uint(1u8).bytes(self.store.as_bytes());
        writer.uint(2u8).uint(self.sequence).uint(3u8).int(self.unix_ms).uint(4u8).uint(kind);
        match &self.what {
            What::Holding(holding) => {
                let Holding { image, number, root, lineage, proof, rivals } = holding;
                write_generation(writer, image, *number, root, lineage)?;
                writer.uint(9u8).uint(proof_number(*proof));
                write_rivals(writer, rivals)?;
            }
            What::Roster(roster) => roster.write(writer)?,
            What::Promotion(promotion) => promotion.write(writer)?,
            What::Resolution(resolution) => resolution.write(writer),
            What::Unknown(_) => {}
        }
        if out.len() > max::STATEMENT_BODY_BYTES_MAX {
            return Err(Error::ApiMisuse("statement too long"));
        }
        Ok(out)
    }
}

fn write_generation(
    writer: &mut Writer<'_>,
    image: &ImageName,
    number: u64,
    root: &Root,
    lineage: &Lineage,
) -> Result<()> {
    check_number(number)?;
    writer.uint(5u8).text(image.as_str()).uint(6u8).uint(number);
    writer.uint(7u8).bytes(root.as_bytes()).uint(8u8);
    write_lineage(lineage, writer);
    Ok(())
}

fn write_rivals(writer: &mut Writer<'_>, rivals: &[Rival]) -> Result<()> {
    if rivals.is_empty() {
        return Ok(());
    }
    if rivals.len() > max::RIVALS_MAX {
        return Err(Error::ApiMisuse("too many rivals"));
    }
    writer.uint(14u8).array(RIVAL_ITEMS * rivals.len());
    for rival in rivals {
        writer.uint(check_number(rival.number)?).bytes(rival.root.as_bytes());
        write_lineage(&rival.lineage, writer);
        writer.bytes(rival.author.as_bytes()).uint(rival.size_bytes).int(rival.recorded_unix_ms);
    }
    Ok(())
}

fn proof_number(proof: Proof) -> u64 {
    match proof {
        Proof::Durable => 0,
        Proof::ReadBack => 1,
        Proof::Changed => 2,
        Proof::Damaged => 3,
    }
}

impl Roster {
    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        check_node_name(&self.node_name)?;
        if self.members.len() > max::ROSTER_MEMBERS_MAX {
            return Err(Error::ApiMisuse("too many members"));
        }
        writer.uint(10u8).text(&self.node_name).uint(11u8).array(3 * self.members.len());
        for member in &self.members {
            check_node_name(&member.name)?;
            writer.bytes(member.node.as_bytes()).text(&member.name).bool(member.writer);
        }
        Ok(())
    }
}

impl Promotion {
    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        if self.receipts.len() > max::ROSTER_MEMBERS_MAX {
            return Err(Error::ApiMisuse("too many receipts"));
        }
        write_generation(writer, &self.image, self.number, &self.root, &self.lineage)?;
        writer.uint(12u8).text(self.by.as_str()).uint(13u8).array(self.receipts.len());
        for node in &self.receipts {
            writer.bytes(node.as_bytes());
        }
        Ok(())
    }
}

impl Resolution {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.uint(5u8).text(self.image.as_str()).uint(7u8).bytes(self.root.as_bytes()).uint(8u8);
        write_lineage(&self.lineage, writer);
        writer.uint(12u8).text(self.by.as_str()).uint(15u8).bytes(self.node.as_bytes());
        writer.uint(16u8).bool(self.beside);
    }
}

impl Fields {
    fn read(&mut self, key: u64, reader: &mut Reader<'_>) -> Result<()> {
        match key {
            5 => self.image = Some(read_image(reader)?),
            6 => self.number = Some(check_number(reader.u64()?)?),
            7 => self.root = Some(read_root(reader)?),
            8 => self.lineage = Some(read_lineage(reader)?),
            9 => self.proof = Some(reader.u64()?),
            10 => self.node_name = Some(read_node_name(reader)?),
            11 => self.members = Some(read_members(reader)?),
            12 => self.by = Some(Text::read(reader)?),
            13 => self.receipts = Some(read_receipts(reader)?),
            14 => self.rivals = read_rivals(reader)?,
            15 => self.node = Some(NodeId::from_bytes(reader.fixed()?)),
            16 => self.beside = Some(reader.bool()?),
            _ => reader.skip()?,
        }
        Ok(())
    }

    fn what(self, kind: u64, reader: &Reader<'_>) -> Result<What> {
        match kind {
            HOLDING => {
                let proof = match reader.need(self.proof, "proof missing")? {
                    0 => Proof::Durable,
                    1 => Proof::ReadBack,
                    3 => Proof::Damaged,
                    // Whatever a later version means by it, it is less than a proof.
                    _ => Proof::Changed,
                };
                Ok(What::Holding(Holding {
                    image: reader.need(self.image, "image missing")?,
                    number: reader.need(self.number, "number missing")?,
                    root: reader.need(self.root, "root missing")?,
                    lineage: reader.need(self.lineage, "lineage missing")?,
                    proof,
                    rivals: self.rivals,
                }))
            }
            ROSTER => Ok(What::Roster(Roster {
                node_name: reader.need(self.node_name, "node name missing")?,
                members: reader.need(self.members, "members missing")?,
            })),
            PROMOTION => Ok(What::Promotion(Promotion {
                image: reader.need(self.image, "image missing")?,
                number: reader.need(self.number, "number missing")?,
                root: reader.need(self.root, "root missing")?,
                lineage: reader.need(self.lineage, "lineage missing")?,
                by: reader.need(self.by, "by missing")?,
                receipts: reader.need(self.receipts, "receipts missing")?,
            })),
            RESOLUTION => Ok(What::Resolution(Resolution {
                image: reader.need(self.image, "image missing")?,
                root: reader.need(self.root, "root missing")?,
                lineage: reader.need(self.lineage, "lineage missing")?,
                by: reader.need(self.by, "by missing")?,
                node: reader.need(self.node, "node missing")?,
                beside: reader.need(self.beside, "beside missing")?,
            })),
            other => Ok(What::Unknown(other)),
        }
    }
}

fn read_rivals(reader: &mut Reader<'_>) -> Result<Vec<Rival>> {
    let items = reader.array(RIVAL_ITEMS * max::RIVALS_MAX, "too many rivals")?;
    if items % RIVAL_ITEMS != 0 {
        return Err(reader.bad("rival that is not whole"));
    }
    let mut rivals = Vec::with_capacity(items / RIVAL_ITEMS);
    for _ in 0..items / RIVAL_ITEMS {
        rivals.push(Rival {
            number: check_number(reader.u64()?)?,
            root: read_root(reader)?,
            lineage: read_lineage(reader)?,
            author: NodeId::from_bytes(reader.fixed()?),
            size_bytes: reader.u64()?,
            recorded_unix_ms: reader.i64()?,
        });
    }
    Ok(rivals)
}

fn read_members(reader: &mut Reader<'_>) -> Result<Vec<Member>> {
    let items = reader.array(3 * max::ROSTER_MEMBERS_MAX, "too many members")?;
    if items % 3 != 0 {
        return Err(reader.bad("member without a name or a role"));
    }
    let mut members: Vec<Member> = Vec::with_capacity(items / 3);
    for _ in 0..items / 3 {
        let node = NodeId::from_bytes(reader.fixed()?);
        if members.last().is_some_and(|last| last.node >= node) {
            return Err(reader.bad("members not ascending"));
        }
        let name = read_node_name(reader)?;
        members.push(Member { node, name, writer: reader.bool()? });
    }
    Ok(members)
}

fn read_receipts(reader: &mut Reader<'_>) -> Result<Vec<NodeId>> {
    let items = reader.array(max::ROSTER_MEMBERS_MAX, "too many receipts")?;
    let mut nodes: Vec<NodeId> = Vec::with_capacity(items);
    for _ in 0..items {
        let node = NodeId::from_bytes(reader.fixed()?);
        if nodes.last().is_some_and(|last| *last >= node) {
            return Err(reader.bad("receipts not ascending"));
        }
        nodes.push(node);
    }
    Ok(nodes)
}
