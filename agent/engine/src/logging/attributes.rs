//! What goes with each line: labels and variables of the container that the log options name, and its tag.

use super::tag;
use crate::record::Record;

/// The attributes that the options `labels`, `labels-regex`, `env`, `env-regex` and `tag` name; each key once.
pub(crate) fn attributes(record: &Record, daemon: &str) -> Vec<(String, String)> {
    let options = &record.host.log_config.config;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |key: &str, value: &str| {
        if !found.iter().any(|(known, _)| known == key) {
            found.push((key.to_owned(), value.to_owned()));
        }
    };
    let env: Vec<(&str, &str)> = record.config.env.iter().filter_map(|entry| entry.split_once('=')).collect();
    let labels: Vec<(&str, &str)> = record.config.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    for (list, pattern, all) in [("labels", "labels-regex", &labels), ("env", "env-regex", &env)] {
        for name in options.get(list).into_iter().flat_map(|names| names.split(',')).map(str::trim) {
            all.iter().filter(|(key, _)| *key == name).for_each(|(key, value)| add(key, value));
        }
        // It was checked when the container was made.
        if let Some(pattern) = options.get(pattern).and_then(|text| regex::Regex::new(text).ok()) {
            all.iter().filter(|(key, _)| pattern.is_match(key)).for_each(|(key, value)| add(key, value));
        }
    }
    if options.contains_key("tag") {
        add("tag", &tag::of(record, daemon));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_pick_labels_and_variables() {
        let mut record = Record { name: "web".into(), ..Record::default() };
        record.config.env = vec!["A=1".into(), "APP_X=2".into(), "PATH=/bin".into()];
        record.config.labels = [("tier".to_owned(), "front".to_owned()), ("x".to_owned(), "y".to_owned())].into();
        let options = [("labels", "tier,none"), ("env", "A"), ("env-regex", "^A"), ("tag", "{{.Name}}")];
        record.host.log_config.config = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let found = attributes(&record, "");
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("tier", "front"), ("A", "1"), ("APP_X", "2"), ("tag", "web")]);
    }
}
