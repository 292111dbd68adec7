//! Plans: what would travel to a peer, by the catalog alone. Nothing is sent and nobody is asked,
//! so what the peer would find elsewhere is not known: the bytes to send are those at most.

use std::collections::BTreeSet;
use std::sync::Arc;

use blockferry_delta::{ImageName, PAGE_BYTES, Root};
use blockferry_wire::{Compression, Packer};

use crate::admin::requests::{Spec, done};
use crate::api::{Answer, PlanReport, Schema};
use crate::config::Setting;
use crate::core::{Core, blocking, key, lock};
use crate::error::{Error, Result};
use crate::events::now_unix_ms;
use crate::ledger::rfc3339;
use crate::link::peer::Peer;
use crate::planner::forecast::{Finish, rate_needed};
use crate::planner::foresight::{self, Wish};
use crate::rate::calendar::{Zone, parse_at};
use crate::rate::overrides::Scope;

/// Bytes that a plan reads and compresses to guess how well the rest will.
const SAMPLE_BYTES_MAX: u64 = 8 << 20;

/// What would travel to a peer; `when` is as if it began when, and by when it should be there.
pub(crate) async fn plan(
    core: &Arc<Core>,
    what: Spec,
    peer: Option<&str>,
    when: (Option<String>, Option<String>),
) -> Result<Answer> {
    let name = what.store.config.name.clone();
    let peer = match peer {
        Some(text) => Some(core.find_peer(text)?),
        // The one that lacks most, by what the backlog knows.
        None => core.sharers(&name).into_iter().max_by_key(|p| {
            let items = lock(&core.backlog).items();
            let key = key(p.id, &name, &what.image);
            items.iter().find(|item| item.key == key).map_or(0, |item| item.bytes)
        }),
    };
    let span = span(core, &what, peer.as_deref(), when)?;
    let at = core.clone();
    let report = blocking("a plan", move || {
        let mut report = make_plan(&at, &what, peer.as_deref())?;
        if let Some(peer) = &peer {
            look_ahead(&at, &what, peer, span, &mut report);
        }
        Ok(report)
    });
    done(&report.await?)
}

/// The base a peer would choose, by what we know of it: what it holds of this image, else another
/// image it holds that is much the same.
fn base_at(core: &Core, what: &Spec, peer: &Peer) -> Result<Option<Root>> {
    let (store, name) = (&what.store.store, &what.store.config.name);
    let held = |image: &ImageName| {
        let key = key(peer.id, name, image);
        let backlog = lock(&core.backlog);
        backlog.peer_head(&key).map(|v| v.root).or_else(|| backlog.receipt(&key).map(|r| r.1))
    };
    let bases = store.bases(&what.image)?;
    if let Some(own) = held(&what.image).filter(|root| bases.contains(root)) {
        return Ok(Some(own));
    }
    let there: BTreeSet<Root> = store.images()?.iter().filter_map(|g| held(&g.image)).collect();
    Ok(bases.into_iter().find(|root| there.contains(root)))
}

fn make_plan(core: &Core, what: &Spec, peer: Option<&Peer>) -> Result<PlanReport> {
    let (store, image) = (&what.store.store, &what.image);
    let full_name = what.store.full_name(image);
    let generation = store.current(image)?.filter(|current| !current.is_deleted());
    let generation = generation.ok_or(Error::ImageUnknown { image: full_name.clone() })?;
    let base = peer.map_or(Ok(None), |peer| base_at(core, what, peer))?;
    let history = store.history(image)?;
    let base_number = history.iter().find(|g| Some(g.root) == base).map(|g| g.number);
    let mut cursor = store.recipe(image, generation.root, base)?;
    let source = store.source(image, generation.root)?;
    let dictionaries = base.map_or(Ok(None), |base| store.dictionaries(image, base))?;
    let mut packer = Packer::new()?;
    let compression = peer.map_or(core.live().compression, |p| core.compression_for(p));
    let compression = match compression {
        Setting::Fixed(compression) => compression,
        // The link may change it.
        Setting::Auto => peer.map_or(Compression::zstd(3), |p| lock(&p.chooser).compression()),
    };
    let (mut send, mut zero, mut sampled, mut packed) = (0_u64, 0_u64, 0_u64, 0_u64);
    while let Some(part) = cursor.next_part()? {
        let mut extents = Vec::new();
        for block in &part.blocks {
            send += pages_of(block.dirty & !block.zero);
            zero += pages_of(block.zero);
            if sampled < SAMPLE_BYTES_MAX {
                extents.extend(crate::transfer::exchange::dirty_extents(block));
            }
        }
        zero += part.zero_segments.len() as u64 * blockferry_delta::SEGMENT_BYTES;
        for pack in blockferry_wire::split_packs(&extents) {
            if sampled >= SAMPLE_BYTES_MAX {
                break;
            }
            let pages = source.read(&pack)?;
            let (held, what) = (dictionaries.as_ref(), (pack, pages));
            let pack = crate::transfer::exchange::pressed(
                &mut packer,
                held,
                part.number,
                what,
                compression,
            )?;
            sampled += u64::from(pack.raw_bytes);
            packed += pack.bytes.len() as u64;
        }
    }
    let estimate = if sampled > 0 { scale(send, packed, sampled) } else { 0 };
    let keep = generation.size_bytes.saturating_sub(send).saturating_sub(zero);
    Ok(PlanReport {
        schema: Schema,
        image: full_name,
        peer: peer.map(Peer::name),
        base: base_number,
        generation: generation.number,
        keep_bytes: keep,
        zero_bytes: zero.min(generation.size_bytes),
        found_bytes: None,
        send_bytes: send,
        wire_bytes_estimate: estimate,
        finish: None,
        start: None,
        by: None,
        fits: None,
        rate_needed_bits_per_second: None,
    })
}

fn pages_of(mask: u16) -> u64 {
    u64::from(mask.count_ones()) * PAGE_BYTES as u64
}

fn scale(total: u64, part: u64, of: u64) -> u64 {
    let scaled = u128::from(total) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// When it begins and by when it should be there, in milliseconds since 1970, as far as was asked.
type Span = (Option<i64>, Option<i64>);

/// Moments are by the clock of the calendar that the peer is sent to by, else the store's, else the
/// node's, else UTC.
fn span(
    core: &Core,
    what: &Spec,
    peer: Option<&Peer>,
    (at, by): (Option<String>, Option<String>),
) -> Result<Span> {
    let in_force = core.limit.in_force();
    let rates = in_force.rates();
    let of_peer = peer.and_then(|peer| rates.peers.get(&peer.id));
    let of_store = rates.stores.get(&what.store.config.name);
    let allowances = [of_peer, of_store, Some(&rates.node)].into_iter().flatten();
    let mut names = allowances.filter_map(|allowance| allowance.schedule.as_ref());
    let calendar = names.find_map(|name| rates.calendars.get(name));
    let zone = calendar.map_or_else(Zone::utc, |calendar| calendar.zone.clone());
    let now = now_unix_ms();
    let moment =
        |text: &str, from: i64| parse_at(text, from, &zone).map_err(|what| Error::Control { what });
    let at = at.map(|text| moment(&text, now)).transpose()?.map(|at| at.max(now));
    let from = at.unwrap_or(now);
    let by = by.map(|text| moment(&text, from)).transpose()?;
    if by.is_some_and(|by| by <= from) {
        let what = "it would have to be there before it begins".to_owned();
        return Err(Error::Control { what });
    }
    Ok((at, by))
}

/// When it would be there, whether that is in time, and what it would take. What a plan found out is
/// kept for forecasts.
fn look_ahead(core: &Core, what: &Spec, peer: &Peer, (at, by): Span, report: &mut PlanReport) {
    let key = key(peer.id, &what.store.config.name, &what.image);
    if let Some(delta) = foresight::delta(core, &key) {
        lock(&core.measured).handle_plan(delta, report.wire_bytes_estimate);
    }
    let wire_bytes = foresight::wire_bytes(report.wire_bytes_estimate);
    let scope = Scope::from(&key);
    let (finish, ahead) = foresight::with(core, Wish { key, wire_bytes, at_unix_ms: at });
    report.finish = finish.unix_ms().map(rfc3339);
    report.start = at.map(rfc3339);
    let Some(by) = by else { return };
    report.by = Some(rfc3339(by));
    report.fits = match finish {
        Finish::At(at) => Some(at <= by),
        Finish::Never => Some(false),
        Finish::Unknown => None,
    };
    let in_force = core.limit.in_force();
    let needed = |bytes: u64, from: i64| rate_needed(in_force.rates(), &scope, bytes, from, by);
    // What goes before it begins now, whenever this one does.
    let now = now_unix_ms();
    let with_ahead = needed(wire_bytes.saturating_add(ahead), now);
    let alone = needed(wire_bytes, at.unwrap_or(now));
    report.rate_needed_bits_per_second = alone.and_then(|bits| Some(bits.max(with_ahead?)));
}
