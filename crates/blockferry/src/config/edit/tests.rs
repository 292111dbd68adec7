//! Texts before and after: what changes, and that nothing else does.

use super::*;
use std::slice::from_ref;

fn often(days: &str, from: &str, to: &str, rate: &str) -> Rule {
    let rate: super::super::values::ScheduleRate = rate.parse().unwrap();
    let when = When::Often {
        days: days.parse().unwrap(),
        dates: Vec::new(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    };
    Rule { when, rate: rate.0, polite: None }
}

fn nights() -> Rule {
    often("Mon-Fri", "18:00", "07:00", "200 Mbit/s")
}

fn weekend() -> Rule {
    often("Sat-Sun", "00:00", "24:00", "unlimited")
}

fn noon() -> Rule {
    often("Mon-Sun", "12:00", "13:00", "pause")
}

fn edited(text: &str, old: &[Rule], new: &[Rule]) -> String {
    rewritten(text, &Change { name: "night", default: None, old, new }).unwrap()
}

const TABLES: &str = r#"# The branch.
version = 1 # of the format

# Nights are for us.
[schedules.night] # the only one
zone = "Europe/Oslo"   # where they are
default = '5 Mbit/s'
# What follows: rules.

# After work
[[schedules.night.rule]] # first
days = "Mon-Fri" # not Saturday
# From six
from = "18:00"
to   = "07:00"
rate = "200Mbps" # agreed with the provider

# Weekends
[[schedules.night.rule]]
days = "Sat,Sun"
rate = "unlimited"
# Nothing below this line is about schedules.

[limits] # of the node
send = "1 Gbit/s"
# The end.
"#;

#[test]
fn nothing_asked_is_nothing_changed() {
    let rules = [nights(), weekend()];
    assert_eq!(edited(TABLES, &rules, &rules), TABLES);
    let dos = TABLES.replace('\n', "\r\n");
    assert_eq!(edited(&dos, &rules, &rules), dos);
    let marked = format!("\u{feff}{TABLES}");
    assert_eq!(edited(&marked, &rules, &rules), marked);
}

#[test]
fn a_rule_that_changes_keeps_its_place_and_what_is_said_about_it() {
    let new = [often("Mon-Thu", "19:00", "07:00", "200 Mbit/s"), weekend()];
    let text = edited(TABLES, &[nights(), weekend()], &new);
    let expected = TABLES
        .replace("days = \"Mon-Fri\" #", "days = \"Mon-Thu\" #")
        .replace("from = \"18:00\"", "from = \"19:00\"");
    assert_eq!(text, expected);
    let change = Change {
        name: "night",
        default: Some(Rate::Pause),
        old: &[nights(), weekend()],
        new: &[nights(), weekend()],
    };
    let text = rewritten(TABLES, &change).unwrap();
    assert_eq!(text, TABLES.replace("default = '5 Mbit/s'", "default = \"pause\""));
}

#[test]
fn rules_come_and_go_and_comments_stay() {
    let text = edited(TABLES, &[nights(), weekend()], &[nights(), noon(), weekend()]);
    let place = "# agreed with the provider\n";
    let added = "\n[[schedules.night.rule]]\nfrom = \"12:00\"\nto = \"13:00\"\nrate = \"pause\"\n";
    assert_eq!(text, TABLES.replace(place, &format!("{place}{added}")));
    let text = edited(TABLES, &[nights(), weekend()], &[weekend()]);
    for comment in ["# After work", "# first", "# not Saturday", "# From six", "# agreed with"] {
        assert!(text.contains(&format!("\n{comment}")), "{comment}: {text}");
    }
    assert!(!text.contains("18:00"), "{text}");
    // The last rule goes: what was said stands before what follows.
    let text = edited(TABLES, &[nights(), weekend()], &[]);
    assert!(!text.contains("[[schedules"), "{text}");
    let weekends = text.find("# Weekends").unwrap();
    assert!(text.find("# agreed").unwrap() < weekends, "{text}");
    assert!(weekends < text.find("[limits]").unwrap(), "{text}");
    // And at the end of the file.
    let (short, _) = TABLES.split_once("\n[limits]").unwrap();
    let text = edited(short, &[nights(), weekend()], &[nights()]);
    assert!(text.trim_end().ends_with("# Nothing below this line is about schedules."), "{text}");
    assert!(text.contains("\n# Weekends"), "{text}");
}

#[test]
fn the_first_rule_of_a_section_follows_it() {
    let text =
        "[schedules.night]\nzone = \"UTC\" # here\n# more\n\n[limits]\nsend = \"1 Gbit/s\"\n";
    let after = edited(text, &[], &[weekend()]);
    let rule = "\n[[schedules.night.rule]]\ndays = \"Sat-Sun\"\nrate = \"unlimited\"\n";
    assert_eq!(after, text.replace("# here\n", &format!("# here\n{rule}")));
    for (text, list) in [
        ("schedules.night.zone = \"UTC\"\n[limits]\n", false),
        ("[schedules]\nnight.zone = \"UTC\" # here\n[limits]\n", false),
        ("[schedules]\nnight = { zone = \"UTC\" } # here\n", true),
        ("schedules = { night = { zone = \"UTC\" } } # here\n", true),
    ] {
        let after = edited(text, &[], &[weekend()]);
        let read: toml::Table = after.parse().unwrap_or_else(|error| panic!("{after}: {error}"));
        let rule = &read["schedules"]["night"]["rule"][0];
        assert_eq!(rule["rate"].as_str(), Some("unlimited"), "{after}");
        assert_eq!(after.contains("rule = ["), list, "{after}");
        assert_eq!(after.contains("# here"), text.contains("# here"));
    }
}

#[test]
fn rules_in_a_list_are_changed_there() {
    let text = r#"[schedules.night]
zone = "UTC"
rule = [ # all of them
    # After work
    { days = "Mon-Fri", from = "18:00", to = "07:00", rate = "200 Mbit/s" }, # agreed
    { days = "Sat,Sun", rate = "unlimited" }, # free
    # no more
] # rules
default = "5 Mbit/s"
"#;
    let rules = [nights(), weekend()];
    assert_eq!(edited(text, &rules, &rules), text);
    let after = edited(text, &rules, &[nights(), weekend(), noon()]);
    let read: toml::Table = after.parse().unwrap_or_else(|error| panic!("{after}: {error}"));
    assert_eq!(read["schedules"]["night"]["rule"][2]["rate"].as_str(), Some("pause"), "{after}");
    let after_less = edited(text, &rules, &[often("Sat-Sun", "00:00", "24:00", "pause")]);
    for after in [&after, &after_less, &edited(text, &rules, &[])] {
        for comment in ["# all of them", "# After work", "# agreed", "# free", "# no more"] {
            assert!(after.contains(comment), "{comment}: {after}");
        }
        let read: toml::Table = after.parse().unwrap_or_else(|error| panic!("{after}: {error}"));
        assert!(read["schedules"]["night"]["rule"].is_array());
    }
}

#[test]
fn what_stays_is_as_long_as_it_can_be() {
    let (a, b, c) = (nights(), weekend(), noon());
    let of = |old: &[Rule], new: &[Rule]| steps(old, new);
    assert_eq!(of(&[], &[]), []);
    assert_eq!(of(from_ref(&a), &[]), [Step::Drop(0)]);
    assert_eq!(of(&[], from_ref(&a)), [Step::Add(0)]);
    let old = [a.clone(), b.clone(), c.clone()];
    assert_eq!(of(&old, &old), [Step::Keep(0), Step::Keep(1), Step::Keep(2)]);
    assert_eq!(of(&old, &[a.clone(), c.clone()]), [Step::Keep(0), Step::Drop(1), Step::Keep(2)]);
    assert_eq!(
        of(&old, &[b.clone(), c.clone(), a.clone()]),
        [Step::Drop(0), Step::Keep(1), Step::Keep(2), Step::Add(2)]
    );
    let other = often("Wed", "01:00", "02:00", "pause");
    let new = [a.clone(), other, c.clone()];
    assert_eq!(of(&old, &new), [Step::Keep(0), Step::Change(1, 1), Step::Keep(2)]);
    // A window does not become a rule of every week: a key would have to go.
    let window = "2026-12-24 18:00..2026-12-27 06:00".parse().unwrap();
    let once = Rule { when: When::Once(vec![window]), rate: Rate::Pause, polite: None };
    assert_eq!(of(&[once], &[a]), [Step::Drop(0), Step::Add(0)]);
}
