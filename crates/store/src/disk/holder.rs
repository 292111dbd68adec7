//! Who has a file open for writing: looked up in `/proc`, as far as we may look. Only for people;
//! nothing is decided by it. Bounded in processes, descriptors and time, and silent where it can't
//! be told (other users' processes, other machines, mappings whose descriptor is closed).

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes that are looked at.
const PROCESSES_MAX: usize = 32_768;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;
/// Loop devices that are looked at.
const LOOPS_MAX: usize = 1024;
/// The search is given up after this time.
const SEARCH_MAX: Duration = Duration::from_millis(500);
/// Characters of a command's name that are shown; the kernel keeps 15.
const COMMAND_CHARS_MAX: usize = 32;

/// Whoever has a file open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Number of the process; `None`: the kernel itself.
    pub pid: Option<u32>,
    /// The command's name, or that of the kernel's device.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.command),
            None => write!(f, "{}", self.command),
        }
    }
}

/// Finds one that has the file of this device and inode open for writing.
pub(super) fn writer_of(device: u64, inode: u64) -> Option<Holder> {
    let until = Instant::now() + SEARCH_MAX;
    let processes = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    for process in processes.take_while(|_| Instant::now() < until) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if writes(&process.path(), device, inode, until) {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            return Some(Holder { pid: Some(pid), command: shown(&name) });
        }
    }
    loop_device(device, inode)
}

fn is_file(path: &Path, device: u64, inode: u64) -> bool {
    fs::metadata(path).is_ok_and(|stat| (stat.dev(), stat.ino()) == (device, inode))
}

/// Has the process of this directory in `/proc` the file open for writing?
fn writes(process: &Path, device: u64, inode: u64, until: Instant) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().take(DESCRIPTORS_MAX).take_while(|_| Instant::now() < until).any(|fd| {
        // Following the link looks at the open file and opens nothing.
        is_file(&fd.path(), device, inode)
            && fs::read_to_string(process.join("fdinfo").join(fd.file_name()))
                .is_ok_and(|info| is_writable(&info))
    })
}

/// Reads the octal flags of `/proc/PID/fdinfo/FD`.
fn is_writable(info: &str) -> bool {
    const ACCESS: u32 = 3;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & ACCESS != 0)
}

/// A loop device keeps its file open inside the kernel.
fn loop_device(device: u64, inode: u64) -> Option<Holder> {
    let devices = fs::read_dir("/sys/block").ok()?.flatten().take(LOOPS_MAX);
    devices.map(|device| device.path()).find_map(|path| {
        let file = fs::read_to_string(path.join("loop/backing_file")).ok()?;
        let name = path.file_name()?.to_str()?;
        is_file(Path::new(file.trim_end_matches('\n')), device, inode)
            .then(|| Holder { pid: None, command: format!("/dev/{name}") })
    })
}

/// A name that anybody may have chosen, fit to be shown.
fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.chars().filter(|c| !c.is_control()).take(COMMAND_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_named_and_a_reader_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = file.as_file().metadata().unwrap();
        let path = file.into_temp_path();
        assert_eq!(writer_of(stat.dev(), stat.ino()), None);
        let reader = fs::File::open(&path).unwrap();
        assert_eq!(writer_of(stat.dev(), stat.ino()), None);
        let writer = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let holder = writer_of(stat.dev(), stat.ino()).expect("this process");
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(!holder.command.is_empty());
        assert!(holder.to_string().ends_with(&format!("(pid {})", std::process::id())));
        drop((reader, writer));
    }

    #[test]
    fn flags_are_octal() {
        assert!(is_writable("pos:\t0\nflags:\t0100002\nmnt_id:\t29\n"));
        assert!(is_writable("flags:\t0102001"));
        for info in ["flags:\t0100000\n", "flags:\t8", "", "flags:"] {
            assert!(!is_writable(info), "{info:?}");
        }
    }

    #[test]
    fn names_are_made_fit_to_be_shown() {
        assert_eq!(shown(b"qemu-system-x86\n"), "qemu-system-x86");
        assert_eq!(shown(&[b'a'; 100]).len(), COMMAND_CHARS_MAX);
        assert_eq!(shown(b"a\x1b[31mb"), "a[31mb");
    }
}
