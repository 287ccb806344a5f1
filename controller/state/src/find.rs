//! Finding an object by what a user typed: an id, a name, or the beginning of an id.

use crate::{State, tables::Row};
use imbl::OrdMap;
use muster_model::{
    Id,
    cluster::{Network, Node, Service, Task},
    id::Kind,
};
use std::sync::Arc;

/// Why what a user typed names no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("{kind} {text} not found")]
    NotFound { kind: &'static str, text: String },
    #[error("{kind} {text} is ambiguous: it fits {}", candidates.join(", "))]
    Ambiguous { kind: &'static str, text: String, candidates: Vec<String> },
}

/// How many candidates an error lists.
const LISTED: usize = 8;

impl State {
    /// By id, then by name, then by the beginning of an id. One that is being removed is found by its id only.
    ///
    /// # Errors
    /// [`FindError`]: none, or several.
    pub fn find_service(&self, text: &str) -> Result<&Arc<Service>, FindError> {
        if let Some(exact) = text.parse().ok().and_then(|id| self.service(id)).or_else(|| self.service_by_name(text)) {
            return Ok(exact);
        }
        by_prefix("service", text, &self.services, |s| !s.removing)
    }

    /// By id, then by name, then by the beginning of an id.
    ///
    /// # Errors
    /// [`FindError`]: none, or several.
    pub fn find_network(&self, text: &str) -> Result<&Arc<Network>, FindError> {
        if let Some(exact) = text.parse().ok().and_then(|id| self.network(id)).or_else(|| self.network_by_name(text)) {
            return Ok(exact);
        }
        by_prefix("network", text, &self.networks, |_| true)
    }

    /// By id, then by hostname (several nodes may have it), then by the beginning of an id.
    ///
    /// # Errors
    /// [`FindError`]: none, or several.
    pub fn find_node(&self, text: &str) -> Result<&Arc<Node>, FindError> {
        if let Some(exact) = text.parse().ok().and_then(|id| self.node(id)) {
            return Ok(exact);
        }
        let named: Vec<_> = self.nodes_by_hostname(text).collect();
        match named.as_slice() {
            [] => by_prefix("node", text, &self.nodes, |_| true),
            [one] => Ok(one),
            several => Err(ambiguous("node", text, several.iter().map(|n| n.id.to_string()))),
        }
    }

    /// By id, or by its beginning.
    ///
    /// # Errors
    /// [`FindError`]: none, or several.
    pub fn find_task(&self, text: &str) -> Result<&Arc<Task>, FindError> {
        if let Some(exact) = text.parse().ok().and_then(|id| self.task(id)) {
            return Ok(exact);
        }
        by_prefix("task", text, &self.tasks, |_| true)
    }
}

fn by_prefix<'a, T, K: Kind>(
    kind: &'static str,
    text: &str,
    table: &'a OrdMap<Id<K>, Row<T>>,
    shown: impl Fn(&T) -> bool,
) -> Result<&'a Arc<T>, FindError> {
    let not_found = || FindError::NotFound { kind, text: text.chars().take(80).collect() };
    let (first, last) = ids_beginning_with(text).ok_or_else(not_found)?;
    let range = table.range(Id::from_u128(first)..=Id::from_u128(last));
    let mut fitting = range.map(|(id, row)| (id, &row.object)).filter(|(_, o)| shown(o));
    let (id, object) = fitting.next().ok_or_else(not_found)?;
    match fitting.next() {
        None => Ok(object),
        Some((second, _)) => {
            let all = [id, second].into_iter().chain(fitting.map(|(id, _)| id)).map(ToString::to_string);
            Err(ambiguous(kind, text, all))
        }
    }
}

/// The first and the last id whose text begins so: ids are numbers of 25 digits in base 36. `None`: no id does.
fn ids_beginning_with(text: &str) -> Option<(u128, u128)> {
    const DIGITS: usize = 25;
    if text.is_empty() || text.len() > DIGITS {
        return None;
    }
    let (mut first, mut last) = (0u128, 0u128);
    for c in text.bytes() {
        let digit = char::from(c).to_digit(36).filter(|_| !c.is_ascii_uppercase())?;
        first = first.checked_mul(36)?.checked_add(digit.into())?;
        last = first;
    }
    for _ in text.len()..DIGITS {
        first = first.checked_mul(36)?;
        // The highest numbers of 25 digits are above 2^128.
        last = last.saturating_mul(36).saturating_add(35);
    }
    Some((first, last))
}

fn ambiguous(kind: &'static str, text: &str, all: impl Iterator<Item = String>) -> FindError {
    FindError::Ambiguous { kind, text: text.to_owned(), candidates: all.take(LISTED).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::TaskId;

    #[test]
    fn the_range_of_a_beginning_holds_exactly_the_ids_that_begin_so() {
        for bits in [0, 1, 35, 36, 1 << 64, u128::MAX / 3, u128::MAX - 1, u128::MAX] {
            let text = TaskId::from_u128(bits).to_string();
            for length in 1..=text.len() {
                let (first, last) = ids_beginning_with(&text[..length]).expect("a beginning");
                assert!((first..=last).contains(&bits), "{text} {length}");
                for edge in [first, last] {
                    assert!(TaskId::from_u128(edge).to_string().starts_with(&text[..length]), "{text} {length}");
                }
                if let Some(outside) = last.checked_add(1) {
                    assert!(!TaskId::from_u128(outside).to_string().starts_with(&text[..length]));
                }
            }
        }
        for none in ["", "A", "zzzzzzzzzzzzzzzzzzzzzzzzz", "00000000000000000000000000", "é", "-"] {
            assert_eq!(ids_beginning_with(none), None, "{none}");
        }
    }
}
