//! Where things are: which node has the container, exec, volume or network that a name names.

use super::{WholeEngine, demand::split_node};
use crate::directory::Place;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muster_calls::*;
use muster_model::{NodeId, engine::NetworkResource};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Ids of containers and execs whose node is remembered; others are searched for.
const REMEMBERED: usize = 4096;

/// Which node things are on that were made or found through this host. They never move, so that what is remembered is
/// right or gone.
#[derive(Default)]
pub struct Whereabouts(Mutex<VecDeque<(String, NodeId)>>);

impl Whereabouts {
    pub fn remember(&self, id: &str, node: NodeId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().rev().any(|(k, _)| k == id) {
            return;
        }
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back((id.to_owned(), node));
    }

    fn look(&self, id: &str) -> Option<NodeId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|(k, _)| k == id).map(|(_, n)| *n)
    }

    fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(k, _)| k != id);
    }
}

/// A container's or exec's whole id: no other object has it.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `There is none`, or `none that we know of`: nodes that did not answer are named.
fn missing(text: String, unreached: &[Unreached]) -> Error {
    if unreached.is_empty() {
        return Error::not_found(text);
    }
    Error::unavailable(format!("{text}; these nodes did not answer: {}", away(unreached)))
}

/// Nodes that did not answer, and why.
pub(super) fn away(unreached: &[Unreached]) -> String {
    let away: Vec<_> = unreached.iter().map(|u| format!("{} ({})", u.node, u.reason)).collect();
    away.join(", ")
}

fn ambiguous<'a>(what: &str, name: &str, hosts: impl Iterator<Item = &'a str>) -> Error {
    let names: Vec<_> = hosts.map(|host| format!("{host}/{name}")).collect();
    Error::conflict(format!("{what} {name} is on more than one node: {}", names.join(", ")))
}

/// Of the containers that a name fits on many nodes, the one that is meant: the best fit, if one node alone has it. `found`
/// holds for each node something to know it by, its hostname and its answer.
///
/// # Errors
/// `NotFound` or, where nodes did not answer, `Unavailable`; `Conflict` with the candidates.
pub(super) fn meant<'a, T: Copy>(
    name: &str,
    found: impl Iterator<Item = (T, &'a str, &'a Survey)>,
    unreached: &[Unreached],
) -> Result<(T, &'a Found)> {
    let all: Vec<_> = found.filter_map(|(node, host, s)| Some((node, host, s.containers.get(name)?))).collect();
    let best = all.iter().map(|(.., f)| f.fit).max();
    let of_best: Vec<_> = all.into_iter().filter(|(.., f)| Some(f.fit) == best).collect();
    match of_best[..] {
        [] => Err(missing(format!("No such container: {name}"), unreached)),
        [(.., found)] if found.fit == Fit::Several => {
            Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}")))
        }
        [(node, _, found)] => Ok((node, found)),
        _ => Err(ambiguous("container", name, of_best.iter().map(|(_, host, _)| *host))),
    }
}

impl WholeEngine {
    /// The node that has a container, and the container's name there.
    pub(super) async fn container<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        let (node, name) = split_node(name);
        if let Some(node) = node {
            return Ok((self.node(node)?, name));
        }
        if is_id(name) {
            return Ok((self.by_id(name).await?, name));
        }
        let query = SurveyQuery { containers: [name.to_owned()].into(), ..SurveyQuery::default() };
        let (surveys, unreached) = self.survey_all(query).await?;
        let answers = surveys.iter().map(|(p, s)| (p, p.hostname.as_str(), s));
        let (place, found) = meant(name, answers, &unreached)?;
        self.host.whereabouts.remember(&found.id, place.id);
        Ok((place.clone(), name))
    }

    /// The first node that says it has the id: nobody waits for the others.
    async fn by_id(&self, id: &str) -> Result<Place> {
        let query = SurveyQuery { containers: [id.to_owned()].into(), ..SurveyQuery::default() };
        if let Some(node) = self.host.whereabouts.look(id) {
            match self.place(node) {
                Ok(place) => return Ok(place),
                Err(_) => self.host.whereabouts.forget(id),
            }
        }
        let mut asked: FuturesUnordered<_> = self
            .places()?
            .into_iter()
            .map(|place| {
                self.ask(place, |e| {
                    let query = query.clone();
                    async move { e.survey(query).await }
                })
            })
            .collect();
        let mut unreached = Vec::new();
        while let Some((place, answer)) = asked.next().await {
            match answer {
                Ok(survey) if survey.containers.contains_key(id) => {
                    self.host.whereabouts.remember(id, place.id);
                    return Ok(place);
                }
                Ok(_) => {}
                Err(e) => unreached.push(Unreached { node: place.hostname, reason: e.message }),
            }
        }
        Err(missing(format!("No such container: {id}"), &unreached))
    }

    /// The node that an exec was made on.
    pub(super) async fn exec<'n>(&self, id: &'n str) -> Result<(Place, &'n str)> {
        if let Some(place) = self.host.whereabouts.look(id).and_then(|node| self.place(node).ok()) {
            return Ok((place, id));
        }
        let (found, unreached) = self.having(|e, id| async move { e.exec_inspect(&id).await.map(drop) }, id).await?;
        match found.into_iter().next() {
            Some((place, ())) => Ok((place, id)),
            None => Err(missing(format!("No such exec instance: {id}"), &unreached)),
        }
    }

    /// Images are copies of each other: the first node that has it serves, this one before others.
    pub(super) async fn image<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        let here = self.here();
        if here.engine.image_inspect(name).await.is_ok() {
            return Ok((here, name));
        }
        let place = self.with_image(name).await?.0.swap_remove(0);
        Ok((place, name))
    }

    /// The nodes that have an image, at least one, and those that did not say.
    pub(super) async fn with_image(&self, name: &str) -> Result<(Vec<Place>, Vec<Unreached>)> {
        let query = SurveyQuery { image: name.to_owned(), ..SurveyQuery::default() };
        let (surveys, unreached) = self.survey_all(query).await?;
        let places: Vec<_> = surveys.into_iter().filter(|(_, s)| s.image.is_some()).map(|(p, _)| p).collect();
        match places.is_empty() {
            true => Err(missing(super::images::no_such_image(name), &unreached)),
            false => Ok((places, unreached)),
        }
    }

    /// What is said of an object that was not found on the nodes that answered, when others did not. Clients that were only
    /// given a name try one kind of object after the other, and go on at "not found" alone: that it is, where the name is an
    /// object's of another kind.
    pub(super) async fn or_another_kind(&self, name: &str, e: Error) -> Error {
        if e.kind != Kind::Unavailable || split_node(name).0.is_some() {
            return e;
        }
        let query = SurveyQuery {
            volumes: [name.to_owned()].into(),
            networks: [name.to_owned()].into(),
            image: name.to_owned(),
            ..SurveyQuery::default()
        };
        let has = |s: &Survey| s.image.is_some() || !s.volumes.is_empty() || !s.networks.is_empty();
        let there = match self.survey_all(query).await {
            Ok((answers, _)) => answers.iter().any(|(_, s)| has(s)),
            Err(_) => false,
        };
        match there || self.spans_hosts(name).await {
            true => Error::not_found(e.message),
            false => e,
        }
    }

    /// Whether a name is a network's that spans hosts: there may be none of its containers on any.
    async fn spans_hosts(&self, network: &str) -> bool {
        self.cluster().network_inspect(network).await.is_ok()
    }

    pub(super) async fn volume<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        let (node, name) = split_node(name);
        if let Some(node) = node {
            return Ok((self.node(node)?, name));
        }
        let query = SurveyQuery { volumes: [name.to_owned()].into(), ..SurveyQuery::default() };
        let (surveys, unreached) = self.survey_all(query).await?;
        let places: Vec<_> = surveys.iter().filter(|(_, s)| s.volumes.contains(name)).map(|(p, _)| p).collect();
        match places[..] {
            [] => Err(missing(format!("get {name}: no such volume"), &unreached)),
            [one] => Ok((one.clone(), name)),
            ref many => Err(ambiguous("volume", name, many.iter().map(|p| p.hostname.as_str()))),
        }
    }

    /// The nodes that have a network of that name, at least one: several where it is one network that spans them.
    pub(super) async fn networks_called<'n>(&self, name: &'n str) -> Result<(Vec<(Place, NetworkResource)>, &'n str)> {
        let (node, name) = split_node(name);
        if super::demand::is_predefined(name) || node.is_some() {
            let place = node.map_or_else(|| Ok(self.here()), |node| self.node(node))?;
            let network = place.engine.network_inspect(name).await?;
            return Ok((vec![(place, network)], name));
        }
        let (found, unreached) = self.having(|e, n| async move { e.network_inspect(&n).await }, name).await?;
        let ids: BTreeSet<_> = found.iter().map(|(_, n)| n.id.clone()).collect();
        match ids.len() {
            // No host's: who asked asks the managers now.
            0 if !unreached.is_empty() && self.spans_hosts(name).await => {
                Err(Error::not_found(format!("network {name} not found")))
            }
            0 => Err(missing(format!("network {name} not found"), &unreached)),
            1 => Ok((found, name)),
            _ => Err(ambiguous("network", name, found.iter().map(|(p, _)| p.hostname.as_str()))),
        }
    }

    /// What the nodes that have an object say of it; "not found" is an answer, too.
    async fn having<T, F>(
        &self,
        probe: impl Fn(std::sync::Arc<dyn Engine>, String) -> F,
        name: &str,
    ) -> Result<(Vec<(Place, T)>, Vec<Unreached>)>
    where
        F: std::future::Future<Output = Result<T>>,
    {
        let ask = |engine| {
            let probe = probe(engine, name.to_owned());
            async move {
                match probe.await {
                    Ok(found) => Ok(Some(found)),
                    Err(e) if e.kind == Kind::NotFound => Ok(None),
                    Err(e) => Err(e),
                }
            }
        };
        let (answers, unreached) = self.gather(ask).await?;
        Ok((answers.into_iter().filter_map(|(place, found)| Some((place, found?))).collect(), unreached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, fit: Fit) -> Survey {
        let found = Found { id: id.to_owned(), fit };
        Survey { containers: [("web".to_owned(), found)].into(), ..Survey::default() }
    }

    fn meant_of(answers: &[(&str, Survey)], unreached: &[Unreached]) -> Result<String> {
        meant("web", answers.iter().map(|(host, s)| (*host, *host, s)), unreached).map(|(host, _)| host.to_owned())
    }

    #[test]
    fn the_best_fit_is_meant_wherever_it_is() {
        let nodes = [("h1", answer("web1", Fit::Prefix)), ("h2", answer("aa", Fit::Name)), ("h3", Survey::default())];
        assert_eq!(meant_of(&nodes, &[]).expect("found"), "h2");
    }

    #[test]
    fn a_name_of_several_nodes_is_a_conflict_that_lists_them() {
        let e = meant_of(&[("h1", answer("a", Fit::Name)), ("h3", answer("b", Fit::Name))], &[]).expect_err("two");
        assert_eq!(e.kind, Kind::Conflict);
        assert!(e.message.ends_with("h1/web, h3/web"), "{e}");
        let several = meant_of(&[("h1", answer("a", Fit::Several))], &[]).expect_err("two of one node");
        assert_eq!(several.message, "multiple IDs found with provided prefix: web");
    }

    #[test]
    fn what_is_not_found_may_be_on_a_node_that_did_not_answer() {
        let away = [Unreached { node: "h2".to_owned(), reason: "no answer in time".to_owned() }];
        let e = meant_of(&[("h1", Survey::default())], &away).expect_err("nowhere");
        assert_eq!(e.kind, Kind::Unavailable);
        assert!(e.message.contains("h2 (no answer in time)"), "{e}");
        assert_eq!(meant_of(&[("h1", Survey::default())], &[]).expect_err("nowhere").kind, Kind::NotFound);
        assert_eq!(meant_of(&[("h1", answer("a", Fit::Name))], &away).expect("found"), "h1");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let known = Whereabouts::default();
        for i in 0..=REMEMBERED {
            known.remember(&i.to_string(), NodeId::from_u128(i as u128));
        }
        assert_eq!(known.look("0"), None);
        assert_eq!(known.look(&REMEMBERED.to_string()), Some(NodeId::from_u128(REMEMBERED as u128)));
        known.forget("1");
        assert_eq!(known.look("1"), None);
    }
}
