//! The programs of the system that a run needs, and what it may do here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Runs a program to its end; what it said is the error when it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Mounts, namespaces and the page cache are root's.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(2)) == Some("0")
}

/// Everything on disk and nothing in memory; without root only the former.
pub(crate) fn drop_caches() -> anyhow::Result<()> {
    run(&mut Command::new("sync"))?;
    if is_root() {
        std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop the page cache")?;
    }
    Ok(())
}

/// Copies a file with its holes, mode and times, and syncs.
pub(crate) fn copy(source: &Path, target: &Path) -> anyhow::Result<()> {
    copy_unsynced(source, target)?;
    run(&mut Command::new("sync"))?;
    Ok(())
}

/// Copies a file with its holes, mode and times.
pub(crate) fn copy_unsynced(source: &Path, target: &Path) -> anyhow::Result<()> {
    let options = ["--sparse=auto", "--preserve=mode,timestamps"];
    run(Command::new("cp").args(options).arg(source).arg(target))?;
    Ok(())
}

/// Copies a file into a store: written beside the directory, then renamed, so that the store never
/// sees half of it.
pub(crate) fn place(source: &Path, target: &Path) -> anyhow::Result<()> {
    let name = target.file_name().context("a target without a name")?.to_string_lossy();
    let above = target.parent().and_then(Path::parent).context("a target without a parent")?;
    let beside = above.join(format!("{name}.coming"));
    copy(source, &beside)?;
    std::fs::rename(&beside, target)?;
    Ok(())
}

/// The release binary: the one that was named, else the one beside this program.
pub(crate) fn find_binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("blockferry"),
    };
    let Ok(path) = path.canonicalize() else {
        bail!("no {}: cargo build --release -p blockferry, or --bin FILE", path.display());
    };
    Ok(path)
}

/// The commit that a program was built from: what the environment says, else that of the checkout
/// it lies in or, unless it is one from elsewhere, that cargo runs us from. None if nobody knows.
pub(crate) fn commit_of(binary: &Path, from_elsewhere: bool) -> Option<String> {
    if let Ok(commit) = std::env::var("BLOCKFERRY_COMMIT") {
        return Some(commit);
    }
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").filter(|_| !from_elsewhere);
    let places = [binary.parent().map(Path::to_owned), manifest.map(PathBuf::from)];
    places.into_iter().flatten().find_map(|place| {
        let mut git = Command::new("git");
        git.arg("-C").arg(place).args(["describe", "--always", "--dirty", "--abbrev=12"]);
        run(&mut git).ok().map(|said| said.trim().to_owned())
    })
}

/// Kind of the file system that holds `path`, as it is mounted.
pub(crate) fn file_system(path: &Path) -> String {
    let said = run(Command::new("df").arg("--output=fstype").arg(path));
    let kind = said.ok().and_then(|said| said.lines().nth(1).map(|kind| kind.trim().to_owned()));
    kind.unwrap_or_else(|| "unknown".to_owned())
}

/// The middle one of three, or of however many there are.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len()) {
        (Some(upper), count) if count % 2 == 0 => f64::midpoint(*upper, sorted[count / 2 - 1]),
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

/// A sequence of numbers from a seed (SplitMix64): a run can be repeated exactly.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Bytes that don't compress.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn what_a_program_said_is_in_the_error() {
        let error = run(Command::new("ls").arg("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
        assert!(has("ls") && !has("no-such-program-here"));
    }
}
