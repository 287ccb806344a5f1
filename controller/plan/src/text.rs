//! A plan as text, for review in tests and for the log.

use crate::{Plan, Subject};
use muster_model::{
    NodeId,
    cluster::{Task, TaskStatus},
};
use muster_state::{Change, Key, Object, State};
use std::fmt::Write;

impl Plan {
    /// One line per change, with names instead of ids where there are names.
    pub fn describe(&self, state: &State) -> String {
        let mut out = String::new();
        for (subject, group) in &self.groups {
            // Writing to a String cannot fail.
            let _ = match subject {
                Subject::Service(id) => {
                    let name = state.service(*id).map_or_else(|| id.to_string(), |s| s.spec.name.clone());
                    writeln!(out, "service {name}")
                }
                Subject::Attachment(id) => writeln!(out, "attachment {id}"),
            };
            for change in &group.changes {
                let _ = writeln!(out, "  {}", line(change, state));
            }
        }
        out
    }
}

fn line(change: &Change, state: &State) -> String {
    match change {
        Change::Put(Object::Task(t)) => match state.task(t.id) {
            None => format!("new task {}", whole(t, state)),
            Some(old) => format!("task {}", differences(old, t, state)),
        },
        Change::Put(Object::Service(s)) => {
            let vips: Vec<_> = s.endpoint.vips.values().map(ToString::to_string).collect();
            let ports: Vec<_> =
                s.endpoint.ports.iter().map(|p| format!("{}->{}/{}", p.published, p.target, p.protocol)).collect();
            let update =
                s.update_status.as_ref().map(|u| format!(" update={:?} ({})", u.state, u.message)).unwrap_or_default();
            format!("put service vips=[{}] ports=[{}]{update}", vips.join(" "), ports.join(" "))
        }
        Change::Put(Object::Network(n)) => format!("put network {} vni={} subnet={}", n.spec.name, n.vni, n.subnet),
        Change::Put(Object::Attachment(a)) => match a.ip {
            Some(ip) => format!("put attachment {ip}"),
            None => format!("put attachment refused: {}", a.refusal),
        },
        Change::Put(object) => format!("put {}", object.key()),
        Change::TaskStatus { task, status } => {
            let name = state.task(*task).map_or_else(|| task.short(), |t| slot(t, state));
            format!("task {name} is {}", status_text(status))
        }
        Change::NodeStatus { node, status, .. } => format!("node {} is {:?}", node_text(*node, state), status.state),
        Change::Delete(Key::Task(id)) => {
            format!(
                "forget task {}",
                state
                    .task(*id)
                    .map_or_else(|| id.short(), |t| format!("{} ({})", slot(t, state), t.status.state.as_str()))
            )
        }
        Change::Delete(key) => format!("delete {key}"),
    }
}

fn slot(t: &Task, state: &State) -> String {
    match (t.slot, t.node) {
        (0, Some(node)) => format!("{}.{}", t.service_name, node_text(node, state)),
        (n, _) => format!("{}.{n}", t.service_name),
    }
}

fn whole(t: &Task, state: &State) -> String {
    let mut text = format!("{} desired={} {}", slot(t, state), t.desired.as_str(), status_text(&t.status));
    if let Some(node) = t.node {
        let _ = write!(text, " on {}", node_text(node, state));
    }
    for a in &t.addresses {
        let _ = write!(text, " {}", a.ip);
    }
    text
}

fn differences(old: &Task, new: &Task, state: &State) -> String {
    let mut text = slot(old, state);
    if let Some(node) = old.node.filter(|_| old.slot != 0) {
        let _ = write!(text, " on {}", node_text(node, state));
    }
    if old.desired != new.desired {
        let _ = write!(text, " desired {} -> {}", old.desired.as_str(), new.desired.as_str());
    }
    if old.node != new.node
        && let Some(node) = new.node
    {
        let _ = write!(text, " gets {}", node_text(node, state));
    }
    if old.addresses != new.addresses {
        for a in &new.addresses {
            let _ = write!(text, " {}", a.ip);
        }
    }
    text
}

fn status_text(status: &TaskStatus) -> String {
    let state = status.state.as_str();
    if status.message.is_empty() || status.message == "scheduler assigned task to node" {
        state.to_owned()
    } else {
        format!("{state}: {}", status.message)
    }
}

fn node_text(id: NodeId, state: &State) -> String {
    state.node(id).map_or_else(|| id.short(), |n| crate::schedule::node_name(n))
}
