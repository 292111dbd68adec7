//! Calendar: how fast may be sent, by the clock on a wall somewhere.
//!
//! Pure: an instant in, a rate out, with the rule that says so, until when, and what comes next.
//! Nothing is remembered: the answer is a function of the instant alone, so a clock that jumps and a
//! node that was off at a boundary need no care. The last rule that matches wins.
//!
//! Rules speak of wall-clock time ([`Civil`]); only [`Zone`] knows what that is as an instant. A
//! wall clock here never goes back: during an hour that is repeated it stands at its highest, and
//! what was skipped is passed at once. So each boundary is one instant, whatever DST does.

mod decide;
mod dfsr;
mod grid;
mod parse;
mod rule;
mod zone;

use std::fmt;

pub use decide::{Decision, Source, State};
pub use dfsr::{Dfsr, QUARTERS_PER_DAY};
pub use grid::{DAYS_PER_WEEK, Grid, HOURS_PER_DAY};
pub use parse::parse_at;
pub use rule::{Clock, Dates, Days, Rule, When, Window};
pub use zone::{Civil, Zone};

/// Rules of one calendar: one for each hour of a week, as a grid may need them, and others beside.
pub const RULES_MAX: usize = 256;
/// Dates or windows of one rule.
pub const DATES_MAX: usize = 64;

/// How fast may be sent. The order is that of tightness: the least of several is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rate {
    /// Nothing is offered or sent.
    Pause,
    /// So many bits per second on the wire.
    Limited(u64),
    /// As fast as the link allows.
    Unlimited,
}

impl Rate {
    /// A limit in bits per second as the documents write it: `None` is no limit, 0 a pause.
    pub fn bits_per_second(self) -> Option<u64> {
        match self {
            Self::Pause => Some(0),
            Self::Limited(bits) => Some(bits),
            Self::Unlimited => None,
        }
    }

    /// The other way round.
    pub fn from_bits_per_second(bits: Option<u64>) -> Self {
        match bits {
            Some(0) => Self::Pause,
            Some(bits) => Self::Limited(bits),
            None => Self::Unlimited,
        }
    }
}

/// In the largest unit that loses nothing: `5 Mbit/s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = match self {
            Self::Pause => return f.write_str("pause"),
            Self::Unlimited => return f.write_str("unlimited"),
            Self::Limited(bits) => *bits,
        };
        for (unit, name) in [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")] {
            if bits >= unit && bits.is_multiple_of(unit) {
                return write!(f, "{} {name}", bits / unit);
            }
        }
        write!(f, "{bits} bit/s")
    }
}

/// Rates by time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Whose wall clock the rules speak of.
    pub zone: Zone,
    /// When nothing else matches.
    pub default: Rate,
    /// Whether other traffic goes first, unless a rule says otherwise.
    pub polite: bool,
    /// A week of quarter hours in DFS-R's form; goes before the default and after the rules.
    pub dfsr: Option<Dfsr>,
    /// The last one that matches wins.
    pub rules: Vec<Rule>,
}

impl Calendar {
    /// One rate at all times.
    pub fn constant(rate: Rate) -> Self {
        Self { zone: Zone::utc(), default: rate, polite: false, dfsr: None, rules: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
