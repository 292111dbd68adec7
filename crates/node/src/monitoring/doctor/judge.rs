//! Judge: which facts about a running node are findings. Pure: facts in, findings out.
//!
//! One function for each thing that may be wrong. A finding says what it concerns and what to do; what
//! mends itself soon (a peer that is being dialled) is none.

use std::net::SocketAddr;
use std::time::Duration;

use super::place::{self, Place};
use crate::api::{Finding, PeerState, Severity};
use crate::budget;

/// A clock that is off by less is nobody's trouble.
pub const CLOCK_OFF_MAX: Duration = Duration::from_secs(30);
/// A peer that hasn't been connected for so long is a finding.
pub const DOWN_MAX: Duration = Duration::from_secs(60);
/// A changed image that isn't a generation after this time is a finding.
pub const UNSETTLED_MAX: Duration = Duration::from_secs(3600);
/// A token that nobody has shown for so long, as far as the service knows, is a finding.
pub const TOKEN_IDLE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// A service needs this many open files at least, whatever it has to do.
pub const FILES_MIN: u64 = 4096;
/// Findings of one kind about one store; the rest is counted.
const SHOWN_MAX: usize = 5;

/// What is known of a running node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version of the service.
    pub version: String,
    /// Since the start of the service.
    pub uptime: Duration,
    /// Its process.
    pub process: Process,
    /// What each UDP socket was granted to receive and to send, in bytes, as the kernel counts.
    pub sockets: Vec<[usize; 2]>,
    /// HTTP over TCP; `None`: there is none.
    pub http: Option<Http>,
    /// Peers.
    pub peers: Vec<Far>,
    /// Stores in service.
    pub stores: Vec<Held>,
    /// Stores that should be in service and are not.
    pub missing: Vec<Place>,
}

/// The service's process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// systemd has started it.
    pub under_systemd: bool,
    /// It can't gain privileges.
    pub no_new_privileges: bool,
    /// Its system calls are filtered.
    pub filtered: bool,
    /// Files it has open.
    pub open_files: u64,
    /// Files it may have open.
    pub open_files_max: u64,
}

/// HTTP over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// It has a certificate.
    pub tls: bool,
    /// Each token, and how long ago it was shown last; `None`: never since the start.
    pub tokens: Vec<(String, Option<Duration>)>,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Far {
    /// Its name here.
    pub name: String,
    /// How it is reached.
    pub state: PeerState,
    /// It is dialled; else it must dial us.
    pub dialled: bool,
    /// How long it hasn't been connected; `None`: it is, or never was since the start.
    pub down: Option<Duration>,
    /// Why the last try failed, by code and in words.
    pub trouble: Option<(String, String)>,
    /// Its program and version, `blockferry/0.1.0`, as it said last.
    pub agent: Option<String>,
    /// How far its clock was ahead of ours when it connected, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
}

/// A store in service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its directory.
    pub place: Place,
    /// A write failed: it takes nothing more.
    pub degraded: bool,
    /// Its file system shares storage.
    pub reflinks: bool,
    /// Changes are noticed at once.
    pub watched: bool,
    /// Extents missed a change once and are not used since.
    pub extents_off: bool,
    /// A map missed a change once, and none is used since.
    pub maps_off: bool,
    /// Storage of contents that are kept, in bytes.
    pub kept_bytes: u64,
    /// Images with edits that were undone and wait to be acknowledged, by name.
    pub edits: Vec<String>,
    /// Images of which two contents diverged, and wait for a decision, by name.
    pub diverged: Vec<String>,
    /// Images that changed and are no generation yet.
    pub unsettled: Vec<Unsettled>,
}

/// An image that changed and is no generation yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Its name.
    pub image: String,
    /// Since when.
    pub waits: Duration,
    /// Why it could not be recorded the last time.
    pub code: Option<String>,
    /// Who has it open for writing, if it can be told.
    pub holder: Option<String>,
}

/// All that is a finding.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(files(&facts.process));
    found.extend(sandbox(&facts.process));
    found.extend(sockets(&facts.sockets));
    if let Some(http) = &facts.http {
        found.extend(open_http(http));
        found.extend(tokens(http, facts.uptime));
    }
    found.extend(clocks(&facts.peers));
    for peer in &facts.peers {
        found.extend(reach(peer));
        found.extend(version(peer, &facts.version));
    }
    for store in &facts.stores {
        found.extend(of_store(store));
    }
    found.extend(facts.missing.iter().flat_map(out_of_service));
    found
}

fn files(process: &Process) -> Option<Finding> {
    let (open, most) = (process.open_files, process.open_files_max);
    let text = format!("{open} files are open, {most} may be");
    if most == 0 {
        return None;
    }
    if open.saturating_mul(10) >= most.saturating_mul(9) {
        return Some(Finding::error("FILE_LIMIT", "node", text));
    }
    (open.saturating_mul(2) >= most || most < FILES_MIN)
        .then(|| Finding::warning("FILE_LIMIT", "node", text))
}

fn sandbox(process: &Process) -> Option<Finding> {
    if !process.under_systemd || (process.no_new_privileges && process.filtered) {
        return None;
    }
    let mut lacks = Vec::new();
    if !process.no_new_privileges {
        lacks.push("NoNewPrivileges");
    }
    if !process.filtered {
        lacks.push("SystemCallFilter");
    }
    let text = format!("the service runs without the unit's hardening: no {}", lacks.join(", no "));
    Some(Finding::warning("UNIT_OPEN", "node", text))
}

fn sockets(granted: &[[usize; 2]]) -> Option<Finding> {
    let least = granted.iter().flatten().min()? / 2;
    (least < budget::SOCKET_BUFFER_BYTES).then(|| {
        let asked = budget::SOCKET_BUFFER_BYTES;
        let text = format!(
            "a UDP socket was granted a buffer of {least} bytes, {asked} were asked: packets are \
             dropped under load"
        );
        let fix = format!(
            "sysctl -w net.core.rmem_max={asked} net.core.wmem_max={asked}, into /etc/sysctl.d to \
             stay; then restart the service"
        );
        Finding::warning("SMALL_BUFFERS", "node", text).fix(fix)
    })
}

fn open_http(http: &Http) -> Option<Finding> {
    let listen = http.listen;
    if !listen.ip().is_loopback() && !http.tls {
        let text =
            format!("HTTP at {listen} is beyond loopback without TLS: tokens can be overheard");
        let fix = "set [admin.tls] cert and key, or admin.http = \"127.0.0.1:7780\"";
        return Some(Finding::error("HTTP_OPEN", "node", text).fix(fix));
    }
    http.tokens.is_empty().then(|| {
        let text = format!("HTTP at {listen} has no token: every user of this machine may read");
        Finding::info("HTTP_OPEN", "node", text)
    })
}

fn tokens(http: &Http, uptime: Duration) -> Vec<Finding> {
    let idle = |used: &Option<Duration>| used.unwrap_or(uptime) >= TOKEN_IDLE_MAX;
    let of = |(name, used): &(String, Option<Duration>)| {
        let days = used.unwrap_or(uptime).as_secs() / 86_400;
        let text = format!("nobody has used it for {days} days");
        let fix = format!("if nobody needs it, remove [admin.tokens.{name}]");
        Finding::info("TOKEN_UNUSED", format!("token {name}"), text).fix(fix)
    };
    http.tokens.iter().filter(|(_, used)| idle(used)).map(of).collect()
}

/// Whose clock is off: ours, if most peers agree about that; else theirs.
fn clocks(peers: &[Far]) -> Vec<Finding> {
    let limit = i64::try_from(CLOCK_OFF_MAX.as_millis()).unwrap_or(i64::MAX);
    let mut ahead: Vec<i64> = peers.iter().filter_map(|p| p.clock_ahead_ms).collect();
    ahead.sort_unstable();
    let middle = ahead.get(ahead.len() / 2).copied().unwrap_or_default();
    let ours = ahead.len() >= 3 && middle.saturating_abs() > limit;
    let by = |ms: i64| format!("{} s {}", ms.saturating_abs() / 1000, way(ms));
    if ours {
        let text =
            format!("this node's clock is {} those of most peers", by(middle.saturating_neg()));
        return vec![Finding::warning("CLOCK_ADRIFT", "node", text)];
    }
    let off = |peer: &Far| {
        let ms = peer.clock_ahead_ms.filter(|ms| ms.saturating_abs() > limit)?;
        let text = format!("its clock was {} ours when it connected", by(ms));
        Some(Finding::warning("CLOCK_ADRIFT", format!("peer {}", peer.name), text))
    };
    peers.iter().filter_map(off).collect()
}

fn way(ms: i64) -> &'static str {
    if ms > 0 { "ahead of" } else { "behind" }
}

fn reach(peer: &Far) -> Option<Finding> {
    let about = format!("peer {}", peer.name);
    let trouble = peer.trouble.as_ref();
    if peer.state == PeerState::Refused {
        let (code, text) = trouble.cloned().unwrap_or_else(|| {
            ("IDENTITY_REFUSED".to_owned(), "one side refuses the other".to_owned())
        });
        return Some(Finding::error(&code, about, text));
    }
    if peer.state == PeerState::Up || peer.down.is_none_or(|down| down < DOWN_MAX) {
        return None;
    }
    let minutes = peer.down.unwrap_or_default().as_secs() / 60;
    let (code, why) = match trouble {
        Some((code, text)) => (code.as_str(), text.as_str()),
        None if peer.dialled => ("PEER_DOWN", "no reason is known"),
        None => ("PEER_DOWN", "it has no address here: it must dial this node"),
    };
    let text = format!("not connected for {minutes} minutes: {why}");
    Some(Finding::warning(code, about, text))
}

fn version(peer: &Far, ours: &str) -> Option<Finding> {
    let theirs = peer.agent.as_deref()?.strip_prefix("blockferry/")?;
    (theirs != ours).then(|| {
        let text = format!("it runs version {theirs}, this node {ours}");
        Finding::info("PEER_VERSION", format!("peer {}", peer.name), text)
    })
}

fn of_store(store: &Held) -> Vec<Finding> {
    let name = &store.place.store;
    let about = || format!("store {name}");
    let mut found = place::judge(&store.place);
    for finding in found.iter_mut().filter(|f| store.kept_bytes > 0 && is_about_room(f)) {
        let kept = store.kept_bytes;
        finding.message.push_str(&format!("; what is kept takes up to {kept} bytes"));
        finding.fix.push_str(&format!("; or lower stores.{name}.keep_days, keep_generations"));
    }
    if store.degraded {
        let text = "a write failed: it takes nothing more until the service is restarted";
        found.push(Finding::error("DEGRADED", about(), text));
    }
    if !store.reflinks {
        let text = "its file system can't share storage: an update costs up to a whole image of \
                    room and writing, and keeping earlier contents costs whole files";
        found.push(Finding::info("NO_REFLINK", about(), text));
    }
    if !store.watched {
        let text = "the kernel grants no watch: changes are found by the next rescan only";
        let fix = "sysctl -w fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=512, \
                   then restart the service";
        found.push(Finding::warning("NO_WATCH", about(), text).fix(fix));
    }
    if store.extents_off {
        let text = "extents missed a change once: images are read as a whole since";
        found.push(Finding::warning("EXTENTS_OFF", about(), text));
    }
    if store.maps_off {
        let text = "a map of changes missed one once: none is used since";
        found.push(Finding::warning("MAPS_OFF", about(), text));
    }
    found.extend(named(name, &store.diverged, |image| {
        let text = "two contents of it diverged and wait for a decision; nothing was overwritten";
        let fix =
            format!("blockferry conflicts {image}, then: resolve {image} --keep local|PEER|both");
        Finding::warning("DIVERGED", format!("image {image}"), text).fix(fix)
    }));
    found.extend(named(name, &store.edits, |image| {
        let text = "an edit that was undone here, in a mirror, is kept and waits";
        let fix =
            format!("take what you need of it, then: blockferry resolve {image} --acknowledge");
        Finding::info("EDIT_WAITS", format!("image {image}"), text).fix(fix)
    }));
    found.extend(unsettled(name, &store.unsettled));
    found
}

fn is_about_room(finding: &Finding) -> bool {
    matches!(finding.code.as_str(), "DISK_FULL" | "SPACE_LOW")
}

/// One finding each for the first images, and how many more there are with the last.
fn named(store: &str, images: &[String], of: impl Fn(&str) -> Finding) -> Vec<Finding> {
    let shown = images.iter().take(SHOWN_MAX).map(|image| of(&format!("{store}/{image}")));
    let mut found: Vec<Finding> = shown.collect();
    if let (Some(last), Some(more @ 1..)) = (found.last_mut(), images.len().checked_sub(SHOWN_MAX))
    {
        last.message.push_str(&format!(" (and {more} more images of the store)"));
    }
    found
}

fn unsettled(store: &str, images: &[Unsettled]) -> Vec<Finding> {
    let mut long: Vec<&Unsettled> = images.iter().filter(|i| i.waits >= UNSETTLED_MAX).collect();
    long.sort_by_key(|image| std::cmp::Reverse(image.waits));
    let of = |image: &&Unsettled| {
        let hours = image.waits.as_secs() / 3600;
        let why = match (&image.holder, &image.code) {
            (Some(holder), _) => format!("{holder} has it open"),
            (None, Some(code)) => code.clone(),
            (None, None) => "it is written again and again".to_owned(),
        };
        let text = format!("changed, and no generation of it for {hours} h: {why}");
        let about = format!("image {store}/{}", image.image);
        let found = Finding::warning("NOT_SETTLED", about, text);
        match (&image.holder, &image.code) {
            (None, Some(code)) => found.fix(crate::api::remedy_for(code)),
            _ => found,
        }
    };
    long.iter().take(SHOWN_MAX).map(of).collect()
}

/// A store that should be in service: the directory says why it isn't, or the events do.
fn out_of_service(place: &Place) -> Vec<Finding> {
    let found = place::judge(place);
    if found.iter().any(|f| f.severity == Severity::Error) {
        return found;
    }
    let text = format!("not in service, though {} is there", place.path.display());
    let fix = "blockferry events --since 1h says why";
    vec![Finding::error("STORE_MISSING", format!("store {}", place.store), text).fix(fix)]
}

#[cfg(test)]
mod tests;
