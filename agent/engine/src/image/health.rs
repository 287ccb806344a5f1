//! The instruction `HEALTHCHECK` of a Dockerfile: `[--interval=30s ...] CMD command` or `NONE`.

use crate::container::go_duration;
use muster_model::engine::HealthConfig;

/// Reads what follows the word `HEALTHCHECK`.
///
/// # Errors
/// Why it cannot be, for people.
pub(super) fn check(text: &str) -> Result<HealthConfig, String> {
    let mut config = HealthConfig::default();
    let mut rest = text.trim();
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).ok_or("a flag needs to be followed by CMD or NONE")?;
        let (name, value) = flag.split_once('=').ok_or_else(|| format!("flag --{flag}: expected --NAME=VALUE"))?;
        set(&mut config, name, value)?;
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    config.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err("NONE takes no arguments".to_owned()),
        "CMD" if command.is_empty() => return Err("missing command after HEALTHCHECK CMD".to_owned()),
        "CMD" => match super::commit::list(command) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err(format!("unknown type {kind:?}: expected CMD or NONE")),
    };
    Ok(config)
}

fn set(config: &mut HealthConfig, name: &str, value: &str) -> Result<(), String> {
    if name == "retries" {
        config.retries = value.parse().ok().filter(|n| *n > 0).ok_or("--retries must be at least 1")?;
        return Ok(());
    }
    let field = match name {
        "interval" => &mut config.interval,
        "timeout" => &mut config.timeout,
        "start-period" => &mut config.start_period,
        "start-interval" => &mut config.start_interval,
        _ => return Err(format!("unknown flag: {name}")),
    };
    let duration = go_duration(value).ok_or_else(|| format!("--{name}: {value:?} is no duration, as 30s"))?;
    *field = i64::try_from(duration.as_nanos()).map_err(|_| format!("--{name}: {value} is too long"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_with_its_flags() {
        let config = check("--interval=5s --retries=2 CMD test -e /ok").expect("valid");
        assert_eq!((config.interval, config.retries), (5_000_000_000, 2));
        assert_eq!(config.test, ["CMD-SHELL", "test -e /ok"]);
        assert_eq!(check("CMD [\"true\",\"x\"]").expect("valid").test, ["CMD", "true", "x"]);
        assert_eq!(check("none").expect("valid").test, ["NONE"]);
    }

    #[test]
    fn what_is_no_check_is_refused() {
        for bad in [
            "",
            "CMD",
            "NONE x",
            "RUN x",
            "--interval=5s",
            "--bogus=1 CMD x",
            "--interval=x CMD x",
            "--retries=0 CMD x",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
