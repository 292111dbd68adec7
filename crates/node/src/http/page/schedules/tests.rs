//! What the screens show, and what the form is read as.

use super::*;

/// 2026-11-20, a Friday, 19:30 in Oslo.
const NOW: i64 = 1_795_199_400;

fn row() -> ScheduleRow {
    let slow = || Some("5 Mbit/s");
    let mut grid = vec![vec![slow(); 24]; 7];
    for day in grid.iter_mut().take(5) {
        day[18..].fill(Some("200 Mbit/s"));
    }
    grid[5][..7].fill(Some("pause"));
    grid[3][3] = None;
    serde_json::from_value(serde_json::json!({
        "name": "branch night", "zone": "Europe/Oslo", "at": "2026-11-20T18:30:00.000Z",
        "clock": "2026-11-20 19:30",
        "now": { "rate": "200 Mbit/s", "rate_limit_bits_per_second": 200_000_000, "source": "rule",
                 "rule": 1, "polite": false },
        "until": "2026-11-20T23:00:00.000Z",
        "next": { "rate": "pause", "rate_limit_bits_per_second": 0, "source": "rule", "rule": 2,
                  "polite": false },
        "default": "5 Mbit/s", "polite": false, "by": null, "dfsr": null, "grid": grid,
        "grid_rules": 2,
        "rules": [
            { "days": "Mon-Fri", "from": "18:00", "to": "24:00", "rate": "200 Mbit/s" },
            { "days": "Sat", "from": "00:00", "to": "07:00", "rate": "pause" },
            { "dates": ["2026-12-24..2026-12-26"], "rate": "pause", "polite": true },
            { "days": "Mon", "from": "06:30", "to": "07:15", "rate": "unlimited" },
            { "once": ["2026-11-01 00:00..2026-11-02 00:00"], "rate": "unlimited" }
        ],
        "used_by": ["stores.vdisks", "peers.oslo"]
    }))
    .expect("a row")
}

fn item(eta: Option<&str>) -> BacklogItem {
    serde_json::from_value(serde_json::json!({
        "store": "vdisks", "image": "a b.raw", "peer": "oslo", "bytes": 3 << 20, "eta": eta,
        "reason": "schedule", "holder": null
    }))
    .expect("an item")
}

#[test]
fn hours_have_numbers_and_say_what_they_are() {
    let (row, clock) = (row(), Clock::at("Europe/Oslo", NOW));
    let palette = palette(&row);
    assert_eq!(palette, ["pause", "5 Mbit/s", "200 Mbit/s"]);
    let days = days(&row, &palette, &[], clock.week_hour());
    assert_eq!((days.len(), days[0].cells.len(), days[6].short), (7, 24, "Sun"));
    let cell = |day: usize, hour: usize| days[day].cells[hour].clone();
    assert_eq!((cell(0, 17).value.as_str(), cell(0, 18).value.as_str()), ("2", "3"));
    assert_eq!((cell(5, 0).value.as_str(), cell(5, 0).label.as_str()), ("1", "Saturday 00:00"));
    assert_eq!((cell(3, 3).value.as_str(), cell(3, 3).rate.as_str()), ("", "several"));
    let here: Vec<&Cell> =
        days.iter().flat_map(|day| &day.cells).filter(|cell| cell.here).collect();
    assert_eq!(here.len(), 1);
    assert_eq!(here[0].label, "Friday 19:00");
    let filled = filled(palette, true);
    assert_eq!(filled.len(), RATES_MAX);
    assert_eq!((filled[3].text.as_str(), filled[4].text.as_str()), ("unlimited", ""));
}

#[test]
fn what_is_planned_stands_in_the_hours_in_which_it_may_go() {
    let (row, clock) = (row(), Clock::at("Europe/Oslo", NOW));
    let friday = 4 * HOURS;
    assert!(hours_planned(&row, &[&item(None)], &clock).is_empty());
    let soon = item(Some("2026-11-20T20:10:00.000Z"));
    assert_eq!(hours_planned(&row, &[&soon], &clock), [friday + 19, friday + 20, friday + 21]);
    // Over the pause of the night: nothing goes then.
    let late = item(Some("2026-11-21T06:30:00.000Z"));
    let hours = hours_planned(&row, &[&soon, &late], &clock);
    let expected: Vec<usize> =
        (19..24).map(|hour| friday + hour).chain([friday + 24 + 7]).collect();
    assert_eq!(hours, expected);
    let shown = planned(&late, &clock);
    assert_eq!((shown.href.as_str(), shown.bytes.as_str()), ("/images/vdisks/a%20b.raw", "3 MiB"));
    assert_eq!(shown.finish.map(|finish| finish.text), Some("Sat 07:30".to_owned()));
}

#[test]
fn what_a_grid_cannot_say_is_said_beside_it() {
    let row = row();
    let rules = beside(&row);
    let said: Vec<(usize, &str)> =
        rules.iter().map(|rule| (rule.number, rule.when.as_str())).collect();
    assert_eq!(
        said,
        [
            (3, "every day 2026-12-24..2026-12-26"),
            (4, "Mon 06:30\u{2013}07:15"),
            (5, "2026-11-01 00:00..2026-11-02 00:00")
        ]
    );
    assert!(rules[0].polite && !rules[1].polite && !rules[0].here);
    let line = line(&row, &Clock::at("UTC", NOW));
    assert_eq!((line.there.as_str(), line.why.as_str()), ("Fri 19:30", "rule 1"));
    assert_eq!(line.until.map(|until| until.text), Some("Sat 00:00".to_owned()));
    assert_eq!((line.href.as_str(), line.next.as_str()), ("/schedules/branch%20night", "pause"));
}

#[test]
fn the_form_says_the_grid_that_was_shown() {
    let (row, clock) = (row(), Clock::at("Europe/Oslo", NOW));
    let palette = palette(&row);
    let mut fields = BTreeMap::new();
    for cell in days(&row, &palette, &[], clock.week_hour()).iter().flat_map(|day| &day.cells) {
        fields.insert(cell.field.clone(), cell.value.clone());
    }
    for rate in filled(palette, true) {
        fields.insert(format!("r{}", rate.number), rate.text);
    }
    fields.insert("default".to_owned(), " 5 Mbit/s ".to_owned());
    let said = edit(&fields).unwrap_or_else(|problem| panic!("{problem:?}"));
    assert_eq!(said.grid.as_ref(), Some(&row.grid));
    assert_eq!((said.default.as_ref(), said.rules.as_ref()), (Some(&row.default), None));
    let wrong = |name: &str, value: Option<&str>| {
        let mut fields = fields.clone();
        match value {
            Some(value) => drop(fields.insert(name.to_owned(), value.to_owned())),
            None => drop(fields.remove(name)),
        }
        edit(&fields).expect_err(name).error.message
    };
    assert!(wrong("c018", Some("9")).contains("Monday 18:00 has the rate \"9\""));
    assert!(wrong("c018", Some("x")).contains("Monday 18:00"));
    assert!(wrong("c623", None).contains("Sunday 23:00 is missing"));
    for field in ["c700", "c024", "c0018", "r0", "r10", "other", ""] {
        assert!(wrong(field, Some("1")).contains("has a field"), "{field}");
    }
}

#[test]
fn who_goes_by_it_is_said_in_few_words() {
    let users = |of: &[&str]| users(&of.iter().map(|user| (*user).to_owned()).collect::<Vec<_>>());
    assert_eq!(users(&[]), "nobody");
    assert_eq!(users(&["peers.b", "limits", "peers.a"]), "peers a, b, this node");
    assert_eq!(
        users(&["stores.v", "peers.a", "peers.b", "peers.c", "peers.d"]),
        "4 peers, store v"
    );
}
