//! What is new: a node is found by the scheduler, the image is brought there, and the name is the container's alone in the
//! whole cluster.
//!
//! One round of questions to all nodes says who has the name, the volumes, the networks and the image, and what room is
//! left; the leader picks by the filters of services' tasks and keeps name and room meanwhile (`muster_controller`).

use super::{
    WholeEngine,
    demand::{Demand, REPLACES, is_predefined, on_node, split_node},
    find::{away, meant},
};
use crate::directory::Place;
use muster_calls::*;
use muster_model::{
    NodeId,
    engine::{ContainerCreateBody, ContainerCreated, Volume, VolumeCreate},
    spec::Availability,
};
use std::collections::BTreeSet;

/// What the nodes answered, with what an away node takes from the answer.
struct Round {
    answers: Vec<(Place, Survey)>,
    unreached: Vec<Unreached>,
}

impl Round {
    fn nodes(&self, has: impl Fn(&Survey) -> bool) -> BTreeSet<NodeId> {
        self.answers.iter().filter(|(_, s)| has(s)).map(|(p, _)| p.id).collect()
    }

    /// The node of a container that others refer to.
    fn container(&self, name: &str) -> Result<NodeId> {
        let answers = self.answers.iter().map(|(p, s)| (p.id, p.hostname.as_str(), s));
        match meant(name, answers, &self.unreached) {
            Ok((node, _)) => Ok(node),
            // Clients take "not found" for the image and pull it.
            Err(e) if e.kind == Kind::NotFound => Err(Error::conflict(e.message)),
            Err(e) => Err(e),
        }
    }

    /// # Errors
    /// `Conflict`, in Docker's words, when a container of any node has the name.
    fn name_is_free(&self, name: &str, but: Option<&str>) -> Result<()> {
        let owner = self.answers.iter().find_map(|(place, s)| {
            let found = s.containers.get(name).filter(|f| f.fit == Fit::Name && Some(f.id.as_str()) != but)?;
            Some((place, found))
        });
        let Some((place, found)) = owner else { return Ok(()) };
        Err(name_taken(name, &found.id, &format!(" on node {}", place.hostname)))
    }
}

/// The nodes of those that did not answer which may hold things that are needed: one that is drained was taken out of service.
fn awaited(unreached: &[Unreached], nodes: &[NodeView]) -> Vec<Unreached> {
    let drained = |host: &str| {
        let mut called = nodes.iter().map(|n| &n.node).filter(|n| n.description.hostname == host).peekable();
        called.peek().is_some() && called.all(|n| n.spec.availability == Availability::Drain)
    };
    unreached.iter().filter(|u| !drained(&u.node)).cloned().collect()
}

/// A claim that comes to nothing unless it is settled: its maker may be cut off at any moment.
struct Claim {
    whole: WholeEngine,
    id: Option<u64>,
}

impl Claim {
    async fn settle(mut self, container: Option<String>) {
        if let Some(id) = self.id.take() {
            tell(&self.whole, id, container).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let whole = self.whole.clone();
            // Bounded by the call's own timeout; without it the claim runs out by itself.
            tokio::spawn(async move { tell(&whole, id, None).await });
        }
    }
}

/// Containers by which the leader refused a name. It remembers them for a while; the nodes know whether they are still
/// there, and are asked once more.
#[derive(Default)]
struct Gone(BTreeSet<String>);

impl Gone {
    /// Names that come and go faster than the nodes can be asked are given up.
    const MOST: usize = 8;

    fn ids(&self) -> BTreeSet<String> {
        self.0.clone()
    }

    /// Whether asking the nodes once more may bring something new.
    fn is_new(&mut self, refusal: &Error) -> bool {
        self.0.len() < Self::MOST && taken_by(refusal).is_some_and(|id| self.0.insert(id.to_owned()))
    }
}

/// A 404 of a create has clients pull the image: it is kept for the image, and what else is missing is a wrong request.
pub(super) fn missing_is_the_image(e: Error) -> Error {
    match e.kind {
        Kind::NotFound if !e.message.starts_with("No such image") => Error::invalid(e.message),
        _ => e,
    }
}

async fn tell(whole: &WholeEngine, claim: u64, container: Option<String>) {
    if let Err(error) = whole.cluster().settle(claim, container).await {
        tracing::debug!(%error, "the leader was not told what became of a claim: it runs out by itself");
    }
}

impl WholeEngine {
    async fn round(&self, query: SurveyQuery) -> Result<Round> {
        let (answers, unreached) = self.survey_all(query).await?;
        Ok(Round { answers, unreached })
    }

    pub(super) async fn create(
        &self,
        name: Option<String>,
        platform: String,
        mut body: ContainerCreateBody,
    ) -> Result<ContainerCreated> {
        let mut demand = Demand::take(name, &platform, &mut body)?;
        if self.is_alone()? {
            return self.create_alone(demand, platform, body).await;
        }
        let mut copied = false;
        let mut gone = Gone::default();
        loop {
            let round = self.round(demand.query()).await?;
            if let Some(name) = &demand.name {
                round.name_is_free(name, None)?;
            }
            let ask = Ask { gone: gone.ids(), ..self.ask_for(&demand, &round).await? };
            let placed = match self.cluster().place(ask).await {
                Ok(placed) => placed,
                Err(e) if gone.is_new(&e) => continue,
                Err(e) => return Err(e),
            };
            let claim = Claim { whole: self.clone(), id: Some(placed.claim) };
            let place = self.place(placed.node)?;
            let has_image = |node: NodeId| round.answers.iter().any(|(p, s)| p.id == node && s.image.is_some());
            if !has_image(place.id) {
                claim.settle(None).await;
                let source = round.answers.iter().find(|(_, s)| s.image.is_some()).map(|(p, _)| p);
                if copied || !self.copied(&demand.image, source, &place).await {
                    self.host.wanted.put(&demand.image, place.id);
                    return Err(Error::not_found(super::images::no_such_image(&demand.image)));
                }
                // Where it was brought, it is to be used: the next round may find the loads a little different.
                copied = true;
                demand.preferred.push(on_node(&place.id.to_string()));
                continue;
            }
            return self.create_at(&place, claim, demand, platform, body, &round).await;
        }
    }

    async fn create_at(
        &self,
        place: &Place,
        claim: Claim,
        demand: Demand,
        platform: String,
        body: ContainerCreateBody,
        round: &Round,
    ) -> Result<ContainerCreated> {
        let named = demand.name.is_some();
        let mut created = match place.engine.container_create(demand.name, platform, body).await {
            Ok(created) => created,
            Err(e) => {
                claim.settle(None).await;
                return Err(e);
            }
        };
        claim.settle(Some(created.id.clone())).await;
        self.host.whereabouts.remember(&created.id, place.id);
        if named {
            let away = round.unreached.iter();
            created.warnings.extend(away.map(|u| {
                format!(
                    "node {} did not answer ({}): whether it has a container of this name is not known",
                    u.node, u.reason
                )
            }));
        }
        Ok(created)
    }

    /// One host outside of any cluster is where everything goes.
    async fn create_alone(
        &self,
        demand: Demand,
        platform: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreated> {
        let here = on_node(&self.host.config.hostname);
        let arch = |c: &String| c.starts_with("node.platform.");
        if let Some(other) = demand.constraints.iter().find(|c| **c != here && !arch(c)) {
            return Err(Error::conflict(format!("no suitable node (constraint {other}: this host is in no cluster)")));
        }
        self.here().engine.container_create(demand.name, platform, body).await
    }

    /// Brings an image over, if it is anywhere. What cannot be copied may still be pulled.
    async fn copied(&self, image: &str, source: Option<&Place>, to: &Place) -> bool {
        let Some(source) = source else { return false };
        match self.copy_image(image, source, to).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(image, from = %source.hostname, to = %to.hostname, %error, "an image could not be copied");
                false
            }
        }
    }

    /// What the leader is asked, from what the container wants and the nodes have.
    async fn ask_for(&self, demand: &Demand, round: &Round) -> Result<Ask> {
        let mut ask = Ask {
            name: demand.name.clone(),
            constraints: demand.constraints.clone(),
            preferred: demand.preferred.clone(),
            nano_cpus: demand.nano_cpus,
            memory_bytes: demand.memory_bytes,
            ports: demand.ports.clone(),
            loads: round.answers.iter().map(|(p, s)| (p.id, s.load.clone())).collect(),
            ..Ask::default()
        };
        for neighbour in &demand.containers {
            let node = match round.container(&neighbour.name) {
                Ok(node) => node,
                Err(_) if !neighbour.must => continue,
                Err(e) => return Err(e),
            };
            match (neighbour.must, neighbour.beside) {
                (true, true) => {
                    ask.beside.push(Beside { what: format!("container {}", neighbour.name), nodes: [node].into() })
                }
                (true, false) => ask.constraints.push(format!("node.id!={node}")),
                (false, true) => ask.preferred.push(format!("node.id=={node}")),
                (false, false) => ask.preferred.push(format!("node.id!={node}")),
            }
        }
        for volume in &demand.volumes {
            let nodes = round.nodes(|s| s.volumes.contains(volume));
            // One that is nowhere is made where the container goes.
            match nodes.is_empty() {
                false => ask.beside.push(Beside { what: format!("volume {volume}"), nodes }),
                true if demand.names_a_node() => {}
                true => self.is_nowhere(round, &format!("volume {volume}")).await?,
            }
        }
        for network in demand.networks.iter().filter(|n| !is_predefined(n)) {
            match self.cluster().network_inspect(network).await {
                Ok(_) => ask.overlay = true,
                Err(e) if e.kind == Kind::NotFound => {
                    let nodes = round.nodes(|s| s.networks.contains_key(network));
                    if nodes.is_empty() {
                        if !round.unreached.is_empty() {
                            let away = away(&round.unreached);
                            return Err(Error::unavailable(format!(
                                "network {network} not found; these nodes did not answer: {away}"
                            )));
                        }
                        // No "not found": clients take that for the image and pull it.
                        return Err(Error::conflict(format!("network {network} not found")));
                    }
                    ask.beside.push(Beside { what: format!("network {network}"), nodes });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(ask)
    }

    /// # Errors
    /// `Unavailable`, when what no node has may be on one that did not answer.
    async fn is_nowhere(&self, round: &Round, what: &str) -> Result<()> {
        if round.unreached.is_empty() {
            return Ok(());
        }
        let awaited = awaited(&round.unreached, &self.cluster().node_list().await?);
        if awaited.is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{what} is on no node that answered, and may be on one that did not: {}; name a node to make it there (NODE/NAME or label muster.node), or drain the one that is away for good",
            away(&awaited)
        )))
    }

    /// A new name is the container's alone in the whole cluster.
    pub(super) async fn rename(&self, name: &str, to: &str) -> Result<()> {
        let (place, name) = self.container(name).await?;
        let (node, to) = split_node(to);
        if let Some(node) = node
            && self.node(node)?.id != place.id
        {
            return Err(Error::invalid(format!(
                "a container stays on its node: it is on {}, and cannot be renamed to {node}/{to}",
                place.hostname
            )));
        }
        let wanted = [to.to_owned(), name.to_owned()];
        let query = SurveyQuery { containers: wanted.into(), ..SurveyQuery::default() };
        let mut gone = Gone::default();
        let (claim, own) = loop {
            let round = self.round(query.clone()).await?;
            let own = round.answers.iter().find(|(p, _)| p.id == place.id).and_then(|(_, s)| s.containers.get(name));
            let own = own.map(|f| f.id.clone());
            round.name_is_free(to, own.as_deref())?;
            if self.is_alone()? {
                break (None, own);
            }
            if !round.unreached.is_empty() && !takes_anothers_place(&place, name).await? {
                return Err(Error::unavailable(format!(
                    "whether the name {to} is free is not known: these nodes did not answer: {}",
                    away(&round.unreached)
                )));
            }
            let loads = round.answers.iter().map(|(p, s)| (p.id, s.load.clone())).collect();
            let ask = Ask {
                name: Some(to.to_owned()),
                only_name_on: Some(place.id),
                gone: gone.ids(),
                loads,
                ..Ask::default()
            };
            match self.cluster().place(ask).await {
                Ok(placed) => break (Some(Claim { whole: self.clone(), id: Some(placed.claim) }), own),
                Err(e) if gone.is_new(&e) => {}
                Err(e) => return Err(e),
            }
        };
        // Without a word to it, a claim comes to nothing.
        place.engine.container_rename(name, to.to_owned()).await?;
        if let Some(claim) = claim {
            claim.settle(own).await;
        }
        Ok(())
    }

    /// On the node that `NODE/NAME` or a label says, where it is already, or where a container would go.
    pub(super) async fn create_volume(&self, mut volume: VolumeCreate) -> Result<Volume> {
        let (node, name) = split_node(&volume.name);
        let (node, name) = (node.map(str::to_owned), name.to_owned());
        volume.name.clone_from(&name);
        let place = match (node.or_else(|| volume.labels.get("muster.node").cloned()), self.is_alone()?) {
            (Some(node), _) => self.node(&node)?,
            (None, true) => self.here(),
            (None, false) => self.home_of_volume(&name).await?,
        };
        let mut made = place.engine.volume_create(volume).await?;
        super::lists::label(&mut made.labels, &place);
        Ok(made)
    }

    async fn home_of_volume(&self, name: &str) -> Result<Place> {
        let volumes = Some(name).filter(|n| !n.is_empty()).map(str::to_owned);
        let query = SurveyQuery { volumes: volumes.into_iter().collect(), load: true, ..SurveyQuery::default() };
        let round = self.round(query).await?;
        if let Some((place, _)) = round.answers.iter().find(|(_, s)| s.volumes.contains(name)) {
            return Ok(place.clone());
        }
        if !name.is_empty() {
            self.is_nowhere(&round, &format!("volume {name}")).await?;
        }
        let loads = round.answers.iter().map(|(p, s)| (p.id, s.load.clone())).collect();
        let placed = self.cluster().place(Ask { loads, ..Ask::default() }).await?;
        Claim { whole: self.clone(), id: Some(placed.claim) }.settle(None).await;
        self.place(placed.node)
    }
}

/// Whether a container was made to take the place, and the name, of one that is gone by now: its client cannot go back.
async fn takes_anothers_place(place: &Place, name: &str) -> Result<bool> {
    let inspect = place.engine.container_inspect(name, false).await?;
    Ok(inspect.config.labels.contains_key(REPLACES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::{
        cluster::{Meta, Node, NodeDescription, NodeStatus},
        spec::{NodeSpec, Role},
    };

    fn node(id: u128, hostname: &str, availability: Availability) -> NodeView {
        let node = Node {
            id: NodeId::from_u128(id),
            meta: Meta::default(),
            spec: NodeSpec { availability, ..NodeSpec::default() },
            role: Role::Worker,
            description: NodeDescription { hostname: hostname.into(), ..NodeDescription::default() },
            status: NodeStatus::default(),
            manager_addr: None,
        };
        NodeView { node, leader: false, reachable: false }
    }

    #[test]
    fn a_node_that_is_away_is_waited_for_unless_it_was_drained() {
        let nodes = [
            node(1, "h1", Availability::Drain),
            node(2, "h2", Availability::Active),
            node(3, "twin", Availability::Drain),
            node(4, "twin", Availability::Pause),
        ];
        let away = ["h1", "h2", "twin", "unknown"].map(|n| Unreached { node: n.into(), reason: String::new() });
        let names: Vec<_> = awaited(&away, &nodes).into_iter().map(|u| u.node).collect();
        assert_eq!(names, ["h2", "twin", "unknown"]);
    }
}
