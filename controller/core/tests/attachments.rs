//! Containers of no service on networks of the cluster: addresses, what other nodes hear of them, and giving them back.

mod cluster;

use cluster::{Cluster, SECOND, node_id};
use muster_controller_core::{Call, CallError, Reply};
use muster_model::{
    AttachmentId, NodeId,
    assignment::{Assignment, EndpointAssignment},
    cluster::AttachRequest,
    spec::NetworkSpec,
};
use std::net::Ipv4Addr;

fn request(n: u128, ip: Option<Ipv4Addr>) -> AttachRequest {
    AttachRequest {
        id: AttachmentId::from_u128(n),
        network: "open".into(),
        container: format!("c{n}"),
        names: vec![format!("box{n}")],
        ip,
        mac: None,
    }
}

fn attach(c: &mut Cluster, node: u128, request: AttachRequest) -> Result<Reply, CallError> {
    c.call(Call::Attach { node: node_id(node), request: Box::new(request) })
}

fn with_network(workers: u8) -> Cluster {
    let mut c = Cluster::new(workers);
    for (name, attachable) in [("open", true), ("closed", false)] {
        c.ok(Call::NetworkCreate { spec: NetworkSpec { name: name.into(), attachable, ..Default::default() } });
    }
    c
}

fn ip_of(c: &Cluster, n: u128) -> Option<Ipv4Addr> {
    c.state().attachment(AttachmentId::from_u128(n)).and_then(|a| a.ip)
}

fn endpoints(c: &Cluster, node: u128) -> Vec<EndpointAssignment> {
    let items = c.agents[&node_id(node)].set.items.values();
    items.filter_map(|a| if let Assignment::Endpoint(e) = a { Some(e.clone()) } else { None }).collect()
}

#[test]
fn each_gets_an_address_of_its_own_and_other_nodes_hear_of_it() {
    let mut c = with_network(2);
    attach(&mut c, 2, request(1, None)).expect("taken");
    attach(&mut c, 3, request(2, None)).expect("taken");
    let (one, two) = (ip_of(&c, 1).expect("given"), ip_of(&c, 2).expect("given"));
    assert_ne!(one, two);
    let told = endpoints(&c, 3);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].ip, told[0].node, told[0].names.as_slice()), (one, node_id(2), &["box1".to_owned()][..]));
    assert!(endpoints(&c, 1).is_empty(), "a node without a place on the network has nothing to do with it");
}

#[test]
fn an_address_that_is_asked_for_is_given_once() {
    let mut c = with_network(1);
    let network = c.state().network_by_name("open").expect("made").clone();
    let ip = network.subnet.nth(77).expect("inside");
    attach(&mut c, 1, request(1, Some(ip))).expect("taken");
    attach(&mut c, 2, request(2, Some(ip))).expect("asked");
    assert_eq!((ip_of(&c, 1), ip_of(&c, 2)), (Some(ip), None));
    let refused = c.state().attachment(AttachmentId::from_u128(2)).expect("there").refusal.clone();
    assert_eq!(refused, "Address already in use");
    c.ok(Call::Detach { node: node_id(2), ids: vec![AttachmentId::from_u128(2)] });
    c.ok(Call::Detach { node: node_id(2), ids: vec![AttachmentId::from_u128(1)] });
    assert_eq!(ip_of(&c, 1), Some(ip), "nobody gives back what is another node's");
    c.ok(Call::Detach { node: node_id(1), ids: vec![AttachmentId::from_u128(1)] });
    attach(&mut c, 2, request(3, Some(ip))).expect("free again");
    assert_eq!(ip_of(&c, 3), Some(ip));
    let gateway = attach(&mut c, 2, request(4, Some(network.gateway)));
    assert!(matches!(gateway, Err(CallError::Forbidden(_))), "{gateway:?}");
    let outside = attach(&mut c, 2, request(4, Some(Ipv4Addr::new(192, 0, 2, 1))));
    assert!(matches!(outside, Err(CallError::Invalid(_))), "{outside:?}");
}

#[test]
fn networks_that_take_no_containers_say_so_and_those_in_use_stay() {
    let mut c = with_network(1);
    for name in ["closed", "ingress"] {
        let refused = attach(&mut c, 2, AttachRequest { network: name.into(), ..request(1, None) });
        let Err(CallError::Forbidden(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("not manually attachable"), "{text}");
    }
    let missing = attach(&mut c, 2, AttachRequest { network: "nonesuch".into(), ..request(1, None) });
    assert!(matches!(missing, Err(CallError::NotFound(_))), "{missing:?}");
    attach(&mut c, 2, request(1, None)).expect("taken");
    let remove = Call::NetworkRemove { name: "open".into() };
    let used = c.call(remove.clone());
    assert!(matches!(&used, Err(CallError::Conflict(text)) if text.contains("box1")), "{used:?}");
    c.ok(Call::Detach { node: node_id(2), ids: vec![AttachmentId::from_u128(1)] });
    c.ok(remove);
}

#[test]
fn a_lost_node_keeps_its_addresses_without_names_until_it_is_removed() {
    let mut c = with_network(2);
    attach(&mut c, 2, request(1, None)).expect("taken");
    attach(&mut c, 3, request(2, None)).expect("taken");
    c.disconnect(3);
    c.pass(SECOND * 7);
    let told = endpoints(&c, 2);
    assert_eq!((told.len(), told[0].names.len()), (1, 0));
    assert!(ip_of(&c, 2).is_some());
    let node: NodeId = node_id(3);
    c.ok(Call::NodeRemove { name: node.to_string(), force: true });
    assert_eq!(ip_of(&c, 2), None);
    assert!(endpoints(&c, 2).is_empty());
}

#[test]
fn asking_again_changes_the_names_and_nothing_else() {
    let mut c = with_network(2);
    attach(&mut c, 2, request(1, None)).expect("taken");
    attach(&mut c, 3, request(2, None)).expect("taken");
    let before = ip_of(&c, 1);
    attach(&mut c, 2, AttachRequest { names: vec!["other".into()], ..request(1, None) }).expect("renamed");
    assert_eq!(ip_of(&c, 1), before);
    assert_eq!(endpoints(&c, 3)[0].names, ["other"]);
    let stolen = attach(&mut c, 3, request(1, None));
    assert!(matches!(stolen, Err(CallError::Conflict(_))), "{stolen:?}");
}
