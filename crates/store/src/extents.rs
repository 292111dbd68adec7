//! Extent diff, the pure part: where two contents may differ, told by where their storage lies.
//!
//! Two files that exist at the same time and share a piece of storage hold the same bytes there:
//! neither can write to it without getting storage of its own first. What can't be told differs.

use crate::disk::{Placed, Storage};

/// Byte ranges (offset, length) of `0..size_bytes` where a file placed as `new` may hold other
/// bytes than one placed as `old`. Ascending, not touching each other.
pub(crate) fn differing(old: &[Placed], new: &[Placed], size_bytes: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let (mut old, mut new) = (Walk::new(old), Walk::new(new));
    let mut at = 0;
    while at < size_bytes {
        let ((before, before_end), (after, after_end)) = (old.at(at), new.at(at));
        let end = before_end.min(after_end).min(size_bytes);
        if !same(before, after) {
            match ranges.last_mut() {
                Some((start, bytes)) if *start + *bytes == at => *bytes += end - at,
                _ => ranges.push((at, end - at)),
            }
        }
        at = end;
    }
    ranges
}

fn same(old: Storage, new: Storage) -> bool {
    match (old, new) {
        (Storage::None, Storage::None) => true,
        (Storage::At(old), Storage::At(new)) => old == new,
        _ => false,
    }
}

/// Does any of these ranges (offset, length; ascending) overlap `start..end`?
pub(crate) fn overlaps(ranges: &[(u64, u64)], start: u64, end: u64) -> bool {
    let from = ranges.partition_point(|(offset, len)| offset + len <= start);
    ranges.get(from).is_some_and(|(offset, _)| *offset < end)
}

/// Goes along a placement, hole by hole and piece by piece.
struct Walk<'a> {
    placed: &'a [Placed],
}

impl<'a> Walk<'a> {
    fn new(placed: &'a [Placed]) -> Self {
        Self { placed }
    }

    /// The storage at `offset` and where the piece it belongs to ends. Offsets never go back.
    fn at(&mut self, offset: u64) -> (Storage, u64) {
        while self.placed.first().is_some_and(|piece| piece.end() <= offset) {
            self.placed = &self.placed[1..];
        }
        match self.placed.first() {
            None => (Storage::None, u64::MAX),
            Some(piece) if piece.offset > offset => (Storage::None, piece.offset),
            Some(piece) => {
                let storage = match piece.storage {
                    Storage::At(address) => Storage::At(address + (offset - piece.offset)),
                    other => other,
                };
                (storage, piece.end())
            }
        }
    }
}

/// The pieces that hold data: (start, end) in bytes, joined where they touch, clamped to the file.
pub(crate) fn data_of(placed: &[Placed], size_bytes: u64) -> Vec<(u64, u64)> {
    let mut data: Vec<(u64, u64)> = Vec::new();
    for piece in placed.iter().filter(|p| p.storage != Storage::None && p.offset < size_bytes) {
        let end = piece.end().min(size_bytes);
        match data.last_mut() {
            Some((_, last)) if *last == piece.offset => *last = end,
            _ => data.push((piece.offset, end)),
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn piece(page: u64, pages: u64, storage: Storage) -> Placed {
        Placed { offset: page * PAGE, bytes: pages * PAGE, storage }
    }

    /// Storage page by page, as a model: `None` is a hole.
    fn pages(placed: &[Placed], count: u64) -> Vec<Storage> {
        (0..count)
            .map(|page| {
                let offset = page * PAGE;
                let piece = placed.iter().find(|p| p.offset <= offset && offset < p.end());
                match piece.map(|p| (p.storage, p.offset)) {
                    Some((Storage::At(address), start)) => Storage::At(address + offset - start),
                    Some((other, _)) => other,
                    None => Storage::None,
                }
            })
            .collect()
    }

    /// Pieces made of a seed: some shared with `base`, some not, with holes.
    fn random(seed: &mut u64, base: &[Storage], count: u64) -> Vec<Placed> {
        let mut next = |below: u64| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (*seed >> 33) % below
        };
        let (mut placed, mut page) = (Vec::new(), 0);
        while page < count {
            let run = (1 + next(6)).min(count - page);
            match next(5) {
                0 => {}
                1 => placed.push(piece(page, run, Storage::At((1000 + next(1000)) * PAGE))),
                2 => placed.push(piece(page, run, Storage::Unknown)),
                3 => placed.push(piece(page, run, Storage::None)),
                // One piece for each page: maps split where sharing begins and ends.
                _ => placed.extend((page..page + run).filter_map(|p| {
                    let storage = *base.get(p as usize)?;
                    (storage != Storage::None).then(|| piece(p, 1, storage))
                })),
            }
            page += run;
        }
        placed
    }

    #[test]
    fn differs_exactly_where_the_pages_do() {
        let mut seed = 1;
        let mut changed = 0;
        for round in 0..300 {
            let (count, size) = (40, 40 * PAGE - (round % 3) * 1000);
            let old = random(&mut seed, &[], count);
            let model = pages(&old, count);
            let new = random(&mut seed, &model, count + round % 5);
            let want: Vec<u64> = (0..count)
                .filter(|p| !same(model[*p as usize], pages(&new, count)[*p as usize]))
                .collect();
            let found = differing(&old, &new, size);
            let got: Vec<u64> = found
                .iter()
                .flat_map(|(offset, bytes)| offset / PAGE..(offset + bytes).div_ceil(PAGE))
                .collect();
            assert_eq!(got, want, "round {round}");
            assert!(found.iter().all(|(offset, bytes)| offset + bytes <= size));
            assert!(found.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0), "joined");
            changed += got.len();
        }
        assert!(changed > 1000, "the rounds differ somewhere");
    }

    #[test]
    fn data_is_joined_and_ends_with_the_file() {
        let placed = [
            piece(0, 2, Storage::At(7 * PAGE)),
            piece(2, 1, Storage::Unknown),
            piece(4, 2, Storage::None),
            piece(8, 4, Storage::At(0)),
            piece(20, 4, Storage::At(0)),
        ];
        assert_eq!(data_of(&placed, 10 * PAGE), [(0, 3 * PAGE), (8 * PAGE, 10 * PAGE)]);
    }
}
