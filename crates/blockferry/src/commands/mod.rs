//! The commands, one function each: ask the service, print the answer, choose the exit status.
//!
//! Everything they share is in `App`: how to speak, where the configuration is, how long to wait.

pub(crate) mod adopt;
pub(crate) mod backlog;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod conflicts;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod generate;
pub(crate) mod id;
pub(crate) mod image;
pub(crate) mod init;
mod live;
pub(crate) mod netcheck;
pub(crate) mod orders;
pub(crate) mod pairing;
pub(crate) mod peer;
pub(crate) mod plan;
pub(crate) mod promote;
pub(crate) mod publish;
pub(crate) mod push;
pub(crate) mod ready;
pub(crate) mod rollback;
pub(crate) mod schedule;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod verify;
pub(crate) mod watch;

use crate::args::Global;
use crate::config::Location;
use crate::failure::{AdminError, Failure};
use crate::interrupt;
use crate::output::Output;
use blockferry_node::api::{Answer, Client, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::Duration;

/// A question that the service answers from memory is answered by then, or the service hangs.
const SHORT_TIMEOUT: Duration = Duration::from_secs(60);

const JOB_GOES_ON: &str = "interrupted; the job goes on in the service (blockferry status)";

/// What every command needs.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) out: Output,
    pub(crate) location: Location,
    pub(crate) timeout: Option<Duration>,
    yes: bool,
}

impl App {
    pub(crate) fn new(global: &Global) -> App {
        App {
            out: Output::new(global),
            location: Location::new(global.config.clone()),
            timeout: global.timeout.map(|timeout| timeout.duration()),
            yes: global.yes,
        }
    }

    /// The same with another patience.
    pub(crate) fn with_timeout(&self, timeout: Option<Duration>) -> App {
        App { out: self.out.clone(), location: self.location.clone(), timeout, yes: self.yes }
    }

    /// A short question and its answer.
    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let mut client = self.client()?;
        client.set_timeout(Some(self.timeout.unwrap_or(SHORT_TIMEOUT)));
        Ok(client.ask(request)?)
    }

    /// A job with a bar; lines other than progress go to `each`. The answer is the last object.
    /// An interrupt lets go of it.
    pub(crate) fn job<T: DeserializeOwned>(
        &self,
        request: &Request,
        mut each: impl FnMut(&Output, Answer) -> Result<(), Failure>,
    ) -> Result<T, Failure> {
        let mut client = self.client()?;
        client.set_timeout(self.timeout);
        interrupt::detach(&self.out, JOB_GOES_ON);
        let mut bar = self.out.bar();
        for answer in client.call(request)? {
            match answer? {
                Answer::Progress(progress) => bar.show(&progress),
                Answer::Error(error) => return Err(error.into()),
                Answer::Done(object) => {
                    bar.clear();
                    return Ok(read(object)?);
                }
                other => {
                    bar.clear();
                    each(&self.out, other)?;
                }
            }
        }
        Err(AdminError::new("CONTROL_PROTOCOL", "the answer has no end").into())
    }

    /// Asks before something is taken away. Without a terminal there is nobody to ask.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let error = AdminError::new("USAGE", format!("{question} Nobody is there to ask"));
            return Err(error.with_remedy("say yes beforehand: -y").into());
        }
        self.out.prose(&format!("{question} [y/N]"));
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        let yes = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes");
        if yes { Ok(()) } else { Err(AdminError::new("USAGE", "not confirmed").into()) }
    }

    fn client(&self) -> Result<Client, Failure> {
        let socket = self.location.socket()?;
        Client::connect(&socket).map_err(|error| unreachable(error, &self.location, &socket).into())
    }
}

/// The advice names the very command that starts this node's service.
fn unreachable(error: AdminError, location: &Location, socket: &Path) -> AdminError {
    if error.code != "SERVICE_UNREACHABLE" || !location.required {
        return error;
    }
    let file = location.file.display();
    let socket = socket.display();
    error.with_remedy(format!("start it: blockferry serve --config {file} (it makes {socket})"))
}

/// Reads an object that the service sent.
pub(crate) fn read<T: DeserializeOwned>(object: Value) -> Result<T, AdminError> {
    serde_json::from_value(object).map_err(|error| {
        AdminError::new(
            "CONTROL_PROTOCOL",
            format!("an answer that this version can't read: {error}"),
        )
    })
}

/// For jobs without lines of their own.
pub(crate) fn nothing_between(_: &Output, _: Answer) -> Result<(), Failure> {
    Ok(())
}
