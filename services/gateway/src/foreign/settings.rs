//! `[gateway.contract]`: the contract to serve, and settings for everything that its options do not define.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;
use souk_common::{
    config::duration,
    contract::{AccessRule, Contract, RateClass, Roles},
};

use super::HeaderList;
use crate::{openapi::About, transcode::lenient::Leniency};

/// The settings of `[gateway.contract]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Path of the descriptor file. Empty: none.
    pub descriptors: String,
    /// True if the gateway reads the descriptors from the backends by reflection.
    pub reflection: bool,
    /// Title of the API in the OpenAPI document and the index. Empty: derived from the packages.
    pub title: String,
    /// Version of the API in the OpenAPI document.
    pub version: String,
    /// Who may call a method if neither the contract nor `methods` defines it.
    #[serde(deserialize_with = "unset")]
    pub access: Option<Access>,
    /// True if the services check `authorization` themselves.
    pub pass_authorization: bool,
    /// Request headers that are forwarded to the services.
    pub request_headers: HeaderList,
    /// Response metadata of the services that clients get as headers.
    pub response_headers: HeaderList,
    /// Rules that are relaxed.
    pub lenient: Lenient,
    /// Rules for packages, services and methods.
    pub methods: Rules,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Anyone.
    Public,
    /// Anyone with a valid token of souk.
    SignedIn,
    /// Nobody: the method is not served.
    Deny,
}

/// The settings of `[gateway.contract.lenient]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lenient {
    all: bool,
    unknown_parameters: bool,
    system_parameters: bool,
    undeclared_body: bool,
    omit_defaults: bool,
    raw_bodies: bool,
}

impl Lenient {
    /// The rules that these settings relax.
    pub fn leniency(self) -> Leniency {
        if self.all {
            return Leniency::ALL;
        }
        Leniency {
            unknown_parameters: self.unknown_parameters,
            system_parameters: self.system_parameters,
            undeclared_body: self.undeclared_body,
            omit_defaults: self.omit_defaults,
            raw_bodies: self.raw_bodies,
        }
    }
}

impl Settings {
    /// True if the contract is not souk's own.
    pub fn is_foreign(&self) -> bool {
        self.reflection || !self.descriptors.is_empty()
    }

    /// Returns the name of an invalid setting and its valid values.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.reflection && !self.descriptors.is_empty() {
            return Some((
                "reflection",
                "must be false where gateway.contract.descriptors names a file: one of the two",
            ));
        }
        let only_for_foreign = [
            ("title", !self.title.is_empty()),
            ("version", !self.version.is_empty()),
            ("access", self.access.is_some()),
            ("pass_authorization", self.pass_authorization),
            ("request_headers", !self.request_headers.is_empty()),
            ("response_headers", !self.response_headers.is_empty()),
            ("lenient", self.lenient.leniency() != Leniency::default()),
            ("methods", self.methods.names().next().is_some()),
        ];
        let unused = only_for_foreign.into_iter().find(|(_, given)| *given && !self.is_foreign());
        unused.map(|(name, _)| {
            (name, "is for contracts of your own: set gateway.contract.descriptors (--descriptors) or .reflection, too")
        })
    }

    /// The title, version and description of a contract.
    pub fn about(&self, contract: &Contract) -> About {
        let mut packages: Vec<_> = contract.methods().map(|method| package(&method.service).to_owned()).collect();
        packages.dedup();
        let named = |text: &str, otherwise: String| if text.is_empty() { otherwise } else { text.to_owned() };
        let title = packages.into_iter().filter(|package| !package.is_empty()).collect::<Vec<_>>().join(", ");
        let title = named(&title, "API".to_owned());
        About::foreign(
            named(&self.title, title),
            named(&self.version, "0".to_owned()),
            self.lenient.leniency().omit_defaults,
        )
    }
}

fn package(service: &str) -> &str {
    service.rsplit_once('.').map_or("", |(package, _)| package)
}

fn unset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Access>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) if text.is_empty() => Ok(None),
        value => Access::deserialize(value).map(Some).map_err(D::Error::custom),
    }
}

/// The settings of one method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who may call the method.
    pub access: Option<Access>,
    /// Rate class whose budgets the method is charged to.
    pub rate_class: Option<RateClass>,
    /// Longest time that a call may take.
    pub deadline: Option<Duration>,
}

/// The settings of `[gateway.contract.methods]`, by the name of a package, service or method.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, Rule>);

/// The longest deadline that a method can have.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// True if a name is the method, its service or an enclosing package. Case is ignored, because environment variables
/// are in capitals.
pub fn fits(name: &str, method: &str) -> bool {
    let head = method.get(..name.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(name))
        && matches!(method.as_bytes().get(name.len()), None | Some(b'.'))
}

impl Rules {
    /// The rule of a method. Each setting comes from the longest matching name that defines it.
    pub fn of(&self, method: &str) -> Rule {
        let mut fitting: Vec<_> = self.0.iter().filter(|(name, _)| fits(name, method)).collect();
        fitting.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Rule {
            access: fitting.iter().find_map(|(_, rule)| rule.access),
            rate_class: fitting.iter().find_map(|(_, rule)| rule.rate_class),
            deadline: fitting.iter().find_map(|(_, rule)| rule.deadline),
        }
    }

    /// The names that have rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut rules = BTreeMap::new();
        flatten("", Value::deserialize(deserializer)?, &mut rules).map_err(D::Error::custom)?;
        Ok(Self(rules))
    }
}

/// TOML parses `my.pkg.Service = {…}` as nested tables. A value that is not a table is a setting of the name so far.
fn flatten(path: &str, value: Value, into: &mut BTreeMap<String, Rule>) -> Result<(), String> {
    let Value::Object(table) = value else { return Err("must be a section".to_owned()) };
    for (name, value) in table {
        if value.is_object() {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            flatten(&path, value, into)?;
            continue;
        }
        if path.is_empty() {
            return Err(format!("`{name}` must stand below the name of a package, service or method"));
        }
        let rule = into.entry(path.to_owned()).or_default();
        let wrong = |right: &str| format!("{path}.{name} is {value}, and must be {right}");
        let text = value.as_str().unwrap_or_default();
        match name.as_str() {
            "access" => {
                let access = Access::deserialize(&value);
                rule.access = Some(access.map_err(|_| wrong("\"public\", \"signed-in\" or \"deny\""))?);
            }
            "rate_class" => {
                rule.rate_class = Some(match text {
                    "read" => RateClass::Read,
                    "write" => RateClass::Write,
                    "auth" => RateClass::Auth,
                    _ => return Err(wrong("\"read\", \"write\" or \"auth\"")),
                });
            }
            "deadline" => {
                let deadline = duration::parse(text).ok();
                let deadline = deadline.filter(|deadline| !deadline.is_zero() && *deadline <= LONGEST);
                rule.deadline = Some(deadline.ok_or_else(|| wrong("a duration up to 24h, such as \"2s\""))?);
            }
            _ => return Err(format!("{path}.{name} is not known: there are access, rate_class and deadline")),
        }
    }
    Ok(())
}

impl Access {
    /// The access rule for a method that has none. `None`: nobody may call the method.
    pub fn rule(self) -> Option<AccessRule> {
        let rule = AccessRule {
            public: self == Self::Public,
            signed_in: self == Self::SignedIn,
            roles: Roles::default(),
            owner: None,
            internal_callers: Vec::new(),
            scope: None,
            recent_log_in: false,
        };
        (self != Self::Deny).then_some(rule)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_name_wins_for_each_setting() {
        let rules = json!({
            "my": {"access": "signed-in", "deadline": "2s", "pkg": {
                "access": "public",
                "Things": {"rate_class": "auth", "Get": {"deadline": "1m"}},
            }},
        });
        let rules: Rules = serde_json::from_value(rules).unwrap();
        let of = |method| rules.of(method);
        let get = of("my.pkg.Things.Get");
        assert_eq!(get.access, Some(Access::Public));
        assert_eq!((get.rate_class, get.deadline), (Some(RateClass::Auth), Some(Duration::from_secs(60))));
        assert_eq!(of("my.other.Things.Get").access, Some(Access::SignedIn));
        assert_eq!(of("my.pkg.Things.GetAll").deadline, Some(Duration::from_secs(2)));
        assert_eq!(of("mypkg.Things.Get"), Rule::default());
        // Environment variables ignore case.
        assert!(fits("my.pkg.things", "my.pkg.Things.Get"));
    }

    #[test]
    fn invalid_settings_are_named() {
        let table = [
            (json!({"access": "public"}), "must stand below the name"),
            (json!({"a": {"access": "all"}}), "a.access is \"all\", and must be \"public\""),
            (json!({"a": {"rate_class": "slow"}}), "must be \"read\", \"write\" or \"auth\""),
            (json!({"a": {"deadline": "25h"}}), "a duration up to 24h"),
            (json!({"a": {"deadline": 5}}), "a duration up to 24h"),
            (json!({"a": {"colour": "red"}}), "a.colour is not known"),
        ];
        for (rules, says) in table {
            let error = serde_json::from_value::<Rules>(rules).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
