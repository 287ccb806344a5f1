//! `docker cp` into and out of the volumes, binds and images of containers that do not run.

mod common;
#[path = "common/plugin.rs"]
mod plugin;

use bytes::Bytes;
use common::{Host, command, run, script, until};
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_calls::{Commit, Engine, Kind, RemoveContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{ContainerCreateBody, ImageOptions, Mount, VolumeCreate, VolumeOptions};
use plugin::Plugin;
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

const DIR: &str = "MUSTER_TEST_HOST_DIR";
const PARENT: &str = "MUSTER_TEST_HOST_PARENT";

fn tar(entries: &[(tar::EntryType, &str, &str)]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(if *kind == tar::EntryType::Regular { content.len() as u64 } else { 0 });
        if *kind == tar::EntryType::Symlink {
            builder.append_link(&mut header, path, content).expect("link");
        } else {
            builder.append_data(&mut header, path, content.as_bytes()).expect("file");
        }
    }
    builder.into_inner().expect("tar").into()
}

async fn put(engine: &LocalEngine, id: &str, path: &str, name: &str, text: &str) -> muster_calls::Result<()> {
    put_tar(engine, id, path, tar(&[(tar::EntryType::Regular, name, text)])).await
}

async fn put_tar(engine: &LocalEngine, id: &str, path: &str, tar: Bytes) -> muster_calls::Result<()> {
    engine.archive_put(id, path.to_owned(), false, false, stream::iter([Ok(tar)]).boxed()).await
}

/// The content of a file of a container.
async fn get(engine: &LocalEngine, id: &str, path: &str) -> muster_calls::Result<String> {
    let (_, tar) = engine.archive_get(id, path.to_owned()).await?;
    let all: Vec<u8> = tar.try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat())).await?;
    let mut archive = tar::Archive::new(&all[..]);
    let entry = archive.entries().expect("tar").next().expect("one").expect("entry");
    Ok(std::io::read_to_string(entry).expect("text"))
}

async fn created(engine: &LocalEngine, body: ContainerCreateBody) -> String {
    engine.container_create(None, String::new(), body).await.expect("created").id
}

fn with_binds(body: ContainerCreateBody, binds: &[&str]) -> ContainerCreateBody {
    let mut body = body;
    body.host_config.binds = binds.iter().map(|b| (*b).to_owned()).collect();
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_to_work_in_is_there_as_soon_as_the_container_is() {
    let host = Host::new();
    let engine = host.open().await;
    let outside = host.dir.join("outside");
    fs::create_dir(&outside).expect("folder");
    let linked =
        run(&engine, None, script(&format!("ln -s {0} /out; ln -s ../../../..{0} /up", outside.display()))).await;
    let options = Commit { container: linked.id, repo: "linked".into(), tag: "1".into(), ..Commit::default() };
    engine.commit(options, None).await.expect("committed");
    let working = |image: &str, dir: &str| {
        let mut body = script("cat seen; ls -d $PWD");
        body.config.image = image.to_owned();
        dir.clone_into(&mut body.config.working_dir);
        body.host_config.readonly_rootfs = true;
        body
    };
    let changes = async |id: &str| {
        let changes = engine.container_changes(id).await.expect("changes");
        changes.into_iter().map(|c| (c.kind, c.path)).collect::<Vec<_>>()
    };

    let id = created(&engine, working("busybox:test", "/new/dir")).await;
    assert_eq!(changes(&id).await, [(1, "/new".to_owned()), (1, "/new/dir".to_owned())]);
    let mut body = working("busybox:test", "/new/dir");
    body.host_config.readonly_rootfs = false;
    let id = created(&engine, body).await;
    put(&engine, &id, "/new/dir", "seen", "copied ").await.expect("copied");
    assert_eq!(get(&engine, &id, "/new/dir/seen").await.expect("read"), "copied ");

    // What the image has stays as it is, and costs no change.
    let id = created(&engine, working("busybox:test", "/filled")).await;
    assert_eq!(changes(&id).await, []);
    let id = created(&engine, working("linked:1", "/tmp/../filled/./")).await;
    assert_eq!(changes(&id).await, []);
    let refused = engine.container_create(None, String::new(), working("busybox:test", "/filled/seed")).await;
    assert_eq!(refused.expect_err("a file").message, "Cannot mkdir: /filled/seed is not a directory");

    // Links of the image lead nowhere else than in the container.
    for dir in ["/out/deep", "/up/deep"] {
        let id = created(&engine, working("linked:1", dir)).await;
        let made = format!("{}/deep", outside.display());
        assert!(changes(&id).await.contains(&(1, made)), "{dir}: {:?}", changes(&id).await);
    }
    assert_eq!(fs::read_dir(&outside).expect("folder").count(), 0);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_of_what_is_mounted_in_a_container_that_does_not_run() {
    let host = Host::new();
    let engine = host.open().await;
    let folder = host.dir.join("mine");
    fs::create_dir(&folder).expect("folder");
    fs::write(host.dir.join("one-file"), "a file of the host").expect("file");
    let (bind, file) = (format!("{}:/deep/bind", folder.display()), format!("{}/one-file:/one", host.dir.display()));
    let mut body = with_binds(script("cat /filled/late /deep/bind/x /sub/y"), &["vol:/filled", &bind, &file]);
    let mount = |kind: &str, source: &str, target: &str| Mount {
        kind: kind.into(),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    };
    body.host_config.mounts = vec![
        Mount { image_options: Some(ImageOptions::default()), ..mount("image", common::IMAGE, "/image") },
        Mount {
            volume_options: Some(VolumeOptions { subpath: "inner".into(), ..VolumeOptions::default() }),
            ..mount("volume", "parted", "/sub")
        },
    ];
    let id = created(&engine, body).await;
    fs::create_dir(host.dir.join("data/volumes/parted/_data/inner")).expect("subpath");
    assert_eq!(get(&engine, &id, "/filled/seed").await.expect("filled at create"), "from the image\n");
    put(&engine, &id, "/filled", "late", "into the volume\n").await.expect("copied into the volume");
    put(&engine, &id, "/deep/bind", "x", "into the bind\n").await.expect("copied into the bind");
    put(&engine, &id, "/sub", "y", "into a part\n").await.expect("copied into a part of a volume");
    assert_eq!(fs::read_to_string(folder.join("x")).expect("in the host's folder"), "into the bind\n");
    let volume = |path: &str| fs::read_to_string(host.dir.join("data/volumes").join(path));
    assert_eq!(volume("vol/_data/late").expect("in the volume"), "into the volume\n");
    assert_eq!(volume("parted/_data/inner/y").expect("in its part"), "into a part\n");
    assert_eq!(get(&engine, &id, "/one").await.expect("a file that is mounted"), "a file of the host");
    assert_eq!(get(&engine, &id, "/image/filled/seed").await.expect("an image"), "from the image\n");
    assert_eq!(engine.archive_stat(&id, "/filled/late".into()).await.expect("there").size, 16);
    until("the roots are unmounted", || async { host.mounts().is_empty() }).await;

    // What was copied in is what the container sees, and after its end it is there as well.
    let ended = engine.container_wait(&id, Default::default()).await.expect("waits");
    engine.container_start(&id).await.expect("started");
    assert_eq!(common::within(ended).await.expect("ended").status_code, 0);
    assert_eq!(get(&engine, &id, "/deep/bind/x").await.expect("there"), "into the bind\n");
    assert!(get(&engine, &id, "/etc/hosts").await.expect("the engine's own").contains("localhost"));
    until("the roots are unmounted", || async { host.mounts().is_empty() }).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_only_takes_no_file() {
    let host = Host::new();
    let engine = host.open().await;
    let mut body = with_binds(command(&["true"]), &["v:/ro:ro", "v:/rw"]);
    body.host_config.readonly_rootfs = true;
    let id = created(&engine, body).await;
    for (path, text) in
        [("/ro", "mounted volume is marked read-only"), ("/mnt", "container rootfs is marked read-only")]
    {
        let error = put(&engine, &id, path, "f", "x").await.expect_err("read-only");
        assert_eq!((error.kind, error.message.as_str()), (Kind::Forbidden, text));
    }
    put(&engine, &id, "/rw", "f", "x").await.expect("a writable mount of a read-only container");
    // Through an archive that reaches further than its path.
    let id = created(&engine, with_binds(command(&["true"]), &["v:/ro:ro"])).await;
    let error = put(&engine, &id, "/", "ro/g", "x").await.expect_err("read-only");
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    assert_eq!(get(&engine, &id, "/ro/f").await.expect("read"), "x");
    // Mounted where a link of the image leads.
    let id = created(&engine, command(&["true"])).await;
    put_tar(&engine, &id, "/", tar(&[(tar::EntryType::Symlink, "link", "mnt")])).await.expect("a link");
    let commit = Commit { container: id, repo: "linked".into(), ..Commit::default() };
    engine.commit(commit, None).await.expect("committed");
    let mut body = with_binds(command(&["true"]), &["v:/link/ro:ro"]);
    body.config.image = "linked".into();
    let id = created(&engine, body).await;
    for path in ["/link/ro", "/mnt/ro"] {
        let error = put(&engine, &id, path, "f", "x").await.expect_err("read-only");
        assert_eq!(error.message, "mounted volume is marked read-only", "{path}");
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_lead_through_mounts_as_the_container_sees_them_and_never_to_the_host() {
    let host = Host::new();
    let engine = host.open().await;
    let canary = host.dir.join("canary");
    fs::create_dir(&canary).expect("folder");
    fs::write(canary.join("f"), "a secret of the host").expect("file");
    let id = created(&engine, with_binds(command(&["true"]), &["v:/vol"])).await;
    let volume = host.dir.join("data/volumes/v/_data");
    fs::create_dir_all(volume.join("in")).expect("folder");
    fs::write(volume.join("in/f"), "of the volume").expect("file");
    // In the root, through the volume; in the volume, up and out, and to a path of the host.
    let links = [(tar::EntryType::Symlink, "through", "/vol/in"), (tar::EntryType::Symlink, "x", "vol/up")];
    put_tar(&engine, &id, "/", tar(&links)).await.expect("links in the root");
    symlink("../../../../../../../../..", volume.join("up")).expect("link");
    symlink(&canary, volume.join("abs")).expect("link");
    assert_eq!(get(&engine, &id, "/through/f").await.expect("through the volume"), "of the volume");
    put(&engine, &id, "/through", "g", "put").await.expect("through the volume");
    assert_eq!(fs::read_to_string(volume.join("in/g")).expect("in the volume"), "put");
    // What climbs ends at the container's root.
    assert!(get(&engine, &id, "/vol/up/etc/passwd").await.expect("the container's").contains("nobody:x:65534"));
    put(&engine, &id, "/x/tmp", "climbed", "caught").await.expect("into the container");
    assert_eq!(get(&engine, &id, "/tmp/climbed").await.expect("in the container"), "caught");
    let climbing = tar(&[(tar::EntryType::Regular, "up/tmp/z", "z")]);
    put_tar(&engine, &id, "/vol", climbing).await.expect("into the container");
    assert_eq!(get(&engine, &id, "/tmp/z").await.expect("in the container"), "z");
    put(&engine, &id, "/vol", "abs/f", "overwritten").await.expect_err("no such folder in the container");
    get(&engine, &id, "/vol/abs/f").await.expect_err("no such folder in the container");
    assert_eq!(fs::read_to_string(canary.join("f")).expect("there"), "a secret of the host");
    assert!(!std::path::Path::new("/tmp/climbed").exists() && !std::path::Path::new("/tmp/z").exists());
    host.finish(engine).await;
}

async fn with_plugins(host: &Host) -> std::sync::Arc<LocalEngine> {
    let mut config = host.config().await;
    config.plugin_dirs = vec![host.dir.join("plugins")];
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(common::IMAGE).await.is_err() {
        common::import(&*engine, common::IMAGE).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_asked_for_its_volume_while_files_are_copied_and_no_longer() {
    let host = Host::new();
    let plugin = Plugin::serve(&host.dir.join("plugins"), "shelf", &host.dir.join("shelf"));
    let engine = with_plugins(&host).await;
    let create = |name: &str, driver: &str, options: &[(&str, &str)]| VolumeCreate {
        name: name.into(),
        driver: driver.into(),
        driver_opts: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..VolumeCreate::default()
    };
    engine.volume_create(create("books", "shelf", &[])).await.expect("created");
    engine.volume_create(create("memory", "local", &[("type", "tmpfs"), ("device", "tmpfs")])).await.expect("created");
    let id = created(&engine, with_binds(command(&["true"]), &["books:/b", "memory:/m"])).await;
    let calls = |method: &str| plugin.calls(&format!("VolumeDriver.{method}")).len();
    let before = calls("Mount");
    put(&engine, &id, "/b", "page", "one").await.expect("copied");
    put(&engine, &id, "/m", "gone", "soon").await.expect("copied");
    assert_eq!(fs::read_to_string(host.dir.join("shelf/books/page")).expect("there"), "one");
    assert_eq!(calls("Mount"), before + 2, "once for each copy");
    until("each mount has its end", || async { calls("Unmount") == calls("Mount") }).await;
    until("nothing is mounted", || async { host.mounts().is_empty() }).await;
    host.finish(engine).await;
}

/// Not a test of its own: a process that is killed while a copy is under way.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_copies() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let host = Host::of(&dir, &parent);
    let shelf = std::env::var("MUSTER_TEST_SHELF").is_ok();
    let (engine, files) = if shelf {
        (with_plugins(&host).await, format!("{dir}/shelf/v"))
    } else {
        (host.open().await, format!("{dir}/data/volumes/v/_data"))
    };
    if shelf {
        let create = VolumeCreate { name: "v".into(), driver: "shelf".into(), ..VolumeCreate::default() };
        engine.volume_create(create).await.expect("created");
    }
    let id = created(&engine, with_binds(command(&["true"]), &["v:/v"])).await;
    fs::write(format!("{files}/big"), vec![7; 8 << 20]).expect("file");
    let (_, mut tar) = engine.archive_get(&id, "/v/big".into()).await.expect("begun");
    tar.next().await.expect("more").expect("bytes");
    println!("READY");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_middle_of_a_copy_leaves_no_mount() {
    let host = Host::new();
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_that_copies", "--nocapture"])
        .envs([(DIR, host.dir.as_os_str()), (PARENT, host.parent().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("READY"));
    let during = host.mounts();
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert!(ready, "the child did not get ready");
    assert!(during.len() == 1 && during[0].ends_with("/merged"), "the host sees the root only: {during:?}");
    let engine = host.open().await;
    assert_eq!(host.mounts(), Vec::<String>::new());
    let all = muster_calls::ListContainers { all: true, ..Default::default() };
    let id = engine.container_list(all).await.expect("list").items[0].id.clone();
    assert_eq!(get(&engine, &id, "/v/big").await.expect("whole").len(), 8 << 20);
    engine.container_remove(&id, RemoveContainer { force: true, volumes: true }).await.expect("removed");
    engine.volume_remove("v", false).await.expect("nobody holds it");
    run(&engine, None, command(&["true"])).await;
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_middle_of_a_copy_leaves_nothing_mounted_at_a_plugin() {
    let host = Host::new();
    let plugin = Plugin::serve(&host.dir.join("plugins"), "shelf", &host.dir.join("shelf"));
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_that_copies", "--nocapture"])
        .envs([(DIR, host.dir.as_os_str()), (PARENT, host.parent().as_ref()), ("MUSTER_TEST_SHELF", "yes".as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("READY"));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert!(ready, "the child did not get ready");
    let users = |method: &str| {
        let calls = plugin.calls(&format!("VolumeDriver.{method}"));
        let mut users: Vec<_> = calls.iter().map(|call| call["ID"].as_str().expect("given").to_owned()).collect();
        users.sort();
        users
    };
    assert_eq!(users("Mount").len(), users("Unmount").len() + 1, "it is mounted for the copy");
    let noted = || fs::read_dir(host.dir.join("data/lent")).expect("folder").count();
    assert_eq!(noted(), 1);
    // One that does not answer is asked again.
    fs::rename(host.dir.join("plugins/shelf.sock"), host.dir.join("shelf.away")).expect("away");
    let engine = with_plugins(&host).await;
    engine.shutdown().await;
    drop(engine);
    assert_eq!(noted(), 1);
    fs::rename(host.dir.join("shelf.away"), host.dir.join("plugins/shelf.sock")).expect("back");
    let engine = with_plugins(&host).await;
    assert_eq!(users("Mount"), users("Unmount"), "each mount has its end");
    assert_eq!(noted(), 0);
    host.finish(engine).await;
}
