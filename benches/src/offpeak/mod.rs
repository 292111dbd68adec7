//! The off-peak question: an image changes on a Tuesday at noon; when is each of ten branches up
//! to date, if links are slow by day and fast by night?
//!
//! Computed from what was measured (bytes of an update, seconds of local work) and a calendar,
//! under models that are simple enough to be checked by hand: a link carries exactly its rate,
//! all of it for the update, from the moment of the change on; nothing is sent twice. Local work
//! overlaps with sending, so a branch is up to date when the bytes are through, but not before
//! the local work could have been done. `scaled` plays a calendar on a real link.

mod calendar;
mod scaled;

use anyhow::Context;
use jiff::SignedDuration;
use jiff::civil::{DateTime, date};

pub(crate) use calendar::{Calendar, finish};
pub(crate) use scaled::{Play, Played};

use crate::report::Series;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) start: DateTime,
    pub(crate) image_bytes: u64,
    pub(crate) branches: u32,
    pub(crate) calendar: Calendar,
}

impl Question {
    /// A 64 GiB image on Tuesday noon, ten branches, 5 Mbit/s by day, 100 Mbit/s by night.
    pub(crate) fn tuesday_noon() -> Question {
        Question {
            // A Tuesday; which one doesn't matter.
            start: date(2026, 6, 2).at(12, 0, 0, 0),
            image_bytes: 64 << 30,
            branches: 10,
            calendar: Calendar::off_peak(),
        }
    }
}

/// What a tool sends to one branch, and what it does apart from that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Demand {
    pub(crate) tool: String,
    /// Both ways together, or why that isn't known.
    pub(crate) bytes: Result<u64, String>,
    /// Wall time of an update when the link is no limit; none where that wasn't measured, and then
    /// it counts as nothing.
    pub(crate) local_seconds: Option<f64>,
}

impl Demand {
    /// From an update of a smaller image, as it was measured: bytes and seconds grow with the
    /// image, as they do when the same share of it has changed.
    pub(crate) fn measured(
        tool: &str,
        (bytes, seconds): (u64, Option<f64>),
        measured_image_bytes: u64,
        image_bytes: u64,
    ) -> Demand {
        let grown = u128::from(bytes) * u128::from(image_bytes);
        let bytes = u64::try_from(grown / u128::from(measured_image_bytes.max(1)));
        let times = image_bytes as f64 / measured_image_bytes.max(1) as f64;
        Demand {
            tool: tool.to_owned(),
            bytes: bytes.map_err(|_| "more bytes than can be counted".to_owned()),
            local_seconds: seconds.map(|seconds| seconds * times),
        }
    }

    /// A tool of which there is no figure.
    pub(crate) fn unknown(tool: &str, why: &str) -> Demand {
        Demand { tool: tool.to_owned(), bytes: Err(why.to_owned()), local_seconds: None }
    }
}

/// Who has which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Each branch has a link of its own with the calendar; the hub is no limit.
    OwnLinks,
    /// The hub's one uplink has the calendar, and all branches get an equal share of it at once.
    SharedUplink,
    /// The hub's one uplink has the calendar, and serves one branch after the other.
    UplinkInTurn,
}

impl Serving {
    /// What the link has carried when the n-th branch (from 1) has everything.
    fn bytes_before(self, number: u32, branches: u32, bytes: u64) -> u64 {
        bytes.saturating_mul(match self {
            Serving::OwnLinks => 1,
            // Equal shares of equal amounts: all are done at the same moment.
            Serving::SharedUplink => u64::from(branches),
            Serving::UplinkInTurn => u64::from(number),
        })
    }
}

/// When each branch is up to date, in order; none for never, or the reason why nobody knows.
pub(crate) fn up_to_date(
    question: &Question,
    demand: &Demand,
    serving: Serving,
) -> Result<Vec<Option<DateTime>>, String> {
    let Question { start, branches, calendar, .. } = question;
    let bytes = demand.bytes.clone()?;
    let local = SignedDuration::try_from_secs_f64(demand.local_seconds.unwrap_or_default());
    let local = local.map_err(|error| error.to_string())?;
    let floor = start.checked_add(local).map_err(|error| error.to_string())?;
    let one = |number| {
        let through = finish(*start, serving.bytes_before(number, *branches, bytes), calendar)?;
        Some(through.max(floor))
    };
    Ok((1..=*branches).map(one).collect())
}

/// The answer in Markdown: a table of all, and one of each branch where they differ.
pub(crate) fn table(question: &Question, demands: &[Demand]) -> String {
    let mut text = String::from(
        "| tool | bytes to each branch | local work | own links: all branches | \
         shared uplink: all branches | uplink in turn: first, last branch |\n\
         |---|---:|---:|---|---|---|\n",
    );
    for demand in demands {
        let bytes = match &demand.bytes {
            Ok(bytes) => format!("{:.3} GB", *bytes as f64 / 1e9),
            Err(why) => {
                text.push_str(&format!("| {} | {why} | | | | |\n", demand.tool));
                continue;
            }
        };
        let cell = |serving, ends: &[usize]| match up_to_date(question, demand, serving) {
            Ok(times) => {
                let shown = ends.iter().filter_map(|end| times.get(*end));
                shown.map(|time| moment(question.start, *time)).collect::<Vec<_>>().join(", ")
            }
            Err(why) => why,
        };
        let last = (question.branches as usize).saturating_sub(1);
        text.push_str(&format!(
            "| {} | {bytes} | {} | {} | {} | {} |\n",
            demand.tool,
            demand.local_seconds.map_or_else(|| "not measured".to_owned(), elapsed),
            cell(Serving::OwnLinks, &[last]),
            cell(Serving::SharedUplink, &[last]),
            cell(Serving::UplinkInTurn, &[0, last]),
        ));
    }
    text.push_str(&each_branch(question, demands));
    text
}

/// When each of the branches is up to date if the uplink serves one after the other; in the other
/// models all are at the same moment.
fn each_branch(question: &Question, demands: &[Demand]) -> String {
    let numbers: Vec<String> = (1..=question.branches).map(|number| number.to_string()).collect();
    let mut text =
        format!("\nUplink in turn, each branch:\n\n| tool | {} |\n|---|", numbers.join(" | "));
    text.push_str(&"---|".repeat(numbers.len()));
    text.push('\n');
    for demand in demands {
        let Ok(times) = up_to_date(question, demand, Serving::UplinkInTurn) else { continue };
        let times: Vec<String> = times.into_iter().map(weekday).collect();
        text.push_str(&format!("| {} | {} |\n", demand.tool, times.join(" | ")));
    }
    text
}

/// Hours since the change, and percent of the branches that are up to date by then: a line a tool
/// for `report::lines`. Tools without a figure have none.
pub(crate) fn lines(question: &Question, demands: &[Demand], serving: Serving) -> Vec<Series> {
    let known: Vec<(&str, Vec<f64>)> = demands
        .iter()
        .filter_map(|demand| {
            let times = up_to_date(question, demand, serving).ok()?;
            let hours = |time: DateTime| seconds_between(question.start, time) / 3600.0;
            Some((demand.tool.as_str(), times.into_iter().flatten().map(hours).collect()))
        })
        .collect();
    let last = known.iter().flat_map(|(_, hours)| hours).fold(1.0, |a: f64, b| a.max(*b));
    let end = last * 1.05;
    known
        .into_iter()
        .map(|(tool, hours)| {
            let mut points = vec![(0.0, 0.0)];
            for (done, hour) in hours.iter().enumerate() {
                let percent = |count: usize| 100.0 * count as f64 / f64::from(question.branches);
                points.extend([(*hour, percent(done)), (*hour, percent(done + 1))]);
            }
            let (_, percent) = points.last().copied().unwrap_or_default();
            points.push((end, percent));
            Series { label: tool.to_owned(), points }
        })
        .collect()
}

/// A time of the week with the time since the change.
fn moment(start: DateTime, time: Option<DateTime>) -> String {
    let since = time.map(|time| format!(" ({})", elapsed(seconds_between(start, time))));
    weekday(time) + &since.unwrap_or_default()
}

/// A time of the week.
fn weekday(time: Option<DateTime>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.strftime("%a %H:%M").to_string())
}

fn elapsed(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round();
    match minutes {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if minutes < 120.0 => format!("{minutes:.0} min"),
        _ => format!("{} h {:02} min", (minutes / 60.0).floor(), minutes % 60.0),
    }
}

fn seconds_between(start: DateTime, end: DateTime) -> f64 {
    end.duration_since(start).as_secs_f64()
}

/// Plays a full copy of the question's image, the job that crosses from day into night, on `link`.
/// At most half a minute of wall time for the usual question.
pub(crate) fn check(
    question: &Question,
    link: &crate::link::Link,
    mtu: u32,
) -> anyhow::Result<Played> {
    let end = finish(question.start, question.image_bytes, &question.calendar);
    let end = end.context("a full copy never ends with this calendar")?;
    let scale = scaled::scale_for(seconds_between(question.start, end));
    let Question { start, image_bytes, calendar, .. } = question;
    Play { start: *start, bytes: *image_bytes, calendar, scale, streams: 1 }.on(link, mtu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(bytes: u64, local_seconds: f64) -> Demand {
        Demand { tool: "x".to_owned(), bytes: Ok(bytes), local_seconds: Some(local_seconds) }
    }

    #[test]
    fn ten_branches_by_each_model() {
        let question = Question::tuesday_noon();
        // 625 MB are 1000 s by day.
        let update = demand(625_000_000, 0.0);
        let noon = question.start;
        let after = |seconds| Some(noon + SignedDuration::from_secs(seconds));
        let own = up_to_date(&question, &update, Serving::OwnLinks).unwrap();
        assert_eq!(own, vec![after(1000); 10]);
        let shared = up_to_date(&question, &update, Serving::SharedUplink).unwrap();
        assert_eq!(shared, vec![after(10_000); 10]);
        let turn = up_to_date(&question, &update, Serving::UplinkInTurn).unwrap();
        assert_eq!((turn[0], turn[4], turn[9]), (after(1000), after(5000), after(10_000)));
    }

    #[test]
    fn local_work_is_a_floor() {
        let question = Question::tuesday_noon();
        let at = |bytes, local| {
            up_to_date(&question, &demand(bytes, local), Serving::OwnLinks).unwrap()[0]
        };
        let after = |seconds| Some(question.start + SignedDuration::from_secs(seconds));
        assert_eq!(at(625_000, 300.0), after(300));
        assert_eq!(at(625_000 * 400, 300.0), after(400));
    }

    #[test]
    fn demands_of_another_size() {
        let grown = Demand::measured("x", (3_000, Some(2.0)), 3 << 30, 64 << 30);
        assert_eq!(grown.bytes, Ok(64_000));
        assert!((grown.local_seconds.unwrap() - 128.0 / 3.0).abs() < 1e-9);
        // Without it a branch is up to date as soon as the bytes are through.
        let bare = Demand::measured("x", (625_000, None), 1 << 30, 1 << 30);
        let question = Question::tuesday_noon();
        let first = up_to_date(&question, &bare, Serving::OwnLinks).unwrap()[0];
        assert_eq!(first, Some(question.start + SignedDuration::from_secs(1)));
        assert!(table(&question, &[bare]).contains("| x | 0.001 GB | not measured | "));
    }

    #[test]
    fn the_table_says_when_and_why_not() {
        let question = Question::tuesday_noon();
        let demands = [demand(64 << 30, 60.0), Demand::unknown("bita", "not installed")];
        let text = table(&question, &demands);
        // 687 194 767 360 bytes: 13.5 GB, 585 GB by 07:00, 24.75 GB by 18:00, the rest in 5115.6 s.
        let full = "| x | 68.719 GB | 60 s | Tue 19:13 (7 h 14 min) | Wed 19:25 (31 h 25 min) | \
                    Tue 19:13 (7 h 14 min), Wed 19:25 (31 h 25 min) |";
        assert!(text.contains(full), "{text}");
        assert!(text.contains("| bita | not installed | | | | |"), "{text}");
        // Each of the ten: the bytes of a night are 585 GB, 8.5 such images.
        assert!(text.contains("| tool | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |"), "{text}");
        let each = "| x | Tue 19:13 | Tue 20:45 | Tue 22:16 | Tue 23:48 | Wed 01:20 | Wed 02:51 | \
                    Wed 04:23 | Wed 05:55 | Wed 15:52 | Wed 19:25 |";
        assert!(text.contains(each), "{text}");
    }

    #[test]
    fn lines_step_at_each_branch() {
        let question = Question { branches: 2, ..Question::tuesday_noon() };
        let demands = [demand(625_000 * 3600, 0.0), Demand::unknown("y", "none")];
        let lines = lines(&question, &demands, Serving::UplinkInTurn);
        let points = [(0.0, 0.0), (1.0, 0.0), (1.0, 50.0), (2.0, 50.0), (2.0, 100.0)];
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].points[..5], points);
        assert_eq!(lines[0].points[5], (2.1, 100.0));
    }
}
