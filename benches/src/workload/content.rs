//! What the pages of a synthetic image hold: text, machine code with its tables, noise (what is
//! compressed already), rows of a database.
//!
//! A page's bytes follow from the kind of its file, the file's seed and the page's number in the
//! file, never from where it lies in the image. So a file can be moved, duplicated, or rewritten
//! page by page without keeping anything in memory. Words and instructions come from tables that
//! the image's seed makes, picked unevenly, so that compressors find about as much in them as in
//! the files of a real server.

use crate::ground::tools::Numbers;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;
/// A page.
pub(super) type Page = [u8; PAGE_BYTES];

/// A token is copied whole and then advanced over by its length: that much may stick out.
const TOKEN_BYTES: usize = 16;
const WORDS: usize = 4096;
const INSTRUCTIONS: usize = 512;
/// Letters as often as in English, roughly.
const LETTERS: &[u8] = b"eeeeeettttaaaaoooiiinnnsssrrrhhllddccuummfpgwybvk";
/// Bytes of a database page before its rows, and of a row.
const HEAD_BYTES: usize = 24;
const ROW_BYTES: usize = 120;

/// What is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Words, numbers, lines.
    Text,
    /// A program: instructions, relocations, names.
    Binary,
    /// What doesn't compress.
    Noise,
    /// Pages of a database: rows with numbers and blanks.
    Database,
}

/// A short run of bytes that comes again and again.
#[derive(Clone, Copy, Debug)]
struct Token {
    bytes: [u8; TOKEN_BYTES],
    length: usize,
    /// So many bytes at its end are an operand that differs each time.
    operand: usize,
}

/// Makes pages.
#[derive(Debug)]
pub(super) struct Contents {
    words: Vec<Token>,
    instructions: Vec<Token>,
}

/// A number that depends on both and looks like neither.
pub(super) fn mixed(seed: u64, value: u64) -> u64 {
    Numbers(seed ^ Numbers(value).next()).next()
}

impl Contents {
    /// The tables of this seed.
    pub(super) fn new(seed: u64) -> Contents {
        let mut numbers = Numbers(mixed(seed, 0x776f_7264));
        let words = (0..WORDS).map(|_| word(&mut numbers)).collect();
        let instructions = (0..INSTRUCTIONS).map(|_| instruction(&mut numbers)).collect();
        Contents { words, instructions }
    }

    /// The page with number `index` of the file with this kind and seed.
    pub(super) fn fill(&self, kind: Kind, seed: u64, index: u64, page: &mut Page) {
        let mut numbers = Numbers(mixed(seed, index));
        match kind {
            Kind::Text => self.text(&mut numbers, page),
            Kind::Binary if index == 0 => {
                self.code(&mut numbers, page);
                page[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
            }
            Kind::Binary => match numbers.below(8) {
                0 => relocations(&mut numbers, index, page),
                1 => self.names(&mut numbers, page),
                _ => self.code(&mut numbers, page),
            },
            Kind::Noise => numbers.fill(page),
            Kind::Database => self.rows(&mut numbers, index, page),
        }
    }

    /// A word; the first ones of the table come most often.
    fn word(&self, bits: u64) -> &Token {
        &self.words[uneven(bits, WORDS)]
    }

    fn text(&self, numbers: &mut Numbers, page: &mut Page) {
        let mut draft = [0; PAGE_BYTES + 4 * TOKEN_BYTES];
        let mut at = 0;
        while at < PAGE_BYTES {
            let number = numbers.next();
            at += put(&mut draft, at, self.word(number));
            at += put(&mut draft, at, self.word(number >> 24));
            match number >> 60 {
                0 => {
                    draft[at - 1] = b'\n';
                }
                1 => {
                    let digits = number >> 48 & 0xfff;
                    for shift in [8, 4, 0] {
                        draft[at] = b"0123456789abcdef"[(digits >> shift & 15) as usize];
                        at += 1;
                    }
                    draft[at] = b' ';
                    at += 1;
                }
                _ => {}
            }
        }
        page.copy_from_slice(&draft[..PAGE_BYTES]);
    }

    fn code(&self, numbers: &mut Numbers, page: &mut Page) {
        let mut draft = [0; PAGE_BYTES + 4 * TOKEN_BYTES];
        let mut at = 0;
        while at < PAGE_BYTES {
            let number = numbers.next();
            for bits in [number, number >> 32] {
                let token = &self.instructions[uneven(bits, INSTRUCTIONS)];
                at += put(&mut draft, at, token);
                if token.operand > 0 {
                    // Distances and offsets: mostly small, of either sign, rarely the same.
                    let small = bits >> 24 & 0xff;
                    let operand = if bits & 3 == 0 { !small } else { small << 3 };
                    let operand = operand.to_le_bytes();
                    draft[at - token.operand..at].copy_from_slice(&operand[..token.operand]);
                }
            }
        }
        page.copy_from_slice(&draft[..PAGE_BYTES]);
    }

    fn names(&self, numbers: &mut Numbers, page: &mut Page) {
        let mut draft = [0; PAGE_BYTES + 4 * TOKEN_BYTES];
        let mut at = 0;
        while at < PAGE_BYTES {
            let number = numbers.next();
            at += put(&mut draft, at, self.word(number));
            draft[at - 1] = b'_';
            at += put(&mut draft, at, self.word(number >> 24));
            draft[at - 1] = 0;
        }
        page.copy_from_slice(&draft[..PAGE_BYTES]);
    }

    fn rows(&self, numbers: &mut Numbers, index: u64, page: &mut Page) {
        page.fill(b' ');
        let count = (PAGE_BYTES - HEAD_BYTES) / ROW_BYTES;
        page[..HEAD_BYTES].fill(0);
        page[..8].copy_from_slice(&numbers.next().to_le_bytes());
        page[8..16].copy_from_slice(&index.to_le_bytes());
        for row in 0..count {
            let start = HEAD_BYTES + row * ROW_BYTES;
            let number = numbers.next();
            let id = index * count as u64 + row as u64;
            page[start..start + 8].copy_from_slice(&id.to_le_bytes());
            page[start + 8..start + 12].copy_from_slice(&(number as u32 >> 8).to_le_bytes());
            page[start + 12..start + 16].fill(0);
            let mut at = start + 16;
            for bits in [number >> 16, number >> 40] {
                at += put(page, at, self.word(bits));
            }
            page[at..start + ROW_BYTES].fill(b' ');
        }
    }

    /// Overwrites a few bytes with what a database might write there: a number, then words.
    pub(super) fn edit(&self, numbers: &mut Numbers, bytes: &mut [u8]) {
        let mut draft = [b' '; 64 + 2 * TOKEN_BYTES];
        draft[..8].copy_from_slice(&numbers.next().to_le_bytes());
        let mut at = 8;
        while at < bytes.len() {
            at += put(&mut draft, at, self.word(numbers.next()));
        }
        let length = bytes.len();
        bytes.copy_from_slice(&draft[..length]);
    }
}

/// Copies a token; gives its length.
fn put(draft: &mut [u8], at: usize, token: &Token) -> usize {
    draft[at..at + TOKEN_BYTES].copy_from_slice(&token.bytes);
    token.length
}

/// An index below `end` (at most 4096) from 24 bits, small ones far more often than large ones.
fn uneven(bits: u64, end: usize) -> usize {
    let (left, right) = (bits & 0xfff, bits >> 12 & 0xfff);
    ((left * right) as usize * end) >> 24
}

fn word(numbers: &mut Numbers) -> Token {
    let mut bytes = [b' '; TOKEN_BYTES];
    let letters = 2 + numbers.below(5) as usize + numbers.below(6) as usize;
    for letter in &mut bytes[..letters] {
        *letter = LETTERS[numbers.below(LETTERS.len() as u64) as usize];
    }
    if numbers.below(8) == 0 {
        bytes[letters] = b"=:;.,/()"[numbers.below(8) as usize];
    }
    Token { bytes, length: letters + 1, operand: 0 }
}

fn instruction(numbers: &mut Numbers) -> Token {
    let mut bytes = [0; TOKEN_BYTES];
    // One instruction or a few that usually go together.
    let length = 3 + numbers.below(9) as usize;
    numbers.fill(&mut bytes[..length]);
    // Long ones end in a displacement or a constant.
    let operand = match length {
        3 | 4 => 0,
        5..8 => 1,
        _ => 4,
    };
    Token { bytes, length, operand }
}

/// Entries of 24 bytes: a rising address, a type, an addend.
fn relocations(numbers: &mut Numbers, index: u64, page: &mut Page) {
    let mut address = 0x4000 + index * 0x1000;
    for entry in page.chunks_mut(24) {
        let number = numbers.next();
        address += 8 << (number & 1);
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8] = 8;
        bytes[16..24].copy_from_slice(&(number >> 44 << 2).to_le_bytes());
        entry.copy_from_slice(&bytes[..entry.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(kind: Kind, count: u64) -> Vec<u8> {
        let contents = Contents::new(1);
        let mut page = [0; PAGE_BYTES];
        let mut all = Vec::new();
        for index in 0..count {
            contents.fill(kind, 5, index, &mut page);
            all.extend_from_slice(&page);
        }
        all
    }

    #[test]
    fn each_kind_compresses_like_what_it_stands_for() {
        let bounds = [
            (Kind::Text, 2.2, 4.0),
            (Kind::Binary, 1.8, 3.2),
            (Kind::Noise, 0.99, 1.01),
            (Kind::Database, 3.5, 9.0),
        ];
        for (kind, least, most) in bounds {
            let bytes = pages(kind, 128);
            let ratio = bytes.len() as f64 / zstd::bulk::compress(&bytes, 3).unwrap().len() as f64;
            assert!((least..most).contains(&ratio), "{kind:?}: {ratio:.2}");
        }
    }

    #[test]
    fn pages_differ_and_none_is_zero() {
        for kind in [Kind::Text, Kind::Binary, Kind::Noise, Kind::Database] {
            let bytes = pages(kind, 64);
            let mut pages: Vec<&[u8]> = bytes.chunks(PAGE_BYTES).collect();
            assert!(pages.iter().all(|page| page.iter().any(|byte| *byte != 0)));
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len(), 64, "{kind:?}");
        }
    }

    #[test]
    fn tables_follow_the_seed() {
        let (mut left, mut right) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        Contents::new(1).fill(Kind::Text, 9, 3, &mut left);
        Contents::new(2).fill(Kind::Text, 9, 3, &mut right);
        assert_ne!(left, right);
        Contents::new(1).fill(Kind::Text, 9, 3, &mut right);
        assert_eq!(left, right);
    }
}
