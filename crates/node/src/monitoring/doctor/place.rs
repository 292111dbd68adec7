//! A store's directory: is it there, is it the store, on which file system, with how much room.
//!
//! Looked at by the running service for its stores, and without it for those of the configuration.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::api::Finding;
use crate::config::FreeMin;

/// The marker of a store, as `docs/format.md` has it.
const MARKER: &str = ".blockferry/store";
/// Room above what stays free that is little: the same once more, and at least this, in bytes.
const ROOM_BYTES_MIN: u64 = 1 << 30;
/// File systems over a network, and what they are called: the magic numbers of statfs(2).
const NETWORK: [(u32, &str); 9] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x7461_636f, "OCFS2"),
];
/// FUSE: what is behind it, nobody can say.
const FUSE: u32 = 0x6573_5546;

/// What a look at a store's directory has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the store.
    pub store: String,
    /// Its directory.
    pub path: PathBuf,
    /// Why it can't be looked at; `None`: it can.
    pub trouble: Option<String>,
    /// It holds the marker of a store.
    pub marked: bool,
    /// A store was, or is, in service here: then the marker must be there.
    pub known: bool,
    /// Mode of the directory, without its kind.
    pub mode: u32,
    /// What the file system is, by its magic number.
    pub file_system: u32,
    /// It is mounted for reading only.
    pub read_only: bool,
    /// Bytes that are free for us.
    pub free_bytes: u64,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that stay free whatever comes.
    pub least_bytes: u64,
}

/// Looks at a store's directory. Blocking; a dead mount may keep it.
pub fn look(store: &str, path: &Path, least: FreeMin, known: bool) -> Place {
    let mut place =
        Place { store: store.to_owned(), path: path.to_owned(), known, ..Place::default() };
    match std::fs::metadata(path) {
        Ok(info) if info.is_dir() => place.mode = info.permissions().mode() & 0o7777,
        Ok(_) => place.trouble = Some("it is no directory".to_owned()),
        Err(error) => place.trouble = Some(error.to_string()),
    }
    if place.trouble.is_some() {
        return place;
    }
    let marker = std::fs::metadata(path.join(MARKER));
    // Who may not look can't say that it isn't there.
    place.marked = marker.map_or_else(
        |error| error.kind() == std::io::ErrorKind::PermissionDenied,
        |info| info.is_file() && info.size() > 0,
    );
    if let Ok(stat) = rustix::fs::statfs(path) {
        // The kernel's numbers are of 32 bits, whatever the field's type.
        place.file_system = u32::try_from(stat.f_type & 0xffff_ffff).unwrap_or_default();
    }
    if let Ok(stat) = rustix::fs::statvfs(path) {
        place.read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        place.free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        place.total_bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
        place.least_bytes = least_bytes(least, place.total_bytes);
    }
    place
}

fn least_bytes(least: FreeMin, total_bytes: u64) -> u64 {
    match least {
        FreeMin::Bytes(bytes) => bytes,
        FreeMin::Percent(percent) => total_bytes / 100 * u64::from(percent.min(100)),
    }
}

/// What of it is a finding. Pure.
pub fn judge(place: &Place) -> Vec<Finding> {
    let about = format!("store {}", place.store);
    let path = place.path.display();
    if let Some(trouble) = &place.trouble {
        return vec![
            Finding::error("STORE_MISSING", about, format!("{path}: {trouble}"))
                .fix(format!("mount it, or correct stores.{}.path", place.store)),
        ];
    }
    if !place.marked && place.known {
        let text = format!("{path} holds no store any more: its marker {MARKER} is missing");
        return vec![Finding::error("STORE_MISSING", about, text).fix(format!(
            "mount the store's file system at {path}; if its data is really gone: blockferry store \
             rm {}, then add it again",
            place.store
        ))];
    }
    let mut found = Vec::new();
    if place.read_only {
        let text = format!("{path} is mounted for reading only");
        let fix = format!("mount -o remount,rw {path}");
        found.push(Finding::error("STORE_READ_ONLY", about.clone(), text).fix(fix));
    }
    if place.mode & 0o002 != 0 && place.mode & 0o1000 == 0 {
        let text = format!("{path}: everybody may write (mode {:04o})", place.mode);
        let fix = format!("chmod o-w {path}");
        found.push(Finding::warning("STORE_UNSAFE", about.clone(), text).fix(fix));
    }
    found.extend(file_system(place, &about));
    found.extend(room(place, &about));
    found
}

fn file_system(place: &Place, about: &str) -> Option<Finding> {
    let path = place.path.display();
    if let Some((_, name)) = NETWORK.iter().find(|(magic, _)| *magic == place.file_system) {
        let text = format!("{path} is on {name}, a network file system");
        return Some(Finding::warning("STORE_NETWORK", about, text));
    }
    (place.file_system == FUSE).then(|| {
        let text = format!("{path} is on FUSE: what it makes durable, and when, is its own affair");
        Finding::info("STORE_NETWORK", about, text)
    })
}

fn room(place: &Place, about: &str) -> Option<Finding> {
    let (free, least) = (place.free_bytes, place.least_bytes);
    if place.total_bytes == 0 {
        return None;
    }
    if free <= least {
        let missing = least - free;
        let text = format!(
            "{free} bytes are free, {least} stay so (limits.store_free_min): nothing is received"
        );
        let fix = format!("free {missing} bytes and what the images need; or lower the key");
        return Some(Finding::error("DISK_FULL", about, text).fix(fix));
    }
    let left = free - least;
    (left < least.max(ROOM_BYTES_MIN)).then(|| {
        let text = format!("{left} bytes are left above the {least} that stay free");
        Finding::warning("SPACE_LOW", about, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Severity;

    fn good() -> Place {
        Place {
            store: "vdisks".into(),
            path: "/srv/vdisks".into(),
            trouble: None,
            marked: true,
            known: true,
            mode: 0o750,
            file_system: 0x5846_5342,
            read_only: false,
            free_bytes: 1 << 40,
            total_bytes: 2 << 40,
            least_bytes: 1 << 37,
        }
    }

    /// The one finding about a place.
    fn only(place: &Place) -> Finding {
        let mut found = judge(place);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].fix.is_empty() && found[0].about == "store vdisks");
        found.remove(0)
    }

    #[test]
    fn a_good_one_is_none() {
        assert_eq!(judge(&good()), []);
        // Not made yet: that is no loss.
        assert_eq!(judge(&Place { marked: false, known: false, ..good() }), []);
    }

    #[test]
    fn a_directory_that_is_gone_and_one_that_is_not_mounted() {
        let gone = only(&Place { trouble: Some("No such file".into()), ..good() });
        assert_eq!((gone.code.as_str(), gone.severity), ("STORE_MISSING", Severity::Error));
        let bare = only(&Place { marked: false, ..good() });
        assert!(bare.code == "STORE_MISSING" && bare.message.contains("marker"), "{bare:?}");
    }

    #[test]
    fn read_only_and_writable_for_everybody() {
        assert_eq!(only(&Place { read_only: true, ..good() }).code, "STORE_READ_ONLY");
        let open = only(&Place { mode: 0o777, ..good() });
        assert!(open.code == "STORE_UNSAFE" && open.fix.starts_with("chmod o-w"), "{open:?}");
        assert_eq!(judge(&Place { mode: 0o1777, ..good() }), [], "sticky, as /tmp");
    }

    #[test]
    fn file_systems_over_a_network() {
        for (magic, name) in NETWORK {
            let found = only(&Place { file_system: magic, ..good() });
            assert!(found.code == "STORE_NETWORK" && found.message.contains(name), "{found:?}");
        }
        assert_eq!(only(&Place { file_system: FUSE, ..good() }).severity, Severity::Info);
    }

    #[test]
    fn room_that_is_gone_and_room_that_goes() {
        let least = good().least_bytes;
        let full = only(&Place { free_bytes: least - 5, ..good() });
        assert_eq!((full.code.as_str(), full.severity), ("DISK_FULL", Severity::Error));
        assert!(full.fix.starts_with("free 5 bytes"), "{}", full.fix);
        assert_eq!(only(&Place { free_bytes: least + 1, ..good() }).code, "SPACE_LOW");
        assert_eq!(judge(&Place { free_bytes: 2 * least, ..good() }), []);
        // What can't be asked is no finding.
        assert_eq!(judge(&Place { free_bytes: 0, total_bytes: 0, least_bytes: 0, ..good() }), []);
    }

    #[test]
    fn a_look_at_a_real_directory() {
        let dir = tempfile::tempdir().expect("temp dir");
        let look = |path: &Path, known| look("vdisks", path, FreeMin::Percent(1), known);
        let bare = look(dir.path(), true);
        assert!(bare.trouble.is_none() && !bare.marked && bare.total_bytes > 0, "{bare:?}");
        std::fs::create_dir(dir.path().join(".blockferry")).expect("made");
        std::fs::write(dir.path().join(MARKER), b"x").expect("written");
        assert!(look(dir.path(), true).marked);
        assert!(look(&dir.path().join("absent"), true).trouble.is_some());
        assert!(look(&dir.path().join(MARKER), true).trouble.is_some());
    }
}
