//! Both manners on simulated links: alone, on lossy ones, beside TCP, through a blackout.

use std::io::Write;

use super::sim::{Control, Link};
use super::*;

/// As long as what a round trip carries, but 20 ms at least.
fn link(mbit: f64, round_trip_ms: u64, loss: f64) -> Link {
    let queue = mbit * 1e6 / 8.0 * 0.001 * (round_trip_ms.max(20) as f64);
    Link::new(mbit, round_trip_ms, queue.max(64.0 * 1500.0), loss)
}

fn say(what: &str, link: &Link, shares: &[f64]) {
    let flows = link.flows.iter().zip(shares).map(|(flow, share)| {
        let lost = flow.lost_bytes as f64 / flow.sent_bytes as f64;
        format!(" {:.1} % ({:.2} % lost)", share * 100.0, lost * 100.0)
    });
    let flows: String = flows.collect();
    let _ = writeln!(std::io::stderr(), "{what}:{flows}");
}

#[test]
fn alone_it_takes_the_link_and_loses_hardly_anything() {
    for (mbit, round_trip) in [(100.0, 1), (100.0, 50), (20.0, 40), (10.0, 30), (300.0, 100)] {
        let mut link = link(mbit, round_trip, 0.0);
        link.ferry(0.0, false);
        let shares = link.run(8.0);
        say(&format!("{mbit} Mbit/s, {round_trip} ms"), &link, &shares);
        assert!(shares[0] > 0.92, "{mbit} {round_trip} {shares:?}");
        let flow = &link.flows[0];
        assert!(flow.lost_bytes * 200 < flow.sent_bytes, "{} lost", flow.lost_bytes);
    }
}

#[test]
fn a_short_queue_is_no_reason_to_lose_much() {
    for queue in [24_000.0, 40_000.0] {
        let mut link = Link::new(50.0, 30, queue, 0.0);
        link.ferry(0.0, false);
        let shares = link.run(20.0);
        say(&format!("a queue of {queue} bytes"), &link, &shares);
        assert!(shares[0] > 0.75, "{shares:?}");
        let flow = &link.flows[0];
        assert!(flow.lost_bytes * 20 < flow.sent_bytes, "{} lost", flow.lost_bytes);
    }
}

#[test]
fn random_losses_are_not_congestion() {
    for (mbit, round_trip, loss) in [(50.0, 80, 0.01), (20.0, 40, 0.001), (10.0, 600, 0.005)] {
        let mut alone = link(mbit, round_trip, loss);
        alone.ferry(0.0, false);
        let shares = alone.run(20.0);
        say(&format!("{mbit} Mbit/s, {round_trip} ms, {loss} lost"), &alone, &shares);
        let mut tcp = link(mbit, round_trip, loss);
        tcp.cubic(0.0);
        let theirs = tcp.run(20.0);
        say("   cubic", &tcp, &theirs);
        assert!(shares[0] > 0.8 && shares[0] > theirs[0], "{mbit} {shares:?} {theirs:?}");
    }
}

#[test]
fn beside_cubic_it_takes_its_part() {
    for (round_trip, head_start) in [(20, 0.0), (20, 5.0), (80, 0.0), (2, 5.0)] {
        let mut link = link(50.0, round_trip, 0.0);
        link.cubic(0.0);
        link.ferry(head_start, false);
        link.run(10.0);
        let shares = link.run(40.0);
        say(&format!("cubic and ours, {round_trip} ms"), &link, &shares);
        assert!((0.2..0.6).contains(&shares[1]), "{round_trip} {shares:?}");
        assert!(shares[0] + shares[1] > 0.9, "{shares:?}");
    }
}

#[test]
fn polite_it_takes_what_is_free() {
    for (mbit, round_trip, loss) in
        [(50.0, 20, 0.0), (50.0, 80, 0.0), (5.0, 30, 0.0), (50.0, 40, 0.005)]
    {
        let mut link = link(mbit, round_trip, loss);
        link.ferry(0.0, true);
        let shares = link.run(10.0);
        say(&format!("polite, {mbit} Mbit/s, {round_trip} ms, {loss}"), &link, &shares);
        assert!(shares[0] > 0.9, "{round_trip} {shares:?}");
    }
}

#[test]
fn polite_it_yields_to_tcp_and_comes_back() {
    for (round_trip, ours, theirs) in [(20, 0.0, 3.0), (40, 3.0, 0.0), (80, 0.0, 0.0)] {
        let mut link = link(50.0, round_trip, 0.0);
        link.cubic(theirs);
        link.ferry(ours, true);
        link.run(10.0);
        let shares = link.run(20.0);
        say(&format!("cubic and polite, {round_trip} ms"), &link, &shares);
        assert!(shares[0] > 0.9, "{round_trip} {shares:?}");
        // TCP has no more to say.
        link.flows[0].wants = 0.0;
        link.run(5.0);
        let shares = link.run(5.0);
        say("   without it", &link, &shares);
        assert!(shares[1] > 0.9, "{round_trip} {shares:?}");
    }
}

#[test]
fn the_manner_changes_while_it_runs() {
    let mut link = link(50.0, 40, 0.0);
    link.cubic(0.0);
    link.ferry(0.0, false);
    link.run(10.0);
    let manner = |link: &mut Link, polite| {
        let now = link.now;
        let Control::Ferry(window) = &mut link.flows[1].control else { panic!("another flow") };
        window.set_polite(polite, now);
    };
    let normal = link.run(10.0);
    manner(&mut link, true);
    link.run(2.0);
    let polite = link.run(10.0);
    manner(&mut link, false);
    link.run(10.0);
    let again = link.run(20.0);
    say("normal", &link, &normal);
    say("polite", &link, &polite);
    say("normal again", &link, &again);
    assert!(normal[1] > 0.2 && polite[1] < 0.1 && again[1] > 0.2);
}

#[test]
fn a_pause_neither_grows_nor_shrinks_the_window() {
    for polite in [false, true] {
        let mut link = link(50.0, 40, 0.0);
        link.ferry(0.0, polite);
        link.run(10.0);
        let before = link.flows[0].window();
        // A tenth of what the link takes.
        link.flows[0].wants = link.rate / 10.0;
        link.run(5.0);
        let calm = link.flows[0].window();
        link.run(20.0);
        assert_eq!(link.flows[0].window(), calm);
        assert!(calm > before / 2 && calm < before * 2, "{before} {calm}");
        link.flows[0].wants = f64::INFINITY;
        let shares = link.run(2.0);
        say("after a pause", &link, &shares);
        assert!(shares[0] > 0.85, "{shares:?}");
    }
}

#[test]
fn a_blackout_costs_what_was_in_flight() {
    let mut link = link(50.0, 40, 0.0);
    link.ferry(0.0, false);
    link.run(5.0);
    let (before, window) = (link.flows[0].lost_bytes, link.flows[0].window());
    link.down = true;
    link.run(20.0);
    link.down = false;
    link.run(1.0);
    let lost = link.flows[0].lost_bytes - before;
    let shares = link.run(3.0);
    say("after a blackout", &link, &shares);
    // The probes: ten packets each time that nothing was heard.
    let probes = 20 * 8 * 10 * u64::from(super::sim::MTU);
    assert!(lost < window + probes, "{lost} of {window}");
    assert!(shares[0] > 0.9, "{shares:?}");
}

#[test]
fn hours_beside_a_full_queue_do_not_hide_it() {
    let mut link = link(5.0, 40, 0.0);
    link.step = Duration::from_millis(1);
    link.ferry(0.0, true);
    link.run(420.0);
    let shares = link.run(30.0);
    say("polite for long", &link, &shares);
    assert!(shares[0] > 0.9, "{shares:?}");
    let Control::Ferry(window) = &link.flows[0].control else { panic!("another flow") };
    let queue = Duration::from_secs_f64(window.bytes() as f64 / link.rate);
    assert!(queue < Duration::from_millis(40 + 60), "{queue:?}");
}
