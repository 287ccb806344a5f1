//! Power cuts under a real engine on a real file system: what was acknowledged is there, and every object is whole or gone.
//!
//! Needs root, /dev/fuse and a loop device. More lives: `POWERCUT_SEEDS=20 cargo test -p muster-engine --test power_cut`.

mod common;
mod power;

use bytes::Bytes;
use common::{Host, command, record_in};
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_calls::{Commit, Engine, Filters, Import, Kind, ListContainers, RemoveContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{ContainerCreateBody, NetworkCreate, VolumeCreate};
use power::{Event, Image, Recorded, Replay, Rng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

const FORCE: RemoveContainer = RemoveContainer { force: true, volumes: true };
/// The file by which images differ.
const CONTENT: &str = "content";

/// What the user was told is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    /// Name and the tag that it was made from.
    containers: BTreeMap<String, String>,
    volumes: BTreeSet<String>,
    networks: BTreeSet<String>,
    /// Tag -> seed of what its images hold.
    images: BTreeMap<String, u64>,
}

/// Bytes that only their seed tells.
fn content(seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..4_000 + rng.below(8_000)).flat_map(|_| rng.next().to_le_bytes()).collect()
}

/// A root file system with what engines find hard to put back: links, attributes of folders, and much content.
fn rootfs(seed: u64) -> Bytes {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(true);
    tar.append_path_with_name(busybox.expect("busybox-static is installed"), "bin/busybox").expect("busybox");
    let bytes = content(seed);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, CONTENT, &bytes[..]).expect("file");
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    tar.append_link(&mut link, "hard", CONTENT).expect("link");
    tar.into_inner().expect("tar").into()
}

/// An engine on that disk, with an index over its records however few they are.
async fn open(host: &Host, disk: &Path) -> Result<Arc<LocalEngine>, muster_engine::OpenError> {
    let mut config = host.config_at(disk).await;
    config.index_from = 1;
    LocalEngine::open(config).await
}

async fn import(engine: &LocalEngine, tag: &str, seed: u64) -> muster_calls::Result<()> {
    let body = stream::iter([Ok(rootfs(seed))]).boxed();
    let import = Import { repo: "cut".to_owned(), tag: tag.to_owned(), ..Import::default() };
    let lines = engine.image_import(body, import).await?;
    let lines: Vec<_> = lines.try_collect().await?;
    assert!(lines.iter().all(|l| l.error.is_empty()), "{lines:?}");
    Ok(())
}

fn sleeper(tag: &str) -> ContainerCreateBody {
    let mut body = command(&["/bin/busybox", "sleep", "300"]);
    body.config.image = format!("cut:{tag}");
    body.host_config.network_mode = "none".into();
    body
}

/// Lives on a disk: acts, each noted when it was acknowledged.
struct Life<'a> {
    host: &'a Host,
    /// There but for a moment within [`Life::restart`].
    engine: Option<Arc<LocalEngine>>,
    recorded: &'a Recorded,
    model: Model,
    acknowledged: Vec<Model>,
    rng: Rng,
}

impl Life<'_> {
    fn ack(&mut self) {
        self.acknowledged.push(self.model.clone());
        self.recorded.power.ack(self.acknowledged.len() - 1);
    }

    fn pick<T: Clone>(&mut self, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
        let n = self.rng.below(from.len());
        from.into_iter().nth(n)
    }

    /// An orderly end, which writes the index over records where that pays, and the next start.
    async fn restart(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.shutdown().await;
        }
        self.engine = Some(open(self.host, self.recorded.disk.path()).await.expect("engine opens"));
    }

    async fn act(&mut self) {
        if self.rng.percent(10) {
            return self.restart().await;
        }
        let engine = self.engine.clone().expect("it runs");
        let n = self.rng.next();
        let name = format!("n{}", n % 1_000_000);
        match self.rng.below(100) {
            0..=14 => {
                import(&engine, &name, n).await.expect("imported");
                self.model.images.insert(name, n);
            }
            15..=39 => {
                let Some(tag) = self.pick(self.model.images.clone().into_keys()) else { return };
                engine.container_create(Some(name.clone()), String::new(), sleeper(&tag)).await.expect("created");
                self.model.containers.insert(name, tag);
            }
            40..=49 => {
                let Some(of) = self.pick(self.model.containers.clone().into_keys()) else { return };
                match engine.container_start(&of).await {
                    Err(e) if e.kind == Kind::NotModified => return,
                    started => started.expect("started"),
                }
            }
            50..=59 => {
                let Some(of) = self.pick(self.model.containers.clone().into_keys()) else { return };
                engine.container_remove(&of, FORCE).await.expect("removed");
                self.model.containers.remove(&of);
            }
            60..=66 => {
                let Some(of) = self.pick(self.model.containers.clone().into_keys()) else { return };
                engine.container_rename(&of, name.clone()).await.expect("renamed");
                let was = self.model.containers.remove(&of).expect("there");
                self.model.containers.insert(name, was);
            }
            67..=72 => {
                let Some((of, tag)) = self.pick(self.model.containers.clone().into_iter()) else { return };
                let seed = self.model.images.get(&tag).copied();
                let commit = Commit { container: of, repo: "cut".into(), tag: name.clone(), ..Commit::default() };
                engine.commit(commit, None).await.expect("committed");
                if let Some(seed) = seed {
                    self.model.images.insert(name, seed);
                }
            }
            73..=77 => {
                let used: BTreeSet<_> = self.model.containers.values().cloned().collect();
                let free: Vec<_> = self.model.images.keys().filter(|tag| !used.contains(*tag)).cloned().collect();
                let Some(tag) = self.pick(free.into_iter()) else { return };
                engine.image_remove(&format!("cut:{tag}"), false, false).await.expect("removed");
                self.model.images.remove(&tag);
            }
            78..=81 => {
                let Some((tag, seed)) = self.pick(self.model.images.clone().into_iter()) else { return };
                engine.image_tag(&format!("cut:{tag}"), "cut".into(), name.clone()).await.expect("tagged");
                self.model.images.insert(name, seed);
            }
            82..=89 => {
                let volume = VolumeCreate { name: name.clone(), ..VolumeCreate::default() };
                engine.volume_create(volume).await.expect("created");
                self.model.volumes.insert(name);
            }
            90..=92 => {
                let Some(of) = self.pick(self.model.volumes.clone().into_iter().collect::<Vec<_>>().into_iter()) else {
                    return;
                };
                engine.volume_remove(&of, false).await.expect("removed");
                self.model.volumes.remove(&of);
            }
            93..=97 => {
                let network = NetworkCreate { name: name.clone(), ..NetworkCreate::default() };
                engine.network_create(network).await.expect("created");
                self.model.networks.insert(name);
            }
            _ => {
                let Some(of) = self.pick(self.model.networks.clone().into_iter().collect::<Vec<_>>().into_iter())
                else {
                    return;
                };
                engine.network_remove(&of).await.expect("removed");
                self.model.networks.remove(&of);
            }
        }
        self.ack();
    }
}

/// What is found after the machine came up.
async fn found(engine: &LocalEngine, models: &[Model]) -> Result<Model, String> {
    let mut model = Model::default();
    let all = ListContainers { all: true, ..ListContainers::default() };
    for c in engine.container_list(all).await.map_err(|e| e.message)?.items {
        let name = c.names[0].trim_start_matches('/').to_owned();
        // One that was started a moment before may not have got further than its making.
        if !["created", "exited"].contains(&c.state.as_str()) {
            return Err(format!("{name} is {} after a power cut", c.state));
        }
        model.containers.insert(name, c.image.trim_start_matches("cut:").to_owned());
    }
    model.volumes = engine
        .volume_list(Filters::default())
        .await
        .map_err(|e| e.message)?
        .volumes
        .into_iter()
        .map(|v| v.name)
        .collect();
    let networks = engine.network_list(Filters::default()).await.map_err(|e| e.message)?.items;
    model.networks =
        networks.into_iter().map(|n| n.name).filter(|n| !["bridge", "host", "none"].contains(&n.as_str())).collect();
    let images = engine.image_list(true, false, Filters::default()).await.map_err(|e| e.message)?.items;
    let seeds: BTreeMap<_, _> = models.iter().flat_map(|m| m.images.clone()).collect();
    for tag in images.into_iter().flat_map(|i| i.repo_tags) {
        let Some(tag) = tag.strip_prefix("cut:") else { continue };
        let seed = *seeds.get(tag).ok_or_else(|| format!("an image {tag} that nobody made"))?;
        whole(engine, tag, seed).await?;
        model.images.insert(tag.to_owned(), seed);
    }
    Ok(model)
}

/// An image's files are all there: seen in a container of it.
async fn whole(engine: &LocalEngine, tag: &str, seed: u64) -> Result<(), String> {
    let said = |e: muster_calls::Error| format!("image {tag}: {}", e.message);
    let made = engine.container_create(None, String::new(), sleeper(tag)).await.map_err(said)?;
    for path in [CONTENT, "hard"] {
        let (_, out) = engine.archive_get(&made.id, format!("/{path}")).await.map_err(said)?;
        let tar: Vec<_> = out.try_collect().await.map_err(said)?;
        let tar = tar.concat();
        let mut read = Vec::new();
        let mut archive = tar::Archive::new(&tar[..]);
        let entries = archive.entries().map_err(|e| e.to_string())?;
        for entry in entries {
            std::io::Read::read_to_end(&mut entry.map_err(|e| e.to_string())?, &mut read).map_err(|e| e.to_string())?;
        }
        if read != content(seed) {
            return Err(format!("image {tag}: /{path} has {} bytes that are not its own", read.len()));
        }
    }
    engine.container_remove(&made.id, FORCE).await.map_err(said)
}

/// Nothing but what objects own is left once all objects are removed.
async fn nothing_left(engine: &LocalEngine, disk: &Path) -> Result<(), String> {
    let said = |e: muster_calls::Error| e.message;
    let all = ListContainers { all: true, ..ListContainers::default() };
    for c in engine.container_list(all).await.map_err(said)?.items {
        engine.container_remove(&c.id, FORCE).await.map_err(said)?;
    }
    for image in engine.image_list(true, false, Filters::default()).await.map_err(said)?.items {
        engine.image_remove(&image.id, true, false).await.map_err(said)?;
    }
    // Blobs of an import or pull that was cut stay for the next try; pruning takes them.
    engine.image_prune(Filters::default()).await.map_err(said)?;
    for volume in engine.volume_list(Filters::default()).await.map_err(said)?.volumes {
        engine.volume_remove(&volume.name, false).await.map_err(said)?;
    }
    for folder in [
        "data/containers",
        "data/volumes",
        "images/snapshots",
        "images/blobs/sha256",
        "images/layers",
        "images/images",
        "images/ingest",
    ] {
        let left: Vec<_> =
            fs::read_dir(disk.join(folder)).map_or(Vec::new(), |d| d.flatten().map(|e| e.file_name()).collect());
        if !left.is_empty() {
            return Err(format!("{folder} still holds {left:?}"));
        }
    }
    Ok(())
}

/// Opens an image. What is found must be what was last acknowledged, or that and the act under way.
/// Answers with how many records came from the index.
async fn check(image: &Image, models: &[Model], acked: usize, sweep: bool) -> Result<usize, String> {
    let booted = image.mount();
    let host = Host::new();
    let engine = open(&host, booted.disk.path()).await.map_err(|e| format!("the engine does not open: {e}"))?;
    let from_index = engine.records_read().from_index;
    as_the_files_say(&engine, &booted.disk.path().join("data/containers")).await?;
    let candidates = &models[acked..(acked + 2).min(models.len())];
    let result = async {
        let found = found(&engine, models).await?;
        if !candidates.contains(&found) {
            return Err(format!("found {found:#?}, acknowledged or under way {candidates:#?}"));
        }
        if sweep { nothing_left(&engine, booted.disk.path()).await } else { Ok(()) }
    };
    let result = result.await;
    engine.shutdown().await;
    drop(engine);
    result.map(|()| from_index)
}

/// The containers that an engine shows are those of the record files, whatever an index over them says.
async fn as_the_files_say(engine: &LocalEngine, folder: &Path) -> Result<(), String> {
    let all = ListContainers { all: true, ..ListContainers::default() };
    let shown = engine.container_list(all).await.map_err(|e| e.message)?.items;
    let shown: BTreeMap<_, _> =
        shown.into_iter().map(|c| (c.id, c.names[0].trim_start_matches('/').to_owned())).collect();
    let folders = fs::read_dir(folder).map_err(|e| e.to_string())?.flatten();
    let records = folders.filter_map(|e| record_in(&e.path()));
    let said: BTreeMap<_, _> = records
        .map(|r| ["id", "name"].map(|key| r[key].as_str().unwrap_or_default().to_owned()))
        .map(|[id, name]| (id, name))
        .collect();
    if shown == said { Ok(()) } else { Err(format!("shown {shown:#?}, the files say {said:#?}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_every_object_is_whole_or_gone_and_what_was_acknowledged_is_there() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    let (first, lives, acts): (u64, u64, usize) = (number("POWERCUT_SEED", 1), number("POWERCUT_SEEDS", 2), 60);
    let empty = Image::formatted();
    let (mut cuts, mut from_index) = (0, 0);
    for seed in first..first + lives {
        let recorded = Recorded::new(&empty);
        let host = Host::new();
        let engine = Some(open(&host, recorded.disk.path()).await.expect("engine opens"));
        let (model, acknowledged, rng) = (Model::default(), Vec::new(), Rng(seed));
        let mut life = Life { host: &host, engine, recorded: &recorded, model, acknowledged, rng };
        life.ack();
        for _ in 0..acts {
            life.act().await;
        }
        let (models, engine, trace) = (life.acknowledged, life.engine.expect("it runs"), recorded.power.trace());
        for name in models.last().expect("acts").containers.keys() {
            engine.container_remove(name, FORCE).await.expect("removed");
        }
        engine.shutdown().await;
        drop((engine, host, recorded));

        let mut rng = Rng(seed);
        let start = trace.iter().position(|e| matches!(e, Event::Ack(_))).expect("the first ack");
        // One half of the cuts hits the moment in which the user is told that it is done.
        let acks: Vec<_> = (start..trace.len()).filter(|at| matches!(trace[*at], Event::Ack(_))).collect();
        let mut at: Vec<_> = (0..12).map(|_| start + rng.below(trace.len() - start)).collect();
        at.extend((0..12).map(|_| acks[rng.below(acks.len())]));
        at.sort_unstable();
        let mut disk = Replay::new(&empty);
        let (mut done, mut acked) = (0, 0);
        for point in at {
            for event in &trace[done..(point + 1).max(done)] {
                disk.take(event);
                if let Event::Ack(n) = event {
                    acked = *n;
                }
            }
            done = done.max(point + 1);
            let keep = [0, 10, 50, 90, 100][rng.below(5)];
            let image = disk.cut(keep, &mut rng);
            from_index += check(&image, &models, acked, cuts % 4 == 0).await.unwrap_or_else(|e| {
                panic!(
                    "seed {seed}, cut at {point} of {} with {keep} percent kept, {acked} acts acknowledged: {e}",
                    trace.len()
                )
            });
            cuts += 1;
        }
    }
    assert!(from_index > 0, "no start read the index");
    println!("{cuts} cuts, {lives} lives, nothing lost; {from_index} records came from an index");
}
