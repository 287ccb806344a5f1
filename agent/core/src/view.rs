//! What the data plane and the name server are to know: functions of the assignments and of what exists on this host.

use muster_model::{
    NetworkId, NodeId,
    assignment::{Assignment, AssignmentSet, NetworkAssignment, ServiceAssignment},
    net::{Mac, Scope},
    spec::{EndpointMode, PublishMode},
    view::{
        LocalEndpoint, Names, Network4, Network6, NetworkView, NodeView, Published, Published6, PublishedKey,
        PublishedKey6, RemoteEndpoint, Vip,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    path::PathBuf,
};

/// An endpoint of a container on this host, as the engine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique on this host: container id and interface.
    pub key: String,
    pub scope: Scope,
    pub network_name: String,
    pub internal: bool,
    pub isolated: bool,
    pub routed: bool,
    pub mtu: u16,
    /// Its address, and the network's half that it is in.
    pub v4: Option<(Ipv4Addr, Network4)>,
    /// The same of IPv6.
    pub v6: Option<(Ipv6Addr, Network6)>,
    pub mac: Mac,
    pub netns: PathBuf,
    pub ifname: String,
    pub default_route: bool,
    pub default_route6: bool,
    /// What it is called on its network, besides what services are called.
    pub names: Vec<String>,
    /// Ports of the host that lead to it.
    pub published: Vec<(PublishedKey, u16)>,
    pub published6: Vec<(PublishedKey6, u16)>,
}

/// The view of `me` at these assignments and endpoints. `overlay_mtu`: the underlay's less the tunnel header.
pub fn node_view(me: NodeId, set: &AssignmentSet, endpoints: &[Endpoint], overlay_mtu: u16) -> NodeView {
    let mut view = NodeView::default();
    let networks = networks(set);
    for n in networks.values() {
        view.networks.insert(Scope::vni(n.vni), network_view(n, overlay_mtu));
    }
    for e in endpoints {
        add_local(&mut view, e);
    }
    for item in set.items.values() {
        match item {
            Assignment::Endpoint(e) if e.node != me => {
                if let Some(n) = networks.get(&e.network) {
                    view.remote.insert((Scope::vni(n.vni), e.ip), RemoteEndpoint { vtep: e.vtep, mac: e.mac });
                }
            }
            Assignment::Service(s) => add_service(&mut view, s, &networks),
            _ => {}
        }
    }
    view
}

/// Who answers to which name, per network.
pub fn names(set: &AssignmentSet, endpoints: &[Endpoint]) -> Names {
    let mut names = Names::new();
    let mut add = |scope: Scope, name: &str, ips: Vec<Ipv4Addr>| {
        let known = names.entry(scope).or_default().names.entry(name.to_ascii_lowercase()).or_default();
        for ip in ips {
            if !known.contains(&ip) {
                known.push(ip);
            }
        }
    };
    let networks = networks(set);
    for item in set.items.values() {
        let Assignment::Service(s) = item else { continue };
        for (id, n) in &networks {
            let backends: Vec<_> = s.backends.get(id).into_iter().flatten().copied().collect();
            let vip = s.vips.get(id).copied().filter(|_| s.mode == EndpointMode::Vip);
            if vip.is_none() && backends.is_empty() {
                continue;
            }
            let scope = Scope::vni(n.vni);
            let answer = vip.map_or_else(|| backends.clone(), |v| vec![v]);
            add(scope, &s.name, answer.clone());
            for alias in s.aliases.get(id).into_iter().flatten() {
                add(scope, alias, answer.clone());
            }
            add(scope, &format!("tasks.{}", s.name), backends);
        }
    }
    // Containers of no service on other hosts; those of this host say themselves what they are called.
    for item in set.items.values() {
        let Assignment::Endpoint(e) = item else { continue };
        if let Some(n) = networks.get(&e.network) {
            e.names.iter().for_each(|name| add(Scope::vni(n.vni), name, vec![e.ip]));
        }
    }
    for e in endpoints {
        for name in &e.names {
            // A name without an address of IPv4 exists all the same.
            add(e.scope, name, e.v4.iter().map(|(ip, _)| *ip).collect());
        }
    }
    for (e, (ip, _)) in endpoints.iter().filter_map(|e| Some((e, e.v6?))) {
        let table = &mut names.entry(e.scope).or_default().names6;
        for name in &e.names {
            table.entry(name.to_ascii_lowercase()).or_default().push(ip);
        }
    }
    names
}

/// The tunnel addresses of the other hosts of the cluster.
pub fn peers(me: NodeId, set: &AssignmentSet) -> BTreeSet<Ipv4Addr> {
    set.items
        .values()
        .filter_map(|item| match item {
            Assignment::Node(n) if n.id != me => n.vtep,
            Assignment::Endpoint(e) if e.node != me => Some(e.vtep),
            _ => None,
        })
        .collect()
}

fn networks(set: &AssignmentSet) -> BTreeMap<NetworkId, &NetworkAssignment> {
    set.items
        .values()
        .filter_map(|a| match a {
            Assignment::Network(n) => Some((n.id, n)),
            _ => None,
        })
        .collect()
}

fn network_view(n: &NetworkAssignment, mtu: u16) -> NetworkView {
    NetworkView {
        name: n.name.clone(),
        v4: Some(Network4 { subnet: n.subnet, gateway: n.gateway }),
        mtu,
        internal: n.internal,
        isolated: false,
        routed: false,
        v6: None,
    }
}

fn add_local(view: &mut NodeView, e: &Endpoint) {
    view.networks.entry(e.scope).or_insert_with(|| NetworkView {
        name: e.network_name.clone(),
        v4: e.v4.map(|(_, network)| network),
        mtu: e.mtu,
        internal: e.internal,
        isolated: e.isolated,
        routed: e.routed,
        v6: e.v6.map(|(_, network)| network),
    });
    let local = LocalEndpoint {
        scope: e.scope,
        ip: e.v4.map(|(ip, _)| ip),
        ip6: e.v6.map(|(ip, _)| ip),
        mac: e.mac,
        netns: e.netns.clone(),
        ifname: e.ifname.clone(),
        default_route: e.default_route,
        default_route6: e.default_route6,
    };
    view.local.insert(e.key.clone(), local);
    for (key, port, ip) in e.published.iter().filter_map(|(key, port)| Some((key, port, e.v4?.0))) {
        let published =
            view.published.entry(*key).or_insert_with(|| Published { scope: e.scope, backends: Vec::new() });
        if published.scope == e.scope {
            published.backends.push(SocketAddrV4::new(ip, *port));
        }
    }
    if let Some((ip, _)) = e.v6 {
        let to = |port| Published6 { scope: e.scope, to: SocketAddrV6::new(ip, port, 0, 0) };
        view.published6.extend(e.published6.iter().map(|(key, port)| (*key, to(*port))));
    }
}

fn add_service(view: &mut NodeView, s: &ServiceAssignment, networks: &BTreeMap<NetworkId, &NetworkAssignment>) {
    for (id, vip) in &s.vips {
        if let Some(n) = networks.get(id) {
            let backends = s.backends.get(id).into_iter().flatten().copied().collect();
            view.vips.insert((Scope::vni(n.vni), *vip), Vip { backends });
        }
    }
    let Some((id, n)) = s.ingress_network.and_then(|id| networks.get(&id).map(|n| (id, n))) else { return };
    for port in s.ports.iter().filter(|p| p.mode == PublishMode::Ingress) {
        let key = PublishedKey { protocol: port.protocol, port: port.published, host_ip: Ipv4Addr::UNSPECIFIED };
        let backends =
            s.backends.get(&id).into_iter().flatten().map(|ip| SocketAddrV4::new(*ip, port.target)).collect();
        view.published.insert(key, Published { scope: Scope::vni(n.vni), backends });
    }
}
