//! Writes the archive: a tar of texts, compressed with zstd, readable by its owner only. A file that is
//! there is never written over, and what could not be finished is taken away again.

use crate::failure::{Failure, on_path};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const LEVEL: i32 = 9;

/// One file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Entry {
    pub(crate) fn text(name: &str, text: &str) -> Entry {
        Entry { name: name.to_owned(), text: text.to_owned() }
    }

    /// An object, for people: indented.
    pub(crate) fn json(name: &str, value: &Value) -> Entry {
        let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push('\n');
        Entry { name: name.to_owned(), text }
    }
}

/// Writes the archive and makes it durable; how many bytes it has. `top` is the directory that it
/// unpacks into.
pub(crate) fn write(
    path: &Path,
    top: &str,
    entries: &[Entry],
    unix_s: u64,
) -> Result<u64, Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = made.map_err(|error| on_path("create", path, &error))?;
    let written = pack(file, top, entries, unix_s);
    written.map_err(|error| {
        // Half an archive helps nobody; that it can't be removed is no news beside the error.
        let _ = std::fs::remove_file(path);
        on_path("write", path, &error)
    })
}

fn pack(file: File, top: &str, entries: &[Entry], unix_s: u64) -> io::Result<u64> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(file, LEVEL)?);
    for Entry { name, text } in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_mtime(unix_s);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, format!("{top}/{name}"), text.as_bytes())?;
    }
    let mut file = tar.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_packed_is_what_is_unpacked_and_only_the_owner_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar.zst");
        let entries =
            [Entry::text("a.txt", "hello\n"), Entry::json("b.json", &serde_json::json!({"k": 1}))];
        let bytes = write(&path, "top", &entries, 7).unwrap();
        let info = std::fs::metadata(&path).unwrap();
        assert_eq!((info.len(), info.permissions().mode() & 0o777), (bytes, 0o600));
        let mut tar = tar::Archive::new(zstd::Decoder::new(File::open(&path).unwrap()).unwrap());
        let mut found = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            found.push((name, text));
        }
        assert_eq!(found[0], ("top/a.txt".to_owned(), "hello\n".to_owned()));
        assert_eq!(found[1].1, "{\n  \"k\": 1\n}\n");
        assert!(write(&path, "top", &entries, 7).is_err(), "never over what is there");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    }
}
