//! Benchmarks of Blockferry: `figures` measures the release binary against every bound that the
//! project promises on real images, `cuts` compares chunk parameters, `line` takes a series of
//! generations through both lines of the design without a network.

mod cuts;
mod figures;
mod line;

use std::process::ExitCode;

const USAGE: &str = "usage: blockferry-benches figures --images DIR [--dir WORKDIR] [--json FILE] \
                     [--bin BLOCKFERRY] [--only GROUP,...] [--runs N] [--mtu N] [--keep]
       blockferry-benches cuts IMAGE...
       blockferry-benches line DIR IMAGE...";

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let args: Vec<String> = args.collect();
    match command.as_deref() {
        Some("figures") => return figures::run(&args),
        Some("cuts") => cuts::run(&args)?,
        Some("line") => line::run(&args)?,
        _ => anyhow::bail!(USAGE),
    }
    Ok(ExitCode::SUCCESS)
}
