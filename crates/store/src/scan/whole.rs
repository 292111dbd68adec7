//! A segment read whole: hashed, compared with what is known, and cut into chunks if it changed.

use blockferry_delta::{
    LOOKAHEAD_BYTES, PAGE_BYTES, SEGMENT_BYTES, chunk_segment, digest_segment, segment_len,
};

use super::{Outcome, Scan, tally};
use crate::disk::AlignedBuf;
use crate::error::Result;

impl Scan<'_> {
    /// Reads a segment, hashes it, and cuts chunks if it changed.
    pub(super) fn whole(&self, segment: u32, buf: &mut AlignedBuf) -> Result<Outcome> {
        let data = self.data_in(segment);
        if data.is_empty() {
            return self.hole(segment);
        }
        let start = u64::from(segment) * SEGMENT_BYTES;
        let bytes = segment_len(segment, self.size_bytes);
        // Cutting looks at the page before.
        let before = if start == 0 { 0 } else { PAGE_BYTES };
        self.read(buf, start - before as u64, before + bytes)?;
        let inside = &buf[before..before + bytes];
        let map = digest_segment(self.chunker.keys(), segment, inside, self.size_bytes);
        let (old, old_bytes) = self.old(segment)?;
        let mut outcome = self.outcome(segment, map, old, old_bytes);
        outcome.allocated_zero = tally::allocated_zero(segment, inside, data);
        outcome.bytes_read = bytes as u64;
        if let Some(changed) = &mut outcome.changed
            && !changed.map.is_zero()
        {
            self.read_ahead(start - before as u64, buf)?;
            let end = before + bytes;
            changed.chunks = chunk_segment(self.chunker, segment, buf, before, end);
        }
        Ok(outcome)
    }

    /// Reads what follows the segment in `buf`, which begins at `offset`: a chunk may reach there.
    fn read_ahead(&self, offset: u64, buf: &mut AlignedBuf) -> Result<()> {
        let have = buf.len();
        let more = (self.size_bytes - offset - have as u64).min(LOOKAHEAD_BYTES as u64) as usize;
        let mut ahead = AlignedBuf::with_capacity(more);
        self.read(&mut ahead, offset + have as u64, more)?;
        buf.set_len(have + more);
        buf.filled_mut()[have..].copy_from_slice(&ahead);
        Ok(())
    }
}
