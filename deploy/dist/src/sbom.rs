//! The bill of materials, CycloneDX 1.5 as JSON: every crate with version, licence, checksum and
//! what it needs. Made from cargo's own answers, so it says what is linked and not what a lock file
//! lists.

use crate::crates::{Crates, Key};
use crate::run::run;
use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;

/// The text of the bill, the same for the same lock file and time.
pub fn sbom(crates: &Crates, epoch: u64) -> Result<String> {
    let format = ["--utc", &format!("--date=@{epoch}"), "+%FT%TZ"];
    let time = String::from_utf8(run(Command::new("date").args(format))?)?;
    let components: Vec<Value> = crates
        .all
        .keys()
        .filter(|key| **key != crates.program)
        .map(|key| component(crates, key))
        .collect();
    let dependencies: Vec<Value> = crates
        .all
        .iter()
        .map(|(key, found)| {
            let needs: Vec<String> = found.needs.iter().map(reference).collect();
            json!({ "ref": reference(key), "dependsOn": needs })
        })
        .collect();
    let mut program = component(crates, &crates.program);
    program["type"] = json!("application");
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": time.trim_end(), "component": program },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn reference((name, version): &Key) -> String {
    format!("{name}@{version}")
}

fn component(crates: &Crates, key: &Key) -> Value {
    let found = &crates.all[key];
    let mut value = json!({
        "type": "library",
        "bom-ref": reference(key),
        "name": key.0,
        "version": key.1,
        "scope": if found.linked { "required" } else { "excluded" },
    });
    if let Some(licence) = &found.licence {
        value["licenses"] = json!([{ "expression": licence }]);
    }
    // Our own are in no registry.
    if let Some(sum) = &found.checksum {
        let version = key.1.replace('+', "%2B");
        value["purl"] = json!(format!("pkg:cargo/{}@{version}", key.0));
        value["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    if let Some(repository) = &found.repository {
        value["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_bill_names_what_is_linked_and_nothing_of_the_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let crates = Crates::resolve(&root).expect("cargo answers");
        let text = sbom(&crates, 1_700_000_000).expect("made");
        assert_eq!(
            text,
            sbom(&Crates::resolve(&root).expect("again"), 1_700_000_000).expect("made")
        );
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "a path of this machine");
        let bill: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(bill["metadata"]["component"]["name"], "blockferry");
        let list = bill["components"].as_array().expect("a list");
        let named = |name: &str| list.iter().find(|found| found["name"] == name);
        for (name, scope) in
            [("quinn", "required"), ("blockferry-wire", "required"), ("cc", "excluded")]
        {
            assert_eq!(named(name).expect(name)["scope"], scope, "{name}");
        }
        for name in ["proptest", "gungraun", "blockferry-dist", "blockferry"] {
            assert!(named(name).is_none(), "{name}");
        }
        let mut refs: BTreeSet<&str> = list.iter().filter_map(|c| c["bom-ref"].as_str()).collect();
        assert_eq!(refs.len(), list.len());
        refs.extend(bill["metadata"]["component"]["bom-ref"].as_str());
        for found in list {
            let ours = found["name"].as_str().expect("a name").starts_with("blockferry-");
            assert_eq!(found["purl"].is_null(), ours, "{found}");
            assert_eq!(found["hashes"][0]["content"].as_str().map(str::len), (!ours).then_some(64));
            assert!(found["licenses"][0]["expression"].is_string(), "{found}");
        }
        // Whatever anything needs is listed, and everything is needed by something.
        let mut needed = BTreeSet::new();
        for entry in bill["dependencies"].as_array().expect("a list") {
            assert!(refs.contains(entry["ref"].as_str().expect("text")), "{entry}");
            for need in entry["dependsOn"].as_array().expect("a list") {
                needed.insert(need.as_str().expect("text"));
            }
        }
        assert!(needed.is_subset(&refs));
        assert_eq!(refs.difference(&needed).count(), 1, "only the program itself is not needed");
    }
}
