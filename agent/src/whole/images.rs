//! Images: copies of each other on as many nodes as need them.
//!
//! A pull that a container waits for (its creation was refused with "no such image") goes to the node that the container
//! was to run on; any other goes to every node that takes new work. Tags and removals reach every copy. What is loaded,
//! imported or committed is on one node; a container that is placed elsewhere has it copied over (see `create.rs`).

use super::WholeEngine;
use crate::directory::Place;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use muster_calls::*;
use muster_image::Reference;
use muster_model::{
    NodeId,
    cluster::NodeState,
    engine::{AuthConfig, Filters, ImageDeleteItem, ProgressLine},
    spec::Availability,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long after a refused creation its client may begin to pull.
const WANTED_FOR: Duration = Duration::from_secs(120);
/// Refused creations that are remembered; the oldest go first.
const WANTED: usize = 256;

/// Images that containers wait for, and the node each waits on.
#[derive(Default)]
pub struct Wanted(Mutex<Vec<(String, NodeId, Instant)>>);

impl Wanted {
    pub(super) fn put(&self, image: &str, node: NodeId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == WANTED {
            all.remove(0);
        }
        all.push((canonical(image), node, Instant::now()));
    }

    /// The nodes that wait for it. They do so no more: whoever pulls takes over.
    fn take(&self, image: &str) -> BTreeSet<NodeId> {
        let image = canonical(image);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(.., at)| at.elapsed() < WANTED_FOR);
        all.extract_if(.., |(i, ..)| *i == image).map(|(_, node, _)| node).collect()
    }
}

/// One text for all ways to write a name.
fn canonical(image: &str) -> String {
    Reference::parse(image).map_or_else(|_| image.to_owned(), |r| r.canonical())
}

impl WholeEngine {
    pub(super) async fn pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
        let wanted = self.host.wanted.take(&pull.reference);
        let mut places = self.places()?;
        match wanted.is_empty() {
            true => places = self.working(places).await?,
            false => places.retain(|p| wanted.contains(&p.id)),
        }
        let starts = places.into_iter().map(|place| {
            let pull = pull.clone();
            async move {
                let started = place.engine.image_pull(pull).await;
                (place, started)
            }
        });
        let (mut streams, mut away) = (Vec::new(), Vec::new());
        let mut started = futures_util::future::join_all(starts).await;
        let single = started.len() == 1;
        if started.iter().all(|(_, s)| s.is_err())
            && let Some((_, Err(e))) = started.pop()
        {
            return Err(e);
        }
        for (place, started) in started {
            match started {
                Ok(lines) if single => return Ok(lines),
                Ok(lines) => streams.push(of_node(place.hostname, lines)),
                Err(e) if e.kind == Kind::Unavailable => away.push(away_line(&place, &e)),
                Err(e) => return Err(e),
            }
        }
        Ok(without_repeats(stream::iter(away).chain(stream::select_all(streams)).boxed()))
    }

    /// Those of the nodes that take new work.
    async fn working(&self, mut places: Vec<Place>) -> Result<Vec<Place>> {
        if self.is_alone()? {
            return Ok(places);
        }
        let nodes = self.cluster().node_list().await?;
        let works = |id: NodeId| {
            let node = nodes.iter().map(|n| &n.node).find(|n| n.id == id);
            node.is_some_and(|n| n.status.state == NodeState::Ready && n.spec.availability == Availability::Active)
        };
        places.retain(|p| works(p.id));
        match places.is_empty() {
            true => Err(Error::conflict("no node of the cluster is ready and active: there is nowhere to pull to")),
            false => Ok(places),
        }
    }

    /// Every copy that can be reached gets the name; those that cannot are the call's error.
    pub(super) async fn tag(&self, name: &str, repo: &str, tag: &str) -> Result<()> {
        let (places, unreached) = self.with_image(name).await?;
        for place in &places {
            place.engine.image_tag(name, repo.to_owned(), tag.to_owned()).await.map_err(|e| place.blamed(e))?;
        }
        if let (Some(target), Some(place)) = (named(repo, tag), places.first())
            && let Ok(image) = place.engine.image_inspect(name).await
        {
            // What was named just now keeps the name: copies for other platforms are other images.
            let named: BTreeSet<NodeId> = places.iter().map(|p| p.id).collect();
            self.name_moved(&target, &image.id, &named).await;
        }
        reached_all(&format!("{name} was tagged"), &places, &unreached)
    }

    /// A name was given to an image: other images that have it on other nodes lose it, as on one host, and stay without.
    /// A container that is placed there has the new one copied over. `but`: nodes that are left alone.
    pub(super) async fn name_moved(&self, name: &str, id: &str, but: &BTreeSet<NodeId>) {
        let query = SurveyQuery { image: name.to_owned(), ..SurveyQuery::default() };
        let Ok((answers, unreached)) = self.survey_all(query).await else { return };
        let another = |s: &Survey| s.image.as_ref().is_some_and(|other| other != id);
        for (place, _) in answers.iter().filter(|(p, s)| another(s) && !but.contains(&p.id)) {
            if let Err(error) = place.engine.image_untag(name).await {
                tracing::warn!(image = name, node = %place.hostname, %error, "an older image keeps its name");
            }
        }
        for away in &unreached {
            tracing::debug!(image = name, node = %away.node, "whether an older image has the name is not known");
        }
    }

    /// Lines of a load or an import on this host, after which the names it gave are no other image's elsewhere.
    /// `name`: the one that an import gives; a load's lines say theirs.
    pub(super) fn moving_names(&self, lines: Stream<ProgressLine>, name: Option<String>) -> Stream<ProgressLine> {
        let whole = self.clone();
        let moved = move |line: Result<ProgressLine>| {
            let (whole, name) = (whole.clone(), line.as_ref().ok().and_then(|l| given_name(l, name.as_deref())));
            async move {
                if let Some(name) = name
                    && let Ok(image) = whole.here().engine.image_inspect(&name).await
                {
                    whole.name_moved(&name, &image.id, &BTreeSet::new()).await;
                }
                line
            }
        };
        lines.then(moved).boxed()
    }

    /// From a node that has the image, or with no tag any of the repository; this one says that nobody has, in Docker's words.
    pub(super) async fn push(
        &self,
        name: &str,
        tag: Option<String>,
        auth: Option<AuthConfig>,
    ) -> Result<Stream<ProgressLine>> {
        let place = match named(name, tag.as_deref().unwrap_or_default()) {
            Some(full) if tag.is_some() => self.with_image(&full).await.map(|(places, _)| places),
            _ => self.with_repository(name).await,
        };
        let place = match place {
            Ok(places) => places.into_iter().next().unwrap_or_else(|| self.here()),
            Err(e) if e.kind == Kind::NotFound => self.here(),
            Err(e) => return Err(e),
        };
        place.engine.image_push(name, tag, auth).await.map_err(|e| place.blamed(e))
    }

    /// The nodes that have images of a repository, or of the one name where it says a tag.
    async fn with_repository(&self, name: &str) -> Result<Vec<Place>> {
        let mut filters = Filters::default();
        filters.add("reference", name);
        let ask = |engine: Arc<dyn Engine>| {
            let filters = filters.clone();
            async move { engine.image_list(false, false, filters).await }
        };
        let (answers, _) = self.gather(ask).await?;
        Ok(answers.into_iter().filter(|(_, list)| !list.items.is_empty()).map(|(place, _)| place).collect())
    }

    /// Every copy goes. One that is in use or cannot be reached stays, and is the call's error; others may be gone by then.
    pub(super) async fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageDeleteItem>> {
        let (places, unreached) = self.with_image(name).await?;
        let several = places.len() > 1;
        let removals = places.iter().map(|place| async move {
            let removed = place.engine.image_remove(name, force, no_prune).await;
            removed.map_err(|e| match several {
                true => Error::new(e.kind, format!("node {}: {}", place.hostname, e.message)),
                false => e,
            })
        });
        let mut items: Vec<ImageDeleteItem> = Vec::new();
        for removed in futures_util::future::join_all(removals).await {
            for item in removed? {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
        reached_all(&format!("{name} was removed"), &places, &unreached)?;
        Ok(items)
    }

    /// From a node that has all of them, this one before others.
    pub(super) async fn save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
        let mut having: Option<Vec<Place>> = None;
        for name in &names {
            let (these, _) = self.with_image(name).await?;
            having = Some(match having {
                None => these,
                Some(before) => before.into_iter().filter(|p| these.iter().any(|t| t.id == p.id)).collect(),
            });
        }
        match having.and_then(|places| places.into_iter().next()) {
            Some(place) => place.engine.image_save(names).await,
            None => Err(Error::conflict(format!(
                "no node has all of the images {}: pull them first, or save them one by one",
                names.join(", ")
            ))),
        }
    }

    /// Copies an image from one node to another. Nothing is kept on the way but what is in flight.
    pub(super) async fn copy_image(&self, name: &str, from: &Place, to: &Place) -> Result<()> {
        tracing::info!(image = name, from = %from.hostname, to = %to.hostname, "copying an image to where it is needed");
        let tar = from.engine.image_save(vec![name.to_owned()]).await?;
        let mut lines = to.engine.image_load(tar, true, String::new()).await?;
        while let Some(line) = lines.next().await {
            let line = line?;
            if !line.error.is_empty() {
                return Err(Error::internal(line.error));
            }
        }
        Ok(())
    }
}

/// A repository and a tag or digest as one name. `None`: no name was given.
pub(super) fn named(repo: &str, tag: &str) -> Option<String> {
    let name = match tag {
        _ if repo.is_empty() => return None,
        "" => repo.to_owned(),
        digest if digest.contains(':') => format!("{repo}@{digest}"),
        tag => format!("{repo}:{tag}"),
    };
    Some(Reference::parse(&name).map_or(name, |r| r.familiar()))
}

/// The name that a line of a load or an import says was given.
fn given_name(line: &ProgressLine, imported: Option<&str>) -> Option<String> {
    match imported {
        Some(name) => line.status.starts_with("sha256:").then(|| name.to_owned()),
        None => line.stream.strip_prefix("Loaded image: ").map(|name| name.trim_end().to_owned()),
    }
}

/// Docker's words.
pub(super) fn no_such_image(name: &str) -> String {
    format!("No such image: {}", Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar()))
}

/// # Errors
/// `Unavailable`, when there are nodes that may have a copy to which nothing was done.
fn reached_all(done: &str, places: &[Place], unreached: &[Unreached]) -> Result<()> {
    if unreached.is_empty() {
        return Ok(());
    }
    let on: Vec<_> = places.iter().map(|p| p.hostname.as_str()).collect();
    let away = super::find::away(unreached);
    Err(Error::unavailable(format!("{done} on {} only: these nodes did not answer: {away}", on.join(", "))))
}

fn away_line(place: &Place, e: &Error) -> Result<ProgressLine> {
    Ok(ProgressLine::status(format!("node {} did not answer: {e}", place.hostname)))
}

/// The progress of one node among others': layers of the same id move at different speeds.
fn of_node(host: String, lines: Stream<ProgressLine>) -> Stream<ProgressLine> {
    let host: Arc<str> = host.into();
    lines
        .map(move |line| match line {
            Ok(mut line) => {
                if !line.error.is_empty() {
                    return Ok(ProgressLine::error(format!("node {host}: {}", line.error)));
                }
                if !line.id.is_empty() {
                    line.id = format!("{host}/{}", line.id);
                }
                Ok(line)
            }
            Err(e) => Err(Error::new(e.kind, format!("node {host}: {}", e.message))),
        })
        .boxed()
}

/// What every node says alike (the digest, the end) is said once.
fn without_repeats(lines: Stream<ProgressLine>) -> Stream<ProgressLine> {
    let mut said = BTreeSet::new();
    let new = move |line: &Result<ProgressLine>| match line {
        Ok(l) if l.id.is_empty() && !l.status.is_empty() => said.insert(l.status.clone()),
        _ => true,
    };
    let mut new = new;
    lines.filter(move |line| std::future::ready(new(line))).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_image_is_found_however_it_is_written_and_once() {
        let wanted = Wanted::default();
        wanted.put("busybox", NodeId::from_u128(2));
        wanted.put("other:1", NodeId::from_u128(3));
        assert_eq!(wanted.take("docker.io/library/busybox:latest"), [NodeId::from_u128(2)].into());
        assert!(wanted.take("busybox").is_empty());
    }

    #[test]
    fn names_that_loads_and_imports_give_are_read_out_of_their_lines() {
        let loaded = ProgressLine { stream: "Loaded image: app:1\n".to_owned(), ..ProgressLine::default() };
        assert_eq!(given_name(&loaded, None).as_deref(), Some("app:1"));
        let unnamed = ProgressLine { stream: "Loaded image ID: sha256:00\n".to_owned(), ..ProgressLine::default() };
        assert_eq!(given_name(&unnamed, None), None);
        assert_eq!(given_name(&ProgressLine::status("sha256:00"), Some("app:1")).as_deref(), Some("app:1"));
        assert_eq!(named("app", "").as_deref(), Some("app:latest"));
        assert_eq!(named("r:5000/app", "2").as_deref(), Some("r:5000/app:2"));
        assert_eq!(named("", "2"), None);
        assert_eq!(no_such_image("ghost"), "No such image: ghost:latest");
    }

    #[tokio::test]
    async fn lines_of_many_nodes_say_whose_they_are_and_the_end_once() {
        let of = |host: &str| {
            let lines = [ProgressLine::about("ab", "Download complete", 0, 0), ProgressLine::status("Digest: x")];
            of_node(host.to_owned(), stream::iter(lines.map(Ok)).boxed())
        };
        let all: Vec<_> = without_repeats(of("h1").chain(of("h2")).boxed()).map(|l| l.expect("line")).collect().await;
        let said: Vec<_> = all.iter().map(|l| format!("{} {}", l.id, l.status)).collect();
        assert_eq!(said, ["h1/ab Download complete", " Digest: x", "h2/ab Download complete"]);
    }
}
