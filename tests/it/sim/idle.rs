//! A hub with 500 stores and 50 branches that share all of them, all equal: it starts after a power
//! cut, everybody connects at once, and then nothing happens for a day. What it costs must not be a
//! matter of pairs: what is counted is compared over four sizes, and what a hub holds is measured
//! in a process of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use blockferry_tests::{Counts, Hub, Plan};

const STORES: usize = 500;
const PEERS: usize = 50;
/// After this time nobody has anything to say any more.
const SETTLED: Duration = Duration::from_secs(600);
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// What the hub of the issue may hold resident, in bytes; here with all of this process around it.
const RESIDENT_BYTES_MAX: u64 = 500 << 20;
/// What this process may take for each image of a store at each branch, statements and the
/// stand-ins at the other ends included; about twice what was measured.
const PAIR_BYTES_MAX: u64 = 8 << 10;
/// Small and large: a tenth of both.
const SIZES: [[usize; 2]; 2] = [[STORES / 10, STORES], [PEERS / 10, PEERS]];

fn plan(stores: usize, peers: usize) -> Plan {
    Plan { stores, peers, images: 1, seed: 7, polls_pairs: false }
}

/// A hub to which all branches are connected.
fn settled(plan: Plan) -> Hub {
    let mut hub = Hub::start(plan);
    hub.run(SETTLED);
    assert!(hub.is_settled(), "{plan:?}: {:?} {:?}", hub.counts(), hub.kinds());
    hub
}

/// What a time without events costs.
fn idle(hub: &mut Hub, time: Duration) -> Counts {
    let before = hub.counts();
    hub.run(time);
    assert!(hub.is_settled());
    hub.counts().since(before)
}

/// Counts by [stores][peers], each few and many.
type Corners = [[u64; 2]; 2];

/// What of it is due to pairs: whatever is a sum of what stores cost and what peers cost leaves
/// nothing.
fn of_pairs([[few, few_stores], [few_peers, many]]: Corners) -> i128 {
    let [few, few_stores, few_peers, many] = [few, few_stores, few_peers, many].map(i128::from);
    many - few_stores - few_peers + few
}

/// Nothing that is counted may be a matter of pairs; messages not even of stores.
fn check(corners: &[[Counts; 2]; 2]) -> Result<(), String> {
    type Field = fn(&Counts) -> u64;
    let fields: [(&str, Field); 4] = [
        ("messages", |counts| counts.messages),
        ("wake-ups", |counts| counts.wakes),
        ("polls", |counts| counts.polls),
        ("offers", |counts| counts.offers),
    ];
    for (name, field) in fields {
        let by_size = corners.map(|row| row.map(|counts| field(&counts)));
        let pairs = of_pairs(by_size);
        if pairs != 0 {
            return Err(format!("{pairs} {name} are due to pairs: {by_size:?}"));
        }
    }
    for (few, many) in corners[0].iter().zip(&corners[1]) {
        let [few, many] = [few, many].map(|counts| counts.messages);
        if few != many {
            return Err(format!("{few} messages with few stores, {many} with many"));
        }
    }
    Ok(())
}

fn corners(mut count: impl FnMut(usize, usize) -> Counts) -> [[Counts; 2]; 2] {
    let [stores, peers] = SIZES;
    stores.map(|stores| peers.map(|peers| count(stores, peers)))
}

#[test]
fn sim_idle_counts_that_grow_with_pairs_are_refused() {
    let made_up = |per_pair: u64| {
        corners(|stores, peers| {
            let (stores, peers) = (stores as u64, peers as u64);
            let wakes = 1440 * stores + 8640 * peers + 43_200 + per_pair * stores * peers;
            Counts { messages: 0, bytes: 0, wakes, polls: 3 * wakes, offers: 0 }
        })
    };
    assert_eq!(check(&made_up(0)), Ok(()));
    let refused = check(&made_up(1)).expect_err("one wake-up a day for each pair");
    assert!(refused.starts_with("20250 wake-ups are due to pairs"), "{refused}");
    let talks = corners(|stores, _| Counts { messages: stores as u64, ..Counts::default() });
    assert!(check(&talks).is_err_and(|why| why.contains("messages with few stores")));
}

#[test]
fn sim_idle_catches_a_poll_for_each_pair() {
    let hour = Duration::from_secs(3600);
    let [stores, peers] = [[5, 20], [2, 8]];
    let counts = |polls_pairs| {
        let count = |stores, peers| {
            let mut hub = Hub::start(Plan { polls_pairs, ..plan(stores, peers) });
            hub.run(SETTLED);
            let before = hub.counts();
            hub.run(hour);
            hub.counts().since(before)
        };
        stores.map(|stores| peers.map(|peers| count(stores, peers)))
    };
    assert_eq!(check(&counts(false)), Ok(()));
    let refused = check(&counts(true)).expect_err("a build that polls");
    // 15 stores and 6 peers more, a head for each pair once a minute.
    assert!(refused.starts_with("5400 messages are due to pairs"), "{refused}");
}

/// All branches connect at once to a hub that has just started; then a day passes.
#[test]
fn sim_idle_costs_nothing_for_a_pair() {
    let began = Instant::now();
    let counts = corners(|stores, peers| {
        if (stores, peers) == (STORES, PEERS) {
            return of_the_largest();
        }
        let mut hub = settled(plan(stores, peers));
        check_start(&hub, stores, peers);
        idle(&mut hub, IDLE)
    });
    check(&counts).unwrap_or_else(|why| panic!("{why}"));
    let most = counts[1][1];
    eprintln!(
        "sim_idle: a day of {STORES} stores and {PEERS} branches, all equal: {} messages, {} \
         wake-ups, {} polls, 0 for pairs; {:.1} s",
        most.messages,
        most.wakes,
        most.polls,
        began.elapsed().as_secs_f64()
    );
    assert_eq!((most.messages, most.offers), (0, 0));
}

/// A start says what is held once for each store and branch in each direction, and offers nothing.
fn check_start(hub: &Hub, stores: usize, peers: usize) {
    let kinds = hub.kinds();
    let said = |by_hub, kind| kinds.get(&(by_hub, kind)).copied().unwrap_or(0);
    let (pairs, peers) = ((stores * peers) as u64, peers as u64);
    for by_hub in [false, true] {
        assert_eq!(said(by_hub, "Inventory"), pairs, "{kinds:?}");
        assert_eq!(said(by_hub, "Resume"), pairs, "{kinds:?}");
        assert_eq!(said(by_hub, "Head"), 0, "{kinds:?}");
    }
    assert_eq!((said(false, "Hello"), said(true, "HelloAck")), (peers, peers));
    // Of itself a branch says two things of each store; of all of them the hub says what it keeps,
    // rosters twice: they come first.
    assert_eq!(said(false, "Statement"), 2 * pairs);
    let (kept, _) = hub.statements();
    let told = said(true, "Statement");
    assert!(told >= kept * peers && told <= 2 * kept * peers, "{told} of {kept}: {kinds:?}");
    assert_eq!((hub.counts().offers, kinds.len()), (0, 8), "{kinds:?}");
    assert!(hub.last_said() < SETTLED / 2, "settled after {:?}", hub.last_said());
}

/// One change costs as much with many stores as with few.
#[test]
fn sim_idle_a_change_costs_what_its_peers_cost() {
    let cost = |stores| {
        let mut hub = settled(plan(stores, 5));
        let before = (hub.counts(), hub.last_said());
        hub.change(0);
        hub.run(Duration::from_secs(30));
        assert!(hub.is_settled() && hub.last_said() > before.1);
        let Counts { messages, offers, .. } = hub.counts().since(before.0);
        (messages, offers)
    };
    let (few, many) = (cost(STORES / 10), cost(STORES));
    assert_eq!(few, many);
    // From the hub a head and a statement to each; from each the same, and that goes on to the four
    // others.
    assert_eq!(many, (5 * 2 + 5 * 2 + 5 * 4, 5));
}

/// The counts of the largest one, whose memory is measured in a process of its own.
fn of_the_largest() -> Counts {
    let mut child = Command::new(std::env::current_exe().expect("a program"));
    child.args([
        "sim::idle::sim_idle_in_a_process_of_its_own",
        "--exact",
        "--ignored",
        "--nocapture",
    ]);
    let output = child.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    eprint!("{text}");
    assert!(output.status.success(), "{}{text}", String::from_utf8_lossy(&output.stdout));
    let line =
        text.lines().find_map(|line| line.strip_prefix("counts: ")).expect("a line of counts");
    let mut numbers = line.split(' ').map(|word| word.parse().expect("a number"));
    let mut next = || numbers.next().expect("five numbers");
    let (messages, bytes, wakes) = (next(), next(), next());
    Counts { messages, bytes, wakes, polls: next(), offers: next() }
}

/// A line of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("such a line");
    let kib: String = line.chars().filter(char::is_ascii_digit).collect();
    kib.parse::<u64>().expect("a number") * 1024
}

#[test]
#[ignore = "sim_idle_costs_nothing_for_a_pair runs it in a process of its own"]
fn sim_idle_in_a_process_of_its_own() {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (began, before) = (Instant::now(), memory("VmRSS:"));
    let mut hub = Hub::start(plan(STORES, PEERS));
    let (loaded, load_seconds) = (memory("VmRSS:"), began.elapsed().as_secs_f64());
    let began = Instant::now();
    hub.run(SETTLED);
    assert!(hub.is_settled(), "{:?} {:?}", hub.counts(), hub.kinds());
    let connect_seconds = began.elapsed().as_secs_f64();
    check_start(&hub, STORES, PEERS);
    let (start, connected) = (hub.counts(), memory("VmRSS:"));
    let began = Instant::now();
    let Counts { messages, bytes, wakes, polls, offers } = idle(&mut hub, IDLE);
    let (after, peak) = (memory("VmRSS:"), memory("VmHWM:"));
    let pair = after.saturating_sub(before) / (STORES * PEERS) as u64;
    let (kept, refused) = hub.statements();
    eprintln!(
        "sim_idle: {STORES} stores, {PEERS} branches: resident {:.1} MiB more after the start, \
         {:.1} when all are connected, {:.1} after a day, {pair} bytes a pair; at its peak {:.1} \
         with everything\n\
         sim_idle: the start: {} messages, {:.1} MiB, the last one said after {:.1} s; {kept} \
         statements kept, {refused} times no room for one\n\
         sim_idle: a start took {load_seconds:.1} s, connecting {connect_seconds:.1}, a day {:.1}",
        mib(loaded.saturating_sub(before)),
        mib(connected.saturating_sub(before)),
        mib(after.saturating_sub(before)),
        mib(peak),
        start.messages,
        mib(start.bytes),
        hub.last_said().as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    eprintln!("counts: {messages} {bytes} {wakes} {polls} {offers}");
    assert!(peak < RESIDENT_BYTES_MAX, "{:.1} MiB", mib(peak));
    assert!(pair < PAIR_BYTES_MAX, "{pair} bytes a pair");
}
