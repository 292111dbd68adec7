//! What can go wrong in a store. Variants are facts; whoever calls decides what to do.

use std::io;

use blockferry_delta::{ImageName, Root};

use crate::adoption::NotNow;

/// Result of store operations.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the operating system failed.
    #[error("cannot {op} {path}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Path within the store.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The catalog could not be read or written.
    #[error("catalog: {0}")]
    Catalog(#[source] Box<redb::Error>),
    /// A record of the catalog or the marker can't be what this program wrote.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// Which record.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The catalog was written by a newer version.
    #[error("the catalog has format {found}, this version knows up to {known}")]
    CatalogNewer {
        /// Format found.
        found: u64,
        /// Newest format known.
        known: u64,
    },
    /// Another process has the catalog open.
    #[error("the store is in use by another process")]
    StoreLocked,
    /// The marker file is gone: an unmounted disk, perhaps.
    #[error("the store's marker .blockferry/store is missing; is the disk mounted?")]
    StoreMissing,
    /// The marker file is there and isn't what was written.
    #[error("the store's marker .blockferry/store is damaged: {0}")]
    Marker(String),
    /// There is a store here already.
    #[error("the directory already holds the store {0}")]
    StoreExists(String),
    /// The directory can't be a store.
    #[error("the directory can't be a store: {0}")]
    StoreUnsafe(&'static str),
    /// A failed sync left the store in doubt; it takes no more generations until reopened.
    #[error("an earlier write failure left the store degraded; restart the service")]
    Degraded,
    /// Not enough room.
    #[error("not enough space: {needed_bytes} bytes needed, {free_bytes} free")]
    OutOfSpace {
        /// Bytes needed in all.
        needed_bytes: u64,
        /// Bytes that may be used.
        free_bytes: u64,
    },
    /// No such image in the catalog.
    #[error("no image {0}")]
    NotFound(ImageName),
    /// The image's file is absent.
    #[error("the file of image {0} is missing")]
    SourceMissing(ImageName),
    /// The image's name stands for something that isn't a regular file.
    #[error("{0} is not a regular file")]
    NotRegular(ImageName),
    /// The file is empty: never an image, perhaps a copy that was cut short.
    #[error("{0} is empty; an empty file is never published")]
    Empty(ImageName),
    /// The file is larger than any image may be.
    #[error("{0} is larger than 64 TiB")]
    TooLarge(ImageName),
    /// Somebody has the image open in a way that is in the way.
    #[error("image {0} is in use")]
    InUse(ImageName),
    /// Another operation works on the image.
    #[error("image {0} is busy with another operation")]
    Busy(ImageName),
    /// The image changed while it was read; nothing was recorded.
    #[error("image {0} changed while it was read")]
    ChangedWhileReading(ImageName),
    /// Bytes read don't match the recorded generation any more.
    #[error("image {image} no longer holds what was recorded (block {block})")]
    Torn {
        /// Which image.
        image: ImageName,
        /// First block found different.
        block: u64,
    },
    /// The file isn't what the catalog last recorded: replacing it would lose a change.
    #[error("image {0} has changes that aren't recorded; it is not replaced")]
    LocalChange(ImageName),
    /// The generation asked for isn't known here.
    #[error("no generation of {image} with root {root}")]
    NoGeneration {
        /// Which image.
        image: ImageName,
        /// Root asked for.
        root: Root,
    },
    /// The content of a generation isn't kept here.
    #[error("the content of {image}@{number} is not kept here")]
    NotKept {
        /// Which image.
        image: ImageName,
        /// Number of the generation.
        number: u64,
    },
    /// No kept content of this number.
    #[error("no kept content {serial} of {image}")]
    KeptUnknown {
        /// Which image.
        image: ImageName,
        /// Its serial number.
        serial: u64,
    },
    /// A part of a recipe that can't be.
    #[error("bad recipe part: {0}")]
    BadPart(&'static str),
    /// A block filled with what the sender sent doesn't have the promised hash.
    #[error("block {block} of {image} does not match its hash")]
    BlockMismatch {
        /// Which image.
        image: ImageName,
        /// Number of the block.
        block: u64,
    },
    /// All blocks fit and the whole doesn't: the offer contradicts itself.
    #[error("{image}: root {found} instead of {promised}")]
    RootMismatch {
        /// Which image.
        image: ImageName,
        /// Root that was offered.
        promised: Root,
        /// Root that came out.
        found: Root,
    },
    /// A map of changes that a person gave is malformed or of another content.
    #[error("the map of changes can't be used: {0}")]
    BadMap(String),
    /// The name is that of a map beside an image, not of an image.
    #[error("{0} is a map of changes beside an image, not an image")]
    MapName(ImageName),
    /// The store is being adopted and the old tool rules: its images are not touched.
    #[error("the store is being adopted (phase {phase}): its images are left as they are")]
    Observing {
        /// The phase, in a word.
        phase: &'static str,
    },
    /// An order about the adoption that can't be done now.
    #[error("{0}")]
    Adoption(NotNow),
    /// A cancel was asked for.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "DISK_FULL",
                io::ErrorKind::ReadOnlyFilesystem => "STORE_READ_ONLY",
                _ => "IO_ERROR",
            },
            Self::Catalog(_) => "CATALOG_ERROR",
            Self::Corrupt { .. } => "CATALOG_CORRUPT",
            Self::CatalogNewer { .. } => "INDEX_NEWER",
            Self::StoreLocked => "STORE_LOCKED",
            Self::StoreMissing => "STORE_MISSING",
            Self::Marker(_) => "MARKER_DAMAGED",
            Self::StoreExists(_) => "STORE_EXISTS",
            Self::StoreUnsafe(_) => "STORE_UNSAFE",
            Self::Degraded => "DEGRADED",
            Self::OutOfSpace { .. } => "DISK_FULL",
            Self::NotFound(_) => "IMAGE_UNKNOWN",
            Self::SourceMissing(_) => "SOURCE_MISSING",
            Self::NotRegular(_) => "SOURCE_NOT_REGULAR",
            Self::Empty(_) => "SOURCE_EMPTY",
            Self::TooLarge(_) => "LIMIT_IMAGE_BYTES",
            Self::InUse(_) => "IN_USE",
            Self::Busy(_) => "BUSY",
            Self::ChangedWhileReading(_) => "SOURCE_CHANGED",
            Self::Torn { .. } => "SOURCE_TORN",
            Self::LocalChange(_) => "LOCAL_CHANGE",
            Self::NoGeneration { .. } | Self::KeptUnknown { .. } => "GENERATION_UNKNOWN",
            Self::NotKept { .. } => "NOT_KEPT",
            Self::BadPart(_) => "BAD_MANIFEST",
            Self::BlockMismatch { .. } => "CHUNK_MISMATCH",
            Self::RootMismatch { .. } => "ROOT_MISMATCH",
            Self::BadMap(_) => "BAD_MAP",
            Self::MapName(_) => "BAD_NAME",
            Self::Observing { .. } => "OBSERVING",
            Self::Adoption(_) => "ADOPTION_NOT_NOW",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Names the operation and path of an I/O error.
pub(crate) trait IoContext<T> {
    /// Turns the error into [`Error::Io`].
    fn during(self, op: &'static str, path: &str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, op: &'static str, path: &str) -> Result<T> {
        self.map_err(|source| Error::Io { op, path: path.to_owned(), source })
    }
}

macro_rules! from_redb {
    ($($kind:ty),+) => {
        $(impl From<$kind> for Error {
            fn from(error: $kind) -> Self {
                Self::Catalog(Box::new(error.into()))
            }
        })+
    };
}

from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);
