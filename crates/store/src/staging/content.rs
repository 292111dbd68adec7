//! What a staging builds: a whole new file, or a journal of what changes in the image's own. Both
//! are read as the new content.

use blockferry_delta::BLOCK_BYTES;

use crate::disk::{AlignedBuf, DiskFile};
use crate::error::{Error, IoContext, Result};
use crate::journal::{Journal, Redo};

/// The content being built.
#[derive(Debug)]
pub(crate) enum Content {
    /// A file that becomes the image.
    Whole {
        /// The file.
        file: Box<dyn DiskFile>,
        /// Writes bypass the page cache.
        bulk: bool,
    },
    /// Changes that are put into the image's file. Boxed: it is much larger.
    Journal(Box<Journal>),
}

/// The content when it is complete.
#[derive(Debug)]
pub(crate) enum Built {
    /// A file that becomes the image.
    Whole(Box<dyn DiskFile>),
    /// Changes that are put into the image's file.
    Journal(Redo),
}

impl Content {
    /// Ends the building.
    pub(super) fn finish(self) -> Built {
        match self {
            Self::Whole { file, .. } => Built::Whole(file),
            Self::Journal(journal) => Built::Journal(journal.finish()),
        }
    }

    /// The file that is in the staging directory.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        match self {
            Self::Whole { file, .. } => file.as_ref(),
            Self::Journal(journal) => journal.file(),
        }
    }

    /// Is it built in a journal?
    pub(super) fn is_journal(&self) -> bool {
        matches!(self, Self::Journal(_))
    }

    pub(super) fn write(&mut self, path: &str, bytes: &[u8], offset: u64) -> Result<()> {
        match self {
            Self::Whole { file, bulk: true } => file.write_bulk_at(bytes, offset),
            Self::Whole { file, bulk: false } => file.write_at(bytes, offset),
            Self::Journal(journal) => return journal.write(bytes, offset),
        }
        .during("write", path)
    }

    pub(super) fn punch(&mut self, path: &str, offset: u64, bytes: u64) -> Result<()> {
        match self {
            Self::Whole { file, .. } => file.punch(offset, bytes).during("punch", path),
            Self::Journal(journal) => journal.hole(offset, bytes),
        }
    }

    pub(super) fn prefetch(&self, path: &str, offset: u64, bytes: u64) -> Result<()> {
        match self {
            Self::Whole { file, .. } => file.prefetch(offset, bytes),
            Self::Journal(journal) => journal.prefetch(offset, bytes),
        }
        .during("prefetch", path)
    }

    /// Reads a block of `bytes`. What a journal says nothing of, beyond the image as it is, is zero.
    pub(super) fn read_block(&self, path: &str, block: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut read = self.read_bulk(path, block * BLOCK_BYTES as u64, bytes)?;
        if matches!(self, Self::Journal(_)) {
            read.resize(bytes, 0);
        }
        if read.len() == bytes {
            return Ok(read);
        }
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(Error::Io { op: "read", path: path.to_owned(), source })
    }

    /// Reads `bytes` at most, from an aligned offset; less at the end of the content.
    pub(super) fn read_bulk(&self, path: &str, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        match self {
            Self::Whole { file, .. } => {
                let mut buf = AlignedBuf::with_capacity(bytes);
                file.read_bulk_at(&mut buf, offset, bytes).during("read", path)?;
                Ok(buf.to_vec())
            }
            Self::Journal(journal) => {
                let mut buf = vec![0; bytes];
                let done = journal.read(&mut buf, offset)?;
                buf.truncate(done);
                Ok(buf)
            }
        }
    }
}
