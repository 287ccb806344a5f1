//! Lists and sums over all nodes.
//!
//! Names are those of Docker's classic Swarm: a container elsewhere is `/NODE/NAME`; volumes and networks of hosts carry
//! their node's name where the plain name would not say which is meant. The labels `muster.node.name` and `muster.node.id`
//! say where each object is (`muster.node.names` for images, which may be on many); the filter `node` chooses by it.

use super::{WholeEngine, warnings};
use crate::directory::Place;
use muster_calls::*;
use muster_model::engine::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const NODE_NAME: &str = "muster.node.name";
const NODE_NAMES: &str = "muster.node.names";
const NODE_ID: &str = "muster.node.id";
/// How long is waited for what walks over a disk or frees space on it.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// Says in an object's labels which node it is on.
pub(super) fn label(labels: &mut Strings, place: &Place) {
    labels.insert(NODE_NAME.to_owned(), place.hostname.clone());
    labels.insert(NODE_ID.to_owned(), place.id.to_string());
}

fn with_node(mut c: ContainerSummary, place: &Place) -> ContainerSummary {
    if !place.here {
        c.names = c.names.iter().map(|n| format!("/{}{n}", place.hostname)).collect();
    }
    label(&mut c.labels, place);
    c
}

/// The nodes that a filter asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    /// Empty: all.
    only: BTreeSet<String>,
    but: BTreeSet<String>,
}

impl Chosen {
    /// Takes the conditions on nodes out of a filter: what remains is for the engines.
    ///
    /// # Errors
    /// `Invalid` for one that an engine would take to hold for all it has.
    fn take(filters: &mut Filters) -> Result<Self> {
        let mut only = filters.0.remove("node").unwrap_or_default();
        // One without a node leaves all: every object has these labels.
        only.extend(take_labels(filters, "label").0);
        let (but, none) = take_labels(filters, "label!");
        let many = |l: &String| l == NODE_NAMES || l.starts_with(&format!("{NODE_NAMES}="));
        if none || filters.0.get("label!").is_some_and(|labels| labels.iter().any(many)) {
            return Err(Error::invalid(format!(
                "filter label!: expected a node after {NODE_NAME} or {NODE_ID}, as in label!={NODE_NAME}=NODE"
            )));
        }
        Ok(Self { only, but })
    }

    fn has(&self, place: &Place) -> bool {
        let id = place.id.to_string();
        let named = |names: &BTreeSet<String>| names.contains(&place.hostname) || names.contains(&id);
        (self.only.is_empty() || named(&self.only)) && !named(&self.but)
    }
}

/// Takes the conditions on nodes out of a filter, and says whether there were any.
///
/// # Errors
/// As [`Chosen::take`].
pub(super) fn takes_nodes(filters: &mut Filters) -> Result<bool> {
    Ok(Chosen::take(filters)? != Chosen::default())
}

/// The nodes that a filter's labels name, and whether it has one of the labels without a node.
fn take_labels(filters: &mut Filters, key: &str) -> (BTreeSet<String>, bool) {
    let Some(labels) = filters.0.get_mut(key) else { return (BTreeSet::new(), false) };
    let (mut nodes, mut bare) = (BTreeSet::new(), false);
    for label in [NODE_NAME, NODE_ID] {
        let prefix = format!("{label}=");
        nodes.extend(labels.extract_if(.., |l| l.starts_with(&prefix)).map(|l| l[prefix.len()..].to_owned()));
        bare |= labels.remove(label);
    }
    if labels.is_empty() {
        filters.0.remove(key);
    }
    (nodes, bare)
}

/// Names that more than one of these objects has.
fn shared_names<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    names.for_each(|name| *seen.entry(name).or_default() += 1);
    seen.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| name.to_owned()).collect()
}

impl WholeEngine {
    /// The nodes that a filter leaves.
    pub(super) fn chosen(&self, filters: &mut Filters) -> Result<Vec<Place>> {
        let chosen = Chosen::take(filters)?;
        let mut places = self.places()?;
        places.retain(|p| chosen.has(p));
        Ok(places)
    }

    pub(super) async fn containers_of_all(&self, mut options: ListContainers) -> Result<Listed<ContainerSummary>> {
        let mut places = self.chosen(&mut options.filters)?;
        let cuts = self.cuts(&mut options.filters).await?;
        let patience = if options.size { DISK_PATIENCE } else { super::PATIENCE };
        places.retain(|place| names_of(place, "name", &options.filters).is_some());
        let ask = |place: &Place| {
            let (engine, mut options) = (place.engine.clone(), options.clone());
            options.filters = names_of(place, "name", &options.filters).unwrap_or_default();
            async move { engine.container_list(options).await }
        };
        let (answers, unreached) = self.gather_from(places, patience, ask).await?;
        let mut items = Vec::new();
        for (place, list) in answers {
            let listed = list.items.into_iter().filter(|c| cuts.iter().all(|cut| cut.keeps(c)));
            items.extend(listed.map(|c| with_node(c, &place)));
        }
        items.sort_by_key(|c| std::cmp::Reverse(made_at(c)));
        if options.limit > 0 {
            items.truncate(options.limit as usize);
        }
        Ok(Listed { items, unreached })
    }

    /// `before` and `since` name a container that one node has: the others can only go by when it was made.
    async fn cuts(&self, filters: &mut Filters) -> Result<Vec<Cut>> {
        let mut cuts = Vec::new();
        for (key, older) in [("before", true), ("since", false)] {
            for name in filters.0.remove(key).unwrap_or_default() {
                let (place, plain) = self.container(&name).await?;
                let inspect = place.engine.container_inspect(plain, false).await?;
                cuts.push(Cut {
                    id: inspect.id,
                    at: (inspect.created.0.as_secs(), inspect.created.0.subsec_nanos()),
                    older,
                });
            }
        }
        Ok(cuts)
    }

    pub(super) async fn images_of_all(
        &self,
        all: bool,
        digests: bool,
        mut filters: Filters,
    ) -> Result<Listed<ImageSummary>> {
        let places = self.chosen(&mut filters)?;
        let ask = |place: &Place| {
            let (engine, filters) = (place.engine.clone(), filters.clone());
            async move { engine.image_list(all, digests, filters).await }
        };
        let (answers, unreached) = self.gather_from(places, super::PATIENCE, ask).await?;
        let listed = answers.into_iter().map(|(place, list)| (place.hostname, list.items));
        Ok(Listed { items: merged_images(listed), unreached })
    }

    pub(super) async fn volumes_of_all(&self, mut filters: Filters) -> Result<VolumeList> {
        let places = self.chosen(&mut filters)?;
        let ask = |place: &Place| {
            let (engine, filters) = (place.engine.clone(), filters.clone());
            async move { engine.volume_list(filters).await }
        };
        let (answers, unreached) = self.gather_from(places, super::PATIENCE, ask).await?;
        let mut list = VolumeList::default();
        let mut parts = Vec::new();
        for (place, part) in answers {
            list.warnings.extend(part.warnings);
            parts.push((place, part.volumes));
        }
        list.volumes = named_volumes(parts);
        list.warnings.extend(warnings(unreached));
        Ok(list)
    }

    pub(super) async fn disk_usage_of_all(&self) -> Result<DiskUsage> {
        let places = self.places()?;
        let ask = |place: &Place| {
            let engine = place.engine.clone();
            async move { engine.disk_usage().await }
        };
        let (answers, unreached) = self.gather_from(places, DISK_PATIENCE, ask).await?;
        let mut usage = DiskUsage { warnings: warnings(unreached).collect(), ..DiskUsage::default() };
        let (mut images, mut volumes) = (Vec::new(), Vec::new());
        for (place, part) in answers {
            usage.layers_size += part.layers_size;
            usage.containers.extend(part.containers.into_iter().map(|c| with_node(c, &place)));
            usage.build_cache.extend(part.build_cache);
            images.push((place.hostname.clone(), part.images));
            volumes.push((place, part.volumes));
        }
        usage.images = merged_images(images.into_iter());
        usage.volumes = named_volumes(volumes);
        Ok(usage)
    }

    pub(super) async fn info_of_all(&self) -> Result<SystemInfo> {
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
        let dropped = |pair: &[String; 2]| pair[0].starts_with(muster_engine::DROPPED);
        let mut sums = BTreeMap::<String, u64>::new();
        for [reason, n] in answers.iter().flat_map(|(_, i)| &i.driver_status).filter(|pair| dropped(pair)) {
            *sums.entry(reason.clone()).or_default() += n.parse().unwrap_or(0);
        }
        info.driver_status.retain(|pair| !dropped(pair));
        info.driver_status.extend(sums.into_iter().map(|(reason, n)| [reason, n.to_string()]));
        // Where classic Swarm showed them: clients print these pairs below the driver.
        info.driver_status.push(["Nodes".to_owned(), (answers.len() + unreached.len()).to_string()]);
        for (place, node) in &answers {
            let text = format!(
                "{} containers ({} running), {} CPUs, {:.2} GiB",
                node.containers,
                node.containers_running,
                node.ncpu,
                node.mem_total as f64 / f64::from(1 << 30)
            );
            info.driver_status.push([format!(" {}", place.hostname), text]);
        }
        for away in &unreached {
            info.driver_status.push([format!(" {}", away.node), format!("no answer: {}", away.reason)]);
        }
        info.warnings.extend(warnings(unreached));
        info.warnings.extend(self.host.operator.get().and_then(|o| o.warning(muster_mtls::now())));
        Ok(info)
    }

    /// A prune on every node, as one.
    pub(super) async fn prune<F>(
        &self,
        filters: &Filters,
        act: impl Fn(Arc<dyn Engine>, Filters) -> F,
    ) -> Result<PruneReport>
    where
        F: std::future::Future<Output = Result<PruneReport>>,
    {
        let mut filters = filters.clone();
        let places = self.chosen(&mut filters)?;
        let (answers, unreached) =
            self.gather_from(places, DISK_PATIENCE, |p| act(p.engine.clone(), filters.clone())).await?;
        let mut sum = PruneReport { warnings: warnings(unreached).collect(), ..PruneReport::default() };
        for (place, part) in answers {
            let named = |names: Option<Vec<String>>| {
                names.map(|all| all.into_iter().map(|n| qualified(&place, &n)).collect::<Vec<_>>())
            };
            extend(&mut sum.containers_deleted, part.containers_deleted);
            extend(&mut sum.images_deleted, part.images_deleted);
            extend(&mut sum.volumes_deleted, named(part.volumes_deleted));
            extend(&mut sum.networks_deleted, named(part.networks_deleted));
            extend(&mut sum.caches_deleted, part.caches_deleted);
            sum.space_reclaimed += part.space_reclaimed;
            sum.warnings.extend(part.warnings);
        }
        Ok(sum)
    }
}

fn extend<T>(to: &mut Option<Vec<T>>, more: Option<Vec<T>>) {
    if let Some(more) = more {
        to.get_or_insert_default().extend(more);
    }
}

/// The name of a host's own object as this host's users say it.
pub(super) fn qualified(place: &Place, name: &str) -> String {
    if place.here { name.to_owned() } else { format!("{}/{name}", place.hostname) }
}

/// When a container was made: seconds, and nanoseconds within that second.
fn made_at(c: &ContainerSummary) -> (i64, u32) {
    (c.created, c.created_nanos)
}

/// Before or after a container, by when it was made.
struct Cut {
    id: String,
    at: (i64, u32),
    older: bool,
}

impl Cut {
    fn keeps(&self, c: &ContainerSummary) -> bool {
        c.id != self.id && (made_at(c) <= self.at) == self.older
    }
}

/// A filter on names as a node's engine is to read it: `NODE/NAME`, as lists show those of other hosts, is that node's NAME.
/// `None`: it asks for other nodes' alone.
pub(super) fn names_of(place: &Place, key: &str, filters: &Filters) -> Option<Filters> {
    let Some(names) = filters.0.get(key) else { return Some(filters.clone()) };
    let plain: BTreeSet<String> = names.iter().filter_map(|name| name_at(place, name)).collect();
    if plain.is_empty() && !names.is_empty() {
        return None;
    }
    let mut own = filters.clone();
    own.0.insert(key.to_owned(), plain);
    Some(own)
}

/// A name, or a pattern of names that may begin with `^`, without its node. `None`: it says another node.
fn name_at(place: &Place, pattern: &str) -> Option<String> {
    let begins = if pattern.starts_with('^') { "^/" } else { "" };
    let text = pattern.strip_prefix('^').unwrap_or(pattern);
    match super::demand::split_node(text) {
        (None, _) => Some(pattern.to_owned()),
        (Some(node), name) if node == place.hostname || node == place.id.to_string() => Some(format!("{begins}{name}")),
        _ => None,
    }
}

/// One line for each image, with the names that any node has for it and the nodes it is on.
fn merged_images(parts: impl Iterator<Item = (String, Vec<ImageSummary>)>) -> Vec<ImageSummary> {
    let mut merged: Vec<(ImageSummary, Vec<String>)> = Vec::new();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for (node, images) in parts {
        for image in images {
            match at.get(&image.id) {
                Some(i) => {
                    let (known, nodes) = &mut merged[*i];
                    nodes.push(node.clone());
                    add_new(&mut known.repo_tags, image.repo_tags);
                    add_new(&mut known.repo_digests, image.repo_digests);
                    if image.containers > 0 {
                        known.containers = known.containers.max(0) + image.containers;
                    }
                }
                None => {
                    at.insert(image.id.clone(), merged.len());
                    merged.push((image, vec![node.clone()]));
                }
            }
        }
    }
    let mut images: Vec<_> = merged
        .into_iter()
        .map(|(mut image, nodes)| {
            image.labels.insert(NODE_NAMES.to_owned(), nodes.join(","));
            image
        })
        .collect();
    images.sort_by_key(|i| std::cmp::Reverse(i.created));
    images
}

fn add_new(known: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !known.contains(&name) {
            known.push(name);
        }
    }
}

/// Volumes with their nodes; a name that several nodes have says whose it is.
fn named_volumes(parts: Vec<(Place, Vec<Volume>)>) -> Vec<Volume> {
    let shared = shared_names(parts.iter().flat_map(|(_, list)| list).map(|v| v.name.as_str()));
    let mut volumes = Vec::new();
    for (place, list) in parts {
        for mut volume in list {
            if shared.contains(&volume.name) {
                volume.name = format!("{}/{}", place.hostname, volume.name);
            }
            label(&mut volume.labels, &place);
            volumes.push(volume);
        }
    }
    volumes
}

/// Networks of hosts: the cluster's and this host's own by their names, others' with their node where the name says too
/// little. Every host has a bridge, host and none: the first's, which is this one's unless others were asked for, stand for all.
pub(super) fn named_networks(parts: Vec<(Place, Vec<NetworkResource>)>) -> Vec<NetworkResource> {
    let predefined = |n: &NetworkResource| matches!(n.name.as_str(), "bridge" | "host" | "none");
    let own = parts.iter().flat_map(|(_, list)| list).filter(|n| n.scope == "local");
    let shared = shared_names(own.map(|n| n.name.as_str()));
    let mut networks: Vec<NetworkResource> = Vec::new();
    let first = parts.first().map(|(place, _)| place.id);
    for (place, list) in parts {
        for mut network in list {
            if network.scope != "local" {
                match networks.iter_mut().find(|n| n.id == network.id) {
                    Some(known) => known.containers.extend(network.containers),
                    None => networks.push(network),
                }
                continue;
            }
            if predefined(&network) {
                if Some(place.id) == first {
                    networks.push(network);
                }
                continue;
            }
            if shared.contains(&network.name) {
                network.name = format!("{}/{}", place.hostname, network.name);
            }
            label(&mut network.labels, &place);
            networks.push(network);
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> ImageSummary {
        let repo_tags = tags.iter().map(|t| (*t).to_owned()).collect();
        ImageSummary { id: id.to_owned(), repo_tags, containers: 1, ..ImageSummary::default() }
    }

    #[test]
    fn an_image_on_many_nodes_is_one_line() {
        let parts = [
            ("h1".to_owned(), vec![image("a", &["web:1"])]),
            ("h2".to_owned(), vec![image("a", &["web:1", "web:2"]), image("b", &[])]),
        ];
        let images = merged_images(parts.into_iter());
        assert_eq!(images.len(), 2);
        let a = images.iter().find(|i| i.id == "a").expect("listed");
        assert_eq!((a.repo_tags.join(" ").as_str(), a.containers), ("web:1 web:2", 2));
        assert_eq!(a.labels[NODE_NAMES], "h1,h2");
    }

    #[test]
    fn containers_of_one_second_are_told_apart_by_its_parts() {
        let made = |id: &str, created_nanos| ContainerSummary {
            id: id.into(),
            created: 7,
            created_nanos,
            ..ContainerSummary::default()
        };
        let all = [made("a", 1), made("b", 2), made("c", 3)];
        for (older, left) in [(true, "a"), (false, "c")] {
            let cut = Cut { id: "b".into(), at: (7, 2), older };
            let kept: Vec<&str> = all.iter().filter(|c| cut.keeps(c)).map(|c| c.id.as_str()).collect();
            assert_eq!(kept, [left]);
        }
    }

    #[test]
    fn a_filter_on_nodes_is_not_the_engines() {
        let mut filters = Filters::default();
        for (key, value) in [("node", "h1"), ("label", "muster.node.name=h2"), ("label", "a=b"), ("name", "web")] {
            filters.add(key, value);
        }
        filters.add("label!", "muster.node.name=h3");
        filters.add("label!", "keep");
        let chosen = Chosen::take(&mut filters).expect("valid");
        assert_eq!(chosen.only, ["h1", "h2"].map(str::to_owned).into());
        assert_eq!(chosen.but, ["h3".to_owned()].into());
        assert_eq!(filters.to_json(), r#"{"label":{"a=b":true},"label!":{"keep":true},"name":{"web":true}}"#);
        let mut any = Filters::default();
        any.add("label", "muster.node.name");
        assert!(Chosen::take(&mut any).expect("valid") == Chosen::default() && any.is_empty());
    }

    #[test]
    fn a_filter_that_leaves_no_node_out_by_mistake_is_refused() {
        for label in ["muster.node.name", "muster.node.id", "muster.node.names=h1,h2"] {
            let mut filters = Filters::default();
            filters.add("label!", label);
            assert_eq!(Chosen::take(&mut filters).expect_err(label).kind, Kind::Invalid);
        }
    }

    #[test]
    fn names_that_collide_are_known() {
        let shared = shared_names(["data", "logs", "data"].into_iter());
        assert_eq!(shared, ["data".to_owned()].into());
    }
}
