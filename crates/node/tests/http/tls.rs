//! HTTP over TLS, with a certificate made here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use blockferry_node::Node;
use blockferry_node::http::{HttpConfig, TlsFiles};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Ask, Reply, said};
use crate::running::config;
use crate::served::plain;

/// A certificate for localhost and its key, in files.
pub(crate) fn files(dir: &Path) -> (TlsFiles, rcgen::Certificate) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.cert, certificate.pem()).expect("written");
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o640)).expect("chmod");
    (files, certificate)
}

pub(crate) fn over_tls(at: SocketAddr, root: &rcgen::Certificate, ask: &Ask) -> Reply {
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(client, TcpStream::connect(at).expect("connected"));
    stream.write_all(&ask.bytes()).expect("asked");
    let mut answer = Vec::new();
    // A close without a farewell is an error to TLS and none to us.
    let _end = stream.read_to_end(&mut answer);
    Reply::parse(&answer)
}

#[test]
fn the_same_over_tls_and_nothing_without() {
    let dir = tempfile::tempdir().expect("a directory");
    let (files, root) = files(dir.path());
    let (_node, at) = plain(dir.path(), |config| {
        config.http.as_mut().expect("HTTP").tls = Some(files);
    });
    let reply = over_tls(at, &root, &Ask::get("/api/v1/status"));
    assert_eq!((reply.status, &reply.json()["node"]["name"]), (200, &"hub".into()));
    let plain = said(at, &Ask::get("/api/v1/status").bytes());
    assert!(!String::from_utf8_lossy(&plain).contains("HTTP/1"), "{plain:?}");
    assert_eq!(over_tls(at, &root, &Ask::get("/livez")).status, 200);
}

#[test]
fn a_node_does_not_start_with_a_certificate_that_can_not_be_meant() {
    let dir = tempfile::tempdir().expect("a directory");
    let (files, _) = files(dir.path());
    let code = |files: &TlsFiles| {
        let mut config = config(&dir.path().join("hub"), "hub", 0);
        let mut http = HttpConfig::new("127.0.0.1:0".parse().expect("an address"));
        http.tls = Some(files.clone());
        config.http = Some(http);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let started = runtime.expect("a runtime").block_on(Node::start(config));
        started.err().expect("refused").code()
    };
    let swapped = TlsFiles { cert: files.key.clone(), key: files.cert.clone() };
    std::fs::set_permissions(&swapped.key, PermissionsExt::from_mode(0o600)).expect("chmod");
    assert_eq!(code(&swapped), "CONFIG_ERROR");
    let absent = TlsFiles { key: dir.path().join("absent"), ..files.clone() };
    assert_eq!(code(&absent), "IO");
    let cert = TlsFiles { cert: dir.path().join("absent"), ..files.clone() };
    assert_eq!(code(&cert), "CONFIG_ERROR");
    std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o644)).expect("chmod");
    assert_eq!(code(&files), "KEY_UNSAFE");
}
