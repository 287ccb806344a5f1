//! Reading what Go writes: `null` for anything empty, sets as maps to `{}`, lists that may be one string, zero times.

use crate::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::{Deref, DerefMut},
};

/// Reads `null` as the type's default.
///
/// # Errors
/// Those of `T`.
pub fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Something that may hold nothing, which Go writes as `null` when it was never made.
pub trait Emptiable {
    fn holds_nothing(&self) -> bool;
}

impl<T> Emptiable for Vec<T> {
    fn holds_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Emptiable for BTreeMap<K, V> {
    fn holds_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl Emptiable for Keys {
    fn holds_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl Emptiable for Args {
    fn holds_nothing(&self) -> bool {
        self.is_empty()
    }
}

/// Writes an empty list or map as `null`, where dockerd does.
pub(super) fn or_null<S: Serializer, T: Emptiable + Serialize>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    if value.holds_nothing() { s.serialize_none() } else { value.serialize(s) }
}

/// For `skip_serializing_if`: the field is Go's zero value, which `omitempty` leaves out.
pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A set that the API writes as a map to empty objects, e.g. `{"80/tcp":{}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(pub BTreeSet<String>);

impl Deref for Keys {
    type Target = BTreeSet<String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Keys {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<S: Into<String>> FromIterator<S> for Keys {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        Self(iter.into_iter().map(Into::into).collect())
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Empty {}
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for key in &self.0 {
            map.serialize_entry(key, &Empty {})?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(BTreeMap::<String, de::IgnoredAny>::deserialize(d)?.into_keys().collect()))
    }
}

/// A command line: a list of words, or one string that is a list of one word (Go's `strslice`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(pub Vec<String>);

impl Deref for Args {
    type Target = Vec<String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Args {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<Vec<String>> for Args {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

impl<S: Into<String>> FromIterator<S> for Args {
    fn from_iter<I: IntoIterator<Item = S>>(iter: I) -> Self {
        Self(iter.into_iter().map(Into::into).collect())
    }
}

impl Serialize for Args {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> de::Visitor<'de> for Words {
            type Value = Args;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Args, E> {
                Ok(Args(vec![word.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Args, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element()? {
                    words.push(word);
                }
                Ok(Args(words))
            }
        }
        d.deserialize_any(Words)
    }
}

/// A time as the API writes it: RFC 3339 with nanoseconds in UTC; `0001-01-01T00:00:00Z` is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

impl Time {
    pub const NEVER: Time = Time(Timestamp::ZERO);
}

impl From<Timestamp> for Time {
    fn from(t: Timestamp) -> Self {
        Self(t)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.is_empty() {
            return Ok(Self::NEVER);
        }
        Timestamp::parse_rfc3339(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is no RFC 3339 time")))
    }
}
