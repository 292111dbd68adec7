//! Instruction counts against those stored in `benches/baseline`: `baseline` runs the bench
//! `instructions` and fails where a count grew by more than 5 %, where a bench is missing, or where
//! one isn't stored; `baseline --update` stores what was counted.
//!
//! BLAKE3, zstd, XXH3 and the C library choose their code by what the processor offers, so counts
//! are kept by processor features, as a program under valgrind sees them: valgrind hides AVX-512
//! and shows every processor with AVX2 as the same one. Where nothing is stored for the features
//! of a machine, nothing is compared, and a line says so. Another compiler or another C library
//! may change counts as well: the line in front names what the stored ones were made with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// A count may grow by this share of the stored one, in per cent.
const ALLOWANCE_PERCENT: u64 = 5;
const USAGE: &str = "usage: blockferry-benches baseline [--update]";
/// What the program calls itself with under valgrind.
const FEATURES: &str = "--features";

/// What was counted, by bench: `scan::cut.of_4_mib` and so on.
type Counts = BTreeMap<String, u64>;

/// A file of `benches/baseline`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    /// Counts of other features aren't compared with these.
    features: Vec<String>,
    rustc: String,
    valgrind: String,
    instructions: Counts,
}

/// Runs the subcommand.
pub(crate) fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut out = std::io::stdout().lock();
    let update = match args.as_slice() {
        [] => false,
        ["--update"] => true,
        [FEATURES] => {
            writeln!(out, "{}", seen_features().join(" "))?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => anyhow::bail!(USAGE),
    };
    let valgrind = output(Command::new("valgrind").arg("--version"))?;
    let own = std::env::current_exe()?;
    let features = output(
        Command::new("valgrind").args(["--tool=none", "-q"]).arg(own).args(["baseline", FEATURES]),
    )?;
    let now = Baseline {
        features: features.split_whitespace().map(str::to_owned).collect(),
        rustc: output(Command::new("rustc").arg("--version"))?,
        valgrind,
        instructions: counts(&output(&mut bench())?)?,
    };
    let path = path_of(&now.features);
    if update {
        std::fs::create_dir_all(directory())?;
        std::fs::write(&path, serde_json::to_string_pretty(&now)? + "\n")?;
        writeln!(out, "{} counts stored in {}", now.instructions.len(), path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !path.exists() {
        let path = path.display();
        writeln!(out, "nothing compared: no counts for these processor features ({path})")?;
        return Ok(ExitCode::SUCCESS);
    }
    let stored: Baseline = serde_json::from_slice(&std::fs::read(&path)?)
        .with_context(|| path.display().to_string())?;
    writeln!(out, "stored: {}, {}", stored.rustc, stored.valgrind)?;
    writeln!(out, "now:    {}, {}", now.rustc, now.valgrind)?;
    let verdict = compare(&stored.instructions, &now.instructions);
    write!(out, "{}", verdict.table)?;
    if verdict.wrong == 0 {
        writeln!(out, "all within {ALLOWANCE_PERCENT} %")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{} wrong; what is meant is stored by `just instructions --update`",
        verdict.wrong
    )?;
    Ok(ExitCode::FAILURE)
}

/// The bench, which prints a JSON document for each count.
fn bench() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["bench", "--locked", "-p", "blockferry-benches", "--bench", "instructions"])
        .args(["--", "--output-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What a program prints, which must succeed. Its errors are for whoever is watching.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("can't run {program}"))?;
    ensure!(done.status.success(), "{program}: {}", done.status);
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

/// Features by which code is chosen at run time here.
fn seen_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let seen = [
        ("sse4.1", std::arch::is_x86_feature_detected!("sse4.1")),
        ("bmi1", std::arch::is_x86_feature_detected!("bmi1")),
        ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vl", std::arch::is_x86_feature_detected!("avx512vl")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let seen: [(&str, bool); 0] = [];
    let there = seen.into_iter().filter(|(_, there)| *there).map(|(name, _)| name);
    std::iter::once(std::env::consts::ARCH).chain(there).collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline")
}

fn path_of(features: &[String]) -> PathBuf {
    directory().join(features.join("-") + ".json")
}

/// One document of gungraun's; what isn't needed of it is skipped.
#[derive(Deserialize)]
struct Summary {
    module_path: String,
    id: Option<String>,
    profiles: Vec<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    total: Total,
}

#[derive(Deserialize)]
struct Total {
    metrics: Metrics,
}

#[derive(Deserialize)]
struct Metrics {
    #[serde(rename = "Ir")]
    instructions: Metric,
}

#[derive(Deserialize)]
struct Metric {
    values: Values,
}

#[derive(Deserialize)]
struct Values {
    new: u64,
}

/// The counts in what the bench printed.
fn counts(printed: &str) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for summary in serde_json::Deserializer::from_str(printed).into_iter::<Summary>() {
        let summary = summary.context("this isn't what gungraun 0.20 prints")?;
        let [profile] = summary.profiles.as_slice() else {
            anyhow::bail!("{}: not one profile", summary.module_path);
        };
        let bench = summary.module_path.trim_start_matches("instructions::");
        let name = format!("{bench}.{}", summary.id.unwrap_or_default());
        let count = profile.data.total.metrics.instructions.values.new;
        ensure!(count > 0, "{name}: no instruction was counted");
        ensure!(counts.insert(name.clone(), count).is_none(), "{name}: counted twice");
    }
    ensure!(!counts.is_empty(), "nothing was counted");
    Ok(counts)
}

struct Verdict {
    table: String,
    /// Rows that fail.
    wrong: usize,
}

/// Holds what was counted against what is stored, bench by bench.
fn compare(stored: &Counts, now: &Counts) -> Verdict {
    let mut verdict = Verdict { table: String::new(), wrong: 0 };
    let names: BTreeSet<&String> = stored.keys().chain(now.keys()).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    for name in names {
        let (text, right) = row(stored.get(name).copied(), now.get(name).copied());
        verdict.wrong += usize::from(!right);
        let mark = if right { "" } else { "  WRONG" };
        writeln!(verdict.table, "{name:width$}  {text}{mark}").expect("memory takes it");
    }
    verdict
}

/// What a row says, and whether it is right.
fn row(stored: Option<u64>, now: Option<u64>) -> (String, bool) {
    let (stored, now) = match (stored, now) {
        (Some(stored), Some(now)) => (stored, now),
        (Some(stored), None) => return (format!("{stored:>12}  not measured"), false),
        (None, now) => return (format!("{:>12}  not stored", now.unwrap_or_default()), false),
    };
    let percent = (now as f64 / stored as f64 - 1.0) * 100.0;
    let right = u128::from(now) * 100 <= u128::from(stored) * u128::from(100 + ALLOWANCE_PERCENT);
    // No failure, but as long as it isn't stored the way back up goes unnoticed.
    let hint = if percent < -(ALLOWANCE_PERCENT as f64) { "  fewer: to be stored" } else { "" };
    (format!("{stored:>12}  {now:>12}  {percent:+7.2} %{hint}"), right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(all: &[(&str, u64)]) -> Counts {
        all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_than_the_allowance_is_wrong() {
        let stored = counted(&[("a", 1_000_000), ("b", 20)]);
        let wrong = |a, b| compare(&stored, &counted(&[("a", a), ("b", b)])).wrong;
        assert_eq!(wrong(1_000_000, 20), 0);
        assert_eq!(wrong(1_050_000, 21), 0);
        assert_eq!(wrong(1_050_001, 21), 1);
        assert_eq!(wrong(1_100_000, 22), 2);
        assert_eq!(wrong(500_000, 20), 0, "fewer is no failure");
        let fewer = compare(&stored, &counted(&[("a", 900_000), ("b", 20)]));
        assert_eq!(fewer.table.matches("to be stored").count(), 1);
    }

    #[test]
    fn what_is_on_one_side_only_is_wrong() {
        let (one, two) = (counted(&[("a", 5)]), counted(&[("a", 5), ("b", 5)]));
        assert_eq!(compare(&one, &two).wrong, 1);
        assert_eq!(compare(&two, &one).wrong, 1);
        assert!(compare(&two, &one).table.contains("not measured  WRONG"));
    }

    #[test]
    fn counts_are_read_and_nothing_isn_t_one() {
        let document = |new: u64| {
            format!(
                r#"{{"module_path":"instructions::scan::cut","id":"x","duration_ns":1,"profiles":
                [{{"data":{{"total":{{"metrics":{{"Ir":{{"values":{{"new":{new}}}}}}}}}}}}}]}}"#
            )
        };
        assert_eq!(counts(&document(7)).unwrap(), counted(&[("scan::cut.x", 7)]));
        let twice = [document(7), document(8)].join("\n");
        for bad in ["", "text", "{}", &document(0), &twice] {
            assert!(counts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stored_counts_are_under_the_name_of_their_features() {
        let mut files = 0;
        for entry in std::fs::read_dir(directory()).unwrap() {
            let path = entry.unwrap().path();
            let stored: Baseline = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(path, path_of(&stored.features));
            assert!(
                stored.instructions.len() >= 10 && !stored.instructions.values().any(|n| *n == 0)
            );
            files += 1;
        }
        assert!(files > 0);
    }
}
