//! The store alone, in this process: how fast a cached image is recorded, and what it costs to
//! find that nothing has changed.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use blockferry_delta::{BLOCK_BYTES, ImageName, NodeId, StoreId, StoreKey, StoreName};
use blockferry_store::disk::RealDisk;
use blockferry_store::{LookState, Options, Store, StoreIdentity};

use super::process::bytes_read;
use super::table::{Amount, Row, Table};
use super::tools::{Numbers, drop_caches, median, place};
use super::{Setup, say};

const SCAN_BYTES_PER_SECOND: f64 = 3e9;
const IMAGES: usize = 100;
const IMAGE_BYTES: usize = 1 << 20;
const LOOKS: usize = 21;
const LOOK_SECONDS: f64 = 0.05;
const AUTHOR: NodeId = NodeId::from_bytes([7; 32]);

fn store(directory: &Path) -> anyhow::Result<Store> {
    let disk = Arc::new(RealDisk::open(directory)?);
    let identity = StoreIdentity {
        name: StoreName::new("figures")?,
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    };
    Ok(Store::create(disk, identity, &Options::default())?)
}

/// Reads a file, so that it is cached.
fn warm(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 4 << 20];
    while file.read(&mut bytes)? > 0 {}
    Ok(())
}

/// The data of an image without its zeros, 64 KiB at a time: what is recorded of it is read.
fn dense(image: &Path, target: &Path) -> anyhow::Result<()> {
    let (mut from, mut to) = (File::open(image)?, File::create(target)?);
    let mut block = vec![0; BLOCK_BYTES];
    while from.read_exact(&mut block).is_ok() {
        if block.iter().any(|byte| *byte != 0) {
            to.write_all(&block)?;
        }
    }
    Ok(to.sync_all()?)
}

/// Bytes a second that BLAKE3 alone hashes on all cores, in memory.
fn blake3_alone(threads: usize) -> f64 {
    const ROUNDS: usize = 12;
    let bytes = vec![7; 64 << 20];
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    std::hint::black_box(blake3::hash(&bytes));
                }
            });
        }
    });
    Amount::bytes((threads * ROUNDS * bytes.len()) as u64).value() / began.elapsed().as_secs_f64()
}

/// Speeds in bytes a second of recording a cached image: as a new one, and again after a touch.
fn speeds(setup: &Setup, directory: &Path, name: &ImageName) -> anyhow::Result<[Vec<f64>; 2]> {
    let image = directory.join(name.as_str());
    let image_bytes = Amount::bytes(std::fs::metadata(&image)?.len()).value();
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..setup.runs {
        let private = directory.join(".blockferry");
        if private.exists() {
            std::fs::remove_dir_all(private)?;
        }
        let store = store(directory)?;
        warm(&image)?;
        let began = Instant::now();
        store.record(name, AUTHOR, 0, &())?;
        fresh.push(image_bytes / began.elapsed().as_secs_f64());
        // Touched: everything is read and hashed, nothing has to be cut.
        let touched = SystemTime::now() + Duration::from_secs(again.len() as u64);
        File::options().write(true).open(&image)?.set_modified(touched)?;
        let began = Instant::now();
        store.record(name, AUTHOR, 0, &())?;
        again.push(image_bytes / began.elapsed().as_secs_f64());
    }
    Ok([fresh, again])
}

/// Records a cached g3 as a new image with chunking, then again without: its data alone, and the
/// image as it is, whose holes are hashed but not read.
pub(crate) fn record(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("scan of a cached image");
    let directory = setup.work.join("scan").join("store");
    std::fs::create_dir_all(&directory)?;
    let name = ImageName::new("image.raw")?;
    let image = directory.join(name.as_str());
    dense(&setup.images[2], &image)?;
    let [fresh, again] = speeds(setup, &directory, &name)?;
    place(&setup.images[2], &image)?;
    let [sparse, _] = speeds(setup, &directory, &name)?;
    std::fs::remove_dir_all(setup.work.join("scan"))?;
    let limit = Amount::Speed(SCAN_BYTES_PER_SECOND);
    let threads = Options::default().scan_threads;
    let figure = format!("scan of a cached image without holes, {threads} cores, with chunking");
    table.add(Row::at_least(&figure, limit, Amount::Speed(median(&fresh))));
    let figure = "the same after a touch: hashed, nothing to chunk";
    table.add(Row::noted(figure, Amount::Speed(median(&again))));
    let figure = "scan of a cached g3, its holes counted: they are hashed, but not read";
    table.add(Row::noted(figure, Amount::Speed(median(&sparse))));
    let figure = format!("BLAKE3 alone, in memory, {threads} cores");
    table.add(Row::noted(&figure, Amount::Speed(blake3_alone(threads))));
    Ok(())
}

/// Looks at 100 images of which none has changed.
pub(crate) fn look(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    say("a rescan that finds nothing changed");
    let directory = setup.work.join("look");
    std::fs::create_dir(&directory)?;
    let store = store(&directory)?;
    let mut numbers = Numbers(1);
    let mut bytes = vec![0; IMAGE_BYTES];
    for index in 0..IMAGES {
        let name = ImageName::new(&format!("image-{index}.raw"))?;
        numbers.fill(&mut bytes);
        std::fs::write(directory.join(name.as_str()), &bytes)?;
        store.record(&name, AUTHOR, 0, &())?;
    }
    drop_caches()?;
    let before = bytes_read(std::process::id())?;
    let mut took = Vec::new();
    for _ in 0..LOOKS {
        let began = Instant::now();
        let looks = store.look()?;
        took.push(began.elapsed().as_secs_f64());
        let unchanged = looks.iter().filter(|look| look.state == LookState::Unchanged).count();
        ensure!(unchanged == IMAGES, "{unchanged} of {IMAGES} unchanged");
    }
    let after = bytes_read(std::process::id())?;
    drop(store);
    std::fs::remove_dir_all(&directory)?;
    let worst = took.iter().copied().fold(0.0, f64::max);
    let figure = format!("a rescan of {IMAGES} unchanged images, worst of {LOOKS}");
    let row = Row::at_most(&figure, Amount::Seconds(LOOK_SECONDS), Amount::Seconds(worst));
    table.add(row.noting(&format!("median {}", Amount::Seconds(median(&took)))));
    // The images are 100 MiB; the catalog, of which something may be read, is far smaller.
    let limit = Amount::bytes((IMAGES * IMAGE_BYTES / 100) as u64);
    let asked = Amount::bytes(after.0 - before.0);
    let fetched = Amount::bytes(after.1 - before.1);
    let row = Row::at_most(&format!("bytes read by these {LOOKS} rescans"), limit, asked);
    table.add(row.bound_is("1 % of the images").noting(&format!("{fetched} of it from disk")));
    Ok(())
}
