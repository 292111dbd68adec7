//! Judge: which facts around a node are findings. Pure: facts in, findings out.

use super::{FileFacts, Machine, Purpose, Unit};
use crate::config::Finding as ConfigFinding;
use blockferry_node::api::{Finding, Severity};
use blockferry_node::budget::SOCKET_BUFFER_BYTES;
use blockferry_node::monitoring::doctor::place;

/// What the unit of `deploy/` sets and one that is installed should, too.
const HARDENING: [&str; 12] = [
    "CapabilityBoundingSet",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateTmp",
    "ProtectHome",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectSystem",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "SystemCallFilter",
];
/// The least that inotify should grant a user: one watch a store, and other programs want some.
const INOTIFY_LEAST: [(&str, u64); 2] =
    [("fs.inotify.max_user_instances", 128), ("fs.inotify.max_user_watches", 8192)];

/// All that is a finding.
pub(crate) fn judge(machine: &Machine) -> Vec<Finding> {
    let mut found: Vec<Finding> = machine.files.iter().filter_map(mode).collect();
    found.extend(owners(&machine.files));
    found.extend(identity(machine));
    found.extend(buffers(machine));
    found.extend(inotify(machine));
    found.extend(machine.unit.as_ref().and_then(unit));
    found.extend(machine.unresolved.iter().map(unresolved));
    found.extend(machine.stores.iter().flat_map(place::judge));
    found
}

/// What is wrong with the configuration.
pub(crate) fn configuration(findings: &[ConfigFinding]) -> Vec<Finding> {
    let of = |finding: &ConfigFinding| {
        let (place, text) = (finding.place.to_string(), finding.message.clone());
        let found = Finding::error("CONFIG_ERROR", place, text);
        match &finding.help {
            Some(help) => found.fix(help.clone()),
            None => found,
        }
    };
    findings.iter().map(of).collect()
}

fn mode(file: &FileFacts) -> Option<Finding> {
    let (bad, wanted, why, severity) = match file.purpose {
        Purpose::Key => (0o077, "0600", "others may be this node", Severity::Error),
        Purpose::Private => (0o077, "u=rwX,go=", "others may look in", Severity::Warning),
        Purpose::Deciding => {
            (0o002, "o-w", "everybody may change what the service does", Severity::Error)
        }
        Purpose::Socket => (0o007, "0660", "everybody may command the service", Severity::Error),
    };
    if file.mode & bad == 0 {
        return None;
    }
    let path = file.path.display().to_string();
    let text = format!("mode {:04o}: {why}", file.mode);
    let code = if file.purpose == Purpose::Key { "KEY_UNSAFE" } else { "FILE_UNSAFE" };
    let found = match severity {
        Severity::Error => Finding::error(code, path.clone(), text),
        _ => Finding::warning(code, path.clone(), text),
    };
    Some(found.fix(format!("chmod {wanted} {path}")))
}

/// The service made its socket: what it must write must be its own.
fn owners(files: &[FileFacts]) -> Vec<Finding> {
    let Some(socket) = files.iter().find(|file| file.purpose == Purpose::Socket) else {
        return Vec::new();
    };
    let user = socket.owner;
    // The superuser reads and writes what belongs to others.
    let foreign = |file: &&FileFacts| {
        user != 0 && file.owner != user && matches!(file.purpose, Purpose::Private | Purpose::Key)
    };
    let of = |file: &FileFacts| {
        let path = file.path.display().to_string();
        let text = format!("belongs to user {}, the service runs as user {user}", file.owner);
        Finding::error("FILE_UNSAFE", path.clone(), text).fix(format!("chown {user} {path}"))
    };
    files.iter().filter(foreign).map(of).collect()
}

fn identity(machine: &Machine) -> Option<Finding> {
    let id = match machine.identity.as_ref()? {
        Ok(id) => id,
        // Its mode is a finding of its own.
        Err(error) if error.code == "KEY_UNSAFE" => return None,
        Err(error) => return Some(Finding::error(&error.code, "node", error.message.clone())),
    };
    let running = machine.running_id.as_ref().filter(|running| *running != id)?;
    let short = |id: &str| id.chars().take(8).collect::<String>();
    let (running, id) = (short(running), short(id));
    let text = format!("the service runs as {running}, the key file is that of {id}");
    Some(Finding::error("IDENTITY_CHANGED", "node", text))
}

fn buffers(machine: &Machine) -> Option<Finding> {
    let wanted = SOCKET_BUFFER_BYTES as u64;
    let small = ["net.core.rmem_max", "net.core.wmem_max"]
        .into_iter()
        .filter_map(|key| Some((key, *machine.kernel.get(key)?)))
        .filter(|(_, bytes)| *bytes < wanted);
    let small: Vec<(&str, u64)> = small.collect();
    let least = small.iter().map(|(_, bytes)| *bytes).min()?;
    let text = format!(
        "the kernel grants UDP sockets buffers of {least} bytes, {wanted} are wanted: packets are \
         dropped on long, fast links"
    );
    let keys: Vec<String> = small.iter().map(|(key, _)| format!("{key}={wanted}")).collect();
    let fix = format!("sysctl -w {} (and into /etc/sysctl.d, to stay)", keys.join(" "));
    Some(Finding::warning("SMALL_BUFFERS", "node", text).fix(fix))
}

fn inotify(machine: &Machine) -> Option<Finding> {
    let read = |(key, least): (&'static str, u64)| Some((key, *machine.kernel.get(key)?, least));
    let mut small = INOTIFY_LEAST.into_iter().filter_map(read).filter(|(_, is, least)| is < least);
    let (key, is, least) = small.next()?;
    let text = format!("{key} is {is}, less than {least}: watches may be refused");
    Some(Finding::info("INOTIFY_LIMIT", "node", text))
}

fn unit(unit: &Unit) -> Option<Finding> {
    let set = |key: &str| {
        let value = unit.settings.get(key).map(|value| value.to_ascii_lowercase());
        value.is_some_and(|value| !matches!(value.as_str(), "" | "no" | "false" | "0" | "off"))
    };
    let lacks: Vec<&str> = HARDENING.into_iter().filter(|key| !set(key)).collect();
    if lacks.is_empty() {
        return None;
    }
    let text = format!("lacks {}", lacks.join(", "));
    Some(Finding::warning("UNIT_OPEN", unit.path.display().to_string(), text))
}

fn unresolved((peer, address, why): &(String, String, String)) -> Finding {
    let text = format!("{address} leads nowhere: {why}");
    let fix = format!("mend the name, or: blockferry peer set {peer} address=HOST:PORT");
    Finding::warning("NO_ADDRESS", format!("peer {peer}"), text).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::AdminError;

    fn file(purpose: Purpose, mode: u32, owner: u32) -> FileFacts {
        FileFacts { path: format!("/x/{purpose:?}").into(), purpose, mode, owner }
    }

    fn good() -> Machine {
        Machine {
            files: vec![
                file(Purpose::Private, 0o700, 7),
                file(Purpose::Key, 0o600, 7),
                file(Purpose::Deciding, 0o644, 0),
                file(Purpose::Socket, 0o660, 7),
            ],
            identity: Some(Ok("AAAABBBBCCCC".into())),
            running_id: Some("AAAABBBBCCCC".into()),
            kernel: [
                ("fs.inotify.max_user_instances", 128),
                ("fs.inotify.max_user_watches", 8192),
                ("net.core.rmem_max", 8 << 20),
                ("net.core.wmem_max", 8 << 20),
            ]
            .into(),
            unit: Some(Unit {
                path: "/etc/systemd/system/blockferry.service".into(),
                settings: HARDENING.map(|key| (key.to_owned(), "yes".to_owned())).into(),
            }),
            unresolved: vec![],
            stores: vec![],
        }
    }

    /// The one finding about a machine.
    fn only(machine: &Machine) -> Finding {
        let mut found = judge(machine);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].fix.is_empty(), "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_sound_machine_has_none() {
        assert_eq!(judge(&good()), []);
        assert_eq!(judge(&Machine::default()), [], "nothing known is nothing found");
    }

    #[test]
    fn files_that_are_too_open() {
        for (at, mode, code, severity) in [
            (0, 0o750, "FILE_UNSAFE", Severity::Warning),
            (1, 0o640, "KEY_UNSAFE", Severity::Error),
            (2, 0o666, "FILE_UNSAFE", Severity::Error),
            (3, 0o666, "FILE_UNSAFE", Severity::Error),
        ] {
            let mut machine = good();
            machine.files[at].mode = mode;
            let found = only(&machine);
            assert_eq!((found.code.as_str(), found.severity), (code, severity), "{mode:o}");
            assert!(found.fix.starts_with("chmod ") && found.about.starts_with("/x/"), "{found:?}");
        }
    }

    #[test]
    fn files_of_another_user() {
        let mut machine = good();
        machine.files[0].owner = 0;
        let found = only(&machine);
        assert!(found.code == "FILE_UNSAFE" && found.fix.starts_with("chown 7 "), "{found:?}");
        // As the superuser the service may use what is others'.
        machine.files.iter_mut().for_each(|file| file.owner = 9);
        machine.files[3].owner = 0;
        assert_eq!(judge(&machine), []);
        // Without a socket nobody knows who it runs as.
        let mut machine = good();
        machine.files[0].owner = 0;
        machine.files.pop();
        assert_eq!(judge(&machine), []);
    }

    #[test]
    fn the_key() {
        let mut machine = good();
        machine.identity = Some(Err(AdminError::new("KEY_INVALID", "no key in it")));
        assert_eq!(only(&machine).code, "KEY_INVALID");
        machine.identity = None;
        assert_eq!(judge(&machine), [], "who may not look can't say");
        machine.identity = Some(Ok("ZZZZ".into()));
        let found = only(&machine);
        assert!(
            found.code == "IDENTITY_CHANGED" && found.message.contains("AAAABBBB"),
            "{found:?}"
        );
        machine.running_id = None;
        assert_eq!(judge(&machine), []);
    }

    #[test]
    fn limits_of_the_kernel() {
        let mut machine = good();
        machine.kernel.insert("net.core.wmem_max", 212_992);
        let found = only(&machine);
        assert_eq!(
            found.fix,
            "sysctl -w net.core.wmem_max=8388608 (and into /etc/sysctl.d, to stay)"
        );
        let mut machine = good();
        machine.kernel.insert("fs.inotify.max_user_watches", 8191);
        let found = only(&machine);
        assert!(found.code == "INOTIFY_LIMIT" && found.message.contains("8191"), "{found:?}");
    }

    #[test]
    fn a_unit_without_its_hardening() {
        let mut machine = good();
        let unit = machine.unit.as_mut().unwrap();
        unit.settings.remove("ProtectSystem");
        unit.settings.insert("PrivateTmp".into(), "no".into());
        unit.settings.insert("SystemCallFilter".into(), String::new());
        let found = only(&machine);
        assert_eq!(found.code, "UNIT_OPEN");
        assert_eq!(found.message, "lacks PrivateTmp, ProtectSystem, SystemCallFilter");
    }

    #[test]
    fn the_unit_of_deploy_has_it_all() {
        let text = include_str!("../../../../deploy/blockferry.service");
        let settings = super::super::service_settings(text);
        assert_eq!(unit(&Unit { path: "x".into(), settings }), None);
    }

    #[test]
    fn names_that_lead_nowhere() {
        let mut machine = good();
        machine.unresolved = vec![("branch-07".into(), "b.example:7700".into(), "no such".into())];
        let found = only(&machine);
        assert_eq!((found.code.as_str(), found.about.as_str()), ("NO_ADDRESS", "peer branch-07"));
        assert!(found.fix.contains("peer set branch-07 address="), "{}", found.fix);
    }
}
