//! `demo` does what the README promises, and cleans up, also when it is interrupted.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn demo(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockferry"));
    command.arg("demo").args(args).env("TMPDIR", directory).stdin(Stdio::null());
    command
}

fn left_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn copies_an_image_and_then_only_what_changed() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo(directory.path(), &["--size", "32MiB", "--json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, delta, summary] = lines.as_slice() else { panic!("{stdout}") };
    let number = |line: &Value, key: &str| line["item"][key].as_u64().unwrap();
    assert_eq!(
        (&first["item"]["step"], &delta["item"]["step"]),
        (&"first_copy".into(), &"delta".into())
    );
    for line in [first, delta] {
        assert_eq!(line["item"]["identical"], true);
        let (changed, wire) = (number(line, "changed_bytes"), number(line, "wire_bytes"));
        assert!(wire > 0 && wire < changed, "{wire} of {changed}");
    }
    assert!(number(delta, "wire_bytes") * 4 < number(first, "wire_bytes"), "{stdout}");
    assert_ne!(first["item"]["root"], delta["item"]["root"]);
    assert_eq!(summary["summary"]["ok"], true);
    assert_eq!(left_in(directory.path()), 0);
}

#[test]
fn the_page_is_there_until_an_interrupt() {
    use std::io::{BufRead, BufReader, Read, Write};
    let directory = tempfile::tempdir().unwrap();
    let mut child = demo(directory.path(), &["--size", "32MiB", "--web"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("until Ctrl-C")).unwrap();
    let line = lines.find(|line| line.contains("http://")).unwrap();
    let at = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let token = line.split(' ').next_back().unwrap();
    let mut stream = std::net::TcpStream::connect(&at).unwrap();
    let ask = format!(
        "GET / HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("May I promote?") && page.contains("sample.raw"), "{page}");
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(left_in(directory.path()), 0);
}

#[test]
fn an_interrupt_stops_the_nodes_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut child =
        demo(directory.path(), &["--size", "1GiB"]).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    // Interrupted while the image is made, with both nodes running.
    let sample = |entry: std::fs::DirEntry| entry.path().join("alpha/images/sample.raw").exists();
    while !std::fs::read_dir(directory.path()).unwrap().any(|entry| sample(entry.unwrap())) {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(left_in(directory.path()), 0);
    let processes = Command::new("ps").args(["-e", "-o", "args"]).output().unwrap();
    let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
    let ours = directory.path().display().to_string();
    assert!(!processes.lines().any(|line| line.contains(&ours) && line.contains("serve")));
}
