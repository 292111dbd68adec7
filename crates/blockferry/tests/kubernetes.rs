//! The manifests of `deploy/kubernetes` without a cluster: rendered by `kubectl kustomize`, read
//! once as they are and once as the API's own types, so that a field that no such type has is
//! noticed.
//!
//! Skipped with a line where `kubectl` isn't installed, but for what needs only the files.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").canonicalize().unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy().join(name)).unwrap()
}

/// The output of kubectl, or nothing where it isn't installed. It never looks for a cluster.
fn kubectl(args: &[&str]) -> Option<String> {
    let mut command = Command::new("kubectl");
    command.args(args).env("KUBECONFIG", "/nonexistent").env("HOME", "/nonexistent");
    match command.output() {
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "kubectl {args:?}: {complaint}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            eprintln!("kubectl: {error}: skipped");
            None
        }
    }
}

/// One rendered object.
struct Object {
    /// As it is written.
    plain: Value,
    /// As the API's type understands it; only of what has a pod template.
    typed: Option<Value>,
}

fn rendered() -> Option<Vec<Object>> {
    let all = kubectl(&["kustomize", deploy().join("kubernetes").to_str().unwrap()])?;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("object.yaml");
    let path_text = path.to_str().unwrap();
    let objects = all.split("\n---\n").map(|text| {
        std::fs::write(&path, text).unwrap();
        let json = |args: &[&str]| {
            let text = kubectl(&[args, &["--local", "-o", "json", "-f", path_text]].concat());
            serde_json::from_str(&text.unwrap()).unwrap()
        };
        let plain: Value = json(&["label", "seen=yes"]);
        let typed = text.contains("kind: DaemonSet").then(|| json(&["set", "env", "SEEN=yes"]));
        Object { plain, typed }
    });
    Some(objects.collect())
}

/// Every field of the one that the other doesn't have.
fn lost(plain: &Value, typed: &Value, path: &str, found: &mut Vec<String>) {
    match (plain, typed) {
        (Value::Object(fields), _) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match typed.get(name) {
                    // An empty object may be left out.
                    None if value.as_object().is_some_and(serde_json::Map::is_empty) => {}
                    None => found.push(path),
                    Some(other) => lost(value, other, &path, found),
                }
            }
        }
        (Value::Array(items), Value::Array(others)) => {
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}[{at}]");
                match others.get(at) {
                    None => found.push(path),
                    Some(other) => lost(item, other, &path, found),
                }
            }
        }
        (plain, typed) if plain != typed => found.push(format!("{path}: {plain} {typed}")),
        _ => {}
    }
}

fn texts(value: &Value, field: &str) -> BTreeSet<String> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_rendered_objects_are_what_the_api_has_types_for() {
    let Some(objects) = rendered() else { return };
    let kinds: Vec<&str> = objects.iter().map(|o| o.plain["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Namespace", "ConfigMap", "DaemonSet"]);
    for object in &objects {
        let name = object.plain["metadata"]["name"].as_str().unwrap();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.chars().all(plain) && name.len() <= 63, "{name}");
        if object.plain["kind"] != "Namespace" {
            assert_eq!(object.plain["metadata"]["namespace"], "blockferry");
        }
    }
    let set = &objects[2];
    let mut found = Vec::new();
    let mut plain = set.plain.clone();
    plain["metadata"]["labels"].as_object_mut().unwrap().remove("seen");
    lost(&plain, set.typed.as_ref().unwrap(), "", &mut found);
    assert!(found.is_empty(), "the API's type has no {found:?}");
    let mut found = Vec::new();
    lost(
        &serde_json::json!({ "a": [{ "b": 1 }] }),
        &serde_json::json!({ "a": [{}] }),
        "",
        &mut found,
    );
    assert_eq!(found, [".a[0].b"], "and a field that isn't there is noticed");
}

#[test]
fn the_daemon_set_fits_together() {
    let Some(objects) = rendered() else { return };
    let (map, set) = (&objects[1].plain, &objects[2].plain);
    assert_eq!(set["apiVersion"], "apps/v1");
    let spec = &set["spec"];
    let template = &spec["template"];
    for (name, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][name], value, "a pod that nobody selects");
    }
    let pod = &template["spec"];
    let volumes = texts(&pod["volumes"], "name");
    let config = pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "config");
    assert_eq!(config.unwrap()["configMap"]["name"], map["metadata"]["name"]);
    let containers = [&pod["initContainers"][0], &pod["containers"][0]];
    let version = env!("CARGO_PKG_VERSION");
    for container in containers {
        assert_eq!(texts(&container["volumeMounts"], "name"), volumes);
        let image = container["image"].as_str().unwrap();
        assert!(image.ends_with(&format!("/blockferry:{version}")), "{image}");
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert!(security["privileged"].is_null());
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
    let port = &pod["containers"][0]["ports"][0];
    assert_eq!((&port["containerPort"], &port["protocol"]), (&7700.into(), &"UDP".into()));
    // On the host's network both are one port.
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(port["hostPort"], port["containerPort"]);
    for probe in ["startupProbe", "livenessProbe"] {
        let command = &pod["containers"][0][probe]["exec"]["command"];
        assert_eq!(command, &serde_json::json!(["blockferry", "status", "--quiet"]), "{probe}");
    }
}

#[test]
fn the_capabilities_are_those_of_the_unit_with_its_drop_in() {
    let named = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("AmbientCapabilities="));
        lines.flat_map(|line| line.split(' ').map(|name| name.replace("CAP_", ""))).collect()
    };
    let mut unit = named(&read("blockferry.service"));
    unit.extend(named(&read("drop-ins/owners.conf")));
    let line = read("kubernetes/daemonset.yaml");
    let line = line.lines().find_map(|line| line.trim().strip_prefix("add: [")).unwrap().to_owned();
    let added: BTreeSet<String> =
        line.trim_end_matches(']').split(", ").map(|name| name.trim_matches('"').into()).collect();
    assert_eq!(added, unit);
}

/// What the pods run, with the paths of this test in place of a node's.
#[test]
fn the_configuration_makes_a_node_of_a_fresh_disk() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blockferry.toml");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let text = read("kubernetes/blockferry.toml");
    std::fs::write(&file, text.replace("/var/lib/blockferry", state.to_str().unwrap())).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockferry"));
        command.env_clear().env("BLOCKFERRY_NODE_NAME", "worker-3").args(args);
        let output = command.arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let id = run(&["init", "--if-missing"]);
    assert_eq!(run(&["init", "--if-missing"]), id, "a pod that starts again is the same node");
    let shown: Value = serde_json::from_str(&run(&["id", "--json"])).unwrap();
    assert_eq!((&shown["name"], &shown["id"]), (&"worker-3".into(), &id.trim().into()));
    run(&["config", "check"]);
}
