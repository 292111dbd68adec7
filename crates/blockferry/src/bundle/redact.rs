//! Redact: what of an object or a text may be seen. Pure; what it doesn't know it takes out.
//!
//! Objects: numbers and truth values stay; a text stays if its field is on the list, and is searched
//! even then. Texts: what has the form of one of our secrets, and whatever looks like random characters,
//! goes; ids that are known are cut short, names that are known stay.

use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::BTreeSet;

const GONE: &str = "[redacted]";
/// Characters of an id that stay: enough to tell two apart.
const ID_CHARS: usize = 8;
/// Characters of a root that stay.
const ROOT_CHARS: usize = 12;
/// From this length on letters and digits in one piece, with digits among them, are no word.
const PIECE_CHARS_MAX: usize = 32;
/// From this length on a text that changes often between letters and digits is looked upon as random.
const RANDOM_CHARS_MIN: usize = 20;
/// A part of a path with fewer changes is a word.
const PART_CHANGES: usize = 3;
/// Letters and digits in one piece of this length are no word, whatever they are.
const PIECE_CHARS_NEVER: usize = 40;
/// Words after which a secret follows.
const ANNOUNCED: [&str; 8] =
    ["bearer", "basic", "password", "passwd", "secret", "token", "ticket", "authorization"];

/// Fields whose texts may be seen.
const SEEN: &[&str] = &[
    "about",
    "addresses",
    "at",
    "author",
    "because",
    "bitmap",
    "by",
    "code",
    "commit_mode",
    "conflicts",
    "contents",
    "discover",
    "eta",
    "expires",
    "file_system",
    "finish",
    "fix",
    "fits",
    "holder",
    "image",
    "images",
    "kernel",
    "key",
    "kind",
    "lane",
    "limit_until",
    "limited_by",
    "listen",
    "machine",
    "memory",
    "message",
    "mirrors",
    "name",
    "node",
    "order",
    "path",
    "peer",
    "peers",
    "reason",
    "receipts",
    "recorded",
    "remedy",
    "require",
    "role",
    "schedule",
    "schema",
    "set",
    "severity",
    "since",
    "state",
    "store",
    "stores",
    "system",
    "time",
    "trouble",
    "until",
    "value",
    "version",
    "window",
    "zone",
];

/// Settings whose values may be seen; `*` stands for a name.
const SETTINGS: &[&str] = &[
    "version",
    "node.*",
    "limits.*",
    "log.*",
    "promote.*",
    "admin.socket",
    "admin.http",
    "admin.hosts",
    "admin.tls.cert",
    "admin.tls.key",
    "admin.tokens.*.scope",
    "stores.*.*",
    "peers.*.address",
    "peers.*.stores",
    "peers.*.mirrors",
    "peers.*.compression",
    "peers.*.send",
    "peers.*.schedule",
    "peers.*.weight",
    "peers.*.polite",
    "schedules.*.*",
];

/// Takes out what must not be seen, and counts.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    ids: BTreeSet<String>,
    names: BTreeSet<String>,
    count: Cell<u64>,
}

impl Redactor {
    /// An id that is no secret: it is cut short wherever it stands.
    pub(crate) fn know_id(&mut self, id: &str) {
        if id.len() > ID_CHARS {
            self.ids.insert(id.to_owned());
        }
    }

    /// A name that may be seen, however it looks.
    pub(crate) fn know_name(&mut self, name: &str) {
        if !is_ours(name) {
            self.names.insert(name.to_owned());
        }
    }

    /// How much was taken out so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// An object with what may be seen of it.
    pub(crate) fn object(&self, value: &Value) -> Value {
        self.field("", value)
    }

    fn field(&self, name: &str, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| {
                    // A key may be a name of somebody's choice, or worse.
                    (self.text(name), self.field(name, value))
                });
                Value::Object(fields.collect::<Map<String, Value>>())
            }
            Value::Array(items) => items.iter().map(|item| self.field(name, item)).collect(),
            Value::String(text) => Value::String(self.string(name, text)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn string(&self, field: &str, text: &str) -> String {
        match field {
            "id" | "peer_id" => cut(text, ID_CHARS),
            "root" => cut(text, ROOT_CHARS),
            _ if SEEN.contains(&field) => self.text(text),
            _ => self.gone(),
        }
    }

    /// The value of a setting, if it may be seen.
    pub(crate) fn setting(&self, key: &str, value: &toml::Value) -> Value {
        let parts: Vec<&str> = key.split('.').collect();
        let value = serde_json::to_value(value).unwrap_or_default();
        if matches!(parts.as_slice(), ["peers", _, "id"]) {
            return Value::String(cut(value.as_str().unwrap_or_default(), ID_CHARS));
        }
        if SETTINGS.iter().any(|pattern| matches(pattern, &parts)) {
            return self.searched(&value);
        }
        Value::String(self.gone())
    }

    /// A value whose texts may all be seen, but for what looks like a secret.
    fn searched(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().map(|(k, v)| (self.text(k), self.searched(v)));
                Value::Object(fields.collect::<Map<String, Value>>())
            }
            Value::Array(items) => items.iter().map(|item| self.searched(item)).collect(),
            Value::String(text) => Value::String(self.text(text)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn gone(&self) -> String {
        self.count.set(self.count.get() + 1);
        GONE.to_owned()
    }

    /// A text without what looks like a secret.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut inside_pem = false;
        for line in text.split_inclusive('\n') {
            let (body, end) = match line.strip_suffix('\n') {
                Some(body) => (body, "\n"),
                None => (line, ""),
            };
            if inside_pem || body.contains("-----BEGIN") {
                let begins = !inside_pem;
                inside_pem = !body.contains("-----END");
                if begins {
                    out.push_str(&self.gone());
                    out.push_str(end);
                }
                continue;
            }
            self.line(body, &mut out);
            out.push_str(end);
        }
        out
    }

    fn line(&self, line: &str, out: &mut String) {
        let mut announced = false;
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.find(is_word).unwrap_or(rest.len());
            let (between, after) = rest.split_at(end);
            out.push_str(between);
            let end = after.find(|c| !is_word(c)).unwrap_or(after.len());
            let (word, after) = after.split_at(end);
            if !word.is_empty() {
                self.word(word, announced, out);
                let lower = word.trim_matches(['-', '_']).to_ascii_lowercase();
                announced = ANNOUNCED.contains(&lower.as_str());
            }
            rest = after;
        }
    }

    fn word(&self, word: &str, announced: bool, out: &mut String) {
        // A file name may end in a dot and a word.
        let bare = word.trim_matches(['.', '/', '-', '_', '+']);
        if let Some(id) = self.ids.get(bare) {
            out.push_str(&word.replace(bare, &cut(id, ID_CHARS)));
        } else if is_ours(bare) || (announced && is_secretive(bare)) {
            out.push_str(&self.gone());
        } else if self.names.contains(bare) || !is_random(bare) {
            out.push_str(word);
        } else if let Some(last) = self.known_part(bare) {
            out.push_str(&word.replace(bare, &last));
        } else {
            out.push_str(&self.gone());
        }
    }

    /// Of a path whose parts are each known or harmless, all; `None`: some part isn't.
    fn known_part(&self, word: &str) -> Option<String> {
        let parts: Vec<&str> = word.split('/').collect();
        let harmless = |part: &&str| {
            let word = !is_random(part) && changes(part) < PART_CHANGES;
            word || self.names.contains(*part) || self.ids.contains(*part)
        };
        if parts.len() < 2 || !parts.iter().all(harmless) {
            return None;
        }
        let shown = parts.iter().map(|part| match self.ids.get(*part) {
            Some(id) => cut(id, ID_CHARS),
            None => (*part).to_owned(),
        });
        Some(shown.collect::<Vec<_>>().join("/"))
    }
}

/// What a secret may be written with.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/_-.".contains(c)
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn matches(pattern: &str, parts: &[&str]) -> bool {
    let mut pattern = pattern.split('.');
    let fits = parts.iter().all(|part| pattern.next().is_some_and(|p| p == "*" || p == *part));
    fits && pattern.next().is_none()
}

/// Is it a token, the hash of one, or a ticket?
fn is_ours(word: &str) -> bool {
    let long = word.len() >= 12;
    let lower = word.to_ascii_lowercase();
    long && (lower.contains("bft_") || lower.starts_with("bf1"))
}

/// After a word that announces a secret less is taken for harmless.
fn is_secretive(word: &str) -> bool {
    word.len() >= 8 && word.bytes().any(|b| b.is_ascii_digit())
}

/// Does it look like random characters: a hash, a key, a ticket?
fn is_random(word: &str) -> bool {
    let digits = word.bytes().any(|b| b.is_ascii_digit());
    let pieces = word.split(|c: char| !c.is_ascii_alphanumeric());
    let one_piece = |piece: &str| {
        let upper = piece.bytes().all(|b| b.is_ascii_uppercase());
        let digits = piece.bytes().any(|b| b.is_ascii_digit());
        let letters = piece.bytes().any(|b| b.is_ascii_alphabetic());
        let random = piece.len() >= PIECE_CHARS_MAX && letters && (digits || upper);
        random || piece.len() >= PIECE_CHARS_NEVER
    };
    if pieces.into_iter().any(one_piece) {
        return true;
    }
    word.len() >= RANDOM_CHARS_MIN && digits && changes(word) * 5 >= word.len()
}

/// How often the kind of character changes: small letter, capital, digit. Others say nothing.
fn changes(word: &str) -> usize {
    let kind = |b: u8| match b {
        b'a'..=b'z' => Some(0),
        b'A'..=b'Z' => Some(1),
        b'0'..=b'9' => Some(2),
        _ => None,
    };
    let kinds: Vec<u8> = word.bytes().filter_map(kind).collect();
    kinds.windows(2).filter(|pair| pair.first() != pair.last()).count()
}

#[cfg(test)]
mod tests;
