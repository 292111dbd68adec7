//! Many nodes, any links, cut and made again at random: what was said comes to everybody.
//!
//! `BLOCKFERRY_SEED` replays one case.

use std::collections::{BTreeMap, VecDeque};

use blockferry_delta::{ImageName, Lineage, Root};
use blockferry_wire::{Holding, Member, Proof, Roster, Said, What};

use super::*;
use crate::membership::identity::Identity;
use crate::membership::roster::members;
use crate::promotion::statements::Taken;

const STORE: StoreId = StoreId::from_bytes([7; 16]);
const CASES: u64 = 60;

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

struct Node {
    identity: Identity,
    book: Book,
    peers: Vec<usize>,
    said: u64,
    /// Of each peer: its log, and the last place of it that came.
    heard: BTreeMap<usize, (u64, u64)>,
}

struct Cluster {
    nodes: Vec<Node>,
    /// What is told to whom, by (from, to); absent: the line is cut.
    feeds: BTreeMap<(usize, usize), Feed>,
    /// Statements on their way.
    lines: BTreeMap<(usize, usize), VecDeque<Statement>>,
    starts: u64,
}

impl Cluster {
    /// `count` nodes that hang together somehow, no line up yet.
    fn new(count: usize, numbers: &mut Numbers) -> Self {
        let node = |log| Node {
            identity: Identity::generate().expect("a key"),
            book: Book::new(log),
            peers: Vec::new(),
            said: 0,
            heard: BTreeMap::new(),
        };
        let mut nodes: Vec<Node> = (1..=count as u64).map(node).collect();
        for joiner in 1..count {
            for inviter in 0..joiner {
                let first = inviter == 0 && nodes[joiner].peers.is_empty();
                if numbers.below(3) == 0 || (first && numbers.below(joiner) == 0) {
                    nodes[joiner].peers.push(inviter);
                    nodes[inviter].peers.push(joiner);
                }
            }
            if nodes[joiner].peers.is_empty() {
                let inviter = numbers.below(joiner);
                nodes[joiner].peers.push(inviter);
                nodes[inviter].peers.push(joiner);
            }
        }
        let (feeds, lines) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { nodes, feeds, lines, starts: count as u64 };
        (0..count).for_each(|at| cluster.say_roster(at));
        cluster
    }

    fn say_roster(&mut self, at: usize) {
        let members = self.direct(at);
        self.say(at, What::Roster(Roster { node_name: format!("n{at}"), members }));
    }

    fn direct(&self, at: usize) -> Vec<Member> {
        let member = |peer: &usize| Member {
            node: self.nodes[*peer].identity.id(),
            name: format!("n{peer}"),
            writer: true,
        };
        let mut members: Vec<Member> = self.nodes[at].peers.iter().map(member).collect();
        members.sort_by_key(|m| m.node);
        members
    }

    fn say(&mut self, at: usize, what: What) {
        let node = &mut self.nodes[at];
        node.said += 1;
        let key = node.identity.public().to_bytes();
        let said = Said { key, store: STORE, sequence: node.said, unix_ms: 0, what };
        let body = said.encode().expect("keeps the rules");
        let signature = node.identity.sign(&Statement::signed_bytes(&body));
        assert_eq!(node.book.take(Signed { said, body, signature }, None), Taken::New);
    }

    fn hold(&mut self, at: usize, image: usize) {
        let number = self.nodes[at].said;
        self.say(
            at,
            What::Holding(Holding {
                image: ImageName::new(&format!("image-{image}")).expect("a name"),
                number,
                root: Root::from_bytes([number as u8; 32]),
                lineage: Lineage::default(),
                proof: Proof::Durable,
                rivals: Vec::new(),
            }),
        );
    }

    /// A line comes up: each side says from where it wants to be told.
    fn connect(&mut self, a: usize, b: usize) {
        self.cut(a, b);
        for (from, to) in [(a, b), (b, a)] {
            let (known_log, known_place) =
                self.nodes[to].heard.get(&from).copied().unwrap_or_default();
            let own_log = self.nodes[to].book.log();
            let resume = Resume { store: STORE, own_log, known_log, known_place };
            let feed = Feed::from(&self.nodes[from].book, &resume, &self.nodes[from].identity.id());
            self.feeds.insert((from, to), feed);
            let log = self.nodes[from].book.log();
            let at = self.nodes[to].heard.entry(from).or_default();
            if at.0 != log {
                *at = (log, 0);
            }
        }
    }

    /// What is on its way is lost.
    fn cut(&mut self, a: usize, b: usize) {
        for line in [(a, b), (b, a)] {
            self.feeds.remove(&line);
            self.lines.remove(&line);
        }
    }

    /// A node starts again, with what its ledger has: places mean nothing any more.
    fn restart(&mut self, at: usize) {
        for peer in self.nodes[at].peers.clone() {
            self.cut(at, peer);
        }
        self.starts += 1;
        let mut book = Book::new(self.starts);
        let mut place = 0;
        let nobody = NodeId::from_bytes([0; 32]);
        while let Some((next, signed)) = self.nodes[at].book.next_after(&STORE, place, &nobody, 0) {
            place = next;
            book.take((*signed).clone(), None);
        }
        self.nodes[at].book = book;
        self.nodes[at].heard.clear();
    }

    /// One statement is said or heard on one line; `false`: there is none.
    fn step(&mut self, line: (usize, usize), hear: bool) -> bool {
        let (from, to) = line;
        let to_id = self.nodes[to].identity.id();
        if !hear {
            let Some(feed) = self.feeds.get_mut(&line) else { return false };
            let Some(statement) = feed.next(&self.nodes[from].book, &to_id) else { return false };
            self.lines.entry(line).or_default().push_back(statement);
            return true;
        }
        let next = self.lines.get_mut(&line).and_then(VecDeque::pop_front);
        let Some(statement) = next else { return false };
        let place = statement.place;
        let signed = Signed::from_wire(statement).expect("well formed");
        let direct = self.direct(to);
        let (from_id, node) = (self.nodes[from].identity.id(), &mut self.nodes[to]);
        let heard = node.heard.get_mut(&from).expect("noted when it came up");
        heard.1 = heard.1.max(place);
        let known = members(&node.book, &STORE, &to_id, direct, |_| false);
        if signed.node() == to_id || known.contains_key(&signed.node()) {
            node.book.take(signed, Some(from_id));
        }
        true
    }

    fn settle(&mut self) {
        let links: Vec<(usize, usize)> = (0..self.nodes.len())
            .flat_map(|a| self.nodes[a].peers.iter().map(move |b| (a, *b)).collect::<Vec<_>>())
            .collect();
        for (a, b) in links.iter().filter(|(a, b)| a < b) {
            if !self.feeds.contains_key(&(*a, *b)) {
                self.connect(*a, *b);
            }
        }
        let mut steps = 0;
        loop {
            let mut any = false;
            for line in &links {
                any |= self.step(*line, false);
                any |= self.step(*line, true);
            }
            steps += 1;
            assert!(steps < 100_000, "it never ends");
            if !any {
                return;
            }
        }
    }
}

fn case(seed: u64) {
    let numbers = &mut Numbers(seed);
    let count = 2 + numbers.below(6);
    let mut cluster = Cluster::new(count, numbers);
    for _ in 0..numbers.below(400) {
        let a = numbers.below(count);
        let peers = &cluster.nodes[a].peers;
        let b = peers[numbers.below(peers.len())];
        match numbers.below(20) {
            0 => cluster.connect(a, b),
            1 => cluster.cut(a, b),
            2 if numbers.below(4) == 0 => cluster.restart(a),
            // As it does when somebody joins: its place is after what members said before.
            6 => cluster.say_roster(a),
            3..=5 => {
                let image = numbers.below(3);
                cluster.hold(a, image);
            }
            other => {
                cluster.step((a, b), other % 2 == 0);
            }
        }
    }
    cluster.settle();
    let all = |node: &Node| {
        let (mut place, mut all) = (0, Vec::new());
        let nobody = NodeId::from_bytes([0; 32]);
        while let Some((next, signed)) = node.book.next_after(&STORE, place, &nobody, 0) {
            place = next;
            all.push((signed.slot().expect("known"), signed.said.sequence));
        }
        all.sort();
        all
    };
    let first = all(&cluster.nodes[0]);
    for node in &cluster.nodes {
        assert_eq!(all(node), first, "BLOCKFERRY_SEED={seed}: not everybody knows the same");
        assert!(node.book.roster(&STORE, &node.identity.id()).is_some());
    }
    let rosters =
        first.iter().filter(|(slot, _)| slot.topic == crate::promotion::statements::Topic::Roster);
    assert_eq!(rosters.count(), count, "BLOCKFERRY_SEED={seed}");
}

#[test]
fn what_was_said_comes_to_everybody_whatever_is_cut() {
    if let Ok(seed) = std::env::var("BLOCKFERRY_SEED") {
        return case(seed.parse().expect("a number"));
    }
    (0..CASES).for_each(case);
}

/// A node that comes last is told who the members are before it is told what they say: else it
/// would take that for a stranger's and never hear it again.
#[test]
fn whoever_speaks_is_known_to_be_a_member() {
    for (others, seed) in (2..7).zip(1..) {
        let numbers = &mut Numbers(seed);
        let mut cluster = Cluster::new(others + 1, numbers);
        // A chain; the first one comes last.
        let last = others;
        for at in 0..=last {
            let near = [at.checked_sub(1), Some(at + 1).filter(|at| *at <= last)];
            cluster.nodes[at].peers = near.into_iter().flatten().collect();
        }
        (0..=last).for_each(|at| cluster.say_roster(at));
        for at in 1..last {
            cluster.connect(at, at + 1);
        }
        cluster.hold(last, 0);
        let lines: Vec<(usize, usize)> =
            (1..last).flat_map(|at| [(at, at + 1), (at + 1, at)]).collect();
        let mut moved = true;
        while moved {
            moved = false;
            for line in &lines {
                moved |= cluster.step(*line, false);
                moved |= cluster.step(*line, true);
            }
        }
        // Their rosters change after all that: in their books these come last.
        (1..=last).for_each(|at| cluster.say_roster(at));
        let from = cluster.nodes[1].book.last_place();
        cluster.connect(0, 1);
        while cluster.step((1, 0), false) {}
        while cluster.step((1, 0), true) {}
        let (heard, far) = (&cluster.nodes[0].book, cluster.nodes[last].identity.id());
        let image = ImageName::new("image-0").expect("a name");
        let holding = heard.holding(&STORE, &far, &image);
        assert!(holding.is_some(), "{others} others: told up to {from}, and not of the last one");
    }
}
