//! The container formats: a guest's disk as qcow2, VHD or VHDX, made by `qemu-img convert`.
//!
//! The later image is the earlier one with the later disk written into it (`convert -n`), as a
//! guest would have done, so that its blocks keep their places; converting anew could give a
//! dynamic disk another layout. VHD and VHDX carry random identifiers and times that qemu makes up:
//! a few dozen bytes differ from one preparation to the next.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::image::{copy, finish};
use crate::ground::tools::{has, run};

/// A format: name in the workload and the file's name, name for qemu-img, its options. All are
/// sparse: VHD and VHDX dynamic, and a VHD of exactly the disk's size.
const FORMATS: [(&str, &str, &str); 3] = [
    ("qcow2", "qcow2", "compat=1.1"),
    ("vhd", "vpc", "subformat=dynamic,force_size=on"),
    ("vhdx", "vhdx", "subformat=dynamic"),
];

/// Puts the disks `before` and `after` (raw) into containers at `targets`. Where one has zeros,
/// the other must have them too.
pub(super) fn make(
    suffix: &str,
    (before, after): (&Path, &Path),
    targets: (&Path, &Path),
) -> anyhow::Result<()> {
    ensure!(has("qemu-img"), "qemu-img is not installed (Debian: qemu-utils)");
    let format = FORMATS.iter().find(|(name, _, _)| *name == suffix);
    let Some((_, format, options)) = format else { anyhow::bail!("no container {suffix}") };
    let convert = |extra: &[&str], source: &Path, target: &Path| {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", format]).args(extra);
        run(command.arg(source).arg(target))
    };
    convert(&["-o", options], before, targets.0)?;
    copy(targets.0, targets.1)?;
    // Zeros are zeros in the target already; without the option they would be written.
    convert(&["-n", "--target-is-zero"], after, targets.1)?;
    for (day, target) in [targets.0, targets.1].into_iter().enumerate() {
        finish(&File::options().write(true).open(target)?, day as u64)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) fn same_disk(raw: &Path, container: &Path) -> bool {
    let format = container.extension().and_then(|suffix| suffix.to_str()).unwrap();
    let format = FORMATS.iter().find(|(name, _, _)| *name == format).unwrap().1;
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-f", "raw", "-F", format]).arg(raw).arg(container);
    run(&mut command).is_ok()
}
