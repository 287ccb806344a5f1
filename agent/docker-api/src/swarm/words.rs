//! Enumerations of the model as the API's words, and back.

use muster_calls::Error;
use muster_model::spec::Invalid;
use serde::{
    Serialize,
    de::{DeserializeOwned, IntoDeserializer, value::Error as WordError},
};
use std::time::Duration;

/// The API's word for a value of the model; both spell them alike.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Reads a word; the empty one is the default.
///
/// # Errors
/// Names the field, the word and what would be accepted.
pub(crate) fn parse_word<T: DeserializeOwned + Default>(field: &str, text: &str) -> Result<T, Error> {
    if text.is_empty() {
        return Ok(T::default());
    }
    let read: Result<T, WordError> = T::deserialize(text.into_deserializer());
    read.map_err(|e| Invalid::new(field, e.to_string()).into())
}

/// Nanoseconds of the API as a duration.
///
/// # Errors
/// Names the field when they are negative.
pub(crate) fn duration(field: &str, nanos: i64) -> Result<Duration, Error> {
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| Invalid::new(field, "a time cannot be negative").into())
}

pub(crate) fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

/// A number that cannot be negative.
///
/// # Errors
/// Names the field.
pub(crate) fn unsigned(field: &str, n: i64) -> Result<u64, Error> {
    u64::try_from(n).map_err(|_| Invalid::new(field, format!("{n} is negative")).into())
}

/// Tools around Docker know a join token by its first word: ours is shown under theirs.
pub(crate) fn token_shown(token: &str) -> String {
    token.strip_prefix("MSTR-").map_or_else(|| token.to_owned(), |rest| format!("SWMTKN-{rest}"))
}

/// A token as [`token_shown`] gave it, or as it is.
pub(crate) fn token_read(token: String) -> String {
    token.strip_prefix("SWMTKN-").map(|rest| format!("MSTR-{rest}")).unwrap_or(token)
}

/// `None` for an empty text.
pub(crate) fn given(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}
