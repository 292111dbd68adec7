//! Admin: JSON lines on a unix socket, one request after the other.
//!
//! The socket has mode 0660; lines, clients and waits are bounded. A client that goes away detaches
//! from its job and doesn't cancel it. What a request means is in `requests`, what is answered is
//! put together in `reports`; this file only speaks.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::api::{AdminError, Answer, LineBuffer, REQUEST_BYTES_MAX, encode_line, parse_request};
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::requests;

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
                tokio::spawn(serve(core.clone(), stream, place));
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
    let _gone = Client { write, uid: None }.say(&Answer::Error(busy)).await;
}

async fn serve(core: Arc<Core>, stream: UnixStream, _place: OwnedSemaphorePermit) {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let (mut read, write) = stream.into_split();
    let mut client = Client { write, uid };
    let mut lines = LineBuffer::new(REQUEST_BYTES_MAX);
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
    write: OwnedWriteHalf,
    /// The user, as the kernel says.
    uid: Option<u32>,
}

impl Client {
    /// Who it is, for people.
    pub(crate) fn who(&self) -> String {
        self.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("uid {uid}"))
    }

    /// Writes one line.
    pub(crate) async fn say(&mut self, answer: &Answer) -> Result<()> {
        let line = match encode_line(answer) {
            Ok(line) => line,
            Err(error) => return Err(Error::Control { what: error.to_string() }),
        };
        let writing = self.write.write_all(&line);
        match tokio::time::timeout(budget::ADMIN_REQUEST_DEADLINE, writing).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::ClientGone),
        }
    }
}
