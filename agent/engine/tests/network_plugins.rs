//! Networks and addresses by Docker's plugin protocol, with plugins of the test's own that make real interfaces. Each test is in
//! a network namespace of its own.

mod common;
#[path = "common/net_plugin.rs"]
mod net_plugin;

use common::{Host, command, inspect, start, until};
use muster_calls::{Engine, Kind, RemoveContainer, StopContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, ExecConfig, Ipam, IpamConfig, NetworkConnect,
    NetworkCreate, NetworkDisconnect, PortBinding,
};
use net_plugin::{Plugin, Reply, ip};
use std::{
    fs,
    future::Future,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const DIR: &str = "MUSTER_TEST_HOST_DIR";
const PARENT: &str = "MUSTER_TEST_HOST_PARENT";
const NOW: StopContainer = StopContainer { signal: None, timeout_s: Some(0) };

/// Runs a test in a network namespace of its own: that of all threads it starts.
fn apart<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|threads| {
        let ended = threads.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, and a namespace");
            ip("link set lo up").expect("loopback");
            let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            tokio.expect("tokio").block_on(test());
        });
        if let Err(panic) = ended.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn open(host: &Host) -> Arc<LocalEngine> {
    let mut config = host.config().await;
    config.plugin_dirs = vec![host.dir.join("plugins")];
    config.plugin_patience = Duration::from_secs(3);
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(common::IMAGE).await.is_err() {
        common::import(&*engine, common::IMAGE).await;
    }
    engine
}

async fn with_plugin(host: &Host) -> (Arc<LocalEngine>, Plugin) {
    let plugin = Plugin::serve(&host.dir.join("plugins"), "wires");
    (open(host).await, plugin)
}

fn network(name: &str, driver: &str, subnet: &str) -> NetworkCreate {
    let config = IpamConfig { subnet: subnet.into(), ..IpamConfig::default() };
    let ipam = Ipam { config: if subnet.is_empty() { vec![] } else { vec![config] }, ..Ipam::default() };
    NetworkCreate { name: name.into(), driver: driver.into(), ipam: Some(ipam), ..NetworkCreate::default() }
}

fn sleeping(network: &str) -> ContainerCreateBody {
    let mut body = command(&["sleep", "300"]);
    body.host_config.network_mode = network.into();
    body
}

async fn exec(engine: &LocalEngine, id: &str, text: &str) -> String {
    let cmd = ["sh", "-c", text].map(str::to_owned).to_vec();
    let config = ExecConfig { cmd, attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
    let exec = engine.exec_create(id, config).await.expect("exec");
    let attached = engine.exec_start(&exec, Default::default()).await.expect("starts");
    let (out, err) = common::within(common::collect(attached)).await;
    out + &err
}

async fn remove(engine: &LocalEngine, id: &str) {
    let all = RemoveContainer { force: true, volumes: true };
    common::within(engine.container_remove(id, all)).await.expect("removed");
}

/// Endpoints that the engine has not heard the end of.
fn noted(host: &Host) -> usize {
    fs::read_dir(host.dir.join("data/endpoints")).expect("folder").count()
}

fn links(kind: &str) -> usize {
    ip("-o link").expect("links").lines().filter(|l| l.contains(&format!(": {kind}"))).count()
}

#[test]
fn containers_on_a_plugins_network_have_its_interface_its_routes_and_reach_each_other() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        let mut create = network("wired", "wires", "10.44.0.0/24");
        create.options.insert("colour".into(), "red".into());
        let net = engine.network_create(create).await.expect("made").id;
        let plugins = engine.info().await.expect("info").plugins;
        assert!(plugins.network.contains(&"wires".to_owned()) && !plugins.volume.contains(&"wires".to_owned()));
        let made = &plugin.calls("NetworkDriver.CreateNetwork")[0];
        assert_eq!(made["NetworkID"], net.as_str());
        assert_eq!(made["Options"]["com.docker.network.generic"]["colour"], "red");
        assert_eq!(made["IPv4Data"][0]["Pool"], "10.44.0.0/24");
        assert_eq!(made["IPv4Data"][0]["Gateway"], "10.44.0.1/24");

        let first = start(&engine, "first", sleeping("wired")).await;
        let mut body = sleeping("wired");
        let settings = EndpointSettings {
            driver_opts: [("speed".to_owned(), "fast".to_owned())].into(),
            mac_address: "02:11:22:33:44:55".into(),
            ipam_config: Some(EndpointIpamConfig { ipv4_address: "10.44.0.40".into(), ..Default::default() }),
            ..EndpointSettings::default()
        };
        body.networking_config.endpoints_config.insert("wired".into(), Some(settings));
        let second = start(&engine, "second", body).await;
        let asked = &plugin.calls("NetworkDriver.CreateEndpoint")[1];
        assert_eq!(asked["Options"]["speed"], "fast");
        assert_eq!(asked["Interface"]["Address"], "10.44.0.40/24");
        assert_eq!(asked["Interface"]["MacAddress"], "02:11:22:33:44:55");

        let shown = inspect(&engine, &first).await.network_settings.networks["wired"].clone();
        assert_eq!(
            (shown.ip_address.as_str(), shown.gateway.as_str(), shown.mac_address.as_str(), shown.ip_prefix_len),
            ("10.44.0.2", "10.44.0.1", "02:99:00:00:00:0b", 24)
        );
        let inside = exec(&engine, &first, "busybox ip addr show dev lan0; busybox ip route").await;
        for wanted in ["10.44.0.2/24", "02:99:00:00:00:0b", "default via 10.44.0.1 dev lan0", "10.99.0.0/16 dev lan0"] {
            assert!(inside.contains(wanted), "{wanted}: {inside}");
        }
        for to in ["10.44.0.1", "10.44.0.40"] {
            let answer = exec(&engine, &first, &format!("busybox ping -c 1 -w 5 {to}")).await;
            assert!(answer.contains(" 0% packet loss"), "{to}: {answer}");
        }
        let on = engine.network_inspect("wired").await.expect("inspected");
        assert_eq!((on.driver.as_str(), on.containers.len()), ("wires", 2));
        assert_eq!(on.containers[&second].mac_address, "02:11:22:33:44:55");
        let busy = engine.network_remove("wired").await.expect_err("in use");
        assert_eq!(busy.kind, Kind::Forbidden);

        engine.container_stop(&first, NOW).await.expect("stopped");
        let ended = plugin.server.methods();
        assert_eq!(ended[ended.len() - 2..], ["NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint"]);
        engine.container_start(&first).await.expect("started again, with an endpoint of its own");
        remove(&engine, &first).await;
        remove(&engine, &second).await;
        for (made, ended) in [("CreateEndpoint", "DeleteEndpoint"), ("Join", "Leave")] {
            let count = |method: &str| plugin.calls(&format!("NetworkDriver.{method}")).len();
            assert_eq!((count(made), count(ended)), (3, 3));
        }
        assert_eq!((noted(&host), links("vh"), links("vc")), (0, 0, 0));
        engine.network_remove("wired").await.expect("removed");
        assert_eq!(links("br"), 0, "the plugin has removed its bridge");
        host.finish(engine).await;
    });
}

#[test]
fn ipv6_and_internal_are_told_to_the_plugin_and_are_in_the_container() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        let mut create = network("six", "wires", "10.45.0.0/24");
        create.enable_ipv6 = Some(true);
        let config = IpamConfig { subnet: "fd00:45::/64".into(), ..IpamConfig::default() };
        create.ipam.as_mut().expect("given").config.push(config);
        engine.network_create(create).await.expect("made");
        let id = start(&engine, "one", sleeping("six")).await;
        let shown = inspect(&engine, &id).await.network_settings.networks["six"].clone();
        assert_eq!(shown.global_ipv6_address, "fd00:45::2");
        assert_eq!(shown.ipv6_gateway, "fd00:45::1");
        let inside = exec(&engine, &id, "busybox ip -6 addr show dev lan0; busybox ip -6 route").await;
        assert!(inside.contains("fd00:45::2/64") && inside.contains("default via fd00:45::1 dev lan0"), "{inside}");
        remove(&engine, &id).await;
        let internal = NetworkCreate { internal: true, ..network("closed", "wires", "10.46.0.0/24") };
        engine.network_create(internal).await.expect("made");
        assert_eq!(plugin.calls("NetworkDriver.CreateNetwork")[1]["Options"]["com.docker.network.internal"], true);
        let id = start(&engine, "shut", sleeping("closed")).await;
        let inside = exec(&engine, &id, "busybox ip route").await;
        assert!(!inside.contains("default") && inside.contains("10.46.0.0/24"), "{inside}");
        remove(&engine, &id).await;
        host.finish(engine).await;
    });
}

#[test]
fn networks_are_joined_and_left_live_and_the_way_out_and_the_ports_follow() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        engine.network_create(network("wired", "wires", "10.44.0.0/24")).await.expect("made");
        let mut body = command(&["sleep", "300"]);
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: "18080".into() };
        body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![binding]));
        let id = start(&engine, "box", body).await;
        let connect = || NetworkConnect { container: id.clone(), endpoint_config: None };
        engine.network_connect("wired", connect()).await.expect("joined");
        let routes = exec(&engine, &id, "busybox ip route").await;
        assert!(routes.contains("10.44.0.0/24 dev lan0") && !routes.contains("default"), "{routes}");
        assert!(plugin.calls("NetworkDriver.ProgramExternalConnectivity").is_empty(), "the bridge publishes");
        let again = engine.network_connect("wired", connect()).await.expect_err("twice");
        assert_eq!(again.kind, Kind::Forbidden);
        let leave = |net: &str| (net.to_owned(), NetworkDisconnect { container: id.clone(), force: false });
        let (net, left) = leave("bridge");
        engine.network_disconnect(&net, left).await.expect("left the bridge");
        let routes = exec(&engine, &id, "busybox ip route").await;
        assert!(routes.contains("default via 10.44.0.1 dev lan0"), "{routes}");
        let told = plugin.calls("NetworkDriver.ProgramExternalConnectivity");
        assert_eq!(told.len(), 1, "the ports follow");
        assert_eq!(told[0]["Options"]["com.docker.network.portmap"][0]["HostPort"], 18080);
        std::net::TcpListener::bind("127.0.0.1:18080").expect("the engine has let the port go");
        // Whatever the plugin says, it is not in the container any more.
        plugin.fail("NetworkDriver.Leave", || Reply::Silence);
        let (net, left) = leave("wired");
        engine.network_disconnect(&net, left).await.expect("left");
        assert!(!exec(&engine, &id, "busybox ip link").await.contains("lan0"));
        assert_eq!(noted(&host), 1);
        plugin.mend();
        engine.network_connect("wired", connect()).await.expect("joined again: first the old endpoint goes");
        let (net, left) = leave("wired");
        engine.network_disconnect(&net, left).await.expect("left");
        assert_eq!((noted(&host), links("vh"), links("vc")), (0, 0, 0));
        remove(&engine, &id).await;

        // On a plugin's network alone the plugin publishes.
        let mut body = sleeping("wired");
        let binding = PortBinding { host_ip: String::new(), host_port: "18081".into() };
        body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![binding]));
        let id = start(&engine, "open", body).await;
        let told = plugin.calls("NetworkDriver.ProgramExternalConnectivity").pop().expect("told");
        let port = &told["Options"]["com.docker.network.portmap"][0];
        assert_eq!((&port["Proto"], &port["Port"], &port["HostPort"]), (&6.into(), &80.into(), &18081.into()));
        remove(&engine, &id).await;
        let ended = plugin.calls("NetworkDriver.RevokeExternalConnectivity");
        assert!(ended.iter().any(|end| end["EndpointID"] == told["EndpointID"]), "{ended:?}");
        plugin.fail("NetworkDriver.ProgramExternalConnectivity", || Reply::Raw("404 Not Found", "404 page not found"));
        let mut body = sleeping("wired");
        body.host_config.port_bindings.insert("80/tcp".into(), None);
        let id = engine.container_create(None, String::new(), body).await.expect("created").id;
        let error = engine.container_start(&id).await.expect_err("nobody publishes it");
        assert!(error.message.contains("wires"), "{error}");
        plugin.mend();
        plugin.fail("NetworkDriver.Join", || Reply::Json(serde_json::json!({"DisableGatewayService": true})));
        let error = engine.container_start(&id).await.expect_err("there is no way out");
        assert!(error.message.contains("names no gateway"), "{error}");
        assert_eq!(noted(&host), 0);
        host.finish(engine).await;
    });
}

#[test]
fn a_container_whose_plugin_names_no_gateway_gets_a_way_out_on_a_network_of_its_own_for_that() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        engine.network_create(network("wired", "wires", "10.44.0.0/24")).await.expect("made");
        engine.network_create(network("lane", "bridge", "10.49.0.0/24")).await.expect("made");
        let ways_out = async || match engine.network_inspect("docker_gwbridge").await {
            Ok(network) => network.containers.into_values().map(|c| (c.name, c.ipv4_address)).collect::<Vec<_>>(),
            Err(_) => Vec::new(),
        };
        let port = |container: &muster_model::engine::ContainerInspect| {
            let ports = container.network_settings.ports.get("80/tcp").cloned().flatten().unwrap_or_default();
            ports.into_iter().map(|p| p.host_port).next()
        };
        plugin.fail("NetworkDriver.Join", || Reply::Json(serde_json::json!({})));
        let mut body = sleeping("wired");
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: "18082".into() };
        body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![binding]));
        let id = start(&engine, "box", body).await;
        let shown = inspect(&engine, &id).await;
        assert_eq!(shown.network_settings.networks.keys().collect::<Vec<_>>(), ["wired"], "nobody asked for another");
        assert_eq!(port(&shown).as_deref(), Some("18082"));
        std::net::TcpListener::bind("127.0.0.1:18082").expect_err("the engine publishes");
        assert!(plugin.calls("NetworkDriver.ProgramExternalConnectivity").is_empty(), "the plugin does not");
        let before = ways_out().await;
        assert_eq!(before.len(), 1);
        assert_eq!(before[0].0, format!("gateway_{}", &id[..12]));
        let way_out = engine.network_inspect("docker_gwbridge").await.expect("there");
        assert_eq!(way_out.options["com.docker.network.bridge.enable_icc"], "false");
        let hosts = exec(&engine, &id, "cat /etc/hosts").await;
        let address = before[0].1.split('/').next().expect("an address").to_owned();
        assert!(!hosts.contains(&address), "{hosts}");

        // Over a restart of the daemon, and for a second one.
        engine.shutdown().await;
        drop(engine);
        let engine = open(&host).await;
        let ways_out = async || engine.network_inspect("docker_gwbridge").await.expect("there").containers;
        assert_eq!(ways_out().await.values().next().map(|c| c.ipv4_address.clone()), Some(before[0].1.clone()));
        let other = start(&engine, "other", sleeping("wired")).await;
        assert_eq!(ways_out().await.len(), 2);
        remove(&engine, &other).await;
        assert_eq!(ways_out().await.len(), 1);

        // A network that leads out takes over, and back.
        let connect = NetworkConnect { container: id.clone(), endpoint_config: None };
        engine.network_connect("lane", connect).await.expect("joined");
        assert_eq!(ways_out().await.len(), 0);
        assert_eq!(port(&inspect(&engine, &id).await).as_deref(), Some("18082"), "the port follows");
        let leave = NetworkDisconnect { container: id.clone(), force: false };
        engine.network_disconnect("lane", leave).await.expect("left");
        assert_eq!(ways_out().await.len(), 1);
        let leave = NetworkDisconnect { container: id.clone(), force: false };
        let error = engine.network_disconnect("docker_gwbridge", leave).await.expect_err("it is not on it");
        assert_eq!(error.kind, Kind::Forbidden);
        remove(&engine, &id).await;
        assert_eq!(ways_out().await.len(), 0);

        // None for those that want none, and for internal networks.
        let internal = NetworkCreate { internal: true, ..network("closed", "wires", "10.46.0.0/24") };
        engine.network_create(internal).await.expect("made");
        let id = start(&engine, "shut", sleeping("closed")).await;
        plugin.fail("NetworkDriver.Join", || Reply::Json(serde_json::json!({"DisableGatewayService": true})));
        let second = start(&engine, "unserved", sleeping("wired")).await;
        plugin.fail("NetworkDriver.Join", || {
            Reply::Json(serde_json::json!({"StaticRoutes": [{"Destination": "0.0.0.0/0", "RouteType": 1}]}))
        });
        let third = start(&engine, "routed", sleeping("wired")).await;
        assert_eq!(ways_out().await.len(), 0);
        for id in [id, second, third] {
            remove(&engine, &id).await;
        }
        engine.network_remove("docker_gwbridge").await.expect("nobody is on it");
        assert_eq!(noted(&host), 0);
        host.finish(engine).await;
    });
}

#[test]
fn a_restart_of_the_daemon_asks_plugins_nothing_and_the_end_of_a_container_meanwhile_is_told() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        engine.network_create(network("wired", "wires", "10.44.0.0/24")).await.expect("made");
        let stays = start(&engine, "stays", sleeping("wired")).await;
        let ends = start(&engine, "ends", sleeping("wired")).await;
        let before = inspect(&engine, &stays).await.network_settings.networks["wired"].clone();
        let asked = plugin.server.methods().len();
        engine.shutdown().await;
        drop(engine);
        let engine = open(&host).await;
        assert_eq!(plugin.server.methods().len(), asked, "it was asked at the restart");
        assert_eq!(inspect(&engine, &stays).await.network_settings.networks["wired"], before);
        let other = start(&engine, "other", sleeping("wired")).await;
        assert_eq!(inspect(&engine, &other).await.network_settings.networks["wired"].ip_address, "10.44.0.4");
        let answer = exec(&engine, &other, "busybox ping -c 1 -w 5 10.44.0.2").await;
        assert!(answer.contains(" 0% packet loss"), "{answer}");
        assert!(engine.info().await.expect("info").plugins.network.contains(&"wires".to_owned()));

        let pid = inspect(&engine, &ends).await.state.pid;
        engine.shutdown().await;
        drop(engine);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL)
            .expect("killed");
        until("gone", || async { !Path::new(&format!("/proc/{pid}/root/bin")).exists() }).await;
        let engine = open(&host).await;
        assert_eq!(common::state(&engine, &ends).await, "exited");
        assert_eq!(plugin.calls("NetworkDriver.Leave").len(), 1);
        assert_eq!(plugin.calls("NetworkDriver.DeleteEndpoint").len(), 1);
        for id in [&stays, &ends, &other] {
            remove(&engine, id).await;
        }
        assert_eq!((noted(&host), links("vh")), (0, 0));
        host.finish(engine).await;
    });
}

/// Not a test of its own: a process that is killed while a plugin has it wait.
#[test]
fn child_that_waits_for_a_plugin() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let tokio = tokio::runtime::Runtime::new().expect("tokio");
    tokio.block_on(async {
        let mut config = Host::of(&dir, &parent).config().await;
        config.plugin_dirs = vec![Path::new(&dir).join("plugins")];
        let engine = LocalEngine::open(config).await.expect("engine opens");
        println!("READY");
        if std::env::var("MUSTER_TEST_MAKES").is_ok() {
            let _ = engine.network_create(network("half", "wires", "10.48.0.0/24")).await;
        } else {
            let id = engine.container_create(None, String::new(), sleeping("wired")).await.expect("created").id;
            let _ = engine.container_start(&id).await;
        }
    });
}

#[test]
fn a_daemon_killed_while_it_asks_leaves_no_endpoint_and_no_network_with_the_plugin() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        engine.network_create(network("wired", "wires", "10.44.0.0/24")).await.expect("made");
        engine.shutdown().await;
        drop(engine);
        for (method, makes) in [("Join", false), ("CreateEndpoint", false), ("CreateNetwork", true)] {
            let method = format!("NetworkDriver.{method}");
            let (asked, ended) = (plugin.calls(&method).len(), plugin.calls("NetworkDriver.DeleteEndpoint").len());
            let removed = plugin.calls("NetworkDriver.DeleteNetwork").len();
            plugin.fail(&method, || Reply::Silence);
            let mut child = Command::new(std::env::current_exe().expect("own path"));
            child.args(["--exact", "child_that_waits_for_a_plugin", "--nocapture"]);
            child.envs([(DIR, host.dir.as_os_str()), (PARENT, host.parent().as_ref())]).stdout(Stdio::piped());
            if makes {
                child.env("MUSTER_TEST_MAKES", "1");
            }
            let mut child = child.spawn().expect("the child starts");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            assert!(output.lines().map_while(Result::ok).any(|line| line.contains("READY")));
            until("it asks", || async { plugin.calls(&method).len() > asked }).await;
            child.kill().expect("killed");
            child.wait().expect("reaped");
            plugin.mend();
            let engine = open(&host).await;
            if makes {
                let gone = || async { plugin.calls("NetworkDriver.DeleteNetwork").len() == removed + 1 };
                until("the plugin is told", gone).await;
                assert_eq!(engine.network_inspect("half").await.expect_err("never made").kind, Kind::NotFound);
                engine
                    .network_create(network("half", "wires", "10.48.0.0/24"))
                    .await
                    .expect("its name and subnet are free");
                engine.network_remove("half").await.expect("removed");
            } else {
                until("the plugin is told", || async {
                    plugin.calls("NetworkDriver.DeleteEndpoint").len() == ended + 1
                })
                .await;
            }
            until("nothing is owed", || async { noted(&host) == 0 }).await;
            engine.shutdown().await;
        }
        let engine = open(&host).await;
        host.finish(engine).await;
    });
}

#[test]
fn a_plugin_that_fails_is_quoted_and_nothing_is_half_done() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        let error = engine.network_create(network("x", "nonesuch", "")).await.expect_err("no such plugin");
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::NotFound, "could not find plugin nonesuch in v1 plugin registry: plugin not found")
        );
        for (method, reply, named) in [
            (
                "GetCapabilities",
                (|| Reply::Json(serde_json::json!({"Scope": "global"}))) as fn() -> Reply,
                "Scope: global",
            ),
            ("GetCapabilities", || Reply::Json(serde_json::json!({"Scope": "moon"})), "moon"),
            ("CreateNetwork", || Reply::Fail("no more wires".into()), "no more wires"),
            ("CreateNetwork", || Reply::Raw("200 OK", "<html>"), "no JSON"),
            ("CreateNetwork", || Reply::Raw("500 Oops", ""), "HTTP 500"),
            ("CreateNetwork", || Reply::Silence, "no answer within 3s"),
        ] {
            plugin.fail(&format!("NetworkDriver.{method}"), reply);
            let begun = Instant::now();
            let error = engine.network_create(network("x", "wires", "10.44.0.0/24")).await.expect_err(named);
            assert!(error.message.contains(named), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{named}: it took {:?}", begun.elapsed());
            plugin.mend();
            assert_eq!(engine.network_inspect("x").await.expect_err("not made").kind, Kind::NotFound);
        }
        assert_eq!(fs::read_dir(host.dir.join("data/networks")).expect("folder").count(), 3, "records are left");
        engine.network_create(network("x", "wires", "10.44.0.0/24")).await.expect("name and subnet are free");

        for (method, reply, named) in [
            ("CreateEndpoint", (|| Reply::Fail("no pair".into())) as fn() -> Reply, "no pair"),
            ("CreateEndpoint", || Reply::Json(serde_json::json!({"Interface": {"Address": "10.9.9.9/24"}})), "Address"),
            ("CreateEndpoint", || Reply::Json(serde_json::json!({"Interface": "x"})), "CreateEndpoint"),
            (
                "Join",
                || Reply::Json(serde_json::json!({"InterfaceName": {"SrcName": "none", "DstPrefix": "e"}})),
                "none",
            ),
            ("Join", || Reply::Json(serde_json::json!({"Gateway": "nowhere"})), "nowhere"),
            ("Join", || Reply::Raw("200 OK", "\u{0}\u{1}"), "no JSON"),
            ("Join", || Reply::Silence, "no answer within 3s"),
            ("ProgramExternalConnectivity", || Reply::Fail("no ports".into()), "no ports"),
        ] {
            plugin.fail(&format!("NetworkDriver.{method}"), reply);
            let id =
                engine.container_create(Some("try".into()), String::new(), sleeping("x")).await.expect("created").id;
            let error = common::within(engine.container_start(&id)).await.expect_err(named);
            assert!(error.message.contains(named), "{method}: {error}");
            plugin.mend();
            assert_eq!(common::state(&engine, &id).await, "created", "{method}");
            remove(&engine, &id).await;
            assert_eq!(noted(&host), 0, "{method}: {named}");
        }
        assert_eq!(links("vh"), 0);
        let id = start(&engine, "good", sleeping("x")).await;
        assert_eq!(
            inspect(&engine, &id).await.network_settings.networks["x"].ip_address,
            "10.44.0.2",
            "addresses are free"
        );
        remove(&engine, &id).await;
        // It removes the network, and its answer is lost: the second time it knows of none.
        plugin.fail("NetworkDriver.DeleteNetwork", || Reply::Lost);
        let meanwhile = async {
            until("it is asked", || async { plugin.calls("NetworkDriver.DeleteNetwork").len() == 2 }).await;
            engine.network_create(network("x", "wires", "10.44.0.0/24")).await
        };
        let (removed, made) = common::within(async { tokio::join!(engine.network_remove("x"), meanwhile) }).await;
        assert_eq!(made.expect_err("it may come back").kind, Kind::Conflict);
        let error = removed.expect_err("no answer");
        assert!(error.message.contains("no answer"), "{error}");
        assert_eq!(links("br"), 0);
        plugin.mend();
        engine.network_remove("x").await.expect("it goes, whatever the plugin has against it");
        assert_eq!(plugin.calls("NetworkDriver.DeleteNetwork").len(), 3, "the first of one that was not made");
        host.finish(engine).await;
    });
}

#[test]
fn a_plugin_that_is_away_keeps_no_container_from_stopping_and_hears_of_it_when_it_is_back() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        engine.network_create(network("wired", "wires", "10.44.0.0/24")).await.expect("made");
        let id = start(&engine, "box", sleeping("wired")).await;
        plugin.fail("NetworkDriver.Leave", || Reply::Silence);
        common::within(engine.container_stop(&id, NOW)).await.expect("stopped");
        assert_eq!(noted(&host), 1, "the plugin did not answer");
        assert_eq!(links("vc"), 1, "its interface is where it was before");
        drop(plugin);
        let error = common::within(engine.container_start(&id)).await.expect_err("away");
        assert!(error.message.contains("wires"), "{error}");
        assert_eq!(noted(&host), 1, "nothing was asked for the new endpoint");
        engine.network_remove("wired").await.expect("without its plugin, which is not installed any more");
        remove(&engine, &id).await;
        assert_eq!(noted(&host), 0, "what is owed to a network that is gone is owed to nobody");

        let plugin = Plugin::serve(&host.dir.join("plugins"), "wires");
        engine.network_create(network("again", "wires", "10.47.0.0/24")).await.expect("made");
        let id = start(&engine, "box", sleeping("again")).await;
        plugin.fail("NetworkDriver.DeleteEndpoint", || Reply::Silence);
        common::within(engine.container_stop(&id, NOW)).await.expect("stopped");
        plugin.mend();
        assert_eq!(noted(&host), 1);
        engine.container_start(&id).await.expect("started: first the old endpoint goes");
        let methods = plugin.server.methods();
        let last: Vec<_> = methods[methods.len() - 4..].iter().map(|m| m.rsplit('.').next().unwrap_or("")).collect();
        assert_eq!(last[..2], ["DeleteEndpoint", "CreateEndpoint"], "{methods:?}");
        remove(&engine, &id).await;
        assert_eq!((noted(&host), links("vh")), (0, 1), "one is left of the plugin that is gone");
        host.finish(engine).await;
    });
}

#[test]
fn addresses_come_from_an_address_plugin_and_go_back_to_it() {
    apart(async || {
        let host = Host::new();
        let (engine, plugin) = with_plugin(&host).await;
        for (name, driver) in [("bridged", "bridge"), ("wired", "wires")] {
            let mut create = network(name, driver, "");
            let ipam = create.ipam.as_mut().expect("given");
            ipam.driver = "wires".into();
            ipam.options = Some([("rack".to_owned(), "7".to_owned())].into());
            ipam.config = vec![IpamConfig {
                auxiliary_addresses: [("printer".to_owned(), "10.55.0.200".to_owned())].into(),
                ..IpamConfig::default()
            }];
            engine.network_create(create).await.expect("made");
            let pool = plugin.calls("IpamDriver.RequestPool").pop().expect("asked");
            assert_eq!(
                (&pool["AddressSpace"], &pool["Options"]["rack"], &pool["V6"]),
                (&"here".into(), &"7".into(), &false.into())
            );
            let shown = engine.network_inspect(name).await.expect("inspected");
            assert_eq!((shown.ipam.driver.as_str(), shown.ipam.config[0].subnet.as_str()), ("wires", "10.55.0.0/24"));
            let id = start(&engine, "box", sleeping(name)).await;
            let place = inspect(&engine, &id).await.network_settings.networks[name].clone();
            let asked = plugin.calls("IpamDriver.RequestAddress").pop().expect("asked");
            let mac = asked["Options"]["com.docker.network.endpoint.macaddress"].as_str().expect("wanted").to_owned();
            assert_eq!(place.mac_address, mac);
            assert!(place.ip_address.starts_with("10.55.0."), "{}", place.ip_address);
            let before = plugin.calls("IpamDriver.ReleaseAddress").len();
            engine.container_stop(&id, NOW).await.expect("stopped");
            let given_back = plugin.calls("IpamDriver.ReleaseAddress");
            assert_eq!(
                (given_back.len(), &given_back[before]["Address"]),
                (before + 1, &place.ip_address.as_str().into())
            );
            remove(&engine, &id).await;
            engine.network_remove(name).await.expect("removed");
            assert_eq!(plugin.calls("IpamDriver.ReleaseAddress").len(), before + 3, "the gateway and the printer");
        }
        assert_eq!(plugin.calls("IpamDriver.ReleasePool").len(), 2);
        // It hears that an address is free, and is not heard; then another container gets the address.
        engine
            .network_create({
                let mut create = network("late", "bridge", "");
                create.ipam.as_mut().expect("given").driver = "wires".into();
                create
            })
            .await
            .expect("made");
        let fixed = || Reply::Json(serde_json::json!({"Address": "10.55.0.99/24"}));
        plugin.fail("IpamDriver.RequestAddress", fixed);
        let id = start(&engine, "old", sleeping("late")).await;
        plugin.fail("IpamDriver.ReleaseAddress", || Reply::Silence);
        remove(&engine, &id).await;
        assert_eq!(noted(&host), 1);
        let id = start(&engine, "new", sleeping("late")).await;
        assert_eq!(noted(&host), 2);
        plugin.mend();
        let before = plugin.calls("IpamDriver.ReleaseAddress").len();
        let other = start(&engine, "other", sleeping("late")).await;
        assert_eq!((noted(&host), plugin.calls("IpamDriver.ReleaseAddress").len()), (2, before), "it is in use");
        remove(&engine, &id).await;
        remove(&engine, &other).await;
        engine.network_remove("late").await.expect("removed");
        let before = plugin.calls("IpamDriver.ReleasePool").len();
        // What it says does not fit.
        plugin.fail("IpamDriver.RequestAddress", || Reply::Json(serde_json::json!({"Address": "nowhere"})));
        let mut create = network("bad", "bridge", "");
        create.ipam.as_mut().expect("given").driver = "wires".into();
        let error = engine.network_create(create).await.expect_err("garbage");
        assert!(error.message.contains("nowhere"), "{error}");
        assert_eq!(plugin.calls("IpamDriver.ReleasePool").len(), before + 1, "the pool went back");
        plugin.mend();
        // What it does not hear is kept, and it is asked again.
        let records = || fs::read_dir(host.dir.join("data/networks")).expect("folder").count();
        let (pools, kept) = (plugin.calls("IpamDriver.ReleasePool").len(), records());
        plugin.fail("IpamDriver.RequestAddress", || Reply::Silence);
        plugin.fail("IpamDriver.ReleasePool", || Reply::Silence);
        let mut create = network("bad", "bridge", "");
        create.ipam.as_mut().expect("given").driver = "wires".into();
        common::within(engine.network_create(create)).await.expect_err("no answer");
        assert_eq!((plugin.calls("IpamDriver.ReleasePool").len(), records()), (pools + 1, kept + 1));
        plugin.mend();
        engine.shutdown().await;
        drop(engine);
        let engine = open(&host).await;
        until("its record is gone", || async { records() == kept }).await;
        assert_eq!(plugin.calls("IpamDriver.ReleasePool").len(), pools + 2);
        // Addresses of the plugin itself.
        let mut create = network("null", "wires", "");
        create.ipam.as_mut().expect("given").driver = "null".into();
        engine.network_create(create).await.expect("made");
        let id = start(&engine, "box", sleeping("null")).await;
        assert_eq!(inspect(&engine, &id).await.network_settings.networks["null"].ip_address, "10.77.0.9");
        remove(&engine, &id).await;
        assert_eq!(noted(&host), 0);
        host.finish(engine).await;
    });
}
