//! Loading, saving and importing images, their names, their removal.

mod common;

use std::fs;
use std::io::Cursor;

use common::{Packing, Tar, TestImage, TestLayer, TestResult, assert_root, gzip, open, tar_of, words};
use muster_image::{Commit, ContainerConfig, Digest, Error, Import, Platform, Reference, Removed, Store, Usage};

async fn load(store: &Store, archive: Vec<u8>) -> muster_image::Result<Vec<muster_image::Loaded>> {
    store.load(Cursor::new(archive), &muster_image::Platform::host(), words().0).await
}

/// Saves into memory.
async fn save(store: &Store, names: &[&str]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let file = tempfile::NamedTempFile::new()?;
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    store.save(&names, tokio::fs::File::from_std(file.reopen()?)).await?;
    Ok(fs::read(file.path())?)
}

/// One file of an archive.
fn member(archive: &[u8], name: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if *entry.path()? == *std::path::Path::new(name) {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content)?;
            return Ok(content);
        }
    }
    Err(format!("{name} is not in the archive").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_docker_are_loaded_plain_and_compressed() -> TestResult {
    assert_root();
    let image = TestImage::small("load");
    let archive = image.docker_archive(&["busybox:e2e", "127.0.0.1:5000/x:2"]);
    let zstd = zstd::encode_all(&archive[..], 1)?;
    for archive in [archive.clone(), gzip(&archive), zstd] {
        let folder = tempfile::tempdir()?;
        let store = open(folder.path())?;
        let loaded = load(&store, archive).await?;
        assert_eq!((loaded.len(), loaded[0].id), (1, image.id()));
        assert_eq!(loaded[0].names, ["busybox:e2e", "127.0.0.1:5000/x:2"]);
        let found = store.resolve("busybox:e2e")?;
        assert_eq!(found.raw_config, image.config);
        let top = folder.path().join("layers").join(found.layers[0].chain_id.hex()).join("diff/etc/name");
        assert_eq!(fs::read_to_string(top)?, "load");
        assert_eq!(fs::read_dir(folder.path().join("ingest"))?.count(), 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_image_loads_with_the_same_manifest_and_the_same_bytes() -> TestResult {
    let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (one, two) = (TestImage::small("one"), TestImage::large(2, 5000));
    let store = open(here.path())?;
    load(&store, one.docker_archive(&["app:1", "app:2"])).await?;
    load(&store, two.docker_archive(&["other:1"])).await?;
    let saved = save(&store, &["app", "other:1"]).await?;
    assert_eq!(saved, save(&store, &["other:1", "app:2", "app:1"]).await?, "the same images, the same bytes");
    let top = |name: &str| store.resolve(name).map(|image| image.layers.last().map(|layer| layer.blob.hex()));
    let names: serde_json::Value = serde_json::from_slice(&member(&saved, "repositories")?)?;
    assert_eq!(
        names,
        serde_json::json!({ "app": { "1": top("app:1")?, "2": top("app:1")? }, "other": { "1": top("other:1")? } }),
        "what older tools read"
    );
    let other = open(there.path())?;
    let loaded = load(&other, saved).await?;
    assert_eq!(loaded.len(), 2);
    for (image, name) in [(&one, "app:1"), (&one, "app:2"), (&two, "other:1")] {
        let (before, after) = (store.resolve(name)?, other.resolve(name)?);
        assert_eq!((after.id, after.manifest), (image.id(), before.manifest));
        other.verify(&after.id).await?;
    }
    let id = one.id().to_string();
    let by_id = save(&store, &[&id]).await?;
    assert!(member(&by_id, "repositories").is_err(), "no names, no table of names");
    let third = tempfile::tempdir()?;
    let store = open(third.path())?;
    assert!(load(&store, by_id).await?[0].names.is_empty(), "by id nothing is named");
    assert!(matches!(save(&store, &["none"]).await, Err(error) if error.to_string() == "No such image: none"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn old_archives_with_links_between_layers_are_loaded() -> TestResult {
    let layer = TestLayer::new(tar_of(&[("same", b"same")]), Packing::Plain);
    let image = TestImage::new(vec![layer.clone(), layer.clone()]);
    let mut tar = Tar::new();
    tar.file("a/layer.tar", &layer.tar);
    tar.symlink("b/layer.tar", "../a/layer.tar");
    tar.file("c.json", &image.config);
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    tar.file("manifest.json", manifest.to_string().as_bytes());
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let loaded = load(&store, tar.finish()).await?;
    assert_eq!((loaded[0].id, loaded[0].names.len()), (image.id(), 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_none_or_lie_are_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    assert!(matches!(load(&store, tar_of(&[("file", b"x")])).await, Err(Error::InvalidArchive(_))));
    assert!(matches!(load(&store, Vec::new()).await, Err(Error::InvalidArchive(_))));
    assert!(load(&store, b"no tar at all".to_vec()).await.is_err());
    let image = TestImage::small("cut");
    let whole = image.docker_archive(&["cut:1"]);
    assert!(load(&store, whole[..whole.len() / 2].to_vec()).await.is_err());
    let mut lying = image.clone();
    lying.layers[0].tar = tar_of(&[("other", b"other")]);
    assert!(matches!(load(&store, lying.docker_archive(&["lie:1"])).await, Err(Error::CorruptBlob { .. })));
    let mut escape = Tar::new();
    escape.file("../../evil", b"x");
    assert!(load(&store, escape.finish()).await.is_err());
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(folder.path().join("ingest"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_file_system_becomes_an_image() -> TestResult {
    let busybox = fs::read("/bin/busybox")?;
    let tar = tar_of(&[("bin/sh", &busybox)]);
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let config = ContainerConfig { cmd: Some(vec!["sh".into()]), ..ContainerConfig::default() };
    let reference = Some(Reference::parse("im:1")?);
    let commit = Commit { reference, config, comment: "Imported from -".into(), ..Commit::default() };
    let import = Import { commit, platform: Platform::host() };
    let image = store.import(Cursor::new(gzip(&tar)), import).await?;
    assert_eq!((image.repo_tags.as_slice(), image.size), (&["im:1".to_owned()][..], busybox.len() as u64));
    assert_eq!(image.layers[0].diff_id, Digest::of(&tar));
    let history = store.history(&image);
    assert_eq!((history.len(), history[0].comment.as_str(), history[0].size), (1, "Imported from -", image.size));
    assert_eq!(history[0].tags, ["im:1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_by_name_by_id_and_by_prefix() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = TestImage::small("find");
    load(&store, image.docker_archive(&["deadbeef:latest", "find:1"])).await?;
    let hex = image.id().hex();
    for text in [
        "find:1",
        "docker.io/library/find:1",
        "deadbeef",
        &hex,
        &hex[..12],
        &hex[..4],
        &format!("sha256:{hex}"),
        &format!("sha256:{}", &hex[..7]),
        &format!("find@sha256:{hex}"),
    ] {
        assert_eq!(store.resolve(text).map(|found| found.id).ok(), Some(image.id()), "{text}");
    }
    for text in ["find", "find:2", "none", &format!("{}0", &hex[..63])] {
        assert!(matches!(store.resolve(text), Err(Error::NoSuchImage(_))), "{text}");
    }
    assert!(matches!(store.resolve("UPPER!"), Err(Error::InvalidReference(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_name_takes_the_image_with_it() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = TestImage::small("rmi");
    load(&store, image.docker_archive(&["a:1", "b:1"])).await?;
    let chain: Vec<Removed> = store.resolve("a:1")?.chain_ids().into_iter().map(Removed::Layer).collect();
    let free = Usage::default;
    assert_eq!(store.remove("a:1", false, true, free()).await?, [Removed::Untagged("a:1".into())]);
    let removed = store.remove("b:1", false, true, free()).await?;
    assert_eq!(removed[..2], [Removed::Untagged("b:1".into()), Removed::Deleted(image.id())]);
    assert!(removed.len() == 5 && chain.iter().all(|layer| removed.contains(layer)));
    assert!(matches!(store.remove("b:1", false, true, free()).await, Err(Error::NoSuchImage(_))));
    assert_eq!(fs::read_dir(folder.path().join("blobs/sha256"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn used_images_are_kept_unless_forced_as_docker_does() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = TestImage::small("used");
    load(&store, image.docker_archive(&["u:1", "v:1"])).await?;
    let user = || [(image.id(), "0123456789abcdef".to_owned())].into();
    let running = || Usage { running: user(), ..Usage::default() };
    let stopped = || Usage { stopped: user(), ..Usage::default() };
    let short = image.id().short();
    let text = |result: muster_image::Result<Vec<Removed>>| result.err().map(|error| error.to_string());
    assert_eq!(
        text(store.remove(&short, false, true, Usage::default()).await),
        Some(format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        ))
    );
    assert_eq!(store.remove("v:1", false, true, running()).await?.len(), 1, "another name is left");
    assert_eq!(
        text(store.remove("u:1", false, true, stopped()).await),
        Some(format!(
            "conflict: unable to remove repository reference \"u:1\" (must force) - container 0123456789ab is using its referenced image {short}"
        ))
    );
    assert_eq!(
        text(store.remove(&short, false, true, stopped()).await),
        Some(format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
        ))
    );
    assert_eq!(
        text(store.remove(&short, true, true, running()).await),
        Some(format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
        ))
    );
    assert_eq!(store.remove("u:1", true, true, running()).await?, [Removed::Untagged("u:1".into())]);
    assert!(store.get(&image.id()).is_some_and(|image| image.repo_tags.is_empty()), "it runs on, unnamed");
    assert_eq!(store.prune(true, running(), |_| true).await?.removed, []);
    let layers = store.disk_usage().await?.layers;
    let report = store.prune(false, Usage::default(), |_| true).await?;
    assert_eq!(report.removed.first(), Some(&Removed::Deleted(image.id())));
    assert_eq!(report.reclaimed, layers, "what its layers held, and no more");
    assert!(layers > 0 && store.list().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_stay_while_children_need_them_and_go_with_them() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let image = TestImage::small("parent");
    load(&store, image.docker_archive(&["parent:1"])).await?;
    let parent = store.resolve("parent:1")?;
    let commit = |name: &str| Commit {
        reference: Reference::parse(name).ok(),
        config: ContainerConfig { env: vec!["A=b".into()], ..ContainerConfig::default() },
        created_by: "ENV A=b".into(),
        ..Commit::default()
    };
    let child = store.derive(Some(&parent), commit("child:1")).await?;
    assert_eq!((child.parent, child.chain_ids()), (Some(parent.id), parent.chain_ids()));
    let history = store.history(&child);
    assert_eq!((history.len(), history[0].created_by.as_str(), history[0].size), (4, "ENV A=b", 0));
    assert_eq!((history[1].id, history[2].id), (Some(parent.id), None));
    assert!(matches!(store.remove("parent:1", false, true, Usage::default()).await, Err(Error::Conflict(_))));
    store.untag(&Reference::parse("parent:1")?).await?;
    let removed = store.remove("child:1", false, true, Usage::default()).await?;
    assert_eq!(
        removed[..3],
        [Removed::Untagged("child:1".into()), Removed::Deleted(child.id), Removed::Deleted(parent.id)]
    );
    assert!(store.list().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_and_leaves_the_old_image_unnamed() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let (old, new) = (TestImage::small("old"), TestImage::small("new"));
    load(&store, old.docker_archive(&["moving:1"])).await?;
    load(&store, new.docker_archive(&["moving:1"])).await?;
    assert_eq!(store.resolve("moving:1")?.id, new.id());
    assert!(store.get(&old.id()).is_some_and(|image| image.repo_tags.is_empty()));
    store.tag(&old.id().short(), &Reference::parse("again")?).await?;
    assert_eq!(store.resolve("again:latest")?.id, old.id());
    assert!(matches!(store.tag("none", &Reference::parse("x")?).await, Err(Error::NoSuchImage(_))));
    let usage = store.disk_usage().await?;
    let distinct: u64 = 3 + 6 + 3 + 6 + 2 * 2;
    assert_eq!(usage.layers, distinct, "layers count once per stack");
    Ok(())
}
