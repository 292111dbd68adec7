//! `image history --csv`: every column in full, as RFC 4180 has it but for line ends, for spreadsheets and scripts.
//!
//! The columns are those of the JSON, in a fixed order; more may come at the end. A text that a
//! spreadsheet would take for a formula is led by an apostrophe: names come from other nodes.

use blockferry_node::api::{GenerationRow, HistoryReport};

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

/// The generations of an image.
pub(crate) fn history(report: &HistoryReport) -> String {
    let mut text = COLUMNS.join(",");
    for generation in &report.generations {
        text.push('\n');
        text.push_str(&row(&report.image, generation).map(|value| field(&value)).join(","));
    }
    text
}

fn row(image: &str, generation: &GenerationRow) -> [String; 14] {
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
    let formula = value.starts_with(['=', '+', '-', '@', '\t']);
    let value = if formula { format!("'{value}") } else { value.to_owned() };
    if value.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", value.replace('"', "\"\""));
    }
    value
}

#[cfg(test)]
mod tests {
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
    fn a_row_for_each_generation() {
        let generation = |number| {
            serde_json::from_value::<GenerationRow>(serde_json::json!({
                "generation": number, "root": "00ff", "size_bytes": 1, "author": "hub,01",
                "recorded": "2026-01-01T00:00:00Z", "discover": "scan", "bytes_read": 2,
                "dirty_bytes": 3, "wire_bytes": 4, "seconds": 0.5, "peers": ["b", "c"]
            }))
            .unwrap()
        };
        let report = HistoryReport {
            schema: blockferry_node::api::Schema,
            image: "vdisks/a.raw".into(),
            generations: vec![generation(2), generation(1)],
        };
        let text = history(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split(',').count(), COLUMNS.len());
        let expected =
            "2,2026-01-01T00:00:00Z,00ff,1,3,4,2,scan,0.5,\"hub,01\",b c,,false,vdisks/a.raw";
        assert_eq!(lines[1], expected);
    }
}
