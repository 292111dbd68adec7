//! The text form of a map of changes: `START LENGTH [STATE]` lines, and lines that say what the map
//! is a difference from and to. Total: any bytes give a map or the reason why not, and nothing is
//! allocated by a number in them. `docs/format.md` describes it.

use blockferry_delta::{IMAGE_BYTES_MAX, Root};

use super::runs::RANGES_MAX;
use super::{Base, Ranges, Runs};

/// First line of our own form; other forms have none.
const HEADING: &str = "# blockferry changed ";
const VERSION: &str = "v1";
/// Bytes of the longest line.
const LINE_BYTES_MAX: usize = 4096;
/// Digits of a nanosecond fraction.
const NANO_DIGITS: usize = 9;

/// A map as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TextMap {
    pub(super) base: Option<Base>,
    pub(super) size_bytes: Option<u64>,
    /// The image's mtime when the map was finished.
    pub(super) mtime_ns: Option<i128>,
    pub(super) inode: Option<u64>,
    pub(super) dirty: Ranges,
    /// Its last line says that it is the last.
    pub(super) ends: bool,
    /// It tells of every byte up to here, without a gap.
    pub(super) covers_bytes: Option<u64>,
}

/// What a line says of its range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Dirty,
    Clean,
}

#[derive(Default)]
struct Reader {
    map: TextMap,
    runs: Runs,
    /// Where the next range begins if there is no gap.
    next: Option<u64>,
    ranges: u64,
    headed: bool,
}

impl TextMap {
    /// Reads a map.
    pub(super) fn parse(text: &[u8]) -> Result<TextMap, String> {
        let mut reader = Reader { next: Some(0), ..Reader::default() };
        for (number, line) in (1_u64..).zip(text.split(|byte| *byte == b'\n')) {
            reader.line(number, line).map_err(|what| format!("line {number}: {what}"))?;
        }
        let Reader { mut map, runs, next, ranges, .. } = reader;
        map.covers_bytes = next.filter(|_| ranges > 0);
        map.dirty = runs.finish();
        Ok(map)
    }
}

impl Reader {
    fn line(&mut self, number: u64, line: &[u8]) -> Result<(), String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!("longer than {LINE_BYTES_MAX} bytes"));
        }
        let line = std::str::from_utf8(line).map_err(|_| "not text".to_owned())?.trim_end();
        if number == 1
            && let Some(version) = line.strip_prefix(HEADING)
        {
            if version != VERSION {
                return Err(format!("a version other than {VERSION}"));
            }
            self.headed = true;
            return Ok(());
        }
        let words: Vec<&str> =
            line.split_ascii_whitespace().take_while(|word| !word.starts_with('#')).collect();
        match words[..] {
            [] => Ok(()),
            _ if self.map.ends => Err("something follows the line end".to_owned()),
            ["end"] => {
                self.map.ends = true;
                Ok(())
            }
            [key @ ("base" | "size" | "mtime" | "inode"), value] => self.fact(key, value),
            // ddrescue's first line: where it was, and in which phase.
            [_, "?" | "*" | "/" | "-" | "F" | "G" | "+"]
            | [_, "?" | "*" | "/" | "-" | "F" | "G" | "+", _]
                if self.ranges == 0 && !self.headed =>
            {
                Ok(())
            }
            [start, bytes] => self.range(start, bytes, State::Dirty),
            [start, bytes, state] => self.range(start, bytes, state_of(state)?),
            _ => Err("expected START LENGTH STATE".to_owned()),
        }
    }

    fn fact(&mut self, key: &str, value: &str) -> Result<(), String> {
        let twice = match key {
            "base" => self.map.base.replace(base(value)?).is_some(),
            "size" => self.map.size_bytes.replace(number(value)?).is_some(),
            "mtime" => self.map.mtime_ns.replace(nanoseconds(value)?).is_some(),
            _ => self.map.inode.replace(number(value)?).is_some(),
        };
        if twice { Err(format!("{key} is said twice")) } else { Ok(()) }
    }

    fn range(&mut self, start: &str, bytes: &str, state: State) -> Result<(), String> {
        let (start, bytes) = (number(start)?, number(bytes)?);
        let end = start.checked_add(bytes).filter(|end| *end <= 2 * IMAGE_BYTES_MAX);
        let end = end.ok_or("beyond the end of any image")?;
        if bytes == 0 {
            return Err("a range of no bytes".to_owned());
        }
        self.ranges += 1;
        self.next = self.next.filter(|next| *next == start).map(|_| end);
        if state == State::Dirty && !self.runs.push(start, end) {
            return Err(format!("more than {RANGES_MAX} ranges"));
        }
        Ok(())
    }
}

/// What a word says of its range: our own words, borg's, and the signs of ddrescue's domain maps.
fn state_of(word: &str) -> Result<State, String> {
    match word {
        "dirty" | "changed" | "data" | "zero" | "+" | "*" | "/" | "-" => Ok(State::Dirty),
        "clean" | "unchanged" | "same" | "?" => Ok(State::Clean),
        _ => Err("a state other than dirty or clean".to_owned()),
    }
}

fn base(text: &str) -> Result<Base, String> {
    if let Ok(root) = text.parse::<Root>() {
        return Ok(Base::Root(root));
    }
    number(text).map(Base::Number).map_err(|_| "base is a root or a generation's number".to_owned())
}

/// A number, decimal or hexadecimal after `0x`.
fn number(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` takes a sign.
    if digits.starts_with(['+', '-']) {
        return Err("not a number".to_owned());
    }
    u64::from_str_radix(digits, radix).map_err(|_| "not a number".to_owned())
}

/// Seconds since 1970 with a fraction, as `stat -c %.9Y` prints them.
fn nanoseconds(text: &str) -> Result<i128, String> {
    let bad = || "mtime is not SECONDS.NANOSECONDS".to_owned();
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if !digits(seconds) || !digits(fraction) || fraction.len() > NANO_DIGITS {
        return Err(bad());
    }
    let seconds: u64 = seconds.parse().map_err(|_| bad())?;
    let nanos: u64 = format!("{fraction:0<NANO_DIGITS$}").parse().map_err(|_| bad())?;
    Ok(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}
