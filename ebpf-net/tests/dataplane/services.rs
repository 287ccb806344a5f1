//! Virtual addresses of services and 127.0.0.11, by the socket and by the packet.

use crate::{actor::Actor, lab::Lab};
use muster_ebpf_net::{Attach, DnsPorts, Reason};
use muster_model::net::{Protocol, Scope};
use std::time::{Duration, Instant};

const NET: Scope = Scope::vni(100);
const VIP: &str = "10.1.0.200";
/// The programs are attached as musterd does by itself, all of them by tcx, and all by clsact.
const WAYS: [Attach; 3] = [Attach::Auto, Attach::Tcx, Attach::Clsact];

/// A client on host 0; backends b1 on host 0, b2 on host 1, both behind 10.1.0.200; 10.1.0.201 has none.
fn service() -> (Lab, Actor, Actor) {
    service_over(Attach::Auto)
}

fn service_over(attach: Attach) -> (Lab, Actor, Actor) {
    let mut lab = Lab::with(2, attach);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "client", NET, "10.1.0.10");
    lab.container(0, "b1", NET, "10.1.0.11");
    lab.container(1, "b2", NET, "10.1.0.12");
    lab.vip(NET, VIP, &["10.1.0.11", "10.1.0.12"]);
    lab.vip(NET, "10.1.0.201", &[]);
    lab.sync_all();
    let (mut b1, mut b2) = (lab.inside(0, "b1"), lab.inside(1, "b2"));
    for (backend, name) in [(&mut b1, "b1"), (&mut b2, "b2")] {
        backend.must(&format!("listen tcp 0.0.0.0:80 {name}"));
        backend.must(&format!("listen udp 0.0.0.0:53 {name}"));
    }
    (lab, b1, b2)
}

/// Asks until both backends have answered; each answer must come from the client's address and by the VIP's name.
fn both_answer(actor: &mut Actor, command: &str, peer: &str) {
    let mut seen = [false; 2];
    for _ in 0..64 {
        let answer = actor.must(command);
        assert!(answer.ends_with(&format!("10.1.0.10 peer={peer}")), "{answer}");
        seen[usize::from(answer.starts_with("b2"))] = true;
        if seen == [true; 2] {
            return;
        }
    }
    panic!("one backend never answered {command}");
}

#[test]
fn a_vip_is_balanced_at_the_socket_over_backends_here_and_elsewhere() {
    for attach in WAYS {
        balanced_at_the_socket(attach);
    }
}

fn balanced_at_the_socket(attach: Attach) {
    let (mut lab, _b1, _b2) = service_over(attach);
    let mut client = lab.inside(0, "client");
    both_answer(&mut client, &format!("tcp {VIP}:80 200000"), "10.1.0.200:80");
    both_answer(&mut client, &format!("udp {VIP}:53 100 loose"), "10.1.0.200:53");
    both_answer(&mut client, &format!("udp {VIP}:53 4000 connected"), "10.1.0.200:53");
    both_answer(&mut client, &format!("tcp [::ffff:{VIP}]:80 1000"), &format!("[::ffff:{VIP}]:80"));
    both_answer(&mut client, &format!("udp6 [::ffff:{VIP}]:53 100"), &format!("[::ffff:{VIP}]:53"));
    // Datagrams of one socket stay with one backend.
    client.must(&format!("datagrams {VIP}:53 20"));
    client.must(&format!("ping {VIP} 56"));
    assert!(lab.count(0, Reason::SocketVip) > 0);
    assert_eq!(lab.count(0, Reason::VipPacket), 0, "no packet was translated");
}

#[test]
fn a_vip_is_balanced_packet_by_packet_for_sockets_that_the_hooks_do_not_see() {
    for attach in WAYS {
        balanced_packet_by_packet(attach);
    }
}

fn balanced_packet_by_packet(attach: Attach) {
    let (mut lab, _b1, _b2) = service_over(attach);
    let mut client = lab.unseen("client");
    both_answer(&mut client, &format!("tcp {VIP}:80 3000000"), "10.1.0.200:80");
    both_answer(&mut client, &format!("udp {VIP}:53 100 loose"), "10.1.0.200:53");
    both_answer(&mut client, &format!("udp {VIP}:53 4000 connected"), "10.1.0.200:53");
    assert_eq!(lab.count(0, Reason::SocketVip), 0);
    assert!(lab.count(0, Reason::VipReply) > 0);
    // Direct connections right after, between the same two, are not taken for replies.
    for _ in 0..200 {
        client.must("tcp 10.1.0.11:80 10");
        client.must(&format!("tcp {VIP}:80 10"));
    }
}

#[test]
fn a_container_that_is_its_own_backend_reaches_itself() {
    let mut lab = Lab::new(1);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "self", NET, "10.1.0.10");
    lab.vip(NET, VIP, &["10.1.0.10"]);
    lab.sync_all();
    let mut server = lab.inside(0, "self");
    server.must("listen tcp 0.0.0.0:80 self");
    server.must("listen udp 0.0.0.0:53 self");
    for mut client in [lab.inside(0, "self"), lab.unseen("self")] {
        let answer = client.must(&format!("tcp {VIP}:80 100000"));
        assert!(answer.ends_with("peer=10.1.0.200:80"), "{answer}");
        client.must(&format!("udp {VIP}:53 100 loose"));
    }
}

#[test]
fn a_vip_without_backends_refuses_connections() {
    let (mut lab, _b1, _b2) = service();
    for mut client in [lab.inside(0, "client"), lab.unseen("client")] {
        for command in ["tcp 10.1.0.201:80 1", "udp 10.1.0.201:53 1 connected"] {
            let error = client.must_fail(command);
            assert!(error.starts_with("ConnectionRefused"), "{command}: {error}");
        }
    }
    assert!(lab.count(0, Reason::NoBackend) >= 4);
}

#[test]
fn a_backend_that_leaves_gets_no_new_connections() {
    let (mut lab, _b1, _b2) = service();
    lab.vip(NET, VIP, &["10.1.0.12"]);
    lab.sync_all();
    for mut client in [lab.inside(0, "client"), lab.unseen("client")] {
        for _ in 0..20 {
            let answer = client.must(&format!("tcp {VIP}:80 1"));
            assert!(answer.starts_with("b2"), "{answer}");
        }
    }
}

#[test]
fn a_vip_of_another_network_is_not_answered() {
    let (mut lab, _b1, _b2) = service();
    let other = Scope::vni(101);
    lab.network(other, "10.2.0.0/24");
    lab.container(0, "other", other, "10.2.0.10");
    lab.sync_all();
    lab.inside(0, "other").must_fail(&format!("tcp {VIP}:80 1"));
    lab.unseen("other").must_fail(&format!("tcp {VIP}:80 1"));
}

#[test]
fn names_are_asked_at_127_0_0_11_port_53_whatever_port_the_server_has() {
    for attach in WAYS {
        asked_at_127_0_0_11(attach);
    }
}

fn asked_at_127_0_0_11(attach: Attach) {
    let mut lab = Lab::with(1, attach);
    lab.network(NET, "10.1.0.0/24");
    for (name, address) in [("one", "10.1.0.10"), ("two", "10.1.0.11")] {
        lab.container(0, name, NET, address);
    }
    lab.dns.insert(lab.netns("one"), DnsPorts { udp: 5301, tcp: 5302 });
    lab.dns.insert(lab.netns("two"), DnsPorts { udp: 5303, tcp: 5304 });
    lab.sync_all();
    for (name, udp, tcp) in [("one", 5301, 5302), ("two", 5303, 5304)] {
        let mut server = lab.inside(0, name);
        server.must(&format!("listen udp 127.0.0.11:{udp} dns-{name}"));
        server.must(&format!("listen tcp 127.0.0.11:{tcp} dns-{name}"));
        let mut app = lab.inside(0, name);
        app.must("listen udp 0.0.0.0:53 own");
        for command in ["udp 127.0.0.11:53 40 loose", "udp 127.0.0.11:53 40 connected", "tcp 127.0.0.11:53 40"] {
            let answer = app.must(command);
            assert!(answer.starts_with(&format!("dns-{name} ")) && answer.ends_with("peer=127.0.0.11:53"), "{answer}");
        }
    }
    lab.dns.clear();
    lab.sync_all();
    lab.inside(0, "two").must_fail("tcp 127.0.0.11:53 1");
}

#[test]
fn a_connection_that_is_over_on_both_sides_is_forgotten() {
    let mut lab = Lab::new(2);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "client", NET, "10.1.0.10");
    lab.container(1, "b", NET, "10.1.0.11");
    lab.vip(NET, VIP, &["10.1.0.11"]);
    lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.11:80"]);
    lab.sync_all();
    let mut server = lab.inside(1, "b");
    server.must("listen tcp 0.0.0.0:80 b");
    let (mut inside, mut outside) = (lab.unseen("client"), lab.client());
    inside.must(&format!("stream start {VIP}:80"));
    inside.must(&format!("connects {VIP}:80 100"));
    outside.must("connects 192.168.50.1:8080 100");
    // Two entries of the stream that goes on; on the other host nothing is translated.
    let deadline = Instant::now() + Duration::from_secs(5);
    while (lab.connections(0), lab.connections(1)) != (2, 0) {
        assert!(Instant::now() < deadline, "{} and {} entries", lab.connections(0), lab.connections(1));
    }
    inside.must("stream stop");
}
