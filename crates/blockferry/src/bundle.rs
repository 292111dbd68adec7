//! The support archive: what is gathered for it, taken apart by [`redact`] and packed by [`archive`].
//!
//! Nothing gets in unread: objects pass field by field against a list of what may be seen, texts are
//! searched for what looks like a secret. No file of the node is copied, no image is opened.

pub(crate) mod archive;
pub(crate) mod redact;

use crate::commands::App;
use crate::commands::doctor;
use crate::failure::Failure;
use archive::Entry;
use blockferry_node::api::{
    Answer, BacklogReport, ConflictsReport, Event, ImagesReport, OrdersReport, Request,
    StatusReport, StoreRow,
};
use redact::Redactor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Events that are taken, the newest.
const EVENTS_MAX: usize = 5000;
/// Lines of the log that are taken, the last.
const LOG_LINES: &str = "5000";
/// Bytes of one text that are taken.
const TEXT_BYTES_MAX: usize = 8 << 20;
/// Images of the backlog whose plan is asked for.
const PLANS_MAX: usize = 3;
/// One question may take this long.
const PATIENCE: Duration = Duration::from_secs(20);

const README: &str = "\
Blockferry support archive. Secrets are left out: keys, tokens and their hashes, tickets, and
whatever looks like one; what the program doesn't know to be harmless is left out, too. Ids are cut to
8 characters, roots to 12. Names of nodes, stores and images, paths and addresses are in it: they are
what the question is about. Read it before you send it on: tar --zstd -xf FILE
";

/// Gathers and redacts everything; what can't be had says why in its place.
pub(crate) fn gather(app: &App) -> Result<(Vec<Entry>, u64), Failure> {
    let mut redactor = Redactor::default();
    let status = ask::<StatusReport>(app, &Request::Status {});
    if let Ok(status) = &status {
        learn(&mut redactor, status);
    }
    let images = ask::<ImagesReport>(app, &Request::ImageLs { store: None });
    if let Ok(images) = &images {
        images.images.iter().for_each(|image| redactor.know_name(&image.name));
    }
    let backlog = ask::<BacklogReport>(app, &Request::Backlog { peer: None });
    let mut entries = vec![Entry::text("README.txt", README)];
    let mut add = |name: &str, value: Value| {
        entries.push(Entry::json(name, &redactor.object(&value)));
    };
    add("version.json", version());
    add("machine.json", machine(&places(app, &status)));
    add("doctor.json", examined(app)?);
    add("status.json", said(&status));
    add("images.json", said(&images));
    add("plans.json", plans(app, &backlog));
    add("backlog.json", said(&backlog));
    add("orders.json", said(&ask::<OrdersReport>(app, &Request::Orders {})));
    let conflicts = Request::Conflicts { image: None };
    add("conflicts.json", said(&ask::<ConflictsReport>(app, &conflicts)));
    entries.push(Entry::json("config.json", &configuration(app, &redactor)));
    entries.push(Entry::text("events.jsonl", &events(app, &redactor)));
    entries.push(Entry::text("metrics.txt", &redactor.text(&or_why(metrics(app)))));
    entries.push(Entry::text("log.txt", &redactor.text(&or_why(log(app)))));
    Ok((entries, redactor.count()))
}

/// Names and ids that are no secrets, however they look.
fn learn(redactor: &mut Redactor, status: &StatusReport) {
    redactor.know_id(&status.node.id);
    redactor.know_name(&status.node.name);
    for peer in &status.peers {
        redactor.know_id(&peer.id);
        redactor.know_name(&peer.name);
    }
    for store in &status.stores {
        redactor.know_id(&store.id);
        redactor.know_name(&store.name);
    }
}

fn ask<T: DeserializeOwned>(app: &App, request: &Request) -> Result<T, String> {
    app.with_timeout(Some(PATIENCE)).ask(request).map_err(why)
}

fn why(failure: Failure) -> String {
    match failure {
        Failure::Error(error) => error.to_string(),
        Failure::NobodyReads => "nobody reads".to_owned(),
    }
}

/// The object, or why there is none.
fn said<T: Serialize>(answer: &Result<T, String>) -> Value {
    match answer {
        Ok(object) => serde_json::to_value(object).unwrap_or_default(),
        Err(why) => json!({ "message": why }),
    }
}

fn or_why(text: Result<String, String>) -> String {
    text.unwrap_or_else(|why| format!("not there: {why}\n"))
}

fn version() -> Value {
    let system = rustix::system::uname();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": system.release().to_string_lossy(),
        "machine": system.machine().to_string_lossy(),
        "system": name.unwrap_or("unknown").trim_matches('"'),
        "time": jiff::Timestamp::now().to_string(),
    })
}

/// The stores with their directories: as the service has them, else as they are configured.
fn places(app: &App, status: &Result<StatusReport, String>) -> Vec<(String, PathBuf)> {
    if let Ok(status) = status {
        let place = |store: &StoreRow| (store.name.clone(), PathBuf::from(&store.path));
        return status.stores.iter().map(place).collect();
    }
    let stores = app.location.check().0.map(|settings| settings.stores).unwrap_or_default();
    stores.into_iter().map(|store| (store.name.to_string(), store.path)).collect()
}

/// Processors, memory, limits of the kernel, and what each store's file system is.
fn machine(places: &[(String, PathBuf)]) -> Value {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory: Vec<&str> = memory.lines().take(3).collect();
    let key = |key: &str| {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        json!({ "key": key, "value": text.trim() })
    };
    let kernel: Vec<Value> = [
        "net.core.rmem_max",
        "net.core.wmem_max",
        "fs.inotify.max_user_instances",
        "fs.inotify.max_user_watches",
        "fs.file-max",
    ]
    .into_iter()
    .map(key)
    .collect();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let place = |(store, path): &(String, PathBuf)| json!({ "store": store, "path": path, "file_system": file_system(&mounts, path) });
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory,
        "kernel_limits": kernel,
        "places": places.iter().map(place).collect::<Vec<Value>>(),
    })
}

/// The kind of the file system that a path is on; options are left out, for some hold names and keys.
fn file_system(mounts: &str, path: &Path) -> String {
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let holding = lines.filter(|(at, _)| path.starts_with(at));
    holding.max_by_key(|(at, _)| at.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

fn examined(app: &App) -> Result<Value, Failure> {
    match doctor::examine(&app.with_timeout(Some(PATIENCE)), false) {
        Ok(examined) => Ok(serde_json::to_value(&examined.report).unwrap_or_default()),
        Err(Failure::Error(error)) => Ok(json!({ "message": error.to_string() })),
        Err(gone @ Failure::NobodyReads) => Err(gone),
    }
}

/// What would travel of the first images that wait.
fn plans(app: &App, backlog: &Result<BacklogReport, String>) -> Value {
    let items = backlog.as_ref().map_or(&[][..], |backlog| &backlog.items);
    let plan = |item: &blockferry_node::api::BacklogItem| {
        let image = format!("{}/{}", item.store, item.image);
        let request = Request::Plan { image, peer: Some(item.peer.clone()), at: None, by: None };
        said(&ask::<Value>(app, &request))
    };
    json!({ "plans": items.iter().take(PLANS_MAX).map(plan).collect::<Vec<Value>>() })
}

/// Effective values key by key; of a bad configuration what is wrong with it.
fn configuration(app: &App, redactor: &Redactor) -> Value {
    let (settings, findings) = app.location.check();
    let values = settings.iter().flat_map(|settings| &settings.shown).map(|shown| {
        let value = redactor.setting(&shown.key, &shown.value);
        json!({ "key": shown.key, "value": value, "origin": shown.place.to_string() })
    });
    let wrong = findings.iter().map(|finding| redactor.text(&finding.to_string()));
    json!({ "values": values.collect::<Vec<Value>>(), "findings": wrong.collect::<Vec<String>>() })
}

fn events(app: &App, redactor: &Redactor) -> String {
    let mut kept = VecDeque::new();
    let request = Request::Events { follow: false, since_seconds: None };
    let read = app.with_timeout(Some(PATIENCE)).job::<Value>(&request, |_, answer| {
        if let Answer::Event(event) = answer {
            kept.push_back(event);
            if kept.len() > EVENTS_MAX {
                kept.pop_front();
            }
        }
        Ok(())
    });
    let line = |event: &Event| {
        let value = serde_json::to_value(event).unwrap_or_default();
        format!("{}\n", redactor.object(&value))
    };
    match read {
        Ok(_) => kept.iter().map(line).collect(),
        Err(failure) => format!("{}\n", redactor.object(&json!({ "message": why(failure) }))),
    }
}

/// Metrics over the admin socket: who may open it may read them.
fn metrics(app: &App) -> Result<String, String> {
    let socket = app.location.socket().map_err(|error| error.to_string())?;
    let mut stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.take(TEXT_BYTES_MAX as u64).read_to_end(&mut answer))
        .map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    Ok(body.to_owned())
}

/// The end of the unit's log. A node of one's own has none in the journal.
fn log(app: &App) -> Result<String, String> {
    if app.location.required {
        return Err("the log of a node with its own --config is where it was started".to_owned());
    }
    let mut child = Command::new("journalctl")
        .args(["-u", "blockferry", "-n", LOG_LINES, "-o", "short-iso", "--no-pager", "-q"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("journalctl: {error}"))?;
    let output = child.stdout.take().ok_or("journalctl says nothing")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output.take(TEXT_BYTES_MAX as u64).read_to_end(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if Instant::now() >= deadline {
            // It may have ended by itself just now.
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = reader.join().map_err(|_| "journalctl was not read")?;
    let text = text.map_err(|error| error.to_string())?;
    if text.is_empty() {
        return Err("the journal has nothing of the unit blockferry, or we may not read it".into());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /srv xfs rw,password=x 0 0\nbad\n";
        assert_eq!(file_system(mounts, Path::new("/srv/vdisks")), "xfs");
        assert_eq!(file_system(mounts, Path::new("/srvother")), "ext4");
        assert_eq!(file_system("", Path::new("/srv")), "unknown");
    }
}
