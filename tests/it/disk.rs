//! One conformance suite, run on the real and on the simulated disk: what the simulation proves
//! holds for the real one only as far as both answer alike.

use std::io;
use std::path::Path;
use std::sync::Arc;

use blockferry_store::disk::{Disk, RealDisk, SimDisk, conformance};

#[test]
fn the_real_disk_conforms() -> io::Result<()> {
    // Below the build directory: a temporary directory may be in memory only.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path())?);
    conformance::run(&disk).map(drop)
}

#[test]
fn the_real_disk_conforms_in_memory() -> io::Result<()> {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm)? } else { tempfile::tempdir()? };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path())?);
    conformance::run(&disk).map(drop)
}

#[test]
fn the_simulated_disk_conforms() -> io::Result<()> {
    for clones in [true, false] {
        let disk = SimDisk::new(1, 1 << 30);
        disk.set_supports_clone(clones);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let skipped = conformance::run(&disk)?;
        assert_eq!(skipped.is_empty(), clones, "only clones may be lacking: {skipped:?}");
    }
    Ok(())
}
