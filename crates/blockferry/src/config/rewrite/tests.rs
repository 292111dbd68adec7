//! Schedules changed in files on disk, one by one and at random.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A directory with a configuration file.
struct Case {
    directory: TempDir,
    location: Location,
}

impl Case {
    fn new(text: &str) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("blockferry.toml");
        fs::write(&file, text).unwrap();
        Case { location: Location::new(Some(file)), directory }
    }

    fn file(&self) -> &Path {
        &self.location.file
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn settings(&self) -> Settings {
        let (settings, findings) = self.location.check();
        assert_eq!(findings, []);
        settings.unwrap()
    }

    fn set(&self, name: &str, edit: &ScheduleEdit) -> Result<(), Error> {
        self.location.set_schedule(name, edit, &self.settings().tag)
    }
}

const TEXT: &str = r#"# A comment.
[schedules.night]
zone = "Europe/Oslo"
default = "5 Mbit/s" # by day
[[schedules.night.rule]]
# After work.
days = "Mon-Fri"
from = "18:00"
to = "07:00"
rate = "200 Mbit/s"
[[schedules.night.rule]]
dates = ["2026-12-24..2026-12-26"] # Christmas
rate = "pause"
[limits]
send = "1 Gbit/s"
"#;

fn text_of(rate: &str) -> RateText {
    RateText(rate.to_owned())
}

/// The grid of a calendar as it is asked for, with one cell of another rate.
fn with_cell(calendar: &Calendar, day: usize, hour: usize, rate: &str) -> ScheduleEdit {
    let (grid, _) = calendar.grid();
    let cells = |cells: &[Option<Rate>; HOURS_PER_DAY]| -> Vec<Option<RateText>> {
        cells.iter().map(|rate| rate.map(|rate| text_of(&rate.to_string()))).collect()
    };
    let mut rows: Vec<Vec<Option<RateText>>> = grid.cells.iter().map(cells).collect();
    rows[day][hour] = Some(text_of(rate));
    ScheduleEdit { grid: Some(rows), ..ScheduleEdit::default() }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_cell_is_changed_in_the_file_and_nothing_else() {
    let case = Case::new(TEXT);
    fs::set_permissions(case.file(), Permissions::from_mode(0o640)).unwrap();
    let edit = with_cell(&case.settings().schedules["night"], 6, 12, "pause");
    case.set("night", &edit).unwrap();
    let added = "[[schedules.night.rule]]\ndays = \"Sun\"\nfrom = \"12:00\"\nto = \"13:00\"\nrate = \"pause\"\n";
    let place = "rate = \"200 Mbit/s\"\n";
    assert_eq!(case.text(), TEXT.replace(place, &format!("{place}\n{added}")));
    assert_eq!(mode_of(case.file()), 0o640);
    let after = case.settings();
    assert_eq!(after.schedules["night"].grid().0.cells[6][12], Some(Rate::Pause));
    // What is there already is not written again.
    let before = fs::metadata(case.file()).unwrap().ino();
    case.set("night", &edit).unwrap();
    assert_eq!(fs::metadata(case.file()).unwrap().ino(), before);
    let left: Vec<_> = fs::read_dir(case.directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");
}

#[test]
fn rules_and_the_default_are_said_in_the_words_of_the_file() {
    let case = Case::new(TEXT);
    let json = r#"{"default": "2 Mbit/s", "rules": [
        {"dates": ["2026-12-24..2026-12-26"], "rate": "pause"},
        {"days": "Sat-Sun", "rate": "1 MB/s", "polite": true},
        {"once": ["2026-11-01 00:00..2026-11-02 00:00"], "rate": "unlimited"}]}"#;
    case.set("night", &serde_json::from_str(json).unwrap()).unwrap();
    let calendar = &case.settings().schedules["night"];
    assert_eq!(calendar.default, Rate::Limited(2_000_000));
    let rates: Vec<Rate> = calendar.rules.iter().map(|rule| rule.rate).collect();
    assert_eq!(rates, [Rate::Pause, Rate::Limited(8_000_000), Rate::Unlimited]);
    assert_eq!(calendar.rules[1].polite, Some(true));
    for comment in ["# A comment.", "# by day", "# After work.", "# Christmas"] {
        assert!(case.text().contains(comment), "{comment}: {}", case.text());
    }
}

#[test]
fn what_makes_no_sense_is_told_and_nothing_is_written() {
    let case = Case::new(TEXT);
    for (json, complaint) in [
        (r#"{"grid": []}"#, "7 days of 24 hours"),
        (r#"{"grid": [[], [], [], [], [], [], []]}"#, "7 days of 24 hours"),
        (r#"{"default": "fast"}"#, "default: \"fast\" is not a rate"),
        (r#"{"rules": [{"rate": "pause"}, {"days": "Mo-Mi", "rate": "pause"}]}"#, "rule 2:"),
        (r#"{"rules": [{"days": "Mon", "once": [], "rate": "pause"}]}"#, "once beside"),
        (r#"{"rules": [], "grid": []}"#, "not both"),
    ] {
        let error = case.set("night", &serde_json::from_str(json).unwrap()).unwrap_err();
        assert_eq!(error.code(), "CONTROL_BAD_REQUEST", "{json}");
        assert!(error.to_string().contains(complaint), "{json}: {error}");
    }
    let mut edit = with_cell(&case.settings().schedules["night"], 0, 9, "0 Mbit/s");
    let error = case.set("night", &edit).unwrap_err();
    assert!(error.to_string().contains("grid, 09:00"), "{error}");
    edit.grid = None;
    assert_eq!(case.set("day", &edit).unwrap_err().code(), "SCHEDULE_UNKNOWN");
    assert_eq!(case.text(), TEXT);
}

#[test]
fn a_file_that_changed_meanwhile_is_left_alone() {
    let case = Case::new(TEXT);
    let settings = case.settings();
    let edit = with_cell(&settings.schedules["night"], 6, 12, "pause");
    let other = format!("{TEXT}# somebody was here\n");
    fs::write(case.file(), &other).unwrap();
    let refused = case.location.set_schedule("night", &edit, &settings.tag).unwrap_err();
    assert_eq!(refused.code(), "CONFIG_CHANGED");
    // The same between the check and the rename.
    let refused = replace(case.file(), TEXT, "x").unwrap_err();
    assert_eq!(refused.code(), "CONFIG_CHANGED");
    assert_eq!(case.text(), other);
    // A file in conf.d counts too.
    let tag = case.settings().tag;
    fs::create_dir(case.directory.path().join("conf.d")).unwrap();
    fs::write(case.directory.path().join("conf.d/10.toml"), "").unwrap();
    assert_ne!(case.settings().tag, tag);
}

#[test]
fn a_schedule_is_changed_in_the_file_that_has_it() {
    let case = Case::new("[limits]\nsend = \"1 Gbit/s\"\n");
    let conf_d = case.directory.path().join("conf.d");
    fs::create_dir(&conf_d).unwrap();
    // By a link, as it is where configuration is managed elsewhere.
    let real = case.directory.path().join("night");
    fs::write(&real, TEXT.replace("[limits]\nsend = \"1 Gbit/s\"\n", "")).unwrap();
    symlink(&real, conf_d.join("50-night.toml")).unwrap();
    let edit = with_cell(&case.settings().schedules["night"], 6, 12, "pause");
    case.set("night", &edit).unwrap();
    assert!(fs::read_to_string(&real).unwrap().contains("days = \"Sun\""));
    assert!(fs::symlink_metadata(conf_d.join("50-night.toml")).unwrap().is_symlink());
    // Where a part of it is written elsewhere, nobody can say what was meant.
    fs::write(conf_d.join("60.toml"), "schedules.night.default = \"1 Mbit/s\"\n").unwrap();
    let edit = ScheduleEdit { default: Some(text_of("2 Mbit/s")), ..ScheduleEdit::default() };
    let refused = case.set("night", &edit).unwrap_err();
    assert_eq!(refused.code(), "CONFIG_READ_ONLY");
    assert!(refused.to_string().contains("several places"), "{refused}");
}

#[test]
fn a_directory_that_nobody_may_write_is_told_with_its_own_code() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write everywhere");
        return;
    }
    let case = Case::new(TEXT);
    assert!(case.location.is_writable());
    fs::set_permissions(case.directory.path(), Permissions::from_mode(0o500)).unwrap();
    assert!(!case.location.is_writable());
    let edit = with_cell(&case.settings().schedules["night"], 6, 12, "pause");
    let refused = case.set("night", &edit).unwrap_err();
    fs::set_permissions(case.directory.path(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(refused.code(), "CONFIG_READ_ONLY");
    assert_eq!(case.text(), TEXT);
}

/// Lines of a file around a schedule, with comments wherever there may be one.
fn file_text() -> impl Strategy<Value = String> {
    let rule = (
        0..6_usize,
        prop::sample::select(vec!["pause", "200 Mbit/s", "unlimited", "1 MB/s"]),
        prop::collection::vec(any::<bool>(), 6),
    );
    let style = 0..3_usize;
    let rules = prop::collection::vec(rule, 0..6);
    (style, rules, prop::collection::vec(any::<bool>(), 12)).prop_map(|(style, rules, said)| {
        let mut number = 0;
        let mut comment = |on: bool| {
            number += 1;
            if on { format!("# comment {number} [[x]] \"quoted\" = 1") } else { String::new() }
        };
        let mut text = format!("{}\nversion = 1 {}\n", comment(said[0]), comment(said[1]));
        text += &format!("[schedules.night] {}\n{}\n", comment(said[2]), comment(said[3]));
        text += &format!("zone = \"Europe/Oslo\" {}\n", comment(said[4]));
        if said[5] {
            text += &format!("default = \"5 Mbit/s\" {}\n", comment(said[6]));
        }
        if style == 0 {
            text += &format!("rule = [ {}\n", comment(said[7]));
        }
        for (kind, rate, said) in &rules {
            let keys = [
                "days = \"Mon-Fri\"|from = \"18:00\"|to = \"07:00\"",
                "days = \"Sat,Sun\"",
                "from = \"09:00\"|to = \"17:00\"",
                "dates = [\"2026-12-24..2026-12-26\"]",
                "once = [\"2026-11-01 00:00..2026-11-02 00:00\"]",
                "from = \"06:30\"|to = \"07:15\"|polite = true",
            ][*kind];
            let keys: Vec<String> =
                keys.split('|').map(str::to_owned).chain([format!("rate = \"{rate}\"")]).collect();
            if style == 0 {
                text += &format!(
                    "  {}\n  {{ {} }}, {}\n",
                    comment(said[0]),
                    keys.join(", "),
                    comment(said[1])
                );
                continue;
            }
            text +=
                &format!("{}\n[[schedules.night.rule]] {}\n", comment(said[0]), comment(said[1]));
            for (index, line) in keys.iter().enumerate() {
                text += &format!(
                    "{}\n{line} {}\n",
                    comment(said[2 + index % 2]),
                    comment(said[4 + index % 2])
                );
            }
            if style == 2 && said[5] {
                // Another table between the rules.
                let name = text.matches("[schedules.o").count();
                text += &format!("[schedules.o{name}]\nzone = \"UTC\" {}\n", comment(said[3]));
            }
        }
        if style == 0 {
            text += &format!("] {}\n", comment(said[8]));
        }
        text + &format!(
            "{}\n[limits] {}\nsend = \"1 Gbit/s\"\n{}\n",
            comment(said[9]),
            comment(said[10]),
            comment(said[11])
        )
    })
}

fn comments(text: &str) -> Vec<String> {
    let of = |line: &str| line.find("# comment").map(|at| line[at..].trim_end().to_owned());
    text.lines().filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random edits of random files: all comments in their order, every other key, and a calendar
    /// that is the grid.
    #[test]
    fn edits_keep_every_comment_and_every_other_key(
        text in file_text(),
        edits in prop::collection::vec(edits(), 1..4),
    ) {
        let case = Case::new(&text);
        let before = case.settings();
        for edit in edits {
            let calendar = &case.settings().schedules["night"];
            let beside = calendar.rules[calendar.grid().1..].to_vec();
            prop_assert!(case.set("night", &edit).is_ok(), "{:?}\n{}", case.set("night", &edit), case.text());
            let (after, now) = (case.settings(), case.text());
            prop_assert_eq!(comments(&now), comments(&text), "{}", now);
            let others = |settings: &Settings| -> Vec<String> {
                let own = |shown: &&Shown| !["rule", "default"].iter().any(|last| shown.key == section_key("night", last));
                settings.shown.iter().filter(own).map(|shown| format!("{} {}", shown.key, shown.value)).collect()
            };
            prop_assert_eq!(others(&after), others(&before));
            let calendar = &after.schedules["night"];
            if let Some(rows) = &edit.grid {
                let wanted = grid(rows).unwrap();
                prop_assert!(calendar.rules.ends_with(&beside), "{}", now);
                let mut alone = Calendar::clone(calendar);
                alone.rules.truncate(calendar.rules.len() - beside.len());
                // The week in which the clock is put forward.
                for minute in 0..7 * 24 * 60 {
                    let at = 1_774_220_400 + minute * 60;
                    let (day, hour) = Grid::cell(alone.zone.civil(at));
                    prop_assert_eq!(Some(alone.rate(at * 1000)), wanted.cells[day][hour], "{}", now);
                }
            }
        }
    }
}

fn edits() -> impl Strategy<Value = ScheduleEdit> {
    let rate =
        || prop::sample::select(vec!["pause", "200 Mbit/s", "unlimited", "5 Mbit/s", "1 MB/s"]);
    let rectangle = (0..7_usize, 0..24_usize, 1..8_usize, 1..25_usize, rate());
    let grid = (rate(), prop::collection::vec(rectangle, 0..6)).prop_map(|(rate, rectangles)| {
        let mut rows = vec![vec![Some(text_of(rate)); HOURS_PER_DAY]; DAYS_PER_WEEK];
        for (day, hour, days, hours, rate) in rectangles {
            for row in rows.iter_mut().skip(day).take(days) {
                row.iter_mut().skip(hour).take(hours).for_each(|cell| *cell = Some(text_of(rate)));
            }
        }
        rows
    });
    let rule = |(days, from, rate): (&str, u8, &str)| ScheduleRule {
        days: Some(days.to_owned()),
        dates: None,
        from: Some(format!("{from:02}:15")),
        to: Some("23:00".to_owned()),
        once: None,
        rate: text_of(rate),
        polite: None,
    };
    let days = prop::sample::select(vec!["Mon", "Mon-Fri", "Sat,Sun"]);
    let rules = prop::collection::vec((days, 0..23_u8, rate()).prop_map(rule), 0..5);
    let default = prop::option::of(rate());
    prop_oneof![
        (default.clone(), grid).prop_map(|(default, grid)| ScheduleEdit {
            default: default.map(text_of),
            grid: Some(grid),
            rules: None,
        }),
        (default, rules).prop_map(|(default, rules)| ScheduleEdit {
            default: default.map(text_of),
            grid: None,
            rules: Some(rules),
        }),
    ]
}
