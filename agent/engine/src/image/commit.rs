//! `docker commit`, and the Dockerfile instructions that it and `docker import` take.

use super::{document::reference, health};
use crate::{
    container::{Command, Handle},
    engine::Shared,
    error,
};
use muster_calls::{Commit, Error, Result};
use muster_model::engine::{Args, ContainerConfig};
use std::{sync::Arc, time::Duration};

/// A configuration of the documents as the image room takes it. Both are Docker's JSON.
///
/// # Errors
/// `Internal`; it cannot fail for what this crate made.
pub(super) fn image_side(config: &ContainerConfig) -> Result<muster_image::ContainerConfig> {
    serde_json::to_value(config)
        .and_then(serde_json::from_value)
        .map_err(|e| Error::internal(format!("the configuration cannot be written: {e}")))
}

impl Shared {
    /// Makes an image of a container and answers with its id.
    pub(crate) async fn commit(self: &Arc<Self>, commit: Commit, config: Option<ContainerConfig>) -> Result<String> {
        let handle = self.find(&commit.container)?;
        let record = handle.record();
        let target = if commit.repo.is_empty() { None } else { Some(reference(&commit.repo, &commit.tag)?) };
        let base = config.filter(|c| *c != ContainerConfig::default());
        let mut config =
            apply(base.map_or_else(|| record.config.clone(), |given| over(given, &record.config)), &commit.changes)?;
        config.hostname.clear();
        config.image.clone_from(&record.image);
        let made = muster_image::Commit {
            reference: target.clone(),
            config: image_side(&config)?,
            author: commit.author,
            comment: commit.comment.clone(),
            created_by: std::iter::once(&record.path)
                .chain(&record.args)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" "),
        };
        let paused = commit.pause && record.state.is_running() && !record.state.paused && pause(&handle).await?;
        let image = self.config.images.commit(&record.id, made).await.map_err(error::image);
        if paused && let Err(error) = handle.ask(Command::Unpause).await {
            // It was killed meanwhile; the image is made all the same.
            tracing::debug!(container.id = %record.id, %error, "a container that was paused for a commit does not go on");
        }
        let id = image?.id.to_string();
        let name = target.map(|t| t.familiar()).unwrap_or_default();
        if !name.is_empty() {
            self.image_event("tag", &id, &name);
        }
        self.container_event(&record, "commit", &[("comment", &commit.comment), ("imageID", &id), ("imageRef", &name)]);
        Ok(id)
    }
}

/// How long a container that could not be paused may take to turn out to have ended.
const ENDED_WITHIN: Duration = Duration::from_secs(2);

/// Pauses it; `false` when it has ended by itself meanwhile: then nothing writes to it any more.
async fn pause(handle: &Handle) -> Result<bool> {
    let mut watch = handle.watch();
    let Err(refused) = handle.ask(Command::Pause).await else { return Ok(true) };
    let ended = watch.wait_for(|view| view.removed || !view.record.state.is_running());
    match tokio::time::timeout(ENDED_WITHIN, ended).await {
        Ok(_) => Ok(false),
        Err(_) => Err(refused),
    }
}

/// A configuration sent with a commit, over the container's.
fn over(mut given: ContainerConfig, own: &ContainerConfig) -> ContainerConfig {
    for (given, own) in [
        (&mut given.user, &own.user),
        (&mut given.working_dir, &own.working_dir),
        (&mut given.stop_signal, &own.stop_signal),
    ] {
        if given.is_empty() {
            given.clone_from(own);
        }
    }
    if given.cmd.is_empty() {
        given.cmd = own.cmd.clone();
    }
    given.entrypoint = given.entrypoint.or_else(|| own.entrypoint.clone());
    if given.env.is_empty() {
        given.env = own.env.clone();
    }
    for (key, value) in &own.labels {
        given.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    given.exposed_ports.extend(own.exposed_ports.iter().cloned());
    given.volumes.extend(own.volumes.iter().cloned());
    given
}

/// Applies Dockerfile instructions (those that change a configuration only).
///
/// # Errors
/// `Invalid` naming the instruction.
pub(super) fn apply(mut config: ContainerConfig, changes: &[String]) -> Result<ContainerConfig> {
    for line in changes.iter().flat_map(|text| text.lines()).map(str::trim).filter(|l| !l.is_empty()) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let bad = || Error::invalid(format!("invalid change {line:?}"));
        match word.to_ascii_uppercase().as_str() {
            "CMD" => config.cmd = command(rest),
            "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
            "ENV" => pairs(rest).ok_or_else(bad)?.into_iter().for_each(|(k, v)| {
                config.env.retain(|e| e.split('=').next() != Some(&k));
                config.env.push(format!("{k}={v}"));
            }),
            "LABEL" => config.labels.extend(pairs(rest).ok_or_else(bad)?),
            "EXPOSE" => {
                for port in rest.split_whitespace() {
                    let (port, protocol) = crate::net::parse_port(port)?;
                    config.exposed_ports.insert(format!("{port}/{protocol}"));
                }
            }
            "USER" if !rest.is_empty() => rest.clone_into(&mut config.user),
            "WORKDIR" if !rest.is_empty() => {
                config.working_dir =
                    std::path::Path::new("/").join(&config.working_dir).join(rest).to_string_lossy().into_owned()
            }
            "VOLUME" if !rest.is_empty() => config
                .volumes
                .extend(list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect())),
            "STOPSIGNAL" => {
                crate::signal::parse(rest)?;
                rest.clone_into(&mut config.stop_signal);
            }
            "ONBUILD" if !rest.is_empty() => config.on_build.push(rest.to_owned()),
            "HEALTHCHECK" => {
                config.healthcheck =
                    Some(health::check(rest).map_err(|why| Error::invalid(format!("invalid change {line:?}: {why}")))?)
            }
            other => {
                let word = other.to_lowercase();
                return Err(Error::invalid(format!("{word} is not a valid change command")));
            }
        }
    }
    Ok(config)
}

/// The JSON form `["a","b"]`.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok())?
}

fn command(text: &str) -> Args {
    list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]).into()
}

/// `a=b "c d"=e`, or the older `name rest of the line`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if words.first().is_some_and(|w| !w.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| {
        word.split_once('=').filter(|(name, _)| !name.is_empty()).map(|(n, v)| (n.to_owned(), v.to_owned()))
    };
    words.iter().map(pair).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
}

/// Splits at spaces that are neither quoted nor escaped; `None` for an open quote.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut all, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.push(chars.next()?),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => (quote, inside) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if inside || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                    inside = false;
                }
            }
            (c, _) => word.push(c),
        }
    }
    if inside || !word.is_empty() {
        all.push(word);
    }
    quote.is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<ContainerConfig> {
        apply(ContainerConfig::default(), &lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"cat\",\"/mark\"]",
            "ENV K=v \"A\"='b c'",
            "ENV old style value",
            "EXPOSE 80 53/udp",
            "workdir /a",
            "WORKDIR b",
            "LABEL x=y",
        ])
        .expect("valid");
        assert_eq!(config.cmd.0, ["cat", "/mark"]);
        assert_eq!(config.env, ["K=v", "A=b c", "old=style value"]);
        assert!(config.exposed_ports.contains("53/udp") && config.exposed_ports.contains("80/tcp"));
        assert_eq!((config.working_dir.as_str(), config.labels["x"].as_str()), ("/a/b", "y"));
        assert_eq!(changed(&["CMD echo hi"]).expect("valid").cmd.0, ["/bin/sh", "-c", "echo hi"]);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for bad in ["RUN x", "ENV", "ENV \"a=b", "LABEL =x", "EXPOSE http", "STOPSIGNAL x", "USER"] {
            assert!(changed(&[bad]).is_err(), "{bad}");
        }
    }
}
