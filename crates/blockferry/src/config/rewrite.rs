//! Rewrite: a schedule is changed in the file that it is written in.
//!
//! In this order: the files must be those that the change is based on; the new text is made (`edit`)
//! and read as `config check` would read it, with everything else around it; it must mean what was asked
//! for and nothing else; then it takes the file's place at once (a temporary file, fsync, rename, fsync
//! of the directory) with the mode and owner of the file before. What fails on the way leaves the file
//! as it was.

use super::edit::{self, Change};
use super::file::RuleSection;
use super::layers::{self, Layers, Texts};
use super::settings::{Settings, Shown, key};
use super::values::ScheduleRate;
use super::{Location, Place};
use blockferry_node::Error;
use blockferry_node::api::{RateText, ScheduleEdit, ScheduleRule};
use blockferry_node::rate::calendar::{
    Calendar, Civil, Clock, DATES_MAX, DAYS_PER_WEEK, Grid, HOURS_PER_DAY, RULES_MAX, Rate, Rule,
    When,
};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

impl Location {
    /// Changes a schedule, if the files still are what `tag` names.
    pub(crate) fn set_schedule(
        &self,
        name: &str,
        edit: &ScheduleEdit,
        tag: &str,
    ) -> Result<(), Error> {
        let layers = self.layers();
        if layers.tag() != tag {
            return Err(Error::ConfigChanged { path: self.file.clone() });
        }
        let home = home(&layers, name)?;
        let text = layers.texts.get(&home).cloned().unwrap_or_default();
        let before = settings(&self.file, layers)?;
        let unknown = || Error::ScheduleUnknown { name: name.to_owned() };
        let calendar = before.schedules.get(name).ok_or_else(unknown)?;
        let wanted = changed(calendar, edit)?;
        if wanted == **calendar {
            return Ok(());
        }
        let default = (wanted.default != calendar.default).then_some(wanted.default);
        let (old, new) = (&calendar.rules, &wanted.rules);
        let by_hand = |what: String| Error::ConfigReadOnly { path: home.clone(), what };
        let after = edit::rewritten(&text, &Change { name, default, old, new }).map_err(by_hand)?;
        self.check_instead(name, &before, &wanted, (&home, &after))?;
        replace(&home, &text, &after)
    }

    /// Whether this process may put another file into the place of the file.
    pub(crate) fn is_writable(&self) -> bool {
        let Ok(real) = fs::canonicalize(&self.file) else { return false };
        let may = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        let ours = fs::metadata(&real).is_ok_and(|meta| {
            let us = rustix::process::geteuid();
            us.is_root() || meta.uid() == us.as_raw()
        });
        ours && real.parent().is_some_and(may)
    }

    /// Reads everything with the new text in its place: it is good, the schedule is what was wanted,
    /// and nothing else has changed.
    fn check_instead(
        &self,
        name: &str,
        before: &Settings,
        wanted: &Calendar,
        (home, text): (&Path, &str),
    ) -> Result<(), Error> {
        let instead = Texts::from([(home.to_owned(), text.to_owned())]);
        let environment = layers::environment();
        let layers = Layers::load_with(&self.file, self.required, &environment, instead);
        let after = settings(&self.file, layers)?;
        let is_wanted = |calendar: &Arc<Calendar>| plain(calendar) == plain(wanted);
        if !after.schedules.get(name).is_some_and(is_wanted) {
            let what = format!("schedules.{name} is written in several places");
            return Err(Error::ConfigReadOnly { path: home.to_owned(), what });
        }
        let others = |settings: &Settings| -> Vec<(String, toml::Value)> {
            let own = ["default", "rule"].map(|last| section_key(name, last));
            let others = settings.shown.iter().filter(|shown| !own.contains(&shown.key));
            others.map(|Shown { key, value, .. }| (key.clone(), value.clone())).collect()
        };
        if others(before) != others(&after) {
            let what = "the change would touch something else".to_owned();
            return Err(Error::ConfigReadOnly { path: home.to_owned(), what });
        }
        Ok(())
    }
}

/// A calendar whose rules say in one way what can be said in two: 24:00 as an end is 00:00.
fn plain(calendar: &Calendar) -> Calendar {
    let mut plain = calendar.clone();
    for rule in &mut plain.rules {
        if let When::Often { to, .. } = &mut rule.when
            && to.seconds() == Civil::DAY
        {
            *to = Clock::MIDNIGHT;
        }
    }
    plain
}

fn section_key(name: &str, last: &str) -> String {
    super::known::dotted(&key(&["schedules", name, last]))
}

/// What the files mean, if they are good.
fn settings(file: &Path, layers: Layers) -> Result<Settings, Error> {
    let (settings, findings) = Settings::from_layers(file, layers);
    match (settings, findings.first()) {
        (Some(settings), None) => Ok(settings),
        (_, Some(first)) => Err(Error::Config { what: first.to_string() }),
        (None, None) => Err(Error::Config { what: "it can't be used".to_owned() }),
    }
}

/// The file that a schedule is written in: its rules, or if it has none its zone.
fn home(layers: &Layers, name: &str) -> Result<PathBuf, Error> {
    let leaf = |last: &str| layers.leaves.get(&key(&["schedules", name, last]));
    match leaf("rule").or_else(|| leaf("zone")).map(|leaf| &leaf.place) {
        Some(Place::File { path, .. }) => Ok(path.clone()),
        Some(place) => {
            let what = format!("schedules.{name} is not in a file but in {place}");
            Err(Error::ConfigReadOnly { path: "the configuration".into(), what })
        }
        None => Err(Error::ScheduleUnknown { name: name.to_owned() }),
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::Control { what: what.into() }
}

/// The calendar as it shall be.
fn changed(calendar: &Calendar, edit: &ScheduleEdit) -> Result<Calendar, Error> {
    let mut wanted = calendar.clone();
    if let Some(text) = &edit.default {
        wanted.default = rate(text).map_err(|what| bad(format!("default: {what}")))?;
    }
    match (&edit.grid, &edit.rules) {
        (Some(_), Some(_)) => return Err(bad("a grid or rules, not both")),
        (Some(rows), None) => wanted.rules = wanted.painted(&grid(rows)?),
        (None, Some(list)) => {
            let numbered = (1..).zip(list);
            let rules = numbered.map(|(number, said)| {
                rule(said).map_err(|what| bad(format!("rule {number}: {what}")))
            });
            wanted.rules = rules.collect::<Result<_, _>>()?;
        }
        (None, None) => {}
    }
    if wanted.rules.len() > RULES_MAX {
        return Err(bad(format!("{} rules; at most {RULES_MAX}", wanted.rules.len())));
    }
    Ok(wanted)
}

fn rate(text: &RateText) -> Result<Rate, String> {
    ScheduleRate::from_str(&text.0).map(|ScheduleRate(rate)| rate)
}

fn grid(rows: &[Vec<Option<RateText>>]) -> Result<Grid, Error> {
    if rows.len() != DAYS_PER_WEEK || rows.iter().any(|row| row.len() != HOURS_PER_DAY) {
        return Err(bad("a grid has 7 days of 24 hours, Monday first"));
    }
    let mut grid = Grid::all(None);
    for (row, cells) in rows.iter().zip(&mut grid.cells) {
        for ((hour, said), cell) in (0..).zip(row).zip(cells) {
            let told = said.as_ref().map(rate).transpose();
            *cell = told.map_err(|what| bad(format!("grid, {hour:02}:00: {what}")))?;
        }
    }
    Ok(grid)
}

/// A rule by the very words of the configuration.
fn rule(said: &ScheduleRule) -> Result<Rule, String> {
    fn parsed<T: FromStr<Err = String>>(text: Option<&String>) -> Result<Option<T>, String> {
        text.map(|text| text.parse()).transpose()
    }
    fn list<T: FromStr<Err = String>>(
        texts: Option<&Vec<String>>,
    ) -> Result<Option<Vec<T>>, String> {
        let many = texts.map_or(0, Vec::len);
        if many > DATES_MAX {
            return Err(format!("{many} dates; at most {DATES_MAX}, make it two rules"));
        }
        texts.map(|texts| texts.iter().map(|text| text.parse()).collect()).transpose()
    }
    let section = RuleSection {
        days: parsed(said.days.as_ref())?,
        dates: list(said.dates.as_ref())?,
        from: parsed(said.from.as_ref())?,
        to: parsed(said.to.as_ref())?,
        once: list(said.once.as_ref())?,
        rate: Some(said.rate.0.parse()?),
        polite: said.polite,
    };
    super::schedules::rule(section).ok_or_else(|| "once beside days, dates, from or to".to_owned())
}

/// Puts another text into the place of a file, at once or not at all.
fn replace(path: &Path, before: &str, after: &str) -> Result<(), Error> {
    let failed = |op: &'static str| {
        let path = path.to_owned();
        move |source: io::Error| match source.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            // A file that is mounted on its own can be written, but not replaced.
            | ErrorKind::ResourceBusy => {
                Error::ConfigReadOnly { path, what: format!("{op}: {source}") }
            }
            _ => Error::Io { op, path, source },
        }
    };
    // Not in the place of a link, but of what it leads to.
    let real = fs::canonicalize(path).map_err(failed("open"))?;
    let meta = fs::metadata(&real).map_err(failed("open"))?;
    let directory = real.parent().unwrap_or(Path::new("/"));
    let new = tempfile::Builder::new().prefix(".blockferry-").suffix(".new").tempfile_in(directory);
    let mut new = new.map_err(failed("write beside"))?;
    let written = new.write_all(after.as_bytes());
    written.map_err(failed("write beside"))?;
    let ours = new.as_file().metadata().map_err(failed("write beside"))?;
    if (ours.uid(), ours.gid()) != (meta.uid(), meta.gid()) {
        let given = fchown(new.as_file(), Some(meta.uid()), Some(meta.gid()));
        given.map_err(failed("give to its owner what replaces"))?;
    }
    let mode = Permissions::from_mode(meta.mode() & 0o7777);
    new.as_file().set_permissions(mode).map_err(failed("write beside"))?;
    new.as_file().sync_all().map_err(failed("write beside"))?;
    // An editor may have been quicker.
    if layers::read(&real).is_ok_and(|now| now != before) {
        return Err(Error::ConfigChanged { path: path.to_owned() });
    }
    new.persist(&real).map_err(|error| failed("replace")(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync"))
}

#[cfg(test)]
mod tests;
