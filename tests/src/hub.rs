//! A hub in one thread: hundreds of stores, dozens of branches that share all of them and hold what
//! it holds, and as many hours as are wanted, without a network, a disk or a clock.
//!
//! What decides is the service's own: the backlog, the control streams, the book of statements and
//! its feeds, rates and pacer, forecast, trends, watermarks, settling and deletions. What wakes
//! them is here, as the tasks of the service do it and at their intervals (`tasks.rs`,
//! `session.rs`); branches are stand-ins (`branch.rs`). Everything that is said and everything that
//! wakes is counted.

mod branch;
mod scene;
mod session;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_delta::{NodeId, StoreId};
use blockferry_node::backlog::{Backlog, Head, Key};
use blockferry_node::lineage::deletions::Deletions;
use blockferry_node::local::settle::Settle;
use blockferry_node::monitoring::trends::Trends;
use blockferry_node::monitoring::watermarks::Levels;
use blockferry_node::planner::misses::Misses;
use blockferry_node::promotion::statements::{Book, Taken};
use blockferry_node::rate::calendar::{Calendar, Rate, Rule, When, Zone};
use blockferry_node::rate::pace::Pacer;
use blockferry_node::rate::rates::{Allowance, InForce, Rates};

use crate::rng::Rng;
use branch::Branch;
use scene::Scene;
use session::Line;
use tasks::Task;

/// The wall clock at the start: a Friday in March, some minutes before midnight, in milliseconds.
const START_UNIX_MS: i64 = 1_804_895_000_000;
/// Branches connect within this time after a start.
const CONNECT_MS: u64 = 2000;
/// What a branch's link takes, in bits per second.
const LINK_BITS: u64 = 20_000_000;
/// A change must rest so long.
const QUIET: Duration = Duration::from_secs(30);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Stores of the hub.
    pub stores: usize,
    /// Branches, each with all stores.
    pub peers: usize,
    /// Images of each store.
    pub images: usize,
    /// Delays and moments of connecting follow from it.
    pub seed: u64,
    /// A broken build: at each look at a store every branch is told again what is held of it.
    pub polls_pairs: bool,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages on control streams, both ways.
    pub messages: u64,
    /// Their frames, in bytes.
    pub bytes: u64,
    /// Tasks that were woken, by time or by each other; each sign of life of a connection is one.
    pub wakes: u64,
    /// Times that something which decides was asked or told something.
    pub polls: u64,
    /// Offers made.
    pub offers: u64,
}

impl Counts {
    /// What has happened since `before`.
    #[must_use]
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            messages: self.messages - before.messages,
            bytes: self.bytes - before.bytes,
            wakes: self.wakes - before.wakes,
            polls: self.polls - before.polls,
            offers: self.offers - before.offers,
        }
    }
}

/// Something that happens at a time.
#[derive(Debug)]
enum Event {
    /// A branch dials.
    Connects(usize),
    /// A frame of a branch arrives.
    AtHub(usize, Vec<u8>),
    /// A frame arrives at a branch.
    AtBranch(usize, Vec<u8>),
    /// The hub may say more to a branch.
    HubSpeaks(usize),
    /// A branch may say more.
    BranchSpeaks(usize),
    /// A branch had its time to say what it holds.
    Late(usize),
    /// A branch has a store's images.
    Received(usize, usize),
    /// A task is woken by time; those of another number were woken otherwise meanwhile.
    Task(Task, u64),
}

/// A store of the hub.
struct Served {
    settle: Settle,
    deletions: Deletions,
}

/// The hub, its branches and the time.
pub struct Hub {
    plan: Plan,
    scene: Scene,
    stores: Vec<Served>,
    branches: Vec<Branch>,
    lines: Vec<Line>,
    backlog: Backlog,
    book: Book,
    /// Statements for which the book had no room.
    refused: u64,
    /// Where each branch is to go on: its list, and the last place of it that came.
    heard: BTreeMap<(NodeId, StoreId), (u64, u64)>,
    rates: Arc<Rates>,
    in_force: Arc<InForce>,
    pacer: Pacer,
    misses: Misses,
    trends: Trends,
    /// Of backlogs, and of stagings.
    above: [Levels; 2],
    begun: Instant,
    now: Duration,
    /// When the last message was said.
    last_said: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    /// The sleep of the task that makes offers.
    sleep: u64,
    /// Something has changed since the last look ahead.
    changed: bool,
    woken: bool,
    counts: Counts,
    kinds: BTreeMap<(bool, &'static str), u64>,
}

/// By day little, by night everything.
fn calendar() -> Calendar {
    let when = When::Often {
        days: "Mon-Sun".parse().expect("days"),
        dates: Vec::new(),
        from: "18:00".parse().expect("a time"),
        to: "06:00".parse().expect("a time"),
    };
    let night = Rule { when, rate: Rate::Unlimited, polite: None };
    let zone = Zone::named("Europe/Oslo").expect("a zone");
    let default = Rate::Limited(5_000_000);
    Calendar { zone, default, polite: false, dfsr: None, rules: vec![night] }
}

fn rates(scene: &Scene) -> Rates {
    let (schedule, plain) = (Some("night".to_owned()), Allowance::default);
    Rates {
        node: Allowance { schedule, ..plain() },
        stores: scene.stores.iter().map(|(_, name)| (name.clone(), plain())).collect(),
        peers: scene.branches.iter().map(|who| (who.id, plain())).collect(),
        calendars: [("night".to_owned(), Arc::new(calendar()))].into(),
        ..Rates::default()
    }
}

impl Hub {
    /// A hub that starts with what its catalogs and its ledger have, while nobody is connected yet.
    pub fn start(plan: Plan) -> Hub {
        let scene = Scene::new(plan.stores, plan.peers, plan.images);
        let rates = Arc::new(rates(&scene));
        let mut rng = Rng::new(plan.seed);
        let store = |_| Served { settle: Settle::new(QUIET), deletions: Deletions::new(QUIET) };
        let mut hub = Hub {
            plan,
            stores: (0..plan.stores).map(store).collect(),
            branches: scene.branches.iter().map(|who| Branch::new(*who)).collect(),
            lines: (0..plan.peers).map(|_| Line::new(&mut rng)).collect(),
            backlog: Backlog::default(),
            book: Book::new(rng.draw()),
            refused: 0,
            heard: BTreeMap::new(),
            in_force: Arc::new(rates.at(START_UNIX_MS)),
            rates,
            pacer: Pacer::default(),
            misses: Misses::default(),
            trends: Trends::default(),
            above: Default::default(),
            begun: Instant::now(),
            now: Duration::ZERO,
            last_said: Duration::ZERO,
            queue: BTreeMap::new(),
            events: 0,
            sleep: 0,
            changed: false,
            woken: false,
            counts: Counts::default(),
            kinds: BTreeMap::new(),
            scene,
        };
        hub.load();
        hub.begin_tasks();
        for peer in 0..plan.peers {
            let at = Duration::from_millis(rng.below(CONNECT_MS));
            hub.at(at, Event::Connects(peer));
        }
        hub
    }

    /// Peers of the configuration, heads and receipts of the catalogs, statements of the ledger.
    fn load(&mut self) {
        let scene = &self.scene;
        for who in &scene.branches {
            let names = scene.stores.iter().map(|(_, name)| name.clone()).collect();
            self.backlog.handle_peer(who.id, names);
        }
        for (store, (_, name)) in scene.stores.iter().enumerate() {
            for (image, image_name) in scene.images.iter().enumerate() {
                let version = scene.version(store, image);
                for who in &scene.branches {
                    let (peer, store, image) = (who.id, name.clone(), image_name.clone());
                    let key = Key { peer, store, image };
                    self.backlog.handle_receipt(key, version.number, version.root);
                }
                self.backlog.handle_head(
                    name.clone(),
                    image_name.clone(),
                    scene.head(store, image),
                );
            }
        }
        for store in 0..scene.stores.len() {
            for who in [scene.hub].iter().chain(&scene.branches) {
                for signed in scene.statements(*who, store) {
                    let full = self.book.take(signed, None) == Taken::Full;
                    self.refused += u64::from(full);
                }
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.happen(event);
            if std::mem::take(&mut self.woken) {
                self.offers();
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connects(peer) => self.connects(peer),
            Event::AtHub(peer, frame) => self.at_hub(peer, &frame),
            Event::AtBranch(peer, frame) => {
                self.branches[peer].take(&frame, &self.scene);
                self.branch_may_speak(peer);
            }
            Event::HubSpeaks(peer) => self.hub_speaks(peer),
            Event::BranchSpeaks(peer) => self.branch_speaks(peer),
            Event::Late(peer) => self.late(peer),
            Event::Received(peer, store) => self.received(peer, store),
            Event::Task(task, sleep) => self.task(task, sleep),
        }
    }

    /// An image of a store changes at the hub, and is recorded.
    pub fn change(&mut self, store: usize) {
        self.scene.numbers[store] += 1;
        let name = self.scene.stores[store].1.clone();
        for image in 0..self.scene.images.len() {
            let (image_name, head) =
                (self.scene.images[image].clone(), self.scene.head(store, image));
            self.polled(1);
            self.backlog.handle_head(name.clone(), image_name, head);
            for peer in 0..self.plan.peers {
                self.announce(peer, store, image);
            }
            let signed = self.scene.holding(self.scene.hub, store, image);
            self.taken_up(signed, None);
        }
        self.wake();
        self.offers();
        self.woken = false;
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages by (said by the hub, kind).
    pub fn kinds(&self) -> &BTreeMap<(bool, &'static str), u64> {
        &self.kinds
    }

    /// When the last message was said, since the start.
    pub fn last_said(&self) -> Duration {
        self.last_said
    }

    /// Statements that the hub keeps, and those that it had no room for.
    pub fn statements(&self) -> (u64, u64) {
        (self.book.stores_after(0).count() as u64, self.refused)
    }

    /// Whether all branches are connected and lack nothing, and nobody waits for anything.
    pub fn is_settled(&self) -> bool {
        let up = self.lines.iter().all(|line| line.up);
        let idle = self.backlog.items().is_empty() && self.backlog.next_wake().is_none();
        let said = |event: &Event| !matches!(event, Event::Task(..));
        up && idle && !self.queue.values().any(said)
    }

    fn instant(&self) -> Instant {
        self.begun + self.now
    }

    fn unix_ms(&self) -> i64 {
        let ms = i64::try_from(self.now.as_millis()).expect("a few days");
        START_UNIX_MS + ms
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    fn polled(&mut self, times: usize) {
        self.counts.polls += times as u64;
    }

    /// Wakes the backlog and everybody who waits for something to change.
    fn wake(&mut self) {
        (self.woken, self.changed) = (true, true);
    }
}

impl Scene {
    /// The backlog's view of an image.
    fn head(&self, store: usize, image: usize) -> Head {
        let version = self.version(store, image);
        let changed_bytes = vec![(version.root, 1 << 20)];
        let size_bytes = self.entry(store, image).size_bytes;
        Head { version, size_bytes, recorded_unix_ms: START_UNIX_MS, changed_bytes }
    }
}
