//! Published ports: on every host, with the client's own address.

use crate::lab::{CLIENT, Lab, host_ip};
use muster_ebpf_net::{Attach, Reason};
use muster_model::net::{Protocol, Scope};
use std::net::Ipv4Addr;

const NET: Scope = Scope::vni(100);

/// Backends on hosts 0 and 1, none on host 2.
fn published(attach: Attach) -> (Lab, Vec<crate::actor::Actor>) {
    let mut lab = Lab::with(3, attach);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "b0", NET, "10.1.0.10");
    lab.container(1, "b1", NET, "10.1.0.11");
    lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.10:80", "10.1.0.11:80"]);
    lab.publish(Protocol::Udp, 5353, NET, &["10.1.0.10:53", "10.1.0.11:53"]);
    lab.publish(Protocol::Tcp, 8081, NET, &[]);
    lab.sync_all();
    let backends = [(0, "b0"), (1, "b1")].map(|(host, name)| {
        let mut backend = lab.inside(host, name);
        backend.must(&format!("listen tcp 0.0.0.0:80 {name}"));
        backend.must(&format!("listen udp 0.0.0.0:53 {name}"));
        backend
    });
    (lab, backends.into())
}

#[test]
fn nobody_outside_comes_to_a_published_port_with_a_containers_or_the_hosts_own_address() {
    let (mut lab, _backends) = published(Attach::Auto);
    let mac = lab.run_in("h0", "cat /sys/class/net/eth0/address").trim().replace(':', "");
    let (host, mut client) = (host_ip(0), lab.client());
    let mut came = |source: Ipv4Addr, dropped: u64| {
        let before = lab.count(0, Reason::SpoofedIp);
        client.must(&format!("frame eth0 {mac}0200000000010800{}", datagram(source, host)));
        assert_eq!(lab.count(0, Reason::SpoofedIp), before + dropped, "{source}: {}", lab.drops(0));
    };
    came(Ipv4Addr::new(10, 1, 0, 11), 1);
    came(host, 1);
    came(CLIENT.parse().expect("an address"), 0);
}

/// An IPv4 datagram to port 5353, as hexadecimal digits; the header's sum is right, or a bridge would not take it.
fn datagram(source: Ipv4Addr, to: Ipv4Addr) -> String {
    let mut bytes = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0];
    bytes.extend(source.octets().into_iter().chain(to.octets()));
    let sum: u32 = bytes.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry at most");
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend([0x0f, 0xa1, 0x14, 0xe9, 0, 10, 0, 0, b'h', b'i']);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn each_backend_sees_the_client(attach: Attach) {
    let (mut lab, _backends) = published(attach);
    let mut client = lab.client();
    for host in 0..3 {
        let ip = host_ip(host);
        for command in [format!("tcp {ip}:8080 300000"), format!("udp {ip}:5353 100 loose")] {
            let mut seen = [false; 2];
            for _ in 0..64 {
                let answer = client.must(&command);
                assert!(answer.contains(&format!(" {CLIENT} peer={ip}:")), "{answer}");
                seen[usize::from(answer.starts_with("b1"))] = true;
                if seen == [true; 2] {
                    break;
                }
            }
            assert_eq!(seen, [true; 2], "{command}: {}", lab.drops(host));
        }
    }
}

#[test]
fn every_host_answers_and_the_backend_sees_the_client_wherever_it_runs() {
    each_backend_sees_the_client(Attach::Auto);
}

#[test]
fn with_clsact_too_every_host_answers_and_the_backend_sees_the_client() {
    each_backend_sees_the_client(Attach::Clsact);
}

#[test]
fn a_port_without_backends_is_refused_and_an_unpublished_one_is_the_hosts() {
    let (mut lab, _backends) = published(Attach::Auto);
    let mut client = lab.client();
    let error = client.must_fail("tcp 192.168.50.1:8081 1");
    assert!(error.starts_with("ConnectionRefused"), "{error}");
    assert_eq!(lab.count(0, Reason::NoBackend), 1);
    let mut host = lab.on_host(0);
    host.must("listen tcp 0.0.0.0:22 host");
    assert_eq!(client.must("tcp 192.168.50.1:22 1000"), format!("host {CLIENT} peer=192.168.50.1:22"));
}

#[test]
fn a_process_of_the_host_reaches_a_port_by_loopback_and_by_the_hosts_addresses() {
    let (mut lab, _backends) = published(Attach::Auto);
    for host in 0..3 {
        let mut process = lab.on_host(host);
        let own = host_ip(host);
        for to in ["127.0.0.1:8080".to_owned(), format!("{own}:8080"), "[::1]:8080".to_owned()] {
            let mut seen = [false; 2];
            for _ in 0..64 {
                let answer = process.must(&format!("tcp {to} 100000"));
                assert!(answer.ends_with(&format!(" {own} peer={to}")), "{answer}");
                seen[usize::from(answer.starts_with("b1"))] = true;
                if seen == [true; 2] {
                    break;
                }
            }
            assert_eq!(seen, [true; 2], "host {host} {to}: {}", lab.drops(host));
        }
        process.must("udp 127.0.0.1:5353 100 loose");
        let error = process.must_fail("tcp 127.0.0.1:8081 1");
        assert!(error.starts_with("ConnectionRefused"), "{error}");
    }
    assert!(lab.count(2, Reason::HostOut) > 0 && lab.count(2, Reason::SocketPublished) > 0);
}

#[test]
fn a_container_reaches_a_port_of_its_own_host_and_of_another() {
    let (mut lab, _backends) = published(Attach::Auto);
    let other = Scope::vni(7);
    lab.network(other, "10.7.0.0/24");
    lab.container(0, "guest", other, "10.7.0.10");
    lab.sync_all();
    let mut guest = lab.inside(0, "guest");
    for host in [0, 1] {
        let ip = host_ip(host);
        for _ in 0..8 {
            let answer = guest.must(&format!("tcp {ip}:8080 100000"));
            assert!(answer.ends_with(&format!("192.168.50.1 peer={ip}:8080")), "{answer}");
            guest.must(&format!("udp {ip}:5353 100 loose"));
        }
    }
    // A backend that asks for itself by the host's port.
    let mut own = lab.inside(0, "b0");
    for _ in 0..8 {
        own.must("tcp 192.168.50.1:8080 1000");
    }
}

#[test]
fn a_port_published_on_one_address_is_answered_there_only() {
    let (mut lab, _backends) = published(Attach::Auto);
    let key = muster_model::view::PublishedKey {
        protocol: Protocol::Tcp,
        port: 9000,
        host_ip: std::net::Ipv4Addr::LOCALHOST,
    };
    let to = muster_model::view::Published { scope: NET, backends: vec!["10.1.0.10:80".parse().expect("valid")] };
    lab.published.insert(key, to);
    lab.sync_all();
    lab.on_host(0).must("tcp 127.0.0.1:9000 10");
    lab.on_host(0).must_fail("tcp 192.168.50.1:9000 10");
    lab.client().must_fail("tcp 192.168.50.1:9000 10");
}

#[test]
fn answers_of_the_hosts_own_connections_are_not_taken_for_a_published_port() {
    let (lab, _backends) = published(Attach::Auto);
    let mut client = lab.client();
    client.must("listen tcp 192.168.50.100:80 outside");
    // The container's source port is the very port that is published; masquerading keeps it.
    let answer = lab.inside(0, "b0").must("tcpfrom 8080 192.168.50.100:80 10000");
    assert!(answer.starts_with("outside 192.168.50.1"), "{answer}");
}

#[test]
fn a_datagram_too_big_for_the_tunnel_is_told_its_size() {
    let mut lab = Lab::new(2);
    lab.network(NET, "10.1.0.0/24");
    lab.container(1, "b1", NET, "10.1.0.11");
    lab.publish(Protocol::Udp, 5353, NET, &["10.1.0.11:53"]);
    lab.sync_all();
    let mut backend = lab.inside(1, "b1");
    backend.must("listen udp 0.0.0.0:53 b1");
    let mut client = lab.client();
    let ip = host_ip(0);
    // The first one is lost; with the path's MTU learnt from it the next is sent in fragments.
    client.must_fail(&format!("udp {ip}:5353 1460 connected"));
    assert_eq!(lab.count(0, Reason::TooBig), 1);
    client.must(&format!("udp {ip}:5353 1460 connected"));
}

#[test]
fn a_router_on_the_clients_path_tells_the_backend_its_mtu() {
    for host in [0, 1] {
        let mut lab = Lab::new(2);
        lab.network(NET, "10.1.0.0/24");
        lab.container(host, "b", NET, "10.1.0.10");
        lab.publish(Protocol::Udp, 5353, NET, &["10.1.0.10:53"]);
        lab.sync_all();
        let mut backend = lab.inside(host, "b");
        backend.must("listen udp 0.0.0.0:53 b");
        let mut client = lab.client();
        client.must("udpfrom 4000 192.168.50.1:5353 100");
        client.must("toobig 192.168.50.1 5353 4000 1200");
        let route = lab.run_in("b", "ip route get 192.168.50.100");
        assert!(route.contains("mtu 1200"), "{route} {}", lab.drops(0));
    }
}

#[test]
fn a_host_without_a_tunnel_address_publishes_ports_of_its_own_networks() {
    let mut lab = Lab::new(1);
    let mut config = lab.config(0);
    config.vtep_ip = std::net::Ipv4Addr::UNSPECIFIED;
    lab.planes[0] = Some(muster_ebpf_net::DataPlane::open(config).expect("opens"));
    let local = Scope::local(1);
    lab.network(local, "172.30.0.0/16").mtu = 1500;
    lab.container(0, "b", local, "172.30.0.2");
    lab.publish(Protocol::Tcp, 8080, local, &["172.30.0.2:80"]);
    lab.sync_all();
    let mut backend = lab.inside(0, "b");
    backend.must("listen tcp 0.0.0.0:80 b");
    assert_eq!(lab.client().must("tcp 192.168.50.1:8080 100000"), format!("b {CLIENT} peer=192.168.50.1:8080"));
    assert_eq!(lab.on_host(0).must("tcp 127.0.0.1:8080 100000"), "b 192.168.50.1 peer=127.0.0.1:8080");
    let mut client = lab.client();
    client.must("listen tcp 192.168.50.100:80 outside");
    lab.inside(0, "b").must("tcp 192.168.50.100:80 100000");
}
