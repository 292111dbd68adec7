//! What of the machine a node takes: how fast it reads for what nobody waits for, and its memory.

use std::time::{Duration, Instant};

use blockferry_node::api::{Request, VerifyDone};

use crate::running::{Running, config, noise, start};

fn verify(node: &Running) -> Duration {
    let started = Instant::now();
    let done: VerifyDone = node.ask(&Request::Verify { image: None, deep: false, repair: false });
    assert_eq!((done.ok, done.images), (true, 1), "{done:?}");
    started.elapsed()
}

#[test]
fn background_reads_keep_their_rate_until_a_reload_lifts_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    config.disk_read_bytes_per_second = Some(4 << 20);
    config.memory_bytes = Some(400 << 20);
    let node = start(config.clone());
    let images = node.add_store();
    std::fs::write(images.join("disk.img"), noise(1, 12 << 20)).expect("written");
    let started = Instant::now();
    node.publish("disk.img");
    // The last segment is a debt that nobody waits for any more.
    assert!(started.elapsed() > Duration::from_millis(1500), "{:?}", started.elapsed());
    let slow = verify(&node);
    assert!(slow > Duration::from_millis(1500), "{slow:?}");
    config.disk_read_bytes_per_second = None;
    config.memory_bytes = None;
    let done = node.reload(&config).expect("good");
    assert_eq!(
        (done.changed, done.restart),
        (vec!["limits.disk_read".to_owned()], vec!["limits.memory".to_owned()])
    );
    let fast = verify(&node);
    assert!(fast < slow, "{fast:?}");
}

#[test]
fn too_little_memory_is_refused_with_the_least_that_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(&dir.path().join("a"), "a", 0);
    config.memory_bytes = Some(299 << 20);
    let error = config.check().expect_err("too little");
    assert_eq!(error.code(), "CONFIG_ERROR");
    assert!(error.to_string().contains("the least that works is 300 MiB"), "{error}");
}
