//! Together: what many stores write down at once goes into one durable transaction.
//!
//! Hundreds of stores are opened beside each other, and each has a line or two for the ledger. Whoever
//! comes while another's transaction is being made durable leaves its line and waits; the first of
//! those who waited writes for all. A note is durable when the call returns, as if it were alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use blockferry_delta::{NodeId, StoreId, StoreName};
use redb::WriteTransaction;

use super::{COUNTED, Ledger, STORES};
use crate::error::Result;

/// Something about one store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// It is in service here under this name, or is no longer.
    Store(StoreName, Option<StoreId>),
    /// So many generations were counted for somebody.
    Counted(StoreName, NodeId, u64),
}

/// Lines that wait, and how far those before them got.
#[derive(Debug, Default)]
pub(super) struct Together {
    lines: Mutex<Lines>,
    /// Held by who writes.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Lines {
    /// With their numbers, ascending.
    waiting: Vec<(u64, Line)>,
    last: u64,
    /// All lines up to this number are durable, or their callers have had their error.
    done: u64,
}

impl Ledger {
    /// Remembers or forgets that a store is in service here. Writes nothing that is known.
    pub fn note_store(&self, name: &StoreName, id: Option<StoreId>) -> Result<()> {
        if self.known_store(name)? == id {
            return Ok(());
        }
        self.note(Line::Store(name.clone(), id))
    }

    /// Remembers how many generations of a store were counted for somebody. Writes nothing that is
    /// known.
    pub fn note_counted(&self, name: &StoreName, writer: NodeId, counted: u64) -> Result<()> {
        if self.counted(name)? == Some((writer, counted)) {
            return Ok(());
        }
        self.note(Line::Counted(name.clone(), writer, counted))
    }

    fn note(&self, line: Line) -> Result<()> {
        let own = {
            let mut lines = held(&self.together.lines);
            lines.last += 1;
            let own = lines.last;
            lines.waiting.push((own, line));
            own
        };
        let _turn = held(&self.together.turn);
        let mut all = {
            let mut lines = held(&self.together.lines);
            if lines.done >= own {
                return Ok(());
            }
            std::mem::take(&mut lines.waiting)
        };
        let written =
            self.write(|transaction| all.iter().try_for_each(|(_, line)| line.write(transaction)));
        let mut lines = held(&self.together.lines);
        if written.is_ok() {
            lines.done = all.last().map_or(own, |(number, _)| *number);
        } else {
            // Each of the others tries for itself, and has its own error.
            all.retain(|(number, _)| *number != own);
            all.append(&mut lines.waiting);
            lines.waiting = all;
        }
        written
    }
}

impl Line {
    fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        match self {
            Line::Store(name, id) => {
                let mut table = transaction.open_table(STORES)?;
                match id {
                    Some(id) => drop(table.insert(name.as_str(), id.as_bytes())?),
                    None => drop(table.remove(name.as_str())?),
                }
            }
            Line::Counted(name, writer, counted) => {
                let mut table = transaction.open_table(COUNTED)?;
                table.insert(name.as_str(), (writer.as_bytes(), *counted))?;
            }
        }
        Ok(())
    }
}

/// A lock whose holder panicked is still good: holders only move values.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> StoreName {
        StoreName::new(&format!("store-{n:03}")).expect("a name")
    }

    #[test]
    fn many_at_once_are_all_there_and_what_is_known_is_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("node.redb");
        let ledger = Ledger::open(&path).expect("opened");
        let writer = NodeId::from_bytes([7; 32]);
        let id = |n: usize| StoreId::from_bytes([u8::try_from(n).expect("few"); 16]);
        std::thread::scope(|scope| {
            for n in 0..60 {
                let ledger = &ledger;
                scope.spawn(move || {
                    ledger.note_store(&name(n), Some(id(n))).expect("noted");
                    // It is there when the call returns, not sometime.
                    assert_eq!(ledger.known_store(&name(n)).expect("read"), Some(id(n)));
                    ledger.note_counted(&name(n), writer, n as u64).expect("noted");
                    assert_eq!(ledger.counted(&name(n)).expect("read"), Some((writer, n as u64)));
                });
            }
        });
        assert!(held(&ledger.together.lines).waiting.is_empty());
        let lines = held(&ledger.together.lines).last;
        ledger.note_store(&name(3), Some(id(3))).expect("known");
        ledger.note_counted(&name(3), writer, 3).expect("known");
        assert_eq!(held(&ledger.together.lines).last, lines, "nothing was written");
        ledger.note_store(&name(3), None).expect("forgotten");
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opened again");
        assert_eq!(ledger.known_store(&name(3)).expect("read"), None);
        assert_eq!(ledger.known_store(&name(59)).expect("read"), Some(id(59)));
    }
}
