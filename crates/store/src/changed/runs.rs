//! Ranges of bytes as they are told: in any order, overlapping, touching; and as they are needed:
//! ascending and apart. Their number is bounded.

/// Most ranges of a map, after those that touch are joined (16 MiB of memory).
pub(crate) const RANGES_MAX: usize = 1 << 20;

/// Byte ranges (offset, length), ascending, neither overlapping nor touching.
pub(crate) type Ranges = Vec<(u64, u64)>;

/// Ranges that are being told.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// (start, end)
    runs: Vec<(u64, u64)>,
    unsorted: bool,
}

impl Runs {
    /// Takes a range from `start` to before `end`. `false`: there are too many.
    pub(crate) fn push(&mut self, start: u64, end: u64) -> bool {
        let full = self.runs.len() == RANGES_MAX;
        match self.runs.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ if full => return false,
            last => {
                self.unsorted |= last.is_some_and(|(_, last)| *last > start);
                self.runs.push((start, end));
            }
        }
        true
    }

    /// What was told, in order and joined.
    pub(crate) fn finish(mut self) -> Ranges {
        if self.unsorted {
            self.runs.sort_unstable();
        }
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(self.runs.len());
        for (start, end) in self.runs {
            match ranges.last_mut() {
                Some((from, bytes)) if *from + *bytes >= start => {
                    *bytes = (*bytes).max(end - *from);
                }
                _ => ranges.push((start, end - start)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_ends_sorted_and_apart() {
        let told = [(50, 60), (10, 20), (15, 18), (20, 30), (0, 1), (59, 70), (70, 71)];
        let mut runs = Runs::default();
        assert!(told.iter().all(|(start, end)| runs.push(*start, *end)));
        assert_eq!(runs.finish(), [(0, 1), (10, 20), (50, 21)]);
    }

    #[test]
    fn too_many_are_refused_and_touching_ones_are_one() {
        let mut runs = Runs::default();
        for n in 0..RANGES_MAX as u64 {
            assert!(runs.push(n * 10, n * 10 + 5));
        }
        let next = RANGES_MAX as u64 * 10;
        assert!(!runs.push(next, next + 1));
        assert!(runs.push(next - 5, next), "it touches the last one");
        let mut all = Runs::default();
        for n in 0..3 * RANGES_MAX as u64 {
            assert!(all.push(n, n + 1));
        }
        assert_eq!(all.finish(), [(0, 3 * RANGES_MAX as u64)]);
    }
}
