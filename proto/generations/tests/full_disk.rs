//! A disk that fills up while a database larger than sled's cache is written. Needs root, for a file system of its own.

use muster_generations::{Error, Generations, Kind};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::Path;

const KIND: Kind = Kind { name: "test", format: 1 };

struct Small(tempfile::TempDir);

impl Small {
    fn of(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = format!("size={size}");
        mount(Some("none"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("root is needed");
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH); // a file system in memory has nothing to lose
    }
}

/// Values that do not compress.
fn pairs(keys: u32) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let value = |n: u32| (0..80_000_u32).map(|i| (i.wrapping_mul(2_654_435_761 ^ n) >> 13) as u8).collect();
    (0..keys).map(move |n| (n.to_be_bytes().to_vec(), value(n)))
}

#[test]
fn a_database_that_finds_no_room_is_an_error_and_the_one_before_stays() {
    let disk = Small::of("64m");
    let path: &Path = disk.0.path();
    let generations = Generations::new(path.to_owned(), KIND, 8 << 20);
    generations.write(1, &Default::default(), pairs(10)).expect("written");
    let refused = generations.write(2, &Default::default(), pairs(2_000)).expect_err("160 MB do not go into 64 MiB");
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    assert_eq!(generations.current().expect("read"), Some(1));
    generations.check(1).expect("whole");
    generations.write(3, &Default::default(), pairs(20)).expect("what the refused one took is free again");
}
