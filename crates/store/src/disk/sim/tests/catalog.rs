//! Catalog and files crash together: the promise all else rests on, tried in small.

use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, TableDefinition};

use super::*;

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const NOW: TableDefinition<&str, u64> = TableDefinition::new("now");

fn open_catalog(disk: &SimDisk) -> Database {
    let backend = disk.backend("catalog.redb").unwrap();
    Database::builder().set_cache_size(1 << 20).create_with_backend(backend).unwrap()
}

/// One small commit the way the store does it: staged, synced, renamed, recorded.
fn commit(disk: &SimDisk, db: &Database, number: u64) {
    let staged = disk.open("staged", Open::CreateNew).unwrap();
    staged.write_at(&[number as u8; 3000], 0).unwrap();
    staged.sync().unwrap();
    drop(staged);
    disk.rename("staged", "image", RenameHow::Replace).unwrap();
    disk.sync_dir("").unwrap();
    let mut txn = db.begin_write().unwrap();
    txn.set_quick_repair(true);
    txn.open_table(ROWS).unwrap().insert(number % 50, [number as u8; 700].as_slice()).unwrap();
    txn.open_table(NOW).unwrap().insert("number", number).unwrap();
    txn.commit().unwrap();
}

/// The number the catalog ends in; every row and the image must fit it.
fn check(disk: &SimDisk, at_least: u64) -> u64 {
    let db = open_catalog(disk);
    let txn = db.begin_read().unwrap();
    let number = txn.open_table(NOW).unwrap().get("number").unwrap().unwrap().value();
    assert!((at_least..=at_least + 1).contains(&number), "{number}, acknowledged {at_least}");
    let rows = txn.open_table(ROWS).unwrap();
    for back in 0..number.min(50) {
        let row = rows.get((number - back) % 50).unwrap().unwrap();
        assert!(row.value() == [(number - back) as u8; 700], "row {back} before {number}");
    }
    let image = get(disk, "image").unwrap();
    let shown = image[0];
    assert!(image == [shown; 3000], "a mixed image");
    assert!([number as u8, number as u8 + 1].contains(&shown), "{shown} at {number}");
    number
}

#[test]
fn catalog_and_files_survive_a_crash_at_every_operation() {
    let disk = disk();
    let db = open_catalog(&disk);
    disk.sync_dir("").unwrap();
    commit(&disk, &db, 0);
    disk.record();
    let mut acknowledged = vec![disk.ops()];
    for number in 1..=200 {
        commit(&disk, &db, number);
        acknowledged.push(disk.ops());
    }
    drop(db);
    let snapshots = disk.recorded();
    assert!(snapshots.len() > 2000, "{} operations", snapshots.len());
    let start = Instant::now();
    let mut images = 0;
    let mut moved = 0;
    for (i, snapshot) in snapshots.iter().enumerate() {
        let last = acknowledged.partition_point(|ops| *ops <= snapshot.ops) as u64 - 1;
        let keep = Keep::ALL[i % Keep::ALL.len()];
        let crash = CrashPlan { seed: i as u64, keep, tear: i % 2 == 0 };
        moved += check(&snapshot.disk.crash(crash), last) - last;
        images += 1;
    }
    assert!(moved > 10, "a crash between durable and acknowledged was never met");
    let rate = f64::from(images) / start.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    tracing::info!(images, rate, "crash images per second");
    if std::env::var_os("BLOCKFERRY_TEST_RATE").is_some() {
        use std::io::Write;
        writeln!(std::io::stderr(), "{images} crash images, {rate:.0} per second").unwrap();
    }
}

#[test]
fn the_power_cut_reaches_the_catalog() {
    for ops in [5, 30, 31, 32, 33, 34, 35, 36, 37, 38, 60] {
        let disk = disk();
        let db = open_catalog(&disk);
        disk.sync_dir("").unwrap();
        commit(&disk, &db, 0);
        disk.cut_after(disk.ops() + ops);
        let acknowledged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (1..).take_while(|number| try_commit(&disk, &db, *number).is_ok()).count()
        }));
        let crashed = disk.crash(CrashPlan { seed: ops as u64, keep: Keep::Subset, tear: true });
        check(&crashed, acknowledged.unwrap() as u64);
    }
}

fn try_commit(
    disk: &SimDisk,
    db: &Database,
    number: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let staged = disk.open("staged", Open::CreateNew)?;
    staged.write_at(&[number as u8; 3000], 0)?;
    staged.sync()?;
    disk.rename("staged", "image", RenameHow::Replace)?;
    disk.sync_dir("")?;
    let txn = db.begin_write()?;
    txn.open_table(ROWS)?.insert(number % 50, [number as u8; 700].as_slice())?;
    txn.open_table(NOW)?.insert("number", number)?;
    Ok(txn.commit()?)
}
