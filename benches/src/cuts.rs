//! Chunk parameters compared on successive generations of an image: chunks per GiB, scanning
//! speed of one core, and the bytes of each generation whose chunks no earlier one has.

use std::collections::HashSet;
use std::io::Write;
use std::time::Instant;

use blockferry_delta::{
    ChunkParams, Chunker, Keys, SEGMENT_BYTES, StoreKey, chunk_segment, digest_segment,
};

/// Runs all parameter sets over `images`, in order.
pub(crate) fn run(images: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let sets = [
        (64, 8, 32, 128, 1),
        (64, 16, 32, 64, 1),
        (64, 24, 32, 64, 1),
        (64, 32, 32, 64, 1),
        (64, 32, 32, 64, 2),
        (64, 32, 64, 128, 1),
        (8, 32, 32, 64, 1),
    ];
    let data = images.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    for (tail, min, average, max, level) in sets {
        let params = ChunkParams {
            tail_bytes: tail,
            min_bytes: min << 10,
            average_bytes: average << 10,
            max_bytes: max << 10,
            level,
            ..ChunkParams::CURRENT
        };
        let keys = Keys::derive(&StoreKey::from_bytes([0; 32]));
        let chunker = Chunker::with_params(keys, params);
        let mut seen = HashSet::new();
        for (name, image) in images.iter().zip(&data) {
            let line = one(&chunker, image, &mut seen);
            writeln!(out, "tail {tail} {min}/{average}/{max} KiB level {level} {name}: {line}")?;
        }
    }
    Ok(())
}

fn one(chunker: &Chunker, image: &[u8], seen: &mut HashSet<u64>) -> String {
    let size = image.len();
    let (mut chunks, mut used) = (Vec::new(), 0usize);
    let (mut map_s, mut cut_s) = (0.0, 0.0);
    for (index, start) in (0..size).step_by(SEGMENT_BYTES as usize).enumerate() {
        let end = size.min(start + SEGMENT_BYTES as usize);
        let from = Instant::now();
        let map = digest_segment(chunker.keys(), index as u32, &image[start..end], size as u64);
        if map.is_zero() {
            continue;
        }
        map_s += from.elapsed().as_secs_f64();
        used += end - start;
        let from = Instant::now();
        chunks.extend(chunk_segment(chunker, index as u32, image, start, end));
        cut_s += from.elapsed().as_secs_f64();
    }
    let (mut fresh, mut twice) = (0u64, 0u64);
    let mut own = HashSet::new();
    for chunk in &chunks {
        match (seen.contains(&chunk.id.0), own.insert(chunk.id.0)) {
            (false, true) => fresh += u64::from(chunk.bytes),
            (false, false) => twice += u64::from(chunk.bytes),
            _ => {}
        }
    }
    seen.extend(own);
    let gib = used as f64 / (1u64 << 30) as f64;
    format!(
        "{:.0} chunks/GiB, map {:.2} GB/s, cut {:.2} GB/s, both {:.2}; new {:.1} MiB, twice {:.1} MiB",
        chunks.len() as f64 / gib,
        used as f64 / map_s / 1e9,
        used as f64 / cut_s / 1e9,
        used as f64 / (map_s + cut_s) / 1e9,
        fresh as f64 / (1 << 20) as f64,
        twice as f64 / (1 << 20) as f64,
    )
}
