//! From runs to figures: medians with their spread, and ratios to a full copy and to the best of
//! the other tools.

use super::job::Run;
use super::results::{Cell, Results};
use super::tools::{OURS, WHOLE};
use crate::ground::tools::median;
use crate::report::Spread;

/// Something that each run has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    of: fn(&Run) -> Option<f64>,
}

impl Metric {
    /// Of the runs whose image arrived; none if there is none, or it was not measured.
    pub(super) fn spread(&self, cell: &Cell) -> Option<Spread> {
        let values: Vec<f64> = cell.good().map(self.of).collect::<Option<_>>()?;
        let min = values.iter().copied().min_by(f64::total_cmp)?;
        let max = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Spread { median: median(&values), min, max })
    }

    pub(super) fn median(&self, cell: &Cell) -> Option<f64> {
        self.spread(cell).map(|spread| spread.median)
    }
}

const fn metric(name: &'static str, of: fn(&Run) -> Option<f64>) -> Metric {
    Metric { name, of }
}

#[expect(clippy::cast_precision_loss, reason = "exact to 8 PiB")]
fn count(bytes: u64) -> Option<f64> {
    Some(bytes as f64)
}

pub(super) const WALL: Metric = metric("wall_seconds", |run| Some(run.wall_seconds));
pub(super) const SYNC: Metric = metric("sync_seconds", |run| Some(run.sync_seconds));
pub(super) const WIRE: Metric =
    metric("wire_bytes", |run| run.wire_bytes.and_then(|[a, b]| count(a + b)));
pub(super) const WIRE_THERE: Metric =
    metric("wire_there_bytes", |run| run.wire_bytes.and_then(|[there, _]| count(there)));
pub(super) const WIRE_BACK: Metric =
    metric("wire_back_bytes", |run| run.wire_bytes.and_then(|[_, back]| count(back)));
/// Pairs of sender and receiver.
pub(super) const CPU: [Metric; 2] = [
    metric("sender_cpu_seconds", |run| Some(run.cpu_seconds[0])),
    metric("receiver_cpu_seconds", |run| Some(run.cpu_seconds[1])),
];
pub(super) const READ: [Metric; 2] = [
    metric("sender_disk_read_bytes", |run| count(run.disk_read_bytes[0])),
    metric("receiver_disk_read_bytes", |run| count(run.disk_read_bytes[1])),
];
pub(super) const WRITTEN: [Metric; 2] = [
    metric("sender_disk_written_bytes", |run| count(run.disk_written_bytes[0])),
    metric("receiver_disk_written_bytes", |run| count(run.disk_written_bytes[1])),
];
pub(super) const MEMORY: [Metric; 2] = [
    metric("sender_peak_memory_bytes", |run| count(run.peak_memory_bytes[0])),
    metric("receiver_peak_memory_bytes", |run| count(run.peak_memory_bytes[1])),
];
pub(super) const EXTRA: [Metric; 2] = [
    metric("sender_peak_extra_disk_bytes", |run| count(run.peak_extra_disk_bytes[0])),
    metric("receiver_peak_extra_disk_bytes", |run| count(run.peak_extra_disk_bytes[1])),
];
pub(super) const STANDING: [Metric; 2] = [
    metric("sender_standing_disk_bytes", |run| count(run.standing_disk_bytes[0])),
    metric("receiver_standing_disk_bytes", |run| count(run.standing_disk_bytes[1])),
];
pub(super) const AFTERWARDS: [Metric; 2] = [
    metric("afterwards_seconds", |run| run.afterwards.as_ref().map(|after| after.seconds)),
    metric("afterwards_cpu_seconds", |run| {
        run.afterwards.as_ref().map(|after| after.cpu_seconds.iter().sum())
    }),
];

/// All, for the JSON.
pub(super) const METRICS: [Metric; 19] = [
    WALL,
    SYNC,
    CPU[0],
    CPU[1],
    WIRE,
    WIRE_THERE,
    WIRE_BACK,
    READ[0],
    READ[1],
    WRITTEN[0],
    WRITTEN[1],
    MEMORY[0],
    MEMORY[1],
    EXTRA[0],
    EXTRA[1],
    STANDING[0],
    STANDING[1],
    AFTERWARDS[0],
    AFTERWARDS[1],
];

/// What ratios are to: the least of the full copies (a stream of our own, `rsync -W`), and the
/// least of the tools that are neither ours nor copy everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Yardsticks {
    pub(super) full_copy: Option<f64>,
    pub(super) best_peer: Option<f64>,
}

/// Those of one workload on one link.
pub(super) fn yardsticks(results: &Results, link: &str, workload: &str, of: &Metric) -> Yardsticks {
    let cells = || results.cells.iter().filter(|c| c.link == link && c.workload == workload);
    let whole = cells().filter(|cell| WHOLE.contains(&cell.tool.as_str()));
    let peers = cells().filter(|cell| cell.tool != OURS && !WHOLE.contains(&cell.tool.as_str()));
    Yardsticks {
        full_copy: whole.filter_map(|cell| of.median(cell)).min_by(f64::total_cmp),
        best_peer: peers.filter_map(|cell| of.median(cell)).min_by(f64::total_cmp),
    }
}

/// The same seed sends the same bytes: more than this apart, and more than the packets below, is a
/// failure.
pub(super) const SPREAD_PERCENT_MAX: f64 = 1.0;
/// Four packets: an acknowledgement or a sign of life more or less is most of a small update.
pub(super) const SPREAD_BYTES_MAX: f64 = 6000.0;

/// How much wire bytes differ between runs of the same seed.
#[derive(Clone, Debug)]
pub(super) struct Spreading {
    /// Of the median.
    pub(super) percent: f64,
    pub(super) bytes: f64,
    /// Workload and link.
    pub(super) place: String,
}

impl Spreading {
    pub(super) fn is_too_much(&self) -> bool {
        self.percent > SPREAD_PERCENT_MAX && self.bytes > SPREAD_BYTES_MAX
    }
}

/// Those of a tool's cells with two runs or more whose bytes were counted.
pub(super) fn spreads(results: &Results, tool: &str) -> impl Iterator<Item = Spreading> {
    let cells = results.cells.iter().filter(move |cell| cell.tool == tool);
    cells.filter(|cell| cell.good().count() > 1).filter_map(|cell| {
        let spread = WIRE.spread(cell)?;
        let bytes = spread.max - spread.min;
        let percent = 100.0 * bytes / spread.median.max(1.0);
        Some(Spreading { percent, bytes, place: format!("{} on {}", cell.workload, cell.link) })
    })
}

/// The largest of them, by percent.
pub(super) fn worst_spread(results: &Results, tool: &str) -> Option<Spreading> {
    spreads(results, tool).max_by(|left, right| left.percent.total_cmp(&right.percent))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tools::FULL_COPY;
    use super::*;

    /// A run of so many seconds and bytes.
    pub(in crate::compare) fn run(wall_seconds: f64, wire_bytes: Option<[u64; 2]>) -> Run {
        Run {
            wall_seconds,
            split: Vec::new(),
            sync_seconds: 0.5,
            cpu_seconds: [1.0, 2.0],
            wire_bytes,
            disk_read_bytes: [1 << 20, 2 << 20],
            disk_written_bytes: [3 << 20, 4 << 20],
            peak_memory_bytes: [5 << 20, 6 << 20],
            peak_extra_disk_bytes: [0, 7 << 20],
            standing_disk_bytes: [0, 8 << 20],
            afterwards: None,
            identical: true,
            load_before: 0.0,
            link_trouble: None,
            set_up_seconds: 0.0,
        }
    }

    #[test]
    fn medians_ratios_and_spreads() {
        let mut results = Results::new("quick", 1, 1 << 20, 3);
        for (tool, seconds, bytes) in
            [(FULL_COPY, 8.0, 1000), ("rsync", 4.0, 300), ("bita", 6.0, 200), (OURS, 2.0, 100)]
        {
            let cell = results.cell_mut("l", "w", tool);
            for factor in [1.0, 3.0, 2.0] {
                cell.runs.push(run(seconds * factor, Some([bytes, 10])));
            }
        }
        let cell = results.cell("l", "w", OURS).unwrap();
        assert_eq!(WALL.spread(cell), Some(Spread { min: 2.0, median: 4.0, max: 6.0 }));
        assert_eq!(WIRE.median(cell), Some(110.0));
        assert_eq!(AFTERWARDS[0].spread(cell), None);
        let wall = yardsticks(&results, "l", "w", &WALL);
        assert_eq!((wall.full_copy, wall.best_peer), (Some(16.0), Some(8.0)));
        assert_eq!(yardsticks(&results, "l", "w", &WIRE).best_peer, Some(210.0));
        // The faster of the two that copy everything is what a ratio is to.
        results.cell_mut("l", "w", "rsync-whole").runs.push(run(15.0, Some([1100, 10])));
        assert_eq!(yardsticks(&results, "l", "w", &WALL).full_copy, Some(15.0));
        assert_eq!(yardsticks(&results, "l", "w", &WIRE).full_copy, Some(1010.0));
        assert_eq!(worst_spread(&results, OURS).unwrap().percent, 0.0);
    }

    #[test]
    fn what_did_not_arrive_does_not_count() {
        let mut results = Results::new("quick", 1, 1 << 20, 3);
        let cell = results.cell_mut("l", "w", "rsync");
        cell.runs.push(Run { identical: false, ..run(1.0, None) });
        assert_eq!(WALL.spread(cell), None);
        cell.runs.push(run(3.0, None));
        assert_eq!((WALL.median(cell), WIRE.median(cell)), (Some(3.0), None));
    }
}
