//! The simulated pair: images change on both nodes, travel over a link that is cut, and the power
//! fails at either side at any operation. At every moment a published image is one whole
//! generation; in the end both nodes hold the same. One seed, one run, to the byte.

mod idle;

use std::panic::{AssertUnwindSafe, catch_unwind};

use blockferry_delta::ImageName;
use blockferry_store::disk::Disk;
use blockferry_tests::{Edit, Ended, Pair, Rng, SIZES, Shape, Trouble, across, cases, image_name};

/// An image, changed at one node only, and all it ever was.
struct Image {
    name: ImageName,
    owner: usize,
    was: Vec<Vec<u8>>,
}

struct World {
    pair: Pair,
    rng: Rng,
    images: Vec<Image>,
    transfers: u64,
}

impl World {
    fn new(seed: u64, lie_at: Option<usize>) -> World {
        let image = |(name, owner)| Image { name: image_name(name), owner, was: Vec::new() };
        World {
            pair: Pair::new(seed, lie_at),
            rng: Rng::new(seed ^ 0x51A),
            images: [("from-a", 0), ("also-a", 0), ("from-b", 1)].map(image).into(),
            transfers: 0,
        }
    }

    /// The owner of an image changes it, and the change is recorded.
    fn change(&mut self, at: usize) {
        let (image, rng) = (&mut self.images[at], &mut self.rng);
        let bytes = match image.was.last() {
            Some(old) => rng.pick(&Edit::ALL).apply(old, rng),
            None => {
                let most = if rng.chance(1, 8) { SIZES.len() } else { 15 };
                let size = SIZES[rng.below(most as u64) as usize];
                rng.pick(&Shape::ALL).make(size, rng)
            }
        };
        let side = self.pair.side(image.owner);
        side.write(&image.name, &bytes);
        side.record(&image.name).expect("nothing is in the way");
        image.was.push(bytes);
    }

    fn trouble(&mut self) -> Trouble {
        match self.rng.below(5) {
            0 | 1 => Trouble::None,
            2 => Trouble::Cut(1 + self.rng.below(14)),
            n => Trouble::Crash(n as usize - 3, self.rng.below(90) as usize),
        }
    }

    fn transfer(&mut self, at: usize, trouble: Trouble) -> Ended {
        let (name, owner) = (self.images[at].name.clone(), self.images[at].owner);
        let ended = self.pair.transfer(owner, &name, trouble);
        self.transfers += 1;
        self.check_published();
        if ended == Ended::Receipt {
            // Acknowledged: it is there, whatever happened since.
            let side = self.pair.side(1 - owner);
            assert!(side.read(&name) == *self.images[at].was.last().expect("sent"), "a lost ack");
        }
        ended
    }

    /// What is published is a whole generation, everywhere.
    fn check_published(&self) {
        for image in &self.images {
            for at in 0..2 {
                let side = self.pair.side(at);
                if side.disk.stat(image.name.as_str()).expect("looks").is_some() {
                    let bytes = side.read(&image.name);
                    assert!(image.was.contains(&bytes), "{} at {at} is a mix", image.name);
                }
            }
        }
    }

    /// The faults are over: every image arrives.
    fn converge(&mut self) {
        for at in
            (0..self.images.len()).filter(|at| !self.images[*at].was.is_empty()).collect::<Vec<_>>()
        {
            let ended = self.transfer(at, Trouble::None);
            assert_eq!(ended, Ended::Receipt, "{} doesn't arrive", self.images[at].name);
            let image = &self.images[at];
            let current = |side: usize| {
                let current = self.pair.side(side).store.current(&image.name);
                current.expect("reads").expect("known")
            };
            let (a, b) = (current(0), current(1));
            assert_eq!((a.root, a.size_bytes, &a.lineage), (b.root, b.size_bytes, &b.lineage));
            assert_eq!(self.pair.side(0).meta(&image.name), self.pair.side(1).meta(&image.name));
            for side in 0..2 {
                let side = self.pair.side(side);
                assert!(side.store.verify(&image.name, &()).expect("reads").is_good());
                assert_eq!(side.set_aside(), [""; 0]);
            }
        }
    }
}

/// Runs one seed; gives the trace of all that was said and how many transfers there were.
fn run(seed: u64, lie_at: Option<usize>) -> ([u8; 32], u64) {
    let mut world = World::new(seed, lie_at);
    for _ in 0..3 + world.rng.below(4) {
        let at = world.rng.below(3) as usize;
        world.change(at);
        for _ in 0..1 + world.rng.below(2) {
            let trouble = world.trouble();
            world.transfer(at, trouble);
        }
        if world.rng.chance(1, 4) {
            let at = world.rng.below(2) as usize;
            world.pair.crash(at);
        }
        if world.rng.chance(1, 3) {
            let name = world.images[at].name.clone();
            world.pair.side(1).store.freshen_spare(&name).expect("freshens");
        }
    }
    world.converge();
    (world.pair.trace.hash(), world.transfers)
}

#[test]
fn sim_two_nodes_become_equal() {
    across("sim_two_nodes", 1000, "transfers", |seed| {
        let (trace, transfers) = run(seed, None);
        if seed % 20 == 0 {
            assert!(run(seed, None).0 == trace, "seed {seed} ran differently the second time");
        }
        transfers
    });
}

#[test]
fn sim_catches_a_broken_build() {
    let mut caught = 0;
    let seeds = cases(200);
    for seed in seeds.clone() {
        let lie_at = Some(1 + seed as usize % 7);
        if catch_unwind(AssertUnwindSafe(|| run(seed, lie_at))).is_err() {
            caught += 1;
            if caught == 3 {
                eprintln!("sim_catches_a_broken_build: caught {caught} times by seed {seed}");
                return;
            }
        }
    }
    panic!("a receiver that doesn't verify went unnoticed in {seeds:?}");
}
