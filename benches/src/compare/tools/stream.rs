//! Full copy: the whole file through one TCP connection, by this program itself: as much as a
//! copy can be, with nothing around it. The receiver leaves out zeros and renames at the end.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::super::side::{Line, Process, this_program};
use super::{FULL_COPY, Job, POLL, Split, Tool};

const STEP_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The hidden command `stream send ADDRESS FILE`, `stream receive ADDRESS FILE`.
pub(crate) fn stream(args: &[String]) -> anyhow::Result<()> {
    match args {
        [what, address, file] if what == "send" => send(address, file.as_ref()),
        [what, address, file] if what == "receive" => receive(address, file.as_ref()),
        _ => bail!("usage: stream send|receive ADDRESS FILE"),
    }
}

/// Waits for one connection and sends the file through it.
fn send(address: &str, file: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    let (mut connection, _) = listener.accept()?;
    let mut file = File::open(file).with_context(|| file.display().to_string())?;
    // The standard library makes this sendfile.
    io::copy(&mut file, &mut connection)?;
    Ok(())
}

/// Connects and writes what comes into a file beside `target`, which then takes its place.
fn receive(address: &str, target: &Path) -> anyhow::Result<()> {
    let mut connection = connect(address)?;
    let coming = target.with_extension("coming");
    let mut file = File::create(&coming)?;
    let mut bytes = vec![0; STEP_BYTES];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < STEP_BYTES {
            match connection.read(&mut bytes[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        write_data(&mut file, &bytes[..filled])?;
        length += filled as u64;
    }
    file.set_len(length)?;
    fs::rename(coming, target)?;
    Ok(())
}

/// Writes all but the pages of zeros, which stay holes.
fn write_data(file: &mut File, bytes: &[u8]) -> anyhow::Result<()> {
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let pages: Vec<&[u8]> = bytes.chunks(PAGE_BYTES).collect();
    let mut at = 0;
    for run in pages.chunk_by(|left, right| is_zero(left) == is_zero(right)) {
        let length: usize = run.iter().map(|page| page.len()).sum();
        if is_zero(run[0]) {
            file.seek(SeekFrom::Current(i64::try_from(length)?))?;
        } else {
            file.write_all(&bytes[at..at + length])?;
        }
        at += length;
    }
    Ok(())
}

fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(connection) => return Ok(connection),
            Err(error) => ensure!(began.elapsed() < CONNECT_LIMIT, "{address}: {error}"),
        }
        thread::sleep(POLL);
    }
}

/// The tool.
#[derive(Debug, Default)]
pub(super) struct FullCopy {
    sender: Option<(Process, String)>,
}

/// This program with its hidden command.
fn line(what: &str) -> Line {
    Line::new(this_program()).args(["stream", what])
}

impl Tool for FullCopy {
    fn name(&self) -> &'static str {
        FULL_COPY
    }

    fn words(&self) -> &'static str {
        "the whole file through one TCP connection (sendfile), zeros left out when written, \
         renamed at the end"
    }

    fn version(&self, _blockferry: &Path) -> Result<String, String> {
        Ok(format!("blockferry-benches {}", env!("CARGO_PKG_VERSION")))
    }

    fn set_up(&mut self, job: &mut Job<'_>) -> anyhow::Result<()> {
        let address = job.sender.free_address()?.to_string();
        let line = line("send").arg(&address).arg(job.source()?);
        self.sender = Some((job.sender.spawn(&line)?, address));
        Ok(())
    }

    fn run(&mut self, job: &mut Job<'_>) -> anyhow::Result<Split> {
        let (sender, address) = self.sender.as_ref().context("not set up")?;
        let line = line("receive").arg(address).arg(job.target()?);
        job.receiver.run(&line, job.deadline)?;
        job.sender.wait(sender, job.deadline)?;
        Ok(Vec::new())
    }

    fn tear_down(&mut self) {
        self.sender = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_goes_through_and_zeros_stay_holes() {
        let directory = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| directory.path().join(name));
        let mut content = vec![0; 5 << 20];
        content[3 << 20..(3 << 20) + 5000].fill(7);
        fs::write(&source, &content).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let sender = {
            let address = address.clone();
            thread::spawn(move || send(&address, &source))
        };
        receive(&address, &target).unwrap();
        sender.join().unwrap().unwrap();
        assert!(fs::read(&target).unwrap() == content);
        assert!(fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
    }
}
