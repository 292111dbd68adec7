//! Both lines without a network: each image is copied over the one before in store A, recorded,
//! and brought to store B. Says where the time goes.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use blockferry_delta::{ImageName, NodeId, StoreId, StoreKey, StoreName};
use blockferry_store::disk::RealDisk;
use blockferry_store::{Generation, Options, Received, StageRequest, Store, StoreIdentity};

fn store(dir: &Path) -> anyhow::Result<Arc<Store>> {
    std::fs::create_dir_all(dir)?;
    let disk = Arc::new(RealDisk::open(dir)?);
    let identity = StoreIdentity {
        name: StoreName::new("bench")?,
        id: StoreId::from_bytes([1; 16]),
        key: StoreKey::from_bytes([2; 32]),
    };
    Ok(Arc::new(Store::create(disk, identity, &Options::default())?))
}

/// Runs the images in `args[1..]` through stores below `args[0]`.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let (dir, images) = args.split_first().ok_or_else(|| anyhow::anyhow!("which directory?"))?;
    let (a, b) = (store(&Path::new(dir).join("a"))?, store(&Path::new(dir).join("b"))?);
    let name = ImageName::new("image.raw")?;
    for image in images {
        let status = std::process::Command::new("cp")
            .args(["--sparse=always", image])
            .arg(Path::new(dir).join("a/image.raw"))
            .status()?;
        anyhow::ensure!(status.success(), "cp failed");
        std::process::Command::new("sync").status()?;
        std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        let start = Instant::now();
        let recorded = a.record(&name, NodeId::from_bytes([7; 32]), 0, &())?;
        let generation = recorded.generation().clone();
        writeln!(
            out,
            "{image}: record {:.2} s, read {} MiB, dirty {} MiB, data {} MiB, root {}",
            start.elapsed().as_secs_f64(),
            generation.bytes_read >> 20,
            generation.dirty_bytes >> 20,
            generation.data_bytes >> 20,
            generation.root.short()
        )?;
        let before = written_bytes()?;
        writeln!(out, "{}", carry(&a, &b, &generation)?)?;
        let written = written_bytes()? - before;
        writeln!(
            out,
            "  {} KiB written, {:.2} times the dirty pages",
            written >> 10,
            written as f64 / generation.dirty_bytes.max(1) as f64
        )?;
        let t = Instant::now();
        let fresh = b.freshen_spare(&name)?;
        writeln!(out, "  spare fresh {fresh} in {:.2} s", t.elapsed().as_secs_f64())?;
    }
    Ok(())
}

/// Bytes this process made the disk write so far.
fn written_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or_else(|| anyhow::anyhow!("no write_bytes"))?.trim().parse()?)
}

/// Brings the generation of `name` from one store to the other; returns what it came to.
fn carry(a: &Arc<Store>, b: &Arc<Store>, generation: &Generation) -> anyhow::Result<String> {
    let name = &generation.image;
    let start = Instant::now();
    let base = b.plan_base(generation.root, &a.bases(name)?, name)?;
    let dirty_bytes = a.dirty_bytes(name, generation.root, base)?;
    let request =
        StageRequest { generation: generation.clone(), base, dirty_bytes, keep_replaced: false };
    let mut staging = b.stage(request)?;
    let staged = start.elapsed();
    let (mut wanted, mut found, mut parts) = (0, 0, 0);
    let mut cursor = a.recipe(name, generation.root, base)?;
    let source = a.source(name, generation.root)?;
    let (mut plan_s, mut read_s, mut fill_s) = (0.0, 0.0, 0.0);
    while let Some(part) = cursor.next_part()? {
        let t = Instant::now();
        let planned = staging.plan(&part)?;
        plan_s += t.elapsed().as_secs_f64();
        found += planned.found_bytes;
        parts += 1;
        let t = Instant::now();
        let pages = source.read(&planned.wants)?;
        read_s += t.elapsed().as_secs_f64();
        wanted += pages.len() as u64;
        let t = Instant::now();
        if !planned.wants.is_empty() {
            let filled = staging.fill(part.number, &planned.wants, &pages)?;
            anyhow::ensure!(filled.complete, "a hint was wrong");
        }
        fill_s += t.elapsed().as_secs_f64();
    }
    let t = Instant::now();
    let sealed = staging.seal()?;
    let seal_s = t.elapsed().as_secs_f64();
    let t = Instant::now();
    b.commit(sealed, Received::default())?;
    Ok(format!(
        "  base {}, {parts} parts, sent {} MiB, found {} MiB; stage {:.2} plan {plan_s:.2} read \
         {read_s:.2} fill {fill_s:.2} seal {seal_s:.2} commit {:.2}, all {:.2} s",
        base.is_some(),
        wanted >> 20,
        found >> 20,
        staged.as_secs_f64(),
        t.elapsed().as_secs_f64(),
        start.elapsed().as_secs_f64()
    ))
}
