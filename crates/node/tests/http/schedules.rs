//! Schedules changed over HTTP: tags, scopes, and a file that can't be written. The file is one that
//! the test makes up; what the real one looks like only the binary knows.

use std::sync::{Arc, Mutex};

use blockferry_node::api::{RateText, ScheduleEdit};
use blockferry_node::config::{Config, ConfigFile};
use blockferry_node::rate::calendar::{Calendar, Grid, Rate};
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
        let rate = |text: &RateText| match text.0.as_str() {
            "pause" => Rate::Pause,
            "5 Mbit/s" => Rate::Limited(5_000_000),
            _ => Rate::Unlimited,
        };
        calendar.default = edit.default.as_ref().map_or(calendar.default, rate);
        if let Some(rows) = &edit.grid {
            let mut grid = Grid::all(None);
            for (row, cells) in rows.iter().zip(&mut grid.cells) {
                row.iter().zip(cells).for_each(|(said, cell)| *cell = said.as_ref().map(rate));
            }
            calendar.rules = calendar.painted(&grid);
        }
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

/// What a browser without JavaScript would send for a screen, with some fields changed.
fn form(body: &str, changed: &[(&str, &str)]) -> String {
    let mut fields = Vec::new();
    let (_, week) = body.split_once("id=\"week\"").expect("a form");
    let (week, _) = week.split_once("</form>").expect("its end");
    for input in week.split("<input").skip(1) {
        let (input, _) = input.split_once('>').expect("its end");
        let of = |name: &str| {
            let (_, rest) = input.split_once(&format!(" {name}=\""))?;
            rest.split('"').next()
        };
        let name = of("name").expect("a name");
        let new = changed.iter().find(|(of, _)| *of == name).map(|(_, value)| *value);
        let value = new.or_else(|| of("value")).unwrap_or_default();
        fields.push(format!("{name}={}", value.replace(' ', "+").replace('/', "%2F")));
    }
    assert_eq!(fields.len(), 7 * 24 + 9 + 2, "{fields:?}");
    fields.join("&")
}

#[test]
fn a_week_is_painted_by_a_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = served_by(dir.path(), with_file);
    let page = |path: &str| {
        let reply = served.ask(Ask::get(path));
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.body
    };
    let list = page("/schedules");
    for said in
        ["href=\"/schedules/night\"", ">UTC</span>", "5 Mbit/s", "aria-current=\"page\">Sched"]
    {
        assert!(list.contains(said), "{said}: {list}");
    }
    let shown = page("/schedules/night");
    assert!(shown.contains("In force: <strong>5 Mbit/s</strong> (default), for good"), "{shown}");
    assert!(
        shown.contains("aria-label=\"Monday 18:00") && shown.contains("id=\"save\""),
        "{shown}"
    );
    // 1 is 5 Mbit/s, 2 pause and 3 unlimited: Tuesdays from 2 to 4 it pauses.
    let sent = form(&shown, &[("c102", "2"), ("c103", "2")]);
    let post = |body: &str| {
        let ask = Ask::new("POST", "/schedules/night").header("Origin", "http://localhost:7780");
        ask.form(body)
    };
    let saved = served.ask(post(&sent));
    assert_eq!(saved.status, 303, "{saved:?}");
    assert_eq!(saved.header("location"), Some("/schedules/night?done=scheduled"));
    assert!(page("/schedules/night?done=scheduled").contains("Saved in the configuration file"));
    let rules = &served.ask(Ask::get("/api/v1/schedules/night")).json()["schedules"][0]["rules"];
    let rule = json!({ "days": "Tue", "from": "02:00", "to": "04:00", "rate": "pause" });
    assert_eq!(rules, &json!([rule]));
    // The same form again is based on what is no more; others may not send it at all.
    let again = served.ask(post(&sent));
    assert!(again.status == 412 && again.body.contains("CONFIG_CHANGED"), "{again:?}");
    let missing = served.ask(post("tag=one&c000=1"));
    assert!(missing.status == 400 && missing.body.contains("Monday 00:00"), "{missing:?}");
    let read = post(&sent).token(Some(&served.operate)).at(served.at);
    assert_eq!(read.status, 403, "{read:?}");
    let shown = Ask::get("/schedules/night").token(Some(&served.read)).at(served.at).body;
    assert!(!shown.contains("id=\"save\"") && shown.contains("data-still"), "{shown}");
    assert_eq!(served.ask(Ask::get("/schedules/day")).status, 404);
    // The history of nothing.
    assert!(page("/history").contains("No generation is recorded yet."));
    assert_eq!(served.ask(Ask::get("/history/a/b")).status, 404);
}
