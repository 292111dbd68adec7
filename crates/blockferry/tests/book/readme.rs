//! The README's lines for two nodes by hand, run as they stand there.

use crate::pages::root;
use crate::server::free_port;
use std::net::TcpListener;
use std::process::{Command, Stdio};

#[test]
fn the_readme_makes_two_nodes() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) =
        readme.split_once("## Two nodes by hand").expect("README.md has the section");
    let block = section.split("```").nth(1).expect("it has a block");
    let lines = block.split_once('\n').expect("a block has lines").1;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    assert!(
        lines.contains("cargo build --release --bin blockferry\n") && lines.contains("serve &\n"),
        "{lines}"
    );
    let page = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = lines
        .replace("cargo build --release --bin blockferry\n", "")
        .replace("target/release/blockferry", env!("CARGO_BIN_EXE_blockferry"))
        .replace("/tmp/", &format!("{place}/"))
        .replace("127.0.0.1:7701", &format!("127.0.0.1:{}", free_port()))
        .replace("127.0.0.1:7702", &format!("127.0.0.1:{}", free_port()))
        .replace("127.0.0.1:7780", &format!("127.0.0.1:{page}"))
        .replace("serve &\n", "serve --until-stdin-closes <alive 3>&- &\n")
        // A person takes longer than a loaded machine needs.
        .replace(
            "sleep 2\n",
            &format!("{}{}", until_up(&place, "hub"), until_up(&place, "branch")),
        );
    std::fs::write(directory.path().join("your-image.raw"), vec![7; 1 << 20]).unwrap();
    // The services end when the shell does: it holds the only writing end.
    let script =
        format!("set -eu\nmkfifo alive\nexec 3<>alive\n{lines}\ncurl -s http://127.0.0.1:{page}/");
    let output = Command::new("timeout")
        .args(["120", "sh", "-c", &script])
        .current_dir(directory.path())
        .env_remove("BLOCKFERRY_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{lines}\n{said}\n{errors}");
    assert!(said.contains("on every server, verified"), "{said}\n{errors}");
    assert!(said.contains("is promoted, with receipts of branch"), "{said}\n{errors}");
    assert!(said.contains("<html") && said.contains("your-image.raw</a>"), "{said}\n{errors}");
}

/// Waits until a node answers.
fn until_up(place: &str, node: &str) -> String {
    format!(
        "until bf --config {place}/{node}/blockferry.toml status >/dev/null 2>&1; do sleep 0.1; done\n"
    )
}
