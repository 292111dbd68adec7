//! Where values come from: built-in, the file, `conf.d/*.toml`, the environment; the last wins.
//!
//! Each layer is cut into leaves (a dotted key, a value, a place) and laid over those before it.
//! The place survives to the end, so that every complaint can name file, line and column and
//! `config show --origin` can say where a value is from.

use super::known::{self, Shape};
use super::{Finding, Place};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Hexadecimal digits of a tag: 128 bits.
const TAG_DIGITS: usize = 32;

/// A key as a list of its parts.
pub(crate) type Key = Vec<String>;

/// One value and where it is written.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) value: toml::Value,
    pub(crate) place: Place,
    /// Of a list of tables: where each of them is.
    pub(crate) items: Vec<Place>,
}

impl Leaf {
    fn new(value: toml::Value, place: Place) -> Leaf {
        Leaf { value, place, items: Vec::new() }
    }
}

/// Texts that stand in the place of files.
pub(crate) type Texts = BTreeMap<PathBuf, String>;

/// The effective value of each key.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) leaves: BTreeMap<Key, Leaf>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) files: Vec<PathBuf>,
    /// What each of them said.
    pub(crate) texts: Texts,
}

impl Layers {
    /// The file, what is in `conf.d` beside it, and the environment.
    pub(crate) fn load(file: &Path, required: bool, environment: &[(String, String)]) -> Layers {
        Layers::load_with(file, required, environment, Texts::new())
    }

    /// The same as if these files said something else.
    pub(crate) fn load_with(
        file: &Path,
        required: bool,
        environment: &[(String, String)],
        mut instead: Texts,
    ) -> Layers {
        let shape = known::shape();
        let mut layers = Layers::default();
        let conf_d = conf_d(file, &mut layers.findings);
        let first = (required || file.exists()).then(|| file.to_owned());
        for path in first.into_iter().chain(conf_d) {
            let text = instead.remove(&path);
            layers.add_file(&path, text, &shape);
        }
        layers.add_environment(environment, &shape);
        layers
    }

    /// Which state of the files this is: the same for the same files with the same bytes.
    pub(crate) fn tag(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, text) in &self.texts {
            for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
        }
        hasher.finalize().to_hex().chars().take(TAG_DIGITS).collect()
    }

    /// One layer from text, as if it were a file.
    pub(crate) fn add_text(&mut self, name: &Path, text: &str, shape: &Shape) {
        match DeTable::parse(text) {
            Ok(table) => {
                let mut reader = Reader { name, text, layers: self };
                reader.table(&table.into_inner(), &mut Vec::new(), shape);
            }
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let place = Place::in_file(name, text, start);
                self.findings.push(Finding::new(place, error.message().to_owned()));
            }
        }
    }

    /// `text`: what stands in its place.
    fn add_file(&mut self, path: &Path, text: Option<String>, shape: &Shape) {
        self.files.push(path.to_owned());
        match text.map_or_else(|| read(path), Ok) {
            Ok(text) => {
                self.add_text(path, &text, shape);
                self.texts.insert(path.to_owned(), text);
            }
            Err(message) => {
                let place = Place::File { path: path.to_owned(), line: 0, column: 0 };
                let finding = Finding::new(place, message);
                self.findings.push(finding.with_help("make one with: blockferry init"));
            }
        }
    }

    fn add_environment(&mut self, environment: &[(String, String)], shape: &Shape) {
        for (name, text) in environment {
            let place = Place::Environment(name.clone());
            match known::environment_key(name, shape) {
                known::Variable::Ours { key, list } => {
                    let value = if list { split(text) } else { toml::Value::String(text.clone()) };
                    match known::check_value(&key, &value) {
                        Ok(()) => drop(self.leaves.insert(key, Leaf::new(value, place))),
                        Err(complaint) => {
                            self.findings.push(Finding::new(place, complaint.message))
                        }
                    }
                }
                known::Variable::Unknown { suggestion } => {
                    let finding = Finding::new(place, "no key has this name".to_owned());
                    self.findings.push(match suggestion {
                        Some(name) => finding.with_help(format!("did you mean {name}?")),
                        None => finding.with_help("unset it; keys: blockferry config schema"),
                    });
                }
                known::Variable::NotOurs => {}
            }
        }
    }
}

/// Every `BLOCKFERRY_*` variable that is set, in order of the names.
pub(crate) fn environment() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(known::ENVIRONMENT_PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect();
    found.sort();
    found
}

fn split(text: &str) -> toml::Value {
    let parts = text.split(',').map(|part| toml::Value::String(part.trim().to_owned()));
    toml::Value::Array(parts.collect())
}

pub(super) fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes, at most {FILE_BYTES_MAX}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))
}

fn conf_d(file: &Path, findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new(".")).join("conf.d");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let place = Place::File { path: directory, line: 0, column: 0 };
            findings.push(Finding::new(place, error.to_string()));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

/// Walks one parsed file along the known shape.
struct Reader<'a> {
    name: &'a Path,
    text: &'a str,
    layers: &'a mut Layers,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, key: &mut Key, shape: &Shape) {
        for (name, value) in table {
            key.push(name.get_ref().to_string());
            match shape.child(name.get_ref()) {
                Some(inner) => self.value(value, key, inner),
                None => self.unknown(name.span().start, key, shape),
            }
            key.pop();
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, key: &mut Key, shape: &Shape) {
        let start = value.span().start;
        match (value.get_ref(), shape) {
            (DeValue::Table(table), Shape::Table(_) | Shape::Map(_)) => {
                if table.is_empty() && key.len() > 1 {
                    self.leaf(key, toml::Value::Table(toml::Table::new()), start);
                }
                self.table(table, key, shape);
            }
            (DeValue::Array(items), Shape::Tables(shape)) => self.items(items, key, start, shape),
            (_, Shape::Tables(_)) => {
                let message = format!("{} must be a list of tables", known::dotted(key));
                let help = format!("write [[{}]]", known::dotted(key));
                self.complain(start, message, Some(help));
            }
            (_, Shape::Table(_) | Shape::Map(_)) => {
                let message = format!("{} must be a table", known::dotted(key));
                self.complain(start, message, None);
            }
            (_, Shape::Value { .. }) => {
                let value = ValueDeserializer::from(value.clone());
                match toml::Value::deserialize(value) {
                    Ok(value) => self.typed(key, value, start),
                    Err(error) => self.complain(start, error.message().to_owned(), None),
                }
            }
        }
    }

    /// A list of tables: each key is checked where it stands, the list is one leaf.
    fn items(&mut self, items: &[Spanned<DeValue<'_>>], key: &Key, start: usize, shape: &Shape) {
        let (mut values, mut places) = (Vec::new(), Vec::new());
        for item in items {
            let at = item.span().start;
            places.push(Place::in_file(self.name, self.text, at));
            let DeValue::Table(table) = item.get_ref() else {
                self.complain(at, format!("{} must hold tables", known::dotted(key)), None);
                continue;
            };
            let mut taken = toml::Table::new();
            for (name, value) in table {
                let (name, start) = (name.get_ref().to_string(), name.span().start);
                if shape.child(&name).is_none() {
                    let key: Key = key.iter().cloned().chain([name]).collect();
                    self.unknown(start, &key, shape);
                } else if let Some(value) = self.item(value, key, &name) {
                    taken.insert(name, value);
                }
            }
            values.push(toml::Value::Table(taken));
        }
        let place = Place::in_file(self.name, self.text, start);
        let leaf = Leaf { value: toml::Value::Array(values), place, items: places };
        self.layers.leaves.insert(key.clone(), leaf);
    }

    /// One value of a table in a list, if it is right on its own.
    fn item(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        list: &Key,
        name: &str,
    ) -> Option<toml::Value> {
        let start = value.span().start;
        match toml::Value::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => match known::check_item(list, name, &value) {
                Ok(()) => return Some(value),
                Err(complaint) => self.complain(start, complaint.message, complaint.help),
            },
            Err(error) => self.complain(start, error.message().to_owned(), None),
        }
        None
    }

    /// Takes the leaf if its type and content are right on their own.
    fn typed(&mut self, key: &Key, value: toml::Value, start: usize) {
        match known::check_value(key, &value) {
            Ok(()) => self.leaf(key, value, start),
            Err(complaint) => self.complain(start, complaint.message, complaint.help),
        }
    }

    fn leaf(&mut self, key: &Key, value: toml::Value, start: usize) {
        let place = Place::in_file(self.name, self.text, start);
        self.layers.leaves.insert(key.clone(), Leaf::new(value, place));
    }

    fn unknown(&mut self, start: usize, key: &Key, shape: &Shape) {
        let complaint = known::unknown_key(key, shape);
        self.complain(start, complaint.message, complaint.help);
    }

    fn complain(&mut self, start: usize, message: String, help: Option<String>) {
        let finding = Finding::new(Place::in_file(self.name, self.text, start), message);
        self.layers.findings.push(match help {
            Some(help) => finding.with_help(help),
            None => finding,
        });
    }
}
