//! `docker ps`: which containers, and one line of each.

use super::{Handle, handle::View, status};
use crate::{
    clock,
    engine::Shared,
    net::parse_port,
    record::{Record, State},
};
use muster_calls::{Error, ListContainers, Patterns, Result};
use muster_model::{
    engine::{ContainerSummary, Filters, Port, SummaryHostConfig, SummaryNetworkSettings},
    net::Protocol,
};
use std::{collections::BTreeSet, sync::Arc};

const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] = &["created", "dead", "exited", "paused", "removing", "restarting", "running"];
const HEALTH: &[&str] = &["healthy", "none", "starting", "unhealthy"];
/// Label of containers that are tasks of a service.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

/// A filter ready to be asked.
struct Selection<'a> {
    filters: &'a Filters,
    names: Patterns,
    /// Ids of the images that `ancestor` names.
    images: Option<BTreeSet<String>>,
    exited: Vec<i32>,
    networks: BTreeSet<String>,
    published: Vec<Span>,
    exposed: Vec<Span>,
    task: Option<bool>,
}

/// Ports of one protocol, first to last.
type Span = (u16, u16, Protocol);

fn bad(key: &str, value: &str) -> Error {
    Error::invalid(format!("invalid filter '{key}={value}'"))
}

impl<'a> Selection<'a> {
    fn new(shared: &Shared, filters: &'a Filters) -> Result<Self> {
        let invalid = |e: muster_model::engine::FilterError| Error::invalid(e.to_string());
        filters.allow(KEYS).map_err(invalid)?;
        for (key, words) in [("status", STATES), ("health", HEALTH)] {
            if let Some(value) = filters.values(key).find(|v| !words.contains(v)) {
                return Err(bad(key, value));
            }
        }
        let code = |text: &str| text.parse::<i32>().map_err(|_| bad("exited", text));
        Ok(Self {
            filters,
            names: Patterns::of(filters, "name"),
            images: filters.contains("ancestor").then(|| ancestors(shared, filters)),
            exited: filters.values("exited").map(code).collect::<Result<_>>()?,
            networks: filters.values("network").flat_map(|n| network_words(shared, n)).collect(),
            published: filters.values("publish").map(|v| span("publish", v)).collect::<Result<_>>()?,
            exposed: filters.values("expose").map(|v| span("expose", v)).collect::<Result<_>>()?,
            task: filters.flag("is-task").map_err(invalid)?,
        })
    }

    fn takes(&self, view: &View) -> bool {
        let (record, f) = (&*view.record, self.filters);
        (self.names.take(&record.name) || self.names.take(&format!("/{}", record.name)))
            && f.matches_prefix("id", &record.id)
            && f.matches_labels("label", &record.config.labels)
            && f.matches_exactly("status", record.state.word())
            && f.matches_exactly("health", view.health.as_ref().map_or("none", |h| h.status.as_str()))
            && (self.exited.is_empty() || (is_over(&record.state) && self.exited.contains(&record.state.exit_code)))
            && self.images.as_ref().is_none_or(|images| images.contains(&record.image_id))
            && (!f.contains("volume")
                || f.values("volume").any(|v| {
                    record.mounts.iter().any(|m| m.volume == v || m.destination == v || m.source.as_os_str() == v)
                }))
            && (!f.contains("network") || self.on_network(record))
            && (self.published.is_empty()
                || record.ports.iter().any(|p| within(&self.published, p.host_port, p.protocol)))
            && (self.exposed.is_empty() || exposes(record, &self.exposed))
            && self.task.is_none_or(|wanted| record.config.labels.contains_key(TASK_LABEL) == wanted)
    }

    fn on_network(&self, record: &Record) -> bool {
        self.networks.contains(&record.host.network_mode)
            || record.places.iter().any(|p| self.networks.contains(&p.network) || self.networks.contains(&p.network_id))
    }
}

fn is_over(state: &State) -> bool {
    !state.is_running() && !state.started_at.is_zero()
}

/// The images that an `ancestor` names and those made from them: what has all of its layers at its bottom.
fn ancestors(shared: &Shared, filters: &Filters) -> BTreeSet<String> {
    let store = &shared.config.images;
    let named: Vec<_> = filters.values("ancestor").filter_map(|name| store.resolve(name).ok()).collect();
    let descends = |image: &muster_image::Image| {
        named.iter().any(|n| image.id == n.id || image.chain_ids().starts_with(&n.chain_ids()))
    };
    store.list().iter().filter(|i| descends(i)).map(|i| i.id.to_string()).collect()
}

fn network_words(shared: &Shared, name: &str) -> Vec<String> {
    // A name that is none of ours may be the cluster's, which places carry.
    let found = shared.networks.find(name).map(|n| vec![n.name.clone(), n.id.clone()]);
    found.unwrap_or_else(|_| vec![name.to_owned()])
}

fn span(key: &str, text: &str) -> Result<Span> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port = |p: &str| parse_port(&format!("{p}/{protocol}")).map_err(|_| bad(key, text));
    let ((first, protocol), (last, _)) = (port(first)?, port(last)?);
    Ok((first, last, protocol))
}

fn within(spans: &[Span], port: u16, protocol: Protocol) -> bool {
    spans.iter().any(|(first, last, p)| (*first..=*last).contains(&port) && *p == protocol)
}

fn exposes(record: &Record, spans: &[Span]) -> bool {
    let mut ports = record.config.exposed_ports.iter().chain(record.host.port_bindings.keys());
    ports.any(|text| parse_port(text).is_ok_and(|(port, protocol)| within(spans, port, protocol)))
}

impl Shared {
    /// The containers that a list asks for.
    pub(crate) async fn list(&self, options: ListContainers) -> Result<Vec<ContainerSummary>> {
        let selection = Selection::new(self, &options.filters)?;
        let mut handles = self.containers.all();
        cut(&mut handles, self, &options.filters)?;
        let everything = options.all
            || options.limit > 0
            || options.filters.contains("status")
            || options.filters.contains("exited");
        let mut views: Vec<View> = handles.iter().map(|h| h.view()).collect();
        views.retain(|v| {
            (everything || v.record.state.is_running() || v.record.state.word() == "restarting") && selection.takes(v)
        });
        if options.limit > 0 {
            views.truncate(options.limit as usize);
        }
        let now = clock::now();
        let mut all: Vec<ContainerSummary> = views.iter().map(|v| self.summary(v, now)).collect();
        if options.size {
            for (summary, view) in all.iter_mut().zip(&views) {
                let (rw, root) = self.sizes(&view.record).await?;
                // Docker leaves out a size of 0 here.
                (summary.size_rw, summary.size_root_fs) = (Some(rw).filter(|bytes| *bytes != 0), Some(root));
            }
        }
        Ok(all)
    }

    /// One line of a list.
    pub(crate) fn summary(&self, view: &View, now: muster_model::Timestamp) -> ContainerSummary {
        let record = &*view.record;
        ContainerSummary {
            id: record.id.clone(),
            names: vec![format!("/{}", record.name)],
            image: self.image_name(record),
            image_id: record.image_id.clone(),
            command: command_line(record),
            created: record.created.as_secs(),
            created_nanos: record.created.subsec_nanos(),
            ports: ports(record),
            size_rw: None,
            size_root_fs: None,
            labels: record.config.labels.clone(),
            state: record.state.word().to_owned(),
            status: status::words(record, view.health.as_ref(), now),
            host_config: SummaryHostConfig {
                network_mode: record.host.network_mode.clone(),
                annotations: record.host.annotations.clone(),
            },
            network_settings: SummaryNetworkSettings { networks: self.endpoint_settings(record) },
            mounts: self.mount_points(record),
        }
    }

    /// The name a container was made from, or the image's id once the name means another image.
    fn image_name(&self, record: &Record) -> String {
        match self.config.images.resolve(&record.image) {
            Ok(image) if image.id.to_string() == record.image_id => record.image.clone(),
            _ => record.image_id.clone(),
        }
    }
}

/// `before` and `since`: by place in the list, newest first.
fn cut(handles: &mut Vec<Arc<Handle>>, shared: &Shared, filters: &Filters) -> Result<()> {
    for (key, keep_older) in [("before", true), ("since", false)] {
        for name in filters.values(key) {
            let id = shared.find(name)?.id.clone();
            let at = handles.iter().position(|h| h.id == id).unwrap_or(if keep_older { 0 } else { handles.len() });
            if keep_older {
                handles.drain(..(at + 1).min(handles.len()));
            } else {
                handles.truncate(at);
            }
        }
    }
    Ok(())
}

/// The command in one line; arguments with spaces are quoted (moby: `container/view.go`).
fn command_line(record: &Record) -> String {
    let quoted = |arg: &String| if arg.contains(' ') { format!("'{arg}'") } else { arg.clone() };
    std::iter::once(record.path.clone()).chain(record.args.iter().map(quoted)).collect::<Vec<_>>().join(" ")
}

/// Published ports, then those that are only exposed; none of a container that does not run.
fn ports(record: &Record) -> Vec<Port> {
    if !record.state.is_running() {
        return Vec::new();
    }
    let published = record.ports.iter().map(|p| Port {
        ip: p.host_ip.to_string(),
        private_port: p.container_port,
        public_port: p.host_port,
        kind: p.protocol.to_string(),
    });
    let is_published =
        |port: u16, protocol: Protocol| record.ports.iter().any(|p| p.container_port == port && p.protocol == protocol);
    let exposed = record.config.exposed_ports.iter().filter_map(|text| parse_port(text).ok());
    let exposed = exposed.filter(|(port, protocol)| !is_published(*port, *protocol)).map(|(port, protocol)| Port {
        private_port: port,
        kind: protocol.to_string(),
        ..Port::default()
    });
    published.chain(exposed).collect()
}
