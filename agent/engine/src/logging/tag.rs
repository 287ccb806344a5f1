//! `--log-opt tag`: Docker's templates, as far as they name fields.

use crate::{names, record::Record};

/// Docker's default.
const DEFAULT: &str = "{{.ID}}";

/// The fields there are, with their values for a container.
fn field(name: &str, record: &Record, daemon: &str) -> Option<String> {
    let short = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect();
    Some(match name {
        ".ID" => names::short(&record.id).to_owned(),
        ".FullID" => record.id.clone(),
        ".Name" => record.name.clone(),
        ".ImageID" => short(&record.image_id),
        ".ImageFullID" => record.image_id.clone(),
        ".ImageName" => record.image.clone(),
        ".DaemonName" => daemon.to_owned(),
        _ => return None,
    })
}

/// Checks a template.
///
/// # Errors
/// Words that name what is not understood.
pub(super) fn check(template: &str) -> Result<(), String> {
    render(template, &Record::default(), "").map(drop)
}

/// The tag of a container; the default where none is given.
pub(super) fn of(record: &Record, daemon: &str) -> String {
    let given = record.host.log_config.config.get("tag").map_or(DEFAULT, String::as_str);
    // It was checked when the container was made.
    render(given, record, daemon).unwrap_or_else(|_| names::short(&record.id).to_owned())
}

fn render(template: &str, record: &Record, daemon: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let bad = |what: &str| format!("invalid value {template:?} for log opt tag: {what}");
        let (name, after) = after.split_once("}}").ok_or_else(|| bad("a field is not closed"))?;
        let name = name.trim();
        let value = field(name, record, daemon).ok_or_else(|| {
            bad(&format!("{name:?} is none of .ID .FullID .Name .ImageID .ImageFullID .ImageName .DaemonName"))
        })?;
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_name_fields_and_nothing_else() {
        let record = Record { id: "ab".repeat(32), name: "web".into(), image: "box:1".into(), ..Record::default() };
        assert_eq!(render("{{.ImageName}}/{{ .Name }}/{{.ID}}", &record, "d"), Ok("box:1/web/abababababab".into()));
        assert_eq!(of(&record, "d"), "abababababab");
        for bad in ["{{.Nope}}", "{{.ID", "{{json .}}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
