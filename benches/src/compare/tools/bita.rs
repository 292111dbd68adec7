//! bita: the sender makes a compressed archive of the whole image, a web server offers it, the
//! receiver fetches the parts of it that its old images lack.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use super::super::side::Line;
use super::nginx::Nginx;
use super::{Job, Split, Tool, version_of};
use crate::ground::tools::run;

/// The tool.
#[derive(Debug, Default)]
pub(super) struct Bita {
    nginx: Option<Nginx>,
}

/// What it can compress with: zstd is an option of its build, and much faster than its default.
fn compression() -> [&'static str; 4] {
    let help = run(Command::new("bita").args(["compress", "--help"])).unwrap_or_default();
    if help.contains("zstd") {
        ["--compression", "zstd", "--compression-level", "3"]
    } else {
        ["--compression", "brotli", "--compression-level", "6"]
    }
}

impl Tool for Bita {
    fn name(&self) -> &'static str {
        "bita"
    }

    fn words(&self) -> &'static str {
        "compress (zstd if built with it), then clone over HTTP (nginx) with the old images as \
         seeds; renamed at the end"
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        let version = version_of("bita", "--version")?;
        Ok(format!("{version} with {}, {}", compression()[1], Nginx::version()?))
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        self.nginx = Some(Nginx::start(job)?);
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let nginx = self.nginx.as_ref().context("not set up")?;
        let began = Instant::now();
        let archive = |root: &str| format!("{root}/{}.cba", job.workload.after.name);
        let (made, fetched) = (archive(&nginx.root), archive(&nginx.url));
        let line = Line::new("bita").arg("compress").args(compression());
        let line = line.args(["--force-create", "-i", &job.source()?, &made]);
        job.sender.run(&line, job.deadline)?;
        let compressed = began.elapsed().as_secs_f64();
        let (target, coming) = (job.target()?, job.receiver.path("images/coming")?);
        let mut line = Line::new("bita").arg("clone");
        for old in job.olds()? {
            line = line.args(["--seed", &old]);
        }
        job.receiver.run(&line.args([&fetched, &coming]), job.deadline)?;
        fs::rename(coming, target)?;
        let all = began.elapsed().as_secs_f64();
        Ok(vec![("compress".to_owned(), compressed), ("clone".to_owned(), all - compressed)])
    }

    fn tear_down(&mut self) {
        self.nginx = None;
    }
}
