//! The environment of a process: what Docker adds, and the order in which later settings win.

/// Docker's PATH where the image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a container. HOME is not set here: the runtime takes it from the passwd entry of the user that the
/// process (or an exec under another user) runs as, and only where it is not set.
pub(super) fn of_container(env: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut base = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if tty {
        base.push("TERM=xterm".into());
    }
    merge(base, env)
}

/// The environment of an exec in a container that has `base`.
pub(super) fn of_exec(base: &[String], env: &[String], tty: bool) -> Vec<String> {
    let mut base = base.to_vec();
    if tty && !base.iter().any(|set| name(set) == "TERM") {
        base.push("TERM=xterm".into());
    }
    merge(base, env)
}

/// `over` wins by name and keeps the place of what it replaces; a name without a value removes the variable.
fn merge(mut base: Vec<String>, over: &[String]) -> Vec<String> {
    for setting in over {
        let place = base.iter().position(|set| name(set) == name(setting));
        match (place, setting.contains('=')) {
            (Some(place), true) => base[place] = setting.clone(),
            (Some(place), false) => drop(base.remove(place)),
            (None, true) => base.push(setting.clone()),
            (None, false) => {}
        }
    }
    base
}

fn name(setting: &str) -> &str {
    setting.split('=').next().unwrap_or(setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_wins_over_defaults_and_a_bare_name_removes() {
        let env = of_container(&["PATH=/x".into(), "A=1".into(), "TERM".into()], "box", true);
        assert_eq!(env, ["PATH=/x", "HOSTNAME=box", "A=1"]);
        assert_eq!(of_exec(&env, &["A=2".into()], false), ["PATH=/x", "HOSTNAME=box", "A=2"]);
    }
}
