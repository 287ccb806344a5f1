//! Places on networks that span hosts, for containers of no service: which this host wants, which the cluster has given it.
//!
//! A place is asked for by an id that this host drew. The cluster's answer is the assignment of that id (given or refused)
//! or a refusal by message. What the cluster has given and nobody here wants any more is given back: after a crash of the
//! daemon that is how the places of containers which ended meanwhile are found. What was given stays usable without managers.

use muster_model::{
    AttachmentId,
    assignment::{Assignment, AssignmentSet, NetworkAssignment},
    cluster::{AttachRequest, Attachment},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Ask the leader for these places.
    Ask(Vec<AttachRequest>),
    /// Give these back.
    GiveBack(Vec<AttachmentId>),
    /// A place that was asked for is there.
    Given(Box<Given>),
    /// It will not be.
    Denied { id: AttachmentId, why: String },
}

/// A place that was given, with the network it is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    pub place: Arc<Attachment>,
    pub network: NetworkAssignment,
}

/// The places of this host.
#[derive(Debug, Default)]
pub struct Attachments {
    wanted: BTreeMap<AttachmentId, Wanted>,
    given: BTreeMap<AttachmentId, Given>,
    /// Refused by assignment: known until they are given back.
    denied: BTreeSet<AttachmentId>,
    /// The set that the leader of this session sent is known: before, what it has given is not.
    current: bool,
}

#[derive(Debug)]
struct Wanted {
    request: AttachRequest,
    /// Asked in this session.
    asked: bool,
}

impl Attachments {
    /// A container needs this place, or goes by other names on it.
    pub fn want(&mut self, request: AttachRequest, out: &mut Vec<Act>) {
        let id = request.id;
        let known = self.given.get(&id).cloned();
        let ask = self.current && known.as_ref().is_none_or(|g| g.place.names != request.names);
        self.wanted.insert(id, Wanted { request: request.clone(), asked: ask });
        if ask {
            out.push(Act::Ask(vec![request]));
        }
        if let Some(given) = known {
            out.push(Act::Given(Box::new(given)));
        }
    }

    /// Nobody needs it any more.
    pub fn drop_want(&mut self, id: AttachmentId, out: &mut Vec<Act>) {
        // What was asked for and not answered may still be given.
        if self.wanted.remove(&id).is_some() && self.current {
            out.push(Act::GiveBack(vec![id]));
        }
    }

    /// The session ended, or a new one begins: the leader knows nothing of what is wanted here.
    pub fn session_changed(&mut self) {
        self.current = false;
        self.wanted.values_mut().for_each(|w| w.asked = false);
    }

    /// The cluster has let this host go, with all its places. What containers here go on using is asked for anew, with the
    /// address that it has, when the host is a member again.
    pub fn membership_ended(&mut self) {
        self.current = false;
        self.denied.clear();
        for (id, given) in std::mem::take(&mut self.given) {
            if let Some(wanted) = self.wanted.get_mut(&id) {
                wanted.request.ip = given.place.ip;
            }
        }
        self.wanted.values_mut().for_each(|w| w.asked = false);
    }

    /// The assignments are these now. `current`: they are this session's, not those of the ledger.
    pub fn assigned(&mut self, set: &AssignmentSet, current: bool, out: &mut Vec<Act>) {
        self.current |= current;
        let before = std::mem::take(&mut self.given);
        self.denied.clear();
        for item in set.items.values() {
            let Assignment::Attachment(place) = item else { continue };
            self.take(place, set, out);
        }
        if !self.current {
            return;
        }
        let mut ask = Vec::new();
        for (id, wanted) in &mut self.wanted {
            let lost = before.contains_key(id) && !self.given.contains_key(id);
            let renamed = self.given.get(id).is_some_and(|g| g.place.names != wanted.request.names);
            let missing = !self.given.contains_key(id) && !self.denied.contains(id);
            if (missing && (lost || !wanted.asked)) || (renamed && !wanted.asked) {
                wanted.asked = true;
                ask.push(wanted.request.clone());
            }
        }
        if !ask.is_empty() {
            out.push(Act::Ask(ask));
        }
        let unwanted: Vec<_> =
            self.given.keys().chain(&self.denied).filter(|id| !self.wanted.contains_key(*id)).copied().collect();
        if !unwanted.is_empty() {
            out.push(Act::GiveBack(unwanted));
        }
    }

    fn take(&mut self, place: &Arc<Attachment>, set: &AssignmentSet, out: &mut Vec<Act>) {
        let id = place.id;
        let network = set.items.values().find_map(|a| match a {
            Assignment::Network(n) if n.id == place.network => Some(n.clone()),
            _ => None,
        });
        match (place.ip, network) {
            (Some(_), Some(network)) => {
                let given = Given { place: place.clone(), network };
                if self.wanted.contains_key(&id) {
                    out.push(Act::Given(Box::new(given.clone())));
                }
                self.given.insert(id, given);
            }
            _ => {
                self.denied.insert(id);
                if self.wanted.remove(&id).is_some() {
                    out.push(Act::Denied { id, why: place.refusal.clone() });
                }
            }
        }
    }

    /// The leader refused what was asked: a new place is not wanted any more; one that is held goes on as it is, since a
    /// container uses its address.
    pub fn refused(&mut self, id: AttachmentId) {
        if !self.given.contains_key(&id) {
            self.wanted.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::{NetworkId, NodeId, cluster::Meta};
    use std::net::Ipv4Addr;

    const ID: AttachmentId = AttachmentId::from_u128(7);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

    fn request(names: &[&str]) -> AttachRequest {
        AttachRequest {
            id: ID,
            network: "shop".into(),
            container: "c".into(),
            names: names.iter().map(ToString::to_string).collect(),
            ip: None,
            mac: None,
        }
    }

    fn set(ip: Option<Ipv4Addr>, refusal: &str) -> AssignmentSet {
        let network = NetworkAssignment {
            id: NetworkId::from_u128(1),
            name: "shop".into(),
            vni: 4097,
            subnet: "10.0.1.0/24".parse().expect("valid"),
            gateway: Ipv4Addr::new(10, 0, 1, 1),
            internal: false,
        };
        let place = Attachment {
            id: ID,
            meta: Meta::default(),
            network: network.id,
            node: NodeId::from_u128(1),
            container: "c".into(),
            names: vec!["web".into()],
            wanted_ip: None,
            wanted_mac: None,
            ip,
            refusal: refusal.into(),
        };
        let items = [Assignment::Network(network), Assignment::Attachment(Arc::new(place))];
        AssignmentSet { generation: 1, items: items.into_iter().map(|a| (a.key(), a)).collect() }
    }

    fn acts(act: impl FnOnce(&mut Vec<Act>)) -> Vec<Act> {
        let mut out = Vec::new();
        act(&mut out);
        out
    }

    #[test]
    fn a_place_is_asked_for_once_the_leaders_set_is_known_and_answered_by_an_assignment() {
        let mut a = Attachments::default();
        assert!(acts(|out| a.want(request(&["web"]), out)).is_empty(), "there is no leader yet");
        let asked = acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        assert_eq!(asked, [Act::Ask(vec![request(&["web"])])]);
        assert!(acts(|out| a.assigned(&AssignmentSet::default(), false, out)).is_empty(), "asked once");
        let given = acts(|out| a.assigned(&set(Some(IP), ""), false, out));
        assert!(matches!(&given[..], [Act::Given(g)] if g.place.ip == Some(IP)), "{given:?}");
    }

    #[test]
    fn what_was_given_before_a_restart_is_there_without_a_leader() {
        let mut a = Attachments::default();
        assert!(acts(|out| a.assigned(&set(Some(IP), ""), false, out)).is_empty(), "nothing is given back yet");
        let given = acts(|out| a.want(request(&["web"]), out));
        assert!(matches!(&given[..], [Act::Given(_)]), "{given:?}");
    }

    #[test]
    fn what_nobody_wants_is_given_back_to_a_leader_that_is_there() {
        let mut a = Attachments::default();
        assert_eq!(acts(|out| a.assigned(&set(Some(IP), ""), true, out)), [Act::GiveBack(vec![ID])]);
        acts(|out| a.want(request(&["web"]), out));
        assert_eq!(acts(|out| a.drop_want(ID, out)), [Act::GiveBack(vec![ID])]);
    }

    #[test]
    fn a_refusal_by_assignment_is_told_and_given_back() {
        let mut a = Attachments::default();
        acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        acts(|out| a.want(request(&["web"]), out));
        let denied = acts(|out| a.assigned(&set(None, "Address already in use"), false, out));
        assert_eq!(denied, [Act::Denied { id: ID, why: "Address already in use".into() }, Act::GiveBack(vec![ID])]);
    }

    #[test]
    fn a_name_that_is_refused_costs_a_running_container_nothing() {
        let mut a = Attachments::default();
        acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        acts(|out| a.want(request(&["web"]), out));
        acts(|out| a.assigned(&set(Some(IP), ""), false, out));
        acts(|out| a.want(request(&["a name that the leader refuses"]), out));
        a.refused(ID);
        let after = acts(|out| a.assigned(&set(Some(IP), ""), false, out));
        assert!(!after.iter().any(|act| matches!(act, Act::GiveBack(_))), "{after:?}");
        a.refused(AttachmentId::from_u128(8));
    }

    #[test]
    fn who_joins_again_asks_for_the_addresses_that_are_in_use() {
        let mut a = Attachments::default();
        acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        acts(|out| a.want(request(&["web"]), out));
        acts(|out| a.assigned(&set(Some(IP), ""), false, out));
        a.membership_ended();
        assert!(acts(|out| a.assigned(&AssignmentSet::default(), false, out)).is_empty(), "there is no leader yet");
        let asked = acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        assert_eq!(asked, [Act::Ask(vec![AttachRequest { ip: Some(IP), ..request(&["web"]) }])]);
    }

    #[test]
    fn other_names_and_a_lost_place_are_asked_for_again() {
        let mut a = Attachments::default();
        acts(|out| a.assigned(&AssignmentSet::default(), true, out));
        acts(|out| a.want(request(&["web"]), out));
        acts(|out| a.assigned(&set(Some(IP), ""), false, out));
        let renamed = acts(|out| a.want(request(&["shop"]), out));
        assert!(matches!(&renamed[..], [Act::Ask(r), Act::Given(_)] if r[0].names == ["shop"]), "{renamed:?}");
        let lost = acts(|out| a.assigned(&AssignmentSet::default(), false, out));
        assert_eq!(lost, [Act::Ask(vec![request(&["shop"])])]);
    }
}
