//! `kill -9` of either node while an image travels: how long until a started node answers again,
//! and whether what arrives in the end is right.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use super::bytes::NAME;
use super::image::same_bytes;
use super::pair::{Pair, STORE};
use super::table::{Amount, Row, Table};
use super::tools::Numbers;
use super::{Setup, say};

const KILLS_EACH: usize = 5;
const READY_SECONDS: f64 = 2.0;
const SEED: u64 = 7;

/// Kills both nodes several times while g1 becomes the newest generation of the image.
pub(crate) fn run(setup: &Setup, pair: &mut Pair, table: &mut Table) -> anyhow::Result<()> {
    say("kill -9 of either node while g1 travels");
    let mut numbers = Numbers(SEED);
    let image = format!("{STORE}/{NAME}");
    pair.place(&setup.images[0], NAME)?;
    pair.sender.ask(&["publish", &image])?;
    let mut worst = [Duration::ZERO; 2];
    for _ in 0..KILLS_EACH {
        for (node, worst) in [&mut pair.receiver, &mut pair.sender].into_iter().zip(&mut worst) {
            thread::sleep(Duration::from_millis(200 + numbers.below(1500)));
            node.kill()?;
            let ready = node.start()?;
            say(&format!("   {} is ready after {:.3} s", node.name, ready.as_secs_f64()));
            *worst = (*worst).max(ready);
        }
    }
    let wait = ["--timeout", "5m", "wait", &image];
    let (status, lines) = pair.sender.try_ask(&wait)?;
    ensure!(status == 0, "after the kills: {status}, {lines:?}");
    let equal = same_bytes(&pair.sender.image(NAME), &pair.receiver.image(NAME))?;
    ensure!(equal, "after the kills the images differ");
    for (name, worst) in ["receiver", "sender"].iter().zip(worst) {
        let figure = format!("{name} ready again after kill -9, worst of {KILLS_EACH}");
        let seconds = Amount::Seconds(worst.as_secs_f64());
        table.add(Row::at_most(&figure, Amount::Seconds(READY_SECONDS), seconds));
    }
    Ok(())
}
