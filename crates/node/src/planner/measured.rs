//! Measured: how fast each peer's link is, and how many bytes something takes on the wire.
//!
//! Pure: events and time go in, what the forecast needs comes out. A link is measured while nothing
//! of ours holds the sender back; while a limit does, what goes out only says that the link takes at
//! least that. Bytes on the wire are known exactly once a plan was made or a transfer of the same
//! content upon the same base went through; before that the savings of this store say how many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, NodeId, Root, StoreName};

/// A look at a link shorter than this says nothing.
const LOOK_LEAST: Duration = Duration::from_millis(150);
/// One longer than this spans a time without transfers.
const LOOK_LONGEST: Duration = Duration::from_secs(60);
/// Fewer bytes than this in one look: it was not the link that was waited for.
const LOOK_BYTES_LEAST: u64 = 64 << 10;
/// A link's rate is that of about so long.
const MEMORY: Duration = Duration::from_secs(60);
/// A sender that waited at the gate for more than this share of a look was held back by a limit.
const WAITED_SHARE: f64 = 0.1;
/// Transfers whose bytes are remembered.
const SIZES_MAX: usize = 16_384;
/// What a transfer weighs in a store's savings.
const SHARE_WEIGHT: f64 = 0.3;

/// How fast a link is.
#[derive(Clone, Debug, Default)]
pub struct LinkRate {
    bits_per_second: Option<f64>,
    /// Time that the rate rests on, in seconds; at most [`MEMORY`].
    seconds: f64,
    last: Option<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    sent: u64,
    waited: Duration,
}

impl LinkRate {
    /// Bits per second on the wire; `None`: not measured.
    pub fn bits_per_second(&self) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        let bits = self.bits_per_second.map(|bits| bits.max(1.0) as u64);
        bits
    }

    /// A transfer begins: what lay before says nothing.
    pub fn handle_begin(&mut self) {
        self.last = None;
    }

    /// What the connection has sent so far, in bytes on the wire, and how long transfers on it have
    /// waited at the gate, all together.
    pub fn handle_look(&mut self, now: Instant, sent: u64, waited: Duration) {
        let look = Look { at: now, sent, waited };
        let Some(last) = self.last else {
            self.last = Some(look);
            return;
        };
        let took = now.saturating_duration_since(last.at);
        if took < LOOK_LEAST && sent >= last.sent {
            return;
        }
        self.last = Some(look);
        let bytes = sent.saturating_sub(last.sent);
        if took > LOOK_LONGEST || bytes < LOOK_BYTES_LEAST {
            return;
        }
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = bytes as f64 * 8.0 / seconds;
        let held = waited.saturating_sub(last.waited).as_secs_f64() > WAITED_SHARE * seconds;
        match self.bits_per_second {
            // It takes at least this.
            Some(known) if held => self.bits_per_second = Some(known.max(rate)),
            None if held => {}
            known => {
                let before = known.unwrap_or(rate);
                self.seconds = (self.seconds + seconds).min(MEMORY.as_secs_f64());
                let share = (seconds / self.seconds).min(1.0);
                self.bits_per_second = Some(before + (rate - before) * share);
            }
        }
    }
}

/// Content upon a base, which takes so many bytes whoever it goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delta {
    /// Of which store.
    pub store: StoreName,
    /// Which image.
    pub image: ImageName,
    /// What the peer shall have.
    pub root: Root,
    /// What it has; `None`: nothing of it.
    pub base: Option<Root>,
}

/// What is known of links and sizes.
#[derive(Debug, Default)]
pub struct Measured {
    links: BTreeMap<NodeId, LinkRate>,
    /// Payload bytes, and which came when: the oldest are forgotten.
    sizes: BTreeMap<Delta, (u64, u64)>,
    count: u64,
    /// Payload bytes for each changed byte.
    shares: BTreeMap<StoreName, f64>,
}

impl Measured {
    /// The link of a peer.
    pub fn link(&mut self, peer: NodeId) -> &mut LinkRate {
        self.links.entry(peer).or_default()
    }

    /// Bits per second on the wire that a peer's link takes.
    pub fn link_bits_per_second(&self, peer: &NodeId) -> Option<u64> {
        self.links.get(peer)?.bits_per_second()
    }

    /// A peer is gone for good.
    pub fn handle_peer_gone(&mut self, peer: &NodeId) {
        self.links.remove(peer);
    }

    /// A plan says how many payload bytes it takes.
    pub fn handle_plan(&mut self, delta: Delta, payload_bytes: u64) {
        self.keep(delta, payload_bytes);
    }

    /// A transfer has taken so many payload bytes for so many changed ones. One that went on where an
    /// earlier one stopped has taken less than all: the most that is known counts.
    pub fn handle_transfer(&mut self, delta: Delta, payload_bytes: u64, changed_bytes: u64) {
        let known = self.sizes.get(&delta).map_or(0, |(bytes, _)| *bytes);
        if changed_bytes > 0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let share = (payload_bytes as f64 / changed_bytes as f64).min(1.1);
            let known = self.shares.entry(delta.store.clone()).or_insert(share);
            *known += (share - *known) * SHARE_WEIGHT;
        }
        self.keep(delta, payload_bytes.max(known));
    }

    /// Payload bytes that it takes to send all of something, of which so many bytes have changed.
    pub fn payload_bytes(&self, delta: &Delta, changed_bytes: u64) -> u64 {
        if let Some((bytes, _)) = self.sizes.get(delta) {
            return *bytes;
        }
        let share = self.shares.get(&delta.store).copied().unwrap_or(1.0);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate"
        )]
        let bytes = (changed_bytes as f64 * share) as u64;
        bytes
    }

    fn keep(&mut self, delta: Delta, payload_bytes: u64) {
        self.count += 1;
        self.sizes.insert(delta, (payload_bytes, self.count));
        if self.sizes.len() > SIZES_MAX {
            // The older half goes at once, so that this is rare.
            let half = self.count.saturating_sub(SIZES_MAX as u64 / 2);
            self.sizes.retain(|_, (_, count)| *count > half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(n: u8, base: Option<u8>) -> Delta {
        Delta {
            store: StoreName::new("vdisks").expect("a name"),
            image: ImageName::new("a.img").expect("a name"),
            root: Root::from_bytes([n; 32]),
            base: base.map(|n| Root::from_bytes([n; 32])),
        }
    }

    /// One second each: bytes sent, milliseconds waited.
    fn looks(link: &mut LinkRate, seconds: &[(u64, u64)]) {
        let (mut at, mut sent, mut waited) = (Instant::now(), 0, Duration::ZERO);
        link.handle_begin();
        link.handle_look(at, sent, waited);
        for (bytes, ms) in seconds {
            at += Duration::from_secs(1);
            sent += bytes;
            waited += Duration::from_millis(*ms);
            link.handle_look(at, sent, waited);
        }
    }

    #[test]
    fn a_link_is_measured_while_nothing_holds_the_sender_back() {
        let mut link = LinkRate::default();
        looks(&mut link, &[(125_000, 900); 5]);
        assert_eq!(link.bits_per_second(), None, "that was the limit, not the link");
        looks(&mut link, &[(1_250_000, 0), (3_750_000, 20), (2_500_000, 0)]);
        assert_eq!(link.bits_per_second(), Some(20_000_000), "the mean of three seconds");
        looks(&mut link, &[(125_000, 900), (10_000, 0), (0, 0)]);
        assert_eq!(link.bits_per_second(), Some(20_000_000), "a limit and a rest say nothing");
        looks(&mut link, &[(5_000_000, 500)]);
        assert_eq!(link.bits_per_second(), Some(40_000_000), "it takes at least what went out");
        looks(&mut link, &[(1_250_000, 0); 300]);
        let bits = link.bits_per_second().expect("measured");
        assert!((10_000_000..10_400_000).contains(&bits), "{bits}: the last minutes count");
    }

    #[test]
    fn a_new_connection_begins_at_nothing() {
        let mut link = LinkRate::default();
        let now = Instant::now();
        link.handle_look(now, 50_000_000, Duration::ZERO);
        link.handle_look(now + Duration::from_secs(1), 1_000_000, Duration::ZERO);
        assert_eq!(link.bits_per_second(), None);
        link.handle_look(now + Duration::from_secs(2), 2_000_000, Duration::ZERO);
        assert_eq!(link.bits_per_second(), Some(8_000_000));
        link.handle_look(now + Duration::from_secs(200), 2_500_000, Duration::ZERO);
        assert_eq!(link.bits_per_second(), Some(8_000_000), "a night without transfers");
    }

    #[test]
    fn bytes_are_exact_when_they_are_known_and_by_the_store_s_savings_else() {
        let mut measured = Measured::default();
        assert_eq!(measured.payload_bytes(&delta(1, None), 1000), 1000, "nothing is known");
        measured.handle_plan(delta(1, None), 300);
        assert_eq!(measured.payload_bytes(&delta(1, None), 1000), 300);
        measured.handle_transfer(delta(1, None), 400, 1000);
        assert_eq!(measured.payload_bytes(&delta(1, None), 1000), 400, "measured beats planned");
        measured.handle_transfer(delta(1, None), 50, 1000);
        assert_eq!(measured.payload_bytes(&delta(1, None), 1000), 400, "that one was resumed");
        let other = measured.payload_bytes(&delta(2, Some(1)), 1000);
        assert!((290..300).contains(&other), "{other}: 0.4 and 0.05 by their weights");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut measured = Measured::default();
        for n in 0..SIZES_MAX as u64 + 10 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            let delta = Delta { root: Root::from_bytes(bytes), ..delta(0, None) };
            measured.handle_plan(delta, n);
        }
        assert!((SIZES_MAX / 2..=SIZES_MAX).contains(&measured.sizes.len()));
    }
}
