//! Containers of one network reach each other, on one host and across hosts, and nobody else.

use crate::lab::{Lab, MTU};
use muster_ebpf_net::{Attach, Reason};
use muster_model::net::Scope;

const RED: Scope = Scope::vni(100);
const BLUE: Scope = Scope::vni(200);

fn talks(lab: &mut Lab, from: (usize, &str), to: (usize, &str), address: &str) {
    let mut server = lab.inside(to.0, to.1);
    server.must(&format!("listen tcp {address}:80 {}", to.1));
    server.must(&format!("listen udp {address}:53 {}", to.1));
    let mut client = lab.inside(from.0, from.1);
    client.must(&format!("ping {address} 56"));
    client.must(&format!("ping {address} {}", MTU - 28));
    let answer = client.must(&format!("tcp {address}:80 3000000"));
    assert!(answer.starts_with(to.1), "{answer}");
    client.must(&format!("udp {address}:53 500 loose"));
    client.must(&format!("udp {address}:53 4000 connected"));
    // A process outside of the cgroup fares the same.
    lab.unseen(from.1).must(&format!("tcp {address}:80 1000"));
}

#[test]
fn containers_on_one_host_talk_by_icmp_tcp_and_udp() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.sync_all();
    talks(&mut lab, (0, "a"), (0, "b"), "10.1.0.12");
    assert!(lab.count(0, Reason::Local) > 0);
    assert_eq!(lab.count(0, Reason::TunnelOut), 0);
}

#[test]
fn a_network_of_one_host_needs_no_tunnel() {
    let mut lab = Lab::new(1);
    let scope = Scope::local(1);
    lab.network(scope, "172.30.0.0/16").mtu = 1500;
    lab.container(0, "a", scope, "172.30.0.2");
    lab.container(0, "b", scope, "172.30.0.3");
    lab.sync_all();
    talks(&mut lab, (0, "a"), (0, "b"), "172.30.0.3");
}

#[test]
fn containers_on_two_hosts_talk_by_icmp_tcp_and_udp() {
    let mut lab = Lab::new(2);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(1, "b", RED, "10.1.0.12");
    lab.sync_all();
    talks(&mut lab, (0, "a"), (1, "b"), "10.1.0.12");
    assert!(lab.count(0, Reason::TunnelOut) > 0 && lab.count(0, Reason::TunnelIn) > 0, "{}", lab.drops(0));
}

#[test]
fn programs_hung_on_clsact_carry_the_same_traffic() {
    let mut lab = Lab::with(2, Attach::Clsact);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.container(1, "c", RED, "10.1.0.13");
    lab.sync_all();
    assert!(lab.run_in("h0", "tc filter show dev eth0 ingress").contains("from_uplink"));
    talks(&mut lab, (0, "a"), (0, "b"), "10.1.0.12");
    talks(&mut lab, (0, "b"), (1, "c"), "10.1.0.13");
}

#[test]
fn networks_with_equal_addresses_do_not_see_each_other() {
    let mut lab = Lab::new(2);
    for scope in [RED, BLUE] {
        lab.network(scope, "10.1.0.0/24");
    }
    for (host, key, scope, address) in [
        (0, "ra", RED, "10.1.0.11"),
        (1, "rb", RED, "10.1.0.12"),
        (0, "ba", BLUE, "10.1.0.11"),
        (1, "bb", BLUE, "10.1.0.12"),
        (1, "bx", BLUE, "10.1.0.13"),
    ] {
        lab.container(host, key, scope, address);
    }
    lab.sync_all();
    talks(&mut lab, (0, "ra"), (1, "rb"), "10.1.0.12");
    talks(&mut lab, (0, "ba"), (1, "bb"), "10.1.0.12");
    // 10.1.0.13 exists in blue only.
    lab.inside(0, "ba").must("ping 10.1.0.13 8");
    lab.inside(0, "ra").must_fail("ping 10.1.0.13 8");
}

#[test]
fn a_container_does_not_reach_another_network_by_way_of_the_host() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.network(BLUE, "10.2.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", BLUE, "10.2.0.11");
    lab.sync_all();
    lab.inside(0, "a").must_fail("ping 10.2.0.11 8");
    assert_eq!(lab.count(0, Reason::Isolation), 1);
    // Nor does a machine outside that routes to it by the host.
    lab.run_in("-client", "ip route add 10.2.0.0/24 via 192.168.50.1");
    lab.client().must_fail("ping 10.2.0.11 8");
    assert_eq!(lab.count(0, Reason::Direct), 1);
}

#[test]
fn a_namespace_may_have_an_interface_in_each_of_several_networks() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.network(BLUE, "10.2.0.0/24");
    lab.container(0, "both", RED, "10.1.0.10");
    lab.endpoint(0, "both-blue", "both", BLUE, "10.2.0.10", "eth1");
    lab.container(0, "r", RED, "10.1.0.11");
    lab.container(0, "b", BLUE, "10.2.0.11");
    lab.sync_all();
    talks(&mut lab, (0, "both"), (0, "r"), "10.1.0.11");
    talks(&mut lab, (0, "both"), (0, "b"), "10.2.0.11");
}

#[test]
fn frames_with_a_source_that_is_not_the_endpoints_own_are_dropped() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.sync_all();
    let mut a = lab.inside(0, "a");
    // An IPv4 header without options from `source`, protocol 253 (experiments, RFC 3692), no data.
    let packet = |mac: &str, source: &str| format!("ffffffffffff{mac}0800450000140000000040fd0000{source}0a01000c");
    let (own_mac, own_ip) = ("02420a01000b", "0a01000b");
    a.must(&format!("frame eth0 {}", packet(own_mac, "0a010063")));
    assert_eq!((lab.count(0, Reason::SpoofedIp), lab.count(0, Reason::SpoofedMac)), (1, 0));
    a.must(&format!("frame eth0 {}", packet("02420a010063", own_ip)));
    assert_eq!((lab.count(0, Reason::SpoofedIp), lab.count(0, Reason::SpoofedMac)), (1, 1));
    let before = lab.count(0, Reason::Local);
    a.must(&format!("frame eth0 {}", packet(own_mac, own_ip)));
    assert_eq!(lab.count(0, Reason::Local), before + 1);
    a.must(&format!("frame eth0 ffffffffffff{own_mac}86dd6000000000000000"));
    assert_eq!(lab.count(0, Reason::Ipv6), 1);
}

#[test]
fn a_tunnel_packet_from_a_stranger_or_with_a_false_sender_is_dropped() {
    let mut lab = Lab::new(2);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(1, "b", RED, "10.1.0.12");
    lab.sync_all();
    // VXLAN, VNI 100: 10.1.0.12 -> 10.1.0.11, sent by hand from a UDP socket.
    let inner = "02420a01000b02420a01000c0800450000140000000040fd00000a01000c0a01000b";
    let vxlan = format!("0800000000006400{inner}");
    let send = |mut from: crate::actor::Actor| from.must(&format!("datagram 192.168.50.1:4789 {vxlan}"));
    send(lab.client());
    assert_eq!(lab.count(0, Reason::UnknownVtep), 1, "{}", lab.drops(0));
    // From the host that has 10.1.0.12 it is welcome.
    let before = lab.count(0, Reason::Local);
    send(lab.on_host(1));
    assert_eq!(lab.count(0, Reason::Local), before + 1, "{}", lab.drops(0));
    let stranger = vxlan.replace("006400", "006500");
    lab.on_host(1).must(&format!("datagram 192.168.50.1:4789 {stranger}"));
    assert_eq!(lab.count(0, Reason::UnknownVni), 1);
    let liar = vxlan.replace("0a01000c0a01000b", "0a01000b0a01000b");
    lab.on_host(1).must(&format!("datagram 192.168.50.1:4789 {liar}"));
    assert_eq!(lab.count(0, Reason::TunnelSpoof), 1);
}

#[test]
fn an_address_that_nobody_has_is_unreachable_at_once_or_by_silence_of_arp() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.sync_all();
    let mut a = lab.inside(0, "a");
    a.must("ping 10.1.0.12 8");
    lab.remove_endpoint("b");
    lab.sync_all();
    // The neighbour is known still, so the packet comes and is answered.
    let error = a.ask("tcp 10.1.0.12:80 1");
    assert!(error.starts_with("err HostUnreachable"), "{error}");
    a.must_fail("ping 10.1.0.99 8");
}

#[test]
fn the_host_reaches_its_containers_and_they_reach_it() {
    let mut lab = Lab::new(2);
    lab.network(RED, "10.1.0.0/24");
    lab.network(BLUE, "10.2.0.0/24").internal = true;
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "i", BLUE, "10.2.0.11");
    lab.container(1, "far", RED, "10.1.0.12");
    lab.sync_all();
    let (mut a, mut i, mut far, mut host) =
        (lab.inside(0, "a"), lab.inside(0, "i"), lab.inside(1, "far"), lab.on_host(0));
    for (actor, address) in [(&mut a, "10.1.0.11"), (&mut i, "10.2.0.11"), (&mut far, "10.1.0.12")] {
        actor.must(&format!("listen tcp {address}:80 c"));
        host.must(&format!("ping {address} 56"));
        let answer = host.must(&format!("tcp {address}:80 1000000"));
        assert_eq!(answer, format!("c 192.168.50.1 peer={address}:80"));
    }
    host.must("listen tcp 0.0.0.0:7000 host");
    assert_eq!(a.must("tcp 192.168.50.1:7000 1000"), "host 10.1.0.11 peer=192.168.50.1:7000");
    i.must_fail("tcp 192.168.50.1:7000 1000");
    a.must("ping 10.1.0.1 56");
}

#[test]
fn outbound_traffic_leaves_with_the_hosts_address_unless_the_network_is_internal() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.network(BLUE, "10.2.0.0/24").internal = true;
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "i", BLUE, "10.2.0.11");
    lab.sync_all();
    let mut client = lab.client();
    client.must("listen tcp 192.168.50.100:80 outside");
    client.must("listen udp 192.168.50.100:53 outside");
    let mut a = lab.inside(0, "a");
    a.must("ping 192.168.50.100 56");
    assert_eq!(a.must("tcp 192.168.50.100:80 1000000"), "outside 192.168.50.1 peer=192.168.50.100:80");
    assert_eq!(a.must("udp 192.168.50.100:53 100 loose"), "outside 192.168.50.1 peer=192.168.50.100:53");
    let error = lab.inside(0, "i").must_fail("tcp 192.168.50.100:80 10");
    assert!(error.starts_with("NetworkUnreachable"), "{error}");
}

#[test]
fn a_routed_network_speaks_with_its_own_addresses_and_hears_only_what_it_asked_for() {
    let mut lab = Lab::new(1);
    let scope = Scope::local(1);
    lab.network6(scope, "10.1.0.0/24", "fd00:1::/64");
    lab.network(scope, "10.1.0.0/24").routed = true;
    lab.container6(0, "a", scope, "10.1.0.11", "fd00:1::a");
    lab.sync_all();
    lab.run_in("-client", "ip route add 10.1.0.0/24 via 192.168.50.1");
    lab.run_in("-client", "ip -6 route add fd00:1::/64 via fd50::1");
    let (mut client, mut a) = (lab.client(), lab.inside(0, "a"));
    client.must("listen tcp [::]:80 outside");
    client.must("listen udp [::]:53 outside");
    a.must("listen tcp [::]:80 a");
    for (own, there, shown) in
        [("10.1.0.11", "192.168.50.100", "::ffff:10.1.0.11"), ("fd00:1::a", "fd50::100", "fd00:1::a")]
    {
        let at = |port: u16| std::net::SocketAddr::new(there.parse().expect("an address"), port);
        a.must(&format!("ping {there} 56"));
        assert_eq!(a.must(&format!("tcp {} 1000000", at(80))), format!("outside {shown} peer={}", at(80)));
        assert_eq!(a.must(&format!("udp {} 4000 loose", at(53))), format!("outside {shown} peer={}", at(53)));
        // A router's or the other end's word about it comes in too: nobody listens there.
        let error = a.must_fail(&format!("udp {} 10 connected", at(54)));
        assert!(error.starts_with("ConnectionRefused"), "{error} {}", lab.drops(0));
        let before = lab.count(0, Reason::Direct);
        let unasked = std::net::SocketAddr::new(own.parse().expect("an address"), 80);
        client.must_fail(&format!("tcp {unasked} 10"));
        client.must_fail(&format!("ping {own} 8"));
        assert!(lab.count(0, Reason::Direct) >= before + 2, "{}", lab.drops(0));
    }
    assert!(!lab.run_in("h0", "nft list ruleset").contains("masquerade"));
}

#[test]
fn nobody_gets_into_a_network_by_an_interface_that_the_data_plane_was_never_told_of() {
    let mut lab = Lab::new(1);
    let kinds = [(Scope::local(1), 1), (Scope::local(2), 2), (Scope::local(3), 3)];
    for (scope, n) in kinds {
        lab.network6(scope, &format!("10.{n}.0.0/24"), &format!("fd00:{n}::/64"));
        lab.container6(0, &format!("c{n}"), scope, &format!("10.{n}.0.11"), &format!("fd00:{n}::a"));
    }
    lab.network(kinds[1].0, "10.2.0.0/24").routed = true;
    lab.network(kinds[2].0, "10.3.0.0/24").internal = true;
    lab.sync_all();
    lab.add_lan(0);
    let mut lan = lab.on_lan();
    lan.must("listen tcp [::]:80 lan");
    lan.must("listen udp [::]:53 lan");
    for (_, n) in kinds {
        let mut container = lab.inside(0, &format!("c{n}"));
        container.must("listen tcp [::]:80 c");
        for (own, there) in [(format!("10.{n}.0.11"), "192.168.60.100"), (format!("fd00:{n}::a"), "fd60::100")] {
            let at = |ip: &str, port: u16| std::net::SocketAddr::new(ip.parse().expect("an address"), port);
            lan.must_fail(&format!("tcp {} 10", at(&own, 80)));
            lan.must_fail(&format!("ping {own} 8"));
            if n == 3 {
                container.must_fail(&format!("tcp {} 10", at(there, 80)));
                continue;
            }
            // What they ask for there comes back, and the word that nobody listens.
            container.must(&format!("tcp {} 1000000", at(there, 80)));
            container.must(&format!("udp {} 4000 loose", at(there, 53)));
            container.must(&format!("ping {there} 56"));
            let error = container.must_fail(&format!("udp {} 10 connected", at(there, 54)));
            assert!(error.starts_with("ConnectionRefused"), "{n}: {error} {}", lab.drops(0));
            lan.must_fail(&format!("tcp {} 10", at(&own, 80)));
        }
        // The host itself is nobody from outside.
        lab.on_host(0).must(&format!("tcp 10.{n}.0.11:80 1000"));
        lab.on_host(0).must(&format!("tcp [fd00:{n}::a]:80 1000"));
    }
}

#[test]
fn what_is_sent_to_all_of_a_network_is_heard_by_all_of_it_on_the_host_and_by_nobody_else() {
    let mut lab = Lab::new(1);
    let (red, blue) = (Scope::local(1), Scope::local(2));
    lab.network6(red, "10.1.0.0/24", "fd00:1::/64");
    lab.network6(blue, "10.2.0.0/24", "fd00:2::/64");
    for (name, scope, n, last) in [("a", red, 1, "a"), ("b", red, 1, "b"), ("c", red, 1, "c"), ("x", blue, 2, "a")] {
        let host = u8::from_str_radix(last, 16).expect("a digit");
        lab.container6(0, name, scope, &format!("10.{n}.0.{host}"), &format!("fd00:{n}::{last}"));
    }
    lab.sync_all();
    let groups = ["10.1.0.255:53", "255.255.255.255:53", "239.1.2.3:53", "[ff05::1234]:54"];
    let listen = |name: &str| {
        let mut actor = lab.inside(0, name);
        // A socket of IPv6 takes no packets of an IPv4 group that another socket joined.
        actor.must(&format!("listen udp 0.0.0.0:53 {name}"));
        actor.must(&format!("listen udp [::]:54 {name}"));
        actor.must("join 239.1.2.3");
        actor.must("join ff05::1234");
        // Groups that it alone is in.
        let own = name.as_bytes()[0];
        actor.must(&format!("join 239.1.2.{own}"));
        actor.must(&format!("join ff05::{own}"));
        actor
    };
    let mut others = [listen("b"), listen("c"), listen("x")];
    let mut a = lab.inside(0, "a");
    for group in groups {
        // Both answer, and the first is heard.
        let answer = a.must(&format!("udp {group} 10 loose"));
        assert!(["b", "c"].contains(&&answer[..1]), "{group}: {answer} {}", lab.drops(0));
    }
    for name in ["b", "c"] {
        let own = name.as_bytes()[0];
        for group in [format!("239.1.2.{own}:53"), format!("[ff05::{own}]:54")] {
            let answer = a.must(&format!("udp {group} 10 loose"));
            assert_eq!(&answer[..1], name, "{group}: {}", lab.drops(0));
        }
    }
    assert!(lab.count(0, Reason::Group) >= 4, "{}", lab.drops(0));
    // Not to a network whose containers do not reach each other, and from nobody who says to be somebody else.
    let before = (lab.count(0, Reason::Group), lab.count(0, Reason::SpoofedIp));
    a.must("frame eth0 ffffffffffff02420a01000a0800450000140000000040fd00000a01000b0a0100ff");
    assert_eq!((lab.count(0, Reason::Group), lab.count(0, Reason::SpoofedIp)), (before.0, before.1 + 1));
    lab.network(red, "10.1.0.0/24").isolated = true;
    lab.sync_all();
    a.must_fail("udp 10.1.0.255:53 10 loose");
    assert!(lab.count(0, Reason::Isolation) > 0, "{}", lab.drops(0));
    // An internal network's is its own affair.
    let net = lab.network(red, "10.1.0.0/24");
    (net.isolated, net.internal) = (false, true);
    lab.sync_all();
    a.must("udp 10.1.0.255:53 10 loose");
    drop(others.iter_mut());
}
