//! Volumes, networks, images and files of a real engine.

mod common;

use bytes::Bytes;
use common::{Host, IMAGE, command, inspect, run, script, start, within};
use futures_util::{StreamExt, stream};
use muster_calls::{Commit, Engine, EventsQuery, Filters, Kind, ListContainers, RemoveContainer, StopContainer};
use muster_model::engine::{
    ContainerCreateBody, ContainerUpdate, EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, Mount,
    NetworkConnect, NetworkCreate, NetworkDisconnect, PortBinding, VolumeCreate,
};

fn filter(key: &str, value: &str) -> Filters {
    let mut filters = Filters::default();
    filters.add(key, value);
    filters
}

fn with_binds(body: ContainerCreateBody, binds: &[&str]) -> ContainerCreateBody {
    let mut body = body;
    body.host_config.binds = binds.iter().map(|b| (*b).to_owned()).collect();
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_containers_is_filled_from_the_image_and_cannot_go_while_used() {
    let host = Host::new();
    let engine = host.open().await;
    let first = run(
        &engine,
        None,
        with_binds(script("cat /filled/seed; stat -c %a /filled; echo kept > /filled/mine"), &["vol:/filled"]),
    )
    .await;
    assert_eq!(first.stdout, "from the image\n750\n");
    let second = run(
        &engine,
        Some("reader"),
        with_binds(script("cat /d/mine; touch /d/x 2>/dev/null || echo ro"), &["vol:/d:ro"]),
    )
    .await;
    assert_eq!(second.stdout, "kept\nro\n");
    let refused = engine.volume_remove("vol", false).await.expect_err("in use");
    assert!(refused.message.starts_with("remove vol: volume is in use - ["), "{refused}");
    for id in [&first.id, &second.id] {
        engine.container_remove(id, RemoveContainer::default()).await.expect("removed");
    }
    engine.volume_remove("vol", false).await.expect("removed");
    assert_eq!(engine.volume_remove("vol", false).await.expect_err("gone").kind, Kind::NotFound);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_and_tmpfs_are_mounted_as_asked_for() {
    let host = Host::new();
    let engine = host.open().await;
    let folder = host.dir.join("given");
    std::fs::create_dir(&folder).expect("folder");
    std::fs::write(folder.join("f"), "host\n").expect("file");
    let source = folder.to_string_lossy().into_owned();
    let outcome =
        run(&engine, None, with_binds(script("cat /b/f; echo back > /b/g"), &[&format!("{source}:/b")])).await;
    assert_eq!(outcome.stdout, "host\n");
    assert_eq!(std::fs::read_to_string(folder.join("g")).expect("written"), "back\n");
    let mount = |kind: &str, source: &str, target: &str| Mount {
        kind: kind.into(),
        source: source.into(),
        target: target.into(),
        read_only: kind == "bind",
        ..Mount::default()
    };
    let mut body = script("touch /b/z 2>/dev/null || echo ro; grep -c ' /t tmpfs' /proc/mounts");
    body.host_config.mounts = vec![mount("bind", &source, "/b"), mount("tmpfs", "", "/t")];
    assert_eq!(run(&engine, None, body).await.stdout, "ro\n1\n");
    let mut missing = script("true");
    missing.host_config.mounts = vec![mount("bind", "/nonesuch", "/b")];
    let refused = engine.container_create(None, String::new(), missing).await.expect_err("no source");
    assert!(refused.message.ends_with("bind source path does not exist: /nonesuch"), "{refused}");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_pruned_when_anonymous_or_when_all_are_asked_for() {
    let host = Host::new();
    let engine = host.open().await;
    engine.volume_create(VolumeCreate { name: "named".into(), ..VolumeCreate::default() }).await.expect("made");
    let anonymous = engine.volume_create(VolumeCreate::default()).await.expect("made").name;
    assert_eq!(anonymous.len(), 64);
    let pruned = engine.volume_prune(Filters::default()).await.expect("pruned");
    assert_eq!(pruned.volumes_deleted, Some(vec![anonymous]));
    assert_eq!(
        engine.volume_prune(filter("all", "true")).await.expect("pruned").volumes_deleted,
        Some(vec!["named".to_owned()])
    );
    for (length, good) in [(255, true), (256, false)] {
        let made = engine.volume_create(VolumeCreate { name: "v".repeat(length), ..VolumeCreate::default() }).await;
        assert_eq!(made.as_ref().err().map(|e| e.kind), (!good).then_some(Kind::Invalid), "{length}: {made:?}");
        if let Ok(volume) = made {
            engine.volume_remove(&volume.name, false).await.expect("removed");
        }
    }
    let refused = engine.volume_create(VolumeCreate { driver: "nfs-plugin".into(), ..VolumeCreate::default() }).await;
    assert_eq!(refused.expect_err("no driver").kind, Kind::NotFound);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_a_name_and_variables_and_follows_the_other_to_its_new_address() {
    let host = Host::new();
    let engine = host.open().await;
    let mut db = command(&["sleep", "300"]);
    db.config.env = vec!["COLOR=red".to_owned()];
    db.config.exposed_ports = ["6379/tcp".to_owned()].into_iter().collect();
    let db = start(&engine, "db", db).await;
    let ip = inspect(&engine, &db).await.network_settings.networks["bridge"].ip_address.clone();
    let linked = |script: &str| {
        let mut body = common::script(script);
        body.host_config.links = vec!["db:far-store".to_owned()];
        body
    };
    let ran = run(&engine, Some("web"), linked("grep far-store /etc/hosts; env | grep FAR_STORE | sort")).await;
    for expected in [
        &format!("{ip}\tfar-store ") as &str,
        &format!("FAR_STORE_PORT_6379_TCP=tcp://{ip}:6379\n"),
        "FAR_STORE_NAME=/web/far-store\n",
        "FAR_STORE_ENV_COLOR=red\n",
    ] {
        assert!(ran.stdout.contains(expected), "{expected} is not in {}", ran.stdout);
    }
    assert_eq!(inspect(&engine, "web").await.host_config.links, ["/db:/web/far-store"]);
    let follower = start(&engine, "follower", linked("sleep 300")).await;
    engine.container_stop(&db, StopContainer { timeout_s: Some(0), signal: None }).await.expect("stopped");
    let taker = start(&engine, "taker", command(&["sleep", "300"])).await;
    engine.container_start(&db).await.expect("started");
    let moved = inspect(&engine, &db).await.network_settings.networks["bridge"].ip_address.clone();
    let hosts = std::fs::read_to_string(host.dir.join("data/containers").join(&follower).join("hosts")).expect("there");
    assert!(hosts.contains(&format!("{moved}\tfar-store ")), "{moved} is not in {hosts}");
    assert_eq!(hosts.matches("far-store").count(), 1, "{hosts}");
    let nobody = ContainerCreateBody {
        host_config: muster_model::engine::HostConfig { links: vec!["none:x".into()], ..Default::default() },
        ..command(&["true"])
    };
    let refused = engine.container_create(None, String::new(), nobody).await.expect_err("nobody is called that");
    assert_eq!((refused.kind, refused.message.contains("could not get container for none")), (Kind::Invalid, true));
    engine.container_stop(&db, StopContainer { timeout_s: Some(0), signal: None }).await.expect("stopped");
    let id = engine.container_create(None, String::new(), linked("true")).await.expect("made").id;
    let refused = engine.container_start(&id).await.expect_err("it does not run");
    assert!(refused.message.contains("Cannot link to a non running container: /db AS"), "{}", refused.message);
    drop(taker);
    host.finish(engine).await;
}

/// Compose makes its networks at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_made_at_the_same_time_share_no_subnet_and_no_name() {
    let host = Host::new();
    let engine = host.open().await;
    let make = |name: String| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.network_create(NetworkCreate { name, ..NetworkCreate::default() }).await })
    };
    let made = futures_util::future::join_all((0..8).map(|n| make(format!("net{}", n / 2)))).await;
    let made: Vec<_> = made.into_iter().filter_map(|m| m.expect("not cancelled").ok()).collect();
    assert_eq!(made.len(), 4, "two of each name were asked for");
    let mut subnets = Vec::new();
    for network in &made {
        let shown = engine.network_inspect(&network.id).await.expect("there");
        subnets.extend(shown.ipam.config.into_iter().map(|c| c.subnet));
    }
    subnets.sort();
    subnets.dedup();
    assert_eq!(subnets.len(), 4, "{subnets:?}");
    host.finish(engine).await;
}

async fn network(engine: &dyn Engine, name: &str, subnet: &str) -> String {
    let config =
        if subnet.is_empty() { vec![] } else { vec![IpamConfig { subnet: subnet.into(), ..IpamConfig::default() }] };
    let body =
        NetworkCreate { name: name.into(), ipam: Some(Ipam { config, ..Ipam::default() }), ..NetworkCreate::default() };
    engine.network_create(body).await.expect("made").id
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_give_unique_addresses_and_stay_while_somebody_is_on_them() {
    let host = Host::new();
    let engine = host.open().await;
    let id = network(&*engine, "front", "10.213.7.0/24").await;
    let on = |ip: &str| {
        let mut body = command(&["sleep", "300"]);
        body.host_config.network_mode = "front".into();
        let ipam_config =
            (!ip.is_empty()).then(|| EndpointIpamConfig { ipv4_address: ip.into(), ..EndpointIpamConfig::default() });
        let settings = EndpointSettings { ipam_config, aliases: vec!["alt".into()], ..EndpointSettings::default() };
        body.networking_config.endpoints_config.insert("front".into(), Some(settings));
        body
    };
    let fixed = start(&engine, "fixed", on("10.213.7.20")).await;
    start(&engine, "free", on("")).await;
    let place = inspect(&engine, "fixed").await.network_settings.networks["front"].clone();
    assert_eq!(
        (place.ip_address.as_str(), place.gateway.as_str(), place.mac_address.as_str()),
        ("10.213.7.20", "10.213.7.1", "02:42:0a:d5:07:14")
    );
    assert_eq!(place.dns_names, ["fixed", &fixed[..12], "alt"]);
    assert_eq!(inspect(&engine, "free").await.network_settings.networks["front"].ip_address, "10.213.7.2");
    let taken =
        engine.container_create(Some("late".into()), String::new(), on("10.213.7.20")).await.expect("created").id;
    assert_eq!(engine.container_start(&taken).await.expect_err("taken").message, "Address already in use");
    assert_eq!(engine.network_inspect("front").await.expect("there").containers.len(), 2);
    let refused = engine.network_remove("front").await.expect_err("in use");
    assert!(refused.kind == Kind::Forbidden && refused.message.contains("has active endpoints"), "{refused}");
    for name in ["fixed", "free", "late"] {
        engine.container_remove(name, RemoveContainer { force: true, volumes: false }).await.expect("removed");
    }
    engine.network_remove(&id[..12]).await.expect("removed");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_joined_and_left_live_and_bad_ones_are_refused() {
    let host = Host::new();
    let engine = host.open().await;
    network(&*engine, "back", "").await;
    let id = start(&engine, "web", command(&["sleep", "300"])).await;
    let connect = NetworkConnect { container: "web".into(), endpoint_config: None };
    engine.network_connect("back", connect.clone()).await.expect("connected");
    assert_eq!(inspect(&engine, &id).await.network_settings.networks.len(), 2);
    assert_eq!(engine.network_connect("back", connect).await.expect_err("there already").kind, Kind::Forbidden);
    engine.network_disconnect("back", NetworkDisconnect { container: id.clone(), force: false }).await.expect("left");
    assert_eq!(inspect(&engine, &id).await.network_settings.networks.len(), 1);
    let refused = |body: NetworkCreate| {
        let engine = engine.clone();
        async move { engine.network_create(body).await.expect_err("refused") }
    };
    let named = |name: &str| NetworkCreate { name: name.into(), ..NetworkCreate::default() };
    assert_eq!(refused(named("bridge")).await.message, "operation is not permitted on predefined bridge network ");
    assert_eq!(refused(named("back")).await.message, "network with name back already exists");
    let neither = NetworkCreate { enable_ipv4: Some(false), ..named("six") };
    assert_eq!(refused(neither).await.message, "IPv4 or IPv6 must be enabled (EnableIPv4, EnableIPv6)");
    let overlapping =
        Ipam { config: vec![IpamConfig { subnet: "0.0.0.0/0".into(), ..IpamConfig::default() }], ..Ipam::default() };
    assert_eq!(refused(NetworkCreate { ipam: Some(overlapping), ..named("wide") }).await.kind, Kind::Forbidden);
    for (subnet, what) in [
        ("224.0.0.0/24", "multicast"),
        ("127.5.0.0/16", "loopback"),
        ("0.0.0.0/24", "unspecified"),
        ("::/0", "unspecified"),
        ("::/64", "unspecified"),
        ("fe80::/64", "link-local"),
        ("ff02::/64", "multicast"),
    ] {
        let six = subnet.contains(':');
        let config = vec![IpamConfig { subnet: subnet.into(), ..IpamConfig::default() }];
        let ipam = Some(Ipam { config, ..Ipam::default() });
        let refusal = refused(NetworkCreate { ipam, enable_ipv6: six.then_some(true), ..named("bad") }).await;
        assert!(refusal.kind == Kind::Invalid && refusal.message.contains(what), "{subnet}: {refusal}");
    }
    assert_eq!(
        engine.network_remove("host").await.expect_err("predefined").message,
        "host is a pre-defined network and cannot be removed"
    );
    assert_eq!(
        engine.network_prune(Filters::default()).await.expect("pruned").networks_deleted,
        Some(vec!["back".to_owned()])
    );
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_port_is_held_while_the_container_runs_and_no_longer() {
    let host = Host::new();
    let engine = host.open().await;
    let publishing = |port: &str| {
        let mut body = command(&["sleep", "300"]);
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: port.into() };
        body.host_config.port_bindings.insert("80/tcp".into(), Some(vec![binding]));
        body
    };
    start(&engine, "first", publishing("")).await;
    let ports = inspect(&engine, "first").await.network_settings.ports;
    let port = ports["80/tcp"].as_ref().expect("published")[0].host_port.clone();
    let number: u16 = port.parse().expect("a number");
    assert!(std::net::TcpListener::bind(("127.0.0.1", number)).is_err(), "it is held");
    let second = engine.container_create(None, String::new(), publishing(&port)).await.expect("created").id;
    let refused = engine.container_start(&second).await.expect_err("taken");
    assert!(
        refused.message.ends_with(&format!("Bind for 127.0.0.1:{port} failed: port is already allocated")),
        "{refused}"
    );
    // Held again by the next engine.
    engine.shutdown().await;
    drop(engine);
    let engine = host.open().await;
    assert!(std::net::TcpListener::bind(("127.0.0.1", number)).is_err(), "it is held");
    engine.container_kill("first", None).await.expect("killed");
    assert!(std::net::TcpListener::bind(("127.0.0.1", number)).is_ok(), "it is free");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_share_the_network_of_another() {
    let host = Host::new();
    let engine = host.open().await;
    start(&engine, "base", command(&["sleep", "300"])).await;
    let mut body = script("ls -l /proc/self/ns/net > /dev/null && hostname");
    body.host_config.network_mode = "container:base".into();
    let outcome = run(&engine, Some("guest"), body.clone()).await;
    let base = inspect(&engine, "base").await;
    assert_eq!(outcome.stdout.trim(), base.config.hostname);
    engine.container_kill("base", None).await.expect("killed");
    within(engine.container_wait("base", Default::default()).await.expect("waits")).await.expect("ended");
    let refused = engine.container_start("guest").await.expect_err("not running");
    assert!(refused.message.starts_with("cannot join network namespace of a non running container"), "{refused}");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_unknown_filters_refused_by_name() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["sleep", "300"]);
    body.config.labels.insert("x".into(), "1".into());
    start(&engine, "runs", body).await;
    run(&engine, Some("ended"), script("exit 4")).await;
    let names = async |all: bool, filters: Filters| {
        let list = engine
            .container_list(ListContainers { all, filters, ..ListContainers::default() })
            .await
            .expect("list")
            .items;
        list.into_iter().map(|c| c.names[0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(false, Filters::default()).await, ["/runs"]);
    assert_eq!(names(true, Filters::default()).await, ["/ended", "/runs"]);
    assert_eq!(names(true, filter("exited", "4")).await, ["/ended"]);
    assert_eq!(names(true, filter("label", "x=1")).await, ["/runs"]);
    assert_eq!(names(true, filter("name", "^/?ru")).await, ["/runs"]);
    assert_eq!(names(true, filter("status", "running")).await, ["/runs"]);
    assert_eq!(names(true, filter("ancestor", IMAGE)).await.len(), 2);
    assert_eq!(names(true, filter("since", "runs")).await, ["/ended"]);
    assert_eq!(names(true, filter("before", "ended")).await, ["/runs"]);
    assert_eq!(names(true, filter("network", "bridge")).await.len(), 2);
    // As in Docker what is no regular expression is found in no name.
    assert!(names(true, filter("name", "(")).await.is_empty());
    for (key, value) in [("bogus", "1"), ("status", "bogus"), ("exited", "x")] {
        let refused =
            engine.container_list(ListContainers { filters: filter(key, value), ..ListContainers::default() }).await;
        let text = refused.expect_err("refused").message;
        assert!(
            text == format!("invalid filter '{key}'") || text == format!("invalid filter '{key}={value}'"),
            "{text}"
        );
    }
    let pruned = engine.container_prune(Filters::default()).await.expect("pruned");
    assert_eq!(pruned.containers_deleted.map(|c| c.len()), Some(1));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_are_changed_live() {
    let host = Host::new();
    let engine = host.open().await;
    let limit = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let mut body = script(limit);
    body.host_config.resources.memory = 32 << 20;
    assert_eq!(run(&engine, None, body).await.stdout.trim(), (32 << 20).to_string());
    let mut body = command(&["sleep", "300"]);
    body.host_config.resources.memory = 32 << 20;
    let id = start(&engine, "limited", body).await;
    let mut update = ContainerUpdate::default();
    (update.resources.memory, update.resources.memory_swap) = (48 << 20, 96 << 20);
    engine.container_update(&id, update).await.expect("updated");
    assert_eq!(inspect(&engine, &id).await.host_config.resources.memory, 48 << 20);
    let mut stats = engine.container_stats(&id, false, true).await.expect("stats");
    let reading = within(stats.next()).await.expect("one").expect("read");
    assert_eq!(reading.memory_stats.limit, 48 << 20);
    let top = engine.container_top(&id, String::new()).await.expect("top");
    assert!(top.processes[0].last().is_some_and(|c| c.contains("sleep 300")), "{top:?}");
    let mut body = script("true");
    body.host_config.resources.memory = 1;
    assert_eq!(engine.container_create(None, String::new(), body).await.expect_err("too little").kind, Kind::Invalid);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_not_there_kills_and_is_told() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("x=a; while :; do x=$x$x$x$x; done");
    (body.host_config.resources.memory, body.host_config.resources.memory_swap) = (8 << 20, 8 << 20);
    let outcome = run(&engine, None, body).await;
    assert_eq!(outcome.code, 137);
    assert!(inspect(&engine, &outcome.id).await.state.oom_killed);
    host.finish(engine).await;
}

fn tar_of(name: &str, text: &str) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    tar.append_data(&mut header, name, text.as_bytes()).expect("entry");
    tar.into_inner().expect("tar").into()
}

async fn bytes(stream: muster_calls::Stream<Bytes>) -> Vec<u8> {
    within(stream.fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece.expect("bytes"));
        all
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_of_running_and_stopped_containers() {
    let host = Host::new();
    let engine = host.open().await;
    let id = start(&engine, "box", command(&["sleep", "300"])).await;
    let put = |name: &str, text: &str| stream::iter([Ok(tar_of(name, text))]).boxed();
    engine.archive_put(&id, "/mnt".into(), false, false, put("live", "one")).await.expect("copied in");
    let stat = engine.archive_stat(&id, "/mnt/live".into()).await.expect("there");
    assert_eq!((stat.name.as_str(), stat.size), ("live", 3));
    engine.container_kill(&id, None).await.expect("killed");
    within(engine.container_wait(&id, Default::default()).await.expect("waits")).await.expect("ended");
    engine.archive_put(&id, "/".into(), false, false, put("late", "two")).await.expect("copied into a stopped one");
    let (_, out) = engine.archive_get(&id, "/late".into()).await.expect("there");
    let out = bytes(out).await;
    let mut archive = tar::Archive::new(&out[..]);
    let mut entry = archive.entries().expect("tar").next().expect("one").expect("entry");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
    assert_eq!(text, "two");
    let missing = engine.archive_stat(&id, "/none".into()).await.expect_err("not there");
    assert_eq!(missing.message, "Could not find the file /none in container box");
    let changes: Vec<_> =
        engine.container_changes(&id).await.expect("changes").into_iter().map(|c| (c.path, c.kind)).collect();
    assert_eq!(changes, [("/late".into(), 1), ("/mnt".into(), 0), ("/mnt/live".into(), 1)]);
    assert!(bytes(engine.container_export(&id).await.expect("export")).await.len() > 100_000);
    common::until("the root is unmounted", || async { host.mounts().is_empty() }).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_tagged_saved_loaded_committed_and_kept_while_used() {
    let host = Host::new();
    let engine = host.open().await;
    engine.image_tag(IMAGE, "other".into(), "1".into()).await.expect("tagged");
    let saved = bytes(engine.image_save(vec!["other:1".into()]).await.expect("saved")).await;
    let removed = engine.image_remove("other:1", false, false).await.expect("untagged");
    assert_eq!(removed[0].untagged, "other:1");
    let lines =
        engine.image_load(stream::iter([Ok(Bytes::from(saved))]).boxed(), true, String::new()).await.expect("loaded");
    let lines: Vec<_> = lines.map(|l| l.expect("line").stream).collect().await;
    assert_eq!(lines, ["Loaded image: other:1\n"]);
    let outcome = run(&engine, Some("maker"), script("echo mark > /mark")).await;
    let commit = Commit {
        container: outcome.id.clone(),
        repo: "made".into(),
        tag: "1".into(),
        comment: "note".into(),
        changes: vec!["CMD [\"cat\",\"/mark\"]".into()],
        ..Commit::default()
    };
    let id = engine.commit(commit, None).await.expect("committed");
    assert!(id.starts_with("sha256:"));
    let mut body = command(&[]);
    body.config.image = "made:1".into();
    assert_eq!(run(&engine, Some("child"), body).await.stdout, "mark\n");
    assert_eq!(engine.image_history("made:1").await.expect("history")[0].comment, "note");
    assert_eq!(engine.image_remove("made:1", false, false).await.expect_err("in use").kind, Kind::Conflict);
    engine.container_remove("child", RemoveContainer::default()).await.expect("removed");
    engine.image_remove("made:1", false, false).await.expect("removed");
    let list = engine.image_list(false, false, filter("reference", "busybox")).await.expect("list").items;
    assert_eq!((list.len(), list[0].repo_tags.len()), (1, 1));
    let usage = engine.disk_usage().await.expect("df");
    assert_eq!((usage.images.len(), usage.containers.len()), (1, 1));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_life_of_a_container_and_info_counts_it() {
    let host = Host::new();
    let engine = host.open().await;
    let outcome = run(&engine, Some("life"), script("exit 2")).await;
    let query = EventsQuery {
        since: muster_model::Timestamp(1),
        until: muster_model::Timestamp(i64::MAX / 2),
        filters: filter("container", &outcome.id),
    };
    let events = engine.events(query).await.expect("events");
    let events: Vec<_> = within(events.take(6).map(|e| e.expect("event")).collect()).await;
    let actions: Vec<_> = events.iter().map(|e| e.action.as_str()).collect();
    assert_eq!(actions, ["create", "attach", "connect", "start", "disconnect", "die"]);
    let die = &events[5];
    assert_eq!(
        (die.actor.attributes["exitCode"].as_str(), die.from.as_str(), die.id.as_str()),
        ("2", IMAGE, outcome.id.as_str())
    );
    let info = engine.info().await.expect("info");
    assert_eq!((info.containers, info.containers_stopped, info.images, info.name.as_str()), (1, 1, 1, "test"));
    let version = engine.version().await.expect("version");
    assert_eq!(
        (version.api_version.as_str(), version.min_api_version.as_str(), version.os.as_str()),
        ("1.50", "1.24", "linux")
    );
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_go_are_told_by_name_and_by_id_also_when_pruned() {
    let host = Host::new();
    let engine = host.open().await;
    let maker = run(&engine, Some("maker"), script("head -c 5000 /bin/busybox > /data")).await;
    let commit = async |tag: &str| {
        let options = Commit { container: maker.id.clone(), repo: "made".into(), tag: tag.into(), ..Commit::default() };
        engine.commit(options, None).await.expect("committed")
    };
    let told = async |from: muster_model::Timestamp| {
        let query = EventsQuery { since: from, until: now(), filters: filter("type", "image") };
        let events = engine.events(query).await.expect("events").map(|e| e.expect("event"));
        let of = |e: muster_model::engine::EventMessage| {
            (e.action, e.actor.id, e.actor.attributes.get("name").cloned().unwrap_or_default())
        };
        events.map(of).collect::<Vec<_>>().await
    };
    let told_of = |action: &str, id: &str, name: &str| (action.to_owned(), id.to_owned(), name.to_owned());

    let first = commit("1").await;
    let begun = now();
    engine.image_tag("made:1", "made".into(), "also".into()).await.expect("tagged");
    engine.image_remove("made:1", false, false).await.expect("one name");
    engine.image_remove("made:also", false, false).await.expect("the last one");
    assert_eq!(
        told(begun).await,
        [
            told_of("tag", &first, "made:also"),
            told_of("untag", &first, "made:1"),
            told_of("untag", &first, "made:also"),
            told_of("delete", &first, &first)
        ]
    );

    let second = commit("2").await;
    let begun = now();
    let report = engine.image_prune(filter("dangling", "false")).await.expect("pruned");
    let gone = report.images_deleted.expect("said");
    assert_eq!((gone[0].untagged.as_str(), gone[1].deleted.as_str(), gone.len()), ("made:2", second.as_str(), 3));
    assert_eq!(report.space_reclaimed, 5000, "what the layer held");
    let told = told(begun).await;
    assert_eq!(told[..2], [told_of("untag", &second, "made:2"), told_of("delete", &second, &second)]);
    assert_eq!((told[2].0.as_str(), told.len()), ("prune", 3));
    host.finish(engine).await;
}

fn now() -> muster_model::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    muster_model::Timestamp(since.as_nanos() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_has_to_be_there_when_a_container_starts_and_not_before() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = command(&["sleep", "300"]);
    body.host_config.network_mode = "later".into();
    let settings = EndpointSettings { aliases: vec!["alt".into()], ..EndpointSettings::default() };
    body.networking_config.endpoints_config.insert("later".into(), Some(settings));
    let id = engine.container_create(Some("early".into()), String::new(), body).await.expect("created").id;
    let refused = engine.container_start(&id).await.expect_err("no network");
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (Kind::NotFound, "failed to set up container networking: network later not found")
    );
    let seen = inspect(&engine, &id).await;
    assert_eq!((seen.state.status.as_str(), seen.state.exit_code), ("created", 128));
    assert_eq!(seen.network_settings.networks["later"].network_id, "");
    let network = network(&*engine, "later", "10.213.8.0/24").await;
    engine.container_start(&id).await.expect("started");
    let place = inspect(&engine, &id).await.network_settings.networks["later"].clone();
    assert_eq!((place.network_id.as_str(), place.ip_address.as_str()), (network.as_str(), "10.213.8.2"));
    assert_eq!(place.dns_names, ["early", &id[..12], "alt"]);
    let connect = NetworkConnect { container: id.clone(), endpoint_config: None };
    assert_eq!(engine.network_connect("nonesuch", connect).await.expect_err("no network").kind, Kind::NotFound);
    host.finish(engine).await;
}
