//! Plots of made-up figures: the same bytes again, the right marks, and no bar that was not
//! measured. `REPORT_EXAMPLES=DIR` keeps them to be looked at.

use std::path::PathBuf;

use super::*;

const TOOLS: [&str; 9] = [
    "full copy",
    "rsync -W",
    "rsync",
    "rsync --inplace",
    "casync",
    "bita",
    "Syncthing",
    "ffsync",
    "Blockferry",
];
const WORKLOADS: [&str; 6] = [
    "real-big-update",
    "real-small-day",
    "random-0.1",
    "database-edits",
    "new-layout",
    "unchanged-mtime",
];

/// A directory for examples, and what removes it if nobody wants them.
fn directory() -> (PathBuf, Option<tempfile::TempDir>) {
    match std::env::var_os("REPORT_EXAMPLES") {
        Some(directory) => (directory.into(), None),
        None => {
            let made = tempfile::tempdir().unwrap();
            (made.path().to_owned(), Some(made))
        }
    }
}

fn groups(base: f64, growth: f64) -> Vec<Group> {
    let bar = |(number, tool): (usize, &&str), workload: usize| {
        let median = base * growth.powi((number * 5 + workload * 3) as i32 % 11);
        let missing = number == 5 && workload % 2 == 1;
        let value = Spread { median, min: median * 0.93, max: median * 1.1 };
        Bar { label: (*tool).to_owned(), value: (!missing).then_some(value) }
    };
    let group = |(workload, label): (usize, &&str)| Group {
        label: (*label).to_owned(),
        bars: TOOLS.iter().enumerate().map(|tool| bar(tool, workload)).collect(),
    };
    WORKLOADS.iter().enumerate().map(group).collect()
}

#[test]
fn bars_on_both_kinds_of_axis() {
    let (directory, _guard) = directory();
    for (name, unit, base, growth) in
        [("bytes", "wire bytes", 2e5, 2.6), ("seconds", "seconds", 3.0, 1.2)]
    {
        let path = directory.join(format!("bars-{name}.svg"));
        let draw = || bars(&path, "Update over 100 Mbit/s", unit, &groups(base, growth));
        draw().unwrap();
        let first = std::fs::read(&path).unwrap();
        draw().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let text = String::from_utf8(first).unwrap();
        assert_eq!(text.matches("no figure").count(), 3);
        // 51 bars and 9 marks of the legend, each with an outline, and the background.
        assert_eq!(text.matches("<rect").count(), 2 * (51 + 9) + 1);
        assert!(text.contains("fill=\"#FFFFFF\"") && text.contains("font-family=\"sans-serif\""));
        assert_eq!(text.contains("(logarithmic)"), name == "bytes");
    }
}

#[test]
fn figures_that_make_no_sense_are_refused() {
    let (directory, _guard) = directory();
    let path = directory.join("none.svg");
    let value = Some(Spread { median: 2.0, min: 3.0, max: 4.0 });
    let group = Group { label: "g".into(), bars: vec![Bar { label: "b".into(), value }] };
    assert!(bars(&path, "t", "s", &[group]).is_err());
    let series = Series { label: "l".into(), points: vec![(0.0, f64::NAN)] };
    assert!(lines(&path, "t", "s", "s", &[series]).is_err());
    assert!(!path.exists());
}

#[test]
fn lines_over_time() {
    let (directory, _guard) = directory();
    let path = directory.join("lines.svg");
    let question = crate::offpeak::Question::tuesday_noon();
    let demands: Vec<_> = TOOLS
        .iter()
        .zip([68.7, 68.7, 9.0, 9.1, 14.0, 12.0, 30.0, 8.0, 2.5])
        .map(|(tool, gigabytes): (_, f64)| {
            let measured = ((gigabytes * 1e9) as u64, Some(400.0));
            crate::offpeak::Demand::measured(tool, measured, 64 << 30, 64 << 30)
        })
        .collect();
    let serving = crate::offpeak::Serving::UplinkInTurn;
    let series = crate::offpeak::lines(&question, &demands, serving);
    let draw = || lines(&path, "Branches up to date", "hours", "percent of branches", &series);
    draw().unwrap();
    let first = std::fs::read(&path).unwrap();
    draw().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    let text = String::from_utf8(first).unwrap();
    assert_eq!(text.matches("stroke-width=\"2\"").count(), 2 * TOOLS.len());
    assert!(TOOLS.iter().all(|tool| text.contains(tool)));
}
