//! What registries and archives send: names, manifests, configurations, layers, whole archives.

use std::io::Cursor;
use std::os::fd::AsFd;
use std::path::Path;

use muster_fuzz::{Counting, Target, fuzz, repair_tar, scratch};
use muster_image::archive::{UnpackOptions, Whiteouts, decompress, unpack_into};
use muster_image::{Digest, ImageConfig, Options, Platform, Reference, Store, manifest};
use tempfile::TempDir;

#[global_allocator]
static MEMORY: Counting = Counting;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_of_images_are_read_or_refused_and_mean_the_same_when_written() {
    let words =
        &["docker.io/", "library/", "sha256:", HEX, "@", ":latest", "localhost", "[::1]:5000", "a_b", "__", "..", "-"];
    let target = Target { name: "reference", runs: 60_000, words, repair: None, most_memory: 4 << 20 };
    fuzz(&target, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(reference) = Reference::parse(text) else { return };
        assert_eq!(Reference::parse(&reference.canonical()).as_ref(), Ok(&reference));
        assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference));
        assert!(!reference.path().contains("..") && !reference.path().starts_with('/'));
    });
}

const JSON: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"schemaVersion\":2",
    "\"manifests\":[]",
    "\"layers\":[]",
    "\"config\":{}",
    "\"mediaType\":",
    "\"digest\":",
    "\"size\":",
    "\"platform\":{}",
    "\"annotations\":{}",
    "\"urls\":[]",
    "\"data\":\"\"",
    "\"rootfs\":{}",
    "\"diff_ids\":[]",
    "\"history\":[]",
    "\"created\":\"0000-00-00T00:00:00Z\"",
    "\"Env\":[]",
    "\"Healthcheck\":{}",
    "\\u0000",
    "\\ud800",
    "sha256:",
    HEX,
    "linux",
    "amd64",
];

#[test]
fn manifests_and_indexes_are_read_or_refused() {
    let target = Target { name: "manifest", runs: 30_000, words: JSON, repair: None, most_memory: 16 << 20 };
    let platforms =
        ["linux/amd64", "linux/arm/v7", "windows/amd64"].map(|text| text.parse::<Platform>().expect("a platform"));
    fuzz(&target, |input| match manifest::parse(input, &Digest::of(input)) {
        Ok(manifest::Parsed::Index(index)) => platforms.iter().for_each(|platform| {
            if let Some(chosen) = index.choose(platform) {
                assert!(index.manifests.contains(chosen));
            }
            index.available();
        }),
        Ok(manifest::Parsed::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= manifest::MAX_LAYERS);
            serde_json::to_vec(&manifest).expect("what was read can be written");
        }
        Err(error) => drop(error.to_string()),
    });
}

#[test]
fn configurations_of_images_are_read_or_refused() {
    let target = Target { name: "config", runs: 30_000, words: JSON, repair: None, most_memory: 16 << 20 };
    fuzz(&target, |input| {
        let Ok(config) = serde_json::from_slice::<ImageConfig>(input) else { return };
        let _ = (config.platform().to_string(), config.created_at());
        let written = serde_json::to_vec(&config).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<ImageConfig>(&written).ok(), Some(config));
    });
}

/// A root with a neighbour that must never change.
struct Cage {
    folder: TempDir,
}

impl Cage {
    fn new() -> Self {
        let folder = scratch();
        std::fs::create_dir(folder.path().join("root")).expect("a writable folder");
        std::fs::write(folder.path().join("outside"), b"untouched").expect("a writable folder");
        Self { folder }
    }

    fn root(&self) -> std::fs::File {
        std::fs::File::open(self.folder.path().join("root")).expect("it was made")
    }

    /// Nothing beside the root has come, gone or changed.
    fn assert_closed(&self) {
        let names = std::fs::read_dir(self.folder.path()).expect("a readable folder");
        let mut names: Vec<_> = names.map(|entry| entry.expect("a readable folder").file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "root"]);
        let outside = self.folder.path().join("outside");
        assert_eq!(std::fs::read(&outside).expect("it is there"), b"untouched");
        let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::symlink_metadata(&outside).expect("it is there"));
        assert_eq!(links, 1, "something links to it");
    }
}

const TAR: &[&str] = &[
    "../",
    "/",
    "./",
    "../../outside",
    ".wh.",
    ".wh..wh..opq",
    ".wh..",
    "ustar",
    "\0",
    "30 mtime=1.5\n",
    "27 SCHILY.xattr.user.a=b\n",
    "11 path=../x\n",
    "20 linkpath=/etc\n",
    "GNU.sparse.major=1",
    "x",
    "g",
    "L",
    "K",
    "1",
    "2",
    "3",
    "5",
    "7777777\0",
    "\u{80}",
];

#[test]
fn layers_are_unpacked_inside_of_their_root_or_refused() {
    let target = Target { name: "layer", runs: 3_000, words: TAR, repair: Some(repair_tar), most_memory: 32 << 20 };
    let cage = Cage::new();
    fuzz(&target, |input| {
        let limits = UnpackOptions { max_bytes: 1 << 20, max_entries: 500, ..UnpackOptions::default() };
        for whiteouts in [Whiteouts::Overlay, Whiteouts::Literal] {
            let options = UnpackOptions { whiteouts, ..limits.clone() };
            let unpacked = decompress(input, 4 << 20)
                .and_then(|plain| Ok(unpack_into(cage.root().as_fd(), Path::new("."), plain, &options)?));
            if let Ok(unpacked) = unpacked {
                assert!(unpacked.bytes <= 1 << 20 && unpacked.entries <= 500);
            }
            cage.assert_closed();
        }
        empty(&cage.folder.path().join("root"));
    });
}

/// Removes what is in a folder, whatever modes it has.
fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        let is_dir = std::fs::symlink_metadata(&path).expect("it is there").is_dir();
        let removed = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn archives_of_images_are_loaded_whole_or_refused() {
    let words = &[
        "manifest.json",
        "index.json",
        "blobs/sha256/",
        "\"Layers\":[]",
        "\"RepoTags\":[\"x:1\"]",
        "\"Config\":",
        HEX,
        "../",
        "null",
    ];
    let target = Target { name: "archive", runs: 400, words, repair: Some(repair_tar), most_memory: 64 << 20 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = scratch();
    let host = Platform::host();
    let options = Options { max_unpacked_bytes: 4 << 20, max_entries: 1000, ..Options::default() };
    let store = Store::open_with(folder.path(), options).expect("a store");
    fuzz(&target, |input| {
        let (progress, mut inbox) = tokio::sync::mpsc::channel(64);
        let loading = store.load(Cursor::new(input.to_vec()), &host, progress);
        let reading = async { while inbox.recv().await.is_some() {} };
        let (loaded, ()) = runtime.block_on(async { tokio::join!(loading, reading) });
        for image in loaded.iter().flatten() {
            runtime.block_on(store.verify(&image.id)).expect("what was loaded is whole");
        }
    });
}
