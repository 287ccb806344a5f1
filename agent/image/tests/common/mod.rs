//! What the tests of the image room share: small images made by hand, a real registry, a registry that lies, and a
//! connection that is cut.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod fake;
pub mod proxy;
pub mod registry;

use std::io::Write;
use std::path::Path;

use muster_image::{Digest, Image, Options, Platform, Progress, Reference, RegistryConfig, Store};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::sync::mpsc;

pub type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A temporary folder that goes away however deep what is in it.
pub struct DeepFolder(tempfile::TempDir);

impl DeepFolder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for DeepFolder {
    fn drop(&mut self) {
        if let Err(error) = muster_image::archive::remove_tree(self.path(), &|| false) {
            eprintln!("{} stays: {error}", self.path().display());
        }
    }
}

/// Makes folders within each other, deeper than any path reaches.
pub fn nest(folder: &Path, levels: usize) -> TestResult {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut deep = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    for _ in 0..levels {
        rustix::fs::mkdirat(&deep, "d", Mode::RWXU)?;
        deep = rustix::fs::openat(&deep, "d", flags, Mode::empty())?;
    }
    Ok(())
}

/// One layer as a registry has it.
#[derive(Clone)]
pub struct TestLayer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
}

/// An image made by hand.
#[derive(Clone)]
pub struct TestImage {
    pub layers: Vec<TestLayer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A tar of regular files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Tar::new();
    for (path, content) in files {
        tar.file(path, content);
    }
    tar.finish()
}

/// Writes tar entries that well-meaning writers refuse to write.
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn entry(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        link: &str,
        content: &[u8],
        edit: impl FnOnce(&mut tar::Header),
    ) {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        edit(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(tar::EntryType::Regular, path, "", content, |_| {});
    }

    pub fn dir(&mut self, path: &str) {
        self.entry(tar::EntryType::Directory, path, "", b"", |_| {});
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(tar::EntryType::Symlink, path, target, b"", |_| {});
    }

    pub fn hard_link(&mut self, path: &str, target: &str) {
        self.entry(tar::EntryType::Link, path, target, b"", |_| {});
    }

    /// A pax header for the next entry.
    pub fn pax(&mut self, records: &[(&str, &[u8])]) {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap_or(1);
            body.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(tar::EntryType::XHeader, "pax", "", &body, |_| {});
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes every byte")
}

impl TestLayer {
    pub fn new(tar: Vec<u8>, packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => gzip(&tar),
            Packing::Zstd => zstd::encode_all(&tar[..], 1).expect("memory takes every byte"),
        };
        Self { tar, blob }
    }
}

impl TestImage {
    /// An image for this host's platform.
    pub fn new(layers: Vec<TestLayer>) -> Self {
        Self::on(layers, &Platform::host())
    }

    pub fn on(layers: Vec<TestLayer>, platform: &Platform) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&layer.tar)).collect();
        let history: Vec<_> = layers.iter().map(|_| serde_json::json!({"created_by": "hand"})).collect();
        let config = serde_json::json!({
            "created": "2026-11-23T08:57:18.114023223Z", "architecture": platform.architecture, "os": platform.os,
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = config.to_string().into_bytes();
        let manifest = manifest_of(&config, &layers);
        Self { layers, config, manifest }
    }

    /// Three layers, one of each packing; the second hides a file of the first.
    pub fn small(seed: &str) -> Self {
        let first = tar_of(&[("etc/name", seed.as_bytes()), ("etc/hidden", b"hidden")]);
        let second = tar_of(&[("etc/.wh.hidden", b""), ("second", b"2")]);
        let third = tar_of(&[("third", b"3")]);
        Self::new(vec![
            TestLayer::new(first, Packing::Gzip),
            TestLayer::new(second, Packing::Zstd),
            TestLayer::new(third, Packing::Plain),
        ])
    }

    /// `layers` layers of `bytes` bytes that do not compress.
    pub fn large(layers: usize, bytes: usize) -> Self {
        let layer = |n: usize| {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1);
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            };
            let content: Vec<u8> = (0..bytes / 8).flat_map(|_| next()).collect();
            TestLayer::new(tar_of(&[(&format!("file{n}"), &content)]), Packing::Gzip)
        };
        Self::new((0..layers).map(layer).collect())
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The image as old `docker save`s wrote it.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let mut tar = Tar::new();
        let layers: Vec<String> = (0..self.layers.len()).map(|n| format!("{n}/layer.tar")).collect();
        for (name, layer) in layers.iter().zip(&self.layers) {
            tar.file(name, &layer.tar);
        }
        tar.file("config.json", &self.config);
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": layers}]);
        tar.file("manifest.json", manifest.to_string().as_bytes());
        tar.finish()
    }
}

pub fn manifest_of(config: &[u8], layers: &[TestLayer]) -> Vec<u8> {
    let layers: Vec<_> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.blob)).collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", config);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    // A space at its end: who writes it anew changes its digest.
    format!("{manifest} ").into_bytes()
}

pub fn descriptor(kind: &str, content: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": kind, "digest": Digest::of(content), "size": content.len()})
}

/// Time-outs that let a test fail fast.
pub fn options() -> Options {
    let registries =
        RegistryConfig { retry_pause: std::time::Duration::from_millis(5), attempts: 3, ..RegistryConfig::default() };
    Options { registries, ..Options::default() }
}

pub fn open(root: &Path) -> Result<Store, muster_image::Error> {
    Store::open_with(root, options())
}

/// Pulls and collects the words of the progress.
pub async fn pull(store: &Store, name: &str) -> (muster_image::Result<Image>, Vec<String>) {
    pull_as(store, name, &Platform::host()).await
}

pub async fn pull_as(store: &Store, name: &str, platform: &Platform) -> (muster_image::Result<Image>, Vec<String>) {
    let (progress, words) = words();
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(error) => return (Err(error.into()), Vec::new()),
    };
    let pulled = store.pull(&reference, platform, None, progress).await;
    (pulled, words.await.expect("the collector does not panic"))
}

/// A sender, and what came out of it as text.
pub fn words() -> (mpsc::Sender<Progress>, tokio::task::JoinHandle<Vec<String>>) {
    let (progress, mut inbox) = mpsc::channel::<Progress>(16);
    let collected = tokio::spawn(async move {
        let mut words = Vec::new();
        while let Some(step) = inbox.recv().await {
            words.push(step.status.to_string());
        }
        words
    });
    (progress, collected)
}

/// Everything visible in a store is what its name says.
pub fn assert_whole(root: &Path) {
    for entry in std::fs::read_dir(root.join("blobs/sha256")).expect("the store has blobs") {
        let path = entry.expect("a readable folder").path();
        let bytes = std::fs::read(&path).expect("a readable blob");
        assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(Digest::of(&bytes).hex().as_str()));
    }
    for entry in std::fs::read_dir(root.join("layers")).expect("the store has layers") {
        let path = entry.expect("a readable folder").path();
        assert!(path.join("layer.json").is_file() && path.join("diff").is_dir(), "{}", path.display());
    }
}

pub fn assert_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes devices and mounts");
}
