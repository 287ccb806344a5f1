//! Reloading: SIGHUP has the daemon read its configuration again. What can change while it runs does; the rest is named and
//! waits for a restart. A configuration that is wrong in any place changes nothing.

use crate::{config::Config, docker_tls::Guard, host::Host, operator::Operator};
use muster_telemetry::Telemetry;
use std::sync::Arc;

/// What takes effect at once; certificate files are read again even where their names stay.
const LIVE: &[&str] = &[
    "docker-cluster-context",
    "docker-tls",
    "labels",
    "log",
    "insecure-registries",
    "registry-mirrors",
    "registry-certs-dir",
    "http-proxy, https-proxy, no-proxy",
];

/// Holds what is in force.
pub struct Reloader {
    host: Arc<Host>,
    guard: Option<Arc<Guard>>,
    images: muster_image::Store,
    current: Config,
}

impl Reloader {
    pub fn new(host: Arc<Host>, guard: Option<Arc<Guard>>, images: muster_image::Store) -> Self {
        Self { current: host.config.clone(), host, guard, images }
    }

    /// Reads flags, environment and file again and takes over what can be. What happened is logged, field by field.
    pub fn reload(&mut self, telemetry: &Telemetry) {
        match Config::load().and_then(|new| self.take(&new, telemetry)) {
            Ok(changed) => {
                let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
                tracing::info!(%changed, "configuration reloaded");
            }
            Err(e) => {
                let error = format!("{e:#}");
                tracing::error!(%error, "the configuration is not taken: what was in force stays");
            }
        }
    }

    /// What can fail goes first.
    fn take(&mut self, new: &Config, telemetry: &Telemetry) -> anyhow::Result<Vec<&'static str>> {
        let differs = self.current.differs(new);
        let (live, later): (Vec<_>, Vec<_>) = differs.into_iter().partition(|field| LIVE.contains(field));
        if live.contains(&"log") {
            telemetry.set_log(&new.log)?;
        }
        if let Err(e) = self.take_files(new) {
            // They were valid before.
            telemetry.set_log(&self.current.log)?;
            self.images.set_registry_config(self.current.registries())?;
            return Err(e);
        }
        let labels = new.labels.get();
        self.host.engine.reloaded(labels.iter().map(|(k, v)| format!("{k}={v}")).collect());
        self.host.config.labels.set(labels);
        self.current.docker_cluster_context.clone_from(&new.docker_cluster_context);
        self.current.docker_tls.clone_from(&new.docker_tls);
        self.current.log.clone_from(&new.log);
        self.current.take_registries(new);
        for field in later {
            tracing::warn!(
                field,
                "this cannot change while the daemon runs: restart musterd for it (containers go on)"
            );
        }
        Ok(live)
    }

    /// What names files, which may be broken.
    fn take_files(&self, new: &Config) -> anyhow::Result<()> {
        self.images.set_registry_config(new.registries())?;
        let operator = new.docker_cluster_context.as_deref().map(Operator::load).transpose()?;
        if let (Some(guard), Some(files)) = (&self.guard, &new.docker_tls) {
            guard.reload(files.clone())?;
        }
        self.host.operator.set(operator);
        Ok(())
    }
}
