//! What two peers say, in which order.
//!
//! This crate contains no I/O, no threads and no clock: it turns bytes into messages and messages
//! into decisions about what comes next. `docs/protocol.md` is the definition it follows.
//!
//! - [`FrameDecoder`] cuts a byte stream into frames and refuses one by its header alone.
//! - [`Message`] is what a frame says; decoding one validates everything that can be validated
//!   without knowing the transfer.
//! - [`Sender`] and [`Receiver`] are the two ends of one transfer, [`Control`] an end of the
//!   control stream. Getters aside, methods are `handle_*` for what comes in and `poll_*` for what
//!   goes out: after each `handle_*` call `poll_transmit` and `poll_event` until both are empty.
//! - [`Packer`] and [`unpack`] compress what travels; the output is bounded before it is allocated.
//!
//! Bytes of a peer never make this crate panic, nor allocate more than a named limit.

mod bulk;
mod cbor;
mod compression;
mod control;
mod error;
mod frame;
pub mod limits;
mod manifest;
mod message;
mod pack;
mod receiver;
mod refusal;
mod sender;
mod walk;
mod wants;

pub use compression::Compression;
pub use control::{Control, ControlEvent};
pub use error::{Error, Invalid, PeerIncompatible, PeerMisbehaved, Result, VERSION_UNSUPPORTED};
pub use frame::{FLAG_OPTIONAL, Frame, FrameDecoder, Kind};
pub use message::{
    Abort, Accept, Encoding, FEATURE_DELETIONS, FEATURE_STATEMENTS, Failed, Filled, Goodbye, Head,
    Hello, HelloAck, Holding, Inventory, InventoryEntry, Join, JoinAccepted, JoinRefused, Lane,
    Member, Message, Offer, Pack, PartsEnd, Ping, Pong, Promotion, Proof, Receipt, Refuse,
    Resolution, Resume, Rival, Role, Roster, Said, SetMember, Statement, Text, VERSION_MAX,
    VERSION_MIN, Values, WalkStart, Want, What,
};
pub use pack::{Dictionary, Packer, unpack, unpack_with};
pub use receiver::{Receiver, ReceiverEvent};
pub use refusal::Refusal;
pub use sender::{Sender, SenderEvent};
pub use wants::{extents_bytes, split_packs};
