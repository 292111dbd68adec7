//! A scrape as OpenMetrics text. Names are a contract: SURFACE of dashboards and alert rules.
//!
//! Every family is there from the start, also while it is empty; a figure that isn't known is absent.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Scrape;
use crate::monitoring::counts::Seconds;

/// Errors that alert rules count: there from the start, so that the first one is an increase.
const COUNTED: [&str; 5] = ["DEGRADED", "DISK_FULL", "DIVERGED", "VERIFY_FAILED", "WINDOW_MISSED"];

/// The scrape as it is sent.
pub(super) fn written(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix("blockferry");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // A String takes every byte.
    let _always = encode(&mut text, &registry);
    text
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder };
        self.node(&mut families)?;
        self.pairs(&mut families)?;
        self.peers(&mut families)?;
        self.stores(&mut families)?;
        self.totals(&mut families)
    }
}

impl Scrape {
    fn node(&self, to: &mut Families<'_>) -> fmt::Result {
        let help = "Version of the service";
        let mut info = to.encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        info.encode_info(&[("version", self.version)])?;
        let up = [(NONE, self.uptime_seconds)];
        to.gauges("uptime", "Since the start of the service", Some(Unit::Seconds), up)
    }

    fn pairs(&self, to: &mut Families<'_>) -> fmt::Result {
        let labels = |image, peer| [("image", image), ("peer", peer)];
        let rows = self.pairs.iter().map(|p| (labels(&*p.image, &*p.peer), u64::from(p.in_sync)));
        to.gauges("image_in_sync", "1: the peer holds the current generation", None, rows)?;
        let rows = self.pairs.iter().map(|p| (labels(&*p.image, &*p.peer), p.lag_seconds));
        let help = "Age of the generation that the peer lacks; 0 when in sync";
        to.gauges("image_lag", help, Some(Unit::Seconds), rows)?;
        let help = "Pairs of image and peer that are not shown: there are too many";
        to.gauges("image_pairs_hidden", help, None, [(NONE, self.hidden_pairs)])
    }

    fn peers(&self, to: &mut Families<'_>) -> fmt::Result {
        let all = &self.peers;
        let peer = |name| [("peer", name)];
        let rows = all.iter().map(|p| (peer(&*p.name), u64::from(p.up)));
        to.gauges("peer_up", "1: connected", None, rows)?;
        let rows = all.iter().filter_map(|p| Some((peer(&*p.name), p.rtt_seconds?)));
        to.gauges("peer_rtt", "Round trip to the peer", Some(Unit::Seconds), rows)?;
        let rows = all.iter().filter_map(|p| Some((peer(&*p.name), p.rate_limit_bits_per_second?)));
        let help = "Limit in force towards the peer; 0: paused, absent: none";
        to.gauges("rate_limit_bits_per_second", help, None, rows)?;
        let rows = all.iter().map(|p| (peer(&*p.name), p.backlog_bytes));
        let help = "Changed bytes that the peer lacks, before any saving";
        to.gauges("backlog", help, Some(Unit::Bytes), rows)?;
        let rows = all.iter().map(|p| (peer(&*p.name), p.backlog_images));
        to.gauges("backlog_images", "Images that the peer lacks", None, rows)?;
        let standing = |name, state| [("peer", name), ("state", state)];
        let rows = all.iter().flat_map(|p| {
            let (synced, behind) = (p.images_in_sync, p.images_behind);
            [(standing(&*p.name, "in_sync"), synced), (standing(&*p.name, "behind"), behind)]
        });
        to.gauges("peer_images", "Images that it shares, by how they stand there", None, rows)?;
        let rows = all.iter().map(|p| (peer(&*p.name), p.lag_seconds));
        let help = "Age of the oldest generation that the peer lacks; 0 when in sync";
        to.gauges("peer_lag", help, Some(Unit::Seconds), rows)?;
        let rows = all.iter().map(|p| (peer(&*p.name), u64::from(p.backlog_high)));
        to.gauges("backlog_high", "1: above limits.backlog_high, until below the low", None, rows)?;
        let rows = all.iter().filter_map(|p| Some((peer(&*p.name), p.backlog_eta_seconds?)));
        let help = "Until the peer has what is on its way; absent: not known";
        to.gauges("backlog_eta", help, Some(Unit::Seconds), rows)?;
        let rows = self.waiting.iter().map(|(why, count)| ([("reason", why.as_str())], *count));
        to.gauges("backlog_waiting_images", "Images that peers lack, by why", None, rows)?;
        let way = |name, direction| [("peer", name), ("direction", direction)];
        let rows = all.iter().flat_map(|p| {
            [(way(&*p.name, "sent"), p.sent_bytes), (way(&*p.name, "received"), p.received_bytes)]
        });
        to.counters("wire", "UDP payload to and from the peer", Some(Unit::Bytes), rows)?;
        let rows = all.iter().map(|p| (peer(&*p.name), p.lost_packets));
        to.counters("quic_lost_packets", "Packets to the peer that were lost", None, rows)
    }

    fn stores(&self, to: &mut Families<'_>) -> fmt::Result {
        let all = &self.stores;
        let store = |name| [("store", name)];
        let rows = all.iter().map(|s| (store(&*s.name), u64::from(s.in_service)));
        to.gauges("store_in_service", "1: the store is open", None, rows)?;
        let rows = all.iter().map(|s| (store(&*s.name), u64::from(s.degraded)));
        to.gauges("store_degraded", "1: a write failed; nothing more is taken", None, rows)?;
        let rows = all.iter().filter_map(|s| Some((store(&*s.name), s.free_bytes?)));
        to.gauges("store_free", "Free on the store's file system", Some(Unit::Bytes), rows)?;
        let rows = all.iter().map(|s| (store(&*s.name), s.staging_bytes));
        let help = "Room that was promised to transfers under way";
        to.gauges("staging", help, Some(Unit::Bytes), rows)?;
        let rows = all.iter().map(|s| (store(&*s.name), u64::from(s.staging_high)));
        to.gauges("staging_high", "1: above limits.staging_high, until below the low", None, rows)
    }

    fn totals(&self, to: &mut Families<'_>) -> fmt::Result {
        let totals = &self.totals;
        let rows = [
            ([("direction", "sent")], totals.logical_sent_bytes),
            ([("direction", "received")], totals.logical_received_bytes),
        ];
        let help = "Bytes of the images that travelled";
        to.counters("logical", help, Some(Unit::Bytes), rows)?;
        let saved = |why| ([("reason", why)], totals.saved_bytes.get(why).copied().unwrap_or(0));
        let rows = ["keep", "found", "zero", "zstd", "prefix"].map(saved);
        let help = "Of the received ones, bytes that did not travel, by why";
        to.counters("saved", help, Some(Unit::Bytes), rows)?;
        let rows = totals.discover.iter().map(|(how, seconds)| ([("discover", *how)], seconds));
        to.durations("discover", "Finding what changed, by how", rows)?;
        let rows = [(NONE, totals.scan_bytes)];
        to.counters("scan", "Image bytes read to find what changed", Some(Unit::Bytes), rows)?;
        let help = "Making received content current";
        to.durations("commit", help, [(NONE, &totals.commit)])?;
        let rows = [(NONE, totals.verify_failures)];
        to.counters("verify_failures", "Images that verifying found wrong", None, rows)?;
        let quiet = COUNTED.iter().filter(|code| !self.errors.contains_key(*code));
        let quiet = quiet.map(|code| ([("code", *code)], 0));
        let rows = self.errors.iter().map(|(code, count)| ([("code", *code)], *count));
        to.counters("errors", "Warnings and errors among the events", None, rows.chain(quiet))
    }
}

/// No label.
const NONE: [(&str, &str); 0] = [];

/// Writes one family after the other.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let unit = unit.as_ref();
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let unit = unit.as_ref();
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            let mut series = family.encode_family(&labels)?;
            series.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    fn durations<'s, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, &'s Seconds)>,
    ) -> fmt::Result {
        let (unit, kind) = (Unit::Seconds, MetricType::Histogram);
        let mut family = self.encoder.encode_descriptor(name, help, Some(&unit), kind)?;
        for (labels, seconds) in rows {
            let mut series = family.encode_family(&labels)?;
            let (sum, count, buckets) = (seconds.sum, seconds.count, seconds.buckets());
            series.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use blockferry_delta::{ImageName, Lineage, NodeId, Root, StoreName};

    use super::*;
    use crate::backlog::{Backlog, Head, Pairs, Sum};
    use crate::budget;
    use crate::http::metrics::{PairSample, PeerSample, StoreSample};
    use crate::transfer::judge::Version;

    const STORES: usize = 500;
    const PEERS: usize = 50;

    /// A hub as large as they come: every store at every peer.
    fn large() -> Scrape {
        let mut backlog = Backlog::default();
        let stores: BTreeSet<StoreName> = (0..STORES)
            .map(|n| StoreName::new(&format!("store-{n:03}")).expect("a name"))
            .collect();
        for n in 0..PEERS {
            let id = NodeId::from_bytes([u8::try_from(n).expect("few"); 32]);
            backlog.handle_peer(id, stores.clone());
        }
        let image = ImageName::new("disk.vhdx").expect("a name");
        for store in &stores {
            let version =
                Version { number: 1, root: Root::from_bytes([1; 32]), lineage: Lineage::default() };
            let head =
                Head { version, size_bytes: 1, recorded_unix_ms: 0, changed_bytes: Vec::new() };
            backlog.handle_head(store.clone(), image.clone(), head);
        }
        let Pairs { shown, hidden, sums } = backlog.pairs();
        let all = sums.values().map(|sum| (sum.in_sync, sum.behind, sum.oldest_unix_ms));
        assert!(all.eq([(0, STORES as u64, Some(0)); PEERS]), "what is hidden is counted");
        let pairs = shown.into_iter().map(|pair| PairSample {
            image: format!("{}/{}", pair.key.store, pair.key.image),
            peer: pair.key.peer.short(),
            in_sync: pair.in_sync,
            lag_seconds: 86_400.5,
        });
        let peer = |n| PeerSample {
            name: format!("branch-{n:02}"),
            up: true,
            rtt_seconds: Some(0.02),
            rate_limit_bits_per_second: Some(10_000_000),
            backlog_eta_seconds: Some(7200.0),
            ..PeerSample::default()
        };
        let store = |name: &StoreName| StoreSample {
            name: name.to_string(),
            in_service: true,
            degraded: false,
            free_bytes: Some(1 << 40),
            staging_bytes: 0,
            staging_high: false,
        };
        Scrape {
            version: "0.0.0",
            pairs: pairs.collect(),
            hidden_pairs: hidden as u64,
            peers: (0..PEERS).map(peer).collect(),
            stores: stores.iter().map(store).collect(),
            ..Scrape::default()
        }
    }

    fn series(text: &str) -> usize {
        text.lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn a_scrape_of_500_stores_at_50_peers_is_bounded_and_cheap() {
        let scrape = large();
        assert_eq!(scrape.pairs.len(), budget::METRICS_PAIRS_MAX);
        assert_eq!(scrape.hidden_pairs, (STORES * PEERS - budget::METRICS_PAIRS_MAX) as u64);
        let started = Instant::now();
        let text = written(scrape);
        let took = started.elapsed();
        let count = series(&text);
        eprintln!("{count} series, {} bytes in {took:?}", text.len());
        let most = budget::metrics_series_max(STORES, PEERS);
        assert!(count <= most, "{count} series, at most {most}");
        let [pair, peer, store] = budget::METRICS_SERIES_EACH;
        let least = pair * budget::METRICS_PAIRS_MAX + peer * PEERS + store * STORES;
        assert!(count >= least, "{count} series: each pair, peer and store has all of its own");
        assert!(text.len() < 2 << 20, "{} bytes", text.len());
        // A bound on hangs, not a figure.
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn what_is_behind_is_shown_before_what_is_not() {
        let mut backlog = Backlog::default();
        let store = StoreName::new("s").expect("a name");
        let id = NodeId::from_bytes([7; 32]);
        backlog.handle_peer(id, BTreeSet::from([store.clone()]));
        let root = Root::from_bytes([1; 32]);
        let pairs_max = budget::METRICS_PAIRS_MAX as u64;
        for n in 0..budget::METRICS_PAIRS_MAX + 10 {
            let image = ImageName::new(&format!("i{n:06}")).expect("a name");
            let version = Version { number: 1, root, lineage: Lineage::default() };
            let head =
                Head { version, size_bytes: 1, recorded_unix_ms: 5, changed_bytes: Vec::new() };
            backlog.handle_head(store.clone(), image.clone(), head);
            if n < budget::METRICS_PAIRS_MAX + 3 {
                let key = crate::backlog::Key { peer: id, store: store.clone(), image };
                backlog.handle_receipt(key, 1, root);
            }
        }
        let Pairs { shown: pairs, hidden, sums } = backlog.pairs();
        let sum = Sum { in_sync: pairs_max + 3, behind: 7, oldest_unix_ms: Some(5) };
        assert_eq!(sums, [(id, sum)].into());
        assert_eq!((pairs.len(), hidden), (budget::METRICS_PAIRS_MAX, 10));
        assert!(pairs.iter().take(7).all(|pair| !pair.in_sync));
        assert!(pairs.iter().skip(7).all(|pair| pair.in_sync && pair.recorded_unix_ms == 5));
    }

    #[test]
    fn a_label_can_not_break_out() {
        let mut scrape = large();
        scrape.pairs.truncate(1);
        scrape.pairs[0].image = "a\"} 1\nb{x=\"\\".to_owned();
        let text = written(scrape);
        assert!(text.contains(r#"image="a\"} 1\nb{x=\"\\""#), "{text:.2000}");
    }
}
