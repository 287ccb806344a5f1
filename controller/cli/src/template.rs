//! Go's templates as far as `docker`'s users write them for `--format`: fields, `{{json .}}` and some more functions, pipes.
//! What is not supported is refused by its name.

use anyhow::{Context as _, bail};
use serde_json::Value;

const FUNCTIONS: &str = "json, upper, lower, title, join, split, len, index, print, println";

/// A template that was read.
#[derive(Debug)]
pub struct Template(Vec<Piece>);

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// Each takes what the one before it gave as its last argument.
    Pipe(Vec<Vec<Operand>>),
}

#[derive(Debug, PartialEq)]
enum Operand {
    /// `.A.B`; `.` has no names.
    Field(Vec<String>),
    Literal(Value),
    Name(String),
    Pipe(Vec<Vec<Operand>>),
}

impl Template {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        read(text).with_context(|| format!("--format {text:?}"))
    }

    /// The text that it makes of `value`.
    ///
    /// # Errors
    /// Names the field that is not there and those that are.
    pub fn fill(&self, value: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Pipe(pipe) => out.push_str(&shown(&evaluate(pipe, value).context("--format")?)),
            }
        }
        Ok(out)
    }
}

fn read(text: &str) -> anyhow::Result<Template> {
    let mut pieces = Vec::new();
    let mut rest = text;
    // `-}}` takes the white space behind it away.
    let mut trim = false;
    loop {
        let (mut before, found) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        if trim {
            before = before.trim_start();
        }
        let Some(after) = found else {
            pieces.push(Piece::Text(unescaped(before)));
            return Ok(Template(pieces));
        };
        let after = match after.strip_prefix("- ") {
            Some(after) => {
                before = before.trim_end();
                after
            }
            None => after,
        };
        pieces.push(Piece::Text(unescaped(before)));
        let (inner, behind) = after.split_once("}}").context("a {{ is not closed")?;
        trim = inner.ends_with(" -");
        let inner = inner.strip_suffix(" -").unwrap_or(inner).trim();
        if !(inner.starts_with("/*") && inner.ends_with("*/")) {
            let mut words = words(inner)?.into_iter().peekable();
            pieces.push(Piece::Pipe(pipe(&mut words, inner)?));
            if words.next().is_some() {
                bail!("{inner:?}: a ) too many");
            }
        }
        rest = behind;
    }
}

/// Shells leave `\t` and `\n` as they are; `docker` takes them for what they mean.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Open,
    Close,
    Bar,
    Text(String),
    Plain(String),
}

fn words(text: &str) -> anyhow::Result<Vec<Word>> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => found.push(Word::Open),
            ')' => found.push(Word::Close),
            '|' => found.push(Word::Bar),
            '"' | '`' => found.push(Word::Text(quoted(c, &mut chars).with_context(|| format!("{text:?}"))?)),
            c if c.is_whitespace() => {}
            c => {
                let mut plain = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '|' | '"' | '`')) {
                    plain.push(c);
                }
                found.push(Word::Plain(plain));
            }
        }
    }
    Ok(found)
}

fn quoted(mark: char, chars: &mut impl Iterator<Item = char>) -> anyhow::Result<String> {
    let mut text = String::new();
    loop {
        match chars.next().context("a text is not closed")? {
            c if c == mark => return Ok(text),
            '\\' if mark == '"' => match chars.next().context("a text is not closed")? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                c @ ('"' | '\\' | '\'') => text.push(c),
                c => bail!("\\{c} is not supported in a text"),
            },
            c => text.push(c),
        }
    }
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;

/// Commands up to the end or a `)`, which stays.
fn pipe(words: &mut Words, whole: &str) -> anyhow::Result<Vec<Vec<Operand>>> {
    let mut commands = vec![Vec::new()];
    while let Some(word) = words.next_if(|w| *w != Word::Close) {
        let operand = match word {
            Word::Bar => {
                commands.push(Vec::new());
                continue;
            }
            Word::Open => {
                let inner = pipe(words, whole)?;
                if words.next() != Some(Word::Close) {
                    bail!("{whole:?}: a ( is not closed");
                }
                Operand::Pipe(inner)
            }
            Word::Close => bail!("{whole:?}: a ) too many"),
            Word::Text(text) => Operand::Literal(text.into()),
            Word::Plain(plain) => operand(&plain, commands.last().is_none_or(Vec::is_empty))?,
        };
        if let Some(last) = commands.last_mut() {
            last.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        bail!("{whole:?}: there is nothing to show");
    }
    Ok(commands)
}

fn operand(plain: &str, first: bool) -> anyhow::Result<Operand> {
    if let Some(path) = plain.strip_prefix('.') {
        let names: Vec<_> = path.split('.').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        return Ok(Operand::Field(names));
    }
    if let Ok(number) = plain.parse::<i64>() {
        return Ok(Operand::Literal(number.into()));
    }
    let known = FUNCTIONS.split(", ").any(|f| f == plain);
    match (known, first) {
        (true, _) => Ok(Operand::Name(plain.to_owned())),
        (false, _) => bail!("{plain:?} is not supported: expected .FIELD or one of {FUNCTIONS}"),
    }
}

fn evaluate(pipe: &[Vec<Operand>], dot: &Value) -> anyhow::Result<Value> {
    let mut passed = None;
    for command in pipe {
        passed = Some(run(command, dot, passed)?);
    }
    passed.context("there is nothing to show")
}

fn run(command: &[Operand], dot: &Value, passed: Option<Value>) -> anyhow::Result<Value> {
    let (first, rest) = command.split_first().context("there is nothing to show")?;
    let Operand::Name(name) = first else {
        if !rest.is_empty() || passed.is_some() {
            bail!("only functions take arguments: one of {FUNCTIONS}");
        }
        return value(first, dot);
    };
    let mut arguments = rest.iter().map(|o| value(o, dot)).collect::<anyhow::Result<Vec<_>>>()?;
    arguments.extend(passed);
    call(name, &arguments).with_context(|| name.clone())
}

fn value(operand: &Operand, dot: &Value) -> anyhow::Result<Value> {
    Ok(match operand {
        Operand::Literal(value) => value.clone(),
        Operand::Pipe(inner) => evaluate(inner, dot)?,
        Operand::Name(name) => run(&[Operand::Name(name.clone())], dot, None)?,
        Operand::Field(names) => {
            let mut at = dot;
            for name in names {
                at = match at {
                    Value::Object(map) => map.get(name).with_context(|| {
                        let known: Vec<_> = map.keys().map(String::as_str).collect();
                        format!("there is no field {name}: expected one of {}", known.join(", "))
                    })?,
                    _ => bail!("there is no field {name} in {}", shown(at)),
                };
            }
            at.clone()
        }
    })
}

fn call(name: &str, arguments: &[Value]) -> anyhow::Result<Value> {
    let text = |v: &Value| match v {
        Value::String(text) => Ok(text.clone()),
        other => bail!("expected a text, not {other}"),
    };
    Ok(match (name, arguments) {
        ("json", [v]) => v.to_string().into(),
        ("upper", [v]) => text(v)?.to_uppercase().into(),
        ("lower", [v]) => text(v)?.to_lowercase().into(),
        ("title", [v]) => {
            let text = text(v)?;
            let mut chars = text.chars();
            chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect()).into()
        }
        ("join", [Value::Array(parts), between]) => {
            parts.iter().map(shown).collect::<Vec<_>>().join(&text(between)?).into()
        }
        ("split", [whole, between]) => {
            let (whole, between) = (text(whole)?, text(between)?);
            Value::Array(whole.split(&between).map(Into::into).collect())
        }
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Array(parts)]) => parts.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("index", [first, keys @ ..]) => keys.iter().try_fold(first.clone(), |at, key| indexed(&at, key))?,
        ("print", all) => all.iter().map(shown).collect::<String>().into(),
        ("println", all) => (all.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        ("join", [_, _]) => bail!("expected a list and a text"),
        _ => bail!("it does not take these {} arguments", arguments.len()),
    })
}

/// As in Go, what a map lacks is empty, and a list's end is an error.
fn indexed(at: &Value, key: &Value) -> anyhow::Result<Value> {
    match (at, key) {
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| "".into())),
        (Value::Array(parts), Value::Number(n)) => {
            let part = n.as_u64().and_then(|n| parts.get(usize::try_from(n).ok()?));
            part.cloned().with_context(|| format!("{n} is out of range: there are {}", parts.len()))
        }
        _ => bail!("{key} is no index of {}", shown(at)),
    }
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => format!("[{}]", parts.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let parts: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", shown(v))).collect();
            format!("map[{}]", parts.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(template: &str) -> anyhow::Result<String> {
        let value = json!({"Name": "web", "N": 3, "Tags": ["a", "b"], "Config": {"Labels": {"x.y": "z"}}, "No": null});
        Template::parse(template)?.fill(&value)
    }

    #[test]
    fn fields_functions_and_pipes_give_what_docker_gives() {
        for (template, text) in [
            ("{{.Name}}\\t{{ .N }}!", "web\t3!"),
            ("{{json .Name}} {{json .Tags}}", r#""web" ["a","b"]"#),
            ("{{json .Config}}", r#"{"Labels":{"x.y":"z"}}"#),
            ("{{upper .Name}}{{.Name | lower}}{{title .Name}}", "WEBwebWeb"),
            ("{{join .Tags \", \"}} {{len .Tags}} {{len .Name}}", "a, b 2 3"),
            ("{{index .Tags 1}} {{index .Config.Labels \"x.y\"}}{{index .Config.Labels \"no\"}}", "b z"),
            ("{{join (split .Name \"e\") \"-\"}}", "w-b"),
            ("{{.Tags}} {{.Config.Labels}} {{.No}}", "[a b] map[x.y:z] <nil>"),
            ("a {{- \"b\" -}} c{{/* nothing */}}", "abc"),
            ("{{println .Name .N}}{{print \"x\"}}", "web 3\nx"),
        ] {
            assert_eq!(fill(template).unwrap_or_else(|e| panic!("{template}: {e:#}")), text, "{template}");
        }
    }

    #[test]
    fn what_is_not_there_or_not_supported_is_named() {
        for (template, part) in [
            ("{{.Nope}}", "there is no field Nope: expected one of Config, N, Name, No, Tags"),
            ("{{range .Tags}}x{{end}}", "\"range\" is not supported"),
            ("{{if .N}}x{{end}}", "\"if\" is not supported"),
            ("{{.Name", "a {{ is not closed"),
            ("{{}}", "there is nothing to show"),
            ("{{upper .N}}", "upper: expected a text"),
            ("{{index .Tags 2}}", "2 is out of range"),
            ("{{(.Name}}", "a ( is not closed"),
            ("{{.Name)}}", "a ) too many"),
            ("{{.Name.x}}", "there is no field x"),
        ] {
            let error = format!("{:#}", fill(template).expect_err(template));
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
