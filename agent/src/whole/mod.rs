//! All engines of the cluster as one: lists are gathered, other calls go to the node that has the object, and what is new
//! goes where the scheduler says.
//!
//! A name that more than one node has is refused with the candidates; `NODE/NAME` says which. A node that does not answer
//! in time is named, and holds nobody up.
//!
//! Read first: [`WholeEngine`]; `find.rs` says where things are, `demand.rs` what a new container asks, `create.rs` how it
//! gets there.

mod create;
mod demand;
mod events;
mod find;
mod images;
mod lists;
mod networks;
mod once;

use crate::{
    directory::{Asker, Directory, Place},
    host::{Host, Rights},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use muster_calls::*;
use muster_model::{NodeId, engine::*};
use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

pub use find::Whereabouts;
pub use images::Wanted;
use images::named;

/// How long a list or a search waits for a node. Well above a busy node's answer, well below a person's patience.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits for a node that the leader has lost, once all others have answered: it may be back by now.
const LOST_PATIENCE: Duration = Duration::from_secs(1);

/// The engine of the cluster, asked with one caller's rights.
#[derive(Clone)]
pub struct WholeEngine {
    host: Arc<Host>,
    rights: Rights,
}

impl WholeEngine {
    pub fn new(host: Arc<Host>, rights: Rights) -> Self {
        Self { host, rights }
    }

    /// The control plane, asked with the same rights.
    fn cluster(&self) -> Arc<dyn Cluster> {
        self.host.cluster(self.rights)
    }

    /// The nodes, and as whom they are asked. `None`: this host is in no cluster.
    ///
    /// # Errors
    /// `Unavailable` on a host that may not ask others.
    fn nodes(&self) -> Result<Option<(Directory, Asker)>> {
        let Some(member) = self.host.member() else { return Ok(None) };
        let asker = self.host.asker(&member, self.rights)?;
        Ok(Some((member.directory().clone(), asker)))
    }

    /// Whether this host is all there is.
    ///
    /// # Errors
    /// As [`WholeEngine::nodes`].
    fn is_alone(&self) -> Result<bool> {
        Ok(self.nodes()?.is_none())
    }

    /// The nodes there are now, this one first: one outside of any cluster.
    fn places(&self) -> Result<Vec<Place>> {
        match self.nodes()? {
            Some((nodes, asker)) => Ok(nodes.places(&asker)),
            None => Ok(vec![self.here()]),
        }
    }

    fn here(&self) -> Place {
        Place::here(&self.host)
    }

    /// The node that is called so.
    fn node(&self, name: &str) -> Result<Place> {
        match self.nodes()? {
            Some((nodes, asker)) => nodes.find(name, &asker),
            None if name == self.host.config.hostname => Ok(self.here()),
            None => Err(Error::not_found(format!("no such node: {name} (this host is in no cluster)"))),
        }
    }

    /// The node of this id.
    fn place(&self, id: NodeId) -> Result<Place> {
        match self.nodes()? {
            Some((nodes, asker)) => nodes.node(id, &asker),
            None => Ok(self.here()),
        }
    }

    /// Asks one node and waits for it a bounded time.
    async fn ask<T, F>(&self, place: Place, ask: impl Fn(Arc<dyn Engine>) -> F) -> (Place, Result<T>)
    where
        F: Future<Output = Result<T>>,
    {
        let result = tokio::time::timeout(PATIENCE, ask(place.engine.clone())).await;
        (place, result.unwrap_or_else(|_| Err(Error::unavailable("no answer in time"))))
    }

    /// Asks these nodes at once, and waits at most `patience`. The second list names those that could not be asked.
    ///
    /// # Errors
    /// `Invalid`, when a node finds fault with the question itself.
    async fn gather_from<T, F>(
        &self,
        places: Vec<Place>,
        patience: Duration,
        ask: impl Fn(&Place) -> F,
    ) -> Result<(Vec<(Place, T)>, Vec<Unreached>)>
    where
        F: Future<Output = Result<T>>,
    {
        let order: Vec<NodeId> = places.iter().map(|p| p.id).collect();
        let mut silent: Vec<Place> = places.clone();
        let answer = |place: Place| {
            let answer = ask(&place);
            async move { (place, answer.await) }
        };
        let mut asked: FuturesUnordered<_> = places.into_iter().map(answer).collect();
        let (mut answers, mut unreached) = (Vec::new(), Vec::new());
        let mut deadline = Instant::now() + patience;
        while let Ok(Some((place, answer))) = tokio::time::timeout_at(deadline, asked.next()).await {
            silent.retain(|p| p.id != place.id);
            match answer {
                Ok(answer) => answers.push((place, answer)),
                Err(e) if e.kind == Kind::Invalid => return Err(e),
                Err(e) => unreached.push(Unreached { node: place.hostname, reason: e.message }),
            }
            if silent.iter().all(|p| !p.ready) {
                deadline = deadline.min(Instant::now() + LOST_PATIENCE);
            }
        }
        unreached
            .extend(silent.into_iter().map(|p| Unreached { node: p.hostname, reason: "no answer in time".to_owned() }));
        answers.sort_by_key(|(place, _)| order.iter().position(|id| *id == place.id));
        Ok((answers, unreached))
    }

    /// Asks every node at once.
    async fn gather<T, F>(&self, ask: impl Fn(Arc<dyn Engine>) -> F) -> Result<(Vec<(Place, T)>, Vec<Unreached>)>
    where
        F: Future<Output = Result<T>>,
    {
        self.gather_from(self.places()?, PATIENCE, |place| ask(place.engine.clone())).await
    }

    async fn survey_all(&self, query: SurveyQuery) -> Result<(Vec<(Place, Survey)>, Vec<Unreached>)> {
        let ask = |e: Arc<dyn Engine>| {
            let query = query.clone();
            async move { e.survey(query).await }
        };
        self.gather(ask).await
    }
}

/// Nodes that did not answer, as warnings.
fn warnings(unreached: Vec<Unreached>) -> impl Iterator<Item = String> {
    unreached.into_iter().map(|u| format!("node {} did not answer: {}", u.node, u.reason))
}

/// Calls that go where the object is, from one table; the rest are in the rooms beside this file.
macro_rules! routed {
    (
        { $($find:ident { $($m:ident ( $($a:ident : $t:ty),* ) -> $r:ty;)* })* }
        { $($rest:tt)* }
    ) => {
        #[async_trait]
        impl Engine for WholeEngine {
            $($(async fn $m(&self, name: &str, $($a: $t),*) -> Result<$r> {
                let (place, name) = self.$find(name).await?;
                place.engine.$m(name, $($a),*).await.map_err(|e| place.blamed(e))
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
    exec {
        exec_start(options: ExecStart) -> Attached;
        exec_resize(height: u16, width: u16) -> ();
        exec_inspect() -> ExecInspect;
    }
    image {
        image_history() -> Vec<ImageHistoryItem>;
    }
    } {
        async fn version(&self) -> Result<VersionInfo> {
            self.here().engine.version().await
        }

        async fn info(&self) -> Result<SystemInfo> {
            self.info_of_all().await
        }

        async fn events(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
            self.events_of_all(query)
        }

        async fn disk_usage(&self) -> Result<DiskUsage> {
            self.disk_usage_of_all().await
        }

        async fn auth(&self, auth: AuthConfig) -> Result<String> {
            self.here().engine.auth(auth).await
        }

        async fn container_create(&self, name: Option<String>, platform: String, body: ContainerCreateBody) -> Result<ContainerCreated> {
            self.create(name, platform, body).await.map_err(create::missing_is_the_image)
        }

        async fn container_list(&self, options: ListContainers) -> Result<Listed<ContainerSummary>> {
            self.containers_of_all(options).await
        }

        async fn container_inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
            let (place, name) = match self.container(name).await {
                Ok(found) => found,
                Err(e) => return Err(self.or_another_kind(name, e).await),
            };
            let mut inspect = place.engine.container_inspect(name, size).await?;
            inspect.node = Some(place.describe());
            Ok(inspect)
        }

        async fn container_unlink(&self, name: &str) -> Result<()> {
            // `OWNER/ALIAS` or `NODE/OWNER/ALIAS`.
            let missing = || Error::not_found(format!("No such container: {name}"));
            let (owner, alias) = name.trim_start_matches('/').rsplit_once('/').ok_or_else(missing)?;
            let (place, owner) = self.container(owner).await?;
            place.engine.container_unlink(&format!("{owner}/{alias}")).await.map_err(|e| place.blamed(e))
        }

        async fn container_rename(&self, name: &str, to: String) -> Result<()> {
            self.rename(name, &to).await
        }

        async fn container_prune(&self, filters: Filters) -> Result<PruneReport> {
            self.prune(&filters, |e, f| async move { e.container_prune(f).await }).await
        }

        async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<String> {
            let (place, container) = self.container(container).await?;
            let id = place.engine.exec_create(container, config).await?;
            self.host.whereabouts.remember(&id, place.id);
            Ok(id)
        }

        async fn commit(&self, mut commit: muster_calls::Commit, config: Option<ContainerConfig>) -> Result<String> {
            let asked = std::mem::take(&mut commit.container);
            let (place, container) = self.container(&asked).await?;
            container.clone_into(&mut commit.container);
            let name = named(&commit.repo, &commit.tag);
            let id = place.engine.commit(commit, config).await?;
            if let Some(name) = name {
                self.name_moved(&name, &id, &BTreeSet::new()).await;
            }
            Ok(id)
        }

        async fn image_list(&self, all: bool, digests: bool, filters: Filters) -> Result<Listed<ImageSummary>> {
            self.images_of_all(all, digests, filters).await
        }

        async fn image_pull(&self, pull: Pull) -> Result<Stream<ProgressLine>> {
            self.pull(pull).await
        }

        async fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
            match self.image(name).await {
                Ok((place, name)) => place.engine.image_inspect(name).await.map_err(|e| place.blamed(e)),
                Err(e) => Err(self.or_another_kind(name, e).await),
            }
        }

        async fn image_push(&self, name: &str, tag: Option<String>, auth: Option<AuthConfig>) -> Result<Stream<ProgressLine>> {
            self.push(name, tag, auth).await
        }

        async fn image_tag(&self, name: &str, repo: String, tag: String) -> Result<()> {
            self.tag(name, &repo, &tag).await
        }

        async fn image_remove(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageDeleteItem>> {
            self.remove_image(name, force, no_prune).await
        }

        async fn image_save(&self, names: Vec<String>) -> Result<Stream<Bytes>> {
            self.save(names).await
        }

        async fn image_load(&self, tar: Stream<Bytes>, quiet: bool, platform: String) -> Result<Stream<ProgressLine>> {
            let lines = self.here().engine.image_load(tar, quiet, platform).await?;
            Ok(self.moving_names(lines, None))
        }

        async fn distribution(&self, reference: String, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
            self.here().engine.distribution(reference, auth).await
        }

        async fn image_search(&self, term: String, limit: u32, filters: Filters, auth: Option<AuthConfig>) -> Result<Vec<SearchResult>> {
            self.here().engine.image_search(term, limit, filters, auth).await
        }

        async fn image_import(&self, tar: Stream<Bytes>, import: Import) -> Result<Stream<ProgressLine>> {
            let name = named(&import.repo, &import.tag);
            let lines = self.here().engine.image_import(tar, import).await?;
            Ok(self.moving_names(lines, name))
        }

        async fn image_prune(&self, filters: Filters) -> Result<PruneReport> {
            self.prune(&filters, |e, f| async move { e.image_prune(f).await }).await
        }

        async fn volume_create(&self, volume: VolumeCreate) -> Result<Volume> {
            self.create_volume(volume).await
        }

        async fn volume_list(&self, filters: Filters) -> Result<VolumeList> {
            self.volumes_of_all(filters).await
        }

        async fn volume_inspect(&self, name: &str) -> Result<Volume> {
            let (place, name) = self.volume(name).await?;
            let mut volume = place.engine.volume_inspect(name).await?;
            lists::label(&mut volume.labels, &place);
            Ok(volume)
        }

        async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
            match self.volume(name).await {
                Ok((place, name)) => place.engine.volume_remove(name, force).await.map_err(|e| place.blamed(e)),
                // As in Docker, force is content when it is gone already.
                Err(e) if force && e.kind == Kind::NotFound => Ok(()),
                Err(e) => Err(e),
            }
        }

        async fn volume_prune(&self, filters: Filters) -> Result<PruneReport> {
            self.prune(&filters, |e, f| async move { e.volume_prune(f).await }).await
        }

        async fn network_create(&self, network: NetworkCreate) -> Result<NetworkCreated> {
            self.create_network(network).await
        }

        async fn network_list(&self, filters: Filters) -> Result<Listed<NetworkResource>> {
            self.networks_of_all(filters).await
        }

        async fn network_inspect(&self, name: &str) -> Result<NetworkResource> {
            self.inspect_network(name).await
        }

        async fn network_remove(&self, name: &str) -> Result<()> {
            let (found, name) = self.networks_called(name).await?;
            for (place, _) in found {
                place.engine.network_remove(name).await?;
            }
            Ok(())
        }

        async fn network_connect(&self, name: &str, mut connect: NetworkConnect) -> Result<()> {
            let asked = std::mem::take(&mut connect.container);
            let (place, container) = self.container(&asked).await?;
            container.clone_into(&mut connect.container);
            place.engine.network_connect(self.network_beside(name, &place)?, connect).await
        }

        async fn network_disconnect(&self, name: &str, mut disconnect: NetworkDisconnect) -> Result<()> {
            let asked = std::mem::take(&mut disconnect.container);
            let (place, container) = self.container(&asked).await?;
            container.clone_into(&mut disconnect.container);
            place.engine.network_disconnect(self.network_beside(name, &place)?, disconnect).await
        }

        async fn network_prune(&self, filters: Filters) -> Result<PruneReport> {
            self.prune_networks(filters).await
        }
    }
}
