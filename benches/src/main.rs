//! Benchmarks of Blockferry: `cuts` compares chunk parameters on real images.

mod cuts;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("cuts") => cuts::run(&args.collect::<Vec<_>>()),
        _ => anyhow::bail!("usage: blockferry-benches cuts IMAGE..."),
    }
}
