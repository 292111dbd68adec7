//! Watching: one watcher for the directories of all stores.
//!
//! An instance of inotify and its thread for each store would run out where there are many stores: the
//! kernel grants a user 128. A watch says that something moved, never what: without one the rescan
//! still finds everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::core::lock;

/// Who is woken, by directory.
type Wakes = Arc<Mutex<BTreeMap<PathBuf, Arc<Notify>>>>;

/// The watcher, once there is something to watch.
#[derive(Default)]
pub(crate) struct Watching {
    watcher: Mutex<Option<RecommendedWatcher>>,
    wakes: Wakes,
}

/// A directory that is watched, until dropped.
pub(crate) struct Watch {
    watching: Arc<Watching>,
    path: PathBuf,
}

impl Watching {
    /// Wakes whenever something in the directory moves; `None`: that can't be had.
    pub(crate) fn watch(self: &Arc<Self>, path: &Path, wake: Arc<Notify>) -> Option<Watch> {
        lock(&self.wakes).insert(path.to_owned(), wake);
        match self.add(path) {
            Ok(()) => {
                info!(path = %path.display(), "watching");
                Some(Watch { watching: self.clone(), path: path.to_owned() })
            }
            Err(error) => {
                lock(&self.wakes).remove(path);
                warn!(path = %path.display(), %error, "no watch; changes wait for the rescan");
                None
            }
        }
    }

    /// Whether a directory is watched.
    pub(crate) fn is_watched(&self, path: &Path) -> bool {
        lock(&self.wakes).contains_key(path)
    }

    fn add(&self, path: &Path) -> notify::Result<()> {
        let mut watcher = lock(&self.watcher);
        if watcher.is_none() {
            let wakes = self.wakes.clone();
            *watcher = Some(notify::recommended_watcher(move |event| tell(&wakes, event))?);
        }
        let watcher = watcher.as_mut().ok_or_else(|| notify::Error::generic("no watcher"))?;
        watcher.watch(path, RecursiveMode::NonRecursive)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.watching.wakes).remove(&self.path);
        if let Some(watcher) = lock(&self.watching.watcher).as_mut() {
            // A directory that is gone isn't watched any more either.
            let _gone = watcher.unwatch(&self.path);
        }
    }
}

fn tell(wakes: &Wakes, event: notify::Result<Event>) {
    let wakes = lock(wakes);
    let all = || wakes.values().for_each(|wake| wake.notify_one());
    let event = match event {
        Ok(event) if event.need_rescan() || event.paths.is_empty() => return all(),
        Ok(event) => event,
        Err(_) => return all(),
    };
    // Our own reads must not wake us.
    if matches!(event.kind, EventKind::Access(access) if !is_write(access)) {
        return;
    }
    for path in event.paths.iter().filter(|path| !is_private(path)) {
        let directory = path.parent().and_then(|parent| wakes.get(parent));
        if let Some(wake) = directory.or_else(|| wakes.get(path)) {
            wake.notify_one();
        }
    }
}

fn is_write(access: AccessKind) -> bool {
    matches!(access, AccessKind::Close(AccessMode::Write))
}

fn is_private(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".blockferry")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_directory_wakes_its_own_and_private_files_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let dir = tempfile::tempdir().expect("temp dir");
            let watching = Arc::new(Watching::default());
            let mut stores = Vec::new();
            for name in ["a", "b"] {
                let (path, wake) = (dir.path().join(name), Arc::new(Notify::new()));
                std::fs::create_dir(&path).expect("made");
                let watch = watching.watch(&path, wake.clone()).expect("inotify");
                stores.push((path, wake, watch));
            }
            let woken = async |at: usize, limit| {
                tokio::time::timeout(limit, stores[at].1.notified()).await.is_ok()
            };
            std::fs::create_dir(stores[0].0.join(".blockferry")).expect("made");
            assert!(!woken(0, Duration::from_millis(200)).await);
            std::fs::write(stores[1].0.join("x.raw"), b"x").expect("written");
            assert!(woken(1, Duration::from_secs(10)).await);
            assert!(!woken(0, Duration::from_millis(100)).await);
        });
    }
}
