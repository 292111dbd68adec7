//! Headroom: a clone of an image that somebody goes on writing makes each of his writes take new
//! storage, up to the whole image. A disk that is full then fails *his* writes. So before such an
//! image is frozen there must be room for all of it; where there isn't, what this node recorded
//! of it before and what is only held for speed give way.
//!
//! What peers sent never gives way here: else junk that is large enough would push out what is good.

use std::sync::atomic::Ordering;

use blockferry_delta::ImageName;

use crate::catalog::Discover;
use crate::error::{Error, IoContext, Result};
use crate::freeze::regular;
use crate::kept::{Kept, Why};
use crate::scan::Progress;
use crate::store::Store;

/// An earlier content went so that who writes the image has room.
const HISTORY_YIELDED: &str = "HISTORY_YIELDED";

impl Store {
    /// Sees to it that somebody who keeps `name` open can write all of it anew while it is frozen.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]: nothing is left that could give way.
    pub(crate) fn make_headroom(&self, name: &ImageName, progress: &dyn Progress) -> Result<()> {
        if !(self.options.snapshot && self.clones() && self.is_written(name)?) {
            return Ok(());
        }
        let needed_bytes = regular(self.disk.as_ref(), name)?.allocated_bytes;
        let fits = || self.free_bytes().map(|free| free >= needed_bytes);
        if fits()? {
            return Ok(());
        }
        self.empty_trash()?;
        // Oldest first: the one that was left last is the one that people go back to.
        for kept in self.kept(name)?.into_iter().rev().filter(may_give_way) {
            if fits()? {
                return Ok(());
            }
            self.release(std::slice::from_ref(&kept))?;
            let number = kept.generation.map_or(0, |generation| generation.number);
            progress
                .event(HISTORY_YIELDED, &format!("the disk is nearly full: @{number} is not kept"));
        }
        if !fits()? {
            self.drop_spares(None)?;
            self.drop_held(name)?;
        }
        let free_bytes = self.free_bytes()?;
        if free_bytes < needed_bytes {
            return Err(Error::OutOfSpace { needed_bytes, free_bytes });
        }
        Ok(())
    }

    /// Bytes of the disk that nobody was promised and that needn't stay free.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let space = self.disk.space().during("ask for the free space of", "the store")?;
        let promised = self.reserved_bytes.load(Ordering::Relaxed);
        Ok(space.free_bytes.saturating_sub(self.options.free_min_bytes).saturating_sub(promised))
    }
}

fn may_give_way(kept: &Kept) -> bool {
    let made_here = |discover| discover != Discover::Received;
    let here = kept.generation.as_ref().is_some_and(|of| made_here(of.discover));
    kept.why == Why::History && !kept.pinned && here
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use blockferry_delta::NodeId;

    use super::*;
    use crate::disk::{Disk, Open, SimDisk};
    use crate::layout::identity;
    use crate::record::Recorded;
    use crate::store::Options;

    const SIZE: usize = 4 << 20;
    const DISK_BYTES: u64 = 1 << 30;

    fn bench() -> (SimDisk, Store, ImageName) {
        let disk = SimDisk::new(7, DISK_BYTES);
        let options = Options { snapshot: true, ..Options::default() };
        let store = Store::create(Arc::new(disk.clone()), identity(), &options).expect("made");
        (disk, store, ImageName::new("vm.raw").expect("valid"))
    }

    /// The writer, who never closes the image, writes all of it.
    fn put(disk: &SimDisk, value: u8) {
        let file = disk.open("vm.raw", Open::Create).expect("opened");
        file.write_at(&vec![value; SIZE], 0).expect("there is room for who writes");
        file.sync().expect("synced");
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<&'static str>>);

    impl Progress for Told {
        fn advance(&self, _: u64, _: u64) {}
        fn event(&self, code: &'static str, _: &str) {
            self.0.lock().expect("one thread").push(code);
        }
    }

    fn record(store: &Store, name: &ImageName) -> Result<Recorded> {
        store.record(name, NodeId::from_bytes([3; 32]), 0, &())
    }

    /// Leaves so much room on the disk.
    fn leave(disk: &SimDisk, bytes: u64) {
        let space = disk.space().expect("asked");
        disk.set_capacity(space.total_bytes - space.free_bytes + bytes);
    }

    #[test]
    fn own_history_gives_way_to_who_goes_on_writing() {
        let (disk, store, name) = bench();
        put(&disk, 1);
        disk.hold_open("vm.raw", true).expect("held");
        record(&store, &name).expect("recorded");
        for value in 2..6 {
            put(&disk, value);
            record(&store, &name).expect("recorded");
        }
        let numbers = || -> Vec<u64> {
            let kept = store.kept(&name).expect("listed");
            kept.iter().filter_map(|kept| kept.generation.as_ref().map(|g| g.number)).collect()
        };
        assert_eq!(numbers(), [4, 3, 2, 1]);
        leave(&disk, SIZE as u64 + (2 << 20));
        put(&disk, 6);
        let told = Told::default();
        let author = NodeId::from_bytes([3; 32]);
        store.record(&name, author, 0, &told).expect("recorded: something gave way");
        let left = numbers();
        let went = told.0.into_inner().expect("one thread");
        assert_eq!(went, vec![HISTORY_YIELDED; 5 - left.len()], "each is told");
        assert!(left.starts_with(&[5, 4]) && !left.contains(&1), "the oldest went first: {left:?}");
        put(&disk, 7);
    }

    #[test]
    fn without_room_it_is_not_frozen_and_the_writer_goes_on() {
        let (disk, store, name) = bench();
        put(&disk, 1);
        disk.hold_open("vm.raw", true).expect("held");
        leave(&disk, SIZE as u64 / 2);
        let refused = record(&store, &name).expect_err("no room for what he may write");
        assert!(matches!(refused, Error::OutOfSpace { needed_bytes, .. } if needed_bytes > 0));
        put(&disk, 2);
        disk.release("vm.raw").expect("released");
        record(&store, &name).expect("nobody writes it: nothing is needed");
    }
}
