//! IPv6 on networks of one host: neighbours, strangers, published ports and what routers say of them.

use crate::{
    actor::Actor,
    lab::{CLIENT6, Lab},
};
use muster_ebpf_net::{Attach, Reason};
use muster_model::net::{Protocol, Scope};

const RED: Scope = Scope::local(1);
const BLUE: Scope = Scope::local(2);
const HOST6: &str = "fd50::1";

/// Two containers in red, one in blue, on one host.
fn lab(attach: Attach) -> Lab {
    let mut lab = Lab::with(1, attach);
    lab.network6(RED, "172.30.0.0/24", "fd00:1::/64");
    lab.network6(BLUE, "172.31.0.0/24", "fd00:2::/64");
    lab.container6(0, "a", RED, "172.30.0.11", "fd00:1::a");
    lab.container6(0, "b", RED, "172.30.0.12", "fd00:1::b");
    lab.container6(0, "c", BLUE, "172.31.0.11", "fd00:2::c");
    lab
}

/// The same with ports that lead to b, where servers listen.
fn published(attach: Attach) -> (Lab, Actor) {
    let mut lab = lab(attach);
    lab.publish6(Protocol::Tcp, 8080, "::", RED, "[fd00:1::b]:80");
    lab.publish6(Protocol::Udp, 5353, "::", RED, "[fd00:1::b]:53");
    lab.publish6(Protocol::Udp, 5354, "::", RED, "[fd00:1::b]:54");
    lab.sync_all();
    let mut b = lab.inside(0, "b");
    b.must("listen tcp [::]:80 b");
    b.must("listen udp [::]:53 b");
    (lab, b)
}

#[test]
fn containers_of_one_network_talk_and_those_of_another_do_not_hear_them() {
    let mut lab = lab(Attach::Auto);
    lab.sync_all();
    let (mut a, mut b) = (lab.inside(0, "a"), lab.inside(0, "b"));
    b.must("listen tcp [::]:80 b");
    b.must("listen udp [::]:53 b");
    a.must("ping fd00:1::b 56");
    a.must("ping fd00:1::b 1452");
    assert_eq!(a.must("tcp [fd00:1::b]:80 3000000"), "b fd00:1::a peer=[fd00:1::b]:80");
    a.must("udp [fd00:1::b]:53 500 loose");
    a.must("udp [fd00:1::b]:53 4000 connected");
    a.must("ping fd00:1::1 56");
    assert!(lab.count(0, Reason::Neighbour) > 0 && lab.count(0, Reason::Echo) == 1, "{}", lab.drops(0));
    lab.inside(0, "c").must_fail("ping fd00:1::b 8");
    assert_eq!(lab.count(0, Reason::Isolation), 1, "{}", lab.drops(0));
    a.must_fail("ping fd00:1::99 8");
}

#[test]
fn the_host_reaches_its_containers_and_the_outside_does_not_by_their_own_addresses() {
    let mut lab = lab(Attach::Auto);
    lab.sync_all();
    let (mut b, mut host) = (lab.inside(0, "b"), lab.on_host(0));
    b.must("listen tcp [::]:80 b");
    host.must("ping fd00:1::b 56");
    assert_eq!(host.must("tcp [fd00:1::b]:80 1000000"), format!("b {HOST6} peer=[fd00:1::b]:80"));
    host.must("listen tcp [::]:7000 host");
    assert_eq!(b.must(&format!("tcp [{HOST6}]:7000 1000")), format!("host fd00:1::b peer=[{HOST6}]:7000"));
    lab.run_in("-client", "ip -6 route add fd00:1::/64 via fd50::1");
    lab.client().must_fail("tcp [fd00:1::b]:80 8");
    assert!(lab.count(0, Reason::Direct) > 0, "{}", lab.drops(0));
}

#[test]
fn outbound_traffic_leaves_with_the_hosts_address_unless_the_network_is_internal() {
    let mut lab = lab(Attach::Auto);
    lab.network(BLUE, "172.31.0.0/24").internal = true;
    lab.sync_all();
    let mut client = lab.client();
    client.must(&format!("listen tcp [{CLIENT6}]:80 outside"));
    let mut a = lab.inside(0, "a");
    assert_eq!(a.must(&format!("tcp [{CLIENT6}]:80 1000000")), format!("outside {HOST6} peer=[{CLIENT6}]:80"));
    a.must(&format!("ping {CLIENT6} 56"));
    lab.inside(0, "c").must_fail(&format!("tcp [{CLIENT6}]:80 10"));
    assert!(lab.count(0, Reason::Internal) > 0, "{}", lab.drops(0));
}

#[test]
fn headers_in_front_of_the_transport_do_not_open_a_way_in() {
    let mut lab = lab(Attach::Auto);
    lab.sync_all();
    let mac = lab.run_in("h0", "cat /sys/class/net/eth0/address").trim().replace(':', "");
    let mut client = lab.client();
    let (from, to) = ("fd500000000000000000000000000100", "fd00000100000000000000000000000b");
    // An echo request behind one and behind nine headers of destination options, and one that is cut off.
    let echo = "8000000000000000";
    let options = |n: usize| format!("{}3a00010400000000", "3c00010400000000".repeat(n - 1));
    for rest in [format!("{}{echo}", options(1)), format!("{}{echo}", options(9)), "3c00".to_owned()] {
        let before = lab.count(0, Reason::Direct);
        let length = rest.len() / 2;
        client.must(&format!("frame eth0 {mac}02000000000186dd60000000{length:04x}3c40{from}{to}{rest}"));
        assert_eq!(lab.count(0, Reason::Direct), before + 1, "{rest}: {}", lab.drops(0));
    }
}

/// A frame of a's interface: an IPv6 header from `source` to b and what follows.
fn frame(mac: &str, source: &str, next: &str, rest: &str) -> String {
    let b = "fd00000100000000000000000000000b";
    format!("frame eth0 ffffffffffff{mac}86dd60000000{:04x}{next}ff{source}{b}{rest}", rest.len() / 2)
}

#[test]
fn nobody_speaks_with_anothers_address_or_for_another() {
    let mut lab = lab(Attach::Auto);
    lab.sync_all();
    let mut a = lab.inside(0, "a");
    let (mac, own) = ("0242ac1e000b", "fd00000100000000000000000000000a");
    let other = "fd000001000000000000000000000099";
    let local = lab.count(0, Reason::Local);
    // No next header (RFC 8200, section 4.7): taken without an answer.
    a.must(&frame(mac, own, "3b", ""));
    assert_eq!(lab.count(0, Reason::Local), local + 1, "{}", lab.drops(0));
    a.must(&frame(mac, other, "3b", ""));
    assert_eq!(lab.count(0, Reason::SpoofedIp), 1);
    a.must(&frame("0242ac1e000c", own, "3b", ""));
    assert_eq!(lab.count(0, Reason::SpoofedMac), 1);
    // A neighbour advertisement, bare and behind destination options; a solicitation from somebody else's address.
    let before = lab.count(0, Reason::Protocol);
    let advertisement = format!("8800000020000000{other}");
    a.must(&frame(mac, own, "3a", &advertisement));
    a.must(&frame(mac, own, "3c", &format!("3a00010400000000{advertisement}")));
    // Behind a routing header that leads no further, which the receiver passes over.
    a.must(&frame(mac, own, "2b", &format!("3a00000000000000{advertisement}")));
    a.must(&frame(mac, own, "3c", &format!("2b000104000000003a00000000000000{advertisement}")));
    assert_eq!(lab.count(0, Reason::Protocol), before + 4, "{}", lab.drops(0));
    a.must(&frame(mac, other, "3a", &format!("8700000000000000{own}")));
    assert_eq!(lab.count(0, Reason::SpoofedIp), 2);
    // Headers without end, one that ends too early, a message that lies behind the packet's end, a route by way of b to elsewhere.
    let before = lab.count(0, Reason::Malformed);
    a.must(&frame(mac, own, "3c", &"3c00010400000000".repeat(9)));
    a.must(&frame(mac, own, "3c", "11"));
    let behind = "8800000020000000".to_owned() + &"0".repeat(32);
    a.must(&format!("{}{behind}", frame(mac, own, "2c", "3a00000100000001")));
    a.must(&frame(mac, own, "2b", &format!("3b02000100000000{other}")));
    assert_eq!(lab.count(0, Reason::Malformed), before + 4, "{}", lab.drops(0));
    assert_eq!(lab.count(0, Reason::Local), local + 1, "nothing of it arrived");
}

fn round_trips(attach: Attach) {
    let (mut lab, _b) = published(attach);
    let mut client = lab.client();
    let to = format!("[{HOST6}]:8080");
    assert_eq!(client.must(&format!("tcp {to} 3000000")), format!("b {CLIENT6} peer={to}"));
    for (command, n) in [("udp", "100 loose"), ("udp", "4000 loose"), ("udp", "4000 connected"), ("udpoptions", "100")]
    {
        let answer = client.must(&format!("{command} [{HOST6}]:5353 {n}"));
        assert_eq!(answer, format!("b {CLIENT6} peer=[{HOST6}]:5353"), "{command} {n}: {}", lab.drops(0));
    }
    let outside = lab.run_in("h0", "nft list tables");
    assert!(outside.contains("ip6 muster_"), "{outside}");
    assert!(!lab.run_in("h0", "nft list ruleset").contains("dnat to"));
    assert!(lab.count(0, Reason::Ingress) > 0 && lab.count(0, Reason::IngressReply) > 0);
}

#[test]
fn a_published_port_leads_to_its_container_which_sees_the_client() {
    round_trips(Attach::Auto);
}

#[test]
fn with_clsact_too_a_published_port_leads_to_its_container() {
    round_trips(Attach::Clsact);
}

#[test]
fn a_port_published_at_one_address_is_answered_there_only_and_others_are_the_hosts() {
    let (mut lab, _b) = published(Attach::Auto);
    lab.run_in("h0", "ip addr add fd50::11/64 dev eth0 nodad");
    lab.publish6(Protocol::Tcp, 8081, "fd50::11", RED, "[fd00:1::b]:80");
    lab.sync_all();
    let (mut client, mut host) = (lab.client(), lab.on_host(0));
    host.must("listen tcp [fd50::1]:8081 host");
    assert_eq!(client.must("tcp [fd50::11]:8081 1000"), format!("b {CLIENT6} peer=[fd50::11]:8081"));
    assert_eq!(client.must("tcp [fd50::1]:8081 1000"), format!("host {CLIENT6} peer=[fd50::1]:8081"));
    assert!(client.must_fail("tcp [fd50::1]:8082 1").starts_with("ConnectionRefused"));
}

#[test]
fn a_client_with_an_address_of_the_link_only_is_answered_too() {
    let (mut lab, _b) = published(Attach::Auto);
    // Those that the kernel made may not be used before it has looked for them elsewhere.
    lab.run_in("-client", "ip addr flush dev eth0 scope global");
    lab.run_in("-client", "ip addr add fe80::100/64 dev eth0 nodad");
    lab.run_in("h0", "ip addr add fe80::1/64 dev eth0 nodad");
    lab.sync_all();
    let links = lab.run_in("-client", "ip -o link show eth0");
    let index = links.split(':').next().expect("an index");
    let answer = lab.client().must(&format!("tcp [fe80::1%{index}]:8080 1000"));
    assert!(answer.starts_with("b fd00:1::1 "), "{answer}");
}

#[test]
fn a_process_of_the_host_reaches_a_port_by_loopback_and_by_the_hosts_addresses() {
    let (mut lab, _b) = published(Attach::Auto);
    let mut host = lab.on_host(0);
    for to in ["[::1]:8080".to_owned(), format!("[{HOST6}]:8080")] {
        assert_eq!(host.must(&format!("tcp {to} 100000")), format!("b {HOST6} peer={to}"));
    }
    for how in ["loose", "connected"] {
        assert_eq!(host.must(&format!("udp [::1]:5353 100 {how}")), format!("b {HOST6} peer=[::1]:5353"));
    }
    assert!(lab.count(0, Reason::SocketPublished) >= 4);
    // A host that has no IPv6 address of its own has no way to ask from; the port of IPv4 is what [::1] then leads to.
    lab.publish(Protocol::Tcp, 8080, RED, &["172.30.0.12:80"]);
    lab.run_in("h0", "ip addr del fd50::1/64 dev eth0");
    lab.sync_all();
    assert_eq!(host.must("tcp [::1]:8080 1000"), "b ::ffff:192.168.50.1 peer=[::1]:8080");
}

#[test]
fn a_container_reaches_a_port_of_its_host_also_its_own() {
    let (mut lab, _b) = published(Attach::Auto);
    for (name, guest) in [("c", lab.inside(0, "c")), ("a", lab.inside(0, "a")), ("b", lab.inside(0, "b"))] {
        let mut guest = guest;
        for _ in 0..4 {
            let answer = guest.must(&format!("tcp [{HOST6}]:8080 100000"));
            assert_eq!(answer, format!("b {HOST6} peer=[{HOST6}]:8080"), "{name}: {}", lab.drops(0));
        }
        guest.must(&format!("udp [{HOST6}]:5353 100 loose"));
        let error = guest.must_fail(&format!("udp [{HOST6}]:5354 100 connected"));
        assert!(error.starts_with("ConnectionRefused"), "{name}: {error} {}", lab.drops(0));
    }
}

#[test]
fn errors_of_routers_and_of_the_ends_are_translated() {
    let (mut lab, mut b) = published(Attach::Auto);
    let mut client = lab.client();
    // Nobody listens at the container's port 54: the client hears it from the host that it asked.
    let error = client.must_fail(&format!("udp [{HOST6}]:5354 100 connected"));
    assert!(error.starts_with("ConnectionRefused"), "{error} {}", lab.drops(0));
    // A router towards the client has a narrow link: the container hears it about its own packets.
    client.must(&format!("udpfrom 4000 [{HOST6}]:5353 100"));
    client.must(&format!("toobig6 {HOST6} 5353 4000 1300"));
    let route = lab.run_in("b", &format!("ip -6 route get {CLIENT6}"));
    assert!(route.contains("mtu 1300"), "{route} {}", lab.drops(0));
    // Another container cannot say that of a connection which is not its own.
    let mut a = lab.inside(0, "a");
    let before = lab.count(0, Reason::IngressReply);
    let (own, other) = ("fd00000100000000000000000000000a", "fd00000100000000000000000000000b");
    let outside = "fd500000000000000000000000000100";
    let error = format!("020000000000050060000000000811ff{outside}{other}0fa000350000 0000").replace(' ', "");
    let length = error.len() / 2;
    a.must(&format!("frame eth0 ffffffffffff0242ac1e000b86dd60000000{length:04x}3aff{own}{outside}{error}"));
    assert_eq!(lab.count(0, Reason::IngressReply), before, "{}", lab.drops(0));
    b.must(&format!("ping {HOST6} 8"));
}

#[test]
fn answers_of_the_hosts_own_connections_are_not_taken_for_a_published_port() {
    let (lab, _b) = published(Attach::Auto);
    let mut client = lab.client();
    client.must(&format!("listen tcp [{CLIENT6}]:80 outside"));
    let answer = lab.inside(0, "b").must(&format!("tcpfrom 8080 [{CLIENT6}]:80 10000"));
    assert!(answer.starts_with(&format!("outside {HOST6}")), "{answer}");
}

#[test]
fn connections_that_are_over_leave_the_table() {
    let (lab, _b) = published(Attach::Auto);
    let mut client = lab.client();
    client.must(&format!("connects [{HOST6}]:8080 200"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while lab.connections6(0) > 0 {
        assert!(std::time::Instant::now() < deadline, "{} entries", lab.connections6(0));
    }
}

#[test]
fn nobody_outside_comes_to_a_published_port_with_a_containers_or_the_hosts_own_address() {
    let (mut lab, _b) = published(Attach::Auto);
    let mac = lab.run_in("h0", "cat /sys/class/net/eth0/address").trim().replace(':', "");
    let (host, mut client) = ("fd500000000000000000000000000001", lab.client());
    let mut came = |source: &str, dropped: u64| {
        let before = lab.count(0, Reason::SpoofedIp);
        let udp = "0fa114e9000a000068690000";
        client.must(&format!("frame eth0 {mac}02000000000186dd60000000000c1140{source}{host}{udp}"));
        assert_eq!(lab.count(0, Reason::SpoofedIp), before + dropped, "{source}: {}", lab.drops(0));
    };
    came("fd00000100000000000000000000000a", 1);
    came(host, 1);
    came("fd500000000000000000000000000100", 0);
}

#[test]
fn a_port_that_moved_to_another_container_takes_its_datagrams_along() {
    let (mut lab, _b) = published(Attach::Auto);
    let mut a = lab.inside(0, "a");
    a.must("listen udp [::]:53 a");
    let mut client = lab.client();
    assert!(client.must(&format!("udpfrom 4001 [{HOST6}]:5353 10")).starts_with("b "));
    lab.publish6(Protocol::Udp, 5353, "::", RED, "[fd00:1::a]:53");
    lab.sync_all();
    assert!(client.must(&format!("udpfrom 4001 [{HOST6}]:5353 10")).starts_with("a "));
}

#[test]
fn a_network_with_ipv6_alone_does_all_of_this_and_knows_no_ipv4() {
    let (mut lab, b) = published(Attach::Auto);
    drop(b);
    lab.without_v4(RED);
    let report = lab.sync(0);
    assert!(report.created.len() == 2 && report.notes.iter().all(|n| !n.contains("address")), "{report:?}");
    let (mut a, mut b) = (lab.inside(0, "a"), lab.inside(0, "b"));
    b.must("listen tcp [::]:80 b");
    a.must("tcp [fd00:1::b]:80 100000");
    let to = format!("[{HOST6}]:8080");
    assert_eq!(lab.client().must(&format!("tcp {to} 100000")), format!("b {CLIENT6} peer={to}"));
    lab.on_host(0).must("tcp [::1]:8080 1000");
    assert_eq!(lab.run_in("a", "ip -4 -o addr show dev eth0"), "");
    assert!(lab.run_in("a", "ip -6 route").contains("default via fd00:1::1"));
    // Who has no address of IPv4 does not speak it, not even from nowhere.
    let before = lab.count(0, Reason::SpoofedIp);
    a.must("frame eth0 ffffffffffff0242ac1e000b0800450000140000000040fd000000000000c0a83264");
    assert_eq!(lab.count(0, Reason::SpoofedIp), before + 1, "{}", lab.drops(0));
}
