//! Small objects for tests.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use muster_model::{
    NetworkId, NodeId, ServiceId, TaskId, Timestamp,
    cluster::{
        Endpoint, Meta, Network, Node, NodeDescription, NodeStatus, Service, Task, TaskState, TaskStatus, Version,
    },
    net::Subnet,
    spec::{
        ContainerSpec, EndpointSpec, Labels, Mode, NetworkSpec, NodeSpec, PublishedPort, Role, ServiceSpec, TaskSpec,
        UpdateConfig,
    },
};
use muster_state::{Applied, Change, Entry, Group, Object, Outcome, State};
use std::sync::Arc;

pub fn service(n: u128, name: &str) -> Service {
    Service {
        id: ServiceId::from_u128(n),
        meta: Meta::default(),
        spec: ServiceSpec {
            name: name.into(),
            labels: Labels::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: spec(),
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            networks_beside: false,
        },
        previous_spec: None,
        spec_version: Version::ABSENT,
        endpoint: Endpoint::default(),
        update_status: None,
        removing: false,
    }
}

pub fn spec() -> TaskSpec {
    let container = ContainerSpec { image: "busybox".into(), env: vec!["A=1".into(); 8], ..Default::default() };
    TaskSpec { container, ..Default::default() }
}

pub fn port(published: u16) -> PublishedPort {
    PublishedPort { target: 80, published, ..Default::default() }
}

pub fn network(n: u128, name: &str, subnet: &str) -> Network {
    let subnet: Subnet = subnet.parse().expect("valid");
    Network {
        id: NetworkId::from_u128(n),
        meta: Meta::default(),
        spec: NetworkSpec { name: name.into(), ..Default::default() },
        vni: 4096 + u32::try_from(n).expect("small"),
        subnet,
        gateway: subnet.gateway(),
        ingress: false,
    }
}

pub fn node(n: u128, hostname: &str) -> Node {
    Node {
        id: NodeId::from_u128(n),
        meta: Meta::default(),
        spec: NodeSpec::default(),
        role: Role::Worker,
        description: NodeDescription { hostname: hostname.into(), ..Default::default() },
        status: NodeStatus::default(),
        manager_addr: None,
    }
}

pub fn task(n: u128, service: u128, slot: u64) -> Task {
    Task {
        id: TaskId::from_u128(n),
        meta: Meta::default(),
        service: ServiceId::from_u128(service),
        service_name: "web".into(),
        slot,
        node: None,
        spec: Arc::new(spec()),
        spec_version: Version(1),
        desired: TaskState::Running,
        status: TaskStatus { at: Timestamp(1), ..Default::default() },
        addresses: Vec::new(),
        host_ports: Vec::new(),
        trace_parent: None,
    }
}

pub fn apply(state: &mut State, groups: Vec<Group>) -> Applied {
    let entry = Entry { groups, ..Entry::default() };
    let entry = Entry::decode(&entry.encode()).expect("own entries decode");
    state.apply(state.index() + 1, &entry).expect("in order")
}

pub fn apply_group(state: &mut State, changes: Vec<Change>) -> Outcome {
    apply(state, vec![Group { changes, ..Group::default() }]).outcomes.remove(0)
}

/// Puts one object that nothing refuses.
pub fn put(state: &mut State, object: impl Into<Object>) -> Applied {
    let applied = apply(state, vec![Group { changes: vec![Change::Put(object.into())], ..Group::default() }]);
    assert_eq!(applied.outcomes[0].rejection(), None);
    applied
}
