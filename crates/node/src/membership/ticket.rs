//! Tickets: one line that lets one node join one store once.
//!
//! The line names the inviter's addresses and id, so that the joiner proves the hub as well as the
//! other way round, and carries a 128-bit secret. The hub keeps only the secret's SHA-256. Wrong
//! tries are counted per address by [`Tries`]; whether a ticket is good is decided by [`check`].
//! Text: `bf1` + base64url of a numbered CBOR map + 4 bytes of its BLAKE3.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use blockferry_delta::{NodeId, StoreName};
use data_encoding::BASE64URL_NOPAD;
use minicbor::{Decode, Encode};

use crate::api::Role;
use crate::budget::{ADDRESSES_MAX, TICKET_TRIERS_MAX, TICKET_TRIES_PER_MINUTE};
use crate::error::{Error, Result};

/// How every ticket begins.
const PREFIX: &str = "bf1";
/// Longest line that is looked at, in bytes.
const TICKET_BYTES_MAX: usize = 4096;
/// Longest address in a ticket, in bytes.
const ADDRESS_BYTES_MAX: usize = 260;
const CHECKSUM_BYTES: usize = 4;

/// What the hub remembers instead of the secret.
pub type SecretHash = [u8; 32];

/// A ticket, as the joiner reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The inviter's id: the joiner talks to nobody else.
    pub hub: NodeId,
    /// Where the inviter can be dialled (`host:port`).
    pub addresses: Vec<String>,
    /// The one-time secret.
    pub secret: [u8; 16],
    /// The store it admits to.
    pub store: StoreName,
    /// The role it grants.
    pub role: Role,
    /// Good until then, in seconds since 1970.
    pub expires_unix_s: u64,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket(hub {}, store {})", self.hub.short(), self.store)
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Body {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    hub: [u8; 32],
    #[n(1)]
    addresses: Vec<String>,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    secret: [u8; 16],
    #[n(3)]
    store: String,
    #[n(4)]
    role: u8,
    #[n(5)]
    expires_unix_s: u64,
}

impl Ticket {
    /// A ticket with a fresh secret.
    pub fn new(
        hub: NodeId,
        addresses: Vec<String>,
        store: StoreName,
        role: Role,
        expires_unix_s: u64,
    ) -> Result<Self> {
        let mut secret = [0; 16];
        rand::fill(&mut secret).map_err(|_| Error::Crypto { what: "random bytes" })?;
        Ok(Self { hub, addresses, secret, store, role, expires_unix_s })
    }

    /// The line.
    pub fn encode(&self) -> String {
        let body = Body {
            hub: *self.hub.as_bytes(),
            addresses: self.addresses.clone(),
            secret: self.secret,
            store: self.store.as_str().to_owned(),
            role: role_number(self.role),
            expires_unix_s: self.expires_unix_s,
        };
        let mut bytes = minicbor::to_vec(&body).expect("memory takes every byte");
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a line; a slip of the keyboard is told apart from a refusal.
    pub fn decode(line: &str) -> Result<Self> {
        let invalid = |what| Error::TicketInvalid { what };
        let line = line.trim();
        if line.len() > TICKET_BYTES_MAX {
            return Err(invalid("too long"));
        }
        let text = line.strip_prefix(PREFIX).ok_or(invalid("it does not begin with bf1"))?;
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| invalid("a character that no ticket has, or it is cut"))?;
        let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(invalid("too short"))?;
        let (body, sum) = bytes.split_at(split);
        if checksum(body) != sum {
            return Err(invalid("mistyped or cut"));
        }
        let mut decoder = minicbor::Decoder::new(body);
        let body: Body = decoder.decode().map_err(|_| invalid("made by another version"))?;
        let long = |address: &String| address.len() > ADDRESS_BYTES_MAX;
        if body.addresses.len() > ADDRESSES_MAX || body.addresses.iter().any(long) {
            return Err(invalid("too many or too long addresses"));
        }
        Ok(Self {
            hub: NodeId::from_bytes(body.hub),
            addresses: body.addresses,
            secret: body.secret,
            store: StoreName::new(&body.store).map_err(|_| invalid("a bad store name"))?,
            role: role_of_number(body.role).ok_or(invalid("an unknown role"))?,
            expires_unix_s: body.expires_unix_s,
        })
    }

    /// What the hub remembers.
    pub fn secret_hash(&self) -> SecretHash {
        hash_secret(&self.secret)
    }
}

/// SHA-256 of a ticket's secret.
pub fn hash_secret(secret: &[u8]) -> SecretHash {
    let hash = digest::digest(&digest::SHA256, secret);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

pub(crate) fn role_number(role: Role) -> u8 {
    match role {
        Role::Writer => 1,
        Role::Mirror => 2,
    }
}

pub(crate) fn role_of_number(number: u8) -> Option<Role> {
    match number {
        1 => Some(Role::Writer),
        2 => Some(Role::Mirror),
        _ => None,
    }
}

/// What the hub knows of a ticket it issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The store it admits to.
    pub store: StoreName,
    /// The role it grants.
    pub role: Role,
    /// When it was issued, in milliseconds since 1970.
    pub issued_unix_ms: i64,
    /// Good until then, in milliseconds since 1970.
    pub expires_unix_ms: i64,
    /// Who used it.
    pub used_by: Option<NodeId>,
}

/// Whether an issued ticket admits `joiner` to `store` now. The same joiner may ask again with the
/// same ticket: its answer may have been lost on the way.
pub fn check(
    issued: Option<&Issued>,
    store: &StoreName,
    joiner: NodeId,
    now_unix_ms: i64,
) -> Result<()> {
    let issued = issued.ok_or(Error::TokenUnknown)?;
    match issued.used_by {
        Some(user) if user != joiner => Err(Error::TokenUsed),
        _ if now_unix_ms >= issued.expires_unix_ms => Err(Error::TokenExpired),
        _ if issued.store != *store => Err(Error::TokenScope),
        _ => Ok(()),
    }
}

/// Wrong tries per address within the last minute.
#[derive(Debug, Default)]
pub struct Tries {
    wrong: BTreeMap<IpAddr, (u32, Instant)>,
}

impl Tries {
    /// Whether `from` may try now.
    pub fn allowed(&mut self, from: IpAddr, now: Instant) -> Result<()> {
        self.forget(now);
        match self.wrong.get(&from) {
            Some((count, _)) if *count >= TICKET_TRIES_PER_MINUTE => {
                Err(Error::RateLimited { from: from.to_string() })
            }
            // Too many addresses to remember is an attack: nobody new is let in for a minute.
            None if self.wrong.len() >= TICKET_TRIERS_MAX => {
                Err(Error::RateLimited { from: from.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Counts a wrong try.
    pub fn note_wrong(&mut self, from: IpAddr, now: Instant) {
        let entry = self.wrong.entry(from).or_insert((0, now));
        entry.0 = entry.0.saturating_add(1);
    }

    fn forget(&mut self, now: Instant) {
        let minute = Duration::from_secs(60);
        self.wrong.retain(|_, (_, first)| now.saturating_duration_since(*first) < minute);
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let store = StoreName::new("vdisks").expect("a name");
        let addresses = vec!["hub.example.net:7700".to_owned(), "[::1]:7700".to_owned()];
        Ticket::new(NodeId::from_bytes([9; 32]), addresses, store, Role::Mirror, 1_800_000_000)
            .expect("random bytes")
    }

    #[test]
    fn a_ticket_survives_being_printed() {
        let ticket = ticket();
        let line = ticket.encode();
        assert!(line.starts_with("bf1") && line.is_ascii() && !line.contains(char::is_whitespace));
        assert!(line.len() < 240, "{} is one line", line.len());
        assert_eq!(Ticket::decode(&format!(" {line}\n")).expect("read"), ticket);
        assert!(!format!("{ticket:?}").contains(&format!("{:?}", ticket.secret)));
    }

    #[test]
    fn every_slip_is_noticed() {
        let line = ticket().encode();
        for cut in 0..line.len() {
            assert_eq!(Ticket::decode(&line[..cut]).expect_err("cut").code(), "TICKET_INVALID");
        }
        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(bytes).expect("ASCII");
            assert!(Ticket::decode(&wrong).is_err(), "{at}");
        }
        assert!(Ticket::decode(&"bf1A".repeat(10_000)).is_err());
    }

    #[test]
    fn only_the_right_use_is_admitted() {
        let (store, other) =
            (StoreName::new("vdisks").expect("name"), StoreName::new("other").expect("name"));
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let issued = |used_by| Issued {
            store: store.clone(),
            role: Role::Writer,
            issued_unix_ms: 0,
            expires_unix_ms: 1000,
            used_by,
        };
        let code = |issued: Option<&Issued>, store, joiner, now| {
            check(issued, store, joiner, now).err().map(|e| e.code())
        };
        assert_eq!(code(Some(&issued(None)), &store, a, 999), None);
        assert_eq!(code(None, &store, a, 999), Some("TOKEN_UNKNOWN"));
        assert_eq!(code(Some(&issued(None)), &store, a, 1000), Some("TOKEN_EXPIRED"));
        assert_eq!(code(Some(&issued(None)), &other, a, 999), Some("TOKEN_SCOPE"));
        assert_eq!(code(Some(&issued(Some(a))), &store, b, 999), Some("TOKEN_USED"));
        assert_eq!(code(Some(&issued(Some(a))), &store, b, 2000), Some("TOKEN_USED"));
        assert_eq!(code(Some(&issued(Some(a))), &store, a, 999), None, "its answer got lost");
    }

    #[test]
    fn five_wrong_tries_a_minute() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        let from = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..5 {
            tries.allowed(from, now).expect("allowed");
            tries.note_wrong(from, now);
        }
        assert_eq!(tries.allowed(from, now).expect_err("limited").code(), "RATE_LIMITED");
        tries.allowed(IpAddr::from([192, 0, 2, 2]), now).expect("others are not held up");
        tries.allowed(from, now + Duration::from_secs(61)).expect("a minute later");
    }
}
