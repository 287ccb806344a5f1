//! Proposals in flight: what to do when their entry was applied, or refused.

use crate::{Call, ProposalId, Reply, Token};
use muster_model::{NodeId, ServiceId, cluster::Version};
use muster_plan::Subject;
use muster_state::Group;
use std::collections::BTreeMap;

/// One proposal in flight.
#[derive(Debug)]
pub(crate) enum Pending {
    Command(Box<Command>),
    /// The subjects of its groups, in order.
    Plan(Vec<Subject>),
    /// Reports and node states, and who waits for them.
    Observations(Vec<Token>),
    /// Certificates' roles that followed consensus.
    Roles,
}

/// A call as it came in.
#[derive(Debug)]
pub(crate) struct Request {
    pub token: Token,
    pub call: Call,
    pub trace_parent: Option<String>,
    /// How often it was decided anew because the state had moved on.
    pub retries: u32,
}

/// A call on its way through the log.
#[derive(Debug)]
pub(crate) struct Command {
    pub request: Request,
    pub answer: Answer,
}

/// The reply once the entry is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Plain(Reply),
    /// With the version that the service then has.
    Service {
        id: ServiceId,
        warnings: Vec<String>,
    },
}

impl Answer {
    pub fn reply(self, index: u64) -> Reply {
        match self {
            Self::Plain(reply) => reply,
            Self::Service { id, warnings } => Reply::Service { id, version: Version(index), warnings },
        }
    }
}

/// What a call comes to.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is so already.
    Nothing(Reply),
    Propose(Box<Group>, Answer),
}

/// Proposals in flight by number.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    next: u64,
    open: BTreeMap<ProposalId, Pending>,
    /// Of these there is one at most.
    plan: Option<ProposalId>,
    observations: Option<ProposalId>,
    roles: Option<ProposalId>,
}

impl InFlight {
    pub fn add(&mut self, pending: Pending) -> ProposalId {
        self.next += 1;
        let id = ProposalId(self.next);
        match &pending {
            Pending::Command(_) => {}
            Pending::Plan(_) => self.plan = Some(id),
            Pending::Observations(_) => self.observations = Some(id),
            Pending::Roles => self.roles = Some(id),
        }
        self.open.insert(id, pending);
        id
    }

    pub fn take(&mut self, id: ProposalId) -> Option<Pending> {
        for single in [&mut self.plan, &mut self.observations, &mut self.roles] {
            if *single == Some(id) {
                *single = None;
            }
        }
        self.open.remove(&id)
    }

    /// The node that says, by this proposal, that it leaves.
    pub fn leaving(&self, id: ProposalId) -> Option<NodeId> {
        match self.open.get(&id) {
            Some(Pending::Command(command)) => match command.request.call {
                Call::Leave { node, .. } => Some(node),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn plan(&self) -> bool {
        self.plan.is_some()
    }

    pub fn observations(&self) -> bool {
        self.observations.is_some()
    }

    pub fn roles(&self) -> bool {
        self.roles.is_some()
    }

    /// Tokens of everybody who waits for something in flight.
    pub fn drain_tokens(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.open)
            .into_values()
            .flat_map(|p| match p {
                Pending::Command(c) => vec![c.request.token],
                Pending::Observations(tokens) => tokens,
                Pending::Plan(_) | Pending::Roles => Vec::new(),
            })
            .collect()
    }
}
