//! What the engine tells its data plane.

mod common;

use async_trait::async_trait;
use common::{Host, command, inspect, run, script, start};
use muster_calls::Engine;
use muster_engine::{
    EndpointSpec, LocalEngine,
    net::{Network, NetworkError, Sandbox},
};
use muster_model::{
    engine::{EndpointSettings, NetworkConnect, NetworkCreate, NetworkDisconnect, PortBinding},
    net::{Mac, Scope},
};
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Notes what it is told.
#[derive(Default)]
struct Recorder {
    attached: Mutex<Vec<Sandbox>>,
    detached: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<Scope>>,
    refuse: Mutex<bool>,
    /// How long it takes to attach.
    takes: Mutex<Duration>,
}

#[async_trait]
impl Network for Recorder {
    async fn attach(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let takes = *self.takes.lock().expect("sound");
        tokio::time::sleep(takes).await;
        if *self.refuse.lock().expect("sound") {
            return Err(NetworkError("the data plane refuses".to_owned()));
        }
        assert!(sandbox.netns.exists(), "the namespace is there when the data plane is told");
        self.attached.lock().expect("sound").push(sandbox.clone());
        Ok(())
    }
    async fn detach(&self, container_id: &str) -> Result<(), NetworkError> {
        self.detached.lock().expect("sound").push(container_id.to_owned());
        Ok(())
    }
    async fn forget(&self, network: Scope) {
        self.forgotten.lock().expect("sound").push(network);
    }
    fn provides_dns(&self) -> bool {
        true
    }
    fn serves_host(&self) -> bool {
        true
    }
}

impl Recorder {
    fn last(&self) -> Sandbox {
        self.attached.lock().expect("sound").last().expect("attached").clone()
    }
}

async fn open(host: &Host, recorder: &Arc<Recorder>) -> Arc<LocalEngine> {
    let mut config = host.config().await;
    config.network = recorder.clone();
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(common::IMAGE).await.is_err() {
        common::import(&*engine, common::IMAGE).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_plane_is_told_of_networks_as_they_are_joined_left_and_taken_up_again() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    engine.network_create(NetworkCreate { name: "front".into(), ..NetworkCreate::default() }).await.expect("made");
    let mut body = command(&["sleep", "300"]);
    let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: String::new() };
    body.host_config.port_bindings.insert("53/udp".into(), Some(vec![binding]));
    let id = start(&engine, "web", body).await;
    let first = recorder.last();
    assert_eq!(
        (first.endpoints.len(), first.endpoints[0].names.len(), first.dns.embedded),
        (1, 0, false),
        "no names on the default bridge"
    );
    assert!(first.endpoints[0].default_route && first.endpoints[0].scope.is_local());
    assert_eq!((first.published[0].container_port, first.published[0].endpoint), (53, 0));

    let settings = EndpointSettings { aliases: vec!["alt".into()], gw_priority: 5, ..EndpointSettings::default() };
    engine
        .network_connect("front", NetworkConnect { container: "web".into(), endpoint_config: Some(settings) })
        .await
        .expect("connected");
    let second = recorder.last();
    assert_eq!(second.endpoints[1].names, ["web", &id[..12], "alt"]);
    assert_eq!(
        (second.endpoints[1].ifname.as_str(), second.endpoints[1].default_route),
        ("eth1", true),
        "the higher priority leads out"
    );
    assert_ne!(second.endpoints[0].scope, second.endpoints[1].scope);
    assert!(second.dns.embedded);
    engine.container_rename("web", "shop".into()).await.expect("renamed");
    assert_eq!(recorder.last().endpoints[1].names[0], "shop");

    engine.shutdown().await;
    drop(engine);
    let engine = open(&host, &recorder).await;
    assert_eq!(recorder.last().endpoints, {
        let mut same = second.endpoints.clone();
        same[1].names[0] = "shop".to_owned();
        same
    });
    engine.network_disconnect("front", NetworkDisconnect { container: id.clone(), force: false }).await.expect("left");
    assert_eq!(recorder.last().endpoints.len(), 1);
    engine.container_kill(&id, None).await.expect("killed");
    common::within(engine.container_wait(&id, Default::default()).await.expect("waits")).await.expect("ended");
    assert_eq!(*recorder.detached.lock().expect("sound"), std::slice::from_ref(&id));
    engine.container_remove(&id, Default::default()).await.expect("removed");
    assert!(recorder.forgotten.lock().expect("sound").is_empty(), "its next container is as quick as the last");
    engine.network_remove("front").await.expect("removed");
    assert_eq!(*recorder.forgotten.lock().expect("sound"), [second.endpoints[1].scope]);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_the_cluster_gets_the_addresses_the_cluster_gave_it() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    let ip = Ipv4Addr::new(10, 9, 0, 7);
    let endpoint = EndpointSpec {
        scope: Scope::vni(4097),
        network_name: "ov".into(),
        network_id: "x1y2".into(),
        subnet: "10.9.0.0/24".parse().expect("valid"),
        gateway: Ipv4Addr::new(10, 9, 0, 1),
        internal: false,
        mtu: 1450,
        ip,
        mac: Mac::of(ip),
        aliases: vec!["db".into()],
    };
    let body = script("cat /etc/resolv.conf; grep -c 10.9.0.7 /etc/hosts");
    let id = engine.create_with_endpoints(Some("db.1.abc".into()), body, vec![endpoint]).await.expect("created");
    engine.container_start(&id).await.expect("started");
    let wait = engine.container_wait(&id, Default::default()).await.expect("waits");
    common::within(wait).await.expect("ended");
    let endpoint = &recorder.last().endpoints[0];
    assert_eq!((endpoint.scope, endpoint.v4.map(|(ip, _)| ip), endpoint.mtu), (Scope::vni(4097), Some(ip), 1450));
    assert!(endpoint.names.contains(&"db".to_owned()));
    let logs = engine.container_logs(&id, Default::default()).await.expect("logs").lines;
    use futures_util::StreamExt;
    let text: String = logs.map(|l| String::from_utf8_lossy(&l.expect("line").data).into_owned()).collect().await;
    assert!(text.starts_with("nameserver 127.0.0.11\n") && text.ends_with("1\n"), "{text}");
    assert!(inspect(&engine, &id).await.network_settings.networks.contains_key("ov"));
    let bare = engine.create_with_endpoints(None, script("true"), Vec::new()).await.expect("created");
    assert_eq!(inspect(&engine, &bare).await.host_config.network_mode, "none");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_the_data_plane_refuses_leaves_nothing_behind() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    *recorder.refuse.lock().expect("sound") = true;
    let id = engine
        .container_create(Some("web".into()), String::new(), command(&["sleep", "300"]))
        .await
        .expect("created")
        .id;
    let refused = engine.container_start(&id).await.expect_err("refused");
    assert!(refused.message.ends_with("the data plane refuses"), "{refused}");
    assert_eq!(inspect(&engine, &id).await.state.status, "created");
    assert_eq!(host.mounts(), Vec::<String>::new());
    *recorder.refuse.lock().expect("sound") = false;
    engine.container_start(&id).await.expect("started");
    assert_eq!(
        inspect(&engine, &id).await.network_settings.ip_address.rsplit('.').next(),
        Some("2"),
        "the first address was given back"
    );
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_shared_with_those_who_join_it() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    let mut owner = script("echo seen > /dev/shm/x; while :; do sleep 0.1; done");
    owner.host_config.ipc_mode = "shareable".into();
    start(&engine, "owner", owner).await;
    let mut guest = script("while [ ! -s /dev/shm/x ]; do sleep 0.02; done; cat /dev/shm/x");
    guest.host_config.ipc_mode = "container:owner".into();
    assert_eq!(run(&engine, None, guest).await.stdout, "seen\n");
    start(&engine, "private", command(&["sleep", "300"])).await;
    let mut stranger = script("true");
    stranger.host_config.ipc_mode = "container:private".into();
    let id = engine.container_create(None, String::new(), stranger).await.expect("created").id;
    assert!(engine.container_start(&id).await.expect_err("not lent").message.contains("not shareable"));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_at_every_address_is_held_for_ipv6_too_and_passed_on_where_the_container_has_none() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    let mut body = command(&["sleep", "300"]);
    body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![PortBinding::default()]));
    body.host_config.port_bindings.insert("53/udp".into(), Some(vec![PortBinding::default()]));
    let id = start(&engine, "four", body).await;
    let bound = async |engine: &LocalEngine, port: &str| {
        let ports = inspect(engine, &id).await.network_settings.ports;
        let bindings = ports[port].clone().expect("published");
        bindings.into_iter().map(|b| (b.host_ip, b.host_port)).collect::<Vec<_>>()
    };
    let tcp = bound(&engine, "80/tcp").await;
    let at: std::net::SocketAddr = format!("[::1]:{}", tcp[0].1).parse().expect("a port");
    assert_eq!(tcp.iter().map(|(ip, _)| ip.as_str()).collect::<Vec<_>>(), ["0.0.0.0", "::"]);
    assert_eq!(tcp[0].1, tcp[1].1, "the same port");
    assert_eq!(bound(&engine, "53/udp").await.len(), 1, "datagrams are not passed on");
    let told = recorder.last().published;
    assert!(told.len() == 2 && told.iter().all(|p| p.host_ip.is_ipv4()), "{told:?}");
    std::net::TcpStream::connect(at).expect("accepted");
    // The next daemon takes them up again.
    engine.shutdown().await;
    drop(engine);
    let engine = open(&host, &recorder).await;
    std::net::TcpStream::connect(at).expect("accepted");
    assert_eq!(bound(&engine, "80/tcp").await, tcp);
    // Where somebody else has one half, both are another port of the range.
    let taken = std::net::TcpListener::bind("[::1]:0").expect("a port");
    let first = taken.local_addr().expect("bound").port().min(u16::MAX - 20);
    let mut body = command(&["sleep", "300"]);
    let binding = PortBinding { host_ip: String::new(), host_port: format!("{first}-{}", first + 20) };
    body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![binding]));
    let second = start(&engine, "five", body).await;
    let ports = inspect(&engine, &second).await.network_settings.ports["80/tcp"].clone().expect("published");
    assert_eq!((ports.len(), &ports[0].host_port), (2, &ports[1].host_port));
    assert_ne!(ports[0].host_port, taken.local_addr().expect("bound").port().to_string());
    engine.container_kill(&id, None).await.expect("killed");
    common::within(engine.container_wait(&id, Default::default()).await.expect("waits")).await.expect("ended");
    common::until("the port is free", async || std::net::TcpStream::connect(at).is_err()).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_started_again_with_the_daemon_gets_no_address_of_one_that_has_gone_on() {
    let (host, recorder) = (Host::new(), Arc::new(Recorder::default()));
    let engine = open(&host, &recorder).await;
    let mut body = script("exit 1");
    body.host_config.restart_policy.name = "always".into();
    let early = engine.container_create(Some("early".into()), String::new(), body).await.expect("created").id;
    let mut others = Vec::new();
    for _ in 0..6 {
        let body = command(&["sleep", "300"]);
        others.push(engine.container_create(None, String::new(), body).await.expect("created").id);
    }
    // Those that are taken up last have the addresses that are given first.
    for id in others.iter().rev() {
        engine.container_start(id).await.expect("started");
    }
    engine.container_start(&early).await.expect("started");
    common::until("it is between two starts for a while", || async {
        let early = inspect(&engine, &early).await;
        early.restart_count >= 3 && early.state.status == "restarting"
    })
    .await;
    engine.shutdown().await;
    drop(engine);
    recorder.attached.lock().expect("sound").clear();
    // So that it is started before all of the others are taken up.
    *recorder.takes.lock().expect("sound") = Duration::from_millis(400);
    let engine = open(&host, &recorder).await;
    let of = |id: &str| {
        let attached = recorder.attached.lock().expect("sound");
        attached.iter().rfind(|s| s.container_id == id).and_then(|s| Some(s.endpoints[0].v4?.0))
    };
    common::until("it is started again", || async { of(&early).is_some() }).await;
    let kept: Vec<_> = others.iter().map(|id| of(id).expect("taken up")).collect();
    assert!(!kept.contains(&of(&early).expect("started")), "{:?} of {kept:?}", of(&early));
    for id in others.iter().chain([&early]) {
        let options = muster_calls::RemoveContainer { force: true, ..Default::default() };
        engine.container_remove(id, options).await.expect("removed");
    }
    host.finish(engine).await;
}
