//! Lines in and out, for whoever moves the bytes.
//!
//! `LineBuffer` takes bytes as they come and gives whole lines; it holds at most one line of the
//! stated limit plus what one read brought, whatever the other side sends. Bad input becomes an
//! `AdminError` with a `CONTROL_*` code and never a panic.

use super::codes::AdminError;
use super::request::Request;
use serde::Serialize;

/// Longest request line without its newline, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest answer line without its newline, in bytes: the image list of a large store.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(REQUEST_BYTES_MAX <= ANSWER_BYTES_MAX);

/// Cuts a byte stream into lines of bounded length.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Bytes before this position were searched and hold no newline.
    searched: usize,
    line_bytes_max: usize,
}

impl LineBuffer {
    /// A buffer for lines of at most `line_bytes_max` bytes.
    #[must_use]
    pub fn new(line_bytes_max: usize) -> LineBuffer {
        LineBuffer { bytes: Vec::new(), searched: 0, line_bytes_max }
    }

    /// Takes bytes in the order they arrived. Take the lines out before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its newline; `None` when more bytes are needed.
    ///
    /// # Errors
    /// `CONTROL_TOO_LONG`: the stream can't be read any further; close it.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, AdminError> {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(position) = rest.iter().position(|b| *b == b'\n') else {
            self.searched = self.bytes.len();
            return if self.bytes.len() > self.line_bytes_max {
                Err(self.too_long())
            } else {
                Ok(None)
            };
        };
        let end = self.searched + position;
        if end > self.line_bytes_max {
            return Err(self.too_long());
        }
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }

    /// Bytes of a line that has not ended.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn too_long(&self) -> AdminError {
        let message = format!("a line of more than {} bytes", self.line_bytes_max);
        AdminError::new("CONTROL_TOO_LONG", message)
    }
}

/// Reads one request line (without its newline).
///
/// # Errors
/// `CONTROL_TOO_LONG` or `CONTROL_BAD_REQUEST` with what is wrong and where in the line.
pub fn parse_request(line: &[u8]) -> Result<Request, AdminError> {
    if line.len() > REQUEST_BYTES_MAX {
        let message = format!("a request of {} bytes, at most {REQUEST_BYTES_MAX}", line.len());
        return Err(AdminError::new("CONTROL_TOO_LONG", message));
    }
    serde_json::from_slice(line)
        .map_err(|error| AdminError::new("CONTROL_BAD_REQUEST", format!("bad request: {error}")))
}

/// One value as a line with its newline: a request or an answer.
///
/// # Errors
/// `INTERNAL` when the value has no JSON form, which is a bug in its type.
pub fn encode_line<T: Serialize>(value: &T) -> Result<Vec<u8>, AdminError> {
    let mut line = serde_json::to_vec(value)
        .map_err(|error| AdminError::new("INTERNAL", format!("no JSON form: {error}")))?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_however_the_bytes_come_in() {
        let text = b"one\n\ntwo\nthree";
        for step in 1..=text.len() {
            let mut buffer = LineBuffer::new(16);
            let mut lines = Vec::new();
            for part in text.chunks(step) {
                buffer.push(part);
                while let Some(line) = buffer.next_line().unwrap() {
                    lines.push(line);
                }
            }
            assert_eq!(lines, [&b"one"[..], b"", b"two"], "step {step}");
            assert_eq!(buffer.pending_bytes(), 5);
        }
    }

    #[test]
    fn limit_and_one_more() {
        let mut buffer = LineBuffer::new(4);
        buffer.push(b"1234\n12345\n");
        assert_eq!(buffer.next_line().unwrap().unwrap(), b"1234");
        assert_eq!(buffer.next_line().unwrap_err().code, "CONTROL_TOO_LONG");
    }

    #[test]
    fn endless_line_is_refused_as_soon_as_it_is_too_long() {
        let mut buffer = LineBuffer::new(REQUEST_BYTES_MAX);
        let part = [b'x'; 1000];
        for _ in 0..REQUEST_BYTES_MAX / part.len() {
            buffer.push(&part);
            assert!(buffer.next_line().unwrap().is_none());
        }
        buffer.push(&part);
        assert_eq!(buffer.next_line().unwrap_err().exit, 2);
    }

    #[test]
    fn rubbish_is_an_error_with_a_code() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let long = vec![b' '; REQUEST_BYTES_MAX + 1];
        for (line, code) in [
            (&b""[..], "CONTROL_BAD_REQUEST"),
            (b"\xff\xfe", "CONTROL_BAD_REQUEST"),
            (b"{", "CONTROL_BAD_REQUEST"),
            (b"[]", "CONTROL_BAD_REQUEST"),
            (b"null", "CONTROL_BAD_REQUEST"),
            (br#"{"cmd":"status"} trailing"#, "CONTROL_BAD_REQUEST"),
            (br#"{"cmd":"status","cmd":"status"}"#, "CONTROL_BAD_REQUEST"),
            (br#"{"cmd":17}"#, "CONTROL_BAD_REQUEST"),
            (deep.as_bytes(), "CONTROL_BAD_REQUEST"),
            (&long, "CONTROL_TOO_LONG"),
        ] {
            let error = parse_request(line).unwrap_err();
            assert_eq!(error.code, code);
            assert!(!error.message.chars().any(char::is_control));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_request_is_handled() {
        let line = encode_line(&Request::Publish {
            image: "vdisks/win11.vhdx".into(),
            changed: None,
            since: None,
        })
        .unwrap();
        for length in 0..line.len() - 1 {
            assert!(parse_request(&line[..length]).is_err());
        }
        for bit in 0..line.len() * 8 {
            let mut bad = line.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flip inside the image's name is still a request; nothing may panic.
            let _ = parse_request(&bad);
        }
    }
}
