//! Refusal: why two nodes that reach each other don't talk, and who is told.
//!
//! A key that isn't known, another key than the one that was dialled, no protocol version in common:
//! trying again changes nothing until somebody acts. The peer is shown as refused, with the code, by
//! both sides as far as they know; what a person must do something about is an event, once.

use tracing::{debug, info};

use crate::api::PeerState;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::Note;
use crate::link::peer::Peer;

/// Codes of refusals.
const REFUSALS: [&str; 7] = [
    "PEER_UNKNOWN",
    "PEER_REVOKED",
    "TLS_REFUSED",
    "TLS_BAD_SIGNATURE",
    "IDENTITY_REFUSED",
    "IDENTITY_DUPLICATE",
    "VERSION_UNSUPPORTED",
];
/// Those that are events: the others are told where the key was refused, or end by themselves.
const TOLD: [&str; 2] = ["IDENTITY_DUPLICATE", "VERSION_UNSUPPORTED"];

/// Whether a session ended before it began, because the two have no version in common.
pub(crate) fn is_refusal<T>(ended: &Result<T>) -> bool {
    ended.as_ref().is_err_and(|error| error.code() == "VERSION_UNSUPPORTED")
}

/// Notes why there is no connection.
pub(crate) fn note(core: &Core, peer: &Peer, error: &Error) {
    let code = error.code();
    if REFUSALS.contains(&code) && peer.active().is_none() {
        if peer.note_refused(code) {
            let name = peer.name();
            info!(peer = name, code, %error, "refused");
            if TOLD.contains(&code) {
                let text = format!("{name}: {error}");
                core.events.note(Note::error(code, text).peer(&name));
            }
        }
        peer.set_state(PeerState::Refused);
    }
    debug!(peer = %peer.name(), code, %error, "not connected");
    core.wake();
}
