//! Gateways of networks as devices of the host: who reaches what by them, and whose they are.

use crate::lab::{CLIENT, CLIENT6, Lab};
use muster_ebpf_net::{NoBridge, Reason};
use muster_model::net::{Protocol, Scope};

const RED: Scope = Scope::local(1);
const BLUE: Scope = Scope::local(2);

/// Two networks of both families with their devices; "a" and "b" are in the first, "i" in the second, which is internal.
fn lab() -> Lab {
    let mut lab = Lab::new(1);
    lab.network6(RED, "10.1.0.0/24", "fd00:1::/64");
    lab.network6(BLUE, "10.2.0.0/24", "fd00:2::/64");
    lab.network(BLUE, "10.2.0.0/24").internal = true;
    lab.container6(0, "a", RED, "10.1.0.11", "fd00:1::a");
    lab.container6(0, "b", RED, "10.1.0.12", "fd00:1::b");
    lab.container6(0, "i", BLUE, "10.2.0.11", "fd00:2::a");
    lab.bridge("red0", RED);
    lab.bridge("blue0", BLUE);
    lab.sync_all();
    lab
}

#[test]
fn containers_reach_the_hosts_services_at_their_gateway_and_the_host_speaks_as_it() {
    let lab = lab();
    let (mut host, mut a) = (lab.on_host(0), lab.inside(0, "a"));
    host.must("listen tcp [::]:7000 host");
    host.must("listen udp 10.1.0.1:7001 host");
    host.must("listen udp [fd00:1::1]:7002 host");
    assert_eq!(a.must("tcp 10.1.0.1:7000 1000000"), "host ::ffff:10.1.0.11 peer=10.1.0.1:7000");
    assert_eq!(a.must("tcp [fd00:1::1]:7000 1000000"), "host fd00:1::a peer=[fd00:1::1]:7000");
    assert_eq!(a.must("udp 10.1.0.1:7001 4000 loose"), "host 10.1.0.11 peer=10.1.0.1:7001");
    assert_eq!(a.must("udp [fd00:1::1]:7002 4000 loose"), "host fd00:1::a peer=[fd00:1::1]:7002");
    for gateway in ["10.1.0.1", "fd00:1::1"] {
        a.must(&format!("ping {gateway} 56"));
    }
    let error = a.must_fail("tcp 10.1.0.1:7009 10");
    assert!(error.starts_with("ConnectionRefused"), "{error}");
    a.must("listen tcp [::]:80 a");
    assert_eq!(host.must("tcp 10.1.0.11:80 1000"), "a ::ffff:10.1.0.1 peer=10.1.0.11:80");
    assert_eq!(host.must("tcp [fd00:1::a]:80 1000"), "a fd00:1::1 peer=[fd00:1::a]:80");
}

#[test]
fn of_an_internal_network_the_gateway_is_all_that_is_reached() {
    let mut lab = lab();
    lab.publish(Protocol::Tcp, 8080, RED, &["10.1.0.11:80"]);
    lab.publish6(Protocol::Tcp, 8080, "::", RED, "[fd00:1::a]:80");
    lab.sync_all();
    let (mut host, mut a, mut i) = (lab.on_host(0), lab.inside(0, "a"), lab.inside(0, "i"));
    host.must("listen tcp [::]:7000 host");
    // As the engine holds published ports.
    host.must("listen tcp [::]:8080 held");
    a.must("listen tcp [::]:80 a");
    i.must("listen tcp [::]:80 i");
    assert_eq!(i.must("tcp 10.2.0.1:7000 1000"), "host ::ffff:10.2.0.11 peer=10.2.0.1:7000");
    assert_eq!(i.must("tcp [fd00:2::1]:7000 1000"), "host fd00:2::a peer=[fd00:2::1]:7000");
    assert_eq!(host.must("tcp 10.2.0.11:80 1000"), "i ::ffff:10.2.0.1 peer=10.2.0.11:80");
    assert_eq!(host.must("tcp [fd00:2::a]:80 1000"), "i fd00:2::1 peer=[fd00:2::a]:80");
    // As the engine relays a port whose container has no IPv6.
    lab.publish(Protocol::Tcp, 8081, RED, &["10.1.0.11:80"]);
    lab.sync_all();
    host.must("listen tcp [::]:8081 relayed");
    i.must_fail("tcp [fd00:2::1]:8081 10");
    assert_eq!(host.must("tcp [fd00:2::1]:8081 1000"), "relayed fd00:2::1 peer=[fd00:2::1]:8081");
    // Who gives himself a way there gets no further.
    lab.run_in("i", "ip route add default via 10.2.0.1");
    lab.run_in("i", "ip -6 route replace default via fd00:2::1");
    for to in ["192.168.50.1:7000", "10.1.0.1:7000", "[fd50::1]:7000", "[fd00:1::1]:7000"] {
        i.must_fail(&format!("tcp {to} 10"));
    }
    for to in ["10.2.0.1:8080", "192.168.50.1:8080", "[fd00:2::1]:8080", "[fd50::1]:8080", "10.1.0.11:80"] {
        i.must_fail(&format!("tcp {to} 10"));
    }
    assert!(lab.count(0, Reason::Internal) > 0, "{}", lab.drops(0));
}

#[test]
fn a_published_port_is_answered_at_gateways_and_its_container_sees_who_asks() {
    let mut lab = lab();
    lab.publish(Protocol::Tcp, 8080, RED, &["10.1.0.11:80"]);
    lab.publish6(Protocol::Tcp, 8080, "::", RED, "[fd00:1::a]:80");
    lab.sync_all();
    let (mut host, mut client, mut b) = (lab.on_host(0), lab.client(), lab.inside(0, "b"));
    let mut a = lab.inside(0, "a");
    a.must("listen tcp [::]:80 a");
    for (at, seen) in [("10.1.0.1:8080", "::ffff:10.1.0.1"), ("[fd00:1::1]:8080", "fd00:1::1")] {
        assert_eq!(b.must(&format!("tcp {at} 1000")), format!("a {seen} peer={at}"), "{}", lab.drops(0));
    }
    // The host's own processes: with the address that they asked for, by loopback as the gateway.
    for (at, seen) in [
        ("192.168.50.1:8080", "::ffff:192.168.50.1"),
        ("10.1.0.1:8080", "::ffff:10.1.0.1"),
        ("10.2.0.1:8080", "::ffff:10.2.0.1"),
        ("127.0.0.1:8080", "::ffff:10.1.0.1"),
        ("[fd50::1]:8080", "fd50::1"),
        ("[fd00:1::1]:8080", "fd00:1::1"),
        ("[::1]:8080", "fd00:1::1"),
    ] {
        assert_eq!(host.must(&format!("tcp {at} 1000")), format!("a {seen} peer={at}"), "{}", lab.drops(0));
    }
    let seen = client.must("tcp 192.168.50.1:8080 1000");
    assert_eq!(seen, format!("a ::ffff:{CLIENT} peer=192.168.50.1:8080"));
    let seen = client.must("tcp [fd50::1]:8080 1000");
    assert_eq!(seen, format!("a {CLIENT6} peer=[fd50::1]:8080"));
}

#[test]
fn a_device_leads_nobody_into_its_network() {
    let mut lab = lab();
    lab.add_lan(0);
    let (mut client, mut lan) = (lab.client(), lab.on_lan());
    lab.run_in("-client", "ip route add 10.0.0.0/8 via 192.168.50.1");
    let mut inside = ["a", "i"].map(|name| lab.inside(0, name));
    inside.iter_mut().for_each(|actor| drop(actor.must("listen tcp [::]:80 c")));
    for to in ["10.1.0.11", "10.2.0.11", "10.1.0.99"] {
        client.must_fail(&format!("tcp {to}:80 10"));
        lan.must_fail(&format!("tcp {to}:80 10"));
    }
}

#[test]
fn devices_come_and_go_with_their_networks_and_are_made_good() {
    let mut lab = lab();
    let addresses = |lab: &Lab, name: &str| lab.run_in("h0", &format!("ip -o addr show dev {name} scope global"));
    assert!(addresses(&lab, "red0").contains("10.1.0.1/24"), "{}", addresses(&lab, "red0"));
    assert!(addresses(&lab, "red0").contains("fd00:1::1/64"), "{}", addresses(&lab, "red0"));
    let mut a = lab.inside(0, "a");
    a.must("listen tcp [::]:80 a");
    // With its address, or with itself, go routes that name it.
    for damage in ["ip addr del 10.1.0.1/24 dev red0", "ip -6 addr flush dev red0", "ip link del red0"] {
        lab.run_in("h0", damage);
        lab.sync(0);
        let mut host = lab.on_host(0);
        assert_eq!(host.must("tcp 10.1.0.11:80 1000"), "a ::ffff:10.1.0.1 peer=10.1.0.11:80", "{damage}");
        assert_eq!(host.must("tcp [fd00:1::a]:80 1000"), "a fd00:1::1 peer=[fd00:1::a]:80", "{damage}");
    }
    // One that died in the middle of making one has left it without a name.
    let links = lab.run_in("h0", "ip -br link");
    let ours = links.split_whitespace().find_map(|w| w.split_once("-host")).expect("the device to other hosts").0;
    let draft = format!("{ours}-new");
    lab.run_in("h0", &format!("ip link add {draft} type bridge"));
    lab.network(Scope::local(3), "10.3.0.0/24");
    lab.bridge("green0", Scope::local(3));
    lab.sync(0);
    let links = lab.run_in("h0", "ip -br link");
    assert!(!links.contains(&draft) && links.contains("green0"), "{links}");
    lab.bridges.remove("red0");
    lab.sync(0);
    let links = lab.run_in("h0", "ip -br link");
    assert!(!links.contains("red0") && links.contains("blue0"), "{links}");
    // The host calls itself by another address then.
    assert_eq!(lab.on_host(0).must("tcp 10.1.0.11:80 1000"), "a ::ffff:192.168.50.1 peer=10.1.0.11:80");
    let plane = lab.planes[0].take().expect("open");
    plane.close_and_remove().expect("everything goes");
    let links = lab.run_in("h0", "ip -br link");
    assert!(!links.contains("blue0"), "{links}");
}

#[test]
fn a_device_of_somebody_else_is_left_alone() {
    let mut lab = lab();
    lab.run_in("h0", "ip link add other0 type bridge");
    lab.run_in("h0", "ip addr add 10.77.0.1/24 dev other0");
    lab.network(Scope::local(3), "10.3.0.0/24");
    lab.bridge("other0", Scope::local(3));
    let report = lab.try_sync(0);
    assert_eq!(report.bridges["other0"], NoBridge::Taken);
    assert_eq!(report.bridges.len(), 1, "{report:?}");
    let there = lab.run_in("h0", "ip -o -4 addr show dev other0");
    assert!(there.contains("10.77.0.1/24") && !there.contains("10.3.0.1"), "{there}");
    // Alone, before the view is known.
    let wanted = lab.bridges.clone();
    assert_eq!(lab.plane(0).bridges(&wanted).expect("looked at")["other0"], NoBridge::Taken);
    lab.bridges.clear();
    lab.sync(0);
    assert!(lab.run_in("h0", "ip -o -4 addr show dev other0").contains("10.77.0.1/24"));
}
