//! A receiver without room: it must refuse before the first byte, and name bytes needed and free.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::image::outside;
use super::mount::{Mount, make, missing};
use super::node::Node;
use super::pair::{Pair, STORE};
use super::table::{Amount, Row, Table};
use super::tools::has;
use super::{Setup, say};
use crate::link::{Link, Shape};

const NAME: &str = "server.raw";
/// A file system smaller than that has no room for a catalog.
const SMALL_BYTES_MIN: u64 = 48 << 20;
const REFUSED_WITHIN: Duration = Duration::from_secs(60);
/// An offer, an inventory and what a connection says to stay alive are no image data.
const TALK_BYTES: u64 = 256 << 10;

/// Offers g1 to a receiver whose disk is too small for it.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("a receiver without room");
    let small = missing("ext4").is_none() && has("ip");
    let link = if small { Some(Link::up(Shape::UNSHAPED, setup.mtu)?) } else { None };
    let mut pair = Pair::start(&setup.ground(), "room", link)?;
    let mount = if small {
        let file = setup.work.join("small.ext4");
        let third = outside(&setup.images[0])?.allocated_bytes / 3;
        make("ext4", &file, third.max(SMALL_BYTES_MIN))?;
        Some(Mount::new(&file, &pair.receiver.images(), "loop")?)
    } else {
        pair.receiver.set("BLOCKFERRY_LIMITS_STORE_FREE_MIN", "99%");
        None
    };
    pair.join()?;
    pair.place(&setup.images[0], NAME)?;
    let before = pair.wire_bytes()?;
    let image = format!("{STORE}/{NAME}");
    pair.sender.ask(&["publish", &image])?;
    pair.sender.try_ask(&["push", &image])?;
    let (waits, said) = refusal(&pair)?;
    let travelled = pair.wire_bytes_since(before)?.map(|[there, back]| there + back);
    let staged = staged_bytes(&pair.receiver.images())?;
    pair.receiver.kill()?;
    drop(mount);
    pair.end()?;

    let figure = "a receiver without room: what it says";
    let numbers = said.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).count();
    let met = waits && numbers >= 2;
    let measured = format!("waits for space: {waits}; \"{said}\"");
    table.add(Row::check(figure, "DISK_FULL with bytes needed and free", met, measured));
    let figure = "a receiver without room: bytes that travelled";
    let limit = Amount::bytes(TALK_BYTES);
    table.add(match travelled {
        Some(bytes) => Row::at_most(figure, limit, Amount::bytes(bytes)).bound_is("talk, no data"),
        None => Row::skipped(figure, "needs root for a wire with counters"),
    });
    let figure = "a receiver without room: bytes staged";
    table.add(Row::at_most(figure, Amount::bytes(0), Amount::bytes(staged)));
    Ok(())
}

/// Waits until the backlog says that the image waits for space; gives the message of the event.
fn refusal(pair: &Pair) -> anyhow::Result<(bool, String)> {
    let deadline = Instant::now() + REFUSED_WITHIN;
    let mut waits = false;
    while Instant::now() < deadline {
        let backlog = pair.sender.ask(&["backlog"])?;
        let items = backlog["items"].as_array();
        waits = items.is_some_and(|items| items.iter().any(|item| item["reason"] == "space"));
        if waits {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let said = match disk_full(&pair.sender)? {
        Some(said) => said,
        None => disk_full(&pair.receiver)?.unwrap_or_default(),
    };
    Ok((waits, said))
}

/// The message of the newest `DISK_FULL` event of a node.
fn disk_full(node: &Node) -> anyhow::Result<Option<String>> {
    let (_, lines) = node.try_ask(&["events"])?;
    let mut events = lines.iter().map(|line| line.get("event").unwrap_or(line));
    let full = events.rfind(|event| event["code"] == "DISK_FULL");
    Ok(full.and_then(|event| event.get("message").and_then(Value::as_str).map(str::to_owned)))
}

/// Storage of what is in a store's staging directory.
fn staged_bytes(store: &Path) -> anyhow::Result<u64> {
    let staging = store.join(".blockferry").join("staging");
    let mut bytes = 0;
    for entry in std::fs::read_dir(staging)? {
        bytes += outside(&entry?.path())?.allocated_bytes;
    }
    Ok(bytes)
}
