//! A row of the chunk index: the entries of all chunks whose ids share their high bits.
//!
//! For each entry, in ascending order: the next bits of the id (3 bytes), image and segment (LEB128
//! each). Six to eight bytes, because the chunk list that the place names has the rest of the id.

/// High bits of an id that choose its row: 2^18 rows, of 76 entries when there are 20 million.
const ROW_BITS: u32 = 18;
/// Bits of an id below those that its entry keeps. The rest is in the chunk list.
const REST_BITS: u32 = 24;
/// Bytes of the kept bits.
const REST_BYTES: usize = 3;

const _: () = assert!(8 * REST_BYTES as u32 == REST_BITS);

/// A segment of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::catalog) struct Place {
    pub(in crate::catalog) image: u32,
    pub(in crate::catalog) segment: u32,
}

/// What of an id the index tells apart: its high bits.
pub(super) fn key(id: u64) -> u64 {
    id >> (64 - ROW_BITS - REST_BITS) << (64 - ROW_BITS - REST_BITS)
}

/// Number of the row of an id.
pub(super) fn number_of(id: u64) -> u32 {
    (id >> (64 - ROW_BITS)) as u32
}

fn rest_of(id: u64) -> u32 {
    (id >> (64 - ROW_BITS - REST_BITS)) as u32 & ((1 << REST_BITS) - 1)
}

/// A row, taken apart: the kept bits of each id, ascending, and where the chunk is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row(Vec<(u32, Place)>);

impl Row {
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Puts an entry, over the one there may be.
    pub(super) fn put(&mut self, id: u64, place: Place) {
        let rest = rest_of(id);
        match self.0.binary_search_by_key(&rest, |entry| entry.0) {
            Ok(at) => self.0[at].1 = place,
            Err(at) => self.0.insert(at, (rest, place)),
        }
    }

    /// Removes an entry, unless it is of another place: there it still is.
    pub(super) fn remove(&mut self, id: u64, place: Place) {
        let at = self.0.binary_search(&(rest_of(id), place));
        if let Ok(at) = at {
            self.0.remove(at);
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 8);
        for (rest, place) in &self.0 {
            out.extend_from_slice(&rest.to_le_bytes()[..REST_BYTES]);
            put_number(&mut out, place.image);
            put_number(&mut out, place.segment);
        }
        out
    }

    /// What is damaged is forgotten: the index is a hint.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut entries: Vec<(u32, Place)> = Vec::with_capacity(bytes.len() / 6);
        for entry in entries_of(bytes) {
            if entries.last().is_some_and(|last| last.0 >= entry.0) {
                break;
            }
            entries.push(entry);
        }
        Self(entries)
    }
}

/// Where the row in `bytes` says that a chunk is.
pub(super) fn find(bytes: &[u8], id: u64) -> Option<Place> {
    let rest = rest_of(id);
    let found = entries_of(bytes).find(|entry| entry.0 >= rest);
    found.filter(|entry| entry.0 == rest).map(|entry| entry.1)
}

/// The keys of all entries of a row.
pub(super) fn keys(number: u32, bytes: &[u8]) -> impl Iterator<Item = u64> {
    let high = u64::from(number) << (64 - ROW_BITS);
    entries_of(bytes).map(move |(rest, _)| high | u64::from(rest) << (64 - ROW_BITS - REST_BITS))
}

fn entries_of(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Place)> {
    std::iter::from_fn(move || {
        let (rest, tail) = bytes.split_first_chunk::<REST_BYTES>()?;
        bytes = tail;
        let rest = u32::from_le_bytes([rest[0], rest[1], rest[2], 0]);
        let image = take_number(&mut bytes)?;
        Some((rest, Place { image, segment: take_number(&mut bytes)? }))
    })
}

fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if *byte < 0x80 {
            return u32::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> u64 {
        number << (64 - ROW_BITS - REST_BITS)
    }

    fn place(image: u32, segment: u32) -> Place {
        Place { image, segment }
    }

    #[test]
    fn a_row_survives_and_is_small() {
        let mut row = Row::default();
        for n in (0..76).rev() {
            row.put(id(n * 97), place(1 + n as u32 % 100, n as u32 * 200));
        }
        row.put(id(5), place(u32::MAX >> 1, u32::MAX));
        let bytes = row.encode();
        assert!(bytes.len() < 77 * 7 + 4, "{} bytes", bytes.len());
        assert_eq!(Row::decode(&bytes), row);
        assert_eq!(find(&bytes, id(97)), Some(place(2, 200)));
        assert_eq!(find(&bytes, id(5)), Some(place(u32::MAX >> 1, u32::MAX)));
        assert_eq!(find(&bytes, id(98)), None);
        assert_eq!(keys(0, &bytes).filter(|key| *key == key_like(97 * 75)).count(), 1);
    }

    fn key_like(number: u64) -> u64 {
        key(id(number) | 5)
    }

    #[test]
    fn an_entry_of_another_place_stays() {
        let mut row = Row::default();
        row.put(id(1), place(1, 1));
        row.put(id(1), place(2, 2));
        row.remove(id(1), place(1, 1));
        assert_eq!(find(&row.encode(), id(1)), Some(place(2, 2)));
        row.remove(id(1), place(2, 2));
        assert_eq!(row, Row::default());
    }

    #[test]
    fn damage_is_forgotten() {
        let mut row = Row::default();
        (0..10).for_each(|n| row.put(id(n), place(n as u32, 300)));
        let bytes = row.encode();
        for cut in 0..bytes.len() {
            let left = Row::decode(&bytes[..cut]);
            assert!(left.len() < 10 && row.0.starts_with(&left.0));
        }
        let swapped = [&bytes[6..12], &bytes[..6]].concat();
        assert_eq!(Row::decode(&swapped).len(), 1, "out of order");
        assert_eq!(Row::decode(&[1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).len(), 0);
    }
}
