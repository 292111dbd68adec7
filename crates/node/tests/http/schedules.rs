//! Schedules changed over HTTP: tags, scopes, and a file that can't be written. The file is one that
//! the test makes up; what the real one looks like only the binary knows.

use std::sync::{Arc, Mutex};

use blockferry_node::api::ScheduleEdit;
use blockferry_node::calendar::{Calendar, Rate};
use blockferry_node::config::{Config, ConfigFile};
use blockferry_node::{Error, Result};
use serde_json::json;

use crate::client::{Ask, Reply};
use crate::running::until;
use crate::served::{Served, plain, served_by};

/// A file that holds a configuration as it is.
#[derive(Debug)]
struct Fake {
    config: Mutex<Config>,
    writable: bool,
}

impl ConfigFile for Fake {
    fn load(&self) -> std::result::Result<(Config, Vec<String>), String> {
        Ok((self.config.lock().expect("held").clone(), Vec::new()))
    }

    fn set_schedule(&self, name: &str, edit: &ScheduleEdit, tag: &str) -> Result<()> {
        if !self.writable {
            let what = "it is on a read-only file system".to_owned();
            return Err(Error::ConfigReadOnly { path: "/etc/fake.toml".into(), what });
        }
        let mut config = self.config.lock().expect("held");
        assert_eq!(config.file_tag.as_deref(), Some(tag), "what is in force is what is changed");
        let mut calendar = Calendar::clone(&config.schedules[name]);
        let default = edit.default.as_ref().expect("a default").0.as_str();
        calendar.default = if default == "pause" { Rate::Pause } else { Rate::Unlimited };
        config.schedules.insert(name.to_owned(), Arc::new(calendar));
        config.file_tag = Some(format!("{tag}+"));
        Ok(())
    }

    fn is_writable(&self) -> bool {
        self.writable
    }
}

/// Gives a node a calendar and a file that has it.
pub(crate) fn with_file(config: &mut Config) {
    file(config, true);
}

fn file(config: &mut Config, writable: bool) {
    let night = Arc::new(Calendar::constant(Rate::Limited(5_000_000)));
    config.schedules.insert("night".to_owned(), night);
    config.file_tag = Some("one".to_owned());
    config.file = Some(Arc::new(Fake { config: Mutex::new(config.clone()), writable }));
}

fn put(served: &Served, name: &str, tag: Option<&str>, rate: &str) -> Reply {
    let ask = Ask::new("PUT", &format!("/api/v1/schedules/{name}"));
    let ask = ask.say(&json!({ "default": rate }));
    served.ask(match tag {
        Some(tag) => ask.header("If-Match", tag),
        None => ask,
    })
}

#[test]
fn a_change_names_what_it_is_based_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served_by(dir.path(), with_file);
    let get = || served.ask(Ask::get("/api/v1/schedules/night"));
    let seen = get();
    assert_eq!(seen.header("etag"), Some("\"one\""));
    let row = &seen.json()["schedules"][0];
    assert_eq!((&row["now"]["rate"], &row["zone"]), (&json!("5 Mbit/s"), &json!("UTC")));
    assert_eq!(row["grid"].as_array().map(Vec::len), Some(7));
    assert_eq!(row["grid"][6][23], "5 Mbit/s");
    let refused = put(&served, "night", None, "pause");
    assert_eq!((refused.status, refused.code().as_str()), (428, "CONFIG_TAG"));
    let refused = put(&served, "night", Some("\"two\""), "pause");
    assert_eq!((refused.status, refused.code().as_str()), (412, "CONFIG_CHANGED"));
    assert_eq!(put(&served, "night", Some("one"), "pause").code(), "CONTROL_BAD_REQUEST");
    assert_eq!(put(&served, "day", None, "pause").code(), "SCHEDULE_UNKNOWN");
    assert_eq!(get().json()["schedules"][0]["now"]["rate"], "5 Mbit/s");
    let changed = put(&served, "night", Some("\"one\""), "pause");
    assert_eq!((changed.status, changed.header("etag")), (200, Some("\"one+\"")));
    assert_eq!(changed.json()["schedules"][0]["now"]["rate"], "pause");
    // What was looked at before that is old now; whoever doesn't care says so.
    assert_eq!(put(&served, "night", Some("\"one\""), "unlimited").status, 412);
    let changed = put(&served, "night", Some("*"), "unlimited");
    assert_eq!(changed.header("etag"), Some("\"one++\""));
    until("it is told", || {
        let events = served.ask(Ask::get("/api/v1/events?follow=false")).body;
        events.contains("CONFIG_RELOADED") && events.contains("schedules.night")
    });
    // Nothing but the scope may change it.
    let ask = Ask::new("PUT", "/api/v1/schedules/night").say(&json!({ "default": "pause" }));
    let ask = ask.header("If-Match", "*");
    assert_eq!(ask.clone().token(Some(&served.operate)).at(served.at).code(), "HTTP_SCOPE");
    let seen = Ask::get("/api/v1/schedules").token(Some(&served.read)).at(served.at);
    assert_eq!(seen.json()["schedules"][0]["now"]["rate"], "unlimited");
}

#[test]
fn where_nobody_may_write_the_file_that_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served_by(&dir.path().join("one"), |config| file(config, false));
    assert_eq!(served.ask(Ask::get("/api/v1/schedules")).json()["writable"], false);
    let refused = put(&served, "night", Some("\"one\""), "pause");
    assert_eq!((refused.status, refused.code().as_str()), (403, "CONFIG_READ_ONLY"));
    assert!(refused.body.contains("read-only file system"), "{refused:?}");
    // A node that was started from no file has no tag.
    let (_node, at) = plain(&dir.path().join("two"), |config| {
        file(config, true);
        (config.file, config.file_tag) = (None, None);
    });
    let seen = Ask::get("/api/v1/schedules").at(at);
    assert_eq!((&seen.json()["tag"], seen.header("etag")), (&json!(null), None));
    assert_eq!(seen.json()["writable"], false);
}
