//! The lines a service answers with.
//!
//! `progress`, `event` and `item` lines may come in any number; `done` or `error` comes last, once.
//! A client ignores kinds of line it doesn't know only if they are not the last.

use super::codes::AdminError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How far a job is. May be dropped by a slow client; the last state counts.
    Progress(Progress),
    /// Something that happened.
    Event(Event),
    /// One result of several.
    Item(Value),
    /// The end: the object of the command.
    Done(Value),
    /// The end: it failed.
    Error(AdminError),
}

impl Answer {
    /// The last line of an answer that went well.
    #[must_use]
    pub fn done<T: Serialize>(object: &T) -> Answer {
        serde_json::to_value(object).map_or_else(unserialisable, Answer::Done)
    }

    /// One result of several.
    #[must_use]
    pub fn item<T: Serialize>(object: &T) -> Answer {
        serde_json::to_value(object).map_or_else(unserialisable, Answer::Item)
    }

    /// No further line follows this one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Answer::Done(_) | Answer::Error(_))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_or_else asks for")]
fn unserialisable(error: serde_json::Error) -> Answer {
    Answer::Error(AdminError::new("INTERNAL", format!("an answer is not JSON: {error}")))
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Progress {
    /// What is being done: `scan`, `send`, `receive`, `verify`, `wait`.
    pub phase: String,
    /// Which image, `STORE/NAME`, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// With which peer, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Bytes of the image dealt with.
    pub done_bytes: u64,
    /// Bytes of the image in all; 0 when not known yet.
    pub total_bytes: u64,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Somebody must act.
    Error,
}

/// Something that happened in the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Ascending number, never used twice on a node.
    pub number: u64,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Stable code, `SCREAMING_SNAKE`: an error code or one of the plain events.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in words.
    pub message: String,
    /// Which store, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Which image (name only), if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Which peer, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What to do, unless it is as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tagged_by_their_kind() {
        let progress = Progress { phase: "scan".into(), total_bytes: 7, ..Progress::default() };
        let text = serde_json::to_string(&Answer::Progress(progress)).unwrap();
        assert_eq!(
            text,
            r#"{"progress":{"phase":"scan","done_bytes":0,"total_bytes":7,"wire_bytes":0}}"#
        );
        let error = Answer::Error(AdminError::new("DISK_FULL", "3 bytes missing"));
        let text = serde_json::to_string(&error).unwrap();
        assert!(text.starts_with(r#"{"error":{"code":"DISK_FULL","message":"3 bytes missing","#));
        assert!(text.ends_with(r#""exit":13}}"#), "{text}");
    }

    #[test]
    fn only_done_and_error_are_last() {
        assert!(Answer::done(&1).is_last());
        assert!(Answer::Error(AdminError::new("IO", "x")).is_last());
        assert!(!Answer::item(&1).is_last());
        assert!(!Answer::Progress(Progress::default()).is_last());
    }
}
