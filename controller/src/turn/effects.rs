//! Performing what the manager decides.

use super::{Turn, spans};
use muster_consensus::{Change, ProposeError};
use muster_controller_core::{CloseReason, Effect, Input, PeerChange, ProposalId, Refusal, events_of};
use muster_model::{NodeId, spec::Role};
use muster_state::{Applied, Entry, Event, Key, Object};
use tracing::{Span, debug, info_span, warn};

impl Turn {
    pub(super) fn perform_effects(&mut self) {
        // An effect may make the manager decide again; the turn's bound on rounds ends what does not end by itself.
        for effect in std::mem::take(&mut self.effects) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { proposal, entry, .. } => self.propose(proposal, &entry),
            Effect::Reply { token, result } => {
                if self.placed(token, &result) || self.reported(token, result.is_ok()) {
                    return;
                }
                if let Some(reply) = self.calls.remove(&token) {
                    self.answers.push((reply, result));
                }
            }
            Effect::SendAssignments { node, session, update } => self.send_assignments(node, session, update),
            Effect::CloseSession { node, session, why } => {
                self.close_session(session, why);
                if why == CloseReason::NotMember {
                    self.close_later(node);
                }
            }
            Effect::ChangeMembership(change) => self.change_membership(change),
            Effect::TransferLeadership { to } => {
                if let Err(error) = self.consensus.transfer_leader(to.raft_id()) {
                    warn!(to.id = %to, %error, "the leadership cannot be handed on");
                    self.input(Input::MembershipFailed);
                }
            }
            Effect::Applied(applied) => self.applied(&applied),
            Effect::Halt(error) => self.stop(error.to_string()),
        }
    }

    fn propose(&mut self, proposal: ProposalId, entry: &Entry) {
        let spans = entry
            .groups
            .iter()
            .filter_map(|g| g.trace_parent.as_deref())
            .map(|trace| commit_span(trace, entry))
            .collect();
        match self.consensus.propose(entry.encode()) {
            Ok(token) => {
                debug!(proposal = proposal.0, index = token.index, groups = entry.groups.len(), "proposed");
                self.proposals.insert(proposal.0, spans);
                self.proposed += 1;
            }
            Err(error) => {
                debug!(proposal = proposal.0, %error, "not proposed");
                let why = match error {
                    ProposeError::Overloaded => Refusal::Overloaded,
                    _ => Refusal::NotLeader,
                };
                self.input(Input::ProposalFailed { proposal, why });
            }
        }
    }

    fn change_membership(&mut self, change: PeerChange) {
        let (change, context) = match change {
            PeerChange::AddLearner { node, .. } => (Change::AddLearner(node.raft_id()), node.to_string()),
            PeerChange::AddVoter { node, .. } => (Change::AddVoter(node.raft_id()), node.to_string()),
            PeerChange::Remove { peer } => (Change::Remove(peer), String::new()),
        };
        if let Err(error) = self.consensus.propose_membership(change, context) {
            warn!(?change, %error, "managers cannot be changed now");
            self.input(Input::MembershipFailed);
        }
    }

    fn applied(&mut self, applied: &Applied) {
        self.changed = true;
        if self.past.is_some_and(|past| applied.index > past) {
            events_of(applied).for_each(|event| self.witness.saw(event));
        }
        if self.office.is_some() {
            spans::running(applied);
        }
        for event in &applied.events {
            if let Some(node) = lost_rights(event) {
                self.close_later(node);
            }
        }
        let managers = applied.events.iter().any(concerns_managers);
        if managers {
            self.refresh_addresses();
        }
        if managers || applied.events.iter().any(|e| e.key == Key::Cluster) {
            self.tell_managers(None);
        }
    }

    /// The spans of a proposal end when it is applied.
    pub(super) fn close_proposal(&mut self, number: u64) {
        self.proposals.remove(&number);
    }
}

fn commit_span(trace: &str, entry: &Entry) -> Span {
    let span = info_span!("raft.commit", groups = entry.groups.len());
    muster_telemetry::continue_from(&span, trace);
    span
}

/// Whether it changes who should be a manager, where one is, or who is let in. Most events of nodes only say that they live.
fn concerns_managers(event: &Event) -> bool {
    let part = |object: &Option<Object>| match object {
        Some(Object::Node(node)) => Some((node.spec.role, node.manager_addr)),
        _ => None,
    };
    let operators = |object: &Option<Object>| match object {
        Some(Object::Cluster(cluster)) => cluster.revoked_serials().map(str::to_owned).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let called_back = matches!(event.key, Key::Cluster) && operators(&event.before) != operators(&event.after);
    called_back || matches!(event.key, Key::Node(_)) && part(&event.before) != part(&event.after)
}

/// A node that was removed, or is no manager any more: what it was let in for is over.
fn lost_rights(event: &Event) -> Option<NodeId> {
    let Key::Node(id) = event.key else { return None };
    match (&event.before, &event.after) {
        (Some(_), None) => Some(id),
        (Some(Object::Node(before)), Some(Object::Node(after))) => {
            (before.role == Role::Manager && after.role == Role::Worker).then_some(id)
        }
        _ => None,
    }
}
