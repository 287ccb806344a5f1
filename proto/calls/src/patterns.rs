//! Names that filters give as regular expressions, as Docker's lists take them (moby, `filters.Args.Match`).

use muster_model::engine::Filters;
use regex::Regex;

/// The patterns given for one key. What is no regular expression matches nothing, as in Docker.
#[derive(Debug)]
pub struct Patterns(Option<Vec<Regex>>);

impl Patterns {
    /// Those that `filters` gives for `key`; without the key everything matches.
    pub fn of(filters: &Filters, key: &str) -> Self {
        let patterns = || filters.values(key).filter_map(|text| Regex::new(text).ok()).collect();
        Self(filters.contains(key).then(patterns))
    }

    /// Whether a pattern is found in `name`, or there is no such filter.
    pub fn take(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.is_match(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_for_as_a_regular_expression() {
        let of = |texts: &[&str]| {
            let mut filters = Filters::default();
            texts.iter().for_each(|text| filters.add("name", *text));
            Patterns::of(&filters, "name")
        };
        assert!(of(&[]).take("web"));
        assert!(of(&["e"]).take("web") && of(&["^we"]).take("web") && of(&["x", "^web$"]).take("web"));
        assert!(!of(&["^eb"]).take("web") && !of(&["^we$"]).take("web"));
        assert!(!of(&["("]).take("web"));
    }
}
