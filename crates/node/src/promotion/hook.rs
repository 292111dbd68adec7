//! The hook after a promotion: a program of the operator's, run once, without a shell.
//!
//! It is given `STORE/NAME@GENERATION` and the image's path as arguments, a fixed environment and
//! an empty stdin, and has `HOOK_DEADLINE` to end; then it and what it started are killed. What it
//! printed last is kept for people. It fails without consequences for the promotion. Blocking.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;

use crate::api::HookReport;
use crate::budget;
use crate::core::lock;

/// How often it is looked whether the hook has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What was printed just before the end is waited for this long.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Where the hook's own commands are found.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a hook is told.
#[derive(Clone, Debug)]
pub(crate) struct Occasion {
    pub(crate) store: String,
    pub(crate) image: String,
    pub(crate) generation: u64,
    pub(crate) root: String,
    /// The image's file.
    pub(crate) file: std::path::PathBuf,
    /// Name of this node.
    pub(crate) node: String,
    /// Who asked.
    pub(crate) by: String,
}

/// Who of the writers runs a hook for a mirror: whoever made the generation, if that is one of them;
/// else the first by its key. All of them say the same.
pub(crate) fn runner(writers: &BTreeSet<NodeId>, author: Option<NodeId>) -> Option<NodeId> {
    author.filter(|author| writers.contains(author)).or_else(|| writers.first().copied())
}

/// Runs a hook to its end, at most for `limit`.
pub(crate) fn run(program: &Path, occasion: &Occasion, limit: Duration) -> HookReport {
    let started = Instant::now();
    let outcome = io::pipe().and_then(|(output, input)| {
        let child = start(program, occasion, input)?;
        let printed = Printed::of(output);
        Ok((wait(child, limit)?, printed.last()))
    });
    let (ok, said) = match outcome {
        Ok((Some(status), printed)) => (status.success(), said(&status.to_string(), &printed)),
        Ok((None, printed)) => {
            let ended = format!("it ran longer than {} s and was killed", limit.as_secs());
            (false, said(&ended, &printed))
        }
        Err(error) => (false, error.to_string()),
    };
    let program = program.display().to_string();
    HookReport { program, ok, said, seconds: started.elapsed().as_secs_f64() }
}

fn said(status: &str, printed: &str) -> String {
    match printed.trim() {
        "" => status.to_owned(),
        printed => format!("{status}: {printed}"),
    }
}

fn start(program: &Path, occasion: &Occasion, output: io::PipeWriter) -> io::Result<Child> {
    let Occasion { store, image, generation, root, file, node, by } = occasion;
    Command::new(program)
        .arg(format!("{store}/{image}@{generation}"))
        .arg(file)
        .env_clear()
        .env("PATH", PATH)
        .env("BLOCKFERRY_EVENT", "PROMOTED")
        .env("BLOCKFERRY_STORE", store)
        .env("BLOCKFERRY_IMAGE", image)
        .env("BLOCKFERRY_GENERATION", generation.to_string())
        .env("BLOCKFERRY_ROOT", root)
        .env("BLOCKFERRY_FILE", file)
        .env("BLOCKFERRY_NODE", node)
        .env("BLOCKFERRY_BY", by)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .spawn()
}

/// `None`: it had to be killed.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(group) = group {
                // It may have ended just now.
                let _gone =
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The last bytes of what a hook prints. A thread empties the pipe for as long as somebody has it,
/// perhaps longer than the hook: what it started may live on.
struct Printed {
    last: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Printed {
    fn of(mut output: io::PipeReader) -> Self {
        let last = Arc::new(Mutex::new(Vec::new()));
        let to = last.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let mut last = lock(&to);
                last.extend_from_slice(&buffer[..count]);
                let surplus = last.len().saturating_sub(budget::HOOK_OUTPUT_BYTES);
                last.drain(..surplus);
            }
        });
        Self { last, thread }
    }

    /// What came last until now, as one line.
    fn last(&self) -> String {
        let ended = Instant::now();
        while !self.thread.is_finished() && ended.elapsed() < LAST_WORDS {
            std::thread::sleep(LOOK_EVERY);
        }
        let last = lock(&self.last);
        let text = String::from_utf8_lossy(&last);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn occasion() -> Occasion {
        Occasion {
            store: "vdisks".into(),
            image: "a b.img".into(),
            generation: 7,
            root: "00ff".into(),
            file: "/srv/a b.img".into(),
            node: "hub".into(),
            by: "uid 0".into(),
        }
    }

    fn script(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hook");
        std::fs::write(&path, text).expect("written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("chmod");
        dir
    }

    fn ran(text: &str, limit: Duration) -> HookReport {
        let dir = script(text);
        run(&dir.path().join("hook"), &occasion(), limit)
    }

    #[test]
    fn it_gets_arguments_and_environment_and_nothing_else() {
        let text = "#!/bin/sh\necho \"$# $1 $2\"\nenv | grep -v ^PWD= | grep -v ^_= | sort\n\
                    read line || echo no input\n";
        let report = ran(text, Duration::from_secs(60));
        assert!(report.ok, "{report:?}");
        let said = &report.said;
        assert!(said.contains("2 vdisks/a b.img@7 /srv/a b.img"), "{said}");
        for part in ["BLOCKFERRY_GENERATION=7", "BLOCKFERRY_FILE=/srv/a b.img", "no input"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("HOME="), "{said}");
    }

    #[test]
    fn one_writer_runs_a_hook_for_a_mirror() {
        let [a, b, c] = [1, 2, 3].map(|byte| NodeId::from_bytes([byte; 32]));
        let writers = BTreeSet::from([b, c]);
        assert_eq!(runner(&writers, Some(c)), Some(c), "who made it");
        for author in [Some(a), None] {
            assert_eq!(runner(&writers, author), Some(b), "{author:?} is no writer");
        }
        assert_eq!(runner(&BTreeSet::new(), Some(a)), None);
    }

    #[test]
    fn failures_are_told_with_what_was_printed() {
        let report = ran("#!/bin/sh\necho no license >&2\nexit 3\n", Duration::from_secs(60));
        assert!(!report.ok && report.said.contains("3: no license"), "{report:?}");
        let none = run(Path::new("/no/such/hook"), &occasion(), Duration::from_secs(60));
        assert!(!none.ok && none.said.contains("No such file"), "{none:?}");
        let flood = ran("#!/bin/sh\nseq 100000\n", Duration::from_secs(60));
        assert!(flood.ok && flood.said.len() < 3000 && flood.said.contains("100000"));
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started() {
        let started = Instant::now();
        let report = ran("#!/bin/sh\nsleep 600 &\nsleep 600\n", Duration::from_millis(300));
        assert!(!report.ok && report.said.contains("was killed"), "{report:?}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
