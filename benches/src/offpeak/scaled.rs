//! A calendar played on a real link, with time scaled down: an hour becomes a few seconds, bytes
//! shrink as much, rates stay what they are. Shows whether what was computed is what a plain TCP
//! stream needs when the rate changes under it.
//!
//! A calendar's bytes are those on the wire, so the payload is smaller by what headers take. What
//! the scale doesn't shrink is TCP's own time (its start, and its waiting after a pause).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use jiff::civil::DateTime;

use super::calendar::{Calendar, finish};
use crate::ground::say;
use crate::link::Link;

/// A check's predicted time, with room for what goes wrong below half a minute.
const SECONDS_MAX: f64 = 25.0;
/// IP and TCP headers with time stamps, of a full packet.
const HEADER_BYTES: u64 = 52;
/// How much longer than predicted is waited for, in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Play<'a> {
    pub(crate) start: DateTime,
    /// Of each stream, before scaling.
    pub(crate) bytes: u64,
    pub(crate) calendar: &'a Calendar,
    /// An hour takes 3600 / scale seconds.
    pub(crate) scale: u32,
    /// At once: branches that share the link.
    pub(crate) streams: u16,
}

/// What was to be expected and what came out, in seconds of scaled time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Played {
    pub(crate) scale: u32,
    pub(crate) predicted_seconds: f64,
    pub(crate) measured_seconds: f64,
}

/// The scale at which so many seconds fit into a check.
pub(crate) fn scale_for(seconds: f64) -> u32 {
    (seconds / SECONDS_MAX).ceil().clamp(1.0, f64::from(u32::MAX)) as u32
}

impl Play<'_> {
    /// Plays it: end 0 sends, end 1 receives. The link keeps the last rate that was set.
    pub(crate) fn on(&self, link: &Link, mtu: u32) -> anyhow::Result<Played> {
        ensure!(self.scale > 0 && self.streams > 0 && u64::from(mtu) > HEADER_BYTES);
        let wire_bytes = self.bytes / u64::from(self.scale);
        let all = wire_bytes * u64::from(self.scale) * u64::from(self.streams);
        let end = finish(self.start, all, self.calendar).context("this never ends")?;
        let predicted_seconds = self.scaled(end).as_secs_f64();
        let mtu = u64::from(mtu);
        let payload_bytes = wire_bytes * (mtu - HEADER_BYTES) / mtu;

        // Any port: that of a play before may be held by a process that was just forked.
        let any = SocketAddr::new(link.addresses()[1], 0);
        let listener = link.inside(1, || Ok(TcpListener::bind(any)?))?;
        let there = listener.local_addr()?;
        let connect = || link.inside(0, || Ok(TcpStream::connect(there)?));
        let mut pairs = Vec::new();
        for _ in 0..self.streams {
            pairs.push((connect()?, listener.accept()?.0));
        }
        let limit = Duration::from_secs_f64(predicted_seconds) + PATIENCE;
        link.set_rate(self.calendar.rate(self.start.time()))?;
        let began = Instant::now();
        let measured_seconds = thread::scope(|scope| {
            let (over, is_over) = channel::<()>();
            let clock = scope.spawn(move || self.turn(link, began, &is_over));
            let receivers: Vec<_> = pairs
                .into_iter()
                .map(|(sender, receiver)| {
                    scope.spawn(move || send(sender, payload_bytes, limit));
                    scope.spawn(move || receive(receiver, payload_bytes, began + limit))
                })
                .collect();
            let mut last: anyhow::Result<Duration> = Ok(Duration::ZERO);
            for receiver in receivers {
                let took = receiver.join().map_err(|_| anyhow!("a receiver panicked"))?;
                last = last.and_then(|last| Ok(last.max(took? - began)));
            }
            drop(over);
            clock.join().map_err(|_| anyhow!("the clock panicked"))??;
            last.map(|last| last.as_secs_f64())
        })?;
        if let Some(trouble) = link.trouble()? {
            say(&format!("the link: {trouble}"));
        }
        Ok(Played { scale: self.scale, predicted_seconds, measured_seconds })
    }

    /// How long after the beginning a time of the calendar comes.
    fn scaled(&self, time: DateTime) -> Duration {
        let since = Duration::try_from(time.duration_since(self.start)).unwrap_or_default();
        since / self.scale
    }

    /// Sets the rate at each edge of the calendar until the transfer is over.
    fn turn(&self, link: &Link, began: Instant, over: &Receiver<()>) -> anyhow::Result<()> {
        let mut edge = self.calendar.next_edge(self.start);
        while let Some(time) = edge {
            let wait = (began + self.scaled(time)).saturating_duration_since(Instant::now());
            match over.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => link.set_rate(self.calendar.rate(time.time()))?,
                _ => break,
            }
            edge = self.calendar.next_edge(time);
        }
        Ok(())
    }
}

fn send(mut stream: TcpStream, mut bytes: u64, limit: Duration) {
    let block = vec![0x5a; 64 << 10];
    // The receiver tells what went wrong.
    let _ = stream.set_write_timeout(Some(limit));
    while bytes > 0 {
        let piece = block.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        if stream.write_all(&block[..piece]).is_err() {
            return;
        }
        bytes -= piece as u64;
    }
}

/// When the last of the bytes was there.
fn receive(mut stream: TcpStream, mut bytes: u64, deadline: Instant) -> anyhow::Result<Instant> {
    let mut block = vec![0; 64 << 10];
    while bytes > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "{bytes} bytes are missing long after the predicted end");
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut block)? as u64;
        ensure!(count > 0, "the stream ended {bytes} bytes early");
        bytes = bytes.saturating_sub(count);
    }
    Ok(Instant::now())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::link::Shape;

    #[test]
    fn a_usual_check_takes_less_than_half_a_minute() {
        assert_eq!(scale_for(26_017.6), 1041);
        assert_eq!(scale_for(3.0), 1);
    }

    #[test]
    fn what_is_played_is_what_was_predicted() {
        let shape = Shape { bits_per_second: Some(5_000_000), ..Shape::UNSHAPED };
        if let Some(why) = Link::missing(&shape) {
            let _ = writeln!(std::io::stderr(), "skipped: a link {why}");
            return;
        }
        let link = Link::up(shape, 1500).unwrap();
        let calendar = Calendar::off_peak();
        // An hour of the day, then two minutes of the night, at 1:4000: 0.9 s + 0.03 s.
        let bytes = 625_000 * 3600 + 12_500_000 * 120;
        let start = date(2026, 6, 2).at(17, 0, 0, 0);
        for streams in [1, 2] {
            let bytes = bytes / u64::from(streams);
            let play = Play { start, bytes, calendar: &calendar, scale: 4000, streams };
            let Played { predicted_seconds, measured_seconds, .. } = play.on(&link, 1500).unwrap();
            assert!((predicted_seconds - 0.93).abs() < 0.001, "{predicted_seconds}");
            let off = measured_seconds / predicted_seconds - 1.0;
            let _ = writeln!(std::io::stderr(), "{streams} streams: {:+.2} %", off * 100.0);
            assert!((-0.03..0.25).contains(&off), "{predicted_seconds} s, {measured_seconds} s");
            link.set_rate(5_000_000).unwrap();
        }
    }
}
