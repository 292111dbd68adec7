//! Lineage: which generations a generation descends from. A version vector over writers; clocks
//! never decide.

use std::collections::BTreeMap;

use crate::ids::NodeId;

/// Most writers a lineage may name.
pub const LINEAGE_WRITERS_MAX: usize = 256;

/// How one lineage stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both name the same history.
    Equal,
    /// The first descends from the second.
    Newer,
    /// The second descends from the first.
    Older,
    /// Neither descends from the other: diverged.
    Concurrent,
}

/// Why entries are not a lineage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// A writer with the count zero, or named twice.
    #[error("lineage names a writer twice or with no generation")]
    BadEntry,
    /// More than [`LINEAGE_WRITERS_MAX`] writers.
    #[error("lineage names more than {LINEAGE_WRITERS_MAX} writers")]
    TooMany,
    /// A count that can't grow any more.
    #[error("lineage counter overflow")]
    Overflow,
}

/// A version vector: for each writer, how many generations of its own went into this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage(BTreeMap<NodeId, u64>);

impl Lineage {
    /// Builds a lineage from (writer, count) entries in any order.
    pub fn from_entries(
        entries: impl IntoIterator<Item = (NodeId, u64)>,
    ) -> Result<Self, LineageError> {
        let mut map = BTreeMap::new();
        for (node, count) in entries {
            if count == 0 || map.insert(node, count).is_some() {
                return Err(LineageError::BadEntry);
            }
            if map.len() > LINEAGE_WRITERS_MAX {
                return Err(LineageError::TooMany);
            }
        }
        Ok(Self(map))
    }

    /// The (writer, count) entries by writer.
    pub fn entries(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.0.iter().map(|(node, count)| (*node, *count))
    }

    /// The lineage of a new generation made by `writer` on top of this one.
    pub fn bump(&self, writer: NodeId) -> Result<Self, LineageError> {
        let mut next = self.clone();
        let count = next.0.entry(writer).or_insert(0);
        *count = count.checked_add(1).ok_or(LineageError::Overflow)?;
        if next.0.len() > LINEAGE_WRITERS_MAX {
            return Err(LineageError::TooMany);
        }
        Ok(next)
    }

    /// How this lineage stands to `other`.
    pub fn compare(&self, other: &Self) -> Order {
        let covers = |a: &Self, b: &Self| b.entries().all(|(n, c)| a.count(&n) >= c);
        match (covers(self, other), covers(other, self)) {
            (true, true) => Order::Equal,
            (true, false) => Order::Newer,
            (false, true) => Order::Older,
            (false, false) => Order::Concurrent,
        }
    }

    /// The lineage that descends from both.
    pub fn merge(&self, other: &Self) -> Result<Self, LineageError> {
        let mut both = self.0.clone();
        for (node, count) in other.entries() {
            let entry = both.entry(node).or_insert(0);
            *entry = (*entry).max(count);
        }
        if both.len() > LINEAGE_WRITERS_MAX {
            return Err(LineageError::TooMany);
        }
        Ok(Self(both))
    }

    /// How many generations of a writer went into this one.
    pub fn count(&self, node: &NodeId) -> u64 {
        self.0.get(node).copied().unwrap_or(0)
    }

    /// How many generations went into this one, of all writers.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(entries: &[(u8, u64)]) -> Lineage {
        let entries = entries.iter().map(|(n, c)| (NodeId::from_bytes([*n; 32]), *c));
        Lineage::from_entries(entries).expect("valid")
    }

    #[test]
    fn descent_decides() {
        let (a, b) = (lineage(&[(1, 2)]), lineage(&[(1, 2), (2, 1)]));
        assert_eq!(a.compare(&a), Order::Equal);
        assert_eq!(b.compare(&a), Order::Newer);
        assert_eq!(a.compare(&b), Order::Older);
        assert_eq!(lineage(&[(1, 3)]).compare(&b), Order::Concurrent);
        assert_eq!(a.compare(&Lineage::default()), Order::Newer);
        let merged = lineage(&[(1, 3)]).merge(&b).expect("small");
        assert_eq!(merged, lineage(&[(1, 3), (2, 1)]));
        assert_eq!(a.bump(NodeId::from_bytes([2; 32])).expect("small"), b);
        let one = NodeId::from_bytes([1; 32]);
        assert_eq!((merged.count(&one), merged.total(), Lineage::default().total()), (3, 4, 0));
    }

    #[test]
    fn bad_entries_are_refused() {
        let node = NodeId::from_bytes([1; 32]);
        assert_eq!(Lineage::from_entries([(node, 0)]), Err(LineageError::BadEntry));
        assert_eq!(Lineage::from_entries([(node, 1), (node, 2)]), Err(LineageError::BadEntry));
        let full = lineage(&[(1, u64::MAX)]);
        assert_eq!(full.bump(node), Err(LineageError::Overflow));
    }
}
