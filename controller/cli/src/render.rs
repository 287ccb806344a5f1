//! Showing lists: tables, JSON lines, templates.

use crate::args::Show;
use anyhow::bail;
use muster_model::Timestamp;

/// One line of a list: names as `docker` has them, with their values. The first is what `--quiet` shows.
pub type Row = Vec<(&'static str, String)>;

/// Prints `rows` as asked. `columns`: what a table shows, as (field, heading).
///
/// # Errors
/// A template that names a field that is not there.
pub fn list(show: &Show, columns: &[(&str, &str)], rows: Vec<Row>) -> anyhow::Result<()> {
    if show.quiet {
        rows.iter().filter_map(|r| r.first()).for_each(|(_, v)| println!("{v}"));
        return Ok(());
    }
    match show.format.as_deref() {
        None | Some("table") => table(columns, &rows),
        Some("json") => rows.iter().for_each(|r| println!("{}", json(r))),
        Some(template) => {
            let fields = rows.first().map(|r| r.iter().map(|(k, _)| *k).collect::<Vec<_>>());
            for row in &rows {
                println!("{}", fill(template, row, fields.as_deref().unwrap_or(&[]))?);
            }
        }
    }
    Ok(())
}

fn table(columns: &[(&str, &str)], rows: &[Row]) {
    let cell =
        |row: &Row, field: &str| row.iter().find(|(k, _)| *k == field).map(|(_, v)| v.clone()).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(_, h)| (*h).to_owned()).collect()];
    lines.extend(rows.iter().map(|r| columns.iter().map(|(f, _)| cell(r, f)).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    for line in lines {
        let mut text = String::new();
        for (value, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{value:<width$}   "));
        }
        println!("{}", text.trim_end());
    }
}

fn json(row: &Row) -> String {
    let map: serde_json::Map<_, _> = row.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into())).collect();
    serde_json::Value::Object(map).to_string()
}

/// Go's templates as far as lists need them: `{{.Field}}` and `{{json .}}`, and the escapes \t and \n.
fn fill(template: &str, row: &Row, fields: &[&str]) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find("}}") else { bail!("--format {template:?}: a {{{{ is not closed") };
        let inner = rest[start + 2..start + end].trim();
        match (inner, inner.strip_prefix('.')) {
            ("json .", _) => out.push_str(&json(row)),
            (_, Some(field)) => match row.iter().find(|(k, _)| *k == field) {
                Some((_, value)) => out.push_str(value),
                None => {
                    bail!("--format {template:?}: there is no field {field}: expected one of {}", fields.join(", "))
                }
            },
            _ => bail!("--format {template:?}: {inner:?} is not supported: expected {{{{.Field}}}} or {{{{json .}}}}"),
        }
        rest = &rest[start + end + 2..];
    }
    out.push_str(rest);
    Ok(out.replace("\\t", "\t").replace("\\n", "\n"))
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
    fn templates_fill_fields_and_name_what_is_not_there() {
        let row: Row = vec![("ID", "1".into()), ("Name", "web".into())];
        assert_eq!(fill("{{.Name}}\\t{{ .ID }}!", &row, &["ID", "Name"]).expect("valid"), "web\t1!");
        assert_eq!(fill("{{json .}}", &row, &[]).expect("valid"), r#"{"ID":"1","Name":"web"}"#);
        let e = fill("{{.Nope}}", &row, &["ID", "Name"]).expect_err("no such field");
        assert!(e.to_string().contains("ID, Name"), "{e}");
        assert!(fill("{{.ID", &row, &[]).is_err());
    }
}
