//! What a container tries with a raw socket, which Docker's default capabilities give it, and what a neighbour of the host tries.

use crate::{
    actor::Actor,
    frames::{MORE_FRAGMENTS, TCP, UDP, ethernet, hex, ipv4, tcp, udp, vxlan},
    lab::{Lab, host_ip},
};
use muster_ebpf_net::Reason;
use muster_model::net::{Mac, Protocol, Scope};
use std::net::Ipv4Addr;

const RED: Scope = Scope::vni(100);
const BLUE: Scope = Scope::vni(200);
const SYN: u8 = 2;
const ACK: u8 = 16;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

/// Red and blue, each with a container on both hosts: ra and rb, ba and bb. Ports of red are published.
fn two_networks() -> Lab {
    let mut lab = Lab::new(2);
    lab.network(RED, "10.1.0.0/24");
    lab.network(BLUE, "10.2.0.0/24");
    lab.container(0, "ra", RED, "10.1.0.11");
    lab.container(1, "rb", RED, "10.1.0.12");
    lab.container(0, "ba", BLUE, "10.2.0.11");
    lab.container(1, "bb", BLUE, "10.2.0.12");
    lab.publish(Protocol::Udp, 5353, RED, &["10.1.0.11:53"]);
    lab.sync_all();
    lab
}

/// Sends from a container's only interface.
fn send(actor: &mut Actor, own: &str, gateway: &str, packet: &[u8]) {
    actor.must(&format!("frame eth0 {}", ethernet(gateway, ip(own), "0800", &hex(packet))));
}

#[test]
fn a_container_speaks_into_no_tunnel_of_the_hosts() {
    let mut lab = two_networks();
    let mut ra = lab.inside(0, "ra");
    // What ba would send to bb, in a tunnel's clothes: masqueraded, it would come from a host that may send it.
    let inner = ipv4(ip("10.2.0.11"), ip("10.2.0.12"), 253, 0, &[]);
    let forged = vxlan(BLUE.0, &inner);
    let arrived = lab.count(1, Reason::TunnelIn);
    ra.must(&format!("datagram 192.168.50.2:4789 {}", hex(&forged)));
    assert_eq!(lab.count(0, Reason::TunnelSpoof), 1, "{}", lab.drops(0));
    // Nor in fragments, which the host would put together to masquerade them.
    let datagram = udp(4000, 4789, &forged);
    let gateway = lab.gateway(0, "ra", "10.1.0.1");
    let (first, last) = datagram.split_at(16);
    send(&mut ra, "10.1.0.11", &gateway, &ipv4(ip("10.1.0.11"), host_ip(1), UDP, MORE_FRAGMENTS, first));
    send(&mut ra, "10.1.0.11", &gateway, &ipv4(ip("10.1.0.11"), host_ip(1), UDP, 2, last));
    assert_eq!(lab.count(0, Reason::TunnelSpoof), 3, "{}", lab.drops(0));
    // Nor to the own host.
    ra.must(&format!("datagram 192.168.50.1:4789 {}", hex(&forged)));
    assert_eq!(lab.count(0, Reason::TunnelSpoof), 4, "{}", lab.drops(0));
    // Nor as the answer to who asks at a published port with the tunnel's port for a source.
    let asked = udp(4789, 5353, b"?");
    let mac = lab.host_mac(0);
    lab.on_host(1)
        .must(&format!("frame eth0 {mac}0200000000010800{}", hex(&ipv4(host_ip(1), host_ip(0), UDP, 0, &asked))));
    let answer = udp(53, 4789, &forged);
    send(&mut ra, "10.1.0.11", &gateway, &ipv4(ip("10.1.0.11"), host_ip(1), UDP, 0, &answer));
    assert_eq!(lab.count(0, Reason::TunnelSpoof), 5, "{}", lab.drops(0));
    assert_eq!(lab.count(1, Reason::TunnelIn), arrived, "nothing of it came out of a tunnel: {}", lab.drops(1));
    // The tunnels work, and so does that port where no tunnel ends.
    lab.inside(0, "ba").must("ping 10.2.0.12 8");
    let mut client = lab.client();
    client.must("listen udp 0.0.0.0:4789 outside");
    ra.must("udp 192.168.50.100:4789 10 loose");
}

#[test]
fn a_container_puts_no_tag_on_the_hosts_network() {
    let mut lab = two_networks();
    let mut ra = lab.inside(0, "ra");
    let gateway = lab.gateway(0, "ra", "10.1.0.1");
    let (out, before) = (lab.count(0, Reason::TunnelOut), lab.count(0, Reason::Protocol));
    for (n, (tag, to)) in [("8100", "10.1.0.12"), ("88a8", "10.1.0.12"), ("8100", "192.168.50.100")].iter().enumerate()
    {
        let packet = ipv4(ip("10.1.0.11"), ip(to), 253, 0, &[]);
        let rest = format!("00050800{}", hex(&packet));
        ra.must(&format!("frame eth0 {}", ethernet(&gateway, ip("10.1.0.11"), tag, &rest)));
        assert_eq!(lab.count(0, Reason::Protocol), before + n as u64 + 1, "{tag} {to}: {}", lab.drops(0));
    }
    assert_eq!(lab.count(0, Reason::TunnelOut), out);
}

#[test]
fn a_neighbour_of_the_host_gets_into_no_network_by_a_tag_of_priority() {
    let mut lab = two_networks();
    let mac = lab.host_mac(0);
    let mut client = lab.client();
    let packet = hex(&ipv4(ip("192.168.50.100"), ip("10.1.0.11"), 253, 0, &[]));
    for (n, tags) in ["", "81000000", "8100e000", "8100000081000000"].iter().enumerate() {
        let before = lab.count(0, Reason::Direct);
        client.must(&format!("frame eth0 {mac}020000000001{tags}0800{packet}"));
        assert_eq!(lab.count(0, Reason::Direct), before + 1, "{n}: {}", lab.drops(0));
    }
    let before = lab.count(0, Reason::Protocol);
    client.must(&format!("frame eth0 {mac}020000000001{}0800{packet}", "81000000".repeat(3)));
    assert_eq!(lab.count(0, Reason::Protocol), before + 1, "{}", lab.drops(0));
    // A published port is answered in spite of a tag.
    let before = lab.count(0, Reason::Ingress);
    let packet = hex(&ipv4(ip("192.168.50.100"), host_ip(0), UDP, 0, &udp(4000, 5353, b"?")));
    client.must(&format!("frame eth0 {mac}020000000001810000000800{packet}"));
    assert_eq!(lab.count(0, Reason::Ingress), before + 1, "{}", lab.drops(0));
}

#[test]
fn fragments_do_not_hide_what_they_are() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24").internal = true;
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.sync_all();
    let mut a = lab.inside(0, "a");
    let gateway = lab.gateway(0, "a", "10.1.0.1");
    let (own, host) = (ip("10.1.0.11"), host_ip(0));
    // From an internal network only answers reach the host. This looks like one by what follows the packet in the frame; the host
    // would take 8 bytes of it, and the rest, a SYN, from the second fragment.
    let mut first = ipv4(own, host, TCP, MORE_FRAGMENTS, &tcp(4000, 22, ACK)[..8]);
    first.extend(&tcp(4000, 22, ACK)[8..]);
    send(&mut a, "10.1.0.11", &gateway, &first);
    assert_eq!((lab.count(0, Reason::Malformed), lab.count(0, Reason::HostIn)), (1, 0), "{}", lab.drops(0));
    // A second fragment that lies over the header of the first.
    send(&mut a, "10.1.0.11", &gateway, &ipv4(own, host, TCP, 1, &tcp(4000, 22, SYN)[8..]));
    assert_eq!((lab.count(0, Reason::Malformed), lab.count(0, Reason::HostIn)), (2, 0), "{}", lab.drops(0));
    // A header without a length that is no large segment.
    let mut endless = ipv4(own, host, TCP, 0, &tcp(4000, 22, ACK));
    endless[2..4].copy_from_slice(&[0, 0]);
    send(&mut a, "10.1.0.11", &gateway, &endless);
    assert_eq!((lab.count(0, Reason::Malformed), lab.count(0, Reason::HostIn)), (3, 0), "{}", lab.drops(0));
    // What is said in somebody else's name of a fragment's ports is not kept.
    let foreign = ipv4(ip("10.1.0.12"), host, UDP, MORE_FRAGMENTS, &udp(1, 2, &[0; 8]));
    send(&mut a, "10.1.0.11", &gateway, &foreign);
    assert_eq!((lab.count(0, Reason::SpoofedIp), lab.fragments(0)), (1, 0), "{}", lab.drops(0));
    send(&mut a, "10.1.0.11", &gateway, &ipv4(own, host, UDP, MORE_FRAGMENTS, &udp(1, 2, &[0; 8])));
    assert_eq!(lab.fragments(0), 1);
}

#[test]
fn the_hosts_loopback_is_not_reached_even_where_the_host_lets_it_be() {
    let mut lab = two_networks();
    lab.run_in("h0", "sysctl -q -w net.ipv4.conf.all.route_localnet=1");
    let gateway = lab.gateway(0, "ra", "10.1.0.1");
    let before = (lab.count(0, Reason::NoEndpoint), lab.count(0, Reason::Outbound));
    let packet = ipv4(ip("10.1.0.11"), ip("127.0.0.1"), UDP, 0, &udp(4000, 53, b"?"));
    send(&mut lab.inside(0, "ra"), "10.1.0.11", &gateway, &packet);
    let after = (lab.count(0, Reason::NoEndpoint), lab.count(0, Reason::Outbound));
    assert_eq!(after, (before.0 + 1, before.1), "{}", lab.drops(0));
}

#[test]
fn an_answer_of_arp_in_anothers_name_goes_nowhere() {
    let mut lab = Lab::new(1);
    lab.network(RED, "10.1.0.0/24");
    lab.container(0, "a", RED, "10.1.0.11");
    lab.container(0, "b", RED, "10.1.0.12");
    lab.sync_all();
    let known = lab.gateway(0, "b", "10.1.0.1");
    let own = hex(&Mac::of(ip("10.1.0.11")).0);
    let mut a = lab.inside(0, "a");
    // Is the gateway at a's address? Says a, unasked, as an answer and as a question, to b and to all.
    for (op, to) in [("0002", hex(&Mac::of(ip("10.1.0.12")).0)), ("0001", "ffffffffffff".to_owned())] {
        let arp = format!("000108000604{op}{own}0a010001{to}0a010001");
        a.must(&format!("frame eth0 {to}{own}0806{arp}"));
    }
    assert_eq!(lab.gateway(0, "b", "10.1.0.1"), known);
    let mut b = lab.inside(0, "b");
    b.must("ping 10.1.0.1 8");
    b.must("ping 192.168.50.100 8");
}
