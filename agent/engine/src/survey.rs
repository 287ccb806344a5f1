//! What this engine has of the things that somebody looks for over many hosts, and what its containers hold.

use crate::{
    clock,
    engine::Shared,
    net::parse_port,
    record::{Phase, Record},
};
use muster_calls::{Load, Survey, SurveyQuery};
use muster_model::Timestamp;
use std::time::Duration;

/// How long a container counts as just made. Longer than a claim on a node lives.
const RECENT: Duration = Duration::from_secs(60);
/// Removed containers that an answer names: those of some seconds, also where containers come and go fast.
const REMOVED: usize = 64;
/// Containers with this label are tasks of services: the cluster counts those itself.
const TASK_LABEL: &str = "com.docker.swarm.task.id";

impl Shared {
    pub(crate) fn survey(&self, query: &SurveyQuery) -> Survey {
        let containers = query.containers.iter().filter_map(|n| Some((n.clone(), self.containers.fit(n)?)));
        let networks = query.networks.iter().filter_map(|n| Some((n.clone(), self.networks.find(n).ok()?.id.clone())));
        let image = Some(&query.image).filter(|name| !name.is_empty());
        Survey {
            containers: containers.collect(),
            volumes: query.volumes.iter().filter(|v| self.volumes.exists(v)).cloned().collect(),
            networks: networks.collect(),
            image: image.and_then(|name| Some(self.config.images.resolve(name).ok()?.id.to_string())),
            load: if query.load { self.load() } else { Load::default() },
        }
    }

    fn load(&self) -> Load {
        let now = clock::now();
        let since = Timestamp(now.0.saturating_sub(RECENT.as_nanos() as i64));
        let mut load = Load { gone: self.events.last_removed(since, REMOVED).collect(), ..Load::default() };
        for record in self.containers.all().iter().map(|h| h.record()) {
            if record.config.labels.contains_key(TASK_LABEL) {
                continue;
            }
            if now.since(record.created) < RECENT {
                load.recent.insert(record.id.clone());
            }
            if !matches!(record.state.phase, Phase::Exited | Phase::Removing) {
                add(&mut load, &record);
            }
        }
        load
    }
}

fn add(load: &mut Load, record: &Record) {
    load.containers += 1;
    load.nano_cpus = load.nano_cpus.saturating_add(record.host.resources.reserved_nano_cpus());
    load.memory_bytes = load.memory_bytes.saturating_add(record.host.resources.reserved_memory_bytes());
    if record.ports.is_empty() {
        // Not started yet: what it will ask for.
        load.ports.extend(record.host.fixed_ports().filter_map(|(port, host)| Some((parse_port(port).ok()?.1, host))));
    } else {
        load.ports.extend(record.ports.iter().map(|p| (p.protocol, p.host_port)));
    }
}
