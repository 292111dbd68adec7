//! `docs/promotion-story.sh` does what it says, with the program of this build.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_promotion_story_ends_well() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/promotion-story.sh");
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .arg(script)
        .env("BLOCKFERRY", env!("CARGO_BIN_EXE_blockferry"))
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}\n{errors}");
    assert!(told.contains("server-3 holds vdisks/win11.avhd@2"), "{told}");
    assert!(told.ends_with("nothing was promoted without it\n"), "{told}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it cleans up");
}
