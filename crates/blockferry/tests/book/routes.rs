//! The addresses of HTTP: the table in `docs/http.md` has those of the node's OpenAPI, and no others.

use crate::pages::root;
use crate::server::Servers;
use serde_json::Value;
use std::collections::BTreeSet;

/// Methods and paths that a row of the table names: `` `GET /a?b=`, `/c` ``, `` `PUT`, `DELETE /a` ``.
fn named(row: &str) -> BTreeSet<(String, String)> {
    let cell = row.trim_matches('|').split(" | ").next().unwrap_or_default();
    let (mut methods, mut last, mut found) = (Vec::new(), Vec::new(), BTreeSet::new());
    for code in cell.split('`').skip(1).step_by(2) {
        let (method, path) = match code.split_once(' ') {
            Some((method, path)) => (method, path),
            None if code.starts_with('/') => ("", code),
            None => (code, ""),
        };
        if !method.is_empty() {
            methods.push(method.to_lowercase());
        }
        if path.is_empty() {
            continue;
        }
        // A path without a method of its own has the one before.
        if !methods.is_empty() {
            last = std::mem::take(&mut methods);
        }
        let path = path.split('?').next().unwrap_or_default();
        found.extend(last.iter().map(|method: &String| (method.clone(), path.to_owned())));
    }
    found
}

#[test]
fn the_page_has_every_address() {
    let servers = Servers::start(&["hub-01"]);
    let ask = "curl -s --unix-socket /run/blockferry/admin.sock http://localhost/openapi.json";
    let (status, said) = servers.run("hub-01", ask);
    assert_eq!(status, 0, "{said}");
    let openapi: Value = serde_json::from_str(&said).unwrap();
    let paths = openapi["paths"].as_object().unwrap().iter();
    let served: BTreeSet<(String, String)> = paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let page = std::fs::read_to_string(root().join("docs/http.md")).unwrap();
    let (_, table) = page.split_once("## Routes").unwrap();
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with("| `"))
        .take_while(|line| line.starts_with("| `"));
    let written: BTreeSet<(String, String)> = rows.flat_map(named).collect();
    let own = BTreeSet::from([("get".to_owned(), "/openapi.json".to_owned())]);
    let missing: Vec<_> = served.difference(&written).collect();
    let extra: Vec<_> = written.difference(&served).filter(|route| !own.contains(*route)).collect();
    assert!(missing.is_empty(), "docs/http.md lacks {missing:?}");
    assert!(extra.is_empty(), "docs/http.md has what isn't served: {extra:?}");
    assert!(served.len() > 25, "only {served:?}");
}

#[test]
fn rows_name_methods_and_paths() {
    let routes = |row: &str| named(row).into_iter().map(|(m, p)| format!("{m} {p}")).collect();
    let two: Vec<String> = routes("| `PUT`, `DELETE /a?b=` | read | x `GET /z` |");
    assert_eq!(two, ["delete /a", "put /a"]);
    let many: Vec<String> = routes("| `POST /a`, `/b`, `GET /c` | read | x |");
    assert_eq!(many, ["get /c", "post /a", "post /b"]);
}
