//! A wire of our own between the two nodes: two network namespaces and a veth pair that carries
//! nothing else, so that its counters are what the nodes sent. Needs root and iproute2.
//!
//! Segmentation offload is off on it: a packet of the counters is a packet of a wire, with its
//! Ethernet, IP and UDP headers.

use std::net::SocketAddr;
use std::process::Command;

use super::tools::run;

/// The interface, called the same at both ends.
const INTERFACE: &str = "ferry0";
const PORT: u16 = 7700;

/// Two namespaces and the wire between them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    names: [String; 2],
}

impl Link {
    /// Makes it for packets of up to `mtu` bytes. Names hold our process id: two runs at once
    /// don't meet.
    pub(crate) fn new(mtu: u32) -> anyhow::Result<Link> {
        let id = std::process::id();
        let link = Link { names: [format!("ferry-{id}-a"), format!("ferry-{id}-b")] };
        let [a, b] = &link.names;
        for name in &link.names {
            run(Command::new("ip").args(["netns", "add", name]))?;
        }
        let pair = ["link", "add", INTERFACE, "netns", a, "type", "veth"];
        run(Command::new("ip").args(pair).args(["peer", "name", INTERFACE, "netns", b]))?;
        for (name, address) in link.names.iter().zip(["10.213.77.1/30", "10.213.77.2/30"]) {
            let ip = |args: &[&str]| run(Command::new("ip").args(["-n", name]).args(args));
            ip(&["link", "set", INTERFACE, "gso_max_segs", "1", "mtu", &mtu.to_string()])?;
            ip(&["addr", "add", address, "dev", INTERFACE])?;
            ip(&["link", "set", "lo", "up"])?;
            ip(&["link", "set", INTERFACE, "up"])?;
        }
        Ok(link)
    }

    /// Namespaces of sender and receiver, and where each listens.
    pub(crate) fn ends(&self) -> [(Option<String>, SocketAddr); 2] {
        let [a, b] = &self.names;
        [
            (Some(a.clone()), SocketAddr::from(([10, 213, 77, 1], PORT))),
            (Some(b.clone()), SocketAddr::from(([10, 213, 77, 2], PORT))),
        ]
    }

    /// Its interface, as a process in either namespace sees it.
    pub(crate) fn interface() -> &'static str {
        INTERFACE
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for name in &self.names {
            // One of them may not have been made; the pair goes with the namespaces.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
