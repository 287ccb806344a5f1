//! Images that want too much: each ends at a limit that the error names, and leaves nothing behind.

mod common;

use std::io::Cursor;

use common::fake::{Fake, Reply, routes};
use common::{
    DeepFolder, Packing, Tar, TestImage, TestLayer, TestResult, assert_root, assert_whole, nest, open, options, pull,
    words,
};
use muster_image::{Digest, Error, Options, Platform, Store};

/// Pulls `x:1` of a registry and gives the error as text; the store is whole and empty then.
async fn refusal(
    image: &TestImage,
    limits: Options,
    other: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
) -> String {
    let fake = Fake::image(image, move |request| other(&request.path)).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open_with(folder.path(), limits).expect("a store");
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.expect_err("it is refused");
    assert!(store.list().is_empty());
    assert_whole(folder.path());
    std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn layer(write: impl FnOnce(&mut Tar)) -> TestImage {
    let mut tar = Tar::new();
    write(&mut tar);
    TestImage::new(vec![TestLayer::new(tar.finish(), Packing::Gzip)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_beyond_the_limit_is_refused() {
    let image = TestImage::small("manifest");
    let mut limits = options();
    limits.registries.max_manifest_bytes = 1000;
    let huge = [image.manifest.clone(), vec![b' '; 2000]].concat();
    let text = refusal(&image, limits, move |path| path.ends_with("manifests/1").then(|| Reply::ok(&huge))).await;
    assert_eq!(text, "manifest is larger than the limit of 1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_beyond_the_limit_is_refused_before_it_is_fetched() {
    let image = TestImage::small("config");
    let mut limits = options();
    limits.registries.max_config_bytes = 100;
    let digest = Digest::of(&image.config);
    let text = refusal(&image, limits, |path| {
        assert!(!path.contains("blobs/"), "{path} was asked for");
        None
    })
    .await;
    assert_eq!(text, format!("image config {digest} is larger than the limit of 100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_layers_than_overlayfs_stacks_are_refused() {
    let one = TestLayer::new(common::tar_of(&[("f", b"1")]), Packing::Gzip);
    let image = TestImage::new(vec![one; 500]);
    let text = refusal(&image, options(), |_| None).await;
    assert!(text.contains("500 layers, at most 499 can run"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_too_many_entries_or_bytes_is_refused() {
    let image = layer(|tar| (0..50).for_each(|n| tar.file(&format!("f{n}"), b"12345678")));
    let text = refusal(&image, Options { max_entries: 49, ..options() }, |_| None).await;
    assert!(text.ends_with("by its entries, is larger than the limit of 49"), "{text}");
    let text = refusal(&image, Options { max_unpacked_bytes: 399, ..options() }, |_| None).await;
    assert!(text.ends_with("is larger than the limit of 399"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_attributes_beyond_the_kernels_limits_are_refused() {
    assert_root();
    let header = layer(|tar| {
        tar.pax(&[("SCHILY.xattr.user.big", &vec![b'x'; 2 << 20])]);
        tar.file("f", b"");
    });
    let text = refusal(&header, options(), |_| None).await;
    assert!(text.contains("a header extension of 20971"), "{text}");
    let attribute = layer(|tar| {
        tar.pax(&[("SCHILY.xattr.user.big", &vec![b'x'; 100_000])]);
        tar.file("f", b"");
    });
    let text = refusal(&attribute, options(), |_| None).await;
    assert!(text.contains("cannot set an attribute of f"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_too_deep_or_too_long_are_refused() {
    let deep = layer(|tar| {
        tar.pax(&[("path", "d/".repeat(600).as_bytes())]);
        tar.dir("d");
    });
    let text = refusal(&deep, options(), |_| None).await;
    assert!(text.contains("levels of folders") && text.contains("limit of 256"), "{text}");
    let long = layer(|tar| {
        tar.pax(&[("path", "n".repeat(300).as_bytes())]);
        tar.file("n", b"");
    });
    let text = refusal(&long, options(), |_| None).await;
    assert!(text.contains("name too long"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_zstd_needs_too_much_memory_for_is_refused() -> TestResult {
    use std::io::Write;
    let tar = common::tar_of(&[("f", b"1")]);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1)?;
    encoder.window_log(30)?;
    encoder.include_contentsize(false)?;
    encoder.write_all(&tar)?;
    let blob = encoder.finish()?;
    let image = TestImage::new(vec![TestLayer { tar, blob }]);
    let text = refusal(&image, options(), |_| None).await;
    assert!(text.contains("corrupt blob") || text.contains("memory"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_with_too_many_files_or_a_huge_document_is_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let mut tar = Tar::new();
    (0..100_001).for_each(|n| tar.symlink(&format!("l{n}"), "x"));
    let error = store.load(Cursor::new(tar.finish()), &Platform::host(), words().0).await.expect_err("too many");
    assert_eq!(error.to_string(), "invalid image archive: more than 100000 files");
    let mut tar = Tar::new();
    tar.file("manifest.json", &vec![b' '; 9 << 20]);
    let error = store.load(Cursor::new(tar.finish()), &Platform::host(), words().0).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_nested_folders_without_end_is_not_compared_or_committed_and_is_removed() -> TestResult {
    assert_root();
    let folder = DeepFolder::new();
    let store = open(folder.path())?;
    let image = TestImage::small("deep");
    store.load(Cursor::new(image.docker_archive(&["deep:1"])), &Platform::host(), words().0).await?;
    let root = store.prepare(&store.resolve("deep:1")?, "c1").await?;
    nest(&root.upper, 5_000)?;
    let error = store.changes("c1").await.expect_err("too deep");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let error = store.commit("c1", muster_image::Commit::default()).await.expect_err("too deep");
    assert!(error.to_string().contains("levels of folders"), "{error}");
    store.remove_snapshot("c1").await?;
    drop(store);
    // Closing waits for no large removal: another opening goes on with it.
    let store = open(folder.path())?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::fs::read_dir(folder.path().join("trash"))?.next().is_some() {
        assert!(std::time::Instant::now() < end, "the trash is not emptied");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(store);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_registry_vanishes_half_way_leaves_a_whole_store() -> TestResult {
    let image = TestImage::large(2, 1 << 20);
    let blob = Digest::of(&image.layers[1].blob);
    let half = image.layers[1].blob[..500_000].to_vec();
    let length = image.layers[1].blob.len();
    let known = routes(&image, "x", "1");
    let fake = Fake::start(move |request| {
        if request.path.ends_with(&blob.to_string()) {
            return Some(Reply { length: Some(length), ..Reply::ok(&half) });
        }
        known.get(&request.path).cloned()
    })
    .await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.expect_err("it is cut for ever");
    assert!(error.to_string().contains(&fake.address), "{error}");
    assert!(store.list().is_empty());
    assert_whole(folder.path());
    store.collect().await?;
    let left: Vec<_> = std::fs::read_dir(folder.path().join("ingest"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
