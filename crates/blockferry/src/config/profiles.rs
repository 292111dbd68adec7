//! Profiles: what `include`, `exclude` and `sets` of a store are when it says what it holds instead.
//! What is written in the store's section counts over its profile.

use super::file::ProfileChoice;
use super::values::SetsChoice;

/// What a profile says.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) sets: SetsChoice,
}

/// Disks of Citrix Provisioning and of its versions, their properties, and the list of versions.
const PVS: [&str; 6] = ["*.vhdx", "*.avhdx", "*.vhd", "*.avhd", "*.pvp", "*.xml"];
/// Disks of Hyper-V, its checkpoints, and VHD sets.
const HYPER_V: [&str; 5] = ["*.vhdx", "*.avhdx", "*.vhd", "*.avhd", "*.vhds"];
/// Disks of QEMU, and their domains' descriptions beside them.
const LIBVIRT: [&str; 4] = ["*.qcow2", "*.img", "*.raw", "*.xml"];

/// The profile of a store; without one everything but locks is taken.
pub(super) fn of(choice: Option<ProfileChoice>) -> Profile {
    let (include, exclude): (&[&str], &[&str]) = match choice {
        None => (&["*"], &["*.lok"]),
        Some(ProfileChoice::Pvs) => (&PVS, &["*.lok", "*.tmp"]),
        // Change tracking and the logs of Hyper-V's own replication are of one host only.
        Some(ProfileChoice::HyperV) => (&HYPER_V, &["*.lok", "*.rct", "*.mrt", "*.hrl"]),
        Some(ProfileChoice::Libvirt) => (&LIBVIRT, &["*.lok", "*.lock", "*.part", "*.tmp"]),
    };
    let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
    Profile { include: owned(include), exclude: owned(exclude), sets: SetsChoice::Auto }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::Glob;

    fn takes(choice: Option<ProfileChoice>, name: &str) -> bool {
        let profile = of(choice);
        let any = |globs: &[String]| {
            globs.iter().any(|glob| Glob::new(glob).unwrap().compile_matcher().is_match(name))
        };
        any(&profile.include) && !any(&profile.exclude)
    }

    #[test]
    fn what_each_profile_takes() {
        use ProfileChoice::{HyperV, Libvirt, Pvs};
        for (name, taken) in [
            ("win.vhdx", [true, true, true, false]),
            ("win.1.avhdx", [true, true, true, false]),
            ("win.vhd", [true, true, true, false]),
            ("win.pvp", [true, true, false, false]),
            ("win.xml", [true, true, false, true]),
            ("win.lok", [false, false, false, false]),
            ("win.vhdx.rct", [true, false, false, false]),
            ("set.vhds", [true, false, true, false]),
            ("vm.qcow2", [true, false, false, true]),
            ("vm.img", [true, false, false, true]),
            ("notes.txt", [true, false, false, false]),
        ] {
            let found = [None, Some(Pvs), Some(HyperV), Some(Libvirt)].map(|p| takes(p, name));
            assert_eq!(found, taken, "{name}");
        }
    }
}
