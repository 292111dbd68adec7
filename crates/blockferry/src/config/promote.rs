//! `[promote]`: who must hold a generation before it may be promoted, and what is run afterwards.

use super::file::PromoteSection;
use super::settings::Reader;
use crate::args;
use blockferry_node::api::Require;
use blockferry_node::config::PromoteConfig;
use schemars::JsonSchema;
use serde::Deserialize;

/// `"all"`, a number of members, or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "TextOrNumberOrNames")]
#[schemars(with = "TextOrNumberOrNames", extend("examples" = ["all", 2, ["branch-02"]]))]
pub(crate) struct Requirement(pub(crate) Require);

/// A variable of the environment is always text.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"all\", a number or a list of names")]
enum TextOrNumberOrNames {
    Text(String),
    Number(i64),
    Names(Vec<String>),
}

impl TryFrom<TextOrNumberOrNames> for Requirement {
    type Error = String;

    fn try_from(value: TextOrNumberOrNames) -> Result<Requirement, String> {
        let text = match value {
            TextOrNumberOrNames::Text(text) => text,
            TextOrNumberOrNames::Number(number) if number < 1 => {
                return Err(format!("{number} members are always ready: 1 or more"));
            }
            TextOrNumberOrNames::Number(number) => number.to_string(),
            TextOrNumberOrNames::Names(names) => {
                return match Require::Peers(names) {
                    Require::Peers(names) if names.is_empty() => {
                        Err("an empty list requires nobody; leave the key out for all".into())
                    }
                    names => Ok(Requirement(names)),
                };
            }
        };
        args::require(&text).map(Requirement)
    }
}

impl Requirement {
    /// As it would be written.
    fn to_toml(&self) -> toml::Value {
        match &self.0 {
            Require::All => toml::Value::String("all".to_owned()),
            Require::Count(count) => toml::Value::Integer((*count).into()),
            Require::Peers(names) => {
                toml::Value::Array(names.iter().cloned().map(toml::Value::String).collect())
            }
        }
    }
}

impl Reader<'_> {
    /// The section, with each effective value noted.
    pub(super) fn promote(&mut self, raw: PromoteSection) -> PromoteConfig {
        let require = raw.require.unwrap_or_default();
        self.show(&["promote", "require"], require.to_toml());
        let at = ["promote", "hook_after"];
        if let Some(hook) = &raw.hook_after {
            self.text(&at, hook.display().to_string());
            if !hook.is_absolute() {
                let place = self.place(&at);
                self.complain(place, "a hook is an absolute path".to_owned());
            }
        }
        PromoteConfig { require: require.0, hook_after: raw.hook_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Require, String> {
        let table: toml::Table = toml::from_str(text).unwrap();
        let requirement = Requirement::deserialize(table["require"].clone());
        let requirement = requirement.map_err(|error| error.message().to_owned())?;
        assert_eq!(Requirement::deserialize(requirement.to_toml()).unwrap(), requirement);
        Ok(requirement.0)
    }

    #[test]
    fn requirements_have_three_forms() {
        let names = |list: &[&str]| Require::Peers(list.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(read("require = \"all\""), Ok(Require::All));
        assert_eq!(read("require = 2"), Ok(Require::Count(2)));
        assert_eq!(read("require = \"2\""), Ok(Require::Count(2)));
        assert_eq!(read("require = [\"a\", \"b\"]"), Ok(names(&["a", "b"])));
        assert_eq!(read("require = \"a,b\""), Ok(names(&["a", "b"])));
        for text in ["require = 0", "require = []", "require = true", "require = -1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
