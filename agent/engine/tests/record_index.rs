//! The index over records never lies: whatever happens to it, or to the records behind its back, a start shows what the files say.

mod common;

use common::{Host, IMAGE, command, import, record_in};
use muster_calls::{Engine, Filters, ListContainers, RemoveContainer};
use muster_engine::{LocalEngine, RecordsRead};
use muster_model::engine::VolumeCreate;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// From as many records on these engines have an index.
const FROM: usize = 8;
const CONTAINERS: usize = 12;
const VOLUMES: usize = 3;
const ALL: usize = CONTAINERS + VOLUMES;
/// No clock of files ticks less often.
const TICK_NS: i64 = 25_000_000;

/// What can be told of containers and volumes: by id the name and the state; names.
type Shown = (BTreeMap<String, (String, String)>, BTreeSet<String>);

/// What happens to a file, given what it holds.
type Spoil = fn(&Path, &[u8]);

struct Records {
    host: Host,
}

impl Records {
    fn containers(&self) -> PathBuf {
        self.host.dir.join("data/containers")
    }

    fn index(&self) -> PathBuf {
        self.host.dir.join("data/record-index")
    }

    async fn open_from(&self, from: usize) -> Arc<LocalEngine> {
        let mut config = self.host.config().await;
        config.index_from = from;
        LocalEngine::open(config).await.expect("engine opens")
    }

    async fn open(&self) -> Arc<LocalEngine> {
        self.open_from(FROM).await
    }

    /// A host with containers and volumes, and an index over all of them.
    async fn indexed() -> Self {
        let this = Self { host: Host::new() };
        let engine = this.open().await;
        import(&*engine, IMAGE).await;
        for n in 0..CONTAINERS {
            create(&engine, &format!("c{n:02}")).await;
        }
        for n in 0..VOLUMES {
            let volume = VolumeCreate { name: format!("v{n}"), ..VolumeCreate::default() };
            engine.volume_create(volume).await.expect("created");
        }
        this.settle().await;
        stop(engine).await;
        assert!(this.index().join("CURRENT").exists(), "an orderly end writes the index");
        this
    }

    /// Waits until no file can be stamped with the time of the last change any more.
    async fn settle(&self) {
        let began = stamp(&self.host.dir);
        let end = Instant::now() + common::PATIENCE;
        while stamp(&self.host.dir) <= began + TICK_NS {
            assert!(Instant::now() < end, "the clock of the file system stands");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the files say.
    fn truth(&self) -> Shown {
        let folders = |at: PathBuf| fs::read_dir(at).expect("folder").flatten().map(|e| e.path()).collect::<Vec<_>>();
        let containers = folders(self.containers()).into_iter().map(|folder| {
            let record = record_in(&folder).expect("a record");
            let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
            (text(&record["id"]), (text(&record["name"]), text(&record["state"]["phase"])))
        });
        let volumes = folders(self.host.dir.join("data/volumes")).into_iter();
        let volumes = volumes.map(|v| record_in(&v).expect("a record")["name"].as_str().expect("text").to_owned());
        (containers.collect(), volumes.collect())
    }

    /// Starts an engine, compares what it shows with the files, and ends it. Answers with where it had it from.
    async fn start(&self) -> RecordsRead {
        let truth = self.truth();
        let engine = self.open().await;
        let read = engine.records_read();
        let shown = shown(&engine).await;
        stop(engine).await;
        assert_eq!(shown, truth, "{read:?}");
        read
    }

    /// Copies the index away, to be put back.
    fn keep(&self) -> tempfile::TempDir {
        let kept = tempfile::tempdir().expect("temporary folder");
        copy(&self.index(), &kept.path().join("index"));
        kept
    }

    fn put_back(&self, kept: &tempfile::TempDir) {
        let _ = fs::remove_dir_all(self.index());
        let _ = fs::remove_file(self.index());
        copy(&kept.path().join("index"), &self.index());
    }

    async fn finish(self) {
        let engine = self.open_from(usize::MAX).await;
        for volume in shown(&engine).await.1 {
            engine.volume_remove(&volume, false).await.expect("removed");
        }
        self.host.finish(engine).await;
    }
}

/// An orderly end: the folder is free then.
async fn stop(engine: Arc<LocalEngine>) {
    engine.shutdown().await;
}

async fn create(engine: &LocalEngine, name: &str) -> String {
    let body = command(&["true"]);
    engine.container_create(Some(name.to_owned()), String::new(), body).await.expect("created").id
}

async fn shown(engine: &LocalEngine) -> Shown {
    let all = ListContainers { all: true, ..ListContainers::default() };
    let containers = engine.container_list(all).await.expect("listed").items;
    let containers = containers.into_iter().map(|c| (c.id, (c.names[0].trim_start_matches('/').to_owned(), c.state)));
    let volumes = engine.volume_list(Filters::default()).await.expect("listed").volumes;
    (containers.collect(), volumes.into_iter().map(|v| v.name).collect())
}

/// What a file made now is stamped with.
fn stamp(dir: &Path) -> i64 {
    let file = tempfile::NamedTempFile::new_in(dir).expect("a file");
    let metadata = file.as_file().metadata().expect("its metadata");
    metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(status.success());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("folder").flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Changes a name in a record's file: the file keeps its length.
fn rename_in(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).expect("JSON");
    let changed = text.replace(&format!("\"name\":\"{from}\""), &format!("\"name\":\"{to}\""));
    assert_eq!((changed != text, changed.len()), (true, text.len()));
    changed.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_come_from_the_index_and_few_have_none() {
    let records = Records::indexed().await;
    let mode = fs::metadata(records.index()).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "records hold environments");
    assert_eq!(records.start().await, RecordsRead { from_index: ALL, from_files: 0 });
    assert_eq!(files(&records.index()).iter().filter(|f| f.ends_with("MANIFEST")).count(), 1, "older ones go");

    let engine = records.open_from(ALL + 1).await;
    assert_eq!(engine.records_read(), RecordsRead { from_index: 0, from_files: ALL });
    stop(engine).await;
    assert!(!records.index().exists(), "few records have no index");
    assert_eq!(records.start().await, RecordsRead { from_index: 0, from_files: ALL });
    assert_eq!(records.start().await, RecordsRead { from_index: ALL, from_files: 0 }, "made anew");
    records.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_changed_wins_over_the_index_and_one_that_is_gone_is_gone() {
    let records = Records::indexed().await;
    let kept = records.keep();
    let of = |name: &str| {
        let (containers, _) = records.truth();
        let id = containers.iter().find(|(_, (n, _))| n == name).expect("there").0.clone();
        records.containers().join(id)
    };
    // Replaced, as the engine does it, and written over in place by somebody.
    let (replaced, over) = (of("c00").join("record.json"), of("c01").join("record.json"));
    let bytes = fs::read(&replaced).expect("read");
    fs::write(replaced.with_extension("new"), rename_in(&bytes, "c00", "x00")).expect("written");
    fs::rename(replaced.with_extension("new"), &replaced).expect("renamed");
    fs::write(&over, rename_in(&fs::read(&over).expect("read"), "c01", "x01")).expect("written");
    assert_eq!(records.start().await, RecordsRead { from_index: ALL - 2, from_files: 2 });

    // By an engine that died before it could write the index again.
    let engine = records.open().await;
    engine.container_rename("c02", "a-longer-name".to_owned()).await.expect("renamed");
    engine.container_remove("c03", RemoveContainer::default()).await.expect("removed");
    engine.volume_remove("v0", false).await.expect("removed");
    create(&engine, "new").await;
    stop(engine).await;
    records.put_back(&kept);
    let read = records.start().await;
    assert_eq!(read, RecordsRead { from_index: ALL - 2 - 3, from_files: 4 });
    records.settle().await;
    records.start().await;
    assert_eq!(records.start().await, RecordsRead { from_index: ALL - 1, from_files: 0 });
    records.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_changes_in_the_tick_in_which_the_index_is_written_wins() {
    let records = Records::indexed().await;
    for round in 0..20 {
        let (now, next) = (format!("r{round:02}"), format!("s{round:02}"));
        let engine = records.open().await;
        // As many as make a new index pay.
        for n in 4..8 {
            let was = if round == 0 { format!("c{n:02}") } else { format!("s{:02}-{n}", round - 1) };
            engine.container_rename(&was, format!("{now}-{n}")).await.expect("renamed");
        }
        let folders: Vec<_> = fs::read_dir(records.containers()).expect("folder").flatten().map(|e| e.path()).collect();
        stop(engine).await;
        for file in folders.iter().map(|folder| folder.join("record.json")) {
            let bytes = fs::read(&file).expect("read");
            for n in 4..8 {
                let from = format!("{now}-{n}");
                if String::from_utf8_lossy(&bytes).contains(&format!("\"{from}\"")) {
                    fs::write(&file, rename_in(&bytes, &from, &format!("{next}-{n}"))).expect("written");
                }
            }
        }
        records.start().await;
    }
    records.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_the_index_a_start_shows_what_the_files_say_and_makes_it_anew() {
    let records = Records::indexed().await;
    let kept = records.keep();
    let of_files = RecordsRead { from_index: 0, from_files: ALL };
    let names: Vec<PathBuf> =
        files(&records.index()).iter().map(|f| f.strip_prefix(records.index()).expect("below").to_owned()).collect();
    assert!(names.len() >= 4, "{names:?}");
    let spoil: [(&str, Spoil); 5] = [
        ("gone", |path, _| fs::remove_file(path).expect("removed")),
        ("empty", |path, _| fs::write(path, "").expect("written")),
        ("garbage", |path, _| fs::write(path, "\u{1}garbage\n".repeat(99)).expect("written")),
        ("cut", |path, bytes| fs::write(path, &bytes[..bytes.len() / 2]).expect("written")),
        ("one byte", |path, bytes| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x20;
            fs::write(path, bytes).expect("written");
        }),
    ];
    for name in &names {
        for (how, spoil) in spoil {
            records.put_back(&kept);
            let path = records.index().join(name);
            let bytes = fs::read(&path).expect("read");
            if bytes.is_empty() {
                continue;
            }
            spoil(&path, &bytes);
            assert_eq!(records.start().await, of_files, "{} {how}", name.display());
        }
    }
    // Of another version: the manifest says so, and its checksum is right.
    records.put_back(&kept);
    let manifest = names.iter().find(|n| n.ends_with("MANIFEST")).expect("a manifest");
    let path = records.index().join(manifest);
    let text = fs::read_to_string(&path).expect("text");
    let body = text.lines().filter(|l| !l.starts_with("crc ")).map(|l| format!("{l}\n")).collect::<String>();
    let body = body.replace("muster record index 1", "muster record index 2");
    fs::write(&path, format!("{body}crc {:08x}\n", crc32c::crc32c(body.as_bytes()))).expect("written");
    assert_eq!(records.start().await, of_files);
    // No folder at all.
    records.put_back(&kept);
    fs::remove_dir_all(records.index()).expect("removed");
    fs::write(records.index(), "a file").expect("written");
    assert_eq!(records.start().await, of_files);
    assert_eq!(records.start().await, RecordsRead { from_index: ALL, from_files: 0 }, "it was made anew");
    records.finish().await;
}

/// Where the child process finds its host.
const DIR: &str = "MUSTER_TEST_HOST_DIR";
const PARENT: &str = "MUSTER_TEST_HOST_PARENT";

/// Not a test of its own: a process that changes records and writes the index over and over until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_the_index() {
    let (Ok(dir), Ok(parent)) = (std::env::var(DIR), std::env::var(PARENT)) else { return };
    let records = Records { host: Host::of(&dir, &parent) };
    println!("READY");
    for n in 0.. {
        let engine = records.open().await;
        for k in 0..4 {
            engine.container_rename(&format!("c{:02}", k), format!("t{n}-{k}")).await.expect("renamed");
            engine.container_rename(&format!("t{n}-{k}"), format!("c{:02}", k)).await.expect("renamed");
        }
        stop(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_the_index_is_written_costs_nothing_but_the_index() {
    let records = Records::indexed().await;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "child_that_writes_the_index", "--nocapture"])
            .env(DIR, &records.host.dir)
            .env(PARENT, records.host.parent())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|l| l.expect("a line").contains("READY")), "the child began");
        // Anywhere in its rounds of some 50 ms.
        tokio::time::sleep(Duration::from_millis(60 + 37 * round)).await;
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let engine = records.open().await;
        // It died between two names, if at all.
        for (name, _) in shown(&engine).await.0.into_values() {
            if let Some((_, k)) = name.split_once('-') {
                engine.container_rename(&name, format!("c0{k}")).await.expect("renamed");
            }
        }
        stop(engine).await;
        records.start().await;
    }
    records.finish().await;
}
