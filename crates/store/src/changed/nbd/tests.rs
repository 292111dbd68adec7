//! A server that keeps the rules, one that breaks each of them, and addresses.

#![expect(clippy::big_endian_bytes, reason = "the protocol is big-endian")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::dialogue::{Dialogue, Fault};
use super::*;

const SIZE: u64 = 5 << 30;

/// What the server says: a list of (bytes, flags), and how it errs.
#[derive(Clone, Default)]
struct Server {
    extents: Vec<(u32, u32)>,
    size: Option<u64>,
    /// Bytes put in place of its `n`th message.
    instead: Option<(usize, Vec<u8>)>,
    no_bitmap: bool,
    /// It sends byte by byte.
    drips: bool,
}

struct Wire {
    stream: UnixStream,
    server: Server,
    said: usize,
}

impl Wire {
    fn say(&mut self, bytes: &[u8]) {
        let bytes = match &self.server.instead {
            Some((n, other)) if *n == self.said => other.clone(),
            _ => bytes.to_vec(),
        };
        self.said += 1;
        let size = if self.server.drips { 1 } else { bytes.len().max(1) };
        for piece in bytes.chunks(size) {
            // A client that has had enough hangs up.
            if self.stream.write_all(piece).is_err() {
                return;
            }
        }
    }

    fn hear<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let mut out = 0x0003_E889_0455_65A9_u64.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.say(&out);
    }

    fn option(&mut self) -> Option<u32> {
        assert_eq!(&self.hear::<8>()?, b"IHAVEOPT");
        let option = u32::from_be_bytes(self.hear()?);
        let bytes = u32::from_be_bytes(self.hear()?);
        let mut data = vec![0; bytes as usize];
        self.stream.read_exact(&mut data).ok()?;
        match option {
            10 => {
                let query = b"qemu:dirty-bitmap:b";
                assert!(data.ends_with(query) && data[4..].starts_with(b"disk"), "{data:?}");
                if !self.server.no_bitmap {
                    let mut context = 42_u32.to_be_bytes().to_vec();
                    context.extend(query);
                    self.reply(10, 4, &context);
                }
            }
            7 => {
                let mut info = 0_u16.to_be_bytes().to_vec();
                info.extend(self.server.size.unwrap_or(SIZE).to_be_bytes());
                info.extend(1_u16.to_be_bytes());
                self.reply(7, 3, &[0, 3, 0, 0, 0, 1]);
                self.reply(7, 3, &info);
            }
            _ => assert_eq!(option, 8),
        }
        self.reply(option, 1, &[]);
        Some(option)
    }

    /// Answers one request; `None`: the client said farewell.
    fn answer(&mut self) -> Option<()> {
        assert_eq!(self.hear::<4>()?, 0x2560_9513_u32.to_be_bytes());
        let [_, _, high, low] = self.hear::<4>()?;
        let cookie = self.hear::<8>()?;
        let (at, bytes) = (u64::from_be_bytes(self.hear()?), u32::from_be_bytes(self.hear()?));
        if u16::from_be_bytes([high, low]) == 2 {
            return None;
        }
        let mut answer = 42_u32.to_be_bytes().to_vec();
        let (mut from, mut told) = (0, 0);
        for (length, flags) in &self.server.extents {
            let to = from + u64::from(*length);
            if to > at && told < u64::from(bytes) {
                let here = to - at.max(from);
                answer.extend((here as u32).to_be_bytes());
                answer.extend(flags.to_be_bytes());
                told += here;
            }
            from = to;
        }
        let mut out = 0x668E_33EF_u32.to_be_bytes().to_vec();
        out.extend(1_u16.to_be_bytes());
        out.extend(5_u16.to_be_bytes());
        out.extend(cookie);
        out.extend((answer.len() as u32).to_be_bytes());
        out.extend(answer);
        self.say(&out);
        Some(())
    }
}

/// Plays the server to a client; what the client made of it.
fn dirty(server: Server, within: Duration) -> std::result::Result<Ranges, Fault> {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let serving = thread::spawn(move || {
        let mut wire = Wire { stream: theirs, server, said: 0 };
        let mut greeting = b"NBDMAGICIHAVEOPT".to_vec();
        greeting.extend(3_u16.to_be_bytes());
        wire.say(&greeting);
        if wire.hear::<4>().is_none() {
            return;
        }
        while wire.option().is_some_and(|option| option != 7) {}
        while wire.answer().is_some() {}
    });
    let read = Dialogue::new(ours, Instant::now() + within).dirty("disk", "b", SIZE);
    serving.join().expect("the server kept the rules");
    read
}

fn good() -> Server {
    let extents = vec![(65_536, 0), (131_072, 1), (1 << 30, 0), (1 << 30, 1), (u32::MAX, 0)];
    Server { extents, ..Server::default() }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_bitmap_is_read_in_any_pieces() {
    let whole = [(65_536, 131_072), ((1 << 30) + 196_608, 1 << 30)];
    assert_eq!(dirty(good(), MINUTE).expect("reads"), whole);
    let drips = Server { drips: true, ..good() };
    assert_eq!(dirty(drips, MINUTE).expect("reads"), whole);
    let sectors = Server { size: Some(SIZE + 511), ..good() };
    assert_eq!(dirty(sectors, MINUTE).expect("rounded up").len(), 2);
}

#[test]
fn what_can_not_be_is_told_apart() {
    let no_bitmap = Server { no_bitmap: true, ..good() };
    assert!(matches!(dirty(no_bitmap, MINUTE), Err(Fault::NoBitmap)));
    let other = Server { size: Some(SIZE / 2), ..good() };
    assert!(matches!(dirty(other, MINUTE), Err(Fault::Size(bytes)) if bytes == SIZE / 2));
    let late = dirty(good(), Duration::ZERO);
    assert!(matches!(late, Err(Fault::Late)), "{late:?}");
    let scattered = (0..200_000).map(|n| (4096, n % 2)).collect();
    let scattered = dirty(Server { extents: scattered, ..good() }, MINUTE);
    assert!(matches!(scattered, Err(Fault::Broken(_))), "an answer that is too long");
}

#[test]
fn a_server_that_breaks_the_rules_is_left() {
    let reply = |option: u32, kind: u32, bytes: u32, data: &[u8]| {
        let mut out = 0x0003_E889_0455_65A9_u64.to_be_bytes().to_vec();
        out.extend([option, kind, bytes].iter().flat_map(|word| word.to_be_bytes()));
        out.extend(data);
        out
    };
    let chunk = |kind: u16, cookie: u64, bytes: u32, data: &[u32]| {
        let mut out = 0x668E_33EF_u32.to_be_bytes().to_vec();
        out.extend([1, kind].iter().flat_map(|word: &u16| word.to_be_bytes()));
        out.extend(cookie.to_be_bytes());
        out.extend(bytes.to_be_bytes());
        out.extend(data.iter().flat_map(|word| word.to_be_bytes()));
        out
    };
    // Messages in order: greeting, structured ack, context, its ack, two infos, ack, statuses.
    let rows = [
        (0, b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
        (0, b"NBDMAGICIHAVEOPT\0\0".to_vec()),
        (1, reply(9, 1, 0, &[])),
        (1, reply(8, 1, u32::MAX, &[])),
        (2, reply(8, 4, 0, &[])),
        (5, reply(7, 3, 2, &[0, 0])),
        (7, b"simple reply, not a chunk of it....".to_vec()),
        (7, chunk(5, 99, 4, &[42])),
        (7, chunk(5, 1, u32::MAX, &[])),
        (7, chunk(5, 1, 0, &[])),
        (7, chunk(5, 1, 4, &[42])),
        (7, chunk(5, 1, 12, &[41, 4096, 1])),
        (7, chunk(5, 1, 12, &[42, 0, 1])),
        (7, chunk(5, 1, 8, &[42, 4096])),
        (7, chunk(5, 1, 20, &[42, u32::MAX, 1, 4096, 1])),
        (7, chunk(0, 1, 0, &[])),
        (7, chunk(1, 1, 0, &[])),
    ];
    for (n, bytes) in rows {
        let server = Server { instead: Some((n, bytes.clone())), ..good() };
        let outcome = dirty(server, MINUTE);
        assert!(matches!(outcome, Err(Fault::Broken(_))), "{n}: {bytes:?}: {outcome:?}");
    }
    let error = reply(10, (1 << 31) | 6, 7, b"no\x1b disk");
    let refused = dirty(Server { instead: Some((2, error[..27].to_vec())), ..good() }, MINUTE);
    assert!(matches!(&refused, Err(Fault::Refused(why)) if why == "no dis"), "{refused:?}");
    let error = chunk(0x8001, 1, 4, &[22]);
    let refused = dirty(Server { instead: Some((7, error)), ..good() }, MINUTE);
    assert!(matches!(refused, Err(Fault::Refused(_))), "{refused:?}");
}

#[test]
fn any_bytes_of_a_server_are_survived() {
    let mut seed = 3_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        (seed >> 33) as u8
    };
    for n in 0..10 {
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..next()).map(|_| next()).collect();
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let mut whole = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
            whole.truncate(2 * n);
            whole.extend(bytes);
            theirs.write_all(&whole).expect("room for it");
            theirs.shutdown(std::net::Shutdown::Write).expect("shut");
            let read = Dialogue::new(ours, Instant::now() + MINUTE).dirty("disk", "b", SIZE);
            assert!(read.is_err());
        }
    }
}

#[test]
fn addresses() {
    let parse = |text: &str| NbdBitmap::parse(text);
    let full =
        parse("nbd+unix:///vm%20disk?socket=/run/a%2Fb.sock&bitmap=b-1").expect("an address");
    assert_eq!(full.export, "vm disk");
    assert_eq!((full.socket.to_str(), full.bitmap.as_str()), (Some("/run/a/b.sock"), "b-1"));
    assert_eq!(parse("nbd+unix:///?bitmap=b&socket=/s").expect("no export").export, "");
    for bad in [
        "",
        "nbd://host/x?socket=/s&bitmap=b",
        "nbd+unix:///x",
        "nbd+unix:///x?socket=/s",
        "nbd+unix:///x?socket=s&bitmap=b",
        "nbd+unix:///x?socket=/s&bitmap=",
        "nbd+unix:///x?socket=/s&bitmap=b&bitmap=c",
        "nbd+unix:///x?socket=/s&bitmap=b&more=1",
        "nbd+unix:///x?socket=/s&bitmap=%4",
        "nbd+unix:///x?socket=/s&bitmap=%zz",
        "nbd+unix:///x?socket=/s&bitmap=%ff",
        "nbd+unix:///x?socket=/s&bitmap=%00",
        "nbd+unix://host/x?socket=/s&bitmap=b",
    ] {
        assert_eq!(parse(bad).expect_err(bad).code(), "BAD_MAP", "{bad}");
    }
    assert!(parse(&format!("nbd+unix:///?socket=/{}&bitmap=b", "s".repeat(107))).is_err());
    assert!(NbdBitmap::is_address("nbd://x") && !NbdBitmap::is_address("/nbd://x"));
    assert!(!NbdBitmap::is_address("nbd.map"));
}
