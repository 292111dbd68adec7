//! A first copy over a link of 100 Mbit/s, where the link and not the machine sets the pace: how
//! close it comes to the time that its compressed bytes need at that rate.

use super::image::same_bytes;
use super::pair::Pair;
use super::table::{Amount, Row, Table};
use super::tools::drop_caches;
use super::{Setup, say};
use crate::link::{Link, Shape};

const NAME: &str = "server.raw";
const SHAPE: Shape = Shape::shaped(100, 0, 0.0);
const BITS_PER_SECOND: f64 = 100e6;
const TIMES: f64 = 1.05;
const FIGURE: &str = "first copy of g1 over 100 Mbit/s, seconds";

/// The rows of that link.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    if let Some(why) = Link::missing(&SHAPE) {
        table.add(Row::skipped(FIGURE, why));
        return Ok(());
    }
    say("a first copy over 100 Mbit/s");
    let pair = Pair::joined(&setup.ground(), "shaped", Some(Link::up(SHAPE, setup.mtu)?))?;
    pair.place(&setup.images[0], NAME)?;
    pair.settle()?;
    drop_caches()?;
    let travelled = pair.transfer(NAME)?;
    pair.settle()?;
    anyhow::ensure!(same_bytes(&pair.sender.image(NAME), &pair.receiver.image(NAME))?, "differs");
    let [told, _] = travelled.told_bytes;
    let needed = Amount::bytes(told).value() * 8.0 / BITS_PER_SECOND;
    let limit = Amount::Seconds(needed * TIMES);
    let row = Row::at_most(FIGURE, limit, Amount::Seconds(travelled.seconds));
    let words = format!("{TIMES} x what its {} need at that rate", Amount::bytes(told));
    let after = travelled.seconds - travelled.publish_seconds;
    let note = format!(
        "after publish {}; on the wire {}",
        Amount::Seconds(after),
        Amount::bytes(travelled.bytes())
    );
    table.add(row.bound_is(&words).noting(&note).with_cpu(travelled.cpu));
    pair.end()
}
