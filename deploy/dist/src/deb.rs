//! The `.deb`: what `dpkg-deb` makes of the staged tree, its control file and maintainer scripts.
//!
//! There is no conffile. `init` writes the configuration and refuses to overwrite one; the purge in
//! `postrm` removes it.

use crate::run::{run, settle, write};
use crate::tree::{Family, stage};
use crate::{DESCRIPTION, Input, Level, architecture, template};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];
const KIB: u64 = 1024;

/// Makes `blockferry_VERSION_ARCH.deb` in `out`.
pub fn deb(input: &Input, out: &Path) -> Result<PathBuf> {
    let work = tempfile::tempdir()?;
    let tree = work.path().join("tree");
    let staged = stage(input, Family::Debian, &tree)?;
    let control = tree.join("DEBIAN");
    let mut sums = Command::new("md5sum");
    let sums = run(sums.args(&staged.files).current_dir(&tree))?;
    write(&control.join("md5sums"), &sums, 0o644)?;
    let text = control_file(input, staged.bytes, &glibc(&input.binary)?);
    write(&control.join("control"), text.as_bytes(), 0o644)?;
    let account = template(&input.root, "account.sh")?;
    for name in SCRIPTS {
        let script = template(&input.root, name)?.replace("@ACCOUNT@", account.trim_end());
        write(&control.join(name), script.as_bytes(), 0o755)?;
    }
    settle(&control, input.epoch)?;
    let path = out.join(format!("blockferry_{}_{}.deb", input.version, architecture().0));
    let mut command = Command::new("dpkg-deb");
    // More than one thread cuts the stream differently.
    match input.level {
        Level::Fast => command.arg("-Znone"),
        Level::Small => command.args(["-Zxz", "-z6", "--threads-max=1"]),
    };
    command.args(["--root-owner-group", "--build"]).arg(&tree).arg(&path);
    run(command.env("SOURCE_DATE_EPOCH", input.epoch.to_string()))?;
    Ok(path)
}

fn control_file(input: &Input, bytes: u64, glibc: &str) -> String {
    let description: String = DESCRIPTION.lines().map(|line| format!(" {line}\n")).collect();
    format!(
        "Package: blockferry\nVersion: {}\nArchitecture: {}\nSection: admin\nPriority: optional\n\
         Maintainer: The Blockferry authors <packages@blockferry.invalid>\nInstalled-Size: {}\n\
         Depends: libc6 (>= {glibc}), libgcc-s1, init-system-helpers (>= 1.54), passwd\n\
         Description: keeps stores of disk images equal on many servers\n{description}",
        input.version,
        architecture().0,
        bytes.div_ceil(KIB),
    )
}

/// The newest version of the C library that the program names a symbol of, `2.34`.
fn glibc(binary: &Path) -> Result<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let bytes = std::fs::read(binary).with_context(|| binary.display().to_string())?;
    let mut newest = None;
    for (at, _) in bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK) {
        let rest = &bytes[at + MARK.len()..];
        let digits: String = rest
            .iter()
            .take(3)
            .map_while(|b| b.is_ascii_digit().then_some(char::from(*b)))
            .collect();
        newest = newest.max(digits.parse::<u32>().ok());
    }
    ensure!(newest.is_some(), "{} names no C library", binary.display());
    Ok(format!("2.{}", newest.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_c_library_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("program");
        std::fs::write(&path, b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_2.x").expect("writes");
        assert_eq!(glibc(&path).expect("found"), "2.34");
        std::fs::write(&path, b"nothing").expect("writes");
        assert!(glibc(&path).is_err());
    }
}
