//! The JSON objects about calendars: what is in force, the week as a grid, and how one is changed.
//!
//! The same contract as in `objects`. Rates, days, times and dates are the texts of the configuration.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{PartialSchema, ToSchema};

use super::objects::Schema;

/// `schedule`: calendars, and what a change of one must name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchedulesReport {
    /// `v1`.
    pub schema: Schema,
    /// Of the configuration that is in force; a change must name it. `null`: it came from no file.
    pub tag: Option<String>,
    /// The service may write the configuration file.
    pub writable: bool,
    /// One row each.
    pub schedules: Vec<ScheduleRow>,
}

/// `config check`: what the file says that the service doesn't run by yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigPending {
    /// `v1`.
    pub schema: Schema,
    /// Which state of the file this is about; `null`: it has none.
    pub tag: Option<String>,
    /// Keys that are in force after a reload.
    pub reload: Vec<String>,
    /// Keys that are read at the start only.
    pub restart: Vec<String>,
}

/// One calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRow {
    /// Its name.
    pub name: String,
    /// Whose clock it goes by: a name of the IANA database.
    pub zone: String,
    /// The instant that `now` is about, RFC 3339.
    pub at: String,
    /// What that clock shows then: `2026-12-24 18:00`.
    pub clock: String,
    /// What is in force.
    pub now: ScheduleState,
    /// Until when, RFC 3339; `null`: for good.
    pub until: Option<String>,
    /// What follows then.
    pub next: Option<ScheduleState>,
    /// The rate where nothing else matches.
    pub default: RateText,
    /// Other traffic goes first, unless a rule says otherwise.
    pub polite: bool,
    /// By when everything should be there each day.
    pub by: Option<String>,
    /// A week of quarter hours in DFS-R's form, beneath the rules.
    pub dfsr: Option<String>,
    /// Seven days, Monday first, of 24 hours: what the first rules come to over what lies beneath.
    /// `null`: no single rate in this hour, as `dfsr` has it.
    #[schema(min_items = 7, max_items = 7)]
    pub grid: Vec<Vec<Option<RateText>>>,
    /// How many rules, from the first on, the grid is made of. Those after them go over it.
    pub grid_rules: u64,
    /// All rules, in order; the last one that matches wins.
    pub rules: Vec<ScheduleRule>,
    /// Who goes by it: `limits`, `stores.NAME`, `peers.NAME`.
    pub used_by: Vec<String>,
}

/// What a calendar says at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleState {
    /// In words.
    pub rate: RateText,
    /// On the wire; 0: pause, `null`: no limit.
    pub rate_limit_bits_per_second: Option<u64>,
    /// Who says so: `rule`, `dfsr` or `default`.
    pub source: String,
    /// Number of the rule, from 1.
    pub rule: Option<u64>,
    /// Other traffic goes first.
    pub polite: bool,
}

/// A rate and when it is in force: on days and dates from a time to a time, or in windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRule {
    /// Days on which it begins, `Mon-Fri`; absent: every day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<String>,
    /// Dates on which it begins, `2026-12-24..2026-12-26`; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dates: Option<Vec<String>>,
    /// When it begins, `18:00`; absent: 00:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When it ends; on the next day if that is not later than `from`; absent: 24:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Windows that come once, `2026-12-24 18:00..2026-12-27 06:00`, instead of all these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Vec<String>>,
    /// The rate.
    pub rate: RateText,
    /// Other traffic goes first; absent: as the schedule has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polite: Option<bool>,
}

/// How a calendar is changed. What is absent stays; a grid and rules are not said at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleEdit {
    /// The rate where nothing else matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<RateText>,
    /// Seven days, Monday first, of 24 hours. Rules beside the grid stay and go over it. `null`: as
    /// it is beneath the rules.
    #[schema(min_items = 7, max_items = 7)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Vec<Vec<Option<RateText>>>>,
    /// All rules.
    #[schema(max_items = 256)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<ScheduleRule>>,
}

/// A rate as it is written: `5 Mbit/s`, `400 MB/s`, `unlimited`, `pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RateText(pub String);

impl PartialSchema for RateText {
    fn schema() -> RefOr<utoipa::openapi::schema::Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let text = text.description(Some("5 Mbit/s, 400 MB/s, unlimited or pause"));
        text.pattern(Some("^(pause|unlimited|[1-9][0-9]{0,3} [kMG]bit/s)$")).into()
    }
}

impl ToSchema for RateText {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Rate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_what_they_have_and_nothing_unknown_is_let_through() {
        let text = r#"{"days":"Mon-Fri","from":"18:00","to":"07:00","rate":"200 Mbit/s"}"#;
        let rule: ScheduleRule = serde_json::from_str(text).expect("a rule");
        assert_eq!((rule.dates.as_ref(), rule.polite), (None, None));
        assert_eq!(serde_json::to_string(&rule).expect("JSON"), text);
        for bad in [r#"{"days":"Mon"}"#, r#"{"rate":"pause","until":"07:00"}"#] {
            assert!(serde_json::from_str::<ScheduleRule>(bad).is_err(), "{bad}");
        }
        let edit: ScheduleEdit = serde_json::from_str("{}").expect("an edit");
        assert_eq!(edit, ScheduleEdit::default());
        assert!(serde_json::from_str::<ScheduleEdit>(r#"{"zone":"UTC"}"#).is_err());
    }
}
