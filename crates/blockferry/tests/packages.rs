//! Packages made of this build, installed, used, upgraded, removed and purged: in an overlay over
//! the machine's own root, of which nothing is left and through which nothing is changed.
//!
//! Needs root, `dpkg`, and for some tests `rpm`; without them it is skipped with a line. Once there
//! is no systemd at all, once a stand-in that writes down what it is told, once a real one with the
//! real unit.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod machine;

use blockferry_dist::{Input, Level, archive, deb, rpm};
use machine::Machine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A date for all files.
const EPOCH: u64 = 1_790_000_000;
const OLD: &str = "0.0.9";
const NEW: &str = env!("CARGO_PKG_VERSION");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn input(version: &str) -> Input {
    Input {
        root: root(),
        binary: stripped(),
        version: version.to_owned(),
        epoch: EPOCH,
        level: Level::Fast,
        notices: None,
    }
}

/// The program without its debug information, which is most of it; every package does that again.
fn stripped() -> PathBuf {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blockferry");
        let mut strip = Command::new("strip");
        strip.args(["--strip-debug", env!("CARGO_BIN_EXE_blockferry"), "-o"]).arg(&path);
        assert!(strip.status().unwrap().success());
        (directory, path)
    });
    path.clone()
}

/// Whether all of these programs are here; says which one isn't.
fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|name| {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
        !found.is_ok_and(|output| output.status.success())
    });
    if let Some(name) = missing {
        eprintln!("{name} is not installed: skipped");
    }
    missing.is_none()
}

/// Both `.deb`s, the old one first; made once.
fn debs() -> &'static [PathBuf; 2] {
    static MADE: OnceLock<(TempDir, [PathBuf; 2])> = OnceLock::new();
    let (_, paths) = MADE.get_or_init(|| {
        let out = tempfile::tempdir().unwrap();
        let paths = [OLD, NEW].map(|version| deb(&input(version), out.path()).unwrap());
        (out, paths)
    });
    paths
}

/// A machine with both `.deb`s in `/mnt`, or nothing where it can't be.
fn debian() -> Option<Machine> {
    if !have(&["dpkg", "dpkg-deb", "strip", "setpriv", "deb-systemd-helper"]) {
        return None;
    }
    stocked(Machine::new()?)
}

fn stocked(machine: Machine) -> Option<Machine> {
    for (path, name) in debs().iter().zip(["old.deb", "new.deb"]) {
        machine.put(path, name);
    }
    Some(machine)
}

fn install(machine: &Machine, name: &str) {
    machine.run(&format!("dpkg --force-unsafe-io --no-triggers --install /mnt/{name}"));
}

/// Mode and owners of a path, as `stat` writes them.
fn owned(machine: &Machine, path: &str) -> String {
    machine.run(&format!("stat -c '%a %U:%G' {path}"))
}

/// Runs the service as the unit would; waits until it answers.
fn serve(machine: &Machine) {
    machine.run(
        "install -d -m 0750 -o blockferry -g blockferry /run/blockferry
         caps=+dac_override,+fowner,+lease
         setpriv --reuid blockferry --regid blockferry --clear-groups --no-new-privs \
           --inh-caps $caps --ambient-caps $caps --bounding-set -all,$caps \
           /usr/bin/blockferry serve >/var/log/blockferry.log 2>&1 </dev/null &
         echo $! >/run/served
         for _ in $(seq 200); do
           blockferry status --quiet 2>/dev/null && exit 0
           sleep 0.05
         done
         cat /var/log/blockferry.log >&2; exit 1",
    );
}

fn stop(machine: &Machine) {
    machine.run(
        "pid=$(cat /run/served); kill $pid
         for _ in $(seq 200); do
           kill -0 $pid 2>/dev/null || { rm /run/served; exit 0; }
           sleep 0.05
         done; exit 1",
    );
}

fn json(machine: &Machine, command: &str) -> Value {
    serde_json::from_str(&machine.run(&format!("blockferry {command} --json"))).unwrap()
}

#[test]
fn the_deb_is_installed_used_upgraded_removed_and_purged() {
    let Some(machine) = debian() else { return };
    // As in a container or under another init.
    machine.run("rm -f /usr/bin/systemctl /usr/bin/systemd-sysusers /usr/bin/systemd-tmpfiles");
    install(&machine, "old.deb");
    assert_eq!(owned(&machine, "/etc/blockferry"), "750 root:blockferry");
    assert_eq!(owned(&machine, "/etc/blockferry/conf.d"), "750 root:blockferry");
    assert_eq!(owned(&machine, "/var/lib/blockferry"), "700 blockferry:blockferry");
    assert_eq!(owned(&machine, "/usr/bin/blockferry"), "755 root:root");
    assert_eq!(
        machine.run("ls -A /etc/blockferry /var/lib/blockferry/ | grep -c toml || true"),
        "0"
    );
    machine.run("cd / && md5sum --check --quiet /var/lib/dpkg/info/blockferry.md5sums");
    machine.run("bash -n /usr/share/bash-completion/completions/blockferry");
    machine.run("gzip -dc /usr/share/man/man1/blockferry-store-add.1.gz | grep -q '^.TH'");

    let id = machine.run("blockferry init --name here --listen 127.0.0.1:0");
    assert_eq!(owned(&machine, "/etc/blockferry/blockferry.toml"), "640 root:blockferry");
    assert_eq!(owned(&machine, "/etc/blockferry/identity.key"), "600 blockferry:blockferry");
    serve(&machine);
    machine.run(
        "mkdir -p /srv/vdisks && head -c 300000 /dev/urandom >/srv/vdisks/a.raw
         blockferry store add vdisks /srv/vdisks
         mkdir -p /var/lib/blockferry/stores/inner && cp /srv/vdisks/a.raw /var/lib/blockferry/stores/inner
         chown -R blockferry: /var/lib/blockferry/stores
         blockferry store add inner /var/lib/blockferry/stores/inner
         blockferry publish vdisks/a.raw; blockferry publish inner/a.raw",
    );
    let sums = "find /etc/blockferry -type f -exec sha256sum {} + | sort
                find /srv/vdisks /var/lib/blockferry -type f -printf '%p %m %u\\n' | sort";
    assert_eq!(json(&machine, "status")["stores"].as_array().unwrap().len(), 2);
    stop(&machine);
    let before = machine.run(sums);
    assert!(before.contains("/var/lib/blockferry/node.redb") && before.contains("managed.toml"));

    install(&machine, "new.deb");
    assert_eq!(machine.run(sums), before, "an upgrade touches nothing of the node's");
    serve(&machine);
    let status = json(&machine, "status");
    assert_eq!(status["node"]["id"].as_str(), Some(id.trim()));
    assert_eq!(status["stores"].as_array().unwrap().len(), 2);
    let image = json(&machine, "image show vdisks/a.raw");
    assert!(image.to_string().contains("\"generation\":1"), "{image}");
    stop(&machine);
    let before = machine.run(sums);

    machine.run("dpkg --force-unsafe-io --no-triggers --remove blockferry");
    assert_eq!(machine.run(sums), before, "a removal takes the program only");
    machine.run("! command -v blockferry && test ! -e /usr/lib/systemd/system/blockferry.service");
    install(&machine, "new.deb");
    assert_eq!(machine.run("blockferry id"), id);
    let images = "find /srv/vdisks /var/lib/blockferry/stores -type f -exec sha256sum {} + | sort";
    let before = machine.run(images);
    let said = machine.run("dpkg --force-unsafe-io --no-triggers --purge blockferry");
    assert_eq!(machine.run(images), before, "a purge takes no images");
    assert!(before.contains("/srv/vdisks/.blockferry/"), "{before}");
    assert!(said.contains("left where it is") && said.contains("/var/lib/blockferry"), "{said}");
    machine.run("test ! -e /etc/blockferry && test ! -e /var/lib/blockferry/node.redb");
    machine.run("rm -r /var/lib/blockferry/stores");
    install(&machine, "new.deb");
    machine.run("blockferry init --name here");
    machine.run("dpkg --force-unsafe-io --no-triggers --purge blockferry");
    machine.run("test ! -e /etc/blockferry && test ! -e /var/lib/blockferry");
    machine.run(
        "! find / -xdev -name '*blockferry*' -not -path '/srv/*' -not -path '/mnt/*' \
                 \\( -path '/etc/*' -o -path '/usr/lib/systemd/*' -o -path '/var/lib/*' \
                    -o -path '/usr/bin/*' -o -path '/usr/share/*' \\) | grep .",
    );
}

/// A stand-in for systemd: every call is a line of `/mnt/calls`.
const SYSTEMCTL: &str = "#!/bin/sh
echo \"$*\" >>/mnt/calls
case \"$*\" in
*is-enabled*) echo enabled ;;
*--preset-mode=enable-only*)
  mkdir -p /etc/systemd/system/multi-user.target.wants
  ln -sf /usr/lib/systemd/system/blockferry.service /etc/systemd/system/multi-user.target.wants ;;
esac
";

/// What was told since the last time, without what only asks.
fn told(machine: &Machine) -> Vec<String> {
    let text = machine.run("cat /mnt/calls 2>/dev/null; rm -f /mnt/calls");
    // Nor what deb-systemd-helper tries for itself.
    let others = ["is-enabled", "is-active", "--preset-mode=enable-only"];
    let ours = |line: &&str| !others.iter().any(|other| line.contains(other));
    text.lines().filter(ours).map(|line| line.replace("--quiet --system ", "")).collect()
}

fn pretend_systemd(machine: &Machine) {
    machine.run(&format!(
        "mkdir -p /run/systemd/system; rm -f /usr/sbin/policy-rc.d
         cat >/usr/bin/systemctl.new <<'EOF'\n{SYSTEMCTL}EOF
         chmod 755 /usr/bin/systemctl.new; mv /usr/bin/systemctl.new /usr/bin/systemctl"
    ));
}

#[test]
fn the_deb_tells_systemd_what_is_due() {
    let Some(machine) = debian() else { return };
    pretend_systemd(&machine);
    const RELOAD: &str = "--system daemon-reload";
    let wanted = "/etc/systemd/system/multi-user.target.wants/blockferry.service";

    install(&machine, "old.deb");
    assert_eq!(told(&machine), [RELOAD, "start blockferry.service"]);
    machine.run(&format!("test -h {wanted}"));
    machine.run("getent passwd blockferry | grep -q nologin");
    install(&machine, "new.deb");
    assert_eq!(told(&machine), [RELOAD, "try-restart blockferry.service"]);
    // Who disabled it meant it.
    machine.run(&format!("rm {wanted}"));
    install(&machine, "new.deb");
    assert_eq!(told(&machine), [RELOAD, "try-restart blockferry.service"]);
    machine.run(&format!("test ! -e {wanted}"));
    machine.run("dpkg --force-unsafe-io --no-triggers --remove blockferry");
    assert_eq!(told(&machine), ["stop blockferry.service", RELOAD]);
    install(&machine, "new.deb");
    assert_eq!(
        told(&machine),
        [RELOAD, "start blockferry.service"],
        "installed over what was left"
    );
    machine.run("dpkg --force-unsafe-io --no-triggers --purge blockferry");
    assert_eq!(told(&machine), ["stop blockferry.service", RELOAD]);
    machine.run(&format!("test ! -h {wanted} && test ! -e /run/blockferry.installed"));
}

/// What the other node of the machine changes comes to the package's: an image that is somebody
/// else's, new ones, and with the drop-in whose they are.
fn receives(machine: &Machine) {
    let from_other = |script: &str| {
        machine.run(&format!(
            "other='blockferry --config /srv/other/blockferry.toml'
             cd /srv/other/images; {script}
             for name in *.raw; do $other publish vdisks/$name; done
             for name in *.raw; do
               $other wait vdisks/$name --timeout 30s
               cmp $name /srv/vdisks/$name
             done"
        ));
    };
    from_other(
        "dd if=/dev/urandom of=a.raw bs=4096 count=2 seek=7 conv=notrunc status=none
         head -c 500000 /dev/urandom >b.raw; chmod 604 b.raw; chown 1234:1235 b.raw",
    );
    assert_eq!(machine.run("stat -c '%a' /srv/vdisks/a.raw /srv/vdisks/b.raw"), "640\n604");
    assert_eq!(owned(machine, "/srv/vdisks/b.raw"), "604 blockferry:blockferry");
    machine.run(
        "install -D -m 644 /usr/share/doc/blockferry/drop-ins/owners.conf \
           /etc/systemd/system/blockferry.service.d/owners.conf
         systemctl daemon-reload; systemctl restart blockferry",
    );
    from_other("head -c 400000 /dev/urandom >c.raw; chown 1234:1235 c.raw");
    assert_eq!(machine.run("stat -c '%u:%g' /srv/vdisks/c.raw"), "1234:1235");
}

/// Two nodes on one machine: the package's under its unit, and one that only serves as its peer.
#[test]
fn under_systemd_the_hardened_service_sends_and_receives() {
    if !have(&["dpkg", "dpkg-deb", "strip", "deb-systemd-helper", "ip"]) {
        return;
    }
    let Some(machine) = Machine::boot().and_then(stocked) else { return };
    let state = || {
        machine.run(
            "for name in ActiveState Result NRestarts; do systemctl show blockferry -P $name; done",
        )
    };
    install(&machine, "old.deb");
    assert_eq!(machine.run("systemctl is-enabled blockferry"), "enabled");
    assert_eq!(state(), "inactive\nsuccess\n0", "without a node it is no failed unit");
    machine.run(
        "blockferry init --name here --listen 127.0.0.1:7700
         systemctl enable --now blockferry
         blockferry init --dir /srv/other --name other --listen 127.0.0.1:7701
         systemd-run --quiet --unit=other --service-type=notify \
           blockferry --config /srv/other/blockferry.toml serve
         mkdir /srv/vdisks
         head -c 3000000 /dev/urandom >/srv/vdisks/a.raw
         chown -R 1234:1235 /srv/vdisks; chmod 640 /srv/vdisks/a.raw
         blockferry store add vdisks /srv/vdisks
         blockferry publish vdisks/a.raw",
    );
    assert_eq!(owned(&machine, "/run/blockferry/admin.sock"), "660 blockferry:blockferry");
    machine.run(
        "other='blockferry --config /srv/other/blockferry.toml'
         $other join \"$(blockferry invite --store vdisks)\" --path /srv/other/images
         blockferry wait vdisks/a.raw --timeout 30s
         cmp /srv/vdisks/a.raw /srv/other/images/a.raw",
    );
    receives(&machine);
    assert_eq!(state(), "active\nsuccess\n0");

    let process = || machine.run("systemctl show blockferry -P MainPID");
    let before = process();
    install(&machine, "new.deb");
    assert_eq!(state(), "active\nsuccess\n0");
    assert_ne!(process(), before, "an upgrade restarts what runs");
    assert_eq!(json(&machine, "status")["stores"][0]["images"], 3);
    machine.run("systemctl stop blockferry");
    install(&machine, "old.deb");
    assert_eq!(state(), "inactive\nsuccess\n0", "and leaves alone what was stopped");
    machine.run("systemctl start blockferry");
    let images = machine.run("sha256sum /srv/vdisks/*.raw");
    machine.run("dpkg --force-unsafe-io --no-triggers --purge blockferry");
    machine.run(
        "if systemctl is-active --quiet blockferry; then exit 1; fi; test ! -e /var/lib/blockferry",
    );
    assert_eq!(machine.run("sha256sum /srv/vdisks/*.raw"), images);
    assert_eq!(machine.run("systemctl --failed --no-legend | grep blockferry || true"), "");
}

#[test]
fn the_rpm_is_installed_upgraded_and_erased() {
    if !have(&["rpm", "rpmbuild", "strip"]) {
        return;
    }
    let Some(machine) = Machine::new() else { return };
    let out = tempfile::tempdir().unwrap();
    for (version, name) in [(OLD, "old.rpm"), (NEW, "new.rpm")] {
        machine.put(&rpm(&input(version), out.path()).unwrap(), name);
    }
    pretend_systemd(&machine);
    // Debian's rpm asks for this before it touches a machine whose packages are dpkg's.
    let rpm = "rpm --force-debian --nodeps --dbpath /mnt/db";
    let requires = machine.run("rpm -qp --requires /mnt/new.rpm");
    assert!(requires.contains("libc.so.6(GLIBC_2"), "{requires}");
    machine.run(&format!("mkdir /mnt/db && {rpm} --install /mnt/old.rpm"));
    assert_eq!(told(&machine), ["daemon-reload", "--no-reload preset blockferry.service"]);
    assert_eq!(owned(&machine, "/etc/blockferry"), "750 root:blockferry");
    assert_eq!(owned(&machine, "/var/lib/blockferry"), "700 blockferry:blockferry");
    machine.run("blockferry init --name here && blockferry config check");
    machine.run(&format!("{rpm} --upgrade /mnt/new.rpm"));
    assert_eq!(
        told(&machine),
        ["daemon-reload", "daemon-reload", "try-restart blockferry.service"]
    );
    assert_eq!(machine.run("blockferry --version"), format!("blockferry {NEW}"));
    machine.run(&format!("{rpm} --verify blockferry"));
    machine.run(&format!("{rpm} --erase blockferry"));
    assert_eq!(told(&machine), ["--no-reload disable --now blockferry.service", "daemon-reload"]);
    machine.run("test -e /etc/blockferry/identity.key && test ! -e /usr/bin/blockferry");
    machine.run("test ! -e /usr/share/doc/blockferry");
}

#[test]
fn the_same_input_gives_the_same_bytes_anywhere() {
    if !have(&["dpkg-deb", "strip", "tar"]) {
        return;
    }
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The source elsewhere, with other times and modes.
    let moved = other.path().join("a/longer/name");
    std::fs::create_dir_all(&moved).unwrap();
    let script = "umask 077; cd \"$1\" && cp -r --no-preserve=all deploy README.md CHANGELOG.md LICENSE* \"$2\"";
    let mut copy = Command::new("sh");
    let copied = copy.args(["-c", script, "sh"]).arg(root()).arg(&moved).status();
    assert!(copied.unwrap().success());
    let here = Input { notices: Some("whose\n".into()), ..input(NEW) };
    let there = Input { root: moved, ..here.clone() };
    type Make = fn(&Input, &Path) -> PathBuf;
    let mut makes: Vec<Make> = vec![|i, o| archive(i, o).unwrap(), |i, o| deb(i, o).unwrap()];
    if have(&["rpmbuild"]) {
        makes.push(|i, o| rpm(i, o).unwrap());
    }
    for make in makes {
        let (first, second) = (make(&here, one.path()), make(&there, other.path()));
        assert_eq!(first.file_name(), second.file_name());
        let same = std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap();
        assert!(same, "{} and {} differ", first.display(), second.display());
        std::fs::remove_file(&first).unwrap();
    }
}
