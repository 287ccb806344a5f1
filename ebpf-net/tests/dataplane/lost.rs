//! Hosts that are lost before anybody knows: clients get through all the same, and what comes late breaks nothing.

use crate::{
    actor::Actor,
    frames::{TCP, ethernet, hex, ipv4, tcp_between},
    lab::{Lab, host_ip},
};
use muster_ebpf_net::Reason;
use muster_model::net::{Protocol, Scope};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

const NET: Scope = Scope::vni(100);
const VIP: &str = "10.1.0.200:80";
const PORT: &str = "192.168.50.1:8080";
/// A SYN is repeated after 1 s, then after 3 s: who gets through by then needed one repetition at most.
const ONE_REPEAT: Duration = Duration::from_millis(2500);
/// Nor did who gets through by then.
const NO_REPEAT: Duration = Duration::from_millis(900);
/// So many at once that one at least is given to each backend.
const CROWD: usize = 16;
const SYN: u8 = 2;

/// A client on host 0; backends "a" on host `first`, "b" on host 2, behind a virtual address and a port of every host.
fn service(first: usize) -> (Lab, [Actor; 2]) {
    let mut lab = Lab::new(3);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "client", NET, "10.1.0.10");
    lab.container(first, "a", NET, "10.1.0.11");
    lab.container(2, "b", NET, "10.1.0.12");
    lab.vip(NET, "10.1.0.200", &["10.1.0.11", "10.1.0.12"]);
    lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.11:80", "10.1.0.12:80"]);
    lab.sync_all();
    let servers = [(first, "a"), (2, "b")].map(|(host, name)| {
        let mut server = lab.inside(host, name);
        server.must(&format!("listen tcp 0.0.0.0:80 {name}"));
        server
    });
    (lab, servers)
}

/// Connects that often at once; who answered, and how long the slowest took.
fn crowd(client: &mut Actor, to: &str) -> (String, Duration) {
    let answer = client.must(&format!("crowd {to} {CROWD}"));
    let (ms, names) = answer.split_once(' ').expect("a time and names");
    (names.to_owned(), Duration::from_millis(ms.parse().expect("milliseconds")))
}

/// Waits until that was counted on host 0.
fn counted(lab: &mut Lab, reason: Reason) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lab.count(0, reason) == 0 {
        assert!(Instant::now() < deadline, "{reason} was not counted: {}", lab.drops(0));
    }
}

fn a_lost_host_costs_one_repetition(client: impl Fn(&Lab) -> Actor, to: &str) {
    let (mut lab, _servers) = service(1);
    let mut client = client(&lab);
    assert_eq!(crowd(&mut client, to).0, "a b");
    lab.cut(1);
    let (names, slowest) = crowd(&mut client, to);
    assert!(names == "b" && slowest < ONE_REPEAT, "{names} after {slowest:?}: {}", lab.drops(0));
    let moved = lab.count(0, Reason::Moved);
    assert!(moved > 0, "nobody was given to the lost host: {}", lab.drops(0));
    // From now on it is known to be silent.
    let (names, slowest) = crowd(&mut client, to);
    assert!(names == "b" && slowest < NO_REPEAT, "{names} after {slowest:?}: {}", lab.drops(0));
    assert_eq!(lab.count(0, Reason::Moved), moved);
    // It is back as soon as it is heard.
    lab.mend(1);
    lab.inside(0, "client").must("ping 10.1.0.11 8");
    assert_eq!(crowd(&mut client, to).0, "a b");
}

#[test]
fn a_client_of_a_published_port_gets_through_by_its_first_repetition_when_a_host_is_lost() {
    a_lost_host_costs_one_repetition(Lab::client, PORT);
}

#[test]
fn a_client_of_a_virtual_address_whose_packets_are_translated_gets_through_by_its_first_repetition() {
    a_lost_host_costs_one_repetition(|lab| lab.unseen("client"), VIP);
}

#[test]
fn a_client_whose_socket_was_given_a_lost_backend_gets_through_by_its_first_repetition() {
    a_lost_host_costs_one_repetition(|lab| lab.inside(0, "client"), VIP);
}

/// Backend "a" is made to answer late: its kernel sends its answers by another hardware address, which no container may, and sends
/// them again until it has its own back.
fn a_late_answer_breaks_nothing(first: usize, client: impl Fn(&Lab) -> Actor, to: &str) {
    let (mut lab, _servers) = service(first);
    let own = lab.run_in("a", "cat /sys/class/net/eth0/address");
    lab.run_in("a", "ip link set eth0 address 02:00:00:00:00:01");
    let mut clients: Vec<Actor> = (0..CROWD).map(|_| client(&lab)).collect();
    clients.iter_mut().for_each(|c| c.send(&format!("hold {to}")));
    for client in &mut clients {
        let answer = client.answer();
        assert!(answer.starts_with("ok"), "{answer}: {}", lab.drops(0));
    }
    assert!(lab.count(0, Reason::Moved) > 0, "{}", lab.drops(0));
    lab.run_in("a", &format!("ip link set eth0 address {}", own.trim()));
    counted(&mut lab, Reason::Late);
    clients.iter_mut().for_each(|c| drop(c.must("held")));
    // The reset has rid it of what it held half-open. Back through a tunnel no reset gets between hosts that share a kernel: what comes
    // out of a tunnel there bears its mark still, and goes into no other (`skb->encapsulation`).
    let deadline = Instant::now() + Duration::from_secs(10);
    while first == 0 && !lab.run_in("a", "ss -Htn state syn-recv").trim().is_empty() {
        assert!(Instant::now() < deadline, "{}", lab.run_in("a", "ss -tn state syn-recv"));
    }
}

#[test]
fn a_late_answer_of_a_backend_on_another_host_breaks_no_connection() {
    a_late_answer_breaks_nothing(1, Lab::client, PORT);
}

#[test]
fn a_late_answer_of_a_backend_on_the_host_that_was_asked_breaks_no_connection_and_is_reset() {
    a_late_answer_breaks_nothing(0, Lab::client, PORT);
}

#[test]
fn a_late_answer_to_a_virtual_address_breaks_no_connection_and_is_reset() {
    a_late_answer_breaks_nothing(1, |lab| lab.unseen("client"), VIP);
    a_late_answer_breaks_nothing(0, |lab| lab.unseen("client"), VIP);
}

#[test]
fn a_late_answer_to_a_socket_that_was_given_another_backend_breaks_no_connection_and_is_reset() {
    a_late_answer_breaks_nothing(1, |lab| lab.inside(0, "client"), VIP);
    a_late_answer_breaks_nothing(0, |lab| lab.inside(0, "client"), VIP);
}

/// Sends the same SYN over and over for that long, from an address that nobody has, and answers nothing.
fn repeat_syn(lab: &Lab, client: &mut Actor, from_port: u16, time: Duration) {
    let from = Ipv4Addr::new(192, 168, 50, 99);
    let packet = ipv4(from, host_ip(0), TCP, 0, &tcp_between(from, host_ip(0), from_port, 8080, SYN));
    let frame = ethernet(&lab.host_mac(0), Ipv4Addr::new(192, 168, 50, 100), "0800", &hex(&packet));
    let end = Instant::now() + time;
    while Instant::now() < end {
        client.must(&format!("frame eth0 {frame}"));
    }
}

#[test]
fn a_backend_that_answered_keeps_its_connection_though_the_client_repeats_itself() {
    let (mut lab, _servers) = service(1);
    let mut client = lab.client();
    for port in 1..=4 {
        repeat_syn(&lab, &mut client, port, Duration::from_millis(900));
    }
    assert_eq!(lab.count(0, Reason::Moved), 0, "{}", lab.drops(0));
}

#[test]
fn what_is_repeated_sooner_than_anybody_waits_stays_with_its_backend() {
    let (mut lab, servers) = service(1);
    [1, 2].into_iter().for_each(|host| lab.cut(host));
    let mut client = lab.client();
    for port in 1..=8 {
        repeat_syn(&lab, &mut client, port, Duration::from_millis(200));
    }
    assert_eq!(lab.count(0, Reason::Moved), 0, "{}", lab.drops(0));
    // Nor has it anywhere to go where there is but one.
    let one = servers.len() as u64;
    repeat_syn(&lab, &mut client, 9, Duration::from_millis(700));
    assert!((1..=one).contains(&lab.count(0, Reason::Moved)), "{}", lab.drops(0));
    lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.11:80"]);
    lab.sync_all();
    let before = lab.count(0, Reason::Moved);
    repeat_syn(&lab, &mut client, 10, Duration::from_millis(700));
    assert_eq!(lab.count(0, Reason::Moved), before, "{}", lab.drops(0));
}
