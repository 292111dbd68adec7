//! casync: the sender chunks the image into its chunk store and index, a web server offers both,
//! the receiver puts the image together from its old ones and the chunks it lacks.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use super::super::side::Line;
use super::nginx::Nginx;
use super::{Job, Split, Tool, version_of};

/// The tool.
#[derive(Debug, Default)]
pub(super) struct Casync {
    nginx: Option<Nginx>,
}

/// The sender's half, for the image `name`.
fn make(job: &mut Job<'_>, nginx: &Nginx, name: &str) -> anyhow::Result<()> {
    let (store, index) = (store(&nginx.root), index(&nginx.root, name));
    let image = job.sender.path(&format!("images/{name}"))?;
    let line = Line::new("casync").args(["make", &format!("--store={store}"), &index, &image]);
    job.sender.run(&line, job.deadline)?;
    Ok(())
}

fn store(root: &str) -> String {
    format!("{root}/default.castr")
}

fn index(root: &str, name: &str) -> String {
    format!("{root}/{name}.caibx")
}

impl Tool for Casync {
    fn name(&self) -> &'static str {
        "casync"
    }

    fn words(&self) -> &'static str {
        "make into a chunk store, then extract over HTTP (nginx) with the old images as seeds; \
         renamed at the end"
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        Ok(format!("{}, {}", version_of("casync", "--version")?, Nginx::version()?))
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let nginx = Nginx::start(job)?;
        for old in &job.workload.before {
            make(job, &nginx, &old.name)?;
        }
        self.nginx = Some(nginx);
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let nginx = self.nginx.as_ref().context("not set up")?;
        let (began, name) = (Instant::now(), job.name().to_owned());
        make(job, nginx, &name)?;
        let made = began.elapsed().as_secs_f64();
        let (target, coming) = (job.target()?, job.receiver.path("images/coming")?);
        let mut line = Line::new("casync").arg("extract");
        line = line.arg(format!("--store={}", store(&nginx.url)));
        for old in job.olds()? {
            line = line.arg(format!("--seed={old}"));
        }
        job.receiver.run(&line.args([&index(&nginx.url, &name), &coming]), job.deadline)?;
        fs::rename(coming, target)?;
        let all = began.elapsed().as_secs_f64();
        Ok(vec![("make".to_owned(), made), ("extract".to_owned(), all - made)])
    }

    fn tear_down(&mut self) {
        self.nginx = None;
    }
}
