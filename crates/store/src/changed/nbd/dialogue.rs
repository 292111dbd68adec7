//! The dialogue with an NBD server: handshake, the export's size, the status of its blocks.
//!
//! Works on any stream, so that tests can play the server.

#![expect(clippy::big_endian_bytes, reason = "the protocol is big-endian")]

use std::io::{self, Read, Write};
use std::time::Instant;

use super::super::{Ranges, Runs};

const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_E889_0455_65A9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const CHUNK: u32 = 0x668E_33EF;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const CMD_DISC: u16 = 2;
const CMD_BLOCK_STATUS: u16 = 7;
const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;
const DIRTY: u32 = 1;

/// Bytes of the longest reply to an option.
const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;
/// Replies to one option.
const OPTION_REPLIES_MAX: usize = 64;
/// Bytes of the longest piece of an answer: 128 Ki extents, as qemu bounds them.
const CHUNK_BYTES_MAX: u32 = 4 + (1 << 20);
/// Extents of a whole bitmap, dirty or not.
const EXTENTS_MAX: u64 = 1 << 24;
/// Bytes that are asked about at once.
const STEP_BYTES: u64 = 1 << 30;
/// The server's sizes are multiples of its sectors.
const SECTOR_BYTES_MAX: u64 = 4096;

/// Why a bitmap wasn't read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server has the export and not the bitmap.
    NoBitmap,
    /// More ranges than are kept.
    TooMany,
    /// The export has another size, in bytes.
    Size(u64),
    /// The server's words.
    Refused(String),
    /// The deadline is over.
    Late,
    /// What the server did.
    Broken(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, Fault>;

/// A dialogue that is under way.
pub(super) struct Dialogue<S> {
    stream: S,
    deadline: Instant,
    cookie: u64,
    extents: u64,
}

impl<S: Read + Write> Dialogue<S> {
    /// Begins with a fresh connection.
    pub(super) fn new(stream: S, deadline: Instant) -> Self {
        Self { stream, deadline, cookie: 0, extents: 0 }
    }

    /// What `bitmap` of `export` calls dirty.
    pub(super) fn dirty(&mut self, export: &str, bitmap: &str, size_bytes: u64) -> Result<Ranges> {
        self.greet()?;
        self.option(OPT_STRUCTURED_REPLY, &[], &mut |_, _| Ok(()))?;
        let context = self.context(export, bitmap)?;
        let bytes = self.go(export)?;
        let rounded = size_bytes.saturating_add(SECTOR_BYTES_MAX - 1);
        if !(size_bytes..=rounded).contains(&bytes) {
            return Err(Fault::Size(bytes));
        }
        let mut runs = Runs::default();
        let mut at = 0;
        while at < bytes {
            at = self.status(context, at, (bytes - at).min(STEP_BYTES), &mut runs)?;
        }
        // The answer is complete; whether the server hears the farewell doesn't matter.
        let _said = self.request(CMD_DISC, 0, 0).is_ok();
        Ok(runs.finish())
    }

    fn greet(&mut self) -> Result<()> {
        if self.u64()? != GREETING || self.u64()? != OPTION {
            return Err(Fault::Broken("no NBD server of the newstyle"));
        }
        let flags = self.u16()?;
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(Fault::Broken("no fixed newstyle"));
        }
        let flags = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
        Ok(self.stream.write_all(&flags.to_be_bytes())?)
    }

    /// Asks for the bitmap's context; its number.
    fn context(&mut self, export: &str, bitmap: &str) -> Result<u32> {
        let query = format!("qemu:dirty-bitmap:{bitmap}");
        let mut data = name(export);
        data.extend_from_slice(&1_u32.to_be_bytes());
        data.extend(name(&query));
        let mut context = None;
        self.option(OPT_SET_META_CONTEXT, &data, &mut |kind, reply| {
            if kind == REP_META_CONTEXT
                && let Some((number, name)) = reply.split_first_chunk()
                && name == query.as_bytes()
            {
                context = Some(u32::from_be_bytes(*number));
            }
            Ok(())
        })?;
        context.ok_or(Fault::NoBitmap)
    }

    /// Opens the export; its size in bytes.
    fn go(&mut self, export: &str) -> Result<u64> {
        let mut data = name(export);
        data.extend_from_slice(&0_u16.to_be_bytes());
        let mut size = None;
        self.option(OPT_GO, &data, &mut |kind, reply| {
            let info = reply.split_first_chunk().map(|(n, rest)| (u16::from_be_bytes(*n), rest));
            if kind == REP_INFO
                && let Some((INFO_EXPORT, rest)) = info
            {
                let (bytes, _) = rest.split_first_chunk().ok_or(Fault::Broken("a short info"))?;
                size = Some(u64::from_be_bytes(*bytes));
            }
            Ok(())
        })?;
        size.ok_or(Fault::Broken("an export without a size"))
    }

    /// Sends an option and hears all replies to it.
    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        heard: &mut dyn FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut sent = OPTION.to_be_bytes().to_vec();
        sent.extend_from_slice(&option.to_be_bytes());
        sent.extend_from_slice(&(data.len() as u32).to_be_bytes());
        sent.extend_from_slice(data);
        self.stream.write_all(&sent)?;
        for _ in 0..OPTION_REPLIES_MAX {
            if self.u64()? != OPTION_REPLY || self.u32()? != option {
                return Err(Fault::Broken("a reply to something else"));
            }
            let (kind, bytes) = (self.u32()?, self.u32()?);
            if bytes > OPTION_REPLY_BYTES_MAX {
                return Err(Fault::Broken("a reply that is too long"));
            }
            let mut reply = vec![0; bytes as usize];
            self.fill(&mut reply)?;
            match kind {
                REP_ACK => return Ok(()),
                error if error & REP_ERROR != 0 => {
                    return Err(Fault::Refused(words(&reply, error)));
                }
                kind => heard(kind, &reply)?,
            }
        }
        Err(Fault::Broken("too many replies"))
    }

    fn request(&mut self, command: u16, at: u64, bytes: u32) -> Result<()> {
        self.cookie += 1;
        let mut sent = REQUEST.to_be_bytes().to_vec();
        sent.extend_from_slice(&0_u16.to_be_bytes());
        sent.extend_from_slice(&command.to_be_bytes());
        sent.extend_from_slice(&self.cookie.to_be_bytes());
        sent.extend_from_slice(&at.to_be_bytes());
        sent.extend_from_slice(&bytes.to_be_bytes());
        Ok(self.stream.write_all(&sent)?)
    }

    /// Asks about `bytes` from `at` on; how far the answer went.
    fn status(&mut self, context: u32, at: u64, bytes: u64, runs: &mut Runs) -> Result<u64> {
        let end = at + bytes;
        self.request(CMD_BLOCK_STATUS, at, bytes as u32)?;
        let mut reached = at;
        loop {
            match self.u32()? {
                CHUNK => {}
                SIMPLE_REPLY => return Err(Fault::Broken("a simple reply to a status")),
                _ => return Err(Fault::Broken("no reply")),
            }
            let (flags, kind) = (self.u16()?, self.u16()?);
            let (cookie, bytes) = (self.u64()?, self.u32()?);
            if cookie != self.cookie || bytes > CHUNK_BYTES_MAX {
                return Err(Fault::Broken("a reply to something else, or too long"));
            }
            let mut answer = vec![0; bytes as usize];
            self.fill(&mut answer)?;
            match kind {
                CHUNK_NONE => {}
                CHUNK_BLOCK_STATUS if reached == at => {
                    reached = self.extents(&answer, context, (at, end), runs)?;
                }
                error if error & CHUNK_ERROR != 0 => {
                    let (code, text) = answer.split_first_chunk().unwrap_or((&[0; 4], &[]));
                    let text = text.get(2..).unwrap_or_default();
                    return Err(Fault::Refused(words(text, u32::from_be_bytes(*code))));
                }
                _ => return Err(Fault::Broken("an unknown or second answer")),
            }
            if flags & CHUNK_DONE != 0 {
                break;
            }
        }
        // An answer that says nothing would be asked for again for ever.
        if reached == at { Err(Fault::Broken("an empty answer")) } else { Ok(reached) }
    }

    /// Takes the extents of one answer; how far they go, at most to the end of what was asked.
    fn extents(
        &mut self,
        answer: &[u8],
        context: u32,
        (mut at, end): (u64, u64),
        runs: &mut Runs,
    ) -> Result<u64> {
        let (number, rest) = answer.split_first_chunk().ok_or(Fault::Broken("a short answer"))?;
        let (extents, odd) = rest.as_chunks::<8>();
        if u32::from_be_bytes(*number) != context || !odd.is_empty() {
            return Err(Fault::Broken("an answer about something else"));
        }
        self.extents += extents.len() as u64;
        if self.extents > EXTENTS_MAX {
            return Err(Fault::TooMany);
        }
        for extent in extents {
            let [a, b, c, d, e, f, g, h] = *extent;
            let (bytes, flags) =
                (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            if bytes == 0 || at >= end {
                return Err(Fault::Broken("an extent of nothing"));
            }
            let to = at.saturating_add(u64::from(bytes)).min(end);
            if flags & DIRTY != 0 && !runs.push(at, to) {
                return Err(Fault::TooMany);
            }
            at = to;
        }
        Ok(at)
    }

    fn in_time(&self) -> Result<()> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(Fault::Late) }
    }

    /// Fills `buf`, however small the pieces are that come, until the deadline.
    fn fill(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            self.in_time()?;
            match self.stream.read(buf) {
                Ok(0) => return Err(Fault::Broken("it closed the connection")),
                Ok(bytes) => buf = &mut buf[bytes..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// A string with its length before it.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// What a server gave as the reason, made fit to be shown.
fn words(text: &[u8], number: u32) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(text);
    let shown: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if shown.is_empty() { format!("error {number:#x}") } else { shown }
}
