//! A pair of nodes in one thread: two stores on simulated disks, the service's own transfer
//! drivers, and a link that delays and is cut. The power fails at either side at any operation.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};

use blockferry_delta::ImageName;
use blockferry_node::Identity;
use blockferry_node::transfer::exchange::{
    PackJob, RecvOutcome, RecvSide, SendOutcome, SendSide, Step,
};
use blockferry_store::disk::{CrashPlan, Disk, Keep, SimDisk};
use blockferry_store::{CommitMode, Options, Store};
use blockferry_wire::{Compression, Message, Packer};

use crate::liar::Liar;
use crate::link::{Link, Trace};
use crate::rng::Rng;
use crate::side::{Side, options, store_identity};

/// Turns of the loop after which a transfer is stuck.
const TURNS_MAX: u64 = 2_000_000;

/// What goes wrong in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The link is cut after so many frames.
    Cut(u64),
    /// The power fails at a node after so many operations on its disk.
    Crash(usize, usize),
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a receipt, properly signed.
    Receipt,
    /// The receiver refused, by this code.
    Refused(String),
    /// One side gave up, for this reason.
    Failed(String),
    /// The link was cut.
    Cut,
    /// A node lost its power; it is up again.
    Crashed(usize),
}

/// Two nodes.
#[derive(Debug)]
pub struct Pair {
    sides: [Side; 2],
    keys: [Identity; 2],
    rng: Rng,
    /// Everything that was said.
    pub trace: Trace,
    /// The lie of the second node's disk: at which write into a staging.
    lie_at: Option<usize>,
    /// What becomes of what the offerer says.
    pub tamper: fn(&mut Message),
}

/// Nodes that have a key.
pub const NODES_MAX: usize = 7;

/// Fixed keys, so that a seed says the same words every time. They are nobody's.
pub fn keys() -> &'static [Identity; NODES_MAX] {
    static KEYS: OnceLock<[Identity; NODES_MAX]> = OnceLock::new();
    const SECRETS: [&str; NODES_MAX] = [
        "MC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
        "MC4CAQAwBQYDK2VwBCIEIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC",
        "MC4CAQAwBQYDK2VwBCIEIAMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD",
        "MC4CAQAwBQYDK2VwBCIEIAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        "MC4CAQAwBQYDK2VwBCIEIAUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUF",
        "MC4CAQAwBQYDK2VwBCIEIAYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYG",
        "MC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH",
    ];
    KEYS.get_or_init(|| {
        SECRETS.map(|secret| {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
            std::fs::write(file.path(), pem).expect("writes");
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(file.path(), private).expect("it is ours");
            Identity::load(file.path()).expect("a valid key")
        })
    })
}

fn open(disk: &SimDisk, options: &Options, lie_at: Option<usize>) -> Arc<Store> {
    let disk: Arc<dyn Disk> = match lie_at {
        Some(nth) => Arc::new(Liar::new(disk.clone(), nth)),
        None => Arc::new(disk.clone()),
    };
    Arc::new(Store::open(disk, options).expect("a store opens after any crash").0)
}

impl Pair {
    /// Two nodes with empty stores. `lie_at`: the second one's disk changes a byte of that write
    /// into a staging.
    pub fn new(seed: u64, lie_at: Option<usize>) -> Pair {
        let mut rng = Rng::new(seed);
        let modes = [CommitMode::Clone, CommitMode::Copy, CommitMode::Journal];
        let modes = [*rng.pick(&modes), *rng.pick(&modes)];
        Pair::with(rng, lie_at, modes)
    }

    /// Two nodes with empty stores that commit in these modes.
    pub fn in_modes(seed: u64, modes: [CommitMode; 2]) -> Pair {
        Pair::with(Rng::new(seed), None, modes)
    }

    fn with(mut rng: Rng, lie_at: Option<usize>, modes: [CommitMode; 2]) -> Pair {
        let seed = rng.draw();
        let keys = [0, 1].map(|at: usize| keys()[at].clone());
        let side = |at: usize| {
            let mode = modes[at];
            let disk = SimDisk::new(seed ^ at as u64, 1 << 30);
            disk.set_supports_clone(mode == CommitMode::Clone);
            let made = Store::create(Arc::new(disk.clone()), store_identity(), &options(mode));
            drop(made.expect("an empty disk takes a store"));
            let store = open(&disk, &options(mode), lie_at.filter(|_| at == 1));
            Side { disk, store, options: options(mode), node: keys[at].id() }
        };
        let sides = [side(0), side(1)];
        Pair { sides, keys, rng, trace: Trace::default(), lie_at, tamper: |_| {} }
    }

    /// One of the nodes.
    pub fn side(&self, at: usize) -> &Side {
        &self.sides[at]
    }

    /// The power fails at a node: any of what it hadn't synced is there, and it starts again.
    pub fn crash(&mut self, at: usize) {
        let seed = self.rng.draw();
        let keep = *self.rng.pick(&Keep::ALL);
        let side = &mut self.sides[at];
        side.disk = side.disk.crash(CrashPlan { seed, keep, tear: seed.is_multiple_of(2) });
        let lie_at = self.lie_at.filter(|_| at == 1);
        side.store = open(&side.disk, &side.options, lie_at);
        for image in side.store.images().expect("reads") {
            let _ = side.disk.stat(image.image.as_str()).expect("looks").map(|_| {
                side.rescan_or_changed(&image.image).expect("scans");
            });
        }
    }

    /// Offers what node `from` has of an image to the other one.
    pub fn transfer(&mut self, from: usize, name: &ImageName, trouble: Trouble) -> Ended {
        if let Trouble::Crash(at, ops) = trouble {
            let disk = &self.sides[at].disk;
            disk.cut_after(disk.ops() + ops);
        }
        let frames = if let Trouble::Cut(frames) = trouble { frames } else { u64::MAX };
        let ended = match Session::new(self, from, name, frames) {
            Ok(mut session) => session.run(&mut self.trace),
            Err(error) => Ended::Failed(error.code().to_owned()),
        };
        let Trouble::Crash(at, _) = trouble else {
            self.note(from, name, &ended);
            return ended;
        };
        // Whatever came of it, the power is gone now.
        self.crash(at);
        match ended {
            Ended::Receipt => Ended::Receipt,
            _ => Ended::Crashed(at),
        }
    }

    fn note(&self, from: usize, name: &ImageName, ended: &Ended) {
        if *ended == Ended::Receipt {
            let store = &self.sides[from].store;
            let current = store.current(name).expect("reads").expect("it was offered");
            let peer = self.keys[1 - from].id();
            store.note_receipt(peer, name, current.number, current.root).expect("notes");
        }
    }
}

/// One transfer.
struct Session<'a> {
    send: SendSide,
    receive: RecvSide,
    sent: Option<SendOutcome>,
    received: Option<RecvOutcome>,
    jobs: Vec<PackJob>,
    packer: Packer,
    link: Link,
    rng: Rng,
    receiver: Identity,
    tamper: Box<dyn Fn(&mut Message) + 'a>,
}

/// Offers what `stores[0]` has of an image to `stores[1]`.
pub fn carry_over(stores: [&Arc<Store>; 2], name: &ImageName, seed: u64) -> (Ended, Trace) {
    let mut trace = Trace::default();
    let keys = [0, 1].map(|at: usize| keys()[at].clone());
    let ended = match Session::between(stores, &keys, Rng::new(seed), (name, u64::MAX)) {
        Ok(mut session) => session.run(&mut trace),
        Err(error) => Ended::Failed(error.code().to_owned()),
    };
    (ended, trace)
}

/// One transfer between any two nodes.
pub struct Hop<'a> {
    /// The offerer's store and the receiver's.
    pub stores: [&'a Arc<Store>; 2],
    /// Their keys.
    pub keys: [&'a Identity; 2],
    /// What is offered.
    pub name: &'a ImageName,
    /// The link is cut after so many frames.
    pub frames: u64,
    /// What becomes of what the offerer says.
    pub tamper: Box<dyn Fn(&mut Message) + 'a>,
}

impl Hop<'_> {
    /// Runs it; gives also what the receiver made of it, if it came to an end.
    pub fn run(self, rng: Rng, trace: &mut Trace) -> (Ended, Option<RecvOutcome>) {
        let keys = self.keys.map(Clone::clone);
        match Session::between(self.stores, &keys, rng, (self.name, self.frames)) {
            Ok(session) => {
                let mut session = Session { tamper: self.tamper, ..session };
                let ended = session.run(trace);
                (ended, session.received)
            }
            Err(error) => (Ended::Failed(error.code().to_owned()), None),
        }
    }
}

type Outcome<T> = blockferry_node::Result<T>;

impl<'a> Session<'a> {
    fn new(pair: &mut Pair, from: usize, name: &ImageName, frames: u64) -> Outcome<Session<'a>> {
        let stores = [from, 1 - from].map(|at| &pair.sides[at].store);
        let keys = [from, 1 - from].map(|at| pair.keys[at].clone());
        let session = Session::between(stores, &keys, pair.rng.fork(), (name, frames))?;
        Ok(Session { tamper: Box::new(pair.tamper), ..session })
    }

    fn between(
        stores: [&Arc<Store>; 2],
        keys: &[Identity; 2],
        mut rng: Rng,
        (name, frames): (&ImageName, u64),
    ) -> Outcome<Session<'a>> {
        let [from, to] = stores.map(Arc::clone);
        let receiver = keys[1].clone();
        Ok(Session {
            send: SendSide::new(from, name)?,
            receive: RecvSide::new(to, receiver.clone(), keys[0].id(), None),
            sent: None,
            received: None,
            jobs: Vec::new(),
            packer: Packer::new().expect("memory"),
            link: Link::new(rng.fork(), frames),
            rng,
            receiver,
            tamper: Box::new(|_| {}),
        })
    }

    fn run(&mut self, trace: &mut Trace) -> Ended {
        for _ in 0..TURNS_MAX {
            match self.turn(trace) {
                Err(error) => return Ended::Failed(error.code().to_owned()),
                Ok(()) if self.link.is_cut() => return Ended::Cut,
                Ok(()) => {}
            }
            if let (Some(sent), Some(_)) = (&self.sent, &self.received) {
                return self.ended(sent);
            }
        }
        panic!("stuck: sent {:?}, received {:?}", self.sent, self.received);
    }

    /// One turn: each side does what it can, then time passes.
    fn turn(&mut self, trace: &mut Trace) -> Outcome<()> {
        if self.rng.chance(1, 2) {
            self.turn_sender(trace)?;
            self.turn_receiver(trace)?;
        } else {
            self.turn_receiver(trace)?;
            self.turn_sender(trace)?;
        }
        if !self.jobs.is_empty() && self.rng.chance(2, 3) {
            let at = self.rng.below(self.jobs.len() as u64) as usize;
            let job = self.jobs.swap_remove(at);
            self.send.handle_packed(job.run(&mut self.packer, Compression::zstd(1)))?;
        }
        self.link.tick();
        Ok(())
    }

    fn turn_sender(&mut self, trace: &mut Trace) -> Outcome<()> {
        while let Some(message) = self.link.receive(1) {
            self.send.handle_message(message)?;
        }
        while self.sent.is_none() {
            match self.send.step()? {
                Step::Transmit(mut message) => {
                    (self.tamper)(&mut message);
                    self.link.send(0, &message, trace);
                }
                Step::Pack(job) => self.jobs.push(job),
                Step::Wait => break,
                Step::Done(outcome) => self.sent = Some(outcome),
            }
        }
        Ok(())
    }

    fn turn_receiver(&mut self, trace: &mut Trace) -> Outcome<()> {
        while self.receive.has_room() && self.received.is_none() {
            let Some(message) = self.link.receive(0) else { break };
            self.receive.handle_message(message, 0)?;
        }
        while self.received.is_none() {
            match self.receive.step()? {
                Step::Transmit(message) => self.link.send(1, &message, trace),
                Step::Pack(_) => unreachable!("only a sender packs"),
                Step::Wait => break,
                Step::Done(outcome) => self.received = Some(outcome),
            }
        }
        Ok(())
    }

    fn ended(&self, sent: &SendOutcome) -> Ended {
        match sent {
            SendOutcome::Receipt(receipt) => {
                let key = self.receiver.public();
                assert!(key.verify(&receipt.signed_bytes(), &receipt.signature), "unsigned");
                Ended::Receipt
            }
            SendOutcome::Refused(refuse) => Ended::Refused(refuse.code.code().to_owned()),
            SendOutcome::FailedThere { code, .. } => Ended::Failed(code.code().to_owned()),
            SendOutcome::FailedHere(error) => Ended::Failed(error.code().to_owned()),
        }
    }
}
