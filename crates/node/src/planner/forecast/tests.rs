//! When things will be there, by hand-made cases; whole nights are in `tests/nights.rs`.

use super::*;
use crate::budget::SENDS_MAX;
use crate::config::Allowance;
use crate::rate::calendar::{Calendar, Rule, When, Zone};
use crate::rate::overrides::Order;
use blockferry_delta::{ImageName, StoreName};

const MBIT: u64 = 1_000_000;
/// 2026-11-23 00:00 UTC, a Monday.
const MONDAY: i64 = 1_795_392_000_000;
const HOUR: i64 = 3_600_000;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn key(peer: u8, image: &str) -> Key {
    let store = StoreName::new("vdisks").expect("a name");
    Key { peer: node(peer), store, image: ImageName::new(image).expect("a name") }
}

/// So many bits wait.
fn waiting(peer: u8, image: &str, bits: u64) -> Waiting {
    let (key, wire_bytes) = (key(peer, image), bits / 8);
    Waiting {
        key,
        wire_bytes,
        changed_bytes: wire_bytes,
        under_way: false,
        not_before_unix_ms: None,
    }
}

fn queue(peer: u8, link_mbit: Option<u64>, waiting: Vec<Waiting>) -> Queue {
    let link_bits_per_second = link_mbit.map(|mbit| mbit * MBIT);
    Queue { peer: node(peer), link_bits_per_second, waiting }
}

fn limited(mbit: u64) -> Allowance {
    Allowance { limit: Rate::Limited(mbit * MBIT), ..Allowance::default() }
}

/// 5 Mbit/s by day, 200 from 18:00 to 07:00, nothing on the 25th; for peer 1.
fn night() -> Rates {
    let often = |dates: &[&str], from: &str, to: &str| When::Often {
        days: "Mon-Sun".parse().expect("days"),
        dates: dates.iter().map(|d| d.parse().expect("dates")).collect(),
        from: from.parse().expect("a time"),
        to: to.parse().expect("a time"),
    };
    let calendar = Calendar {
        zone: Zone::utc(),
        default: Rate::Limited(5 * MBIT),
        dfsr: None,
        polite: false,
        rules: vec![
            Rule {
                when: often(&[], "18:00", "07:00"),
                rate: Rate::Limited(200 * MBIT),
                polite: None,
            },
            Rule {
                when: often(&["2026-11-25"], "00:00", "24:00"),
                rate: Rate::Pause,
                polite: None,
            },
        ],
    };
    let mut rates = Rates::default();
    rates.calendars.insert("night".into(), Arc::new(calendar));
    let schedule = Some("night".to_owned());
    rates.peers.insert(node(1), Allowance { schedule, ..Allowance::default() });
    rates
}

/// Seconds after Monday at which one image is at peer 1.
fn alone(rates: &Rates, hour: i64, bits: u64, link_mbit: Option<u64>) -> Finish {
    let queues = vec![queue(1, link_mbit, vec![waiting(1, "a", bits)])];
    let all = forecast(rates, queues, Turns::default(), MONDAY + hour * HOUR);
    seconds(all.finish(&key(1, "a")).expect("it was asked about"))
}

fn seconds(finish: Finish) -> Finish {
    match finish {
        Finish::At(at) => Finish::At((at - MONDAY) / 1000),
        other => other,
    }
}

#[test]
fn one_image_follows_the_calendar() {
    let mut rates = night();
    // Within the day's rate; across the edge at 18:00; over the paused 25th.
    assert_eq!(alone(&rates, 12, 5 * MBIT * 60, None), Finish::At(12 * 3600 + 60));
    let by_day = 5 * MBIT * 3600;
    assert_eq!(alone(&rates, 17, by_day + 200 * MBIT * 100, None), Finish::At(18 * 3600 + 100));
    let tuesday_night = 200 * MBIT * 6 * 3600;
    assert_eq!(alone(&rates, 42, tuesday_night + 200 * MBIT, None), Finish::At(72 * 3600 + 1));
    // A link slower than the calendar rules.
    assert_eq!(alone(&rates, 20, 10 * MBIT * 60, Some(10)), Finish::At(20 * 3600 + 60));
    assert_eq!(alone(&rates, 0, 0, None), Finish::At(0));
    assert_eq!(alone(&Rates::default(), 0, MBIT, None), Finish::Unknown, "no rate is known");
    rates.overrides.give(Order::Pause, Scope::default(), MONDAY, Some(MONDAY + 13 * HOUR));
    assert_eq!(alone(&rates, 12, 5 * MBIT, None), Finish::At(13 * 3600 + 1), "a pause that ends");
    rates.overrides.give(Order::Pause, Scope::default(), MONDAY, None);
    assert_eq!(alone(&rates, 12, MBIT, None), Finish::Unknown, "it waits for an operator");
    let mut rates = night();
    rates.calendars.insert("night".into(), Arc::new(Calendar::constant(Rate::Pause)));
    assert_eq!(alone(&rates, 12, MBIT, None), Finish::Never);
}

/// Calendars have edges for years: who has nothing to send doesn't look at them.
#[test]
fn it_ends_with_the_last_item() {
    let mut rates = night();
    rates.node.schedule = Some("night".to_owned());
    let nothing = play(&rates, Vec::new(), Turns::default(), MONDAY);
    assert_eq!(nothing.now, MONDAY);
    let queues = vec![queue(1, None, vec![waiting(1, "a", 5 * MBIT * 60)])];
    let one = play(&rates, queues, Turns::default(), MONDAY + 12 * HOUR);
    assert_eq!(one.now, MONDAY + 12 * HOUR + 60_000);
}

#[test]
fn images_of_a_peer_take_turns_in_their_order() {
    let rates = Rates::default();
    let mut images = vec![waiting(1, "a", 300 * MBIT), waiting(1, "b", 100 * MBIT)];
    images.push(waiting(1, "c", 100 * MBIT));
    let all = forecast(&rates, vec![queue(1, Some(10), images.clone())], Turns::default(), MONDAY);
    let of = |all: &Forecast, image: &str| seconds(all.finish(&key(1, image)).expect("asked"));
    // Each is more than the link carries in a moment: one at a time.
    assert_eq!(["a", "b", "c"].map(|image| of(&all, image)), [30, 40, 50].map(Finish::At));
    assert_eq!(all.last(|k| k.peer == node(1)).map(seconds), Some(Finish::At(50)));
    assert_eq!(all.last(|k| k.peer == node(2)), None);
    // The last one is not to begin before the 30th second, and goes first then.
    images[2].not_before_unix_ms = Some(MONDAY + 30_000);
    images.push(waiting(1, "d", 100 * MBIT));
    images.push(waiting(1, "e", 100 * MBIT));
    let all = forecast(&rates, vec![queue(1, Some(10), images)], Turns::default(), MONDAY);
    let finishes: Vec<Finish> = ["a", "b", "c", "d", "e"].map(|image| of(&all, image)).to_vec();
    assert_eq!(finishes, [30, 50, 40, 60, 70].map(Finish::At));
}

#[test]
fn the_node_s_limit_is_shared_and_what_one_cannot_take_the_others_get() {
    let mut rates = Rates { node: limited(30), ..Rates::default() };
    let image = |peer: u8| waiting(peer, "a", 60 * MBIT);
    let all = |rates: &Rates| {
        let queues = vec![
            queue(1, Some(2), vec![image(1)]),
            queue(2, Some(100), vec![image(2)]),
            queue(3, Some(100), vec![image(3)]),
        ];
        let all = forecast(rates, queues, Turns::default(), MONDAY);
        [1, 2, 3].map(|peer| seconds(all.finish(&key(peer, "a")).expect("asked")))
    };
    // 2 and 14 and 14 Mbit/s.
    assert_eq!(all(&rates), [30, 4, 4].map(Finish::At));
    rates.peers.insert(node(2), limited(6));
    // 2, 6 and 22.
    assert_eq!(all(&rates), [30, 10, 2].map(Finish::At));
    rates.stores.insert(StoreName::new("vdisks").expect("a name"), limited(4));
    assert_eq!(all(&rates), [45; 3].map(Finish::At), "a third of 4 each");
}

#[test]
fn small_images_go_together_lanes_come_first_and_weights_share() {
    let mut rates = Rates { node: limited(30), ..Rates::default() };
    let small: Vec<Waiting> = ["a", "b", "c"].map(|name| waiting(1, name, 10 * MBIT)).into();
    let all = forecast(&rates, vec![queue(1, Some(10), small)], Turns::default(), MONDAY);
    let ends: Vec<Finish> = all.items().map(|(_, finish)| seconds(finish)).collect();
    assert_eq!(ends, [3; 3].map(Finish::At), "less than 4 MiB is on its way");
    let image = |peer: u8| waiting(peer, "a", 60 * MBIT);
    let all = |rates: &Rates| {
        let queues = vec![queue(1, Some(100), vec![image(1)]), queue(2, Some(100), vec![image(2)])];
        let all = forecast(rates, queues, Turns::default(), MONDAY);
        [1, 2].map(|peer| all.finish(&key(peer, "a")).and_then(Finish::unix_ms).expect("an end"))
    };
    assert_eq!(all(&rates).map(|at| at - MONDAY), [4000; 2]);
    rates.peers.insert(node(1), Allowance { weight: 3, ..Allowance::default() });
    // 22.5 and 7.5 Mbit/s; the whole is the same.
    assert_eq!(all(&rates).map(|at| at - MONDAY), [2667, 4000]);
    rates.pushed.insert(key(2, "a"), blockferry_wire::Lane::Urgent);
    // Twenty of 21 parts, whatever the weight.
    assert_eq!(all(&rates).map(|at| at - MONDAY), [4000, 2100]);
}

#[test]
fn an_unmeasured_link_leaves_the_others_theirs() {
    let queues = vec![
        queue(1, None, vec![waiting(1, "a", MBIT), waiting(1, "b", MBIT), waiting(1, "c", MBIT)]),
        queue(2, Some(10), vec![waiting(2, "a", 100 * MBIT)]),
    ];
    let all = forecast(&Rates::default(), queues, Turns::default(), MONDAY);
    for image in ["a", "b", "c"] {
        assert_eq!(all.finish(&key(1, image)), Some(Finish::Unknown));
    }
    assert_eq!(all.finish(&key(2, "a")), Some(Finish::At(MONDAY + 10_000)));
    assert_eq!(all.last(|_| true), Some(Finish::Unknown));
    assert_eq!(all.items().count(), 4);
}

#[test]
fn a_held_transfer_gives_its_slot_to_others() {
    let mut rates = night();
    rates.calendars.insert("night".into(), Arc::new(Calendar::constant(Rate::Pause)));
    let mut held = waiting(1, "a", MBIT);
    held.under_way = true;
    let mut queues = vec![queue(1, Some(10), vec![held])];
    for peer in 2..2 + u8::try_from(SENDS_MAX).expect("few") {
        queues.push(queue(peer, Some(10), vec![waiting(peer, "a", 10 * MBIT)]));
    }
    let all = forecast(&rates, queues, Turns::default(), MONDAY);
    let ends = all.items().map(|(_, finish)| seconds(finish)).collect::<Vec<_>>();
    assert_eq!(ends[0], Finish::Never);
    assert!(ends[1..].iter().all(|end| *end == Finish::At(1)), "{ends:?}");
}

#[test]
fn the_rate_that_would_be_needed_counts_no_pause() {
    let rates = night();
    let scope = Scope::peer(node(1));
    let needed = |from: i64, to: i64| {
        rate_needed(&rates, &scope, 3600 * MBIT / 8, MONDAY + from * HOUR, MONDAY + to * HOUR)
    };
    assert_eq!(needed(0, 1), Some(MBIT));
    assert_eq!(needed(46, 72), Some(MBIT / 2), "two hours before the day that is paused");
    assert_eq!(needed(48, 72), None);
    assert_eq!(needed(5, 5), None);
}

#[test]
fn what_goes_before_an_item_counts_for_the_rate_it_needs() {
    let (gigabyte, rates) = (8000 * MBIT, Rates::default());
    let plan = |link: Option<u64>| {
        let mut first = waiting(1, "a", 100 * gigabyte);
        first.under_way = true;
        let queue = queue(1, link, vec![first, waiting(1, "b", 8 * MBIT)]);
        let all = forecast(&rates, vec![queue.clone()], Turns::default(), MONDAY);
        (all.finish(&key(1, "b")), bytes_ahead(&queue, &all, &key(1, "b"), MONDAY), queue, all)
    };
    let by = MONDAY + 6 * HOUR;
    let (finish, ahead, queue, all) = plan(Some(10));
    assert!(matches!(finish, Some(Finish::At(at)) if at > by), "{finish:?}");
    assert_eq!(ahead, 100_000_000_000);
    assert_eq!(bytes_ahead(&queue, &all, &key(1, "a"), MONDAY), 0, "nothing is before the first");
    let needed = rate_needed(&rates, &Scope::peer(node(1)), ahead + 1_000_000, MONDAY, by);
    assert!(needed.is_some_and(|bits| bits > 37 * MBIT), "{needed:?}");
    let (finish, ahead, ..) = plan(None);
    assert_eq!((finish, ahead), (Some(Finish::Unknown), 100_000_000_000));
}

#[test]
fn many_items_end_and_absurd_ones_too() {
    let many = |peer: u8| (0..3000).map(move |n| waiting(peer, &format!("i{n}"), MBIT)).collect();
    let queues = (1..=4).map(|peer| queue(peer, Some(1), many(peer))).collect();
    let all = forecast(&Rates::default(), queues, Turns::default(), MONDAY);
    assert_eq!(all.last(|_| true).map(seconds), Some(Finish::At(3000)));
    let mut huge = waiting(1, "a", 0);
    huge.wire_bytes = u64::MAX;
    let all = forecast(&night(), vec![queue(1, Some(1), vec![huge])], Turns::default(), MONDAY);
    assert_eq!(all.last(|_| true), Some(Finish::Unknown), "beyond what is looked at");
}
