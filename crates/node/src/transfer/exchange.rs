//! A transfer between two stores, without any transport.
//!
//! [`SendSide`] joins [`wire::Sender`](blockferry_wire::Sender) to the store that has a generation,
//! [`RecvSide`] joins [`wire::Receiver`](blockferry_wire::Receiver) to the one that gets it. Both
//! are plain blocking values: messages go in, [`Step`]s come out. The service runs each on a thread
//! with QUIC around it; a test runs both in one thread, from one seed, with any link between.

mod dictionary;
mod kept;
mod receive;
mod send;
mod travelled;
mod waiting;

use blockferry_wire::Message;

pub(crate) use dictionary::pressed;
pub(crate) use receive::version_of;
pub use receive::{RecvOutcome, RecvSide};
pub(crate) use send::dirty_extents;
pub use send::{PackJob, Packed, SendOutcome, SendSide};
pub use travelled::Travelled;
pub use waiting::Waiting;
pub(crate) use waiting::to_come;

/// What a side wants done next. Call `step` until it says `Wait` or `Done`.
#[derive(Debug)]
pub enum Step<Outcome> {
    /// Give this to the other side.
    Transmit(Box<Message>),
    /// Run this, on any thread, and hand the result to [`SendSide::handle_packed`].
    Pack(PackJob),
    /// Nothing to do until a message or a packed pack comes in.
    Wait,
    /// The transfer is over; nothing more is to be sent.
    Done(Outcome),
}

#[cfg(test)]
mod tests;
