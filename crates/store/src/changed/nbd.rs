//! A dirty bitmap of a running qemu, read over NBD: only the bitmap, never data. A client of the
//! fixed newstyle handshake that knows three options and one command. What the server says is
//! bounded before it is believed, and the whole dialogue has a deadline.
//!
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>

mod dialogue;
#[cfg(test)]
mod tests;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Base, Ranges, Unfit};
use crate::error::{Error, Result};
use dialogue::{Dialogue, Fault};

/// A server that says nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The whole bitmap is read within this time.
const READING_MAX: Duration = Duration::from_secs(60);
/// Bytes of the longest name of an export (a limit of the protocol).
const EXPORT_BYTES_MAX: usize = 4096;
/// Bytes of the longest name of a bitmap (a limit of qemu).
const BITMAP_BYTES_MAX: usize = 1023;
/// Bytes of the longest path of a socket (a limit of the system).
const SOCKET_BYTES_MAX: usize = 107;
/// Hexadecimal digits that a bitmap's name must end in to name a content.
const ROOT_DIGITS_MIN: usize = 16;
/// What every address of ours starts with.
const SCHEME: &str = "nbd+unix://";

/// Where a dirty bitmap can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdBitmap {
    socket: PathBuf,
    export: String,
    bitmap: String,
}

impl NbdBitmap {
    /// Is this meant as an address, rather than as a path?
    pub fn is_address(text: &str) -> bool {
        text.starts_with("nbd")
            && text.split_once(':').is_some_and(|(_, rest)| rest.starts_with("//"))
    }

    /// Reads `nbd+unix:///EXPORT?socket=PATH&bitmap=NAME`.
    pub fn parse(address: &str) -> Result<Self> {
        let bad = |what: &str| Error::BadMap(format!("{address}: {what}"));
        let form = || bad("expected nbd+unix:///EXPORT?socket=PATH&bitmap=NAME");
        let rest = address.strip_prefix(SCHEME).ok_or_else(form)?;
        let (path, query) = rest.split_once('?').ok_or_else(form)?;
        // A host has no meaning here.
        let export = path.strip_prefix('/').or(path.is_empty().then_some("")).ok_or_else(form)?;
        let (mut socket, mut bitmap) = (None, None);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').ok_or_else(form)?;
            let value = unescaped(value).ok_or_else(|| bad("a bad % escape"))?;
            let before = match key {
                "socket" => socket.replace(value),
                "bitmap" => bitmap.replace(value),
                _ => return Err(bad("socket and bitmap are all it takes")),
            };
            if before.is_some() {
                return Err(bad("a value is given twice"));
            }
        }
        let (Some(socket), Some(bitmap)) = (socket, bitmap) else { return Err(form()) };
        let export = unescaped(export).ok_or_else(|| bad("a bad % escape"))?;
        let fits = |text: &str, most: usize| text.len() <= most && !text.contains('\0');
        if !socket.starts_with('/') || !fits(&socket, SOCKET_BYTES_MAX) {
            return Err(bad("socket is an absolute path of at most 107 bytes"));
        }
        if bitmap.is_empty() || !fits(&bitmap, BITMAP_BYTES_MAX) || !fits(&export, EXPORT_BYTES_MAX)
        {
            return Err(bad("the name of the bitmap or of the export is too short or too long"));
        }
        Ok(Self { socket: socket.into(), export, bitmap })
    }

    /// The content at which the bitmap began, where its name ends in digits of a root.
    pub(super) fn base(&self) -> Option<Base> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let digits = self.bitmap.bytes().rev().take_while(hex).count().min(64);
        let prefix = &self.bitmap[self.bitmap.len() - digits..];
        (digits >= ROOT_DIGITS_MIN).then(|| Base::Prefix(prefix.to_owned()))
    }

    /// The ranges that are dirty, of an image of `size_bytes`.
    pub(super) fn read(&self, size_bytes: u64) -> std::result::Result<Ranges, Unfit> {
        let at = self.socket.display();
        let open = || {
            let stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            Ok(stream)
        };
        let stream = open().map_err(|e: std::io::Error| Unfit::Bad(format!("{at}: {e}")))?;
        let mut dialogue = Dialogue::new(stream, Instant::now() + READING_MAX);
        let read = dialogue.dirty(&self.export, &self.bitmap, size_bytes);
        read.map_err(|fault| match fault {
            // It is marked inconsistent after an unclean end, and then it isn't offered.
            Fault::NoBitmap => Unfit::Unproven(format!(
                "{at} offers no bitmap {} of {:?}: inconsistent, or never made",
                self.bitmap, self.export
            )),
            Fault::TooMany => Unfit::Unproven("the changes are in too many pieces".to_owned()),
            Fault::Size(bytes) => Unfit::Bad(format!(
                "{:?} has {bytes} bytes; the image has {size_bytes}",
                self.export
            )),
            Fault::Refused(why) => Unfit::Bad(format!("{at} refused {:?}: {why}", self.export)),
            Fault::Late => Unfit::Bad(format!("{at} took longer than {READING_MAX:?}")),
            Fault::Broken(what) => Unfit::Bad(format!("{at} broke the protocol: {what}")),
            Fault::Io(error) => Unfit::Bad(format!("{at}: {error}")),
        })
    }
}

/// Replaces `%41` by `A`; `None`: a bad escape, or not UTF-8 after it.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
