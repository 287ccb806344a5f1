//! Pulling from and pushing to registries, honest ones and others.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fake::{Fake, Reply, routes};
use common::proxy::Proxy;
use common::registry::Registry;
use common::{
    Packing, TestImage, TestLayer, TestResult, assert_root, assert_whole, descriptor, gzip, open, options, pull,
    pull_as, tar_of, words,
};
use muster_image::{Credentials, Digest, Error, Platform, Reference, Store, Usage};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest() -> TestResult {
    assert_root();
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let image = TestImage::small("one");
    registry.put("team/app", "1", &image);
    let store = open(folder.path())?;
    let name = format!("{}/team/app", registry.address);
    let (pulled, words) = pull(&store, &format!("{name}:1")).await;
    let pulled = pulled?;
    assert_eq!((pulled.id, pulled.manifest), (image.id(), image.digest()));
    assert_eq!(pulled.repo_tags, [format!("{name}:1")]);
    assert_eq!(pulled.repo_digests, [format!("{name}@{}", image.digest())]);
    assert_eq!((pulled.size, pulled.layers.len()), (3 + 6 + 1 + 1, 3));
    assert!(words.contains(&format!("Digest: {}", image.digest())) && words.contains(&"Pull complete".into()));
    assert_eq!(words.last(), Some(&format!("Status: Downloaded newer image for {name}:1")));
    let (again, words) = pull(&store, &format!("{name}:1")).await;
    assert_eq!(again?.id, image.id());
    assert_eq!(words.last(), Some(&format!("Status: Image is up to date for {name}:1")));
    for by_digest in [format!("{name}@{}", image.digest()), format!("{name}:1@{}", image.digest())] {
        let folder = tempfile::tempdir()?;
        let store = open(folder.path())?;
        let pulled = pull(&store, &by_digest).await.0?;
        assert!(pulled.repo_tags.is_empty(), "a digest gives no tag");
        assert_eq!(store.resolve(&format!("{name}@{}", image.digest()))?.id, image.id());
    }
    store.verify(&image.id()).await?;
    assert_whole(folder.path());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_by_digest_needs_no_registry() -> TestResult {
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let image = TestImage::small("offline");
    registry.put("app", "1", &image);
    let name = format!("{}/app@{}", registry.address, image.digest());
    let store = open(folder.path())?;
    pull(&store, &name).await.0?;
    drop(registry);
    assert_eq!(pull(&store, &name).await.0?.id, image.id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_keeps_the_manifest_byte_for_byte() -> TestResult {
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let image = TestImage::small("push");
    registry.put("first", "1", &image);
    let store = open(folder.path())?;
    let other = Reference::parse(&format!("{}/second:2", registry.address))?;
    pull(&store, &format!("{}/first:1", registry.address)).await.0?;
    store.tag(&format!("{}/first:1", registry.address), &other).await?;
    let (progress, said) = words();
    let pushed = store.push(&other, None, progress).await?;
    assert_eq!((pushed.digest, pushed.size), (image.digest(), image.manifest.len() as u64));
    let said = said.await?;
    assert!(said.contains(&"Mounted from first".to_owned()), "{said:?}");
    assert_eq!(said.last(), Some(&format!("2: digest: {} size: {}", image.digest(), image.manifest.len())));
    assert!(store.get(&image.id()).is_some_and(|i| i.repo_digests.contains(&format!(
        "{}/second@{}",
        registry.address,
        image.digest()
    ))));
    let (status, text) = registry.request("GET", "/v2/second/manifests/2", "", b"");
    assert!(status == 200 && text.as_bytes().ends_with(&image.manifest), "{text}");
    let (progress, said) = words();
    store.push(&other, None, progress).await?;
    assert!(said.await?.contains(&"Layer already exists".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_image_can_be_pushed_and_pulled_elsewhere() -> TestResult {
    let (registry, here, there) = (Registry::start(), tempfile::tempdir()?, tempfile::tempdir()?);
    let image = TestImage::large(3, 300_000);
    let name = Reference::parse(&format!("{}/loaded:1", registry.address))?;
    let store = open(here.path())?;
    let archive = std::io::Cursor::new(image.docker_archive(&[&name.canonical()]));
    store.load(archive, &muster_image::Platform::host(), words().0).await?;
    let pushed = store.push(&name, None, words().0).await?;
    let other = open(there.path())?;
    let pulled = pull(&other, &name.canonical()).await.0?;
    assert_eq!((pulled.id, pulled.manifest), (image.id(), pushed.digest));
    other.verify(&pulled.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_where_it_stopped() -> TestResult {
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let image = TestImage::large(1, 4 << 20);
    registry.put("big", "1", &image);
    let proxy = Proxy::start(registry.address.clone(), 900_000).await;
    let store = open(folder.path())?;
    let (pulled, words) = pull(&store, &format!("{}/big:1", proxy.address)).await;
    let pulled = pulled?;
    store.verify(&pulled.id).await?;
    assert!(words.contains(&"Retrying".to_owned()));
    assert!(proxy.ranges.load(Ordering::Relaxed) >= 4, "every cut is followed by a range request");
    let moved = proxy.bytes.load(Ordering::Relaxed);
    assert!(moved < 5 << 20, "{moved} bytes moved for 4 MiB: nothing came twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_leaves_its_part_for_the_next_one() -> TestResult {
    let folder = tempfile::tempdir()?;
    let image = TestImage::large(1, 1 << 20);
    let path = format!("/v2/x/blobs/{}", Digest::of(&image.layers[0].blob));
    let (first, blob) = (Arc::new(AtomicUsize::new(0)), image.layers[0].blob.clone());
    let fake = Fake::image(&image, move |request| {
        let stall = (request.path == path && first.fetch_add(1, Ordering::Relaxed) == 0).then_some(500_000);
        stall.map(|stall| Reply { stall_after: Some(stall), ..Reply::ok(&blob) })
    })
    .await;
    let store = open(folder.path())?;
    let name = format!("{}/x:1", fake.address);
    let part = folder.path().join(format!("ingest/{}.part", Digest::of(&image.layers[0].blob).hex()));
    let arrived = async {
        while fs::metadata(&part).map_or(0, |meta| meta.len()) < 500_000 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        (pulled, _) = pull(&store, &name) => panic!("it cannot end: {:?}", pulled.map(|image| image.id)),
        () = arrived => {}
    }
    assert!(part.exists());
    // This registry knows no ranges: it sends all again, and that is fine too.
    let pulled = pull(&store, &name).await.0?;
    store.verify(&pulled.id).await?;
    assert!(!part.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_nobody_fetches_any_more_is_collected() -> TestResult {
    let folder = tempfile::tempdir()?;
    let image = TestImage::large(1, 100_000);
    let (path, blob) = (format!("/v2/x/blobs/{}", Digest::of(&image.layers[0].blob)), image.layers[0].blob.clone());
    let fake = Fake::image(&image, move |request| {
        (request.path == path).then(|| Reply {
            length: Some(blob.len()),
            body: blob[..5000].to_vec(),
            status: 200,
            ..Reply::default()
        })
    })
    .await;
    let store = open(folder.path())?;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(matches!(error, Some(Error::Unreachable { .. })), "{error:?}");
    assert_eq!(fs::read_dir(folder.path().join("ingest"))?.count(), 1);
    assert!(store.collect().await? >= 5000);
    assert_eq!(fs::read_dir(folder.path().join("ingest"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stops_sending_is_given_up() -> TestResult {
    let folder = tempfile::tempdir()?;
    let image = TestImage::large(1, 100_000);
    let (path, blob) = (format!("/v2/x/blobs/{}", Digest::of(&image.layers[0].blob)), image.layers[0].blob.clone());
    let fake = Fake::image(&image, move |request| {
        (request.path == path).then(|| Reply { stall_after: Some(0), ..Reply::ok(&blob) })
    })
    .await;
    let mut options = options();
    options.registries.idle_timeout = std::time::Duration::from_millis(100);
    let store = Store::open_with(folder.path(), options)?;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(matches!(error, Some(Error::Stalled { .. })), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_and_leave_nothing() -> TestResult {
    let image = TestImage::small("liar");
    let blob = image.layers[1].blob.clone();
    let digest = Digest::of(&blob);
    let mut flipped = blob.clone();
    flipped[20] ^= 1;
    let long = [&blob[..], b"more"].concat();
    let replies = [
        ("flipped", Reply::ok(&flipped)),
        ("too short", Reply::ok(&blob[..10])),
        ("too long", Reply::ok(&long)),
        ("announced too long", Reply { length: Some(blob.len() + 5), ..Reply::ok(&blob) }),
    ];
    for (what, reply) in replies {
        let folder = tempfile::tempdir()?;
        let path = format!("/v2/x/blobs/{digest}");
        let fake = Fake::image(&image, move |request| (request.path == path).then(|| reply.clone())).await;
        let store = open(folder.path())?;
        let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
        assert!(
            matches!(&error, Some(Error::CorruptBlob { digest: named, .. }) if *named == digest),
            "{what}: {error:?}"
        );
        assert!(store.list().is_empty());
        assert!(!folder.path().join("blobs/sha256").join(digest.hex()).exists());
        assert_whole(folder.path());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_configs_are_compared_with_their_digests() -> TestResult {
    let (image, other) = (TestImage::small("a"), TestImage::small("b"));
    let manifest = other.manifest.clone();
    let by_digest = format!("/v2/x/manifests/{}", image.digest());
    let fake = Fake::image(&image, move |r| (r.path == by_digest).then(|| Reply::ok(&manifest))).await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let error = pull(&store, &format!("{}/x@{}", fake.address, image.digest())).await.0.err();
    assert!(matches!(&error, Some(Error::CorruptBlob { digest, .. }) if *digest == image.digest()), "{error:?}");
    let config = format!("/v2/x/blobs/{}", image.id());
    let wrong = other.config.clone();
    let fake = Fake::image(&image, move |r| (r.path == config).then(|| Reply::ok(&wrong))).await;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(matches!(&error, Some(Error::CorruptBlob { digest, .. }) if *digest == image.id()), "{error:?}");
    let big = vec![b' '; (4 << 20) + 1];
    let fake = Fake::image(&image, move |r| (r.path == "/v2/x/manifests/1").then(|| Reply::ok(&big))).await;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(matches!(error, Some(Error::TooLarge { .. })), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_the_config_says_is_refused() -> TestResult {
    let mut image = TestImage::small("diff");
    let other = TestLayer::new(tar_of(&[("other", b"other")]), Packing::Gzip);
    image.layers[0] = other.clone();
    image.manifest = common::manifest_of(&image.config, &image.layers);
    let fake = Fake::image(&image, |_| None).await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(
        matches!(&error, Some(Error::CorruptBlob { digest, .. }) if *digest == Digest::of(&other.blob)),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_is_stopped() -> TestResult {
    let tar = tar_of(&[("zeros", &vec![0; 8 << 20])]);
    let image = TestImage::new(vec![TestLayer { blob: gzip(&tar), tar }]);
    let fake = Fake::image(&image, |_| None).await;
    let folder = tempfile::tempdir()?;
    let mut options = options();
    options.max_unpacked_bytes = 1 << 20;
    let store = Store::open_with(folder.path(), options)?;
    let error = pull(&store, &format!("{}/x:1", fake.address)).await.0.err();
    assert!(matches!(error, Some(Error::TooLarge { limit, .. }) if limit == 1 << 20), "{error:?}");
    assert_eq!(fs::read_dir(folder.path().join("layers"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_decides_in_an_index() -> TestResult {
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let (arm, s390): (Platform, Platform) = ("linux/arm64".parse()?, "linux/s390x".parse()?);
    let images = [Platform::host(), arm.clone()]
        .map(|platform| (TestImage::on(TestImage::small("multi").layers, &platform), platform));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let mut entries = Vec::new();
    for (image, platform) in &images {
        registry.put("multi", "part", image);
        let mut entry = descriptor(kind, &image.manifest);
        entry["platform"] = serde_json::json!({"os": platform.os, "architecture": platform.architecture});
        entries.push(entry);
    }
    let index_kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": index_kind, "manifests": entries}).to_string();
    registry.put_manifest("multi", "1", index_kind, index.as_bytes());
    let store = open(folder.path())?;
    let name = format!("{}/multi:1", registry.address);
    let pulled = pull_as(&store, &name, &arm).await.0?;
    assert_eq!((pulled.id, &pulled.platform), (images[1].0.id(), &arm));
    let index_name = format!("{}/multi@{}", registry.address, Digest::of(index.as_bytes()));
    assert_eq!(pulled.repo_digests, std::slice::from_ref(&index_name), "the digest is that of the index");
    let error = pull_as(&store, &name, &s390).await.0.err().map(|error| error.to_string());
    let host = Platform::host();
    assert_eq!(error, Some(format!("no matching manifest for linux/s390x in {name}: available: {host}, linux/arm64")));
    let error = pull_as(&store, &format!("{}/multi:part", registry.address), &s390).await.0.err();
    assert!(matches!(error, Some(Error::NoMatchingPlatform { .. })), "{error:?}");
    assert_eq!(pull_as(&store, &index_name, &Platform::host()).await.0?.id, images[0].0.id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_dockers_words() -> TestResult {
    let (registry, folder) = (Registry::start(), tempfile::tempdir()?);
    let store = open(folder.path())?;
    let name = format!("{}/none:1", registry.address);
    let error = pull(&store, &name).await.0.err().map(|error| error.to_string());
    assert_eq!(error, Some(format!("manifest for {name} not found: manifest unknown: manifest unknown")));
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let error = pull(&store, &format!("127.0.0.1:{port}/x:1")).await.0.err();
    assert!(
        matches!(&error, Some(Error::Unreachable { registry, .. }) if *registry == format!("127.0.0.1:{port}")),
        "{error:?}"
    );
    assert!(matches!(pull(&store, "Upper/Case").await.0, Err(Error::InvalidReference(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_passwords_open_what_is_closed() -> TestResult {
    let image = TestImage::small("auth");
    let routes = Arc::new(routes(&image, "x", "1"));
    // base64 of me:secret
    let basic = "Basic bWU6c2VjcmV0";
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let (realm, table) = (address.clone(), routes.clone());
    let bearer = Fake::start(move |request| {
        let authorization = request.headers.get("authorization").cloned().unwrap_or_default();
        if request.path.starts_with("/token?service=fake&scope=repository%3Ax%3Apull") {
            let status = if authorization == basic { 200 } else { 401 };
            return Some(Reply { status, ..Reply::ok(br#"{"token":"t0k"}"#) });
        }
        if authorization == "Bearer t0k" {
            return table.get(&request.path).cloned();
        }
        let challenge =
            format!("Bearer realm=\"http://{}/token\",service=\"fake\",scope=\"repository:x:pull\"", realm.get()?);
        Some(Reply { status: 401, headers: vec![("WWW-Authenticate".into(), challenge)], ..Reply::default() })
    })
    .await;
    address.set(bearer.address.clone())?;
    let password = Fake::start(move |request| {
        if request.headers.get("authorization").is_some_and(|value| value == basic) {
            return routes.get(&request.path).cloned();
        }
        Some(Reply {
            status: 401,
            headers: vec![("WWW-Authenticate".into(), "Basic realm=\"r\"".into())],
            ..Reply::default()
        })
    })
    .await;
    for fake in [&bearer, &password] {
        let folder = tempfile::tempdir()?;
        let store = open(folder.path())?;
        let name = Reference::parse(&format!("{}/x:1", fake.address))?;
        let login = |password: &str| Credentials::Basic { username: "me".into(), password: password.into() };
        for wrong in [None, Some(login("wrong"))] {
            let error = store.pull(&name, &Platform::host(), wrong, words().0).await.err();
            assert!(matches!(error, Some(Error::Unauthorized { .. })), "{error:?}");
        }
        assert_eq!(store.pull(&name, &Platform::host(), Some(login("secret")), words().0).await?.id, image.id());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_the_registry_when_it_fails() -> TestResult {
    let (image, other) = (TestImage::small("mirrored"), TestImage::small("origin"));
    let mirror = Fake::start({
        let routes = routes(&image, "x", "1");
        move |request| routes.get(&request.path).cloned()
    })
    .await;
    let origin = Fake::start({
        let routes = routes(&other, "x", "2");
        move |request| routes.get(&request.path).cloned()
    })
    .await;
    let folder = tempfile::tempdir()?;
    let mut options = options();
    options.registries.mirrors.insert(origin.address.clone(), vec![mirror.address.clone()]);
    let store = Store::open_with(folder.path(), options)?;
    assert_eq!(pull(&store, &format!("{}/x:1", origin.address)).await.0?.id, image.id());
    assert_eq!(pull(&store, &format!("{}/x:2", origin.address)).await.0?.id, other.id());
    assert!(origin.seen.lock().expect("not poisoned").iter().all(|line| !line.contains("manifests/1")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_fetch_each_layer_once() -> TestResult {
    let image = TestImage::large(4, 200_000);
    let fake = Fake::image(&image, |_| None).await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let name = format!("{}/x:1", fake.address);
    let (one, two, three) = tokio::join!(pull(&store, &name), pull(&store, &name), pull(&store, &name));
    assert!(one.0?.id == image.id() && two.0?.id == image.id() && three.0?.id == image.id());
    for layer in &image.layers {
        let line = format!("GET /v2/x/blobs/{}", Digest::of(&layer.blob));
        assert_eq!(fake.seen.lock().expect("not poisoned").iter().filter(|seen| **seen == line).count(), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_twice_in_an_image_is_fetched_once() -> TestResult {
    let layer = TestLayer::new(tar_of(&[("same", b"same")]), Packing::Gzip);
    let image = TestImage::new(vec![layer.clone(), layer.clone()]);
    let fake = Fake::image(&image, |_| None).await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let pulled = pull(&store, &format!("{}/x:1", fake.address)).await.0?;
    assert_ne!(pulled.layers[0].chain_id, pulled.layers[1].chain_id);
    assert_eq!(fs::read_dir(folder.path().join("layers"))?.count(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_during_a_pull_takes_nothing_it_needs() -> TestResult {
    let image = TestImage::large(6, 100_000);
    let fake = Fake::image(&image, |_| None).await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let name = format!("{}/x:1", fake.address);
    for _ in 0..10 {
        let collect = async {
            for _ in 0..20 {
                store.collect().await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(())
        };
        let (pulled, collected) = tokio::join!(pull(&store, &name), collect);
        collected?;
        store.verify(&pulled.0?.id).await?;
        store.remove(&name, false, true, Usage::default()).await?;
        assert!(store.list().is_empty());
    }
    assert_eq!(fs::read_dir(folder.path().join("layers"))?.count(), 0);
    assert_eq!(fs::read_dir(folder.path().join("blobs/sha256"))?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_sent_where_a_registry_redirects_to() -> TestResult {
    let image = TestImage::small("redirect");
    let (config, raw) = (format!("/v2/x/blobs/{}", image.id()), image.config.clone());
    let storage = Fake::start(move |request| {
        let leaked = request.headers.contains_key("authorization");
        Some(if leaked { Reply { status: 500, ..Reply::default() } } else { Reply::ok(&raw) })
    })
    .await;
    let (routes, elsewhere) = (routes(&image, "x", "1"), format!("http://{}/blob", storage.address));
    let fake = Fake::start(move |request| {
        if request.headers.get("authorization").is_none_or(|value| value != "Basic bWU6c2VjcmV0") {
            let headers = vec![("WWW-Authenticate".into(), "Basic realm=\"r\"".into())];
            return Some(Reply { status: 401, headers, ..Reply::default() });
        }
        if request.path == config {
            return Some(Reply {
                status: 307,
                headers: vec![("Location".into(), elsewhere.clone())],
                ..Reply::default()
            });
        }
        routes.get(&request.path).cloned()
    })
    .await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let login = Credentials::Basic { username: "me".into(), password: "secret".into() };
    let name = Reference::parse(&format!("{}/x:1", fake.address))?;
    // Spawned, as a daemon does: the future must be able to move between threads.
    let pulled = tokio::spawn(async move { store.pull(&name, &Platform::host(), Some(login), words().0).await });
    assert_eq!(pulled.await??.id, image.id());
    assert_eq!(*storage.seen.lock().expect("not poisoned"), ["GET /blob"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again() -> TestResult {
    let image = TestImage::small("busy");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fake = Fake::image(&image, move |request| {
        let once = request.path != "/v2/" && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        once.then(|| Reply { status: 503, ..Reply::default() })
    })
    .await;
    let folder = tempfile::tempdir()?;
    let mut options = options();
    options.parallel_layers = 1;
    let store = Store::open_with(folder.path(), options)?;
    assert_eq!(pull(&store, &format!("{}/x:1", fake.address)).await.0?.id, image.id());
    assert!(asked.load(Ordering::Relaxed) >= 8);
    Ok(())
}

/// Everything a daemon would spawn can move between threads.
#[allow(dead_code, reason = "it is enough that it compiles")]
fn futures_can_be_spawned(
    store: &'static Store,
    name: &'static Reference,
    image: &'static muster_image::Image,
    platform: &'static Platform,
) {
    fn spawnable<T: Send + 'static>(_: T) {}
    spawnable(store.push(name, None, words().0));
    spawnable(store.load(tokio::io::empty(), platform, words().0));
    spawnable(store.save(&[], tokio::io::sink()));
    spawnable(store.commit("x", muster_image::Commit::default()));
    spawnable(store.derive(Some(image), muster_image::Commit::default()));
    spawnable(store.remove("x", false, false, Usage::default()));
    spawnable(store.prune(false, Usage::default(), |_| true));
    spawnable(store.prepare(image, "x"));
    spawnable(store.changes("x"));
    spawnable(store.snapshots());
}
