//! How hard the bytes of a pack are pressed.
//!
//! The sender chooses for each pack and never says: a frame of any level is one frame. So this is
//! no part of the protocol, only the word that whoever chooses and the packer share.

/// What a packer does with the pages of a pack; ordered by how small they become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// They travel as they are.
    Stored,
    /// zstd at this level; [`Compression::zstd`] makes only levels that a packer takes.
    Zstd(i8),
}

impl Compression {
    /// The fastest level.
    pub const FASTEST: Compression = Compression::Zstd(-7);
    /// The highest level. Those above need a window that a pack can't fill.
    pub const HIGHEST: Compression = Compression::Zstd(19);

    /// A level of zstd; what lies outside of -7 to 19 is brought inside, 0 (zstd's word for its
    /// default) is 3.
    pub fn zstd(level: i32) -> Self {
        let level = if level == 0 { 3 } else { level.clamp(-7, 19) };
        Compression::Zstd(i8::try_from(level).expect("just brought between -7 and 19"))
    }

    /// The level as zstd counts them; none when nothing is compressed.
    pub(crate) fn level(self) -> Option<i32> {
        match self {
            Compression::Stored => None,
            Compression::Zstd(level) => Some(i32::from(level).clamp(-7, 19)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stay_inside_and_in_order() {
        assert_eq!(Compression::zstd(0), Compression::Zstd(3));
        assert_eq!(Compression::zstd(i32::MIN), Compression::FASTEST);
        assert_eq!(Compression::zstd(99), Compression::HIGHEST);
        assert_eq!(Compression::Zstd(100).level(), Some(19));
        assert!(Compression::Stored < Compression::FASTEST);
        assert!(Compression::zstd(-5) < Compression::zstd(1));
    }
}
