//! Health: does the node answer, and is it fit for work?
//!
//! Not ready means that somebody must act: a store that is not in service or degraded, or that has no
//! room left. What mends itself (a peer that is down, a calendar that says wait) is no reason. A
//! stranger learns the codes; names and words are for who may read.

use std::path::Path;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::settings::Scope;
use super::site::{Reply, Shared, json};
use crate::budget;
use crate::config::FreeMin;
use crate::core::{Core, blocking};
use crate::local::absent;

/// Whether the node is fit for work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// There is no reason against it.
    pub(crate) ready: bool,
    /// Why it is not.
    pub(crate) reasons: Vec<Reason>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Reason {
    /// Stable code.
    pub(crate) code: &'static str,
    /// Which store, for who may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// In words, for who may read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// What a store's file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// The service answers
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = String)))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// The service is fit for work, or why it is not
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, body = Ready), (status = 503, body = Ready)),
)]
pub(crate) async fn readyz(State(site): State<Shared>, headers: HeaderMap) -> Reply {
    let core = site.core.clone();
    let looks = site.looks.clone();
    let looked = async move {
        let place = looks.acquire_owned().await;
        // The place is given back when the look ends, not when nobody waits for it any more.
        let look = move || (reasons(&core), place).0;
        blocking("a look at the stores", move || Ok(look())).await
    };
    let mut reasons = match tokio::time::timeout(budget::HTTP_READY_DEADLINE, looked).await {
        Ok(reasons) => reasons.map_err(|error| Problem::from(&error))?,
        Err(_) => vec![reason("DEADLINE", None, "a file system doesn't answer".to_owned())],
    };
    if site.check_who(&headers, Scope::Read).is_err() {
        for reason in &mut reasons {
            (reason.store, reason.message) = (None, None);
        }
        reasons.dedup();
    }
    Ok(answer(&Ready { ready: reasons.is_empty(), reasons }))
}

fn answer(ready: &Ready) -> Response {
    let mut response = json(ready);
    if !ready.ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn reason(code: &'static str, store: Option<String>, message: String) -> Reason {
    Reason { code, store, message: Some(message) }
}

/// Why the node is not fit for work, in the order of the codes. Blocking.
pub(crate) fn reasons(core: &Core) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if core.is_stopping() {
        reasons.push(reason("STOPPING", None, "the service is stopping".to_owned()));
    }
    for name in out_of_service(core) {
        let text = format!("store {name} is not in service: blockferry events says why");
        reasons.push(reason("STORE_MISSING", Some(name), text));
    }
    for store in core.all_stores() {
        let name = store.config.name.to_string();
        if store.store.is_degraded() {
            let text = format!("store {name} failed a write and takes nothing more");
            reasons.push(reason("DEGRADED", Some(name.clone()), text));
        }
        match room(&store.config.path) {
            None => {
                let text = format!("{} can't be looked at", store.config.path.display());
                reasons.push(reason("STORE_MISSING", Some(name), text));
            }
            Some(room) => {
                let least = least_bytes(core.config.store_free_min, room);
                if room.free_bytes <= least {
                    let free = room.free_bytes;
                    let text = format!("{free} bytes are free for store {name}, {least} stay so");
                    reasons.push(reason("DISK_FULL", Some(name), text));
                }
            }
        }
    }
    reasons.sort_by(|a, b| (a.code, &a.store).cmp(&(b.code, &b.store)));
    reasons
}

/// Stores that should be in service and are not.
pub(crate) fn out_of_service(core: &Core) -> Vec<String> {
    absent::all(core).iter().map(|(store, _)| store.name.to_string()).collect()
}

/// What a file system has; `None`: it can't be asked. Blocking.
pub(crate) fn room(path: &Path) -> Option<Room> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Bytes that stay free whatever comes.
fn least_bytes(least: FreeMin, room: Room) -> u64 {
    match least {
        FreeMin::Bytes(bytes) => bytes,
        FreeMin::Percent(percent) => room.total_bytes / 100 * u64::from(percent.min(100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_free() {
        let room = Room { free_bytes: 5, total_bytes: 1000 };
        assert_eq!(least_bytes(FreeMin::Bytes(7), room), 7);
        assert_eq!(least_bytes(FreeMin::Percent(10), room), 100);
        assert_eq!(least_bytes(FreeMin::Percent(200), room), 1000);
        assert!(super::room(Path::new("/")).is_some_and(|room| room.total_bytes > 0));
        assert_eq!(super::room(Path::new("/nonexistent/x")), None);
    }
}
