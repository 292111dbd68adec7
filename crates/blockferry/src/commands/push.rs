//! `push`: offer an image now, and with `--wait` see it arrive.

use super::{App, read};
use crate::args::PushArgs;
use crate::failure::Failure;
use crate::output::{count, seconds, size, word};
use blockferry_node::api::{Answer, Exit, PushDone, PushPeer, Request};

pub(crate) fn run(app: &App, args: PushArgs) -> Result<Exit, Failure> {
    let wait = args.wait;
    let request = Request::Push {
        image: args.image,
        peers: args.peers,
        lane: args.lane.map(Into::into),
        wait,
    };
    let done: PushDone = app.job(&request, |out, answer| match answer {
        Answer::Item(object) => {
            let peer: PushPeer = read(object)?;
            out.item(&peer, || line(&peer))
        }
        _ => Ok(()),
    })?;
    app.out.summary(&done, || text(&done))?;
    Ok(if wait && !done.in_sync { Exit::Partly } else { Exit::Done })
}

fn line(peer: &PushPeer) -> String {
    let reason = peer.reason.map_or_else(String::new, |reason| format!(", {}", word(&reason)));
    format!("  {}: {}{reason}, {} on the wire", peer.peer, word(&peer.state), size(peer.wire_bytes))
}

fn text(done: &PushDone) -> String {
    let what = format!("{}@{}", done.image, done.generation);
    let peers = u64::try_from(done.peers.len()).unwrap_or(u64::MAX);
    let peers = count(peers, "peer");
    if done.in_sync {
        return format!("{what} is verified on {peers} after {}", seconds(done.seconds));
    }
    format!("{what} is offered to {peers} (blockferry backlog)")
}
