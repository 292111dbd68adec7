//! What goes with recording an image: the map of changes that a person names, the events that come
//! of it, and who is in the way.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::ImageName;
use blockferry_store::{
    Changed, CommitMode, Error as StoreError, Generation, LookState, MAP_BYTES_MAX, NbdBitmap,
    Progress, Recorded, Told,
};

use crate::api::{Role, WaitReason};
use crate::budget;
use crate::config::InUse;
use crate::core::{Core, blocking, head_of, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::lineage::{deletions, mirror, rewound};
use crate::local::adoption;
use crate::local::sets;
use crate::local::stores::{Activity, OpenStore};
use crate::promotion::proving;

const NS: i128 = 1_000_000_000;

/// Records the current content of an image as a generation, if it is a new one; `told` is what a
/// person says has changed.
pub(crate) async fn record(
    core: &Arc<Core>,
    store: &Arc<OpenStore>,
    image: &ImageName,
    told: Option<Told>,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<Recorded> {
    let permit = core.jobs.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
    let doing = store.begin(image, Activity::Recording)?;
    let (core, store, image) = (core.clone(), store.clone(), image.clone());
    blocking("recording", move || {
        let _held = (permit, doing);
        sets::may_record(&core, &store, &image)?;
        store.made_here(&image);
        let author = core.config.identity.id();
        let telling =
            Telling { core: &core, store: &store, image: Some(&image), inner: &*progress };
        let of = &store.store;
        let recorded = of.record_told(&image, author, now_unix_ms(), told.as_ref(), &telling);
        let recorded = recorded.map_err(|error| with_holder(&store, error))?;
        // It is what was just recorded, until the next look says otherwise.
        lock(&store.seen).remove(image.as_str());
        if let Recorded::New(generation) = &recorded {
            proving::note_recorded(&core, &store, generation)?;
            note_recorded(&core, &store, generation)?;
            deletions::note_renames(&core, &store, generation)?;
        }
        core.witness.touch(&store.config.name, &image);
        Ok(recorded)
    })
    .await
}

fn note_recorded(core: &Core, store: &OpenStore, generation: &Generation) -> Result<()> {
    core.counts.note_recorded(generation);
    rewound::refresh(core, store)?;
    let head = head_of(store, generation)?;
    core.note_head(store, generation, head);
    if store.config.role == Role::Mirror && generation.number > 1 && adoption::judges_files(store) {
        mirror::tell_edited(core, store, generation);
        return Ok(());
    }
    let text = format!(
        "{}@{}: {} bytes changed, {} bytes read in {} ms",
        store.full_name(&generation.image),
        generation.number,
        generation.dirty_bytes,
        generation.bytes_read,
        generation.millis
    );
    let note = Note::info("RECORDED", text);
    core.events.note(note.store(&store.config.name).image(&generation.image));
    sets::recorded(core, store, generation);
    Ok(())
}

/// Reads the map of changes that a person named: a path, or the address of a bitmap. Blocking.
pub(crate) fn told(changed: &str, since: Option<u64>) -> Result<Told> {
    let changed = if NbdBitmap::is_address(changed) {
        Changed::Bitmap(NbdBitmap::parse(changed)?)
    } else {
        text(Path::new(changed))
            .map_err(|what| Error::Store(StoreError::BadMap(format!("{changed}: {what}"))))?
    };
    Ok(Told { changed, since })
}

fn text(path: &Path) -> Result<Changed, String> {
    if !path.is_absolute() {
        return Err("not an absolute path".to_owned());
    }
    let said = |error: std::io::Error| error.to_string();
    // Opening a FIFO or a device must not wait.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(said)?;
    let stat = file.metadata().map_err(said)?;
    if !stat.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut text = Vec::new();
    file.take(MAP_BYTES_MAX + 1).read_to_end(&mut text).map_err(said)?;
    if text.len() as u64 > MAP_BYTES_MAX {
        return Err(format!("longer than {MAP_BYTES_MAX} bytes"));
    }
    let written_ns = i128::from(stat.mtime()) * NS + i128::from(stat.mtime_nsec());
    Ok(Changed::Text { text, written_ns })
}

/// The progress of a recording, or of what goes back: ends with the node, and what happens becomes
/// an event.
pub(crate) struct Telling<'a> {
    pub(crate) core: &'a Core,
    pub(crate) store: &'a OpenStore,
    /// Which image it is; `None`: one or several, and what is told says which.
    pub(crate) image: Option<&'a ImageName>,
    pub(crate) inner: &'a dyn Progress,
}

impl Progress for Telling<'_> {
    fn advance(&self, done_bytes: u64, total_bytes: u64) {
        self.inner.advance(done_bytes, total_bytes);
    }

    fn reading(&self, bytes: u64) {
        self.core.before_reading(bytes, || self.cancelled());
    }

    fn cancelled(&self) -> bool {
        self.core.is_stopping() || self.inner.cancelled()
    }

    fn frozen(&self, millis: u64) {
        if let Some(image) = self.image {
            self.store.note_frozen(image, Duration::from_millis(millis));
        }
    }

    fn event(&self, code: &'static str, text: &str) {
        let text = match self.image {
            Some(image) => format!("{}: {text}", self.store.full_name(image)),
            None => text.to_owned(),
        };
        // Spelled out for the book, which reads off here how severe they are.
        let note = match code {
            "EXTENTS_MISSED" => Note::error("EXTENTS_MISSED", text),
            "MAP_MISSED" => Note::error("MAP_MISSED", text),
            "BASE_LOST" => Note::warning("BASE_LOST", text),
            _ => Note::warning(code, text),
        };
        let note = note.store(&self.store.config.name);
        self.core.events.note(match self.image {
            Some(image) => note.image(image),
            None => note,
        });
    }
}

/// Are images recorded here that somebody keeps open for writing?
pub(crate) fn snapshots(config: InUse, mode: CommitMode) -> bool {
    config == InUse::Snapshot && mode == CommitMode::Clone
}

/// Says once that the store can't do what `in_use` asks for.
pub(crate) fn announce(core: &Core, store: &OpenStore) {
    if store.config.in_use == InUse::Snapshot && !store.snapshots() {
        let text = "in_use = \"snapshot\" needs a file system with reflinks (XFS, btrfs): images \
                    that somebody has open for writing wait until they are closed";
        let note = Note::warning("SNAPSHOT_UNSUPPORTED", text);
        core.events.note(note.store(&store.config.name));
    }
}

/// An error with the name of whoever is in the way, if that can be told. Blocking.
pub(crate) fn with_holder(store: &OpenStore, error: StoreError) -> Error {
    match error {
        StoreError::InUse(image) => match store.store.writer_of(&image) {
            Some(holder) => Error::HeldOpen { image: store.full_name(&image), holder },
            None => StoreError::InUse(image).into(),
        },
        other => other.into(),
    }
}

/// An image that changed and can't be recorded.
pub(crate) struct Deferred {
    pub(crate) image: ImageName,
    /// Somebody has it open for writing, or what it builds upon isn't there.
    pub(crate) reason: WaitReason,
    /// Who has it open, if it can be told.
    pub(crate) holder: Option<String>,
}

/// The images of a store that wait for whoever writes them, or for others of their set. Blocking.
pub(crate) fn deferred(store: &OpenStore) -> Vec<Deferred> {
    let changed = store.seen_as(&[LookState::Changed, LookState::New]);
    let mut deferred = Vec::new();
    for image in changed.into_iter().take(budget::DEFERRED_SHOWN_MAX) {
        let code = store.last_code(&image);
        if code.as_deref().is_some_and(sets::waits_for_others) {
            deferred.push(Deferred { image, reason: WaitReason::SetIncomplete, holder: None });
            continue;
        }
        if store.snapshots() {
            continue;
        }
        // A file that can't be looked at is no news here: recording it will say why.
        if store.store.is_written(&image).unwrap_or(false) {
            let holder = store.store.writer_of(&image).map(|holder| holder.to_string());
            deferred.push(Deferred { image, reason: WaitReason::InUse, holder });
        }
    }
    deferred
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(changed: &str) -> String {
        told(changed, None).expect_err("can't be meant").to_string()
    }

    #[test]
    fn a_map_is_a_path_or_an_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0 1\n").unwrap();
        let read = told(file.path().to_str().unwrap(), Some(3)).unwrap();
        let Changed::Text { text, written_ns } = read.changed else { panic!("a text") };
        assert_eq!((text.as_slice(), read.since), (&b"0 1\n"[..], Some(3)));
        assert!(written_ns > 0);
        let bitmap = told("nbd+unix:///x?socket=/run/s&bitmap=b", None).unwrap();
        assert!(matches!(bitmap.changed, Changed::Bitmap(_)));
    }

    #[test]
    fn what_is_no_map_is_refused_with_the_reason() {
        assert!(refused("map").contains("not an absolute path"));
        assert!(refused("/no/such/map").contains("No such file"));
        assert!(refused("/dev/null").contains("not a regular file"));
        assert!(refused("/").contains("not a regular file"));
        assert!(refused("nbd://host/x").contains("expected nbd+unix"));
        assert_eq!(told("map", None).expect_err("relative").code(), "BAD_MAP");
    }
}
