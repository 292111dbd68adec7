//! What of the machine the service takes, in `[limits]`: how fast it reads in the background, and how
//! much it keeps in memory.

use super::settings::Reader;
use super::values::{Rate, Size};
use blockferry_node::budget::RESIDENT_BYTES_MAX;

impl Reader<'_> {
    /// Bytes per second that are read in the background, and bytes of memory.
    pub(super) fn machine(
        &mut self,
        disk_read: Option<Rate>,
        memory: Option<Size>,
    ) -> (Option<u64>, Option<u64>) {
        let bits = disk_read.and_then(Rate::bits_per_second);
        let bytes = bits.map(|bits| (bits / 8).max(1));
        self.text(&["limits", "disk_read"], bytes.map_or_else(|| "unlimited".into(), rate_text));
        let least = RESIDENT_BYTES_MAX;
        let of = |bytes: u64| Size::of(bytes).to_string();
        let asked = memory.map_or(least, Size::bytes);
        self.text(&["limits", "memory"], of(asked));
        if asked < least {
            let place = self.place(&["limits", "memory"]);
            let what =
                format!("limits.memory is {}: the least that works is {}", of(asked), of(least));
            self.complain_with(place, what, format!("write memory = \"{}\" or more", of(least)));
        }
        (bytes, memory.map(Size::bytes))
    }
}

/// Bytes per second in the largest unit that loses nothing.
fn rate_text(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let unit = units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} B/s"), |(unit, name)| format!("{} {name}/s", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        for (bytes, text) in [
            (400_000_000, "400 MB/s"),
            (2_000_000_000, "2 GB/s"),
            (1500, "1500 B/s"),
            (12_000, "12 kB/s"),
        ] {
            assert_eq!(rate_text(bytes), text);
            let read: Rate = text.parse().unwrap();
            assert_eq!(read.bits_per_second(), Some(8 * bytes));
        }
    }
}
