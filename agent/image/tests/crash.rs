//! A store survives being killed at any byte of a pull.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::registry::Registry;
use common::{TestImage, TestResult, assert_root, assert_whole, open, pull};
use muster_image::Error;

const ROOT: &str = "MUSTER_IMAGE_TEST_ROOT";
const NAME: &str = "MUSTER_IMAGE_TEST_NAME";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the test below kills"]
async fn child_that_pulls() -> TestResult {
    let store = open(&PathBuf::from(std::env::var(ROOT)?))?;
    pull(&store, &std::env::var(NAME)?).await.0?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_killed_at_any_moment_leaves_a_whole_store() -> TestResult {
    assert_root();
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let image = TestImage::large(6, 1 << 20);
    registry.put("crash", "1", &image);
    let name = format!("{}/crash:1", registry.address);
    let whole = timed_pull(&name).await?;
    let (mut killed, mut amid, mut finished) = (0, 0, 0);
    for round in 0..25_u32 {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "--ignored", "child_that_pulls"])
            .env(ROOT, folder.path())
            .env(NAME, &name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Spread over the whole of a pull, and a bit beyond: when to kill is the point, not something to wait for.
        tokio::time::sleep(whole * (round + 1) / 22).await;
        let over = child.try_wait()?.is_some();
        child.kill()?;
        child.wait()?;
        if over {
            finished += 1
        } else {
            killed += 1
        }
        let ingest = folder.path().join("ingest");
        amid += u32::from(ingest.is_dir() && fs::read_dir(ingest)?.count() > 0);
        let store = open(folder.path())?;
        assert_whole(folder.path());
        assert_eq!(fs::read_dir(folder.path().join("ingest"))?.count(), 0, "half-made things are swept");
        for found in store.list() {
            assert_eq!(found.id, image.id());
            store.verify(&found.id).await?;
            store.remove(&found.id.to_string(), true, true, Default::default()).await?;
        }
        store.collect().await?;
    }
    println!("{killed} pulls killed, {amid} of them amid their work; {finished} ended before");
    assert!(amid > 0, "no pull was killed amid its work: {killed} killed, {finished} ended before");
    let store = open(folder.path())?;
    let pulled = pull(&store, &name).await.0?;
    store.verify(&pulled.id).await?;
    Ok(())
}

/// How long a whole pull takes here and now.
async fn timed_pull(name: &str) -> Result<Duration, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let start = Instant::now();
    pull(&store, name).await.0?;
    Ok(start.elapsed())
}

#[tokio::test]
async fn a_store_is_open_once_and_opens_again_after_it_was_closed() -> TestResult {
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    assert!(matches!(open(folder.path()), Err(Error::Locked(_))));
    drop(store);
    open(folder.path())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_there_after_opening_again() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let image = TestImage::small("again");
    let store = open(folder.path())?;
    store
        .load(
            std::io::Cursor::new(image.docker_archive(&["a:1", "b:2"])),
            &muster_image::Platform::host(),
            common::words().0,
        )
        .await?;
    store.remove("b:2", false, true, Default::default()).await?;
    let before = store.list();
    drop(store);
    // What a stop between two steps of a record leaves behind.
    fs::write(folder.path().join("images/.new-0123"), "half")?;
    fs::write(folder.path().join("refs/0123.json"), "{\"half\":")?;
    fs::write(folder.path().join("ingest/0123.part"), "half")?;
    let store = open(folder.path())?;
    let after = store.list();
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].id, &after[0].repo_tags), (before[0].id, &vec!["a:1".to_owned()]));
    assert_eq!(after[0].last_tagged, before[0].last_tagged);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_layer_is_lost_is_left_out_and_can_be_had_again() -> TestResult {
    assert_root();
    let folder = tempfile::tempdir()?;
    let (image, other) = (TestImage::small("lost"), TestImage::large(1, 1000));
    let store = open(folder.path())?;
    let layer = {
        for (image, name) in [(&image, "lost:1"), (&other, "other:1")] {
            store
                .load(
                    std::io::Cursor::new(image.docker_archive(&[name])),
                    &muster_image::Platform::host(),
                    common::words().0,
                )
                .await?;
        }
        store.resolve("lost:1")?.layers[1].chain_id
    };
    drop(store);
    fs::remove_dir_all(folder.path().join("layers").join(layer.hex()))?;
    let store = open(folder.path())?;
    assert_eq!(store.list().len(), 1);
    assert!(matches!(store.resolve("lost:1"), Err(Error::NoSuchImage(_))));
    store
        .load(
            std::io::Cursor::new(image.docker_archive(&["lost:1"])),
            &muster_image::Platform::host(),
            common::words().0,
        )
        .await?;
    assert_eq!(store.resolve("lost:1")?.id, image.id());
    Ok(())
}
