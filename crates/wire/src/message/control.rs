//! Messages of the control stream: who is there and what each holds.

use blockferry_delta::{ImageName, Lineage, Root, StoreId, StoreName};

use super::Body;
use super::fields::{read_entry, read_store_name, write_entry};
use super::text::{Text, check_node_name, check_word, read_node_name};
use crate::cbor::{Reader, Writer};
use crate::error::{Error, PeerIncompatible, Result};
use crate::limits as max;
use crate::refusal::Refusal;

/// Lowest protocol version this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest protocol version this crate speaks.
pub const VERSION_MAX: u16 = 1;

/// The dialer's first word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub version_min: u16,
    /// Highest protocol version it speaks.
    pub version_max: u16,
    /// Feature bits; unknown ones mean nothing.
    pub features: u64,
    /// Its name, for people.
    pub node_name: String,
    /// Program and version.
    pub agent: String,
    /// A number that this start of the service has for itself.
    pub instance: Option<u64>,
    /// Its clock as it says this, in milliseconds since 1970. For people; nothing is decided by it.
    pub clock_unix_ms: Option<u64>,
}

impl Hello {
    /// The hello of this version of the crate.
    pub fn new(node_name: &str, agent: &str) -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: 0,
            node_name: node_name.to_owned(),
            agent: agent.to_owned(),
            instance: None,
            clock_unix_ms: None,
        }
    }

    /// The highest version that we and `theirs` know.
    ///
    /// # Errors
    /// `VERSION_UNSUPPORTED` with both ranges.
    pub fn negotiate(&self, theirs: &Hello) -> Result<u16> {
        let version = self.version_max.min(theirs.version_max);
        let in_order = theirs.version_min <= theirs.version_max;
        if in_order && version >= self.version_min.max(theirs.version_min) {
            return Ok(version);
        }
        Err(self.unsupported(theirs.version_min, theirs.version_max))
    }

    /// Takes the version that the other side chose of those that we offered.
    ///
    /// # Errors
    /// `VERSION_UNSUPPORTED`: it is none of them.
    pub(crate) fn take_choice(&self, version: u16) -> Result<u16> {
        if (self.version_min..=self.version_max).contains(&version) {
            return Ok(version);
        }
        Err(self.unsupported(version, version))
    }

    fn unsupported(&self, theirs_min: u16, theirs_max: u16) -> Error {
        let (ours_min, ours_max) = (self.version_min, self.version_max);
        PeerIncompatible::VersionUnsupported { ours_min, ours_max, theirs_min, theirs_max }.into()
    }
}

impl Body for Hello {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut low, mut high, mut features, mut name, mut agent) = (None, None, None, None, None);
        let (mut instance, mut clock_unix_ms) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => low = Some(reader.u16()?),
                1 => high = Some(reader.u16()?),
                2 => features = Some(reader.u64()?),
                3 => name = Some(read_node_name(reader)?),
                4 => agent = Some(read_agent(reader)?),
                5 => instance = Some(reader.u64()?),
                6 => clock_unix_ms = Some(reader.u64()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            version_min: reader.need(low, "version_min missing")?,
            version_max: reader.need(high, "version_max missing")?,
            features: reader.need(features, "features missing")?,
            node_name: reader.need(name, "node_name missing")?,
            agent: reader.need(agent, "agent missing")?,
            instance,
            clock_unix_ms,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        check_node_name(&self.node_name)?;
        check_word(&self.agent, max::AGENT_BYTES_MAX, "the agent")?;
        let optional = [self.instance, self.clock_unix_ms];
        writer.map(5 + optional.iter().flatten().count());
        writer.uint(0u8).uint(self.version_min).uint(1u8).uint(self.version_max);
        writer.uint(2u8).uint(self.features).uint(3u8).text(&self.node_name);
        writer.uint(4u8).text(&self.agent);
        if let Some(instance) = self.instance {
            writer.uint(5u8).uint(instance);
        }
        if let Some(clock) = self.clock_unix_ms {
            writer.uint(6u8).uint(clock);
        }
        Ok(())
    }
}

/// The listener's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The version both will speak.
    pub version: u16,
    /// Feature bits; unknown ones mean nothing.
    pub features: u64,
    /// Its name, for people.
    pub node_name: String,
    /// Program and version.
    pub agent: String,
    /// A number that this start of the service has for itself.
    pub instance: Option<u64>,
    /// Its clock as it says this, in milliseconds since 1970. For people; nothing is decided by it.
    pub clock_unix_ms: Option<u64>,
}

impl Body for HelloAck {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut version, mut features, mut name, mut agent) = (None, None, None, None);
        let (mut instance, mut clock_unix_ms) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => version = Some(reader.u16()?),
                1 => features = Some(reader.u64()?),
                2 => name = Some(read_node_name(reader)?),
                3 => agent = Some(read_agent(reader)?),
                4 => instance = Some(reader.u64()?),
                5 => clock_unix_ms = Some(reader.u64()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            version: reader.need(version, "version missing")?,
            features: reader.need(features, "features missing")?,
            node_name: reader.need(name, "node_name missing")?,
            agent: reader.need(agent, "agent missing")?,
            instance,
            clock_unix_ms,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        check_node_name(&self.node_name)?;
        check_word(&self.agent, max::AGENT_BYTES_MAX, "the agent")?;
        let optional = [self.instance, self.clock_unix_ms];
        writer.map(4 + optional.iter().flatten().count());
        writer.uint(0u8).uint(self.version).uint(1u8).uint(self.features);
        writer.uint(2u8).text(&self.node_name).uint(3u8).text(&self.agent);
        if let Some(instance) = self.instance {
            writer.uint(4u8).uint(instance);
        }
        if let Some(clock) = self.clock_unix_ms {
            writer.uint(5u8).uint(clock);
        }
        Ok(())
    }
}

fn read_agent(reader: &mut Reader<'_>) -> Result<String> {
    let agent = reader.text(max::TEXT_BYTES_MAX)?;
    check_word(agent, max::AGENT_BYTES_MAX, "the agent")?;
    Ok(agent.to_owned())
}

/// The current generation of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryEntry {
    /// The image.
    pub image: ImageName,
    /// Number of its current generation.
    pub number: u64,
    /// Its content.
    pub root: Root,
    /// What it descends from.
    pub lineage: Lineage,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Current generations of a store, all of them or a piece of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The store.
    pub store: StoreId,
    /// Its name.
    pub store_name: StoreName,
    /// At most [`INVENTORY_ENTRIES_MAX`](max::INVENTORY_ENTRIES_MAX) entries.
    pub entries: Vec<InventoryEntry>,
    /// No further inventory of this store follows.
    pub last: bool,
}

impl Inventory {
    /// Cuts a list of any length into messages that fit their frames; the last one says so.
    pub fn split(
        store: StoreId,
        store_name: &StoreName,
        entries: impl IntoIterator<Item = InventoryEntry>,
    ) -> Vec<Inventory> {
        let empty = || Inventory {
            store,
            store_name: store_name.clone(),
            entries: Vec::new(),
            last: false,
        };
        let (mut done, mut current, mut bytes) = (Vec::new(), empty(), 0);
        for entry in entries {
            let more = entry_bytes(&entry);
            let room = max::CONTROL_BYTES_MAX - max::INVENTORY_BASE_BYTES_MAX;
            if bytes + more > room || current.entries.len() == max::INVENTORY_ENTRIES_MAX {
                done.push(std::mem::replace(&mut current, empty()));
                bytes = 0;
            }
            bytes += more;
            current.entries.push(entry);
        }
        current.last = true;
        done.push(current);
        done
    }
}

/// Encoded bytes of an entry at most.
fn entry_bytes(entry: &InventoryEntry) -> usize {
    let unused = max::LINEAGE_ENTRIES_MAX.saturating_sub(entry.lineage.entries().count());
    let shorter = max::IMAGE_NAME_BYTES_MAX.saturating_sub(entry.image.as_str().len());
    max::ENTRY_BYTES_MAX - unused * (2 + 32 + 9) - shorter
}

impl Body for Inventory {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut store, mut name, mut entries, mut last) = (None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                1 => name = Some(read_store_name(reader)?),
                2 => {
                    let items = reader.array(max::INVENTORY_ENTRIES_MAX, "too many entries")?;
                    let list =
                        (0..items).map(|_| read_entry(reader)).collect::<Result<Vec<_>>>()?;
                    entries = Some(list);
                }
                3 => last = Some(reader.bool()?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            store: reader.need(store, "store missing")?,
            store_name: reader.need(name, "store name missing")?,
            entries: reader.need(entries, "entries missing")?,
            last: reader.need(last, "last missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        if self.entries.len() > max::INVENTORY_ENTRIES_MAX {
            return Err(Error::ApiMisuse("too many entries: use Inventory::split"));
        }
        writer.map(4).uint(0u8).bytes(self.store.as_bytes());
        writer.uint(1u8).text(self.store_name.as_str()).uint(2u8).array(self.entries.len());
        for entry in &self.entries {
            write_entry(entry, writer)?;
        }
        writer.uint(3u8).bool(self.last);
        Ok(())
    }
}

/// A new current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The store.
    pub store: StoreId,
    /// The image and its generation.
    pub entry: InventoryEntry,
}

impl Body for Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut store, mut entry) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                1 => entry = Some(read_entry(reader)?),
                _ => reader.skip()?,
            }
        }
        let store = reader.need(store, "store missing")?;
        Ok(Self { store, entry: reader.need(entry, "entry missing")? })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.map(2).uint(0u8).bytes(self.store.as_bytes()).uint(1u8);
        write_entry(&self.entry, writer)
    }
}

macro_rules! code_and_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// Why.
            pub code: $crate::refusal::Refusal,
            /// For people.
            pub text: $crate::message::Text,
        }

        impl $name {
            /// With a text of any length.
            pub fn new(code: $crate::refusal::Refusal, text: &str) -> Self {
                Self { code, text: $crate::message::Text::new(text) }
            }
        }

        impl $crate::message::Body for $name {
            fn read(reader: &mut $crate::cbor::Reader<'_>) -> $crate::error::Result<Self> {
                let (code, text) = $crate::message::control::read_code_and_text(reader)?;
                Ok(Self { code, text })
            }

            fn write(&self, writer: &mut $crate::cbor::Writer<'_>) -> $crate::error::Result<()> {
                writer.map(2).uint(0u8).uint(self.code.number());
                writer.uint(1u8).text(self.text.as_str());
                Ok(())
            }
        }
    };
}
pub(super) use code_and_text;

pub(super) fn read_code_and_text(reader: &mut Reader<'_>) -> Result<(Refusal, Text)> {
    let (mut code, mut text) = (None, None);
    let mut keys = reader.map()?;
    while let Some(key) = reader.key(&mut keys)? {
        match key {
            0 => code = Some(Refusal::from_number(reader.u16()?)),
            1 => text = Some(Text::read(reader)?),
            _ => reader.skip()?,
        }
    }
    Ok((reader.need(code, "code missing")?, reader.need(text, "text missing")?))
}

code_and_text!(
    /// The end of a connection, with the reason.
    Goodbye
);
