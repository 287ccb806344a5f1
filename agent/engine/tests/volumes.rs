//! Volumes: options of the local driver, drivers by Docker's plugin protocol, what prune takes and what it leaves.

mod common;
#[path = "common/plugin.rs"]
mod plugin;

use common::{Host, command, inspect, run, script, start};
use futures_util::StreamExt;
use muster_calls::{Engine, EventsQuery, Filters, Kind, RemoveContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{DriverConfig, Mount, Strings, VolumeCreate, VolumeOptions};
use plugin::Plugin;
use std::{fs, sync::Arc};

const ALL: RemoveContainer = RemoveContainer { force: true, volumes: true };

fn strings(pairs: &[(&str, &str)]) -> Strings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn local(name: &str, options: &[(&str, &str)]) -> VolumeCreate {
    VolumeCreate { name: name.into(), driver_opts: strings(options), ..VolumeCreate::default() }
}

fn of_driver(name: &str, driver: &str) -> VolumeCreate {
    VolumeCreate { name: name.into(), driver: driver.into(), ..VolumeCreate::default() }
}

/// What a container prints that has a volume at a path.
async fn printed(engine: &LocalEngine, bind: &str, text: &str) -> String {
    let mut body = script(text);
    body.host_config.binds = vec![bind.to_owned()];
    let outcome = run(engine, None, body).await;
    engine.container_remove(&outcome.id, ALL).await.expect("removed");
    outcome.stdout + &outcome.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_local_driver_are_a_mount_while_somebody_uses_it() {
    let host = Host::new();
    let engine = host.open().await;
    let tmpfs = local("memory", &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=65534,nosuid")]);
    let made = engine.volume_create(tmpfs).await.expect("created");
    assert_eq!(made.options.get("o").map(String::as_str), Some("size=1m,uid=65534,nosuid"));
    let out = printed(&engine, "memory:/d", "grep ' /d ' /proc/mounts; stat -c %u /d").await;
    assert!(out.contains("size=1024k") && out.contains("nosuid") && out.ends_with("65534\n"), "{out}");
    let mounted = || host.mounts().iter().filter(|m| m.contains("/volumes/memory/")).count();
    assert_eq!(mounted(), 0, "unmounted after its last user");

    let mut body = script("echo kept > /d/f; sleep 300");
    body.host_config.binds = vec!["memory:/d".into()];
    let one = start(&engine, "one", body).await;
    let seen = || async { printed(&engine, "memory:/e", "cat /e/f 2>/dev/null").await == "kept\n" };
    common::until("two containers see one tmpfs", seen).await;
    assert_eq!(mounted(), 1);
    // A restart of the daemon leaves it, and takes it away with the last container.
    engine.shutdown().await;
    drop(engine);
    let engine = host.open().await;
    assert_eq!(mounted(), 1);
    engine.container_remove(&one, ALL).await.expect("removed");
    assert_eq!(mounted(), 0);
    engine.volume_remove("memory", false).await.expect("removed");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_host_is_a_volume_filled_from_the_image_and_left_behind() {
    let host = Host::new();
    let engine = host.open().await;
    let folder = host.dir.join("mine");
    fs::create_dir(&folder).expect("folder");
    let device = folder.to_string_lossy().into_owned();
    engine
        .volume_create(local("bound", &[("type", "none"), ("o", "bind"), ("device", &device)]))
        .await
        .expect("created");
    assert_eq!(printed(&engine, "bound:/filled", "cat /filled/seed; echo x > /filled/y").await, "from the image\n");
    assert_eq!(fs::read_to_string(folder.join("y")).expect("written through"), "x\n");
    engine.volume_remove("bound", false).await.expect("removed");
    assert!(folder.join("y").exists() && folder.join("seed").exists(), "what is the host's stays");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_said_with_the_kernels_reason() {
    let host = Host::new();
    let engine = host.open().await;
    for (options, named) in [
        (&[("bogus", "1")][..], "invalid option: \"bogus\""),
        (&[("type", "nfs")], "missing required option: \"device\""),
        (&[("size", "1g")], "size"),
    ] {
        let error = engine.volume_create(local("bad", options)).await.expect_err("refused");
        assert!(error.message.contains(named), "{error}");
    }
    assert_eq!(engine.volume_inspect("bad").await.expect_err("not made").kind, Kind::NotFound);
    engine
        .volume_create(local("away", &[("type", "none"), ("o", "bind"), ("device", "/nonesuch")]))
        .await
        .expect("created");
    let mut body = script("true");
    body.host_config.binds = vec!["away:/d".into()];
    let error = engine.container_create(Some("gone".into()), String::new(), body).await.expect_err("no such folder");
    assert!(error.message.contains("failed to mount local volume: mount /nonesuch"), "{error}");
    assert!(engine.container_inspect("gone", false).await.is_err(), "nothing is half-made");
    if !fs::read_to_string("/proc/filesystems").expect("list").lines().any(|l| l.trim() == "nfs") {
        let nfs = [("type", "nfs"), ("o", "addr=127.0.0.1,soft,timeo=1,retrans=1"), ("device", ":/x")];
        engine.volume_create(local("net", &nfs)).await.expect("created");
        let mut body = script("true");
        body.host_config.binds = vec!["net:/d".into()];
        let error = engine.container_create(None, String::new(), body).await.expect_err("no nfs");
        assert!(error.message.contains("this kernel has no file system \"nfs\""), "{error}");
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_takes_unused_local_volumes_without_options_and_of_those_the_anonymous_ones_first() {
    let host = Host::new();
    let engine = host.open().await;
    engine.volume_create(local("named", &[])).await.expect("created");
    engine.volume_create(local("opted", &[("type", "tmpfs"), ("device", "tmpfs")])).await.expect("created");
    let anonymous = engine.volume_create(VolumeCreate::default()).await.expect("created").name;
    let mut holder = command(&["true"]);
    holder.host_config.binds = vec!["held:/d".into()];
    engine.container_create(Some("holder".into()), String::new(), holder).await.expect("created");
    let pruned = engine.volume_prune(Filters::default()).await.expect("pruned").volumes_deleted;
    assert_eq!(pruned, Some(vec![anonymous]));
    let mut all = Filters::default();
    all.add("all", "true");
    assert_eq!(engine.volume_prune(all).await.expect("pruned").volumes_deleted, Some(vec!["named".to_owned()]));
    let left: Vec<_> =
        engine.volume_list(Filters::default()).await.expect("list").volumes.into_iter().map(|v| v.name).collect();
    assert_eq!(left, ["held", "opted"]);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_a_mount_are_made_with_its_labels_driver_and_options() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = script("grep -c ' /d tmpfs' /proc/mounts");
    let options = VolumeOptions {
        labels: strings(&[("made", "for me")]),
        driver_config: Some(DriverConfig {
            name: "local".into(),
            options: strings(&[("type", "tmpfs"), ("device", "tmpfs")]),
        }),
        ..VolumeOptions::default()
    };
    body.host_config.mounts = vec![Mount {
        kind: "volume".into(),
        source: "fresh".into(),
        target: "/d".into(),
        volume_options: Some(options),
        ..Mount::default()
    }];
    assert_eq!(run(&engine, None, body).await.stdout, "1\n");
    let made = engine.volume_inspect("fresh").await.expect("made");
    assert_eq!(made.labels.get("made").map(String::as_str), Some("for me"));
    host.finish(engine).await;
}

async fn with_plugin(host: &Host) -> (Arc<LocalEngine>, Plugin) {
    let folder = host.dir.join("plugins");
    let plugin = Plugin::serve(&folder, "shelf", &host.dir.join("shelf"));
    (open(host).await, plugin)
}

async fn open(host: &Host) -> Arc<LocalEngine> {
    let mut config = host.config().await;
    config.plugin_dirs = vec![host.dir.join("plugins")];
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(common::IMAGE).await.is_err() {
        common::import(&*engine, common::IMAGE).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_volume_is_made_mounted_unmounted_and_removed_by_the_plugin() {
    let host = Host::new();
    let (engine, plugin) = with_plugin(&host).await;
    assert!(engine.info().await.expect("info").plugins.volume.contains(&"shelf".to_owned()));
    let mut create = of_driver("books", "shelf");
    create.driver_opts = strings(&[("colour", "red")]);
    let made = engine.volume_create(create).await.expect("created");
    assert_eq!((made.driver.as_str(), made.scope.as_str()), ("shelf", "global"));
    assert_eq!(made.status.get("made").map(String::as_str), Some("by a test"));
    assert_eq!(plugin.calls("VolumeDriver.Create")[0]["Opts"]["colour"], "red");
    let refused = engine.volume_create(local("books", &[("type", "tmpfs"), ("device", "tmpfs")])).await;
    assert_eq!(refused.expect("an existing one is taken as it is").driver, "shelf");
    let refused = engine.volume_create(of_driver("books", "local")).await.expect_err("another driver's");
    assert_eq!(refused.kind, Kind::Conflict);

    let mut body = script("cat /filled/seed; echo read > /filled/log; sleep 300");
    body.host_config.binds = vec!["books:/filled".into()];
    let id = start(&engine, "reader", body).await;
    let file = host.dir.join("shelf/books/log");
    common::until("it writes into the plugin's folder", || async { file.exists() }).await;
    assert!(host.dir.join("shelf/books/seed").exists(), "filled from the image");
    let shown = inspect(&engine, &id).await.mounts;
    assert_eq!(
        (shown[0].driver.as_str(), shown[0].source.as_str()),
        ("shelf", &*file.parent().unwrap_or(&file).to_string_lossy())
    );
    let in_use = engine.volume_remove("books", false).await.expect_err("in use");
    assert_eq!(in_use.kind, Kind::Conflict);

    // Killed while no daemon is there: the next one tells the plugin.
    let pid = inspect(&engine, &id).await.state.pid;
    engine.shutdown().await;
    drop(engine);
    let before = plugin.calls("VolumeDriver.Unmount").len();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).expect("killed");
    common::until("gone", || async { !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists() }).await;
    let engine = open(&host).await;
    assert_eq!(common::state(&engine, &id).await, "exited");
    assert_eq!(plugin.calls("VolumeDriver.Unmount").len(), before + 1);
    let mounts = plugin.calls("VolumeDriver.Mount");
    assert_eq!(mounts.len(), plugin.calls("VolumeDriver.Unmount").len(), "each mount has its end: {mounts:?}");
    engine.container_remove(&id, ALL).await.expect("removed");
    engine.volume_remove("books", false).await.expect("removed");
    assert_eq!(plugin.calls("VolumeDriver.Remove").len(), 1);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_or_is_away_is_named_and_hangs_no_list() {
    let host = Host::new();
    let (engine, plugin) = with_plugin(&host).await;
    let mut failing = of_driver("bad", "shelf");
    failing.driver_opts = strings(&[("fail", "yes")]);
    let error = engine.volume_create(failing).await.expect_err("it fails");
    assert!(error.message.contains("told to fail"), "{error}");
    let error = engine.volume_create(of_driver("x", "nonesuch")).await.expect_err("no such plugin");
    assert_eq!(
        (error.kind, error.message.as_str()),
        (Kind::NotFound, "create x: error looking up volume plugin nonesuch: plugin \"nonesuch\" not found")
    );
    engine.volume_create(of_driver("books", "shelf")).await.expect("created");
    drop(plugin);
    fs::write(host.dir.join("plugins/shelf.sock"), "").expect("a dead socket");
    let list = engine.volume_list(Filters::default()).await.expect("list");
    assert_eq!(list.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["books"]);
    assert!(list.warnings.iter().any(|w| w.contains("shelf")), "{:?}", list.warnings);
    let mut body = script("true");
    body.host_config.binds = vec!["books:/d".into()];
    let error = engine.container_create(None, String::new(), body).await.expect_err("away");
    assert!(error.message.contains("shelf"), "{error}");
    engine.volume_remove("books", true).await.expect("by force the record goes");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounting_and_unmounting_are_events_with_the_container() {
    let host = Host::new();
    let engine = host.open().await;
    let since = muster_model::Timestamp::from_millis(1);
    printed(&engine, "told:/d:ro", "true").await;
    let until = muster_model::Timestamp::from_millis(i64::MAX / 2_000_000);
    let query = EventsQuery { since, until, ..EventsQuery::default() };
    let mut events = engine.events(query).await.expect("events");
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("unmount") {
        let event = common::within(events.next()).await.expect("more").expect("event");
        if event.kind == "volume" {
            if event.action == "mount" {
                let attribute = |key: &str| event.actor.attributes.get(key).cloned();
                assert_eq!(attribute("read/write"), Some("false".to_owned()));
                assert!(attribute("container").is_some_and(|id| id.len() == 64));
            }
            seen.push(event.action);
        }
    }
    assert_eq!(seen, ["create", "mount", "unmount"]);
    host.finish(engine).await;
}
