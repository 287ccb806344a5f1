//! Showing lists and documents: tables, JSON, templates.

use crate::{args::Show, say, template::Template};
use muster_model::Timestamp;
use serde_json::{Map, Value};

/// Smallest width of a column of a table with a template, and the room behind each, as `docker` has them.
const WIDTH: usize = 10;
const GAP: usize = 3;

/// One line of a list: names as `docker` has them, with their values. The first is what `--quiet` shows.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub fields: Vec<(&'static str, String)>,
    /// What the table shows in the place of a field: shorter, or with a mark.
    pub shown: Vec<(&'static str, String)>,
}

impl From<Vec<(&'static str, String)>> for Row {
    fn from(fields: Vec<(&'static str, String)>) -> Self {
        Self { fields, shown: Vec::new() }
    }
}

impl Row {
    fn value(&self) -> Value {
        Value::Object(self.fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect())
    }

    fn cell(&self, field: &str) -> String {
        let found = self.shown.iter().chain(&self.fields).find(|(k, _)| *k == field);
        found.map(|(_, v)| v.clone()).unwrap_or_default()
    }
}

/// Prints `rows` as asked. `columns`: what a table shows, as (field, heading).
///
/// # Errors
/// A template that is wrong, or names a field that is not there.
pub fn list(show: &Show, columns: &[(&str, &str)], rows: Vec<Row>) -> anyhow::Result<()> {
    if show.quiet {
        rows.iter().filter_map(|r| r.fields.first()).for_each(|(_, v)| say!("{v}"));
        return Ok(());
    }
    match show.format.as_deref() {
        None | Some("table") => {
            let headings = columns.iter().map(|(_, heading)| (*heading).to_owned()).collect();
            let cells = rows.iter().map(|row| columns.iter().map(|(field, _)| row.cell(field)).collect());
            table(std::iter::once(headings).chain(cells).collect(), 0);
        }
        Some("json") => rows.iter().for_each(|row| say!("{}", row.value())),
        Some(format) => match format.strip_prefix("table ") {
            Some(format) => {
                let template = Template::parse(format)?;
                let head = rows.first().map_or_else(|| heads(&Row::default(), columns), |row| heads(row, columns));
                let mut lines = vec![head];
                lines.extend(rows.iter().map(Row::value));
                let lines = lines.iter().map(|value| template.fill(value)).collect::<anyhow::Result<Vec<_>>>()?;
                table(lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect(), WIDTH - GAP);
            }
            None => {
                let template = Template::parse(format)?;
                for row in &rows {
                    say!("{}", template.fill(&row.value())?);
                }
            }
        },
    }
    Ok(())
}

/// The heading of each field.
fn heads(row: &Row, columns: &[(&str, &str)]) -> Value {
    let of_columns = columns.iter().map(|(field, heading)| ((*field).to_owned(), (*heading).into()));
    let others = row.fields.iter().filter(|(field, _)| columns.iter().all(|(known, _)| known != field));
    let others = others.map(|(field, _)| ((*field).to_owned(), heading(field).into()));
    Value::Object(of_columns.chain(others).collect::<Map<_, _>>())
}

/// `ManagerStatus` as `MANAGER STATUS`.
fn heading(field: &str) -> String {
    let mut text = String::new();
    let mut before = false;
    for c in field.chars() {
        if c.is_uppercase() && before {
            text.push(' ');
        }
        before = c.is_lowercase();
        text.extend(c.to_uppercase());
    }
    text
}

fn table(lines: Vec<Vec<String>>, least: usize) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |i: usize| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0).max(least);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}{}", " ".repeat(GAP)));
        say!("{}", cells.collect::<String>().trim_end());
    }
}

/// Prints what is known of things as asked: all as one JSON text, or a template filled for each; `json` is a line for each.
///
/// # Errors
/// As [`list`].
pub fn documents(format: Option<&str>, all: Vec<Value>) -> anyhow::Result<()> {
    match format {
        None => say!("{:#}", Value::Array(all)),
        Some("json") => all.iter().for_each(|one| say!("{one}")),
        Some(format) => {
            let template = Template::parse(format)?;
            for one in &all {
                say!("{}", template.fill(one)?);
            }
        }
    }
    Ok(())
}

/// `3 minutes`, as `docker` rounds it.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let s = now.since(then).as_secs();
    let many = |n: u64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match s {
        0 => "Less than a second".to_owned(),
        1..60 => many(s, "second"),
        60..3600 => many(s / 60, "minute"),
        3600..172_800 => many(s / 3600, "hour"),
        _ => many(s / 86_400, "day"),
    }
}

/// At most `max` characters, with a mark where something was cut.
pub fn cut(text: &str, max: usize, whole: bool) -> String {
    if whole || text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_fields_and_not_what_only_the_table_shows() {
        let row = Row { fields: vec![("ID", "123".into())], shown: vec![("ID", "1 *".into())] };
        assert_eq!((row.value().to_string().as_str(), row.cell("ID").as_str()), (r#"{"ID":"123"}"#, "1 *"));
    }

    #[test]
    fn headings_are_those_of_the_columns_or_made_of_the_field_s_name() {
        let row = Row::from(vec![("ID", "1".into()), ("ManagerStatus", "x".into())]);
        let head = heads(&row, &[("ID", "NODE ID")]);
        assert_eq!(head, serde_json::json!({"ID": "NODE ID", "ManagerStatus": "MANAGER STATUS"}));
    }
}
