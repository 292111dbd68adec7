//! A cluster in one thread: 2 to 7 nodes with stores on simulated disks, joined by the service's own
//! transfer drivers and its own backlogs. Links go and come, power fails, disks are set back to what
//! they held before, clocks are wrong by up to a year. One seed, one run.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{ImageName, Lineage, NodeId, Order, Root, StoreName};
use blockferry_node::Identity;
use blockferry_node::backlog::{Backlog, Head, Key, Setback};
use blockferry_node::lineage::conflict::{self, Choice, Conflict};
use blockferry_node::lineage::relayed::{self, Elsewhere, Stated};
use blockferry_node::promotion::standing::{Standing, standing};
use blockferry_node::transfer::judge::Version;
use blockferry_node::transfer::verdict::setback_of_refusal;
use blockferry_store::disk::{CrashPlan, Keep, SimDisk};
use blockferry_store::{CommitMode, Generation, LookState, Options, Recorded, Store};
use blockferry_wire::{Holding, Message, Proof, Refusal};

use crate::link::Trace;
use crate::pair::{Ended, Hop, keys};
use crate::rng::Rng;
use crate::side::{options, put, store_identity, whole};

thread_local! {
    /// Numbers of catalogs: each is new, and a seed has the same ones every time.
    static INCARNATION: Cell<u64> = const { Cell::new(0) };
}

fn incarnation() -> u64 {
    INCARNATION.with(|last| {
        last.set(last.get() + 1);
        last.get()
    })
}

/// One node.
pub struct Member {
    /// Its disk; it outlives the store.
    pub disk: SimDisk,
    /// Its store.
    pub store: Arc<Store>,
    /// Its key.
    pub key: &'static Identity,
    /// Who lacks what, as far as it knows.
    pub backlog: Backlog,
    options: Options,
    /// How wrong its clock is.
    skew_ms: i64,
    /// What its disk held once.
    backup: Option<SimDisk>,
    /// It was set back and doesn't know it yet.
    rewound: bool,
}

/// Nodes and the links between them.
pub struct Cluster {
    /// The nodes.
    pub members: Vec<Member>,
    /// (one, other, up).
    pub links: Vec<(usize, usize, bool)>,
    /// Everything that was said.
    pub trace: Trace,
    /// Transfers that were begun.
    pub transfers: u64,
    rng: Rng,
    start: Instant,
    elapsed: Duration,
    /// A broken build: of two that diverged the later date wins.
    later_wins: bool,
}

fn store_name() -> StoreName {
    store_identity().name
}

fn version_of(generation: &Generation) -> Version {
    let Generation { number, root, lineage, .. } = generation.clone();
    Version { number, root, lineage }
}

impl Member {
    fn new(at: usize, seed: u64, mode: CommitMode, skew_ms: i64) -> Member {
        let disk = SimDisk::new(seed, 1 << 28);
        disk.set_supports_clone(mode == CommitMode::Clone);
        let options = Options { incarnation, ..options(mode) };
        let made = Store::create(Arc::new(disk.clone()), store_identity(), &options);
        let store = Arc::new(made.expect("an empty disk takes a store"));
        let (key, backlog) = (&keys()[at], Backlog::default());
        Member { disk, store, key, backlog, options, skew_ms, backup: None, rewound: false }
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    fn open(&mut self, disk: SimDisk) {
        self.disk = disk;
        let opened = Store::open(Arc::new(self.disk.clone()), &self.options);
        self.store = Arc::new(opened.expect("a store opens after any crash").0);
        for look in self.store.look().expect("looks") {
            let name = ImageName::new(&look.name).expect("made here");
            if matches!(look.state, LookState::Changed | LookState::New) {
                self.store.record(&name, self.id(), 1, &()).expect("nothing is in the way");
            }
        }
    }

    /// Its images.
    pub fn images(&self) -> Vec<Generation> {
        self.store.images().expect("reads")
    }

    /// The current generation of an image.
    pub fn current(&self, name: &ImageName) -> Option<Generation> {
        self.store.current(name).expect("reads")
    }

    /// Contents that it holds and that nothing but a person lets go of: the current one first.
    pub fn held(&self, name: &ImageName) -> Vec<Root> {
        let mut held: Vec<Root> = Vec::new();
        if let Some(current) = self.current(name) {
            let bytes = whole(&self.disk, name.as_str()).expect("the file is there");
            assert_eq!(current.root.as_bytes(), blake3::hash(&bytes).as_bytes(), "not whole");
            held.push(current.root);
        }
        for kept in self.store.kept(name).expect("reads").iter().filter(|kept| kept.pinned) {
            let bytes = whole(&self.disk, &kept.path).expect("the file is there");
            let root = Root::from_bytes(*blake3::hash(&bytes).as_bytes());
            assert!(kept.root().is_none_or(|known| known == root), "kept, but not whole");
            held.push(root);
        }
        held
    }

    fn head(&self, generation: &Generation) -> Head {
        Head {
            version: version_of(generation),
            size_bytes: generation.size_bytes,
            recorded_unix_ms: generation.recorded_unix_ms,
            changed_bytes: Vec::new(),
        }
    }

    fn key_of(peer: NodeId, image: &ImageName) -> Key {
        Key { peer, store: store_name(), image: image.clone() }
    }

    /// What the service does when it learns what a peer holds.
    fn learn(&mut self, peer: NodeId, theirs: &Generation) {
        let us = self.store.writer_ids(self.id()).expect("reads")[0];
        let ours = self.current(&theirs.image).map_or(0, |ours| ours.lineage.count(&us));
        if theirs.lineage.count(&us) > ours {
            self.store.renew_writer().expect("writes");
            self.rewound = false;
        }
        let image = theirs.image.clone();
        self.backlog.handle_peer_head(peer, store_name(), image, version_of(theirs));
    }
}

impl Cluster {
    /// A cluster of `seed`'s making, all links up.
    pub fn new(seed: u64, later_wins: bool) -> Cluster {
        INCARNATION.with(|last| last.set(0));
        let mut rng = Rng::new(seed);
        let count = 2 + rng.below(6) as usize;
        let year_ms = 365 * 86_400_000;
        let members = (0..count).map(|at| {
            let mode = *rng.pick(&[CommitMode::Clone, CommitMode::Copy, CommitMode::Journal]);
            let skew_ms = rng.below(2 * year_ms) as i64 - year_ms as i64;
            Member::new(at, rng.draw(), mode, skew_ms)
        });
        let members = members.collect();
        let links = topology(count, &mut rng).into_iter().map(|(a, b)| (a, b, false)).collect();
        let mut cluster = Cluster {
            members,
            links,
            trace: Trace::default(),
            transfers: 0,
            rng,
            start: Instant::now(),
            elapsed: Duration::ZERO,
            later_wins,
        };
        for at in 0..count {
            cluster.introduce(at);
        }
        (0..cluster.links.len()).for_each(|link| cluster.set_link(link, true));
        cluster
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    /// A node has just started: its backlog knows its peers, its heads and its receipts.
    fn introduce(&mut self, at: usize) {
        let peers = self.links.iter().filter_map(|(a, b, _)| match (*a == at, *b == at) {
            (true, _) => Some(self.members[*b].id()),
            (_, true) => Some(self.members[*a].id()),
            _ => None,
        });
        let peers: Vec<NodeId> = peers.collect();
        let member = &mut self.members[at];
        member.backlog = Backlog::default();
        for peer in peers {
            member.backlog.handle_peer(peer, BTreeSet::from([store_name()]));
        }
        for generation in member.images() {
            let image = generation.image.clone();
            for (peer, number, root) in member.store.receipts(&image).expect("reads") {
                member.backlog.handle_receipt(Member::key_of(peer, &image), number, root);
            }
            let head = member.head(&generation);
            member.backlog.handle_head(store_name(), image, head);
        }
    }

    /// A link goes or comes; when it comes both say what they hold.
    pub fn set_link(&mut self, link: usize, up: bool) {
        let (a, b, was) = self.links[link];
        self.links[link].2 = up;
        if was == up {
            return;
        }
        let ids = [self.members[a].id(), self.members[b].id()];
        if !up {
            self.members[a].backlog.handle_peer_down(ids[1]);
            self.members[b].backlog.handle_peer_down(ids[0]);
            return;
        }
        for (us, them, id) in [(a, b, ids[1]), (b, a, ids[0])] {
            for theirs in self.members[them].images() {
                self.members[us].learn(id, &theirs);
            }
            self.members[us].backlog.handle_inventory(id, &store_name());
            self.members[us].backlog.handle_peer_up(id);
        }
    }

    /// The current generation of an image is another one: its node and the connected ones learn it.
    fn announce(&mut self, at: usize, generation: &Generation) {
        let id = self.members[at].id();
        let head = self.members[at].head(generation);
        self.members[at].backlog.handle_head(store_name(), generation.image.clone(), head);
        let near: Vec<usize> = self.links.iter().filter_map(|l| other_end(*l, at)).collect();
        for peer in near {
            self.members[peer].learn(id, generation);
        }
    }

    /// An image's owner changes it at a node; gives what was recorded, unless the node may not.
    pub fn edit(&mut self, at: usize, name: &ImageName, bytes: &[u8]) -> Option<Generation> {
        self.elapsed += Duration::from_secs(1 + self.rng.below(20));
        let member = &mut self.members[at];
        member.disk.set_clock_ns(member.disk.clock_ns() + 1_000_000_000);
        put(&member.disk, name.as_str(), bytes).expect("the disk takes it");
        let now_ms = 1_800_000_000_000 + self.elapsed.as_millis() as i64 + member.skew_ms;
        let recorded = member.store.record(name, member.id(), now_ms, &()).expect("records");
        let Recorded::New(generation) = recorded else { return None };
        self.announce(at, &generation);
        Some(generation)
    }

    /// Somebody at a node decides a conflict, if there is one.
    pub fn resolve(&mut self, at: usize, name: &ImageName) -> bool {
        let member = &self.members[at];
        let Some(current) = member.current(name) else { return false };
        let open = conflict::open(&member.store, &current).expect("reads");
        if open.is_empty() {
            return false;
        }
        let choice = match self.rng.below(open.len() as u64 + 1) as usize {
            0 => Choice::Local,
            nth => Choice::Kept(open[nth - 1].serial),
        };
        let made = conflict::resolve(&member.store, name, (&choice, &[]), member.id(), 1, &());
        let made = made.expect("nothing is in the way");
        self.announce(at, &made);
        true
    }

    /// What the others state of an image, when everything that was said has come to everybody.
    fn stated(&self, at: usize, name: &ImageName) -> Vec<Stated> {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != at);
        let states = |(_, member): (usize, &Member)| {
            let current = member.current(name)?;
            let rivals = conflict::rivals(&member.store, &current).expect("reads");
            let Generation { image, number, root, lineage, .. } = current;
            let held = Holding { image, number, root, lineage, proof: Proof::ReadBack, rivals };
            Some(Stated { node: member.id(), writer: true, direct: false, held })
        };
        others.filter_map(states).collect()
    }

    /// What a node sees of conflicts about an image: its own, and those that only others have met.
    fn conflicts(&self, at: usize, name: &ImageName) -> (Vec<Conflict>, Vec<Elsewhere>) {
        let member = &self.members[at];
        let Some(current) = member.current(name) else { return (Vec::new(), Vec::new()) };
        let open = conflict::open(&member.store, &current).expect("reads");
        let mut far = relayed::elsewhere(&version_of(&current), &self.stated(at, name));
        far.retain(|e| open.iter().all(|kept| kept.generation.root != e.rival.root));
        (open, far)
    }

    /// Whether a node knows that an image waits for a decision, wherever; then it isn't ready there.
    pub fn sees_conflict(&self, at: usize, name: &ImageName) -> bool {
        let (open, far) = self.conflicts(at, name);
        let seen = !open.is_empty() || !far.is_empty();
        if let Some(current) = self.members[at].current(name).filter(|_| seen && open.is_empty()) {
            let (wanted, stated) = (version_of(&current), self.stated(at, name));
            let torn = |s: &Stated| standing(&wanted, Some(&s.held)) == Standing::Diverged;
            assert!(stated.iter().any(torn), "{name}: a conflict, and {at} says that it is ready");
        }
        seen
    }

    /// Somebody at any node decides a conflict that is seen there, whoever has met it.
    pub fn decide(&mut self, at: usize, name: &ImageName) -> bool {
        let (open, far) = self.conflicts(at, name);
        if far.is_empty() {
            return self.resolve(at, name);
        }
        let (stated, us) = (self.stated(at, name), self.members[at].id());
        let also = relayed::lineages(&far, &stated);
        let (place, choice, also) = match self.rng.below((open.len() + far.len() + 1) as u64) {
            0 => (at, Choice::Local, also),
            nth if nth as usize <= open.len() => {
                (at, Choice::Kept(open[nth as usize - 1].serial), also)
            }
            nth => {
                let root = far[nth as usize - open.len() - 1].rival.root;
                let current = self.members[at].current(name).expect("it has diverged");
                let kept = open.iter().map(|kept| &kept.generation.lineage).chain(&also);
                let all = kept.fold(current.lineage, |all, one| all.merge(one).expect("few"));
                let node = relayed::carrier(&stated, &[root]).expect("who keeps it can");
                let there = self.members.iter().position(|member| member.id() == node);
                let there = there.expect("a member");
                (there, self.asked(there, name, (&root, &all)), vec![all])
            }
        };
        let member = &self.members[place];
        let author = if place == at { us } else { member.id() };
        let made = conflict::resolve(&member.store, name, (&choice, &also), author, 1, &());
        let made = made.expect("nothing is in the way");
        self.announce(place, &made);
        true
    }

    /// What a node makes of being asked to end a conflict.
    fn asked(&self, at: usize, name: &ImageName, (root, decided): (&Root, &Lineage)) -> Choice {
        let member = &self.members[at];
        let current = member.current(name).expect("it keeps another");
        let open = conflict::open(&member.store, &current).expect("reads");
        let all = open.iter().map(|kept| &kept.generation.lineage).chain([&current.lineage]);
        assert!(relayed::was_known(decided, all), "{name}: {at} knows more than who decided");
        let kept = open.iter().find(|kept| kept.generation.root == *root);
        kept.map_or(Choice::Local, |kept| Choice::Kept(kept.serial))
    }

    /// The power fails at a node, and it starts again.
    pub fn crash(&mut self, at: usize) {
        let seed = self.rng.draw();
        let keep = *self.rng.pick(&Keep::ALL);
        let plan = CrashPlan { seed, keep, tear: seed.is_multiple_of(2) };
        let disk = self.members[at].disk.crash(plan);
        self.restart(at, disk);
    }

    fn restart(&mut self, at: usize, disk: SimDisk) {
        let near: Vec<usize> = (0..self.links.len())
            .filter(|link| other_end(self.links[*link], at).is_some())
            .collect();
        near.iter().for_each(|link| self.set_link(*link, false));
        self.members[at].open(disk);
        self.introduce(at);
        near.iter().for_each(|link| self.set_link(*link, true));
    }

    /// A backup of a node's disk is made.
    pub fn back_up(&mut self, at: usize) {
        let plan = CrashPlan { seed: 0, keep: Keep::Everything, tear: false };
        self.members[at].backup = Some(self.members[at].disk.crash(plan));
    }

    /// The disk of a node is set back to its backup, and nobody tells the node. Links stay down.
    pub fn set_back(&mut self, at: usize) -> bool {
        let Some(disk) = self.members[at].backup.take() else { return false };
        let near = (0..self.links.len()).filter(|l| other_end(self.links[*l], at).is_some());
        near.collect::<Vec<_>>().into_iter().for_each(|link| self.set_link(link, false));
        self.members[at].open(disk);
        self.introduce(at);
        self.members[at].rewound = true;
        true
    }

    /// Whether a node was set back and hasn't met anybody who knows.
    pub fn is_rewound(&self, at: usize) -> bool {
        self.members[at].rewound
    }

    /// One transfer that some backlog has due; `false`: there is none, now or later.
    pub fn step(&mut self, faults: bool) -> bool {
        let first = self.rng.below(self.members.len() as u64) as usize;
        for turn in 0..self.members.len() {
            let at = (first + turn) % self.members.len();
            let now = self.now();
            if let Some((key, _)) = self.members[at].backlog.poll_offer(now) {
                self.transfer(at, &key, faults);
                return true;
            }
        }
        let wakes = self.members.iter().filter_map(|member| member.backlog.next_wake());
        let Some(wake) = wakes.min() else { return false };
        self.elapsed = wake.saturating_duration_since(self.start);
        true
    }

    fn transfer(&mut self, from: usize, key: &Key, faults: bool) {
        self.transfers += 1;
        let to = self.members.iter().position(|member| member.id() == key.peer);
        let to = to.expect("a peer is a member");
        let trouble = if faults { self.rng.below(12) } else { u64::MAX };
        let frames = if trouble == 0 { 1 + self.rng.below(8) } else { u64::MAX };
        let crashes = [(1, from), (2, to)].into_iter().find(|(n, _)| *n == trouble);
        if let Some((_, at)) = crashes {
            let disk = &self.members[at].disk;
            disk.cut_after(disk.ops() + self.rng.below(80) as usize);
        }
        let rng = self.rng.fork();
        let ours = self.members[to].current(&key.image);
        let (broken, third) = (self.later_wins, NodeId::from_bytes([9; 32]));
        let (sender, receiver) = (&self.members[from], &self.members[to]);
        let hop = Hop {
            stores: [&sender.store, &receiver.store],
            keys: [sender.key, receiver.key],
            name: &key.image,
            frames,
            tamper: Box::new(move |message| {
                if let (true, Message::Offer(offer), Some(ours)) = (broken, message, &ours)
                    && offer.lineage.compare(&ours.lineage) == Order::Concurrent
                    && offer.root != ours.root
                    && offer.recorded_unix_ms > ours.recorded_unix_ms
                {
                    let all = offer.lineage.merge(&ours.lineage).expect("few writers");
                    offer.lineage = all.bump(third).expect("few writers");
                }
            }),
        };
        let (ended, _) = hop.run(rng, &mut self.trace);
        self.settle(from, key, &ended);
        if let Some((_, at)) = crashes {
            self.crash(at);
        }
        if let Some(now) = self.members[to].current(&key.image) {
            self.announce(to, &now);
        }
    }

    /// What the service makes of a transfer's end at the offerer.
    fn settle(&mut self, from: usize, key: &Key, ended: &Ended) {
        let now = self.now();
        let member = &mut self.members[from];
        let setback = match ended {
            Ended::Receipt => {
                let head = member.backlog.head(&key.store, &key.image).cloned();
                let current = member.current(&key.image);
                let (Some(head), Some(current)) = (head, current) else { return };
                assert_eq!(head.version, version_of(&current), "it moved under a transfer");
                let noted =
                    member.store.note_receipt(key.peer, &key.image, current.number, current.root);
                // Its disk may be cut off by now.
                if noted.is_ok() {
                    let (number, root) = (current.number, current.root);
                    member.backlog.handle_receipt(key.clone(), number, root);
                    return;
                }
                Setback::Lost
            }
            Ended::Refused(code) | Ended::Failed(code) => {
                let known = Refusal::ALL.iter().find(|refusal| refusal.code() == code);
                setback_of_refusal(known.copied().unwrap_or(Refusal::Internal))
            }
            Ended::Cut | Ended::Crashed(_) => Setback::Lost,
        };
        member.backlog.handle_setback(key, setback, now);
    }

    /// The faults are over: all links are up, and what is due travels. Gives whether it ended.
    pub fn converge(&mut self, most: u64) -> bool {
        (0..self.links.len()).for_each(|link| self.set_link(link, true));
        (0..most).any(|_| !self.step(false))
    }
}

fn other_end((a, b, up): (usize, usize, bool), at: usize) -> Option<usize> {
    match (up, a == at, b == at) {
        (true, true, _) => Some(b),
        (true, _, true) => Some(a),
        _ => None,
    }
}

/// A mesh, a hub with spokes, a chain, a ring, or a tree with some more links: all connected.
fn topology(count: usize, rng: &mut Rng) -> Vec<(usize, usize)> {
    let chain = (1..count).map(|at| (at - 1, at));
    match rng.below(5) {
        0 => (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect(),
        1 => (1..count).map(|at| (0, at)).collect(),
        2 => chain.collect(),
        3 if count > 2 => {
            chain.chain([(count - 1, 0)]).map(|(a, b)| (a.min(b), a.max(b))).collect()
        }
        _ => {
            let tree = (1..count).map(|at| (rng.below(at as u64) as usize, at));
            let mut links: BTreeSet<(usize, usize)> = tree.collect();
            for _ in 0..rng.below(3) {
                let (a, b) = (rng.below(count as u64) as usize, rng.below(count as u64) as usize);
                if a != b {
                    links.insert((a.min(b), a.max(b)));
                }
            }
            links.into_iter().collect()
        }
    }
}
