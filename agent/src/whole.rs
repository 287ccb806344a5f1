//! All engines of the cluster as one: lists are gathered, other calls go to the node that has the object.
//!
//! A name that more than one node has is refused with the candidates; `NODE/NAME` says which. A node that does not answer
//! in time is named, and holds nobody up.

use crate::{directory::Place, host::Host};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use muster_calls::*;
use muster_model::engine::*;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a list or a search waits for a node. Well above a busy node's answer, well below a person's patience.
const PATIENCE: Duration = Duration::from_secs(3);
/// Exec ids whose node is remembered; others are searched for.
const REMEMBERED: usize = 1024;

/// The engine of the cluster, asked on behalf of one caller.
pub struct WholeEngine {
    host: Arc<Host>,
    caller: String,
}

/// Where execs were made.
#[derive(Default)]
pub struct Execs(Mutex<VecDeque<(String, muster_model::NodeId)>>);

impl Execs {
    fn remember(&self, id: String, node: muster_model::NodeId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == REMEMBERED {
            known.pop_front();
        }
        known.push_back((id, node));
    }

    fn look(&self, id: &str) -> Option<muster_model::NodeId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|(k, _)| k == id).map(|(_, n)| *n)
    }
}

impl WholeEngine {
    pub fn new(host: Arc<Host>, caller: String) -> Self {
        Self { host, caller }
    }

    /// The nodes there are now, this one first: one outside of any cluster.
    fn places(&self) -> Result<Vec<Place>> {
        let Some(member) = self.host.member() else { return Ok(vec![self.here()]) };
        member.may_ask_others()?;
        Ok(member.directory().places(Some(&self.caller)))
    }

    fn here(&self) -> Place {
        let id = self.host.member().map(|m| m.directory().me()).unwrap_or_default();
        Place {
            id,
            hostname: self.host.config.hostname.clone(),
            here: true,
            ready: true,
            engine: self.host.engine.clone(),
        }
    }

    /// The node that is called so.
    fn node(&self, name: &str) -> Option<Place> {
        match self.host.member() {
            Some(member) => {
                member.may_ask_others().and_then(|()| member.directory().find(name, Some(&self.caller))).ok()
            }
            None => Some(self.here()).filter(|p| p.hostname == name),
        }
    }

    /// Asks every node at once.
    async fn gather<T, F>(&self, ask: impl Fn(Arc<dyn Engine>) -> F) -> Result<(Vec<(Place, T)>, Vec<Unreached>)>
    where
        F: std::future::Future<Output = Result<T>>,
    {
        let asked = self.places()?.into_iter().map(|place| {
            let answer = ask(place.engine.clone());
            async move {
                let patience = if place.ready { PATIENCE } else { PATIENCE / 3 };
                let result = match tokio::time::timeout(patience, answer).await {
                    Ok(result) => result.map_err(|e| e.message),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                (place, result)
            }
        });
        let (mut answers, mut unreached) = (Vec::new(), Vec::new());
        for (place, result) in join_all(asked).await {
            match result {
                Ok(answer) => answers.push((place, answer)),
                Err(reason) => unreached.push(Unreached { node: place.hostname, reason }),
            }
        }
        Ok((answers, unreached))
    }

    /// The node that has the object `name`, and the object's name there. `probe` asks one node whether it has it.
    async fn find<'n, T, F>(
        &self,
        what: &str,
        name: &'n str,
        probe: impl Fn(Arc<dyn Engine>, String) -> F,
    ) -> Result<(Place, &'n str)>
    where
        F: std::future::Future<Output = Result<T>>,
    {
        let name = name.strip_prefix('/').unwrap_or(name);
        if let Some((node, rest)) = name.split_once('/')
            && let Some(place) = self.node(node)
        {
            return Ok((place, rest));
        }
        // A node that says "not found" has answered.
        let ask = |engine| {
            let probe = probe(engine, name.to_owned());
            async move {
                match probe.await {
                    Ok(_) => Ok(true),
                    Err(e) if e.kind == Kind::NotFound => Ok(false),
                    Err(e) => Err(e),
                }
            }
        };
        let (answers, unreached) = self.gather(ask).await?;
        let mut found: Vec<Place> = answers.into_iter().filter(|(_, has)| *has).map(|(place, _)| place).collect();
        match (found.len(), unreached.is_empty()) {
            (1, _) => Ok((found.swap_remove(0), name)),
            (0, true) => Err(Error::not_found(format!("No such {what}: {name}"))),
            (0, false) => {
                let away: Vec<_> = unreached.iter().map(|u| format!("{} ({})", u.node, u.reason)).collect();
                Err(Error::unavailable(format!(
                    "No such {what}: {name}; these nodes did not answer: {}",
                    away.join(", ")
                )))
            }
            _ => {
                let names: Vec<_> = found.iter().map(|p| format!("{}/{name}", p.hostname)).collect();
                Err(Error::conflict(format!("{what} {name} is on more than one node: {}", names.join(", "))))
            }
        }
    }

    async fn container<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        self.find("container", name, |e, n| async move { e.container_inspect(&n, false).await }).await
    }

    async fn exec(&self, id: &str) -> Result<Place> {
        if let (Some(node), Some(member)) = (self.host.execs.look(id), self.host.member()) {
            return member.directory().node(node, Some(&self.caller));
        }
        Ok(self.find("exec instance", id, |e, n| async move { e.exec_inspect(&n).await }).await?.0)
    }

    async fn image<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        let here = self.here();
        // Images are copies of each other: the one at hand serves, and a name is never ambiguous.
        if here.engine.image_inspect(name).await.is_ok() {
            return Ok((here, name));
        }
        let ask = |e: Arc<dyn Engine>| {
            let name = name.to_owned();
            async move { e.image_inspect(&name).await }
        };
        let (answers, _) = self.gather(ask).await?;
        let first = answers.into_iter().next();
        first.map(|(place, _)| (place, name)).ok_or_else(|| Error::not_found(format!("No such image: {name}")))
    }

    async fn network<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        // Every node has its own bridge, host and none: here's are meant.
        if ["bridge", "host", "none"].contains(&name) {
            return Ok((self.here(), name));
        }
        self.find("network", name, |e, n| async move { e.network_inspect(&n).await }).await
    }

    async fn volume<'n>(&self, name: &'n str) -> Result<(Place, &'n str)> {
        self.find("volume", name, |e, n| async move { e.volume_inspect(&n).await }).await
    }

    /// Where a new container or network goes: `NODE/NAME` says it, else here.
    fn placed(&self, name: Option<String>) -> (Place, Option<String>) {
        if let Some((node, rest)) = name.as_deref().and_then(|n| n.trim_start_matches('/').split_once('/'))
            && let Some(place) = self.node(node)
        {
            return (place, Some(rest.to_owned()));
        }
        (self.here(), name)
    }
}

/// Names as Docker's classic Swarm gave them: a container elsewhere is `/NODE/NAME`.
fn with_node(mut c: ContainerSummary, place: &Place) -> ContainerSummary {
    if !place.here {
        c.names = c.names.iter().map(|n| format!("/{}{n}", place.hostname)).collect();
    }
    c.labels.insert("muster.node.name".to_owned(), place.hostname.clone());
    c.labels.insert("muster.node.id".to_owned(), place.id.to_string());
    c
}

/// Calls that go where the object is, from one table.
macro_rules! routed {
    (
        { $($find:ident { $($m:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* })* }
        { $($rest:tt)* }
    ) => {
        #[async_trait]
        impl Engine for WholeEngine {
            $($(async fn $m(&self, name: &str, $($a: $t),*) -> Result<$r> {
                let (place, name) = self.$find(name).await?;
                place.engine.$m(name, $($a),*).await
            })*)*
            $($rest)*
        }
    };
}

routed! { {
    container {
        container_start() -> ();
        container_stop(options: StopContainer) -> ();
        container_restart(options: StopContainer) -> ();
        container_kill(signal: Option<String>) -> ();
        container_pause() -> ();
        container_unpause() -> ();
        container_rename(to: String) -> ();
        container_update(update: ContainerUpdate) -> ContainerUpdated;
        container_remove(options: RemoveContainer) -> ();
        container_wait(condition: WaitCondition) -> muster_calls::Future<Result<WaitResult>>;
        container_top(ps_args: String) -> TopResult;
        container_stats(stream: bool, one_shot: bool) -> Stream<Stats>;
        container_logs(options: Logs) -> LogStream;
        container_attach(options: Attach) -> Attached;
        container_resize(height: u16, width: u16) -> ();
        archive_stat(path: String) -> PathStat;
        archive_get(path: String) -> (PathStat, Stream<Bytes>);
        archive_put(path: String, no_overwrite_dir_non_dir: bool, copy_uid_gid: bool, tar: Stream<Bytes>) -> ();
        container_changes() -> Vec<FilesystemChange>;
        container_export() -> Stream<Bytes>;
    }
    image {
        image_inspect() -> ImageInspect;
        image_history() -> Vec<ImageHistoryItem>;
        image_push(tag: Option<String>, auth: Option<AuthConfig>) -> Stream<ProgressLine>;
        image_tag(repo: String, tag: String) -> ();
        image_remove(force: bool, no_prune: bool) -> Vec<ImageDeleteItem>;
    }
    volume {
        volume_inspect() -> Volume;
        volume_remove(force: bool) -> ();
    }
    network {
        network_inspect() -> NetworkResource;
        network_remove() -> ();
        network_connect(connect: NetworkConnect) -> ();
        network_disconnect(disconnect: NetworkDisconnect) -> ();
    }
    } {
        async fn version(&self) -> Result<VersionInfo> {
            self.here().engine.version().await
        }

        async fn info(&self) -> Result<SystemInfo> {
            let mut info = self.here().engine.info().await?;
            let (answers, unreached) = self.gather(|e| async move { e.info().await }).await?;
            let sum = |field: fn(&SystemInfo) -> i64| answers.iter().map(|(_, i)| field(i)).sum::<i64>();
            info.containers = sum(|i| i.containers);
            info.containers_running = sum(|i| i.containers_running);
            info.containers_paused = sum(|i| i.containers_paused);
            info.containers_stopped = sum(|i| i.containers_stopped);
            info.images = sum(|i| i.images);
            info.ncpu = sum(|i| i.ncpu);
            info.mem_total = sum(|i| i.mem_total);
            info.warnings.extend(unreached.into_iter().map(|u| format!("node {} did not answer: {}", u.node, u.reason)));
            Ok(info)
        }

        async fn events(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
            let ask = |e: Arc<dyn Engine>| {
                let query = query.clone();
                async move { e.events(query).await }
            };
            let (answers, _) = self.gather(ask).await?;
            Ok(Box::pin(futures_util::stream::select_all(answers.into_iter().map(|(_, s)| s))))
        }

        async fn auth(&self, auth: AuthConfig) -> Result<String> {
            self.here().engine.auth(auth).await
        }

        async fn container_create(&self, name: Option<String>, platform: String, body: ContainerCreateBody) -> Result<ContainerCreated> {
            let (place, name) = self.placed(name);
            place.engine.container_create(name, platform, body).await
        }

        async fn container_list(&self, options: ListContainers) -> Result<Listed<ContainerSummary>> {
            let ask = |e: Arc<dyn Engine>| {
                let options = options.clone();
                async move { e.container_list(options).await }
            };
            let (answers, unreached) = self.gather(ask).await?;
            let mut items: Vec<_> = answers.into_iter().flat_map(|(place, list)| list.items.into_iter().map(move |c| with_node(c, &place))).collect();
            items.sort_by_key(|c| std::cmp::Reverse(c.created));
            if options.limit > 0 {
                items.truncate(options.limit as usize);
            }
            Ok(Listed { items, unreached })
        }

        async fn container_inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
            let (place, name) = self.container(name).await?;
            place.engine.container_inspect(name, size).await
        }

        async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
            let (place, container) = self.container(container).await?;
            let id = place.engine.exec_create(container, config).await?;
            self.host.execs.remember(id.clone(), place.id);
            Ok(id)
        }

        async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Attached> {
            self.exec(id).await?.engine.exec_start(id, options).await
        }

        async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
            self.exec(id).await?.engine.exec_resize(id, height, width).await
        }

        async fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
            self.exec(id).await?.engine.exec_inspect(id).await
        }

        async fn commit(&self, mut commit: muster_calls::Commit, config: Option<ContainerConfig>) -> Result<String> {
            let (place, container) = self.container(&commit.container).await?;
            commit.container = container.to_owned();
            place.engine.commit(commit, config).await
        }

        async fn image_list(&self, all: bool, digests: bool, filters: Filters) -> Result<Listed<ImageSummary>> {
            let ask = |e: Arc<dyn Engine>| {
                let filters = filters.clone();
                async move { e.image_list(all, digests, filters).await }
            };
            let (answers, unreached) = self.gather(ask).await?;
            let mut items: Vec<ImageSummary> = Vec::new();
            for image in answers.into_iter().flat_map(|(_, list)| list.items) {
                match items.iter_mut().find(|i| i.id == image.id) {
                    Some(known) => {
                        known.repo_tags.extend(image.repo_tags.into_iter().filter(|t| !known.repo_tags.contains(t)).collect::<Vec<_>>());
                    }
                    None => items.push(image),
                }
            }
            Ok(Listed { items, unreached })
        }

        async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
            self.here().engine.image_pull(pull).await
        }

        async fn image_save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
            self.here().engine.image_save(names).await
        }

        async fn image_load(&self, tar: Stream<Bytes>, quiet: bool, platform: String) -> Result<Stream<ProgressLine>> {
            self.here().engine.image_load(tar, quiet, platform).await
        }

        async fn distribution(&self, reference: String, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
            self.here().engine.distribution(reference, auth).await
        }

        async fn image_search(&self, term: String, limit: u32, filters: Filters, auth: Option<AuthConfig>) -> Result<Vec<SearchResult>> {
            self.here().engine.image_search(term, limit, filters, auth).await
        }

        async fn image_import(&self, tar: Stream<Bytes>, repo: String, tag: String, message: String, changes: Vec<String>, platform: String) -> Result<Stream<ProgressLine>> {
            self.here().engine.image_import(tar, repo, tag, message, changes, platform).await
        }

        async fn volume_create(&self, volume: VolumeCreate) -> Result<Volume> {
            self.here().engine.volume_create(volume).await
        }

        async fn volume_list(&self, filters: Filters) -> Result<VolumeList> {
            let ask = |e: Arc<dyn Engine>| {
                let filters = filters.clone();
                async move { e.volume_list(filters).await }
            };
            let (answers, unreached) = self.gather(ask).await?;
            let mut list = VolumeList::default();
            for (_, part) in answers {
                list.volumes.extend(part.volumes);
                list.warnings.extend(part.warnings);
            }
            list.warnings.extend(unreached.into_iter().map(|u| format!("node {} did not answer: {}", u.node, u.reason)));
            Ok(list)
        }

        async fn network_create(&self, network: NetworkCreate) -> Result<NetworkCreated> {
            self.here().engine.network_create(network).await
        }

        async fn network_list(&self, filters: Filters) -> Result<Listed<NetworkResource>> {
            let ask = |e: Arc<dyn Engine>| {
                let filters = filters.clone();
                async move { e.network_list(filters).await }
            };
            let (answers, unreached) = self.gather(ask).await?;
            let items = answers.into_iter().flat_map(|(_, list)| list.items).collect();
            Ok(Listed { items, unreached })
        }
    }
}
