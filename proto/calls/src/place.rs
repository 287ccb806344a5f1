//! Finding a node for a container that belongs to no service: what the nodes hold of their own, what the container asks.

use crate::{Error, Kind};
use muster_model::{NodeId, net::Protocol};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What one node is asked before a container is placed or looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SurveyQuery {
    /// Names, ids or prefixes of ids.
    pub containers: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    /// Names, ids or prefixes of ids.
    pub networks: BTreeSet<String>,
    /// Empty: none.
    pub image: String,
    /// What the node's containers hold, too.
    pub load: bool,
}

/// What a node answers to [`SurveyQuery`]: of what was asked for, that which it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Survey {
    pub containers: BTreeMap<String, Found>,
    pub volumes: BTreeSet<String>,
    /// To their ids.
    pub networks: BTreeMap<String, String>,
    /// The image's id.
    pub image: Option<String>,
    pub load: Load,
}

/// A container that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub id: String,
    pub fit: Fit,
}

/// How a text fits a container. Docker's order of finding: the better hides the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fit {
    /// The beginning of the ids of several.
    Several,
    /// The beginning of its id.
    #[default]
    Prefix,
    Name,
    Id,
}

/// What the containers of a node hold that are no tasks of services: the cluster's state knows those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Those that run or have not been started yet.
    pub containers: u32,
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    /// Host ports.
    pub ports: Vec<(Protocol, u16)>,
    /// Ids of those made within the last minute.
    pub recent: BTreeSet<String>,
    /// Ids of those removed last: what was claimed for them is free again.
    pub gone: BTreeSet<String>,
}

/// What a container asks of the node that it is to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Kept for it until the claim is settled: nobody else in the cluster gets it meanwhile.
    pub name: Option<String>,
    /// Only the name is to be kept: for a container that this node has already.
    pub only_name_on: Option<NodeId>,
    /// Ids of containers that [`taken_by`] named, and that the nodes in `loads` no longer have under that name. They were
    /// asked after that.
    pub gone: BTreeSet<String>,
    /// As those of services.
    pub constraints: Vec<String>,
    /// As `constraints`, but left out where no node meets them.
    pub preferred: Vec<String>,
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub ports: Vec<(Protocol, u16)>,
    /// Joins a network that spans hosts.
    pub overlay: bool,
    /// Things that it needs beside it.
    pub beside: Vec<Beside>,
    /// What the nodes hold, as they said a moment ago. A node that did not say cannot be chosen.
    pub loads: BTreeMap<NodeId, Load>,
}

/// Something that a container needs on its node, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// For people: `volume data`.
    pub what: String,
    pub nodes: BTreeSet<NodeId>,
}

/// A node was found. The claim counts as the node's load, and holds the name, until it is settled or some time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub node: NodeId,
    pub claim: u64,
}

const TAKEN_BY: &str = "is already in use by container \"";

/// That a name is another container's, in Docker's words. `by` is its id or says what it is; `place` says where, or nothing.
pub fn name_taken(name: &str, by: &str, place: &str) -> Error {
    Error::conflict(format!(
        "Conflict. The container name \"/{name}\" {TAKEN_BY}{by}\"{place}. You have to remove (or rename) that container to be able to reuse that name."
    ))
}

/// The id of the container that has the name, where [`name_taken`] gives one.
pub fn taken_by(e: &Error) -> Option<&str> {
    let (_, rest) = e.message.split_once(TAKEN_BY).filter(|_| e.kind == Kind::Conflict)?;
    let (id, _) = rest.split_once('"')?;
    (!id.contains(' ')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_name_is_read_out_of_the_refusal() {
        assert_eq!(taken_by(&name_taken("web", "c1", " on node h1")), Some("c1"));
        assert_eq!(taken_by(&name_taken("web", "that is being made", "")), None);
        assert_eq!(taken_by(&Error::conflict("no room")), None);
    }
}
