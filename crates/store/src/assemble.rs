//! Assembling one block from what is kept, zero, found and sent. Pure: bytes in, a verified block
//! out. Only [`BlockBuild::verify`] makes a [`Verified`], and only a [`Verified`] is written.

use blockferry_delta::{
    BLOCK_BYTES, BlockRow, ChangedBlock, Keys, PAGE_BYTES, PAGES_PER_BLOCK, PageExtent, block_len,
    block_pages_mask, verify_block,
};

/// Where pages that came in the wire's packs are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The peer sent every byte.
    Sent,
    /// Bytes of the base went into them.
    Guessed,
}

/// What chunks give to the pages of a block.
#[derive(Debug, Default)]
struct Given {
    /// Bytes of each page that found chunks gave.
    covered: [u16; PAGES_PER_BLOCK],
    /// Bytes of each page that chunks will give which another part brings.
    promised: [u16; PAGES_PER_BLOCK],
    /// Missing pages that are not to be sent: everything that lacks is promised.
    awaited: u16,
}

/// A block on its way to be complete.
#[derive(Debug)]
pub(crate) struct BlockBuild {
    changed: ChangedBlock,
    /// Empty until the block is loaded: a block that only waits takes no memory.
    bytes: Vec<u8>,
    /// Pages still to come.
    missing: u16,
    /// What chunks give. Boxed: blocks are moved about.
    given: Box<Given>,
    /// Nothing in it is a guess any more: every page was sent or is zero.
    certain: bool,
    /// Bytes of the base went into pages that were sent.
    guessed: bool,
    image_bytes: u64,
}

/// A block whose bytes are proved by its hash.
#[derive(Debug)]
pub(crate) struct Verified {
    changed: ChangedBlock,
    bytes: Vec<u8>,
    /// All pages are to be written, because what was kept turned out wrong.
    rewrite: bool,
}

impl BlockBuild {
    /// A block of an image of `image_bytes` of which nothing is here yet.
    pub(crate) fn new(changed: ChangedBlock, image_bytes: u64) -> Self {
        Self {
            changed,
            bytes: Vec::new(),
            missing: changed.dirty & !changed.zero,
            given: Box::default(),
            certain: false,
            guessed: false,
            image_bytes,
        }
    }

    /// Has it got its base?
    pub(crate) fn is_loaded(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Does it keep pages of the base, so that they have to be read?
    pub(crate) fn keeps_pages(&self) -> bool {
        !self.changed.dirty & block_pages_mask(self.changed.index, self.image_bytes) != 0
    }

    /// Gives it the base's bytes at its place, cut or padded with zeros to its length.
    pub(crate) fn load(&mut self, mut base: Vec<u8>) {
        base.resize(block_len(self.changed.index, self.image_bytes), 0);
        for (page, bytes) in base.chunks_mut(PAGE_BYTES).enumerate() {
            if self.changed.zero & (1 << page) != 0 {
                bytes.fill(0);
            }
        }
        self.bytes = base;
    }

    /// Does a chunk lie over a page that is missing?
    pub(crate) fn misses_in(&self, offset: u64, chunk_end: u64) -> bool {
        self.any_in(self.missing, offset, chunk_end)
    }

    /// Does a chunk lie over a page that waits for what another part brings?
    pub(crate) fn awaits_in(&self, offset: u64, chunk_end: u64) -> bool {
        self.any_in(self.given.awaited, offset, chunk_end)
    }

    fn any_in(&self, pages: u16, offset: u64, chunk_end: u64) -> bool {
        let is_under = |page: usize| self.over(page, offset, chunk_end).is_some();
        (0..PAGES_PER_BLOCK).any(|page| pages & (1 << page) != 0 && is_under(page))
    }

    /// The bytes of a page, by their places in the image, that a chunk lies over.
    fn over(&self, page: usize, offset: u64, chunk_end: u64) -> Option<(u64, u64)> {
        let page_start = self.start() + (page * PAGE_BYTES) as u64;
        let page_end = page_start + self.page_len(page) as u64;
        let (from, to) = (offset.max(page_start), chunk_end.min(page_end));
        (from < to).then_some((from, to))
    }

    /// Byte offset of the block in the image.
    fn start(&self) -> u64 {
        self.changed.index * BLOCK_BYTES as u64
    }

    /// Takes what of a found chunk (bytes at `offset` of the image) lies over missing pages of this
    /// loaded block. Returns how many bytes that is.
    pub(crate) fn find(&mut self, offset: u64, chunk: &[u8]) -> u64 {
        let (start, chunk_end) = (self.start(), offset + chunk.len() as u64);
        let mut taken = 0;
        for page in (0..PAGES_PER_BLOCK).filter(|page| self.missing & (1 << page) != 0) {
            let Some((from, to)) = self.over(page, offset, chunk_end) else { continue };
            let bytes = &chunk[(from - offset) as usize..(to - offset) as usize];
            self.bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(bytes);
            self.given.covered[page] += bytes.len() as u16;
            taken += bytes.len() as u64;
        }
        taken
    }

    /// Another part brings a chunk that this block has, too. Returns how many bytes of it lie over
    /// missing pages.
    pub(crate) fn promise(&mut self, offset: u64, chunk_end: u64) -> u64 {
        let mut bytes = 0;
        for page in (0..PAGES_PER_BLOCK).filter(|page| self.missing & (1 << page) != 0) {
            let Some((from, to)) = self.over(page, offset, chunk_end) else { continue };
            self.given.promised[page] =
                self.given.promised[page].saturating_add((to - from) as u16);
            bytes += to - from;
        }
        bytes
    }

    /// A chunk that was promised is there, or it isn't what it was said to be: then the pages under
    /// it are wrong, which the block's hash will say. A chunk that is there needs a loaded block.
    pub(crate) fn arrived(&mut self, offset: u64, chunk_end: u64, chunk: Option<&[u8]>) {
        let start = self.start();
        for page in 0..PAGES_PER_BLOCK {
            let over = self.over(page, offset, chunk_end);
            let Some((from, to)) = over.filter(|_| self.given.awaited & (1 << page) != 0) else {
                continue;
            };
            if let Some(chunk) = chunk {
                let bytes = &chunk[(from - offset) as usize..(to - offset) as usize];
                self.bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(bytes);
            }
            self.given.promised[page] =
                self.given.promised[page].saturating_sub((to - from) as u16);
            if self.given.promised[page] == 0 {
                self.given.awaited &= !(1 << page);
                self.missing &= !(1 << page);
            }
        }
    }

    /// Pages that found chunks cover whole are no longer missing; those that found and promised
    /// ones cover together wait for these. To what else is missing nothing is promised: it is sent.
    pub(crate) fn settle_found(&mut self) {
        for page in 0..PAGES_PER_BLOCK {
            let (bytes, bit) = (self.page_len(page), 1 << page);
            let [covered, promised] =
                [self.given.covered[page], self.given.promised[page]].map(usize::from);
            if bytes > 0 && covered == bytes {
                self.missing &= !bit;
            } else if promised > 0 && covered + promised == bytes {
                self.given.awaited |= self.missing & bit;
            }
            if self.given.awaited & bit == 0 {
                self.given.promised[page] = 0;
            }
        }
    }

    /// Takes a page that was sent into this loaded block. `false` when it wasn't wanted or has
    /// another length.
    pub(crate) fn sent(&mut self, page: usize, bytes: &[u8], origin: Origin) -> bool {
        let start = page * PAGE_BYTES;
        let end = self.bytes.len().min(start + PAGE_BYTES);
        let wanted = self.missing & !self.given.awaited;
        if wanted & (1 << page) == 0 || start >= end || bytes.len() != end - start {
            return false;
        }
        self.bytes[start..end].copy_from_slice(bytes);
        self.missing &= !(1 << page);
        self.guessed |= origin == Origin::Guessed;
        true
    }

    /// Length of the block.
    pub(crate) fn len(&self) -> usize {
        block_len(self.changed.index, self.image_bytes)
    }

    /// Length of one page of this block.
    pub(crate) fn page_len(&self, page: usize) -> usize {
        self.len().saturating_sub(page * PAGE_BYTES).min(PAGE_BYTES)
    }

    /// Is no page missing?
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Is nothing in it a guess?
    pub(crate) fn is_certain(&self) -> bool {
        self.certain && !self.guessed
    }

    /// Number of the block.
    pub(crate) fn index(&self) -> u64 {
        self.changed.index
    }

    /// Appends the pages that are to be sent to a list of extents.
    pub(crate) fn wants(&self, list: &mut Vec<PageExtent>) {
        let first = self.changed.index * PAGES_PER_BLOCK as u64;
        let wanted = self.missing & !self.given.awaited;
        for page in (0..PAGES_PER_BLOCK as u64).filter(|p| wanted & (1 << p) != 0) {
            PageExtent::push(list, first + page);
        }
    }

    /// Gives up all guesses: every page is to be sent.
    pub(crate) fn want_all(&mut self) {
        self.missing = block_pages_mask(self.changed.index, self.image_bytes);
        *self.given = Given::default();
        self.certain = true;
        self.guessed = false;
    }

    /// Proves the block, or gives it back.
    pub(crate) fn verify(self) -> std::result::Result<Verified, Self> {
        let proved = self.is_complete()
            && self.is_loaded()
            && verify_block(self.changed.index, &self.bytes, self.image_bytes, &self.changed.hash);
        if !proved {
            return Err(self);
        }
        Ok(Verified { changed: self.changed, bytes: self.bytes, rewrite: self.certain })
    }
}

impl Verified {
    /// Number of the block.
    pub(crate) fn index(&self) -> u64 {
        self.changed.index
    }

    /// The block-map row of the block.
    pub(crate) fn row(&self, keys: &Keys) -> BlockRow {
        BlockRow { hash: self.changed.hash, prints: keys.pages(&self.bytes) }
    }

    /// What has to be written: (offset in the image, bytes) of runs of pages that aren't zero.
    pub(crate) fn writes(&self) -> Vec<(u64, &[u8])> {
        let all = if self.rewrite { u16::MAX } else { self.changed.dirty };
        self.runs(all & !self.zero_mask(all))
    }

    /// What has to become a hole: (offset, bytes) of runs of zero pages.
    pub(crate) fn holes(&self) -> Vec<(u64, u64)> {
        let all = if self.rewrite { u16::MAX } else { self.changed.dirty };
        self.runs(self.zero_mask(all)).into_iter().map(|(at, run)| (at, run.len() as u64)).collect()
    }

    fn zero_mask(&self, among: u16) -> u16 {
        let zero = |page: &usize| {
            let start = page * PAGE_BYTES;
            let end = self.bytes.len().min(start + PAGE_BYTES);
            among & (1 << page) != 0
                && start < end
                && blockferry_delta::is_zero(&self.bytes[start..end])
        };
        (0..PAGES_PER_BLOCK).filter(zero).fold(0, |mask, page| mask | (1 << page))
    }

    fn runs(&self, mask: u16) -> Vec<(u64, &[u8])> {
        let start = self.changed.index * BLOCK_BYTES as u64;
        let (mut runs, mut page) = (Vec::new(), 0);
        while page < PAGES_PER_BLOCK {
            let first = page;
            while page < PAGES_PER_BLOCK && mask & (1 << page) != 0 {
                page += 1;
            }
            let end = self.bytes.len().min(page * PAGE_BYTES);
            if page > first && first * PAGE_BYTES < end {
                let run = &self.bytes[first * PAGE_BYTES..end];
                runs.push((start + (first * PAGE_BYTES) as u64, run));
            }
            page += 1;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use blockferry_delta::block_hash;

    use super::*;

    const SIZE: u64 = 10 * BLOCK_BYTES as u64 + 5000;

    fn block(fill: impl Fn(usize) -> u8, len: usize) -> Vec<u8> {
        (0..len).map(|i| fill(i / PAGE_BYTES)).collect()
    }

    fn changed(index: u64, bytes: &[u8], dirty: u16, zero: u16) -> ChangedBlock {
        ChangedBlock { index, dirty, zero, hash: block_hash(index, bytes, SIZE) }
    }

    #[test]
    fn kept_zero_found_and_sent_pages_make_a_block() {
        let base = block(|p| p as u8 + 1, BLOCK_BYTES);
        let mut new = base.clone();
        new[PAGE_BYTES..2 * PAGE_BYTES].fill(0);
        new[3 * PAGE_BYTES..5 * PAGE_BYTES].fill(77);
        new[9 * PAGE_BYTES..10 * PAGE_BYTES].fill(78);
        let mut build = BlockBuild::new(changed(2, &new, 0b10_0001_1010, 0b10), SIZE);
        assert!(build.keeps_pages() && !build.is_loaded());
        build.load(base);
        let start = 2 * BLOCK_BYTES as u64;
        // The chunk begins in page 2, which is kept, and ends in the middle of page 9.
        let from = 2 * PAGE_BYTES + 100;
        let to = 9 * PAGE_BYTES + 2000;
        assert_eq!(build.find(start + from as u64, &new[from..to]), 2 * 4096 + 2000);
        build.settle_found();
        let mut wants = Vec::new();
        build.wants(&mut wants);
        assert_eq!(wants, [PageExtent { first: 41, count: 1 }]);
        let build = build.verify().expect_err("page 9 is missing");
        let mut build = build;
        assert!(
            !build.sent(9, &[1; 5], Origin::Sent)
                && !build.sent(0, &new[..PAGE_BYTES], Origin::Sent)
        );
        assert!(build.sent(9, &new[9 * PAGE_BYTES..10 * PAGE_BYTES], Origin::Sent));
        let verified = build.verify().expect("complete");
        let writes = verified.writes();
        assert_eq!(writes.iter().map(|(_, b)| b.len()).collect::<Vec<_>>(), [8192, 4096]);
        assert_eq!(writes[0].0, start + 3 * 4096);
        assert_eq!(verified.holes(), [(start + 4096, 4096)]);
    }

    #[test]
    fn what_is_promised_is_not_wanted_and_comes_later() {
        let new = block(|p| p as u8 + 1, BLOCK_BYTES);
        let start = 2 * BLOCK_BYTES as u64;
        let building = || {
            let mut build = BlockBuild::new(changed(2, &new, u16::MAX, 0), SIZE);
            build.load(Vec::new());
            // Found to the middle of page 3, promised from there to the middle of page 6.
            assert_eq!(build.find(start, &new[..14_000]), 14_000);
            assert_eq!(build.promise(start + 14_000, start + 26_000), 12_000);
            build.settle_found();
            build
        };
        let mut build = building();
        let mut wants = Vec::new();
        build.wants(&mut wants);
        assert_eq!(wants, [PageExtent { first: 32 + 6, count: 10 }], "page 6 is not whole");
        assert!(build.awaits_in(start + 14_000, start + 26_000));
        assert!(!build.awaits_in(start + 24_576, start + 26_000), "what is wanted isn't awaited");
        let page = |n: usize| &new[n * PAGE_BYTES..(n + 1) * PAGE_BYTES];
        assert!(!build.sent(4, page(4), Origin::Sent), "it was not wanted");
        (6..16).for_each(|n| assert!(build.sent(n, page(n), Origin::Sent)));
        assert!(!build.is_complete());
        build.arrived(start + 14_000, start + 26_000, Some(&new[14_000..26_000]));
        assert_eq!(build.verify().expect("complete").writes(), [(start, new.as_slice())]);

        let mut build = building();
        build.arrived(start + 14_000, start + 26_000, None);
        (6..16).for_each(|n| assert!(build.sent(n, page(n), Origin::Sent)));
        let mut build = build.verify().expect_err("it came to nothing");
        build.want_all();
        (0..16).for_each(|n| assert!(build.sent(n, page(n), Origin::Sent)));
        assert!(build.verify().is_ok());
    }

    #[test]
    fn a_wrong_guess_is_not_verified_and_everything_is_wanted() {
        let base = block(|_| 1, BLOCK_BYTES);
        let mut new = base.clone();
        new[10] = 2;
        // The fingerprint said page 0 is the same.
        let mut build = BlockBuild::new(changed(0, &new, 0, 0), SIZE);
        build.load(base);
        let mut build = build.verify().expect_err("the kept page is wrong");
        build.want_all();
        for page in 0..PAGES_PER_BLOCK {
            assert!(build.sent(
                page,
                &new[page * PAGE_BYTES..(page + 1) * PAGE_BYTES],
                Origin::Sent
            ));
        }
        let verified = build.verify().expect("all sent");
        assert_eq!(verified.writes(), [(0, new.as_slice())]);
    }

    #[test]
    fn a_block_of_guessed_pages_is_not_certain() {
        let new = block(|p| p as u8 + 1, BLOCK_BYTES);
        let mut build = BlockBuild::new(changed(0, &new, u16::MAX, 0), SIZE);
        build.load(Vec::new());
        // All of it was wanted at once, and a page came out wrong because the base is another.
        build.want_all();
        for page in 0..PAGES_PER_BLOCK {
            let mut bytes = new[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].to_vec();
            bytes[0] ^= u8::from(page == 5);
            let origin = if page == 5 { Origin::Guessed } else { Origin::Sent };
            assert!(build.sent(page, &bytes, origin));
        }
        let mut build = build.verify().expect_err("page 5 is wrong");
        assert!(!build.is_certain(), "it is wanted again");
        build.want_all();
        assert!(build.is_certain(), "and then no more");
    }

    #[test]
    fn the_short_last_block_works_alike() {
        let new = block(|p| p as u8 + 1, 5000);
        let mut build = BlockBuild::new(changed(10, &new, 0b11, 0), SIZE);
        assert!(!build.keeps_pages());
        build.load(Vec::new());
        assert_eq!((build.page_len(0), build.page_len(1), build.page_len(2)), (4096, 904, 0));
        assert!(
            build.sent(0, &new[..4096], Origin::Sent) && build.sent(1, &new[4096..], Origin::Sent)
        );
        let verified = build.verify().expect("complete");
        assert_eq!(verified.writes(), [(10 * BLOCK_BYTES as u64, new.as_slice())]);
    }
}
