//! Level: how hard packs for a peer are compressed, so that its bytes are through soonest.
//!
//! Pure: measurements and time in, the next pack's level out; one value for each peer. A raw byte
//! takes the longest of what reading it, a worker's time on it and its share of the link take.
//! While the link holds us back its rate is known, and the level with the least time by that model
//! is taken. While it doesn't, only its being faster than us is known: then, when the workers are
//! what all wait for, less is tried: the level that costs least at first, which shows at once whether
//! the link outruns us, else one level less. It is undone unless more gets through.
//! Small gains are left alone, a higher level must be wanted twice in a row, and what failed is
//! tried again after ever longer waits: so the level settles.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use blockferry_wire::Compression;

use profile::{LADDER, LEAP, Profile, START};

mod profile;

/// The link is looked at this often at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look over a longer time without being held says nothing: there were rests in it.
const LOOK_LONGEST: Duration = Duration::from_secs(10);
/// Packs that must have been measured at a level before it is judged.
const PACKS_JUDGED_MIN: u32 = 2;
/// Held for this share of the time between two looks, the link is what we wait for.
const HELD_SHARE: f64 = 0.5;
/// A congestion window that grew by more than this between two looks is still finding the rate.
const RAMP: f64 = 1.25;
/// A link that takes this share of what it takes at most is what we wait for.
const CEILING_SHARE: f64 = 0.8;
/// Workers that are busy for this share of the time are what we wait for.
const BUSY_SHARE: f64 = 0.7;
/// The share of a newly measured rate in the rate that is gone by.
const RATE_NEW: f64 = 0.4;
/// A rate that moved by more is another link's.
const RATE_JUMP: f64 = 1.25;
/// A lower level must promise this much less time to be taken, a higher one that much.
const GAIN_LOWER: f64 = 1.08;
const GAIN_HIGHER: f64 = 1.03;
/// Of levels this close to the best one the cheapest is taken.
const CLOSE: f64 = 1.005;
/// A tried level must let this much more through to be kept.
const TRIAL_GAIN: f64 = 1.05;
/// The same for the level that costs least: workers that all wait for are known to gain by it, so
/// only what shows that something else holds them back counts.
const LEAP_GAIN: f64 = 1.0;
/// A level is kept this long before a higher one is taken.
const DWELL: Duration = Duration::from_secs(1);
/// A transfer's first packs (64 MiB) are compressed as hard as the level it begins with, at least:
/// that takes a worker a quarter of a second, and what a large transfer found says nothing of an update.
const FIRST_PACKS: u64 = 32;
/// The wait before something that brought nothing is tried again, at first and at most.
const PATIENCE_FIRST: Duration = Duration::from_secs(30);
const PATIENCE_LONGEST: Duration = Duration::from_secs(600);

/// The highest level that every worker has memory for; for those above they share one compressor.
pub const LIGHT: Compression = Compression::Zstd(3);

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Setting {
    /// As the link has it.
    #[default]
    Auto,
    /// Always this.
    Fixed(Compression),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not \"auto\", \"none\" or a level from 1 to 19");
        match text.trim() {
            "auto" => Ok(Setting::Auto),
            "none" => Ok(Setting::Fixed(Compression::Stored)),
            number => match number.parse::<i32>() {
                Ok(level @ 1..=19) => Ok(Setting::Fixed(Compression::zstd(level))),
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Auto => f.write_str("auto"),
            Setting::Fixed(Compression::Stored) => f.write_str("none"),
            Setting::Fixed(Compression::Zstd(level)) => level.fmt(f),
        }
    }
}

/// What one pack took.
#[derive(Clone, Copy, Debug)]
pub struct PackCost {
    /// Level it was made at.
    pub compression: Compression,
    /// Bytes before.
    pub raw_bytes: usize,
    /// Bytes after.
    pub bytes: usize,
    /// Time to read and prove it.
    pub read: Duration,
    /// A worker's time to compress it.
    pub press: Duration,
}

/// What a connection has carried since it began; every figure only grows, but for the last two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Bytes that the peer has confirmed.
    pub bytes: u64,
    /// Of those, the ones sent while congestion control held more back.
    pub held_bytes: u64,
    /// How long it held more back.
    pub held: Duration,
    /// How long bytes waited for a configured limit.
    pub paced: Duration,
    /// Bytes that congestion control lets be in flight now.
    pub window_bytes: u64,
    /// Bytes per second that get through at most: a configured limit, our window over the round
    /// trip.
    pub ceiling: f64,
}

/// Chooses the level of the next pack to one peer.
#[derive(Debug)]
pub struct Chooser {
    rung: usize,
    profile: Profile,
    /// Workers that compress for one transfer at the same time.
    workers: f64,
    /// Bytes per second that the link takes, when it was what we waited for.
    rate: Option<f64>,
    last: Option<(Instant, Carried)>,
    changed: Option<Instant>,
    packs: u32,
    /// Raw bytes of the packs that were made since the last look.
    raw_bytes: u64,
    /// The last look wanted a higher level.
    wants_more: bool,
    /// The link held us back at the last look: what waited then is in what goes through now.
    was_held: bool,
    trial: Option<Trial>,
    trial_due: Option<Instant>,
    patience: Duration,
    /// The level that costs least was tried for this link, and brought nothing.
    leapt: bool,
}

/// A lower level that is tried because the workers are what we wait for.
#[derive(Clone, Copy, Debug)]
struct Trial {
    from: usize,
    /// Raw bytes per second before.
    before: f64,
    /// Its first look is over: that one has some of the level before in it.
    seen: bool,
}

impl Chooser {
    /// For a node with so many workers for one transfer.
    pub fn new(workers: usize) -> Self {
        Self {
            rung: START,
            profile: Profile::default(),
            workers: f64::from(u32::try_from(workers.max(1)).unwrap_or(u32::MAX)),
            rate: None,
            last: None,
            changed: None,
            packs: 0,
            raw_bytes: 0,
            wants_more: false,
            was_held: true,
            trial: None,
            trial_due: None,
            patience: PATIENCE_FIRST,
            leapt: false,
        }
    }

    /// The level that the link has now.
    pub fn compression(&self) -> Compression {
        LADDER[self.rung].compression
    }

    /// The level of a transfer's pack of this number, counted from 0.
    pub fn compression_of(&self, pack: u64) -> Compression {
        let least = if pack < FIRST_PACKS { START } else { 0 };
        LADDER[self.rung.max(least)].compression
    }

    /// The lowest level at which a pack that is there already will do: while the link holds nothing
    /// back, any is sooner through than another one.
    pub fn least(&self) -> Compression {
        if self.was_held { self.compression() } else { Compression::Stored }
    }

    /// A pack was made for this peer. Packs of other levels than ours (another transfer's, the one
    /// before a change) are counted for what they are.
    pub fn handle_pack(&mut self, cost: &PackCost) {
        let told = self.profile.note(cost);
        self.raw_bytes = self.raw_bytes.saturating_add(cost.raw_bytes as u64);
        if told && cost.compression == self.compression() {
            self.packs = self.packs.saturating_add(1);
        }
    }

    /// What the connection has carried by now. Looks that come too soon are left out.
    pub fn handle_carried(&mut self, carried: Carried, now: Instant) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, carried));
            return;
        };
        let elapsed = now.saturating_duration_since(then);
        // Another connection counts from nothing.
        let new = carried.bytes < before.bytes || carried.held < before.held;
        if elapsed < LOOK_EVERY && !new {
            return;
        }
        self.last = Some((now, carried));
        let made = bytes_f64(std::mem::take(&mut self.raw_bytes));
        if new {
            return;
        }
        let seen = Look::new(&before, &carried, elapsed);
        match seen.held_rate {
            Some(rate) => self.held(rate, now),
            None if elapsed > LOOK_LONGEST => {}
            None => self.free(seen.rate, made / elapsed.as_secs_f64(), now),
        }
        self.was_held = seen.held_rate.is_some();
    }

    /// The link takes `rate` bytes per second and no more.
    fn held(&mut self, rate: f64, now: Instant) {
        let known = self.rate.filter(|old| rate < old * RATE_JUMP && rate * RATE_JUMP > *old);
        if known.is_none() && self.trial.is_none() {
            self.patience = PATIENCE_FIRST;
        }
        let rate = known.map_or(rate, |old| old + (rate - old) * RATE_NEW);
        self.rate = Some(rate);
        self.trial = None;
        let time = |rung| self.time(rung, rate);
        let best = (0..LADDER.len()).map(time).fold(f64::INFINITY, f64::min);
        let pick = (0..LADDER.len()).find(|rung| time(*rung) <= best * CLOSE);
        let pick = pick.unwrap_or(self.rung);
        let gain = if pick > self.rung { GAIN_HIGHER } else { GAIN_LOWER };
        let gains = time(pick) * gain < time(self.rung) && self.packs >= PACKS_JUDGED_MIN;
        if pick > self.rung && gains {
            let settled = self.changed.is_none_or(|at| now.saturating_duration_since(at) >= DWELL);
            if std::mem::replace(&mut self.wants_more, true) && settled {
                // Something less was too little: not so soon again.
                self.trial_due = Some(now + self.patience);
                self.patience = (self.patience * 2).min(PATIENCE_LONGEST);
                self.change(pick, now);
            }
            return;
        }
        self.wants_more = false;
        if gains {
            self.change(pick, now);
        }
    }

    /// The link took `rate` bytes per second and would have taken more; of so many raw ones packs were
    /// made.
    fn free(&mut self, rate: f64, raw_rate: f64, now: Instant) {
        self.wants_more = false;
        if self.rate.is_some_and(|known| rate > known * RATE_JUMP) {
            self.rate = None;
            self.trial_due = None;
            self.patience = PATIENCE_FIRST;
            self.leapt = false;
        }
        match self.trial.take() {
            Some(trial) if !trial.seen || self.packs < PACKS_JUDGED_MIN => {
                self.trial = Some(Trial { seen: true, ..trial });
                return;
            }
            Some(trial) if raw_rate < trial.before * self.gain_of(&trial) => {
                if trial.from - self.rung > 1 {
                    // One level less may still bring something, and is tried right away.
                    self.leapt = true;
                } else {
                    self.trial_due = Some(now + self.patience);
                    self.patience = (self.patience * 2).min(PATIENCE_LONGEST);
                }
                self.change(trial.from, now);
                return;
            }
            Some(_) => self.patience = PATIENCE_FIRST,
            None => {}
        }
        let busy = raw_rate * self.press(self.rung);
        let due = self.trial_due.is_none_or(|at| now >= at);
        let settled = !self.was_held && self.packs >= PACKS_JUDGED_MIN;
        if self.rung > 0 && busy >= BUSY_SHARE && due && settled {
            let trial = Trial { from: self.rung, before: raw_rate, seen: false };
            self.change(self.less(), now);
            self.trial = Some(trial);
        }
    }

    /// What is tried when the link takes all that is made: the least compression at first.
    fn less(&self) -> usize {
        let step = self.rung - 1;
        if self.leapt { step } else { step.min(LEAP) }
    }

    /// How much more a tried level must let through.
    fn gain_of(&self, trial: &Trial) -> f64 {
        if trial.from - self.rung > 1 { LEAP_GAIN } else { TRIAL_GAIN }
    }

    /// Seconds for a raw byte at a level, if the link takes `rate` bytes per second.
    fn time(&self, rung: usize, rate: f64) -> f64 {
        self.press(rung).max(self.profile.read()).max(self.profile.kept(rung) / rate)
    }

    /// Seconds for a raw byte that the workers take.
    fn press(&self, rung: usize) -> f64 {
        let shared = LADDER[rung].compression > LIGHT;
        self.profile.press(rung) / if shared { 1.0 } else { self.workers }
    }

    fn change(&mut self, rung: usize, now: Instant) {
        self.rung = rung;
        self.changed = Some(now);
        self.packs = 0;
        self.wants_more = false;
        self.trial = None;
    }
}

/// What went through between two looks, in bytes per second.
struct Look {
    rate: f64,
    /// What the link takes, if it was what we waited for.
    held_rate: Option<f64>,
}

impl Look {
    fn new(before: &Carried, after: &Carried, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let bytes = bytes_f64(after.bytes - before.bytes);
        let rate = bytes / seconds;
        let held_seconds = (after.held.saturating_sub(before.held)).as_secs_f64();
        let held_bytes = bytes_f64(after.held_bytes.saturating_sub(before.held_bytes));
        let ramping = bytes_f64(after.window_bytes) > bytes_f64(before.window_bytes) * RAMP;
        let paced = after.paced.saturating_sub(before.paced).as_secs_f64();
        let held_rate = if held_seconds >= seconds * HELD_SHARE && held_bytes > 0.0 && !ramping {
            Some(held_bytes / held_seconds)
        } else if bytes > 0.0
            && (paced >= seconds * HELD_SHARE || rate >= after.ceiling * CEILING_SHARE)
        {
            Some(rate)
        } else {
            None
        };
        Self { rate, held_rate }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn bytes_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
