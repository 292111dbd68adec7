//! A dirty bitmap of qemu, read over NBD from the real program: `qemu-nbd` serving the bitmap that
//! a qcow2 file keeps for its raw data file, and a `qemu-storage-daemon` that has the image open.
//! Without these programs a line says what was not run.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_store::disk::RealDisk;
use blockferry_store::{
    Changed, CommitMode, Discover, Generation, NbdBitmap, Options, Recorded, Store, Told,
};
use blockferry_tests::{author, image_name, store_identity};

use super::Events;
use crate::extents::loops::Mount;

const IMAGE_BYTES: u64 = 16 << 20;
const NAME: &str = "vm.raw";

fn have(programs: &[&str]) -> bool {
    let there = |program: &&str| {
        let ran = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    let missing = programs.iter().find(|program| !there(program));
    if let Some(missing) = missing {
        eprintln!("skipped: {missing} is missing");
    }
    missing.is_none()
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().expect("it runs");
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
}

/// A program that serves until it is dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

/// Waits until somebody answers there.
fn wait_for(socket: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < until, "nobody answers at {}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Ground {
    dir: PathBuf,
    store: Arc<Store>,
}

impl Ground {
    fn new(dir: &Path, options: Options) -> Ground {
        let image: Vec<u8> = (0..IMAGE_BYTES).map(|n| (n / 4096 * 7 + n % 251) as u8).collect();
        std::fs::write(dir.join(NAME), image).expect("written");
        let disk = Arc::new(RealDisk::open(dir).expect("opens"));
        let store = Store::create(disk, store_identity(), &options).expect("made");
        Ground { dir: dir.to_owned(), store: Arc::new(store) }
    }

    fn path(&self) -> String {
        self.dir.join(NAME).to_str().expect("a plain path").to_owned()
    }

    fn record(&self) -> Generation {
        let recorded = self.store.record(&image_name(NAME), author(1), 1, &());
        recorded.expect("records").generation().clone()
    }

    fn told(&self, socket: &Path, export: &str, bitmap: &str) -> (Recorded, Vec<&'static str>) {
        let address = format!("nbd+unix:///{export}?socket={}&bitmap={bitmap}", socket.display());
        let changed = Changed::Bitmap(NbdBitmap::parse(&address).expect("an address"));
        let (told, events) = (Told { changed, since: None }, Events::default());
        let name = image_name(NAME);
        let recorded = self.store.record_told(&name, author(1), 1, Some(&told), &events);
        (recorded.expect("records"), events.seen())
    }

    fn is_right(&self, generation: &Generation) {
        let bytes = std::fs::read(self.dir.join(NAME)).expect("reads");
        assert_eq!(generation.root.as_bytes(), blake3::hash(&bytes).as_bytes());
        assert!(self.store.verify(&image_name(NAME), &()).expect("verifies").is_good());
    }
}

#[test]
fn changed_by_a_bitmap_of_qemu_nbd() {
    if !have(&["qemu-img", "qemu-io", "qemu-nbd"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let images = dir.path().join("images");
    std::fs::create_dir(&images).expect("made");
    let options = Options { commit: Some(CommitMode::Copy), ..Options::default() };
    let ground = Ground::new(&images, options);
    let first = ground.record();
    assert_eq!(first.discover, Discover::Scan);
    // The guest's disk is a qcow2 file that keeps bitmaps and a raw file that keeps the data.
    let meta = dir.path().join("vm.qcow2");
    let (meta, data) = (meta.to_str().expect("plain"), ground.path());
    let saved = std::fs::read(&data).expect("reads");
    let with = format!("data_file={data},data_file_raw=on");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &with, meta, "16M"]);
    if std::fs::read(&data).expect("reads") != saved {
        std::fs::write(&data, &saved).expect("written");
    }
    let first = ground.record();
    let bitmap = format!("blockferry-{}", first.root);
    run("qemu-img", &["bitmap", "--add", meta, &bitmap]);
    for write in ["write -P 7 300k 5k", "write -P 9 9M 1", "write -z 12M 64k"] {
        run("qemu-io", &["-f", "qcow2", "-c", write, meta]);
    }
    let socket = dir.path().join("nbd.sock");
    let serve = |bitmap: &str| {
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-f", "qcow2", "-x", "disk", "-B", bitmap, "-k"]);
        Serving(command.arg(&socket).arg(meta).spawn().expect("it runs"))
    };
    {
        let _serving = serve(&bitmap);
        wait_for(&socket);
        let (recorded, events) = ground.told(&socket, "disk", &bitmap);
        assert_eq!(events, [""; 0]);
        let generation = recorded.generation();
        assert_eq!(generation.discover, Discover::Map);
        ground.is_right(generation);
        let most = 64 * 65_536 + 20 * 65_536;
        assert!(generation.bytes_read < most, "{} bytes read", generation.bytes_read);
    }
    // A bitmap that isn't there (qemu drops inconsistent ones) is no reason to fail.
    std::fs::write(images.join(NAME), &saved).expect("written");
    std::fs::remove_file(&socket).expect("the killed server left it");
    let _serving = serve(&bitmap);
    wait_for(&socket);
    let other = format!(
        "other-{}",
        ground.store.current(&image_name(NAME)).expect("reads").expect("known").root
    );
    let (recorded, events) = ground.told(&socket, "disk", &other);
    assert_eq!(events, ["MAP_UNUSED"]);
    assert_eq!(recorded.generation().discover, Discover::Scan);
    ground.is_right(recorded.generation());
}

/// `qemu-storage-daemon` with the image open for writing, told what to do in QMP.
struct Daemon {
    child: Serving,
    told: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Daemon {
    fn new(image: &str, socket: &Path) -> Daemon {
        let nbd = format!("addr.type=unix,addr.path={}", socket.display());
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &format!("driver=file,node-name=f,filename={image}")]);
        command.args(["--blockdev", "driver=raw,node-name=disk,file=f"]);
        command.args(["--chardev", "stdio,id=m", "--monitor", "chardev=m", "--nbd-server", &nbd]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        let told = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut daemon = Daemon { child: Serving(child), told, answers };
        daemon.tell(r#"{"execute":"qmp_capabilities"}"#);
        daemon
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.told, "{command}").expect("it listens");
        let mut line = String::new();
        while !line.starts_with(r#"{"return""#) {
            line.clear();
            let got = self.answers.read_line(&mut line).expect("it answers");
            assert!(got > 0 && !line.contains(r#""error""#), "{command}: {line}");
        }
    }
}

#[test]
fn changed_by_a_bitmap_of_a_qemu_that_has_the_image_open() {
    if !have(&["qemu-io", "qemu-storage-daemon"]) {
        return;
    }
    let Some(mount) = Mount::new(&["mkfs.xfs", "-q", "-m", "reflink=1"]) else { return };
    let ground = Ground::new(&mount.path(), Options { snapshot: true, ..Options::default() });
    let sockets = tempfile::tempdir().expect("a directory");
    let socket = sockets.path().join("nbd.sock");
    let first = ground.record();
    let mut daemon = Daemon::new(&ground.path(), &socket);
    let bitmap = format!("blockferry-{}", &first.root.to_string()[..32]);
    daemon.tell(&format!(
        r#"{{"execute":"block-dirty-bitmap-add","arguments":{{"node":"disk","name":"{bitmap}"}}}}"#
    ));
    daemon.tell(&format!(
        r#"{{"execute":"block-export-add","arguments":{{"type":"nbd","id":"e","node-name":"disk",
           "name":"disk","writable":true,"bitmaps":["{bitmap}"]}}}}"#
    ).replace('\n', " "));
    let export = format!("nbd+unix:///disk?socket={}", socket.display());
    for write in ["write -P 7 300k 5k", "write -P 9 9M 512"] {
        run("qemu-io", &["-f", "raw", "-c", write, &export]);
    }
    let holder = ground.store.writer_of(&image_name(NAME)).expect("the daemon");
    assert_eq!(holder.pid, Some(daemon.child.0.id()), "{holder}");
    assert!(holder.command.starts_with("qemu-storage"), "{holder}");
    // Extents would do it; the clone is lost, which is told.
    std::fs::remove_file(mount.path().join(".blockferry/base").join(NAME)).expect("removed");
    let (recorded, events) = ground.told(&socket, "disk", &bitmap);
    assert_eq!(events, ["BASE_LOST"]);
    assert_eq!(recorded.generation().discover, Discover::Map);
    ground.is_right(recorded.generation());
    // The next one begins at a generation this bitmap isn't of: a person is told so.
    run("qemu-io", &["-f", "raw", "-c", "write -P 3 1M 4k", &export]);
    let address = format!("{export}&bitmap={bitmap}");
    let changed = Changed::Bitmap(NbdBitmap::parse(&address).expect("an address"));
    let told = Told { changed, since: None };
    let name = image_name(NAME);
    let refused = ground.store.record_told(&name, author(1), 1, Some(&told), &());
    assert_eq!(refused.expect_err("another base").code(), "BAD_MAP");
    drop(daemon);
}
