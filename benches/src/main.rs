//! Benchmarks of Blockferry: `cuts` compares chunk parameters on real images, `line` takes a
//! series of generations through both lines of the design without a network.

mod cuts;
mod line;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("cuts") => cuts::run(&args.collect::<Vec<_>>()),
        Some("line") => line::run(&args.collect::<Vec<_>>()),
        _ => anyhow::bail!("usage: blockferry-benches cuts IMAGE... | line DIR IMAGE..."),
    }
}
