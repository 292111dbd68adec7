//! A throwaway copy of this machine: its root as the lower layer of an overlay whose upper layer is
//! in memory, in a mount namespace that nobody else sees. When it is dropped, all of it is gone;
//! also when the test is killed, for it lives as long as a pipe is open.
//!
//! `new` shares processes and network with the machine, but not `/run`: a systemd that runs outside
//! can't be reached. `boot` has its own, and systemd as its first process. `/mnt` is for tests'
//! files.

use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a systemd may take until all is started.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// How long a script may take.
const SCRIPT_SECONDS_MAX: &str = "120";

/// Mounts, says who holds them, and waits for the end of stdin. `$1` is where.
const SHARED: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for name in proc sys dev; do mount --rbind "/$name" "$1/root/$name"; done
for name in run tmp mnt srv; do mount -t tmpfs -o mode=755 tmpfs "$1/root/$name"; done
echo $$
exec chroot "$1/root" cat
"#;

/// The same with systemd (`$2` starts it) in namespaces and a control group of its own.
const BOOTED: &str = r#"
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/groups"
mount -t cgroup2 none "$1/groups"
group=$1/groups/blockferry-test-$$
mkdir "$group"
(
  echo 0 >"$group/cgroup.procs"
  exec unshare --mount --pid --cgroup --uts --ipc --net --fork --kill-child sh -euc "$2" sh "$1"
) >"$1/log" 2>&1 </dev/null &
child=$!
first=
for _ in $(seq 100); do
  first=$(cat "/proc/$child/task/$child/children" 2>/dev/null | tr -d ' ') || true
  [ -z "$first" ] || break
  sleep 0.05
done
[ -n "$first" ] || { cat "$1/log" >&2; exit 1; }
echo "$first"
cat >/dev/null
kill -9 "$child" || true
for _ in $(seq 100); do
  find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
  sleep 0.05
done
"#;

/// What becomes the first process. Nothing of what this machine starts at boot is wanted.
const FIRST: &str = r#"
root=$1/root
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for name in dev/shm run tmp mnt srv; do mount -t tmpfs -o mode=755 tmpfs "$root/$name"; done
rm -rf "$root"/etc/systemd/system/*.wants
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
cd "$root"
exec chroot . env -i container=blockferry-test PATH=/usr/sbin:/usr/bin \
  /lib/systemd/systemd --system --unit=basic.target --log-target=console
"#;

pub(crate) struct Machine {
    /// Has the other end of its stdin.
    holder: Child,
    /// Whose namespaces are entered.
    target: String,
    is_booted: bool,
    _place: tempfile::TempDir,
}

impl Machine {
    /// A fresh one without systemd; nothing, and a line that says so, where this user can't have
    /// one.
    pub(crate) fn new() -> Option<Machine> {
        Machine::hold(&["--mount", "sh", "-euc", SHARED, "sh"], &[], false)
    }

    /// A fresh one whose systemd has started everything.
    pub(crate) fn boot() -> Option<Machine> {
        if !Path::new("/lib/systemd/systemd").exists() {
            eprintln!("systemd is not installed: skipped");
            return None;
        }
        let machine = Machine::hold(&["--mount", "sh", "-euc", BOOTED, "sh"], &[FIRST], true)?;
        let deadline = Instant::now() + BOOT_MAX;
        loop {
            let output = machine.inside("systemctl is-system-running").output().unwrap();
            let state = String::from_utf8_lossy(&output.stdout);
            if ["running", "degraded"].contains(&state.trim_end()) {
                break;
            }
            assert!(Instant::now() < deadline, "systemd does not start: {state}");
            std::thread::sleep(Duration::from_millis(50));
        }
        machine.run("ip link set lo up; rm -f /usr/sbin/policy-rc.d");
        Some(machine)
    }

    fn hold(before: &[&str], after: &[&str], is_booted: bool) -> Option<Machine> {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(before).arg(place.path()).args(after);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut target = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut target).unwrap();
        if target.is_empty() {
            let mut why = String::new();
            let _ = holder.stderr.take().unwrap().read_to_string(&mut why);
            let _ = holder.wait();
            let why = why.trim_end();
            let must = rustix::process::geteuid().is_root() && std::env::var_os("CI").is_some();
            assert!(!must, "CI runs as root and has no overlay: {why}");
            eprintln!("no copy of this machine: {why}: skipped");
            return None;
        }
        let target = target.trim_end().to_owned();
        Some(Machine { holder, target, is_booted, _place: place })
    }

    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        let what = if self.is_booted { "--all" } else { "--mount" };
        command.args(["--target", &self.target, what, "--root", "--wd", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]);
        command.args(["LC_ALL=C", "timeout", SCRIPT_SECONDS_MAX, "sh", "-euc", script]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a script, which must succeed, and gives what it wrote to stdout, without the last
    /// line's end.
    pub(crate) fn run(&self, script: &str) -> String {
        // A service in the background would hold pipes open: files are read when the script ended.
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut command = self.inside(script);
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let status = command.status().unwrap();
        let (out, err) = (text(&mut out), text(&mut err));
        assert!(status.success(), "{script}\n{status}\n{out}\n{err}");
        out.trim_end().to_owned()
    }

    /// Copies a file to `/mnt/NAME`.
    pub(crate) fn put(&self, from: &Path, name: &str) {
        let mut command = self.inside(&format!("cat >/mnt/{name}"));
        let status = command.stdin(std::fs::File::open(from).unwrap()).status();
        assert!(status.unwrap().success(), "{}", from.display());
    }
}

fn text(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.is_booted {
            // What a failed test left running keeps the namespace alive.
            let left = "test ! -s /run/served || kill -9 $(cat /run/served) 2>/dev/null || true";
            let _ = self.inside(left).status();
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
