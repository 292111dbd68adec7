//! `just dist`: builds the program and makes all that is handed out from it, in `dist/`.
//!
//! `--binary FILE` takes a program that is built already: right for a test, not for a release, for
//! its paths are this machine's.

use anyhow::{Context, Result, bail, ensure};
use blockferry_dist::{
    Crates, Input, Level, Source, archive, compile, deb, leaked, notices, rpm, sbom, sums,
};
use std::io::Write;
use std::path::PathBuf;

const USAGE: &str = "usage: blockferry-dist [--out DIR] [--profile NAME] [--binary FILE]";

struct Options {
    out: Option<PathBuf>,
    profile: String,
    binary: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options { out: None, profile: "release".into(), binary: None };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().with_context(|| USAGE.to_owned())?;
        match name.as_str() {
            "--out" => options.out = Some(value.into()),
            "--profile" => options.profile = value,
            "--binary" => options.binary = Some(value.into()),
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    let source = Source::here()?;
    let out = options.out.unwrap_or_else(|| source.root.join("dist"));
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let foreign = options.binary.is_some();
    let binary = match options.binary {
        Some(binary) => binary,
        None => compile(&source, &options.profile)?,
    };
    let crates = Crates::resolve(&source.root)?;
    let bill = out.join(format!("blockferry-{}.cdx.json", source.version));
    std::fs::write(&bill, sbom(&crates, source.epoch)?)?;
    let input = Input {
        root: source.root.clone(),
        binary,
        version: source.version.clone(),
        epoch: source.epoch,
        level: Level::Small,
        notices: Some(notices(&crates)?),
    };
    if !foreign {
        let tree = tempfile::tempdir()?;
        let staged = blockferry_dist::stage(
            &input,
            blockferry_dist::Family::Other,
            &tree.path().join("tree"),
        )?;
        let found = leaked(&source, &staged.directory.join("usr/bin/blockferry"))?;
        ensure!(found.is_empty(), "paths of this machine are in the program: {found:?}");
    }
    let mut files = vec![bill, archive(&input, &out)?, deb(&input, &out)?, rpm(&input, &out)?];
    files.push(sums(&out, &files)?);
    let mut stdout = std::io::stdout().lock();
    for file in &files {
        writeln!(stdout, "{:>10} {}", file.metadata()?.len(), file.display())?;
    }
    Ok(())
}
