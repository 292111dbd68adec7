//! What the headers of a store's files say, for sets: one `stat` for each file, and a few small
//! reads for each whose inode, size or times are not those it was read at. No image data is read.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blockferry_delta::{Header, HeaderError, ImageName, ReadAt, SetFile, read_header};

use crate::catalog::Checkpoint;
use crate::disk::{DiskFile, Kind, Open, Stat};
use crate::error::{IoContext, Result};
use crate::kept::Kept;
use crate::store::Store;

/// What was read of a file, and when that was: its header, or why it has none that can be used.
type Known = (Checkpoint, std::result::Result<Option<Header>, String>);

/// The headers that were read, by name.
#[derive(Debug, Default)]
pub(crate) struct Headers(Mutex<BTreeMap<ImageName, Known>>);

impl Headers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<ImageName, Known>> {
        // Whoever panicked had only looked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NS: i128 = 1_000_000_000;

/// A file of the store as the headers are read from it.
struct Bytes<'a> {
    file: &'a dyn DiskFile,
    size_bytes: u64,
}

impl ReadAt for Bytes<'_> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl Store {
    /// The files of the store whose names `takes` says yes to, with what their headers say.
    pub fn set_files(&self, takes: &dyn Fn(&str) -> bool) -> Result<Vec<SetFile>> {
        let mut before = std::mem::take(&mut *self.headers.known());
        let mut files = Vec::new();
        let mut known = BTreeMap::new();
        for entry in self.disk.list("").during("list", "store directory")? {
            let name = entry.name.to_str().filter(|text| takes(text)).map(ImageName::new);
            let Some(Ok(name)) = name else { continue };
            let stat = self.disk.stat(name.as_str()).during("look at", name.as_str())?;
            let Some(stat) = stat.filter(|stat| stat.kind == Kind::File) else { continue };
            let found = match before.remove(&name) {
                Some((point, found)) if point == Checkpoint::of(&stat) => found,
                _ => self.read_header(&name, &stat),
            };
            files.push(SetFile {
                name: name.clone(),
                header: found.as_ref().ok().cloned().flatten(),
                unreadable: found.as_ref().err().cloned(),
                modified_unix_s: i64::try_from(stat.mtime_ns.div_euclid(NS)).unwrap_or(i64::MAX),
            });
            known.insert(name, (Checkpoint::of(&stat), found));
        }
        *self.headers.known() = known;
        Ok(files)
    }

    /// What the header of a kept content says, as if it lay under its image's name.
    ///
    /// # Errors
    /// [`Error::LocalChange`](crate::Error::LocalChange) when its file was touched since it was kept.
    pub fn set_file_of(&self, kept: &Kept) -> Result<SetFile> {
        let file = self.open_kept(kept)?;
        let bytes = Bytes { file: file.as_ref(), size_bytes: kept.size_bytes };
        let read = read_header(&bytes);
        let mtime_ns = kept.generation.as_ref().map_or(0, |generation| generation.meta.mtime_ns);
        Ok(SetFile {
            name: kept.image.clone(),
            unreadable: match &read {
                Err(HeaderError::Read(_)) | Ok(_) => None,
                Err(error) => Some(error.to_string()),
            },
            header: read.ok().flatten(),
            modified_unix_s: i64::try_from(mtime_ns.div_euclid(NS)).unwrap_or(i64::MAX),
        })
    }

    /// Reads the header of one file. One that can't be read counts as having none: recording it
    /// will say why.
    fn read_header(
        &self,
        name: &ImageName,
        stat: &Stat,
    ) -> std::result::Result<Option<Header>, String> {
        let Ok(file) = self.disk.open(name.as_str(), Open::Read) else { return Ok(None) };
        let bytes = Bytes { file: file.as_ref(), size_bytes: stat.size_bytes };
        match read_header(&bytes) {
            Err(HeaderError::Read(_)) => Ok(None),
            other => other.map_err(|error| error.to_string()),
        }
    }
}
