//! Who opens very many connections, or seems to, harms no connection of others.

use crate::{
    actor::Actor,
    frames::{TCP, UDP, ethernet, hex, ipv4, ipv6, tcp, udp},
    lab::{Lab, host_ip},
};
use muster_ebpf_net::Reason;
use muster_model::net::{Mac, Protocol, Scope};
use std::net::{Ipv4Addr, Ipv6Addr};

const SYN: u8 = 2;
/// More than any table of connections has room for.
const MANY: usize = 150_000;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// A connection that nothing is sent on while others flood.
fn idle(mut actor: Actor, to: &str) -> Actor {
    actor.must(&format!("hold {to}"));
    actor
}

/// Sends that many packets of as many flows, all like this one.
fn flood(mut actor: Actor, vary: &str, to: &str, from: Ipv4Addr, kind: &str, packet: &[u8]) {
    actor.must(&format!("flood eth0 {vary} {MANY} {}", ethernet(to, from, kind, &hex(packet))));
}

#[test]
fn many_flows_of_one_routed_container_do_not_end_the_connections_of_another() {
    let mut lab = Lab::new(1);
    let scope = Scope::local(1);
    lab.network6(scope, "10.1.0.0/24", "fd00:1::/64");
    lab.network(scope, "10.1.0.0/24").routed = true;
    lab.container6(0, "a", scope, "10.1.0.11", "fd00:1::a");
    lab.container6(0, "b", scope, "10.1.0.12", "fd00:1::b");
    lab.sync_all();
    lab.run_in("-client", "ip route add 10.1.0.0/24 via 192.168.50.1");
    lab.run_in("-client", "ip -6 route add fd00:1::/64 via fd50::1");
    let mut outside = lab.client();
    outside.must("listen tcp [::]:80 outside");
    let mut connections = [idle(lab.inside(0, "a"), "192.168.50.100:80"), idle(lab.inside(0, "a"), "[fd50::100]:80")];
    let gateway = lab.gateway(0, "b", "10.1.0.1");
    let before = lab.count(0, Reason::Outbound);
    let datagram = udp(1, 9, b"?");
    let packet = ipv4(ip("10.1.0.12"), ip("192.168.50.100"), UDP, 0, &datagram);
    flood(lab.inside(0, "b"), "ports", &gateway, ip("10.1.0.12"), "0800", &packet);
    let packet = ipv6(ip6("fd00:1::b"), ip6("fd50::100"), UDP, &datagram);
    flood(lab.inside(0, "b"), "ports", &gateway, ip("10.1.0.12"), "86dd", &packet);
    assert!(lab.count(0, Reason::Outbound) >= before + 2 * MANY as u64, "{}", lab.drops(0));
    connections.iter_mut().for_each(|c| drop(c.must("held")));
    assert_eq!((lab.kept(0), lab.kept6(0)), (1, 1));
}

#[test]
fn many_flows_from_outside_do_not_end_the_connections_of_a_published_port() {
    let mut lab = Lab::new(2);
    let (net, six) = (Scope::vni(100), Scope::local(6));
    lab.network(net, "10.1.0.0/24");
    lab.network6(six, "172.30.0.0/24", "fd00:6::/64");
    lab.container(0, "near", net, "10.1.0.10");
    lab.container(1, "far", net, "10.1.0.11");
    lab.container6(0, "six", six, "172.30.0.2", "fd00:6::d");
    for (port, to) in [(8080, "10.1.0.10:80"), (8081, "10.1.0.11:80")] {
        lab.publish(Protocol::Tcp, port, net, &[to]);
    }
    lab.publish6(Protocol::Tcp, 8080, "::", six, "[fd00:6::d]:80");
    lab.sync_all();
    let servers = [(0, "near"), (1, "far"), (0, "six")].map(|(host, name)| {
        let mut server = lab.inside(host, name);
        server.must("listen tcp [::]:80 s");
        server
    });
    let own = host_ip(0);
    let mut connections =
        [format!("{own}:8080"), format!("{own}:8081"), "[fd50::1]:8080".to_owned()].map(|to| idle(lab.client(), &to));
    let mac = lab.host_mac(0);
    let before = lab.count(0, Reason::Ingress);
    for port in [8080, 8081] {
        let packet = ipv4(ip("192.168.51.0"), own, TCP, 0, &tcp(1, port, SYN));
        flood(lab.client(), "sources", &mac, ip("192.168.50.100"), "0800", &packet);
    }
    let packet = ipv6(ip6("fd50::1:0"), ip6("fd50::1"), TCP, &tcp(1, 8080, SYN));
    flood(lab.client(), "sources", &mac, ip("192.168.50.100"), "86dd", &packet);
    assert!(lab.count(0, Reason::Ingress) >= before + 3 * MANY as u64, "{}", lab.drops(0));
    connections.iter_mut().for_each(|c| drop(c.must("held")));
    drop(servers);
}

#[test]
fn many_flows_to_a_virtual_address_do_not_end_the_connections_of_another_container() {
    let mut lab = Lab::new(1);
    let net = Scope::vni(100);
    lab.network(net, "10.1.0.0/24");
    for (name, address) in [("a", "10.1.0.10"), ("b", "10.1.0.11"), ("s", "10.1.0.12")] {
        lab.container(0, name, net, address);
    }
    lab.vip(net, "10.1.0.200", &["10.1.0.12"]);
    lab.sync_all();
    let mut server = lab.inside(0, "s");
    server.must("listen tcp 0.0.0.0:80 s");
    let mut connection = idle(lab.unseen("a"), "10.1.0.200:80");
    let packet = ipv4(ip("10.1.0.11"), ip("10.1.0.200"), TCP, 0, &tcp(1, 80, SYN));
    let to = hex(&Mac::of(ip("10.1.0.200")).0);
    let before = lab.count(0, Reason::VipPacket);
    flood(lab.unseen("b"), "ports", &to, ip("10.1.0.11"), "0800", &packet);
    assert!(lab.count(0, Reason::VipPacket) > before + MANY as u64, "{}", lab.drops(0));
    connection.must("held");
    // Nor is it in the way of new ones, of either.
    lab.unseen("a").must("tcp 10.1.0.200:80 1000");
    lab.unseen("b").must("tcp 10.1.0.200:80 1000");
}

#[test]
fn connections_that_were_answered_are_kept_but_not_all_of_the_table_for_one_container() {
    let mut lab = Lab::new(1);
    let scope = Scope::local(1);
    lab.network6(scope, "10.1.0.0/24", "fd00:1::/64");
    lab.network(scope, "10.1.0.0/24").routed = true;
    lab.container6(0, "a", scope, "10.1.0.11", "fd00:1::a");
    lab.container6(0, "b", scope, "10.1.0.12", "fd00:1::b");
    lab.sync_all();
    lab.run_in("-client", "ip -6 route add fd00:1::/64 via fd50::1");
    let mut outside = lab.client();
    outside.must("listen udp [fd50::100]:53 outside");
    outside.must("listen tcp [fd50::100]:80 outside");
    // One datagram there and one back is no connection that must be kept.
    let mut b = lab.inside(0, "b");
    b.must("udpfrom 900 [fd50::100]:53 1");
    assert_eq!((lab.kept6(0), lab.connections6(0)), (0, 1));
    // The table of IPv6 has room for 32,768 connections: two thirds of it are one container's.
    b.must("assured [fd50::100]:53 1000 24000");
    let most = 65536 / 3;
    assert!((most - 10..=most + 10).contains(&lab.kept6(0)), "{} {}", lab.kept6(0), lab.drops(0));
    // Those of others are kept nevertheless.
    let before = lab.kept6(0);
    let mut connections: Vec<Actor> = (0..4).map(|_| idle(lab.inside(0, "a"), "[fd50::100]:80")).collect();
    assert!(lab.kept6(0) > before, "{before}");
    connections.iter_mut().for_each(|c| drop(c.must("held")));
    // What ends makes room.
    let held = lab.kept6(0);
    drop(connections);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while lab.kept6(0) >= held {
        assert!(std::time::Instant::now() < deadline, "{} of {held}", lab.kept6(0));
    }
}
