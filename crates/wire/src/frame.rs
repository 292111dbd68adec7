//! Station `decode`, first half: cuts a byte stream into frames.
//!
//! A frame is refused by its header alone: unknown type, reserved bits, a length above the limit of
//! its type. Memory grows only with bytes that arrived, and never beyond one frame and what was
//! pushed. After an error the stream has no meaning any more: the decoder repeats the error.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, Invalid, Result};
use crate::limits as max;

/// Flag: a peer that does not know the type skips the frame.
pub const FLAG_OPTIONAL: u8 = 1;

macro_rules! kinds {
    ($($name:ident = $number:literal, $max:expr;)*) => {
        /// The type of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each names its message; the protocol page has the table")]
        pub enum Kind {
            $($name,)*
        }

        impl Kind {
            /// Every type, by number.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The number on the wire.
            pub const fn number(self) -> u8 {
                match self {
                    $(Kind::$name => $number,)*
                }
            }

            /// The type a number stands for.
            pub const fn from_number(number: u8) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }

            /// Its name in the protocol page.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => stringify!($name),)*
                }
            }

            /// Most bytes its payload may have.
            pub const fn payload_bytes_max(self) -> usize {
                match self {
                    $(Kind::$name => $max,)*
                }
            }
        }
    };
}

kinds! {
    Hello = 0x01, max::SMALL_BYTES_MAX;
    HelloAck = 0x02, max::SMALL_BYTES_MAX;
    Inventory = 0x03, max::CONTROL_BYTES_MAX;
    Head = 0x04, max::HEAD_BYTES_MAX;
    Goodbye = 0x05, max::SMALL_BYTES_MAX;
    Ping = 0x06, max::TINY_BYTES_MAX;
    Pong = 0x07, max::TINY_BYTES_MAX;
    Resume = 0x0c, max::TINY_BYTES_MAX;
    Statement = 0x0d, max::STATEMENT_BYTES_MAX;
    Join = 0x10, max::JOIN_BYTES_MAX;
    JoinAccepted = 0x11, max::SMALL_BYTES_MAX;
    JoinRefused = 0x12, max::SMALL_BYTES_MAX;
    Offer = 0x20, max::OFFER_BYTES_MAX;
    Accept = 0x21, max::TINY_BYTES_MAX;
    Refuse = 0x22, max::SMALL_BYTES_MAX;
    PartsEnd = 0x23, max::TINY_BYTES_MAX;
    Want = 0x24, max::WANT_BYTES_MAX;
    Filled = 0x25, max::TINY_BYTES_MAX;
    Receipt = 0x26, max::RECEIPT_BYTES_MAX;
    Failed = 0x27, max::SMALL_BYTES_MAX;
    Abort = 0x28, max::SMALL_BYTES_MAX;
    Probe = 0x29, max::PROBE_BYTES_MAX;
    Part = 0x40, max::PART_BYTES_MAX;
    Pack = 0x41, max::PACK_BYTES_MAX;
    Values = 0x42, max::VALUES_BYTES_MAX;
}

/// One frame of a known type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: Kind,
    /// What it carries, within the limit of its type.
    pub payload: Bytes,
}

/// Writes a frame's header over the first bytes of `frame`, whose payload follows them; `rest`: so many
/// bytes of it are elsewhere.
pub(crate) fn seal_frame(kind: Kind, frame: &mut [u8], rest: usize) -> Result<()> {
    let payload = frame.len() - max::FRAME_HEADER_BYTES + rest;
    if payload > kind.payload_bytes_max() {
        return Err(Error::ApiMisuse("message larger than its frame may be"));
    }
    let length = u32::try_from(payload).expect("every payload limit fits 32 bits");
    frame[0] = kind.number();
    frame[1..4].fill(0);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// What a header announces.
enum Header {
    Known(Kind, usize),
    Skip(usize),
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Begins with the next frame. What is cut off it isn't copied.
    buffer: BytesMut,
    /// Bytes of an optional frame of unknown type still to be dropped.
    skip: usize,
    /// Offset in the stream of the first byte of `buffer`.
    offset: u64,
    broken: Option<Error>,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they arrived. Call [`next_frame`](Self::next_frame) until it has none before
    /// pushing more: what is held is then at most one frame and the last push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        let dropped = self.skip.min(bytes.len());
        self.skip -= dropped;
        self.offset += dropped as u64;
        self.buffer.extend_from_slice(&bytes[dropped..]);
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let next = self.cut();
        if let Err(error) = &next {
            self.broken = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        next
    }

    /// Whether the stream may end here: no frame has begun.
    pub fn is_empty(&self) -> bool {
        self.broken.is_none() && self.skip == 0 && self.buffer.is_empty()
    }

    /// Bytes held that are not yet a frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    fn cut(&mut self) -> Result<Option<Frame>> {
        loop {
            let Some(header) = self.buffer.first_chunk::<{ max::FRAME_HEADER_BYTES }>() else {
                return Ok(None);
            };
            match parse_header(header, self.offset)? {
                Header::Known(kind, length) => {
                    let whole = max::FRAME_HEADER_BYTES + length;
                    if self.buffer.len() < whole {
                        // Room that isn't written to yet takes no memory.
                        self.buffer.reserve(whole - self.buffer.len());
                        return Ok(None);
                    }
                    self.advance(max::FRAME_HEADER_BYTES);
                    let payload = self.buffer.split_to(length).freeze();
                    self.offset += length as u64;
                    return Ok(Some(Frame { kind, payload }));
                }
                Header::Skip(length) => {
                    let whole = max::FRAME_HEADER_BYTES + length;
                    let here = whole.min(self.buffer.len());
                    self.skip = whole - here;
                    self.advance(here);
                }
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.offset += bytes as u64;
    }
}

fn parse_header(header: &[u8; max::FRAME_HEADER_BYTES], offset: u64) -> Result<Header> {
    let [number, flags, reserved_0, reserved_1, length @ ..] = *header;
    let bad = |rule, at: u64| Invalid::BadFrame { kind: number, rule, offset: offset + at };
    if flags & !FLAG_OPTIONAL != 0 {
        return Err(bad("unknown flag", 1).into());
    }
    if reserved_0 != 0 || reserved_1 != 0 {
        return Err(bad("reserved bytes are not zero", 2).into());
    }
    let kind = Kind::from_number(number);
    if kind.is_none() && flags & FLAG_OPTIONAL == 0 {
        return Err(Invalid::UnknownMessage { kind: number }.into());
    }
    let bytes = u32::from_le_bytes(length);
    let bytes_max = kind.map_or(max::CONTROL_BYTES_MAX, Kind::payload_bytes_max) as u64;
    if u64::from(bytes) > bytes_max {
        let too_large = Invalid::FrameTooLarge { kind: number, bytes: bytes.into(), bytes_max };
        return Err(too_large.into());
    }
    let length = bytes as usize;
    Ok(kind.map_or(Header::Skip(length), |kind| Header::Known(kind, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number, flags, 0, 0];
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_stream_decodes_the_same_however_it_is_cut() {
        let mut stream = frame(0x06, 0, b"abc");
        stream.extend(frame(0x7f, FLAG_OPTIONAL, &[9; 1000]));
        stream.extend(frame(0x07, FLAG_OPTIONAL, b""));
        for step in 1..stream.len() {
            let mut decoder = FrameDecoder::new();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push((frame.kind, frame.payload));
                }
                assert!(decoder.buffered_bytes() < 16, "an optional frame is not stored");
            }
            assert!(decoder.is_empty());
            assert_eq!(got, [(Kind::Ping, Bytes::from("abc")), (Kind::Pong, Bytes::new())]);
        }
    }

    #[test]
    fn every_type_is_bounded_by_its_header_alone() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(*kind));
            let limit = kind.payload_bytes_max() as u32;
            for (length, good) in [(limit, true), (limit + 1, false), (u32::MAX, false)] {
                let mut header = vec![kind.number(), 0, 0, 0];
                header.extend_from_slice(&length.to_le_bytes());
                let mut decoder = FrameDecoder::new();
                decoder.push(&header);
                let next = decoder.next_frame();
                assert_eq!(next.is_ok(), good, "{kind:?} {length}");
                assert_eq!(decoder.next_frame(), next, "an error is repeated");
            }
        }
    }

    #[test]
    fn bad_headers_are_refused() {
        let cases: [(Vec<u8>, &str); 4] = [
            (frame(0x7f, 0, b""), "UNKNOWN_MESSAGE"),
            (frame(0x06, 2, b""), "BAD_FRAME"),
            (vec![6, 0, 1, 0, 0, 0, 0, 0], "BAD_FRAME"),
            (vec![0x7f, 1, 0, 0, 1, 0, 0x10, 0], "FRAME_TOO_LARGE"),
        ];
        for (bytes, code) in cases {
            let mut decoder = FrameDecoder::new();
            decoder.push(&bytes);
            assert_eq!(decoder.next_frame().expect_err(code).code(), code);
        }
    }
}
