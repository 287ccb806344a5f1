//! View -> maps: pure. What the kernel adds (interface indexes, namespace cookies, addresses of the host) comes in as
//! [`Ground`]; equal views on equal ground give equal maps.

use crate::{
    config::DnsPorts,
    layout::{
        Addr, Addr6, Backend, BackendKey, EP_GATEWAY, EP_LOCAL, EP_REMOTE, EP_VIP, Endpoint, EndpointKey, EndpointKey6,
        IFACE_ALONE, IFACE_INTERNAL, IFACE_NO_OUTBOUND, IFACE_ROUTED, Iface, Iface6, MacBytes, MemberKey, NETNS_HOST,
        NETNS_HOST_V6, NETNS_SCOPES, NETWORK_ROUTED, Namespace, Published, Published6, PublishedKey, PublishedKey6,
        Settings, mac_bytes,
    },
};
use muster_model::{
    net::{Mac, Scope, Subnet, Subnet6},
    view::{LocalEndpoint, NetworkView, NodeView},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

/// What the kernel of this host says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// `0.0.0.0`: no tunnels.
    pub vtep_ip: Ipv4Addr,
    pub vxlan_port: u16,
    /// Index of the interface that tunnels leave through; 0: none.
    pub uplink: u32,
    /// The device between the host's stack and remote endpoints.
    pub host_if: Option<(u32, Mac)>,
    /// The host's own addresses, loopback excluded.
    pub host_addrs: BTreeSet<Ipv4Addr>,
    pub host_addrs6: BTreeSet<Ipv6Addr>,
    /// The cookie of the host's own namespace, when its processes are to reach published ports.
    pub host_cookie: Option<u64>,
    /// Interfaces that are there, by endpoint key.
    pub ports: BTreeMap<String, GroundPort>,
    /// DNS servers, by cookie of the namespace.
    pub dns: BTreeMap<u64, DnsPorts>,
    /// Tunnel addresses of hosts that the view does not name.
    pub peers: BTreeSet<Ipv4Addr>,
}

impl Default for Ground {
    /// A host with nothing on it.
    fn default() -> Self {
        Self {
            vtep_ip: Ipv4Addr::UNSPECIFIED,
            vxlan_port: crate::config::VXLAN_PORT,
            uplink: 0,
            host_if: None,
            host_addrs: BTreeSet::new(),
            host_addrs6: BTreeSet::new(),
            host_cookie: None,
            ports: BTreeMap::new(),
            dns: BTreeMap::new(),
            peers: BTreeSet::new(),
        }
    }
}

/// An endpoint's interface in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroundPort {
    /// Of the host side.
    pub ifindex: u32,
    pub host_mac: Mac,
    /// Of the container's namespace.
    pub cookie: u64,
}

/// The contents of every map that follows the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapImage {
    pub settings: Settings,
    pub ifaces: BTreeMap<u32, Iface>,
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub backends: BTreeMap<BackendKey, Backend>,
    pub published: BTreeMap<PublishedKey, Published>,
    /// Scope -> MTU and `NETWORK_*`.
    pub networks: BTreeMap<u32, u32>,
    /// Who is in a network on this host: interfaces, numbered from 0.
    pub members: BTreeMap<MemberKey, u32>,
    /// (prefix length, address) -> scope.
    pub subnets: BTreeMap<(u32, Addr), u32>,
    pub vteps: BTreeMap<Addr, u32>,
    pub host_addrs: BTreeMap<Addr, u32>,
    pub namespaces: BTreeMap<u64, Namespace>,
    pub ifaces6: BTreeMap<u32, Iface6>,
    pub endpoints6: BTreeMap<EndpointKey6, Endpoint>,
    /// As `subnets`.
    pub subnets6: BTreeMap<(u32, Addr6), u32>,
    pub published6: BTreeMap<PublishedKey6, Published6>,
    pub host_addrs6: BTreeMap<Addr6, u32>,
}

impl MapImage {
    /// The maps of a view, and remarks on what of it cannot work.
    pub fn of(view: &NodeView, ground: &Ground) -> (Self, Vec<String>) {
        let mut image = Self { settings: settings(ground), ..Self::default() };
        let mut notes = Vec::new();
        image.add_networks(view);
        image.add_vips(view);
        image.add_remote(view, &mut notes);
        image.add_local(view, ground, &mut notes);
        image.add_members(view, ground);
        image.add_published(view);
        image.add_published6(view);
        image.add_namespaces(view, ground, &mut notes);
        image.vteps.extend(ground.peers.iter().map(|ip| (Addr::from(*ip), 1)));
        image.host_addrs = ground.host_addrs.iter().map(|ip| (Addr::from(*ip), 1)).collect();
        image.host_addrs6 = ground.host_addrs6.iter().map(|ip| (Addr6::from(*ip), 1)).collect();
        (image, notes)
    }

    fn add_networks(&mut self, view: &NodeView) {
        for (scope, net) in &view.networks {
            let kind = if net.routed { NETWORK_ROUTED } else { 0 };
            self.networks.insert(scope.0, u32::from(net.mtu) | kind);
            let gateway = Endpoint { kind: EP_GATEWAY, ..Endpoint::default() };
            if let Some(net) = net.v4 {
                self.subnets.entry((u32::from(net.subnet.prefix()), net.subnet.addr().into())).or_insert(scope.0);
                self.endpoints.insert(key(*scope, net.gateway), gateway);
            }
            if let Some(net) = net.v6 {
                self.subnets6.entry((u32::from(net.subnet.prefix()), net.subnet.addr().into())).or_insert(scope.0);
                self.endpoints6.insert(EndpointKey6 { scope: scope.0, ip: net.gateway.into() }, gateway);
            }
        }
    }

    fn add_vips(&mut self, view: &NodeView) {
        for ((scope, ip), vip) in &view.vips {
            let backends: Vec<Backend> =
                vip.backends.iter().map(|ip| Backend { ip: (*ip).into(), ..Backend::default() }).collect();
            let (set, count) = self.add_set(&backends);
            self.endpoints.insert(key(*scope, *ip), Endpoint { kind: EP_VIP, set, count, ..Endpoint::default() });
        }
    }

    fn add_remote(&mut self, view: &NodeView, notes: &mut Vec<String>) {
        for ((scope, ip), remote) in &view.remote {
            if scope.is_local() {
                notes.push(format!(
                    "endpoint {ip} of {scope:?} is on another host, but its network is of this host only"
                ));
                continue;
            }
            let endpoint =
                Endpoint { kind: EP_REMOTE, vtep: remote.vtep.into(), mac: remote.mac.0, ..Endpoint::default() };
            self.endpoints.insert(key(*scope, *ip), endpoint);
            self.vteps.insert(remote.vtep.into(), 1);
        }
    }

    fn add_local(&mut self, view: &NodeView, ground: &Ground, notes: &mut Vec<String>) {
        let routes = host_routes(view, |name| ground.ports.contains_key(name));
        for (name, endpoint) in &view.local {
            let (Some(port), Some(net)) = (ground.ports.get(name), view.networks.get(&endpoint.scope)) else {
                continue;
            };
            let elsewhere = endpoint.ip.filter(|ip| routes.get(ip) != Some(&name.as_str()));
            if let Some(ip) = elsewhere {
                notes.push(format!(
                    "endpoint {name}: another endpoint of this host has the address {ip}: no way between it and the host or the outside"
                ));
            }
            self.ifaces.insert(port.ifindex, iface(endpoint, net, port, elsewhere.is_none()));
            let local = Endpoint {
                kind: EP_LOCAL,
                ifindex: port.ifindex,
                mac: mac_bytes(endpoint.mac),
                host_mac: mac_bytes(port.host_mac),
                ..Endpoint::default()
            };
            if let Some(ip) = endpoint.ip {
                self.endpoints.insert(key(endpoint.scope, ip), local);
            }
            if let Some(ip) = endpoint.ip6 {
                self.ifaces6.insert(port.ifindex, Iface6 { ip: ip.into() });
                self.endpoints6.insert(EndpointKey6 { scope: endpoint.scope.0, ip: ip.into() }, local);
            }
        }
    }

    /// By the age of their interfaces, so that a new one is one entry more and moves no other.
    fn add_members(&mut self, view: &NodeView, ground: &Ground) {
        let scope_and_ifindex =
            |(name, e): (&String, &LocalEndpoint)| Some((e.scope.0, ground.ports.get(name)?.ifindex));
        let all: BTreeSet<(u32, u32)> = view.local.iter().filter_map(scope_and_ifindex).collect();
        let mut last = MemberKey::default();
        for (scope, ifindex) in all {
            let index = if last.scope == scope && !self.members.is_empty() { last.index + 1 } else { 0 };
            last = MemberKey { scope, index };
            self.members.insert(last, ifindex);
        }
    }

    fn add_published(&mut self, view: &NodeView) {
        for (front, published) in &view.published {
            let backends: Vec<Backend> = published
                .backends
                .iter()
                .map(|to: &SocketAddrV4| Backend { ip: (*to.ip()).into(), port: to.port().into(), pad: 0 })
                .collect();
            let (set, count) = self.add_set(&backends);
            let key = PublishedKey {
                host_ip: front.host_ip.into(),
                port: front.port.into(),
                proto: front.protocol.number(),
                pad: 0,
            };
            self.published.insert(key, Published { set, count, scope: published.scope.0 });
        }
    }

    fn add_published6(&mut self, view: &NodeView) {
        for (front, published) in &view.published6 {
            let Some(net) = view.networks.get(&published.scope).and_then(|n| n.v6) else { continue };
            let key = PublishedKey6 {
                host_ip: front.host_ip.into(),
                port: front.port.into(),
                proto: front.protocol.number(),
                pad: 0,
            };
            let to = Published6 {
                ip: (*published.to.ip()).into(),
                gateway: net.gateway.into(),
                scope: published.scope.0,
                port: published.to.port().into(),
                pad: 0,
            };
            self.published6.insert(key, to);
        }
    }

    fn add_namespaces(&mut self, view: &NodeView, ground: &Ground, notes: &mut Vec<String>) {
        let mut members: BTreeMap<u64, Vec<(&str, &LocalEndpoint)>> = BTreeMap::new();
        for (name, endpoint) in &view.local {
            if let Some(port) = ground.ports.get(name) {
                members.entry(port.cookie).or_default().push((name, endpoint));
            }
        }
        for (cookie, mut endpoints) in members {
            endpoints.sort_by_key(|(_, e)| (e.ifname.len(), e.ifname.clone()));
            let namespace = self.namespaces.entry(cookie).or_default();
            for (name, endpoint) in endpoints {
                let at = namespace.scopes as usize;
                if namespace.scope[..at].contains(&endpoint.scope.0) {
                    continue;
                }
                match namespace.scope.get_mut(at) {
                    Some(slot) => {
                        *slot = endpoint.scope.0;
                        namespace.scopes += 1;
                    }
                    None => notes.push(format!(
                        "endpoint {name}: its container is in more than {NETNS_SCOPES} networks: names of services of this one are not balanced at the socket"
                    )),
                }
            }
        }
        for (cookie, ports) in &ground.dns {
            let namespace = self.namespaces.entry(*cookie).or_default();
            namespace.dns_udp = ports.udp.into();
            namespace.dns_tcp = ports.tcp.into();
        }
        if let Some(cookie) = ground.host_cookie {
            let answerable = ground.host_addrs6.iter().any(|ip| !ip.is_unicast_link_local());
            let flags = if answerable { NETNS_HOST | NETNS_HOST_V6 } else { NETNS_HOST };
            self.namespaces.entry(cookie).or_default().flags |= flags;
        }
    }

    /// Puts a list of backends in place and returns its name and length. The name is a digest of the list: another list is
    /// another set, so that a reader in the kernel never sees half of an exchange.
    fn add_set(&mut self, backends: &[Backend]) -> (u64, u32) {
        if backends.is_empty() {
            return (0, 0);
        }
        let set = digest(backends);
        for (index, backend) in (0u32..).zip(backends) {
            self.backends.insert(BackendKey { set, index, pad: 0 }, *backend);
        }
        (set, u32::try_from(backends.len()).unwrap_or(u32::MAX))
    }
}

/// Which endpoint of this host answers for an address in the host's routing table: the first one in order of scope and key
/// (an address is unique in the cluster, unless somebody overlaps networks on purpose).
pub fn host_routes(view: &NodeView, present: impl Fn(&str) -> bool) -> BTreeMap<Ipv4Addr, &str> {
    let there = view.local.iter().filter(|(name, _)| present(name));
    let mut order: Vec<(Scope, &str, Ipv4Addr)> =
        there.filter_map(|(name, e)| Some((e.scope, name.as_str(), e.ip?))).collect();
    order.sort();
    let mut routes = BTreeMap::new();
    for (_, name, ip) in order {
        routes.entry(ip).or_insert(name);
    }
    routes
}

/// Networks whose containers may reach the outside.
pub fn outbound(view: &NodeView) -> impl Iterator<Item = &NetworkView> {
    view.networks.values().filter(|n| !n.internal)
}

/// Those whose containers do so with the host's address.
pub fn masqueraded(view: &NodeView) -> BTreeSet<Subnet> {
    outbound(view).filter(|n| !n.routed).filter_map(|n| n.v4).map(|n| n.subnet).collect()
}

/// As [`masqueraded`], of IPv6.
pub fn masqueraded6(view: &NodeView) -> BTreeSet<Subnet6> {
    outbound(view).filter(|n| !n.routed).filter_map(|n| n.v6).map(|n| n.subnet).collect()
}

fn settings(ground: &Ground) -> Settings {
    let (host_if, host_if_mac): (u32, MacBytes) = ground.host_if.map_or((0, [0; 6]), |(index, mac)| (index, mac.0));
    Settings {
        vtep_ip: ground.vtep_ip.into(),
        uplink: ground.uplink,
        host_if,
        vxlan_port: ground.vxlan_port.into(),
        host_if_mac,
        pad: 0,
    }
}

fn key(scope: Scope, ip: Ipv4Addr) -> EndpointKey {
    EndpointKey { scope: scope.0, ip: ip.into() }
}

fn iface(endpoint: &LocalEndpoint, net: &NetworkView, port: &GroundPort, routed: bool) -> Iface {
    let mut flags = 0;
    if net.internal {
        flags |= IFACE_INTERNAL;
    }
    if net.isolated {
        flags |= IFACE_ALONE;
    }
    if net.routed {
        flags |= IFACE_ROUTED;
    }
    if !routed {
        flags |= IFACE_NO_OUTBOUND;
    }
    Iface {
        scope: endpoint.scope.0,
        ip: endpoint.ip.map(Addr::from).unwrap_or_default(),
        subnet: net.v4.map(|n| n.subnet.addr().into()).unwrap_or_default(),
        mask: net.v4.map(|n| Ipv4Addr::from(n.subnet.mask()).into()).unwrap_or_default(),
        gateway: net.v4.map(|n| n.gateway.into()).unwrap_or_default(),
        flags,
        mac: endpoint.mac.0,
        host_mac: port.host_mac.0,
    }
}

/// FNV-1a over the list, 64 bits; never 0.
fn digest(backends: &[Backend]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for backend in backends {
        for byte in backend.ip.0.to_ne_bytes().into_iter().chain(backend.port.0.to_ne_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Port;
    use muster_model::{
        net::Protocol,
        view::{Network4, Published as ViewPublished, PublishedKey as ViewKey, RemoteEndpoint, Vip},
    };

    const SHOP: Scope = Scope::vni(7);
    const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const DB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);

    fn network(subnet: &str, internal: bool) -> NetworkView {
        let subnet: Subnet = subnet.parse().expect("valid");
        NetworkView {
            name: "n".into(),
            v4: Some(Network4 { subnet, gateway: subnet.gateway() }),
            mtu: 1450,
            internal,
            isolated: false,
            routed: false,
            v6: None,
        }
    }

    fn endpoint(scope: Scope, ip: Ipv4Addr, ifname: &str) -> LocalEndpoint {
        LocalEndpoint {
            scope,
            ip: Some(ip),
            ip6: None,
            mac: Mac::of(ip),
            netns: "/n".into(),
            ifname: ifname.into(),
            default_route: true,
            default_route6: false,
        }
    }

    fn view() -> NodeView {
        let mut view = NodeView::default();
        view.networks.insert(SHOP, network("10.1.0.0/24", false));
        view.local.insert("web".into(), endpoint(SHOP, WEB, "eth0"));
        view.remote.insert((SHOP, DB), RemoteEndpoint { vtep: Ipv4Addr::new(192, 168, 0, 2), mac: Mac::of(DB) });
        view.vips.insert((SHOP, VIP), Vip { backends: vec![WEB, DB] });
        let front = ViewKey { protocol: Protocol::Tcp, port: 8080, host_ip: Ipv4Addr::UNSPECIFIED };
        view.published.insert(front, ViewPublished { scope: SHOP, backends: vec![SocketAddrV4::new(WEB, 80)] });
        view
    }

    fn ground() -> Ground {
        let port = GroundPort { ifindex: 12, host_mac: Mac([6, 0, 0, 0, 0, 1]), cookie: 99 };
        Ground { ports: BTreeMap::from([("web".to_owned(), port)]), ..Ground::default() }
    }

    #[test]
    fn a_view_becomes_entries_for_each_of_its_parts() {
        let (image, notes) = MapImage::of(&view(), &ground());
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(image.endpoints[&key(SHOP, WEB)].kind, EP_LOCAL);
        assert_eq!(image.endpoints[&key(SHOP, WEB)].ifindex, 12);
        assert_eq!(image.endpoints[&key(SHOP, DB)].kind, EP_REMOTE);
        assert_eq!(image.endpoints[&key(SHOP, VIP)].count, 2);
        assert_eq!(image.endpoints[&key(SHOP, Ipv4Addr::new(10, 1, 0, 1))].kind, EP_GATEWAY);
        assert_eq!(image.backends.len(), 3, "two behind the VIP, one behind the port");
        assert_eq!(image.namespaces[&99].scope[..1], [SHOP.0]);
        assert_eq!(image.vteps.len(), 1);
        assert_eq!(image.ifaces[&12].flags, 0);
        assert_eq!(image.members, [(MemberKey { scope: SHOP.0, index: 0 }, 12)].into());
    }

    #[test]
    fn a_network_with_ipv6_has_entries_for_it_besides() {
        let mut v = view();
        let subnet: Subnet6 = "fd00::/64".parse().expect("valid");
        let six = muster_model::view::Network6 { subnet, gateway: subnet.gateway() };
        v.networks.get_mut(&SHOP).expect("there").v6 = Some(six);
        v.local.get_mut("web").expect("there").ip6 = subnet.nth(2);
        let (image, _) = MapImage::of(&v, &ground());
        let kind =
            |n| image.endpoints6[&EndpointKey6 { scope: SHOP.0, ip: subnet.nth(n).expect("inside").into() }].kind;
        assert_eq!((kind(1), kind(2)), (EP_GATEWAY, EP_LOCAL));
        assert_eq!((image.ifaces6.len(), image.subnets6.len()), (1, 1));
        let key =
            muster_model::view::PublishedKey6 { protocol: Protocol::Tcp, port: 8080, host_ip: Ipv6Addr::UNSPECIFIED };
        let to = "[fd00::2]:80".parse().expect("valid");
        v.published6.insert(key, muster_model::view::Published6 { scope: SHOP, to });
        let mut g = ground();
        g.host_cookie = Some(7);
        g.host_addrs6 = ["fe80::1".parse().expect("valid")].into();
        let (image, _) = MapImage::of(&v, &g);
        let to = image.published6.values().next().expect("one");
        assert_eq!((to.port, to.gateway, to.scope), (80.into(), six.gateway.into(), SHOP.0));
        assert_eq!(image.namespaces[&7].flags, NETNS_HOST, "an address of one link only is no way to ask from");
        g.host_addrs6.insert("fd01::1".parse().expect("valid"));
        assert_eq!(MapImage::of(&v, &g).0.namespaces[&7].flags, NETNS_HOST | NETNS_HOST_V6);
        assert_eq!(masqueraded6(&v), [subnet].into());
        v.networks.get_mut(&SHOP).expect("there").routed = true;
        assert!(masqueraded(&v).is_empty() && masqueraded6(&v).is_empty());
    }

    #[test]
    fn an_endpoint_without_an_interface_is_not_in_the_maps() {
        let (image, _) = MapImage::of(&view(), &Ground::default());
        assert!(image.ifaces.is_empty());
        assert!(!image.endpoints.contains_key(&key(SHOP, WEB)));
        assert!(image.endpoints.contains_key(&key(SHOP, DB)), "the rest is");
    }

    #[test]
    fn equal_lists_of_backends_share_a_set_and_others_do_not() {
        let mut v = view();
        v.vips.insert((SHOP, Ipv4Addr::new(10, 1, 0, 10)), Vip { backends: vec![WEB, DB] });
        v.vips.insert((SHOP, Ipv4Addr::new(10, 1, 0, 11)), Vip { backends: vec![DB, WEB] });
        v.vips.insert((SHOP, Ipv4Addr::new(10, 1, 0, 12)), Vip::default());
        let (image, _) = MapImage::of(&v, &ground());
        let set = |last| image.endpoints[&key(SHOP, Ipv4Addr::new(10, 1, 0, last))].set;
        assert_eq!(set(9), set(10));
        assert_ne!(set(9), set(11));
        assert_eq!(image.endpoints[&key(SHOP, Ipv4Addr::new(10, 1, 0, 12))].count, 0);
    }

    #[test]
    fn of_two_endpoints_with_one_address_the_second_has_no_way_out_and_a_note_says_so() {
        let other = Scope::vni(8);
        let mut v = view();
        v.networks.insert(other, network("10.1.0.0/24", false));
        v.local.insert("twin".into(), endpoint(other, WEB, "eth0"));
        let mut g = ground();
        g.ports.insert("twin".into(), GroundPort { ifindex: 13, host_mac: Mac([6; 6]), cookie: 100 });
        let (image, notes) = MapImage::of(&v, &g);
        assert_eq!(image.ifaces[&12].flags, 0);
        assert_eq!(image.ifaces[&13].flags, IFACE_NO_OUTBOUND);
        assert!(notes[0].contains("twin"), "{notes:?}");
        assert_eq!(image.endpoints[&key(other, WEB)].ifindex, 13, "inside of its network it works");
    }

    #[test]
    fn a_namespace_in_several_networks_asks_them_in_the_order_of_its_interfaces() {
        let back = Scope::vni(3);
        let mut v = view();
        v.networks.insert(back, network("10.2.0.0/24", true));
        v.local.insert("a-second".into(), endpoint(back, Ipv4Addr::new(10, 2, 0, 2), "eth1"));
        let mut g = ground();
        g.ports.insert("a-second".into(), GroundPort { ifindex: 13, host_mac: Mac([6; 6]), cookie: 99 });
        g.dns.insert(99, DnsPorts { udp: 5300, tcp: 5301 });
        let (image, _) = MapImage::of(&v, &g);
        let namespace = &image.namespaces[&99];
        assert_eq!((namespace.scopes, &namespace.scope[..2]), (2, &[SHOP.0, back.0][..]));
        assert_eq!(namespace.dns_udp, Port::from(5300));
        assert_eq!(image.ifaces[&13].flags, IFACE_INTERNAL);
    }
}
