//! Which cases a test runs, on how many threads, and what it says when one fails.

use std::sync::atomic::{AtomicU64, Ordering};

/// Prints how to run a case again if it panics.
struct Replay<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{0}: seed {1} failed; replay it with\n  \
                 BLOCKFERRY_SEED={1} cargo test -p blockferry-tests --test it {0} -- --nocapture",
                self.test, self.seed
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// The seeds to be run: `1..=usual`, or what the environment says.
pub fn cases(usual: u64) -> std::ops::RangeInclusive<u64> {
    match (number("BLOCKFERRY_SEED"), number("BLOCKFERRY_CASES")) {
        (Some(seed), count) => seed..=seed + count.unwrap_or(1).max(1) - 1,
        (None, count) => 1..=count.unwrap_or(usual).max(1),
    }
}

/// Runs `case` for each seed on two threads and says how many there were and what they add up to.
pub fn across(test: &str, usual: u64, what: &str, case: impl Fn(u64) -> u64 + Sync) -> u64 {
    let seeds = cases(usual);
    let (next, sum, started) =
        (AtomicU64::new(*seeds.start()), AtomicU64::new(0), std::time::Instant::now());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > *seeds.end() {
                return;
            }
            let _replay = Replay { test, seed };
            sum.fetch_add(case(seed), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work();
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
    let (count, sum) = (seeds.end() - seeds.start() + 1, sum.into_inner());
    assert!(count > 0 && sum > 0, "{test} ran nothing");
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{test}: {count} seeds, {sum} {what}, 0 bad, {seconds:.1} s");
    sum
}
