//! What is told of the cluster's changes to who listens.

mod cluster;

use cluster::{Cluster, SECOND, node_id, service};
use muster_controller_core::{Call, ClusterEvent};
use muster_model::{
    cluster::Version,
    spec::{Availability, Mode, NodeSpec},
};

/// What was told since the last look, of one kind, as people read it.
fn told(c: &mut Cluster, kind: &str) -> Vec<String> {
    let text = |e: &ClusterEvent| {
        let attributes: Vec<String> = e.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} {}", e.action, attributes.join(" "))
    };
    let told = std::mem::take(&mut c.told);
    told.iter().filter(|e| e.kind == kind).map(text).collect()
}

/// Updates that say nothing but that there was one are left out: how many there are is the planner's.
fn told_of_changes(c: &mut Cluster, kind: &str) -> Vec<String> {
    told(c, kind).into_iter().filter(|text| text.contains('.') || !text.starts_with("update")).collect()
}

#[test]
fn a_service_is_told_of_from_its_making_to_its_removal() {
    let mut c = Cluster::new(1);
    c.told.clear();
    let web = c.create(service("web", 2));
    c.settle();
    assert_eq!(told_of_changes(&mut c, "service"), ["create name=web"]);

    let mut spec = service("web", 3);
    spec.task.container.image = "other".into();
    c.ok(Call::ServiceUpdate { id: web, version: c.service_version(web), spec: Box::new(spec) });
    c.settle();
    c.pass(SECOND);
    c.settle();
    assert_eq!(
        told_of_changes(&mut c, "service"),
        [
            "update image.new=other image.old=busybox name=web replicas.new=3 replicas.old=2 updatestate.new=updating",
            "update name=web updatestate.new=completed updatestate.old=updating"
        ]
    );

    c.ok(Call::ServiceRemove { name: "web".into() });
    c.settle();
    assert_eq!(c.state().services().count(), 0);
    assert_eq!(told(&mut c, "service"), ["remove name=web"], "once, though it went in two steps");
}

#[test]
fn a_global_service_has_no_replicas_to_tell_of() {
    let mut c = Cluster::new(1);
    let mut spec = service("each", 1);
    spec.mode = Mode::Global;
    let each = c.create(spec.clone());
    c.settle();
    c.told.clear();
    spec.task.container.env.push("A=b".into());
    c.ok(Call::ServiceUpdate { id: each, version: c.service_version(each), spec: Box::new(spec) });
    c.settle();
    assert!(told(&mut c, "service").iter().all(|text| !text.contains("replicas")));
}

#[test]
fn a_node_is_told_of_when_it_joins_changes_is_lost_and_is_removed() {
    let mut c = Cluster::new(2);
    assert!(told(&mut c, "node").contains(&"update name=n3 state.new=ready state.old=unknown".to_owned()));
    let node = c.state().node(node_id(3)).expect("known").clone();
    let spec = NodeSpec { availability: Availability::Drain, ..node.spec.clone() };
    c.ok(Call::NodeUpdate { id: node.id, version: node.meta.version, spec });
    assert_eq!(told(&mut c, "node"), ["update availability.new=drain availability.old=active name=n3"]);
    c.disconnect(3);
    c.pass(SECOND * 6);
    assert_eq!(told(&mut c, "node"), ["update name=n3 state.new=down state.old=ready"]);
    c.ok(Call::NodeRemove { name: "n3".into(), force: false });
    assert_eq!(told(&mut c, "node"), ["remove name=n3"]);
}

#[test]
fn networks_are_told_of_and_each_event_has_a_place_of_its_own() {
    let mut c = Cluster::new(0);
    c.network("shop");
    c.ok(Call::NetworkRemove { name: "shop".into() });
    let mut places: Vec<(u64, u32)> = c.told.iter().map(|e| e.entry).collect();
    assert!(places.is_sorted(), "{places:?}");
    places.dedup();
    assert_eq!(places.len(), c.told.len());
    assert_eq!(told(&mut c, "network"), ["create name=ingress", "create name=shop", "remove name=shop"]);
    assert_ne!(c.state().cluster().expect("founded").meta.version, Version::ABSENT);
}
