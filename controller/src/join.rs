//! The other side of `Ca`: how a host becomes a member, and how a member stays one. For workers and managers alike.

use crate::SealKey;
use muster_model::{ClusterId, NodeId, cluster::NodeDescription};
use muster_mtls::{CertRole, Credentials, DialError, Expect, JoinToken, KeyRequest, Tls, bootstrap};
use muster_proto::v1;
use std::{net::SocketAddr, time::Duration};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};

/// One request to one manager, which may have to find its leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What a host was given.
#[derive(Clone, Debug)]
pub struct Membership {
    pub credentials: Credentials,
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    pub role: CertRole,
    /// Where the managers are.
    pub managers: Vec<(NodeId, SocketAddr)>,
    /// For managers.
    pub seal_key: Option<SealKey>,
}

/// Why a host did not become, or remain, a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("no manager's address is given")]
    NoManager,
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The cluster's answer, for people.
    #[error("{message}")]
    Refused { code: tonic::Code, message: String },
    #[error("the manager at {addr} did not answer within {ANSWER_TIMEOUT:?}")]
    Silent { addr: String },
    #[error(transparent)]
    Credentials(#[from] muster_mtls::Error),
    #[error("the answer's {0} is missing or malformed")]
    Answer(&'static str),
}

impl JoinError {
    /// The cluster's own word, which every manager would repeat. All else is of the one that was asked, or of the way to it:
    /// it is away, has become a worker, has another cluster's certificate.
    fn is_final(&self) -> bool {
        use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied};
        let Self::Refused { code, .. } = self else { return false };
        matches!(code, PermissionDenied | InvalidArgument | AlreadyExists | FailedPrecondition)
    }

    /// Nobody was there.
    fn is_silence(&self) -> bool {
        match self {
            Self::NoManager | Self::Silent { .. } => true,
            Self::Dial(DialError::Connect { refusal, .. }) => refusal.is_none(),
            Self::Refused { code, .. } => *code == tonic::Code::Unavailable,
            _ => false,
        }
    }

    /// Of what several managers answered, the last that says more than that nobody was there.
    fn then(self, later: Self) -> Self {
        if later.is_silence() && !self.is_silence() { self } else { later }
    }
}

/// Joins with a token; asks the managers in order until one lets it in or the cluster refuses it. Nothing is written.
///
/// # Errors
/// The cluster's refusal; else the [`JoinError`] of the last manager that answered.
pub async fn join(
    managers: &[String],
    token: &JoinToken,
    description: &NodeDescription,
) -> Result<Membership, JoinError> {
    let mut last = JoinError::NoManager;
    for addr in managers {
        match join_at(addr, token, description).await {
            Err(e) if !e.is_final() => last = last.then(e),
            other => return other,
        }
    }
    Err(last)
}

async fn join_at(addr: &str, token: &JoinToken, description: &NodeDescription) -> Result<Membership, JoinError> {
    let found = bootstrap(addr, token).await?;
    let membership = issue(found.channel, addr, token.secret.clone(), description).await?;
    if membership.cluster_id != found.cluster_id {
        return Err(JoinError::Answer("cluster_id"));
    }
    Ok(membership)
}

/// Asks for the next certificate with the present one, which may have run out. The answer's role may be another: the node
/// was promoted or demoted. Nothing is written or installed.
///
/// # Errors
/// As [`join`]; [`JoinError::Refused`] with `PermissionDenied` when the node is no member any more.
pub async fn renew(tls: &Tls, managers: &[SocketAddr], description: &NodeDescription) -> Result<Membership, JoinError> {
    let mut last = JoinError::NoManager;
    for addr in managers.iter().map(SocketAddr::to_string) {
        let renewed = async {
            let channel = tls.channel(&addr, Expect::Manager).await?;
            issue(channel, &addr, String::new(), description).await
        };
        match renewed.await {
            Err(e) if !e.is_final() => last = last.then(e),
            other => return other,
        }
    }
    Err(last)
}

async fn issue(
    channel: Channel,
    addr: &str,
    secret: String,
    description: &NodeDescription,
) -> Result<Membership, JoinError> {
    let key = KeyRequest::new()?;
    let description = serde_json::to_vec(description).map_err(|_| JoinError::Answer("description"))?;
    let request = v1::IssueRequest {
        csr: key.csr().to_vec().into(),
        secret,
        description: description.into(),
        ..Default::default()
    };
    let mut client = v1::ca_client::CaClient::new(channel);
    let answer = timeout(ANSWER_TIMEOUT, client.issue(Request::new(request))).await;
    let answer = answer.map_err(|_| JoinError::Silent { addr: addr.to_owned() })?;
    let reply =
        answer.map_err(|s| JoinError::Refused { code: s.code(), message: s.message().to_owned() })?.into_inner();
    let roots = reply.roots.iter().map(|der| der.to_vec().into()).collect();
    let credentials = key.complete(reply.certificate.to_vec(), roots)?;
    let identity = credentials.identity();
    let managers = reply.managers.iter().map(manager).collect::<Option<_>>().ok_or(JoinError::Answer("managers"))?;
    let seal_key = match &reply.seal_key[..] {
        [] => None,
        bytes => Some(SealKey::from_bytes(bytes).map_err(|_| JoinError::Answer("seal_key"))?),
    };
    Ok(Membership {
        node_id: identity.node_id,
        cluster_id: identity.cluster_id,
        role: identity.role,
        managers,
        seal_key,
        credentials,
    })
}

fn manager(m: &v1::ManagerAddress) -> Option<(NodeId, SocketAddr)> {
    Some((m.node_id.parse().ok()?, m.address.parse().ok()?))
}
