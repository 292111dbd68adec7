//! Ledger: the node's own database, `state_dir/node.redb`.
//!
//! Tables: `tickets.v1` (SHA-256 of a secret -> what it grants and who used it), `events.v1` (number
//! -> event as a numbered CBOR map), `statements.v1` (what nodes have signed), `stores.v1` (name -> id of a store that was in service here),
//! `counted.v1` (name of a store -> writer id and how many generations were counted for it),
//! `overrides.v1` (number -> order of an operator as a numbered CBOR map), what `remembered.rs` keeps, all bounded. Using a ticket is one durable
//! transaction, so that it is used once even across a crash. Blocking; call it from the pool.

mod remembered;
mod statements;
mod together;

use std::path::{Path, PathBuf};

use blockferry_delta::{ImageName, NodeId, StoreId, StoreName};
use minicbor::{Decode, Encode};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use crate::api::{Event, Severity, remedy_for};
use crate::budget::{EVENTS_KEPT, LEDGER_CACHE_BYTES, TICKETS_KEPT};
use crate::error::{Error, Result};
use crate::membership::ticket::{self, Issued, SecretHash};
use crate::rate::overrides::{Order, Override, Scope};
use together::Together;

pub(crate) use remembered::{RateRow, Remembered};

const TICKETS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tickets.v1");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events.v1");

const STORES: TableDefinition<'_, &str, &[u8; 16]> = TableDefinition::new("stores.v1");
const COUNTED: TableDefinition<'_, &str, (&[u8; 32], u64)> = TableDefinition::new("counted.v1");
const OVERRIDES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("overrides.v1");

/// The node's database.
pub struct Ledger {
    database: Database,
    path: PathBuf,
    together: Together,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct TicketRecord {
    #[n(0)]
    store: String,
    #[n(1)]
    role: u8,
    #[n(2)]
    expires_unix_ms: i64,
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    used_by: Option<[u8; 32]>,
    #[n(4)]
    issued_unix_ms: i64,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct EventRecord {
    #[n(0)]
    unix_ms: i64,
    #[n(1)]
    code: String,
    #[n(2)]
    severity: u8,
    #[n(3)]
    message: String,
    #[n(4)]
    store: Option<String>,
    #[n(5)]
    image: Option<String>,
    #[n(6)]
    peer: Option<String>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct OverrideRecord {
    #[n(0)]
    order: u8,
    #[n(1)]
    bits_per_second: Option<u64>,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    peer: Option<[u8; 32]>,
    #[n(3)]
    store: Option<String>,
    #[n(4)]
    image: Option<String>,
    #[n(5)]
    since_unix_ms: i64,
    #[n(6)]
    until_unix_ms: Option<i64>,
}

/// An event before it has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When, in milliseconds since 1970.
    pub unix_ms: i64,
    /// Stable code.
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in words.
    pub message: String,
    /// Which store, if one.
    pub store: Option<String>,
    /// Which image, if one.
    pub image: Option<String>,
    /// Which peer, if one.
    pub peer: Option<String>,
}

impl Ledger {
    /// Opens or makes the database; refuses if another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Database::builder()
            .set_cache_size(usize::try_from(LEDGER_CACHE_BYTES).unwrap_or(1 << 20))
            .create(path);
        let database = match opened {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::StateLocked { path: path.to_owned() });
            }
            Err(error) => return Err(state(path, &error)),
        };
        let ledger = Self { database, path: path.to_owned(), together: Together::default() };
        // Tables exist from the start, so that reading needs no special case.
        ledger.write(|transaction| {
            transaction.open_table(TICKETS)?;
            transaction.open_table(EVENTS)?;
            transaction.open_table(STORES)?;
            transaction.open_table(OVERRIDES)?;
            transaction.open_table(statements::STATEMENTS)?;
            transaction.open_table(COUNTED)?;
            transaction.open_table(remembered::CAME)?;
            transaction.open_table(remembered::RATES)?;
            transaction.open_table(remembered::LACKED)?;
            Ok(())
        })?;
        Ok(ledger)
    }

    /// Remembers a new ticket; forgets the ones that are long over when there are too many.
    pub fn issue(&self, secret: SecretHash, issued: &Issued, now_unix_ms: i64) -> Result<()> {
        let record = minicbor::to_vec(record_of(issued)).expect("memory takes every byte");
        self.write(|transaction| {
            let mut table = transaction.open_table(TICKETS)?;
            table.retain(|_, value| {
                let old: Result<TicketRecord, _> = minicbor::decode(value);
                old.is_ok_and(|t| now_unix_ms.saturating_sub(t.expires_unix_ms) < 86_400_000)
            })?;
            let count = table.iter()?.count();
            if count >= TICKETS_KEPT {
                return Err(redb::Error::Io(std::io::Error::other("too many tickets are out")));
            }
            table.insert(secret.as_slice(), record.as_slice())?;
            Ok(())
        })
    }

    /// Uses a ticket for `joiner`, once and durably; or says why not. A joiner that was revoked needs
    /// a ticket issued since.
    pub fn redeem(
        &self,
        secret: SecretHash,
        store: &StoreName,
        joiner: NodeId,
        revoked_at_unix_ms: Option<i64>,
        now_unix_ms: i64,
    ) -> Result<Issued> {
        let mut outcome = Err(Error::TokenUnknown);
        self.write(|transaction| {
            let mut table = transaction.open_table(TICKETS)?;
            let issued = table.get(secret.as_slice())?.and_then(|v| issued_of(v.value()));
            outcome = ticket::check(issued.as_ref(), store, joiner, now_unix_ms);
            let issued_at = issued.as_ref().map_or(i64::MIN, |i| i.issued_unix_ms);
            if outcome.is_ok() && revoked_at_unix_ms.is_some_and(|at| issued_at <= at) {
                outcome = Err(Error::PeerRevoked { id: joiner.short() });
            }
            if let (Ok(()), Some(mut issued)) = (&outcome, issued) {
                issued.used_by = Some(joiner);
                let record = minicbor::to_vec(record_of(&issued)).expect("memory");
                table.insert(secret.as_slice(), record.as_slice())?;
                return Ok(Some(issued));
            }
            Ok(None)
        })?
        .map_or_else(|| Err(outcome.err().unwrap_or(Error::TokenUnknown)), Ok)
    }

    /// Until when some ticket is good and when the newest good one was issued, in milliseconds since
    /// 1970; 0: none is out.
    pub fn tickets_out(&self, now_unix_ms: i64) -> Result<(i64, i64)> {
        self.read(|transaction| {
            let table = transaction.open_table(TICKETS)?;
            let (mut until, mut newest) = (0, 0);
            for row in table.iter()? {
                let (_, value) = row?;
                if let Some(issued) = issued_of(value.value())
                    && issued.expires_unix_ms > now_unix_ms
                {
                    // A used one counts too: its joiner may have to ask again.
                    until = until.max(issued.expires_unix_ms);
                    newest = newest.max(issued.issued_unix_ms);
                }
            }
            Ok((until, newest))
        })
    }

    /// The id of a store that was in service here under `name`: its directory must hold it again,
    /// and is not made anew when it doesn't.
    pub fn known_store(&self, name: &StoreName) -> Result<Option<StoreId>> {
        self.read(|transaction| {
            let table = transaction.open_table(STORES)?;
            Ok(table.get(name.as_str())?.map(|id| StoreId::from_bytes(*id.value())))
        })
    }

    /// For whom generations of a store were counted last, and how many.
    pub fn counted(&self, name: &StoreName) -> Result<Option<(NodeId, u64)>> {
        self.read(|transaction| {
            let table = transaction.open_table(COUNTED)?;
            let row = table.get(name.as_str())?;
            Ok(row.map(|row| (NodeId::from_bytes(*row.value().0), row.value().1)))
        })
    }

    /// Keeps exactly these orders.
    pub fn keep_overrides(&self, list: &[Override]) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(OVERRIDES)?;
            table.retain(|_, _| false)?;
            for order in list {
                let bytes = minicbor::to_vec(override_record(order)).expect("memory");
                table.insert(order.number, bytes.as_slice())?;
            }
            Ok(())
        })
    }

    /// The orders that were kept, oldest first. One that can't be read is an error: it may have been
    /// a pause.
    pub fn overrides(&self) -> Result<Vec<Override>> {
        let list = self.read(|transaction| {
            let table = transaction.open_table(OVERRIDES)?;
            let mut list = Vec::new();
            for row in table.iter()? {
                let (number, value) = row?;
                list.push(override_of(number.value(), value.value()));
            }
            Ok(list)
        })?;
        let all: Option<Vec<Override>> = list.into_iter().collect();
        all.ok_or_else(|| state(&self.path, &redb::Error::Corrupted("an order".to_owned())))
    }

    /// Appends events in one transaction and drops the oldest beyond the limit. Gives them their
    /// numbers.
    pub fn append(&self, happenings: &[Happening]) -> Result<Vec<Event>> {
        self.write(|transaction| {
            let mut table = transaction.open_table(EVENTS)?;
            let last = table.last()?.map_or(0, |(number, _)| number.value());
            let mut events = Vec::with_capacity(happenings.len());
            for (number, happening) in (last + 1..).zip(happenings) {
                let record = event_record(happening);
                let bytes = minicbor::to_vec(&record).expect("memory takes every byte");
                table.insert(number, bytes.as_slice())?;
                events.push(event_of(number, record));
            }
            let newest = events.last().map_or(last, |e| e.number);
            let oldest = table.first()?.map_or(0, |(number, _)| number.value());
            for number in oldest..newest.saturating_sub(EVENTS_KEPT).saturating_add(1) {
                table.remove(number)?;
            }
            Ok(events)
        })
    }

    /// Numbers of the oldest and the newest event that are kept; 0: there is none.
    pub fn events_kept(&self) -> Result<(u64, u64)> {
        self.read(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            let first = table.first()?.map_or(0, |(number, _)| number.value());
            Ok((first, table.last()?.map_or(0, |(number, _)| number.value())))
        })
    }

    /// Kept events from `since_unix_ms` on, oldest first.
    pub fn events(&self, since_unix_ms: i64) -> Result<Vec<Event>> {
        self.events_after(0, since_unix_ms)
    }

    /// The same, of those with a higher number than `after`.
    pub fn events_after(&self, after: u64, since_unix_ms: i64) -> Result<Vec<Event>> {
        self.read(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            let mut events = Vec::new();
            for row in table.range(after.saturating_add(1)..)? {
                let (number, value) = row?;
                let record: Result<EventRecord, _> = minicbor::decode(value.value());
                if let Ok(record) = record
                    && record.unix_ms >= since_unix_ms
                {
                    events.push(event_of(number.value(), record));
                }
            }
            Ok(events)
        })
    }

    fn write<T>(&self, f: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T> {
        let run = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_quick_repair(true);
            let value = f(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|e: redb::Error| state(&self.path, &e))
    }

    fn read<T>(
        &self,
        f: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let run = || f(&self.database.begin_read()?);
        run().map_err(|e: redb::Error| state(&self.path, &e))
    }
}

fn state(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::State { path: path.to_owned(), what: error.to_string() }
}

fn record_of(issued: &Issued) -> TicketRecord {
    TicketRecord {
        store: issued.store.as_str().to_owned(),
        role: ticket::role_number(issued.role),
        expires_unix_ms: issued.expires_unix_ms,
        used_by: issued.used_by.map(|id| *id.as_bytes()),
        issued_unix_ms: issued.issued_unix_ms,
    }
}

/// What can't be read grants nothing.
fn issued_of(bytes: &[u8]) -> Option<Issued> {
    let record: TicketRecord = minicbor::decode(bytes).ok()?;
    Some(Issued {
        store: StoreName::new(&record.store).ok()?,
        role: ticket::role_of_number(record.role)?,
        issued_unix_ms: record.issued_unix_ms,
        expires_unix_ms: record.expires_unix_ms,
        used_by: record.used_by.map(NodeId::from_bytes),
    })
}

fn override_record(order: &Override) -> OverrideRecord {
    let (kind, bits) = match order.order {
        Order::Pause => (0, None),
        Order::Resume => (1, None),
        Order::Boost => (2, None),
        Order::Limit(bits) => (3, Some(bits)),
    };
    OverrideRecord {
        order: kind,
        bits_per_second: bits,
        peer: order.scope.peer.map(|id| *id.as_bytes()),
        store: order.scope.store.as_ref().map(ToString::to_string),
        image: order.scope.image.as_ref().map(ToString::to_string),
        since_unix_ms: order.since_unix_ms,
        until_unix_ms: order.until_unix_ms,
    }
}

fn override_of(number: u64, bytes: &[u8]) -> Option<Override> {
    let record: OverrideRecord = minicbor::decode(bytes).ok()?;
    let order = match record.order {
        0 => Order::Pause,
        1 => Order::Resume,
        2 => Order::Boost,
        3 => Order::Limit(record.bits_per_second?),
        _ => return None,
    };
    let scope = Scope {
        peer: record.peer.map(NodeId::from_bytes),
        store: record.store.map(|name| StoreName::new(&name)).transpose().ok()?,
        image: record.image.map(|name| ImageName::new(&name)).transpose().ok()?,
    };
    let (since_unix_ms, until_unix_ms) = (record.since_unix_ms, record.until_unix_ms);
    Some(Override { number, order, scope, since_unix_ms, until_unix_ms })
}

fn event_record(happening: &Happening) -> EventRecord {
    EventRecord {
        unix_ms: happening.unix_ms,
        code: happening.code.to_owned(),
        severity: match happening.severity {
            Severity::Info => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        },
        message: happening.message.clone(),
        store: happening.store.clone(),
        image: happening.image.clone(),
        peer: happening.peer.clone(),
    }
}

fn event_of(number: u64, record: EventRecord) -> Event {
    // Not kept but looked up: a later version may know better.
    let remedy = (record.severity > 0).then(|| remedy_for(&record.code).to_owned());
    Event {
        remedy,
        number,
        time: rfc3339(record.unix_ms),
        code: record.code,
        severity: match record.severity {
            0 => Severity::Info,
            1 => Severity::Warning,
            _ => Severity::Error,
        },
        message: record.message,
        store: record.store,
        image: record.image,
        peer: record.peer,
    }
}

/// A moment as RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(unix_ms: i64) -> String {
    let moment = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Role;

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().expect("temp dir");
        let ledger = Ledger::open(&dir.path().join("node.redb")).expect("opened");
        (dir, ledger)
    }

    fn happening(unix_ms: i64) -> Happening {
        Happening {
            unix_ms,
            code: "COMMITTED",
            severity: Severity::Info,
            message: "x".into(),
            store: Some("s".into()),
            image: None,
            peer: None,
        }
    }

    #[test]
    fn a_ticket_is_used_once_even_across_a_restart() {
        let (dir, ledger) = ledger();
        let store = StoreName::new("vdisks").expect("a name");
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let issued = Issued {
            store: store.clone(),
            role: Role::Mirror,
            issued_unix_ms: 7,
            expires_unix_ms: 1000,
            used_by: None,
        };
        ledger.issue([7; 32], &issued, 0).expect("issued");
        assert_eq!(ledger.tickets_out(0).expect("read"), (1000, 7));
        assert_eq!(ledger.tickets_out(1000).expect("read"), (0, 0));
        let code = |l: &Ledger, secret, id, now| {
            l.redeem(secret, &store, id, None, now).map(|i| i.role).map_err(|e| e.code())
        };
        assert_eq!(code(&ledger, [8; 32], a, 0), Err("TOKEN_UNKNOWN"));
        assert_eq!(code(&ledger, [7; 32], a, 1000), Err("TOKEN_EXPIRED"));
        let revoked = ledger.redeem([7; 32], &store, a, Some(7), 0).expect_err("an old ticket");
        assert_eq!(revoked.code(), "PEER_REVOKED");
        assert_eq!(code(&ledger, [7; 32], a, 0), Ok(Role::Mirror));
        drop(ledger);
        let ledger = Ledger::open(&dir.path().join("node.redb")).expect("opened again");
        assert_eq!(code(&ledger, [7; 32], b, 0), Err("TOKEN_USED"));
        assert_eq!(code(&ledger, [7; 32], a, 0), Ok(Role::Mirror), "its answer got lost");
    }

    #[test]
    fn events_are_numbered_and_bounded() {
        let (_dir, ledger) = ledger();
        for batch in 0..3_i64 {
            let rows: Vec<_> = (0..4000).map(|i| happening(batch * 4000 + i)).collect();
            let events = ledger.append(&rows).expect("appended");
            assert_eq!(events[0].number, u64::try_from(batch * 4000 + 1).expect("small"));
        }
        let kept = ledger.events(0).expect("read");
        assert_eq!(u64::try_from(kept.len()).expect("small"), EVENTS_KEPT);
        assert_eq!(kept.last().map(|e| e.number), Some(12_000));
        assert_eq!(kept[0].time, "1970-01-01T00:00:02.000Z");
        assert_eq!(ledger.events(11_999).expect("read").len(), 1);
    }

    #[test]
    fn an_event_that_is_not_as_it_should_be_says_what_to_do() {
        let (_dir, ledger) = ledger();
        let missed =
            Happening { code: "WINDOW_MISSED", severity: Severity::Warning, ..happening(2) };
        ledger.append(&[happening(1), missed]).expect("appended");
        let events = ledger.events(0).expect("read");
        assert_eq!(events[0].remedy, None);
        assert_eq!(events[1].remedy.as_deref(), Some(remedy_for("WINDOW_MISSED")));
    }

    #[test]
    fn a_store_in_service_is_remembered() {
        let (_dir, ledger) = ledger();
        let (name, id) = (StoreName::new("a").expect("a name"), StoreId::from_bytes([3; 16]));
        assert_eq!(ledger.known_store(&name).expect("read"), None);
        ledger.note_store(&name, Some(id)).expect("written");
        assert_eq!(ledger.known_store(&name).expect("read"), Some(id));
        ledger.note_store(&name, None).expect("written");
        assert_eq!(ledger.known_store(&name).expect("read"), None);
    }

    #[test]
    fn what_was_counted_is_remembered() {
        let (_dir, ledger) = ledger();
        let (name, writer) = (StoreName::new("a").expect("a name"), NodeId::from_bytes([5; 32]));
        assert_eq!(ledger.counted(&name).expect("read"), None);
        ledger.note_counted(&name, writer, 3).expect("written");
        ledger.note_counted(&name, writer, 4).expect("written");
        assert_eq!(ledger.counted(&name).expect("read"), Some((writer, 4)));
    }

    #[test]
    fn orders_survive_a_restart() {
        let (dir, ledger) = ledger();
        let image = Some(ImageName::new("a.img").expect("a name"));
        let store = Some(StoreName::new("a").expect("a name"));
        let scopes = [
            Scope::default(),
            Scope::peer(NodeId::from_bytes([1; 32])),
            Scope { peer: None, store, image },
        ];
        let orders = [Order::Pause, Order::Resume, Order::Boost, Order::Limit(u64::MAX)];
        let list: Vec<Override> = (1..)
            .zip(orders.into_iter().flat_map(|o| scopes.clone().map(|s| (o, s))))
            .map(|(number, (order, scope))| {
                let until = (number % 2 == 0).then_some(i64::MAX);
                Override { number, order, scope, since_unix_ms: -1, until_unix_ms: until }
            })
            .collect();
        ledger.keep_overrides(&list).expect("kept");
        drop(ledger);
        let ledger = Ledger::open(&dir.path().join("node.redb")).expect("opened again");
        assert_eq!(ledger.overrides().expect("read"), list);
        ledger.keep_overrides(&list[..1]).expect("kept");
        assert_eq!(ledger.overrides().expect("read"), list[..1]);
    }

    #[test]
    fn two_processes_can_not_share_it() {
        let (dir, _ledger) = ledger();
        let error = Ledger::open(&dir.path().join("node.redb")).err().expect("locked");
        assert_eq!(error.code(), "STATE_LOCKED");
    }

    #[test]
    fn a_damaged_file_is_refused_not_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.redb");
        std::fs::write(&path, vec![0x5a; 100_000]).expect("written");
        assert_eq!(Ledger::open(&path).err().expect("damaged").code(), "STATE_UNREADABLE");
        assert_eq!(std::fs::read(&path).expect("there")[..4], [0x5a; 4]);
    }
}
