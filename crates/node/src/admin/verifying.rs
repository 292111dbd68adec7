//! `verify`: images are read again and compared with the catalog, and what rotted is fetched again if
//! somebody asks for it. One image after the other; the client hears of each.

use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::{ImageName, PAGE_BYTES};
use blockferry_store::{Error as StoreError, Generation, VerifyReport};

use crate::admin::jobs::{Meter, watched};
use crate::admin::requests::{done, generation, spec};
use crate::admin::socket::Client;
use crate::api::{Answer, Schema, VerifiedImage, VerifyDone};
use crate::core::{Core, blocking};
use crate::error::{Error, Result};
use crate::local::stores::{OpenStore, Stopping};
use crate::promotion::mending;

/// Bad extents that a report names at most.
const BAD_SHOWN_MAX: usize = 1000;

/// How thoroughly, and what then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// From the device, also what is cached.
    pub(crate) deep: bool,
    /// What rotted is fetched again.
    pub(crate) repair: bool,
}

/// What reading an image came to.
enum Looked {
    /// It was compared with this generation.
    At(Box<Generation>, VerifyReport),
    /// It could not be, with the number of the generation.
    Skipped(u64, String),
}

/// Re-hashes images against their generations.
pub(crate) async fn verify(
    core: &Arc<Core>,
    what: Option<&str>,
    how: How,
    client: &mut Client,
) -> Result<Answer> {
    let started = Instant::now();
    let mut summary = VerifyDone {
        schema: Schema,
        ok: true,
        images: 0,
        bad_images: 0,
        repaired_images: 0,
        skipped_images: 0,
        bytes: 0,
        seconds: 0.0,
    };
    for (store, image) in targets(core, what).await? {
        let row = match look(core, &store, &image, how.deep, client).await? {
            Looked::At(generation, report) => {
                judge(core, &store, (&generation, report), how.repair, client).await?
            }
            Looked::Skipped(number, why) => skipped(store.full_name(&image), number, why),
        };
        count(&mut summary, &row);
        client.say(&Answer::item(&row)).await?;
    }
    summary.seconds = started.elapsed().as_secs_f64();
    done(&summary)
}

fn count(summary: &mut VerifyDone, row: &VerifiedImage) {
    summary.bytes = summary.bytes.saturating_add(row.bytes);
    if row.skipped.is_some() {
        summary.skipped_images += 1;
        return;
    }
    summary.images += 1;
    summary.bad_images += u64::from(!row.ok);
    summary.repaired_images += u64::from(row.repaired);
    summary.ok &= row.ok || row.repaired;
}

async fn targets(core: &Arc<Core>, what: Option<&str>) -> Result<Vec<(Arc<OpenStore>, ImageName)>> {
    let stores = match what {
        Some(text) if text.contains('/') => {
            let spec = spec(core, text)?;
            generation(&spec).await?;
            return Ok(vec![(spec.store, spec.image)]);
        }
        Some(name) => vec![core.store(name)?],
        None => core.all_stores(),
    };
    blocking("listing images", move || {
        let mut all = Vec::new();
        for store in stores {
            let images = store.store.images()?;
            all.extend(images.into_iter().map(|g| (store.clone(), g.image)));
        }
        Ok(all)
    })
    .await
}

async fn look(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
    deep: bool,
    client: &mut Client,
) -> Result<Looked> {
    let meter = Arc::new(Meter::default());
    let permit = core.jobs.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
    let job = {
        let (core, store, image, meter) =
            (core.clone(), store.clone(), image.clone(), meter.clone());
        tokio::task::spawn_blocking(move || {
            let _held = permit;
            let stopping = Stopping { core: &core, inner: meter.as_ref() };
            let before = store.store.current(&image)?;
            let read = match deep {
                true => store.store.verify_deep(&image, &stopping),
                false => store.store.verify(&image, &stopping),
            };
            // What was received or recorded meanwhile was compared with what it isn't any more.
            let same = store.store.current(&image)? == before;
            let unwritten = store.store.is_unwritten(&image)?;
            Ok((before, read, same && unwritten))
        })
    };
    let name = store.full_name(image);
    let (before, result, same) = watched(job, &meter, "verify", &name, client).await?;
    let number = before.as_ref().map_or(0, |generation| generation.number);
    Ok(match (result, before) {
        (Ok(report), _) if !same && !report.is_good() => {
            Looked::Skipped(number, "it has changed since it was recorded".into())
        }
        (Ok(report), Some(generation)) => Looked::At(Box::new(generation), report),
        (Ok(_), None) => Looked::Skipped(number, "nothing is recorded of it".into()),
        (Err(StoreError::Cancelled), _) => return Err(Error::Stopping),
        (Err(error), _) => Looked::Skipped(number, error.to_string()),
    })
}

/// What was found of an image, and what becomes of it.
async fn judge(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    (generation, report): (&Generation, VerifyReport),
    repair: bool,
    client: &mut Client,
) -> Result<VerifiedImage> {
    let image = &generation.image;
    let mut row = verified(store.full_name(image), generation.number, &report);
    if row.ok {
        return Ok(row);
    }
    core.counts.note_verify_failure();
    let text = format!("{}: {} bytes are not as recorded", row.image, row.bad_bytes);
    let note = crate::events::Note::error("VERIFY_FAILED", text);
    core.events.note(note.store(&store.config.name).image(image));
    mending::note_rot(core, store, image, generation.root);
    if repair {
        let job = mending::mend(core.clone(), store.clone(), image.clone(), report);
        let meter = Meter::default();
        match watched(tokio::spawn(job), &meter, "repair", &row.image, client).await? {
            Ok(()) => row.repaired = true,
            Err(why) => row.not_repaired = Some(why),
        }
    }
    Ok(row)
}

fn verified(image: String, generation: u64, report: &VerifyReport) -> VerifiedImage {
    let pages = |count: u32| u64::from(count) * PAGE_BYTES as u64;
    let bad = report.bad.iter().map(|e| (e.offset(), pages(e.count)));
    VerifiedImage {
        ok: report.is_good(),
        bytes: report.bytes,
        bad_bytes: report.bad.iter().map(|e| pages(e.count)).sum(),
        bad: bad.take(BAD_SHOWN_MAX).collect(),
        ..nothing(image, generation)
    }
}

fn skipped(image: String, generation: u64, why: String) -> VerifiedImage {
    VerifiedImage { skipped: Some(why), ..nothing(image, generation) }
}

fn nothing(image: String, generation: u64) -> VerifiedImage {
    VerifiedImage {
        image,
        generation,
        ok: false,
        bytes: 0,
        bad_bytes: 0,
        bad: Vec::new(),
        repaired: false,
        not_repaired: None,
        skipped: None,
    }
}
