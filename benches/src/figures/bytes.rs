//! What arrives and what it costs on the wire: three generations under one name, the same image
//! again, an image that shares nine tenths with it, and its files in a new layout.
//!
//! Each transfer is compared from the outside: bytes, BLAKE3, storage, time and mode.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::image::{
    blake3, changed_pages, data_bytes, outside, replace_a_tenth, same_bytes, zstd_bytes,
};
use super::pair::{Pair, Transfer};
use super::table::{Amount, Row, Table};
use super::tools::copy;
use super::{Setup, mount, ready, say};
use crate::link::{Link, Shape};

/// The image whose generations follow each other.
pub(crate) const NAME: &str = "server.raw";
const SEED: u64 = 20_260_101;
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

/// All rows of this file, and with the same nodes those of `ready`.
pub(crate) fn run(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let link = match Link::missing(&Shape::UNSHAPED) {
        Some(_) => None,
        None => Some(Link::up(Shape::UNSHAPED, setup.mtu)?),
    };
    let counted = match link {
        Some(_) => format!("a veth pair's counters, packets of at most {} bytes", setup.mtu),
        None => "the nodes' own count: a wire with counters needs root and iproute2".to_owned(),
    };
    table.conditions.push(("wire bytes by".to_owned(), counted));
    let mut pair = Pair::joined(&setup.ground(), "bytes", link)?;
    // The bounds are multiples of zstd -3. On a link like this one a node would rather send more.
    pair.sender.ask(&["peer", "set", "receiver", "compression=3"])?;
    table.conditions.push(("compression of the rows of wire bytes".to_owned(), "3".to_owned()));
    generations(setup, &pair, table)?;
    again(setup, &pair, table)?;
    layout(setup, &pair, table)?;
    ready::run(setup, &mut pair, table)?;
    pair.end()
}

/// Brings `source` over as image `name`, compares both ends, and adds the row that says so.
fn carry(
    (pair, table): (&Pair, &mut Table),
    (source, name): (&Path, &str),
    (what, mode): (&str, u32),
) -> anyhow::Result<Transfer> {
    say(&format!("{what}: copied in, published, transferred"));
    pair.place(source, name)?;
    let here = pair.sender.image(name);
    std::fs::set_permissions(&here, Permissions::from_mode(mode))?;
    let transfer = pair.transfer(name)?;
    let there = pair.receiver.image(name);
    let (left, right) = (outside(&here)?, outside(&there)?);
    let root = pair.newest(&pair.receiver, name)?["root"].as_str().unwrap_or("").to_owned();
    let same = same_bytes(&here, &there)?;
    let hashed = blake3(&there)? == root;
    let (more, less) = (right.allocated_bytes, left.allocated_bytes);
    let storage = Amount::bytes(more).value() / Amount::bytes(less).value() - 1.0;
    let times = left.mtime_ns == right.mtime_ns && left.mode == right.mode;
    let met = same && hashed && times && storage.abs() <= 0.01;
    let word = |met: bool| if met { "equal" } else { "DIFFERENT" };
    let measured = format!(
        "bytes {}, root {}, storage {:+.2} %, mtime and mode {}",
        word(same),
        word(hashed),
        storage * 100.0,
        word(times)
    );
    let bound = "bytes equal, root = BLAKE3 of the file, storage +-1 %, mtime (ns) and mode equal";
    table.add(Row::check(&format!("{what}: what arrived"), bound, met, measured));
    let idle = pair.settle()?;
    say(&format!("   {:.1} s, then idle after {:.1} s", transfer.seconds, idle.as_secs_f64()));
    Ok(transfer)
}

/// The row of one transfer's bytes.
fn wire_row(what: &str, limit: f64, transfer: &Transfer) -> Row {
    let figure = format!("wire bytes, {what}");
    let row = Row::at_most(&figure, Amount::Bytes(limit), Amount::bytes(transfer.bytes()));
    let [sent, received] = transfer.told_bytes.map(Amount::bytes);
    let [sender, receiver] = transfer.peak_bytes.map(Amount::bytes);
    let back = transfer.wire_bytes.map_or(0, |[_, back]| back);
    row.with_cpu(transfer.cpu).noting(&format!(
        "of it {} back; without packet headers {sent} by the sender's count, {received} by the \
         receiver's; {:.2} s, of it publish {:.2} s; memory {sender} + {receiver}",
        Amount::bytes(back),
        transfer.seconds,
        transfer.publish_seconds
    ))
}

/// g1 into an empty node, then g2, then g3.
fn generations(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    let [g1, g2, g3] = &setup.images;
    let first = carry((pair, table), (g1, NAME), ("g1, first copy", 0o640))?;
    let limit = Amount::bytes(zstd_bytes(g1)?).value();
    table.add(wire_row("first copy of g1", limit, &first).bound_is("zstd -3 of the image"));

    let update = carry((pair, table), (g2, NAME), ("g1 to g2", 0o600))?;
    let changed = changed_pages(g1, g2)?;
    let limit = 0.95 * Amount::bytes(changed.zstd_bytes).value();
    let words = format!("0.95 x zstd -3 of {} changed pages", changed.count);
    table.add(wire_row("g1 to g2 (big update)", limit, &update).bound_is(&words));

    let day = carry((pair, table), (g3, NAME), ("g2 to g3", 0o644))?;
    let changed = changed_pages(g2, g3)?;
    let limit = 1.15 * Amount::bytes(changed.zstd_bytes).value() + 100.0 * 1024.0;
    let words = format!("1.15 x zstd -3 of {} changed pages + 100 KiB", changed.count);
    table.add(wire_row("g2 to g3 (small day)", limit, &day).bound_is(&words));
    setup.first_copy_bytes.set(Some(first.bytes()));
    Ok(())
}

/// The same image under another name, and one that shares nine tenths with it.
fn again(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    let [_, _, g3] = &setup.images;
    let data = Amount::bytes(data_bytes(g3)?).value();
    let twin = carry((pair, table), (g3, "twin.raw"), ("g3 under another name", 0o644))?;
    let row = wire_row("g3 under another name", data / GIB * MIB, &twin);
    table.add(row.bound_is("1 MiB per GiB that is there"));

    let made = setup.work.join("sibling.raw");
    copy(g3, &made)?;
    let replaced = Amount::bytes(replace_a_tenth(&made, SEED)?).value();
    let sibling =
        carry((pair, table), (&made, "sibling.raw"), ("an image that shares 90 %", 0o644))?;
    let fresh = Amount::bytes(changed_pages(g3, &made)?.zstd_bytes).value();
    // What is new has packet headers too; they are not the price of what is there.
    let headers = sibling.header_times();
    let limit = fresh * headers + (data - replaced) / GIB * MIB;
    let row = wire_row("an image that shares 90 % with g3", limit, &sibling);
    table.add(row.bound_is(&format!(
        "zstd -3 of the new {} x {headers:.3} for packet headers + 1 MiB per GiB that is there",
        Amount::Bytes(replaced)
    )));
    std::fs::remove_file(made)?;
    Ok(())
}

/// The files of g3 in a fresh file system, as the next generation of the image.
fn layout(setup: &Setup, pair: &Pair, table: &mut Table) -> anyhow::Result<()> {
    let figure = "the files of g3 in a new layout";
    if let Some(why) = mount::missing("ext4") {
        table.add(Row::skipped(&format!("wire bytes, {figure}"), &why));
        return Ok(());
    }
    let [_, _, g3] = &setup.images;
    let made: PathBuf = setup.work.join("layout.raw");
    mount::lay_out_anew(g3, &made, &setup.work)?;
    let transfer = carry((pair, table), (&made, NAME), (figure, 0o644))?;
    std::fs::remove_file(made)?;
    let first = setup.first_copy_bytes.get().unwrap_or_default();
    let row = wire_row(figure, 0.05 * Amount::bytes(first).value(), &transfer);
    table.add(row.bound_is("5 % of the first copy"));
    Ok(())
}
