//! Limit: what is in force now, and the gate that everything sent passes.
//!
//! The decisions are those of `rates` (which limit), `overrides` (what was ordered) and `pace` (whose
//! turn); this holds the clock, the lock and the sleeping. One task looks again at every edge of a
//! calendar, at every order, and often enough to notice that the wall clock has jumped. Transfers
//! wait in [`Flow::may_send`] and are woken by every change. Control traffic doesn't wait; what a
//! connection sent while a transfer runs on it is counted whatever it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blockferry_delta::NodeId;
use blockferry_wire::Lane;
use quinn::Connection;
use tokio::sync::{Notify, watch};

use crate::admin::orders;
use crate::backlog::Key;
use crate::budget;
use crate::core::{Core, blocking, lock};
use crate::error::{Error, Result};
use crate::events::{Note, now_unix_ms};
use crate::link::congestion;
use crate::link::windows::send_window;
use crate::rate::calendar::Rate;
use crate::rate::overrides::{Override, Overrides, Scope};
use crate::rate::pace::{Ask, Meter, Pacer, slice_bytes, wire_bytes};
use crate::rate::rates::{Cap, Hold, InForce, Rates, Verdict};
use crate::rate::turns::Whose;

/// Bytes of a datagram that a stream's payload doesn't get, at most, beside the UDP header.
const OVERHEAD_BYTES_MAX: usize = 60;
/// What is held looks this often whether others wait for what it keeps.
const HOLD_LOOK: Duration = Duration::from_millis(500);
/// Slices that are given at once, at most: what a timer that is late has to make good.
const SLICES_MAX: u32 = 64;

/// What is in force, and who waits for it.
pub(crate) struct Limit {
    /// A transfer that may not send is held open this long.
    hold: Duration,
    state: Mutex<State>,
    /// Counts what came into force.
    changed: watch::Sender<u64>,
    /// Something was ordered, or somebody waits: look again.
    wake: Notify,
    /// Whoever changes the orders has it until they are written and in force: two who wrote at once
    /// might leave the older ones on disk.
    ordering: Arc<tokio::sync::Mutex<()>>,
    waited_micros: AtomicU64,
    /// The same by peer.
    waits: Mutex<BTreeMap<NodeId, Arc<AtomicU64>>>,
}

/// Where a flow waits.
#[derive(Default)]
struct Gate {
    wake: Notify,
    /// Slices that it may send.
    given: AtomicU32,
}

struct State {
    rates: Arc<Rates>,
    in_force: Arc<InForce>,
    /// `rates` is newer than `in_force`.
    stale: bool,
    pacer: Pacer,
    /// Who is to be woken, by flow; and how many slices it was given.
    gates: BTreeMap<u64, Arc<Gate>>,
    /// What each flow is and where it goes.
    manners: BTreeMap<u64, (Scope, Connection)>,
    flows: u64,
    /// By connection, with the number of its flows.
    meters: BTreeMap<usize, (usize, Meter)>,
}

impl State {
    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let (flows, next) = self.pacer.poll(now);
        for (flow, slices) in flows {
            if let Some(gate) = self.gates.get(&flow) {
                gate.given.store(slices, Ordering::Relaxed);
                gate.wake.notify_one();
            }
        }
        next
    }

    /// Brings what is in force up to date; `true`: it has changed.
    fn refresh(&mut self, now_unix_ms: i64, now: Instant) -> bool {
        let decided = self.in_force.unix_ms();
        let over = self.in_force.until_unix_ms().is_some_and(|until| now_unix_ms >= until);
        // A clock that was put back may have passed an edge the other way.
        if !(self.stale || over || now_unix_ms < decided) {
            return false;
        }
        self.stale = false;
        self.in_force = Arc::new(self.rates.at(now_unix_ms));
        let in_force = &self.in_force;
        let rates = in_force.caps().into_iter().map(|cap| {
            let rate = in_force.rate_of(&cap);
            (cap, rate)
        });
        self.pacer.set_rates(rates, now);
        self.mind_manners();
        true
    }

    /// Each connection gets the manner that is in force for what runs on it: polite if any of it is
    /// to be, for other traffic can't tell them apart.
    fn mind_manners(&self) {
        let mut polite: BTreeMap<usize, (&Connection, bool)> = BTreeMap::new();
        for (scope, connection) in self.manners.values() {
            let entry = polite.entry(connection.stable_id()).or_insert((connection, false));
            entry.1 |= self.in_force.verdict(scope).polite;
        }
        for (connection, polite) in polite.into_values() {
            congestion::set_polite(connection, polite);
        }
    }
}

impl Limit {
    pub(crate) fn new(rates: Rates, hold: Duration) -> Self {
        let rates = Arc::new(rates);
        let in_force = Arc::new(rates.at(now_unix_ms()));
        let (pacer, gates, manners, meters) = Default::default();
        let (stale, flows) = (true, 0);
        let state = State { rates, in_force, stale, pacer, gates, manners, flows, meters };
        Self {
            hold,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            ordering: Arc::default(),
            waited_micros: AtomicU64::new(0),
            waits: Mutex::default(),
        }
    }

    /// How long streams have waited for their turn, all together.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_micros.load(Ordering::Relaxed))
    }

    /// The send window of a connection for its congestion window, in bytes.
    pub(crate) fn send_window(&self, congestion: u64) -> u64 {
        send_window(congestion, lock(&self.state).meters.len())
    }

    /// Changes what limits; it is in force before this returns.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Rates) -> T) -> T {
        let result = {
            let mut state = lock(&self.state);
            state.stale = true;
            change(Arc::make_mut(&mut state.rates))
        };
        self.refresh();
        self.wake.notify_one();
        result
    }

    /// Changes the orders: what `change` makes of them is written by `keep`, which may block, and
    /// is in force before this returns. Whoever stops waiting for it leaves nothing half done.
    ///
    /// # Errors
    /// `change` refuses, or `keep` fails: then the orders are what they were.
    pub(crate) async fn order<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Overrides) -> Result<T>,
        keep: impl FnOnce(&[Override]) -> Result<()> + Send + 'static,
    ) -> Result<T> {
        let turn = self.ordering.clone().lock_owned().await;
        let before = lock(&self.state).rates.clone();
        let mut orders = before.overrides.clone();
        let result = change(&mut orders)?;
        if orders == before.overrides {
            return Ok(result);
        }
        let limit = self.clone();
        let job = move || {
            keep(orders.list())?;
            limit.change(|rates| rates.overrides = orders);
            drop(turn);
            Ok(())
        };
        blocking("noting an order", job).await?;
        Ok(result)
    }

    /// What was pushed in a lane of its own is there.
    pub(crate) fn arrived(&self, key: &Key) {
        if self.in_force().rates().pushed.contains_key(key) {
            self.change(|rates| rates.pushed.remove(key));
        }
    }

    /// What is in force.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        lock(&self.state).in_force.clone()
    }

    /// What is in force for something.
    pub(crate) fn verdict(&self, scope: &Scope) -> Verdict {
        self.in_force().verdict(scope)
    }

    /// How long streams to a peer have waited for their turn, all together.
    pub(crate) fn waited_for(&self, peer: NodeId) -> Duration {
        let waits = lock(&self.waits);
        let micros = waits.get(&peer).map_or(0, |micros| micros.load(Ordering::Relaxed));
        Duration::from_micros(micros)
    }

    fn refresh(&self) -> bool {
        let changed = lock(&self.state).refresh(now_unix_ms(), Instant::now());
        if changed {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        changed
    }

    /// Lets those pass whose turn it is; when to look again.
    fn poll(&self) -> Option<Instant> {
        lock(&self.state).poll(Instant::now())
    }

    /// How long nothing comes into force by the clock.
    fn quiet(&self) -> Duration {
        let Some(until) = self.in_force().until_unix_ms() else { return Duration::MAX };
        let left = u64::try_from(until.saturating_sub(now_unix_ms())).unwrap_or(0);
        Duration::from_millis(left).min(budget::CLOCK_LOOK)
    }
}

/// Keeps what is in force up to date and wakes those who wait for it, until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let limit = core.limit.clone();
    let mut changed = limit.changed.subscribe();
    let mut before = limit.in_force();
    announce(&core, None, &before);
    loop {
        limit.refresh();
        if changed.has_changed().unwrap_or(false) {
            changed.mark_unchanged();
            let now = limit.in_force();
            announce(&core, Some(&before), &now);
            expire(&core).await;
            before = now;
        }
        let next = limit.poll();
        let pace = next.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let pause = pace.min(limit.quiet()).min(core.live().rescan);
        tokio::select! {
            () = core.stopped() => return,
            () = limit.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells the backlog, the log and whoever follows the events.
fn announce(core: &Core, before: Option<&Arc<InForce>>, now: &Arc<InForce>) {
    lock(&core.backlog).handle_rates(now.clone());
    core.workers.handle_rates(now.clone());
    core.wake();
    for (name, decision) in now.decisions() {
        let old = before.and_then(|b| b.decisions().get(name)).map(|d| d.now);
        if old != Some(decision.now) {
            let text = orders::sentence(name, decision);
            core.events.note(Note::info("SCHEDULE", text));
        }
    }
}

/// Forgets the orders whose time is over.
async fn expire(core: &Arc<Core>) {
    let now = now_unix_ms();
    let first = core.limit.in_force().rates().overrides.next_end(i64::MIN);
    if first.is_none_or(|end| now < end) {
        return;
    }
    match order(core, |all| Ok(all.expire(now))).await {
        Ok(over) => over.iter().for_each(|order| {
            let what = orders::describe(core, order);
            core.events.note(Note::info("ORDER_ENDED", format!("{what}: its time is over")));
        }),
        Err(error) => core.events.note(Note::warning(error.code(), error.to_string())),
    }
}

/// Changes the orders, in the ledger and then in force.
///
/// # Errors
/// `change` refuses, or it can't be written: then the orders are what they were.
pub(crate) async fn order<T>(
    core: &Core,
    change: impl FnOnce(&mut Overrides) -> Result<T>,
) -> Result<T> {
    let ledger = core.ledger.clone();
    core.limit.order(change, move |list| ledger.keep_overrides(list)).await
}

/// What a transfer that stands still keeps from others: the room that its packs take.
pub(crate) trait Room: Send + Sync {
    /// Whether it has packs, made or not.
    fn is_used(&self) -> bool;
    /// Whether it is paused or stalled and what it holds is what others wait for.
    fn is_in_the_way(&self) -> bool;
    /// Its stream takes nothing, or something again.
    fn stalled(&self, stalled: bool);
}

/// One transfer's way through the gate.
pub(crate) struct Flow {
    limit: Arc<Limit>,
    id: u64,
    scope: Scope,
    connection: Connection,
    changed: watch::Receiver<u64>,
    gate: Arc<Gate>,
    whose: Whose,
    caps: Vec<Cap>,
    rate: Rate,
    hold: Option<Hold>,
    /// It has told the pacer that it has something to send.
    begun: bool,
    window_at: Option<Instant>,
    /// Where the connection led when its manner was set.
    remote: SocketAddr,
    /// What its packs take.
    room: Arc<dyn Room>,
    /// What it waited, with what others to the same peer did, in microseconds.
    waited: Arc<AtomicU64>,
}

impl Flow {
    /// What a transfer of `key` sends on `connection`.
    pub(crate) fn new(
        limit: Arc<Limit>,
        key: &Key,
        connection: Connection,
        room: Arc<dyn Room>,
    ) -> Self {
        let (gate, scope) = (Arc::new(Gate::default()), Scope::from(key));
        let remote = connection.remote_address();
        let id = {
            let mut state = lock(&limit.state);
            state.flows += 1;
            let id = state.flows;
            state.gates.insert(id, gate.clone());
            state.manners.insert(id, (scope.clone(), connection.clone()));
            state.mind_manners();
            let meter = state.meters.entry(connection.stable_id());
            meter.or_insert_with(|| (0, Meter::new(sent_bytes(&connection)))).0 += 1;
            id
        };
        let mut changed = limit.changed.subscribe();
        changed.mark_changed();
        let whose = Whose { peer: key.peer, weight: 1, lane: Lane::Normal };
        let (caps, rate, hold, window_at) = (Vec::new(), Rate::Pause, None, None);
        let waited = lock(&limit.waits).entry(key.peer).or_default().clone();
        Self {
            limit,
            id,
            scope,
            connection,
            changed,
            gate,
            whose,
            caps,
            rate,
            hold,
            begun: false,
            window_at,
            remote,
            room,
            waited,
        }
    }

    /// Its lane among the streams of one connection: what QUIC sends first. Control is above all.
    pub(crate) fn priority(&self) -> i32 {
        -i32::from(self.whose.lane.number())
    }

    /// There is nothing to send until [`Flow::may_send`] is asked again.
    pub(crate) fn rest(&mut self) {
        self.begun = false;
        let mut state = lock(&self.limit.state);
        let now = Instant::now();
        state.pacer.rest(self.id, &self.whose.peer, now);
    }

    /// Waits until some of `wanted` bytes of a stream may be sent, and says how many.
    ///
    /// # Errors
    /// Nothing may be sent for longer than a transfer is held open.
    pub(crate) async fn may_send(&mut self, wanted: usize) -> Result<usize> {
        let mut held: Option<Instant> = None;
        loop {
            if self.changed.has_changed().unwrap_or(false) {
                self.review();
            }
            if let Some(hold) = self.hold {
                self.rest();
                let since = *held.get_or_insert_with(Instant::now);
                self.stay_held(hold, since).await?;
                continue;
            }
            self.follow_window();
            let packet = self.packet();
            let slice = wanted.min(slice_bytes(self.rate, packet));
            if self.ask(slice, wanted, packet) {
                return Ok(slice);
            }
            self.limit.wake.notify_one();
            let since = Instant::now();
            let named = tokio::select! {
                () = self.gate.wake.notified() => true,
                _ = self.changed.changed() => {
                    self.changed.mark_changed();
                    lock(&self.limit.state).pacer.cancel(self.id);
                    false
                }
            };
            let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.limit.waited_micros.fetch_add(micros, Ordering::Relaxed);
            self.waited.fetch_add(micros, Ordering::Relaxed);
            if named {
                return Ok(self.passed(slice, packet).min(wanted));
            }
        }
    }

    /// Ends when the transfer is to be given up although it has nothing to send: it waits for a pack,
    /// and what is held gets none.
    pub(crate) async fn held_idle(&mut self) -> Error {
        let mut held: Option<Instant> = None;
        loop {
            if self.changed.has_changed().unwrap_or(false) {
                self.review();
            }
            match self.hold {
                Some(hold) if self.room.is_used() => {
                    let since = *held.get_or_insert_with(Instant::now);
                    if let Err(error) = self.stay_held(hold, since).await {
                        return error;
                    }
                    continue;
                }
                // It may come to need one.
                Some(_) => drop(tokio::time::timeout(HOLD_LOOK, self.changed.changed()).await),
                None => drop(self.changed.changed().await),
            }
            held = None;
            self.changed.mark_changed();
        }
    }

    /// Waits for some of the time that a transfer is held.
    ///
    /// # Errors
    /// It has been held for too long, or others wait for what it keeps.
    async fn stay_held(&mut self, hold: Hold, since: Instant) -> Result<()> {
        let lasted = since.elapsed();
        let left = self.limit.hold.saturating_sub(lasted);
        if left.is_zero() || (lasted >= HOLD_LOOK && self.room.is_in_the_way()) {
            return Err(Error::Held { paused: hold == Hold::Paused });
        }
        lock(&self.limit.state).pacer.forgo(self.id);
        let now = Instant::now();
        let _changed = tokio::time::timeout(left.min(HOLD_LOOK), self.changed.changed()).await;
        let micros = u64::try_from(now.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
        // Seen by the next look.
        self.changed.mark_changed();
        Ok(())
    }

    /// What its packs take.
    pub(crate) fn room(&self) -> &dyn Room {
        self.room.as_ref()
    }

    /// What the slices come to that were given; what the meter wasn't told yet it learns now.
    fn passed(&self, slice: usize, packet: usize) -> usize {
        let given = self.gate.given.load(Ordering::Relaxed).max(1);
        if given > 1 {
            let mut state = lock(&self.limit.state);
            if let Some((_, meter)) = state.meters.get_mut(&self.connection.stable_id()) {
                meter.promise(wire_bytes(slice, packet).saturating_mul(u64::from(given - 1)));
            }
        }
        slice.saturating_mul(usize::try_from(given).unwrap_or(1))
    }

    /// Whether a slice may go at once.
    fn ask(&mut self, slice: usize, wanted: usize, packet: usize) -> bool {
        let mut state = lock(&self.limit.state);
        if !self.begun {
            self.begun = true;
            state.pacer.begin(self.id, self.whose.peer, self.whose.lane);
        }
        if !state.pacer.limits(&self.whose.peer, &self.caps) {
            return true;
        }
        let sent = sent_bytes(&self.connection);
        let wire_bytes = wire_bytes(slice, packet);
        let counted = match state.meters.get_mut(&self.connection.stable_id()) {
            Some((_, meter)) => meter.count(wire_bytes, sent),
            None => wire_bytes,
        };
        let now = Instant::now();
        let ask = Ask {
            whose: self.whose,
            caps: self.caps.clone(),
            wire_bytes,
            extra_bytes: counted.saturating_sub(wire_bytes),
            slices: u32::try_from(wanted / slice.max(1)).unwrap_or(u32::MAX).clamp(1, SLICES_MAX),
        };
        state.pacer.ask(self.id, ask);
        // Whoever is named, us included, passes its gate.
        state.poll(now);
        false
    }

    fn review(&mut self) {
        self.changed.mark_unchanged();
        let verdict = self.limit.verdict(&self.scope);
        (self.caps, self.rate, self.hold) = (verdict.caps, verdict.rate, verdict.hold);
        (self.whose.weight, self.whose.lane) = (verdict.weight, verdict.lane);
        // In another lane it begins anew.
        self.begun = false;
    }

    /// Payload bytes that fit one packet.
    fn packet(&self) -> usize {
        usize::from(self.connection.stats().path.current_mtu).saturating_sub(OVERHEAD_BYTES_MAX)
    }

    /// What waits in the send window goes out whatever is ordered: it is kept as small as the link
    /// allows without running dry.
    fn follow_window(&mut self) {
        let now = Instant::now();
        if self.window_at.is_some_and(|at| now - at < budget::SEND_WINDOW_EVERY) {
            return;
        }
        self.window_at = Some(now);
        let congestion = self.connection.stats().path.cwnd;
        self.connection.set_send_window(self.limit.send_window(congestion));
        // For most new addresses QUIC makes a new controller, which knows of no manner.
        let remote = self.connection.remote_address();
        if remote != self.remote {
            self.remote = remote;
            lock(&self.limit.state).mind_manners();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut state = lock(&self.limit.state);
        state.pacer.end(self.id, &self.whose.peer);
        state.gates.remove(&self.id);
        state.manners.remove(&self.id);
        state.mind_manners();
        let connection = self.connection.stable_id();
        if let Some((flows, _)) = state.meters.get_mut(&connection) {
            *flows -= 1;
            if *flows == 0 {
                state.meters.remove(&connection);
            }
        }
    }
}

/// What a connection has sent so far as it appeared on the wire: with the headers of UDP and IP.
pub(crate) fn sent_bytes(connection: &Connection) -> u64 {
    let sent = connection.stats().udp_tx;
    let four = match connection.remote_address().ip() {
        std::net::IpAddr::V4(_) => true,
        std::net::IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    sent.bytes + sent.datagrams * if four { 28 } else { 48 }
}

#[cfg(test)]
mod tests;
