//! Messages of the pairing stream: a node that is not yet a member redeems a ticket.

use std::fmt;

use blockferry_delta::{StoreId, StoreKey, StoreName};

use super::Body;
use super::control::code_and_text;
use super::fields::read_store_name;
use super::text::{check_node_name, check_word, read_node_name};
use crate::cbor::{Reader, Writer};
use crate::error::{Error, Result};
use crate::limits as max;

/// What a member may do in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Its changes travel.
    Writer,
    /// Local changes are set aside and undone.
    Mirror,
}

impl Role {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Role::Writer => 1,
            Role::Mirror => 2,
        }
    }

    /// The role a number stands for.
    pub const fn from_number(number: u8) -> Option<Role> {
        match number {
            1 => Some(Role::Writer),
            2 => Some(Role::Mirror),
            _ => None,
        }
    }
}

/// A ticket is redeemed.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// The ticket's one-time secret.
    pub secret: [u8; 16],
    /// The joiner's name.
    pub node_name: String,
    /// The store the ticket is for.
    pub store: StoreName,
    /// Where the joiner listens: `host:port`.
    pub addresses: Vec<String>,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("node_name", &self.node_name)
            .field("store", &self.store)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Body for Join {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut secret, mut name, mut store, mut addresses) = (None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(key) = reader.key(&mut keys)? {
            match key {
                0 => secret = Some(reader.fixed()?),
                1 => name = Some(read_node_name(reader)?),
                2 => store = Some(read_store_name(reader)?),
                3 => {
                    let items = reader.array(max::ADDRESSES_MAX, "too many addresses")?;
                    let list = (0..items).map(|_| read_address(reader)).collect::<Result<_>>()?;
                    addresses = Some(list);
                }
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            secret: reader.need(secret, "secret missing")?,
            node_name: reader.need(name, "node_name missing")?,
            store: reader.need(store, "store missing")?,
            addresses: reader.need(addresses, "addresses missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        check_node_name(&self.node_name)?;
        if self.addresses.len() > max::ADDRESSES_MAX {
            return Err(Error::ApiMisuse("too many addresses"));
        }
        writer.map(4).uint(0u8).bytes(&self.secret).uint(1u8).text(&self.node_name);
        writer.uint(2u8).text(self.store.as_str()).uint(3u8).array(self.addresses.len());
        for address in &self.addresses {
            check_word(address, max::ADDRESS_BYTES_MAX, "the address")?;
            writer.text(address);
        }
        Ok(())
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<String> {
    let address = reader.text(max::TEXT_BYTES_MAX)?;
    check_word(address, max::ADDRESS_BYTES_MAX, "the address")?;
    Ok(address.to_owned())
}

/// Welcome: everything a member needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAccepted {
    /// The store's name.
    pub store_name: StoreName,
    /// The store.
    pub store: StoreId,
    /// Its secret.
    pub key: StoreKey,
    /// The joiner's role.
    pub role: Role,
    /// The inviter's name.
    pub node_name: String,
}

impl Body for JoinAccepted {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (mut store_name, mut store, mut key, mut role, mut name) =
            (None, None, None, None, None);
        let mut keys = reader.map()?;
        while let Some(field) = reader.key(&mut keys)? {
            match field {
                0 => store_name = Some(read_store_name(reader)?),
                1 => store = Some(StoreId::from_bytes(reader.fixed()?)),
                2 => key = Some(StoreKey::from_bytes(reader.fixed()?)),
                3 => {
                    let known = Role::from_number(reader.u8()?);
                    role = Some(reader.need(known, "unknown role")?);
                }
                4 => name = Some(read_node_name(reader)?),
                _ => reader.skip()?,
            }
        }
        Ok(Self {
            store_name: reader.need(store_name, "store name missing")?,
            store: reader.need(store, "store missing")?,
            key: reader.need(key, "key missing")?,
            role: reader.need(role, "role missing")?,
            node_name: reader.need(name, "node_name missing")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        check_node_name(&self.node_name)?;
        writer.map(5).uint(0u8).text(self.store_name.as_str());
        writer.uint(1u8).bytes(self.store.as_bytes()).uint(2u8).bytes(self.key.as_bytes());
        writer.uint(3u8).uint(self.role.number()).uint(4u8).text(&self.node_name);
        Ok(())
    }
}

code_and_text!(
    /// Not with this ticket.
    JoinRefused
);
