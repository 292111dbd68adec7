//! Peers: who they are, what holds them back, and what each lacks.

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::StatusCode;

use super::frame::Frame;
use super::matrix::sentence;
use super::overview::rate_plot;
use super::parts::{EventLine, Mark, reach};
use super::plot::Plot;
use super::words::{Clock, When, count, in_path, rate, size};
use super::{Failed, Screen, Viewer, health, html};
use crate::api::{BacklogItem, BacklogReport, Event, PeerRow, PeersReport, Request, TrendsReport};
use crate::budget;
use crate::http::body::{Asked, Named};
use crate::http::problem::Problem;
use crate::http::reads::Nothing;
use crate::http::site::Shared;

#[derive(Template)]
#[template(path = "peers.html")]
struct Peers {
    frame: Frame,
    peers: Vec<Peer>,
}

#[derive(Template)]
#[template(path = "peer.html")]
struct OnePeer {
    frame: Frame,
    peer: Peer,
    id: String,
    addresses: String,
    weight: u32,
    polite: bool,
    limited_by: String,
    items: Vec<Item>,
    more_items: usize,
    trends: Vec<Plot>,
    events: Vec<EventLine>,
}

/// One peer.
struct Peer {
    name: String,
    href: String,
    mark: Mark,
    word: &'static str,
    since: Option<When>,
    rtt: String,
    stores: String,
    schedule: String,
    limit: String,
    limit_until: Option<When>,
    limit_next: String,
    lacks: String,
    finish: Option<When>,
}

/// What it lacks.
struct Item {
    image: String,
    href: String,
    bytes: String,
    reason: &'static str,
    holder: String,
    eta: Option<When>,
}

impl Peer {
    fn new(row: &PeerRow, clock: &Clock) -> Self {
        let (mark, word, since) = reach(row, clock);
        Self {
            name: row.name.clone(),
            href: format!("/peers/{}", in_path(&row.name)),
            mark,
            word,
            since,
            rtt: row.rtt_ms.map_or("\u{2013}".to_owned(), |ms| format!("{ms:.1} ms")),
            stores: row.stores.join(", "),
            schedule: row.schedule.clone().unwrap_or_else(|| "\u{2013}".to_owned()),
            limit: rate(row.rate_limit_bits_per_second),
            // An edge at which nothing changes is none to speak of.
            limit_until: clock.when_some(
                row.limit_until.as_deref().filter(|_| {
                    row.next_rate_limit_bits_per_second != row.rate_limit_bits_per_second
                }),
            ),
            limit_next: rate(row.next_rate_limit_bits_per_second),
            lacks: match usize::try_from(row.backlog_images).unwrap_or(usize::MAX) {
                0 => "nothing".to_owned(),
                images => format!("{} in {}", size(row.backlog_bytes), count(images, "image")),
            },
            finish: clock.when_some(row.finish.as_deref()),
        }
    }
}

/// All of them.
pub(crate) async fn all(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    _: Asked<Nothing>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, "Peers", "/peers");
    let report: PeersReport = site.told(Request::PeerLs {}).await?;
    let mut peers: Vec<Peer> =
        report.peers.iter().map(|row| Peer::new(row, &frame.clock)).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(html(StatusCode::OK, &Peers { frame, peers }))
}

/// One of them.
pub(crate) async fn one(
    State(site): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Named(name): Named<String>,
    _: Asked<Nothing>,
) -> Screen {
    let frame = Frame::new(&site, &viewer, &name, "/peers/");
    let report: PeersReport = site.told(Request::PeerShow { peer: name.clone() }).await?;
    let gone = || Failed::from(Problem::new("PEER_UNKNOWN", format!("no peer {name:?}")));
    let row = report.peers.first().ok_or_else(gone)?;
    let peer = Some(row.id.clone());
    let backlog: BacklogReport = site.told(Request::Backlog { peer: peer.clone() }).await?;
    let trends: TrendsReport = site.told(Request::Trends { peer }).await?;
    let clock = &frame.clock;
    let of_it = |event: &Event| event.peer.as_deref() == Some(&row.name);
    let events = health::events(&site, clock, of_it).await?;
    let screen = OnePeer {
        peer: Peer::new(row, clock),
        id: row.id.clone(),
        addresses: row.addresses.join(", "),
        weight: row.weight,
        polite: row.polite,
        limited_by: row.limited_by.clone(),
        more_items: backlog.items.len().saturating_sub(budget::PAGE_ROWS_MAX),
        items: backlog.items.iter().take(budget::PAGE_ROWS_MAX).map(|i| item(i, clock)).collect(),
        trends: vec![rate_plot("Sent, against the limit", &trends, clock)],
        events,
        frame,
    };
    Ok(html(StatusCode::OK, &screen))
}

fn item(item: &BacklogItem, clock: &Clock) -> Item {
    Item {
        image: format!("{}/{}", item.store, item.image),
        href: format!("/images/{}/{}", in_path(&item.store), in_path(&item.image)),
        bytes: size(item.bytes),
        reason: sentence(item.reason),
        holder: item.holder.clone().unwrap_or_default(),
        eta: clock.when_some(item.eta.as_deref()),
    }
}
