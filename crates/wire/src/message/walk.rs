//! Messages of the walk: what the receiver holds is asked about and answered, where the sender has
//! no block map of it. `docs/protocol.md` section 4.6; the order is kept by `walk`.

use blockferry_delta::{
    BLOCK_BYTES, IMAGE_BYTES_MAX, NodeRun, Probe, WALK_RUNS_MAX, WalkLevel, WalkSalt,
};

use super::Body;
use super::fields as field;
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Invalid, Result};
use crate::frame::Kind;
use crate::limits as max;

/// Blocks that the largest image has.
const BLOCKS_MAX: u64 = IMAGE_BYTES_MAX / BLOCK_BYTES as u64;

/// The receiver starts from a content of its own that the sender is to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkStart {
    /// Size of that content in bytes.
    pub size_bytes: u64,
    /// What the values of the walk are salted with.
    pub salt: WalkSalt,
}

impl WalkStart {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        if reader.array(2, "walk too long")? != 2 {
            return Err(reader.bad("walk too short"));
        }
        let size_bytes = field::check_size(reader.u64()?)?;
        Ok(Self { size_bytes, salt: WalkSalt(reader.fixed()?) })
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        field::check_size(self.size_bytes)?;
        writer.array(2).uint(self.size_bytes).bytes(&self.salt.0);
        Ok(())
    }
}

impl Body for Probe {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut level, mut nodes) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => level = Some(read_level(reader)?),
                1 => nodes = Some(read_nodes(reader)?),
                _ => reader.skip()?,
            }
        }
        let level = reader.need(level, "level missing")?;
        let probe = Self { level, nodes: reader.need(nodes, "nodes missing")? };
        probe.check(BLOCKS_MAX).map_err(|rule| reader.bad(rule))?;
        Ok(probe)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        self.check(BLOCKS_MAX).map_err(Error::ApiMisuse)?;
        writer.map(2).uint(0u8).uint(self.level.number()).uint(1u8).array(2 * self.nodes.len());
        let mut end = 0;
        for run in &self.nodes {
            writer.uint(run.first - end).uint(run.count);
            end = run.end();
        }
        Ok(())
    }
}

fn read_level(reader: &mut Reader<'_>) -> Result<WalkLevel> {
    let number = usize::from(reader.u8()?);
    reader.need(WalkLevel::ALL.get(number).copied(), "unknown level")
}

fn read_nodes(reader: &mut Reader<'_>) -> Result<Vec<NodeRun>> {
    let items = reader.array(2 * WALK_RUNS_MAX, "too many runs")?;
    if items % 2 != 0 {
        return Err(reader.bad("run without a count"));
    }
    let (mut nodes, mut end) = (Vec::with_capacity(items / 2), 0u64);
    for _ in 0..items / 2 {
        // Block numbers are below 2^32, which is what bounds the frame.
        let (gap, count) = (reader.u32()?, reader.u32()?);
        let run = NodeRun { first: end + u64::from(gap), count: count.into() };
        end = run.end();
        nodes.push(run);
    }
    Ok(nodes)
}

/// What the receiver holds under the next nodes of a probe.
#[derive(Clone, PartialEq, Eq)]
pub struct Values {
    /// Level of the probe.
    pub level: WalkLevel,
    /// As many bytes for each node as the level has.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values")
            .field("level", &self.level)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl Values {
    /// Whether there are whole nodes, and no more of them than one piece has.
    fn fits(&self) -> bool {
        let each = self.level.answer_bytes();
        let nodes_max = self.level.piece_nodes_max() as usize;
        !self.bytes.is_empty()
            && self.bytes.len().is_multiple_of(each)
            && self.bytes.len() / each <= nodes_max
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        if !self.fits() {
            return Err(Error::ApiMisuse("values of no whole piece"));
        }
        out.extend_from_slice(&[self.level.number(), 0, 0, 0]);
        out.extend_from_slice(&self.bytes);
        Ok(())
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self> {
        let bad = |rule, offset| {
            Error::from(Invalid::BadFrame { kind: Kind::Values.number(), rule, offset })
        };
        let Some([level, reserved @ ..]) = payload.first_chunk::<{ max::VALUES_HEADER_BYTES }>()
        else {
            return Err(bad("cut short", 0));
        };
        let level = WalkLevel::ALL.get(usize::from(*level));
        let level = *level.ok_or_else(|| bad("unknown level", 0))?;
        if *reserved != [0; 3] {
            return Err(bad("reserved bytes are not zero", 1));
        }
        let values = Self { level, bytes: payload[max::VALUES_HEADER_BYTES..].to_vec() };
        if values.fits() { Ok(values) } else { Err(bad("values of no whole piece", 4)) }
    }
}
