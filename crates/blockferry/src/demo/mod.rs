//! `demo`: the main job, watched: two nodes, an image, a delta. No root, no configuration.
//!
//! What is shown is measured by the nodes themselves and checked here from the outside: both files
//! are hashed anew, and the demonstration fails if anything differs. Whatever happens, the nodes
//! are stopped and (unless asked otherwise) the directory is removed.

mod cluster;
mod image;
mod web;

use crate::args::DemoArgs;
use crate::commands::{App, read};
use crate::failure::{AdminError, Failure, on_path};
use crate::interrupt;
use crate::output::{Bar, seconds, size};
use blockferry_node::api::{
    Answer, Exit, GenerationRow, HistoryReport, Invitation, Joined, Progress, PublishReport,
    PushDone, Request, Role, StoresReport,
};
use cluster::{Member, Processes};
use image::{SAMPLE_BYTES_MAX, SAMPLE_BYTES_MIN, Sample};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SEED: u64 = 20_260_101;
const STORE: &str = "demo";
const NAME: &str = "sample.raw";
const TICKET_SECONDS: u64 = 300;
/// How soon the end is seen.
const LOOK: Duration = Duration::from_millis(100);

/// What one of the two copies cost, for `--json`.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    generation: u64,
    root: String,
    size_bytes: u64,
    changed_bytes: u64,
    wire_bytes: u64,
    record_seconds: f64,
    copy_seconds: f64,
    identical: bool,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    ok: bool,
    seconds: f64,
    /// Where everything is, if it was kept.
    directory: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &DemoArgs) -> Result<Exit, Failure> {
    let bytes = args.size.bytes();
    if !(SAMPLE_BYTES_MIN..=SAMPLE_BYTES_MAX).contains(&bytes) {
        let (least, most) = (size(SAMPLE_BYTES_MIN), size(SAMPLE_BYTES_MAX));
        return Err(AdminError::new("USAGE", format!("--size is from {least} to {most}")).into());
    }
    let directory = tempfile::Builder::new().prefix("blockferry-demo-").tempdir();
    let temporary = std::env::temp_dir();
    let directory =
        directory.map_err(|error| on_path("make a directory in", &temporary, &error))?;
    enough_room(directory.path(), bytes)?;
    let processes = Processes::default();
    let at_hand = processes.clone();
    let interrupted = interrupt::flag(move || at_hand.stop());
    let (directory_path, web) = (directory.path(), args.web);
    let demo = Demo { app, processes, interrupted, directory: directory_path, web };
    let began = Instant::now();
    let result = demo.show(bytes);
    demo.processes.stop();
    // With a page the end is when somebody has seen enough.
    let seen = args.web && result.is_ok();
    let stopped = demo.interrupted.load(Ordering::SeqCst) && !seen;
    let kept = put_away(app, directory, args.keep);
    if stopped {
        app.out.prose("interrupted; everything is stopped and cleaned up");
        return Ok(Exit::Interrupted);
    }
    result?;
    let summary = Summary { ok: true, seconds: began.elapsed().as_secs_f64(), directory: kept };
    app.out.summary(&summary, || format!("done in {}", seconds(summary.seconds)))?;
    Ok(Exit::Done)
}

/// Two images, and as much again for what the second copy stages without reflinks.
fn enough_room(directory: &Path, bytes: u64) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| on_path("look at", directory, &error.into()))?;
    let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), bytes.saturating_mul(3));
    if free >= needed {
        return Ok(());
    }
    let shown = directory.display();
    let message = format!(
        "the demonstration needs up to {} in {shown}, {} are free",
        size(needed),
        size(free)
    );
    let error = AdminError::new("DISK_FULL", message);
    Err(error.with_remedy("choose a smaller --size, or a larger disk by TMPDIR").into())
}

fn put_away(app: &App, directory: TempDir, keep: bool) -> Option<PathBuf> {
    if keep {
        let path = directory.keep();
        app.out.prose(&format!("kept {}", path.display()));
        return Some(path);
    }
    let path = directory.path().to_owned();
    if let Err(error) = directory.close() {
        app.out.prose(&format!("{} could not be removed: {error}", path.display()));
    }
    None
}

/// Everything the steps share.
struct Demo<'a> {
    app: &'a App,
    processes: Processes,
    interrupted: Arc<AtomicBool>,
    directory: &'a Path,
    /// Both nodes show the page.
    web: bool,
}

impl Demo<'_> {
    fn show(&self, bytes: u64) -> Result<(), Failure> {
        let out = &self.app.out;
        out.prose("1. two nodes, alpha and beta, start on this machine");
        let alpha = Member::start(self.directory, "alpha", &self.processes, self.web)?;
        let beta = Member::start(self.directory, "beta", &self.processes, self.web)?;
        self.show_pages(&[&alpha, &beta]);
        out.prose(&format!("2. a sample image of {} is made for alpha", size(bytes)));
        let mut sample = self.sample(&alpha, bytes)?;
        out.prose(&format!("   {} are data, the rest is holes", size(sample.data_bytes)));
        out.prose("3. alpha records it; beta joins with a ticket; the image is copied");
        self.add_store(&alpha)?;
        let recorded = self.publish(&alpha)?;
        let ticket = self.ticket(&alpha)?;
        let began = Instant::now();
        self.join(&beta, ticket)?;
        let first = self.copy("first_copy", [&alpha, &beta], &recorded, began)?;
        out.item(&first, || text(&first))?;
        out.prose("4. a few MiB of it change on alpha, as in a day's work");
        let written =
            sample.change().map_err(|error| on_path("change", Path::new(NAME), &error))?;
        out.prose(&format!("   {} are rewritten", size(written)));
        let recorded = self.publish(&alpha)?;
        let delta = self.copy("delta", [&alpha, &beta], &recorded, Instant::now())?;
        out.item(&delta, || text(&delta))?;
        if self.web {
            out.prose("5. the page stays until Ctrl-C:");
            self.show_pages(&[&alpha, &beta]);
            while !self.interrupted.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Says where the pages are, if there are any.
    fn show_pages(&self, members: &[&Member]) {
        for member in members {
            if let Some(web) = &member.web {
                let (name, at, token) = (member.name, web.address, &web.token);
                self.app
                    .out
                    .prose(&format!("   http://{at}/  is {name}'s page; log in with {token}"));
            }
        }
    }

    fn sample(&self, alpha: &Member, bytes: u64) -> Result<Sample, Failure> {
        let path = alpha.images().join(NAME);
        let mut bar = self.app.out.bar();
        let made = Sample::create(&path, bytes, SEED, |done_bytes| {
            let phase = "make".to_owned();
            bar.show(&Progress { phase, done_bytes, total_bytes: bytes, ..Progress::default() });
            !self.interrupted.load(Ordering::SeqCst)
        });
        let made = made.map_err(|error| on_path("write", &path, &error))?;
        made.ok_or_else(|| AdminError::new("INTERRUPTED", "interrupted").into())
    }

    fn add_store(&self, alpha: &Member) -> Result<(), Failure> {
        let request =
            Request::StoreAdd { name: STORE.to_owned(), path: alpha.images(), role: Role::Writer };
        self.ask::<StoresReport>(alpha, &request).map(drop)
    }

    fn publish(&self, alpha: &Member) -> Result<PublishReport, Failure> {
        self.ask(
            alpha,
            &Request::Publish { image: format!("{STORE}/{NAME}"), changed: None, since: None },
        )
    }

    fn ticket(&self, alpha: &Member) -> Result<String, Failure> {
        let store = STORE.to_owned();
        let request = Request::Invite { store, role: Role::Writer, ttl_seconds: TICKET_SECONDS };
        self.ask::<Invitation>(alpha, &request).map(|invitation| invitation.ticket)
    }

    fn join(&self, beta: &Member, ticket: String) -> Result<(), Failure> {
        let request = Request::Join { ticket, path: Some(beta.images()), name: None };
        self.ask::<Joined>(beta, &request).map(drop)
    }

    /// Waits until the recorded generation is on beta, and checks it there.
    fn copy(
        &self,
        step: &'static str,
        [alpha, beta]: [&Member; 2],
        recorded: &PublishReport,
        began: Instant,
    ) -> Result<Step, Failure> {
        let image = format!("{STORE}/{NAME}");
        let request = Request::Push { image: image.clone(), peers: vec![], lane: None, wait: true };
        let done: PushDone = self.ask(alpha, &request)?;
        let copy_seconds = began.elapsed().as_secs_f64();
        if !done.in_sync {
            return Err(
                AdminError::new("NOT_IN_SYNC", format!("{image} did not reach beta")).into()
            );
        }
        let history: HistoryReport = self.ask(beta, &Request::ImageHistory { image })?;
        let received = history.generations.into_iter().next();
        let received =
            received.ok_or_else(|| AdminError::new("IMAGE_UNKNOWN", "beta has no generation"))?;
        self.same(alpha, beta, recorded, &received)?;
        Ok(Step {
            step,
            generation: recorded.generation,
            root: received.root,
            size_bytes: recorded.size_bytes,
            changed_bytes: recorded.dirty_bytes,
            wire_bytes: received.wire_bytes,
            record_seconds: recorded.seconds,
            copy_seconds,
            identical: true,
        })
    }

    /// Both files are hashed from their bytes, whatever the nodes say about them.
    fn same(
        &self,
        alpha: &Member,
        beta: &Member,
        recorded: &PublishReport,
        received: &GenerationRow,
    ) -> Result<(), Failure> {
        let roots = [
            ("alpha recorded", recorded.root.clone()),
            ("beta received", received.root.clone()),
            ("alpha's file is", hash(&alpha.images().join(NAME))?),
            ("beta's file is", hash(&beta.images().join(NAME))?),
        ];
        if roots.iter().all(|(_, root)| *root == recorded.root) {
            return Ok(());
        }
        let said: Vec<String> = roots.iter().map(|(who, root)| format!("{who} {root}")).collect();
        Err(AdminError::new("VERIFY_FAILED", format!("the copies differ: {}", said.join(", ")))
            .into())
    }

    fn ask<T: DeserializeOwned>(&self, member: &Member, request: &Request) -> Result<T, Failure> {
        let mut client = member.client()?;
        client.set_timeout(self.app.timeout);
        let mut bar: Bar = self.app.out.bar();
        for answer in client.call(request)? {
            match answer? {
                Answer::Progress(progress) => bar.show(&progress),
                Answer::Error(error) => return Err(error.into()),
                Answer::Done(object) => return Ok(read(object)?),
                Answer::Event(_) | Answer::Item(_) => {}
            }
        }
        Err(AdminError::new("CONTROL_PROTOCOL", format!("{}: the answer has no end", member.name))
            .into())
    }
}

/// The BLAKE3 of a file, as `b3sum` prints it.
fn hash(path: &Path) -> Result<String, Failure> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
    read.map_err(|error| on_path("read", path, &error))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn text(step: &Step) -> String {
    let share = if step.size_bytes == 0 { 0.0 } else { percent(step.wire_bytes, step.size_bytes) };
    format!(
        "   generation {}: {} of {} changed, {} on the wire ({share:.2} % of the image)\n   \
         recorded in {}, copied in {}; both files are BLAKE3 {}",
        step.generation,
        size(step.changed_bytes),
        size(step.size_bytes),
        size(step.wire_bytes),
        seconds(step.record_seconds),
        seconds(step.copy_seconds),
        step.root,
    )
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
