//! Remembered: what people are shown of the past and nothing is decided by. How the last generations
//! came, rates of a day, backlog of a week.
//!
//! Written together every ten minutes and at the end, so that a crash loses that much of it; read once,
//! at the start. Bounded: so many generations, and of rates and backlog what is as old as is shown.

use std::ops::RangeInclusive;

use blockferry_delta::{NodeId, Root};
use redb::{ReadableTable, TableDefinition};

use super::Ledger;
use crate::api::CameRow;
use crate::budget::{CAME_MAX, TRENDS_PEERS_MAX};
use crate::error::Result;

/// Number, ascending -> root and four counts of bytes, little-endian.
pub(super) const CAME: TableDefinition<'_, u64, &[u8; CAME_BYTES]> =
    TableDefinition::new("came.v1");
/// Seconds since 1970 -> one record for all together and one for each peer.
pub(super) const RATES: TableDefinition<'_, i64, &[u8]> = TableDefinition::new("rates.v1");
/// Seconds since 1970 -> bytes and images.
pub(super) const LACKED: TableDefinition<'_, i64, (u64, u64)> = TableDefinition::new("lacked.v1");

const CAME_BYTES: usize = 64;
/// A peer's id, then three numbers.
const RATE_BYTES: usize = 44;
/// Stands for all together where a peer's id is expected.
const ALL: [u8; 32] = [0; 32];

/// A rate between two looks, with one peer or with all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateRow {
    /// `None`: all together.
    pub(crate) peer: Option<NodeId>,
    pub(crate) sent_kbit: u32,
    pub(crate) received_kbit: u32,
    pub(crate) limit_kbit: u32,
}

/// What is written down, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Numbers, contents, and how they came; ascending.
    pub(crate) came: Vec<(u64, Root, CameRow)>,
    /// By the second at which each look was; ascending.
    pub(crate) rates: Vec<(i64, Vec<RateRow>)>,
    /// When, bytes, images; ascending.
    pub(crate) backlog: Vec<(i64, u64, u64)>,
}

impl Remembered {
    /// There is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.came.is_empty() && self.rates.is_empty() && self.backlog.is_empty()
    }
}

impl Ledger {
    /// Adds this to what is kept, and lets go of what is older than these ranges of seconds.
    pub(crate) fn remember(
        &self,
        what: &Remembered,
        rates: &RangeInclusive<i64>,
        backlog: &RangeInclusive<i64>,
    ) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(CAME)?;
            for (number, root, came) in &what.came {
                table.insert(number, &came_record(root, came))?;
            }
            let last = table.last()?.map_or(0, |(number, _)| number.value());
            let oldest = last.saturating_sub(CAME_MAX as u64);
            table.retain(|number, _| number > oldest)?;
            let mut table = transaction.open_table(RATES)?;
            for (at, rows) in &what.rates {
                table.insert(at, rates_record(rows).as_slice())?;
            }
            // What is ahead was written by a clock that was wrong.
            table.retain(|at, _| rates.contains(&at))?;
            let mut table = transaction.open_table(LACKED)?;
            for (at, bytes, images) in &what.backlog {
                table.insert(at, (*bytes, *images))?;
            }
            table.retain(|at, _| backlog.contains(&at))?;
            Ok(())
        })
    }

    /// What is kept of these ranges of seconds.
    pub(crate) fn remembered(
        &self,
        rates: &RangeInclusive<i64>,
        backlog: &RangeInclusive<i64>,
    ) -> Result<Remembered> {
        self.read(|transaction| {
            let mut all = Remembered::default();
            for row in transaction.open_table(CAME)?.iter()? {
                let (number, record) = row?;
                let (root, came) = came_of(record.value());
                all.came.push((number.value(), root, came));
            }
            for row in transaction.open_table(RATES)?.range(rates.clone())? {
                let (at, record) = row?;
                all.rates.push((at.value(), rates_of(record.value())));
            }
            for row in transaction.open_table(LACKED)?.range(backlog.clone())? {
                let (at, record) = row?;
                let (bytes, images) = record.value();
                all.backlog.push((at.value(), bytes, images));
            }
            Ok(all)
        })
    }
}

fn came_record(root: &Root, came: &CameRow) -> [u8; CAME_BYTES] {
    let mut record = [0; CAME_BYTES];
    let numbers = [came.keep_bytes, came.found_bytes, came.zero_bytes, came.sent_bytes];
    record[..32].copy_from_slice(root.as_bytes());
    for (place, number) in record[32..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    record
}

fn came_of(record: &[u8; CAME_BYTES]) -> (Root, CameRow) {
    let mut root = [0; 32];
    root.copy_from_slice(&record[..32]);
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&record[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let came = CameRow {
        keep_bytes: number(32),
        found_bytes: number(40),
        zero_bytes: number(48),
        sent_bytes: number(56),
    };
    (Root::from_bytes(root), came)
}

fn rates_record(rows: &[RateRow]) -> Vec<u8> {
    let mut record = Vec::with_capacity(rows.len() * RATE_BYTES);
    for row in rows.iter().take(TRENDS_PEERS_MAX + 1) {
        record.extend_from_slice(row.peer.as_ref().map_or(&ALL[..], |id| id.as_bytes()));
        for number in [row.sent_kbit, row.received_kbit, row.limit_kbit] {
            record.extend_from_slice(&number.to_le_bytes());
        }
    }
    record
}

fn rates_of(record: &[u8]) -> Vec<RateRow> {
    let row = |record: &[u8]| {
        let mut id = [0; 32];
        id.copy_from_slice(&record[..32]);
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&record[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        RateRow {
            peer: (id != ALL).then(|| NodeId::from_bytes(id)),
            sent_kbit: number(32),
            received_kbit: number(36),
            limit_kbit: number(40),
        }
    };
    record.chunks_exact(RATE_BYTES).take(TRENDS_PEERS_MAX + 1).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(number: u64) -> (u64, Root, CameRow) {
        let row = CameRow { keep_bytes: number, found_bytes: 2, zero_bytes: 3, sent_bytes: 4 };
        (number, Root::from_bytes([7; 32]), row)
    }

    fn rate(peer: Option<NodeId>) -> RateRow {
        RateRow { peer, sent_kbit: 1, received_kbit: 2, limit_kbit: u32::MAX }
    }

    #[test]
    fn what_is_written_is_there_again_and_what_is_old_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.redb");
        let peer = NodeId::from_bytes([9; 32]);
        let what = Remembered {
            came: vec![came(1), came(2)],
            rates: vec![(100, vec![rate(None), rate(Some(peer))]), (160, vec![rate(None)])],
            backlog: vec![(100, 5, 1), (700, 6, 2)],
        };
        let ledger = Ledger::open(&path).expect("opened");
        ledger.remember(&what, &(0..=1000), &(0..=1000)).expect("written");
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opened");
        assert_eq!(ledger.remembered(&(0..=1000), &(0..=1000)).expect("read"), what);
        let later = Remembered {
            came: vec![came(2 + CAME_MAX as u64)],
            rates: vec![(900, vec![rate(None)])],
            backlog: Vec::new(),
        };
        ledger.remember(&later, &(150..=1000), &(150..=1000)).expect("written");
        let kept = ledger.remembered(&(0..=2000), &(0..=2000)).expect("read");
        assert_eq!(kept.came, later.came, "so many and no more");
        let seconds: Vec<i64> = kept.rates.iter().map(|(at, _)| *at).collect();
        assert_eq!((seconds, kept.backlog), (vec![160, 900], vec![(700, 6, 2)]));
    }
}
