//! Benchmarks of Blockferry: `figures` measures the release binary against every bound that the
//! project promises on real images, `cuts` compares chunk parameters, `line` takes a series of
//! generations through both lines of the design without a network; `compare` runs other tools and
//! Blockferry on the same workloads over the same links.

mod baseline;
mod chunk_index;
mod compare;
mod cuts;
mod figures;
mod ground;
mod line;
mod link;
mod offpeak;
mod report;
mod workload;

use std::process::ExitCode;

const USAGE: &str = "usage: blockferry-benches figures --images DIR [--dir WORKDIR] [--json FILE] \
                     [--bin BLOCKFERRY] [--only GROUP,...] [--runs N] [--mtu N] [--keep]
       blockferry-benches cuts IMAGE...
       blockferry-benches line DIR IMAGE...
       blockferry-benches baseline [--update]
       blockferry-benches compare [--quick|--smoke] [--out DIR] [--dir WORKDIR] [--images DIR] \
                     [--seed N] [--size BYTES] [--only NAME,...] [--runs N] [--bin BLOCKFERRY] \
                     [--resume]";

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let args: Vec<String> = args.collect();
    match command.as_deref() {
        Some("baseline") => return baseline::run(&args),
        // What `compare` runs at the ends of a link.
        Some("end") => compare::end()?,
        Some("stream") => compare::stream(&args)?,
        // What `figures` kills.
        Some("index-end") => figures::index_end(&args)?,
        Some("figures") => return figures::run(&args),
        Some("compare") => return compare::run(&args),
        Some("cuts") => cuts::run(&args)?,
        Some("line") => line::run(&args)?,
        _ => anyhow::bail!(USAGE),
    }
    Ok(ExitCode::SUCCESS)
}
