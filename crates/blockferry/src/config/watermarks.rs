//! The watermarks of `[limits]`: what is filled in, and that a low mark isn't above its high one.

use super::file::LimitsSection;
use super::settings::Reader;
use super::values::{Reserve, Size};
use blockferry_node::config::{FreeMin, Marks, Watermarks};
use blockferry_node::monitoring::watermarks::{BACKLOG_HIGH_BYTES, STAGING_HIGH_PERCENT};

/// The marks as they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    backlog_high: Option<Size>,
    backlog_low: Option<Size>,
    staging_high: Option<Reserve>,
    staging_low: Option<Reserve>,
}

impl Raw {
    pub(super) fn of(limits: &LimitsSection) -> Raw {
        let LimitsSection { backlog_high, backlog_low, staging_high, staging_low, .. } = *limits;
        Raw { backlog_high, backlog_low, staging_high, staging_low }
    }
}

impl Reader<'_> {
    pub(super) fn watermarks(&mut self, raw: Raw) -> Watermarks {
        let high_bytes = raw.backlog_high.map_or(BACKLOG_HIGH_BYTES, Size::bytes);
        let low_bytes = raw.backlog_low.map_or(high_bytes / 2, Size::bytes);
        let text = |bytes| Reserve::Bytes(bytes).to_string();
        self.text(&["limits", "backlog_high"], text(high_bytes));
        self.text(&["limits", "backlog_low"], text(low_bytes));
        self.order("backlog_low", low_bytes <= high_bytes);
        let high = raw.staging_high.unwrap_or(Reserve::Percent(STAGING_HIGH_PERCENT));
        let low = raw.staging_low.unwrap_or(match high {
            Reserve::Bytes(bytes) => Reserve::Bytes((bytes / 2).max(1)),
            Reserve::Percent(percent) => Reserve::Percent((percent / 2).max(1)),
        });
        self.text(&["limits", "staging_high"], high.to_string());
        self.text(&["limits", "staging_low"], low.to_string());
        let in_order = match (low, high) {
            (Reserve::Bytes(low), Reserve::Bytes(high)) => low <= high,
            (Reserve::Percent(low), Reserve::Percent(high)) => low <= high,
            // Bytes beside a share: what comes of it depends on the file system.
            _ => false,
        };
        self.order("staging_low", in_order);
        Watermarks {
            backlog: Marks { high_bytes, low_bytes },
            staging_high: free_min(high),
            staging_low: free_min(low),
        }
    }

    fn order(&mut self, low: &'static str, in_order: bool) {
        if !in_order {
            let high = low.replace("_low", "_high");
            let place = self.place(&["limits", low]);
            let what = format!("limits.{low} is not below limits.{high}, or not of its kind");
            self.complain(place, what);
        }
    }
}

fn free_min(reserve: Reserve) -> FreeMin {
    match reserve {
        Reserve::Bytes(bytes) => FreeMin::Bytes(bytes),
        Reserve::Percent(percent) => FreeMin::Percent(percent),
    }
}
