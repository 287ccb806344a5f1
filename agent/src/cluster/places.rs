//! Places of this host's containers on networks of the cluster: the engine's [`Spanning`], over the session to the leader.
//!
//! The machine in `muster-agent-core` decides; here is who waits for an answer, and the way to the leader.

use super::session::Order;
use async_trait::async_trait;
use muster_agent_core::attach::{Act, Attachments, Given};
use muster_calls::{Error, Kind, Result};
use muster_engine::{EndpointSpec, Spanning};
use muster_model::{AttachmentId, assignment::AssignmentSet, cluster::AttachRequest, net::Scope};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long a container's start waits for the cluster: as long as Docker's.
const PATIENCE: Duration = Duration::from_secs(20);

type Answer = Result<EndpointSpec>;

/// The places of this host. Cloning shares them.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    overlay_mtu: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machine: Attachments,
    waiting: BTreeMap<AttachmentId, oneshot::Sender<Answer>>,
    /// To the session, while this host is a member.
    orders: Option<mpsc::Sender<Order>>,
    /// `None`: not known yet, the daemon has just started.
    member: Option<bool>,
}

impl Places {
    pub fn new(overlay_mtu: u16) -> Self {
        Self(Arc::new(Inner { overlay_mtu, state: Mutex::default() }))
    }

    /// A membership begins. `known` is what the ledger says of it.
    pub fn joined(&self, orders: mpsc::Sender<Order>, known: &AssignmentSet) {
        self.act(|s, acts| {
            s.orders = Some(orders);
            s.member = Some(true);
            s.machine.session_changed();
            s.machine.assigned(known, false, acts);
        });
    }

    /// This host is in no cluster, or in none any more: nobody gives places.
    pub fn none(&self) {
        self.locked(|s| {
            s.machine.membership_ended();
            (s.orders, s.member) = (None, Some(false));
            s.waiting.clear();
        });
    }

    /// A session opened or ended.
    pub fn session_changed(&self) {
        self.locked(|s| s.machine.session_changed());
    }

    /// See [`Attachments::assigned`].
    pub fn assigned(&self, set: &AssignmentSet, current: bool) {
        self.act(|s, acts| s.machine.assigned(set, current, acts));
    }

    pub fn refused(&self, id: AttachmentId, why: Error) {
        self.locked(|s| {
            s.machine.refused(id);
            s.answer(id, Err(why));
        });
    }

    fn locked<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the machine work; what it says to the leader goes as far as there is room. What finds none is said in the next
    /// session: a leader that reads so slowly has lost this one.
    fn act(&self, f: impl FnOnce(&mut State, &mut Vec<Act>)) {
        let (orders, said) = self.decide(f);
        let Some(orders) = orders else { return };
        for order in said {
            if orders.try_send(order).is_err() {
                tracing::warn!("places on networks cannot be asked for or given back now");
                self.session_changed();
                return;
            }
        }
    }

    fn decide(&self, f: impl FnOnce(&mut State, &mut Vec<Act>)) -> (Option<mpsc::Sender<Order>>, Vec<Order>) {
        self.locked(|s| {
            let mut acts = Vec::new();
            f(s, &mut acts);
            let said = acts.into_iter().filter_map(|a| s.perform(a, self.0.overlay_mtu)).collect();
            (s.orders.clone(), said)
        })
    }
}

impl State {
    /// Answers who waits; what is for the leader comes back.
    fn perform(&mut self, act: Act, overlay_mtu: u16) -> Option<Order> {
        match act {
            Act::Ask(requests) => Some(Order::Attach(requests)),
            Act::GiveBack(ids) => Some(Order::Detach(ids)),
            Act::Given(given) => {
                let id = given.place.id;
                if let Some(endpoint) = endpoint(*given, overlay_mtu) {
                    self.answer(id, Ok(endpoint));
                }
                None
            }
            Act::Denied { id, why } => {
                self.answer(id, Err(Error::forbidden(why)));
                None
            }
        }
    }

    fn answer(&mut self, id: AttachmentId, answer: Answer) {
        match (self.waiting.remove(&id), answer) {
            // Whoever waited may have given up just now.
            (Some(tx), answer) => drop(tx.send(answer)),
            (None, Ok(_)) => {}
            // Of a container that runs: it keeps its address here, where it can harm nobody that is told of others.
            (None, Err(error)) => tracing::warn!(attachment.id = %id, %error, "the cluster takes a place back"),
        }
    }
}

fn endpoint(given: Given, overlay_mtu: u16) -> Option<EndpointSpec> {
    let Given { place, network } = given;
    Some(EndpointSpec {
        scope: Scope::vni(network.vni),
        network_name: network.name,
        network_id: network.id.to_string(),
        subnet: network.subnet,
        gateway: network.gateway,
        internal: network.internal,
        mtu: overlay_mtu.into(),
        ip: place.ip?,
        mac: place.mac()?,
        aliases: Vec::new(),
    })
}

#[async_trait]
impl Spanning for Places {
    fn is_member(&self) -> bool {
        self.locked(|s| s.member != Some(false))
    }

    async fn attach(&self, request: AttachRequest) -> Answer {
        let (id, network) = (request.id, request.network.clone());
        if !self.is_member() {
            return Err(Error::not_found(format!("network {network} not found")));
        }
        let (tx, rx) = oneshot::channel();
        let wait = async {
            let (orders, said) = self.decide(|s, acts| {
                s.waiting.insert(id, tx);
                s.machine.want(request, acts);
            });
            for order in said {
                if let Some(orders) = &orders
                    && orders.send(order).await.is_err()
                {
                    break;
                }
            }
            rx.await
        };
        match timeout(PATIENCE, wait).await {
            Ok(Ok(Err(e))) if e.kind == Kind::NotFound => Err(Error::not_found(format!("network {network} not found"))),
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::unavailable(format!("network {network}: this host has left its cluster"))),
            Err(_) => {
                self.release(id);
                let waited = PATIENCE.as_secs();
                Err(Error::unavailable(format!(
                    "network {network}: no manager of the cluster has given an address within {waited} s"
                )))
            }
        }
    }

    fn hold(&self, request: AttachRequest) {
        self.act(|s, acts| s.machine.want(request, acts));
    }

    fn release(&self, id: AttachmentId) {
        self.act(|s, acts| {
            s.waiting.remove(&id);
            s.machine.drop_want(id, acts);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AttachRequest {
        AttachRequest {
            id: AttachmentId::from_u128(1),
            network: "shop".into(),
            container: "c".into(),
            names: Vec::new(),
            ip: None,
            mac: None,
        }
    }

    #[tokio::test]
    async fn a_refusal_reaches_who_waits_and_a_host_in_no_cluster_refuses_at_once() {
        let places = Places::new(1450);
        let (orders, mut sent) = mpsc::channel(4);
        places.joined(orders, &AssignmentSet::default());
        places.assigned(&AssignmentSet::default(), true);
        let (asking, refuse) = (places.clone(), places.clone());
        let asked = tokio::spawn(async move { asking.attach(request()).await });
        assert!(matches!(sent.recv().await, Some(Order::Attach(r)) if r.len() == 1));
        refuse.refused(AttachmentId::from_u128(1), Error::forbidden("not manually attachable"));
        let refused = asked.await.expect("ends").expect_err("refused");
        assert_eq!(refused.kind, Kind::Forbidden);
        places.none();
        assert_eq!(places.attach(request()).await.expect_err("refused").kind, Kind::NotFound);
    }
}
