//! Starting anew, failing half-way, cleaning up.

use crate::lab::{Lab, MTU, host_ip};
use muster_ebpf_net::{Attach, DataPlane, Error, Surroundings, probe};
use muster_model::{
    net::{Protocol, Scope},
    view::NodeView,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

const NET: Scope = Scope::vni(100);

/// Waits until the stream has gone on by 20 kB.
fn flows(actor: &mut crate::actor::Actor) {
    let count = |actor: &mut crate::actor::Actor| actor.must("stream count").parse::<u64>().expect("a number");
    let goal = count(actor) + 20_000;
    let deadline = Instant::now() + Duration::from_secs(5);
    while count(actor) < goal {
        assert!(Instant::now() < deadline, "the stream stands still");
    }
}

fn streams_survive(first: Attach, second: Attach) {
    let mut lab = Lab::with(2, first);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    lab.container(0, "b", NET, "10.1.0.11");
    lab.container(1, "c", NET, "10.1.0.12");
    lab.vip(NET, "10.1.0.200", &["10.1.0.12"]);
    lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.12:80"]);
    lab.publish(Protocol::Udp, 5353, NET, &["10.1.0.12:53"]);
    let six = Scope::local(6);
    lab.network6(six, "172.30.0.0/24", "fd00:6::/64");
    lab.container6(0, "d", six, "172.30.0.2", "fd00:6::d");
    lab.publish6(Protocol::Tcp, 8080, "::", six, "[fd00:6::d]:80");
    lab.publish6(Protocol::Udp, 5353, "::", six, "[fd00:6::d]:53");
    lab.sync_all();
    let mut servers = [(0, "b"), (1, "c"), (0, "d")].map(|(host, name)| lab.inside(host, name));
    for server in &mut servers {
        server.must("listen tcp [::]:80 s");
        server.must("listen udp [::]:53 s");
    }
    let ingress = host_ip(0);
    let mut clients = [
        (lab.inside(0, "a"), "start 10.1.0.11:80".to_owned()),
        (lab.inside(0, "a"), "start 10.1.0.12:80".to_owned()),
        (lab.unseen("a"), "start 10.1.0.200:80".to_owned()),
        (lab.client(), format!("start {ingress}:8080")),
        (lab.inside(0, "a"), "datagrams 10.1.0.11:53".to_owned()),
        (lab.unseen("a"), "datagrams 10.1.0.200:53".to_owned()),
        (lab.client(), format!("datagrams {ingress}:5353")),
        (lab.client(), "start [fd50::1]:8080".to_owned()),
        (lab.client(), "datagrams [fd50::1]:5353".to_owned()),
    ];
    for (client, what) in &mut clients {
        client.must(&format!("stream {what}"));
    }
    for round in 0..2 {
        for host in 0..2 {
            lab.planes[host] = None;
            clients.iter_mut().for_each(|(c, _)| flows(c));
            let mut config = lab.config(host);
            config.attach = if round % 2 == 0 { second } else { first };
            lab.planes[host] = Some(DataPlane::open(config).expect("opens again"));
            let report = lab.sync(host);
            assert_eq!((report.entries_written, report.entries_deleted), (0, 0), "{report:?}");
            assert!(report.created.is_empty() && report.removed.is_empty(), "{report:?}");
        }
    }
    for (client, _) in &mut clients {
        flows(client);
        client.must("stream stop");
    }
}

#[test]
fn a_restart_of_the_daemon_breaks_no_stream_and_loses_no_datagram() {
    streams_survive(Attach::Tcx, Attach::Tcx);
}

#[test]
fn nor_does_a_restart_with_the_other_way_of_attaching() {
    streams_survive(Attach::Clsact, Attach::Tcx);
}

#[test]
fn syncing_an_equal_view_again_changes_nothing() {
    let mut lab = Lab::new(1);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    let first = lab.sync(0);
    assert_eq!(first.created, ["a"]);
    let again = lab.sync(0);
    assert_eq!((again.entries_written, again.entries_deleted, again.created.len()), (0, 0, 0), "{again:?}");
}

#[test]
fn removal_leaves_nothing_in_the_kernel() {
    for attach in [Attach::Auto, Attach::Clsact] {
        let mut lab = Lab::with(1, attach);
        lab.network(NET, "10.1.0.0/24");
        lab.container(0, "a", NET, "10.1.0.10");
        lab.publish(Protocol::Tcp, 8080, NET, &["10.1.0.10:80"]);
        lab.sync_all();
        assert!(lab.run_in("h0", "nft list tables").contains("muster_"));
        assert!(lab.run_in("h0", "ip -o link").contains("mu"));
        // Also when the daemon was started only to clean up.
        lab.planes[0] = None;
        let plane = DataPlane::open(lab.config(0)).expect("opens again");
        plane.close_and_remove().expect("everything goes");
        assert_eq!(lab.run_in("h0", "nft list tables").trim(), "");
        let links = lab.run_in("h0", "ip -o link");
        assert_eq!(links.lines().count(), 2, "lo and eth0 are left: {links}");
        assert!(!lab.run_in("h0", "tc filter show dev eth0 ingress").contains("from_uplink"));
        assert_eq!(lab.run_in("a", "ip -o link").lines().count(), 1, "lo is left");
        assert!(!lab.bpffs_dir(0).exists());
    }
}

#[test]
fn a_namespace_that_is_gone_fails_alone_and_its_pins_go() {
    let mut lab = Lab::with(1, Attach::Tcx);
    lab.network(NET, "10.1.0.0/24");
    for (name, address) in [("a", "10.1.0.10"), ("b", "10.1.0.11"), ("c", "10.1.0.12")] {
        lab.container(0, name, NET, address);
    }
    lab.sync_all();
    let pins = |lab: &Lab| std::fs::read_dir(lab.bpffs_dir(0).join("links")).expect("pins").count();
    let before = pins(&lab);
    lab.delete_namespace("b");
    let report = lab.try_sync(0);
    assert!(report.failed.len() == 1 && report.failed["b"].contains("gone"), "{report:?}");
    let mut c = lab.inside(0, "c");
    c.must("listen tcp 0.0.0.0:80 c");
    lab.inside(0, "a").must("tcp 10.1.0.12:80 1000");
    lab.remove_endpoint("b");
    lab.sync_all();
    // The interface dies with its namespace, which the kernel takes apart a moment later.
    let deadline = Instant::now() + Duration::from_secs(5);
    while pins(&lab) > before - 1 {
        assert!(Instant::now() < deadline, "{} pins, {before} before", pins(&lab));
        lab.sync_all();
    }
}

#[test]
fn what_a_crash_left_half_made_is_made_anew() {
    let mut lab = Lab::new(1);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    lab.container(0, "b", NET, "10.1.0.11");
    lab.sync_all();
    // As if the daemon had died before it wrote the mark of a whole interface, and somebody had taken a link's pin away.
    let links = lab.run_in("h0", "ip -o link");
    let veths: Vec<String> = links
        .lines()
        .filter_map(|l| l.split([' ', '@']).nth(1).map(str::to_owned))
        .filter(|n| n.starts_with("mu") && !n.contains('-'))
        .collect();
    assert_eq!(veths.len(), 2, "{links}");
    lab.run_in("h0", &format!("ip link set {} alias muster:", veths[0]));
    lab.run_in("h0", &format!("ip link del {}", veths[1]));
    lab.planes[0] = None;
    lab.planes[0] = Some(DataPlane::open(lab.config(0)).expect("opens again"));
    let report = lab.try_sync(0);
    // An alias that is not ours protects the interface from us: its endpoint says so.
    assert_eq!(report.created.len() + report.failed.len(), 2, "{report:?}");
    lab.run_in("h0", &format!("ip link set {} alias ", veths[0]));
    lab.sync_all();
    let mut b = lab.inside(0, "b");
    b.must("listen tcp 0.0.0.0:80 b");
    lab.inside(0, "a").must("tcp 10.1.0.11:80 1000");
}

#[test]
fn mtu_and_default_route_change_under_a_running_stream() {
    let mut lab = Lab::new(1);
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    lab.container(0, "b", NET, "10.1.0.11");
    lab.sync_all();
    let mut b = lab.inside(0, "b");
    b.must("listen tcp 0.0.0.0:80 b");
    let mut a = lab.inside(0, "a");
    a.must("stream start 10.1.0.11:80");
    let net = lab.network(NET, "10.1.0.0/24");
    net.mtu = MTU - 100;
    let report = lab.sync_with(0, |view| {
        for endpoint in view.local.values_mut() {
            (endpoint.default_route, endpoint.default_route6) = (false, false);
        }
    });
    assert!(report.created.is_empty(), "{report:?}");
    flows(&mut a);
    a.must("stream stop");
    assert!(!lab.run_in("a", "ip route").contains("default"));
    assert!(lab.run_in("a", "ip -o link show eth0").contains("mtu 1350"));
    lab.sync_all();
    assert!(lab.run_in("a", "ip route").contains("default via 10.1.0.1"));
}

#[test]
fn one_more_endpoint_touches_no_entry_of_the_others() {
    for attach in [Attach::Tcx, Attach::Clsact] {
        one_more(attach);
    }
}

fn one_more(attach: Attach) {
    let mut lab = Lab::with(1, attach);
    lab.network(NET, "10.1.0.0/16");
    lab.container(0, "first", NET, "10.1.0.10");
    let alone = lab.sync(0);
    let next = |lab: &mut Lab, i: usize| {
        lab.container(0, &format!("c{i}"), NET, &format!("10.1.1.{i}"));
        let report = lab.sync(0);
        assert_eq!(report.created, [format!("c{i}")]);
        assert_eq!(report.entries_deleted, 0, "{report:?}");
        report.entries_written
    };
    let second = next(&mut lab, 0);
    assert!(second > 0 && second <= alone.entries_written);
    for i in 1..20 {
        assert_eq!(next(&mut lab, i), second, "{attach:?}: as many entries beside {i} others as beside one");
    }
}

#[test]
fn by_default_links_of_tcx_hold_the_programs_where_the_kernel_has_them() {
    for (attach, links) in [(Attach::Auto, true), (Attach::Clsact, false)] {
        let mut lab = Lab::with(1, attach);
        lab.network(NET, "10.1.0.0/24");
        lab.container(0, "a", NET, "10.1.0.10");
        lab.sync_all();
        let has_tcx = probe().tcx;
        let interfaces = lab.run_in("h0", "ls /sys/class/net");
        let filters: String = interfaces
            .split_whitespace()
            .map(|i| lab.run_in("h0", &format!("tc filter show dev {i} ingress")))
            .collect();
        assert_eq!(filters.contains("from_container"), !(links && has_tcx), "{attach:?}: {filters}");
    }
}

#[test]
fn a_host_without_any_network_still_syncs_and_says_what_is_missing() {
    let mut lab = Lab::new(1);
    lab.planes[0] = None;
    lab.run_in("h0", "ip link del eth0");
    lab.planes[0] = Some(DataPlane::open(lab.config(0)).expect("opens"));
    lab.network(Scope::local(1), "172.30.0.0/16");
    lab.container(0, "a", Scope::local(1), "172.30.0.2");
    lab.container(0, "b", Scope::local(1), "172.30.0.3");
    let report = lab.sync(0);
    assert!(report.notes.iter().any(|n| n.contains("uplink")), "{report:?}");
    lab.inside(0, "a").must("ping 172.30.0.3 8");
}

#[test]
fn bad_input_is_refused_by_name() {
    let mut lab = Lab::new(1);
    let named = |config| match DataPlane::open(config) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("must be refused"),
    };
    let mut config = lab.config(0);
    config.instance = "Not Good".into();
    assert!(named(config).contains("instance"));
    let mut config = lab.config(0);
    config.host_netns = Some(PathBuf::from("/etc/hostname"));
    assert!(named(config).contains("/etc/hostname"));
    let mut config = lab.config(0);
    config.uplink = muster_ebpf_net::Uplink::Names(vec!["nosuch0".into()]);
    config.bpffs_dir.set_file_name("other");
    let mut plane = DataPlane::open(config).expect("opens");
    match plane.sync(&NodeView::default(), &Surroundings::default()) {
        Err(Error::Config { field: "uplink", why }) => assert!(why.contains("nosuch0")),
        other => panic!("{other:?}"),
    }
    // An endpoint in the host's own namespace, and one of a network that the view does not have.
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    lab.endpoint(0, "in-host", "h0", NET, "10.1.0.11", "eth7");
    lab.endpoint(0, "lost", "a", Scope::vni(9), "10.9.0.11", "eth1");
    let report = lab.try_sync(0);
    assert_eq!(report.created, ["a"]);
    assert!(report.failed["in-host"].contains("host's own"), "{report:?}");
    assert!(report.failed["lost"].contains("vni:9"), "{report:?}");
}

#[test]
fn without_its_cgroup_the_rest_works_and_the_report_says_what_does_not() {
    let mut lab = Lab::new(1);
    let mut config = lab.config(0);
    config.cgroup_v2_dir = "/nonexistent/cgroup".into();
    config.host_cgroup_dir = None;
    lab.planes[0] = Some(DataPlane::open(config).expect("opens"));
    lab.network(NET, "10.1.0.0/24");
    lab.container(0, "a", NET, "10.1.0.10");
    lab.container(0, "b", NET, "10.1.0.11");
    lab.vip(NET, "10.1.0.200", &["10.1.0.11"]);
    let report = lab.sync(0);
    assert!(report.notes.iter().any(|n| n.contains("/nonexistent/cgroup")), "{report:?}");
    let mut b = lab.unseen("b");
    b.must("listen tcp 0.0.0.0:80 b");
    lab.unseen("a").must("tcp 10.1.0.200:80 1000");
}

#[test]
fn a_data_plane_can_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<DataPlane>();
}

#[test]
fn the_probe_says_what_the_kernel_has() {
    let found = muster_ebpf_net::probe();
    assert!(found.sufficient(), "{found}");
    assert!(found.to_string().starts_with("kernel "), "{found}");
    assert!(found.lacks().iter().all(|(what, cost)| !what.is_empty() && !cost.is_empty()));
}

#[test]
fn a_watch_hears_of_addresses_and_ways_out_and_not_of_routes_to_containers() {
    let lab = Lab::new(1);
    let host = std::fs::File::open(lab.netns("h0")).expect("the namespace exists");
    let opened = std::thread::spawn(move || {
        nix::sched::setns(&host, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
        muster_ebpf_net::Watch::open().expect("opens")
    });
    let mut watch = opened.join().expect("no panic");
    let mut after = |command: &str| {
        lab.run_in("h0", command); // the kernel has told everybody when the command ends
        watch.changed().expect("readable")
    };
    assert!(!after("ip route add 10.9.9.9/32 dev eth0"));
    assert!(after("ip addr add 192.168.50.77/24 dev eth0"));
    assert!(after("ip -6 addr add fd50::77/64 dev eth0 nodad"));
    assert!(after("ip -6 route add default via fd50::fe"));
    assert!(after("ip route del default"));
    assert!(!after("ip link add one type veth peer name other"));
    assert!(after("ip link add lan type bridge"));
    assert!(!after("true"));
}

#[test]
fn an_uplink_goes_on_learning_from_routers_also_one_that_comes_later_or_anew() {
    let mut lab = Lab::new(1);
    let learns = |lab: &Lab, name: &str| {
        lab.run_in("h0", &format!("sysctl -n net.ipv6.conf.{name}.accept_ra")).trim().parse::<u32>().expect("a number")
    };
    let add = |lab: &Lab, name: &str| {
        lab.run_in("h0", &format!("ip link add {name} type bridge"));
        lab.run_in("h0", &format!("ip link set {name} up"));
    };
    lab.network6(Scope::local(1), "172.30.0.0/24", "fd00:1::/64");
    add(&lab, "wan");
    lab.sync(0);
    // No uplink, so nobody's business. Then it is one.
    assert_eq!((learns(&lab, "eth0"), learns(&lab, "wan")), (2, 1));
    lab.run_in("h0", "ip addr add 192.168.70.1/24 dev wan");
    lab.run_in("h0", "ip route add default via 192.168.70.2 metric 9");
    lab.sync(0);
    assert_eq!(learns(&lab, "wan"), 2);
    // Whoever changes it afterwards has the last word, and 0 was somebody's word from the beginning.
    lab.run_in("h0", "sysctl -q -w net.ipv6.conf.wan.accept_ra=1");
    lab.sync(0);
    assert_eq!(learns(&lab, "wan"), 1);
    // Taken away and made anew: it is told before it has a way out.
    lab.run_in("h0", "ip link del wan");
    lab.sync(0);
    add(&lab, "wan");
    lab.sync(0);
    assert_eq!(learns(&lab, "wan"), 2);
    lab.run_in("h0", "ip link del wan");
    add(&lab, "wan");
    lab.run_in("h0", "sysctl -q -w net.ipv6.conf.wan.accept_ra=0");
    lab.sync(0);
    assert_eq!(learns(&lab, "wan"), 0);
}
