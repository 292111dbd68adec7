//! Links between two network namespaces, one for each end of a job: an unshaped veth pair, or a
//! link of our own with a rate, a delay and loss, which needs only TUN devices and no netem.
//!
//! A link carries nothing but the job, so its interfaces' counters are what the ends sent. On both
//! kinds a packet of the counters is a packet of a wire: no offload makes larger ones. The veth
//! counts Ethernet headers (14 bytes a packet), the shaped link IP packets. Needs root and
//! iproute2.

mod carrier;
mod namespaces;
mod pipe;
mod sys;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use carrier::Carrier;
use namespaces::{Namespaces, inside, ip};
use pipe::{Counters, Settings};

use crate::ground::tools::{has, is_root};

/// The interface, called the same at both ends.
const INTERFACE: &str = "ferry0";
/// Nothing else is in the namespaces, so all links can have the same ones.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 213, 77, 1), Ipv4Addr::new(10, 213, 77, 2)];
/// Packets that the kernel holds for us while we are not looking: 60 ms of 1 Gbit/s.
const DEVICE_QUEUE_PACKETS: u32 = 5000;
/// On a machine with two busy cores a few in a thousand are late.
const LATE_SHARE_MAX: f64 = 0.02;
/// Which packets are lost; the direction is added.
const LOSS_SEED: u64 = 20_260_101;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Of IP packets, each way; none for a veth pair as fast as the machine.
    pub(crate) bits_per_second: Option<u64>,
    pub(crate) round_trip: Duration,
    pub(crate) loss_per_mille: f64,
}

impl Shape {
    /// As fast as the machine.
    pub(crate) const UNSHAPED: Shape =
        Shape { bits_per_second: None, round_trip: Duration::ZERO, loss_per_mille: 0.0 };

    /// With a rate and a delay, and packets lost at random.
    pub(crate) const fn shaped(
        megabits_per_second: u64,
        round_trip_ms: u64,
        loss_per_mille: f64,
    ) -> Shape {
        Shape {
            bits_per_second: Some(megabits_per_second * 1_000_000),
            round_trip: Duration::from_millis(round_trip_ms),
            loss_per_mille,
        }
    }
}

/// The name of the link that is as fast as the machine.
pub(crate) const UNSHAPED: &str = "unshaped";

/// The links that tools are compared on.
pub(crate) const LINKS: [(&str, Shape); 4] = [
    (UNSHAPED, Shape::UNSHAPED),
    ("100mbit", Shape::shaped(100, 0, 0.0)),
    ("20mbit-40ms-0.1%", Shape::shaped(20, 40, 1.0)),
    ("100mbit-50ms", Shape::shaped(100, 50, 0.0)),
];

/// Two namespaces and what joins them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    // Before the namespaces: the threads stop first.
    carrier: Option<Carrier>,
    namespaces: Namespaces,
}

impl Link {
    /// Why there can be no link here, if so.
    pub(crate) fn missing(shape: &Shape) -> Option<&'static str> {
        if !is_root() {
            Some("needs root")
        } else if !has("ip") {
            Some("needs iproute2")
        } else if shape.bits_per_second.is_some()
            && !std::fs::exists("/dev/net/tun").is_ok_and(|it| it)
        {
            Some("needs /dev/net/tun")
        } else {
            None
        }
    }

    /// Makes one for IP packets of up to `mtu` bytes.
    pub(crate) fn up(shape: Shape, mtu: u32) -> anyhow::Result<Link> {
        if let Some(why) = Link::missing(&shape) {
            bail!("a link {why}");
        }
        let namespaces = Namespaces::make()?;
        let carrier = match shape.bits_per_second {
            Some(bits_per_second) => Some(tun(&namespaces, shape, bits_per_second, mtu)?),
            None => {
                let veth = Shape { bits_per_second: None, ..shape };
                ensure!(veth == Shape::UNSHAPED, "a delay or loss needs a rate: {shape:?}");
                veth_pair(&namespaces)?;
                None
            }
        };
        for (name, address) in namespaces.names().iter().zip(ADDRESSES) {
            ip(name, &["link", "set", INTERFACE, "mtu", &mtu.to_string()])?;
            ip(name, &["addr", "add", &format!("{address}/30"), "dev", INTERFACE])?;
            ip(name, &["link", "set", INTERFACE, "up"])?;
        }
        Ok(Link { carrier, namespaces })
    }

    /// Has it a rate, and isn't as fast as the machine?
    pub(crate) fn is_shaped(&self) -> bool {
        self.carrier.is_some()
    }

    /// The namespaces, as `ip netns exec` takes them.
    pub(crate) fn namespaces(&self) -> [&str; 2] {
        self.namespaces.names()
    }

    /// Where each end is for the other.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        ADDRESSES.map(IpAddr::V4)
    }

    /// The interface, as a process in either namespace sees it.
    pub(crate) fn interface(&self) -> &'static str {
        INTERFACE
    }

    /// Bytes that left each end, lost ones too, as the interfaces count them, headers included.
    pub(crate) fn sent_bytes(&self) -> anyhow::Result<[u64; 2]> {
        let [a, b] = self.namespaces();
        Ok([interface_counter(a, SENT_BYTES)?, interface_counter(b, SENT_BYTES)?])
    }

    /// What this machine did to packets that a real link would not have done, in words, if it was
    /// too busy: a figure that was measured meanwhile says less about the tool.
    pub(crate) fn trouble(&self) -> anyhow::Result<Option<String>> {
        let Some(counters) = self.counters() else { return Ok(None) };
        let missed: u64 = self.missed_packets()?.iter().sum();
        let late: u64 = counters.iter().map(|counters| counters.late_packets).sum();
        let all: u64 = counters.iter().map(|counters| counters.delivered_packets).sum();
        let trouble = missed > 0 || late as f64 > all as f64 * LATE_SHARE_MAX;
        let words = || format!("of {all} packets {late} came late and {missed} more were missed");
        Ok(trouble.then(words))
    }

    /// Bytes that came out at end 1, on a shaped link.
    pub(crate) fn delivered_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.counters().context("an unshaped link counts nothing")?[0].delivered_bytes)
    }

    /// Packets from end 0 on a shaped link: sent, dropped by the queue, lost on the way.
    pub(crate) fn packets(&self) -> anyhow::Result<[u64; 3]> {
        let [there, _] = self.counters().context("an unshaped link counts nothing")?;
        Ok([there.sent_packets, there.dropped_packets, there.lost_packets])
    }

    /// What became of the packets each way; none on an unshaped link, which loses nothing.
    fn counters(&self) -> Option<[Counters; 2]> {
        self.carrier.as_ref().map(Carrier::counters)
    }

    /// Packets each way that the kernel dropped because we didn't fetch them in time.
    fn missed_packets(&self) -> anyhow::Result<[u64; 2]> {
        let [a, b] = self.namespaces();
        Ok([interface_counter(a, SENT_DROPPED)?, interface_counter(b, SENT_DROPPED)?])
    }

    /// The rate of both directions from now on, on a shaped link; 0 lets nothing through.
    pub(crate) fn set_rate(&self, bits_per_second: u64) -> anyhow::Result<()> {
        let carrier = self.carrier.as_ref().context("an unshaped link has no rate")?;
        carrier.set_rate(bits_per_second);
        Ok(())
    }

    /// Does `work` on a thread in the namespace of end 0 or 1; sockets made there stay there.
    pub(crate) fn inside<T: Send>(
        &self,
        end: usize,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(self.namespaces()[end], work)
    }
}

/// A veth pair, without segmentation offload.
fn veth_pair(namespaces: &Namespaces) -> anyhow::Result<()> {
    let [a, b] = namespaces.names();
    ip(a, &["link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", b])?;
    for name in [a, b] {
        ip(name, &["link", "set", INTERFACE, "gso_max_segs", "1"])?;
    }
    Ok(())
}

/// Two TUN devices, and what carries packets between them.
fn tun(
    namespaces: &Namespaces,
    shape: Shape,
    bits_per_second: u64,
    mtu: u32,
) -> anyhow::Result<Carrier> {
    let open = |name| inside(name, || sys::open_tun(INTERFACE).context("make a TUN device"));
    let [a, b] = namespaces.names();
    let devices = [open(a)?, open(b)?];
    for name in [a, b] {
        // Before the device is up: its ring takes the length that it has then.
        ip(name, &["link", "set", INTERFACE, "txqueuelen", &DEVICE_QUEUE_PACKETS.to_string()])?;
    }
    let settings = |direction| Settings {
        bits_per_second,
        round_trip: shape.round_trip,
        loss_per_mille: shape.loss_per_mille,
        mtu,
        seed: LOSS_SEED + direction,
    };
    Carrier::start(devices, [settings(0), settings(1)])
}

/// Columns of `/proc/net/dev`.
const SENT_BYTES: usize = 8;
const SENT_DROPPED: usize = 11;

fn interface_counter(namespace: &str, column: usize) -> anyhow::Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let text = inside(namespace, || std::fs::read_to_string(path).context(path))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{INTERFACE}:")));
    let line = line.with_context(|| format!("{namespace} has no {INTERFACE}"))?;
    let number = line.split_whitespace().nth(column).context("a short line")?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests;
