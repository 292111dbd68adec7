//! Real links: rate, delay, loss, counters, and that nothing is left behind. Skipped, with a line,
//! where they can't be made.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use super::*;

const MTU: u32 = 1500;
/// IP and TCP headers with time stamps.
const HEADER_BYTES: u64 = 52;

fn link(shape: Shape) -> Option<Link> {
    if let Some(why) = Link::missing(&shape) {
        let _ = writeln!(std::io::stderr(), "skipped: a link {why}");
        return None;
    }
    Some(Link::up(shape, MTU).unwrap())
}

/// Bytes per second of a TCP stream, from end 0 to end 1, from the first byte's arrival on.
fn stream(link: &Link, time: Duration) -> f64 {
    let there = (link.addresses()[1], 7000);
    let listener = link.inside(1, || Ok(TcpListener::bind(there)?)).unwrap();
    let mut sender = link.inside(0, || Ok(TcpStream::connect(there)?)).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            let block = vec![7; 64 << 10];
            while began.elapsed() < time && sender.write_all(&block).is_ok() {}
        });
        let mut block = vec![0; 64 << 10];
        receiver.read_exact(&mut block[..1]).unwrap();
        let (began, mut bytes, mut last) = (Instant::now(), 0, Duration::ZERO);
        while let Some(count) = receiver.read(&mut block).ok().filter(|count| *count > 0) {
            bytes += count;
            last = began.elapsed();
        }
        bytes as f64 / last.as_secs_f64()
    })
}

/// Round trips of UDP packets of 100 bytes, one every 2 ms.
fn pings(link: &Link, count: u64) -> Vec<Duration> {
    let [here, there] = link.addresses();
    let bind = |end, address| link.inside(end, move || Ok(UdpSocket::bind((address, 7001))?));
    let (near, far) = (bind(0, here).unwrap(), bind(1, there).unwrap());
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let far_end = thread::spawn(move || {
        let mut packet = [0; 100];
        while let Ok((bytes, from)) = far.recv_from(&mut packet) {
            far.send_to(&packet[..bytes], from).unwrap();
        }
    });
    let began = Instant::now();
    let answers = {
        let near = near.try_clone().unwrap();
        thread::spawn(move || {
            let (mut packet, mut times) = ([0; 100], Vec::new());
            while near.recv(&mut packet).is_ok() {
                let sent = u64::from_le_bytes(packet[..8].try_into().unwrap());
                times.push(began.elapsed() - Duration::from_nanos(sent));
            }
            times
        })
    };
    for _ in 0..count {
        let mut packet = [0; 100];
        packet[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_le_bytes());
        near.send_to(&packet, (there, 7001)).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    far_end.join().unwrap();
    answers.join().unwrap()
}

#[test]
fn a_tcp_stream_fills_the_rate_and_no_more() {
    let Some(link) = link(Shape::shaped(50, 2, 0.0)) else { return };
    let rate = stream(&link, Duration::from_millis(1500)) * 8.0;
    let expected = 50e6 * (u64::from(MTU) - HEADER_BYTES) as f64 / f64::from(MTU);
    let off = rate / expected - 1.0;
    let _ = writeln!(std::io::stderr(), "{rate:.0} bit/s of payload, {:+.2} %", off * 100.0);
    // On a busy machine the stream falls behind, by how much is no matter of a test; the link may
    // not run ahead.
    assert!(off < 0.05, "{rate} bit/s, {expected} expected");
    // The last acknowledgements.
    thread::sleep(Duration::from_millis(50));
    let [there, back] = link.counters().unwrap();
    let sent = link.sent_bytes().unwrap();
    assert_eq!(sent, [there.sent_bytes, back.sent_bytes]);
    assert_eq!(there.sent_packets, there.delivered_packets + there.dropped_packets);
    if let Some(trouble) = link.trouble().unwrap() {
        let _ = writeln!(std::io::stderr(), "a busy machine: {trouble}");
    }
    assert!(there.sent_bytes > 1_000_000 && back.sent_bytes < there.sent_bytes / 10);
}

#[test]
fn a_packet_takes_the_delay() {
    let Some(link) = link(Shape::shaped(100, 40, 0.0)) else { return };
    let mut times = pings(&link, 100);
    times.sort();
    let (first, middle) = (times[0], times[times.len() / 2]);
    let _ = writeln!(std::io::stderr(), "{first:?} at least, median {middle:?}");
    // Never early; how late is a matter of the machine.
    assert!(first >= Duration::from_millis(40), "{times:?}");
    assert!(times.len() > 50, "{} of 100 came back", times.len());
}

#[test]
fn packets_are_lost_and_counted() {
    let Some(link) = link(Shape::shaped(100, 0, 100.0)) else { return };
    let answered = pings(&link, 200).len() as u64;
    let [there, back] = link.counters().unwrap();
    assert_eq!(there.sent_packets, 200);
    assert_eq!(there.lost_packets + there.delivered_packets, 200);
    assert!(back.sent_packets <= there.delivered_packets);
    assert!(answered <= back.delivered_packets && back.delivered_packets <= back.sent_packets);
    assert!((5..45).contains(&there.lost_packets), "{there:?}");
    // The interfaces count what was sent, lost or not.
    assert_eq!(link.sent_bytes().unwrap()[0], 200 * 128);
}

#[test]
fn a_paused_link_goes_on_where_it_was() {
    let Some(link) = link(Shape::shaped(10, 0, 0.0)) else { return };
    link.set_rate(0).unwrap();
    assert!(pings(&link, 3).is_empty());
    link.set_rate(10_000_000).unwrap();
    let delivered = || link.counters().unwrap()[0].delivered_packets;
    let began = Instant::now();
    while delivered() < 3 && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(delivered(), 3);
}

#[test]
fn an_unshaped_link_counts_packets_as_they_are_on_a_wire() {
    let Some(link) = link(Shape::UNSHAPED) else { return };
    assert!(link.counters().is_none() && link.set_rate(1).is_err());
    let before = link.sent_bytes().unwrap()[0];
    assert_eq!(pings(&link, 10).len(), 10);
    // 100 bytes, UDP, IP, Ethernet; and who has which address is asked once or twice.
    let sent = link.sent_bytes().unwrap()[0] - before;
    assert!((1420..1600).contains(&sent), "{sent}");
}

#[test]
fn nothing_is_left_of_a_link_or_of_a_killed_run() {
    // No process has this number: the largest is 2^22.
    let leftover = "ferry-4194305-0-a";
    if let Some(why) = Link::missing(&Shape::UNSHAPED) {
        let _ = writeln!(std::io::stderr(), "skipped: a link {why}");
        return;
    }
    Command::new("ip").args(["netns", "add", leftover]).output().unwrap();
    let link = Link::up(LINKS[1].1, MTU).unwrap();
    let exists = |name: &str| Path::new("/var/run/netns").join(name).exists();
    assert!(!exists(leftover));
    let names = link.namespaces().map(str::to_owned);
    assert!(names.iter().all(|name| exists(name)));
    drop(link);
    assert!(!names.iter().any(|name| exists(name)));
}
