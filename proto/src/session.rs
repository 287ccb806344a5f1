//! What agents and the leader say to each other in a session, between the wire and the model. Each side reads here what the
//! other sent: what is not as it should be is refused by the field's name.

use crate::v1;
use muster_model::{
    AttachmentId, NodeId,
    assignment::{AssignmentUpdate, TaskReport},
    cluster::{AttachRequest, NodeDescription},
};
use std::time::Duration;
use tonic::Status;

/// What an agent says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromAgent {
    /// First in a session; again when the host is not any more what it was.
    Hello(Box<NodeDescription>),
    Heartbeat,
    Reports {
        /// What the agent calls them.
        sequence: u64,
        reports: Vec<TaskReport>,
    },
    NeedWhole,
    Attach(Vec<AttachRequest>),
    Detach(Vec<AttachmentId>),
    /// Its node leaves the cluster.
    Leaving,
}

/// What the leader says.
#[derive(Clone, Debug)]
pub enum FromLeader {
    /// First in a session.
    Welcome {
        heartbeat: Duration,
    },
    Assignments(AssignmentUpdate),
    Managers {
        managers: Vec<(NodeId, String)>,
        role: String,
        /// Serials of operators' certificates that are called back.
        revoked: Vec<String>,
        /// How often to say that one lives from now on; `None`: as it was.
        heartbeat: Option<Duration>,
    },
    ReportsTaken {
        sequence: u64,
    },
    /// A place on a network is not given.
    Refused {
        id: AttachmentId,
        why: muster_calls::Error,
    },
}

impl FromAgent {
    /// `None`: it is from a newer agent.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field.
    pub fn read(message: v1::AgentMessage) -> Result<Option<Self>, Status> {
        use v1::agent_message::Of;
        let Some(of) = message.of else { return Ok(None) };
        Ok(Some(match of {
            Of::Hello(hello) => {
                let description = serde_json::from_slice(&hello.description);
                Self::Hello(Box::new(description.map_err(|e| invalid("hello.description", &e))?))
            }
            Of::Heartbeat(_) => Self::Heartbeat,
            Of::Reports(of) => {
                let reports = rmp_serde::from_slice(&of.reports).map_err(|e| invalid("reports", &e))?;
                Self::Reports { sequence: of.sequence, reports }
            }
            Of::Leaving(v1::Leaving {}) => Self::Leaving,
            Of::NeedWhole(_) => Self::NeedWhole,
            Of::Attach(of) => {
                Self::Attach(rmp_serde::from_slice(&of.requests).map_err(|e| invalid("attach.requests", &e))?)
            }
            Of::Detach(of) => {
                let ids = of.ids.iter().map(|id| id.parse()).collect::<Result<_, _>>();
                Self::Detach(ids.map_err(|e| invalid("detach.ids", &e))?)
            }
        }))
    }
}

impl FromLeader {
    /// `None`: it is from a newer leader, or about a place that cannot be one of ours.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, with the field.
    pub fn read(message: v1::ManagerMessage) -> Result<Option<Self>, Status> {
        use v1::manager_message::Of;
        let Some(of) = message.of else { return Ok(None) };
        Ok(Some(match of {
            Of::Welcome(of) => Self::Welcome { heartbeat: Duration::from_millis(of.heartbeat_period_ms) },
            Of::Assignments(of) => {
                Self::Assignments(rmp_serde::from_slice(&of.update).map_err(|e| invalid("assignments.update", &e))?)
            }
            Of::Managers(of) => Self::Managers {
                managers: managers(of.managers),
                role: of.role,
                revoked: of.revoked,
                heartbeat: (of.heartbeat_period_ms != 0).then(|| Duration::from_millis(of.heartbeat_period_ms)),
            },
            Of::ReportsTaken(of) => Self::ReportsTaken { sequence: of.sequence },
            Of::Refused(of) => {
                let Ok(id) = of.id.parse() else { return Ok(None) };
                Self::Refused { id, why: crate::from_status(Status::new(of.code.into(), of.message)) }
            }
        }))
    }
}

/// Managers and their addresses; entries with an id that is none are left out.
fn managers(list: Vec<v1::ManagerAddress>) -> Vec<(NodeId, String)> {
    list.into_iter().filter_map(|m| Some((m.node_id.parse().ok()?, m.address))).collect()
}

fn invalid(field: &str, error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {error}"))
}
