//! Sets of a store: which images belong together by now, and what must not be published.
//!
//! The headers are read again at every look (cheaply: only what changed since), and once more when
//! an image is about to be recorded. The rules themselves are `blockferry_delta::Sets`; here is
//! what follows from them: an image whose chain is broken waits, with a code and an event; one that
//! wasn't closed well follows `in_use`; a path of a parent that leads elsewhere is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_delta::{Fault, Grouping, ImageName, SetFile, Sets};
use blockferry_store::{Discover, Generation, Store};
use blockferry_wire::SetMember;
use blockferry_wire::limits::SET_MEMBERS_MAX;

use crate::api::{ImageState, Role};
use crate::budget;
use crate::config::{SetsBy, StoreConfig, globs};
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::local::stores::OpenStore;

/// Names of children that an event gives.
const CHILDREN_NAMED_MAX: usize = 5;

/// How a store's sets are found, and which there were at the last look.
pub(crate) struct SetRules {
    by: By,
    path: String,
    now: Mutex<Arc<Sets>>,
    made: Mutex<Made>,
}

/// The latest generations that were recorded since the start, by number, and when: by a clock that
/// nobody sets.
#[derive(Default)]
struct Made(BTreeMap<ImageName, (u64, Instant)>);

impl Made {
    /// Whether others of its set are waited for still. `age_ms` is what the dates say: it counts for
    /// what was recorded before the start, or elsewhere.
    fn is_fresh(&self, (image, number): (&ImageName, u64), age_ms: i64, now: Instant) -> bool {
        let age = match self.0.get(image) {
            Some((made, at)) if *made == number => Some(now.saturating_duration_since(*at)),
            _ => u64::try_from(age_ms).ok().map(Duration::from_millis),
        };
        age.is_some_and(|age| age < budget::SET_SETTLES_MAX)
    }
}

/// As the configuration says it, made ready.
enum By {
    Nothing,
    Auto,
    Globs(globset::GlobSet),
}

impl SetRules {
    pub(crate) fn new(config: &StoreConfig) -> Result<Self> {
        let by = match &config.sets {
            SetsBy::Auto => By::Auto,
            SetsBy::Globs(patterns) if patterns.is_empty() => By::Nothing,
            SetsBy::Globs(patterns) => By::Globs(globs(patterns)?),
        };
        Ok(Self {
            by,
            path: config.path.display().to_string(),
            now: Mutex::default(),
            made: Mutex::default(),
        })
    }

    /// The sets at the last look.
    pub(crate) fn now(&self) -> Arc<Sets> {
        lock(&self.now).clone()
    }

    /// Looks again. Blocking.
    fn look(&self, store: &Store, takes: &dyn Fn(&str) -> bool) -> Result<Arc<Sets>> {
        let sets = Arc::new(self.with(store, takes, &[])?);
        *lock(&self.now) = sets.clone();
        Ok(sets)
    }

    /// The sets that there would be with `other` files in the places of those of their names. Blocking.
    fn with(&self, store: &Store, takes: &dyn Fn(&str) -> bool, other: &[SetFile]) -> Result<Sets> {
        let files = || -> Result<Vec<SetFile>> {
            let mut files = store.set_files(takes)?;
            files.retain(|file| other.iter().all(|other| other.name != file.name));
            files.extend_from_slice(other);
            Ok(files)
        };
        let group_of = |globs: &globset::GlobSet, name: &str| globs.matches(name).first().copied();
        Ok(match &self.by {
            By::Nothing => Sets::default(),
            By::Auto => Sets::find(&files()?, &self.path, Grouping::Auto),
            By::Globs(globs) => {
                let group = |name: &str| group_of(globs, name);
                Sets::find(&files()?, &self.path, Grouping::Named(&group))
            }
        })
    }
}

/// Looks at the headers of a store again, and says what is new about them. Blocking.
pub(crate) fn look(core: &Core, store: &OpenStore) -> Result<Arc<Sets>> {
    let sets = store.sets.look(&store.store, &|name| store.takes(name))?;
    for (image, path) in sets.stray_paths() {
        if !store.trouble(image, "PARENT_PATH") {
            continue;
        }
        let text = format!(
            "{}: its parent is here, but the path that it remembers leads elsewhere: {path}",
            store.full_name(image)
        );
        let note = Note::warning("PARENT_PATH", text);
        core.events.note(note.store(&store.config.name).image(image));
    }
    Ok(sets)
}

/// Says no to recording an image that must not be published as it is. Blocking.
pub(crate) fn may_record(core: &Core, store: &OpenStore, image: &ImageName) -> Result<()> {
    // What a mirror finds doesn't travel.
    if store.config.role == Role::Mirror {
        return Ok(());
    }
    let sets = look(core, store)?;
    let full = || store.full_name(image);
    match sets.fault(image) {
        None => {}
        Some(fault) if fault.is_mismatch() => {
            return Err(Error::ParentMismatch { image: full(), what: fault.to_string() });
        }
        Some(fault) => return Err(Error::SetIncomplete { image: full(), what: fault.to_string() }),
    }
    if let Some(unclean) = sets.unclean(image)
        && !store.snapshots()
    {
        return Err(Error::Unclean { image: full(), what: unclean.to_string() });
    }
    match sets.parent(image) {
        Some(parent) if store.store.current(parent)?.is_none() => {
            let what = format!("{parent}, which it builds upon, is not recorded yet");
            Err(Error::SetIncomplete { image: full(), what })
        }
        _ => Ok(()),
    }
}

/// The images that go back together when `image` goes back to generation `number`, in the order of
/// need, each with its generation. Blocking.
///
/// # Errors
/// [`Error::SetWouldBreak`] when they would not fit each other.
pub(crate) fn going_back(
    store: &OpenStore,
    image: &ImageName,
    number: u64,
) -> Result<Vec<(ImageName, u64)>> {
    let alone = || vec![(image.clone(), number)];
    let sets = store.sets.now();
    let Some(set) = sets.set_of(image) else { return Ok(alone()) };
    let mut all = store.store.together(image, number, &set.members)?;
    all.extend(alone());
    all.sort_by_key(|(name, _)| set.members.iter().position(|member| member == name));
    let mut files = Vec::new();
    for (name, number) in &all {
        if let (_, Some(kept)) = store.store.earlier(name, *number)? {
            // The content may be kept under another image's name.
            files.push(SetFile { name: name.clone(), ..store.store.set_file_of(&kept)? });
        }
    }
    let then = store.sets.with(&store.store, &|name| store.takes(name), &files)?;
    let broken = set.members.iter().find_map(|member| Some((member, then.fault(member)?)));
    let Some((member, fault)) = broken else { return Ok(all) };
    Err(Error::SetWouldBreak {
        image: store.full_name(image),
        what: format!(
            "going back to @{number} would break the set {}: {member}: {fault}; nothing has changed",
            set.name
        ),
        code: if fault.is_mismatch() { "PARENT_MISMATCH" } else { "SET_INCOMPLETE" },
    })
}

/// The other images of an image's set, in the order of need.
pub(crate) fn companions(store: &OpenStore, image: &ImageName) -> Vec<ImageName> {
    let sets = store.sets.now();
    let members = sets.set_of(image).map(|set| set.members.clone()).unwrap_or_default();
    members.into_iter().filter(|member| member != image).collect()
}

/// Is it an error of [`may_record`] that ends when another image of the set changes?
pub(crate) fn waits_for_others(code: &str) -> bool {
    matches!(code, "SET_INCOMPLETE" | "PARENT_MISMATCH")
}

/// Is what an image waited for there now?
pub(crate) fn may_go_on(store: &OpenStore, sets: &Sets, name: &str) -> bool {
    let Ok(image) = ImageName::new(name) else { return false };
    let parent = sets.parent(&image);
    let recorded = |parent| store.store.current(parent).is_ok_and(|current| current.is_some());
    sets.fault(&image).is_none() && parent.is_none_or(recorded)
}

/// What a fault of an image is called in `image ls`.
pub(crate) fn state_of(store: &OpenStore, image: &ImageName) -> Option<ImageState> {
    if store.config.role == Role::Mirror {
        return None;
    }
    store.sets.now().fault(image).map(|fault| match fault {
        Fault::ParentMismatch { .. } => ImageState::ParentMismatch,
        _ => ImageState::SetIncomplete,
    })
}

/// What the set of an image is called.
pub(crate) fn name_of(store: &OpenStore, image: &ImageName) -> Option<String> {
    store.sets.now().set_of(image).map(|set| set.name.to_string())
}

/// The set that an image is offered with: its members that travel. Blocking.
///
/// # Errors
/// [`Error::SetIncomplete`] while another of them has changed and isn't quiet yet: they would
/// travel one after the other. One that never is quiet is not waited for for ever.
pub(crate) fn offered(core: &Core, store: &OpenStore, image: &ImageName) -> Result<Vec<SetMember>> {
    let sets = store.sets.now();
    let set = sets.set_of(image).filter(|set| set.members.len() <= SET_MEMBERS_MAX);
    let Some(set) = set else { return Ok(Vec::new()) };
    let current = store.store.current(image)?;
    let (number, recorded) = current.map_or((0, 0), |g| (g.number, g.recorded_unix_ms));
    let age_ms = now_unix_ms().saturating_sub(recorded);
    let fresh = lock(&store.sets.made).is_fresh((image, number), age_ms, Instant::now());
    let settles = |member: &&ImageName| *member != image && store.settles(member);
    if let Some(member) = set.members.iter().find(settles).filter(|_| fresh) {
        let what = format!("{member} of its set is about to be recorded");
        return Err(Error::SetIncomplete { image: store.full_name(image), what });
    }
    let backlog = lock(&core.backlog);
    let head = |member: &ImageName| Some(backlog.head(&store.config.name, member)?.version.root);
    let member = |image: &ImageName| Some(SetMember { image: image.clone(), root: head(image)? });
    Ok(set.members.iter().filter_map(member).collect())
}

/// A generation was recorded here: those who build upon the image may go on, or be broken by it.
pub(crate) fn recorded(core: &Core, store: &OpenStore, generation: &Generation) {
    let image = &generation.image;
    let sets = store.sets.now();
    if let Some(set) = sets.set_of(image) {
        let made = (generation.number, Instant::now());
        lock(&store.sets.made).0.insert(image.clone(), made);
        lock(&core.backlog).handle_set_moved(&store.config.name, &set.members);
        core.wake();
    }
    let children: Vec<&ImageName> = sets.children(image).collect();
    store.unblock(&mut |name| children.iter().any(|child| child.as_str() == name));
    if generation.number > 1 && generation.discover != Discover::Metadata {
        tell_parent_changed(core, store, generation, &children);
    }
}

/// A generation came from a peer, or says that the image was deleted: those who build upon it may
/// be broken by it. Blocking.
pub(crate) fn replaced(core: &Core, store: &OpenStore, generation: &Generation) -> Result<()> {
    // An edit of a mirror that is undone is no change of what its peers have.
    let history = store.store.history(&generation.image)?;
    let before = history.iter().skip(1).find(|before| !before.is_adopted());
    if before.is_none_or(|before| before.is_deleted() || before.root == generation.root) {
        return Ok(());
    }
    let sets = store.sets.now();
    let mut children: Vec<&ImageName> = sets.children(&generation.image).collect();
    // When it is gone, the last look may have seen that already.
    let images = store.store.images()?;
    let orphans = images.iter().map(|image| &image.image).filter(|child| {
        let fault = sets.fault(child);
        matches!(fault, Some(Fault::ParentAbsent { name }) if name == generation.image.as_str())
    });
    children.extend(orphans);
    tell_parent_changed(core, store, generation, &children);
    Ok(())
}

fn tell_parent_changed(
    core: &Core,
    store: &OpenStore,
    generation: &Generation,
    children: &[&ImageName],
) {
    if children.is_empty() {
        return;
    }
    let image = &generation.image;
    let named: Vec<&str> =
        children.iter().take(CHILDREN_NAMED_MAX).map(|child| child.as_str()).collect();
    let more = if children.len() > named.len() { " and more" } else { "" };
    let what = if generation.is_deleted() { "it is gone" } else { "its content changed" };
    let text = format!(
        "{}@{}: {what} under the images that build upon it: {}{more}",
        store.full_name(image),
        generation.number,
        named.join(", ")
    );
    let note = Note::warning("PARENT_CHANGED", text);
    core.events.note(note.store(&store.config.name).image(image));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_does_not_end_the_wait_for_the_others_of_a_set() {
        let (image, at) = (ImageName::new("child.vhdx").expect("a name"), Instant::now());
        let made = Made(BTreeMap::from([(image.clone(), (5, at))]));
        let most_ms = i64::try_from(budget::SET_SETTLES_MAX.as_millis()).expect("small");
        for age_ms in [-most_ms, 0, most_ms] {
            assert!(made.is_fresh((&image, 5), age_ms, at), "{age_ms}");
            let then = at + budget::SET_SETTLES_MAX;
            assert!(!made.is_fresh((&image, 5), age_ms, then), "{age_ms}");
        }
        // Of one that was recorded before the start only the dates are known.
        assert!(made.is_fresh((&image, 4), 0, at) && !made.is_fresh((&image, 4), most_ms, at));
        assert!(!made.is_fresh((&image, 4), -1, at));
    }
}
