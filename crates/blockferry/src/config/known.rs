//! Which keys there are: read off the schema of `file`, so that there is one list of them.
//!
//! Also what a wrong key was probably meant to be: a setting that does nothing must not look as if it
//! did.

use super::file::ConfigFile;
use super::layers::Key;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What every environment variable of ours starts with.
pub(crate) const ENVIRONMENT_PREFIX: &str = "BLOCKFERRY_";

/// Variables that are ours but are no keys.
const OTHER_VARIABLES: &[&str] = &["BLOCKFERRY_CONFIG"];

/// The tree of known keys.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A table with these keys.
    Table(BTreeMap<String, Shape>),
    /// A table with names of the user's choice.
    Map(Box<Shape>),
    /// A list of tables with these keys.
    Tables(Box<Shape>),
    /// A value; a list or a single one.
    Value { list: bool },
}

impl Shape {
    pub(crate) fn child(&self, name: &str) -> Option<&Shape> {
        match self {
            Shape::Table(keys) => keys.get(name),
            Shape::Map(inner) | Shape::Tables(inner) => Some(inner),
            Shape::Value { .. } => None,
        }
    }

    fn from_schema(schema: &Value) -> Shape {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let keys =
                properties.iter().map(|(name, schema)| (name.clone(), Shape::from_schema(schema)));
            return Shape::Table(keys.collect());
        }
        if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            return Shape::Map(Box::new(Shape::from_schema(inner)));
        }
        match schema.get("items") {
            Some(items) if items.get("properties").is_some() => {
                Shape::Tables(Box::new(Shape::from_schema(items)))
            }
            items => Shape::Value { list: items.is_some() },
        }
    }
}

/// What is wrong with a key or a value, and what may help.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// The JSON Schema of the configuration file.
pub(crate) fn schema() -> Value {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<ConfigFile>()
        .to_value()
}

/// The tree of known keys.
pub(crate) fn shape() -> Shape {
    Shape::from_schema(&schema())
}

/// A key as it is written on one line.
pub(crate) fn dotted(key: &[String]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let part = |part: &String| {
        let plain = !part.is_empty() && part.chars().all(bare);
        if plain { part.clone() } else { format!("{part:?}") }
    };
    key.iter().map(part).collect::<Vec<_>>().join(".")
}

/// Why a key is refused.
pub(crate) fn unknown_key(key: &[String], parent: &Shape) -> Complaint {
    let name = key.last().map_or("", String::as_str);
    let keys: Vec<&str> = match parent {
        Shape::Table(keys) => keys.keys().map(String::as_str).collect(),
        Shape::Map(_) | Shape::Tables(_) | Shape::Value { .. } => Vec::new(),
    };
    let help = match closest(name, keys.iter().copied()) {
        Some(closest) => format!("did you mean {closest}?"),
        None => format!("known here: {}", keys.join(", ")),
    };
    Complaint { message: format!("unknown key {}", dotted(key)), help: Some(help) }
}

/// Reads one value on its own, as if it were all there is in the file.
pub(crate) fn check_value(key: &[String], value: &toml::Value) -> Result<(), Complaint> {
    let alone = nest(key, value.clone());
    ConfigFile::deserialize(alone).map(drop).map_err(|error| Complaint {
        message: format!("{}: {}", dotted(key), error.message()),
        help: None,
    })
}

/// Reads one key of a table in a list on its own.
pub(crate) fn check_item(list: &[String], key: &str, value: &toml::Value) -> Result<(), Complaint> {
    let mut item = toml::Table::new();
    item.insert(key.to_owned(), value.clone());
    let items = toml::Value::Array(vec![toml::Value::Table(item)]);
    ConfigFile::deserialize(nest(list, items)).map(drop).map_err(|error| Complaint {
        message: format!("{}.{key}: {}", dotted(list), error.message()),
        help: None,
    })
}

/// A table that holds nothing but this key.
fn nest(key: &[String], value: toml::Value) -> toml::Value {
    key.iter().rev().fold(value, |inner, part| {
        let mut table = toml::Table::new();
        table.insert(part.clone(), inner);
        toml::Value::Table(table)
    })
}

/// What an environment variable is to us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    /// It sets this key; a list is separated by commas.
    Ours { key: Key, list: bool },
    /// It looks as if it should, but there is no such key.
    Unknown { suggestion: Option<String> },
    /// Somebody else's: Kubernetes sets `BLOCKFERRY_PORT` and the like for a service of our name.
    NotOurs,
}

/// Which key a variable sets: `BLOCKFERRY_LIMITS_SEND` is `limits.send`. Only sections with fixed
/// keys can be set so.
pub(crate) fn environment_key(name: &str, shape: &Shape) -> Variable {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { return Variable::NotOurs };
    let Shape::Table(sections) = shape else { return Variable::NotOurs };
    if OTHER_VARIABLES.contains(&name) {
        return Variable::NotOurs;
    }
    let mut names = Vec::new();
    for (section, inner) in sections {
        let Shape::Table(keys) = inner else { continue };
        for (key, shape) in keys {
            // A table within a section is for files.
            if !matches!(shape, Shape::Value { .. }) {
                continue;
            }
            let variable = format!("{}_{}", section.to_uppercase(), key.to_uppercase());
            if variable == rest {
                let list = matches!(shape, Shape::Value { list: true });
                return Variable::Ours { key: vec![section.clone(), key.clone()], list };
            }
            names.push(variable);
        }
    }
    let section = rest.split('_').next().unwrap_or_default().to_lowercase();
    match (sections.get(&section), closest(rest, names.iter().map(String::as_str))) {
        (Some(_), suggestion) => {
            let suggestion = suggestion.map(|name| format!("{ENVIRONMENT_PREFIX}{name}"));
            Variable::Unknown { suggestion }
        }
        (None, _) => Variable::NotOurs,
    }
}

/// The candidate with the fewest differing letters, if they are few.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let few = |candidate: &str| (candidate.len().max(name.len()) / 2).clamp(1, 3);
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= few(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row.first().copied().unwrap_or_default();
        let mut before = i + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (to, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            before = replaced.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn distances() {
        for (left, right, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("setle", "settle", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
            assert_eq!(distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn shape_has_sections_maps_and_lists() {
        let shape = shape();
        let node = shape.child("node").unwrap();
        assert!(matches!(node.child("listen"), Some(Shape::Value { list: true })));
        assert!(matches!(node.child("name"), Some(Shape::Value { list: false })));
        assert!(node.child("nmae").is_none());
        let store = shape.child("stores").unwrap().child("any").unwrap();
        assert!(matches!(store.child("include"), Some(Shape::Value { list: true })));
        assert!(matches!(store.child("role"), Some(Shape::Value { list: false })));
    }

    #[test]
    fn unknown_keys() {
        let shape = shape();
        let complaint = unknown_key(&key("nod"), &shape);
        assert_eq!(complaint.help.unwrap(), "did you mean node?");
        let complaint = unknown_key(&key("limits.memry"), shape.child("limits").unwrap());
        assert_eq!(complaint.help.unwrap(), "did you mean memory?");
        let store = shape.child("stores").unwrap().child("x").unwrap();
        let complaint = unknown_key(&key("stores.x.quux"), store);
        assert!(complaint.help.unwrap().contains("keep_generations"));
    }

    #[test]
    fn environment_names() {
        let shape = shape();
        let send = Variable::Ours { key: key("limits.send"), list: false };
        assert_eq!(environment_key("BLOCKFERRY_LIMITS_SEND", &shape), send);
        let listen = Variable::Ours { key: key("node.listen"), list: true };
        assert_eq!(environment_key("BLOCKFERRY_NODE_LISTEN", &shape), listen);
        let wrong = Variable::Unknown { suggestion: Some("BLOCKFERRY_LIMITS_SEND".into()) };
        assert_eq!(environment_key("BLOCKFERRY_LIMITS_SENT", &shape), wrong);
        for name in ["BLOCKFERRY_CONFIG", "BLOCKFERRY_SERVICE_HOST", "BLOCKFERRY_PORT_7700_UDP"] {
            assert_eq!(environment_key(name, &shape), Variable::NotOurs, "{name}");
        }
    }
}
