//! The scheduler: which node a task gets.
//!
//! Filters say where a task may run (`Request::fails` lists them in their order), spreading picks among those nodes (see
//! `spread.rs`). Tasks with equal demands are placed together.

use crate::{
    draft::ServiceDraft,
    explain::{Explanation, Reason},
    hosts::{Claim, Hosts, Row},
    planner::Context,
    spread,
};
use muster_model::{
    NodeId,
    cluster::{Node, NodeState, Task, TaskState},
    net::Subnet,
    spec::{Attribute, Availability, Constraint, Platform, TaskSpec},
};
use muster_state::State;
use std::{collections::BTreeSet, sync::Arc};

/// What hosts call it that can carry networks that span hosts.
const OVERLAY: &str = "ebpf-overlay";

/// Whether a node meets a constraint.
pub(crate) fn meets(constraint: &Constraint, node: &Node) -> bool {
    let equal = match &constraint.attribute {
        Attribute::Ip => ip_matches(node, &constraint.value),
        attribute => value(attribute, node).eq_ignore_ascii_case(&constraint.value),
    };
    equal == constraint.equal
}

/// Whether the image is there for a node's platform.
pub(crate) fn runs_there(platforms: &[Platform], node: &Node) -> bool {
    let d = &node.description;
    platforms.is_empty() || platforms.iter().any(|p| p.suits(&d.os, &d.arch))
}

fn ip_matches(node: &Node, wanted: &str) -> bool {
    let Some(std::net::IpAddr::V4(ip)) = node.description.api_addr.map(|a| a.ip()) else { return false };
    match wanted.parse::<Subnet>() {
        Ok(subnet) => subnet.contains(ip),
        Err(_) => wanted.parse() == Ok(ip),
    }
}

/// The value of a node's attribute; empty where it has none.
pub(crate) fn value(attribute: &Attribute, node: &Node) -> String {
    let d = &node.description;
    match attribute {
        Attribute::Id => node.id.to_string(),
        Attribute::Hostname => d.hostname.clone(),
        Attribute::Role => node.spec.role.as_str().to_owned(),
        Attribute::Ip => d.api_addr.map(|a| a.ip().to_string()).unwrap_or_default(),
        Attribute::Os => d.os.clone(),
        Attribute::Arch => d.arch.clone(),
        Attribute::Label(key) => node.spec.labels.get(key).cloned().unwrap_or_default(),
        Attribute::EngineLabel(key) => d.engine_labels.get(key).cloned().unwrap_or_default(),
    }
}

/// What people call a node.
pub(crate) fn node_name(node: &Node) -> String {
    if node.description.hostname.is_empty() { node.id.short() } else { node.description.hostname.clone() }
}

/// What one task asks of a node.
pub(crate) struct Request {
    claim: Claim,
    constraints: Vec<(String, Constraint)>,
    pub spread_over: Vec<Attribute>,
    max_per_node: u64,
    overlay: bool,
    platforms: Vec<Platform>,
    /// Things that must be on the node, and which nodes have each. Tasks of services have none.
    beside: Vec<(String, BTreeSet<NodeId>)>,
}

impl Request {
    pub fn new(task: &Task) -> Self {
        let placement = &task.spec.placement;
        Self {
            claim: Claim::of(task),
            constraints: parsed(&task.spec),
            // `node.labels.x` as in constraints; what does not parse was refused when the service was accepted.
            spread_over: placement.spread_over.iter().filter_map(|a| Attribute::parse(a).ok()).collect(),
            max_per_node: placement.max_replicas_per_node,
            overlay: !task.addresses.is_empty(),
            platforms: placement.platforms.clone(),
            beside: Vec::new(),
        }
    }

    /// A request that no task stands for.
    pub fn single(
        claim: Claim,
        constraints: Vec<(String, Constraint)>,
        overlay: bool,
        beside: Vec<(String, BTreeSet<NodeId>)>,
    ) -> Self {
        Self { claim, constraints, spread_over: Vec::new(), max_per_node: 0, overlay, platforms: Vec::new(), beside }
    }

    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether the node passes all filters. The cheap ones first: most nodes of a large cluster pass or fail by them.
    pub fn fits(&self, hosts: &Hosts, row: Row) -> bool {
        hosts.open[row] && self.fits_load(hosts, row) && self.fits_node(hosts, row)
    }

    /// The filters whose answer changes as tasks are placed.
    pub fn fits_load(&self, hosts: &Hosts, row: Row) -> bool {
        self.claim.cpu <= hosts.free_cpu[row].max(0)
            && self.claim.memory <= hosts.free_memory[row].max(0)
            && (self.max_per_node == 0 || u64::from(hosts.own[row]) < self.max_per_node)
            && (self.claim.ports.is_empty() || !self.claim.ports.iter().any(|p| hosts.ports[row].contains(p)))
    }

    fn fits_node(&self, hosts: &Hosts, row: Row) -> bool {
        if self.overlay && !hosts.overlay[row] {
            return false;
        }
        if self.beside.iter().any(|(_, nodes)| !nodes.contains(&hosts.id[row])) {
            return false;
        }
        // The node itself is far away in memory: it is looked at only where there is something to ask.
        (self.constraints.is_empty() && self.platforms.is_empty())
            || hosts.node[row]
                .as_ref()
                .is_some_and(|n| runs_there(&self.platforms, n) && self.constraints.iter().all(|(_, c)| meets(c, n)))
    }

    /// The first filter that the node does not pass.
    fn fails(&self, hosts: &Hosts, row: Row) -> Option<Reason> {
        match hosts.node[row].as_ref()?.status.state {
            NodeState::Ready => self.fails_when_ready(hosts, row),
            NodeState::Unknown => Some(Reason::Unheard),
            _ => Some(Reason::NotReady),
        }
    }

    /// Whether a node that the leader has not heard from yet would pass all filters once it has: who asks may wait for that.
    pub fn awaits(&self, hosts: &Hosts) -> bool {
        let unheard = |row: Row| hosts.node[row].as_ref().is_some_and(|n| n.status.state == NodeState::Unknown);
        hosts.rows().any(|(_, row)| unheard(row) && self.fails_when_ready(hosts, row).is_none())
    }

    fn fails_when_ready(&self, hosts: &Hosts, row: Row) -> Option<Reason> {
        let node = hosts.node[row].as_ref()?;
        match node.spec.availability {
            Availability::Active => {}
            Availability::Pause => return Some(Reason::Paused),
            Availability::Drain => return Some(Reason::Drained),
        }
        if let Some((text, _)) = self.constraints.iter().find(|(_, c)| !meets(c, node)) {
            return Some(Reason::Constraint(text.clone()));
        }
        if !runs_there(&self.platforms, node) {
            return Some(Reason::Platform);
        }
        if let Some((what, _)) = self.beside.iter().find(|(_, nodes)| !nodes.contains(&hosts.id[row])) {
            return Some(Reason::Elsewhere(what.clone()));
        }
        if self.overlay && !hosts.overlay[row] {
            return Some(Reason::Feature(OVERLAY.into()));
        }
        if self.claim.cpu > hosts.free_cpu[row].max(0) {
            return Some(Reason::Cpu { need: self.claim.cpu as u64 });
        }
        if self.claim.memory > hosts.free_memory[row].max(0) {
            return Some(Reason::Memory { need: self.claim.memory as u64 });
        }
        if let Some((protocol, port)) = self.claim.ports.iter().find(|p| hosts.ports[row].contains(p)) {
            return Some(Reason::HostPort { protocol: *protocol, port: *port });
        }
        if self.max_per_node != 0 && u64::from(hosts.own[row]) >= self.max_per_node {
            return Some(Reason::MaxReplicas { limit: self.max_per_node });
        }
        None
    }

    pub fn explain(&self, hosts: &Hosts, only: Option<NodeId>) -> Explanation {
        let mut explanation = Explanation::default();
        for (id, row) in hosts.rows().filter(|(id, _)| only.is_none_or(|o| o == *id)) {
            explanation.nodes += 1;
            if let Some(reason) = self.fails(hosts, row) {
                let name = hosts.node[row].as_ref().map_or_else(|| id.short(), |n| node_name(n));
                explanation.reasons.entry(reason).or_default().push(name);
            }
        }
        explanation
    }
}

/// A host that lists what it can do must list it; one that lists nothing is believed to be able.
pub(crate) fn has_overlay(node: &Node) -> bool {
    let features = &node.description.features;
    features.is_empty() || features.iter().any(|f| f == OVERLAY)
}

fn parsed(spec: &TaskSpec) -> Vec<(String, Constraint)> {
    parsed_constraints(&spec.placement.constraints)
}

/// Constraints with the text that people are shown; what does not parse was refused at the door.
pub(crate) fn parsed_constraints(texts: &[String]) -> Vec<(String, Constraint)> {
    let all = texts.iter();
    all.filter_map(|text| Constraint::parse(text).ok().map(|c| (text.split_whitespace().collect(), c))).collect()
}

/// Nodes that may be given a task of this spec if they have room, in the order of their ids.
pub(crate) fn open_rows<'a>(hosts: &'a Hosts, spec: &TaskSpec) -> impl Iterator<Item = (NodeId, Row)> + use<'a> {
    let (constraints, platforms) = (parsed(spec), spec.placement.platforms.clone());
    hosts.rows().filter(move |(_, row)| {
        hosts.open[*row]
            && hosts.node[*row]
                .as_ref()
                .is_some_and(|n| runs_there(&platforms, n) && constraints.iter().all(|(_, c)| meets(c, n)))
    })
}

/// Whether a node meets the placement constraints of a spec.
pub fn eligible(node: &Node, spec: &TaskSpec) -> bool {
    runs_there(&spec.placement.platforms, node) && parsed(spec).iter().all(|(_, c)| meets(c, node))
}

/// Node by node, why a task has none (for one of a global service: why its node has no room). What passes all filters now
/// is counted and has no reason. Costs a walk over all tasks.
pub fn explain(state: &State, task: &Task) -> Explanation {
    let hosts = Hosts::new(state);
    Request::new(task).explain(&hosts, task.node)
}

/// Gives nodes to the tasks that wait for one.
pub(crate) fn place(draft: &mut ServiceDraft, cx: &mut Context<'_>) {
    let waits = |t: &crate::draft::TaskDraft| t.active() && t.task.status.state == TaskState::Pending;
    let mut free: Vec<usize> = (0..draft.tasks.len()).filter(|i| waits(&draft.tasks[*i])).collect();
    if free.is_empty() {
        return;
    }
    cx.hosts.begin(&draft.tasks);
    let (bound, mut rest): (Vec<_>, Vec<_>) = free.drain(..).partition(|i| draft.tasks[*i].task.node.is_some());
    for i in &bound {
        place_bound(draft, cx, *i);
    }
    while let Some(first) = rest.first().copied() {
        let (same, other) =
            rest.into_iter().partition(|i| same_demands(&draft.tasks[first].task, &draft.tasks[*i].task));
        rest = other;
        place_group(draft, cx, &same);
    }
    cx.hosts.end(&draft.tasks);
}

fn same_demands(a: &Task, b: &Task) -> bool {
    Arc::ptr_eq(&a.spec, &b.spec) && a.host_ports == b.host_ports
}

/// A task of a global service: its node is given, what remains is whether it has room.
fn place_bound(draft: &mut ServiceDraft, cx: &mut Context<'_>, i: usize) {
    let t = &mut draft.tasks[i];
    let request = Request::new(&t.task);
    let Some((node, row)) = t.task.node.and_then(|n| Some((n, cx.hosts.row(n)?))) else { return };
    // Counted as one of the node's own already; it must not stand in its own way.
    cx.hosts.own[row] = cx.hosts.own[row].saturating_sub(1);
    if request.fits(cx.hosts, row) {
        cx.hosts.take(row, request.claim());
        t.observe(TaskState::Assigned, cx.now, "scheduler assigned task to node");
    } else {
        let why = request.explain(cx.hosts, Some(node)).to_string();
        t.observe(TaskState::Pending, cx.now, &why);
        draft.waiting = true;
    }
    cx.hosts.own[row] += 1;
}

fn place_group(draft: &mut ServiceDraft, cx: &mut Context<'_>, tasks: &[usize]) {
    let request = Request::new(&draft.tasks[tasks[0]].task);
    let placed = spread::place(&request, cx.hosts, tasks.len());
    for (i, row) in tasks.iter().zip(&placed) {
        let t = &mut draft.tasks[*i];
        Arc::make_mut(&mut t.task).node = Some(cx.hosts.id[*row]);
        t.observe(TaskState::Assigned, cx.now, "scheduler assigned task to node");
    }
    if placed.len() < tasks.len() {
        let why = request.explain(cx.hosts, None).to_string();
        draft.waiting = true;
        for i in &tasks[placed.len()..] {
            draft.tasks[*i].observe(TaskState::Pending, cx.now, &why);
        }
    }
}
