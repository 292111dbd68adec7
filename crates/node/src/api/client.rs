//! The blocking client of the admin socket, for the command line and for tests.
//!
//! One connection, requests one after the other. A deadline, when set, covers everything from
//! there on: a service that hangs can't hang its client. Whatever goes wrong is an `AdminError`.

use super::answer::Answer;
use super::codec::{ANSWER_BYTES_MAX, LineBuffer, encode_line};
use super::codes::AdminError;
use super::request::Request;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 64 * 1024;

/// A connection to a running service.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    lines: LineBuffer,
    deadline: Option<Instant>,
}

impl Client {
    /// Connects to the admin socket at `path`.
    ///
    /// # Errors
    /// `SERVICE_UNREACHABLE` when nothing listens there, `CONTROL_FORBIDDEN` when the socket's mode
    /// keeps this user out.
    pub fn connect(path: &Path) -> Result<Client, AdminError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let shown = path.display();
            if error.kind() == ErrorKind::PermissionDenied {
                return AdminError::new("CONTROL_FORBIDDEN", format!("{shown}: {error}"));
            }
            let message = format!("no service answers at {shown}: {error}");
            AdminError::new("SERVICE_UNREACHABLE", message)
        })?;
        let lines = LineBuffer::new(ANSWER_BYTES_MAX);
        Ok(Client { path: path.to_owned(), stream, lines, deadline: None })
    }

    /// Everything from now on must be over in `timeout`, else it fails with `TIMED_OUT`.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.deadline = timeout.and_then(|timeout| now().checked_add(timeout));
    }

    /// Sends a request; the lines of the answer are read as the iterator is driven. Drive it to
    /// its end before the next call.
    ///
    /// # Errors
    /// `SERVICE_UNREACHABLE` when the service has gone, `TIMED_OUT` when it doesn't read.
    pub fn call(&mut self, request: &Request) -> Result<Answers<'_>, AdminError> {
        let line = encode_line(request)?;
        let left = self.time_left()?;
        let sent = self.stream.set_write_timeout(left).and_then(|()| self.stream.write_all(&line));
        sent.map_err(|error| self.lost(&error))?;
        Ok(Answers { client: self, over: false })
    }

    /// Sends a request and gives its last line's object; lines before it are skipped.
    ///
    /// # Errors
    /// What the service answered, or why there is no answer.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, AdminError> {
        for answer in self.call(request)? {
            match answer? {
                Answer::Done(object) => return serde_json::from_value(object).map_err(unreadable),
                Answer::Error(error) => return Err(error),
                Answer::Progress(_) | Answer::Event(_) | Answer::Item(_) => {}
            }
        }
        Err(AdminError::new("CONTROL_PROTOCOL", "the answer has no end"))
    }

    fn read_answer(&mut self) -> Result<Answer, AdminError> {
        let mut bytes = [0; READ_BYTES];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return serde_json::from_slice(&line).map_err(unreadable);
            }
            let left = self.time_left()?;
            let read =
                self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut bytes));
            match read {
                Ok(0) => return Err(self.gone()),
                Ok(count) => self.lines.push(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// `None`: no deadline. Never `Some(0)`, which a socket would refuse.
    fn time_left(&self) -> Result<Option<Duration>, AdminError> {
        let Some(deadline) = self.deadline else {
            return Ok(None);
        };
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() { Err(timed_out()) } else { Ok(Some(left)) }
    }

    fn lost(&self, error: &std::io::Error) -> AdminError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => timed_out(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.gone(),
            _ => AdminError::new("IO", format!("{}: {error}", self.path.display())),
        }
    }

    fn gone(&self) -> AdminError {
        let message = format!("the service at {} went away", self.path.display());
        AdminError::new("SERVICE_UNREACHABLE", message)
    }
}

/// The lines of one answer, ending with `Done`, `Error` or a failure to read.
#[derive(Debug)]
pub struct Answers<'a> {
    client: &'a mut Client,
    over: bool,
}

impl Iterator for Answers<'_> {
    type Item = Result<Answer, AdminError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let answer = self.client.read_answer();
        self.over = answer.as_ref().map_or(true, Answer::is_last);
        Some(answer)
    }
}

fn now() -> Instant {
    Instant::now()
}

fn timed_out() -> AdminError {
    AdminError::new("TIMED_OUT", "the service has not answered in time")
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err asks for")]
fn unreadable(error: serde_json::Error) -> AdminError {
    AdminError::new("CONTROL_PROTOCOL", format!("an answer that this version can't read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Removed, Schema, parse_request};
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    static NUMBER: AtomicU32 = AtomicU32::new(0);

    /// A service that reads one request and answers with the given bytes.
    fn service(answer: &'static [u8], hold: Duration) -> PathBuf {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("blockferry-api-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let unlink = path.clone();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::fs::remove_file(unlink).unwrap();
            let mut line = Vec::new();
            BufReader::new(stream.try_clone().unwrap()).read_until(b'\n', &mut line).unwrap();
            parse_request(line.strip_suffix(b"\n").unwrap()).unwrap();
            stream.write_all(answer).unwrap();
            thread::sleep(hold);
        });
        path
    }

    fn ask(answer: &'static [u8]) -> Result<Removed, AdminError> {
        let mut client = Client::connect(&service(answer, Duration::ZERO)).unwrap();
        client.set_timeout(Some(Duration::from_secs(20)));
        client.ask(&Request::StoreRm { name: "vdisks".into() })
    }

    #[test]
    fn answer_of_several_lines() {
        let removed = ask(b"{\"progress\":{\"phase\":\"wait\"}}\n{\"item\":3}\n\
              {\"done\":{\"schema\":\"v1\",\"removed\":\"vdisks\"}}\n");
        assert_eq!(removed.unwrap(), Removed { schema: Schema, removed: "vdisks".into() });
    }

    #[test]
    fn error_keeps_code_and_status() {
        let error = ask(b"{\"error\":{\"code\":\"STORE_UNKNOWN\",\"message\":\"m\",\
              \"remedy\":\"r\",\"exit\":5}}\n");
        assert_eq!(error.unwrap_err().exit, 5);
    }

    #[test]
    fn rubbish_and_early_ends_are_named() {
        for (bytes, code) in [
            (&b"not json\n"[..], "CONTROL_PROTOCOL"),
            (b"{\"done\":{\"schema\":\"v2\",\"removed\":\"a\"}}\n", "CONTROL_PROTOCOL"),
            (b"{\"news\":1}\n", "CONTROL_PROTOCOL"),
            (b"{\"item\":1}\n", "SERVICE_UNREACHABLE"),
            (b"{\"done\":{", "SERVICE_UNREACHABLE"),
            (b"", "SERVICE_UNREACHABLE"),
        ] {
            assert_eq!(ask(bytes).unwrap_err().code, code, "{bytes:?}");
        }
    }

    #[test]
    fn silence_ends_with_the_deadline() {
        let path = service(b"", Duration::from_secs(5));
        let mut client = Client::connect(&path).unwrap();
        client.set_timeout(Some(Duration::from_millis(50)));
        let error = client.ask::<Removed>(&Request::StoreLs {}).unwrap_err();
        assert_eq!((error.code.as_str(), error.exit), ("TIMED_OUT", 4));
    }

    #[test]
    fn nobody_there() {
        let error = Client::connect(Path::new("/nonexistent/admin.sock")).unwrap_err();
        assert_eq!((error.code.as_str(), error.exit), ("SERVICE_UNREACHABLE", 10));
    }
}
