//! Syncthing: two instances that know only each other, told by the REST API when to scan. It is
//! over when the receiver's file has the sender's size and time and the folder lacks nothing: its
//! own completion says 100 % before the receiver knows of the change.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::super::side::{Line, NO_END, Process, Side};
use super::{Job, POLL, Split, Tool, version_of};

const FOLDER: &str = "images";
const API_KEY: &str = "benchmark";

/// The tool.
#[derive(Debug, Default)]
pub(super) struct Syncthing {
    services: Option<[Process; 2]>,
}

/// An instance as the other has to know it.
struct Instance {
    id: String,
    address: SocketAddr,
}

/// Makes keys; where it will listen.
fn generate(side: &mut Side, deadline: Instant) -> anyhow::Result<Instance> {
    let home = side.path("syncthing")?;
    let args = ["generate", "--no-default-folder", "--skip-port-probing", "--home", &home];
    side.run(&Line::new("syncthing").args(args), deadline)?;
    let line = Line::new("syncthing").args(["serve", "--device-id", "--home", &home]);
    let id = side.run(&line, deadline)?.output()?.trim().to_owned();
    let address = side.free_address()?;
    Ok(Instance { id, address })
}

/// Where an instance is asked.
fn socket(side: &Side) -> anyhow::Result<String> {
    side.path("gui.sock")
}

/// Writes the configuration: no discovery, relays, port mapping, reports, upgrades or watching of
/// files, and everything else that only the clock would start.
fn configure(side: &mut Side, instances: &[Instance; 2], own: usize) -> anyhow::Result<()> {
    let mut devices = String::new();
    let mut members = String::new();
    for instance in instances {
        let Instance { id, address } = instance;
        devices.push_str(&format!(
            "<device id=\"{id}\" name=\"{id}\" compression=\"always\">\
             <address>tcp://{address}</address></device>\n"
        ));
        members.push_str(&format!("<device id=\"{id}\"></device>"));
    }
    let kind = ["sendonly", "receiveonly"][own];
    let text = format!(
        "<configuration version=\"36\">\n<folder id=\"{FOLDER}\" label=\"{FOLDER}\" path=\"{}\" \
         type=\"{kind}\" rescanIntervalS=\"0\" fsWatcherEnabled=\"false\">{members}\
         <minDiskFree unit=\"%\">0</minDiskFree></folder>\n{devices}\
         <gui enabled=\"true\" tls=\"false\"><address>{}</address><apikey>{API_KEY}</apikey></gui>\n\
         <options><listenAddress>tcp://{}</listenAddress>\
         <globalAnnounceEnabled>false</globalAnnounceEnabled>\
         <localAnnounceEnabled>false</localAnnounceEnabled>\
         <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>\
         <urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>\
         <autoUpgradeIntervalH>0</autoUpgradeIntervalH><startBrowser>false</startBrowser>\
         <setLowPriority>false</setLowPriority>\
         <reconnectionIntervalS>1</reconnectionIntervalS></options>\n</configuration>\n",
        side.path("images")?,
        socket(side)?,
        instances[own].address,
    );
    fs::write(side.path("syncthing/config.xml")?, &text)?;
    let shown = text.replace('\n', " ").replace(&instances[0].id, "ID-A");
    side.note(&format!("config.xml: {}", shown.replace(&instances[1].id, "ID-B")));
    Ok(())
}

/// One request of the REST API.
fn ask(side: &Side, method: &str, path: &str) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket(side)?)?;
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{method} {path}: {status}: {}", body.trim());
    Ok(if body.trim().is_empty() { Value::Null } else { serde_json::from_str(body)? })
}

/// Asks until the answer is what was waited for.
fn wait_for(
    deadline: Instant,
    what: &str,
    mut good: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    loop {
        let answer = good();
        match answer {
            Ok(true) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: {NO_END}")));
            }
            Ok(false) if Instant::now() >= deadline => {
                bail!("{what}: {NO_END}")
            }
            Ok(false) | Err(_) => thread::sleep(POLL),
        }
    }
}

/// The sender looks for what changed, then the receiver fetches it.
fn carry(job: &mut Job<'_>, name: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    let scan = format!("/rest/db/scan?folder={FOLDER}&sub={name}");
    job.sender.note(&format!("POST {scan}"));
    ask(&job.sender, "POST", &scan)?;
    let scanned = began.elapsed().as_secs_f64();
    let [source, target] = [&job.sender, &job.receiver].map(|side| side.images().join(name));
    let source = fs::metadata(source)?;
    let of = |stat: &fs::Metadata| (stat.len(), stat.mtime(), stat.mtime_nsec());
    wait_for(job.deadline, "transfer", || {
        Ok(fs::metadata(&target).is_ok_and(|stat| of(&stat) == of(&source)))
    })?;
    wait_for(job.deadline, "completion", || {
        let status = ask(&job.receiver, "GET", &format!("/rest/db/status?folder={FOLDER}"))?;
        Ok(status["state"] == "idle" && status["needTotalItems"] == 0)
    })?;
    Ok(scanned)
}

impl Tool for Syncthing {
    fn name(&self) -> &'static str {
        "syncthing"
    }

    fn words(&self) -> &'static str {
        "two instances, send only and receive only, compression always; scan by REST, then until \
         the receiver's folder is complete"
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        let line = version_of("syncthing", "--version")?;
        // What follows is a code name and how it was built.
        Ok(line.split(" \"").next().unwrap_or(&line).to_owned())
    }

    fn is_service(&self) -> bool {
        true
    }

    fn wants_before_at_receiver(&self) -> bool {
        false
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let deadline = job.deadline;
        let instances =
            [generate(&mut job.sender, deadline)?, generate(&mut job.receiver, deadline)?];
        configure(&mut job.sender, &instances, 0)?;
        configure(&mut job.receiver, &instances, 1)?;
        let mut services = Vec::new();
        for (side, instance) in [&mut job.sender, &mut job.receiver].into_iter().zip(&instances) {
            let home = side.path("syncthing")?;
            let args = ["serve", "--no-browser", "--no-restart", "--no-upgrade", "--home", &home];
            let service = side.spawn(&Line::new("syncthing").args(args))?;
            // Who calls before the other listens waits long until the next time.
            side.wait_for_port(("tcp", instance.address.port()), &service, deadline)?;
            services.push(service);
        }
        self.services = services.try_into().ok();
        for (side, other) in [(&job.sender, &instances[1].id), (&job.receiver, &instances[0].id)] {
            wait_for(deadline, "connection", || {
                let connections = ask(side, "GET", "/rest/system/connections")?;
                Ok(connections["connections"][other]["connected"] == true)
            })?;
        }
        for old in &job.workload.before {
            carry(job, &old.name)?;
        }
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let began = Instant::now();
        let name = job.name().to_owned();
        let scanned = carry(job, &name)?;
        let all = began.elapsed().as_secs_f64();
        Ok(vec![("scan".to_owned(), scanned), ("transfer".to_owned(), all - scanned)])
    }

    fn tear_down(&mut self) {
        self.services = None;
    }
}
