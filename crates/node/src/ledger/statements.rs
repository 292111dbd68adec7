//! Statements in the ledger, `statements.v1`: (store, node, topic) -> signature and signed bytes.
//!
//! What others said is kept so that receipts of those who are offline count after a restart, too.
//! Losing it costs nothing for long: whoever said it, or heard it, says it again.

use std::sync::Arc;

use blockferry_wire::Statement;
use redb::{ReadableTable, TableDefinition};

use super::Ledger;
use crate::error::Result;
use crate::promotion::statements::{Signed, Slot, Topic};

pub(super) const STATEMENTS: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new("statements.v1");
/// Bytes of a signature, which the signed bytes follow.
const SIGNATURE_BYTES: usize = 64;

impl Ledger {
    /// Keeps or forgets statements, in one transaction.
    pub fn keep_statements(&self, rows: &[(Slot, Option<Arc<Signed>>)]) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(STATEMENTS)?;
            for (slot, signed) in rows {
                let key = key_of(slot);
                match signed {
                    Some(signed) => {
                        let row = [signed.signature.as_slice(), &signed.body].concat();
                        table.insert(key.as_slice(), row.as_slice())?.is_some()
                    }
                    None => table.remove(key.as_slice())?.is_some(),
                };
            }
            Ok(())
        })
    }

    /// The statements that were kept. What can't be read is left out: it is learned anew.
    pub fn statements(&self) -> Result<Vec<Signed>> {
        self.read(|transaction| {
            let table = transaction.open_table(STATEMENTS)?;
            let mut all = Vec::new();
            for row in table.iter()? {
                let (_, value) = row?;
                all.extend(signed_of(value.value()));
            }
            Ok(all)
        })
    }
}

fn key_of(slot: &Slot) -> Vec<u8> {
    let mut key = Vec::with_capacity(216);
    key.extend_from_slice(slot.store.as_bytes());
    key.extend_from_slice(slot.node.as_bytes());
    match &slot.topic {
        Topic::Roster => key.push(1),
        Topic::Holding(image) => {
            key.push(2);
            key.extend_from_slice(image.as_str().as_bytes());
        }
        Topic::Promotion(image, root) => {
            key.push(3);
            key.extend_from_slice(root.as_bytes());
            key.extend_from_slice(image.as_str().as_bytes());
        }
        Topic::Resolution(image) => {
            key.push(4);
            key.extend_from_slice(image.as_str().as_bytes());
        }
    }
    key
}

fn signed_of(row: &[u8]) -> Option<Signed> {
    let (signature, body) = row.split_at_checked(SIGNATURE_BYTES)?;
    let signature = signature.try_into().ok()?;
    Signed::from_wire(Statement { place: 0, body: body.to_vec(), signature }).ok()
}

#[cfg(test)]
mod tests {
    use blockferry_delta::{ImageName, Lineage, Root, StoreId};
    use blockferry_wire::{Promotion, Roster, Said, Text, What};

    use super::*;
    use crate::membership::identity::Identity;

    #[test]
    fn statements_survive_a_restart_and_can_be_forgotten() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.redb");
        let by = Identity::generate().expect("a key");
        let promotion = Promotion {
            image: ImageName::new("vm.raw").expect("a name"),
            number: 3,
            root: Root::from_bytes([3; 32]),
            lineage: Lineage::default(),
            by: Text::new("uid 0"),
            receipts: vec![by.id()],
        };
        let roster = Roster { node_name: "a".into(), members: vec![] };
        let sign = |what| {
            let store = StoreId::from_bytes([1; 16]);
            let said = Said { key: by.public().to_bytes(), store, sequence: 4, unix_ms: -1, what };
            let body = said.encode().expect("keeps the rules");
            let signature = by.sign(&Statement::signed_bytes(&body));
            Arc::new(Signed { said, body, signature })
        };
        let all = [sign(What::Promotion(promotion)), sign(What::Roster(roster))];
        let rows = all.clone().map(|s| (s.slot().expect("known"), Some(s)));
        let ledger = Ledger::open(&path).expect("opened");
        ledger.keep_statements(&rows).expect("kept");
        drop(ledger);
        let ledger = Ledger::open(&path).expect("opened again");
        let mut read = ledger.statements().expect("read");
        read.sort_by_key(|s| s.body.len());
        assert!(read.iter().eq([&*all[1], &*all[0]]), "{read:?}");
        assert!(read.iter().all(Signed::is_genuine));
        ledger.keep_statements(&[(rows[0].0.clone(), None)]).expect("forgotten");
        assert_eq!(ledger.statements().expect("read").len(), 1);
    }
}
