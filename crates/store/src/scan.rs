//! The digest station at work: reads a frozen or quiet file on several threads, skips holes, and
//! says what each segment holds. Chunks are cut only where something changed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use blockferry_delta::{
    BlockHash, Chunk, Chunker, LOOKAHEAD_BYTES, PAGE_BYTES, PageExtent, Root, SEGMENT_BYTES,
    SegmentMap, changed_blocks, chunk_segment, digest_segment, image_root, is_zero, segment_count,
    segment_len,
};

use crate::catalog::CatalogRead;
use crate::disk::{AlignedBuf, DiskFile, set_idle_io_priority};
use crate::error::{Error, IoContext, Result};

/// Segments a worker reads at once (4 MiB): large requests, few of them in memory.
const SPAN_SEGMENTS: u32 = 1;
/// Finished spans that may wait for an earlier one.
const SPANS_AHEAD: usize = 8;
/// Most runs of allocated zeros that a generation keeps; the longest win.
pub(crate) const ALLOCATED_ZERO_MAX: usize = 4096;

/// Told how a long job gets on; may ask it to stop.
pub trait Progress: Sync {
    /// `done_bytes` of `total_bytes` are done.
    fn advance(&self, done_bytes: u64, total_bytes: u64);

    /// Should the job stop?
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn advance(&self, _: u64, _: u64) {}
}

/// What is known of the image from before.
pub(crate) struct Known<'a> {
    pub(crate) read: &'a CatalogRead,
    pub(crate) image: u32,
    pub(crate) size_bytes: u64,
}

/// A file to be scanned.
pub(crate) struct Scan<'a> {
    pub(crate) file: &'a dyn DiskFile,
    pub(crate) path: &'a str,
    pub(crate) size_bytes: u64,
    pub(crate) chunker: &'a Chunker,
    pub(crate) known: Option<Known<'a>>,
    pub(crate) threads: usize,
    pub(crate) progress: &'a dyn Progress,
}

/// A segment that isn't what was known.
pub(crate) struct Changed {
    pub(crate) segment: u32,
    pub(crate) map: SegmentMap,
    pub(crate) chunks: Vec<Chunk>,
}

/// What a scan found, beside the changed segments it handed out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) root: Root,
    pub(crate) bytes_read: u64,
    pub(crate) dirty_bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) allocated_zero: Vec<PageExtent>,
}

/// What a worker says about one segment.
struct Outcome {
    segment: u32,
    value: BlockHash,
    changed: Option<Changed>,
    bytes_read: u64,
    dirty_bytes: u64,
    data_bytes: u64,
    allocated_zero: Vec<PageExtent>,
}

impl Scan<'_> {
    /// Scans the file; `changed` gets the segments that differ from what is known, in order.
    pub(crate) fn run(&self, changed: &mut dyn FnMut(Changed) -> Result<()>) -> Result<Scanned> {
        let data = self.data_extents()?;
        let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(SPANS_AHEAD);
            for _ in 0..self.threads.max(1) {
                let (send, data, next, stop) = (send.clone(), &data, &next, &stop);
                scope.spawn(move || self.work(data, next, stop, &send));
            }
            drop(send);
            let outcome = self.gather(&receive, changed);
            // Workers blocked on a full channel must not outlive an error.
            stop.store(true, Ordering::Relaxed);
            drop(receive);
            outcome
        })
    }

    fn data_extents(&self) -> Result<Vec<(u64, u64)>> {
        let (mut extents, mut at) = (Vec::new(), 0);
        while at < self.size_bytes {
            let next = self.file.next_data(at).during("find data of", self.path)?;
            let Some((start, end)) = next.filter(|(start, _)| *start < self.size_bytes) else {
                break;
            };
            let end = end.min(self.size_bytes).max(start + 1);
            extents.push((start, end));
            at = end;
        }
        Ok(extents)
    }

    fn work(
        &self,
        data: &[(u64, u64)],
        next: &AtomicU32,
        stop: &AtomicBool,
        send: &SyncSender<Result<Vec<Outcome>>>,
    ) {
        if let Err(error) = set_idle_io_priority() {
            tracing::debug!(%error, "scanning at normal I/O priority");
        }
        let room = PAGE_BYTES + SPAN_SEGMENTS as usize * SEGMENT_BYTES as usize + LOOKAHEAD_BYTES;
        let mut buf = AlignedBuf::with_capacity(room);
        while !stop.load(Ordering::Relaxed) {
            let first = next.fetch_add(SPAN_SEGMENTS, Ordering::Relaxed);
            if first >= segment_count(self.size_bytes) {
                return;
            }
            let outcome = self.span(first, data, &mut buf);
            let failed = outcome.is_err();
            if send.send(outcome).is_err() || failed {
                return;
            }
        }
    }

    /// One span: read it, hash it, and cut chunks where it changed.
    fn span(&self, first: u32, data: &[(u64, u64)], buf: &mut AlignedBuf) -> Result<Vec<Outcome>> {
        let last = (first + SPAN_SEGMENTS).min(segment_count(self.size_bytes));
        let start = u64::from(first) * SEGMENT_BYTES;
        let end = (u64::from(last) * SEGMENT_BYTES).min(self.size_bytes);
        let inside = overlapping(data, start, end);
        if inside.is_empty() {
            return (first..last).map(|segment| self.hole(segment)).collect();
        }
        let before = if start == 0 { 0 } else { PAGE_BYTES };
        self.read(buf, start - before as u64, before + (end - start) as usize)?;
        let mut outcomes = Vec::new();
        for segment in first..last {
            let at = before + ((segment - first) as usize) * SEGMENT_BYTES as usize;
            let bytes = segment_len(segment, self.size_bytes);
            let mut outcome = self.segment(segment, &buf[at..at + bytes])?;
            outcome.allocated_zero = allocated_zero(segment, &buf[at..at + bytes], inside);
            outcome.bytes_read = bytes as u64;
            outcomes.push(outcome);
        }
        if outcomes.iter().any(|o| o.changed.is_some()) {
            self.cut(first, start - before as u64, before, &mut outcomes, buf)?;
        }
        Ok(outcomes)
    }

    fn read(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> Result<()> {
        let got = self.file.read_bulk_at(buf, offset, bytes).during("read", self.path)?;
        if got == bytes {
            return Ok(());
        }
        let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(Error::Io { op: "read", path: self.path.to_owned(), source: short })
    }

    /// Cuts chunks in the changed segments of a span, reading what follows it first.
    fn cut(
        &self,
        first: u32,
        offset: u64,
        before: usize,
        outcomes: &mut [Outcome],
        buf: &mut AlignedBuf,
    ) -> Result<()> {
        let have = buf.len();
        let more = (self.size_bytes - offset - have as u64).min(LOOKAHEAD_BYTES as u64) as usize;
        buf.set_len(have + more);
        let ahead = &mut buf.filled_mut()[have..];
        self.file.read_exact_at(ahead, offset + have as u64).during("read", self.path)?;
        for outcome in outcomes {
            let Some(changed) = &mut outcome.changed else { continue };
            if changed.map.is_zero() {
                continue;
            }
            let start = before + ((outcome.segment - first) as usize) * SEGMENT_BYTES as usize;
            let end = start + segment_len(outcome.segment, self.size_bytes);
            changed.chunks = chunk_segment(self.chunker, outcome.segment, buf, start, end);
        }
        Ok(())
    }

    fn hole(&self, segment: u32) -> Result<Outcome> {
        let (old, old_bytes) = self.old(segment)?;
        // Hashing zeros costs as much as hashing data: a known value is kept.
        let same_len = segment_len(segment, old_bytes) == segment_len(segment, self.size_bytes);
        let map = match &old {
            Some(zero @ SegmentMap::Zero(_)) if same_len => zero.clone(),
            _ => SegmentMap::zero(segment, self.size_bytes),
        };
        Ok(self.outcome(segment, map, old, old_bytes))
    }

    fn segment(&self, segment: u32, bytes: &[u8]) -> Result<Outcome> {
        let map = digest_segment(self.chunker.keys(), segment, bytes, self.size_bytes);
        let (old, old_bytes) = self.old(segment)?;
        Ok(self.outcome(segment, map, old, old_bytes))
    }

    /// What is known of a segment, and the length of the image it is known of.
    fn old(&self, segment: u32) -> Result<(Option<SegmentMap>, u64)> {
        match &self.known {
            Some(known) if segment < segment_count(known.size_bytes) => {
                Ok((known.read.map(known.image, segment)?, known.size_bytes))
            }
            _ => Ok((None, 0)),
        }
    }

    /// Compares with what is known.
    fn outcome(
        &self,
        segment: u32,
        map: SegmentMap,
        old: Option<SegmentMap>,
        old_bytes: u64,
    ) -> Outcome {
        let value = map.value(self.size_bytes);
        let data_bytes = data_bytes(&map);
        let unchanged = old.as_ref() == Some(&map);
        let dirty_bytes = if unchanged {
            0
        } else {
            dirty_bytes(segment, &map, self.size_bytes, old.as_ref(), old_bytes)
        };
        let changed = (!unchanged).then(|| Changed { segment, map, chunks: Vec::new() });
        Outcome {
            segment,
            value,
            changed,
            bytes_read: 0,
            dirty_bytes,
            data_bytes,
            allocated_zero: Vec::new(),
        }
    }

    /// Takes the workers' outcomes in order.
    fn gather(
        &self,
        receive: &Receiver<Result<Vec<Outcome>>>,
        changed: &mut dyn FnMut(Changed) -> Result<()>,
    ) -> Result<Scanned> {
        let mut found = Scanned {
            root: image_root(&[]),
            bytes_read: 0,
            dirty_bytes: 0,
            data_bytes: 0,
            allocated_zero: Vec::new(),
        };
        let (mut waiting, mut values) = (BTreeMap::new(), Vec::new());
        for outcomes in receive {
            waiting.extend(outcomes?.into_iter().map(|o| (o.segment, o)));
            while let Some(outcome) = waiting.remove(&(values.len() as u32)) {
                values.push(outcome.value);
                found.bytes_read += outcome.bytes_read;
                found.dirty_bytes += outcome.dirty_bytes;
                found.data_bytes += outcome.data_bytes;
                join(&mut found.allocated_zero, outcome.allocated_zero);
                outcome.changed.map_or(Ok(()), &mut *changed)?;
            }
            let done = values.len() as u64 * SEGMENT_BYTES;
            self.progress.advance(done.min(self.size_bytes), self.size_bytes);
            if self.progress.cancelled() {
                return Err(Error::Cancelled);
            }
        }
        found.root = image_root(&values);
        found.allocated_zero = longest(found.allocated_zero);
        Ok(found)
    }
}

/// Bytes of the pages that aren't zero (the image's last page counts whole).
fn data_bytes(map: &SegmentMap) -> u64 {
    let SegmentMap::Rows(rows) = map else { return 0 };
    let pages: u32 = rows.iter().map(|row| 16 - row.zero_mask().count_ones()).sum();
    u64::from(pages) * PAGE_BYTES as u64
}

fn dirty_bytes(
    segment: u32,
    map: &SegmentMap,
    size: u64,
    old: Option<&SegmentMap>,
    old_size: u64,
) -> u64 {
    match changed_blocks(segment, map, size, old, old_size) {
        Some(blocks) => {
            let pages: u32 = blocks.iter().map(|b| b.dirty.count_ones()).sum();
            u64::from(pages) * PAGE_BYTES as u64
        }
        None => old.map_or(0, data_bytes),
    }
}

/// The extents that overlap `start..end`.
fn overlapping(data: &[(u64, u64)], start: u64, end: u64) -> &[(u64, u64)] {
    let from = data.partition_point(|(_, e)| *e <= start);
    let to = data.partition_point(|(s, _)| *s < end);
    &data[from..to.max(from)]
}

/// The zero pages of a segment that lie inside data extents.
fn allocated_zero(segment: u32, bytes: &[u8], data: &[(u64, u64)]) -> Vec<PageExtent> {
    let start = u64::from(segment) * SEGMENT_BYTES;
    let mut zero = Vec::new();
    for (n, page) in bytes.chunks(PAGE_BYTES).enumerate() {
        let offset = start + (n * PAGE_BYTES) as u64;
        if is_zero(page) && !overlapping(data, offset, offset + 1).is_empty() {
            PageExtent::push(&mut zero, offset / PAGE_BYTES as u64);
        }
    }
    zero
}

fn join(all: &mut Vec<PageExtent>, more: Vec<PageExtent>) {
    for extent in more {
        match all.last_mut() {
            Some(last) if last.end() == Some(extent.first) => {
                last.count = last.count.saturating_add(extent.count);
            }
            _ => all.push(extent),
        }
    }
    // Bounded while it grows: single pages are the first to go.
    if all.len() > 4 * ALLOCATED_ZERO_MAX {
        *all = longest(std::mem::take(all));
    }
}

fn longest(mut all: Vec<PageExtent>) -> Vec<PageExtent> {
    if all.len() > ALLOCATED_ZERO_MAX {
        all.sort_unstable_by_key(|e| std::cmp::Reverse(e.count));
        all.truncate(ALLOCATED_ZERO_MAX);
        all.sort_unstable_by_key(|e| e.first);
    }
    all
}
