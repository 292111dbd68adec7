//! Power cuts at every operation of the commit of a set: a base, two children and a sidecar. At no
//! instant is a child there without its parent, and once the store is open again the set is the
//! old one or the new one, never some of each; what was acknowledged is the new one. What a new set
//! has displaced is kept, where a history is kept, and an old one has displaced nothing. The same
//! for every call that fails, for cuts inside the recovery, and around a local change.

use std::io::ErrorKind;

use blockferry_delta::ImageName;
use blockferry_store::disk::{CrashPlan, Disk, Keep, OpKind, SimDisk, Snapshot};
use blockferry_store::{CommitMode, Options, Received, Result, Why};
use blockferry_tests::{
    Edit, Feed, MODES, Rng, Shape, Side, across, cut, cuts, image_name, options, put, whole,
};

/// In the order of need.
const MEMBERS: [&str; 4] = ["win.pvp", "win.vhdx", "win.1.avhdx", "win.2.avhdx"];

/// Which members the receiver has before: all, all with a history that is kept in every mode, those
/// that a new version is added to, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    All,
    History,
    Base,
    Nothing,
}

impl Past {
    const EACH: [Past; 4] = [Past::All, Past::History, Past::Base, Past::Nothing];

    fn has(self, at: usize) -> bool {
        match self {
            Past::All | Past::History => true,
            Past::Base => at < 2,
            Past::Nothing => false,
        }
    }
}

/// What of a member is to be seen under its name, in the order in which a set may show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shows {
    New,
    Neither,
    Old,
}

/// A set on its way.
struct Story {
    past: Past,
    options: Options,
    names: Vec<ImageName>,
    /// What each member holds before: `None`, it isn't there.
    old: Vec<Option<Vec<u8>>>,
    feeds: Vec<Feed>,
    receiver: Side,
}

impl Story {
    fn new(seed: u64, past: Past) -> Story {
        let mut options = options(MODES[seed as usize % MODES.len()]);
        if past == Past::History {
            options.keep_generations = Some(2);
        }
        let disk = SimDisk::new(seed, 256 << 20);
        disk.set_supports_clone(options.commit == Some(CommitMode::Clone));
        let receiver = Side::create(disk, 2, options.clone());
        let sender = Side::new(1, CommitMode::Copy);
        let mut rng = Rng::new(seed);
        let names: Vec<ImageName> = MEMBERS.iter().map(|name| image_name(name)).collect();
        let (mut old, mut feeds) = (Vec::new(), Vec::new());
        for (at, name) in names.iter().enumerate() {
            let bytes = if at == 0 { 700 } else { 90_000 + 30_000 * at as u64 };
            let first = Shape::Files.make(bytes, &mut rng);
            sender.write(name, &first);
            let feed = Feed::of(&sender, name).expect("records");
            if past.has(at) {
                feed.deliver(&receiver.store).expect("commits");
                sender.write(name, &Edit::Byte.apply(&first, &mut rng));
            }
            old.push(past.has(at).then_some(first));
            feeds.push(Feed::of(&sender, name).expect("records"));
        }
        Story { past, options, names, old, feeds, receiver }
    }

    fn title(&self) -> String {
        format!("{:?} in mode {:?}", self.past, self.options.commit)
    }

    /// Delivers what `to` lacks of the set, as one.
    fn deliver(&self, to: &Side) -> Result<()> {
        let mut sealed = Vec::new();
        for feed in &self.feeds {
            let current = to.store.current(&feed.generation.image)?;
            if current.is_none_or(|current| current.root != feed.generation.root) {
                sealed.push((feed.seal(&to.store)?.0, Received::default()));
            }
        }
        to.store.commit_set(sealed).map(drop)
    }

    /// Which members show the new content; each shows the old or the new one, whole.
    fn shown(&self, disk: &dyn Disk) -> Vec<bool> {
        let shows = self.shows(disk);
        assert!(!shows.contains(&Shows::Neither), "{}: torn: {shows:?}", self.title());
        shows.iter().map(|shows| *shows == Shows::New).collect()
    }

    fn shows(&self, disk: &dyn Disk) -> Vec<Shows> {
        let member = |at: usize, name: &ImageName| {
            let there = disk.stat(name.as_str()).expect("looks").is_some();
            let bytes = there.then(|| whole(disk, name.as_str()).expect("reads"));
            match bytes {
                Some(bytes) if bytes == *self.feeds[at].bytes => Shows::New,
                bytes if bytes == self.old[at] => Shows::Old,
                _ => Shows::Neither,
            }
        };
        self.names.iter().enumerate().map(|(at, name)| member(at, name)).collect()
    }

    /// What must hold at every instant: whoever finds a new member finds all that it needs. Where
    /// images are changed in their own files one may be half done, or hidden, until recovery has
    /// run; what comes before it is new, and what comes after it isn't.
    fn check_order(&self, disk: &dyn Disk) -> Vec<Shows> {
        let shows = self.shows(disk);
        let title = self.title();
        assert!(shows.is_sorted(), "{title}: a child before its parent: {shows:?}");
        let in_place = self.options.commit == Some(CommitMode::Journal);
        assert!(in_place || !shows.contains(&Shows::Neither), "{title}: torn: {shows:?}");
        shows
    }

    /// Which members' old contents are kept: each as what it was, and each kept file has its row.
    fn kept(&self, side: &Side) -> Vec<bool> {
        let title = self.title();
        let rows = side.store.all_kept().expect("reads");
        assert_eq!(side.private("kept").len(), rows.len(), "{title}: rows and files");
        let mut found = vec![false; self.names.len()];
        for kept in rows {
            assert_eq!((kept.why, kept.pinned), (Why::History, false), "{title}: {}", kept.path);
            let at = self.names.iter().position(|name| *name == kept.image).expect("a member");
            let bytes = whole(&side.disk, &kept.path).expect("reads");
            assert!(self.old[at].as_ref() == Some(&bytes), "{title}: {} is torn", kept.path);
            let root = kept.root().map(|root| *root.as_bytes());
            assert_eq!(root, Some(*blake3::hash(&bytes).as_bytes()), "{title}: {}", kept.path);
            assert!(!std::mem::replace(&mut found[at], true), "{title}: {} twice", kept.image);
        }
        found
    }

    /// What the set has displaced is kept, where a history is; an old set has displaced nothing.
    fn check_kept(&self, side: &Side, is_new: bool) {
        let keeps = is_new && side.store.retention().generations > 0;
        let expected: Vec<bool> = self.old.iter().map(|old| keeps && old.is_some()).collect();
        assert_eq!(self.kept(side), expected, "{}: what is kept; new: {is_new}", self.title());
    }

    /// Opens the store after a crash: never a mixed set, and the catalog agrees.
    fn check(&self, disk: SimDisk, acked: bool, go_on: bool) {
        let title = self.title();
        self.check_order(&disk);
        let opened = Side::open(disk, 2, self.options.clone());
        let (side, report) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
        let shown = self.shown(&side.disk);
        assert!(shown.iter().all(|new| *new == shown[0]), "{title}: a mixed set: {shown:?}");
        assert!(shown[0] || !acked, "{title}: what was acknowledged is gone");
        assert_eq!(side.private("quarantine"), [""; 0], "{title}: something was set aside");
        assert_eq!(side.private("staging").len(), report.resumable, "{title}: left over");
        self.check_kept(&side, shown[0]);
        for (at, name) in self.names.iter().enumerate() {
            side.rescan_after_crash(name).expect("looks");
            let current = side.store.current(name).expect("reads");
            let found = current.as_ref().map(|current| current.root);
            let root = blake3::hash(match shown[0] {
                true => &self.feeds[at].bytes,
                false => self.old[at].as_deref().unwrap_or_default(),
            });
            let expected = (shown[0] || self.old[at].is_some()).then_some(root);
            assert_eq!(found.map(|r| *r.as_bytes()), expected.map(|r| *r.as_bytes()), "{title}");
            if current.is_some() {
                assert!(side.store.verify(name, &()).expect("reads").is_good(), "{title}");
            }
        }
        if go_on {
            self.deliver(&side).unwrap_or_else(|e| panic!("{title}: is refused: {e}"));
            assert!(self.shown(&side.disk).iter().all(|new| *new), "{title}: not delivered");
            assert_eq!(side.private("staging"), [""; 0], "{title}: left over");
            assert_eq!(side.private("quarantine"), [""; 0], "{title}: something was set aside");
            self.check_kept(&side, true);
        }
    }
}

/// Delivers the set with the disk recorded; when it was acknowledged, in operations.
fn recorded(story: &Story) -> (Vec<Snapshot>, usize) {
    story.receiver.disk.record();
    story.deliver(&story.receiver).expect("commits");
    let acked = story.receiver.disk.ops();
    (story.receiver.disk.recorded(), acked)
}

#[test]
fn crash_set_at_every_operation() {
    across("crash_set_at_every_operation", 3, "crash images", |seed| {
        let mut images = 0;
        for past in Past::EACH {
            let story = Story::new(seed, past);
            let (snapshots, acked) = recorded(&story);
            for (at, snapshot) in snapshots.iter().enumerate() {
                for plan in cuts(snapshot.disk.pending(), seed << 20 | at as u64) {
                    let go_on = images % 8 == 0;
                    story.check(snapshot.disk.crash(plan), acked <= snapshot.ops, go_on);
                    images += 1;
                }
            }
        }
        images
    });
}

#[test]
fn crash_set_in_recovery() {
    across("crash_set_in_recovery", 3, "double crash images", |seed| {
        let mut images = 0;
        for past in Past::EACH {
            let story = Story::new(seed, past);
            let (snapshots, acked) = recorded(&story);
            for (at, snapshot) in snapshots.iter().enumerate().skip(seed as usize % 9).step_by(9) {
                let number = seed << 20 | at as u64;
                let disk = snapshot.disk.crash(cut(seed as usize + at, number));
                disk.record();
                drop(Side::open(disk.clone(), 2, story.options.clone()).expect("opens"));
                for (step, again) in disk.recorded().iter().enumerate() {
                    let plan = cut(at + step, number << 10 | step as u64);
                    story.check(again.disk.crash(plan), acked <= snapshot.ops, images % 16 == 0);
                    images += 1;
                }
            }
        }
        images
    });
}

#[test]
fn crash_set_by_every_call_that_fails() {
    across("crash_set_by_every_call_that_fails", 3, "failed calls", |seed| {
        let mut failed = 0;
        for past in Past::EACH {
            for kind in [OpKind::Rename, OpKind::SyncDir, OpKind::Sync, OpKind::Write] {
                for nth in 1.. {
                    let story = Story::new(seed, past);
                    let sealed: Result<Vec<_>> = story
                        .feeds
                        .iter()
                        .map(|f| Ok((f.seal(&story.receiver.store)?.0, Received::default())))
                        .collect();
                    story.receiver.disk.fail_at(kind, nth, ErrorKind::Other);
                    let outcome = story.receiver.store.commit_set(sealed.expect("seals"));
                    let Err(error) = outcome else { break };
                    assert!(nth < 200, "{error}");
                    let shows = story.check_order(&story.receiver.disk);
                    // Without doubt about the disk it is undone at once; else by recovery.
                    let degraded = story.receiver.store.is_degraded();
                    let undone = shows.iter().all(|shows| *shows == Shows::Old);
                    assert!(degraded || undone, "{kind:?} {nth}: {shows:?}");
                    if !degraded {
                        story.check_kept(&story.receiver, false);
                    }
                    let plan = CrashPlan { seed, keep: Keep::Everything, tear: false };
                    story.check(story.receiver.disk.crash(plan), false, true);
                    failed += 1;
                }
            }
        }
        failed
    });
}

#[test]
fn crash_set_then_a_local_change() {
    across("crash_set_then_a_local_change", 3, "crash images", |seed| {
        let mut images = 0;
        for past in Past::EACH {
            let story = Story::new(seed, past);
            let (snapshots, _) = recorded(&story);
            for (at, snapshot) in snapshots.iter().enumerate() {
                let plan = CrashPlan { seed, keep: Keep::Everything, tear: false };
                let disk = snapshot.disk.crash(plan);
                disk.set_clock_ns(disk.clock_ns() + 1_000_000_000);
                let changed = &story.names[at % story.names.len()];
                let local = vec![at as u8 | 1; 5000];
                put(&disk, changed.as_str(), &local).expect("writes");
                let title = story.title();
                let opened = Side::open(disk, 2, story.options.clone());
                let (side, _) = opened.unwrap_or_else(|e| panic!("{title}: does not open: {e}"));
                assert!(side.read(changed) == local, "{title}: a local change is gone");
                let looks = side.store.look().expect("looks");
                let look = looks.iter().find(|look| look.name == changed.as_str());
                let state = look.expect("it is there").state;
                assert_ne!(state, blockferry_store::LookState::Unchanged, "{title}: unnoticed");
                let kept = side.store.retention().generations > 0;
                for (name, old) in story.names.iter().zip(&story.old).filter(|_| kept) {
                    let Some(old) = old.as_ref().filter(|_| name != changed) else { continue };
                    let held = side.store.kept(name).expect("reads");
                    let there =
                        held.iter().any(|k| whole(&side.disk, &k.path).ok().as_ref() == Some(old));
                    assert!(there || side.read(name) == *old, "{title}: {name} has lost its past");
                }
                images += 1;
            }
        }
        images
    });
}

/// The inode of each member's file.
fn inodes(story: &Story) -> Vec<Option<u64>> {
    let stat = |name: &ImageName| story.receiver.disk.stat(name.as_str()).expect("looks");
    story.names.iter().map(|name| stat(name).map(|stat| stat.inode)).collect()
}

/// A seed whose mode is the journal.
fn journal_seed() -> u64 {
    MODES.iter().position(|mode| *mode == CommitMode::Journal).expect("a mode") as u64
}

#[test]
fn a_set_is_put_into_its_own_files() {
    let story = Story::new(journal_seed(), Past::All);
    let before = inodes(&story);
    story.deliver(&story.receiver).expect("commits");
    assert!(story.shown(&story.receiver.disk).iter().all(|new| *new));
    // Of the first one, 700 bytes, nothing is left to be kept.
    assert_eq!(inodes(&story)[1..], before[1..], "a copy was made");
    for name in &story.names {
        assert!(story.receiver.store.verify(name, &()).expect("reads").is_good(), "{name}");
    }
}

#[test]
fn a_member_that_is_open_is_replaced_and_those_before_it_are() {
    for open in 0..MEMBERS.len() {
        let story = Story::new(journal_seed(), Past::All);
        let before = inodes(&story);
        let name = &story.names[open];
        story.receiver.disk.hold_open(name.as_str(), false).expect("holds");
        story.deliver(&story.receiver).expect("commits");
        let kept: Vec<bool> = inodes(&story).iter().zip(&before).map(|(a, b)| a == b).collect();
        let expected: Vec<bool> = (0..MEMBERS.len()).map(|at| at > open).collect();
        assert_eq!(kept, expected, "{name} is open");
        assert!(story.shown(&story.receiver.disk).iter().all(|new| *new));
    }
}

/// Whoever has a member open when the store is opened again sees the old one whole, and the set is
/// not mixed for his sake: where it goes forward, a copy takes the place of what he has open.
#[test]
fn crash_set_with_a_reader_at_recovery() {
    let (mut copied, mut finished) = (0, 0);
    let story = Story::new(journal_seed(), Past::All);
    let (snapshots, _) = recorded(&story);
    for (at, name) in story.names.iter().enumerate() {
        for (number, snapshot) in snapshots.iter().enumerate() {
            let plan = CrashPlan { seed: number as u64, keep: Keep::Everything, tear: false };
            let disk = snapshot.disk.crash(plan);
            let before = story.shows(&disk)[at];
            if disk.hold_open(name.as_str(), false).is_err() {
                continue;
            }
            let inode = |disk: &SimDisk| disk.stat(name.as_str()).expect("looks").map(|s| s.inode);
            let was = inode(&disk);
            let opened = Side::open(disk.clone(), 2, story.options.clone());
            let (side, _) = opened.unwrap_or_else(|e| panic!("{name}, {number}: {e}"));
            let shown = story.shown(&side.disk);
            assert!(shown.iter().all(|new| *new == shown[0]), "{name}, {number}: {shown:?}");
            if shown[0] && before == Shows::Old {
                assert_ne!(inode(&side.disk), was, "{name}, {number}: changed under a reader");
                copied += 1;
            }
            finished += usize::from(shown[0]);
            for name in &story.names {
                side.rescan_after_crash(name).expect("looks");
                assert!(side.store.verify(name, &()).expect("reads").is_good(), "{name}, {number}");
            }
        }
    }
    assert!(copied > 3 && finished > copied, "{copied} copies, {finished} finished");
}
