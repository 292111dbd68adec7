//! The hub's tasks that wake by time, each as its loop in the service has it: who makes offers, the
//! rates in force, the look ahead, watermarks, trends, the look at each store, and the signs of
//! life of each connection. Where the service's task asks a value how long it may sleep, so does
//! this.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blockferry_delta::NodeId;
use blockferry_node::budget;
use blockferry_node::monitoring::trends::Look;
use blockferry_node::monitoring::watermarks::{BACKLOG_HIGH_BYTES, Marks};
use blockferry_node::planner::forecast::{Queue, Waiting, forecast};
use blockferry_node::rate::overrides::Scope;

use super::{Event, Hub, LINK_BITS};

/// How often stores are looked at and tasks wake at the latest, unless the configuration says
/// otherwise.
const RESCAN: Duration = Duration::from_secs(60);
/// How often watermarks are looked at.
const MARKS: Duration = Duration::from_secs(5);
const HIGH: Marks = Marks { high_bytes: BACKLOG_HIGH_BYTES, low_bytes: BACKLOG_HIGH_BYTES / 2 };

/// Who wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Offers,
    Rates,
    /// It has rested long enough to look ahead if something has changed.
    Ahead,
    /// Nothing had changed.
    AheadAtLast,
    Marks,
    Trends,
    /// At a store.
    Look(usize),
    /// Of a branch's connection.
    KeepAlive(usize),
}

impl Hub {
    pub(super) fn begin_tasks(&mut self) {
        let all = [Task::Rates, Task::Ahead, Task::Marks, Task::Trends];
        let looks = (0..self.plan.stores).map(Task::Look);
        for task in all.into_iter().chain(looks) {
            self.task_at(Duration::ZERO, task);
        }
        self.offers();
    }

    pub(super) fn task_at(&mut self, after: Duration, task: Task) {
        self.at(self.now + after, Event::Task(task, self.sleep));
    }

    pub(super) fn task(&mut self, task: Task, sleep: u64) {
        if task == Task::Offers && sleep != self.sleep {
            return; // It was woken otherwise meanwhile.
        }
        self.counts.wakes += u64::from(task != Task::Offers);
        match task {
            Task::Offers => self.offers(),
            Task::Rates => self.look_at_rates(),
            Task::Ahead if !self.changed => {
                self.task_at(budget::FORECAST_LONGEST, Task::AheadAtLast);
            }
            Task::Ahead | Task::AheadAtLast => self.look_ahead(),
            Task::Marks => self.look_at_marks(),
            Task::Trends => self.look_at_trends(),
            Task::Look(store) => self.look_at_store(store),
            Task::KeepAlive(_) => self.task_at(budget::KEEP_ALIVE, task),
        }
    }

    /// Makes all offers that there are, and sleeps until there may be others.
    pub(super) fn offers(&mut self) {
        self.counts.wakes += 1;
        let now = self.instant();
        loop {
            self.polled(1);
            let Some((key, _)) = self.backlog.poll_offer(now) else { break };
            self.offered(&key);
        }
        self.polled(1);
        let wake = self.backlog.next_wake().map(|at| at.saturating_duration_since(now));
        self.sleep += 1;
        self.task_at(wake.unwrap_or(RESCAN), Task::Offers);
    }

    fn look_at_rates(&mut self) {
        let (unix_ms, now) = (self.unix_ms(), self.instant());
        let over = self.in_force.until_unix_ms().is_some_and(|until| unix_ms >= until);
        if over || self.now.is_zero() {
            self.in_force = Arc::new(self.rates.at(unix_ms));
            let in_force = &self.in_force;
            let caps = in_force.caps().into_iter().map(|cap| (in_force.rate_of(&cap), cap));
            self.pacer.set_rates(caps.map(|(rate, cap)| (cap, rate)), now);
            self.backlog.handle_rates(in_force.clone());
            self.polled(3);
            self.wake();
        }
        self.polled(1);
        let (_, next) = self.pacer.poll(now);
        let pace = next.map_or(Duration::MAX, |at| at.saturating_duration_since(now));
        let quiet = self.in_force.until_unix_ms().map_or(Duration::MAX, |until| {
            let left = u64::try_from(until - unix_ms).unwrap_or(0);
            Duration::from_millis(left).min(budget::CLOCK_LOOK)
        });
        self.task_at(pace.min(quiet).min(RESCAN), Task::Rates);
    }

    fn look_ahead(&mut self) {
        self.changed = false;
        let mut queues: BTreeMap<NodeId, Queue> = BTreeMap::new();
        for item in self.backlog.items() {
            let (key, bytes, not_before_unix_ms) = (item.key, item.bytes, None);
            let under_way = self.backlog.progress(&key).is_some();
            let (peer, link_bits_per_second) = (key.peer, Some(LINK_BITS));
            let queue = Queue { peer, link_bits_per_second, waiting: Vec::new() };
            let (wire_bytes, changed_bytes) = (bytes, bytes);
            let waiting = Waiting { key, wire_bytes, changed_bytes, under_way, not_before_unix_ms };
            queues.entry(peer).or_insert(queue).waiting.push(waiting);
        }
        let queues = queues.into_values().collect();
        let ahead = forecast(&self.rates, queues, self.backlog.order(), self.unix_ms());
        assert_eq!(ahead.items().count(), self.backlog.items().len(), "something is left out");
        self.polled(2);
        let said = self.misses.peers();
        for peer in said {
            self.polled(1);
            self.misses.handle_forecast(peer, &[], self.unix_ms());
        }
        self.task_at(budget::FORECAST_EVERY, Task::Ahead);
    }

    fn look_at_marks(&mut self) {
        let mut lacks: BTreeMap<NodeId, u64> = BTreeMap::new();
        for item in self.backlog.items() {
            *lacks.entry(item.key.peer).or_default() += item.bytes;
        }
        for (number, who) in self.scene.branches.iter().enumerate() {
            let bytes = lacks.get(&who.id).copied().unwrap_or(0);
            self.above[0].handle(&format!("branch-{number:02}"), bytes, HIGH);
        }
        for (_, name) in &self.scene.stores {
            self.above[1].handle(name.as_str(), 0, HIGH);
        }
        self.polled(1 + self.plan.peers + self.plan.stores);
        self.task_at(MARKS, Task::Marks);
    }

    fn look_at_trends(&mut self) {
        let look = |scope: &Scope| Look {
            limit_bits_per_second: self.in_force.verdict(scope).rate.bits_per_second(),
            ..Look::default()
        };
        let of_peer = |id: NodeId| (id, look(&Scope::peer(id)));
        let peers = self.scene.branches.iter().map(|who| of_peer(who.id)).collect();
        let (all, seconds) = (look(&Scope::default()), self.unix_ms() / 1000);
        let items = self.backlog.items();
        let bytes = items.iter().map(|item| item.bytes).sum();
        let now = self.instant();
        self.trends.handle_look(now, seconds, all, &peers);
        self.trends.handle_backlog(seconds, bytes, items.len() as u64);
        self.polled(4 + self.plan.peers);
        self.task_at(budget::TRENDS_EVERY, Task::Trends);
    }

    /// Nothing has changed in it.
    fn look_at_store(&mut self, store: usize) {
        let (now, unix_ms) = (self.instant(), self.unix_ms());
        let images = self.scene.images.len();
        let served = &mut self.stores[store];
        served.settle.handle_seen(&[], now);
        served.deletions.handle_look(&[], images, now);
        assert_eq!(served.settle.poll_due(now, unix_ms), None);
        assert_eq!(served.deletions.poll_due(now), None);
        let settle = served.settle.next_wake(now, unix_ms);
        let wake = settle.into_iter().chain(served.deletions.next_wake(now)).min();
        self.polled(6);
        if self.plan.polls_pairs {
            for peer in 0..self.plan.peers {
                self.announce(peer, store, 0);
            }
        }
        self.task_at(wake.unwrap_or(RESCAN).min(RESCAN), Task::Look(store));
    }
}
