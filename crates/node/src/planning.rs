//! Plans: what would travel to a peer, by the catalog alone. Nothing is sent and nobody is asked,
//! so what the peer would find elsewhere is not known: the bytes to send are those at most.

use std::collections::BTreeSet;
use std::sync::Arc;

use blockferry_delta::{ImageName, PAGE_BYTES, Root};
use blockferry_wire::{Compression, Packer};

use crate::api::{Answer, PlanReport, Schema};
use crate::config::Setting;
use crate::core::{Core, blocking, key, lock};
use crate::error::{Error, Result};
use crate::ledger::rfc3339;
use crate::overrides::Scope;
use crate::peer::Peer;
use crate::requests::{Spec, done};

/// Bytes that a plan reads and compresses to guess how well the rest will.
const SAMPLE_BYTES_MAX: u64 = 8 << 20;

/// What would travel to a peer.
pub(crate) async fn plan(core: &Arc<Core>, what: Spec, peer: Option<&str>) -> Result<Answer> {
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
    let at = core.clone();
    let report = blocking("a plan", move || make_plan(&at, &what, peer.as_deref())).await?;
    done(&report)
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
    let compression = peer.map_or(core.config.compression, |p| core.compression_for(p));
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
                extents.extend(crate::exchange::dirty_extents(block));
            }
        }
        zero += part.zero_segments.len() as u64 * blockferry_delta::SEGMENT_BYTES;
        for pack in blockferry_wire::split_packs(&extents) {
            if sampled >= SAMPLE_BYTES_MAX {
                break;
            }
            let pages = source.read(&pack)?;
            let (held, what) = (dictionaries.as_ref(), (pack, pages));
            let pack = crate::exchange::pressed(&mut packer, held, part.number, what, compression)?;
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
        finish: finish(core, what, peer, estimate),
    })
}

fn pages_of(mask: u16) -> u64 {
    u64::from(mask.count_ones()) * PAGE_BYTES as u64
}

fn scale(total: u64, part: u64, of: u64) -> u64 {
    let scaled = u128::from(total) * u128::from(part) / u128::from(of.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// When so many bytes would be sent, if a limit says how fast: by the calendar, from now on.
fn finish(core: &Core, what: &Spec, peer: Option<&Peer>, wire_bytes: u64) -> Option<String> {
    let scope = Scope {
        peer: peer.map(|p| p.id),
        store: Some(what.store.config.name.clone()),
        image: Some(what.image.clone()),
    };
    core.limit.finish(&scope, wire_bytes, None).map(rfc3339)
}
