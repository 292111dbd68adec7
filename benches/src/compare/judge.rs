//! Whether what was measured may stand: every cell says something, Blockferry's images arrived,
//! and the same seed sent the same bytes.

use anyhow::{Context, ensure};

use super::options::Part;
use super::results::{Cell, Results};
use super::summary::{SPREAD_BYTES_MAX, SPREAD_PERCENT_MAX, Spreading, spreads};
use super::tools::OURS;

/// What is wrong, one line for each; nothing when all is well. Fails if a cell of the plan has
/// neither a run nor a reason.
pub(super) fn judge(kept: &Results, plan: &[Part]) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for part in plan {
        let named = part.workloads.iter().flat_map(|n| part.tools.iter().map(move |t| (n, t)));
        for (name, tool) in named {
            let place = format!("{tool} on {name} over {}", part.link);
            let cell = kept.cell(part.link, name, tool).with_context(|| format!("no {place}"))?;
            let said = !cell.runs.is_empty() || cell.reason.is_some();
            ensure!(said, "{place}: neither a run nor a reason");
            if *tool == OURS {
                wrong.extend(fault(cell).map(|why| format!("{place}: {why}")));
            }
        }
    }
    let apart = spreads(kept, OURS).filter(Spreading::is_too_much).map(|spread| {
        format!(
            "{OURS} on {}: wire bytes differ by {:.2} % and {:.0} bytes between runs of the same \
             seed; {SPREAD_PERCENT_MAX} % or {SPREAD_BYTES_MAX} bytes are allowed",
            spread.place, spread.percent, spread.bytes
        )
    });
    wrong.extend(apart);
    Ok(wrong)
}

/// Why a cell of ours is a failure: also one whose wrong image an earlier call got.
fn fault(cell: &Cell) -> Option<String> {
    if cell.has_wrong_image() {
        return Some(super::WRONG_IMAGE.to_owned());
    }
    cell.reason.clone().filter(|why| why.starts_with(super::FAILED))
}

#[cfg(test)]
mod tests {
    use super::super::job::Run;
    use super::super::options::Options;
    use super::super::summary::tests::run;
    use super::*;

    fn plan() -> Vec<Part> {
        let args = ["--smoke", "--only", "unshaped,touched,blockferry"].map(str::to_owned);
        Options::parse(&args).unwrap().plan().unwrap()
    }

    fn with(runs: &[Run]) -> Results {
        let mut results = Results::new("smoke", 1, 1 << 20, 1);
        results.cell_mut("unshaped", "touched", OURS).runs = runs.to_vec();
        results
    }

    #[test]
    fn a_wrong_image_is_not_forgotten_by_going_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("compare.json");
        let mut old = with(&[run(1.0, None), Run { identical: false, ..run(1.0, None) }]);
        old.cell_mut("unshaped", "touched", OURS).reason = Some("failed: of old".to_owned());
        std::fs::write(&path, old.json().unwrap().to_string()).unwrap();

        let mut new = with(&[]);
        assert_eq!(new.resume(&path).unwrap(), 2);
        let wrong = judge(&new, &plan()).unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains(super::super::WRONG_IMAGE), "{wrong:?}");
        assert!(new.cells[0].is_over(), "a further run would hide it in the middle");
    }

    #[test]
    fn the_same_seed_must_send_the_same_bytes() {
        let judged = |bytes: [u64; 2]| {
            let runs = bytes.map(|bytes| run(1.0, Some([bytes, 0])));
            judge(&with(&runs), &plan()).unwrap()
        };
        // 0.9 % of much, and 900 % of nothing.
        assert_eq!(judged([1_000_000, 1_009_000]), Vec::<String>::new());
        assert_eq!(judged([500, 5_000]), Vec::<String>::new());
        let wrong = judged([100_000, 107_000]);
        assert!(wrong.len() == 1 && wrong[0].contains("6.76 % and 7000 bytes"), "{wrong:?}");
    }

    #[test]
    fn every_cell_says_something() {
        assert!(judge(&with(&[]), &plan()).is_err());
        let mut failed = with(&[run(1.0, None)]);
        failed.cells[0].reason = Some(format!("{}why", super::super::FAILED));
        assert_eq!(judge(&failed, &plan()).unwrap().len(), 1);
        failed.cells[0].reason = Some("needs root".to_owned());
        assert_eq!(judge(&failed, &plan()).unwrap().len(), 0);
    }
}
