//! Packs with a dictionary, at both ends: the sender chooses pages of the base it holds, the receiver
//! reads the same pages of the base it builds on. Neither has to believe the other: whatever goes
//! wrong here ends in a block that fails its hash and is sent again without.
//!
//! Dictionaries are large and short-lived; few are in memory at a time, for all transfers together.

use std::sync::{Condvar, Mutex, PoisonError};

use blockferry_delta::PageExtent;
use blockferry_store::{Dictionaries, Result as StoreResult, Staging};
use blockferry_wire::limits::DICTIONARY_PAGES_MAX;
use blockferry_wire::{Compression, Dictionary, Pack, Packer, extents_bytes, unpack, unpack_with};
use bytes::Bytes;
use tracing::debug;

use crate::budget;
use crate::error::Result;

/// How many more dictionaries may be in memory.
static ROOM: Mutex<usize> = Mutex::new(budget::DICTIONARIES_MAX);
static LEFT: Condvar = Condvar::new();

/// The right to have a dictionary in memory. Whoever has it waits for nothing but its own disk.
struct Place;

impl Place {
    fn wait() -> Place {
        let room = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room =
            LEFT.wait_while(room, |room| *room == 0).unwrap_or_else(PoisonError::into_inner);
        *room -= 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *ROOM.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        LEFT.notify_one();
    }
}

/// Compresses pages, with a dictionary where there is one.
pub(crate) fn pressed(
    packer: &mut Packer,
    dictionaries: Option<&Dictionaries>,
    part: u32,
    (extents, pages): (Vec<PageExtent>, Vec<u8>),
    compression: Compression,
) -> Result<Pack> {
    let Some(dictionaries) = dictionaries else {
        return Ok(packer.pack(part, extents, pages, compression)?);
    };
    let _place = Place::wait();
    let dictionary = chosen(dictionaries, &extents).unwrap_or_else(|error| {
        debug!(code = error.code(), %error, "no dictionary");
        Dictionary::default()
    });
    Ok(packer.pack_with(part, extents, pages, dictionary, compression)?)
}

fn chosen(dictionaries: &Dictionaries, wanted: &[PageExtent]) -> StoreResult<Dictionary> {
    let extents = dictionaries.choose(wanted, DICTIONARY_PAGES_MAX as u32)?;
    let bytes = dictionaries.read(&extents)?;
    Ok(Dictionary { extents, bytes })
}

/// Pages of a pack, as they were sent or as they were guessed.
pub(crate) enum Unpacked {
    /// The peer sent every byte.
    Sent(Bytes),
    /// Bytes of the base went into them. Where it can't be read, or isn't what the peer has, they
    /// are wrong, and zeros do as well as anything.
    Guessed(Bytes),
}

/// Unpacks what came for a staging of `size_bytes`.
///
/// # Errors
/// Of the peer, for a pack without a dictionary.
pub(crate) fn unpacked(pack: &Pack, size_bytes: u64, staging: &mut Staging) -> Result<Unpacked> {
    let due = extents_bytes(&pack.extents, size_bytes);
    if pack.dictionary.is_empty() {
        return Ok(Unpacked::Sent(unpack(pack, due)?));
    }
    let _place = Place::wait();
    let pages = staging
        .base_pages(&pack.dictionary)
        .map_err(Into::into)
        .and_then(|dictionary| Ok(unpack_with(pack, due, &dictionary)?));
    let pages = pages.unwrap_or_else(|error: crate::error::Error| {
        debug!(code = error.code(), %error, "a pack's dictionary is of no use here");
        vec![0; pack.raw_bytes as usize].into()
    });
    Ok(Unpacked::Guessed(pages))
}
