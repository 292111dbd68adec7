//! One end of the control stream: nothing before the hellos, neither hello twice.
//!
//! What follows (inventories, heads, pings) is passed on as it comes; a ping is answered here.

use std::collections::VecDeque;

use crate::error::{PeerMisbehaved, Result, wrong_state};
use crate::message::{
    Goodbye, Head, Hello, HelloAck, Inventory, Message, Ping, Pong, Resume, Statement,
};

/// What the control stream tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// The hellos are exchanged: now inventories may be sent.
    Ready {
        /// The version both speak.
        version: u16,
        /// Feature bits both have.
        features: u64,
        /// The peer's name, for people.
        node_name: String,
        /// The peer's program and version.
        agent: String,
        /// The number that this start of the peer has, if it said one.
        instance: Option<u64>,
        /// The peer's clock as it said this, in milliseconds since 1970, if it did.
        clock_unix_ms: Option<u64>,
    },
    /// Current generations of a store at the peer.
    Inventory(Inventory),
    /// A new current generation at the peer.
    Head(Head),
    /// Where the peer wants us to go on with statements.
    Resume(Resume),
    /// What a node states about itself; its signature is not checked yet.
    Statement(Statement),
    /// The answer to a ping.
    Pong {
        /// The token of the ping.
        token: u64,
    },
    /// The peer leaves; nothing else follows.
    Goodbye(Goodbye),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitHello,
    AwaitAck,
    Ready,
    Left,
    Broken,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::AwaitHello => "a Hello is awaited",
            State::AwaitAck => "a HelloAck is awaited",
            State::Ready => "the hellos are exchanged",
            State::Left => "the peer has left",
            State::Broken => "the connection is broken",
        }
    }
}

/// One end of the control stream of a connection.
#[derive(Debug)]
pub struct Control {
    state: State,
    hello: Hello,
    ping: Option<u64>,
    transmit: VecDeque<Message>,
}

impl Control {
    /// The end that opened the connection; the hello is queued.
    pub fn dial(hello: Hello) -> Self {
        let transmit = VecDeque::from([Message::Hello(hello.clone())]);
        Self { state: State::AwaitAck, hello, ping: None, transmit }
    }

    /// The end that was dialled.
    pub fn listen(hello: Hello) -> Self {
        Self { state: State::AwaitHello, hello, ping: None, transmit: VecDeque::new() }
    }

    /// Whether inventories and heads may be sent: the driver sends them itself.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        self.transmit.pop_front()
    }

    /// Sends a ping, unless one is unanswered.
    pub fn ping(&mut self, token: u64) {
        if self.state == State::Ready && self.ping.is_none() {
            self.ping = Some(token);
            self.transmit.push_back(Message::Ping(Ping { token }));
        }
    }

    /// Takes a message of the peer.
    ///
    /// # Errors
    /// Of the peer: the connection is to be closed with the error's number.
    pub fn handle_message(&mut self, message: Message) -> Result<Option<ControlEvent>> {
        let result = self.take_message(message);
        if result.is_err() {
            self.state = State::Broken;
            self.transmit.clear();
        }
        result
    }

    fn take_message(&mut self, message: Message) -> Result<Option<ControlEvent>> {
        let name = message.name();
        Ok(match (self.state, message) {
            (State::AwaitHello, Message::Hello(theirs)) => Some(self.hello(theirs)?),
            (State::AwaitAck, Message::HelloAck(ack)) => Some(self.hello_ack(ack)?),
            (State::Ready, Message::Inventory(inventory)) => {
                Some(ControlEvent::Inventory(inventory))
            }
            (State::Ready, Message::Head(head)) => Some(ControlEvent::Head(head)),
            (State::Ready, Message::Resume(resume)) => Some(ControlEvent::Resume(resume)),
            (State::Ready, Message::Statement(statement)) => {
                Some(ControlEvent::Statement(statement))
            }
            (State::Ready, Message::Ping(Ping { token })) => self.pong(token)?,
            (State::Ready, Message::Pong(Pong { token })) => {
                if self.ping.take() != Some(token) {
                    return Err(PeerMisbehaved::Unrequested { rule: "pong without a ping" }.into());
                }
                Some(ControlEvent::Pong { token })
            }
            (State::AwaitAck | State::Ready, Message::Goodbye(goodbye)) => {
                self.state = State::Left;
                Some(ControlEvent::Goodbye(goodbye))
            }
            (state, _) => return Err(wrong_state(name, state.name())),
        })
    }

    fn hello(&mut self, theirs: Hello) -> Result<ControlEvent> {
        let version = self.hello.negotiate(&theirs)?;
        self.transmit.push_back(Message::HelloAck(HelloAck {
            version,
            features: self.hello.features,
            node_name: self.hello.node_name.clone(),
            agent: self.hello.agent.clone(),
            instance: self.hello.instance,
            clock_unix_ms: self.hello.clock_unix_ms,
        }));
        self.state = State::Ready;
        let features = self.hello.features & theirs.features;
        let Hello { node_name, agent, instance, clock_unix_ms, .. } = theirs;
        Ok(ControlEvent::Ready { version, features, node_name, agent, instance, clock_unix_ms })
    }

    fn hello_ack(&mut self, ack: HelloAck) -> Result<ControlEvent> {
        let HelloAck { version, features, node_name, agent, instance, clock_unix_ms } = ack;
        let version = self.hello.take_choice(version)?;
        self.state = State::Ready;
        let features = self.hello.features & features;
        Ok(ControlEvent::Ready { version, features, node_name, agent, instance, clock_unix_ms })
    }

    /// Answers a ping. A peer that pings faster than its pongs are taken is flooding.
    fn pong(&mut self, token: u64) -> Result<Option<ControlEvent>> {
        if self.transmit.iter().any(|message| matches!(message, Message::Pong(_))) {
            return Err(PeerMisbehaved::RateLimited.into());
        }
        self.transmit.push_back(Message::Pong(Pong { token }));
        Ok(None)
    }
}
