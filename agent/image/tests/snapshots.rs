//! Root file systems of containers: mounted, read, changed, committed, removed.

mod common;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use common::{Packing, TestImage, TestLayer, TestResult, assert_root, open, tar_of, words};
use muster_image::{Change, ChangeKind, Commit, ContainerConfig, Error, Image, Reference, RootFs, Store, Usage};

/// Unmounts when a test ends, however it ends.
struct Mounted<'a>(&'a RootFs);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0.merged, rustix::mount::UnmountFlags::DETACH);
    }
}

async fn loaded(store: &Store, image: &TestImage, name: &str) -> Result<Image, Error> {
    store.load(Cursor::new(image.docker_archive(&[name])), &muster_image::Platform::host(), words().0).await?;
    store.resolve(name)
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_of_130_layers_is_mounted_and_read() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let layer = |n: usize| {
        let (own, text) = (format!("dir/file{n}"), n.to_string());
        let hidden = format!("dir/.wh.file{}", n.wrapping_sub(100));
        let mut files = vec![(own.as_str(), text.as_bytes()), ("top", text.as_bytes())];
        if n >= 100 {
            files.push((&hidden, b""));
        }
        TestLayer::new(tar_of(&files), Packing::Plain)
    };
    let image = loaded(&store, &TestImage::new((0..130).map(layer).collect()), "deep:1").await?;
    let root_fs = store.prepare(&image, "deep").await?;
    assert_eq!(root_fs.lowerdirs.len(), 130);
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    store.mount(&root_fs).await?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    assert_eq!(mounts.lines().filter(|line| line.split(' ').nth(4) == root_fs.merged.to_str()).count(), 1);
    let read = |path: &str| fs::read_to_string(root_fs.merged.join(path));
    assert_eq!((read("top")?, read("dir/file129")?, read("dir/file30")?), ("129".into(), "129".into(), "30".into()));
    assert!(read("dir/file29").is_err() && read("dir/file0").is_err(), "layers 100 to 129 hide files 0 to 29");
    assert_eq!(fs::read_dir(root_fs.merged.join("dir"))?.count(), 100);
    store.unmount(&root_fs).await?;
    store.unmount(&root_fs).await?;
    assert!(!is_mounted(&root_fs.merged));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_changes_are_listed_and_become_a_layer() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = loaded(&store, &TestImage::small("base"), "base:1").await?;
    let root_fs = store.prepare(&image, "c1").await?;
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    let merged = &root_fs.merged;
    assert_eq!(fs::metadata(merged)?.mode() & 0o777, 0o755);
    assert!(!merged.join("etc/hidden").exists(), "the second layer hides it");
    fs::write(merged.join("etc/name"), "changed")?;
    fs::write(merged.join("etc/hidden"), "new")?;
    fs::remove_file(merged.join("third"))?;
    fs::create_dir_all(merged.join("new/folder"))?;
    fs::hard_link(merged.join("etc/name"), merged.join("new/name"))?;
    fs::rename(merged.join("second"), merged.join("new/second"))?;
    let change = |path: &str, kind| Change { path: path.into(), kind };
    use ChangeKind::{Added, Deleted, Modified};
    let expected = [
        change("/etc", Modified),
        change("/etc/hidden", Added),
        change("/etc/name", Modified),
        change("/new", Added),
        change("/new/folder", Added),
        change("/new/name", Added),
        change("/new/second", Added),
        change("/second", Deleted),
        change("/third", Deleted),
    ];
    assert_eq!(store.changes("c1").await?, expected);
    let config = ContainerConfig { cmd: Some(vec!["new".into()]), ..image.config.config.clone() };
    let commit =
        Commit { reference: Some(Reference::parse("made:1")?), config, comment: "hello".into(), ..Commit::default() };
    let made = store.commit("c1", commit).await?;
    assert_eq!((made.parent, made.layers.len()), (Some(image.id), 4));
    assert_eq!(made.config.config.cmd, Some(vec!["new".to_owned()]));
    let second = store.prepare(&made, "c2").await?;
    let _second = Mounted(&second);
    store.mount(&second).await?;
    let read = |path: &str| fs::read_to_string(second.merged.join(path));
    assert_eq!(
        (read("etc/name")?, read("etc/hidden")?, read("new/second")?),
        ("changed".into(), "new".into(), "2".into())
    );
    assert_eq!(fs::metadata(second.merged.join("new/name"))?.nlink(), 2);
    assert!(read("third").is_err() && read("second").is_err());
    let layer = folder.path().join("layers").join(made.layers[3].chain_id.hex()).join("diff");
    assert!(fs::symlink_metadata(layer.join("third"))?.file_type().is_char_device());
    assert_eq!(store.changes("c2").await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_and_remade_folder_hides_what_was_in_it_after_a_commit() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let layer = TestLayer::new(tar_of(&[("dir/old", b"old"), ("keep", b"keep")]), Packing::Gzip);
    let image = loaded(&store, &TestImage::new(vec![layer]), "opaque:1").await?;
    let root_fs = store.prepare(&image, "c1").await?;
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    fs::remove_dir_all(root_fs.merged.join("dir"))?;
    fs::create_dir(root_fs.merged.join("dir"))?;
    fs::write(root_fs.merged.join("dir/new"), "new")?;
    let made = store.commit("c1", Commit::default()).await?;
    let second = store.prepare(&made, "c2").await?;
    let _second = Mounted(&second);
    store.mount(&second).await?;
    let names: Vec<_> =
        fs::read_dir(second.merged.join("dir"))?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    assert_eq!(names, ["new"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_outlive_their_image_while_a_container_stands_on_them() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = loaded(&store, &TestImage::small("pin"), "pin:1").await?;
    let root_fs = store.prepare(&image, "c1").await?;
    store.remove("pin:1", false, true, Usage::default()).await?;
    assert!(root_fs.lowerdirs.iter().all(|lower| lower.is_dir()));
    assert_eq!(store.prepare(&image, "c1").await?, root_fs, "preparing again is fine");
    assert_eq!(store.root_fs("c1").await?, root_fs);
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    assert!(store.snapshots().await?.iter().any(|s| s.id == "c1" && s.mounted));
    store.remove_snapshot("c1").await?;
    assert!(!is_mounted(&root_fs.merged) && store.snapshots().await?.is_empty());
    assert!(matches!(store.remove_snapshot("c1").await, Err(Error::NoSuchSnapshot(_))));
    store.collect().await?;
    assert!(root_fs.lowerdirs.iter().all(|lower| !lower.exists()));
    assert!(matches!(store.prepare(&image, "c2").await, Err(Error::NoSuchImage(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_outlive_the_process_and_are_listed() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = loaded(&store, &TestImage::small("stray"), "stray:1").await?;
    let other = loaded(&store, &TestImage::small("other"), "other:1").await?;
    let root_fs = store.prepare(&image, "c1").await?;
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    fs::write(root_fs.merged.join("mine"), "mine")?;
    drop(store);
    let store = open(folder.path())?;
    let found = store.snapshots().await?;
    assert_eq!((found.len(), found[0].id.as_str(), found[0].mounted), (1, "c1", true));
    assert!(matches!(store.prepare(&other, "c1").await, Err(Error::SnapshotExists(_))));
    let again = store.root_fs("c1").await?;
    store.mount(&again).await?;
    assert_eq!(fs::read_to_string(again.merged.join("mine"))?, "mine");
    for bad in ["", ".", "..", "a/b", "../x", "-a", "a b", "é"] {
        assert!(matches!(store.prepare(&image, bad).await, Err(Error::InvalidSnapshotId(_))), "{bad:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_can_be_written_to() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = store.derive(None, Commit::default()).await?;
    let root_fs = store.prepare(&image, "empty").await?;
    let _mounted = Mounted(&root_fs);
    store.mount(&root_fs).await?;
    assert_eq!(fs::read_dir(&root_fs.merged)?.count(), 0);
    fs::write(root_fs.merged.join("file"), "1")?;
    let made = store.commit("empty", Commit::default()).await?;
    assert_eq!((made.size, made.layers.len()), (1, 1));
    Ok(())
}
