//! Encoded: a pack that several peers want from the same base is read and compressed once.
//!
//! Whoever asks first makes it; who asks meanwhile is told when it is there, and who asks later
//! finds it, as long as it is kept: bounded in bytes, what was wanted least recently goes first.
//! Kept is only what was marked as wanted by others too. A pack that was to be made and wasn't (a
//! torn source, a panic) is nobody else's failure: who waited for it makes it himself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use blockferry_delta::{PageExtent, Root, StoreId};
use blockferry_wire::{Compression, Pack};

use crate::core::lock;

/// What makes two packs the same bytes. The level comes last: one pack's levels stand together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackKey {
    /// The store.
    pub(crate) store: StoreId,
    /// The generation it is of.
    pub(crate) root: Root,
    /// The generation that the recipe starts from, which numbers the parts.
    pub(crate) base: Option<Root>,
    /// The part.
    pub(crate) part: u32,
    /// The pages.
    pub(crate) extents: Vec<PageExtent>,
    /// May it have a dictionary? What is wanted again may not.
    pub(crate) dictionary: bool,
    /// The level it is made at.
    pub(crate) compression: Compression,
}

/// Told the pack, or that there will be none.
type Waiter = Box<dyn FnOnce(Option<Arc<Pack>>) + Send>;

/// What is to be done for a pack.
pub(crate) enum Take {
    /// Here it is.
    Ready(Arc<Pack>),
    /// Somebody makes it; the waiter will be called.
    Coming,
    /// Make it.
    Make(Option<Making>),
}

/// The packs that are kept, and those that are being made.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<PackKey, Slot>,
    /// Keys by when they were used last.
    used: BTreeMap<u64, PackKey>,
    clock: u64,
    bytes: usize,
    made: u64,
    shared: u64,
}

enum Slot {
    Kept { pack: Arc<Pack>, used: u64 },
    Coming(Vec<Waiter>),
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Slot::Kept { used, .. } => write!(f, "Kept({used})"),
            Slot::Coming(waiters) => write!(f, "Coming({})", waiters.len()),
        }
    }
}

impl Encoded {
    /// Keeps packs of at most so many bytes together.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, state: Mutex::default() })
    }

    /// Finds a pack of at least the level `least`, or says who makes it; else it is to be made as
    /// `key` says. `shared`: others want it too, so it is worth keeping. `waiter` is called only
    /// after [`Take::Coming`].
    pub(crate) fn take(
        self: &Arc<Self>,
        key: &PackKey,
        least: Compression,
        shared: bool,
        waiter: impl FnOnce(Option<Arc<Pack>>) + Send + 'static,
    ) -> Take {
        let mut state = lock(&self.state);
        if let Some(found) = state.find(key, least) {
            state.shared += 1;
            return match found {
                Found::Kept(pack) => Take::Ready(pack),
                Found::Coming(key) => {
                    if let Some(Slot::Coming(waiters)) = state.slots.get_mut(&key) {
                        waiters.push(Box::new(waiter));
                    }
                    Take::Coming
                }
            };
        }
        state.made += 1;
        if !shared {
            return Take::Make(None);
        }
        state.slots.insert(key.clone(), Slot::Coming(Vec::new()));
        Take::Make(Some(Making { cache: Arc::clone(self), key: Some(key.clone()) }))
    }

    /// Nobody wants a generation any more.
    pub(crate) fn forget(&self, store: StoreId, root: Root) {
        let mut state = lock(&self.state);
        let gone = |key: &PackKey| key.store == store && key.root == root;
        let keys: Vec<_> = state.used.values().filter(|key| gone(key)).cloned().collect();
        for key in keys {
            state.remove(&key);
        }
    }

    /// Packs that were read and compressed, and packs that were taken from those.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.made, state.shared)
    }

    fn settle(&self, key: &PackKey, pack: Option<Pack>) {
        let pack = pack.map(Arc::new);
        let waiters = {
            let mut state = lock(&self.state);
            let Some(Slot::Coming(waiters)) = state.slots.remove(key) else { return };
            if let Some(pack) = &pack {
                state.keep(key.clone(), pack.clone(), self.bytes_max);
            }
            waiters
        };
        for waiter in waiters {
            waiter(pack.clone());
        }
    }
}

enum Found {
    Kept(Arc<Pack>),
    Coming(PackKey),
}

impl State {
    /// The pack at the highest level there is, if that is enough.
    fn find(&mut self, key: &PackKey, least: Compression) -> Option<Found> {
        let highest = PackKey { compression: Compression::HIGHEST, ..key.clone() };
        let least = PackKey { compression: least, ..key.clone() };
        let (found, slot) = self.slots.range(least..=highest).next_back()?;
        let found = found.clone();
        match slot {
            Slot::Coming(_) => Some(Found::Coming(found)),
            Slot::Kept { pack, .. } => {
                let pack = pack.clone();
                self.touch(&found);
                Some(Found::Kept(pack))
            }
        }
    }

    fn touch(&mut self, key: &PackKey) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(Slot::Kept { used, .. }) = self.slots.get_mut(key) {
            self.used.remove(used);
            *used = clock;
            self.used.insert(clock, key.clone());
        }
    }

    fn keep(&mut self, key: PackKey, pack: Arc<Pack>, bytes_max: usize) {
        let bytes = bytes_of(&key, &pack);
        if bytes > bytes_max {
            return;
        }
        self.bytes += bytes;
        self.slots.insert(key.clone(), Slot::Kept { pack, used: 0 });
        self.touch(&key);
        while self.bytes > bytes_max {
            let Some(oldest) = self.used.values().next().cloned() else { break };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &PackKey) {
        if let Some(Slot::Kept { pack, used }) = self.slots.remove(key) {
            self.used.remove(&used);
            self.bytes -= bytes_of(key, &pack);
        }
    }
}

/// What a kept pack takes: its bytes, its extents here and in both maps.
fn bytes_of(key: &PackKey, pack: &Pack) -> usize {
    pack.bytes.len() + 3 * key.extents.len() * size_of::<PageExtent>() + 512
}

/// A pack that somebody makes. Dropped, those who wait learn that there will be none.
pub(crate) struct Making {
    cache: Arc<Encoded>,
    key: Option<PackKey>,
}

impl Making {
    /// It is made.
    pub(crate) fn done(mut self, pack: &Pack) {
        if let Some(key) = self.key.take() {
            // A copy is exactly as long as it must be; what was compressed has room to spare.
            self.cache.settle(&key, Some(pack.clone()));
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.cache.settle(&key, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use blockferry_wire::Encoding;

    use super::*;

    fn key(first: u64, level: i32) -> PackKey {
        PackKey {
            store: StoreId::from_bytes([1; 16]),
            root: Root::from_bytes([2; 32]),
            base: None,
            part: 0,
            extents: vec![PageExtent { first, count: 1 }],
            dictionary: false,
            compression: Compression::zstd(level),
        }
    }

    fn pack(first: u64, bytes: usize) -> Pack {
        Pack {
            part: 0,
            extents: vec![PageExtent { first, count: 1 }],
            dictionary: Vec::new(),
            encoding: Encoding::Zstd,
            raw_bytes: 4096,
            bytes: vec![7; bytes].into(),
        }
    }

    fn nobody(_: Option<Arc<Pack>>) {
        panic!("nobody waits");
    }

    fn make(cache: &Arc<Encoded>, key: &PackKey) -> Making {
        match cache.take(key, key.compression, true, nobody) {
            Take::Make(Some(making)) => making,
            _ => panic!("to be made"),
        }
    }

    fn is_kept(cache: &Arc<Encoded>, key: &PackKey) -> bool {
        match cache.take(key, key.compression, false, nobody) {
            Take::Ready(_) => true,
            Take::Make(None) => false,
            _ => panic!("nobody makes it"),
        }
    }

    #[test]
    fn one_makes_it_and_all_get_it() {
        let cache = Encoded::new(1 << 20);
        let making = make(&cache, &key(1, 3));
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            let taken = cache.take(&key(1, 3), Compression::Stored, true, move |pack| {
                sender.send(pack.expect("made").bytes.len()).expect("awaited");
            });
            assert!(matches!(taken, Take::Coming));
        }
        making.done(&pack(1, 99));
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [99, 99]);
        assert!(is_kept(&cache, &key(1, 3)));
        assert_eq!(cache.counts(), (1, 3));
    }

    #[test]
    fn who_waits_for_nothing_is_told_so() {
        let cache = Encoded::new(1 << 20);
        let (sender, receiver) = mpsc::channel();
        let making = make(&cache, &key(1, 3));
        let taken = cache.take(&key(1, 3), Compression::zstd(3), true, move |pack| {
            sender.send(pack.is_none()).expect("awaited");
        });
        assert!(matches!(taken, Take::Coming));
        drop(making);
        assert!(receiver.recv().expect("told"));
        make(&cache, &key(1, 3)).done(&pack(1, 1));
    }

    #[test]
    fn a_higher_level_serves_and_a_lower_one_only_who_takes_it() {
        let cache = Encoded::new(1 << 20);
        make(&cache, &key(1, 3)).done(&pack(1, 10));
        let any = cache.take(&key(1, 8), Compression::zstd(1), false, nobody);
        assert!(matches!(any, Take::Ready(_)));
        assert!(is_kept(&cache, &key(1, 1)) && is_kept(&cache, &key(1, -5)));
        assert!(is_kept(&cache, &PackKey { compression: Compression::Stored, ..key(1, 1) }));
        assert!(!is_kept(&cache, &key(1, 9)) && !is_kept(&cache, &key(2, 1)));
        let others = [
            PackKey { base: Some(Root::from_bytes([3; 32])), ..key(1, 3) },
            PackKey { root: Root::from_bytes([3; 32]), ..key(1, 3) },
            PackKey { store: StoreId::from_bytes([3; 16]), ..key(1, 3) },
            PackKey { part: 1, ..key(1, 3) },
            PackKey { dictionary: true, ..key(1, 3) },
        ];
        assert!(others.iter().all(|other| !is_kept(&cache, other)));
    }

    #[test]
    fn bytes_are_bounded_and_the_least_used_goes() {
        let cache = Encoded::new(10_000);
        for first in 0..3 {
            make(&cache, &key(first, 3)).done(&pack(first, 2000));
        }
        assert!(is_kept(&cache, &key(0, 3)));
        make(&cache, &key(3, 3)).done(&pack(3, 2000));
        assert!(is_kept(&cache, &key(0, 3)) && !is_kept(&cache, &key(1, 3)));
        assert!(lock(&cache.state).bytes <= 10_000);
        make(&cache, &key(4, 3)).done(&pack(4, 20_000));
        assert!(!is_kept(&cache, &key(4, 3)), "larger than all the room");
        cache.forget(key(0, 3).store, Root::from_bytes([9; 32]));
        assert!(is_kept(&cache, &key(0, 3)));
        cache.forget(key(0, 3).store, key(0, 3).root);
        assert!(!is_kept(&cache, &key(0, 3)));
        assert_eq!(lock(&cache.state).bytes, 0);
        assert!(lock(&cache.state).used.is_empty());
    }

    #[test]
    fn what_one_peer_wants_is_not_kept() {
        let cache = Encoded::new(1 << 20);
        assert!(matches!(
            cache.take(&key(1, 3), Compression::Stored, false, nobody),
            Take::Make(None)
        ));
        assert!(!is_kept(&cache, &key(1, 3)));
    }
}
