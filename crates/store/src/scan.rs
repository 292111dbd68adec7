//! The digest station at work: looks at a frozen or quiet file segment by segment on several
//! threads and says what each holds. Chunks are cut only where something changed. A segment is
//! read whole (`whole`), or, where it is known which extents may have changed, only there
//! (`partial`).

mod partial;
mod room;
mod tally;
mod whole;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use blockferry_delta::{
    BlockHash, Chunk, Chunker, LOOKAHEAD_BYTES, PAGE_BYTES, PageExtent, Root, SEGMENT_BYTES,
    SegmentMap, hashed_alike, image_root, segment_count, segment_len,
};

use crate::catalog::CatalogRead;
use crate::disk::{AlignedBuf, DiskFile, step_back};
use crate::error::{Error, IoContext, Result};

use self::room::Room;

/// Finished segments that may wait for an earlier one.
const SEGMENTS_AHEAD: usize = 8;
/// Bytes of the buffer that a thread reads a whole segment into: a page before it, and what follows.
const SEGMENT_BUFFER_BYTES: usize = PAGE_BYTES + SEGMENT_BYTES as usize + LOOKAHEAD_BYTES;
/// Threads that read here and there, of a scan of more than one thread: each waits for the disk, and a
/// disk answers many at once.
const PARTIAL_THREADS: usize = 8;
/// Bytes that each of these reads at once; for more it takes its turn with a larger buffer...
const PARTIAL_BUFFER_BYTES: usize = 512 << 10;
/// ...of which there are so many, if that many threads scan.
const PARTIAL_LARGE_MAX: usize = 3;

/// With so many threads, or more, none is added: they keep a disk busy.
const WHOLE_THREADS_ENOUGH: usize = 4;

/// Threads that read everything, of a scan of so many: a thread that waits for the disk leaves its core
/// to one that hashes.
const fn whole_threads(threads: usize) -> usize {
    match threads {
        0 | 1 => 1,
        few if few * 2 <= WHOLE_THREADS_ENOUGH => few * 2,
        some if some <= WHOLE_THREADS_ENOUGH => WHOLE_THREADS_ENOUGH,
        many => many,
    }
}

/// Most bytes of memory that a scan of so many threads takes for what it reads.
pub const fn scan_buffers_bytes(threads: usize) -> usize {
    let large = if threads < PARTIAL_LARGE_MAX { threads } else { PARTIAL_LARGE_MAX };
    let partial = large * SEGMENT_BUFFER_BYTES + PARTIAL_THREADS * PARTIAL_BUFFER_BYTES;
    let whole = whole_threads(threads) * SEGMENT_BUFFER_BYTES;
    if partial > whole { partial } else { whole }
}

/// Niceness of scanning threads: whoever asks the service something goes first.
const SCAN_NICE: i32 = 5;
/// Told how a long job gets on; may ask it to stop.
pub trait Progress: Sync {
    /// `done_bytes` of `total_bytes` are done.
    fn advance(&self, done_bytes: u64, total_bytes: u64);

    /// So many bytes are about to be read from the disk for it. It may keep the reader waiting.
    fn reading(&self, _bytes: u64) {}

    /// Should the job stop?
    fn cancelled(&self) -> bool {
        false
    }

    /// A file that somebody has open for writing was cloned, which kept the writer waiting for at
    /// most so many milliseconds.
    fn frozen(&self, _millis: u64) {}

    /// Something happened that people should know of, and that is no error: its stable code, and
    /// what it was.
    fn event(&self, _code: &'static str, _text: &str) {}
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
    /// Where data is: (start, end) in bytes, ascending. The rest is holes.
    pub(crate) data: &'a [(u64, u64)],
    /// Where something may differ from what is known: (offset, length); `None`: anywhere.
    pub(crate) differing: Option<&'a [(u64, u64)]>,
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

/// Where a file has data, as far as the filesystem tells: (start, end) in bytes.
pub(crate) fn data_extents(
    file: &dyn DiskFile,
    path: &str,
    size_bytes: u64,
) -> Result<Vec<(u64, u64)>> {
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size_bytes {
        let next = file.next_data(at).during("find data of", path)?;
        let Some((start, end)) = next.filter(|(start, _)| *start < size_bytes) else {
            break;
        };
        let end = end.min(size_bytes).max(start + 1);
        extents.push((start, end));
        at = end;
    }
    Ok(extents)
}

impl Scan<'_> {
    /// Scans the file; `changed` gets the segments that differ from what is known, in order.
    pub(crate) fn run(&self, changed: &mut dyn FnMut(Changed) -> Result<()>) -> Result<Scanned> {
        let (next, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        let large = Room::new(self.threads.min(PARTIAL_LARGE_MAX));
        let threads = match self.differing {
            Some(_) if self.threads > 1 => self.threads.max(PARTIAL_THREADS),
            _ => whole_threads(self.threads),
        };
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(SEGMENTS_AHEAD);
            for _ in 0..threads {
                let (send, next, stop, large) = (send.clone(), &next, &stop, &large);
                scope.spawn(move || self.work(next, stop, large, &send));
            }
            drop(send);
            let outcome = self.gather(&receive, changed);
            // Workers blocked on a full channel must not outlive an error.
            stop.store(true, Ordering::Relaxed);
            drop(receive);
            outcome
        })
    }

    fn work(
        &self,
        next: &AtomicU32,
        stop: &AtomicBool,
        large: &Room,
        send: &SyncSender<Result<Outcome>>,
    ) {
        if let Err(error) = step_back(SCAN_NICE) {
            tracing::debug!(%error, "scanning at normal priority");
        }
        let partly = self.differing.is_some();
        let bytes = if partly { PARTIAL_BUFFER_BYTES } else { SEGMENT_BUFFER_BYTES };
        let mut buf = AlignedBuf::with_capacity(bytes);
        while !stop.load(Ordering::Relaxed) {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= segment_count(self.size_bytes) {
                return;
            }
            let outcome = match self.differing {
                None => self.whole(segment, &mut buf),
                Some(differing) => self.partial(segment, differing, &mut buf, large),
            };
            let failed = outcome.is_err();
            if send.send(outcome).is_err() || failed {
                return;
            }
        }
    }

    /// The data extents of a segment.
    fn data_in(&self, segment: u32) -> &[(u64, u64)] {
        let start = u64::from(segment) * SEGMENT_BYTES;
        tally::overlapping(self.data, start, start + segment_len(segment, self.size_bytes) as u64)
    }

    fn read(&self, buf: &mut AlignedBuf, offset: u64, bytes: usize) -> Result<()> {
        self.progress.reading(bytes as u64);
        let got = self.file.read_bulk_at(buf, offset, bytes).during("read", self.path)?;
        if got == bytes {
            return Ok(());
        }
        let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(Error::Io { op: "read", path: self.path.to_owned(), source: short })
    }

    fn hole(&self, segment: u32) -> Result<Outcome> {
        let (old, old_bytes) = self.old(segment)?;
        // Hashing zeros costs as much as hashing data: a known value is kept.
        let same = segment_len(segment, old_bytes) == segment_len(segment, self.size_bytes)
            && hashed_alike(old_bytes, self.size_bytes);
        let map = match &old {
            Some(zero @ SegmentMap::Zero(_)) if same => zero.clone(),
            _ => SegmentMap::zero(segment, self.size_bytes),
        };
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
        let data_bytes = tally::data_bytes(&map);
        let unchanged = old.as_ref() == Some(&map);
        let dirty_bytes = if unchanged {
            0
        } else {
            tally::dirty_bytes(segment, &map, self.size_bytes, old.as_ref(), old_bytes)
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
        receive: &Receiver<Result<Outcome>>,
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
        for outcome in receive {
            let outcome = outcome?;
            waiting.insert(outcome.segment, outcome);
            while let Some(outcome) = waiting.remove(&(values.len() as u32)) {
                values.push(outcome.value);
                found.bytes_read += outcome.bytes_read;
                found.dirty_bytes += outcome.dirty_bytes;
                found.data_bytes += outcome.data_bytes;
                tally::join(&mut found.allocated_zero, outcome.allocated_zero);
                outcome.changed.map_or(Ok(()), &mut *changed)?;
            }
            let done = values.len() as u64 * SEGMENT_BYTES;
            self.progress.advance(done.min(self.size_bytes), self.size_bytes);
            if self.progress.cancelled() {
                return Err(Error::Cancelled);
            }
        }
        found.root = image_root(&values);
        found.allocated_zero = tally::longest(found.allocated_zero);
        Ok(found)
    }
}
