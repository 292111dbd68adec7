//! Histories and adoptions as CSV (RFC 4180): every column in full, for spreadsheets and scripts.
//!
//! The columns are those of the JSON in an order that stays; more may come at the end. A text that a
//! spreadsheet would take for a formula is led by an apostrophe: names come from other nodes.

use super::adoption::{AdoptReport, AdoptRow};
use super::images::{GenerationRow, HistoryReport};

/// Names of the columns of a history.
const COLUMNS: [&str; 14] = [
    "generation",
    "recorded",
    "root",
    "size_bytes",
    "dirty_bytes",
    "wire_bytes",
    "bytes_read",
    "discover",
    "seconds",
    "author",
    "peers",
    "promoted",
    "kept",
    "image",
];
/// Names of the columns of an adoption.
const ADOPTION: [&str; 10] = [
    "image",
    "peer",
    "state",
    "size_bytes",
    "peer_size_bytes",
    "root",
    "peer_root",
    "modified",
    "peer_modified",
    "shadow",
];
/// What a spreadsheet takes for the beginning of a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The generations of an image: a head, and a line for each, newest first. `peers` are separated by
/// blanks, `promoted` is the time of the last promotion.
#[must_use]
pub fn history_csv(report: &HistoryReport) -> String {
    let mut text = String::new();
    line(&mut text, COLUMNS.map(str::to_owned));
    for generation in &report.generations {
        line(&mut text, row(&report.image, generation));
    }
    text
}

/// Each image beside each peer: a head, and a line for each pair.
#[must_use]
pub fn adoption_csv(report: &AdoptReport) -> String {
    let mut text = String::new();
    line(&mut text, ADOPTION.map(str::to_owned));
    for row in &report.images {
        line(&mut text, beside(row));
    }
    text
}

fn beside(row: &AdoptRow) -> [String; ADOPTION.len()] {
    let number = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    [
        row.image.clone(),
        row.peer.clone(),
        row.state.as_str().to_owned(),
        number(row.size_bytes),
        number(row.peer_size_bytes),
        row.root.clone().unwrap_or_default(),
        row.peer_root.clone().unwrap_or_default(),
        row.modified.clone().unwrap_or_default(),
        row.peer_modified.clone().unwrap_or_default(),
        row.shadow.to_string(),
    ]
}

fn line<const N: usize>(text: &mut String, values: [String; N]) {
    text.push_str(&values.map(|value| field(&value)).join(","));
    text.push_str("\r\n");
}

fn row(image: &str, generation: &GenerationRow) -> [String; COLUMNS.len()] {
    let promoted = generation.promoted.last().map(|promoted| promoted.at.clone());
    [
        generation.generation.to_string(),
        generation.recorded.clone(),
        generation.root.clone(),
        generation.size_bytes.to_string(),
        generation.dirty_bytes.to_string(),
        generation.wire_bytes.to_string(),
        generation.bytes_read.to_string(),
        generation.discover.clone(),
        generation.seconds.to_string(),
        generation.author.clone(),
        generation.peers.join(" "),
        promoted.unwrap_or_default(),
        generation.kept.to_string(),
        image.to_owned(),
    ]
}

fn field(value: &str) -> String {
    let value = if value.starts_with(FORMULA) { format!("'{value}") } else { value.to_owned() };
    if value.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", value.replace('"', "\"\""));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        for (value, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=cmd()", "'=cmd()"),
            ("-1,2", "\"'-1,2\""),
        ] {
            assert_eq!(field(value), expected);
        }
    }

    #[test]
    fn an_adoption_has_a_line_for_each_pair() {
        let row = serde_json::from_value::<AdoptRow>(serde_json::json!({
            "image": "a, b.raw", "peer": "hub", "state": "times_adrift", "size_bytes": 5,
            "peer_size_bytes": null, "root": "00ff", "peer_root": null,
            "modified": "2026-01-01T00:00:00Z", "peer_modified": null, "shadow": true
        }));
        let report = AdoptReport {
            schema: Schema,
            store: "vdisks".into(),
            phase: super::super::AdoptionPhase::Shadow,
            peers: vec!["hub".into()],
            images: vec![row.expect("a row")],
        };
        let text = adoption_csv(&report);
        let head = "image,peer,state,size_bytes,peer_size_bytes,root,peer_root,modified,\
                    peer_modified,shadow";
        let line = "\"a, b.raw\",hub,times_adrift,5,,00ff,,2026-01-01T00:00:00Z,,true";
        assert_eq!(text, format!("{head}\r\n{line}\r\n"));
    }

    #[test]
    fn a_line_for_each_generation_in_columns_that_stay() {
        let generation = |number| {
            serde_json::from_value::<GenerationRow>(serde_json::json!({
                "generation": number, "root": "00ff", "size_bytes": 1, "author": "hub,01",
                "recorded": "2026-01-01T00:00:00Z", "discover": "scan", "bytes_read": 2,
                "dirty_bytes": 3, "wire_bytes": 4, "seconds": 0.5, "peers": ["b", "c"]
            }))
            .expect("a row")
        };
        let generations = vec![generation(2), generation(1)];
        let report = HistoryReport { schema: Schema, image: "vdisks/a.raw".into(), generations };
        let text = history_csv(&report);
        let head = "generation,recorded,root,size_bytes,dirty_bytes,wire_bytes,bytes_read,discover,\
                    seconds,author,peers,promoted,kept,image";
        let second =
            "2026-01-01T00:00:00Z,00ff,1,3,4,2,scan,0.5,\"hub,01\",b c,,false,vdisks/a.raw";
        assert_eq!(text, format!("{head}\r\n2,{second}\r\n1,{second}\r\n"));
    }
}
