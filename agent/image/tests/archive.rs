//! Unpacking and packing file trees: nothing leaves its root, and nothing is lost on the way.

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use common::{DeepFolder, Tar, TestResult, assert_root, nest};
use muster_image::archive::{self, Error, PackOptions, UnpackOptions, Unpacked, Whiteouts};
use rustix::fs::XattrFlags;
use tar::EntryType;

/// A root beside a file that must never change.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        assert_root();
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("root")).expect("a writable folder");
        fs::create_dir(folder.path().join("outside")).expect("a writable folder");
        fs::write(folder.path().join("outside/precious"), "precious").expect("a writable folder");
        Self { folder }
    }

    fn root(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn unpack_at(&self, subpath: &str, tar: &[u8], options: &UnpackOptions) -> Result<Unpacked, Error> {
        let root = File::open(self.root("")).expect("the root exists");
        archive::unpack_into(root.as_fd(), Path::new(subpath), tar, options)
    }

    fn layer(&self, tar: &[u8]) -> Result<Unpacked, Error> {
        self.unpack_at("/", tar, &layer_options())
    }

    /// The folder around the root is as it was.
    fn assert_untouched(&self) {
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).expect("readable").map(|e| e.expect("readable").file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "root"]);
        let outside = self.folder.path().join("outside");
        assert_eq!(fs::read_dir(&outside).expect("readable").count(), 1);
        let precious = outside.join("precious");
        assert_eq!(fs::read_to_string(&precious).expect("readable"), "precious");
        let meta = fs::metadata(&precious).expect("readable");
        assert_eq!((meta.nlink(), meta.mode() & 0o7777, meta.uid()), (1, 0o644, 0));
    }
}

fn layer_options() -> UnpackOptions {
    UnpackOptions { whiteouts: Whiteouts::Overlay, ..UnpackOptions::default() }
}

fn tar(write: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = Tar::new();
    write(&mut tar);
    tar.finish()
}

#[test]
fn dots_above_the_root_are_refused() {
    let scene = Scene::new();
    for name in ["../outside/new", "a/../../outside/new", "/../outside/new", ".."] {
        let error = scene.layer(&tar(|t| t.file(name, b"x"))).err();
        assert!(matches!(error, Some(Error::Escapes { .. })), "{name}: {error:?}");
    }
    for target in ["../outside/precious", "a/../../outside/precious", "..", "/"] {
        let error = scene.layer(&tar(|t| t.hard_link("link", target))).err();
        assert!(matches!(error, Some(Error::Escapes { .. })), "{target}: {error:?}");
    }
    scene.assert_untouched();
}

#[test]
fn absolute_names_land_inside_of_the_root() {
    let scene = Scene::new();
    let outside = scene.folder.path().join("outside/precious");
    let outside = outside.to_str().expect("a plain path");
    scene.layer(&tar(|t| t.file(outside, b"mine"))).expect("it unpacks");
    assert_eq!(fs::read_to_string(scene.root(&outside[1..])).expect("it is inside"), "mine");
    scene.assert_untouched();
}

#[test]
fn writing_through_links_stays_inside_of_the_root() {
    let scene = Scene::new();
    let outside = scene.folder.path().join("outside");
    let outside = outside.to_str().expect("a plain path");
    for target in [outside, "../../outside", "../../../../../../../../../../outside", "/outside"] {
        fs::remove_dir_all(scene.root("")).expect("removable");
        fs::create_dir(scene.root("")).expect("a writable folder");
        fs::create_dir(scene.root("outside")).expect("a writable folder");
        let result = scene.layer(&tar(|t| {
            t.dir("d");
            t.symlink("d/link", target);
            t.file("d/link/precious", b"overwritten");
            t.file("d/link/new", b"new");
            t.dir("d/link/folder");
            t.hard_link("d/link/hard", "d/link/new");
        }));
        // Either the target is in the root, or it is nothing: both are fine, leaving is not.
        drop(result);
        scene.assert_untouched();
    }
}

#[test]
fn a_link_as_the_last_name_is_replaced_and_not_followed() {
    let scene = Scene::new();
    symlink(scene.folder.path().join("outside/precious"), scene.root("file")).expect("a link");
    symlink(scene.folder.path().join("outside"), scene.root("dir")).expect("a link");
    let tar = tar(|t| {
        t.file("file", b"mine");
        t.dir("dir");
        t.file("dir/new", b"mine");
        t.entry(EntryType::Directory, "file2", "", b"", |_| {});
    });
    scene.layer(&tar).expect("it unpacks");
    assert!(fs::symlink_metadata(scene.root("file")).expect("there").is_file());
    assert!(fs::symlink_metadata(scene.root("dir")).expect("there").is_dir());
    scene.assert_untouched();
}

#[test]
fn hard_links_cannot_reach_outside() {
    let scene = Scene::new();
    let outside = scene.folder.path().join("outside");
    symlink(&outside, scene.root("link")).expect("a link");
    for target in [outside.join("precious").to_str().expect("a plain path"), "link/precious"] {
        let result = scene.layer(&tar(|t| t.hard_link("hard", target)));
        assert!(result.is_err(), "{target}");
    }
    // A hard link to a link links the link itself.
    symlink(outside.join("precious"), scene.root("leaf")).expect("a link");
    scene.layer(&tar(|t| t.hard_link("hard", "leaf"))).expect("it unpacks");
    assert!(fs::symlink_metadata(scene.root("hard")).expect("there").is_symlink());
    scene.assert_untouched();
}

#[test]
fn whiteouts_cannot_reach_outside_and_have_a_name() {
    let scene = Scene::new();
    symlink(scene.folder.path().join("outside"), scene.root("link")).expect("a link");
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        assert!(matches!(scene.layer(&tar(|t| t.file(name, b""))), Err(Error::Escapes { .. })), "{name}");
    }
    let _ = scene.layer(&tar(|t| t.file("link/.wh.precious", b"")));
    let _ = scene.layer(&tar(|t| t.file("link/.wh..wh..opq", b"")));
    assert!(matches!(scene.layer(&tar(|t| t.file("../.wh.outside", b""))), Err(Error::Escapes { .. })));
    scene.assert_untouched();
}

#[test]
fn a_layer_keeps_every_kind_of_file_and_its_metadata() -> TestResult {
    let scene = Scene::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = tar(|t| {
        t.entry(EntryType::Directory, "./", "", b"", |h| h.set_mode(0o711));
        t.entry(EntryType::Directory, "d", "", b"", |h| h.set_mode(0o1777));
        t.pax(&[
            ("mtime", b"12345.25"),
            ("SCHILY.xattr.user.note", b"a\nb=c"),
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ]);
        t.entry(EntryType::Regular, "d/suid", "", b"data", |h| {
            h.set_mode(0o4755);
            h.set_uid(1000);
            h.set_gid(1001);
        });
        t.hard_link("hard", "d/suid");
        t.symlink("soft", "/nowhere");
        t.entry(EntryType::Fifo, "fifo", "", b"", |h| h.set_mode(0o622));
        t.entry(EntryType::Char, "null", "", b"", |h| {
            h.set_mode(0o666);
            h.set_device_major(1).expect("a ustar header");
            h.set_device_minor(3).expect("a ustar header");
        });
        t.file("deep/in/folders", b"1");
    });
    let unpacked = scene.layer(&layer)?;
    assert_eq!((unpacked.entries, unpacked.bytes), (8, 5));
    let meta = |path: &str| fs::symlink_metadata(scene.root(path));
    let suid = meta("d/suid")?;
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid(), suid.nlink()), (0o4755, 1000, 1001, 2));
    assert_eq!((suid.mtime(), suid.mtime_nsec()), (12345, 250_000_000));
    assert_eq!((meta("")?.mode() & 0o7777, meta("d")?.mode() & 0o7777), (0o711, 0o1777));
    assert_eq!(meta("d")?.mtime(), 1_000_000_000, "a folder keeps its time although files were made in it");
    assert_eq!(fs::read_link(scene.root("soft"))?, Path::new("/nowhere"));
    assert!(meta("fifo")?.file_type().is_fifo() && meta("fifo")?.mode() & 0o777 == 0o622);
    assert_eq!((meta("null")?.rdev(), meta("null")?.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    assert_eq!(meta("deep/in")?.mode() & 0o777, 0o755);
    let xattr = |name: &str| {
        let mut value = [0_u8; 64];
        rustix::fs::getxattr(scene.root("d/suid"), name, &mut value[..]).map(|length| value[..length].to_vec())
    };
    assert_eq!(xattr("user.note")?, b"a\nb=c");
    assert_eq!(xattr("security.capability")?, capability);
    assert!(xattr("trusted.overlay.redirect").is_err(), "overlayfs takes orders from nobody's image");
    Ok(())
}

#[test]
fn whiteouts_become_what_overlayfs_reads() -> TestResult {
    let scene = Scene::new();
    scene.layer(&tar(|t| {
        t.file("d/.wh.gone", b"");
        t.file("o/.wh..wh..opq", b"");
        t.file("o/kept", b"1");
        t.file(".wh..wh.plnk", b"");
        t.file(".wh.again", b"");
        t.dir("again");
    }))?;
    let gone = fs::symlink_metadata(scene.root("d/gone"))?;
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| {
        let mut value = [0_u8; 4];
        rustix::fs::getxattr(scene.root(path), "trusted.overlay.opaque", &mut value[..])
            .is_ok_and(|n| value[..n] == *b"y")
    };
    assert!(opaque("o") && scene.root("o/kept").is_file());
    assert!(opaque("again"), "a folder that comes after its whiteout hides the lower one");
    assert!(!scene.root(".wh..wh.plnk").exists() && !opaque("d"));
    Ok(())
}

#[test]
fn copies_into_a_container_follow_its_own_links_only() -> TestResult {
    let scene = Scene::new();
    fs::create_dir_all(scene.root("real/dir"))?;
    fs::create_dir_all(scene.root("outside"))?;
    symlink("/real/dir", scene.root("link"))?;
    symlink(scene.folder.path().join("outside"), scene.root("evil"))?;
    let one = tar(|t| t.file("file", b"1"));
    scene.unpack_at("/link", &one, &UnpackOptions { owner: Some((7, 8)), ..UnpackOptions::default() })?;
    let meta = fs::metadata(scene.root("real/dir/file"))?;
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
    let missing = scene.unpack_at("/none", &one, &UnpackOptions::default());
    assert!(matches!(missing, Err(Error::NotFound(_))));
    assert!(matches!(scene.unpack_at("/evil", &one, &UnpackOptions::default()), Err(Error::NotFound(_))));
    let file = scene.unpack_at("/link/file", &one, &UnpackOptions::default());
    assert!(matches!(file, Err(Error::NotADirectory(_))));
    let keep = UnpackOptions { keep_kinds: true, ..UnpackOptions::default() };
    let folder = scene.unpack_at("/link", &tar(|t| t.dir("file")), &keep);
    assert!(matches!(folder, Err(Error::KindDiffers { is_dir: false, .. })), "{folder:?}");
    let file = scene.unpack_at("/real", &tar(|t| t.file("dir", b"")), &keep);
    assert!(matches!(file, Err(Error::KindDiffers { is_dir: true, .. })), "{file:?}");
    scene.assert_untouched();
    Ok(())
}

#[test]
fn limits_and_broken_archives_are_errors() {
    let scene = Scene::new();
    let many = tar(|t| (0..5).for_each(|n| t.file(&format!("f{n}"), b"12345")));
    let entries = scene.unpack_at("/", &many, &UnpackOptions { max_entries: 4, ..UnpackOptions::default() });
    assert!(matches!(entries, Err(Error::TooLarge { what: "entries", limit: 4 })));
    let bytes = scene.unpack_at("/", &many, &UnpackOptions { max_bytes: 24, ..UnpackOptions::default() });
    assert!(matches!(bytes, Err(Error::TooLarge { what: "bytes", limit: 24 })));
    assert!(matches!(scene.layer(&many[..1100]), Err(Error::Malformed(_))));
    assert!(matches!(scene.layer(&many[..515]), Err(Error::Malformed(_))));
    assert!(matches!(scene.layer(&[b'x'; 512]), Err(Error::Malformed(_))));
    let sparse = tar(|t| {
        t.pax(&[("GNU.sparse.major", b"1")]);
        t.file("sparse", b"");
    });
    assert!(matches!(scene.layer(&sparse), Err(Error::Unsupported { .. })));
    assert_eq!(scene.layer(b"").ok(), Some(Unpacked::default()));
}

#[test]
fn a_name_of_too_many_levels_is_refused_before_anything_is_made_of_it() -> TestResult {
    let scene = Scene::new();
    let name = |levels: usize| vec!["d"; levels].join("/");
    let archive = |levels| {
        tar(|t| {
            t.pax(&[("path", name(levels).as_bytes())]);
            t.file("d", b"x");
        })
    };
    let error = scene.layer(&archive(archive::MAX_DEPTH + 1)).expect_err("too deep");
    assert_eq!(error.to_string(), "archive holds more than the limit of 256 levels of folders");
    assert!(!scene.root("d").exists());
    scene.layer(&archive(archive::MAX_DEPTH))?;
    assert_eq!(fs::read(scene.root(&name(archive::MAX_DEPTH)))?, b"x");
    Ok(())
}

#[test]
fn a_tree_5000_levels_deep_is_neither_packed_nor_replaced_and_the_error_names_the_limit() -> TestResult {
    assert_root();
    let folder = DeepFolder::new();
    fs::create_dir(folder.path().join("deep"))?;
    nest(&folder.path().join("deep"), 5_000)?;
    let root = File::open(folder.path())?;
    let limit = "archive holds more than the limit of 256 levels of folders";
    for path in ["/", "deep", "deep/d/d"] {
        let packed = archive::pack(root.as_fd(), Path::new(path), std::io::sink(), &PackOptions::default());
        assert_eq!(packed.map(drop).expect_err("too deep").to_string(), limit, "{path}");
    }
    let file = tar(|t| t.file("deep", b"x"));
    let replaced = archive::unpack_into(root.as_fd(), Path::new("/"), file.as_slice(), &layer_options());
    assert_eq!(replaced.expect_err("too deep").to_string(), limit);
    let path = folder.path().to_owned();
    drop(folder);
    assert!(!path.exists());
    Ok(())
}

#[test]
fn what_is_packed_unpacks_to_the_same_tree() -> TestResult {
    let scene = Scene::new();
    let long = "n".repeat(150);
    fs::create_dir_all(scene.root("tree/sub"))?;
    fs::write(scene.root("tree/file"), vec![5; 100_000])?;
    fs::hard_link(scene.root("tree/file"), scene.root("tree/sub/hard"))?;
    fs::write(scene.root("tree").join(&long), "long")?;
    symlink("../../outside", scene.root("tree/up"))?;
    std::os::unix::fs::chown(scene.root("tree/file"), Some(3_000_000), Some(4))?;
    rustix::fs::setxattr(scene.root("tree/file"), "user.note", b"\0\n", XattrFlags::empty())?;
    let root = File::open(scene.root(""))?;
    let packed = archive::pack(root.as_fd(), Path::new("/tree"), Vec::new(), &PackOptions::default())?;
    let options = PackOptions { name: Some("other".into()), ..PackOptions::default() };
    let renamed = archive::pack(root.as_fd(), Path::new("tree"), Vec::new(), &options)?;
    fs::create_dir(scene.root("copy"))?;
    scene.unpack_at("copy", &packed, &UnpackOptions::default())?;
    scene.unpack_at("copy", &renamed, &UnpackOptions::default())?;
    for name in ["copy/tree", "copy/other"] {
        let meta = fs::metadata(scene.root(name).join("file"))?;
        assert_eq!((meta.uid(), meta.gid(), meta.nlink(), meta.len()), (3_000_000, 4, 2, 100_000));
        assert_eq!(fs::read_to_string(scene.root(name).join(&long))?, "long");
        assert_eq!(fs::read_link(scene.root(name).join("up"))?, Path::new("../../outside"));
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(scene.root(name).join("file"), "user.note", &mut value[..])?, 2);
    }
    let missing = archive::pack(root.as_fd(), Path::new("/tree/none"), Vec::new(), &PackOptions::default());
    assert!(matches!(missing, Err(Error::NotFound(_))));
    Ok(())
}

#[test]
fn a_packed_link_is_the_link_unless_it_is_to_be_followed() -> TestResult {
    let scene = Scene::new();
    fs::write(scene.root("file"), "content")?;
    symlink("/file", scene.root("link"))?;
    symlink(scene.folder.path().join("outside/precious"), scene.root("evil"))?;
    let root = File::open(scene.root(""))?;
    let kind = |path: &str, follow| {
        let packed =
            archive::pack(root.as_fd(), Path::new(path), Vec::new(), &PackOptions { follow, ..PackOptions::default() });
        packed.map(|tar| tar::Header::from_byte_slice(&tar[..512]).entry_type())
    };
    assert_eq!(kind("/link", false)?, EntryType::Symlink);
    assert_eq!(kind("/link", true)?, EntryType::Regular);
    assert!(matches!(kind("/evil", true), Err(Error::NotFound(_))));
    Ok(())
}

#[test]
fn the_system_tar_reads_what_is_packed() -> TestResult {
    let scene = Scene::new();
    fs::create_dir_all(scene.root("d").join("é".repeat(60)))?;
    fs::write(scene.root("d").join("é".repeat(60)).join("f"), "1")?;
    let root = File::open(scene.root(""))?;
    let packed = archive::pack(root.as_fd(), Path::new("d"), Vec::new(), &PackOptions::default())?;
    let file = scene.folder.path().join("root/packed.tar");
    fs::write(&file, packed)?;
    let listed = std::process::Command::new("tar").arg("tf").arg(&file).arg("--quoting-style=literal").output()?;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(String::from_utf8(listed.stdout)?.ends_with(&format!("d/{}/f\n", "é".repeat(60))));
    Ok(())
}

#[test]
fn damaged_headers_never_panic_and_never_reach_outside() {
    let scene = Scene::new();
    let outside = scene.folder.path().join("outside");
    let outside = outside.to_str().expect("a plain path");
    let whole = tar(|t| {
        t.dir("d");
        t.symlink("d/out", outside);
        t.pax(&[("path", b"d/out/precious"), ("linkpath", b"../outside/precious")]);
        t.file("x", b"overwritten");
        t.hard_link("d/hard", "d/out/precious");
        t.file("d/.wh.gone", b"");
        t.file("d/.wh..wh..opq", b"");
        t.entry(EntryType::Fifo, "fifo", "", b"", |_| {});
    });
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..1500 {
        let mut damaged = whole.clone();
        for _ in 0..=random(3) {
            let block = random(damaged.len() / 512) * 512;
            damaged[block + random(512)] = [b'/', b'.', 0, b'0', b'7', 0xff, b'5', b'1'][random(8)];
            let mut header = tar::Header::from_byte_slice(&damaged[block..block + 512]).clone();
            if damaged[block + 257..].starts_with(b"ustar") {
                header.set_cksum();
                damaged[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        let _ = scene.unpack_at("/", &damaged, &UnpackOptions { max_bytes: 1 << 20, ..layer_options() });
        scene.assert_untouched();
    }
}

#[test]
fn a_folder_swapped_for_a_link_while_unpacking_leads_nowhere_outside() -> TestResult {
    use std::sync::atomic::{AtomicBool, Ordering};
    let scene = Scene::new();
    let (dir, link, spare) = (scene.root("d"), scene.root("link"), scene.root("spare"));
    fs::create_dir(&dir)?;
    symlink(scene.folder.path().join("outside"), &link)?;
    let layer = tar(|t| {
        t.file("d/precious", b"overwritten");
        t.entry(EntryType::Fifo, "d/fifo", "", b"", |h| h.set_mode(0o777));
        t.hard_link("d/hard", "d/precious");
        t.symlink("d/soft", "precious");
        t.entry(EntryType::Directory, "d/sub", "", b"", |h| h.set_mode(0o777));
        t.file("d/sub/file", b"x");
    });
    let stop = AtomicBool::new(false);
    let (mut done, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // A container that works against the copy: `d` is a folder, then a link out of the root, in turn.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(&dir, &spare).and_then(|()| fs::rename(&link, &dir));
                let _ = fs::rename(&dir, &link).and_then(|()| fs::rename(&spare, &dir));
            }
        });
        // On to where one of them met the folder all the time: how soon that is depends on who gets the processors.
        for round in 0..5_000 {
            if round >= 150 && done > 0 {
                break;
            }
            match scene.unpack_at("/", &layer, &UnpackOptions::default()) {
                Ok(_) => done += 1,
                Err(_) => refused += 1,
            }
            // What a copy out of the container may show is what was copied in, never the file of that name outside.
            let root = File::open(scene.root("")).expect("the root exists");
            let options = PackOptions { follow: true, ..PackOptions::default() };
            let packed = archive::pack(root.as_fd(), Path::new("/d"), Vec::new(), &options).unwrap_or_default();
            let size = |header: &[u8]| tar::Header::from_byte_slice(header).entry_size().unwrap_or(0);
            let headers = packed.chunks_exact(512).filter(|block| block.starts_with(b"d/precious\0"));
            assert!(headers.into_iter().all(|header| size(header) != "precious".len() as u64));
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.assert_untouched();
    assert!(done > 0, "none of the copies was done, {refused} were refused");
    Ok(())
}
