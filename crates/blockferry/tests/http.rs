//! HTTP as an operator sets it up: tokens, what the configuration refuses, a service that is asked.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod clean;

use clean::clean;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_blockferry")));
    command.args(args);
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn token(name: &str, scope: &str) -> serde_json::Value {
    let made = run(&["token", "new", name, "--scope", scope, "--json"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    serde_json::from_slice(&made.stdout).unwrap()
}

fn check(dir: &Path, config: &str) -> (Option<i32>, String) {
    let file = dir.join("c.toml");
    std::fs::write(&file, config).unwrap();
    let checked = run(&["config", "check", "--config", file.to_str().unwrap()]);
    (checked.status.code(), text(&checked.stderr))
}

#[test]
fn a_token_is_printed_once_with_what_belongs_into_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let made = token("page", "operate");
    let (secret, lines) = (made["token"].as_str().unwrap(), made["config"].as_str().unwrap());
    assert!(secret.starts_with("bft_") && !lines.contains(secret), "{made}");
    let (status, said) =
        check(dir.path(), &format!("[admin]\nhttp = \"127.0.0.1:7780\"\n{lines}\n"));
    assert_eq!(status, Some(0), "{said}");
    // In words the token comes first and prose goes elsewhere.
    let made = run(&["token", "new", "page", "--scope", "read"]);
    let out = text(&made.stdout);
    assert!(out.starts_with("bft_") && out.contains("[admin.tokens.\"page\"]"), "{out}");
    assert_ne!(out.lines().next(), Some(secret), "no two are the same");
    assert_eq!(run(&["token", "new", "../x", "--scope", "read"]).status.code(), Some(2));
    assert_eq!(run(&["token", "new", "x", "--scope", "root"]).status.code(), Some(2));
    assert_eq!(run(&["token", "new", "x"]).status.code(), Some(2));
}

#[test]
fn what_would_be_open_to_the_network_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let lines = token("t", "read")["config"].as_str().unwrap().to_owned();
    let tls = "[admin.tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\n";
    let open = "[admin]\nhttp = \"0.0.0.0:7780\"\n";
    for (config, complaint) in [
        (open.to_owned(), "c.toml:2:8: admin.http 0.0.0.0:7780 is beyond loopback without TLS"),
        (
            format!("{open}{tls}"),
            "c.toml:2:8: admin.http 0.0.0.0:7780 is beyond loopback, no token",
        ),
        (format!("{open}{lines}\n"), "without TLS"),
        ("[admin.tls]\ncert = \"c.pem\"\n".to_owned(), "c.toml:2:8: admin.tls has no key"),
        (
            "[admin.tokens.x]\nscope = \"read\"\n".to_owned(),
            "admin.tokens.x needs a hash and a scope",
        ),
        ("[admin.tokens.x]\nscope = \"root\"\n".to_owned(), "root"),
        (
            "[admin.tokens.x]\nscope = \"read\"\nhash = \"bft_abc\"\n".to_owned(),
            "c.toml:3:8: admin.tokens.x: a hash is blake3:",
        ),
        ("[admin]\nhttp = \"7780\"\n".to_owned(), "admin.http"),
        ("[admin]\nhttp = \"127.0.0.1:1\"\nhosts = [\"a b\"]\n".to_owned(), "no host's name"),
        ("[admin.tls]\ncret = \"x\"\n".to_owned(), "did you mean cert?"),
    ] {
        let (status, said) = check(dir.path(), &config);
        assert_eq!(status, Some(78), "{config}{said}");
        assert!(said.contains(complaint), "{config}{said}");
    }
    let (status, said) = check(dir.path(), &format!("{open}{tls}{lines}\n"));
    assert_eq!(status, Some(0), "{said}");
    // By a variable as by the file.
    let mut variable = command(&["config", "show"]);
    variable.env("BLOCKFERRY_ADMIN_HTTP", "127.0.0.1:7799").current_dir(dir.path());
    let shown = variable.output().unwrap();
    assert!(text(&shown.stdout).contains("127.0.0.1:7799"), "{}", text(&shown.stderr));
}

/// A service that ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn get(at: SocketAddr, path: &str, token: Option<&str>) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_service_is_asked_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("node");
    let root = root.to_str().unwrap();
    let made = run(&["init", "--dir", root, "--name", "hub", "--listen", "127.0.0.1:0"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let token = token("page", "read");
    let over = Path::new(root).join("conf.d");
    std::fs::create_dir_all(&over).unwrap();
    let lines = token["config"].as_str().unwrap();
    std::fs::write(over.join("http.toml"), format!("[admin]\nhttp = \"{at}\"\n{lines}\n")).unwrap();
    let config = format!("{root}/blockferry.toml");
    let mut serve = command(&["serve", "--config", &config]);
    let _service = Service(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let started = Instant::now();
    let answer = loop {
        if let Some(answer) = get(at, "/livez", None) {
            break answer;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "never served");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"), "{answer}");
    let answer = get(at, "/api/v1/status", None).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let answer = get(at, "/api/v1/status", token["token"].as_str()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"name\":\"hub\""), "{answer}");
}
