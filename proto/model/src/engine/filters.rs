//! The `filters` argument of lists, prunes and events.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use std::collections::{BTreeMap, BTreeSet};

/// Why filters cannot be used. The texts are dockerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("invalid filter")]
    NotFilters,
    #[error("invalid filter '{key}'")]
    Unknown { key: String },
    #[error("invalid filter '{key}={value}'")]
    Value { key: String, value: String },
}

/// Keys to sets of values: `{"label":{"a=b":true}}`, or the older `{"label":["a=b"]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads the text of the query parameter; empty text is no filters.
    ///
    /// # Errors
    /// `NotFilters` for anything that is not a JSON object of sets.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str::<Option<Self>>(text).map(Option::unwrap_or_default).map_err(|_| FilterError::NotFilters)
    }

    /// The text of the query parameter, in the current form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a map of strings to strings is JSON")
    }

    /// Refuses keys that the call does not know, by name.
    ///
    /// # Errors
    /// `Unknown` for the first such key.
    pub fn allow(&self, keys: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|k| !keys.contains(&k.as_str())) {
            Some(key) => Err(FilterError::Unknown { key: key.clone() }),
            None => Ok(()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The values given for a key, in order.
    pub fn values<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Adds a value.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into());
    }

    /// Whether `value` passes: the key is not filtered on, or the value is among those given.
    pub fn matches_exactly(&self, key: &str, value: &str) -> bool {
        self.0.get(key).is_none_or(|values| values.is_empty() || values.contains(value))
    }

    /// Whether `value` passes when a given value may be the beginning of it.
    pub fn matches_prefix(&self, key: &str, value: &str) -> bool {
        self.matches_with(key, |given| value.starts_with(given))
    }

    /// Whether the key is not filtered on, or `matches` holds for one of the values given.
    pub fn matches_with(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.is_empty() || values.iter().any(|v| matches(v)))
    }

    /// Whether these labels pass: each given `name` is there, each given `name=value` is so.
    pub fn matches_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).all(|given| has_label(labels, given))
    }

    /// Whether none of the given `name` or `name=value` is among the labels (`label!`).
    pub fn excludes_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.values(key).any(|given| has_label(labels, given))
    }

    /// A key that holds one truth value (`dangling`, `all`), if it is given.
    ///
    /// # Errors
    /// `Value` when it is neither `0`, `false`, `1` nor `true`, or both.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let mut seen = None;
        for value in self.values(key) {
            let flag = match value {
                "1" | "true" | "t" | "T" | "TRUE" | "True" => true,
                "0" | "false" | "f" | "F" | "FALSE" | "False" => false,
                _ => return Err(FilterError::Value { key: key.to_owned(), value: value.to_owned() }),
            };
            if seen.replace(flag).is_some_and(|before| before != flag) {
                return Err(FilterError::Value { key: key.to_owned(), value: value.to_owned() });
            }
        }
        Ok(seen)
    }
}

fn has_label(labels: &BTreeMap<String, String>, given: &str) -> bool {
    match given.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
        None => labels.contains_key(given),
    }
}

impl Serialize for Filters {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (key, values) in &self.0 {
            let values: BTreeMap<&str, bool> = values.iter().map(|v| (v.as_str(), true)).collect();
            map.serialize_entry(key, &values)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Filters {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            Set(BTreeMap<String, bool>),
            List(BTreeSet<String>),
        }
        let raw = BTreeMap::<String, Values>::deserialize(d).map_err(de::Error::custom)?;
        let values = |v| match v {
            Values::Set(set) => set.into_keys().collect(),
            Values::List(list) => list,
        };
        Ok(Self(raw.into_iter().map(|(key, v)| (key, values(v))).collect()))
    }
}
