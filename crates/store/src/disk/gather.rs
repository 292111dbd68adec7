//! Spans that were written through the page cache and are to leave it: gathered while each follows
//! the one before, so that they reach the disk in long pieces.
//!
//! btrfs makes an extent of whatever is written back at a time. A file written back block by block
//! has a record for each block, and each clone of it writes all these records again.

/// Bytes that are written back together at most.
pub(super) const GATHER_BYTES: u64 = 4 << 20;

/// What was written last: gathered, and before that on its way to disk. Spans are (start, end) in
/// bytes.
#[derive(Debug, Default)]
pub(super) struct Gather {
    open: Option<(u64, u64)>,
    moving: Option<(u64, u64)>,
}

impl Gather {
    /// Adds a span. Returns what is to be written back now: at most two spans, ascending in time.
    pub(super) fn add(&mut self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let mut due = [None, None];
        match &mut self.open {
            Some(open) if open.1 == start => open.1 = end,
            open => due[0] = open.replace((start, end)),
        }
        due[1] = self.open.take_if(|open| open.1 - open.0 >= GATHER_BYTES);
        due.into_iter().flatten()
    }

    /// A span's write-back has begun. Returns the one before, which is to be waited for and dropped.
    pub(super) fn moved(&mut self, span: (u64, u64)) -> Option<(u64, u64)> {
        self.moving.replace(span)
    }

    /// What is still cached of what was added, to be dropped once it is on disk.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (u64, u64)> + use<> {
        [self.moving.take(), self.open.take()].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 64 << 10;

    fn add(gather: &mut Gather, block: u64) -> Vec<(u64, u64)> {
        gather.add(block * BLOCK, (block + 1) * BLOCK).collect()
    }

    #[test]
    fn blocks_that_follow_each_other_are_written_back_together() {
        let mut gather = Gather::default();
        let due: Vec<_> = (0..160).flat_map(|block| add(&mut gather, block)).collect();
        assert_eq!(due, [(0, GATHER_BYTES), (GATHER_BYTES, 2 * GATHER_BYTES)]);
        assert_eq!(gather.moved(due[0]), None);
        assert_eq!(gather.moved(due[1]), Some(due[0]));
        let rest: Vec<_> = gather.take().collect();
        assert_eq!(rest, [due[1], (2 * GATHER_BYTES, 160 * BLOCK)]);
        assert_eq!(gather.take().count(), 0);
    }

    #[test]
    fn a_gap_ends_a_span_and_a_long_write_goes_at_once() {
        let mut gather = Gather::default();
        assert_eq!(add(&mut gather, 3), []);
        assert_eq!(add(&mut gather, 5), [(3 * BLOCK, 4 * BLOCK)]);
        // Backwards, as when a block is wanted again.
        assert_eq!(add(&mut gather, 4), [(5 * BLOCK, 6 * BLOCK)]);
        let long = (100 * BLOCK, 100 * BLOCK + GATHER_BYTES);
        let due: Vec<_> = gather.add(long.0, long.1).collect();
        assert_eq!(due, [(4 * BLOCK, 5 * BLOCK), long]);
    }
}
