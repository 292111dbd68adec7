//! A link in which flows compete, for tests: a rate, a queue in bytes that drops what doesn't fit, a
//! delay, random losses, times without any connection.
//!
//! Deterministic, in steps of a tenth of a millisecond unless told otherwise. Senders do what QUIC and TCP do: they pace,
//! find out about losses by later acknowledgements, and after a long silence take all for lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::curve::{BETA, Curve};
use super::window::Window;
use super::{Acks, Loss, float};

pub(super) const MTU: u16 = 1452;
/// What a packet takes on the link.
const WIRE_BYTES: u64 = 1480;
const STEP: Duration = Duration::from_micros(100);
/// A later packet that many ahead means that one is lost.
const REORDERED: u64 = 3;
/// The longest that a receiver waits with an acknowledgement.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// Who decides how much is in flight.
pub(super) enum Control {
    Ferry(Box<Window>),
    Cubic(Cubic),
}

/// What TCP does.
pub(super) struct Cubic {
    bytes: f64,
    start: bool,
    curve: Curve,
    cut: Option<Instant>,
    acked: Instant,
}

impl Cubic {
    pub(super) fn new(now: Instant) -> Self {
        let bytes = 10.0 * f64::from(MTU);
        Self { bytes, start: true, curve: Curve::default(), cut: None, acked: now }
    }

    fn handle_acks(&mut self, acks: &Acks) {
        let used = acks.now - std::mem::replace(&mut self.acked, acks.now);
        if acks.app_limited || self.cut.is_some_and(|cut| acks.newest_sent <= cut) {
            return;
        }
        let acked = float(acks.bytes);
        self.bytes += if self.start {
            acked
        } else {
            let now = (self.bytes, acked, f64::from(MTU));
            self.curve.growth(now, used.min(acks.smoothed), acks.smoothed)
        };
    }

    fn handle_loss(&mut self, loss: &Loss) {
        if self.cut.is_some_and(|cut| loss.sent <= cut) {
            return;
        }
        let after = (self.bytes * BETA).max(2.0 * f64::from(MTU));
        self.curve.cut(self.bytes, after, f64::from(MTU));
        (self.bytes, self.start, self.cut) = (after, false, Some(loss.now));
        if loss.persistent {
            (self.bytes, self.start) = (2.0 * f64::from(MTU), true);
        }
    }
}

struct Sent {
    number: u64,
    at: Instant,
}

/// One sender and its receiver.
pub(super) struct Flow {
    pub(super) control: Control,
    /// Packets per acknowledgement.
    every: usize,
    /// From when on, and bytes per second that there are to send at most.
    pub(super) begins: Instant,
    pub(super) wants: f64,
    has: f64,
    next: u64,
    sent: VecDeque<Sent>,
    tokens: f64,
    smoothed: Option<Duration>,
    heard: Instant,
    arriving: VecDeque<(Instant, u64)>,
    pending: Vec<u64>,
    pending_since: Instant,
    /// When they come, what they confirm, and how long the receiver waited.
    answers: VecDeque<(Instant, Vec<u64>, Duration)>,
    newest_at: Instant,
    pub(super) delivered_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) lost_bytes: u64,
}

impl Flow {
    pub(super) fn new(control: Control, begins: Instant) -> Self {
        let every = if matches!(control, Control::Ferry(_)) { 10 } else { 2 };
        Self {
            control,
            every,
            begins,
            wants: f64::INFINITY,
            has: 0.0,
            next: 0,
            sent: VecDeque::new(),
            tokens: 0.0,
            smoothed: None,
            heard: begins,
            arriving: VecDeque::new(),
            pending: Vec::new(),
            pending_since: begins,
            answers: VecDeque::new(),
            newest_at: begins,
            delivered_bytes: 0,
            sent_bytes: 0,
            lost_bytes: 0,
        }
    }

    pub(super) fn window(&self) -> u64 {
        match &self.control {
            Control::Ferry(window) => window.bytes(),
            Control::Cubic(cubic) => cubic.bytes as u64,
        }
    }

    fn in_flight(&self) -> u64 {
        self.sent.len() as u64 * u64::from(MTU)
    }

    /// The receiver's part.
    fn receive(&mut self, now: Instant, delay: Duration) {
        let mut gap = false;
        while self.arriving.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, number)) = self.arriving.pop_front() else { break };
            self.delivered_bytes += WIRE_BYTES;
            if self.pending.is_empty() {
                self.pending_since = at;
            }
            self.newest_at = at;
            gap |= self.pending.last().is_some_and(|last| last + 1 != number);
            self.pending.push(number);
        }
        let late = !self.pending.is_empty() && now - self.pending_since >= ACK_DELAY;
        if self.pending.len() >= self.every || late || gap {
            let waited = now - self.newest_at;
            self.answers.push_back((now + delay, std::mem::take(&mut self.pending), waited));
        }
    }

    fn handle_answers(&mut self, now: Instant) {
        while self.answers.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, numbers, waited)) = self.answers.pop_front() else { break };
            self.heard = now;
            let largest = *numbers.last().expect("no empty answers");
            let acked = |sent: &Sent| numbers.binary_search(&sent.number).is_ok();
            let told = self.sent.partition_point(|s| s.number <= largest);
            let told: Vec<Sent> = self.sent.drain(..told).collect();
            let newest = told.iter().rev().find(|s| acked(s)).map(|s| s.at);
            let count = told.iter().filter(|s| acked(s)).count();
            for open in told.into_iter().rev().filter(|s| !acked(s)) {
                self.sent.push_front(open);
            }
            if let Some(newest_sent) = newest {
                let round_trip = now - newest_sent;
                let own = round_trip.saturating_sub(waited);
                let smoothed = self.smoothed.map_or(own, |s| (s * 7 + own) / 8);
                let before = self.smoothed.replace(smoothed).unwrap_or(smoothed);
                let acks = Acks {
                    now,
                    bytes: count as u64 * u64::from(MTU),
                    newest_sent,
                    round_trip,
                    smoothed: before,
                    in_flight: self.in_flight(),
                    app_limited: self.has < f64::from(MTU),
                };
                match &mut self.control {
                    Control::Ferry(window) => window.handle_acks(&acks),
                    Control::Cubic(cubic) => cubic.handle_acks(&acks),
                }
            }
            self.lose(now, |sent| sent.number + REORDERED <= largest, false);
        }
        let patience = 3 * self.smoothed.unwrap_or(Duration::from_millis(300)) + ACK_DELAY;
        if !self.sent.is_empty() && now - self.heard > patience {
            self.heard = now;
            self.lose(now, |_| true, true);
        }
    }

    fn lose(&mut self, now: Instant, is_lost: impl Fn(&Sent) -> bool, persistent: bool) {
        // Losses are found in the order in which they were sent.
        let count = self.sent.partition_point(is_lost);
        let Some(sent) = self.sent.drain(..count).next_back().map(|s| s.at) else { return };
        let bytes = count as u64 * u64::from(MTU);
        self.lost_bytes += bytes;
        self.has += float(bytes);
        let loss = Loss { now, sent, bytes, persistent };
        match &mut self.control {
            Control::Ferry(window) => window.handle_loss(&loss),
            Control::Cubic(cubic) => cubic.handle_loss(&loss),
        }
    }

    /// Whether a packet may go now.
    fn may_send(&self) -> bool {
        self.has >= f64::from(MTU)
            && self.tokens >= f64::from(MTU)
            && self.in_flight() + u64::from(MTU) <= self.window()
    }

    fn fill(&mut self, step: Duration) {
        let step = step.as_secs_f64();
        self.has = match self.wants.is_finite() {
            true if self.has == f64::MAX => 0.0,
            true => self.has + self.wants * step,
            false => f64::MAX,
        };
        let round_trip = self.smoothed.unwrap_or(Duration::from_millis(300)).as_secs_f64();
        let rate = 1.25 * float(self.window()) / round_trip.max(1e-4);
        let most = (rate * 0.002).max(10.0 * f64::from(MTU));
        self.tokens = (self.tokens + rate * step).min(most);
    }
}

/// A link with its flows.
pub(super) struct Link {
    pub(super) now: Instant,
    pub(super) step: Duration,
    /// Bytes per second.
    pub(super) rate: f64,
    /// One way.
    delay: Duration,
    queue_bytes: f64,
    loss: f64,
    pub(super) down: bool,
    free_at: Instant,
    random: u64,
    pub(super) flows: Vec<Flow>,
}

impl Link {
    pub(super) fn new(mbit: f64, round_trip_ms: u64, queue_bytes: f64, loss: f64) -> Self {
        let now = Instant::now();
        Self {
            now,
            step: STEP,
            rate: mbit * 1e6 / 8.0,
            delay: Duration::from_millis(round_trip_ms) / 2,
            queue_bytes,
            loss,
            down: false,
            free_at: now,
            random: 1,
            flows: Vec::new(),
        }
    }

    pub(super) fn ferry(&mut self, begins_s: f64, polite: bool) {
        let begins = self.now + Duration::from_secs_f64(begins_s);
        let mut window = Window::new(begins, MTU);
        window.set_polite(polite, begins);
        self.flows.push(Flow::new(Control::Ferry(Box::new(window)), begins));
    }

    pub(super) fn cubic(&mut self, begins_s: f64) {
        let begins = self.now + Duration::from_secs_f64(begins_s);
        self.flows.push(Flow::new(Control::Cubic(Cubic::new(begins)), begins));
    }

    /// Runs for a while; gives each flow's share of the link in that time.
    pub(super) fn run(&mut self, seconds: f64) -> Vec<f64> {
        let before: Vec<u64> = self.flows.iter().map(|f| f.delivered_bytes).collect();
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.advance();
        }
        let bytes = self.flows.iter().zip(before).map(|(f, b)| f.delivered_bytes - b);
        bytes.map(|bytes| float(bytes) / seconds / self.rate).collect()
    }

    fn advance(&mut self) {
        self.now += self.step;
        let mut flows = std::mem::take(&mut self.flows);
        for flow in flows.iter_mut().filter(|flow| flow.begins <= self.now) {
            flow.receive(self.now, self.delay);
            flow.handle_answers(self.now);
            flow.fill(self.step);
        }
        // In turns, a packet each.
        let mut any = true;
        while any {
            any = false;
            for flow in &mut flows {
                if flow.begins <= self.now && flow.may_send() {
                    any = true;
                    self.send(flow);
                }
            }
        }
        self.flows = flows;
    }

    fn send(&mut self, flow: &mut Flow) {
        let number = flow.next;
        flow.next += 1;
        flow.tokens -= f64::from(MTU);
        flow.has -= f64::from(MTU);
        if flow.sent.is_empty() {
            flow.heard = self.now;
        }
        flow.sent.push_back(Sent { number, at: self.now });
        flow.sent_bytes += WIRE_BYTES;
        let wait = self.free_at.saturating_duration_since(self.now);
        let full = (wait.as_secs_f64() * self.rate) + float(WIRE_BYTES) > self.queue_bytes;
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        let lost = float(self.random >> 33) / float(1 << 31) < self.loss;
        if self.down || full {
            return;
        }
        let takes = Duration::from_secs_f64(float(WIRE_BYTES) / self.rate);
        self.free_at = self.free_at.max(self.now) + takes;
        if !lost {
            flow.arriving.push_back((self.free_at + self.delay, number));
        }
    }
}
