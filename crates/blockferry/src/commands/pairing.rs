//! `invite` and `join`: how two nodes meet.

use super::{App, nothing_between};
use crate::args::{InviteArgs, JoinArgs};
use crate::failure::{Failure, on_path};
use crate::output::word;
use blockferry_node::api::{Exit, Invitation, Joined, Request};

/// The ticket alone is on stdout, so that it can be piped to the other node.
pub(crate) fn invite(app: &App, args: InviteArgs) -> Result<Exit, Failure> {
    let request = Request::Invite {
        store: args.store,
        role: args.role.into(),
        ttl_seconds: args.ttl.seconds(),
    };
    let invitation: Invitation = app.ask(&request)?;
    app.out.either(&invitation, || invitation.ticket.clone())?;
    if !app.out.json {
        app.out.prose(&format!(
            "good for one node as {} of {} until {}; on that node: blockferry join TICKET",
            word(&invitation.role),
            invitation.store,
            invitation.expires
        ));
    }
    Ok(Exit::Done)
}

pub(crate) fn join(app: &App, args: JoinArgs) -> Result<Exit, Failure> {
    // The service's working directory is not ours.
    let path = match &args.path {
        Some(path) => {
            Some(std::path::absolute(path).map_err(|error| on_path("resolve", path, &error))?)
        }
        None => None,
    };
    let request = Request::Join { ticket: args.ticket, path, name: args.name };
    let joined: Joined = app.job(&request, nothing_between)?;
    app.out.either(&joined, || {
        format!(
            "joined {} as {} at {}; paired with {} ({})",
            joined.store,
            word(&joined.role),
            joined.path,
            joined.peer,
            joined.peer_id
        )
    })?;
    Ok(Exit::Done)
}
