//! Admin: JSON lines on a unix socket, one request after the other. A client that begins with a
//! capital letter speaks HTTP, and is served by `http` on the same socket.
//!
//! The socket has mode 0660; lines, clients and waits are bounded. A client that goes away detaches
//! from its job and doesn't cancel it. What a request means is in `requests`, what is answered is
//! put together in `reports`; this file only speaks.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::admin::requests;
use crate::api::{AdminError, Answer, LineBuffer, REQUEST_BYTES_MAX, encode_line, parse_request};
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::http::Local;

/// Makes the socket. We hold the state's lock, so a socket that is there is a dead one.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let at = |op| move |e| Error::io(op, path, e);
    match std::fs::symlink_metadata(path) {
        Ok(info) if info.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(at("remove"))?;
        }
        Ok(_) => {
            let what = format!("{} is there and is no socket", path.display());
            return Err(Error::Config { what });
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(at("bind"))?;
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).map_err(at("chmod"))?;
    Ok(listener)
}

/// Serves clients until the node stops.
pub(crate) async fn run(core: Arc<Core>, listener: UnixListener) {
    let clients = Arc::new(Semaphore::new(budget::ADMIN_CLIENTS_MAX));
    let local = Arc::new(Local::new(core.clone()));
    loop {
        let accepted = tokio::select! {
            () = core.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the admin socket can't accept");
                tokio::time::sleep(budget::PROGRESS_EVERY).await;
                continue;
            }
        };
        match clients.clone().try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(serve(core.clone(), local.clone(), stream, place));
            }
            Err(_) => {
                tokio::spawn(refuse(stream));
            }
        }
    }
}

async fn refuse(stream: UnixStream) {
    let (_, write) = stream.into_split();
    let busy = AdminError::new("CONTROL_BUSY", "too many clients at once");
    // A client that is gone needs no refusal.
    let _gone = Client::socket(write, String::new()).say(&Answer::Error(busy)).await;
}

async fn serve(
    core: Arc<Core>,
    local: Arc<Local>,
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
) {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let who = uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("uid {uid}"));
    let (mut read, write) = stream.into_split();
    let mut first = [0; 4096];
    let got = tokio::select! {
        () = core.stopped() => return,
        got = read.read(&mut first) => got.unwrap_or(0),
    };
    if first.first().is_some_and(u8::is_ascii_uppercase) {
        let read = std::io::Cursor::new(first).take(got as u64).chain(read);
        return local.talk(tokio::io::join(read, write), who).await;
    }
    let mut client = Client::socket(write, who);
    let mut lines = LineBuffer::new(REQUEST_BYTES_MAX);
    lines.push(&first[..got]);
    loop {
        let next = tokio::select! {
            () = core.stopped() => return,
            next = next_line(&mut read, &mut lines) => next,
        };
        let line = match next {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(error) => {
                debug!(%error, "a client was refused");
                let _gone = client.say(&Answer::Error(error)).await;
                return;
            }
        };
        let answered = match parse_request(&line) {
            Err(error) => client.say(&Answer::Error(error)).await,
            Ok(request) => answer(&core, request, &mut client).await,
        };
        if let Err(error) = answered {
            debug!(%error, "a client is gone");
            return;
        }
    }
}

async fn answer(core: &Arc<Core>, request: crate::api::Request, client: &mut Client) -> Result<()> {
    let stopped = core.stopped();
    let answered = tokio::select! {
        () = stopped => Err(Error::Stopping),
        answered = requests::handle(core, request, client) => answered,
    };
    match answered {
        Ok(done) => client.say(&done).await,
        Err(error) if error.code() == GONE => Err(error),
        Err(error) => {
            debug!(code = error.code(), %error, "a request failed");
            client.say(&Answer::Error(requests::admin_error(&error))).await
        }
    }
}

/// The code of the error that says that a client has gone away.
const GONE: &str = "CONTROL_GONE";

async fn next_line(
    read: &mut OwnedReadHalf,
    lines: &mut LineBuffer,
) -> std::result::Result<Option<Vec<u8>>, AdminError> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(line) = lines.next_line()? {
            return Ok(Some(line));
        }
        // An idle client may stay, one in the middle of a line may not.
        let reading = read.read(&mut buffer);
        let got = if lines.pending_bytes() > 0 {
            tokio::time::timeout(budget::ADMIN_REQUEST_DEADLINE, reading)
                .await
                .map_err(|_| AdminError::new("CONTROL_BAD_REQUEST", "the line does not end"))?
        } else {
            reading.await
        };
        match got {
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => lines.push(&buffer[..count]),
        }
    }
}

/// The one who asked.
pub(crate) struct Client {
    ear: Ear,
    who: String,
}

enum Ear {
    /// Hears every line as it is said.
    Socket(OwnedWriteHalf),
    /// Hears the items, all at once at the end.
    Items(Vec<Value>),
}

impl Client {
    fn socket(write: OwnedWriteHalf, who: String) -> Self {
        Self { ear: Ear::Socket(write), who }
    }

    /// One who wants no lines: of what is said before the end it keeps the items, up to
    /// [`budget::HTTP_ITEMS_MAX`].
    pub(crate) fn gathering(who: String) -> Self {
        Self { ear: Ear::Items(Vec::new()), who }
    }

    /// The items that were kept.
    pub(crate) fn into_items(self) -> Vec<Value> {
        match self.ear {
            Ear::Socket(_) => Vec::new(),
            Ear::Items(items) => items,
        }
    }

    /// Who it is, for people: the user of a socket, as the kernel says, or the name of a token.
    pub(crate) fn who(&self) -> String {
        self.who.clone()
    }

    /// Writes one line.
    pub(crate) async fn say(&mut self, answer: &Answer) -> Result<()> {
        let write = match &mut self.ear {
            Ear::Socket(write) => write,
            Ear::Items(items) => {
                if let Answer::Item(item) = answer
                    && items.len() < budget::HTTP_ITEMS_MAX
                {
                    items.push(item.clone());
                }
                return Ok(());
            }
        };
        let line = match encode_line(answer) {
            Ok(line) => line,
            Err(error) => return Err(Error::Control { what: error.to_string() }),
        };
        let writing = write.write_all(&line);
        match tokio::time::timeout(budget::ADMIN_REQUEST_DEADLINE, writing).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::ClientGone),
        }
    }
}
