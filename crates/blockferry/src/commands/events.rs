//! `events`: what happened, and with `--follow` what happens.

use super::App;
use crate::config::Period;
use crate::failure::Failure;
use crate::output::word;
use blockferry_node::api::{Answer, Event, EventsDone, Exit, Request, Schema};
use serde_json::json;

pub(crate) fn run(app: &App, follow: bool, since: Option<Period>) -> Result<Exit, Failure> {
    let request = Request::Events { follow, since_seconds: since.map(Period::seconds) };
    let done: EventsDone = app.job(&request, |out, answer| match answer {
        Answer::Event(event) => {
            out.either(&json!({ "schema": Schema, "event": event }), || match &event.remedy {
                Some(remedy) if out.verbose > 0 => format!("{}\n  help: {remedy}", line(&event)),
                _ => line(&event),
            })
        }
        _ => Ok(()),
    })?;
    if app.out.json {
        app.out.summary(&done, String::new)?;
    } else if done.events == 0 {
        app.out.prose("no events");
    }
    Ok(Exit::Done)
}

fn line(event: &Event) -> String {
    let mut line = format!("{} {:7} {}", event.time, word(&event.severity), event.code);
    let image = match (&event.store, &event.image) {
        (Some(store), Some(image)) => Some(format!("{store}/{image}")),
        (Some(store), None) => Some(store.clone()),
        (None, image) => image.clone(),
    };
    for part in [image, event.peer.clone()].into_iter().flatten() {
        line.push(' ');
        line.push_str(&part);
    }
    format!("{line}: {}", event.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockferry_node::api::Severity;

    #[test]
    fn event_is_one_line() {
        let event = Event {
            number: 1,
            time: "2026-01-02T03:04:05Z".into(),
            code: "PEER_UP".into(),
            severity: Severity::Info,
            message: "connected".into(),
            store: Some("vdisks".into()),
            image: Some("a.raw".into()),
            peer: Some("b".into()),
            remedy: None,
        };
        assert_eq!(line(&event), "2026-01-02T03:04:05Z info    PEER_UP vdisks/a.raw b: connected");
    }
}
